// Attention of small windows for a CPU: softmax(scale q k^T + bias) v, all of one window and head inside the nearest cache.
//
// PyTorch's fused attention is made for thousands of tokens; for the 49 of a window it is far slower than the linear layers
// around it. Here the keys of a head are turned once, ROWS queries at a time meet all of them in registers, and nothing
// but the answer is written, each token where it belongs in its map. native.py compiles this file for the processor at hand and puts it where an exported graph had
// scaled_dot_product_attention; tests/test_attention.py compares the two.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace {

using Vec = at::vec::Vectorized<float>;
constexpr int64_t WIDTH = Vec::size();
// ROWS x COLUMNS vectors of sums fill the registers of the processor; 49 tokens are 7 x 7 rows.
#if defined(CPU_CAPABILITY_AVX512)
constexpr int ROWS = 7, COLUMNS = 4;
#elif defined(CPU_CAPABILITY_AVX2)
constexpr int ROWS = 4, COLUMNS = 2;
#else
constexpr int ROWS = 7, COLUMNS = 2;
#endif
constexpr float NOTHING = -std::numeric_limits<float>::infinity();

// sums[r][v] += left[r * left_row + i] * right[i * right_row + v * WIDTH ...] for i < count
template <int R, int V>
inline void multiply(const float* left, int64_t left_row, const float* right, int64_t right_row, int64_t count, Vec (&sums)[R][V]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) sums[r][v] = Vec(0.f);
  for (int64_t i = 0; i < count; i++) {
    Vec part[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) part[v] = Vec::loadu(right + i * right_row + v * WIDTH);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const Vec one(left[r * left_row + i]);
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) sums[r][v] = at::vec::fmadd(one, part[v], sums[r][v]);
    }
  }
}

// A block of R x V products, each row times its factor, from `column` of its own place on.
template <int R, int V>
inline void block(const float* left, int64_t left_row, const float* right, int64_t right_row, int64_t count, const float* factors,
                  float* const* out, int64_t column) {
  Vec sums[R][V];
  multiply<R, V>(left, left_row, right + column, right_row, count, sums);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) (sums[r][v] * Vec(factors[r])).store(out[r] + column + v * WIDTH);
}

// Blocks side by side until `columns`, a multiple of WIDTH, are done.
template <int R>
inline void blocks(const float* left, int64_t left_row, const float* right, int64_t right_row, int64_t count, const float* factors,
                   float* const* out, int64_t columns) {
  int64_t c = 0;
  for (; c + COLUMNS * WIDTH <= columns; c += COLUMNS * WIDTH)
    block<R, COLUMNS>(left, left_row, right, right_row, count, factors, out, c);
  for (; c + 2 * WIDTH <= columns; c += 2 * WIDTH) block<R, 2>(left, left_row, right, right_row, count, factors, out, c);
  for (; c < columns; c += WIDTH) block<R, 1>(left, left_row, right, right_row, count, factors, out, c);
}

// exp(row + bias - its largest) in place, nothing beyond `tokens`; returns one over the sum.
inline float exponents(float* row, const float* bias, int64_t tokens) {
  Vec most(NOTHING), sum(0.f);
  for (int64_t j = 0; j < tokens; j += WIDTH) {
    const int64_t count = std::min(WIDTH, tokens - j);
    Vec x = Vec::loadu(row + j) + Vec::loadu(bias + j, count);
    if (count < WIDTH) x = Vec::set(Vec(NOTHING), x, count);
    x.store(row + j);
    most = at::vec::maximum(most, x);
  }
  most = Vec(at::vec::vec_reduce_all<float>([](Vec& a, Vec& b) { return at::vec::maximum(a, b); }, most));
  for (int64_t j = 0; j < tokens; j += WIDTH) {
    const Vec x = (Vec::loadu(row + j) - most).exp_u20();
    x.store(row + j);
    sum = sum + x;
  }
  return 1.f / at::vec::vec_reduce_all<float>([](Vec& a, Vec& b) { return a + b; }, sum);
}

// Where the rows of a window and head lie.
struct Rows {
  const float* first;
  int64_t window, head, row;

  explicit Rows(const at::Tensor& x) : first(x.const_data_ptr<float>()), window(x.stride(0)), head(x.stride(1)), row(x.stride(2)) {}
  const float* of(int64_t m, int64_t h) const { return first + m * window + h * head; }
};

// Ask for rows of `width` values, for they lie too far apart for the processor to foresee; level 2, as the nearest cache is full.
inline void ask_for(const float* rows, int64_t row, int64_t count, int64_t width) {
#if defined(__GNUC__)
  for (int64_t r = 0; r < count; r++)
    for (int64_t c = 0; c < width; c += 16) __builtin_prefetch(rows + r * row + c, 0, 2);
#endif
}

