// The C interface of the library: picks the kernels of an instruction set, cuts the work into items and runs them on
// threads.
//
// Of the C++ library only what headers hold whole, see system.h; so there are no exceptions.
#include <string.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernels.h"
#include "system.h"
#include "x86_64_level.h"

#if defined(_WIN32)
#define NM_EXPORT extern "C" __declspec(dllexport)
#else
#define NM_EXPORT extern "C" __attribute__((visibility("default")))
#endif

#if defined(__linux__)
// The OpenMP runtime that torch has loaded for the whole process, GNU's or another with its interface; null without one.
extern "C" __attribute__((weak)) void GOMP_parallel(void (*region)(void*), void* data, unsigned threads, unsigned flags);
extern "C" __attribute__((weak)) int omp_get_thread_num();
#endif

namespace nm {

#define NM_DECLARE(isa)           \
  namespace isa {                 \
  void get(ScanKernels<float>&);  \
  void get(ScanKernels<double>&); \
  void get(SsdKernels<float>&);   \
  void get(SsdKernels<double>&);  \
  void get(ConvKernels<float>&);  \
  void get(ConvKernels<double>&); \
  }

#if defined(__x86_64__)
NM_DECLARE(x86_64_v2)
NM_DECLARE(x86_64_v3)
NM_DECLARE(x86_64_v4)
#else
NM_DECLARE(baseline)
#endif

namespace {

struct InstructionSet {
  const char* name;
  bool (*supported)();
};

constexpr InstructionSet instruction_sets[] = {  // the best last
#if defined(__x86_64__)
    {"x86-64-v2", [] { return x86_64_level() >= 2; }},
    {"x86-64-v3", [] { return x86_64_level() >= 3; }},
    {"x86-64-v4", [] { return x86_64_level() >= 4; }},
#else
    {"baseline", [] { return true; }},
#endif
};

template <class Kernels>
Kernels kernels_for(int64_t instruction_set) {
  Kernels kernels;
#if defined(__x86_64__)
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
#if defined(__x86_64__)
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

// What a call may use of the machine.
struct Resources {
  int64_t instruction_set, threads;
  bool openmp;  // whether OpenMP's threads may be used: not in a forked process, which does not have them
};

// Calls work(thread) on `threads` threads, numbered from 0, or on fewer where there are not so many to be had.
//
// OpenMP's already run, and those that torch has just used would compete with ours for the cores while they wait for
// more. Where the system refuses it a thread, it ends the process, as it does for torch's own operations. Without OpenMP
// threads live for one call; starting one costs some 50 us.
template <class Work>
void run_on_threads(int64_t threads, bool openmp, const Work& work) {
  if (threads <= 1) return work(0);
#if defined(__linux__)
  if (openmp && GOMP_parallel && omp_get_thread_num) {
    const auto region = [](void* data) { (*static_cast<const Work*>(data))(omp_get_thread_num()); };
    return GOMP_parallel(region, const_cast<Work*>(&work), threads, 0);
  }
#else
  (void)openmp;
#endif
  Array<Task> tasks(threads);
  Array<Thread> others(threads);
  const int64_t wanted = tasks.missing() || others.missing() ? 1 : threads;
  int64_t started = 1;  // with this one; those that did start do all the work
  for (; started < wanted; started++) {
    const auto run = [](const void* on, int64_t thread) { (*static_cast<const Work*>(on))(thread); };
    tasks[started] = {run, &work, started};
    if (!start(&others[started], &tasks[started])) break;
  }
  work(0);
  for (int64_t thread = 1; thread < started; thread++) join(others[thread]);
}

// Channel groups per batch element: as few as occupy all threads equally well, but none above 256 channels, whose
// states and tiles fit a second-level cache.
int64_t channel_groups(int64_t batch, int64_t blocks, int64_t lanes, int64_t threads) {
  int64_t best = 0, best_rounds = 0;
  for (int64_t groups = std::min(blocks, (blocks * lanes + 255) / 256); groups <= blocks; groups++) {
    const int64_t rounds = (batch * groups + threads - 1) / threads * ((blocks + groups - 1) / groups);
    if (best == 0 || rounds < best_rounds) best = groups, best_rounds = rounds;
  }
  return best;
}

// Segments of each path, where there are more threads than channel groups. Their summaries cost nearly another forward,
// so two segments would gain nothing.
int64_t segment_count(int64_t items, int64_t length, int64_t threads) {
  const int64_t segments = std::min(threads / items, length / 256);
  return segments < 3 ? 1 : segments;
}

template <class T>
T decay_rate(const ScanArgs<T>& a, int64_t k, int64_t channel, int64_t state) {
  if (a.heads) return a.A[k * a.heads + channel / (a.channels / a.heads)];
  return a.A[(k * a.channels + channel) * a.state_size + state];
}

// What the segments of the paths of a scan pass on, (b, segment, K, n, d) and (b, segment, K, d); see Item.
template <class T>
struct PassedOn {
  int64_t segments;
  Array<T> entering, leaving, steps;

  PassedOn(const ScanArgs<T>& a, int64_t segments)
      : segments(segments),
        entering(a.batch * segments * a.directions * a.state_size * a.channels),
        leaving(entering.size),
        steps(a.batch * segments * a.directions * a.channels) {}

  bool missing() const { return entering.missing() || leaving.missing() || steps.missing(); }

  // Once all segments are summarised: what truly enters each of them.
  void carry_over(const ScanArgs<T>& a, bool backward) {
    const int64_t rows = a.directions * a.state_size * a.channels, step_rows = a.directions * a.channels;
    for (int64_t b = 0; b < a.batch; b++)
      for (int64_t i = 0; i + 1 < segments; i++) {
        const int64_t from = b * segments + (backward ? segments - 1 - i : i), to = from + (backward ? -1 : 1);
        for (int64_t k = 0; k < a.directions; k++)
          for (int64_t j = 0; j < a.state_size; j++)
            for (int64_t c = 0; c < a.channels; c++) {
              const int64_t row = (k * a.state_size + j) * a.channels + c;
              const T decay = std::exp(decay_rate(a, k, c, j) * steps[from * step_rows + k * a.channels + c]);
              const T before = entering[from * rows + row];
              // Over a segment a growing mode (A > 0) overflows, which must not touch a state that is still zero.
              entering[to * rows + row] = leaving[from * rows + row] + (before == 0 ? T(0) : decay * before);
            }
      }
  }
};

// The items of one call and the threads that work on them. Channels are given out in blocks of `block`.
template <class T, class Args>
class Crew {
 public:
  typedef void (*Work)(const Args&, const Item<T>&, void* scratch);

  const Kernels<T, Args> kernels;
  const int64_t block, blocks, groups, segments;

  Crew(const Resources& resources, const Kernels<T, Args>& kernels, int64_t block, const Args& args, int64_t chunk,
       bool backward)
      : kernels(kernels),
        block(block),
        blocks((args.channels + block - 1) / block),
        groups(channel_groups(args.batch, blocks, block, resources.threads)),
        segments(segment_count(args.batch * groups, args.length, resources.threads)),
        a(args),
        chunk(chunk),
        threads(std::min(resources.threads, args.batch * segments * groups)),
        openmp(resources.openmp),
        scratch_size(kernels.scratch(args, (blocks + groups - 1) / groups * block, backward)),
        scratch((char*)malloc(this->threads * scratch_size + 64)),
        done(2 * args.batch * segments * groups) {}

  ~Crew() { free(scratch); }

  bool missing() const { return !scratch || done.missing(); }

  // Items that are summed are in the order of the sum, those of one segment next to each other.
  void run(Work work, int64_t direction_begin, int64_t direction_end, PassedOn<T>* passed_on) {
    const int64_t count = a.batch * segments * groups;
    memset(&done[0], 0, done.size * sizeof(int64_t));
    std::atomic<int64_t> next{0};
    char* const aligned = scratch + (64 - (uintptr_t)scratch % 64);
    run_on_threads(threads, openmp, [&](int64_t thread) {
      FlushDenormals flush;
      for (int64_t i; (i = next++) < count;) {
        Item<T> item = make_item(i / groups / segments, i / groups % segments, i % groups, passed_on);
        item.direction_begin = direction_begin;
        item.direction_end = direction_end;
        item.among_channels = {&done[2 * i], i % groups > 0 ? &done[2 * (i - 1)] : nullptr};
        item.among_segments = {&done[2 * i + 1], i >= groups ? &done[2 * (i - groups) + 1] : nullptr};
        work(a, item, aligned + thread * scratch_size);
      }
    });
  }

  // Different segments of different directions meet at the same tokens, so that directions have to wait for each other.
  void run_all(Work work, PassedOn<T>* passed_on) {
    if (segments == 1) return run(work, 0, a.directions, nullptr);
    for (int64_t k = 0; k < a.directions; k++) run(work, k, k + 1, passed_on);
  }

 private:
  Item<T> make_item(int64_t b, int64_t segment, int64_t group, PassedOn<T>* passed_on) const {
    const int64_t chunks = (a.length + chunk - 1) / chunk;
    Item<T> item = {};
    item.batch = b;
    item.channel_begin = blocks * group / groups * block;
    item.channel_end = std::min(a.channels, blocks * (group + 1) / groups * block);
    item.begin = chunks * segment / segments * chunk;
    item.end = std::min(a.length, chunks * (segment + 1) / segments * chunk);
    if (passed_on) {
      const int64_t i = b * segments + segment, rows = passed_on->entering.size / (a.batch * segments);
      item.entering = &passed_on->entering[i * rows];
      item.leaving = &passed_on->leaving[i * rows];
      item.steps = &passed_on->steps[i * a.directions * a.channels];
    }
    return item;
  }

  const Args& a;
  const int64_t chunk;
  const int64_t threads;
  const bool openmp;
  const size_t scratch_size;
  char* const scratch;
  Array<int64_t> done;  // of each item, see Turn
};

// Both return whether there was the memory.
template <class T>
bool run(const Resources& resources, const ScanArgs<T>& a, bool backward) {
  ScanKernels<T> kernels = a.heads ? kernels_for<SsdKernels<T>>(resources.instruction_set)
                                   : kernels_for<ScanKernels<T>>(resources.instruction_set);
  Crew<T, ScanArgs<T>> crew(resources, kernels, a.heads ? a.channels / a.heads : kernels.lanes, a, a.chunk, backward);
  PassedOn<T> passed_on(a, crew.segments > 1 ? crew.segments : 0);
  if (crew.missing() || passed_on.missing()) return false;
  if (crew.segments > 1) {
    crew.run(backward ? crew.kernels.summarise_backward : crew.kernels.summarise_forward, 0, a.directions, &passed_on);
    passed_on.carry_over(a, backward);
  }
  crew.run_all(backward ? crew.kernels.backward : crew.kernels.forward, &passed_on);
  return true;
}

template <class T>
bool run(const Resources& resources, const ConvArgs<T>& a, bool backward) {
  constexpr int64_t chunk = 64;  // any multiple of the kernel's tile
  const ConvKernels<T> kernels = kernels_for<ConvKernels<T>>(resources.instruction_set);
  Crew<T, ConvArgs<T>> crew(resources, kernels, kernels.lanes, a, chunk, backward);
  if (crew.missing()) return false;
  crew.run_all(backward ? crew.kernels.backward : crew.kernels.forward, nullptr);
  return true;
}

}  // namespace

void wait_for_turn(const Turn& turn, int64_t step) {
  for (int spins = 0; !is_turn(turn, step); spins++)
    if (spins > 100) give_way();
}

}  // namespace nm

// Instruction sets are numbered from the most portable; null after the last one.
NM_EXPORT const char* nm_instruction_set(int64_t number) {
  const int64_t count = sizeof(nm::instruction_sets) / sizeof(nm::InstructionSet);
  return number < count ? nm::instruction_sets[number].name : nullptr;
}

NM_EXPORT int nm_supported(int64_t number) { return nm::instruction_sets[number].supported(); }

// Advises the system to put fresh memory on huge pages: writing to it for the first time costs a fault for each page,
// together as much time as the forward scan itself. Where it cannot, nothing changes.
NM_EXPORT void nm_advise_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t page = 2 << 20;
  const uintptr_t begin = ((uintptr_t)data + page - 1) / page * page, end = ((uintptr_t)data + bytes) / page * page;
  if (begin < end) madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

// Non-zero: out of memory.
#define NM_ENTRY(name, Args, backward, T)                                                             \
  NM_EXPORT int name(const nm::Args<T>* args, int64_t instruction_set, int64_t threads, int openmp) { \
    return !nm::run(nm::Resources{instruction_set, threads, openmp != 0}, *args, backward);           \
  }

NM_ENTRY(nm_scan_forward_f32, ScanArgs, false, float)
NM_ENTRY(nm_scan_forward_f64, ScanArgs, false, double)
NM_ENTRY(nm_scan_backward_f32, ScanArgs, true, float)
NM_ENTRY(nm_scan_backward_f64, ScanArgs, true, double)
NM_ENTRY(nm_conv_forward_f32, ConvArgs, false, float)
NM_ENTRY(nm_conv_forward_f64, ConvArgs, false, double)
NM_ENTRY(nm_conv_backward_f32, ConvArgs, true, float)
NM_ENTRY(nm_conv_backward_f64, ConvArgs, true, double)
