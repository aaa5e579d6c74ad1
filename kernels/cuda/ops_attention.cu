/* Attention of query rows against paged keys and values. In: rotated queries, pages that store_rows of
 * ops_elementwise.cu filled; out: one row of n_heads * head_dim floats per query row.
 *
 * The order. Positions are cut into chunks by position alone (chunk_of). Within a chunk the softmax is the online
 * one (Milakov and Gimelshein 2018, arXiv:1805.02867) with the KV pages as its steps: a score is one chain of FMAs
 * along head_dim; two positions of a page, 32 apart, belong to a lane, whose exponentials form one chain over the
 * pages; the lanes' sums are added as a tree at the chunk's end; values are added position by position. A chunk
 * ends with (max, sum, acc), and chunks are merged in order of position (merge_weights). A query that sees nothing
 * of a page or a chunk is left as it is to the bit. So a row's result depends on its query, its position and the
 * KV alone.
 *
 * The work. A block takes a tile: some queries (rows times the heads of one kv head, NQ for each of its warps) of
 * which all use the same keys and values. It copies those in slabs into shared memory, three slabs in turn so that
 * two are on their way while one is used (cp.async from compute capability 8.0 on). Either the block does one
 * chunk and leaves its result in scratch for merge_chunks ("split": few queries, many chunks), or it goes through
 * all chunks and merges as it goes, keeping what is merged in `out` ("walk": enough queries to fill the GPU). The
 * arithmetic is the same code.
 *
 * Numbers of a page of 64 positions, head_dim 128, bf16: 32 KiB from memory; 64 * 128 * 2 FMAs per query. An H100
 * streams the page in about 2,200 cycles per SM and does the FMAs of 8 queries in 1,024, so decoding with up to 8
 * queries per kv head is bound by memory, prefill by FMAs. */
#include "kernels/cuda/launch_ops.h"
#include "kernels/cuda/numbers.h"

namespace
{

/* ---- what can be tuned; none of it but the chunks changes a result ---- */

const unsigned KEY_BYTES = 64; /* of one key in a slab; key_place counts on it */
const unsigned SLAB_BYTES = PS_KV_PAGE * KEY_BYTES;
const unsigned SLABS = 3;              /* one in use, the others on their way */
const unsigned MAX_WARPS = 8;          /* of a block */
const unsigned SHARED_MAX = 64 * 1024; /* of a block: what compute capability 7.5 has */
const unsigned WALK_WARPS = 8;         /* per SM: from so many on blocks walk */
const unsigned NARROW = 4, WIDE = 8;   /* queries of a warp (NQ) */
const unsigned WIDE_FROM = 33;         /* queries of a kv head from which WIDE pays */
const unsigned WIDE_DIM_MAX = 256;     /* its sums do not fit registers beyond */
const unsigned MERGE_THREADS = 128;    /* of merge_chunks: chunks, then dimensions, at once */
const unsigned MERGE_AHEAD = 16;       /* chunks whose sums are fetched before they are merged */

/* Chunks: short ones first, so that short contexts are spread over many SMs; longer ones behind, so that the results of
 * chunks stay a small part of the traffic (16-bit KV, 8 queries: 6 % at 128 positions, 2 % at 512). Multiples of a
 * page. Part of the order of additions: results change with them. */
const uint32_t CHUNK_A = 128, CHUNK_B = 256, CHUNK_C = 512;
const uint32_t B_FROM = 4096, C_FROM = 32768;
const uint32_t B_FIRST = B_FROM / CHUNK_A, C_FIRST = B_FIRST + (C_FROM - B_FROM) / CHUNK_B;

#define BOTH static __host__ __device__ __forceinline__

#if defined(__CUDACC__)
#define PRAGMA(x)    _Pragma(#x)
#define UNROLL       PRAGMA(unroll)
#define UNROLL_BY(n) PRAGMA(unroll n)
#else
#define UNROLL
#define UNROLL_BY(n)
#endif

BOTH uint32_t chunk_of(uint32_t pos)
{
    if (pos < B_FROM)
        return pos / CHUNK_A;
    return pos < C_FROM ? B_FIRST + (pos - B_FROM) / CHUNK_B : C_FIRST + (pos - C_FROM) / CHUNK_C;
}

BOTH uint32_t chunk_begin(uint32_t chunk)
{
    if (chunk < B_FIRST)
        return chunk * CHUNK_A;
    return chunk < C_FIRST ? B_FROM + (chunk - B_FIRST) * CHUNK_B
                           : C_FROM + (chunk - C_FIRST) * CHUNK_C;
}

/* ---- numbers of a KV, sixteen bytes at a time from shared memory ---- */

struct kv_bf16 {
    static const unsigned BYTES = 2, PER_16 = 8;
    PS_DEVICE void two(float *out, uint32_t w)
    {
        out[0] = num_bf16_lo_f32(w);
        out[1] = num_bf16_hi_f32(w);
    }
    PS_DEVICE void all(float *out, uint4 w)
    {
        two(out, w.x);
        two(out + 2, w.y);
        two(out + 4, w.z);
        two(out + 6, w.w);
    }
};

struct kv_f16 {
    static const unsigned BYTES = 2, PER_16 = 8;
    PS_DEVICE void two(float *out, uint32_t w)
    {
        out[0] = num_f16_lo_f32(w);
        out[1] = num_f16_hi_f32(w);
    }
    PS_DEVICE void all(float *out, uint4 w)
    {
        two(out, w.x);
        two(out + 2, w.y);
        two(out + 4, w.z);
        two(out + 6, w.w);
    }
};

struct kv_f32 {
    static const unsigned BYTES = 4, PER_16 = 4;
    PS_DEVICE void all(float *out, uint4 w)
    {
        out[0] = simt_bits_float(w.x);
        out[1] = simt_bits_float(w.y);
        out[2] = simt_bits_float(w.z);
        out[3] = simt_bits_float(w.w);
    }
};

/* N = 2 or 4 numbers from an address aligned to all of them. */
template <typename E, unsigned N> PS_DEVICE void kv_load(float *out, const uint8_t *p)
{
    if constexpr (E::BYTES * N == 16) {
        E::all(out, *(const uint4 *)p);
    } else if constexpr (E::BYTES == 4) {
        out[0] = ((const float2 *)p)->x;
        out[1] = ((const float2 *)p)->y;
    } else if constexpr (N == 4) {
        uint2 w = *(const uint2 *)p;
        E::two(out, w.x);
        E::two(out + 2, w.y);
    } else {
        E::two(out, *(const uint32_t *)p);
    }
}

/* ---- copies into shared memory that run beside the arithmetic ---- */

PS_DEVICE void copy_16(uint8_t *to, const uint8_t *from)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from)
                 : "memory");
