// Attention of small windows for a CPU: softmax(scale q k^T + bias) v, all of one window and head inside the nearest cache.
//
// PyTorch's fused attention is made for thousands of tokens; for the 49 of a window it is far slower than the linear layers
// around it. Here the keys of a head are turned once, ROWS queries at a time meet all of them in registers, and nothing but the
// answer is written, each token where it belongs in its map; meanwhile the next window and head is fetched. building.py compiles
// this file for the processor at hand, ../rewriting.py puts it where a graph had scaled_dot_product_attention; tests/test_attention.py
// compares it with that in float64.

#include "tensors.h"

#include <algorithm>
#include <limits>

namespace {

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

// exp(row + bias - its largest) in place for R rows, nothing beyond `tokens`; factors become one over the sums.
// Step by step for all rows, so that none waits for its own sum.
template <int R>
inline void exponents(float* rows, int64_t padded, const float* bias, int64_t tokens, float* factors) {
  Vec most[R], sum[R];
  for (int r = 0; r < R; r++) {
    float* row = rows + r * padded;
    most[r] = Vec(NOTHING);
    for (int64_t j = 0; j < tokens; j += WIDTH) {
      const int64_t count = std::min(WIDTH, tokens - j);
      Vec x = Vec::loadu(row + j) + Vec::loadu(bias + r * tokens + j, count);
      if (count < WIDTH) x = Vec::set(Vec(NOTHING), x, count);
      x.store(row + j);
      most[r] = at::vec::maximum(most[r], x);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    most[r] = Vec(at::vec::vec_reduce_all<float>([](Vec& a, Vec& b) { return at::vec::maximum(a, b); }, most[r]));
    sum[r] = Vec(0.f);
  }
  for (int64_t j = 0; j < tokens; j += WIDTH)
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const Vec x = (Vec::loadu(rows + r * padded + j) - most[r]).exp_u20();
      x.store(rows + r * padded + j);
      sum[r] = sum[r] + x;
    }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
    factors[r] = 1.f / at::vec::vec_reduce_all<float>([](Vec& a, Vec& b) { return a + b; }, sum[r]);
}

// What all windows and heads have in common: how far rows lie apart, and how many there are of what.
struct Shape {
  int64_t query_row, key_row, value_row, out_row, rows, tokens, padded, width;
  float scale;
};

// Where those of one window and head begin, and the places of the window's tokens in the map.
struct Head {
  const float *query, *key, *value, *bias;
  float* out;
  const int64_t* places;
};

// Ask for values that are soon read or written: their rows lie too far apart for the processor to foresee them. The nearest cache
// is full, so the second. GCC leaves out calls of functions that do nothing else, so these must not stay calls.
#if defined(__GNUC__)
#define ALWAYS_INLINE [[gnu::always_inline]] inline
#else
#define ALWAYS_INLINE inline
#endif
ALWAYS_INLINE void ask_for(const float* row, int64_t width) {
  for (int64_t c = 0; c < width; c += 16) ASK(row + c);
}

ALWAYS_INLINE void ask_for(const Head& head, const Shape& shape, int64_t token) {
  ask_for(head.query + token * shape.query_row, shape.width);
  ask_for(head.key + token * shape.key_row, shape.width);
  ask_for(head.value + token * shape.value_row, shape.width);
  ask_for(head.out + std::min(head.places[token], shape.rows - 1) * shape.out_row, shape.width);
}

// R queries of a head from token `first` on; what padding asks for goes to `nowhere`.
template <int R>
inline void attend_rows(const Head& head, const Shape& shape, int64_t first, const float* keys, float* scores, float* nowhere) {
  float factors[R];
  float *of_scores[R], *out[R];
  for (int r = 0; r < R; r++) {
    const int64_t place = head.places[first + r];
    out[r] = place < shape.rows ? head.out + place * shape.out_row : nowhere;
    of_scores[r] = scores + r * shape.padded;
    factors[r] = shape.scale;
  }
  blocks<R>(head.query + first * shape.query_row, shape.query_row, keys, shape.padded, shape.width, factors, of_scores,
            shape.padded);
  exponents<R>(scores, shape.padded, head.bias + first * shape.tokens, shape.tokens, factors);
  blocks<R>(scores, shape.padded, head.value, shape.value_row, shape.tokens, factors, out, shape.width);
}

// query, key, value (M, heads, T, D), rows of D in one piece, D a multiple of a vector; bias (P, heads, T, T), row m takes m % P.
// The M windows are those of maps of `rows` tokens, N windows each; places (N * T) says which token of its map each is, `rows` of
// padding, which is left out. Returns the maps, (M / N, rows, heads * D).
Tensor attend(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& bias, double scale,
                  const Tensor& places, int64_t rows) {
  STD_TORCH_CHECK(query.dim() == 4 && key.sizes() == query.sizes() && value.sizes() == query.sizes(), "query, key and value differ");
  const int64_t many = query.size(0), heads = query.size(1), tokens = query.size(2), width = query.size(3);
  STD_TORCH_CHECK(bias.dim() == 4 && bias.size(0) > 0 && bias.size(1) == heads && bias.size(2) == tokens && bias.size(3) == tokens,
              "bias must be (P, heads, T, T)");
  STD_TORCH_CHECK(width % WIDTH == 0, "the width of a head must be a multiple of ", WIDTH);
  for (const Tensor* x : {&query, &key, &value, &bias})
    STD_TORCH_CHECK(x->scalar_type() == FLOAT && (x == &bias || x->stride(3) == 1), "float32 in rows of one piece");
  STD_TORCH_CHECK(places.dim() == 1 && places.scalar_type() == LONG && places.numel() > 0 && tokens > 0 &&
                  places.numel() % tokens == 0 && many % (places.numel() / tokens) == 0,
              "places must be those of the tokens of all windows of a map");
  const Tensor biases = whole(bias), all_places = whole(places);
  const int64_t windows = places.numel() / tokens, *where = all_places.const_data_ptr<int64_t>();
  int64_t real = 0;
  for (int64_t i = 0; i < places.numel(); i++) {
    STD_TORCH_CHECK(where[i] >= 0 && where[i] <= rows, "a place lies outside the map");
    real += where[i] < rows;
  }
  STD_TORCH_CHECK(real == rows, "every token of the map must be in one window");
  Tensor out = empty({many / windows, rows, heads * width});
  const float *q = query.const_data_ptr<float>(), *k = key.const_data_ptr<float>(), *v = value.const_data_ptr<float>(),
              *b = biases.const_data_ptr<float>();
  float* o = out.mutable_data_ptr<float>();
  const int64_t patterns = bias.size(0);
  const Shape shape{query.stride(2), key.stride(2), value.stride(2), heads * width, rows, tokens,
                    (tokens + WIDTH - 1) / WIDTH * WIDTH, width, static_cast<float>(scale)};
  const auto head_of = [&](int64_t i) {
    const int64_t m = i / heads, h = i % heads;
    return Head{q + m * query.stride(0) + h * query.stride(1), k + m * key.stride(0) + h * key.stride(1),
                v + m * value.stride(0) + h * value.stride(1), b + (m % patterns * heads + h) * tokens * tokens,
                o + m / windows * rows * shape.out_row + h * width, where + m % windows * tokens};
  };
  at::parallel_for(0, many * heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> room((width + ROWS) * shape.padded + width);
    float *keys = room.data(), *scores = keys + width * shape.padded, *nowhere = scores + ROWS * shape.padded;
    for (int64_t i = begin; i < end; i++) {
      const Head head = head_of(i), next = head_of(std::min(i + 1, end - 1));
      at::vec::transpose_mxn<float>(head.key, shape.key_row, keys, shape.padded, tokens, width);
      int64_t t = 0;
      for (; t + ROWS <= tokens; t += ROWS) {
        for (int64_t r = t; r < t + ROWS; r++) ask_for(next, shape, r);
        attend_rows<ROWS>(head, shape, t, keys, scores, nowhere);
      }
      for (; t < tokens; t++) attend_rows<1>(head, shape, t, keys, scores, nowhere);
    }
  });
  return out;
}

}  // namespace

// NAME ends in a digest of this file: packages of two versions of it may be open in one process.
STABLE_TORCH_LIBRARY_FRAGMENT(swinkit, library) {
  library.def(NAME "(Tensor query, Tensor key, Tensor value, Tensor bias, float scale, Tensor places, int rows) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(swinkit, CPU, library) { library.impl(NAME, TORCH_BOX(&attend)); }
