// The kernels of a scan, from its two passes: classes made of (args, item, channels, arena) with `run` and `summarise`.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace nm {
namespace NM_ISA {

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
