// What linear.cpp and tiles.cpp share: where the rows of a layer come from, what happens to its answer, and who does which part.

#pragma once

#include "tensors.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

namespace {

// x/2 (1 + erf(x / sqrt 2)), erf as a ratio of polynomials fitted to it for |x| < 5.5; beyond, it is 1 in float32.
inline Vec gelu(const Vec& x) {
  constexpr float TOP[] = {4.549927767e-08f, 1.270420517e-05f, 3.376456923e-04f, 9.354486102e-03f, 6.770472865e-02f, 7.978844693e-01f};
  constexpr float BOTTOM[] = {1.197510898e-06f, 7.364662620e-05f, 1.884428551e-03f, 2.864570943e-02f, 2.515212121e-01f, 1.f};
  const Vec near = at::vec::clamp(x, Vec(-5.5f), Vec(5.5f)), square = near * near;
  Vec top(TOP[0]), bottom(BOTTOM[0]);
#pragma GCC unroll 8
  for (int i = 1; i < 6; i++) {
    top = at::vec::fmadd(top, square, Vec(TOP[i]));
    bottom = at::vec::fmadd(bottom, square, Vec(BOTTOM[i]));
  }
  const Vec half = x * Vec(0.5f);
  return at::vec::fmadd(half, near * top / bottom, half);
}

// Where the rows of a layer come from: those of x in turn, or of maps of `map` tokens those that `index` names, `tokens` of each,
// `parts` of them side by side in a row; normalised where `eps` is given.
struct Rows {
  const float* x;
  int64_t inner;
  std::optional<double> eps;
  const int64_t* index;
  int64_t tokens, map, parts;

  int64_t width() const { return inner / parts; }
  const float* token(int64_t i) const { return x + (index ? i / tokens * map + index[i % tokens] : i) * width(); }
  const float* row(int64_t r, float* room) const {  // in one piece: where it lies, or put together in `room`
    if (parts == 1) return token(r);
    for (int64_t i = 0; i < parts; i++) std::copy_n(token(r * parts + i), width(), room + i * width());
    return room;
  }
  void ask_for(int64_t r) const {
    for (int64_t i = 0; i < parts; i++)
      for (int64_t k = 0; k < width(); k += 16) ASK(token(r * parts + i) + k);
  }
};

// What is taken off the numbers of a row and what they are then multiplied with: mean and one over the deviation, or 0 and 1.
inline std::pair<Vec, Vec> moments(const float* row, const Rows& source) {
  if (!source.eps) return {Vec(0.f), Vec(1.f)};
  const auto sum = [](Vec x) { return at::vec::vec_reduce_all<float>([](Vec& a, Vec& b) { return a + b; }, x); };
  Vec all(0.f), squares(0.f);
  for (int64_t k = 0; k < source.inner; k += WIDTH) all = all + Vec::loadu(row + k);
  const Vec mean(sum(all) / source.inner);
  for (int64_t k = 0; k < source.inner; k += WIDTH) {
    const Vec x = Vec::loadu(row + k) - mean;
    squares = at::vec::fmadd(x, x, squares);
  }
  return {mean, Vec(1.f / std::sqrt(sum(squares) / source.inner + static_cast<float>(*source.eps)))};
}

// A layer, and a panel of its rows from `first` on; `next` rows behind it will be asked for soon. `out` and `added` are the panel's.
struct Panel {
  Rows source;
  const void* packed;
  const float *bias, *added;
  float* out;
  int64_t first, rows, columns, next;
  bool curved;

