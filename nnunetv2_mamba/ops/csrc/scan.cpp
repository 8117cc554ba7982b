// The selective scan along paths through a grid: y_p = C_p . h_p + D u_p, h_p = exp(dl_p A) h_{p-1} + dl_p u_p B_p.
//
// A SIMD lane owns a channel. A path is walked in tiles of TILE tokens; within a tile, GROUP states at a time stay in
// registers. A is scaled by log2(e) once per direction. The backward walks the chunks in reverse: from the saved state
// before the chunk it recomputes the state before each tile; then, tile by tile in reverse, it recomputes the states of
// every step and sweeps back over them.
#include "kernels.h"
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

// What both passes keep for an item: everything below is indexed [block], [block][state] or [tile step][state].
template <class T>
struct Walk {
  typedef Vec<T> V;

  const ScanArgs<T>& a;
  int64_t blocks;
  int64_t states;  // a.state_size, padded to whole groups with A = B = C = 0
  V *A, *A_max;    // A log2(e), and the largest magnitude over the states
  V* h;
  T *B, *C;

  Walk(const ScanArgs<T>& args, int64_t channels, Arena& arena) : a(args) {
    blocks = (channels + W<T> - 1) / W<T>;
    states = (a.state_size + GROUP - 1) / GROUP * GROUP;
    A = arena.take<V>(blocks * states);
    A_max = arena.take<V>(blocks);
    h = arena.take<V>(blocks * states);
    B = arena.take<T>(TILE * states);
    C = arena.take<T>(TILE * states);
  }

  void clear_padding() { memset(B, 0, TILE * states * sizeof(T)), memset(C, 0, TILE * states * sizeof(T)); }

  int lanes(int64_t channel) const { return lanes_from<T>(channel, a.channels); }

  void take_direction(int64_t k, int64_t channel_begin) {
    constexpr T log2e = T(1.44269504088896340736);
    for (int64_t block = 0; block < blocks; block++) {
      int64_t channel = channel_begin + block * W<T>;
      const T* from = a.A + (k * a.channels + channel) * a.state_size;
      A_max[block] = V{};
      for (int64_t j = 0; j < states; j++) {
        V v = {};
        if (j < a.state_size)
          for (int l = 0; l < lanes(channel); l++) v[l] = from[l * a.state_size + j] * log2e;
        A[block * states + j] = v;
        A_max[block] = max(A_max[block], abs(v));
      }
    }
    memset(h, 0, blocks * states * sizeof(V));
  }

  void take_rows(T* rows, const View<const T>& from, int64_t b, int64_t k, const int32_t* tokens, int count) const {
    for (int t = 0; t < count; t++) {
      const T* row = from.row(b, k, tokens[t]);
      for (int64_t j = 0; j < a.state_size; j += W<T>) {
        int64_t left = a.state_size - j;
        store(rows + t * states + j, load(row + j, left < W<T> ? int(left) : W<T>), left < W<T> ? int(left) : W<T>);
      }
    }
  }

  // dl and x = dl u of a tile. Returns whether every exponent dl A may be used unclamped.
  bool take_steps(V* dl, V* x, int64_t b, int64_t k, const int32_t* tokens, int count, int64_t block, int64_t channel) const {
    const int lanes = this->lanes(channel);
    V bias = a.delta_bias ? load(a.delta_bias + k * a.channels + channel, lanes) : V{}, dl_max = {};
    for (int t = 0; t < count; t++) {
      V step = load(a.delta.row(b, k, tokens[t]) + channel, lanes) + bias;
      if (a.softplus) step = softplus<T>(step);
      dl[t] = step;
      x[t] = step * load(a.u.row(b, k, tokens[t]) + channel, lanes);
      dl_max = max(dl_max, abs(step));
    }
    typename Lanes<T>::Bits beyond = dl_max * A_max[block] > splat<T>(Exp2<T>::limit);
    int any = 0;
    for (int l = 0; l < W<T>; l++) any |= beyond[l] != 0;
    return !any;
  }

  T* saved_state(int64_t b, int64_t k, int64_t chunk, int64_t j, int64_t channel) const {
    int64_t chunks = (a.length + a.chunk - 1) / a.chunk;
    return a.states + (((b * a.directions + k) * chunks + chunk) * a.state_size + j) * a.channels + channel;
  }
};