#else
    *(uint4 *)to = *(const uint4 *)from;
#endif
}

/* Ends a group of copies: of one slab, or of none. */
PS_DEVICE void copies_end_group()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits until no more than SLABS - 2 groups are on their way: of those begun, the oldest is there. */
PS_DEVICE void copies_wait()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(SLABS - 2) : "memory");
#endif
}

/* ---- a launch ---- */

struct attn_job {
    const float *q;
    float *out;
    const uint32_t *pos;
    void *const *k_pages, *const *v_pages;
    size_t q_ld, out_ld;
    uint32_t T, n_heads, n_kv_heads, group, head_dim;
    uint32_t dim_pad;     /* head_dim in whole eights, as queries and slabs have it */
    uint32_t window;      /* 0 = full */
    float scale, softcap; /* 0 = none */
    enum ps_dtype k_dtype, v_dtype;
    uint32_t key_dims;         /* of a slab of keys */
    uint32_t value_rows;       /* of a slab of values: divides PS_KV_PAGE */
    uint32_t key_slabs, slabs; /* of a page's keys, and in all */
    bool by_16;                /* rows of the KV are whole 16 bytes */
    bool split;
    uint32_t n_tiles;
    uint32_t n_queries; /* of a kv head: T * group */
    /* split: results of chunks, [T][n_heads][n_chunks] */
    uint32_t n_chunks;
    float *part_acc; /* ... [head_dim] */
    float2 *part_max_sum;
};

/* One query of a tile, in shared memory. Those behind the last are copies of it that are never stored. */
struct query {
    uint32_t first, end; /* positions seen */
    float max, sum;      /* walk: of the chunks merged so far */
    float chunk_max;     /* of the chunk at work */
};

/* What a block works on. */
struct tile {
    uint32_t kv_head;
    uint32_t first_query; /* of the kv head's n_queries */
    uint32_t queries;     /* places for them */
    uint32_t page, page_end;
    uint8_t *slabs;
    float *q;       /* [warps][dim_pad / 4][NQ][4], so that a step's reads lie together */
    float *weights; /* [warps][PS_KV_PAGE][NQ]: e^(score - max) of the page at work */
    query *info;    /* [queries] */
};

/* Shared memory in this order. */
BOTH size_t shared_bytes(uint32_t warps, uint32_t nq, uint32_t dim_pad)
{
    size_t queries = (size_t)warps * nq;
    return SLABS * SLAB_BYTES + queries * (dim_pad + PS_KV_PAGE) * sizeof(float) +
           queries * sizeof(query);
}

/* Whether a row that sees [first, end) sees this position. A tree mask would ask here, for positions behind the end of
 * the settled text, the bit of that position in the row's word. */
PS_DEVICE bool at_sees(const query &q, uint32_t pos)
{
    return pos >= q.first && pos < q.end;
}

/* The slots [lo, hi) of a page that a query sees; lo = hi if none. */
PS_DEVICE void slots_seen(const query &q, uint32_t page, uint32_t *lo, uint32_t *hi)
{
    uint32_t base = page * PS_KV_PAGE;
    *lo = q.first > base ? min(q.first - base, (uint32_t)PS_KV_PAGE) : 0;
    *hi = q.end > base ? min(q.end - base, (uint32_t)PS_KV_PAGE) : 0;
    *hi = max(*lo, *hi);
}

/* Old results times *old_by and new ones times *new_by have the common maximum that is returned. */
PS_DEVICE float merge_weights(float old_max, float new_max, float *old_by, float *new_by)
{
    float top = fmaxf(old_max, new_max);
    *old_by = expf(old_max - top);
    *new_by = expf(new_max - top);
    return top;
}

/* What a row is divided by at the end. A sink would come in here: a last merge of (max = sink, sum = 1, acc = 0). */
PS_DEVICE float at_divisor(float sum)
{
    return sum;
}

/* ---- slabs ---- */

/* Where a byte of a slot's key lies in a slab. The 16-byte pieces of a key change places by the slot, so that eight
 * lanes that read one piece of eight neighbouring keys meet all banks once. */
PS_DEVICE uint32_t key_place(uint32_t slot, uint32_t byte)
{
    return slot * KEY_BYTES + (byte ^ (slot / 2 % 4 * 16));
}

/* Rows [lo, hi) whose elements are not whole 16 bytes: two bytes at a time, zeros up to `padded` bytes. */
template <bool KEYS>
PS_DEVICE void copy_odd_rows(uint8_t *slab, const uint8_t *from, uint32_t stride, uint32_t lo,
                             uint32_t hi, uint32_t bytes, uint32_t padded)
{
    uint32_t per_row = padded / 2;
    for (uint32_t i = threadIdx.x; i < (hi - lo) * per_row; i += blockDim.x) {
        uint32_t r = lo + i / per_row, b = i % per_row * 2;
        uint32_t place = KEYS ? key_place(r, b) : r * padded + b;
        *(uint16_t *)(slab + place) =
            b < bytes ? *(const uint16_t *)(from + r * stride + b) : (uint16_t)0;
    }
}

