// Mamba-2's scan along paths through a grid: y_p = C_p . s_p + D u_p, s_p = exp(dl_p A) s_{p-1} + dl_p u_p B_p, with dl,
// A and D of a head's channels alike.
//
// A path is walked in tiles of TILE tokens. With decay(i, j) from token j to token i, the tile is, for each head,
//   y_i = sum_{j <= i} decay(i, j) (C_i . B_j) x_j + decay from the start(i) C_i . s,    x_j = dl_j u_j,
// so that nearly all arithmetic is in small matrix products: one exponential per token and head, everything else is
// products of those. A SIMD lane owns a channel; a block of lanes belongs to one head. The backward walks the chunks in
// reverse: from the saved state before the chunk it recomputes the state before each tile, then sweeps back over the
// tiles.
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

// out[r][c] = start(out[r][c], r) + sum over i < depth of factors[r * by_row + i * by_depth] * rows[i][c], for r < ROWS
// and c < COLS. Rows are vectors of lanes, factors are numbers.
template <class T, int COLS, class Start>
NM_INLINE void multiply_panel(int64_t stride, int64_t depth, const T* factors, int64_t by_row, int64_t by_depth,
                              const Vec<T>* rows, Vec<T>* out, Start start) {
  Vec<T> sum[ROWS][COLS];
  NM_UNROLL for (int r = 0; r < ROWS; r++)
    NM_UNROLL for (int c = 0; c < COLS; c++) sum[r][c] = start(out[r * stride + c], r);
  for (int64_t i = 0; i < depth; i++) {
    Vec<T> row[COLS];
    NM_UNROLL for (int c = 0; c < COLS; c++) row[c] = rows[i * stride + c];
    NM_UNROLL for (int r = 0; r < ROWS; r++) {
      const Vec<T> factor = splat<T>(factors[r * by_row + i * by_depth]);
      NM_UNROLL for (int c = 0; c < COLS; c++) sum[r][c] += factor * row[c];
    }
  }
  NM_UNROLL for (int r = 0; r < ROWS; r++)
    NM_UNROLL for (int c = 0; c < COLS; c++) out[r * stride + c] = sum[r][c];
}

// The same for all columns of rows that follow each other.
template <class T, class Start>
NM_INLINE void multiply(int64_t columns, int64_t depth, const T* factors, int64_t by_row, int64_t by_depth,
                        const Vec<T>* rows, Vec<T>* out, Start start) {
  int64_t c = 0;
  for (; c + COLUMNS <= columns && c + COLUMNS + 1 != columns; c += COLUMNS)
    multiply_panel<T, COLUMNS>(columns, depth, factors, by_row, by_depth, rows + c, out + c, start);
  for (; c + 2 <= columns; c += 2)
    multiply_panel<T, 2>(columns, depth, factors, by_row, by_depth, rows + c, out + c, start);
  for (; c < columns; c++)
    multiply_panel<T, 1>(columns, depth, factors, by_row, by_depth, rows + c, out + c, start);
}

// How `multiply` begins.
template <class T>
NM_INLINE auto from_zero() {
  return [](Vec<T>, int) NM_INLINED { return Vec<T>{}; };
}

template <class T>
NM_INLINE auto from_out() {
  return [](Vec<T> out, int) NM_INLINED { return out; };
}

// Rows and columns of `dots` at a time; as many sums as fill whole vectors.
template <class T>
constexpr int DOT_COLUMNS = W<T> >= 16 ? 4 : 2;
constexpr int DOT_ROWS = 4;

