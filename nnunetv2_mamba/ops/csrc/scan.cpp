// The selective scan along paths through a grid: y_p = C_p . h_p + D u_p, h_p = exp(dl_p A) h_{p-1} + dl_p u_p B_p.
//
// A SIMD lane owns a channel. A path is walked in tiles of TILE tokens; within a tile, GROUP states at a time stay in
// registers. A is scaled by log2(e) once per direction. The backward walks the chunks in reverse: from the saved state
// before the chunk it recomputes the state before each tile; then, tile by tile in reverse, it recomputes the states of
// every step and sweeps back over them.
#include "kernels.h"
#include "ordered_rows.h"
#include "scan_passes.h"
#include "simd.h"

namespace nm {
namespace NM_ISA {
namespace {

constexpr int TILE = 16;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int GROUP = 8;  // 32 registers
#else
constexpr int GROUP = 4;
#endif

// What both passes keep for an item. Indexed [block], [block][state] or [tile step][state].
template <class T>
struct Walk {
  typedef Vec<T> V;

  const ScanArgs<T>& a;
  const Item<T>& item;
  int64_t blocks;
  int64_t states;  // a.state_size, padded to whole groups with A = B = C = 0
  V *A, *A_max;    // A log2(e), and its largest magnitude over the states
  V* h;
  T *B, *C;

  Walk(const ScanArgs<T>& args, const Item<T>& item, int64_t channels, Arena& arena) : a(args), item(item) {
    blocks = (channels + W<T> - 1) / W<T>;
    states = (a.state_size + GROUP - 1) / GROUP * GROUP;
    A = arena.take<V>(blocks * states);
    A_max = arena.take<V>(blocks);
    h = arena.take<V>(blocks * states);
    B = arena.take<T>(TILE * states);
    C = arena.take<T>(TILE * states);
  }

  int64_t channel(int64_t block) const { return item.channel_begin + block * W<T>; }

  template <class Body>
  void with_lanes_of(int64_t block, Body body) const {
    with_lanes<T>(channel(block), a.channels, body);
  }

  void clear_padding() { memset(B, 0, TILE * states * sizeof(T)), memset(C, 0, TILE * states * sizeof(T)); }

  // A and the state, or its gradient, at the end of the segment where the walk begins.
  void take_direction(int64_t k, V* entering) {
    constexpr T log2e = T(1.44269504088896340736);
    for (int64_t block = 0; block < blocks; block++) {
      const T* from = a.A + (k * a.channels + channel(block)) * a.state_size;
      const int64_t lanes = a.channels - channel(block) < W<T> ? a.channels - channel(block) : W<T>;
      A_max[block] = V{};
      for (int64_t j = 0; j < states; j++) {
        V v = {};
        if (j < a.state_size)
          for (int64_t l = 0; l < lanes; l++) v[l] = from[l * a.state_size + j] * log2e;
        A[block * states + j] = v;
        A_max[block] = max(A_max[block], abs(v));
      }
    }
    memset(entering, 0, blocks * states * sizeof(V));
    if (!item.entering) return;
    for (int64_t block = 0; block < blocks; block++)
      with_lanes_of(block, [&](auto lanes) {
        const T* from = item.entering + k * a.state_size * a.channels + channel(block);
        for (int64_t j = 0; j < a.state_size; j++) entering[block * states + j] = load(from + j * a.channels, lanes);
      });
  }

  void give_summary(int64_t k, const V* leaving, const V* steps) const {
    for (int64_t block = 0; block < blocks; block++)
      with_lanes_of(block, [&](auto lanes) {
        T* to = item.leaving + k * a.state_size * a.channels + channel(block);
        for (int64_t j = 0; j < a.state_size; j++) store(to + j * a.channels, leaving[block * states + j], lanes);
        store(item.steps + k * a.channels + channel(block), steps[block], lanes);
      });
  }

