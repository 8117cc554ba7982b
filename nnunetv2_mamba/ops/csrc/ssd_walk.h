// What both passes of Mamba-2's scan keep and compute of a tile, see ssd.cpp.
#pragma once
#include "kernels.h"
#include "simd.h"
#include "ssd_products.h"

namespace nm {
namespace NM_ISA {
namespace {

constexpr int TILE = 16;

constexpr int V_ALIGNED = 64;

// Of one head and one tile.
template <class T>
struct Decays {
  alignas(V_ALIGNED) T from_start[TILE];  // from the state before the tile to each token
  alignas(V_ALIGNED) T to_end[TILE];      // from each token to the state after the tile
  alignas(V_ALIGNED) T between[TILE * TILE];  // [i][j], from token j to token i, zero for j > i
  alignas(V_ALIGNED) T weights[TILE * TILE];  // times C_i . B_j
};

// A head of an item: its number there, the bundle it belongs to, and its first channel in that bundle.
struct Head {
  int64_t index, bundle, lane;
};

template <class T>
struct Walk {
  typedef Vec<T> V;
  typedef typename Simd<T>::Bits Bits;

  const ScanArgs<T>& a;
  const Item<T>& item;
  int64_t width;   // channels of a head
  int64_t blocks;  // vectors that they take
  int64_t head_begin, heads;
  int64_t group_begin, groups;  // of these heads
  int64_t bundle_heads;         // of a bundle, unless its group or the item ends before: so few that fill whole vectors
  int64_t bundles;              // at most
  int64_t columns;              // vectors of a bundle
  int64_t row;     // from one token's row of a bundle to the next: the last vector of its last head may reach beyond it
  int64_t states;  // a.state_size, padded with B = C = 0 to whole panels and vectors

  int64_t* bundle_begin;  // [bundle]: its first head; after the last one, `heads`
  T *B, *C;               // [group][tile step][state]
  T* products;            // [group][tile step i][tile step j]: C_i . B_j
  T *raw, *dl;            // [head][tile step]: the step before and after softplus
  char* cleared;          // what follows is zero in lanes without a channel
  int64_t cleared_bytes;
  V* D;                   // [bundle][column]
  V *whole_shifted, *whole_rest;  // the same: the decay of the whole tile, see simd.h
  V* u;                   // [bundle][tile step][column]
  V* x_to_end;            // the same: dl u, decayed to the end of the tile
  V* carried;             // the same: C_i . state before the tile
  V* x;                   // [tile step][block]: dl u of one head
  Bits* own_lanes;        // [block]: all bits where a head has a channel
  Decays<T>* decays;      // of one head
  Bits *earlier, *up_to_now;  // [tile step i][tile step j]: all bits where j < i, and where j <= i
  T* present;                 // the same: 1 where j = i

  Walk(const ScanArgs<T>& args, const Item<T>& item, int64_t channels, Arena& arena) : a(args), item(item) {
    constexpr int64_t whole = W<T> > ROWS ? W<T> : ROWS;
    width = a.channels / a.heads;
    blocks = (width + W<T> - 1) / W<T>;
    heads = channels / width;
    head_begin = item.channel_begin / width;
    const int64_t heads_of_group = a.heads / a.groups;
    group_begin = head_begin / heads_of_group;
    groups = a.groups < heads ? a.groups : heads;  // at most, for a scratch that any item fits
    if (item.channel_end) groups = (head_begin + heads - 1) / heads_of_group - group_begin + 1;
    bundle_heads = 1;
    while (bundle_heads * width % W<T> && bundle_heads < heads_of_group) bundle_heads++;
    bundles = min(heads, heads / bundle_heads + groups + 1);  // each group may end with a smaller one, and begin so
    columns = (bundle_heads * width + W<T> - 1) / W<T>;
    row = max(columns, ((bundle_heads - 1) * width + blocks * W<T> + W<T> - 1) / W<T>);
    states = (a.state_size + whole - 1) / whole * whole;
    bundle_begin = arena.take<int64_t>(heads + 1);
    B = arena.take<T>(groups * TILE * states);
    C = arena.take<T>(groups * TILE * states);
    products = arena.take<T>(groups * TILE * TILE);
    raw = arena.take<T>(heads * TILE);
    dl = arena.take<T>(heads * TILE);
    cleared = arena.next;
    D = arena.take<V>(bundles * row);
    whole_shifted = arena.take<V>(bundles * row);
    whole_rest = arena.take<V>(bundles * row);
    u = arena.take<V>(token_rows());
    x_to_end = arena.take<V>(token_rows());
    cleared_bytes = arena.next - cleared;
    carried = arena.take<V>(token_rows());
    x = arena.take<V>(TILE * blocks);
    own_lanes = arena.take<Bits>(blocks);
    decays = arena.take<Decays<T>>(1);
    earlier = arena.take<Bits>(TILE * TILE / W<T>);
    up_to_now = arena.take<Bits>(TILE * TILE / W<T>);
    present = arena.take<T>(TILE * TILE);
  }

