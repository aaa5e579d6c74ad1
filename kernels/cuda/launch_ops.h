/* Launchers of the kernels that work on activations: norms, gates, rotation, the KV pages and attention. In: device
 * pointers and plain numbers from device_ops.cu; out: kernels queued on `stream`. Each returns 0, the launch's error as
 * PS_LAUNCH gives it, or PS_EUNSUPPORTED where it says so. Meanings are those of kernels.h and device.h.
 *
 * Row invariance: what is computed for a row is a function of that row, of the shape of one row (K, head_dim) and, for
 * attention, of its position and the KV. Which launch, tile or batch a row is part of never changes a bit.
 *
 * Pointers: float arrays at multiples of 4 bytes (faster at 16, with leading dimensions of 4 floats), KV pages at
 * multiples of 16. */
#ifndef PS_KERNELS_CUDA_LAUNCH_OPS_H
#define PS_KERNELS_CUDA_LAUNCH_OPS_H
#include "kernels/cuda/simt.h"
#include "kernels/device.h"

int ps_launch_rmsnorm(simt_stream stream, float *y, size_t ldy, const float *x, size_t ldx,
                      const float *w, float w_offset, size_t T, size_t K, float eps);
int ps_launch_swiglu(simt_stream stream, float *y, size_t ldy, const float *g, size_t ldg,
                     const float *u, size_t ldu, size_t T, size_t K);
int ps_launch_rope(simt_stream stream, float *x, size_t ld, size_t T, uint32_t n_heads,
                   uint32_t head_dim, uint32_t rot_dim, const float *cos, const float *sin,
                   bool interleaved);
int ps_launch_add_bias(simt_stream stream, float *x, size_t ldx, const float *b, size_t T, size_t K);
/* PS_EUNSUPPORTED for other types than f32, f16 and bf16. NaNs keep their payload, as on the CPU. */
int ps_launch_to_f32(simt_stream stream, float *out, const void *in, enum ps_dtype t, size_t n);
/* PS_EUNSUPPORTED as above, for either of the KV's types. */
int ps_launch_kv_store(simt_stream stream, const struct ps_device_kv *kv, const uint32_t *pos,
                       size_t T, const float *k, const float *v);

/* Scratch of attention. Never smaller for more rows or a larger max_pos, so that what is reserved for the largest step
 * does for all; at most PS_ATTN_SCRATCH_MAX unless one row needs more. */
size_t ps_launch_attention_bytes(size_t T, uint32_t n_heads, uint32_t head_dim, uint32_t max_pos);
/* head_dim up to PS_ATTN_HEAD_DIM_MAX, else PS_EUNSUPPORTED; so are other KV types than f32, f16 and bf16. Entries of
 * the page tables are read, and followed, only for pages in which some row sees a position.
 *
 * Not there yet; ops_attention.cu says at each place how it would come in:
 *   sinks      [n_heads] f32, a logit per head that takes part in the softmax and has no value (gpt-oss): at_divisor
 *   tree mask  [T] words, which of the last positions a row of a draft tree sees: at_sees */
int ps_launch_attention(simt_stream stream, const struct ps_attn *a, uint32_t max_pos);

#define PS_ATTN_HEAD_DIM_MAX 512u
#define PS_ATTN_SCRATCH_MAX  ((size_t)32 << 20)
#endif