// out[r][c] = the sum over lanes and over i < size of the rows a[r] and b[c], for r < DOT_ROWS and c < DOT_COLUMNS;
// and over `heads` such pieces, which follow each other at a_next and b_next.
template <class T>
NM_INLINE void dots(int64_t size, const Vec<T>* a, const Vec<T>* b, T* out, int64_t out_stride, int64_t heads = 1,
                    int64_t a_next = 0, int64_t b_next = 0) {
  constexpr int COLS = DOT_COLUMNS<T>;
  Vec<T> sum[DOT_ROWS * COLS] = {};
  for (int64_t head = 0; head < heads; head++, a += a_next, b += b_next)
    for (int64_t i = 0; i < size; i++) {
      Vec<T> b_i[COLS];
      NM_UNROLL for (int c = 0; c < COLS; c++) b_i[c] = b[c * size + i];
      NM_UNROLL for (int r = 0; r < DOT_ROWS; r++) {
        const Vec<T> a_i = a[r * size + i];
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

template <class T>
struct Walk {
  typedef Vec<T> V;
  typedef typename Simd<T>::Bits Bits;

  const ScanArgs<T>& a;
  const Item<T>& item;
  int64_t width;       // channels of a head
  int64_t head_begin, heads;
  int64_t group_begin, groups;  // of these heads
  int64_t blocks;     // of lanes, of a head
  int64_t states;               // a.state_size, padded with B = C = 0 to whole panels and vectors

  T *B, *C;     // [group][tile step][state]
  T* products;  // [group][tile step i][tile step j]: C_i . B_j
  T *raw, *dl;  // [head][tile step]: the step before and after softplus
  V *u, *x;     // [head][tile step][block]: the input, and times dl
  V *x_to_end;  // [head][tile step][block]: x, decayed to the end of the tile
  V *whole_shifted, *whole_rest;  // [head]: the decay of the whole tile, see simd.h
  Decays<T>* decays;
  Bits *earlier, *up_to_now;  // [tile step i][tile step j]: all bits where j < i, and where j <= i
  T* present;                 // the same: 1 where j = i

  Walk(const ScanArgs<T>& args, const Item<T>& item, int64_t channels, Arena& arena) : a(args), item(item) {
    constexpr int64_t whole = W<T> > ROWS ? W<T> : ROWS;
    width = a.channels / a.heads;
    heads = channels / width;
    head_begin = item.channel_begin / width;
    const int64_t heads_of_group = a.heads / a.groups;
    group_begin = head_begin / heads_of_group;
    groups = a.groups < heads ? a.groups : heads;  // at most, for a scratch that any item fits
    if (item.channel_end) groups = (head_begin + heads - 1) / heads_of_group - group_begin + 1;
    blocks = (width + W<T> - 1) / W<T>;
    states = (a.state_size + whole - 1) / whole * whole;
    B = arena.take<T>(groups * TILE * states);
    C = arena.take<T>(groups * TILE * states);
    products = arena.take<T>(groups * TILE * TILE);
    raw = arena.take<T>(heads * TILE);
    dl = arena.take<T>(heads * TILE);
    u = arena.take<V>(heads * TILE * blocks);
    x = arena.take<V>(heads * TILE * blocks);
    x_to_end = arena.take<V>(heads * TILE * blocks);
    whole_shifted = arena.take<V>(heads);
    whole_rest = arena.take<V>(heads);
    decays = arena.take<Decays<T>>(1);
    earlier = arena.take<Bits>(TILE * TILE / W<T>);
    up_to_now = arena.take<Bits>(TILE * TILE / W<T>);
    present = arena.take<T>(TILE * TILE);
  }

  // Where the rows of a head begin, among the tile's tokens and among the states.
  int64_t token_row(int64_t head, int64_t t) const { return (head * TILE + t) * blocks; }
  int64_t state_row(int64_t head, int64_t j) const { return (head * states + j) * blocks; }
  int64_t state_vectors() const { return heads * states * blocks; }

  int64_t group_of(int64_t head) const { return (head_begin + head) / (a.heads / a.groups) - group_begin; }

  // Calls `body(head, block of the head, channel, lanes)` for every block.
  template <class Body>
  NM_INLINED void each_block(Body body) const {
    const int64_t whole = width / W<T>, rest = width % W<T>;
    for (int64_t head = 0; head < heads; head++) {
      const int64_t channel = (head_begin + head) * width;
      for (int64_t i = 0; i < whole; i++) body(head, i, channel + i * W<T>, AllLanes());
      if (rest) body(head, whole, channel + whole * W<T>, int(rest));
    }
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
    memset(B, 0, groups * TILE * states * sizeof(T)), memset(C, 0, groups * TILE * states * sizeof(T));
  }

  // The state, or its gradient, at the end of the segment where the walk begins.
  void take_entering(int64_t k, V* state) const {
    memset(state, 0, state_vectors() * sizeof(V));
    if (!item.entering) return;
    each_block([&](int64_t head, int64_t block, int64_t channel, auto lanes) {
      const T* from = item.entering + k * a.state_size * a.channels + channel;
      for (int64_t j = 0; j < a.state_size; j++) state[state_row(head, j) + block] = load(from + j * a.channels, lanes);
    });
  }

  void give_leaving(int64_t k, const V* state, const double* steps) const {
    each_block([&](int64_t head, int64_t block, int64_t channel, auto lanes) {
      T* to = item.leaving + k * a.state_size * a.channels + channel;
      for (int64_t j = 0; j < a.state_size; j++) store(to + j * a.channels, state[state_row(head, j) + block], lanes);
      store(item.steps + k * a.channels + channel, splat<T>(T(steps[head])), lanes);
    });
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
      each_block([&](int64_t head, int64_t block, int64_t channel, auto lanes) NM_INLINED {
        rows[token_row(head, t) + block] = load(row + channel, lanes);
      });
    }
    clear_tokens(rows, count);
  }

  void clear_tokens(V* rows, int count) const {
    for (int64_t head = 0; head < heads && count < TILE; head++)
      memset(rows + token_row(head, count), 0, (TILE - count) * blocks * sizeof(V));
  }

  // The steps of all heads; no time passes beyond the end of the path.
  void take_steps(int64_t k, const int32_t* tokens, int count) {
    const View<const T> delta = a.delta;
    const T* bias = a.delta_bias ? a.delta_bias + k * a.heads + head_begin : nullptr;
    for (int t = 0; t < count; t++) {
      const T* row = delta.row(item.batch, k, tokens[t]) + head_begin;
      for (int64_t head = 0; head < heads; head++) raw[head * TILE + t] = row[head] + (bias ? bias[head] : T(0));
    }
    for (int64_t head = 0; head < heads; head++) {
      for (int t = count; t < TILE; t++) raw[head * TILE + t] = 0;
      T* to = dl + head * TILE;
      for (int t = 0; t < TILE; t += W<T>) {
        const V step = load(raw + head * TILE + t);
        store(to + t, a.softplus ? softplus<T>(step) : step);
      }
      for (int t = count; t < TILE; t++) to[t] = 0;
    }
  }

  void take_products() {
    for (int64_t group = 0; group < groups; group++) {
      const V *of_C = (const V*)(C + group * TILE * states), *of_B = (const V*)(B + group * TILE * states);
      const int64_t vectors = states / W<T>;
      for (int i = 0; i < TILE; i += DOT_ROWS)
        for (int j = 0; j < i + DOT_ROWS; j += DOT_COLUMNS<T>)
          dots<T>(vectors, of_C + i * vectors, of_B + j * vectors, products + (group * TILE + i) * TILE + j, TILE);
    }
  }

  // Of a head: the decays of the tile's tokens and x.
  template <bool BETWEEN>
  void take_decays(int64_t k, int64_t head) {
    constexpr T log2e = T(1.44269504088896340736);
    const V A = splat<T>(a.A[k * a.heads + head_begin + head] * log2e);
    const T* step = dl + head * TILE;
    alignas(V_ALIGNED) T decay[TILE];
    T time = 0;
    for (int t = 0; t < TILE; t += W<T>) {
      const V steps = load(step + t), shifted = exponent_of_product<T, true>(steps, A);
      store(decay + t, decayed<T>(splat<T>(1), shifted, rest_of_product<T, true>(steps, A, shifted)));
    }
    for (int t = 0; t < TILE; t++) time += step[t];
    whole_shifted[head] = exponent_of_product<T, true>(splat<T>(time), A);
    whole_rest[head] = rest_of_product<T, true>(splat<T>(time), A, whole_shifted[head]);
    T from_start = 1, to_end = 1;
    for (int t = 0; t < TILE; t++) {
      decays->from_start[t] = from_start *= decay[t];
      decays->to_end[TILE - 1 - t] = to_end;
      to_end *= decay[TILE - 1 - t];
    }
    if (BETWEEN) take_between(decay, products + group_of(head) * TILE * TILE);
    for (int t = 0; t < TILE; t++)
      for (int64_t i = token_row(head, t); i < token_row(head, t + 1); i++) {
        x[i] = step[t] * u[i];
        x_to_end[i] = decays->to_end[t] * x[i];
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

  // A function that prefetches what the rows hold of a head, of ROWS of `count` tokens from one on; absent rows are
  // passed over. To be called between products: all at once, prefetches would only wait for each other.
  template <class... Views>
  NM_INLINED auto prefetcher(int64_t k, const int32_t* tokens, int count, int64_t head, Views... rows) const {
    return [=](int64_t from) NM_INLINED {
      for (int64_t t = from; t < from + ROWS && t < count; t++)
        for (int64_t c = 0; c < width; c += 64 / sizeof(T)) {
          const int64_t channel = (head_begin + head) * width + c;
          ((rows.data ? __builtin_prefetch(rows.row(item.batch, k, tokens[t]) + channel) : void()), ...);
        }
    };
  }

  // The state of a head from before the tile to after it.
  template <class Ahead>
  NM_INLINED void advance(int64_t head, V* state, Ahead ahead) const {
    const T* B = this->B + group_of(head) * TILE * states;
    const V shifted = whole_shifted[head], rest = whole_rest[head];
    for (int64_t j = 0; j < states; j += ROWS) {
      ahead(j);
      multiply<T>(blocks, TILE, B + j, 1, states, x_to_end + token_row(head, 0), state + state_row(head, j),
                  [=](V before, int) NM_INLINED { return decayed<T>(before, shifted, rest); });
    }
  }

  // rows[t] . state, of a head, for the rows of B or C.
  template <class Ahead>
  NM_INLINED void contract(const T* rows, int64_t head, const V* state, V* out, Ahead ahead) const {
    const T* of_group = rows + group_of(head) * TILE * states;
    for (int t = 0; t < TILE; t += ROWS) {
      ahead(t);
      multiply<T>(blocks, a.state_size, of_group + t * states, states, 1, state + state_row(head, 0),
                  out + token_row(head, t), from_zero<T>());
    }
  }

  // Adds what the tile's own inputs give to its outputs.
  template <class Start>
  NM_INLINED void add_own(int64_t head, V* y, Start start) const {
    for (int i = 0; i < TILE; i += ROWS)
      multiply<T>(blocks, i + ROWS, decays->weights + i * TILE, TILE, 1, x + token_row(head, 0),
                  y + token_row(head, i), [=](V out, int r) NM_INLINED { return start(out, i + r); });
  }
};

template <class T>
struct Forward : Walk<T> {
  typedef Vec<T> V;
  using Walk<T>::a;
  using Walk<T>::item;
  using Walk<T>::heads;
  using Walk<T>::blocks;

  V* h;           // [head][state][block]
  V* y;           // [head][tile step][block]
  double* steps;  // [head]: sum of dl

  Forward(const ScanArgs<T>& args, const Item<T>& item, int64_t channels, Arena& arena)
      : Walk<T>(args, item, channels, arena) {
    h = arena.take<V>(this->state_vectors());
    y = arena.take<V>(heads * TILE * blocks);
    steps = arena.take<double>(heads);
  }

  void summarise() {
    this->prepare();
    for (int64_t k = item.direction_begin; k < item.direction_end; k++) {
      this->take_entering(k, h);
      memset(steps, 0, heads * sizeof(double));
      for (int64_t p = item.begin; p < item.end; p += TILE) {
        const int32_t* tokens = a.paths + k * a.length + p;
        const int count = int(min<int64_t>(TILE, item.end - p)), next = int(min<int64_t>(TILE, item.end - p - count));
        this->take_rows(this->B, a.B, k, tokens, count);
        this->take_channels(this->u, a.u, k, tokens, count);
        this->take_steps(k, tokens, count);
        for (int64_t head = 0; head < heads; head++) {
          this->template take_decays<false>(k, head);
          this->advance(head, h, this->prefetcher(k, tokens + TILE, next, head, a.u));
          for (int t = 0; t < TILE; t++) steps[head] += this->dl[head * TILE + t];
        }
      }
      this->give_leaving(k, h, steps);
    }
  }

  void run() {
    this->prepare();
    for (int64_t k = item.direction_begin; k < item.direction_end; k++) {
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
        for (int64_t head = 0; head < heads; head++) {
          this->template take_decays<true>(k, head);
          this->contract(this->C, head, h, y, this->prefetcher(k, tokens, count, head, a.out, a.z));
          const T* from_start = this->decays->from_start;
          this->add_own(head, y, [=](V carried, int t) NM_INLINED { return from_start[t] * carried; });
          this->advance(head, h, this->prefetcher(k, tokens + TILE, next, head, a.u));
        }
        give_output(k, tokens, count);
      }
    }
  }

  void save_state(int64_t k, int64_t chunk) const {
    this->each_block([&](int64_t head, int64_t block, int64_t channel, auto lanes) {
      const V* from = h + this->state_row(head, 0) + block;
      T* to = saved_state(a, item.batch, k, chunk, 0, channel);
      for (int64_t j = 0; j < a.state_size; j++) store(to + j * a.channels, from[j * blocks], lanes);
    });
  }

  void give_output(int64_t k, const int32_t* tokens, int count) const {
    const View<const T> z = a.z;
    const View<T> out = a.out;
    const int64_t b = item.batch;
    const bool first = k == 0, gate = z.data && k + 1 == a.directions;
    const T* D = a.D ? a.D + k * a.heads + this->head_begin : nullptr;
    for (int t = 0; t < count; t++) {
      T* row = out.row(b, 0, tokens[t]);
      const T* gates = gate ? z.row(b, 0, tokens[t]) : nullptr;
      this->each_block([&](int64_t head, int64_t block, int64_t channel, auto lanes) NM_INLINED {
        const int64_t i = this->token_row(head, t) + block;
        V sum = y[i];
        if (D) sum += D[head] * this->u[i];
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
  using Walk<T>::states;

  int64_t tiles;    // per chunk
  V* start;         // [chunk tile][head][state][block]: the state before each tile
  V* dh;            // [head][state][block]: gradient of the state after the tile
  V *g, *gate;      // [head][tile step][block]: gradient of y; sigmoid(z)
  V* g_from_start;  // [head][tile step][block]: g, decayed from the start of the tile
  V *y, *dx;        // [head][tile step][block]: y - D u; gradient of x
  T* dproducts;     // [group][i][j]
  T* dstep;         // [head][tile step]: gradient of raw
  double *dA, *dD, *dbias, *steps;  // [head]
  T *dB, *dC;                       // [tile step][state]: of one group
  OrderedRows<T> rows;              // of dB and dC

  Backward(const ScanArgs<T>& args, const Item<T>& item, int64_t channels, Arena& arena)
      : Walk<T>(args, item, channels, arena), rows(args, item, TILE, args.groups * args.state_size, args.groups * args.state_size, arena) {
    tiles = (a.chunk + TILE - 1) / TILE;
    start = arena.take<V>(tiles * heads * states * blocks);
    dh = arena.take<V>(heads * states * blocks);
    g = arena.take<V>(heads * TILE * blocks);
    gate = arena.take<V>(heads * TILE * blocks);
    g_from_start = arena.take<V>(heads * TILE * blocks);
    y = arena.take<V>(heads * TILE * blocks);
    dx = arena.take<V>(heads * TILE * blocks);
    dproducts = arena.take<T>(groups * TILE * TILE);
    dstep = arena.take<T>(heads * TILE);
    dA = arena.take<double>(heads);
    dD = arena.take<double>(heads);
    dbias = arena.take<double>(heads);
    steps = arena.take<double>(heads);
    dB = arena.take<T>(TILE * states);
    dC = arena.take<T>(TILE * states);
  }

  void summarise() {
    this->prepare();
    for (int64_t k = item.direction_begin; k < item.direction_end; k++) {
      this->take_entering(k, dh);
      memset(steps, 0, heads * sizeof(double));
      for (int64_t p = (item.end - 1) / TILE * TILE; p >= item.begin; p -= TILE) {
        const int32_t* tokens = a.paths + k * a.length + p;
        const int count = int(min<int64_t>(TILE, item.end - p));
        this->take_rows(this->C, a.C, k, tokens, count);
        this->take_steps(k, tokens, count);
        take_gradients(tokens, count);
        for (int64_t head = 0; head < heads; head++) {
          this->template take_decays<false>(k, head);
          decay_gradients(head);
          retreat(head);
          for (int t = 0; t < TILE; t++) steps[head] += this->dl[head * TILE + t];
        }
      }
      this->give_leaving(k, dh, steps);
    }
  }

  void run() {
    this->prepare();
    for (int64_t k = item.direction_begin; k < item.direction_end; k++) {
      this->take_entering(k, dh);
      memset(dA, 0, heads * sizeof(double)), memset(dD, 0, heads * sizeof(double));
      memset(dbias, 0, heads * sizeof(double));
      for (int64_t chunk = (item.end - 1) / a.chunk; chunk >= item.begin / a.chunk; chunk--) {
        const int32_t* tokens = a.paths + k * a.length + chunk * a.chunk;
        const int count = int(min(a.chunk, item.end - chunk * a.chunk));
        take_chunk(k, chunk, tokens, count);
        for (int tile = (count - 1) / TILE; tile >= 0; tile--)
          sweep_tile(k, start + tile * this->state_vectors(), tokens + tile * TILE, min(TILE, count - tile * TILE),
                     chunk * a.chunk + tile * TILE > item.begin ? TILE : 0);
      }
      finish_direction(k);
    }
    rows.finish();
  }

  // The state before each tile of a chunk.
  void take_chunk(int64_t k, int64_t chunk, const int32_t* tokens, int count) {
    this->each_block([&](int64_t head, int64_t block, int64_t channel, auto lanes) {
      const T* from = saved_state(a, item.batch, k, chunk, 0, channel);
      V* to = start + this->state_row(head, 0) + block;
      for (int64_t j = 0; j < a.state_size; j++) to[j * blocks] = load(from + j * a.channels, lanes);
      for (int64_t j = a.state_size; j < states; j++) to[j * blocks] = V{};
    });
    for (int tile = 0; (tile + 1) * TILE < count; tile++) {
      const int32_t* tile_tokens = tokens + tile * TILE;
      const int next = min(TILE, count - (tile + 1) * TILE);
      V* const after = start + (tile + 1) * this->state_vectors();
      this->take_rows(this->B, a.B, k, tile_tokens, TILE);
      this->take_channels(this->u, a.u, k, tile_tokens, TILE);
      this->take_steps(k, tile_tokens, TILE);
      memcpy(after, after - this->state_vectors(), this->state_vectors() * sizeof(V));
      for (int64_t head = 0; head < heads; head++) {
        this->template take_decays<false>(k, head);
        this->advance(head, after, this->prefetcher(k, tile_tokens + TILE, next, head, a.u));
      }
    }
  }

  void take_gradients(const int32_t* tokens, int count) {
    const View<const T> grad_out = a.grad_out, z = a.z;
    for (int t = 0; t < count; t++) {
      const T *grads = grad_out.row(item.batch, 0, tokens[t]), *gates = z.data ? z.row(item.batch, 0, tokens[t]) : nullptr;
      this->each_block([&](int64_t head, int64_t block, int64_t channel, auto lanes) NM_INLINED {
        const int64_t i = this->token_row(head, t) + block;
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

  void decay_gradients(int64_t head) {
    for (int t = 0; t < TILE; t++)
      for (int64_t i = this->token_row(head, t); i < this->token_row(head, t + 1); i++)
        g_from_start[i] = this->decays->from_start[t] * g[i];
  }

  // The gradient of a head's state from after the tile to before it.
  void retreat(int64_t head) {
    const T* C = this->C + this->group_of(head) * TILE * states;
    const V shifted = this->whole_shifted[head], rest = this->whole_rest[head];
    for (int64_t j = 0; j < states; j += ROWS)
      multiply<T>(blocks, TILE, C + j, 1, states, g_from_start + this->token_row(head, 0),
                  dh + this->state_row(head, j), [=](V after, int) NM_INLINED { return decayed<T>(after, shifted, rest); });
  }

  void sweep_tile(int64_t k, const V* before, const int32_t* tokens, int count, int earlier) {
    this->take_rows(this->B, a.B, k, tokens, count);
    this->take_rows(this->C, a.C, k, tokens, count);
    this->take_channels(this->u, a.u, k, tokens, count);
    this->take_steps(k, tokens, count);
    take_gradients(tokens, count);
    this->take_products();
    memset(dproducts, 0, groups * TILE * TILE * sizeof(T));
    for (int64_t head = 0; head < heads; head++) sweep_head(k, head, before, tokens, count, earlier);
    give_rows(before, count);
    for (int64_t head = 0; head < heads; head++) retreat(head);
    give_gradients(k, tokens, count);
  }

  // `earlier`: tokens of the tile that is swept next, which lie before these.
  void sweep_head(int64_t k, int64_t head, const V* before, const int32_t* tokens, int count, int earlier) {
    this->template take_decays<true>(k, head);
    decay_gradients(head);
    const Decays<T>& decays = *this->decays;
    const T *from_start = decays.from_start, *to_end = decays.to_end;

    // What goes through the states: y so far, and the gradient of x from all that follows the tile.
    this->contract(this->C, head, before, y, this->prefetcher(k, tokens, count, head, a.du, a.dz));
    this->contract(this->B, head, dh, dx, this->prefetcher(k, tokens - TILE, earlier, head, a.grad_out, a.z));
    alignas(V_ALIGNED) T dexponent[TILE], dfrom_start[TILE], dto_end[TILE], du_step[TILE];
    V sum[TILE] = {}, other[TILE] = {};
    for (int t = 0; t < TILE; t++)
      for (int64_t i = this->token_row(head, t); i < this->token_row(head, t + 1); i++) {
        y[i] *= from_start[t];
        dx[i] *= to_end[t];
        sum[t] += g[i] * y[i];
        other[t] += this->x[i] * dx[i];
      }
    sum_lanes(sum, dfrom_start), sum_lanes(other, dto_end);
    V kept = {};
    for (int64_t i = this->state_row(head, 0); i < this->state_row(head, a.state_size); i++) kept += before[i] * dh[i];
    alignas(V_ALIGNED) T kept_lanes[W<T>];
    store(kept_lanes, decayed<T>(kept, this->whole_shifted[head], this->whole_rest[head]));
    T dwhole = 0;
    for (int l = 0; l < W<T>; l++) dwhole += kept_lanes[l];

    // What stays within the tile.
    if (a.dz.data) this->add_own(head, y, [](V carried, int) NM_INLINED { return carried; });
    for (int j = 0; j < TILE; j += ROWS)
      multiply<T>(blocks, TILE - j, decays.weights + j * TILE + j, 1, TILE, g + this->token_row(head, j),
                  dx + this->token_row(head, j), from_out<T>());
    take_between_gradients(head, dexponent);

    // The exponent of token t decays all that goes from before it to it or later.
    T later = dwhole, sooner = 0;
    for (int t = TILE - 1; t >= 0; t--) dexponent[t] += later += dfrom_start[t];
    for (int t = 0; t < TILE; t++) dexponent[t] += sooner, sooner += dto_end[t];

    for (int t = 0; t < TILE; t++) {
      sum[t] = V{};
      for (int64_t i = this->token_row(head, t); i < this->token_row(head, t + 1); i++) sum[t] += dx[i] * this->u[i];
    }
    sum_lanes(sum, du_step);
    const T A = a.A[k * a.heads + this->head_begin + head];
    const T* step = this->dl + head * TILE;
    T dA_tile = 0;
    for (int t = 0; t < TILE; t++) {
      dA_tile += dexponent[t] * step[t];
      dstep[head * TILE + t] = dexponent[t] * A + du_step[t];
    }
    dA[head] += dA_tile;
    if (a.softplus)
      for (int t = 0; t < TILE; t += W<T>) {
        T* to = dstep + head * TILE + t;
        store(to, load(to) * softplus_derivative_at<T>(load(step + t)));
      }
  }

  // Through the decays from token j to token i: dproducts, and the gradient of each token's exponent.
  void take_between_gradients(int64_t head, T* dexponent) {
    constexpr int vectors = TILE / W<T>;
    alignas(V_ALIGNED) T dweights[TILE * TILE];
    for (int i = 0; i < TILE; i += DOT_ROWS)
      for (int j = 0; j < i + DOT_ROWS; j += DOT_COLUMNS<T>)
        dots<T>(blocks, g + this->token_row(head, i), this->x + this->token_row(head, j), dweights + i * TILE + j,
                TILE);
    T* dproducts = this->dproducts + this->group_of(head) * TILE * TILE;
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
    const int64_t vectors = states / W<T>;
    for (int64_t group = 0, head = 0; group < groups; group++) {
        const int64_t first = head;
      while (head < heads && this->group_of(head) == group) head++;
      const int64_t next_tokens = this->token_row(1, 0), next_states = this->state_row(1, 0);
      for (int t = 0; t < TILE; t += DOT_ROWS)
        for (int64_t j = 0; j < states; j += DOT_COLUMNS<T>) {
          const int64_t tokens = this->token_row(first, t), state = this->state_row(first, j);
          T *to_B = dB + t * states + j, *to_C = dC + t * states + j;
          dots<T>(blocks, this->x_to_end + tokens, dh + state, to_B, states, head - first, next_tokens, next_states);
          dots<T>(blocks, g_from_start + tokens, before + state, to_C, states, head - first, next_tokens, next_states);
        }
      const T *B = this->B + group * TILE * states, *C = this->C + group * TILE * states;
      const T* of_group = dproducts + group * TILE * TILE;
      for (int t = 0; t < TILE; t += ROWS) {
        multiply<T>(vectors, TILE - t, of_group + t * TILE + t, 1, TILE, (const V*)(C + t * states),
                    (V*)(dB + t * states), from_out<T>());
        multiply<T>(vectors, t + ROWS, of_group + t * TILE, TILE, 1, (const V*)B, (V*)(dC + t * states), from_out<T>());
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
    const T* D = a.D ? a.D + k * a.heads + this->head_begin : nullptr;
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
      this->each_block([&](int64_t head, int64_t block, int64_t channel, auto lanes) NM_INLINED {
        const int64_t i = this->token_row(head, t) + block;
        V du_t = dx[i] * this->dl[head * TILE + t];
        if (D) du_t += D[head] * g[i];
        if (add_du) du_t += load(inputs + channel, lanes);
        store(inputs + channel, du_t, lanes);
        if (gates) {  // holds the ungated output until the last direction
          V sum = y[i];
          if (D) sum += D[head] * this->u[i];
          if (!first) sum += load(gates + channel, lanes);
          if (last) {
            const V z_t = load(z.row(b, 0, tokens[t]) + channel, lanes);
            sum *= load(grad_out.row(b, 0, tokens[t]) + channel, lanes) * silu_derivative<T>(z_t, gate[i]);
          }
          store(gates + channel, sum, lanes);
        }
      });
    }
    if (!a.dD) return;
    for (int64_t head = 0; head < heads; head++) {
      V sum = {};
      for (int t = 0; t < count; t++)
        for (int64_t i = this->token_row(head, t); i < this->token_row(head, t + 1); i++) sum += g[i] * this->u[i];
      for (int l = 0; l < W<T>; l++) dD[head] += sum[l];
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
