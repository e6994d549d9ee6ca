// Linear layers for a CPU that multiplies tiles (AMX): float32 from products of bfloat16.
//
// A float32 is the sum of three bfloat16, to the last bit. Of the nine products of two such sums the six largest are taken; what is
// left out is of the size of float32's own rounding. The unit for tiles does sixteen products of bfloat16 in the time of one of
// float32. The pieces of the weights are made once (`pack`), those of a panel of rows stay in the second cache. Gather and norm are
// done where the rows are cut in pieces, bias, GELU and residual on one strip of the answer while the unit works on the next.
// tests/test_linear.py compares with float64. linear.cpp is the same for processors without the unit.

#include "layers.h"

#include <ATen/cpu/Utils.h>
#include <immintrin.h>

namespace {

static_assert(WIDTH == 16, "a tile's row is two vectors of float32");
constexpr int64_t TILE = 16, DEPTH = 32, STRIP = 32;  // rows, inputs and columns of what the unit multiplies at a time
constexpr int64_t PIECES = 3, BYTES = 1024;           // of a number, of a tile
constexpr int64_t LEFT = PIECES * BYTES, RIGHT = 2 * PIECES * BYTES;  // of DEPTH inputs of a tile of rows, and of a strip
constexpr int64_t CHUNK = 384;     // inputs, or hidden columns, that are multiplied before the next are made
constexpr int64_t ROOM = 5 << 18;  // bytes of a panel in the second cache
constexpr int64_t LEAST = 128;     // rows of a thread for which it reads all weights
constexpr int64_t PAUSES = 3;      // in a step of DEPTH inputs, for work beside it

// The unit wants to know the shapes of its tiles, in each thread; 0 to 3 are sums, 4 and 5 rows, 6 and 7 weights.
struct alignas(64) Shapes {
  uint8_t palette = 1, start = 0, unused[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16];

  explicit Shapes(int64_t r) : rows{} {
    for (int i = 0; i < 8; i++) rows[i] = static_cast<uint8_t>(i < 6 ? r : TILE);
  }
};

// The rows of a panel in pieces: tiles of `height` rows, an even number of them; of each, for every DEPTH inputs, three tiles.
struct Pieces {
  char* begin;
  int64_t depth, tiles, height;  // depth in DEPTH inputs

  Pieces(char* begin, int64_t rows, int64_t inputs)
      : begin(begin), depth(inputs / DEPTH), tiles((rows + 2 * TILE - 1) / (2 * TILE) * 2), height((rows + tiles - 1) / tiles) {}
  static int64_t bytes(int64_t rows, int64_t inputs) { return (rows + 2 * TILE) / TILE * inputs / DEPTH * LEFT; }
  const char* tile(int64_t t) const { return begin + t * depth * LEFT; }
  void put(int64_t tile, int64_t row, int64_t step, Vec left, Vec right) const {  // DEPTH numbers of a row of a tile
    char* to = begin + (tile * depth + step) * LEFT + row * 64;
    __m512 low = left, high = right;
#pragma GCC unroll 3
    for (int64_t i = 0; i < PIECES; i++) {
      const __m512i piece = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
      _mm512_store_si512(to + i * BYTES, piece);
      const auto whole = [](__m256i half) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)); };
      low = _mm512_sub_ps(low, whole(_mm512_castsi512_si256(piece)));
      high = _mm512_sub_ps(high, whole(_mm512_extracti64x4_epi64(piece, 1)));
    }
  }
};

// Two tiles of rows, `depth` long, times a strip of columns, added to `sums` if they are not `fresh`. In each step `meanwhile`
// is called PAUSES times, and `lines` cache lines from `ahead` on are asked for.
template <class F>
void multiply(const char* top, const char* bottom, const char* weights, int64_t depth, float* sums, int64_t height, bool fresh,
              const char* ahead, int64_t lines, const F& meanwhile) {
  std::atomic_signal_fence(std::memory_order_seq_cst);  // the compiler does not know what a tile is loaded from
  float* below = sums + height * STRIP;
  if (fresh) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, STRIP * 4);
    _tile_loadd(1, sums + TILE, STRIP * 4);
    _tile_loadd(2, below, STRIP * 4);
    _tile_loadd(3, below + TILE, STRIP * 4);
  }
#define ROWS_PIECE(i)                       \
  _tile_loadd(4, top + (i) * BYTES, 64);    \
  _tile_loadd(5, bottom + (i) * BYTES, 64);
