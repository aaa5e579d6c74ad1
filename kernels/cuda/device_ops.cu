/* The arithmetic half of struct ps_device_api, the same for the real device and the emulated one: checks what the
 * runtime hands over, calls the launchers of the kernels, and makes the error of a launch the device's sticky one. In:
 * device pointers of the forward pass; out: kernels queued on the compute stream.
 *
 * One section for each family of kernels, so that they can be worked on apart. A launcher that does not exist yet
 * stands here as PS_EUNSUPPORTED, which is returned but does not stick. */
#include <stdarg.h>
#include <stdio.h>

#include "kernels/cuda/device_state.h"
#include "kernels/cuda/launch_decode.h"
#include "kernels/cuda/launch_matmul.h"
#include "kernels/cuda/launch_ops.h"

int ps_device_fail(struct ps_device *d, int code, const char *fmt, ...)
{
    if (d->failed)
        return d->failed;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(d->failed_text, sizeof d->failed_text, fmt, ap);
    va_end(ap);
    return d->failed = code;
}

int ps_device_status(struct ps_device *d, struct ps_err *err)
{
    uint32_t fault = *(volatile uint32_t *)d->fault;
    if (fault)
        ps_device_fail(d, PS_EDATA,
                       "block %u of an extent does not decode: its bytes are not what was written",
                       fault - 1);
    return d->failed ? ps_err_set(err, d->failed, "device", "%s", d->failed_text) : 0;
}

static int after_launch(struct ps_device *d, const char *op, int rc)
{
    if (rc == 0 || rc == PS_EUNSUPPORTED)
        return rc;
    return ps_device_fail(d, PS_EFAIL, "%s: %s", op, ps_device_launch_text(rc));
}

/* `call` launches: 0, the launch's error, or PS_EUNSUPPORTED. */
#define launched(d, op, call) (ps_device_enter(d), after_launch((d), (op), (call)))

/* ---- stored blocks: launch_decode.h ---- */

uint32_t ps_device_codecs(void)
{
    return 1u << PS_CODEC_WH | 1u << PS_CODEC_XC34;
}

static int ops_decode(struct ps_device *d, const struct ps_device_blocks *b)
{
    PS_ASSERT(b->in && b->out && b->in_bytes && b->n_blocks && b->block_bytes);
    PS_ASSERT((uintptr_t)b->in % 16 == 0);
    PS_ASSERT(b->raw_bytes <= b->n_blocks * b->block_bytes);
    PS_ASSERT(b->raw_bytes > (b->n_blocks - 1) * b->block_bytes);
    return launched(d, "decode", ps_launch_decode(d->compute, b, d->fault));
}

static void fill_decode(struct ps_device_api *api)
{
    api->decode = ops_decode;
}

/* ---- products: launch_matmul.h ---- */

static bool ops_multiplies(struct ps_device *d, enum ps_dtype weights)
{
    (void)d;
    return ps_launch_multiplies(weights);
}

static size_t ops_act_bytes(struct ps_device *d, enum ps_dtype weights, size_t T, size_t K)
{
    return ps_launch_act_bytes(d->arch, weights, T, K);
}

static void check_act(const struct ps_act *act)
{
    PS_ASSERT(act->a && act->T && act->K && act->lda >= act->K);
    PS_ASSERT((uintptr_t)act->packed % 256 == 0);
}

static int ops_act_pack(struct ps_device *d, const struct ps_act *act)
{
    check_act(act);
    return launched(d, "act_pack", ps_launch_act_pack(d->compute, d->arch, act));
}

static int ops_matmul(struct ps_device *d, const struct ps_act *act, const struct ps_matrix *panels,
                      size_t n, float *C, size_t ldc, bool accumulate)
{
    check_act(act);
    for (size_t i = 0; i < n; i++) {
        const struct ps_matrix *p = &panels[i];
        PS_ASSERT(p->data && p->type == act->weights && p->K == act->K);
        PS_ASSERT(p->type == panels[0].type && p->row_stride == panels[0].row_stride);
        PS_ASSERT(p->row0 + p->n_rows <= ldc);
        PS_ASSERT(p->type != PS_MXFP4 || p->scales);
        PS_ASSERT(p->type != PS_F8_E4M3 || !p->scales || (p->scale_rows && p->scale_cols));
    }
    if (!ps_launch_multiplies(act->weights))
        return PS_EUNSUPPORTED;
    return launched(d, "matmul",
                    ps_launch_matmul(d->compute, d->arch, act, panels, n, C, ldc, accumulate));
}