  void take_rows(T* rows, const View<const T> from, int64_t k, const int32_t* tokens, int count) const {
    const int64_t size = a.state_size;
    for (int t = 0; t < count; t++) {
      const T* row = from.row(item.batch, k, tokens[t]);
      for (int64_t j = 0; j < size; j += W<T>)
        with_lanes<T>(j, size, [&](auto lanes) { store(rows + t * states + j, load(row + j, lanes), lanes); });
    }
  }

  // The rows of B or C, or of their gradients, of a tile to come.
  template <class... Views>
  NM_INLINED void prefetch_rows(int64_t k, const int32_t* tokens, int count, Views... rows) const {
    for (int64_t j = 0; j < a.state_size; j += W<T>) {
      const auto prefetch = NM_ISA::prefetcher(item.batch, k, tokens, count, j, rows...);
      for (int t = 0; t < count; t++) prefetch(t);
    }
  }

  // See simd.h; of one block.
  template <class... Views>
  NM_INLINED auto prefetcher(int64_t k, const int32_t* tokens, int count, int64_t block, Views... rows) const {
    return NM_ISA::prefetcher(item.batch, k, tokens, count, channel(block), rows...);
  }

  // dl and u of a tile. Returns whether every exponent dl A may be used unclamped.
  template <class Used>
  bool take_steps(V* dl, V* u, int64_t k, const int32_t* tokens, int count, int64_t block, Used lanes) const {
    const View<const T> delta = a.delta, from_u = a.u;
    const int64_t b = item.batch, channel = this->channel(block);
    const bool with_softplus = a.softplus;
    const V bias = a.delta_bias ? load(a.delta_bias + k * a.channels + channel, lanes) : V{};
    V dl_max = {};
    for (int t = 0; t < count; t++) {
      V step = load(delta.row(b, k, tokens[t]) + channel, lanes) + bias;
      if (with_softplus) step = softplus<T>(step);
      dl[t] = step;
      u[t] = load(from_u.row(b, k, tokens[t]) + channel, lanes);
      dl_max = max(dl_max, abs(step));
    }
    const auto beyond = dl_max * A_max[block] > splat<T>(Exp2<T>::limit);
    int any = 0;
    for (int l = 0; l < W<T>; l++) any |= beyond[l] != 0;
    return !any;
  }
};

// A tile's steps of all states of one block; y gets C . h. `ahead` is called once a step, to prefetch.
template <class T, bool CLAMP, bool OUTPUT, class Ahead>
NM_INLINE void advance(const Walk<T>& walk, int64_t block, const Vec<T>* dl, const Vec<T>* u, int count, Vec<T>* states,
                       Vec<T>* y, Ahead ahead) {
  typedef Vec<T> V;
  const int64_t stride = walk.states;
  for (int64_t first = 0; first < stride; first += GROUP) {
    const T *B = walk.B + first, *C = walk.C + first;
    V A[GROUP], h[GROUP];
    NM_UNROLL for (int j = 0; j < GROUP; j++) A[j] = walk.A[block * stride + first + j], h[j] = states[first + j];
    for (int t = 0; t < count; t++) {
      const V step = dl[t], input = step * u[t];
      if (first == 0) ahead(t);
      V sum = OUTPUT && first ? y[t] : V{};
      NM_UNROLL for (int j = 0; j < GROUP; j++) {
        const V shifted = exponent_of_product<T, CLAMP>(step, A[j]);
        h[j] = decayed<T>(h[j], shifted, rest_of_product<T, CLAMP>(step, A[j], shifted)) + input * B[t * stride + j];
        if (OUTPUT) sum += h[j] * C[t * stride + j];
      }
      if (OUTPUT) y[t] = sum;
    }
    NM_UNROLL for (int j = 0; j < GROUP; j++) states[first + j] = h[j];
  }
}

template <class T, bool OUTPUT, class Ahead>
NM_INLINE void advance(bool unclamped, const Walk<T>& walk, int64_t block, const Vec<T>* dl, const Vec<T>* u, int count,
                       Vec<T>* states, Vec<T>* y, Ahead ahead) {
  if (unclamped)
    advance<T, false, OUTPUT>(walk, block, dl, u, count, states, y, ahead);
  else
    advance<T, true, OUTPUT>(walk, block, dl, u, count, states, y, ahead);
}

template <class T>
struct Forward : Walk<T> {
  typedef Vec<T> V;
  using Walk<T>::a;
  using Walk<T>::item;
  using Walk<T>::blocks;
  using Walk<T>::states;

