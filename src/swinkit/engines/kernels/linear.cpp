// Linear layers for a CPU with an eighth of the multiplications left out (Strassen, Gaussian elimination is not optimal, 1969).
//
// Rows, columns and the sum are each cut in two: of the eight products of quarters seven suffice, of sums of quarters. The sums of
// the weights are made once (`pack`), those of a panel of rows stay in the second cache, and the seven products of a strip of
// columns are added to its four quarters of the answer as they leave the registers. Gather and norm are done where the sums of rows
// are taken, bias, GELU and residual where the answer is written. A row is paired with its neighbour, so what one picture holds
// hardly touches another's rounding. What is left out costs accuracy of rounding only: tests/test_linear.py compares with float64.
// building.py compiles this file for the processor at hand, ../rewriting.py puts it where a graph had linear layers; README.md says
// what is computed.

#include "layers.h"

#include <array>

namespace {

// A strip is V vectors wide, 2 or 3; ROWS of it are as many sums as the processor has registers for.
#if defined(CPU_CAPABILITY_AVX512)
template <int V>
constexpr int ROWS = V == 2 ? 14 : 9;
#elif defined(CPU_CAPABILITY_AVX2)
template <int V>
constexpr int ROWS = V == 2 ? 6 : 4;
#else
template <int V>
constexpr int ROWS = V == 2 ? 12 : 8;
#endif
constexpr int64_t PAIRS = 56;  // of rows in a panel, at most
constexpr int64_t LEAST = 64;  // rows of a thread for which it reads all weights
constexpr int64_t APART = 16;  // floats between rows of sums, so that they do not share the sets of a cache
constexpr int PRODUCTS = 7;

// A quarter of the answer, (top, bottom) x (left, right), to which a product is added; the first one is stored.
struct Term {
  float* quarter;
  float sign;
  bool first;
};

template <int R, int V>
inline void add(const Vec (&sums)[R][V], const Term& term) {
  const Vec sign(term.sign);
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      float* to = term.quarter + (r * V + v) * WIDTH;
      (term.first ? sums[r][v] : at::vec::fmadd(sums[r][v], sign, Vec::loadu(to))).store(to);
    }
}

// R rows of `left`, `count` long, times a strip of columns; meanwhile asks for every `step`-th float from `ahead` on.
template <int R, int V>
void multiply(const float* left, int64_t left_row, const float* right, int64_t count, const float* ahead, int64_t step, const Term& one,
              const Term& two) {
  Vec sums[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) sums[r][v] = Vec(0.f);
  const float* rows[(R + 2) / 3];  // one address for three rows
#pragma GCC unroll 16
  for (int g = 0; g < (R + 2) / 3; g++) rows[g] = left + 3 * g * left_row;
#pragma GCC unroll 4  // fewer instructions beside the products: a core may be shared with another thread
  for (int64_t i = 0; i < count; i++) {
    ASK(ahead + i * step);
    Vec part[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) part[v] = Vec::loadu(right + (i * V + v) * WIDTH);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const Vec x(rows[r / 3][r % 3 * left_row + i]);
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) sums[r][v] = at::vec::fmadd(x, part[v], sums[r][v]);
    }
  }
  add<R, V>(sums, one);
  if (two.quarter) add<R, V>(sums, two);
}

using Multiply = void (*)(const float*, int64_t, const float*, int64_t, const float*, int64_t, const Term&, const Term&);
template <int V, int... R>
constexpr std::array<Multiply, sizeof...(R)> all_of(std::integer_sequence<int, R...>) {
  return {multiply<R + 1, V>...};
}
template <int V>
constexpr auto MULTIPLY = all_of<V>(std::make_integer_sequence<int, ROWS<V>>{});  // by rows less one

// The left sides of a panel's seven products: sums of the quarters of its rows, of which even ones are the top, odd ones the bottom.
struct Sides {
  float* begin;
  int64_t row, side;  // floats from a row to the next, and from a side to the next

  Sides(float* begin, int64_t pairs, int64_t inner) : begin(begin), row(inner / 2 + APART), side(pairs * row) {}
  static int64_t floats(int64_t pairs, int64_t inner) { return PRODUCTS * pairs * (inner / 2 + APART); }
  const float* rows(int64_t product, int64_t pair) const { return begin + product * side + pair * row; }
  void put(int64_t pair, int64_t k, const Vec& a11, const Vec& a12, const Vec& a21, const Vec& a22) const {
    float* to = begin + pair * row + k;
    (a11 + a22).store(to);
    (a21 + a22).store(to + side);
    a11.store(to + 2 * side);
    a22.store(to + 3 * side);
    (a11 + a12).store(to + 4 * side);
    (a21 - a11).store(to + 5 * side);
    (a12 - a22).store(to + 6 * side);
  }
};