/* Keys of the slots [lo, hi), dimensions of slab `s`, into rows by slot. `from`: the kv head's keys in a page. */
PS_DEVICE void copy_keys(const attn_job &j, uint8_t *slab, const uint8_t *from, uint32_t s,
                         uint32_t lo, uint32_t hi)
{
    uint32_t size = j.k_dtype == PS_F32 ? 4 : 2, d = s * j.key_dims, stride = j.head_dim * size;
    uint32_t bytes = min(j.key_dims, j.head_dim - min(d, j.head_dim)) * size;
    from += d * size;
    if (!j.by_16) {
        uint32_t padded = min(j.key_dims, j.dim_pad - d) * size;
        copy_odd_rows<true>(slab, from, stride, lo, hi, bytes, padded);
        return;
    }
    const uint32_t pieces = KEY_BYTES / 16;
    uint32_t c = threadIdx.x % pieces * 16, r = lo + threadIdx.x / pieces, rows = blockDim.x / pieces;
    if (c >= bytes)
        return;
    from += r * stride + c;
    slab += key_place(r, c);
    UNROLL_BY(4)
    for (; r < hi; r += rows, from += rows * stride,
                   slab += rows * KEY_BYTES) /* 8 or more rows on: same place */
        copy_16(slab, from);
}

/* Values of those of the slots [lo, hi) that slab `s` holds: whole rows, one behind the other. */
PS_DEVICE void copy_values(const attn_job &j, uint8_t *slab, const uint8_t *from, uint32_t s,
                           uint32_t lo, uint32_t hi)
{
    uint32_t size = j.v_dtype == PS_F32 ? 4 : 2, stride = j.head_dim * size;
    uint32_t first = s * j.value_rows, end = min(hi, first + j.value_rows);
    lo = max(lo, first);
    if (lo >= end)
        return;
    if (!j.by_16) {
        copy_odd_rows<false>(slab, from + first * stride, stride, lo - first, end - first, stride,
                             j.dim_pad * size);
        return;
    }
    uint32_t bytes = (end - lo) * stride;
    from += lo * stride;
    slab += (lo - first) * stride;
    UNROLL_BY(4)
    for (uint32_t i = threadIdx.x * 16; i < bytes; i += blockDim.x * 16)
        copy_16(slab + i, from + i);
}

/* The slabs of a tile in order: those of a page's keys, those of its values, the next page's. The pages' addresses are
 * fetched when the cursor comes to them, so that the copies, one slab later, need not wait for them. */
struct slab_cursor {
    uint32_t page, step; /* step < key_slabs: keys */
    uint32_t buffer;     /* 0 .. SLABS - 1: where the next one goes */
    const uint8_t *keys, *values;
};

PS_DEVICE void cursor_fetch(const attn_job &j, const tile &b, slab_cursor *c)
{
    if (c->page >= b.page_end)
        return;
    size_t at = (size_t)b.kv_head * PS_KV_PAGE * j.head_dim;
    c->keys = (const uint8_t *)j.k_pages[c->page] + at * (j.k_dtype == PS_F32 ? 4 : 2);
    c->values = (const uint8_t *)j.v_pages[c->page] + at * (j.v_dtype == PS_F32 ? 4 : 2);
}

PS_DEVICE slab_cursor cursor_first(const attn_job &j, const tile &b)
{
    slab_cursor c = {b.page, 0, 0, NULL, NULL};
    cursor_fetch(j, b, &c);
    return c;
}

/* Begins to copy the slab of the cursor and moves it on. Behind the last slab it only ends an empty group, so that the
 * count of groups stays right. */
PS_DEVICE void slab_begin(const attn_job &j, const tile &b, slab_cursor *c, const query &all)
{
    if (c->page < b.page_end) {
        uint32_t lo, hi;
        uint8_t *slab = b.slabs + c->buffer * SLAB_BYTES;
        slots_seen(all, c->page, &lo, &hi);
        if (c->step < j.key_slabs)
            copy_keys(j, slab, c->keys, c->step, lo, hi);
        else
            copy_values(j, slab, c->values, c->step - j.key_slabs, lo, hi);
        if (++c->step == j.slabs) {
            c->step = 0;
            c->page++;
            cursor_fetch(j, b, c);
        }
    }
    c->buffer = c->buffer + 1 == SLABS ? 0 : c->buffer + 1;
    copies_end_group();
}

/* Waits for the slab that is used next, begins the one SLABS - 1 behind it, and returns it. All threads of the block
 * come here: whoever leaves knows that all have done with the slab before, whose place is filled now. */
PS_DEVICE const uint8_t *slab_next(const attn_job &j, const tile &b, slab_cursor *ahead,
                                   const query &all)
{
    copies_wait();
    __syncthreads();
    slab_begin(j, b, ahead, all);
    return b.slabs + ahead->buffer * SLAB_BYTES; /* filled next, that is: in use now */
}

/* ---- the arithmetic of a warp: NQ queries, a page ---- */

template <unsigned NQ, unsigned N> struct sums {
    float score[NQ][2]; /* of the positions `lane` and `lane + 32` of the page; later their weights */
    float acc[NQ][N];   /* of this lane's dimensions */
    float sum[NQ];      /* this lane's share of the chunk's */
};