  V *dl, *u, *y;  // [tile step]
  V* steps;       // [block]: sum of dl

  Forward(const ScanArgs<T>& args, const Item<T>& item, int64_t channels, Arena& arena)
      : Walk<T>(args, item, channels, arena) {
    dl = arena.take<V>(TILE);
    u = arena.take<V>(TILE);
    y = arena.take<V>(TILE);
    steps = arena.take<V>(blocks);
  }

  void summarise() {
    this->clear_padding();
    for (int64_t k = item.direction_begin; k < item.direction_end; k++) {
      this->take_direction(k, this->h);
      memset(steps, 0, blocks * sizeof(V));
      for (int64_t p = item.begin; p < item.end; p += TILE) {
        const int32_t* tokens = a.paths + k * a.length + p;
        const int count = int(min<int64_t>(TILE, item.end - p)), next = int(min<int64_t>(TILE, item.end - p - count));
        this->take_rows(this->B, a.B, k, tokens, count);
        this->prefetch_rows(k, tokens + TILE, next, a.B);
        for (int64_t block = 0; block < blocks; block++)
          this->with_lanes_of(block, [&](auto lanes) {
            const bool unclamped = this->take_steps(dl, u, k, tokens, count, block, lanes);
            advance<T, false>(unclamped, *this, block, dl, u, count, this->h + block * states, nullptr,
                              this->prefetcher(k, tokens + TILE, next, block, a.delta, a.u));
            for (int t = 0; t < count; t++) steps[block] += dl[t];
          });
      }
      this->give_summary(k, this->h, steps);
    }
  }

  void run() {
    this->clear_padding();
    for (int64_t k = item.direction_begin; k < item.direction_end; k++) {
      this->take_direction(k, this->h);
      const int32_t* path = a.paths + k * a.length;
      for (int64_t p = item.begin; p < item.end; p += TILE) {
        const int count = int(min<int64_t>(TILE, item.end - p)), next = int(min<int64_t>(TILE, item.end - p - count));
        this->take_rows(this->B, a.B, k, path + p, count);
        this->take_rows(this->C, a.C, k, path + p, count);
        this->prefetch_rows(k, path + p + TILE, next, a.B, a.C);
        for (int64_t block = 0; block < blocks; block++)
          this->with_lanes_of(block, [&](auto lanes) {
            V* h = this->h + block * states;
            if (p % a.chunk == 0)
              for (int64_t j = 0; j < a.state_size; j++)
                store(saved_state(a, item.batch, k, p / a.chunk, j, this->channel(block)), h[j], lanes);
            const auto ahead = this->prefetcher(k, path + p + TILE, next, block, a.delta, a.u, a.z, a.out);
            const bool unclamped = this->take_steps(dl, u, k, path + p, count, block, lanes);
            advance<T, true>(unclamped, *this, block, dl, u, count, h, y, ahead);
            give_output(k, path + p, count, block, lanes);
          });
      }
    }
  }

  template <class Used>
  void give_output(int64_t k, const int32_t* tokens, int count, int64_t block, Used lanes) const {
    const View<const T> z = a.z;
    const View<T> out = a.out;
    const int64_t b = item.batch, channel = this->channel(block);
    const bool first = k == 0, gate = z.data && k + 1 == a.directions;
    const V D = a.D ? load(a.D + k * a.channels + channel, lanes) : V{};
    for (int t = 0; t < count; t++) {
      V sum = y[t] + D * u[t];
      T* to = out.row(b, 0, tokens[t]) + channel;
      if (!first) sum += load(to, lanes);
      if (gate) sum *= silu<T>(load(z.row(b, 0, tokens[t]) + channel, lanes));
      store(to, sum, lanes);
    }
  }
};

template <class T>
struct Backward : Walk<T> {
  typedef Vec<T> V;
  using Walk<T>::a;
  using Walk<T>::item;
  using Walk<T>::blocks;
  using Walk<T>::states;

