/* Measures the block codecs: see bench_codec.h. */
#include "kernels/bench_codec.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/pool.h"
#include "kernels/codec/codec.h"
#include "kernels/codec/quant_encode.h"
#include "proto/quant.h"

#define BLOCK            ((size_t)256 << 10)
#define BYTES_PER_THREAD ((size_t)16 << 20)
#define MIN_BYTES        ((size_t)64 << 20)
#define DRAWN_BYTES      ((size_t)4 << 20) /* drawing a normal number takes longer than packing it */
#define PASSES           5
#define QUANT_K          4096u /* weights of a row to be rounded */

struct bench {
    struct ps_pool *pool;
    uint8_t *in, *packed, *out;
    size_t bytes;
    uint32_t *sizes; /* of packed blocks */
    enum ps_codec codec;
    enum ps_dtype type, quant; /* quant: what rows are rounded to */
    bool failed;               /* written by any thread, never cleared while they run */
};

static void copy_blocks(void *user, unsigned index, unsigned threads)
{
    const struct bench *b = user;
    for (size_t at = index * BLOCK; at < b->bytes; at += threads * BLOCK)
        memcpy(b->out + at, b->in + at, BLOCK);
}

static void pack_blocks(void *user, unsigned index, unsigned threads)
{
    struct bench *b = user;
    for (size_t at = index * BLOCK; at < b->bytes; at += threads * BLOCK) {
        size_t n = 0;
        if (ps_codec_encode(b->codec, b->type, b->in + at, BLOCK, b->packed + at, &n, NULL) < 0)
            __atomic_store_n(&b->failed, true, __ATOMIC_RELAXED);
        b->sizes[at / BLOCK] = (uint32_t)n;
    }
}

static void round_blocks(void *user, unsigned index, unsigned threads)
{
    struct bench *b = user;
    size_t rows = BLOCK / (QUANT_K * ps_dtype_bytes(b->type));
    for (size_t at = index * BLOCK; at < b->bytes; at += threads * BLOCK) {
        struct ps_quant_error error;
        if (ps_quant_rows_encode(b->packed + at, b->quant, b->type, b->in + at, rows, QUANT_K,
                                 &error) < 0)
            __atomic_store_n(&b->failed, true, __ATOMIC_RELAXED);
        b->sizes[at / BLOCK] = (uint32_t)(rows * ps_quant_row_bytes(b->quant, QUANT_K));
    }
}

static void unpack_blocks(void *user, unsigned index, unsigned threads)
{
    struct bench *b = user;
    for (size_t at = index * BLOCK; at < b->bytes; at += threads * BLOCK)
        if (ps_codec_decode(b->codec, b->type, b->packed + at, b->sizes[at / BLOCK], b->out + at,
                            BLOCK, NULL) < 0)
            __atomic_store_n(&b->failed, true, __ATOMIC_RELAXED);
}

static double seconds(struct bench *b, void (*pass)(void *, unsigned, unsigned))
{
    uint64_t t0 = ps_now_ns();
    ps_pool_run(b->pool, pass, b);
    return ps_seconds_since(t0);
}

static double less(double a, double b)
{
    return a < b ? a : b;
}

/* One number of the type from a float of a plausible size; cut off, which is close enough here. */
static void put_weight(uint8_t *out, enum ps_dtype t, float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t sign = u >> 31, e = u >> 23 & 255, mantissa = u & 0x7fffff;
    if (t == PS_F32) {
        memcpy(out, &u, 4);
    } else if (t == PS_BF16) {
        memcpy(out, (uint8_t *)&u + 2, 2);
    } else if (t == PS_F16) {
        uint16_t h = (uint16_t)(sign << 15 | (e > 112 ? (e - 112) << 10 | mantissa >> 13 : 0));
        memcpy(out, &h, 2);
    } else { /* deviation 0.02 times 2^13: up to the 448 that it goes to */
        e += 13;
        uint32_t top = e > 120 ? e - 120 : 0;
        *out = (uint8_t)(sign << 7 | (top ? (top < 15 ? top : 15) << 3 | mantissa >> 20 : 0));
    }
}

static double uniform(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return ((double)(*x >> 11) + 0.5) * 0x1p-53;
}

static void fill(const struct bench *b)
{
    uint64_t x = 88172645463325252ull;
    size_t each = ps_dtype_bytes(b->type);
    for (size_t at = 0; at < DRAWN_BYTES; at += each) {
        double r = sqrt(-2 * log(uniform(&x)));
        put_weight(b->in + at, b->type, (float)(0.02 * r * cos(6.283185307179586 * uniform(&x))));
    }
    for (size_t at = DRAWN_BYTES; at < b->bytes; at += DRAWN_BYTES)
        memcpy(b->in + at, b->in, DRAWN_BYTES);
}

static const char *short_name(enum ps_dtype t)
{
    return t == PS_BF16 ? "bf16" : t == PS_F16 ? "f16" : t == PS_F32 ? "f32" : "f8";
}

