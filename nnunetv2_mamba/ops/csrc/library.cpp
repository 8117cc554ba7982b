// The C interface of the library: picks the kernels of an instruction set, cuts the work into items and runs them on
// threads.
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernels.h"

#if defined(_WIN32)
#define NM_EXPORT extern "C" __declspec(dllexport)
#else
#define NM_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace nm {

#define NM_DECLARE(isa)           \
  namespace isa {                 \
  void get(ScanKernels<float>&);  \
  void get(ScanKernels<double>&); \
  void get(ConvKernels<float>&);  \
  void get(ConvKernels<double>&); \
  }

#if defined(__x86_64__) || defined(_M_X64)
NM_DECLARE(x86_64_v2)
NM_DECLARE(x86_64_v3)
NM_DECLARE(x86_64_v4)
#else
NM_DECLARE(baseline)
#endif

namespace {

struct InstructionSet {
  const char* name;
  bool supported;
};

const std::vector<InstructionSet>& instruction_sets() {  // the best last
  static const std::vector<InstructionSet> sets = [] {
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_cpu_init();
    const bool v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
    const bool v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    return std::vector<InstructionSet>{{"x86-64-v2", v2}, {"x86-64-v3", v3}, {"x86-64-v4", v4}};
#else
    return std::vector<InstructionSet>{{"baseline", true}};
#endif
  }();
  return sets;
}

template <class Kernels>
Kernels kernels_for(int64_t instruction_set) {
  Kernels kernels;
#if defined(__x86_64__) || defined(_M_X64)
  if (instruction_set == 0) x86_64_v2::get(kernels);
  if (instruction_set == 1) x86_64_v3::get(kernels);
  if (instruction_set == 2) x86_64_v4::get(kernels);
#else
  (void)instruction_set;
  baseline::get(kernels);
#endif
  return kernels;
}

// Numbers below the normal range count as zero while a kernel runs: on many CPUs they cost a hundred times the others,
// and a state that decays over empty background passes through them.
class FlushDenormals {
#if defined(__x86_64__) || defined(_M_X64)
  unsigned before = _mm_getcsr();

 public:
  FlushDenormals() { _mm_setcsr(before | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before); }
#elif defined(__aarch64__)
  uint64_t before;

 public:
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before));
    asm volatile("msr fpcr, %0" : : "r"(before | (uint64_t(1) << 24)));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(before)); }
#endif
};

// A fresh tensor is backed by nothing until it is written, and taking 512 page faults for every 2 MiB can cost more
// time than the scan. Where the kernel lets a program choose, ask for huge pages before the first write.
template <class T>
void use_huge_pages(const T* tensor, int64_t count) {
#if defined(__linux__)
  const uintptr_t page = 2 << 20, begin = ((uintptr_t)tensor + page - 1) & ~(page - 1),
                  end = (uintptr_t)(tensor + count) & ~(page - 1);
  if (tensor && end > begin) madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#endif
}

template <class T>
void prepare_outputs(const ScanArgs<T>& a, bool backward) {
  const int64_t tokens = a.batch * a.length, chunks = (a.length + a.chunk - 1) / a.chunk;
  if (!backward) {
    use_huge_pages(a.out.data, tokens * a.channels);
    use_huge_pages(a.states, a.batch * a.directions * chunks * a.state_size * a.channels);
    return;
  }
  use_huge_pages(a.du.data, tokens * a.channels * (a.du.direction ? a.directions : 1));
  use_huge_pages(a.ddelta.data, tokens * a.channels * a.directions);
  use_huge_pages(a.dB.data, tokens * a.state_size * a.directions);
  use_huge_pages(a.dC.data, tokens * a.state_size * a.directions);
  use_huge_pages(a.dz.data, tokens * a.channels);
}

template <class T>
void prepare_outputs(const ConvArgs<T>& a, bool backward) {
  const int64_t tokens = a.batch * a.length;
  if (backward)
    use_huge_pages(a.dx.data, tokens * a.channels * (a.dx.direction ? a.directions : 1));
  else
    use_huge_pages(a.out.data, tokens * a.channels * a.directions);
}

// Threads live for one call. Starting one costs some 30 us, and in return nothing is left behind that a fork could
// break.
template <class Work>
void run_on_threads(int64_t threads, const Work& work) {
  std::vector<std::thread> others;
  try {
    for (int64_t thread = 1; thread < threads; thread++) others.emplace_back(work, thread);
  } catch (const std::system_error&) {
    // The threads that did start, and this one, do all the work.
  }
  work(0);
  for (std::thread& other : others) other.join();
}

