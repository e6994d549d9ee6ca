// Attention of small windows for a CPU: softmax(scale q k^T + bias) v, all of one window and head inside the nearest cache.
//
// PyTorch's fused attention is made for thousands of tokens; for the 49 of a window it is far slower than the linear layers
// around it. Here the keys of a head are turned once, ROWS queries at a time meet all of them in registers, and nothing
// but the answer is written. native.py compiles this file for the processor at hand and puts it where an exported graph had
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

// A block of R x V products, each row times its factor.
template <int R, int V>
inline void block(const float* left, int64_t left_row, const float* right, int64_t right_row, int64_t count, const float* factors,
                  float* out, int64_t out_row) {
  Vec sums[R][V];
  multiply<R, V>(left, left_row, right, right_row, count, sums);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) (sums[r][v] * Vec(factors[r])).store(out + r * out_row + v * WIDTH);
}

// Blocks side by side until `columns`, a multiple of WIDTH, are done.
template <int R>
inline void blocks(const float* left, int64_t left_row, const float* right, int64_t right_row, int64_t count, const float* factors,
                   float* out, int64_t out_row, int64_t columns) {
  int64_t c = 0;
  for (; c + COLUMNS * WIDTH <= columns; c += COLUMNS * WIDTH)
    block<R, COLUMNS>(left, left_row, right + c, right_row, count, factors, out + c, out_row);
  for (; c + 2 * WIDTH <= columns; c += 2 * WIDTH)
    block<R, 2>(left, left_row, right + c, right_row, count, factors, out + c, out_row);
  for (; c < columns; c += WIDTH) block<R, 1>(left, left_row, right + c, right_row, count, factors, out + c, out_row);
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

struct Head {
  const float *query, *keys, *value, *bias;
  float* out;
  int64_t query_row, value_row, out_row, tokens, padded, width;
};

// R queries of a head from token `first` on.
template <int R>
inline void attend_rows(const Head& head, int64_t first, float scale, float* scores) {
  float factors[R];
  std::fill(factors, factors + R, scale);
  blocks<R>(head.query + first * head.query_row, head.query_row, head.keys, head.padded, head.width, factors, scores, head.padded,
            head.padded);
  for (int r = 0; r < R; r++)
    factors[r] = exponents(scores + r * head.padded, head.bias + (first + r) * head.tokens, head.tokens);
  blocks<R>(scores, head.padded, head.value, head.value_row, head.tokens, factors, head.out + first * head.out_row, head.out_row,
            head.width);
}

// query, key, value (M, heads, T, D), rows of D in one piece, D a multiple of a vector; bias (P, heads, T, T), row m takes m % P.
// Returns (M, heads, T, D) that lies in memory as (M, T, heads, D).
at::Tensor attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& bias, double scale) {
  TORCH_CHECK(query.dim() == 4 && key.sizes() == query.sizes() && value.sizes() == query.sizes(), "query, key and value differ");
  const int64_t many = query.size(0), heads = query.size(1), tokens = query.size(2), width = query.size(3);
  TORCH_CHECK(bias.dim() == 4 && bias.size(0) > 0 && bias.size(1) == heads && bias.size(2) == tokens && bias.size(3) == tokens,
              "bias must be (P, heads, T, T)");
  TORCH_CHECK(width % WIDTH == 0, "the width of a head must be a multiple of ", WIDTH);
  for (const at::Tensor* x : {&query, &key, &value, &bias})
    TORCH_CHECK(x->scalar_type() == at::kFloat && (x == &bias || x->stride(3) == 1), "float32 in rows of one piece");
  const at::Tensor biases = bias.contiguous();
  at::Tensor out = at::empty({many, tokens, heads, width}, query.options());
  const float *q = query.const_data_ptr<float>(), *k = key.const_data_ptr<float>(), *v = value.const_data_ptr<float>(),
              *b = biases.const_data_ptr<float>();
  float* o = out.mutable_data_ptr<float>();
  const int64_t patterns = bias.size(0), padded = (tokens + WIDTH - 1) / WIDTH * WIDTH;
  at::parallel_for(0, many * heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> room((width + ROWS) * padded);
    float *keys = room.data(), *scores = keys + width * padded;
    for (int64_t i = begin; i < end; i++) {
      const int64_t m = i / heads, h = i % heads;
      at::vec::transpose_mxn<float>(k + m * key.stride(0) + h * key.stride(1), key.stride(2), keys, padded, tokens, width);
      const Head head{q + m * query.stride(0) + h * query.stride(1), keys, v + m * value.stride(0) + h * value.stride(1),
                      b + (m % patterns * heads + h) * tokens * tokens, o + (m * tokens * heads + h) * width, query.stride(2),
                      value.stride(2), heads * width, tokens, padded, width};
      int64_t t = 0;
      for (; t + ROWS <= tokens; t += ROWS) attend_rows<ROWS>(head, t, scale, scores);
      for (; t < tokens; t++) attend_rows<1>(head, t, scale, scores);
    }
  });
  return out.transpose(1, 2);
}

}  // namespace

// NAME ends in a digest of this file: packages of two versions of it may be open in one process.
TORCH_LIBRARY_FRAGMENT(swinkit, library) { library.def(NAME "(Tensor query, Tensor key, Tensor value, Tensor bias, float scale) -> Tensor"); }
TORCH_LIBRARY_IMPL(swinkit, CPU, library) { library.impl(NAME, attend); }