  int64_t pairs() const { return (rows + 1) / 2; }
  Panel from(int64_t row, int64_t count) const {
    Panel part = *this;
    part.first += row;
    part.out += row * columns;
    if (added) part.added += row * columns;
    part.rows = std::min(count, rows - row);
    part.next = std::min(count, rows - row - part.rows);
    return part;
  }
  Vec finished(Vec x, int64_t row, int64_t column) const {  // what the answer is where the product is x
    return after_bias(bias ? x + Vec::loadu(bias + column) : x, row, column);
  }
  Vec after_bias(Vec x, int64_t row, int64_t column) const {
    if (curved) x = gelu(x);
    if (added) x = x + Vec::loadu(added + row * columns + column);
    return x;
  }
};

inline const float* place_of(const Tensor& t) { return t.const_data_ptr<float>(); }
inline const float* place_of(const Maybe& t) { return t ? place_of(*t) : nullptr; }

inline void check(const Tensor& x) {
  STD_TORCH_CHECK(x.is_contiguous() && x.scalar_type() == FLOAT, "float32 in one piece");
}

// Where the rows of a layer come from, and the shape of their answer, less its columns.
inline std::pair<Rows, std::vector<int64_t>> rows_of(const Tensor& x, const std::optional<double>& eps, const Maybe& index) {
  check(x);
  STD_TORCH_CHECK(x.dim() > 0 && x.size(-1) > 0, "rows of numbers");
  const int64_t parts = index && index->dim() == 2 ? index->size(1) : 1;
  Rows rows{place_of(x), parts * x.size(-1), eps, nullptr, 0, 0, parts};
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end() - 1);
  if (index) {
    STD_TORCH_CHECK(x.dim() == 3 && index->dim() == 2 && index->is_contiguous() && index->scalar_type() == LONG && index->numel() > 0,
                "an index (rows, parts) names tokens of maps (B, L, C)");
    rows.index = index->const_data_ptr<int64_t>();
    rows.tokens = index->numel();
    rows.map = x.size(1);
    for (int64_t i = 0; i < rows.tokens; i++)
      STD_TORCH_CHECK(rows.index[i] >= 0 && rows.index[i] < rows.map, "an index points outside the map");
    shape[1] = index->size(0);
  }
  return {rows, shape};
}

// A layer as the panel of all its rows, without its answer's place; `shape` becomes that of the answer.
inline Panel layer(const Rows& rows, const Tensor& packed, int64_t columns, const Maybe& bias, const Maybe& added, bool curved,
                   std::vector<int64_t>& shape) {
  int64_t many = 1;
  for (const int64_t side : shape) many *= side;
  shape.push_back(columns);
  STD_TORCH_CHECK(packed.is_contiguous(), "weights in one piece");
  STD_TORCH_CHECK(!bias || bias->numel() == columns, "a bias for each column");
  STD_TORCH_CHECK(!added || has_shape(*added, shape), "what is added must have the answer's shape");
  if (bias) check(*bias);
  if (added) check(*added);
  return {rows, packed.const_data_ptr(), place_of(bias), place_of(added), nullptr, 0, many, columns, 0, curved};
}

// Do items on all threads: each begins with its own, the same in every layer, so that it finds what it wrote before, and then takes
// the next, so that a thread that the system holds up keeps the others waiting for one item only.
template <class F>
void in_turn(int64_t items, const F& one) {
  const int64_t threads = at::get_num_threads();
  std::atomic<int64_t> next{threads};
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < std::min(end, items); i++) one(i);
    for (int64_t i = next++; i < items; i = next++) one(i);
  });
}

// How many panels of at most `most` rows the rows are: so many that all threads have as many, but none where a thread would have
// fewer than `least` rows, too few to be worth that each reads all weights.
inline int64_t panels_of(int64_t rows, int64_t least, int64_t most) {
  const int64_t threads = at::get_num_threads(), turns = (rows + most * threads - 1) / (most * threads);
  return turns > 1 || rows >= least * threads ? turns * threads : 0;
}

// x (..., K), or of x (B, L, K / p) the tokens that `index` (rows, p) names, p in a row, normalised if there is an `eps`, times packed
// weights, N columns; + bias (N,); GELU if `curved`; + residual (..., N). Returns (..., N).
Tensor linear(const Tensor& given, const Tensor& packed, int64_t columns, const Maybe& bias, const Maybe& residual,
                  bool curved, const std::optional<double>& eps, const Maybe& index);
// Two layers, GELU between.
Tensor mlp(const Tensor& given, const Tensor& packed, int64_t hidden, const Maybe& bias, const Tensor& packed2,
               int64_t columns, const Maybe& bias2, const Maybe& residual, const std::optional<double>& eps, const Maybe& index);
// Weights (columns, K) as the two take them.
Tensor pack(const Tensor& weight);

}  // namespace

// NAME ends in a digest of the file: packages of two versions of it may be open in one process.
STABLE_TORCH_LIBRARY_FRAGMENT(swinkit, library) {
  library.def(NAME "(Tensor x, Tensor packed, int columns, Tensor? bias, Tensor? added, bool curved, "
                   "float? eps, Tensor? index) -> Tensor");
  library.def(NAME "_mlp(Tensor x, Tensor packed, int hidden, Tensor? bias, Tensor packed2, int columns, Tensor? bias2, "
                   "Tensor? added, float? eps, Tensor? index) -> Tensor");
  library.def(NAME "_pack(Tensor weight) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(swinkit, CPU, library) {
  library.impl(NAME, TORCH_BOX(&linear));
  library.impl(NAME "_mlp", TORCH_BOX(&mlp));
  library.impl(NAME "_pack", TORCH_BOX(&pack));
}
