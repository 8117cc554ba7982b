// The forward pass of Mamba-2's scan, see ssd.cpp.
#pragma once
#include "scan_passes.h"
#include "ssd_walk.h"

namespace nm {
namespace NM_ISA {
namespace {

template <class T>
struct Forward : Walk<T> {
  typedef Vec<T> V;
  using Walk<T>::a;
  using Walk<T>::item;
  using Walk<T>::heads;

  V* h;           // [bundle][state][column]
  V* y;           // [bundle][tile step][column]
  double* steps;  // [head]: sum of dl

  Forward(const ScanArgs<T>& args, const Item<T>& item, int64_t channels, Arena& arena)
      : Walk<T>(args, item, channels, arena) {
    h = arena.take<V>(this->state_rows());
    y = arena.take<V>(this->token_rows());
    steps = arena.take<double>(heads);
  }

  void summarise() {
    this->prepare();
    for (int64_t k = item.direction_begin; k < item.direction_end; k++) {
      this->take_direction(k);
      this->take_entering(k, h);
      memset(steps, 0, heads * sizeof(double));
      for (int64_t p = item.begin; p < item.end; p += TILE) {
        const int32_t* tokens = a.paths + k * a.length + p;
        const int count = int(min<int64_t>(TILE, item.end - p)), next = int(min<int64_t>(TILE, item.end - p - count));
        this->take_rows(this->B, a.B, k, tokens, count);
        this->take_channels(this->u, a.u, k, tokens, count);
        this->take_steps(k, tokens, count);
        this->each_bundle([&](int64_t bundle) {
          this->each_head(bundle, [&](const Head& head) { this->template take_decays<false>(k, head); });
          this->advance(bundle, h, k, tokens + TILE, next, a.B);
        });
        for (int64_t i = 0; i < heads * TILE; i++) steps[i / TILE] += this->dl[i];
      }
      this->give_leaving(k, h, steps);
    }
  }

  void run() {
    this->prepare();
    for (int64_t k = item.direction_begin; k < item.direction_end; k++) {
      this->take_direction(k);
      this->take_entering(k, h);
      for (int64_t p = item.begin; p < item.end; p += TILE) {
        const int32_t* tokens = a.paths + k * a.length + p;
        const int count = int(min<int64_t>(TILE, item.end - p)), next = int(min<int64_t>(TILE, item.end - p - count));
        if (p % a.chunk == 0) save_state(k, p / a.chunk);
        this->take_rows(this->B, a.B, k, tokens, count);
        this->take_rows(this->C, a.C, k, tokens, count);
        this->take_channels(this->u, a.u, k, tokens, count);
        this->take_steps(k, tokens, count);
        this->take_products();
        this->each_bundle([&](int64_t bundle) {
          this->contract(this->C, bundle, h, this->carried, this->prefetcher(k, tokens, count, bundle, a.out, a.z));
          this->each_head(bundle, [&](const Head& head) {
            this->template take_decays<true>(k, head);
            this->give_y(head, y);
          });
          this->advance(bundle, h, k, tokens + TILE, next, a.B, a.C);
        });
        give_output(k, tokens, count);
      }
    }
  }

  void save_state(int64_t k, int64_t chunk) const {
    this->each_vector([&](int64_t bundle, int64_t column, int64_t channel, auto lanes) {
      const V* from = h + this->state_row(bundle, 0) + column;
      T* to = saved_state(a, item.batch, k, chunk, 0, channel);
      for (int64_t j = 0; j < a.state_size; j++) store(to + j * a.channels, from[j * this->columns], lanes);
    });
  }

  void give_output(int64_t k, const int32_t* tokens, int count) const {
    const View<const T> z = a.z;
    const View<T> out = a.out;
    const int64_t b = item.batch;
    const bool first = k == 0, gate = z.data && k + 1 == a.directions;
    for (int t = 0; t < count; t++) {
      T* row = out.row(b, 0, tokens[t]);
      const T* gates = gate ? z.row(b, 0, tokens[t]) : nullptr;
      this->each_vector([&](int64_t bundle, int64_t column, int64_t channel, auto lanes) NM_INLINED {
        const int64_t i = this->token_row(bundle, t) + column;
        V sum = y[i];
        if (a.D) sum += this->D[bundle * this->row + column] * this->u[i];
        if (!first) sum += load(row + channel, lanes);
        if (gates) sum *= silu<T>(load(gates + channel, lanes));
        store(row + channel, sum, lanes);
      });
    }
  }
};

}  // namespace
}  // namespace NM_ISA
}  // namespace nm