  int64_t tiles;           // per chunk
  V *dl, *u;               // [block][chunk step]
  bool* unclamped;         // [block][chunk tile]
  V* start;                // [block][chunk tile][state]: the state before each tile
  V *g, *gate;             // [block][tile step]: gradient of y_k; sigmoid(z)
  V *y, *dx, *dexp;        // [block][tile step]: y_k - D u; gradients of x and, through the decays, of dl
  V *dh, *dA;              // [block][state]: gradient of the state, decayed to the step before; gradient of A
  V *dD, *dbias, *steps;   // [block]; the sum of dl
  V *rests, *state;        // [tile step][group]: of one block, one group of states; see rest_of_product
  V *dB_lanes, *dC_lanes;  // [tile step][group]: summed over the blocks, lanes apart

  OrderedRows<T> rows;     // of dB and dC

  Backward(const ScanArgs<T>& args, const Item<T>& item, int64_t channels, Arena& arena)
      : Walk<T>(args, item, channels, arena), rows(args, item, TILE, args.state_size, states, arena) {
    tiles = (a.chunk + TILE - 1) / TILE;
    dl = arena.take<V>(blocks * tiles * TILE);
    u = arena.take<V>(blocks * tiles * TILE);
    unclamped = arena.take<bool>(blocks * tiles);
    start = arena.take<V>(blocks * tiles * states);
    g = arena.take<V>(blocks * TILE);
    gate = arena.take<V>(blocks * TILE);
    y = arena.take<V>(blocks * TILE);
    dx = arena.take<V>(blocks * TILE);
    dexp = arena.take<V>(blocks * TILE);
    dh = arena.take<V>(blocks * states);
    dA = arena.take<V>(blocks * states);
    dD = arena.take<V>(blocks);
    dbias = arena.take<V>(blocks);
    steps = arena.take<V>(blocks);
    rests = arena.take<V>(TILE * GROUP);
    state = arena.take<V>((TILE + 1) * GROUP);
    dB_lanes = arena.take<V>(TILE * GROUP);
    dC_lanes = arena.take<V>(TILE * GROUP);
  }

  void summarise() {
    this->clear_padding();
    for (int64_t k = item.direction_begin; k < item.direction_end; k++) {
      this->take_direction(k, dh);
      memset(steps, 0, blocks * sizeof(V));
      for (int64_t p = (item.end - 1) / TILE * TILE; p >= item.begin; p -= TILE) {
        const int32_t* tokens = a.paths + k * a.length + p;
        const int count = int(min<int64_t>(TILE, item.end - p));
        const int before = p > item.begin ? TILE : 0;
        this->take_rows(this->C, a.C, k, tokens, count);
        this->prefetch_rows(k, tokens - TILE, before, a.C);
        for (int64_t block = 0; block < blocks; block++)
          this->with_lanes_of(block, [&](auto lanes) {
            const auto ahead = this->prefetcher(k, tokens - TILE, before, block, a.delta, a.u, a.grad_out, a.z);
            this->take_steps(dl, u, k, tokens, count, block, lanes);
            take_gradients(tokens, count, block, lanes);
            for (int t = count - 1; t >= 0; t--) {
              ahead(t);
              for (int64_t j = 0; j < states; j++) {
                V &d = dh[block * states + j], A = this->A[block * states + j];
                const V shifted = exponent_of_product<T, true>(dl[t], A);
                d = decayed<T>(d + g[block * TILE + t] * this->C[t * states + j], shifted,
                               rest_of_product<T, true>(dl[t], A, shifted));
              }
              steps[block] += dl[t];
            }
          });
      }
      this->give_summary(k, dh, steps);
    }
  }

