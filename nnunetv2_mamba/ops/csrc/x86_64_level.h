// The level of x86-64 (psABI: v2, v3, v4) that this CPU and its system have: the kernels are compiled for each.
//
// By CPUID itself: zig, which compiles the wheels, links a __builtin_cpu_supports that knows of no CPU.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>

namespace nm {

// Whether all `bits` of `value` are set.
inline bool has(unsigned value, unsigned bits) { return (value & bits) == bits; }

inline int x86_64_level() {
  unsigned a, b, c, d, extended;
  if (!__get_cpuid(0x80000001, &a, &b, &extended, &d) || !__get_cpuid(1, &a, &b, &c, &d)) return 1;
  // SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT; LAHF
  if (!has(c, bit_SSE3 | bit_SSSE3 | bit_CMPXCHG16B | bit_SSE4_1 | bit_SSE4_2 | bit_POPCNT) || !has(extended, 1))
    return 1;
  if (!has(c, bit_OSXSAVE)) return 2;
  unsigned saved, high;  // the registers that the system saves
  __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  unsigned b7, c7;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d)) return 2;
  constexpr unsigned ymm = 0x6, zmm = 0xe6, lzcnt = 1 << 5;
  if (!has(saved, ymm) || !has(c, bit_AVX | bit_FMA | bit_F16C | bit_MOVBE) || !has(extended, lzcnt) ||
      !has(b7, bit_AVX2 | bit_BMI | bit_BMI2))
    return 2;
  if (!has(saved, zmm) || !has(b7, bit_AVX512F | bit_AVX512DQ | bit_AVX512CD | bit_AVX512BW | bit_AVX512VL)) return 3;
  return 4;
}

}  // namespace nm
#endif
