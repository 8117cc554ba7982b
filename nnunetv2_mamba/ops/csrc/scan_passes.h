// What the scans' two passes share, and the kernels made of them: of classes that are made of (args, item, channels,
// arena) and have `run` and `summarise`.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace nm {
namespace NM_ISA {

// Where the state before a chunk is saved.
template <class T>
NM_INLINE T* saved_state(const ScanArgs<T>& a, int64_t b, int64_t k, int64_t chunk, int64_t state, int64_t channel) {
  const int64_t chunks = (a.length + a.chunk - 1) / a.chunk;
  return a.states + (((b * a.directions + k) * chunks + chunk) * a.state_size + state) * a.channels + channel;
}

template <class T, class Pass, void (Pass::*WORK)()>
void run_pass(const ScanArgs<T>& a, const Item<T>& item, void* scratch) {
  Arena arena{(char*)scratch};
  (Pass(a, item, item.channel_end - item.channel_begin, arena).*WORK)();
}

template <class T, class Forward, class Backward>
size_t scratch_of_passes(const ScanArgs<T>& a, int64_t channels, bool backward) {
  Arena arena{nullptr};
  if (backward)
    Backward(a, Item<T>(), channels, arena);
  else
    Forward(a, Item<T>(), channels, arena);
  return (size_t)arena.next;
}

template <class T, class Forward, class Backward>
void set_kernels(ScanKernels<T>& to) {
  to = {W<T>,
        scratch_of_passes<T, Forward, Backward>,
        run_pass<T, Forward, &Forward::run>,
        run_pass<T, Backward, &Backward::run>,
        run_pass<T, Forward, &Forward::summarise>,
        run_pass<T, Backward, &Backward::summarise>};
}

}  // namespace NM_ISA
}  // namespace nm