// Take the sides of a panel from where its rows come from. There is `room` for two rows.
void take_sides(const Panel& panel, const Sides& sides, float* room) {
  const int64_t half = panel.source.inner / 2;
  for (int64_t p = 0; p < panel.pairs(); p++) {
    const bool whole = 2 * p + 1 < panel.rows;
    const float* top = panel.source.row(panel.first + 2 * p, room);
    const float* bottom = whole ? panel.source.row(panel.first + 2 * p + 1, room + panel.source.inner) : top;
    const auto [top_mean, top_scale] = moments(top, panel.source);
    const auto [bottom_mean, bottom_scale] = moments(bottom, panel.source);
    for (int64_t k = 0; k < half; k += WIDTH)
      sides.put(p, k, (Vec::loadu(top + k) - top_mean) * top_scale, (Vec::loadu(top + half + k) - top_mean) * top_scale,
                whole ? (Vec::loadu(bottom + k) - bottom_mean) * bottom_scale : Vec(0.f),
                whole ? (Vec::loadu(bottom + half + k) - bottom_mean) * bottom_scale : Vec(0.f));
  }
}

// A strip of the left and one of the right half of the columns; the answer goes to `after`, the sides of the layer that takes it,
// where there is one.
template <int V>
void do_strip(const Panel& panel, int64_t strip, const Sides& sides, float* quarters, const Sides* after) {
  constexpr int64_t STRIP = V * WIDTH;
  const int64_t half = panel.source.inner / 2, right = panel.columns / 2, pairs = panel.pairs();
  const float* packed = static_cast<const float*>(panel.packed) + strip * PRODUCTS * half * STRIP;
  float *c11 = quarters, *c12 = c11 + PAIRS * STRIP, *c21 = c12 + PAIRS * STRIP, *c22 = c21 + PAIRS * STRIP;
  const Term terms[PRODUCTS][2] = {{{c11, 1, true}, {c22, 1, true}},   {{c21, 1, true}, {c22, -1, false}},
                                   {{c12, 1, true}, {c22, 1, false}},  {{c11, 1, false}, {c21, 1, false}},
                                   {{c11, -1, false}, {c12, 1, false}}, {{c22, 1, false}, {}},
                                   {{c11, 1, false}, {}}};
  const int64_t tiles = (pairs + ROWS<V> - 1) / ROWS<V>, calls = right / STRIP * PRODUCTS * tiles;
  const int64_t last_strip = right / STRIP - 1;
  int64_t call = strip * PRODUCTS * tiles;
  for (int s = 0; s < PRODUCTS; s++)
    for (int64_t t = 0; t < tiles; t++, call++) {
      const int64_t first = t * pairs / tiles, last = (t + 1) * pairs / tiles;
      for (int64_t r = call * panel.next / calls; r < (call + 1) * panel.next / calls; r++)
        panel.source.ask_for(panel.first + panel.rows + r);
      if (s >= 3 && !after)  // soon the answer is written, and the residual read, each quarter in its turn
        for (int64_t p = first; p < last; p++) {
          const int64_t place = (2 * p + (s - 3) / 2) * panel.columns + (s - 3) % 2 * right + strip * STRIP;
          for (int64_t c = 0; c < STRIP; c += 16) {
            ASK(panel.out + place + c);
            if (panel.added) ASK(panel.added + place + c);
          }
        }
      Term one = terms[s][0], two = terms[s][1];
      one.quarter += first * STRIP;
      if (two.quarter) two.quarter += first * STRIP;
      const float* weights = packed + s * half * STRIP;
      // Each tile asks for its share of the weights of the next product, if there is one.
      const float* ahead = strip < last_strip || s + 1 < PRODUCTS ? weights + half * STRIP + t * half * STRIP / tiles : weights;
      MULTIPLY<V>[last - first - 1](sides.rows(s, first), sides.row, weights, half, ahead, (STRIP + tiles - 1) / tiles, one, two);
    }
  const auto finished = [&](int64_t r, int64_t side, int64_t v) {
    const Vec x = Vec::loadu(quarters + ((r % 2 * 2 + side) * PAIRS + r / 2) * STRIP + v);
    return panel.finished(x, r, side * right + strip * STRIP + v);
  };
  if (after) {
    for (int64_t p = 0; p < pairs; p++)
      for (int64_t v = 0; v < STRIP; v += WIDTH) {
        const bool whole = 2 * p + 1 < panel.rows;
        after->put(p, strip * STRIP + v, finished(2 * p, 0, v), finished(2 * p, 1, v),
                   whole ? finished(2 * p + 1, 0, v) : Vec(0.f), whole ? finished(2 * p + 1, 1, v) : Vec(0.f));
      }
    return;
  }
  for (int64_t r = 0; r < panel.rows; r++)
    for (int64_t side = 0; side < 2; side++)
      for (int64_t v = 0; v < STRIP; v += WIDTH)
        finished(r, side, v).store(panel.out + r * panel.columns + side * right + strip * STRIP + v);
}

// How many vectors wide the strips of a layer are.
int64_t vectors(int64_t columns) { return columns % (4 * WIDTH) ? 3 : 2; }
int64_t strips(int64_t columns) { return columns / (2 * WIDTH * vectors(columns)); }

