/* The launchers of launch_matmul.h: packing of activations, and the choice of a kernel. In: activations of the forward
 * pass and descriptions of panels; out: kernels on the stream. What is chosen by the shape (T, the number of rows, the
 * grid) never changes a sum; what does (tensor cores or not) hangs on the device and the type alone. */
#include "kernels/cuda/matmul_decode.h"

#define PACK_THREADS 256u

namespace
{

bool tensor_cores(unsigned arch, enum ps_dtype t)
{
    return arch >= 80 && t != PS_F32;
}

/* ---- packing ---- */

struct pack_args {
    const float *a;
    uint8_t *packed;
    size_t lda;
    uint32_t T, K, type;
    uint32_t n_tiles; /* n8 tiles in a chunk */
    uint32_t chunks;
    uint32_t act_ld; /* floats of a plain row */
};

/* For each chunk and n8 tile 32 lanes of 16 bytes, as simt_mma_bf16 wants B: lane 4 * c + t holds eight places of
 * column c, that is the high (c even) or low (odd) halves of activation row c / 2 of the tile. Zeros for rows
 * behind T and places behind K. Each thread makes the vectors of one (row, t): of both columns. */
PS_KERNEL mm_pack(const struct pack_args a)
{
    uint32_t i = blockIdx.x * PACK_THREADS + threadIdx.x, t = i % 4, c = i / 4 % MM_COLS;
    uint32_t tile = i / 16 % a.n_tiles, chunk = i / 16 / a.n_tiles, row = tile * MM_COLS + c;
    uint32_t hi[4] = {0, 0, 0, 0}, lo[4] = {0, 0, 0, 0};
    if (chunk >= a.chunks)
        return;
    MM_UNROLL
    for (uint32_t j = 0; j < 8; j++) {
        uint32_t k = mm_k_of((enum ps_dtype)a.type, chunk, t, j), h = 0, l = 0;
        if (row < a.T && k < a.K)
            num_split_bf16(a.a[row * a.lda + k], &h, &l);
        hi[j / 2] |= h << 16 * (j % 2);
        lo[j / 2] |= l << 16 * (j % 2);
    }
    uint8_t *to = a.packed + (((size_t)chunk * a.n_tiles + tile) * PS_WARP + 8 * c + t) * 16;
    *(uint4 *)(void *)to = make_uint4(hi[0], hi[1], hi[2], hi[3]);
    *(uint4 *)(void *)(to + 4 * 16) = make_uint4(lo[0], lo[1], lo[2], lo[3]);
}

PS_KERNEL mm_pack_plain(const struct pack_args a)
{
    uint32_t k = blockIdx.x * PACK_THREADS + threadIdx.x;
    float *to = (float *)(void *)a.packed;
    for (uint32_t t = blockIdx.y; k < a.act_ld && t < a.T; t += gridDim.y)
        to[(size_t)t * a.act_ld + k] = k < a.K ? a.a[t * a.lda + k] : 0.0f;
}

uint32_t chunks_of(enum ps_dtype t, size_t K)
{
    return mm_stages(t, K) * (mm_stage_k(t) / MM_CHUNK);
}

uint32_t act_tiles(size_t T)
{
    return (uint32_t)((T + MM_COLS - 1) / MM_COLS);
}

uint32_t act_ld_of(size_t K)
{
    return (uint32_t)((K + MM_GROUP - 1) / MM_GROUP * MM_GROUP);
}

/* ---- the arguments of a product ---- */

uint32_t code_bytes(enum ps_dtype t, size_t K)
{
    size_t blocks = (K + 63) / 64;
    switch (t) {
    case PS_F32: return (uint32_t)K * 4;
    case PS_F8_E4M3: return (uint32_t)K;
    case PS_Q8B64: return (uint32_t)blocks * 64;
    case PS_NF4B64: return (uint32_t)((blocks + 1) / 2 * 64);
    case PS_MXFP4: return (uint32_t)((K + 31) / 32 * 16);
    default: return (uint32_t)K * 2;
    }
}

uint32_t clamped(size_t n)
{
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

void fill_args(struct mm_args *a, const struct ps_act *act, const struct ps_matrix *m)
{
    enum ps_dtype t = m->type;
    a->packed = (const uint8_t *)act->packed;
    a->row_stride = m->row_stride;
    a->T = (uint32_t)act->T;
    a->K = (uint32_t)act->K;
    a->code_bytes = code_bytes(t, act->K);
    a->n_stages = mm_stages(t, act->K);
    a->full_stages = a->code_bytes / MM_STAGE_BYTES;
    a->n_act_tiles = act_tiles(act->T);
    a->act_ld = act_ld_of(act->K);
    a->n_granules = t == PS_NF4B64 ? (a->K + 63) / 64 * 8 : (a->K + 7) / 8;
    a->scale_ld = m->scale_ld;
    a->scale_rows = m->scales ? clamped(m->scale_rows) : UINT32_MAX;
    a->scale_cols = m->scales ? clamped(m->scale_cols) : UINT32_MAX;
    /* one scale for all columns: any shift that leaves nothing */
    a->scale_shift = 31;
    if (a->scale_cols < a->K)
        for (a->scale_shift = 0; a->scale_cols >> a->scale_shift > 1; a->scale_shift++)
            ;
    a->int8_base = MM_INT8_BASE;
    a->factor = m->factor != 0.0f ? m->factor : 1.0f;
}

bool aligned(const void *p, size_t to)
{
    return (uintptr_t)p % to == 0;
}

/* The fast kernels load whole vectors at their own alignment, and know one scale for each group, found by a shift. */
bool fast(const struct mm_args *a, enum ps_dtype t)
{
    bool yes = a->row_stride % 16 == 0 && a->code_bytes % 16 == 0, f8 = t == PS_F8_E4M3;
    for (uint32_t i = 0; i < a->n_panels; i++)
        yes = yes && aligned(a->panels[i].data, 16) && (!f8 || aligned(a->panels[i].scales, 4));
    bool shift = a->scale_cols >= MM_GROUP && (a->scale_cols & (a->scale_cols - 1)) == 0;
    return yes && (!f8 || shift || a->scale_cols >= a->K);
}

int launch_batch(struct mm_launch *l, unsigned arch, enum ps_dtype t)
{
    l->any = !fast(&l->args, t);
    l->args.aligned = !l->any;
    if (!tensor_cores(arch, t))
        return mm_launch_plain(l, t);
    switch (t) {
    case PS_BF16:
    case PS_F16: return mm_launch_wide(l, t);
    case PS_Q8B64:
    case PS_F8_E4M3: return mm_launch_bytes(l, t);
    default: return mm_launch_nibbles(l, t);
    }
}

} // namespace

bool ps_launch_multiplies(enum ps_dtype t)
{
    return t == PS_F32 || t == PS_F16 || t == PS_BF16 || t == PS_F8_E4M3 || t == PS_Q8B64 ||
           t == PS_NF4B64 || t == PS_MXFP4;
}

size_t ps_launch_act_bytes(unsigned arch, enum ps_dtype t, size_t T, size_t K)
{
    if (!tensor_cores(arch, t))
        return T * act_ld_of(K) * sizeof(float);
    return (size_t)act_tiles(T) * chunks_of(t, K) * MM_TILE_BYTES;
}

int ps_launch_act_pack(simt_stream stream, unsigned arch, const struct ps_act *act)
{
    struct pack_args a = {};
    if (act->T == 0 || act->K == 0)
        return 0;
    a.a = act->a;
    a.packed = (uint8_t *)act->packed;
    a.lda = act->lda;
    a.T = (uint32_t)act->T, a.K = (uint32_t)act->K, a.type = (uint32_t)act->weights;
    if (!tensor_cores(arch, act->weights)) {
        a.act_ld = act_ld_of(act->K);
        dim3 grid((a.act_ld + PACK_THREADS - 1) / PACK_THREADS, a.T < 1024 ? a.T : 1024);
        return PS_LAUNCH(mm_pack_plain, grid, dim3(PACK_THREADS), 0, stream, a);
    }
    a.chunks = chunks_of(act->weights, act->K);
    a.n_tiles = act_tiles(act->T);
    size_t threads = (size_t)a.n_tiles * a.chunks * 16;
    dim3 grid((unsigned)((threads + PACK_THREADS - 1) / PACK_THREADS));
    return PS_LAUNCH(mm_pack, grid, dim3(PACK_THREADS), 0, stream, a);
}

int ps_launch_matmul(simt_stream stream, unsigned arch, const struct ps_act *act,
                     const struct ps_matrix *panels, size_t n, float *C, size_t ldc, bool accumulate)
{
    struct mm_launch l = {};
    if (n == 0 || act->T == 0 || act->K == 0)
        return 0;
    l.stream = stream;
    fill_args(&l.args, act, panels);
    l.args.C = C, l.args.ldc = ldc, l.args.accumulate = accumulate;
    for (size_t i = 0; i < n; i++) {
        const struct ps_matrix *m = &panels[i];
        struct mm_panel *p = &l.args.panels[l.args.n_panels];
        p->data = (const uint8_t *)m->data;
        p->scales = (const uint8_t *)m->scales;
        p->row0 = (uint32_t)m->row0, p->n_rows = (uint32_t)m->n_rows;
        l.args.n_panels += p->n_rows > 0;
        if (l.args.n_panels == 0 || (l.args.n_panels < MM_PANELS && i + 1 < n))
            continue;
        int rc = launch_batch(&l, arch, panels->type);
        if (rc)
            return rc;
        l.args.n_panels = 0;
    }
    return 0;
}