  int64_t token_rows() const { return bundles * TILE * row; }
  int64_t state_rows() const { return bundles * states * columns; }

  // Where the rows of a bundle begin, among the tile's tokens and among the states.
  int64_t token_row(int64_t bundle, int64_t t) const { return (bundle * TILE + t) * row; }
  int64_t state_row(int64_t bundle, int64_t j) const { return (bundle * states + j) * columns; }

  int64_t group_of(int64_t head) const { return (head_begin + head) / (a.heads / a.groups) - group_begin; }
  int64_t group_of_bundle(int64_t bundle) const { return group_of(bundle_begin[bundle]); }

  // Where the part of a head begins in a row of the tile's tokens.
  T* part(V* rows, const Head& head, int64_t t) const { return (T*)(rows + token_row(head.bundle, t)) + head.lane; }
  // A vector of such a part, with zeros beyond the head's channels.
  V of_head(const T* part, int64_t block) const { return (V)((Bits)load(part + block * W<T>) & own_lanes[block]); }

  // For each head, in order: what is written of one beyond its own channels, the next one overwrites.
  template <class Body>
  NM_INLINED void each_head(int64_t bundle, Body body) const {
    const int64_t first = bundle_begin[bundle];
    for (int64_t head = first; head < bundle_begin[bundle + 1]; head++)
      body(Head{head, bundle, (head - first) * width});
  }

  template <class Body>
  NM_INLINED void each_bundle(Body body) const {
    for (int64_t bundle = 0; bundle_begin[bundle] < heads; bundle++) body(bundle);
  }

  // Calls `body(bundle, column, channel, lanes)` for every vector of channels.
  template <class Body>
  NM_INLINED void each_vector(Body body) const {
    each_bundle([&](int64_t bundle) NM_INLINED {
      const int64_t first = (head_begin + bundle_begin[bundle]) * width;
      const int64_t count = (bundle_begin[bundle + 1] - bundle_begin[bundle]) * width;
      const int64_t whole = count / W<T>, rest = count % W<T>;
      for (int64_t i = 0; i < whole; i++) body(bundle, i, first + i * W<T>, AllLanes());
      if (rest) body(bundle, whole, first + whole * W<T>, int(rest));
    });
  }

  // What does not change from tile to tile.
  void prepare() {
    for (int i = 0; i < TILE; i++)
      for (int j = 0; j < TILE; j++) {
        const int at = i * TILE + j;
        earlier[at / W<T>][at % W<T>] = -(j < i);
        up_to_now[at / W<T>][at % W<T>] = -(j <= i);
        present[at] = j == i;
      }
    for (int64_t channel = 0; channel < blocks * W<T>; channel++)
      own_lanes[channel / W<T>][channel % W<T>] = -(channel < width);
    int64_t bundle = 0;
    for (int64_t head = 0; head < heads; head++)
      if (head == 0 || head - bundle_begin[bundle - 1] == bundle_heads || group_of(head) != group_of(head - 1))
        bundle_begin[bundle++] = head;
    bundle_begin[bundle] = heads;
    memset(B, 0, groups * TILE * states * sizeof(T)), memset(C, 0, groups * TILE * states * sizeof(T));
    memset(cleared, 0, cleared_bytes);
  }

