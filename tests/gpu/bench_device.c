/* Measures a device against its own limits in one run: copies over the bus, products against the rate at which its
 * memory copies itself, block codecs against the bus, and what a launch costs. Every figure is a median of several
 * repetitions after one that warms up, over buffers larger than any cache, of random weights.
 *
 *     bench_device [--device KIND] [--mb N] [--reps N] [--json] [--bars] [--quick]
 *
 * KIND is what ps_device_load knows (cuda). --bars: exit status 1 where a bar of the project is missed. --quick: as
 * little of everything as shows that the program works; its figures mean nothing. --json: that on stdout, the text on
 * stderr. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "kernels/codec/codec.h"
#include "kernels/codec/quant_encode.h"
#include "kernels/device.h"
#include "kernels/kernel_scalar.h"
#include "proto/quant.h"

#define MIB        (1ull << 20)
#define PANEL      (8 * MIB) /* as large as an extent */
#define BLOCK      (256 * 1024ull)
#define COLS       8192u /* columns of the matrices */
#define RING       16u   /* panels of pinned memory that copies come from */
#define MAX_REPS   64
#define MAX_PANELS 1024
#define MAX_T      512u

enum { MARK_FROM, MARK_TO, MARK_FULL, MARK_FREE = MARK_FULL + RING, N_MARKS = MARK_FREE + RING };

struct bench {
    const struct ps_device_api *api;
    struct ps_device *d;
    uint64_t weight_bytes; /* of the resident matrix */
    unsigned reps;
    unsigned rounds; /* over the pinned ring */
    size_t most_rows;
    bool json, bars_missed;
    uint8_t *host;            /* RING panels, pinned: random bf16 weights */
    uint8_t *weights, *other; /* weight_bytes and a panel each, on the device */
    float *a, *c;
    void *packed;
    double bus, bus_busy, copy; /* bytes a second: the bus alone; memory, reads and writes counted */
    unsigned n_printed;
};

static void die(struct bench *b, const char *what, int rc)
{
    struct ps_err err = {0};
    if (b->d)
        b->api->sync(b->d, &err);
    fprintf(stderr, "bench_device: %s: %s%s%s\n", what, ps_err_name(rc), err.code ? ": " : "",
            err.code ? err.text : "");
    exit(1);
}