/* Adds the dimensions of one slab to the scores; q: the queries from its first dimension on. */
template <unsigned NQ, typename E>
PS_DEVICE void add_scores(float (&score)[NQ][2], const uint8_t *slab, const float4 *q, uint32_t dims)
{
    for (uint32_t d = 0; d < dims; d += E::PER_16) {
        float a[E::PER_16], b[E::PER_16];
        const uint8_t *k = slab + key_place(threadIdx.x % PS_WARP, d * E::BYTES);
        E::all(a, *(const uint4 *)k);
        E::all(b, *(const uint4 *)(k + PS_WARP * KEY_BYTES));
        UNROLL
        for (unsigned h = 0; h < E::PER_16; h += 4, q += NQ) {
            UNROLL
            for (unsigned i = 0; i < NQ; i++) {
                float4 x = q[i];
                score[i][0] = fmaf(x.x, a[h], score[i][0]);
                score[i][1] = fmaf(x.x, b[h], score[i][1]);
                score[i][0] = fmaf(x.y, a[h + 1], score[i][0]);
                score[i][1] = fmaf(x.y, b[h + 1], score[i][1]);
                score[i][0] = fmaf(x.z, a[h + 2], score[i][0]);
                score[i][1] = fmaf(x.z, b[h + 2], score[i][1]);
                score[i][0] = fmaf(x.w, a[h + 3], score[i][0]);
                score[i][1] = fmaf(x.w, b[h + 3], score[i][1]);
            }
        }
    }
}

/* Products of queries and keys to scores. */
template <unsigned NQ> PS_DEVICE void scale_scores(const attn_job &j, float (&score)[NQ][2])
{
    UNROLL
    for (unsigned i = 0; i < NQ; i++) {
        UNROLL
        for (unsigned x = 0; x < 2; x++)
            score[i][x] *= j.scale;
    }
    if (j.softcap == 0)
        return;
    UNROLL
    for (unsigned i = 0; i < NQ; i++) {
        UNROLL
        for (unsigned x = 0; x < 2; x++)
            score[i][x] = j.softcap * tanhf(score[i][x] / j.softcap);
    }
}

PS_DEVICE float warp_max(float v)
{
    for (int with = 16; with; with /= 2)
        v = fmaxf(v, __shfl_xor_sync(PS_FULL, v, with));
    return v;
}

PS_DEVICE float warp_sum(float v)
{
    for (int with = 16; with; with /= 2)
        v += __shfl_xor_sync(PS_FULL, v, with);
    return v;
}

/* Scores of a page to weights, and all sums of the chunk to the new maximum. Slots not seen may hold anything, NaNs
 * too. If nothing is seen: shrink = 1, weights 0, and everything stays as it is. */
template <unsigned NQ, unsigned N>
PS_DEVICE void weigh_page(const attn_job &j, sums<NQ, N> &s, query *info, uint32_t page,
                          float *weights)
{
    uint32_t lane = threadIdx.x % PS_WARP, pos = page * PS_KV_PAGE + lane;
    float top[NQ];
    scale_scores<NQ>(j, s.score);
    UNROLL
    for (unsigned i = 0; i < NQ; i++) {
        bool sees0 = at_sees(info[i], pos), sees1 = at_sees(info[i], pos + PS_WARP);
        float s0 = sees0 ? s.score[i][0] : -INFINITY, s1 = sees1 ? s.score[i][1] : -INFINITY;
        float before = info[i].chunk_max, here = warp_max(fmaxf(s0, s1)), shrink = 1.0f;
        top[i] = before;
        if (here > before) {
            top[i] = here;
            shrink = expf(before - here);
        }
        s.score[i][0] = sees0 ? expf(s0 - top[i]) : 0.0f;
        s.score[i][1] = sees1 ? expf(s1 - top[i]) : 0.0f;
        s.sum[i] = fmaf(s.sum[i], shrink, s.score[i][0] + s.score[i][1]);
        UNROLL
        for (unsigned x = 0; x < N; x++)
            s.acc[i][x] *= shrink;
    }
    UNROLL
    for (unsigned i = 0; i < NQ; i += 4) {
        UNROLL
        for (unsigned x = 0; x < 2; x++) {
            float4 w = {s.score[i][x], s.score[i + 1][x], s.score[i + 2][x], s.score[i + 3][x]};
            *(float4 *)(weights + (lane + x * PS_WARP) * NQ + i) = w;
        }
    }
    __syncwarp(); /* all have read the old maxima */
    UNROLL
    for (unsigned i = 0; i < NQ; i++)
        if (lane == 0)
            info[i].chunk_max = top[i];
}

/* The lane's dimension of its x-th sum. */
template <unsigned VEC> PS_DEVICE uint32_t dim_of(unsigned x)
{
    return x / VEC * PS_WARP * VEC + threadIdx.x % PS_WARP * VEC + x % VEC;
}

/* Adds the values of the slots [lo, hi) of a slab; slot `first` is its row 0. With MASKED, only to those queries
 * that see the slot: adding 0 * value to the others would bring in NaNs and infinities of positions that they
 * don't see. */