  // What all channels of a head have in common.
  void spread(V* row_of_bundles, const Head& head, V value) const {
    T* to = (T*)(row_of_bundles + head.bundle * row) + head.lane;
    for (int64_t i = 0; i < blocks; i++) store(to + i * W<T>, value);
  }

  // What does not change along a direction.
  void take_direction(int64_t k) {
    if (!a.D) return;
    each_bundle([&](int64_t bundle) {
      each_head(bundle, [&](const Head& head) {
        spread(D, head, splat<T>(a.D[k * a.heads + head_begin + head.index]));
      });
    });
  }

  // The exponent of a head's decays, per unit of time, to the base of 2.
  V rate(int64_t k, const Head& head) const {
    constexpr T log2e = T(1.44269504088896340736);
    return splat<T>(a.A[k * a.heads + head_begin + head.index] * log2e);
  }

  // The state, or its gradient, at the end of the segment where the walk begins.
  void take_entering(int64_t k, V* state) const {
    memset(state, 0, state_rows() * sizeof(V));
    if (!item.entering) return;
    each_vector([&](int64_t bundle, int64_t column, int64_t channel, auto lanes) {
      const T* from = item.entering + k * a.state_size * a.channels + channel;
      V* to = state + state_row(bundle, 0) + column;
      for (int64_t j = 0; j < a.state_size; j++) to[j * columns] = load(from + j * a.channels, lanes);
    });
  }

  void give_leaving(int64_t k, const V* state, const double* steps) const {
    each_vector([&](int64_t bundle, int64_t column, int64_t channel, auto lanes) {
      T* to = item.leaving + k * a.state_size * a.channels + channel;
      const V* from = state + state_row(bundle, 0) + column;
      for (int64_t j = 0; j < a.state_size; j++) store(to + j * a.channels, from[j * columns], lanes);
    });
    T* to = item.steps + k * a.channels + head_begin * width;
    for (int64_t channel = 0; channel < heads * width; channel++) to[channel] = T(steps[channel / width]);
  }

  void take_rows(T* rows, const View<const T> from, int64_t k, const int32_t* tokens, int count) const {
    const int64_t size = a.state_size;
    for (int t = 0; t < TILE; t++)
      for (int64_t group = 0; group < groups; group++) {
        T* to = rows + (group * TILE + t) * states;
        if (t >= count) {
          memset(to, 0, size * sizeof(T));
          continue;
        }
        const T* row = from.row(item.batch, k, tokens[t]) + (group_begin + group) * size;
        for (int64_t j = 0; j < size; j += W<T>)
          with_lanes<T>(j, size, [&](auto lanes) { store(to + j, load(row + j, lanes), lanes); });
      }
  }

  // Rows of channels, zero beyond the end of the path.
  void take_channels(V* rows, const View<const T> from, int64_t k, const int32_t* tokens, int count) const {
    for (int t = 0; t < count; t++) {
      const T* row = from.row(item.batch, k, tokens[t]);
      each_vector([&](int64_t bundle, int64_t column, int64_t channel, auto lanes) NM_INLINED {
        rows[token_row(bundle, t) + column] = load(row + channel, lanes);
      });
    }
    clear_tokens(rows, count);
  }

  void clear_tokens(V* rows, int count) const {
    for (int64_t bundle = 0; bundle < bundles && count < TILE; bundle++)
      memset(rows + token_row(bundle, count), 0, (TILE - count) * row * sizeof(V));
  }