// A tile's steps of all states of one block; y gets C . h.
template <class T, bool CLAMP, bool OUTPUT>
void advance(const Walk<T>& walk, int64_t block, const Vec<T>* dl, const Vec<T>* x, int count, Vec<T>* states, Vec<T>* y) {
  typedef Vec<T> V;
  for (int64_t first = 0; first < walk.states; first += GROUP) {
    const T *B = walk.B + first, *C = walk.C + first;
    V A[GROUP], h[GROUP];
    NM_UNROLL for (int j = 0; j < GROUP; j++) A[j] = walk.A[block * walk.states + first + j], h[j] = states[first + j];
    for (int t = 0; t < count; t++) {
      const V step = dl[t], input = x[t];
      V sum = OUTPUT && first ? y[t] : V{};
      NM_UNROLL for (int j = 0; j < GROUP; j++) {
        h[j] = exp2_of_product<T, CLAMP>(step, A[j]) * h[j] + input * B[t * walk.states + j];
        if (OUTPUT) sum += h[j] * C[t * walk.states + j];
      }
      if (OUTPUT) y[t] = sum;
    }
    NM_UNROLL for (int j = 0; j < GROUP; j++) states[first + j] = h[j];
  }
}

template <class T>
void forward(const ScanArgs<T>& a, const Item& item, void* scratch) {
  typedef Vec<T> V;
  Arena arena{(char*)scratch};
  Walk<T> walk(a, item.channel_end - item.channel_begin, arena);
  walk.clear_padding();
  V dl[TILE], x[TILE], y[TILE];
  const int64_t b = item.batch;

  for (int64_t k = 0; k < a.directions; k++) {
    walk.take_direction(k, item.channel_begin);
    const bool first = k == 0, gate = a.z.data && k + 1 == a.directions;
    for (int64_t p = 0; p < a.length; p += TILE) {
      const int32_t* tokens = a.paths + k * a.length + p;
      const int count = a.length - p < TILE ? int(a.length - p) : TILE;
      walk.take_rows(walk.B, a.B, b, k, tokens, count);
      walk.take_rows(walk.C, a.C, b, k, tokens, count);
      for (int64_t block = 0; block < walk.blocks; block++) {
        const int64_t channel = item.channel_begin + block * W<T>;
        const int lanes = walk.lanes(channel);
        V* h = walk.h + block * walk.states;
        if (p % a.chunk == 0)
          for (int64_t j = 0; j < a.state_size; j++) store(walk.saved_state(b, k, p / a.chunk, j, channel), h[j], lanes);

        if (walk.take_steps(dl, x, b, k, tokens, count, block, channel))
          advance<T, false, true>(walk, block, dl, x, count, h, y);
        else
          advance<T, true, true>(walk, block, dl, x, count, h, y);

        const V D = a.D ? load(a.D + k * a.channels + channel, lanes) : V{};
        for (int t = 0; t < count; t++) {
          V sum = y[t] + D * load(a.u.row(b, k, tokens[t]) + channel, lanes);
          T* out = a.out.row(b, 0, tokens[t]) + channel;
          if (!first) sum += load(out, lanes);
          if (gate) sum *= silu<T>(load(a.z.row(b, 0, tokens[t]) + channel, lanes));
          store(out, sum, lanes);
        }
      }
    }
  }
}

template <class T>
struct Backward : Walk<T> {
  typedef Vec<T> V;
  using Walk<T>::a;
  using Walk<T>::blocks;
  using Walk<T>::states;

  const Item& item;
  int64_t tiles;         // per chunk
  V *dl, *x;             // [block][chunk step]
  bool* unclamped;       // [block][chunk tile]
  V* start;              // [block][chunk tile][state]: the state before each tile
  V *g, *y, *dx, *dexp;  // [block][tile step]: gradient of y_k; y_k - D u; gradients of x and of dl through the decays
  V *dh, *dA;            // [block][state]: gradient of the state, decayed to the step before; A's gradient
  V *dD, *dbias;         // [block]
  V *decay, *state;      // [tile step][group]: of one block, one group of states
  V *dB_lanes, *dC_lanes, *reduced;  // [tile step][group]: summed over the blocks, lanes apart
  T *dB, *dC;            // [tile step][state]