#define WEIGHTS_PIECE(i)                              \
  _tile_loadd(6, weights + (2 * (i)) * BYTES, 64);     \
  _tile_loadd(7, weights + (2 * (i) + 1) * BYTES, 64);
#define PRODUCTS          \
  _tile_dpbf16ps(0, 4, 6); \
  _tile_dpbf16ps(1, 4, 7); \
  _tile_dpbf16ps(2, 5, 6); \
  _tile_dpbf16ps(3, 5, 7);
  for (int64_t i = 0; i < depth; i++) {
    ROWS_PIECE(2) WEIGHTS_PIECE(0) PRODUCTS
    for (int64_t line = 0; line < lines; line++) ASK(ahead + line * 64);
    ROWS_PIECE(1) PRODUCTS
    meanwhile();
    WEIGHTS_PIECE(1) PRODUCTS
    ROWS_PIECE(0) PRODUCTS
    meanwhile();
    WEIGHTS_PIECE(2) PRODUCTS
    WEIGHTS_PIECE(0) PRODUCTS
    meanwhile();
    top += LEFT;
    bottom += LEFT;
    weights += RIGHT;
    ahead += lines * 64;
  }
#undef ROWS_PIECE
#undef WEIGHTS_PIECE
#undef PRODUCTS
  _tile_stored(0, sums, STRIP * 4);
  _tile_stored(1, sums + TILE, STRIP * 4);
  _tile_stored(2, below, STRIP * 4);
  _tile_stored(3, below + TILE, STRIP * 4);
}

// A strip of products to be written, while the next is multiplied: the place of a row, and which row of which tile it is.
struct Strip {
  const float* sums = nullptr;
  int64_t column = 0, rows = 0, tile = 0, row = 0;
};

// Multiply pieces with some strips of packed weights, of which they are the inputs from `step` on, of `steps`. Where there are more
// inputs to come, the products are kept in `kept`; else `done` gets each row: its tile, its number there, column and two vectors.
template <class F>
void multiply_all(const Pieces& left, int64_t rows, const char* packed, int64_t step, int64_t steps, int64_t begin, int64_t end,
                  float* kept, float* sums, const F& done) {
  const int64_t blocks = left.tiles / 2, block = 2 * left.height * STRIP, room = blocks * block;
  const int64_t pauses = PAUSES * blocks * left.depth, share = (rows + pauses - 1) / pauses;
  const int64_t lines = (RIGHT / 64 + blocks - 1) / blocks;
  Strip waiting;
  const auto finish = [&](int64_t count) {
    for (count = std::min(count, waiting.rows); count > 0; count--, waiting.rows--, waiting.sums += STRIP) {
      done(waiting.tile, waiting.row, waiting.column, Vec::loadu(waiting.sums), Vec::loadu(waiting.sums + WIDTH));
      if (++waiting.row == left.height) waiting.tile++, waiting.row = 0;
    }
  };
  for (int64_t s = begin; s < end; s++) {
    const char* weights = packed + (s * steps + step) * RIGHT;
    const char* ahead = weights + (s + 1 < end ? steps * RIGHT : 0);
    float* to = left.depth == steps ? sums + s % 2 * room : kept + (s - begin) * room;
    for (int64_t b = 0; b < blocks; b++, ahead += left.depth * lines * 64)
      multiply(left.tile(2 * b), left.tile(2 * b + 1), weights, left.depth, to + b * block, left.height, step == 0, ahead, lines,
               [&] { finish(share); });
    if (step + left.depth == steps) waiting = {to, s * STRIP, rows, 0, 0};
  }
  finish(rows);
}

inline void write(const Panel& panel, int64_t row, int64_t column, Vec x, Vec y) {
  float* out = panel.out + row * panel.columns + column;
  panel.finished(x, row, column).store(out);
  panel.finished(y, row, column + WIDTH).store(out + WIDTH);
}

// Memory of a thread, kept, that begins where a cache line does.
char* room_for(int64_t bytes) {
  static thread_local std::vector<char> room;
  room.resize(std::max<size_t>(room.size(), bytes + 64));
  return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(room.data()) + 63) / 64 * 64);
}