static double ratio(const struct bench *b)
{
    size_t stored = 0;
    for (size_t i = 0; i < b->bytes / BLOCK; i++)
        stored += b->sizes[i];
    return (double)b->bytes / (double)stored;
}

static int measure(struct bench *b, struct ps_bench_codec_row *row, double *copy_s, struct ps_err *err)
{
    double pack_s = INFINITY, unpack_s = INFINITY, bytes = (double)b->bytes;
    b->failed = false;
    for (int pass = 0; pass < 2; pass++)
        pack_s = less(pack_s, seconds(b, pack_blocks));
    for (int pass = 0; pass < PASSES; pass++) { /* in turns: a neighbour then slows both */
        *copy_s = less(*copy_s, seconds(b, copy_blocks));
        unpack_s = less(unpack_s, seconds(b, unpack_blocks));
    }
    if (b->failed || memcmp(b->in, b->out, b->bytes) != 0)
        return ps_err_set(err, PS_EDATA, "bench", "%s of %s: what comes out is not what went in",
                          ps_codec_name(b->codec), short_name(b->type));
    *row = (struct ps_bench_codec_row){.codec = ps_codec_name(b->codec),
                                       .dtype = short_name(b->type),
                                       .ratio = ratio(b),
                                       .decode_gb_s = bytes / unpack_s / 1e9,
                                       .encode_gb_s = bytes / pack_s / 1e9};
    return 0;
}

static int measure_rounding(struct bench *b, struct ps_bench_codec_row *row, struct ps_err *err)
{
    double s = INFINITY;
    b->failed = false;
    for (int pass = 0; pass < PASSES; pass++)
        s = less(s, seconds(b, round_blocks));
    const char *name = b->quant == PS_Q8B64 ? "q8b64" : "nf4b64";
    if (b->failed)
        return ps_err_set(err, PS_EDATA, "bench", "%s of %s: refused", name, short_name(b->type));
    *row = (struct ps_bench_codec_row){.codec = name,
                                       .dtype = short_name(b->type),
                                       .ratio = ratio(b),
                                       .decode_gb_s = NAN,
                                       .encode_gb_s = (double)b->bytes / s / 1e9};
    return 0;
}

static int measure_all(struct bench *b, struct ps_bench_codec_row *rows, size_t cap, size_t *n,
                       double *limit_gb_s, struct ps_err *err)
{
    static const enum ps_codec codecs[] = {PS_CODEC_RAW, PS_CODEC_LZ4, PS_CODEC_WH, PS_CODEC_XC34};
    static const enum ps_dtype types[] = {PS_BF16, PS_F16, PS_F32, PS_F8_E4M3};
    double copy_s = INFINITY;
    size_t done = 0;
    int rc = 0;
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        b->type = types[t];
        fill(b);
        for (size_t c = 0; rc == 0 && done < cap && c < sizeof codecs / sizeof codecs[0]; c++) {
            b->codec = codecs[c];
            rc = measure(b, &rows[done++], &copy_s, err);
        }
        for (int q = 0; rc == 0 && done < cap && b->type != PS_F8_E4M3 && q < 2; q++) {
            b->quant = q ? PS_NF4B64 : PS_Q8B64;
            rc = measure_rounding(b, &rows[done++], err);
        }
    }
    if (rc < 0)
        return rc;
    *n = done;
    *limit_gb_s = (double)b->bytes / copy_s / 1e9;
    return 0;
}

int ps_bench_codec(struct ps_bench_codec_row *rows, size_t cap, size_t *n, double *limit_gb_s,
                   unsigned threads, struct ps_err *err)
{
    size_t wanted = threads * BYTES_PER_THREAD;
    struct bench b = {.bytes = wanted > MIN_BYTES ? wanted : MIN_BYTES};
    int rc = ps_pool_new(&b.pool, threads, NULL, NULL, err);
    if (rc < 0)
        return rc;
    uint8_t **const buffers[] = {&b.in, &b.packed, &b.out};
    b.sizes = ps_calloc(b.bytes / BLOCK, sizeof *b.sizes);
    for (int i = 0; i < 3; i++) {
        *buffers[i] = ps_alloc_pages(b.bytes, 4096);
        if (!b.sizes || !*buffers[i])
            rc = ps_err_set(err, PS_ENOMEM, "bench", "codec: no %zu MiB of memory: free some",
                            3 * b.bytes >> 20);
        else
            memset(*buffers[i], 1, b.bytes); /* pages that exist */
    }
    if (rc == 0)
        rc = measure_all(&b, rows, cap, n, limit_gb_s, err);
    for (int i = 0; i < 3; i++)
        if (*buffers[i])
            ps_free_pages(*buffers[i], b.bytes);
    ps_free(b.sizes);
    ps_pool_free(b.pool);
    return rc;
}