  Backward(const ScanArgs<T>& args, const Item& item, int64_t channels, Arena& arena) : Walk<T>(args, channels, arena), item(item) {
    tiles = (a.chunk + TILE - 1) / TILE;
    dl = arena.take<V>(blocks * tiles * TILE);
    x = arena.take<V>(blocks * tiles * TILE);
    unclamped = arena.take<bool>(blocks * tiles);
    start = arena.take<V>(blocks * tiles * states);
    g = arena.take<V>(blocks * TILE);
    y = arena.take<V>(blocks * TILE);
    dx = arena.take<V>(blocks * TILE);
    dexp = arena.take<V>(blocks * TILE);
    dh = arena.take<V>(blocks * states);
    dA = arena.take<V>(blocks * states);
    dD = arena.take<V>(blocks);
    dbias = arena.take<V>(blocks);
    decay = arena.take<V>(TILE * GROUP);
    state = arena.take<V>((TILE + 1) * GROUP);
    dB_lanes = arena.take<V>(TILE * GROUP);
    dC_lanes = arena.take<V>(TILE * GROUP);
    dB = arena.take<T>(TILE * states);
    dC = arena.take<T>(TILE * states);
  }

  void run() {
    this->clear_padding();
    const int64_t chunks = (a.length + a.chunk - 1) / a.chunk;
    int64_t step = 0;
    for (int64_t k = 0; k < a.directions; k++) {
      this->take_direction(k, item.channel_begin);
      memset(dh, 0, blocks * states * sizeof(V)), memset(dA, 0, blocks * states * sizeof(V));
      memset(dD, 0, blocks * sizeof(V)), memset(dbias, 0, blocks * sizeof(V));
      for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
        const int32_t* tokens = a.paths + k * a.length + chunk * a.chunk;
        const int count = int(a.length - chunk * a.chunk < a.chunk ? a.length - chunk * a.chunk : a.chunk);
        recompute_starts(k, chunk, tokens, count);
        for (int tile = (count - 1) / TILE; tile >= 0; tile--)
          sweep_tile(k, tile, tokens + tile * TILE, count - tile * TILE < TILE ? count - tile * TILE : TILE, ++step);
      }
      finish_direction(k);
    }
  }

  void recompute_starts(int64_t k, int64_t chunk, const int32_t* tokens, int count) {
    const int64_t b = item.batch;
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t channel = item.channel_begin + block * W<T>;
      V* h = start + block * tiles * states;
      for (int64_t j = 0; j < a.state_size; j++) h[j] = load(this->saved_state(b, k, chunk, j, channel), this->lanes(channel));
      for (int64_t j = a.state_size; j < states; j++) h[j] = V{};
    }
    for (int first = 0; first < count; first += TILE) {
      const int tile = first / TILE, tile_count = count - first < TILE ? count - first : TILE;
      const bool last = first + TILE >= count;
      if (!last) this->take_rows(this->B, a.B, b, k, tokens + first, tile_count);
      for (int64_t block = 0; block < blocks; block++) {
        V *tile_dl = dl + (block * tiles + tile) * TILE, *tile_x = x + (block * tiles + tile) * TILE;
        const bool safe = this->take_steps(tile_dl, tile_x, b, k, tokens + first, tile_count, block, item.channel_begin + block * W<T>);
        unclamped[block * tiles + tile] = safe;
        if (last) continue;
        V* h = start + (block * tiles + tile) * states;
        memcpy(h + states, h, states * sizeof(V));
        if (safe)
          advance<T, false, false>(*this, block, tile_dl, tile_x, tile_count, h + states, nullptr);
        else
          advance<T, true, false>(*this, block, tile_dl, tile_x, tile_count, h + states, nullptr);
      }
    }
  }

  void sweep_tile(int64_t k, int tile, const int32_t* tokens, int count, int64_t step) {
    const int64_t b = item.batch;
    this->take_rows(this->B, a.B, b, k, tokens, count);
    this->take_rows(this->C, a.C, b, k, tokens, count);
    for (int64_t block = 0; block < blocks; block++) take_gradients(tokens, count, block);
    for (int64_t first = 0; first < states; first += GROUP) {
      memset(dB_lanes, 0, TILE * GROUP * sizeof(V)), memset(dC_lanes, 0, TILE * GROUP * sizeof(V));
      for (int64_t block = 0; block < blocks; block++)
        if (unclamped[block * tiles + tile])
          sweep_group<false>(block, tile, first, count);
        else
          sweep_group<true>(block, tile, first, count);
      sum_lanes(dB + first, dB_lanes, count);
      sum_lanes(dC + first, dC_lanes, count);
    }
    add_rows(k, tokens, count, step);
    for (int64_t block = 0; block < blocks; block++) give_gradients(k, tile, tokens, count, block);
  }

  void take_gradients(const int32_t* tokens, int count, int64_t block) {
    const int64_t b = item.batch, channel = item.channel_begin + block * W<T>;
    const int lanes = this->lanes(channel);
    for (int t = 0; t < count; t++) {
      V grad = load(a.grad_out.row(b, 0, tokens[t]) + channel, lanes);
      if (a.z.data) grad *= silu<T>(load(a.z.row(b, 0, tokens[t]) + channel, lanes));
      g[block * TILE + t] = grad;
    }
  }

  template <bool CLAMP>
  void sweep_group(int64_t block, int tile, int64_t first, int count) {
    const V *dl = this->dl + (block * tiles + tile) * TILE, *x = this->x + (block * tiles + tile) * TILE;
    const V *g = this->g + block * TILE, *A = this->A + block * states + first;
    V *y = this->y + block * TILE, *dx = this->dx + block * TILE, *dexp = this->dexp + block * TILE;
    const T *B = this->B + first, *C = this->C + first;
    V h[GROUP];
    NM_UNROLL for (int j = 0; j < GROUP; j++) state[j] = h[j] = start[(block * tiles + tile) * states + first + j];
    for (int t = 0; t < count; t++) {
      V sum = first ? y[t] : V{};
      NM_UNROLL for (int j = 0; j < GROUP; j++) {
        V e = exp2_of_product<T, CLAMP>(dl[t], A[j]);
        h[j] = e * h[j] + x[t] * B[t * states + j];
        decay[t * GROUP + j] = e;
        state[(t + 1) * GROUP + j] = h[j];
        dC_lanes[t * GROUP + j] += g[t] * h[j];
        sum += h[j] * C[t * states + j];
      }
      y[t] = sum;
    }

    V dh[GROUP], dA[GROUP] = {};
    NM_UNROLL for (int j = 0; j < GROUP; j++) dh[j] = this->dh[block * states + first + j];
    for (int t = count - 1; t >= 0; t--) {
      V dx_sum = first ? dx[t] : V{}, dexp_sum = first ? dexp[t] : V{};
      NM_UNROLL for (int j = 0; j < GROUP; j++) {
        V d = dh[j] + g[t] * C[t * states + j];
        dB_lanes[t * GROUP + j] += d * x[t];
        dx_sum += d * B[t * states + j];
        dh[j] = d * decay[t * GROUP + j];
        V dexponent = dh[j] * state[t * GROUP + j];
        dexp_sum += dexponent * A[j];
        dA[j] += dexponent * dl[t];
      }
      dx[t] = dx_sum, dexp[t] = dexp_sum;
    }
    // Sums of a tile first: a single sum over a long path would lose digits.
    NM_UNROLL for (int j = 0; j < GROUP; j++) this->dh[block * states + first + j] = dh[j], this->dA[block * states + first + j] += dA[j];
  }

  void sum_lanes(T* rows, const V* lanes, int count) {
    alignas(64) T sum[TILE * GROUP];
    for (int i = 0; i < count * GROUP; i += W<T>) store(sum + i, sums<T>(lanes + i));
    for (int t = 0; t < count; t++) memcpy(rows + t * states, sum + t * GROUP, GROUP * sizeof(T));
  }

  void add_rows(int64_t k, const int32_t* tokens, int count, int64_t step) {
    const Turn& turn = item.among_channels;
    wait_for_turn(turn, step);
    for (int t = 0; t < count; t++) {
      T *to_B = a.dB.row(item.batch, k, tokens[t]), *to_C = a.dC.row(item.batch, k, tokens[t]);
      for (int64_t j = 0; j < a.state_size; j++) {
        to_B[j] = dB[t * states + j] + (turn.done_before ? to_B[j] : 0);
        to_C[j] = dC[t * states + j] + (turn.done_before ? to_C[j] : 0);
      }
    }
    end_turn(turn, step);
  }

  void give_gradients(int64_t k, int tile, const int32_t* tokens, int count, int64_t block) {
    constexpr T ln2 = T(0.693147180559945309417);
    const int64_t b = item.batch, channel = item.channel_begin + block * W<T>;
    const int lanes = this->lanes(channel);
    const V* dl = this->dl + (block * tiles + tile) * TILE;
    const V D = a.D ? load(a.D + k * a.channels + channel, lanes) : V{};
    const V bias = a.delta_bias ? load(a.delta_bias + k * a.channels + channel, lanes) : V{};
    const bool add_du = k > 0 && a.du.direction == 0, first = k == 0, last = k + 1 == a.directions;
    V dD_sum = {}, dbias_sum = {};
    for (int t = 0; t < count; t++) {
      const V u = load(a.u.row(b, k, tokens[t]) + channel, lanes), grad = g[block * TILE + t], dx_t = dx[block * TILE + t];
      V ddelta = dexp[block * TILE + t] * ln2 + dx_t * u;
      if (a.softplus) ddelta *= sigmoid<T>(load(a.delta.row(b, k, tokens[t]) + channel, lanes) + bias);
      store(a.ddelta.row(b, k, tokens[t]) + channel, ddelta, lanes);
      dbias_sum += ddelta;
      dD_sum += grad * u;

      T* to_du = a.du.row(b, k, tokens[t]) + channel;
      V du = dx_t * dl[t] + grad * D;
      if (add_du) du += load(to_du, lanes);
      store(to_du, du, lanes);

      if (a.dz.data) {  // holds the ungated output until all directions have passed
        T* to_dz = a.dz.row(b, 0, tokens[t]) + channel;
        V sum = y[block * TILE + t] + D * u;
        if (!first) sum += load(to_dz, lanes);
        if (last) sum *= load(a.grad_out.row(b, 0, tokens[t]) + channel, lanes) * silu_derivative<T>(load(a.z.row(b, 0, tokens[t]) + channel, lanes));
        store(to_dz, sum, lanes);
      }
    }
    dD[block] += dD_sum, dbias[block] += dbias_sum;
  }

  void finish_direction(int64_t k) {
    const Turn& turn = item.among_batch;
    wait_for_turn(turn, k + 1);
    const bool add = turn.done_before;
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t channel = item.channel_begin + block * W<T>;
      for (int l = 0; l < this->lanes(channel); l++) {
        const int64_t i = k * a.channels + channel + l;
        for (int64_t j = 0; j < a.state_size; j++) {
          T& to = a.dA[i * a.state_size + j];
          to = dA[block * states + j][l] + (add ? to : 0);
        }
        if (a.dD) a.dD[i] = dD[block][l] + (add ? a.dD[i] : 0);
        if (a.ddelta_bias) a.ddelta_bias[i] = dbias[block][l] + (add ? a.ddelta_bias[i] : 0);
      }
    }
    end_turn(turn, k + 1);
  }
};

template <class T>
size_t scratch_bytes(const ScanArgs<T>& a, int64_t channels, bool backward) {
  Arena arena{nullptr};
  if (backward)
    Backward<T>(a, Item(), channels, arena);
  else
    Walk<T>(a, channels, arena);
  return (size_t)arena.next;
}

template <class T>
void backward(const ScanArgs<T>& a, const Item& item, void* scratch) {
  Arena arena{(char*)scratch};
  Backward<T>(a, item, item.channel_end - item.channel_begin, arena).run();
}

}  // namespace

void get(ScanKernels<float>& kernels) { kernels = {W<float>, scratch_bytes<float>, forward<float>, backward<float>}; }
void get(ScanKernels<double>& kernels) { kernels = {W<double>, scratch_bytes<double>, forward<double>, backward<double>}; }

}  // namespace NM_ISA
}  // namespace nm
