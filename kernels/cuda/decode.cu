/* Decoding on the device. Comes in: stored blocks of an extent, as they crossed the bus, written by anyone. Goes
 * out: rows of weights in device memory for the products.
 *
 * A grid is pieces x blocks: one thread block for each 16,384 weights, so that an extent of 8 MiB makes 256 of
 * them, and none needs what another does. Launches hold up to 64 blocks, whose places travel as the kernel's
 * arguments.
 *
 * WH: a weight walks down the code tree. At a node its bit is looked up, and the number of equal bits before it is
 * its place in the child; for that the piece's bitmaps lie in shared memory, 32 bits beside the number of ones
 * before them. The walks of a thread follow one another without waiting for those of its neighbours: a warp then
 * takes as many steps as its longest sum of walks, 1.2 times the mean, where in lockstep it would be 2.5 times.
 *
 * XC34: one warp for each segment of 4096 weights, eight a thread at a time; a scan over the warp tells each
 * thread which of the segment's escapes are its own.
 *
 * Bounds: heads and tables are read by the functions that the CPU uses too. A WH walk stays inside because every
 * node's size follows from the bitmaps of the nodes above, and all nodes together were found to fill the piece;
 * XC34 looks at every index. Blocks begin at multiples of 16 unless one before them is stored bare and has an odd
 * length: then the wide loads fall back to bytes. */
#include "kernels/cuda/launch_decode.h"

#include "proto/block_format.h"

#if defined(__CUDACC__)
#define UNROLL _Pragma("unroll") /* what is indexed then stays in registers */
#else
#define UNROLL
#endif