// Cut some inputs of a panel's rows in pieces, tile by tile. There is `room` for a tile's rows.
void cut(const Panel& panel, int64_t from, const Pieces& to, float* room) {
  const Rows& source = panel.source;
  const float* rows[TILE];
  std::pair<Vec, Vec> taken[TILE];
  for (int64_t r = 0; r < panel.rows; r += to.height) {
    const int64_t count = std::min(to.height, panel.rows - r);
    for (int64_t i = 0; i < count; i++) {
      rows[i] = source.row(panel.first + r + i, room + i * source.inner);
      taken[i] = moments(rows[i], source);
    }
    for (int64_t step = 0; step < to.depth; step++)
      for (int64_t i = 0; i < count; i++) {
        const float* k = rows[i] + from + step * DEPTH;
        const auto& [mean, scale] = taken[i];
        to.put(r / to.height, i, step, (Vec::loadu(k) - mean) * scale, (Vec::loadu(k + WIDTH) - mean) * scale);
      }
  }
}

// How many of the inputs, or hidden columns, are done at a time: as many as divide them, CHUNK at most.
int64_t chunk_of(int64_t inputs) {
  int64_t chunk = std::min(inputs, CHUNK);
  while (inputs % chunk) chunk -= DEPTH;
  return chunk;
}

int64_t inputs_at_once(int64_t inputs) { return inputs <= 2 * CHUNK ? inputs : chunk_of(inputs); }

int64_t most_rows(int64_t bytes_of_row) { return std::max<int64_t>(2 * TILE, ROOM / bytes_of_row / (2 * TILE) * (2 * TILE)); }

// Some strips of a panel.
void do_strips(const Panel& panel, int64_t begin, int64_t end) {
  const int64_t inner = panel.source.inner, chunk = inputs_at_once(inner);
  const int64_t pieces = Pieces::bytes(panel.rows, chunk), block = (panel.rows + 2 * TILE) * STRIP * 4;
  const int64_t kept = chunk == inner ? 0 : block * (end - begin);
  char* room = room_for(pieces + 2 * block + kept + 4 * TILE * inner);
  float* sums = reinterpret_cast<float*>(room + pieces);
  float* products = sums + 2 * block / 4;
  const Pieces left(room, panel.rows, chunk);
  const Shapes shapes(left.height);
  _tile_loadconfig(&shapes);
  for (int64_t k = 0; k < inner; k += chunk) {
    cut(panel, k, left, products + kept / 4);
    multiply_all(left, panel.rows, static_cast<const char*>(panel.packed), k / DEPTH, inner / DEPTH, begin, end, products, sums,
                 [&](int64_t tile, int64_t row, int64_t column, Vec x, Vec y) {
                   write(panel, tile * left.height + row, column, x, y);
                 });
  }
  _tile_release();
}

void check_sides(const Panel& panel, const at::Tensor& packed) {
  static const bool there = at::cpu::init_amx();  // Linux wants to be asked
  TORCH_CHECK(there, "this processor, or its system, multiplies no tiles");
  const int64_t inner = panel.source.inner, columns = panel.columns;
  TORCH_CHECK(columns > 0 && columns % STRIP == 0 && inner % DEPTH == 0, "sides must be whole strips");
  TORCH_CHECK(packed.scalar_type() == at::kBFloat16 && packed.numel() == PIECES * inner * columns, "weights of another layer");
}

at::Tensor linear(const at::Tensor& given, const at::Tensor& packed, int64_t columns, const Maybe& bias, const Maybe& residual,
                  bool curved, const std::optional<double>& eps, const Maybe& index) {
  const at::Tensor x = given.contiguous();
  const Maybe added = whole(residual);
  auto [source, shape] = rows_of(x, packed, eps, index);
  Panel all = layer(source, packed, columns, bias, added, curved, shape);
  check_sides(all, packed);
  at::Tensor out = at::empty(shape, x.options());
  all.out = out.mutable_data_ptr<float>();
  const int64_t chunk = inputs_at_once(source.inner), most = most_rows(2 * PIECES * chunk + (chunk < source.inner ? 4 * columns : 0));
  const int64_t many = columns / STRIP, shared = panels_of(all.rows, LEAST, most);
  const int64_t panels = shared ? shared : (all.rows + most - 1) / most;
  const int64_t rows = panels ? (all.rows + panels - 1) / panels : 0, items = shared ? panels : at::get_num_threads();
  in_turn(items, [&](int64_t item) {  // whole panels, or where there are few rows, as many strips for each thread
    const int64_t begin = item * panels * many / items, end = (item + 1) * panels * many / items;
    for (int64_t i = begin; i < end && i / many * rows < all.rows; i = (i / many + 1) * many)
      do_strips(all.from(i / many * rows, rows), i % many, std::min(many, i % many + end - i));
  });
  return out;
}