  // The steps of all heads, and the decays of the tile; no time passes beyond the end of the path.
  void take_steps(int64_t k, const int32_t* tokens, int count) {
    const View<const T> delta = a.delta;
    const T* bias = a.delta_bias ? a.delta_bias + k * a.heads + head_begin : nullptr;
    for (int t = 0; t < count; t++) {
      const T* row = delta.row(item.batch, k, tokens[t]) + head_begin;
      for (int64_t head = 0; head < heads; head++) raw[head * TILE + t] = row[head] + (bias ? bias[head] : T(0));
    }
    each_bundle([&](int64_t bundle) {
      each_head(bundle, [&](const Head& head) {
        const T* from = raw + head.index * TILE;
        T* to = dl + head.index * TILE;
        for (int t = 0; t < TILE; t += W<T>) {
          const V step = load(from + t);
          store(to + t, a.softplus ? softplus<T>(step) : step);
        }
        for (int t = count; t < TILE; t++) to[t] = 0;
        T sum = 0;
        for (int t = 0; t < TILE; t++) sum += to[t];
        const V time = splat<T>(sum), A = rate(k, head), shifted = exponent_of_product<T, true>(time, A);
        spread(whole_shifted, head, shifted), spread(whole_rest, head, rest_of_product<T, true>(time, A, shifted));
      });
    });
  }

  void take_products() {
    const int64_t vectors = states / W<T>;
    for (int64_t group = 0; group < groups; group++) {
      const V *of_C = (const V*)(C + group * TILE * states), *of_B = (const V*)(B + group * TILE * states);
      for (int i = 0; i < TILE; i += DOT_ROWS)
        for (int j = 0; j < i + DOT_ROWS; j += DOT_COLUMNS<T>)
          dots<T>(vectors, of_C + i * vectors, vectors, of_B + j * vectors, vectors,
                  products + (group * TILE + i) * TILE + j, TILE);
    }
  }

  // Of a head: the decays of the tile's tokens and x.
  template <bool BETWEEN>
  void take_decays(int64_t k, const Head& head) {
    const V A = rate(k, head);
    const T* step = dl + head.index * TILE;
    alignas(V_ALIGNED) T decay[TILE];
    for (int t = 0; t < TILE; t += W<T>) {
      const V steps = load(step + t), shifted = exponent_of_product<T, true>(steps, A);
      store(decay + t, decayed<T>(splat<T>(1), shifted, rest_of_product<T, true>(steps, A, shifted)));
    }
    T from_start = 1, to_end = 1;
    for (int t = 0; t < TILE; t++) {
      decays->from_start[t] = from_start *= decay[t];
      decays->to_end[TILE - 1 - t] = to_end;
      to_end *= decay[TILE - 1 - t];
    }
    if (BETWEEN) take_between(decay, products + group_of(head.index) * TILE * TILE);
    for (int t = 0; t < TILE; t++) {
      const T* from = part(u, head, t);
      T* to = part(x_to_end, head, t);
      for (int64_t i = 0; i < blocks; i++) {
        const V x_t = step[t] * of_head(from, i);
        x[t * blocks + i] = x_t;
        store(to + i * W<T>, decays->to_end[t] * x_t);
      }
    }
  }

  void take_between(const T* decay, const T* products) {
    constexpr int vectors = TILE / W<T>;
    V row[vectors] = {};
    for (int i = 0; i < TILE; i++)
      NM_UNROLL for (int v = 0; v < vectors; v++) {
        const int64_t at = i * TILE + v * W<T>;
        row[v] = masked(earlier, at, row[v] * decay[i]) + load(present + at);
        store(decays->between + at, row[v]);
        store(decays->weights + at, masked(up_to_now, at, row[v] * load(products + at)));
      }
  }

  // The lanes of which `mask` has all bits set, at one place; what is not finite in others is gone.
  static V masked(const Bits* mask, int64_t at, V v) { return (V)((Bits)v & mask[at / W<T>]); }

