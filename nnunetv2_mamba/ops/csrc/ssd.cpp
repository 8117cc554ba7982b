// Mamba-2's scan along paths through a grid: y_p = C_p . s_p + D u_p, s_p = exp(dl_p A) s_{p-1} + dl_p u_p B_p, with dl,
// A and D of a head's channels alike.
//
// A path is walked in tiles of TILE tokens. With decay(i, j) from token j to token i, the tile is, for each head,
//   y_i = sum_{j <= i} decay(i, j) (C_i . B_j) x_j + decay from the start(i) C_i . s,    x_j = dl_j u_j,
// so that nearly all arithmetic is in small matrix products: one exponential per token and head, everything else is
// products of those. A SIMD lane owns a channel. Products with B and C, which a group's heads share, are of all channels
// of a bundle, heads that fill whole vectors together; products of a single head begin at its first channel, wherever in
// a vector that lies. The backward walks the chunks in reverse: from the saved state before the chunk it recomputes the
// state before each tile, then sweeps back over the tiles.
#include "kernels.h"
#include "ordered_rows.h"
#include "scan_passes.h"
#include "simd.h"

namespace nm {
namespace NM_ISA {
namespace {

constexpr int TILE = 16;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int ROWS = 8;  // 32 registers
#else
constexpr int ROWS = 4;
#endif
constexpr int COLUMNS = 3;

// ---- matrix products ----

// out[r][c] = start(r, c) + sum over i < depth of factors[r * by_row + i * by_depth] * rows[i][c], for r < ROWS and COLS
// columns from `first` on. Rows and columns are of vectors of lanes, factors are numbers.
template <class T, int COLS, class Start>
NM_INLINE void multiply_panel(int64_t first, int64_t depth, const T* factors, int64_t by_row, int64_t by_depth,
                              const Vec<T>* rows, int64_t rows_stride, T* out, int64_t out_stride, Start start) {
  Vec<T> sum[ROWS][COLS];
  NM_UNROLL for (int r = 0; r < ROWS; r++)
    NM_UNROLL for (int c = 0; c < COLS; c++) sum[r][c] = start(r, first + c);
  for (int64_t i = 0; i < depth; i++) {
    Vec<T> row[COLS];
    NM_UNROLL for (int c = 0; c < COLS; c++) row[c] = rows[i * rows_stride + first + c];
    NM_UNROLL for (int r = 0; r < ROWS; r++) {
      const Vec<T> factor = splat<T>(factors[r * by_row + i * by_depth]);
      NM_UNROLL for (int c = 0; c < COLS; c++) sum[r][c] += factor * row[c];
    }
  }
  NM_UNROLL for (int r = 0; r < ROWS; r++)
    NM_UNROLL for (int c = 0; c < COLS; c++) store(out + (r * out_stride + first + c) * W<T>, sum[r][c]);
}

// The same for all columns. Rows of `out` may begin anywhere; strides are in vectors.
template <class T, class Start>
NM_INLINE void multiply(int64_t columns, int64_t depth, const T* factors, int64_t by_row, int64_t by_depth,
                        const Vec<T>* rows, int64_t rows_stride, T* out, int64_t out_stride, Start start) {
  int64_t c = 0;
  for (; c + COLUMNS <= columns && c + COLUMNS + 1 != columns; c += COLUMNS)
    multiply_panel<T, COLUMNS>(c, depth, factors, by_row, by_depth, rows, rows_stride, out, out_stride, start);
  for (; c + 2 <= columns; c += 2)
    multiply_panel<T, 2>(c, depth, factors, by_row, by_depth, rows, rows_stride, out, out_stride, start);
  for (; c < columns; c++)
    multiply_panel<T, 1>(c, depth, factors, by_row, by_depth, rows, rows_stride, out, out_stride, start);
}

// Rows and columns of `dots` at a time; as many sums as fill whole vectors.
template <class T>
constexpr int DOT_COLUMNS = W<T> >= 16 ? 4 : 2;
constexpr int DOT_ROWS = 4;

// out[r][c] = the sum over lanes and over i < size of the rows a[r] and b[c], for r < DOT_ROWS and c < DOT_COLUMNS; and
// over `pieces` of such rows, which follow each other at a_next and b_next. Strides of a and b are in vectors.
template <class T>
NM_INLINE void dots(int64_t size, const Vec<T>* a, int64_t a_stride, const Vec<T>* b, int64_t b_stride, T* out,
                    int64_t out_stride, int64_t pieces = 1, int64_t a_next = 0, int64_t b_next = 0) {
  constexpr int COLS = DOT_COLUMNS<T>;
  Vec<T> sum[DOT_ROWS * COLS] = {};
  for (int64_t piece = 0; piece < pieces; piece++, a += a_next, b += b_next)
    for (int64_t i = 0; i < size; i++) {
      Vec<T> b_i[COLS];
      NM_UNROLL for (int c = 0; c < COLS; c++) b_i[c] = b[c * b_stride + i];
      NM_UNROLL for (int r = 0; r < DOT_ROWS; r++) {
        const Vec<T> a_i = a[r * a_stride + i];
        NM_UNROLL for (int c = 0; c < COLS; c++) sum[r * COLS + c] += a_i * b_i[c];
      }
    }
  alignas(64) T folded[DOT_ROWS * COLS];
  NM_UNROLL for (int i = 0; i < DOT_ROWS * COLS; i += W<T>) store(folded + i, sums<T>(sum + i));
  NM_UNROLL for (int r = 0; r < DOT_ROWS; r++) memcpy(out + r * out_stride, folded + r * COLS, COLS * sizeof(T));
}

// ---- what both passes keep ----

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
          ((rows.data ? __builtin_prefetch(rows.row(item.batch, k, tokens[t]) + channel) : void()), ...);
    };
  }