template <unsigned NQ, unsigned VEC, unsigned STRIPS, typename E, bool MASKED>
PS_DEVICE void add_values(float (&acc)[NQ][VEC * STRIPS], const uint8_t *slab, const float *weights,
                          uint32_t dim_pad, uint32_t first, uint32_t lo, uint32_t hi,
                          const query *info, uint32_t page)
{
    uint32_t at[STRIPS];
    const uint8_t *row = slab + (lo - first) * dim_pad * E::BYTES;
    UNROLL
    for (unsigned x = 0; x < STRIPS; x++) {
        uint32_t d = dim_of<VEC>(x * VEC);
        at[x] = (d < dim_pad ? d : 0) *
                E::BYTES; /* lanes without a dimension compute what nobody stores */
    }
    UNROLL_BY((MASKED ? 1 : 4))
    for (uint32_t slot = lo; slot < hi; slot++, row += dim_pad * E::BYTES) {
        float v[VEC * STRIPS];
        UNROLL
        for (unsigned x = 0; x < STRIPS; x++)
            kv_load<E, VEC>(v + x * VEC, row + at[x]);
        UNROLL
        for (unsigned i = 0; i < NQ; i += 4) {
            float4 w4 = *(const float4 *)(weights + slot * NQ + i);
            float w[4] = {w4.x, w4.y, w4.z, w4.w};
            UNROLL
            for (unsigned y = 0; y < 4; y++) {
                if (MASKED && !at_sees(info[i + y], page * PS_KV_PAGE + slot))
                    continue;
                UNROLL
                for (unsigned x = 0; x < VEC * STRIPS; x++)
                    acc[i + y][x] = fmaf(w[y], v[x], acc[i + y][x]);
            }
        }
    }
}

/* What the warp's queries see of a page: all the same slots, or each its own. */
struct page_view {
    uint32_t lo, hi; /* what any of them sees */
    bool masked;
};

template <unsigned NQ> PS_DEVICE page_view view_page(const query *info, uint32_t page)
{
    page_view v = {PS_KV_PAGE, 0, false};
    uint32_t lo0, hi0;
    slots_seen(info[0], page, &lo0, &hi0);
    UNROLL
    for (unsigned i = 0; i < NQ; i++) {
        uint32_t lo, hi;
        slots_seen(info[i], page, &lo, &hi);
        v.masked = v.masked || lo != lo0 || hi != hi0;
        if (lo < hi) {
            v.lo = min(v.lo, lo);
            v.hi = max(v.hi, hi);
        }
    }
    return v;
}

template <unsigned NQ>
PS_DEVICE void scores_of_slab(const attn_job &j, float (&score)[NQ][2], const uint8_t *slab,
                              const float4 *q, uint32_t step)
{
    uint32_t d = step * j.key_dims, dims = min(j.key_dims, j.dim_pad - d);
    q += d / 4 * NQ;
    if (j.k_dtype == PS_BF16)
        add_scores<NQ, kv_bf16>(score, slab, q, dims);
    else if (j.k_dtype == PS_F16)
        add_scores<NQ, kv_f16>(score, slab, q, dims);
    else
        add_scores<NQ, kv_f32>(score, slab, q, dims);
}

template <unsigned NQ, unsigned VEC, unsigned STRIPS, typename E>
PS_DEVICE void values_of_type(const attn_job &j, float (&acc)[NQ][VEC * STRIPS],
                              const uint8_t *slab, const float *weights, const page_view &v,
                              uint32_t first, const query *info, uint32_t page)
{
    uint32_t lo = max(v.lo, first), hi = min(v.hi, first + j.value_rows);
    if (v.masked)
        add_values<NQ, VEC, STRIPS, E, true>(acc, slab, weights, j.dim_pad, first, lo, hi, info,
                                             page);
    else
        add_values<NQ, VEC, STRIPS, E, false>(acc, slab, weights, j.dim_pad, first, lo, hi, info,
                                              page);
}

template <unsigned NQ, unsigned VEC, unsigned STRIPS>
PS_DEVICE void values_of_slab(const attn_job &j, float (&acc)[NQ][VEC * STRIPS],
                              const uint8_t *slab, const float *weights, const page_view &v,
                              uint32_t step, const query *info, uint32_t page)
{
    uint32_t first = step * j.value_rows;
    if (j.v_dtype == PS_BF16)
        values_of_type<NQ, VEC, STRIPS, kv_bf16>(j, acc, slab, weights, v, first, info, page);
    else if (j.v_dtype == PS_F16)
        values_of_type<NQ, VEC, STRIPS, kv_f16>(j, acc, slab, weights, v, first, info, page);
    else
        values_of_type<NQ, VEC, STRIPS, kv_f32>(j, acc, slab, weights, v, first, info, page);
}

/* ---- the end of a chunk ---- */

/* Merges a query's chunk into what `out` holds of the chunks before; the last one is divided. */
template <unsigned VEC, unsigned N>
PS_DEVICE void merge_into_out(const attn_job &j, float *out, query *q, const float (&acc)[N],
                              float sum_new, uint32_t chunk)
{
    float old_by, new_by, sum_old = q->sum;
    bool first = chunk == chunk_of(q->first), last = chunk == chunk_of(q->end - 1);
    float top = merge_weights(q->max, q->chunk_max, &old_by, &new_by);
    float sum = fmaf(sum_new, new_by, sum_old * old_by);
    UNROLL
    for (unsigned x = 0; x < N; x++) {
        uint32_t d = dim_of<VEC>(x);
        if (d >= j.head_dim)
            continue;
        float v = fmaf(acc[x], new_by, (first ? 0.0f : out[d]) * old_by);
        out[d] = last ? v / at_divisor(sum) : v;
    }
    __syncwarp();
    if (threadIdx.x % PS_WARP == 0) {
        q->max = top;
        q->sum = sum;
    }
    __syncwarp();
}

/* A chunk's result into scratch, for merge_chunks. */
template <unsigned VEC, unsigned N>
PS_DEVICE void keep_chunk(const attn_job &j, size_t at, const float (&acc)[N], float max_new,
                          float sum_new)
{
    UNROLL
    for (unsigned x = 0; x < N; x++)
        if (dim_of<VEC>(x) < j.head_dim)
            j.part_acc[at * j.head_dim + dim_of<VEC>(x)] = acc[x];
    if (threadIdx.x % PS_WARP == 0)
        j.part_max_sum[at] = make_float2(max_new, sum_new);
}

