// Matrix products of Mamba-2's scan: of vectors of lanes with numbers, and of rows with rows.
#pragma once
#include "simd.h"

namespace nm {
namespace NM_ISA {
namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int ROWS = 8;  // 32 registers
#else
constexpr int ROWS = 4;
#endif
constexpr int COLUMNS = 3;

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

}  // namespace
}  // namespace NM_ISA
}  // namespace nm