namespace
{

const unsigned MAX_BLOCKS = 64;  /* per launch */
const unsigned WH_THREADS = 512; /* 32 weights each */
const unsigned WH_TURNS = PS_BLOCK_PIECE / 8 / WH_THREADS;
const unsigned XC34_THREADS = PS_BLOCK_PIECE / PS_XC34_SEGMENT * PS_WARP;
const unsigned FRONT_BYTES = 320; /* head, counts, symbols */
const uint32_t LEAF = 0x80000000u;

static_assert(FRONT_BYTES >= PS_BLOCK_HEAD_BYTES + PS_WH_SYMBOLS_AT + 256,
              "the front holds all symbols");

struct blocks {
    enum ps_codec codec;
    const uint8_t *in;
    uint8_t *out;
    uint64_t block_bytes, raw_bytes; /* raw_bytes: of the blocks of this launch */
    uint32_t first;                  /* index of the first of them in the extent */
    uint32_t *fault;
    uint64_t at[MAX_BLOCKS + 1]; /* where each begins, and the end of the last */
};

/* The block that a thread block works on. */
struct job {
    const uint8_t *in;
    size_t in_bytes;
    uint8_t *out;
    size_t out_bytes;
};

PS_DEVICE struct job this_job(const struct blocks &b)
{
    unsigned i = blockIdx.y;
    uint64_t begin = i * b.block_bytes, left = b.raw_bytes - begin;
    return {b.in + b.at[i], (size_t)(b.at[i + 1] - b.at[i]), b.out + begin,
            (size_t)min(left, b.block_bytes)};
}

/* ---- Memory ---- */

PS_DEVICE bool aligned(const void *p, size_t to)
{
    return (uintptr_t)p % to == 0;
}

template <typename T> PS_DEVICE T load_aligned(const uint8_t *p)
{
    T v;
    memcpy(&v, __builtin_assume_aligned(p, sizeof(T)), sizeof(T));
    return v;
}

template <typename T> PS_DEVICE T load_any(const uint8_t *p)
{
    if (aligned(p, sizeof(T)))
        return load_aligned<T>(p);
    uint32_t word[sizeof(T) / 4];
    for (unsigned i = 0; i < sizeof(T) / 4; i++)
        word[i] = ps_block_u32(p + 4 * i);
    T v;
    memcpy(&v, word, sizeof v);
    return v;
}

template <typename T> PS_DEVICE void store_aligned(uint8_t *p, T v)
{
    memcpy(__builtin_assume_aligned(p, sizeof(T)), &v, sizeof(T));
}

/* n bytes by all threads of the block. */
PS_DEVICE void copy_bytes(uint8_t *out, const uint8_t *in, size_t n)
{
    size_t wide = aligned(in, 16) && aligned(out, 16) ? n / 16 : 0;
    for (size_t i = threadIdx.x; i < wide; i += blockDim.x)
        store_aligned(out + 16 * i, load_aligned<uint4>(in + 16 * i));
    for (size_t i = 16 * wide + threadIdx.x; i < n; i += blockDim.x)
        out[i] = in[i];
}

/* This thread block's part of a block that is stored bare. */
template <enum ps_dtype T> PS_DEVICE void copy_piece(const struct job &j)
{
    size_t bytes = PS_BLOCK_PIECE * (size_t)ps_block_weight_bytes(T), at = blockIdx.x * bytes;
    if (at < j.out_bytes)
        copy_bytes(j.out + at, j.in + at, min(bytes, j.out_bytes - at));
}

/* ---- Eight weights from their planes ---- */

/* Bit i of four to byte i. */
PS_DEVICE uint32_t bits_to_bytes(uint32_t x)
{
    x &= 15u;
    return (x | x << 7 | x << 14 | x << 21) & 0x01010101u;
}

/* Nibble i of four to byte i. */
PS_DEVICE uint32_t nibbles_to_bytes(uint32_t x)
{
    x &= 0xffffu;
    x = (x | x << 8) & 0x00ff00ffu;
    return (x | x << 4) & 0x0f0f0f0fu;
}

/* Two exponents above two rotated bytes, turned back to where they belong. */
PS_DEVICE uint32_t unrotate(uint32_t pair)
{
    return (pair >> 1 & 0x7fff7fffu) | (pair << 15 & 0x80008000u);
}

/* Rest planes of one thread's eight weights. */
struct rest8 {
    uint2 bytes[3];
    uint32_t bits[3];
    uint32_t nibbles;
};

PS_DEVICE uint2 rest_bytes(const struct ps_block_head &h, const uint8_t *in, unsigned p, size_t i)
{
    uint32_t same = h.rest_byte[p] * 0x01010101u;
    return h.rest_const[p] ? make_uint2(same, same) : load_any<uint2>(in + h.rest_at[p] + i);
}

template <enum ps_dtype T>
PS_DEVICE struct rest8 load_rest(const struct ps_block_head &h, const uint8_t *in, size_t i)
{
    struct rest8 r = {};
    if (T != PS_F8_E4M3)
        r.bytes[0] = rest_bytes(h, in, 0, i);
    if (T == PS_F32) {
        r.bytes[1] = rest_bytes(h, in, 1, i);
        r.bytes[2] = rest_bytes(h, in, 2, i);
    }
    if (T == PS_F16)
        for (unsigned p = 1; p < 4; p++)
            r.bits[p - 1] = h.rest_const[p] ? h.rest_byte[p] : in[h.rest_at[p] + i / 8];
    if (T == PS_F8_E4M3)
        r.nibbles = h.rest_const[0] ? h.rest_byte[0] * 0x01010101u
                                    : load_any<uint32_t>(in + h.rest_at[0] + i / 2);
    return r;
}

/* Four weights, the half `k` of eight, from their exponents: as many words as a weight has bytes. */
template <enum ps_dtype T>
PS_DEVICE void join4(uint32_t *out, uint32_t e, const struct rest8 &r, unsigned k)
{
    uint32_t low = k ? r.bytes[0].y : r.bytes[0].x;
    if (T == PS_F8_E4M3) {
        uint32_t n = nibbles_to_bytes(r.nibbles >> 16 * k);
        out[0] = (n & 0x08080808u) << 4 | (e & 0x0f0f0f0fu) << 3 | (n & 0x07070707u);
        return;
    }
    if (T == PS_F16) {
        uint32_t high = (e & 0x1f1f1f1fu) << 2 | bits_to_bytes(r.bits[0] >> 4 * k) |
                        bits_to_bytes(r.bits[1] >> 4 * k) << 1 |
                        bits_to_bytes(r.bits[2] >> 4 * k) << 7;
        out[0] = __byte_perm(low, high, 0x5140);
        out[1] = __byte_perm(low, high, 0x7362);
        return;
    }
    uint32_t a = unrotate(__byte_perm(low, e, 0x5140)), b = unrotate(__byte_perm(low, e, 0x7362));
    if (T == PS_BF16) {
        out[0] = a;
        out[1] = b;
        return;
    }
    uint32_t b1 = k ? r.bytes[1].y : r.bytes[1].x, b0 = k ? r.bytes[2].y : r.bytes[2].x;
    uint32_t c = __byte_perm(b0, b1, 0x5140), d = __byte_perm(b0, b1, 0x7362);
    out[0] = __byte_perm(c, a, 0x5410);
    out[1] = __byte_perm(c, a, 0x7632);
    out[2] = __byte_perm(d, b, 0x5410);
    out[3] = __byte_perm(d, b, 0x7632);
}

/* Weights [i, i + n), n <= 8, of a block: the last may be fewer, and rows of an odd length begin anywhere. */
template <enum ps_dtype T>
PS_DEVICE void put_weights(uint8_t *out, size_t i, unsigned n, uint2 e, const struct rest8 &r)
{
    const unsigned words = T == PS_F32 ? 4 : T == PS_F8_E4M3 ? 1 : 2; /* of four weights */
    uint32_t w[2 * words];
    join4<T>(w, e.x, r, 0);
    join4<T>(w + words, e.y, r, 1);
    out += i * words;
    if (n == 8 && aligned(out, words == 1 ? 8 : 16)) {
        if (words == 1)
            store_aligned(out, make_uint2(w[0], w[1]));
        for (unsigned k = 0; k + 4 <= 2 * words; k += 4)
            store_aligned(out + 4 * k, make_uint4(w[k], w[k + 1], w[k + 2], w[k + 3]));
        return;
    }
    UNROLL for (unsigned k = 0; k < 2 * words; k++)
        UNROLL for (unsigned c = 0; c < 4; c++) if (4 * k + c < n * words) out[4 * k + c] =
            (uint8_t)(w[k] >> 8 * c);
}

/* ---- WH ---- */

struct wh_shared {
    uint2 words[PS_WH_PIECE_MAX_BYTES / 4 + 1]; /* of the bitmaps: 32 bits, ones before them */
    uint2 next[2 * PS_WH_MAX_NODES]; /* [2 * node + bit]: what to add; 2 * the child, or LEAF | symbol */
    alignas(16) uint8_t exponents[PS_BLOCK_PIECE];
    alignas(16) uint8_t front[FRONT_BYTES]; /* the block's first bytes */
    struct ps_block_head head;
    struct ps_wh_tree tree;
    uint32_t bit_at[PS_WH_MAX_NODES], ones_at[PS_WH_MAX_NODES]; /* of a node's first bit */
    uint16_t child[2 * PS_WH_MAX_NODES], size[PS_WH_MAX_NODES];
    uint32_t sums[WH_THREADS / PS_WARP]; /* of each warp */
    size_t at, bytes;                    /* of the piece's bitmaps in the plane */
    bool ok;
};

/* Sum over the lanes before this one; *all: over the first `lanes`, which are all that have something to add. */
PS_DEVICE uint32_t warp_sum_before(uint32_t v, unsigned lanes, uint32_t *all)
{
    unsigned lane = threadIdx.x % PS_WARP;
    uint32_t sum = v;
    for (unsigned by = 1; by < lanes; by *= 2) {
        uint32_t other = __shfl_up_sync(PS_FULL, sum, by);
        sum += lane >= by ? other : 0;
    }
    *all = __shfl_sync(PS_FULL, sum, (int)lanes - 1);
    return sum - v;
}

/* The same over the threads of the block. */
PS_DEVICE uint32_t sum_before(struct wh_shared *s, uint32_t v, uint32_t *all)
{
    unsigned warp = threadIdx.x / PS_WARP;
    uint32_t of_warp, before = warp_sum_before(v, PS_WARP, &of_warp), total = 0;
    if (threadIdx.x % PS_WARP == 0)
        s->sums[warp] = of_warp;
    __syncthreads();
    for (unsigned w = 0; w < WH_THREADS / PS_WARP; w++) {
        before += w < warp ? s->sums[w] : 0;
        total += s->sums[w];
    }
    __syncthreads();
    *all = total;
    return before;
}

/* The piece's bitmaps to shared memory, and the ones before each word. */
PS_DEVICE void wh_load_words(struct wh_shared *s, const uint8_t *bitmaps)
{
    unsigned n = (unsigned)(s->bytes / 16);
    uint32_t before = 0;
    for (unsigned tile = 0; tile < n; tile += WH_THREADS) {
        unsigned i = tile + threadIdx.x;
        uint4 w = make_uint4(0, 0, 0, 0);
        if (i < n)
            w = load_any<uint4>(bitmaps + 16 * i);
        uint32_t a = (uint32_t)__popc(w.x), b = a + (uint32_t)__popc(w.y),
                 c = b + (uint32_t)__popc(w.z);
        uint32_t all, at = before + sum_before(s, c + (uint32_t)__popc(w.w), &all);
        if (i < n) {
            s->words[4 * i] = make_uint2(w.x, at);
            s->words[4 * i + 1] = make_uint2(w.y, at + a);
            s->words[4 * i + 2] = make_uint2(w.z, at + b);
            s->words[4 * i + 3] = make_uint2(w.w, at + c);
        }
        before += all;
    }
    if (threadIdx.x == 0)
        s->words[4 * n] = make_uint2(0, before);
}

/* Ones before bit p of the piece. */
PS_DEVICE uint32_t wh_ones(const struct wh_shared *s, uint32_t p)
{
    uint2 w = s->words[p / 32];
    return w.y + (uint32_t)__popc(w.x & ((1u << p % 32) - 1));
}

/* By one thread: head, tree, and where the piece lies. */
PS_DEVICE bool wh_open(struct wh_shared *s, const struct blocks &b, const struct job &j,
                       enum ps_dtype t)
{
    if (!ps_block_head_read(&s->head, s->front, j.in_bytes, b.codec, t, j.out_bytes))
        return false;
    if (s->head.codec != PS_CODEC_WH)
        return true;
    size_t bytes = s->head.plane_bytes;
    return bytes >= PS_WH_SYMBOLS_AT && ps_wh_tree_read(&s->tree, s->front + PS_BLOCK_HEAD_BYTES) &&
           ps_wh_piece_place(&s->at, &s->bytes, &s->tree, j.in + s->head.plane_at, bytes, s->head.n,
                             blockIdx.x);
}

/* A node of `size` weights whose bitmap begins at byte `at` of the piece: sizes of its children. */
PS_DEVICE void wh_measure_node(struct wh_shared *s, unsigned v, uint32_t at, uint32_t size)
{
    uint32_t before = wh_ones(s, 8 * at), ones = wh_ones(s, 8 * at + size) - before;
    unsigned zero = s->child[2 * v], one = s->child[2 * v + 1];
    s->bit_at[v] = 8 * at;
    s->ones_at[v] = before;
    if (!(zero & PS_WH_LEAF))
        s->size[zero] = (uint16_t)(size - ones);
    if (!(one & PS_WH_LEAF))
        s->size[one] = (uint16_t)ones;
}

/* By one warp, depth after depth, because a node's size comes from the node above. False, in all lanes: the nodes are
 * not as long as the piece. */
PS_DEVICE bool wh_measure(struct wh_shared *s, unsigned n)
{
    uint32_t at = 0, all;
    if (threadIdx.x == 0)
        s->size[0] = (uint16_t)n;
    __syncwarp();
    for (unsigned d = 0; d < PS_WH_MAX_BITS; d++) {
        unsigned end = s->tree.nodes_before[d + 1];
        for (unsigned base = s->tree.nodes_before[d]; base < end; base += PS_WARP) {
            unsigned v = base + threadIdx.x;
            uint32_t size = v < end ? s->size[v] : 0;
            uint32_t before = at + warp_sum_before((size + 7) / 8, min(end - base, PS_WARP), &all);
            if (all > s->bytes - at)
                return false;
            at += all;
            if (v < end)
                wh_measure_node(s, v, before, size);
        }
        __syncwarp();
    }
    return ps_block_align(at) == s->bytes;
}

/* Bit p of node v is a one that has `r` ones before it in the piece: in the child it is number r - ones_at[v]. Or it is
 * a zero, number p - bit_at[v] - (r - ones_at[v]). What does not depend on p and r is summed up here. */
PS_DEVICE void wh_link(struct wh_shared *s)
{
    for (unsigned k = threadIdx.x; k < 2 * (s->tree.n_symbols - 1); k += WH_THREADS) {
        unsigned v = k / 2, c = s->child[k];
        uint32_t add = k % 2 ? 0u - s->ones_at[v] : s->ones_at[v] - s->bit_at[v];
        s->next[k] = c & PS_WH_LEAF ? make_uint2(0, LEAF | (c & 0xffu))
                                    : make_uint2(s->bit_at[c] + add, 2 * c);
    }
}

PS_DEVICE void wh_walk(struct wh_shared *s, unsigned n)
{
    unsigned i = threadIdx.x, at = 0;
    uint32_t p = i; /* the root's bitmap is the first */
    while (i < n) {
        uint2 w = s->words[p / 32];
        uint32_t bit = w.x >> p % 32 & 1u;
        uint32_t ones = w.y + (uint32_t)__popc(w.x & ((1u << p % 32) - 1));
        uint2 go = s->next[at + bit];
        p = (bit ? ones : p - ones) + go.x;
        at = go.y;
        if (at & LEAF) {
            s->exponents[i] = (uint8_t)at;
            i += WH_THREADS;
            p = i;
            at = 0;
        }
    }
}

/* Exponents of the piece into shared memory. False: the bitmaps do not add up. */
PS_DEVICE bool wh_exponents(struct wh_shared *s, const struct job &j, unsigned n)
{
    const uint8_t *symbols = s->front + PS_BLOCK_HEAD_BYTES + PS_WH_SYMBOLS_AT;
    for (unsigned k = threadIdx.x; k < 2 * (s->tree.n_symbols - 1); k += WH_THREADS)
        s->child[k] = (uint16_t)ps_wh_child(&s->tree, symbols, k / 2, k % 2);
    wh_load_words(s, j.in + s->head.plane_at + s->at);
    __syncthreads();
    if (threadIdx.x < PS_WARP) {
        bool ok = wh_measure(s, n);
        if (threadIdx.x == 0)
            s->ok = ok;
    }
    __syncthreads();
    if (!s->ok)
        return false;
    wh_link(s);
    __syncthreads();
    wh_walk(s, n);
    __syncthreads();
    return true;
}

PS_DEVICE uint2 wh_eight(const struct wh_shared *s, const struct job &j, size_t first, unsigned i)
{
    const struct ps_block_head &h = s->head;
    if (h.codec == PS_CODEC_WH)
        return load_aligned<uint2>(s->exponents + i);
    if (h.codec == PS_CODEC_RAW)
        return load_any<uint2>(j.in + h.plane_at + first + i);
    return make_uint2(h.exponent * 0x01010101u, h.exponent * 0x01010101u);
}

template <enum ps_dtype T> __global__ void __launch_bounds__(WH_THREADS) wh_kernel(struct blocks b)
{
    PS_SHARED_DYNAMIC(memory);
    struct wh_shared *s = (struct wh_shared *)memory;
    struct job j = this_job(b);
    size_t first = (size_t)blockIdx.x * PS_BLOCK_PIECE;
    if (first * ps_block_weight_bytes(T) >= j.out_bytes)
        return;
    if (j.in_bytes == j.out_bytes) {
        copy_piece<T>(j);
        return;
    }
    for (size_t i = threadIdx.x; i < FRONT_BYTES; i += WH_THREADS)
        s->front[i] = i < j.in_bytes ? j.in[i] : 0;
    __syncthreads();
    if (threadIdx.x == 0)
        s->ok = wh_open(s, b, j, T);
    __syncthreads();
    bool ok = s->ok;
    unsigned n = ok ? (unsigned)min(s->head.n - first, (size_t)PS_BLOCK_PIECE) : 0;
    __syncthreads();             /* before `ok` is written again */
    struct rest8 rest[WH_TURNS]; /* on their way while the tree is walked */
    UNROLL for (unsigned k = 0; k < WH_TURNS; k++)
    {
        unsigned i = 8 * (threadIdx.x + k * WH_THREADS);
        rest[k] = {};
        if (i < n)
            rest[k] = load_rest<T>(s->head, j.in, first + i);
    }
    if (ok && s->head.codec == PS_CODEC_WH)
        ok = wh_exponents(s, j, n);
    if (!ok) {
        if (threadIdx.x == 0)
            *b.fault = b.first + blockIdx.y + 1;
        return;
    }
    UNROLL for (unsigned k = 0; k < WH_TURNS; k++)
    {
        unsigned i = 8 * (threadIdx.x + k * WH_THREADS);
        if (i < n)
            put_weights<T>(j.out, first + i, min(n - i, 8u), wh_eight(s, j, first, i), rest[k]);
    }
}

/* ---- XC34 ---- */

struct xc34_shared {
    struct ps_block_head head;
    struct ps_xc34_head plane;
    alignas(16) uint8_t front[FRONT_BYTES];
    bool ok;
};

/* Where a warp stands in its segment: alike in all of its threads. */
struct xc34_place {
    uint32_t nibble, bare;
};

/* Bit i of eight to nibble i. */
PS_DEVICE uint32_t bits_to_nibbles(uint32_t x)
{
    x = (x | x << 12) & 0x000f000fu;
    x = (x | x << 6) & 0x03030303u;
    return (x | x << 3) & 0x11111111u;
}

PS_DEVICE void set_byte(uint2 *e, unsigned i, uint32_t v)
{
    uint32_t lo = i < 4 ? v << 8 * i : 0, hi = i < 4 ? 0 : v << 8 * (i - 4);
    e->x |= lo;
    e->y |= hi;
}

/* Puts the exponents of this thread's escapes, marked in `mask`, into *e; moves the warp's place on. False, in all
 * threads: there are not so many. */
PS_DEVICE bool xc34_escapes(uint2 *e, uint32_t mask, struct xc34_place *at,
                            const struct xc34_shared *s, const uint8_t *plane, const uint8_t *book)
{
    uint32_t all, nibble = at->nibble + warp_sum_before((uint32_t)__popc(mask), PS_WARP, &all),
                  bare_mask = 0;
    if (all > s->plane.n_nibbles - at->nibble)
        return false;
    at->nibble += all;
    for (; mask; mask &= mask - 1, nibble++) {
        unsigned i = (unsigned)__ffs((int)mask) - 1;
        unsigned v = plane[s->plane.nibbles_at + nibble / 2] >> 4 * (nibble % 2) & 15u;
        if (v == PS_XC34_LONG)
            bare_mask |= 1u << i;
        else
            set_byte(e, i, book[PS_XC34_SHORT + v]);
    }
    if (!__any_sync(PS_FULL, bare_mask != 0))
        return true;
    uint32_t bare = at->bare + warp_sum_before((uint32_t)__popc(bare_mask), PS_WARP, &all);
    if (all > s->plane.n_bare - at->bare)
        return false;
    at->bare += all;
    for (; bare_mask; bare_mask &= bare_mask - 1, bare++)
        set_byte(e, (unsigned)__ffs((int)bare_mask) - 1, plane[s->plane.bare_at + bare]);
    return true;
}

/* Exponents of this thread's weights [i, i + n) of the block, n = 0..8. */
PS_DEVICE bool xc34_eight(uint2 *e, size_t i, unsigned n, struct xc34_place *at,
                          const struct xc34_shared *s, const uint8_t *plane)
{
    const uint8_t *book = s->front + PS_BLOCK_HEAD_BYTES;
    uint32_t b0 = 0, b1 = 0, b2 = 0;
    if (n) {
        const uint8_t *p = plane + s->plane.groups_at + i / 64 * 24 + i % 64 / 8;
        b0 = p[0], b1 = p[8], b2 = p[16];
    }
    uint32_t codes = bits_to_nibbles(b0) | bits_to_nibbles(b1) << 1 | bits_to_nibbles(b2) << 2;
    /* the eighth of the book is the escape's: nothing, until its exponent is known */
    uint32_t lo = load_aligned<uint32_t>(book), hi = load_aligned<uint32_t>(book + 4) & 0x00ffffffu;
    *e = make_uint2(__byte_perm(lo, hi, codes & 0xffffu), __byte_perm(lo, hi, codes >> 16));
    return xc34_escapes(e, b0 & b1 & b2 & ((1u << n) - 1), at, s, plane, book);
}

PS_DEVICE struct xc34_place xc34_segment_at(const struct xc34_shared *s, const uint8_t *plane,
                                            size_t k)
{
    if (k == ps_xc34_segments(s->head.n))
        return {(uint32_t)s->plane.n_nibbles, (uint32_t)s->plane.n_bare};
    const uint8_t *p = plane + PS_XC34_SEGMENTS_AT + 8 * k;
    return {load_any<uint32_t>(p), load_any<uint32_t>(p + 4)};
}

/* One warp, one segment. False, in all threads: the plane does not add up. */
template <enum ps_dtype T>
PS_DEVICE bool xc34_segment(const struct xc34_shared *s, const struct job &j, size_t k)
{
    const struct ps_block_head &h = s->head;
    const uint8_t *plane = j.in + h.plane_at;
    size_t begin = k * PS_XC34_SEGMENT, end = min(begin + PS_XC34_SEGMENT, h.n);
    bool coded = h.codec == PS_CODEC_XC34;
    struct xc34_place at = {}, stop = {};
    if (coded) {
        at = xc34_segment_at(s, plane, k);
        stop = xc34_segment_at(s, plane, k + 1);
        if (at.nibble > s->plane.n_nibbles || at.bare > s->plane.n_bare)
            return false;
    }
    for (size_t base = begin; base < end; base += 8 * PS_WARP) {
        size_t i = base + 8 * (threadIdx.x % PS_WARP);
        unsigned n = i < end ? (unsigned)min(end - i, (size_t)8) : 0;
        struct rest8 r = {};
        if (n)
            r = load_rest<T>(h, j.in, i);
        uint2 e = make_uint2(h.exponent * 0x01010101u, h.exponent * 0x01010101u);
        if (coded && !xc34_eight(&e, i, n, &at, s, plane))
            return false;
        if (n && h.codec == PS_CODEC_RAW)
            e = load_any<uint2>(plane + i);
        if (n)
            put_weights<T>(j.out, i, n, e, r);
    }
    return at.nibble == stop.nibble && at.bare == stop.bare;
}

template <enum ps_dtype T>
__global__ void __launch_bounds__(XC34_THREADS) xc34_kernel(struct blocks b)
{
    PS_SHARED struct xc34_shared shared;
    struct xc34_shared *s = &shared;
    struct job j = this_job(b);
    size_t first = (size_t)blockIdx.x * PS_BLOCK_PIECE;
    if (first * ps_block_weight_bytes(T) >= j.out_bytes)
        return;
    if (j.in_bytes == j.out_bytes) {
        copy_piece<T>(j);
        return;
    }
    for (size_t i = threadIdx.x; i < FRONT_BYTES; i += XC34_THREADS)
        s->front[i] = i < j.in_bytes ? j.in[i] : 0;
    __syncthreads();
    if (threadIdx.x == 0)
        s->ok = ps_block_head_read(&s->head, s->front, j.in_bytes, b.codec, T, j.out_bytes) &&
                (s->head.codec != PS_CODEC_XC34 ||
                 ps_xc34_head_read(&s->plane, s->front + PS_BLOCK_HEAD_BYTES, s->head.plane_bytes,
                                   s->head.n));
    __syncthreads();
    size_t k = first / PS_XC34_SEGMENT + threadIdx.x / PS_WARP;
    bool ok = s->ok && (k >= ps_xc34_segments(s->head.n) || xc34_segment<T>(s, j, k));
    if (!ok && threadIdx.x % PS_WARP == 0)
        *b.fault = b.first + blockIdx.y + 1;
}

/* ---- Launching ---- */

template <enum ps_dtype T>
int launch_of(simt_stream stream, const struct blocks &b, unsigned n_blocks)
{
    size_t piece_bytes = (size_t)PS_BLOCK_PIECE * ps_block_weight_bytes(T);
    dim3 grid((unsigned)((b.block_bytes + piece_bytes - 1) / piece_bytes), n_blocks);
    if (b.codec == PS_CODEC_WH)
        return PS_LAUNCH((wh_kernel<T>), grid, WH_THREADS, sizeof(struct wh_shared), stream, b);
    return PS_LAUNCH((xc34_kernel<T>), grid, XC34_THREADS, 0, stream, b);
}

int launch(simt_stream stream, enum ps_dtype t, const struct blocks &b, unsigned n_blocks)
{
    switch (t) {
    case PS_BF16: return launch_of<PS_BF16>(stream, b, n_blocks);
    case PS_F16: return launch_of<PS_F16>(stream, b, n_blocks);
    case PS_F32: return launch_of<PS_F32>(stream, b, n_blocks);
    default: return launch_of<PS_F8_E4M3>(stream, b, n_blocks);
    }
}

} // namespace

bool ps_launch_decode_takes(enum ps_codec c, enum ps_dtype t)
{
    return (c == PS_CODEC_WH || c == PS_CODEC_XC34) && ps_block_weight_bytes(t) != 0;
}

int ps_launch_decode(simt_stream stream, const struct ps_device_blocks *d, uint32_t *fault)
{
    struct blocks b = {};
    if (!ps_launch_decode_takes(d->codec, d->dtype))
        return PS_EUNSUPPORTED;
    b.codec = d->codec;
    b.block_bytes = d->block_bytes;
    b.fault = fault;
    uint64_t in = 0;
    for (uint32_t first = 0; first < d->n_blocks; first += MAX_BLOCKS) {
        uint32_t n = min(d->n_blocks - first, MAX_BLOCKS);
        b.first = first;
        b.in = (const uint8_t *)d->in;
        b.out = (uint8_t *)d->out + first * d->block_bytes;
        b.raw_bytes = d->raw_bytes - first * d->block_bytes;
        b.at[0] = in;
        for (uint32_t i = 0; i < n; i++)
            b.at[i + 1] = in += d->in_bytes[first + i];
        int rc = launch(stream, d->dtype, b, n);
        if (rc != 0)
            return rc;
    }
    return 0;
}
