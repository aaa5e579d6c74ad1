/* Launchers of the matrix products: act_pack and matmul of struct ps_device_api. Pointers are device memory, structs
 * and lists of panels the host's (copied before the call returns). `arch` is the compute capability: 80 and above
 * multiply with tensor cores, below and for f32 weights plain float arithmetic is used; a packed activation belongs to
 * the capability it was packed for. Each returns 0, or what the launch said. Threads: any one at a time per stream. */
#ifndef PS_KERNELS_CUDA_LAUNCH_MATMUL_H
#define PS_KERNELS_CUDA_LAUNCH_MATMUL_H
#include "kernels/cuda/simt.h"
#include "kernels/kernels.h"
#include "kernels/matrix.h"

bool ps_launch_multiplies(enum ps_dtype weights);
size_t ps_launch_act_bytes(unsigned arch, enum ps_dtype weights, size_t T, size_t K);
int ps_launch_act_pack(simt_stream stream, unsigned arch, const struct ps_act *act);
/* C[t][row0 + r] (+)= factor * A[t] . W[r] for the rows of all `n` panels: rows of one matrix (type, K,
 * row_stride, scale geometry and factor are those of the first), wherever they lie. Up to MM_PANELS go into one
 * launch. */
int ps_launch_matmul(simt_stream stream, unsigned arch, const struct ps_act *act,
                     const struct ps_matrix *panels, size_t n, float *C, size_t ldc, bool accumulate);
#endif
