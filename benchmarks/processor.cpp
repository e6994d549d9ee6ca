// What a processor can do at most, and how far its cores are from one another; processor.py compiles and calls it.

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>
#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int WIDTH = 16;
#elif defined(__AVX__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif
typedef float Vec __attribute__((vector_size(4 * WIDTH)));
#if defined(__x86_64__)
#define KEEP(x) asm volatile("" : "+v"(x))
#else
#define KEEP(x) asm volatile("" : "+w"(x))
#endif
constexpr int CHAINS = 12;  // independent sums, enough to hide the latency of one; they and two factors fit 16 registers

void pin(int core) {
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
#endif
}

void multiply_and_add(long steps) {
  Vec x, y;
  for (int i = 0; i < WIDTH; i++) x[i] = 0.999f, y[i] = 0.5f;
  Vec a = y, b = y, c = y, d = y, e = y, f = y, g = y, h = y, i = y, j = y, k = y, l = y;  // named: an array would lie in memory
  auto once = [&](Vec& sum) {
    sum = sum * x + y;
    KEEP(sum);
  };
  for (long step = 0; step < steps; step++) {
    once(a), once(b), once(c), once(d), once(e), once(f), once(g), once(h), once(i), once(j), once(k), once(l);
  }
}

double since(std::chrono::steady_clock::time_point began) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

}  // namespace

// Floating point operations a second of this many threads, one pinned to each core, that only multiply and add, in registers.
extern "C" double peak(const int* cores, int threads, long steps) {
  const auto began = std::chrono::steady_clock::now();
  std::vector<std::thread> all;
  for (int i = 0; i < threads; i++)
    all.emplace_back([core = cores[i], steps] {
      pin(core);
      multiply_and_add(steps);
    });
  for (std::thread& each : all) each.join();
  return 2.0 * WIDTH * CHAINS * steps * threads / since(began);
}

// Seconds from a core's write to another's sight of it, both pinned; the smallest of a few rounds of `trips` there and back.
extern "C" double between(int first, int second, int trips) {
  constexpr int ROUNDS = 5;
  alignas(256) std::atomic<int> ball{0};
  double best = 1;
  std::thread one([&] {
    pin(first);
    for (int round = 0; round < ROUNDS; round++) {
      const auto began = std::chrono::steady_clock::now();
      for (int i = 0; i < trips; i++) {
        const int mine = 2 * (round * trips + i) + 1;
        ball.store(mine, std::memory_order_release);
        while (ball.load(std::memory_order_acquire) != mine + 1) {
        }
      }
      const double took = since(began) / trips / 2;
      if (took < best) best = took;
    }
  });
  std::thread two([&] {
    pin(second);
    for (int i = 0; i < ROUNDS * trips; i++) {
      while (ball.load(std::memory_order_acquire) != 2 * i + 1) {
      }
      ball.store(2 * i + 2, std::memory_order_release);
    }
  });
  one.join();
  two.join();
  return best;
}