void do_strips(const Panel& panel, int64_t begin, int64_t end, const Sides& sides, float* quarters, const Sides* after = nullptr) {
  for (int64_t i = begin; i < end; i++)
    vectors(panel.columns) == 2 ? do_strip<2>(panel, i, sides, quarters, after) : do_strip<3>(panel, i, sides, quarters, after);
}

// Memory of a thread, kept, that begins where a cache line does: what panels of so many inputs need.
struct Room {
  float *quarters, *rows, *sides, *sides_after;

  explicit Room(int64_t inner, int64_t inner_after = 0) {
    static thread_local std::vector<float> room;
    const int64_t quarter = PAIRS * 3 * WIDTH, most = Sides::floats(PAIRS, inner);
    room.resize(std::max<size_t>(room.size(), 4 * quarter + 2 * inner + most + Sides::floats(PAIRS, inner_after) + 16));
    quarters = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(room.data()) + 63) / 64 * 64);
    rows = quarters + 4 * quarter;
    sides = rows + 2 * inner;
    sides_after = sides + most;
  }
};

void check_sides(const Panel& panel, const Tensor& packed) {
  const int64_t columns = panel.columns, inner = panel.source.inner;
  STD_TORCH_CHECK(columns > 0 && columns % (2 * WIDTH * vectors(columns)) == 0 && inner % (2 * WIDTH) == 0, "sides must be whole strips");
  const int64_t strip = WIDTH * vectors(columns);
  STD_TORCH_CHECK(has_shape(packed, {columns / 2 / strip, PRODUCTS, inner / 2, strip}), "weights of another layer");
  check(packed);
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
  const int64_t many = strips(columns), shared = panels_of(all.rows, LEAST, 2 * PAIRS);
  const int64_t panels = shared ? shared : (all.rows + 2 * PAIRS - 1) / (2 * PAIRS);
  const int64_t rows = panels ? (all.pairs() + panels - 1) / panels * 2 : 0, items = shared ? panels : at::get_num_threads();
  in_turn(items, [&](int64_t item) {  // whole panels, or where there are few rows, as many strips for each thread
    const Room room(all.source.inner);
    const int64_t begin = item * panels * many / items, end = (item + 1) * panels * many / items;
    for (int64_t i = begin; i < end && i / many * rows < all.rows; i = (i / many + 1) * many) {
      const Panel panel = all.from(i / many * rows, rows);
      const Sides sides(room.sides, panel.pairs(), all.source.inner);
      take_sides(panel, sides, room.rows);
      do_strips(panel, i % many, std::min(many, i % many + end - i), sides, room.quarters);
    }
  });
  return out;
}

// A panel passes both before the next begins, and the first writes the sides of the second.
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
  const int64_t panels = panels_of(one.rows, LEAST, 2 * PAIRS);
  if (!panels)
    return linear(linear(x, packed, hidden, bias, std::nullopt, true, eps, index), packed2, columns, bias2, added, false, std::nullopt,
                  std::nullopt);
  Tensor out = empty(shape);
  two.out = out.mutable_data_ptr<float>();
  const int64_t rows = (one.pairs() + panels - 1) / panels * 2;
  in_turn(panels, [&](int64_t i) {
    if (i * rows >= one.rows) return;
    const Room room(one.source.inner, hidden);
    const Panel first = one.from(i * rows, rows);
    Panel second = two.from(i * rows, rows);
    second.next = 0;  // its rows come from nowhere
    const Sides sides(room.sides, first.pairs(), one.source.inner), between(room.sides_after, second.pairs(), hidden);
    take_sides(first, sides, room.rows);
    do_strips(first, 0, strips(hidden), sides, room.quarters, &between);
    do_strips(second, 0, strips(columns), between, room.quarters);
  });
  return out;
}

// For each strip the right sides of the seven products, a row for each of K / 2.
Tensor pack(const Tensor& given) {
  STD_TORCH_CHECK(given.dim() == 2, "weights (columns, inputs)");
  const Tensor weight = whole(given);
  check(weight);
  const int64_t columns = weight.size(0), inner = weight.size(1), strip = WIDTH * vectors(columns);
  STD_TORCH_CHECK(inner % (2 * WIDTH) == 0 && columns % (2 * strip) == 0, "sides must be whole strips");
  const int64_t half = inner / 2, right = columns / 2;
  Tensor packed = empty({right / strip, PRODUCTS, half, strip});
  float* to = packed.mutable_data_ptr<float>();
  for (int64_t column = 0; column < right; column++) {
    const float *left = place_of(weight) + column * inner, *beside = left + right * inner;
    for (int64_t k = 0; k < half; k++) {
      const float b11 = left[k], b12 = beside[k], b21 = left[half + k], b22 = beside[half + k];
      const float sides[PRODUCTS] = {b11 + b22, b11, b12 - b22, b21 - b11, b22, b11 + b12, b21 + b22};
      float* place = to + (column / strip * PRODUCTS * half + k) * strip + column % strip;
      for (int64_t s = 0; s < PRODUCTS; s++) place[s * half * strip] = sides[s];
    }
  }
  return packed;
}

}  // namespace