static void fill_products(struct ps_device_api *api)
{
    api->multiplies = ops_multiplies;
    api->act_bytes = ops_act_bytes;
    api->act_pack = ops_act_pack;
    api->matmul = ops_matmul;
}

/* ---- attention and what works on activations: launch_ops.h ---- */

static int ops_kv_store(struct ps_device *d, const struct ps_device_kv *kv, const uint32_t *pos,
                        size_t T, const float *k, const float *v)
{
    PS_ASSERT(kv->k_pages && kv->v_pages && kv->n_kv_heads && kv->head_dim);
    PS_ASSERT(pos && T && k && v);
    return launched(d, "kv_store", ps_launch_kv_store(d->compute, kv, pos, T, k, v));
}

static size_t ops_attn_bytes(struct ps_device *d, size_t T, uint32_t n_heads, uint32_t head_dim,
                             uint32_t max_pos)
{
    (void)d;
    return ps_launch_attention_bytes(T, n_heads, head_dim, max_pos);
}

static int ops_attention(struct ps_device *d, const struct ps_attn *a, uint32_t max_pos)
{
    PS_ASSERT(a->q && a->out && a->T && a->pos && a->k_pages && a->v_pages);
    PS_ASSERT(a->n_kv_heads && a->n_heads % a->n_kv_heads == 0);
    return launched(d, "attention", ps_launch_attention(d->compute, a, max_pos));
}

static int ops_rmsnorm(struct ps_device *d, float *y, size_t ldy, const float *x, size_t ldx,
                       const float *w, float w_offset, size_t T, size_t K, float eps)
{
    PS_ASSERT(y && x && w && T && K && ldy >= K && ldx >= K);
    return launched(d, "rmsnorm",
                    ps_launch_rmsnorm(d->compute, y, ldy, x, ldx, w, w_offset, T, K, eps));
}

static int ops_swiglu(struct ps_device *d, float *y, size_t ldy, const float *g, size_t ldg,
                      const float *u, size_t ldu, size_t T, size_t K)
{
    PS_ASSERT(y && g && u && T && K && ldy >= K && ldg >= K && ldu >= K);
    return launched(d, "swiglu", ps_launch_swiglu(d->compute, y, ldy, g, ldg, u, ldu, T, K));
}

static int ops_rope(struct ps_device *d, float *x, size_t ld, size_t T, uint32_t n_heads,
                    uint32_t head_dim, uint32_t rot_dim, const float *cos, const float *sin,
                    bool interleaved)
{
    PS_ASSERT(x && T && n_heads && rot_dim <= head_dim && rot_dim % 2 == 0);
    PS_ASSERT(ld >= (size_t)n_heads * head_dim && cos && sin);
    return launched(d, "rope",
                    ps_launch_rope(d->compute, x, ld, T, n_heads, head_dim, rot_dim, cos, sin,
                                   interleaved));
}

static int ops_add_bias(struct ps_device *d, float *x, size_t ldx, const float *b, size_t T, size_t K)
{
    PS_ASSERT(x && b && T && K && ldx >= K);
    return launched(d, "add_bias", ps_launch_add_bias(d->compute, x, ldx, b, T, K));
}

static int ops_to_f32(struct ps_device *d, float *out, const void *in, enum ps_dtype t, size_t n)
{
    PS_ASSERT(out && in && n);
    return launched(d, "to_f32", ps_launch_to_f32(d->compute, out, in, t, n));
}

static void fill_activations(struct ps_device_api *api)
{
    api->kv_store = ops_kv_store;
    api->attn_bytes = ops_attn_bytes;
    api->attention = ops_attention;
    api->rmsnorm = ops_rmsnorm;
    api->swiglu = ops_swiglu;
    api->rope = ops_rope;
    api->add_bias = ops_add_bias;
    api->to_f32 = ops_to_f32;
}

/* ---- the table ---- */

void ps_device_fill_ops(struct ps_device_api *api)
{
    fill_decode(api);
    fill_products(api);
    fill_activations(api);
}
