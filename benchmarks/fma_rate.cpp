// The roofline's ceiling: fp32 multiply-adds per second of all threads together, in registers. Compiled by scan.py.
#include <chrono>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
typedef float Vector __attribute__((vector_size(VECTOR_BYTES)));

static double rate_of_one_thread(double seconds) {
  constexpr int chains = 12;  // enough to hide the latency, few enough for the registers
  constexpr long steps = 100000;
  Vector sum[chains] = {}, factor = Vector{} + 0.999f, addend = Vector{} + 0.1f;
  double best = 0, spent = 0;
  while (spent < seconds) {
    const auto start = std::chrono::steady_clock::now();
    for (long i = 0; i < steps; i++) {
#pragma GCC unroll 16
      for (int j = 0; j < chains; j++) {
        sum[j] = sum[j] * factor + addend;
#if defined(__x86_64__)
        asm volatile("" : "+v"(sum[j]));
#elif defined(__aarch64__)
        asm volatile("" : "+w"(sum[j]));
#endif
      }
    }
    const double time = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double rate = double(steps) * chains * (VECTOR_BYTES / 4) / time;
    if (rate > best) best = rate;
    spent += time;
  }
  return best;
}

extern "C" double fma_rate(int threads, double seconds) {
  std::vector<double> rates(threads);
  std::vector<std::thread> running;
  for (int i = 0; i < threads; i++) running.emplace_back([&, i] { rates[i] = rate_of_one_thread(seconds); });
  double total = 0;
  for (int i = 0; i < threads; i++) running[i].join(), total += rates[i];
  return total;
}