  // A function that prefetches what the rows hold of a bundle, of ROWS of `count` tokens from one on; absent rows are
  // passed over. To be called between products: all at once, prefetches would only wait for each other.
  template <class... Views>
  NM_INLINED auto prefetcher(int64_t k, const int32_t* tokens, int count, int64_t bundle, Views... rows) const {
    const int64_t first = (head_begin + bundle_begin[bundle]) * width;
    const int64_t end = (head_begin + bundle_begin[bundle + 1]) * width;
    return [=](int64_t from) NM_INLINED {
      for (int64_t t = from; t < from + ROWS && t < count; t++)
        for (int64_t channel = first; channel < end; channel += 64 / sizeof(T))
          NM_ISA::prefetcher(item.batch, k, tokens, count, channel, rows...)(t);
    };
  }

  // The same of rows of states: of all `count` tokens the piece that holds state `from` on, once for each group.
  template <class... Views>
  NM_INLINED auto state_prefetcher(int64_t k, const int32_t* tokens, int count, int64_t bundle, Views... rows) const {
    constexpr int64_t piece = 64 / sizeof(T);
    const int64_t group = group_of_bundle(bundle), first = (group_begin + group) * a.state_size;
    if (bundle && group == group_of_bundle(bundle - 1)) count = 0;
    return [=](int64_t from) NM_INLINED {
      if (from % piece) return;
      const auto prefetch = NM_ISA::prefetcher(item.batch, k, tokens, count, first + from, rows...);
      for (int64_t t = 0; t < count; t++) prefetch(t);
    };
  }

  // The state of a bundle from before the tile to after it. Of the next tile's `count` tokens, u and rows of states are
  // prefetched.
  template <class... Views>
  NM_INLINED void advance(int64_t bundle, V* state, int64_t k, const int32_t* next, int count, Views... rows) const {
    const auto of_channels = prefetcher(k, next, count, bundle, a.u);
    const auto of_states = state_prefetcher(k, next, count, bundle, rows...);
    pass_on(bundle, B, x_to_end, state, [&](int64_t from) NM_INLINED { of_channels(from), of_states(from); });
  }

  // state = decay of the tile state + sum over the tile's tokens of factors[t] rows[t], of a bundle.
  template <class Ahead>
  NM_INLINED void pass_on(int64_t bundle, const T* factors, const V* rows, V* state, Ahead ahead) const {
    const T* of_group = factors + group_of_bundle(bundle) * TILE * states;
    const V *shifted = whole_shifted + bundle * row, *rest = whole_rest + bundle * row;
    for (int64_t j = 0; j < states; j += ROWS) {
      ahead(j);
      V* const to = state + state_row(bundle, j);
      multiply<T>(columns, TILE, of_group + j, 1, states, rows + token_row(bundle, 0), row, (T*)to, columns,
                  [=](int r, int64_t c) NM_INLINED { return decayed<T>(to[r * columns + c], shifted[c], rest[c]); });
    }
  }

  // rows[t] . state, of a bundle, for the rows of B or C.
  template <class Ahead>
  NM_INLINED void contract(const T* rows, int64_t bundle, const V* state, V* out, Ahead ahead) const {
    const T* of_group = rows + group_of_bundle(bundle) * TILE * states;
    for (int t = 0; t < TILE; t += ROWS) {
      ahead(t);
      multiply<T>(columns, a.state_size, of_group + t * states, states, 1, state + state_row(bundle, 0), columns,
                  (T*)(out + token_row(bundle, t)), row, [](int, int64_t) NM_INLINED { return V{}; });
    }
  }

  // y of a head: what the state before the tile gives to it, which is `carried`, and the tile's own inputs.
  NM_INLINED void give_y(const Head& head, V* y) const {
    const T* from_start = decays->from_start;
    for (int i = 0; i < TILE; i += ROWS) {
      const T* before = part(carried, head, i);
      const int64_t stride = row * W<T>;
      multiply<T>(blocks, i + ROWS, decays->weights + i * TILE, TILE, 1, x, blocks, part(y, head, i), row,
                  [=](int r, int64_t c) NM_INLINED { return from_start[i + r] * load(before + r * stride + c * W<T>); });
    }
  }
};

}  // namespace
}  // namespace NM_ISA
}  // namespace nm