  // The state of a bundle from before the tile to after it.
  template <class Ahead>
  NM_INLINED void advance(int64_t bundle, V* state, Ahead ahead) const {
    pass_on(bundle, B, x_to_end, state, ahead);
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
          this->advance(bundle, h, this->prefetcher(k, tokens + TILE, next, bundle, a.u));
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
          this->advance(bundle, h, this->prefetcher(k, tokens + TILE, next, bundle, a.u));
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

template <class T>
struct Backward : Walk<T> {
  typedef Vec<T> V;
  using Walk<T>::a;
  using Walk<T>::item;
  using Walk<T>::heads;
  using Walk<T>::groups;
  using Walk<T>::blocks;
  using Walk<T>::columns;
  using Walk<T>::row;
  using Walk<T>::states;

  int64_t tiles;      // per chunk
  V* start;           // [chunk tile][bundle][state][column]: the state before each tile
  V* dh;              // [bundle][state][column]: gradient of the state after the tile
  V* g;               // [bundle][tile step][column]: gradient of y
  V* g_from_start;    // the same, decayed from the start of the tile
  V* gate;            // the same: sigmoid(z)
  V* returned;        // the same: B_j . gradient of the state after the tile
  V *y, *du;          // the same: y - D u; gradient of u, without D's part
  V* dwhole;          // [bundle][column]: gradient of the exponent of the whole tile's decay
  V* g_head;          // [tile step][block]: g of one head
  T* dproducts;       // [group][i][j]
  T* dstep;           // [head][tile step]: gradient of raw
  double *dA, *dD, *dbias, *steps;  // [head]
  T *dB, *dC;                       // [tile step][state]: of one group
  OrderedRows<T> rows;              // of dB and dC

  Backward(const ScanArgs<T>& args, const Item<T>& item, int64_t channels, Arena& arena)
      : Walk<T>(args, item, channels, arena),
        rows(args, item, TILE, args.groups * args.state_size, args.groups * args.state_size, arena) {
    tiles = (a.chunk + TILE - 1) / TILE;
    start = arena.take<V>(tiles * this->state_rows());
    dh = arena.take<V>(this->state_rows());
    g = arena.take<V>(this->token_rows());
    g_from_start = arena.take<V>(this->token_rows());
    gate = arena.take<V>(this->token_rows());
    returned = arena.take<V>(this->token_rows());
    y = arena.take<V>(this->token_rows());
    du = arena.take<V>(this->token_rows());
    dwhole = arena.take<V>(this->bundles * row);
    g_head = arena.take<V>(TILE * blocks);
    dproducts = arena.take<T>(groups * TILE * TILE);
    dstep = arena.take<T>(heads * TILE);
    dA = arena.take<double>(heads);
    dD = arena.take<double>(heads);
    dbias = arena.take<double>(heads);
    steps = arena.take<double>(heads);
    dB = arena.take<T>(TILE * states);
    dC = arena.take<T>(TILE * states);
  }

  // What is zero in lanes without a channel.
  void prepare() {
    Walk<T>::prepare();
    memset(start, 0, tiles * this->state_rows() * sizeof(V));
    memset(g, 0, this->token_rows() * sizeof(V)), memset(g_from_start, 0, this->token_rows() * sizeof(V));
  }

  void summarise() {
    prepare();
    for (int64_t k = item.direction_begin; k < item.direction_end; k++) {
      this->take_direction(k);
      this->take_entering(k, dh);
      memset(steps, 0, heads * sizeof(double));
      for (int64_t p = (item.end - 1) / TILE * TILE; p >= item.begin; p -= TILE) {
        const int32_t* tokens = a.paths + k * a.length + p;
        const int count = int(min<int64_t>(TILE, item.end - p));
        this->take_rows(this->C, a.C, k, tokens, count);
        this->take_steps(k, tokens, count);
        take_gradients(tokens, count);
        this->each_bundle([&](int64_t bundle) {
          this->each_head(bundle, [&](const Head& head) {
            this->template take_decays<false>(k, head);
            take_gradients_of(head);
          });
          retreat(bundle);
        });
        for (int64_t i = 0; i < heads * TILE; i++) steps[i / TILE] += this->dl[i];
      }
      this->give_leaving(k, dh, steps);
    }
  }

  void run() {
    prepare();
    for (int64_t k = item.direction_begin; k < item.direction_end; k++) {
      this->take_direction(k);
      this->take_entering(k, dh);
      memset(dA, 0, heads * sizeof(double)), memset(dD, 0, heads * sizeof(double));
      memset(dbias, 0, heads * sizeof(double));
      for (int64_t chunk = (item.end - 1) / a.chunk; chunk >= item.begin / a.chunk; chunk--) {
        const int32_t* tokens = a.paths + k * a.length + chunk * a.chunk;
        const int count = int(min(a.chunk, item.end - chunk * a.chunk));
        take_chunk(k, chunk, tokens, count);
        for (int tile = (count - 1) / TILE; tile >= 0; tile--)
          sweep_tile(k, start + tile * this->state_rows(), tokens + tile * TILE, min(TILE, count - tile * TILE),
                     chunk * a.chunk + tile * TILE > item.begin ? TILE : 0);
      }
      finish_direction(k);
    }
    rows.finish();
  }

  // The state before each tile of a chunk.
  void take_chunk(int64_t k, int64_t chunk, const int32_t* tokens, int count) {
    this->each_vector([&](int64_t bundle, int64_t column, int64_t channel, auto lanes) {
      const T* from = saved_state(a, item.batch, k, chunk, 0, channel);
      V* to = start + this->state_row(bundle, 0) + column;
      for (int64_t j = 0; j < a.state_size; j++) to[j * columns] = load(from + j * a.channels, lanes);
    });
    for (int tile = 0; (tile + 1) * TILE < count; tile++) {
      const int32_t* tile_tokens = tokens + tile * TILE;
      const int next = min(TILE, count - (tile + 1) * TILE);
      V* const after = start + (tile + 1) * this->state_rows();
      this->take_rows(this->B, a.B, k, tile_tokens, TILE);
      this->take_channels(this->u, a.u, k, tile_tokens, TILE);
      this->take_steps(k, tile_tokens, TILE);
      memcpy(after, after - this->state_rows(), this->state_rows() * sizeof(V));
      this->each_bundle([&](int64_t bundle) {
        this->each_head(bundle, [&](const Head& head) { this->template take_decays<false>(k, head); });
        this->advance(bundle, after, this->prefetcher(k, tile_tokens + TILE, next, bundle, a.u));
      });
    }
  }

  void take_gradients(const int32_t* tokens, int count) {
    const View<const T> grad_out = a.grad_out, z = a.z;
    for (int t = 0; t < count; t++) {
      const T* grads = grad_out.row(item.batch, 0, tokens[t]);
      const T* gates = z.data ? z.row(item.batch, 0, tokens[t]) : nullptr;
      this->each_vector([&](int64_t bundle, int64_t column, int64_t channel, auto lanes) NM_INLINED {
        const int64_t i = this->token_row(bundle, t) + column;
        V grad = load(grads + channel, lanes);
        if (gates) {
          const V z_t = load(gates + channel, lanes);
          gate[i] = sigmoid<T>(z_t);
          grad *= z_t * gate[i];
        }
        g[i] = grad;
      });
    }
    this->clear_tokens(g, count);
  }

  // g of a head, and decayed from the start of the tile.
  void take_gradients_of(const Head& head) {
    for (int t = 0; t < TILE; t++) {
      const T* from = this->part(g, head, t);
      T* to = this->part(g_from_start, head, t);
      for (int64_t i = 0; i < blocks; i++) {
        const V g_t = this->of_head(from, i);
        g_head[t * blocks + i] = g_t;
        store(to + i * W<T>, this->decays->from_start[t] * g_t);
      }
    }
  }

  // The gradient of a bundle's state from after the tile to before it.
  void retreat(int64_t bundle) {
    this->pass_on(bundle, this->C, g_from_start, dh, [](int64_t) {});
  }

  void sweep_tile(int64_t k, const V* before, const int32_t* tokens, int count, int earlier) {
    this->take_rows(this->B, a.B, k, tokens, count);
    this->take_rows(this->C, a.C, k, tokens, count);
    this->take_channels(this->u, a.u, k, tokens, count);
    this->take_steps(k, tokens, count);
    take_gradients(tokens, count);
    this->take_products();
    memset(dproducts, 0, groups * TILE * TILE * sizeof(T));
    this->each_bundle([&](int64_t bundle) { sweep_bundle(k, bundle, before, tokens, count, earlier); });
    give_rows(before, count);
    this->each_bundle([&](int64_t bundle) { retreat(bundle); });
    give_gradients(k, tokens, count);
  }

  // `earlier`: tokens of the tile that is swept next, which lie before these.
  void sweep_bundle(int64_t k, int64_t bundle, const V* before, const int32_t* tokens, int count, int earlier) {
    // What goes through the states: y so far, and the gradient of x from all that follows the tile.
    this->contract(this->C, bundle, before, this->carried, this->prefetcher(k, tokens, count, bundle, a.du, a.dz));
    this->contract(this->B, bundle, dh, returned,
                   this->prefetcher(k, tokens - TILE, earlier, bundle, a.grad_out, a.z));
    for (int64_t c = 0; c < columns; c++) {
      V kept = {};
      for (int64_t i = this->state_row(bundle, 0) + c; i < this->state_row(bundle, a.state_size); i += columns)
        kept += before[i] * dh[i];
      const int64_t i = bundle * row + c;
      dwhole[i] = decayed<T>(kept, this->whole_shifted[i], this->whole_rest[i]);
    }
    this->each_head(bundle, [&](const Head& head) { sweep_head(k, head); });
  }

  void sweep_head(int64_t k, const Head& head) {
    this->template take_decays<true>(k, head);
    take_gradients_of(head);
    const Decays<T>& decays = *this->decays;
    const T *step = this->dl + head.index * TILE, *to_end = decays.to_end;
    alignas(V_ALIGNED) T dexponent[TILE], dfrom_start[TILE], dto_end[TILE], du_step[TILE];
    V sum[TILE] = {}, other[TILE] = {};
    for (int t = 0; t < TILE; t++) {
      const T *y_t = this->part(this->carried, head, t), *dx_t = this->part(returned, head, t);
      for (int64_t i = 0; i < blocks; i++) {
        sum[t] += g_head[t * blocks + i] * this->of_head(y_t, i);
        other[t] += this->x[t * blocks + i] * this->of_head(dx_t, i);
      }
    }
    sum_lanes(sum, dfrom_start), sum_lanes(other, dto_end);
    T later = 0, sooner = 0;
    for (int64_t i = 0; i < this->width; i++) later += ((const T*)(dwhole + head.bundle * row))[head.lane + i];

    // What stays within the tile.
    if (a.dz.data) this->give_y(head, y);
    for (int j = 0; j < TILE; j += ROWS) {
      const T* after = this->part(returned, head, j);
      const int64_t stride = row * W<T>;
      multiply<T>(blocks, TILE - j, decays.weights + j * TILE + j, 1, TILE, g_head + j * blocks, blocks,
                  this->part(du, head, j), row,
                  [=](int r, int64_t c) NM_INLINED { return to_end[j + r] * load(after + r * stride + c * W<T>); });
    }
    take_between_gradients(head, dexponent);

    // The exponent of token t decays all that goes from before it to it or later.
    for (int t = TILE - 1; t >= 0; t--) dexponent[t] += later += decays.from_start[t] * dfrom_start[t];
    for (int t = 0; t < TILE; t++) dexponent[t] += sooner, sooner += to_end[t] * dto_end[t];

    V through_D = {};
    for (int t = 0; t < TILE; t++) {
      const T* from = this->part(this->u, head, t);
      T* to = this->part(du, head, t);
      sum[t] = V{};
      for (int64_t i = 0; i < blocks; i++) {
        const V u_t = this->of_head(from, i), dx = this->of_head(to, i);
        sum[t] += dx * u_t;
        through_D += g_head[t * blocks + i] * u_t;
        store(to + i * W<T>, step[t] * dx);
      }
    }
    sum_lanes(sum, du_step);
    for (int l = 0; l < W<T>; l++) dD[head.index] += through_D[l];
    const T A = a.A[k * a.heads + this->head_begin + head.index];
    T dA_tile = 0;
    for (int t = 0; t < TILE; t++) {
      dA_tile += dexponent[t] * step[t];
      dstep[head.index * TILE + t] = dexponent[t] * A + du_step[t];
    }
    dA[head.index] += dA_tile;
    if (a.softplus)
      for (int t = 0; t < TILE; t += W<T>) {
        T* to = dstep + head.index * TILE + t;
        store(to, load(to) * softplus_derivative_at<T>(load(step + t)));
      }
  }

  // Through the decays from token j to token i: dproducts, and the gradient of each token's exponent.
  void take_between_gradients(const Head& head, T* dexponent) {
    constexpr int vectors = TILE / W<T>;
    alignas(V_ALIGNED) T dweights[TILE * TILE];
    for (int i = 0; i < TILE; i += DOT_ROWS)
      for (int j = 0; j < i + DOT_ROWS; j += DOT_COLUMNS<T>)
        dots<T>(blocks, g_head + i * blocks, blocks, this->x + j * blocks, blocks, dweights + i * TILE + j, TILE);
    T* dproducts = this->dproducts + this->group_of(head.index) * TILE * TILE;
    V until[vectors] = {}, across[TILE];  // [j]: the sum over tokens i from here on
    for (int i = TILE - 1; i >= 0; i--) {
      across[i] = V{};
      NM_UNROLL for (int v = 0; v < vectors; v++) {
        const int at = i * TILE + v * W<T>;
        const V dweight = this->masked(this->up_to_now, at, load(dweights + at));
        store(dproducts + at, load(dproducts + at) + dweight * load(this->decays->between + at));
        until[v] += dweight * load(this->decays->weights + at);
        across[i] += this->masked(this->earlier, at, until[v]);
      }
    }
    sum_lanes(across, dexponent);
  }

  static void sum_lanes(const V* vectors, T* sum) {
    for (int t = 0; t < TILE; t += W<T>) store(sum + t, sums<T>(vectors + t));
  }

  // dC_i = sum_j dproducts(i, j) B_j + g_i . s, and dB_j likewise.
  void give_rows(const V* before, int count) {
    T *const rows_B = rows.next(), *const rows_C = rows_B + TILE * rows.stride;
    if (groups < a.groups) memset(rows_B, 0, 2 * TILE * rows.stride * sizeof(T));
    const int64_t vectors = states / W<T>, next_tokens = this->token_row(1, 0), next_states = this->state_row(1, 0);
    for (int64_t group = 0, bundle = 0; group < groups; group++) {
      const int64_t first = bundle;
      while (this->bundle_begin[bundle] < heads && this->group_of_bundle(bundle) == group) bundle++;
      for (int t = 0; t < TILE; t += DOT_ROWS)
        for (int64_t j = 0; j < states; j += DOT_COLUMNS<T>) {
          const int64_t tokens = this->token_row(first, t), state = this->state_row(first, j);
          T *to_B = dB + t * states + j, *to_C = dC + t * states + j;
          dots<T>(columns, this->x_to_end + tokens, row, dh + state, columns, to_B, states, bundle - first, next_tokens,
                  next_states);
          dots<T>(columns, g_from_start + tokens, row, before + state, columns, to_C, states, bundle - first,
                  next_tokens, next_states);
        }
      const T *B = this->B + group * TILE * states, *C = this->C + group * TILE * states;
      const T* of_group = dproducts + group * TILE * TILE;
      for (int t = 0; t < TILE; t += ROWS) {
        T *const to_B = dB + t * states, *const to_C = dC + t * states;
        const auto from = [=](const T* rows) NM_INLINED {
          return [=](int r, int64_t c) NM_INLINED { return load(rows + r * states + c * W<T>); };
        };
        multiply<T>(vectors, TILE - t, of_group + t * TILE + t, 1, TILE, (const V*)(C + t * states), vectors, to_B,
                    vectors, from(to_B));
        multiply<T>(vectors, t + ROWS, of_group + t * TILE, TILE, 1, (const V*)B, vectors, to_C, vectors, from(to_C));
      }
      for (int t = 0; t < count; t++) {
        const int64_t to = t * rows.stride + (this->group_begin + group) * a.state_size;
        memcpy(rows_B + to, dB + t * states, a.state_size * sizeof(T));
        memcpy(rows_C + to, dC + t * states, a.state_size * sizeof(T));
      }
    }
    rows.put();
  }

  void give_gradients(int64_t k, const int32_t* tokens, int count) {
    const View<const T> z = a.z, grad_out = a.grad_out;
    const View<T> du = a.du, dz = a.dz;
    const int64_t b = item.batch;
    const bool first = k == 0, last = k + 1 == a.directions, add_du = !first && du.direction == 0;
    for (int64_t head = 0; head < heads; head++) {
      T bias = 0;
      for (int t = 0; t < count; t++) bias += dstep[head * TILE + t];
      dbias[head] += bias;
    }
    for (int t = 0; t < count; t++) {
      T* steps = a.ddelta.row(b, k, tokens[t]) + this->head_begin;
      for (int64_t head = 0; head < heads; head++) steps[head] = dstep[head * TILE + t];
      T *inputs = du.row(b, k, tokens[t]), *gates = dz.data ? dz.row(b, 0, tokens[t]) : nullptr;
      this->each_vector([&](int64_t bundle, int64_t column, int64_t channel, auto lanes) NM_INLINED {
        const int64_t i = this->token_row(bundle, t) + column;
        const V D = this->D[bundle * row + column];
        V du_t = this->du[i];
        if (a.D) du_t += D * g[i];
        if (add_du) du_t += load(inputs + channel, lanes);
        store(inputs + channel, du_t, lanes);
        if (gates) {  // holds the ungated output until the last direction
          V sum = y[i];
          if (a.D) sum += D * this->u[i];
          if (!first) sum += load(gates + channel, lanes);
          if (last) {
            const V z_t = load(z.row(b, 0, tokens[t]) + channel, lanes);
            sum *= load(grad_out.row(b, 0, tokens[t]) + channel, lanes) * silu_derivative<T>(z_t, gate[i]);
          }
          store(gates + channel, sum, lanes);
        }
      });
    }
  }

  void finish_direction(int64_t k) {
    const Turn& turn = item.among_segments;
    const bool add = turn.done_before;
    wait_for_turn(turn, k + 1);
    for (int64_t head = 0; head < heads; head++) {
      const int64_t i = k * a.heads + this->head_begin + head;
      a.dA[i] = T(dA[head]) + (add ? a.dA[i] : 0);
      if (a.dD) a.dD[i] = T(dD[head]) + (add ? a.dD[i] : 0);
      if (a.ddelta_bias) a.ddelta_bias[i] = T(dbias[head]) + (add ? a.ddelta_bias[i] : 0);
    }
    end_turn(turn, k + 1);
  }
};

}  // namespace

void get(SsdKernels<float>& to) { set_kernels<float, Forward<float>, Backward<float>>(to); }
void get(SsdKernels<double>& to) { set_kernels<double, Forward<double>, Backward<double>>(to); }

}  // namespace NM_ISA
}  // namespace nm