template <unsigned VEC, unsigned NQ, unsigned N>
PS_DEVICE void end_chunk(const attn_job &j, const tile &b, sums<NQ, N> &s, query *info, uint32_t chunk)
{
    uint32_t begin = chunk_begin(chunk), end = chunk_begin(chunk + 1);
    uint32_t n0 = b.first_query + threadIdx.x / PS_WARP * NQ, lane = threadIdx.x % PS_WARP;
    UNROLL
    for (unsigned i = 0; i < NQ; i++) {
        float sum = warp_sum(s.sum[i]);
        bool sees = info[i].first < end && info[i].end > begin;
        if (n0 + i < j.n_queries && sees) {
            uint32_t t = (n0 + i) / j.group, head = b.kv_head * j.group + (n0 + i) % j.group;
            if (j.split)
                keep_chunk<VEC, N>(j, ((size_t)t * j.n_heads + head) * j.n_chunks + chunk, s.acc[i],
                                   info[i].chunk_max, sum);
            else
                merge_into_out<VEC, N>(j, j.out + t * j.out_ld + (size_t)head * j.head_dim,
                                       &info[i], s.acc[i], sum, chunk);
        }
    }
    __syncwarp();
    if (lane < NQ)
        info[lane].chunk_max = -INFINITY;
}

/* ---- the kernel ---- */

PS_DEVICE query query_of_row(const attn_job &j, uint32_t t)
{
    query q = {0, j.pos[t] + 1, -INFINITY, 0, -INFINITY};
    q.first = j.window && q.end > j.window ? q.end - j.window : 0;
    return q;
}

/* The tile of this block and, in *all, the positions that any of its rows sees. Blocks are numbered so that the last
 * rows, which see most, come first. */
PS_DEVICE tile tile_begin(const attn_job &j, uint8_t *shared, uint32_t nq, query *all)
{
    tile b;
    b.kv_head = blockIdx.x % j.n_kv_heads;
    b.queries = blockDim.x / PS_WARP * nq;
    b.first_query = (j.n_tiles - 1 - blockIdx.x / j.n_kv_heads) * b.queries;
    b.slabs = shared;
    b.q = (float *)(shared + SLABS * SLAB_BYTES);
    b.weights = b.q + b.queries * j.dim_pad;
    b.info = (query *)(b.weights + b.queries * PS_KV_PAGE);
    uint32_t last = min(b.first_query + b.queries, j.n_queries) - 1;
    *all = query_of_row(j, b.first_query / j.group);
    for (uint32_t t = b.first_query / j.group + 1; t <= last / j.group; t++) {
        query q = query_of_row(j, t);
        all->first = min(all->first, q.first);
        all->end = max(all->end, q.end);
    }
    if (j.split) {
        uint32_t chunk = j.n_chunks - 1 - blockIdx.y;
        all->first = max(all->first, chunk_begin(chunk));
        all->end = min(all->end, chunk_begin(chunk + 1));
    }
    b.page = all->first / PS_KV_PAGE;
    b.page_end = all->end > all->first ? (all->end - 1) / PS_KV_PAGE + 1 : b.page;
    return b;
}

/* Queries and what they see into shared memory. */
PS_DEVICE void load_queries(const attn_job &j, const tile &b, uint32_t nq)
{
    for (uint32_t i = threadIdx.x / PS_WARP; i < b.queries; i += blockDim.x / PS_WARP) {
        uint32_t n = min(b.first_query + i, j.n_queries - 1), t = n / j.group;
        const float *q = j.q + t * j.q_ld + ((size_t)b.kv_head * j.group + n % j.group) * j.head_dim;
        float *to = b.q + i / nq * nq * j.dim_pad + i % nq * 4;
        for (uint32_t d = threadIdx.x % PS_WARP; d < j.dim_pad; d += PS_WARP)
            to[d / 4 * nq * 4 + d % 4] = d < j.head_dim ? q[d] : 0.0f;
        if (threadIdx.x % PS_WARP == 0)
            b.info[i] = query_of_row(j, t);
    }
}

template <unsigned NQ, unsigned N> PS_DEVICE void chunk_start(sums<NQ, N> &s)
{
    UNROLL
    for (unsigned i = 0; i < NQ; i++) {
        s.sum[i] = 0;
        UNROLL
        for (unsigned x = 0; x < N; x++)
            s.acc[i][x] = 0;
    }
}

/* VEC neighbouring dimensions in each of STRIPS strips of 32 VEC dimensions are a lane's. */
template <unsigned NQ, unsigned VEC, unsigned STRIPS>
PS_KERNEL __launch_bounds__(MAX_WARPS *PS_WARP, NQ *VEC *STRIPS <= 32 ? 2 : 1) attend(attn_job j)
{
    PS_SHARED_DYNAMIC(shared);
    query all;
    const tile b = tile_begin(j, shared, NQ, &all);
    if (b.page >= b.page_end)
        return;
    uint32_t warp = threadIdx.x / PS_WARP;
    const float4 *q = (const float4 *)(b.q + warp * NQ * j.dim_pad);
    float *weights = b.weights + warp * NQ * PS_KV_PAGE;
    query *info = b.info + warp * NQ;
    slab_cursor ahead = cursor_first(j, b);
    UNROLL_BY(1)
    for (unsigned i = 0; i + 1 < SLABS; i++)
        slab_begin(j, b, &ahead, all);
    load_queries(j, b, NQ);
    sums<NQ, VEC * STRIPS> s;
    chunk_start(s);
    for (uint32_t page = b.page; page < b.page_end; page++) {
        page_view view;
        UNROLL
        for (unsigned i = 0; i < NQ; i++)
            s.score[i][0] = s.score[i][1] = 0;
        for (uint32_t step = 0; step < j.slabs; step++) {
            const uint8_t *slab = slab_next(j, b, &ahead, all);
            if (step < j.key_slabs) {
                scores_of_slab<NQ>(j, s.score, slab, q, step);
                if (step + 1 < j.key_slabs)
                    continue;
                /* slab_next's barrier stands between this, the use of the weights, and the next page's */
                view = view_page<NQ>(info, page);
                weigh_page<NQ, VEC * STRIPS>(j, s, info, page, weights);
            } else {
                values_of_slab<NQ, VEC, STRIPS>(j, s.acc, slab, weights, view, step - j.key_slabs,
                                                info, page);
            }
        }
        uint32_t chunk = chunk_of(page * PS_KV_PAGE);
        if (page + 1 < b.page_end && chunk_of((page + 1) * PS_KV_PAGE) == chunk)
            continue;
        end_chunk<VEC, NQ, VEC * STRIPS>(j, b, s, info, chunk);
        chunk_start(s);
    }
}

