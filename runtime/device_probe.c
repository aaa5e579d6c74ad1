/* See device_probe.h. Times are the host's, around many queued calls and one wait: what a sweep sees too. */
#include "runtime/device_probe.h"

#include "base/alloc.h"
#include "base/clock.h"

static const char *const ORIGIN = "probe";
#define PROBE_K     4096u
#define MIB         (1ull << 20)
#define COPY_BYTES  (8 * MIB) /* as large as an extent */
#define MOST_BYTES  (256 * MIB)
#define LEAST_BYTES (16 * MIB)
#define SMALL_BYTES                                                                                \
    (8 * MIB) /* for rows, packed rows and results, rounded up as an allocator may */
#define ROUNDS     16u
#define BUS_PASSES 4u /* over all of it: the wait at the end costs as much as some megabytes */

struct probe {
    const struct ps_device_api *api;
    struct ps_device *d;
    uint32_t mark;
    void *weights, *a, *packed, *c; /* on the device */
    uint64_t bytes;                 /* of weights */
};

static int wait_for(struct probe *p, struct ps_err *err)
{
    int rc = p->api->mark(p->d, PS_STREAM_COMPUTE, p->mark);
    if (rc < 0)
        return ps_err_set(err, rc, ORIGIN, "the device refuses work");
    return p->api->await(p->d, p->mark, err);
}

/* As much as there is, halving from the most. PS_EBUDGET: too little to measure with. */
static int alloc_weights(struct probe *p, uint64_t most_bytes, struct ps_err *err)
{
    int rc = PS_EBUDGET;
    for (p->bytes = MOST_BYTES; p->bytes >= LEAST_BYTES; p->bytes /= 2) {
        if (p->bytes + SMALL_BYTES > most_bytes)
            continue;
        rc = p->api->alloc(p->d, &p->weights, p->bytes, err);
        if (rc != PS_EBUDGET)
            return rc;
    }
    return rc;
}

static int probe_bus(double *bytes_s, struct probe *p, struct ps_err *err)
{
    uint8_t *host = ps_alloc_pages(COPY_BYTES, 4096);
    int rc = host ? 0 : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    for (size_t i = 0; host && i < COPY_BYTES;
         i++) /* small finite numbers of both signs, for the product too */
        host[i] = i % 2 ? (uint8_t)(0x3c | (i >> 4 & 0x80)) : (uint8_t)(i * 2654435761u >> 13);
    bool pinned = rc == 0 && (rc = p->api->pin(p->d, host, COPY_BYTES, err)) == 0;
    uint64_t t0 = 0;
    for (unsigned round = 0; rc == 0 && round < 2; round++) { /* the first warms up */
        uint64_t bytes = round == 0 ? p->bytes : p->bytes * BUS_PASSES;
        t0 = ps_now_ns();
        for (uint64_t at = 0; rc == 0 && at < bytes; at += COPY_BYTES)
            rc = p->api->copy_in(p->d, PS_STREAM_COMPUTE, (uint8_t *)p->weights + at % p->bytes,
                                 host, COPY_BYTES);
        if (rc == 0)
            rc = wait_for(p, err);
        if (rc == 0)
            *bytes_s = (double)bytes / ps_seconds_since(t0);
    }
    if (pinned)
        p->api->unpin(p->d, host);
    if (host)
        ps_free_pages(host, COPY_BYTES);
    return rc;
}

static int probe_memory(double *bytes_s, struct probe *p, struct ps_err *err)
{
    const struct ps_device_api *api = p->api;
    size_t rows = p->bytes / (PROBE_K * 2);
    struct ps_matrix w = {.type = PS_BF16,
                          .K = PROBE_K,
                          .data = p->weights,
                          .row_stride = PROBE_K * 2,
                          .n_rows = rows};
    int rc = api->alloc(p->d, &p->a, PROBE_K * sizeof(float), err);
    if (rc == 0)
        rc = api->alloc(p->d, &p->packed, api->act_bytes(p->d, PS_BF16, 1, PROBE_K) + 256, err);
    if (rc == 0)
        rc = api->alloc(p->d, &p->c, rows * sizeof(float), err);
    struct ps_act act = {
        .a = p->a, .T = 1, .K = PROBE_K, .lda = PROBE_K, .weights = PS_BF16, .packed = p->packed};
    if (rc == 0)
        rc = api->fill(p->d, PS_STREAM_COMPUTE, p->a, 0x3c, PROBE_K * sizeof(float));
    if (rc == 0)
        rc = api->act_pack(p->d, &act);
    uint64_t t0 = 0;
    for (unsigned i = 0; rc == 0 && i <= ROUNDS; i++) {
        if (i == 1) { /* the first warms up */
            rc = wait_for(p, err);
            t0 = ps_now_ns();
        }
        if (rc == 0)
            rc = api->matmul(p->d, &act, &w, 1, p->c, rows, false);
    }
    if (rc == 0)
        rc = wait_for(p, err);
    if (rc == 0)
        *bytes_s = (double)p->bytes * ROUNDS / ps_seconds_since(t0);
    return rc;
}

int ps_device_probe(double *bus_bytes_s, double *vram_bytes_s, const struct ps_device_api *api,
                    struct ps_device *d, uint32_t mark, uint64_t most_bytes, struct ps_err *err)
{
    struct probe p = {.api = api, .d = d, .mark = mark};
    int rc = alloc_weights(&p, most_bytes, err);
    if (rc == 0)
        rc = probe_bus(bus_bytes_s, &p, err);
    if (rc == 0)
        rc = probe_memory(vram_bytes_s, &p, err);
    api->free(d, p.weights);
    api->free(d, p.a);
    api->free(d, p.packed);
    api->free(d, p.c);
    return rc == PS_EBUDGET ? 0 : rc;
}
