// Rows of dB and dC that are summed over items, in the order of the items.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace nm {
namespace NM_ISA {

// The rows of tiles, from the last tile of a path to its first, that wait for their turn to be added: an item that is
// ahead of the one before it goes on for some milliseconds, so that one thread may lose its core without stopping the
// others.
template <class T>
struct OrderedRows {
  static constexpr int64_t QUEUE_BYTES = 1 << 20;

  const ScanArgs<T>& a;
  const Item<T>& item;
  const int tile;             // tokens
  const int64_t size, stride;  // numbers of a row, and from one row to the next
  int64_t slots;
  T* queue;                      // [step % slots][dB, dC][tile step][stride]
  int64_t swept = 0, added = 0;  // steps, each a tile
  int64_t queue_start = 0;       // the step from which slots are counted; moves up whenever the queue is empty

  OrderedRows(const ScanArgs<T>& args, const Item<T>& item, int tile, int64_t size, int64_t stride, Arena& arena)
      : a(args), item(item), tile(tile), size(size), stride(stride) {
    slots = max<int64_t>(1, QUEUE_BYTES / (2 * tile * stride * sizeof(T)));
    queue = arena.take<T>(slots * 2 * tile * stride);
  }

  // Where the rows of dB of the next tile go, those of dC behind them; `put` once they are there.
  T* next() { return queued(swept++); }

  void put() {
    while (added < swept && (swept - added == slots || is_turn(item.among_channels, added + 1))) add();
    if (added == swept) queue_start = swept;
  }

  void finish() {
    while (added < swept) add();
  }

 private:
  T* queued(int64_t step) const { return queue + (step - queue_start) % slots * 2 * tile * stride; }

  // The oldest rows in the queue, in their turn.
  void add() {
    const int64_t tiles_of_path = (item.end - item.begin + tile - 1) / tile;
    const int64_t k = item.direction_begin + added / tiles_of_path;
    const int64_t p = item.begin + (tiles_of_path - 1 - added % tiles_of_path) * tile;
    const int32_t* tokens = a.paths + k * a.length + p;
    const T *dB = queued(added), *dC = dB + tile * stride;
    const Turn& turn = item.among_channels;
    const bool add = turn.done_before;
    wait_for_turn(turn, added + 1);
    for (int t = 0; t < min<int64_t>(tile, item.end - p); t++) {
      T *to_B = a.dB.row(item.batch, k, tokens[t]), *to_C = a.dC.row(item.batch, k, tokens[t]);
      for (int64_t j = 0; j < size; j += W<T>)
        with_lanes<T>(j, size, [&](auto lanes) {
          Vec<T> row_B = load(dB + t * stride + j, lanes), row_C = load(dC + t * stride + j, lanes);
          if (add) row_B += load(to_B + j, lanes), row_C += load(to_C + j, lanes);
          store(to_B + j, row_B, lanes), store(to_C + j, row_C, lanes);
        });
    }
    end_turn(turn, ++added);
  }
};

}  // namespace NM_ISA
}  // namespace nm