/* Runs a call that must not fail. */
#define OK(b, call)                                                                                \
    do {                                                                                           \
        int ok_rc = (call);                                                                        \
        if (ok_rc)                                                                                 \
            die((b), #call, ok_rc);                                                                \
    } while (0)

static void sync_all(struct bench *b)
{
    OK(b, b->api->sync(b->d, NULL));
}

static void *dev_alloc(struct bench *b, uint64_t bytes)
{
    struct ps_err err = {0};
    void *p = NULL;
    if (b->api->alloc(b->d, &p, bytes, &err) != 0) {
        fprintf(stderr, "bench_device: %s\n", err.text);
        exit(1);
    }
    return p;
}

/* ---- numbers ---- */

static uint64_t next_random(uint64_t *s)
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* As weights of a trained model are spread: near zero, in both signs, standard deviation 0.02. */
static float random_weight(uint64_t *s)
{
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)(next_random(s) >> 40) * 0x1p-24f - 0.5f;
    return sum * 0.035f;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, unsigned n)
{
    qsort(v, n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* Median seconds of what `fn` queues, from the device's own clock between two marks on the stream `s`. */
static double seconds_of(struct bench *b, enum ps_stream s, void (*fn)(struct bench *b, void *user),
                         void *user)
{
    double t[MAX_REPS];
    for (unsigned i = 0; i <= b->reps; i++) {
        float ms = 0;
        OK(b, b->api->mark(b->d, s, MARK_FROM));
        fn(b, user);
        OK(b, b->api->mark(b->d, s, MARK_TO));
        sync_all(b);
        OK(b, b->api->elapsed_ms(b->d, MARK_FROM, MARK_TO, &ms));
        if (i > 0)
            t[i - 1] = (double)ms * 1e-3;
    }
    double m = median(t, b->reps);
    return m > 0 ? m : 1e-9;
}

/* One line: a figure, and what it is of its limit. bar: 0 = none. limit: NULL = none. */
static void print(struct bench *b, const char *what, double value, const char *unit, double ratio,
                  const char *limit, double bar)
{
    const char *verdict = bar == 0 ? "" : ratio >= bar ? "met" : "MISSED";
    b->bars_missed |= bar != 0 && ratio < bar;
    FILE *text = b->json ? stderr : stdout;
    if (b->json) {
        printf("%s\n  {\"what\": \"%s\", \"value\": %.6g, \"unit\": \"%s\"",
               b->n_printed++ ? "," : "", what, value, unit);
        if (limit)
            printf(", \"ratio\": %.4f, \"of\": \"%s\"", ratio, limit);
        if (bar != 0)
            printf(", \"bar\": %.2f, \"met\": %s", bar, ratio >= bar ? "true" : "false");
        printf("}");
    }
    fprintf(text, "%-46s %10.4g %-8s", what, value, unit);
    if (limit)
        fprintf(text, " %6.2f of %s", ratio, limit);
    if (bar != 0)
        fprintf(text, "   bar %.2f: %s", bar, verdict);
    fprintf(text, "\n");
    fflush(text);
}

static void print_absent(struct bench *b, const char *what)
{
    if (b->json)
        printf("%s\n  {\"what\": \"%s\", \"built\": false}", b->n_printed++ ? "," : "", what);
    fprintf(b->json ? stderr : stdout, "%-46s not built\n", what);
}

/* ---- copies ---- */

static void queue_plain_copies(struct bench *b, void *user)
{
    (void)user;
    for (unsigned round = 0; round < b->rounds; round++)
        OK(b, b->api->copy_in(b->d, PS_STREAM_COPY, b->other, b->host, RING * PANEL));
}

static void queue_panel_copies(struct bench *b, void *user)
{
    (void)user;
    for (unsigned i = 0; i < b->rounds * RING; i++)
        OK(b, b->api->copy_in(b->d, PS_STREAM_COPY, b->other + i % RING * PANEL,
                              b->host + i % RING * PANEL, PANEL));
}

/* What a sweep does with a matrix that is not resident: each panel is copied into a slot, multiplied, and its slot
 * filled anew. `user`: the activations. */
static void queue_stream(struct bench *b, void *user)
{
    const struct ps_act *act = user;
    size_t rows = PANEL / (COLS * 2);
    for (unsigned i = 0; i < b->rounds * RING; i++) {
        unsigned slot = i % RING;
        uint8_t *p = b->other + slot * PANEL;
        struct ps_matrix w = {.type = PS_BF16,
                              .K = COLS,
                              .data = p,
                              .row_stride = COLS * 2,
                              .n_rows = rows,
                              .row0 = slot * rows};
        if (i >= RING)
            OK(b, b->api->wait_mark(b->d, PS_STREAM_COPY, MARK_FREE + slot));
        OK(b, b->api->copy_in(b->d, PS_STREAM_COPY, p, b->host + slot * PANEL, PANEL));
        OK(b, b->api->mark(b->d, PS_STREAM_COPY, MARK_FULL + slot));
        OK(b, b->api->wait_mark(b->d, PS_STREAM_COMPUTE, MARK_FULL + slot));
        OK(b, b->api->matmul(b->d, act, &w, 1, b->c, RING * rows, false));
        OK(b, b->api->mark(b->d, PS_STREAM_COMPUTE, MARK_FREE + slot));
    }
    /* The clock stops on the copy stream: let it see the last product. */
    OK(b, b->api->wait_mark(b->d, PS_STREAM_COPY, MARK_FREE + RING - 1));
}

static void queue_within(struct bench *b, void *user)
{
    (void)user;
    uint64_t half = b->weight_bytes / 2;
    OK(b, b->api->copy_within(b->d, PS_STREAM_COMPUTE, b->weights + half, b->weights, half));
}

static void bench_copies(struct bench *b)
{
    double bytes = (double)b->rounds * RING * PANEL, plain, panels;
    plain = bytes / seconds_of(b, PS_STREAM_COPY, queue_plain_copies, NULL);
    panels = bytes / seconds_of(b, PS_STREAM_COPY, queue_panel_copies, NULL);
    b->bus = plain > panels ? plain : panels;
    print(b, "bus: pinned host to device, 128 MiB pieces", plain * 1e-9, "GB/s", 0, NULL, 0);
    print(b, "bus: the same in panels of 8 MiB", panels * 1e-9, "GB/s", panels / b->bus, "the bus",
          0);
    b->copy = (double)b->weight_bytes / seconds_of(b, PS_STREAM_COMPUTE, queue_within, NULL);
    print(b, "memory: copy of itself (read + write)", b->copy * 1e-9, "GB/s", 0, NULL, 0);
}

/* ---- products ---- */

static struct ps_act prepare(struct bench *b, enum ps_dtype type, size_t T)
{
    struct ps_act act = {.a = b->a, .T = T, .K = COLS, .lda = COLS, .weights = type, .packed = b->packed};
    int rc = b->api->act_pack(b->d, &act);
    if (rc)
        die(b, "act_pack", rc);
    return act;
}

struct product {
    struct ps_act act;
    struct ps_matrix panels[MAX_PANELS];
    size_t n, rows;
};

static void queue_product(struct bench *b, void *user)
{
    const struct product *p = user;
    OK(b, b->api->matmul(b->d, &p->act, p->panels, p->n, b->c, p->rows, false));
}

static void queue_pack_and_product(struct bench *b, void *user)
{
    const struct product *p = user;
    OK(b, b->api->act_pack(b->d, &p->act));
    queue_product(b, user);
}

static size_t row_bytes(enum ps_dtype t)
{
    size_t elem = ps_dtype_bytes(t);
    return elem ? COLS * elem : ps_quant_row_bytes(t, COLS);
}

/* One row of random weights as type `t` has them. */
static void make_row(uint8_t *out, enum ps_dtype t, float *w, uint64_t *seed)
{
    for (size_t k = 0; k < COLS; k++)
        w[k] = random_weight(seed);
    if (t == PS_F32)
        memcpy(out, w, COLS * sizeof *w);
    for (size_t k = 0; k < COLS && (t == PS_BF16 || t == PS_F16); k++) {
        uint16_t h = t == PS_BF16 ? ps_f32_to_bf16(w[k]) : ps_f32_to_f16(w[k]);
        memcpy(out + 2 * k, &h, 2);
    }
    for (size_t i = 0; i < row_bytes(t) && (t == PS_F8_E4M3 || t == PS_MXFP4); i++) {
        uint8_t byte = (uint8_t)next_random(seed);
        out[i] = t == PS_F8_E4M3 && (byte & 0x7f) == 0x7f ? 0 : byte; /* no NaN */
    }
    if (t == PS_Q8B64 || t == PS_NF4B64)
        PS_ASSERT(ps_quant_row_encode(out, t, w, COLS) == 0);
}

/* Fills the matrix with random rows of the type: some made, the rest copies of them on the device. */
static size_t fill_matrix(struct bench *b, enum ps_dtype t)
{
    size_t stride = row_bytes(t), rows = b->weight_bytes / stride, made = rows < 509 ? rows : 509;
    uint8_t *block = ps_malloc(made * stride);
    float *w = ps_malloc(COLS * sizeof *w);
    uint64_t seed = (uint64_t)t;
    PS_ASSERT(block && w);
    for (size_t r = 0; r < made; r++)
        make_row(block + r * stride, t, w, &seed);
    OK(b, b->api->copy_in(b->d, PS_STREAM_COMPUTE, b->weights, block, made * stride));
    for (size_t done = made; done < rows;) {
        size_t n = done < rows - done ? done : rows - done;
        OK(b, b->api->copy_within(b->d, PS_STREAM_COMPUTE, b->weights + done * stride, b->weights,
                                  n * stride));
        done += n;
    }
    sync_all(b);
    ps_free(block);
    ps_free(w);
    return rows;
}

/* The matrix as the runtime has it: panels of about 8 MiB. Scales that stand apart lie in `other`. */
static void make_product(struct bench *b, struct product *p, enum ps_dtype t, size_t rows)
{
    size_t stride = row_bytes(t), each = PANEL / stride;
    p->n = 0;
    p->rows = rows;
    for (size_t r = 0; r < rows; r += each) {
        struct ps_matrix *m = &p->panels[p->n++];
        PS_ASSERT(p->n <= MAX_PANELS);
        *m = (struct ps_matrix){.type = t,
                                .K = COLS,
                                .data = b->weights + r * stride,
                                .row_stride = stride,
                                .n_rows = rows - r < each ? rows - r : each,
                                .row0 = r};
        if (t == PS_F8_E4M3) /* 128 x 128 blocks, as DeepSeek's */
            m->scales = b->other, m->scale_ld = COLS / 128, m->scale_rows = 128, m->scale_cols = 128;
        if (t == PS_MXFP4)
            m->scales = b->other, m->scale_ld = COLS / PS_MXFP4_BLOCK;
    }
}

/* Scales near one, float32 or e8m0. */
static void fill_scales(struct bench *b, enum ps_dtype t)
{
    uint64_t n = RING * PANEL, seed = 3;
    for (uint64_t i = 0; i < PANEL; i += 4) {
        float f = 1 + random_weight(&seed);
        memcpy(b->host + i, &f, 4);
        if (t == PS_MXFP4)
            memset(b->host + i, 120 + (int)(next_random(&seed) % 8), 4);
    }
    for (uint64_t at = 0; at < n; at += PANEL)
        OK(b, b->api->copy_in(b->d, PS_STREAM_COMPUTE, b->other + at, b->host, PANEL));
    sync_all(b);
}

/* Seconds of T rows times the whole matrix; 0 where the type is not built. */
static double time_product(struct bench *b, struct product *p, enum ps_dtype t, size_t T, bool pack)
{
    p->act = prepare(b, t, T);
    return seconds_of(b, PS_STREAM_COMPUTE, pack ? queue_pack_and_product : queue_product, p);
}

static void bench_gemv(struct bench *b)
{
    static const struct {
        enum ps_dtype t;
        double bar;
    } types[] = {{PS_F32, 0},      {PS_F16, 0},       {PS_BF16, 0.80}, {PS_F8_E4M3, 0},
                 {PS_Q8B64, 0.70}, {PS_NF4B64, 0.70}, {PS_MXFP4, 0}};
    struct product *p = ps_malloc(sizeof *p);
    PS_ASSERT(p);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        char what[64];
        snprintf(what, sizeof what, "T = 1, %s, packed bytes", ps_dtype_name(types[i].t));
        if (!b->api->multiplies(b->d, types[i].t)) {
            print_absent(b, what);
            continue;
        }
        size_t rows = fill_matrix(b, types[i].t);
        fill_scales(b, types[i].t);
        make_product(b, p, types[i].t, rows);
        double rate =
            (double)rows * (double)row_bytes(types[i].t) / time_product(b, p, types[i].t, 1, false);
        print(b, what, rate * 1e-9, "GB/s", rate / b->copy, "memory copy", types[i].bar);
    }
    ps_free(p);
}

static void bench_rows(struct bench *b)
{
    static const size_t counts[] = {1, 2, 4, 8, 16, 32, 64, 128, 512};
    static const enum ps_dtype types[] = {PS_BF16, PS_Q8B64, PS_NF4B64};
    struct product *p = ps_malloc(sizeof *p);
    PS_ASSERT(p);
    for (size_t k = 0; k < sizeof types / sizeof types[0]; k++) {
        if (!b->api->multiplies(b->d, types[k]))
            continue;
        size_t rows = fill_matrix(b, types[k]);
        double one = 0;
        make_product(b, p, types[k], rows);
        for (size_t i = 0; i < sizeof counts / sizeof counts[0] && counts[i] <= b->most_rows; i++) {
            double s = time_product(b, p, types[k], counts[i], true);
            char what[64];
            one = i == 0 ? s : one;
            snprintf(what, sizeof what, "%s, T = %zu with packing", ps_dtype_name(types[k]),
                     counts[i]);
            print(b, what, 2e-12 * (double)counts[i] * (double)rows * COLS / s, "TFLOP/s", s / one,
                  "the time of T = 1", 0);
        }
    }
    ps_free(p);
}

static void bench_stream(struct bench *b)
{
    static const size_t counts[] = {1, 16, 128};
    if (!b->api->multiplies(b->d, PS_BF16)) {
        print_absent(b, "bus while panels are multiplied");
        return;
    }
    uint64_t seed = 11;
    for (uint64_t i = 0; i < RING * PANEL; i += 2) {
        uint16_t h = ps_f32_to_bf16(random_weight(&seed));
        memcpy(b->host + i, &h, 2);
    }
    for (size_t i = 0; i < sizeof counts / sizeof counts[0] && counts[i] <= b->most_rows; i++) {
        char what[64];
        struct ps_act act = prepare(b, PS_BF16, counts[i]);
        double rate =
            (double)b->rounds * RING * PANEL / seconds_of(b, PS_STREAM_COPY, queue_stream, &act);
        snprintf(what, sizeof what, "bus while panels are multiplied, T = %zu", counts[i]);
        print(b, what, rate * 1e-9, "GB/s", rate / b->bus, "the bus", 0.90);
    }
}

/* ---- blocks ---- */

struct coded {
    struct ps_device_blocks *extents;
    size_t n;
};

static void queue_decodes(struct bench *b, void *user)
{
    const struct coded *c = user;
    for (size_t i = 0; i < c->n; i++)
        OK(b, b->api->decode(b->d, &c->extents[i]));
}

/* One extent of 32 blocks packed on the CPU; copies of it fill the matrix's memory, decoded into `other`. */
static void bench_codec(struct bench *b, enum ps_codec codec)
{
    enum { BLOCKS = PANEL / BLOCK };
    char what[64];
    uint32_t in_bytes[BLOCKS];
    uint64_t at = 0;
    snprintf(what, sizeof what, "decode %s, decoded bytes", ps_codec_name(codec));
    struct ps_device_info info;
    b->api->info(b->d, &info);
    if (!(info.codecs >> codec & 1u)) {
        print_absent(b, what);
        return;
    }
    uint8_t *packed = ps_malloc(2 * PANEL);
    PS_ASSERT(packed);
    for (unsigned i = 0; i < BLOCKS; i++) {
        size_t n = 0;
        OK(b, ps_codec_encode(codec, PS_BF16, b->host + i * BLOCK, BLOCK, packed + at, &n, NULL));
        in_bytes[i] = (uint32_t)n;
        at += n;
    }
    uint64_t stride = (at + 64 + 255) / 256 * 256;
    struct coded c = {.n = b->weight_bytes / stride};
    c.n = c.n > MAX_PANELS ? MAX_PANELS : c.n;
    c.extents = ps_calloc(c.n + 1, sizeof *c.extents);
    PS_ASSERT(c.extents);
    for (size_t i = 0; i < c.n; i++) {
        OK(b, b->api->copy_in(b->d, PS_STREAM_COMPUTE, b->weights + i * stride, packed, at));
        c.extents[i] = (struct ps_device_blocks){.codec = codec,
                                                 .dtype = PS_BF16,
                                                 .in = b->weights + i * stride,
                                                 .out = b->other + i % RING * PANEL,
                                                 .in_bytes = in_bytes,
                                                 .n_blocks = BLOCKS,
                                                 .block_bytes = BLOCK,
                                                 .raw_bytes = PANEL};
    }
    double rate = (double)c.n * PANEL / seconds_of(b, PS_STREAM_COMPUTE, queue_decodes, &c);
    print(b, what, rate * 1e-9, "GB/s", rate / b->bus, "the bus", 2.0);
    print(b, "  packed size", (double)at / (double)PANEL, "", 0, NULL, 0);
    ps_free(c.extents);
    ps_free(packed);
}

/* ---- launches ---- */

#define LAUNCHES 1000

static void queue_small(struct bench *b, void *user)
{
    (void)user;
    for (int i = 0; i < LAUNCHES; i++)
        OK(b, b->api->add_bias(b->d, b->a, COLS, b->a + COLS, 1, COLS));
}

static void bench_launches(struct bench *b)
{
    if (b->api->add_bias(b->d, b->a, COLS, b->a + COLS, 1, COLS) != 0) {
        print_absent(b, "a small operation");
        return;
    }
    double s = seconds_of(b, PS_STREAM_COMPUTE, queue_small, NULL);
    print(b, "a small operation, many in a row", s / LAUNCHES * 1e6, "us", 0, NULL, 0);
    sync_all(b);
    uint64_t t0 = ps_now_ns();
    for (int i = 0; i < 100; i++) {
        OK(b, b->api->add_bias(b->d, b->a, COLS, b->a + COLS, 1, COLS));
        OK(b, b->api->mark(b->d, PS_STREAM_COMPUTE, MARK_TO));
        OK(b, b->api->await(b->d, MARK_TO, NULL));
    }
    print(b, "the same, the host waiting for each", ps_seconds_since(t0) / 100 * 1e6, "us", 0, NULL,
          0);
}

/* ---- all of it ---- */

static void prepare_memory(struct bench *b)
{
    struct ps_err err = {0};
    uint64_t seed = 1;
    size_t rows = b->weight_bytes / ps_quant_row_bytes(PS_NF4B64, COLS) + RING * PANEL / COLS + 1,
           act = 0;
    static const enum ps_dtype types[] = {PS_F32,   PS_F16,    PS_BF16, PS_F8_E4M3,
                                          PS_Q8B64, PS_NF4B64, PS_MXFP4};
    b->host = ps_alloc_pages(RING * PANEL, 2 * MIB);
    PS_ASSERT(b->host);
    for (uint64_t i = 0; i < RING * PANEL; i += 2) {
        uint16_t h = ps_f32_to_bf16(random_weight(&seed));
        memcpy(b->host + i, &h, 2);
    }
    int rc = b->api->pin(b->d, b->host, RING * PANEL, &err);
    if (rc) {
        fprintf(stderr, "bench_device: %s\n", err.text);
        exit(1);
    }
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        size_t n = b->api->act_bytes(b->d, types[i], MAX_T, COLS);
        act = n > act ? n : act;
    }
    b->weights = dev_alloc(b, b->weight_bytes + PANEL);
    b->other = dev_alloc(b, (RING + 1) * PANEL);
    b->a = dev_alloc(b, (uint64_t)MAX_T * COLS * sizeof(float));
    b->c = dev_alloc(b, (uint64_t)MAX_T * rows * sizeof(float));
    b->packed = dev_alloc(b, act + 256);
    float *a = ps_malloc((size_t)MAX_T * COLS * sizeof *a);
    PS_ASSERT(a);
    for (size_t i = 0; i < (size_t)MAX_T * COLS; i++)
        a[i] = random_weight(&seed) * 50;
    OK(b, b->api->copy_in(b->d, PS_STREAM_COMPUTE, b->a, a, (uint64_t)MAX_T * COLS * sizeof *a));
    OK(b, b->api->copy_in(b->d, PS_STREAM_COMPUTE, b->weights, b->host, PANEL));
    for (uint64_t at = PANEL; at < b->weight_bytes; at += PANEL)
        OK(b, b->api->copy_within(b->d, PS_STREAM_COMPUTE, b->weights + at, b->weights, PANEL));
    sync_all(b);
    ps_free(a);
}

