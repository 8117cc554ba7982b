// The backward pass of Mamba-2's scan, see ssd.cpp.
#pragma once
#include "ordered_rows.h"
#include "scan_passes.h"
#include "ssd_walk.h"

namespace nm {
namespace NM_ISA {
namespace {

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
          retreat(k, bundle, tokens, p > item.begin ? TILE : 0);
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
        this->advance(bundle, after, k, tile_tokens + TILE, next, a.B);
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

  // The gradient of a bundle's state from after the tile to before it; C of the `earlier` tokens that are next is
  // prefetched.
  void retreat(int64_t k, int64_t bundle, const int32_t* tokens, int earlier) {
    this->pass_on(bundle, this->C, g_from_start, dh, this->state_prefetcher(k, tokens - TILE, earlier, bundle, a.C));
  }

  // `earlier`: tokens of the tile that is swept next, which lie before these.
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
    this->each_bundle([&](int64_t bundle) { retreat(k, bundle, tokens, earlier); });
    give_gradients(k, tokens, count);
  }

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
}  // namespace NM_ISA
}  // namespace nm
