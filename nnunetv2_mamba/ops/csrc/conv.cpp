// The causal depthwise convolution along paths: out_p = act(bias + sum_i weight_i x_{p - w + 1 + i}), x before the path
// being zero. A SIMD lane owns a channel.
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
  const Item& item;
  int64_t blocks;
  V *weight, *bias;    // [block][tap], [block]
  V* dpre;             // [block][width - 1 + tile step]: gradients before the activation; those of the last tile first
  V *dweight, *dbias;  // [block][tap], [block]

  Conv(const ConvArgs<T>& args, const Item& item, int64_t channels, bool backward, Arena& arena) : a(args), item(item) {
    blocks = (channels + W<T> - 1) / W<T>;
    weight = arena.take<V>(blocks * a.width);
    bias = arena.take<V>(blocks);
    if (!backward) return;
    dpre = arena.take<V>(blocks * (a.width - 1 + TILE));
    dweight = arena.take<V>(blocks * a.width);
    dbias = arena.take<V>(blocks);
  }

  int64_t channel(int64_t block) const { return item.channel_begin + block * W<T>; }
  int lanes(int64_t block) const { return lanes_from<T>(channel(block), a.channels); }

  void take_direction(int64_t k) {
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t i = k * a.channels + channel(block);
      for (int64_t tap = 0; tap < a.width; tap++) {
        V v = {};
        for (int l = 0; l < lanes(block); l++) v[l] = a.weight[(i + l) * a.width + tap];
        weight[block * a.width + tap] = v;
      }
      bias[block] = a.bias ? load(a.bias + i, lanes(block)) : V{};
    }
  }

  V x(int64_t k, int64_t position, int64_t block) const {
    return load(a.x.row(item.batch, k, a.paths[k * a.length + position]) + channel(block), lanes(block));
  }

  int64_t first_tap(int64_t p) const { return p + 1 < a.width ? a.width - 1 - p : 0; }

  V before_activation(int64_t k, int64_t p, int64_t block) const {
    V sum = bias[block];
    for (int64_t tap = first_tap(p); tap < a.width; tap++)
      sum += weight[block * a.width + tap] * x(k, p - a.width + 1 + tap, block);
    return sum;
  }

  void forward() {
    for (int64_t k = 0; k < a.directions; k++) {
      take_direction(k);
      for (int64_t p = 0; p < a.length; p++)
        for (int64_t block = 0; block < blocks; block++) {
          V y = before_activation(k, p, block);
          store(a.out.row(item.batch, k, a.paths[k * a.length + p]) + channel(block), a.silu ? silu<T>(y) : y, lanes(block));
        }
    }
  }

  void backward() {
    for (int64_t k = 0; k < a.directions; k++) {
      take_direction(k);
      memset(dpre, 0, blocks * (a.width - 1 + TILE) * sizeof(V));
      memset(dweight, 0, blocks * a.width * sizeof(V)), memset(dbias, 0, blocks * sizeof(V));
      // dx at a position needs the gradients of the width - 1 positions after it, so it lags behind by as many.
      for (int64_t p = 0; p < a.length + a.width - 1; p += TILE)
        for (int64_t block = 0; block < blocks; block++) {
          take_gradients(k, p, block);
          give_gradients(k, p - a.width + 1, block);
        }
      finish_direction(k);
    }
  }

  void take_gradients(int64_t k, int64_t begin, int64_t block) {
    V* to = dpre + block * (a.width - 1 + TILE);
    memmove(to, to + TILE, (a.width - 1) * sizeof(V));
    to += a.width - 1;
    V dbias_sum = {};
    const int64_t count = a.length - begin < TILE ? (a.length > begin ? a.length - begin : 0) : TILE;
    for (int64_t t = 0; t < count; t++) {
      const int64_t p = begin + t;
      V grad = load(a.grad_out.row(item.batch, k, a.paths[k * a.length + p]) + channel(block), lanes(block));
      if (a.silu) grad *= silu_derivative<T>(before_activation(k, p, block));
      to[t] = grad;
      dbias_sum += grad;
    }
    for (int64_t t = count; t < TILE; t++) to[t] = V{};
    dbias[block] += dbias_sum;
    for (int64_t tap = 0; tap < a.width; tap++) {
      V sum = {};
      for (int64_t t = 0; t < count; t++) {
        const int64_t position = begin + t - a.width + 1 + tap;
        if (position >= 0) sum += to[t] * x(k, position, block);
      }
      dweight[block * a.width + tap] += sum;
    }
  }

  void give_gradients(int64_t k, int64_t begin, int64_t block) {
    const V* from = dpre + block * (a.width - 1 + TILE) + a.width - 1;
    const bool add = k > 0 && a.dx.direction == 0;
    for (int64_t t = begin < 0 ? -begin : 0; t < TILE && begin + t < a.length; t++) {
      V sum = {};
      for (int64_t tap = 0; tap < a.width; tap++) sum += weight[block * a.width + tap] * from[t - tap];
      T* to = a.dx.row(item.batch, k, a.paths[k * a.length + begin + t]) + channel(block);
      store(to, add ? sum + load(to, lanes(block)) : sum, lanes(block));
    }
  }

  void finish_direction(int64_t k) {
    const Turn& turn = item.among_batch;
    wait_for_turn(turn, k + 1);
    const bool add = turn.done_before;
    for (int64_t block = 0; block < blocks; block++)
      for (int l = 0; l < lanes(block); l++) {
        const int64_t i = k * a.channels + channel(block) + l;
        for (int64_t tap = 0; tap < a.width; tap++) {
          T& to = a.dweight[i * a.width + tap];
          to = dweight[block * a.width + tap][l] + (add ? to : 0);
        }
        if (a.dbias) a.dbias[i] = dbias[block][l] + (add ? a.dbias[i] : 0);
      }
    end_turn(turn, k + 1);
  }
};

template <class T>
size_t scratch_bytes(const ConvArgs<T>& a, int64_t channels, bool backward) {
  Arena arena{nullptr};
  Conv<T>(a, Item(), channels, backward, arena);
  return (size_t)arena.next;
}

template <class T>
void forward(const ConvArgs<T>& a, const Item& item, void* scratch) {
  Arena arena{(char*)scratch};
  Conv<T>(a, item, item.channel_end - item.channel_begin, false, arena).forward();
}

template <class T>
void backward(const ConvArgs<T>& a, const Item& item, void* scratch) {
  Arena arena{(char*)scratch};
  Conv<T>(a, item, item.channel_end - item.channel_begin, true, arena).backward();
}

}  // namespace

void get(ConvKernels<float>& kernels) { kernels = {W<float>, scratch_bytes<float>, forward<float>, backward<float>}; }
void get(ConvKernels<double>& kernels) { kernels = {W<double>, scratch_bytes<double>, forward<double>, backward<double>}; }

}  // namespace NM_ISA
}  // namespace nm