// A panel passes both layers, CHUNK columns between them at a time.
at::Tensor mlp(const at::Tensor& given, const at::Tensor& packed, int64_t hidden, const Maybe& bias, const at::Tensor& packed2,
               int64_t columns, const Maybe& bias2, const Maybe& residual, const std::optional<double>& eps, const Maybe& index) {
  const at::Tensor x = given.contiguous();
  const Maybe added = whole(residual);
  auto [source, shape] = rows_of(x, packed, eps, index);
  std::vector<int64_t> between_shape = shape;
  const Panel one = layer(source, packed, hidden, bias, std::nullopt, true, between_shape);
  Panel two = layer({nullptr, hidden, std::nullopt, nullptr, 0, 0, 1}, packed2, columns, bias2, added, false, shape);
  check_sides(one, packed);
  check_sides(two, packed2);
  const int64_t chunk = chunk_of(hidden), inner = source.inner;
  const int64_t panels = panels_of(one.rows, LEAST, most_rows(2 * PIECES * (inner + chunk) + 4 * columns));
  if (!panels)
    return linear(linear(x, packed, hidden, bias, std::nullopt, true, eps, index), packed2, columns, bias2, added, false, std::nullopt,
                  std::nullopt);
  at::Tensor out = at::empty(shape, x.options());
  two.out = out.mutable_data_ptr<float>();
  const int64_t rows = (one.rows + panels - 1) / panels;
  in_turn(panels, [&](int64_t i) {
    if (i * rows >= one.rows) return;
    const Panel first = one.from(i * rows, rows), second = two.from(i * rows, rows);
    const int64_t pieces = Pieces::bytes(rows, inner), between = Pieces::bytes(rows, chunk), block = (rows + 2 * TILE) * STRIP * 4;
    const int64_t kept = block * (columns / STRIP);
    char* room = room_for(pieces + between + 2 * block + kept + 4 * TILE * inner);
    const Pieces left(room, first.rows, inner), middle(room + pieces, first.rows, chunk);
    float* sums = reinterpret_cast<float*>(room + pieces + between);
    float* products = sums + 2 * block / 4;
    cut(first, 0, left, products + kept / 4);
    const Shapes shapes(left.height);
    _tile_loadconfig(&shapes);
    for (int64_t h = 0; h < hidden; h += chunk) {
      multiply_all(left, first.rows, static_cast<const char*>(first.packed), 0, left.depth, h / STRIP, (h + chunk) / STRIP, nullptr, sums,
                   [&](int64_t tile, int64_t row, int64_t column, Vec x, Vec y) {
                     middle.put(tile, row, (column - h) / DEPTH, first.finished(x, row, column),
                                first.finished(y, row, column + WIDTH));  // nothing is added, so that its row does not matter
                   });
      multiply_all(middle, first.rows, static_cast<const char*>(second.packed), h / DEPTH, hidden / DEPTH, 0, columns / STRIP, products,
                   sums, [&](int64_t tile, int64_t row, int64_t column, Vec x, Vec y) {
                     write(second, tile * left.height + row, column, x, y);
                   });
    }
    _tile_release();
  });
  return out;
}

// For each strip and every DEPTH inputs: three pieces, of each the left and the right half of the columns, in pairs of inputs.
at::Tensor pack(const at::Tensor& weight) {
  TORCH_CHECK(weight.dim() == 2 && weight.size(0) % STRIP == 0 && weight.size(1) % DEPTH == 0, "sides must be whole strips");
  std::vector<at::Tensor> pieces;
  at::Tensor left = weight;
  for (int64_t i = 0; i < PIECES; i++) {
    pieces.push_back(left.to(at::kBFloat16));
    left = left - pieces.back().to(at::kFloat);
  }
  const int64_t strips = weight.size(0) / STRIP, inner = weight.size(1);
  const at::Tensor all = at::stack(pieces).view({PIECES, strips, 2, TILE, inner / DEPTH, DEPTH / 2, 2});
  return all.permute({1, 4, 0, 2, 5, 3, 6}).contiguous().view({strips, PIECES, inner / 2, 2 * STRIP});
}

}  // namespace
