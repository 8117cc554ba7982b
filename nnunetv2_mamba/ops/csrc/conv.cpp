// The causal depthwise convolution along paths: out_p = act(bias + sum_i weight_i x_{p - w + 1 + i}), x before the path
// being zero. A SIMD lane owns a channel; a path is walked in tiles of TILE tokens.
#include "kernels.h"
#include "simd.h"

namespace nm {
namespace NM_ISA {
namespace {

constexpr int TILE = 16;

template <class T>
struct Conv {
  typedef Vec<T> V;

  const ConvArgs<T>& a;
  const Item<T>& item;
  int64_t blocks;
  int64_t history;     // steps before a tile that it depends on: width - 1
  V *weight, *bias;    // [block][tap], [block]
  V *x, *dpre;         // [block][history and tile step]: the input; the gradient before the activation
  V *dweight, *dbias;  // [block][tap], [block]

  Conv(const ConvArgs<T>& args, const Item<T>& item, int64_t channels, Arena& arena) : a(args), item(item) {
    blocks = (channels + W<T> - 1) / W<T>;
    history = a.width - 1;
    weight = arena.take<V>(blocks * a.width);
    bias = arena.take<V>(blocks);
    x = arena.take<V>(blocks * (history + TILE));
    dpre = arena.take<V>(blocks * (history + TILE));
    dweight = arena.take<V>(blocks * a.width);
    dbias = arena.take<V>(blocks);
  }

  int64_t channel(int64_t block) const { return item.channel_begin + block * W<T>; }

  template <class Body>
  void with_lanes_of(int64_t block, Body body) const {
    with_lanes<T>(channel(block), a.channels, body);
  }

  void take_direction(int64_t k) {
    for (int64_t block = 0; block < blocks; block++)
      with_lanes_of(block, [&](auto lanes) {
        const int64_t i = k * a.channels + channel(block), used = min<int64_t>(W<T>, a.channels - channel(block));
        bias[block] = a.bias ? load(a.bias + i, lanes) : V{};
        for (int64_t tap = 0; tap < a.width; tap++) {
          V v = {};
          for (int64_t l = 0; l < used; l++) v[l] = a.weight[(i + l) * a.width + tap];
          weight[block * a.width + tap] = v;
        }
      });
    memset(x, 0, blocks * (history + TILE) * sizeof(V));
    memset(dpre, 0, blocks * (history + TILE) * sizeof(V));
    memset(dweight, 0, blocks * a.width * sizeof(V));
    memset(dbias, 0, blocks * sizeof(V));
    take_history(k);
  }

  // Moves the last steps of the tile before in front of the tile, and returns where the tile begins.
  V* next_tile(V* steps, int64_t block) const {
    steps += block * (history + TILE);
    memmove(steps, steps + TILE, history * sizeof(V));
    return steps + history;
  }

  // The input at the `history` positions before the segment; before the path it is zero.
  void take_history(int64_t k) {
    for (int64_t block = 0; block < blocks; block++)
      with_lanes_of(block, [&](auto lanes) {
        V* end = x + block * (history + TILE) + history + TILE;
        for (int64_t back = 1; back <= min(history, item.begin); back++)
          end[-back] = load(a.x.row(item.batch, k, a.paths[k * a.length + item.begin - back]) + channel(block), lanes);
      });
  }

  template <class Used>
  void take_input(int64_t k, const int32_t* tokens, int64_t count, int64_t block, Used lanes) {
    const View<const T> from = a.x;
    V* to = next_tile(x, block);
    for (int64_t t = 0; t < count; t++) to[t] = load(from.row(item.batch, k, tokens[t]) + channel(block), lanes);
  }

  V before_activation(int64_t block, int64_t t) const {
    const V *steps = x + block * (history + TILE) + t, *weight = this->weight + block * a.width;
    V sum = bias[block];
    for (int64_t tap = 0; tap <= history; tap++) sum += weight[tap] * steps[tap];
    return sum;
  }

  void forward() {
    for (int64_t k = item.direction_begin; k < item.direction_end; k++) {
      take_direction(k);
      for (int64_t p = item.begin; p < item.end; p += TILE) {
        const int32_t* tokens = a.paths + k * a.length + p;
        const int64_t count = min<int64_t>(TILE, item.end - p);
        for (int64_t block = 0; block < blocks; block++)
          with_lanes_of(block, [&](auto lanes) {
            take_input(k, tokens, count, block, lanes);
            const View<T> out = a.out;
            const auto ahead = prefetcher(item.batch, k, tokens + TILE, min<int64_t>(TILE, item.end - p - TILE),
                                          channel(block), a.x, out);
            for (int64_t t = 0; t < count; t++) {
              ahead(t);
              const V pre = before_activation(block, t);
              store(out.row(item.batch, k, tokens[t]) + channel(block), a.silu ? silu<T>(pre) : pre, lanes);
            }
          });
      }
    }
  }

