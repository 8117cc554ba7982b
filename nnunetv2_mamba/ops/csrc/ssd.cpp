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
#include "scan_passes.h"
#include "ssd_backward.h"
#include "ssd_forward.h"

namespace nm {
namespace NM_ISA {

void get(SsdKernels<float>& to) { set_kernels<float, Forward<float>, Backward<float>>(to); }
void get(SsdKernels<double>& to) { set_kernels<double, Forward<double>, Backward<double>>(to); }

}  // namespace NM_ISA
}  // namespace nm