// Channel groups per batch element: as few as occupy all threads equally well, but none above 256 channels, whose
// states and tiles fit a second-level cache.
int64_t channel_groups(int64_t batch, int64_t blocks, int64_t lanes, int64_t threads) {
  int64_t best = 0, best_rounds = 0;
  for (int64_t groups = (blocks * lanes + 255) / 256; groups <= blocks; groups++) {
    const int64_t rounds = (batch * groups + threads - 1) / threads * ((blocks + groups - 1) / groups);
    if (best == 0 || rounds < best_rounds) best = groups, best_rounds = rounds;
  }
  return best;
}

template <class Args>
int run(int64_t instruction_set, const Args& a, bool backward, int64_t threads) try {
  if (a.batch == 0 || a.length == 0 || a.channels == 0) return 0;
  prepare_outputs(a, backward);
  const auto kernels = kernels_for<Kernels<Args>>(instruction_set);
  const int64_t blocks = (a.channels + kernels.lanes - 1) / kernels.lanes;
  const int64_t groups = channel_groups(a.batch, blocks, kernels.lanes, threads);
  const int64_t count = a.batch * groups;

  std::vector<int64_t> done(2 * count, 0);
  std::vector<Item> items(count);
  int64_t most_channels = 0;
  for (int64_t i = 0; i < count; i++) {
    const int64_t group = i % groups;
    Item& item = items[i];
    item.batch = i / groups;
    item.channel_begin = blocks * group / groups * kernels.lanes;
    item.channel_end = std::min(a.channels, blocks * (group + 1) / groups * kernels.lanes);
    item.among_channels = {&done[2 * i], group > 0 ? &done[2 * (i - 1)] : nullptr};
    item.among_batch = {&done[2 * i + 1], item.batch > 0 ? &done[2 * (i - groups) + 1] : nullptr};
    most_channels = std::max(most_channels, item.channel_end - item.channel_begin);
  }

  threads = std::min(threads, count);
  const size_t bytes = kernels.scratch(a, most_channels, backward);
  const std::unique_ptr<char, void (*)(void*)> scratch((char*)malloc(threads * bytes + 64), free);
  if (!scratch) return 1;
  char* const aligned = scratch.get() + (64 - (uintptr_t)scratch.get() % 64);

  std::atomic<int64_t> next{0};
  run_on_threads(threads, [&](int64_t thread) {
    FlushDenormals flush;
    for (int64_t i; (i = next++) < count;)
      (backward ? kernels.backward : kernels.forward)(a, items[i], aligned + thread * bytes);
  });
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

}  // namespace

void wait_for_turn(const Turn& turn, int64_t step) {
  if (!turn.done_before) return;
  for (int spins = 0; __atomic_load_n(turn.done_before, __ATOMIC_ACQUIRE) < step; spins++)
    if (spins > 100) std::this_thread::yield();
}

void end_turn(const Turn& turn, int64_t step) { __atomic_store_n(turn.done, step, __ATOMIC_RELEASE); }

}  // namespace nm

// Instruction sets are numbered from the most portable; null after the last one.
NM_EXPORT const char* nm_instruction_set(int64_t number) {
  const auto& sets = nm::instruction_sets();
  return number < int64_t(sets.size()) ? sets[number].name : nullptr;
}

NM_EXPORT int nm_supported(int64_t number) { return nm::instruction_sets()[number].supported; }

// Non-zero: out of memory.
#define NM_ENTRY(name, Args, backward, T)                                                 \
  NM_EXPORT int name(int64_t instruction_set, const nm::Args<T>* args, int64_t threads) { \
    return nm::run(instruction_set, *args, backward, threads);                            \
  }

NM_ENTRY(nm_scan_forward_f32, ScanArgs, false, float)
NM_ENTRY(nm_scan_forward_f64, ScanArgs, false, double)
NM_ENTRY(nm_scan_backward_f32, ScanArgs, true, float)
NM_ENTRY(nm_scan_backward_f64, ScanArgs, true, double)
NM_ENTRY(nm_conv_forward_f32, ConvArgs, false, float)
NM_ENTRY(nm_conv_forward_f64, ConvArgs, false, double)
NM_ENTRY(nm_conv_backward_f32, ConvArgs, true, float)
NM_ENTRY(nm_conv_backward_f64, ConvArgs, true, double)