  void backward() {
    for (int64_t k = item.direction_begin; k < item.direction_end; k++) {
      take_direction(k);
      const int32_t* path = a.paths + k * a.length;
      // The gradient of x at a step needs those of the `history` steps after it, so it lags behind by as many.
      for (int64_t p = item.begin; p < item.end + history; p += TILE) {
        const int64_t count = max<int64_t>(0, min<int64_t>(TILE, a.length - p));
        for (int64_t block = 0; block < blocks; block++)
          with_lanes_of(block, [&](auto lanes) {
            take_input(k, path + p, count, block, lanes);
            take_gradients(k, p, count, block, lanes);
            give_gradients(k, path, p - history, block, lanes);
          });
      }
      finish_direction(k);
    }
  }

  template <class Used>
  void take_gradients(int64_t k, int64_t begin, int64_t count, int64_t block, Used lanes) {
    const View<const T> from = a.grad_out;
    const int32_t* tokens = a.paths + k * a.length + begin;
    V* to = next_tile(dpre, block);
    const int64_t own = max<int64_t>(0, min(count, item.end - begin));  // the others are summed in the next segment
    V dbias_sum = {};
    const auto ahead = prefetcher(item.batch, k, tokens + TILE, min<int64_t>(TILE, a.length - begin - TILE),
                                  channel(block), a.x, from, a.dx);
    for (int64_t t = 0; t < count; t++) {
      V grad = load(from.row(item.batch, k, tokens[t]) + channel(block), lanes);
      ahead(t);
      if (a.silu) {
        const V pre = before_activation(block, t);
        grad *= silu_derivative<T>(pre, sigmoid<T>(pre));
      }
      to[t] = grad;
      if (t < own) dbias_sum += grad;
    }
    for (int64_t t = count; t < TILE; t++) to[t] = V{};
    dbias[block] += dbias_sum;
    for (int64_t tap = 0; tap <= history; tap++) {
      const V* steps = x + block * (history + TILE) + tap;
      V sum = {};
      for (int64_t t = 0; t < own; t++) sum += to[t] * steps[t];
      dweight[block * a.width + tap] += sum;
    }
  }

  template <class Used>
  void give_gradients(int64_t k, const int32_t* path, int64_t begin, int64_t block, Used lanes) const {
    const View<T> dx = a.dx;
    const V *steps = dpre + block * (history + TILE) + history, *weight = this->weight + block * a.width;
    const bool add = k > 0 && dx.direction == 0;
    for (int64_t t = max<int64_t>(0, item.begin - begin); t < TILE && begin + t < item.end; t++) {
      V sum = {};
      for (int64_t tap = 0; tap <= history; tap++) sum += weight[tap] * steps[t - tap];
      T* to = dx.row(item.batch, k, path[begin + t]) + channel(block);
      if (add) sum += load(to, lanes);
      store(to, sum, lanes);
    }
  }

  void finish_direction(int64_t k) {
    const Turn& turn = item.among_segments;
    const bool add = turn.done_before;
    wait_for_turn(turn, k + 1);
    for (int64_t channel = item.channel_begin; channel < item.channel_end; channel++) {
      const int64_t block = (channel - item.channel_begin) / W<T>, lane = (channel - item.channel_begin) % W<T>;
      const int64_t i = k * a.channels + channel;
      for (int64_t tap = 0; tap <= history; tap++) {
        T* to = a.dweight + i * a.width + tap;
        *to = dweight[block * a.width + tap][lane] + (add ? *to : 0);
      }
      if (a.dbias) a.dbias[i] = dbias[block][lane] + (add ? a.dbias[i] : 0);
    }
    end_turn(turn, k + 1);
  }
};

template <class T>
size_t scratch_bytes(const ConvArgs<T>& a, int64_t channels, bool) {
  Arena arena{nullptr};
  Conv<T>(a, Item<T>(), channels, arena);
  return (size_t)arena.next;
}

template <class T>
void forward(const ConvArgs<T>& a, const Item<T>& item, void* scratch) {
  Arena arena{(char*)scratch};
  Conv<T>(a, item, item.channel_end - item.channel_begin, arena).forward();
}

template <class T>
void backward(const ConvArgs<T>& a, const Item<T>& item, void* scratch) {
  Arena arena{(char*)scratch};
  Conv<T>(a, item, item.channel_end - item.channel_begin, arena).backward();
}

}  // namespace

void get(ConvKernels<float>& kernels) {
  kernels = {W<float>, scratch_bytes<float>, forward<float>, backward<float>, nullptr, nullptr};
}
void get(ConvKernels<double>& kernels) {
  kernels = {W<double>, scratch_bytes<double>, forward<double>, backward<double>, nullptr, nullptr};
}

}  // namespace NM_ISA
}  // namespace nm