static void open_device(struct bench *b, const char *kind)
{
    struct ps_err err = {0};
    struct ps_device_options o = {.n_marks = N_MARKS};
    struct ps_device_info info;
    uint64_t t0 = ps_now_ns();
    int rc = ps_device_load(&b->api, kind, &err);
    if (rc == 0)
        rc = b->api->open(&b->d, &o, &err);
    if (rc) {
        fprintf(stderr, "bench_device: %s\n", err.text);
        exit(rc == PS_EUNSUPPORTED ? 77 : 1);
    }
    double s = ps_seconds_since(t0);
    b->api->info(b->d, &info);
    if (b->json)
        printf("{\"device\": \"%s\", \"arch\": \"%s\", \"kind\": \"%s\", \"memory_bytes\": %llu, "
               "\"free_bytes\": %llu, "
               "\"host_bytes\": %llu, \"open_s\": %.3f, \"matrix_bytes\": %llu, \"reps\": %u, "
               "\"figures\": [",
               info.name, info.arch, b->api->kind, (unsigned long long)info.memory_bytes,
               (unsigned long long)info.free_bytes, (unsigned long long)info.host_bytes, s,
               (unsigned long long)b->weight_bytes, b->reps);
    fprintf(b->json ? stderr : stdout,
            "%s (%s, %s), %.1f of %.1f GiB free; opened in %.2f s, taking %.0f MiB of host "
            "memory\n",
            info.name, info.arch, b->api->kind, (double)info.free_bytes / (1024.0 * MIB),
            (double)info.memory_bytes / (1024.0 * MIB), s, (double)info.host_bytes / MIB);
}