/* The largest of this thread's v and those of all threads before it, and of `before`. */
PS_DEVICE float max_so_far(float v, float before, float *of_warps)
{
    uint32_t lane = threadIdx.x % PS_WARP, warp = threadIdx.x / PS_WARP;
    for (unsigned by = 1; by < PS_WARP; by *= 2) {
        float other = __shfl_up_sync(PS_FULL, v, by);
        v = lane >= by ? fmaxf(v, other) : v;
    }
    if (lane == PS_WARP - 1)
        of_warps[warp] = v;
    __syncthreads();
    for (uint32_t w = 0; w < warp; w++)
        before = fmaxf(before, of_warps[w]);
    return fmaxf(before, v);
}

/* What merge_weights would give for one chunk after the other, MERGE_THREADS of them at once, a chunk per thread: a
 * running maximum is the same in any order. Returns the maximum behind the last. */
PS_DEVICE float merge_factors(float4 *factors, float *of_warps, const float2 *max_sum, uint32_t n,
                              float before)
{
    float2 own = threadIdx.x < n ? max_sum[threadIdx.x] : make_float2(-INFINITY, 0);
    float top = max_so_far(own.x, before, of_warps);
    factors[threadIdx.x].z = top;
    __syncthreads();
    float old_by, new_by, last = factors[n - 1].z;
    merge_weights(threadIdx.x ? factors[threadIdx.x - 1].z : before, own.x, &old_by, &new_by);
    __syncthreads();
    factors[threadIdx.x] = {old_by, new_by, own.y, 0};
    __syncthreads();
    return last;
}

/* The chunks of one query (blockIdx.x = row * n_heads + head), a dimension per thread: what merge_into_out does
 * chunk by chunk. The factors come first, so that nothing stands between the fetches of the sums. */
PS_KERNEL __launch_bounds__(MERGE_THREADS) merge_chunks(attn_job j)
{
    PS_SHARED float4 factors[MERGE_THREADS];
    PS_SHARED float of_warps[MERGE_THREADS / PS_WARP];
    uint32_t t = blockIdx.x / j.n_heads, head = blockIdx.x % j.n_heads;
    query q = query_of_row(j, t);
    uint32_t end = chunk_of(q.end - 1) + 1, d = blockIdx.y * MERGE_THREADS + threadIdx.x;
    const float2 *max_sum = j.part_max_sum + (size_t)blockIdx.x * j.n_chunks;
    /* threads without a dimension work on the last and store nothing */
    const float *acc =
        j.part_acc + (size_t)blockIdx.x * j.n_chunks * j.head_dim + min(d, j.head_dim - 1);
    float v = 0;
    for (uint32_t c = chunk_of(q.first); c < end; c += MERGE_THREADS) {
        uint32_t n = min(end - c, MERGE_THREADS);
        q.max = merge_factors(factors, of_warps, max_sum + c, n, q.max);
        for (uint32_t i = 0; i < n; i += MERGE_AHEAD) {
            float a[MERGE_AHEAD];
            UNROLL
            for (uint32_t x = 0; x < MERGE_AHEAD; x++)
                a[x] = acc[(size_t)(c + min(i + x, n - 1)) * j.head_dim];
            __syncwarp(); /* else the compiler moves the fetches down to their uses, one or two at a time */
            UNROLL
            for (uint32_t x = 0; x < MERGE_AHEAD; x++) {
                float4 f = factors[min(i + x, n - 1)];
                bool one_more = i + x < n;
                q.sum = one_more ? fmaf(f.z, f.y, q.sum * f.x) : q.sum;
                v = one_more ? fmaf(a[x], f.y, v * f.x) : v;
            }
        }
        __syncthreads();
    }
    if (d < j.head_dim)
        j.out[t * j.out_ld + (size_t)head * j.head_dim + d] = v / at_divisor(q.sum);
}

/* ---- how a launch is cut ---- */

uint32_t div_up(size_t a, size_t b)
{
    return (uint32_t)((a + b - 1) / b);
}

unsigned processors()
{
#if defined(__CUDACC__)
    int device = 0, n = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device);
    return n > 0 ? (unsigned)n : 1;
#else
    return 1;
#endif
}

struct shape {
    unsigned nq, warps;
};

/* Tiles of about equal size, each as large as shared memory allows. */
shape cut(attn_job *j)
{
    size_t n = j->n_queries = j->T * j->group;
    shape s = {n >= WIDE_FROM && j->dim_pad <= WIDE_DIM_MAX ? WIDE : NARROW, MAX_WARPS};
    while (s.warps > 1 && shared_bytes(s.warps, s.nq, j->dim_pad) > SHARED_MAX)
        s.warps--;
    j->n_tiles = div_up(n, s.warps * s.nq);
    s.warps = div_up(div_up(n, j->n_tiles), s.nq);
    j->n_tiles = div_up(n, s.warps * s.nq);
    return s;
}

