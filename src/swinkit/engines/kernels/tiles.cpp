// Linear layers for a CPU that multiplies tiles of bytes (AMX): float32 from products of bytes (as Ootomo, Ozaki and Yokota do for
// float64: DGEMM on integer matrix multiplication unit, 2024).
//
// The numbers of a row, and those of a column of weights, are rounded to multiples of a step, the largest to one of 23 bits, and
// written with three signed digits of eight bits. Of the nine products of two such numbers' digits the six largest are taken, summed
// by how much they weigh, in whole numbers and so exactly; the three sums meet in float32. What is left out is of the size of
// float32's own rounding, where no number of a row is many times larger than the rest. The unit does many times as many products of
// bytes as the processor does of float32 in the same time. The digits of the weights are made once (`pack`), those of a panel of
// rows stay in the second cache. Gather and norm are done where rows become digits; bias, GELU and residual on one tile of the answer
// while the unit works on the next. tests/test_linear.py compares with float64. linear.cpp is for processors without the unit.

#include "layers.h"

#include <immintrin.h>

namespace at::cpu {
bool init_amx();  // of ATen/cpu/Utils.h, which takes the compiler ten seconds
}

namespace {

static_assert(WIDTH == 16, "a tile's row is a vector of float32");
constexpr int64_t TILE = 16, DEPTH = 64;  // rows and columns, and inputs, of what the unit multiplies at a time
constexpr int64_t DIGITS = 3, ORDERS = 3;  // of a number; of products of digits, by how much they weigh
constexpr int64_t BYTES = TILE * DEPTH, STEP = DIGITS * BYTES;  // of a tile, and of a step of DEPTH inputs
constexpr float LARGEST = 8355000.f;       // just below 127 * 2^16 + 127 * 2^8 + 127
constexpr int64_t CHUNK = 384;             // inputs, or hidden columns, that are multiplied before the next are made
constexpr int64_t ROOM = 5 << 18;          // bytes of a panel in the second cache
constexpr int64_t LEAST = 64;              // rows of a thread for which it reads all weights

int64_t steps_of(int64_t inputs) { return (inputs + DEPTH - 1) / DEPTH; }
int64_t tiles_of(int64_t rows) { return (rows + TILE - 1) / TILE; }
int64_t strip_bytes(int64_t inputs) { return steps_of(inputs) * STEP + TILE * 4; }  // of weights, and the steps of their columns

// The unit wants to know the shapes of its tiles, in each thread.
struct alignas(64) Shapes {
  uint8_t palette = 1, start = 0, unused[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// What numbers are multiplied with to be multiples of a step, and that step; `most` is the largest of them, in size.
struct Scale {
  float to, step;

  explicit Scale(float most) : to(LARGEST / std::max(most, 1e-31f)), step(std::max(most, 1e-31f) / LARGEST) {}  // NaN stays NaN
};

// Write DEPTH numbers as digits: of each digit DEPTH bytes, largest first, in which the four vectors take turns.
inline void write_digits(const __m512i (&numbers)[4], char* to, int64_t apart) {
  const __m512i halves = _mm512_set1_epi32(0x808080);
  __m512i x[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) x[i] = _mm512_xor_si512(_mm512_add_epi32(numbers[i], halves), halves);  // bytes are digits now
#pragma GCC unroll 3
  for (int d = 0; d < DIGITS; d++) {
    const auto moved = [&](int i) {  // to byte i
      const int left = 8 * (i - (2 - d));
      return left > 0 ? _mm512_slli_epi32(x[i], left) : left < 0 ? _mm512_srli_epi32(x[i], -left) : x[i];
    };
    __m512i all = moved(0);
    all = _mm512_mask_mov_epi8(all, 0x2222222222222222, moved(1));
    all = _mm512_mask_mov_epi8(all, 0x4444444444444444, moved(2));
    all = _mm512_mask_mov_epi8(all, 0x8888888888888888, moved(3));
    _mm512_store_si512(to + d * apart, all);
  }
}

// The rows of a panel as digits: tiles of rows, of each for every DEPTH inputs three tiles of digits; and the step of each row.
struct Digits {
  char* begin;
  float* scales;
  int64_t depth;  // in DEPTH inputs

  Digits(char* begin, int64_t rows, int64_t inputs)
      : begin(begin), scales(reinterpret_cast<float*>(begin + tiles_of(rows) * steps_of(inputs) * STEP)), depth(steps_of(inputs)) {}
  static int64_t bytes(int64_t rows, int64_t inputs) { return tiles_of(rows) * (steps_of(inputs) * STEP + TILE * 4); }
  const char* tile(int64_t t) const { return begin + t * depth * STEP; }
};

// Make digits of some inputs of `count` rows from `first` on. There is `room` for a row.
void cut(const Rows& source, int64_t first, int64_t count, int64_t from, int64_t inputs, const Digits& to, float* room) {
  const auto larger = [](Vec& a, Vec& b) { return at::vec::maximum(a, b); };  // NaN if one of them is
  for (int64_t r = 0; r < count; r++) {
    const float* row = source.row(first + r, room);
    const auto [mean, scale] = moments(row, source);
    row += from;
    Vec most(0.f);
    for (int64_t k = 0; k < inputs; k += WIDTH) most = at::vec::maximum(most, (Vec::loadu(row + k) - mean).abs());
    const Scale digits(at::vec::vec_reduce_all<float>(larger, most));
    to.scales[r] = digits.step * _mm512_cvtss_f32(scale);
    const Vec factor(digits.to);
    char* place = to.begin + r / TILE * to.depth * STEP + r % TILE * DEPTH;
    for (int64_t k = 0; k < inputs; k += DEPTH, place += STEP) {
      __m512i numbers[4];
#pragma GCC unroll 4
      for (int64_t i = 0; i < 4; i++)
        numbers[i] = k + i * WIDTH < inputs ? _mm512_cvtps_epi32((Vec::loadu(row + k + i * WIDTH) - mean) * factor) : __m512i{};
      write_digits(numbers, place, BYTES);
    }
  }
}

// A tile of rows, `depth` steps long, times a strip of columns: the sums of products of digits, those that weigh most first. In each
// step `meanwhile` is called, and `lines` cache lines from `ahead` on are asked for. Loads stand right before their products: where
// another thread shares the core, other orders are slower.
template <class F>
void multiply(const char* rows, const char* weights, int64_t depth, int32_t* sums, const char* ahead, int64_t lines,
              const F& meanwhile) {
  std::atomic_signal_fence(std::memory_order_seq_cst);  // the compiler does not know what a tile is loaded from
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  for (int64_t i = 0; i < depth; i++) {
    _tile_loadd(4, rows, DEPTH);
    _tile_loadd(5, weights, DEPTH);
    _tile_dpbssd(0, 4, 5);
    _tile_loadd(6, weights + BYTES, DEPTH);
    _tile_dpbssd(1, 4, 6);
    _tile_loadd(7, weights + 2 * BYTES, DEPTH);
    _tile_dpbssd(2, 4, 7);
    _tile_loadd(4, rows + BYTES, DEPTH);
    _tile_dpbssd(1, 4, 5);
    _tile_dpbssd(2, 4, 6);
    _tile_loadd(4, rows + 2 * BYTES, DEPTH);
    _tile_dpbssd(2, 4, 5);
    for (int64_t line = 0; line < lines; line++) ASK(ahead + line * 64);
    meanwhile();
    rows += STEP;
    weights += STEP;
    ahead += lines * 64;
  }
  _tile_stored(0, sums, TILE * 4);
  _tile_stored(1, sums + TILE * TILE, TILE * 4);
  _tile_stored(2, sums + 2 * TILE * TILE, TILE * 4);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

// The products of a row of a tile, as multiples of both steps and of 2^16, which `pack` has put into the columns' steps.
inline Vec together(const int32_t* sums) {
  const auto order = [&](int64_t i) { return _mm512_load_si512(sums + i * TILE * TILE); };
  const __m512 low = _mm512_cvtepi32_ps(order(2));
  const __m512 middle = _mm512_fmadd_ps(_mm512_cvtepi32_ps(order(1)), _mm512_set1_ps(256.f), low);
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(order(0)), _mm512_set1_ps(65536.f), middle);
}

// Multiply rows with some strips of packed weights, of which they are the inputs from `step` on. `done` gets each row of each strip:
// its number, the strip's first column, and the products plus the bias, if there is one; `soon` gets row and column before that.
template <class A, class F>
void multiply_all(const Digits& left, int64_t rows, const char* packed, int64_t inputs, int64_t step, int64_t begin, int64_t end,
                  const float* bias, const A& soon, const F& done) {
  alignas(64) int32_t sums[2][ORDERS * TILE * TILE];
  const int64_t tiles = tiles_of(rows), share = (TILE + left.depth - 1) / left.depth, strip = strip_bytes(inputs);
  const int64_t lines = (STEP / 64 + tiles - 1) / tiles;
  struct {
    const int32_t* sums;
    int64_t column, row, end;
  } waiting{};  // a tile of products, to be written while the next is multiplied
  Vec scale(0.f), plus(0.f);
  const auto finish = [&](int64_t count) {
    for (const int64_t last = std::min(waiting.row + count, waiting.end); waiting.row < last; waiting.row++, waiting.sums += TILE)
      done(waiting.row, waiting.column, at::vec::fmadd(together(waiting.sums), scale * Vec(left.scales[waiting.row]), plus));
  };
  for (int64_t s = begin; s < end; s++) {
    const char* weights = packed + s * strip + step * STEP;
    const char* ahead = weights + (s + 1 < end ? strip : 0);
    for (int64_t t = 0; t < tiles; t++, ahead += left.depth * lines * 64) {
      int32_t* to = sums[(s * tiles + t) % 2];
      int64_t row = t * TILE;
      const int64_t last = std::min(rows, row + TILE);
      multiply(left.tile(t), weights, left.depth, to, ahead, lines, [&] {
        finish(share);
        for (const int64_t until = std::min(row + share, last); row < until; row++) soon(row, s * TILE);
      });
      finish(TILE);
      waiting = {to, s * TILE, t * TILE, last};
      if (t == 0) {
        scale = Vec::loadu(packed + (s + 1) * strip - TILE * 4);
        if (bias) plus = Vec::loadu(bias + s * TILE);
      }
    }
  }
  finish(TILE);
}

// Memory of a thread, kept, that begins where a cache line does.
char* room_for(int64_t bytes) {
  static thread_local std::vector<char> room;
  room.resize(std::max<size_t>(room.size(), bytes + 64));
  return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(room.data()) + 63) / 64 * 64);
}

// How many of the inputs, or hidden columns, are done at a time: as many whole steps as divide them, CHUNK at most, or all.
int64_t chunk_of(int64_t inputs) {
  for (int64_t chunk = CHUNK; chunk >= CHUNK / 2; chunk -= DEPTH)
    if (inputs % chunk == 0) return chunk;
  return inputs;
}

int64_t inputs_at_once(int64_t inputs) { return inputs <= 2 * CHUNK ? inputs : chunk_of(inputs); }

int64_t most_rows(int64_t bytes_of_row) { return std::max<int64_t>(TILE, ROOM / bytes_of_row / TILE * TILE); }

// What is kept of a panel's answer while inputs are to come: for each strip its rows.
struct Kept {
  float* begin;
  int64_t rows;