static void close_device(struct bench *b)
{
    b->api->unpin(b->d, b->host);
    b->api->close(b->d);
    ps_free_pages(b->host, RING * PANEL);
    if (b->json)
        printf("\n]}\n");
}

static int usage(void)
{
    fprintf(
        stderr,
        "usage: bench_device [--device KIND] [--mb N] [--reps N] [--json] [--bars] [--quick]\n");
    return 2;
}

int main(int argc, char **argv)
{
    struct bench b = {.weight_bytes = 1024 * MIB, .reps = 9, .rounds = 4, .most_rows = MAX_T};
    const char *kind = "cuda";
    bool bars = false;
    for (int i = 1; i < argc; i++) {
        bool value = i + 1 < argc;
        if (strcmp(argv[i], "--json") == 0)
            b.json = true;
        else if (strcmp(argv[i], "--bars") == 0)
            bars = true;
        else if (strcmp(argv[i], "--quick") == 0)
            b.weight_bytes = 2 * PANEL, b.reps = 1, b.rounds = 1, b.most_rows = 1;
        else if (strcmp(argv[i], "--device") == 0 && value)
            kind = argv[++i];
        else if (strcmp(argv[i], "--mb") == 0 && value)
            b.weight_bytes = strtoull(argv[++i], NULL, 10) * MIB;
        else if (strcmp(argv[i], "--reps") == 0 && value)
            b.reps = (unsigned)strtoul(argv[++i], NULL, 10);
        else
            return usage();
    }
    if (b.weight_bytes < 2 * PANEL || b.weight_bytes % PANEL || b.reps < 1 || b.reps > MAX_REPS)
        return usage();
    open_device(&b, kind);
    prepare_memory(&b);
    bench_copies(&b);
    bench_gemv(&b);
    bench_rows(&b);
    bench_stream(&b);
    bench_codec(&b, PS_CODEC_WH);
    bench_codec(&b, PS_CODEC_XC34);
    bench_launches(&b);
    close_device(&b);
    return bars && b.bars_missed ? 1 : 0;
}