template <unsigned NQ, unsigned VEC, unsigned STRIPS>
int launch_attend(simt_stream stream, const attn_job &j, unsigned warps)
{
    dim3 grid(j.n_tiles * j.n_kv_heads, j.split ? j.n_chunks : 1);
    return PS_LAUNCH((attend<NQ, VEC, STRIPS>), grid, dim3(warps * PS_WARP),
                     shared_bytes(warps, NQ, j.dim_pad), stream, j);
}

int launch_shape(simt_stream stream, const attn_job &j, shape s)
{
    bool wide = s.nq == WIDE;
    if (j.dim_pad <= 64)
        return wide ? launch_attend<WIDE, 2, 1>(stream, j, s.warps)
                    : launch_attend<NARROW, 2, 1>(stream, j, s.warps);
    if (j.dim_pad <= 128)
        return wide ? launch_attend<WIDE, 4, 1>(stream, j, s.warps)
                    : launch_attend<NARROW, 4, 1>(stream, j, s.warps);
    if (j.dim_pad <= 256)
        return wide ? launch_attend<WIDE, 4, 2>(stream, j, s.warps)
                    : launch_attend<NARROW, 4, 2>(stream, j, s.warps);
    return launch_attend<NARROW, 4, 4>(stream, j, s.warps);
}

/* Scratch of one row of a split launch. */
size_t row_bytes(uint32_t n_heads, uint32_t head_dim, uint32_t max_pos)
{
    size_t chunks = (size_t)chunk_of(max_pos) + 1;
    return chunks * n_heads * (head_dim * sizeof(float) + sizeof(float2));
}

size_t rows_at_once(size_t bytes_of_row)
{
    return bytes_of_row < PS_ATTN_SCRATCH_MAX ? PS_ATTN_SCRATCH_MAX / bytes_of_row : 1;
}

/* A page's slabs. */
void cut_page(attn_job *j)
{
    uint32_t k_size = j->k_dtype == PS_F32 ? 4 : 2, v_size = j->v_dtype == PS_F32 ? 4 : 2;
    j->dim_pad = (j->head_dim + 7) / 8 * 8;
    j->key_dims = KEY_BYTES / k_size;
    j->value_rows = PS_KV_PAGE;
    while (j->value_rows * j->dim_pad * v_size > SLAB_BYTES)
        j->value_rows /= 2;
    j->key_slabs = div_up(j->dim_pad, j->key_dims);
    j->slabs = j->key_slabs + PS_KV_PAGE / j->value_rows;
    j->by_16 = j->head_dim % 8 == 0;
}

bool is_float_type(enum ps_dtype t)
{
    return t == PS_F32 || t == PS_F16 || t == PS_BF16;
}

/* Rows in batches whose chunks fit the scratch. */
int launch_split(simt_stream stream, attn_job j, void *scratch, uint32_t max_pos)
{
    size_t per_row = row_bytes(j.n_heads, j.head_dim, max_pos), step = rows_at_once(per_row);
    uint32_t T = j.T;
    j.split = true;
    j.n_chunks = chunk_of(max_pos) + 1;
    for (uint32_t t = 0; t < T; t += j.T) {
        j.T = T - t < step ? T - t : (uint32_t)step;
        size_t queries = (size_t)j.T * j.n_heads;
        j.part_max_sum = (float2 *)scratch;
        j.part_acc = (float *)(j.part_max_sum + queries * j.n_chunks);
        shape s = cut(&j);
        int rc = launch_shape(stream, j, s);
        if (rc == 0)
            rc = PS_LAUNCH(merge_chunks, dim3((unsigned)queries, div_up(j.head_dim, MERGE_THREADS)),
                           dim3(MERGE_THREADS), 0, stream, j);
        if (rc)
            return rc;
        j.q += j.T * j.q_ld;
        j.out += j.T * j.out_ld;
        j.pos += j.T;
    }
    return 0;
}

} // namespace

size_t ps_launch_attention_bytes(size_t T, uint32_t n_heads, uint32_t head_dim, uint32_t max_pos)
{
    size_t per_row = row_bytes(n_heads, head_dim, max_pos);
    if (max_pos < CHUNK_A)
        return 0; /* one chunk: nothing to merge */
    size_t most = per_row > PS_ATTN_SCRATCH_MAX ? per_row : PS_ATTN_SCRATCH_MAX;
    return T < most / per_row ? T * per_row : most;
}

int ps_launch_attention(simt_stream stream, const struct ps_attn *a, uint32_t max_pos)
{
    if (!is_float_type(a->k_dtype) || !is_float_type(a->v_dtype) || a->head_dim == 0 ||
        a->head_dim > PS_ATTN_HEAD_DIM_MAX)
        return PS_EUNSUPPORTED;
    if (a->T == 0)
        return 0;
    attn_job j = {};
    j.q = a->q, j.q_ld = a->q_ld;
    j.out = a->out, j.out_ld = a->out_ld;
    j.pos = a->pos;
    j.k_pages = a->k_pages, j.v_pages = a->v_pages;
    j.k_dtype = a->k_dtype, j.v_dtype = a->v_dtype;
    j.T = (uint32_t)a->T;
    j.n_heads = a->n_heads, j.n_kv_heads = a->n_kv_heads;
    j.group = a->n_heads / a->n_kv_heads;
    j.head_dim = a->head_dim;
    j.window = a->window;
    j.scale = a->scale, j.softcap = a->softcap;
    cut_page(&j);
    shape s = cut(&j);
    if (max_pos < CHUNK_A ||
        (size_t)j.n_tiles * j.n_kv_heads * s.warps >= (size_t)WALK_WARPS * processors())
        return launch_shape(stream, j, s);
    return launch_split(stream, j, a->scratch, max_pos);
}