struct Head {
  const float *query, *keys, *value, *bias;
  float *out, *nowhere;     // of the map's first token; for tokens of padding
  const int64_t* places;    // of the window's tokens in the map
  int64_t query_row, value_row, out_row, rows, tokens, padded, width;
};

// R queries of a head from token `first` on.
template <int R>
inline void attend_rows(const Head& head, int64_t first, float scale, float* scores) {
  float factors[R];
  float *of_scores[R], *out[R];
  for (int r = 0; r < R; r++) {
    const int64_t place = head.places[first + r];
    out[r] = place < head.rows ? head.out + place * head.out_row : head.nowhere;
    of_scores[r] = scores + r * head.padded;
    factors[r] = scale;
  }
  blocks<R>(head.query + first * head.query_row, head.query_row, head.keys, head.padded, head.width, factors, of_scores,
            head.padded);
  for (int r = 0; r < R; r++) factors[r] = exponents(of_scores[r], head.bias + (first + r) * head.tokens, head.tokens);
  blocks<R>(scores, head.padded, head.value, head.value_row, head.tokens, factors, out, head.width);
}

// query, key, value (M, heads, T, D), rows of D in one piece, D a multiple of a vector; bias (P, heads, T, T), row m takes m % P.
// The M windows are those of maps of `rows` tokens, N windows each; places (N * T) says which token of its map each is, `rows` of
// padding, which is left out. Returns the maps, (M / N, rows, heads * D).
at::Tensor attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& bias, double scale,
                  const at::Tensor& places, int64_t rows) {
  TORCH_CHECK(query.dim() == 4 && key.sizes() == query.sizes() && value.sizes() == query.sizes(), "query, key and value differ");
  const int64_t many = query.size(0), heads = query.size(1), tokens = query.size(2), width = query.size(3);
  TORCH_CHECK(bias.dim() == 4 && bias.size(0) > 0 && bias.size(1) == heads && bias.size(2) == tokens && bias.size(3) == tokens,
              "bias must be (P, heads, T, T)");
  TORCH_CHECK(width % WIDTH == 0, "the width of a head must be a multiple of ", WIDTH);
  for (const at::Tensor* x : {&query, &key, &value, &bias})
    TORCH_CHECK(x->scalar_type() == at::kFloat && (x == &bias || x->stride(3) == 1), "float32 in rows of one piece");
  TORCH_CHECK(places.dim() == 1 && places.scalar_type() == at::kLong && places.numel() > 0 && tokens > 0 &&
                  places.numel() % tokens == 0 && many % (places.numel() / tokens) == 0,
              "places must be those of the tokens of all windows of a map");
  const at::Tensor biases = bias.contiguous(), all_places = places.contiguous();
  const int64_t windows = places.numel() / tokens, *where = all_places.const_data_ptr<int64_t>();
  int64_t real = 0;
  for (int64_t i = 0; i < places.numel(); i++) {
    TORCH_CHECK(where[i] >= 0 && where[i] <= rows, "a place lies outside the map");
    real += where[i] < rows;
  }
  TORCH_CHECK(real == rows, "every token of the map must be in one window");
  at::Tensor out = at::empty({many / windows, rows, heads * width}, query.options());
  const Rows q(query), k(key), v(value);
  const float* b = biases.const_data_ptr<float>();
  float* o = out.mutable_data_ptr<float>();
  const int64_t patterns = bias.size(0), padded = (tokens + WIDTH - 1) / WIDTH * WIDTH;
  at::parallel_for(0, many * heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> room((width + ROWS) * padded + width);
    float *keys = room.data(), *scores = keys + width * padded, *nowhere = scores + ROWS * padded;
    for (int64_t i = begin; i < end; i++) {
      const int64_t m = i / heads, h = i % heads, next = std::min(i + 1, end - 1);
      at::vec::transpose_mxn<float>(k.of(m, h), k.row, keys, padded, tokens, width);
      const Head head{q.of(m, h), keys, v.of(m, h), b + (m % patterns * heads + h) * tokens * tokens,
                      o + (m / windows * rows * heads + h) * width, nowhere, where + m % windows * tokens, q.row, v.row,
                      heads * width, rows, tokens, padded, width};
      int64_t t = 0;
      for (; t + ROWS <= tokens; t += ROWS) {
        for (const Rows* x : {&q, &k, &v}) ask_for(x->of(next / heads, next % heads) + t * x->row, x->row, ROWS, width);
        attend_rows<ROWS>(head, t, scale, scores);
      }
      for (; t < tokens; t++) attend_rows<1>(head, t, scale, scores);
    }
  });
  return out;
}

}  // namespace

// NAME ends in a digest of this file: packages of two versions of it may be open in one process.
TORCH_LIBRARY_FRAGMENT(swinkit, library) {
  library.def(NAME "(Tensor query, Tensor key, Tensor value, Tensor bias, float scale, Tensor places, int rows) -> Tensor");
}
TORCH_LIBRARY_IMPL(swinkit, CPU, library) { library.impl(NAME, attend); }
