/* What the fake device computes: the reference backend on the device's memory. In: a queued command; out: its result in
 * memory. Activations are really packed, attention really overwrites its scratch, so that a runtime which leaves out
 * act_pack or gives too little memory does not get away with it. */
#include <stdlib.h>
#include <string.h>

#include "kernels/codec/codec.h"
#include "tests/support/fake_device_internal.h"

static const struct ps_backend *ref(void)
{
    return ps_backend_by_name("ref");
}

bool fake_multiplies(enum ps_dtype weights)
{
    return ref()->multiplies(weights);
}

size_t fake_act_bytes(enum ps_dtype weights, size_t T, size_t K)
{
    (void)weights;
    return T * K * sizeof(float);
}

size_t fake_attn_bytes(size_t T, uint32_t n_heads, uint32_t head_dim, uint32_t max_pos)
{
    return (T * n_heads * head_dim + max_pos / PS_KV_PAGE + 1) * sizeof(float);
}

/* All that the CPU unpacks: so that extents cross to the fake as stored. */
uint32_t fake_codecs(void)
{
    return 1u << PS_CODEC_LZ4 | 1u << PS_CODEC_WH | 1u << PS_CODEC_XC34;
}

static int run_decode(const struct ps_device_blocks *b)
{
    const uint8_t *in = b->in;
    uint8_t *out = b->out;
    uint64_t left = b->raw_bytes;
    for (uint32_t i = 0; i < b->n_blocks; i++) {
        uint64_t n = left < b->block_bytes ? left : b->block_bytes;
        if (ps_codec_decode(b->codec, b->dtype, in, b->in_bytes[i], out, n, NULL) != 0)
            return PS_EDATA;
        in += b->in_bytes[i];
        out += n;
        left -= n;
    }
    return 0;
}

static void run_act_pack(const struct ps_act *act)
{
    for (size_t t = 0; t < act->T; t++)
        memcpy((float *)act->packed + t * act->K, act->a + t * act->lda, act->K * sizeof(float));
}

/* From `packed` alone. */
static void run_matmul(const struct fake_command *c)
{
    struct ps_act act = c->u.mm.act;
    act.a = act.packed;
    act.lda = act.K;
    ref()->matmul(NULL, &act, c->u.mm.panels, c->u.mm.n, c->u.mm.C, c->u.mm.ldc, c->u.mm.accumulate);
}

static void run_kv_store(const struct fake_command *c)
{
    const struct ps_device_kv *kv = &c->u.kv.kv;
    size_t width = (size_t)kv->n_kv_heads * kv->head_dim;
    for (size_t t = 0; t < c->u.kv.T; t++) {
        uint32_t page = c->u.kv.pos[t] / PS_KV_PAGE, slot = c->u.kv.pos[t] % PS_KV_PAGE;
        ps_kv_store(kv->k_pages[page], kv->k_dtype, kv->n_kv_heads, kv->head_dim, slot,
                    c->u.kv.k + t * width);
        ps_kv_store(kv->v_pages[page], kv->v_dtype, kv->n_kv_heads, kv->head_dim, slot,
                    c->u.kv.v + t * width);
    }
}

static void run_attention(const struct fake_command *c)
{
    struct ps_attn a = c->u.attn.a;
    memset(a.scratch, 0xff, c->u.attn.scratch_bytes);
    a.scratch = NULL; /* the reference needs none */
    ref()->attention(NULL, &a);
}

/* A copy brings its bytes at its end: whoever reads earlier sees NaNs. fake_device.c fills, sleeps and calls this. */
static void run_copy(const struct fake_command *c)
{
    const void *from = c->u.copy.staged ? c->u.copy.staged : c->u.copy.from;
    memcpy(c->u.copy.to, from, c->u.copy.bytes);
}

int fake_run(const struct fake_command *c)
{
    const __typeof__(c->u.rows) *r = &c->u.rows;
    const __typeof__(c->u.rope) *o = &c->u.rope;
    switch (c->op) {
    case FAKE_COPY_IN:
    case FAKE_COPY_OUT:
    case FAKE_COPY_WITHIN: run_copy(c); return 0;
    case FAKE_FILL: memset(c->u.copy.to, c->u.copy.byte, c->u.copy.bytes); return 0;
    case FAKE_DECODE: return run_decode(&c->u.decode.b);
    case FAKE_ACT_PACK: run_act_pack(&c->u.mm.act); return 0;
    case FAKE_MATMUL: run_matmul(c); return 0;
    case FAKE_KV_STORE: run_kv_store(c); return 0;
    case FAKE_ATTENTION: run_attention(c); return 0;
    case FAKE_RMSNORM:
        ref()->rmsnorm(NULL, r->y, r->ldy, r->x, r->ldx, r->w, r->w_offset, r->T, r->K, r->eps);
        return 0;
    case FAKE_SWIGLU:
        ref()->swiglu(NULL, r->y, r->ldy, r->x, r->ldx, r->w, r->ldw, r->T, r->K);
        return 0;
    case FAKE_ROPE:
        ps_rope(o->x, o->ld, o->T, o->n_heads, o->head_dim, o->rot_dim, o->cos, o->sin,
                o->interleaved);
        return 0;
    case FAKE_ADD_BIAS: ps_add_bias(r->y, r->ldy, r->w, r->T, r->K); return 0;
    case FAKE_TO_F32: return ps_to_f32(c->u.f32.out, c->u.f32.in, c->u.f32.t, c->u.f32.n);
    default: return 0;
    }
}