  void run() {
    this->clear_padding();
    for (int64_t k = item.direction_begin; k < item.direction_end; k++) {
      this->take_direction(k, dh);
      memset(dA, 0, blocks * states * sizeof(V));
      memset(dD, 0, blocks * sizeof(V)), memset(dbias, 0, blocks * sizeof(V));
      for (int64_t chunk = (item.end - 1) / a.chunk; chunk >= item.begin / a.chunk; chunk--) {
        const int32_t* tokens = a.paths + k * a.length + chunk * a.chunk;
        const int count = int(min(a.chunk, item.end - chunk * a.chunk));
        take_chunk(k, chunk, tokens, count);
        for (int tile = (count - 1) / TILE; tile >= 0; tile--)
          sweep_tile(k, tile, chunk * a.chunk + tile * TILE, tokens + tile * TILE, min(TILE, count - tile * TILE));
      }
      finish_direction(k);
    }
    rows.finish();
  }

  // The steps of a chunk and the state before each of its tiles.
  void take_chunk(int64_t k, int64_t chunk, const int32_t* tokens, int count) {
    for (int64_t block = 0; block < blocks; block++)
      this->with_lanes_of(block, [&](auto lanes) {
        V* h = start + block * tiles * states;
        for (int64_t j = 0; j < a.state_size; j++)
          h[j] = load(saved_state(a, item.batch, k, chunk, j, this->channel(block)), lanes);
        for (int64_t j = a.state_size; j < states; j++) h[j] = V{};
      });
    for (int tile = 0; tile * TILE < count; tile++) {
      const int32_t* tile_tokens = tokens + tile * TILE;
      const int tile_count = min(TILE, count - tile * TILE);
      const int next = max(0, min(TILE, count - (tile + 1) * TILE));
      const bool last = next == 0;
      if (!last) this->take_rows(this->B, a.B, k, tile_tokens, tile_count);
      this->prefetch_rows(k, tile_tokens + TILE, next, a.B);
      for (int64_t block = 0; block < blocks; block++)
        this->with_lanes_of(block, [&](auto lanes) {
          const int64_t i = block * tiles + tile;
          unclamped[i] = this->take_steps(dl + i * TILE, u + i * TILE, k, tile_tokens, tile_count, block, lanes);
          if (last) return;
          V* h = start + i * states;
          memcpy(h + states, h, states * sizeof(V));
          advance<T, false>(unclamped[i], *this, block, dl + i * TILE, u + i * TILE, tile_count, h + states, nullptr,
                            this->prefetcher(k, tile_tokens + TILE, next, block, a.delta, a.u));
        });
    }
  }

  void sweep_tile(int64_t k, int tile, int64_t position, const int32_t* tokens, int count) {
    this->take_rows(this->B, a.B, k, tokens, count);
    this->take_rows(this->C, a.C, k, tokens, count);
    this->prefetch_rows(k, tokens, count, a.dB, a.dC);
    if (tile > 0) this->prefetch_rows(k, tokens - TILE, TILE, a.B, a.C);
    for (int64_t block = 0; block < blocks; block++)
      this->with_lanes_of(block, [&](auto lanes) { take_gradients(tokens, count, block, lanes); });
    T* const dB = rows.next();
    T* const dC = dB + TILE * states;
    const int before = position >= item.begin + TILE ? TILE : 0;
    const int chunk_before = tile == 0 && position >= item.begin + a.chunk ? TILE : 0;
    for (int64_t first = 0; first < states; first += GROUP) {
      memset(dB_lanes, 0, TILE * GROUP * sizeof(V)), memset(dC_lanes, 0, TILE * GROUP * sizeof(V));
      for (int64_t block = 0; block < blocks; block++) {
        const auto tile_ahead =
            this->prefetcher(k, tokens - TILE, before, block, a.grad_out, a.z, a.du, a.dz, a.ddelta);
        const auto chunk_ahead = this->prefetcher(k, tokens - a.chunk, chunk_before, block, a.delta, a.u);
        const auto ahead = [&](int t) NM_INLINED { tile_ahead(t), chunk_ahead(t); };
        if (unclamped[block * tiles + tile])
          sweep_group<false>(block, tile, first, count, ahead);
        else
          sweep_group<true>(block, tile, first, count, ahead);
      }
      sum_lanes(dB + first, dB_lanes, count);
      sum_lanes(dC + first, dC_lanes, count);
    }
    rows.put();
    for (int64_t block = 0; block < blocks; block++)
      this->with_lanes_of(block, [&](auto lanes) { give_gradients(k, tile, tokens, count, block, lanes); });
  }

