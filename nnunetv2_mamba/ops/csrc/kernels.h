// What the host side (library.cpp) and the kernels (scan.cpp, ssd.cpp, conv.cpp) share.
//
// The kernels are compiled once per instruction set, each time in a namespace of its own (NM_ISA). They use no C++
// standard library: an inline function of it, compiled for AVX-512, could be the copy that the linker keeps for all.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace nm {

// A tensor of rows whose elements are contiguous. A stride of 0 means that the axis is absent.
template <class T>
struct View {
  T* data;
  int64_t batch, direction, token;  // strides, in elements

  T* row(int64_t b, int64_t k, int64_t t) const { return data + b * batch + k * direction + t * token; }
};

// Mirrored by backends/cpu_library.py. Null pointers: the tensor is absent.
template <class T>
struct ScanArgs {
  int64_t batch, directions, length, channels, state_size;
  int64_t chunk;  // tokens from one saved state to the next
  int64_t softplus;
  int64_t heads, groups;        // of Mamba-2's scan: delta, A, D and their kind are per head, B and C per group
  const int32_t* paths;         // (K, L)
  const T *A, *D, *delta_bias;  // (K, d, n), (K, d), (K, d); of Mamba-2's scan all (K, H)
  View<const T> u, delta, B, C, z;
  View<T> out;
  T* states;  // (b, K, chunks, n, d): the state before each chunk
  // The rest is for the backward only.
  View<const T> grad_out;
  View<T> du, ddelta, dB, dC, dz;  // du without a direction axis is summed over the directions
  T *dA, *dD, *ddelta_bias;
};

template <class T>
struct ConvArgs {
  int64_t batch, directions, length, channels, width;
  int64_t silu;
  const int32_t* paths;
  const T *weight, *bias;  // (K, d, w), (K, d)
  View<const T> x;
  View<T> out;
  // The rest is for the backward only.
  View<const T> grad_out;
  View<T> dx;  // without a direction axis it is summed over the directions
  T *dweight, *dbias;
};

// Sums over items are taken in the order of the items, so that the bits do not depend on the scheduling: an item adds
// its part of a step when the item before it has. Items are started in order, so this cannot deadlock.
struct Turn {
  int64_t* done;               // steps this item has added
  const int64_t* done_before;  // steps the item before it has added; null: it is the first and stores
};

static inline bool is_turn(const Turn& turn, int64_t step) {
  return !turn.done_before || __atomic_load_n(turn.done_before, __ATOMIC_ACQUIRE) >= step;
}

static inline void end_turn(const Turn& turn, int64_t step) { __atomic_store_n(turn.done, step, __ATOMIC_RELEASE); }

void wait_for_turn(const Turn& turn, int64_t step);

// The work of one thread at a time: some channels of one batch element along some directions, as a rule all of them,
// from one end of the paths to the other. Where that leaves threads without work, the paths are cut into segments:
// first every segment is summarised, then each starts from what the others pass on.
template <class T>
struct Item {
  int64_t batch;
  int64_t channel_begin, channel_end;  // whole SIMD blocks, except at the last channel; of Mamba-2, whole heads
  int64_t direction_begin, direction_end;
  int64_t begin, end;   // positions along the paths; whole chunks, except at the last position
  const T* entering;    // (K, n, d): the state before the segment; backward: the gradient of the state after it
  T* leaving;           // (K, n, d), what a summary finds: as above at the other end, having entered with zero
  T* steps;             // (K, d), and the sum of dl
  Turn among_channels;  // orders the sums over channels: dB, dC
  Turn among_segments;  // orders the sums over the batch and its segments: of the weights' gradients
};

// The kernels of one family for one instruction set and element type.
template <class T, class Args>
struct Kernels {
  int64_t lanes;                                                    // channels in a SIMD block
  size_t (*scratch)(const Args&, int64_t channels, bool backward);  // bytes for an item, a multiple of 64
  void (*forward)(const Args&, const Item<T>&, void* scratch);
  void (*backward)(const Args&, const Item<T>&, void* scratch);
  void (*summarise_forward)(const Args&, const Item<T>&, void* scratch);  // null: segments pass nothing on
  void (*summarise_backward)(const Args&, const Item<T>&, void* scratch);
};

template <class T>
using ScanKernels = Kernels<T, ScanArgs<T>>;
template <class T>
struct SsdKernels : ScanKernels<T> {};
template <class T>
using ConvKernels = Kernels<T, ConvArgs<T>>;

}  // namespace nm