  float* place(int64_t row, int64_t strip) const { return begin + (strip * rows + row) * TILE; }
};

// Add some inputs' products to those kept; after the last ones write.
void multiply_on(const Panel& panel, const Digits& left, int64_t from, int64_t inputs, int64_t begin, int64_t end, const Kept& kept) {
  const int64_t inner = panel.source.inner;
  multiply_all(left, panel.rows, static_cast<const char*>(panel.packed), inner, from / DEPTH, begin, end,
               from > 0 ? nullptr : panel.bias,
               [&](int64_t row, int64_t column) {
                 if (from + inputs < inner) return;
                 const int64_t place = row * panel.columns + column;
                 ASK(panel.out + place);
                 if (panel.added) ASK(panel.added + place);
               },
               [&](int64_t row, int64_t column, Vec x) {
                 float* place = kept.place(row, column / TILE - begin);
                 if (from > 0) x = x + Vec::loadu(place);
                 if (from + inputs < inner) return x.store(place);
                 panel.after_bias(x, row, column).store(panel.out + row * panel.columns + column);
               });
}

// Some strips of a panel.
void do_strips(const Panel& panel, int64_t begin, int64_t end) {
  const int64_t inner = panel.source.inner, chunk = inputs_at_once(inner);
  const int64_t digits = Digits::bytes(panel.rows, chunk), kept = chunk == inner ? 0 : panel.rows * (end - begin) * TILE * 4;
  char* room = room_for(digits + kept + 4 * inner);
  const Digits left(room, panel.rows, chunk);
  const Shapes shapes;
  _tile_loadconfig(&shapes);
  for (int64_t k = 0; k < inner; k += chunk) {
    cut(panel.source, panel.first, panel.rows, k, chunk, left, reinterpret_cast<float*>(room + digits + kept));
    multiply_on(panel, left, k, chunk, begin, end, {reinterpret_cast<float*>(room + digits), panel.rows});
  }
  _tile_release();
}

void check_sides(const Panel& panel, const Tensor& packed) {
  static const bool there = at::cpu::init_amx();  // Linux wants to be asked
  STD_TORCH_CHECK(there, "this processor, or its system, multiplies no tiles");
  const int64_t inner = panel.source.inner, columns = panel.columns;
  STD_TORCH_CHECK(columns > 0 && columns % TILE == 0 && inner % 32 == 0, "sides must be whole strips");
  STD_TORCH_CHECK(inner <= 1 << 15, "too many inputs for sums of 32 bits");
  STD_TORCH_CHECK(packed.scalar_type() == CHAR && has_shape(packed, {columns / TILE, strip_bytes(inner)}),
              "weights of another layer");
}

Tensor linear(const Tensor& given, const Tensor& packed, int64_t columns, const Maybe& bias, const Maybe& residual,
                  bool curved, const std::optional<double>& eps, const Maybe& index) {
  const Tensor x = whole(given);
  const Maybe added = whole(residual);
  auto [source, shape] = rows_of(x, eps, index);
  Panel all = layer(source, packed, columns, bias, added, curved, shape);
  check_sides(all, packed);
  Tensor out = empty(shape);
  all.out = out.mutable_data_ptr<float>();
  const int64_t chunk = inputs_at_once(source.inner);
  const int64_t most = most_rows(DIGITS * steps_of(chunk) * DEPTH + (chunk < source.inner ? 4 * columns : 0));
  const int64_t many = columns / TILE, shared = panels_of(all.rows, LEAST, most);
  const int64_t panels = shared ? shared : (all.rows + most - 1) / most;
  const int64_t rows = panels ? tiles_of((all.rows + panels - 1) / panels) * TILE : 0;
  const int64_t items = shared ? panels : at::get_num_threads();
  in_turn(items, [&](int64_t item) {  // whole panels, or where there are few rows, as many strips for each thread
    const int64_t begin = item * panels * many / items, end = (item + 1) * panels * many / items;
    for (int64_t i = begin; i < end && i / many * rows < all.rows; i = (i / many + 1) * many)
      do_strips(all.from(i / many * rows, rows), i % many, std::min(many, i % many + end - i));
  });
  return out;
}

// A panel passes both layers, a chunk of the columns between them at a time.
Tensor mlp(const Tensor& given, const Tensor& packed, int64_t hidden, const Maybe& bias, const Tensor& packed2,
               int64_t columns, const Maybe& bias2, const Maybe& residual, const std::optional<double>& eps, const Maybe& index) {
  const Tensor x = whole(given);
  const Maybe added = whole(residual);
  auto [source, shape] = rows_of(x, eps, index);
  std::vector<int64_t> between_shape = shape;
  const Panel one = layer(source, packed, hidden, bias, std::nullopt, true, between_shape);
  Panel two = layer({nullptr, hidden, std::nullopt, nullptr, 0, 0, 1}, packed2, columns, bias2, added, false, shape);
  check_sides(one, packed);
  check_sides(two, packed2);
  const int64_t chunk = chunk_of(hidden), inner = source.inner;
  const int64_t bytes = DIGITS * (steps_of(inner) + steps_of(chunk)) * DEPTH + 4 * chunk + (chunk < hidden ? 4 * columns : 0);
  const int64_t panels = panels_of(one.rows, LEAST, most_rows(bytes));
  if (!panels)
    return linear(linear(x, packed, hidden, bias, std::nullopt, true, eps, index), packed2, columns, bias2, added, false, std::nullopt,
                  std::nullopt);
  Tensor out = empty(shape);
  two.out = out.mutable_data_ptr<float>();
  const int64_t rows = tiles_of((one.rows + panels - 1) / panels) * TILE;
  in_turn(panels, [&](int64_t i) {
    if (i * rows >= one.rows) return;
    const Panel first = one.from(i * rows, rows), second = two.from(i * rows, rows);
    const int64_t digits = Digits::bytes(first.rows, inner), later = Digits::bytes(first.rows, chunk);
    const int64_t between = first.rows * chunk * 4, kept = chunk < hidden ? first.rows * columns * 4 : 0;
    char* room = room_for(digits + later + between + kept + 4 * inner);
    const Digits left(room, first.rows, inner), middle(room + digits, first.rows, chunk);
    float* floats = reinterpret_cast<float*>(room + digits + later);
    const Rows hidden_rows{floats, chunk, std::nullopt, nullptr, 0, 0, 1};
    const Kept products{floats + between / 4, first.rows};
    const Shapes shapes;
    _tile_loadconfig(&shapes);
    cut(source, first.first, first.rows, 0, inner, left, products.begin + kept / 4);
    for (int64_t h = 0; h < hidden; h += chunk) {
      multiply_all(
          left, first.rows, static_cast<const char*>(first.packed), inner, 0, h / TILE, (h + chunk) / TILE, first.bias,
          [](int64_t, int64_t) {},  // what is written stays in the cache
          [&](int64_t row, int64_t column, Vec x) {
            first.after_bias(x, row, column).store(floats + row * chunk + column - h);  // nothing is added: its row does not matter
          });
      cut(hidden_rows, 0, first.rows, 0, chunk, middle, nullptr);
      multiply_on(second, middle, h, chunk, 0, columns / TILE, products);
    }
    _tile_release();
  });
  return out;
}

// For each strip and every DEPTH inputs: three tiles of digits, a row for the inputs that are a row of `write_digits`; and behind
// them what the products of each column are multiplied with.
Tensor pack(const Tensor& given) {
  STD_TORCH_CHECK(given.dim() == 2 && given.size(0) % TILE == 0 && given.size(1) % 32 == 0, "sides must be whole strips");
  const Tensor weight = whole(given);
  check(weight);
  const int64_t inner = weight.size(1), strips = weight.size(0) / TILE;
  Tensor packed = empty({strips, strip_bytes(inner)}, aoti_torch_dtype_int8());
  std::fill_n(static_cast<char*>(packed.mutable_data_ptr()), packed.numel(), 0);
  for (int64_t s = 0; s < strips; s++) {
    char* strip = static_cast<char*>(packed.mutable_data_ptr()) + s * strip_bytes(inner);
    for (int64_t column = 0; column < TILE; column++) {
      const float* row = place_of(weight) + (s * TILE + column) * inner;
      float most = 0;
      for (int64_t k = 0; k < inner; k++) most = std::isnan(row[k]) || std::abs(row[k]) > most ? std::abs(row[k]) : most;
      const Scale scale(most);
      reinterpret_cast<float*>(strip + strip_bytes(inner) - TILE * 4)[column] = scale.step * 65536.f;
      for (int64_t k = 0; k < inner; k++) {
        const float x = row[k] * scale.to;
        const int32_t number = std::isfinite(x) ? static_cast<int32_t>(std::nearbyint(x)) : 0;
        const int32_t bytes = (number + 0x808080) ^ 0x808080;
        char* place = strip + k / DEPTH * STEP + k % WIDTH * 64 + column * 4 + k % DEPTH / WIDTH;
        for (int64_t d = 0; d < DIGITS; d++) place[d * BYTES] = static_cast<char>(bytes >> 8 * (DIGITS - 1 - d) & 0xff);
      }
    }
  }
  return packed;
}

}  // namespace