  template <class Used>
  void take_gradients(const int32_t* tokens, int count, int64_t block, Used lanes) {
    const View<const T> grad_out = a.grad_out, z = a.z;
    const int64_t b = item.batch, channel = this->channel(block);
    for (int t = 0; t < count; t++) {
      V grad = load(grad_out.row(b, 0, tokens[t]) + channel, lanes);
      if (z.data) {
        const V z_t = load(z.row(b, 0, tokens[t]) + channel, lanes);
        gate[block * TILE + t] = sigmoid<T>(z_t);
        grad *= z_t * gate[block * TILE + t];
      }
      g[block * TILE + t] = grad;
    }
  }

  template <bool CLAMP, class Ahead>
  void sweep_group(int64_t block, int tile, int64_t first, int count, Ahead ahead) {
    const V *dl = this->dl + (block * tiles + tile) * TILE, *u = this->u + (block * tiles + tile) * TILE;
    const V *g = this->g + block * TILE, *A = this->A + block * states + first;
    V *y = this->y + block * TILE, *dx = this->dx + block * TILE, *dexp = this->dexp + block * TILE;
    V *rests = this->rests, *state = this->state, *dB_lanes = this->dB_lanes, *dC_lanes = this->dC_lanes;
    const T *B = this->B + first, *C = this->C + first;
    const int64_t stride = states;
    V h[GROUP];
    NM_UNROLL for (int j = 0; j < GROUP; j++) state[j] = h[j] = start[(block * tiles + tile) * stride + first + j];
    for (int t = 0; t < count; t++) {
      const V step = dl[t], input = step * u[t], grad = g[t];
      if (first == 0) ahead(t);
      V sum = first ? y[t] : V{};
      NM_UNROLL for (int j = 0; j < GROUP; j++) {
        const V shifted = exponent_of_product<T, CLAMP>(step, A[j]);
        const V rest = rest_of_product<T, CLAMP>(step, A[j], shifted);
        h[j] = decayed<T>(h[j], shifted, rest) + input * B[t * stride + j];
        rests[t * GROUP + j] = rest;
        state[(t + 1) * GROUP + j] = h[j];
        dC_lanes[t * GROUP + j] += grad * h[j];
        sum += h[j] * C[t * stride + j];
      }
      y[t] = sum;
    }

    V dh[GROUP], dA[GROUP] = {};
    NM_UNROLL for (int j = 0; j < GROUP; j++) dh[j] = this->dh[block * stride + first + j];
    for (int t = count - 1; t >= 0; t--) {
      const V step = dl[t], input = step * u[t], grad = g[t];
      V dx_sum = first ? dx[t] : V{}, dexp_sum = first ? dexp[t] : V{};
      NM_UNROLL for (int j = 0; j < GROUP; j++) {
        V d = dh[j] + grad * C[t * stride + j];
        dB_lanes[t * GROUP + j] += d * input;
        dx_sum += d * B[t * stride + j];
        dh[j] = decayed<T>(d, exponent_of_product<T, CLAMP>(step, A[j]), rests[t * GROUP + j]);
        V dexponent = dh[j] * state[t * GROUP + j];
        dexp_sum += dexponent * A[j];
        dA[j] += dexponent * step;
      }
      dx[t] = dx_sum, dexp[t] = dexp_sum;
    }
    NM_UNROLL for (int j = 0; j < GROUP; j++) {
      this->dh[block * stride + first + j] = dh[j];
      this->dA[block * stride + first + j] += dA[j];  // tile by tile: one long sum would lose digits
    }
  }

  void sum_lanes(T* rows, const V* lanes, int count) {
    alignas(64) T sum[TILE * GROUP];
    for (int i = 0; i < count * GROUP; i += W<T>) store(sum + i, sums<T>(lanes + i));
    for (int t = 0; t < count; t++) memcpy(rows + t * states, sum + t * GROUP, GROUP * sizeof(T));
  }

  template <class Used>
  void give_gradients(int64_t k, int tile, const int32_t* tokens, int count, int64_t block, Used lanes) {
    constexpr T ln2 = T(0.693147180559945309417);
    const View<const T> z = a.z, grad_out = a.grad_out;
    const View<T> du = a.du, ddelta = a.ddelta, dz = a.dz;
    const int64_t b = item.batch, channel = this->channel(block);
    const V *dl = this->dl + (block * tiles + tile) * TILE, *u = this->u + (block * tiles + tile) * TILE;
    const V *g = this->g + block * TILE, *y = this->y + block * TILE;
    const V *dx = this->dx + block * TILE, *dexp = this->dexp + block * TILE;
    const V D = a.D ? load(a.D + k * a.channels + channel, lanes) : V{};
    const bool first = k == 0, last = k + 1 == a.directions, add_du = !first && du.direction == 0,
               with_softplus = a.softplus;
    V dD_sum = {}, dbias_sum = {};
    for (int t = 0; t < count; t++) {
      const V u_t = u[t];
      V ddelta_t = dexp[t] * ln2 + dx[t] * u_t;
      if (with_softplus) ddelta_t *= softplus_derivative_at<T>(dl[t]);
      store(ddelta.row(b, k, tokens[t]) + channel, ddelta_t, lanes);
      dbias_sum += ddelta_t;
      dD_sum += g[t] * u_t;

      T* to_du = du.row(b, k, tokens[t]) + channel;
      V du_t = dx[t] * dl[t] + g[t] * D;
      if (add_du) du_t += load(to_du, lanes);
      store(to_du, du_t, lanes);

      if (dz.data) {  // holds the ungated output until the last direction
        T* to_dz = dz.row(b, 0, tokens[t]) + channel;
        V sum = y[t] + D * u_t;
        if (!first) sum += load(to_dz, lanes);
        if (last) {
          const V z_t = load(z.row(b, 0, tokens[t]) + channel, lanes);
          sum *= load(grad_out.row(b, 0, tokens[t]) + channel, lanes) * silu_derivative<T>(z_t, gate[block * TILE + t]);
        }
        store(to_dz, sum, lanes);
      }
    }
    dD[block] += dD_sum, dbias[block] += dbias_sum;
  }

  void finish_direction(int64_t k) {
    const Turn& turn = item.among_segments;
    const bool add = turn.done_before;
    wait_for_turn(turn, k + 1);
    for (int64_t channel = item.channel_begin; channel < item.channel_end; channel++) {
      const int64_t block = (channel - item.channel_begin) / W<T>, lane = (channel - item.channel_begin) % W<T>;
      const int64_t i = k * a.channels + channel;
      for (int64_t j = 0; j < a.state_size; j++) {
        T* to = a.dA + i * a.state_size + j;
        *to = dA[block * states + j][lane] + (add ? *to : 0);
      }
      if (a.dD) a.dD[i] = dD[block][lane] + (add ? a.dD[i] : 0);
      if (a.ddelta_bias) a.ddelta_bias[i] = dbias[block][lane] + (add ? a.ddelta_bias[i] : 0);
    }
    end_turn(turn, k + 1);
  }
};

}  // namespace

void get(ScanKernels<float>& to) { set_kernels<float, Forward<float>, Backward<float>>(to); }
void get(ScanKernels<double>& to) { set_kernels<double, Forward<double>, Backward<double>>(to); }

}  // namespace NM_ISA
}  // namespace nm
