/* Where the arithmetic of a layer is done: on the CPU (compute_host.c) or on a device with memory of its own
 * (compute_device.c). forward.c says what a layer computes, once for all families; this table says it to one of them.
 *
 *     forward.c --norm, matrix, rope, attention, ...--> compute --panels--> sweep (host) or vram (device)
 *
 * Rows of activations are addressed by pointers into the memory that the compute lies in: on a device they can't be
 * followed. Tensors are named by their index in the map; the operations that use weights take them from the scheduler,
 * so they must be called in the order of weights.c.
 *
 * One thread at a time. Nothing is allocated after ps_compute_*_new. */
#ifndef PS_RUNTIME_COMPUTE_H
#define PS_RUNTIME_COMPUTE_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/pool.h"
#include "kernels/kernels.h"
#include "proto/map.h"
#include "runtime/arch.h"
#include "runtime/kv.h"
#include "runtime/sweep.h"
#include "runtime/weights.h"

/* How far a prompt's sweep has come: shared by the computes of one forward pass. */
struct ps_compute_progress {
    void (*fn)(void *user, uint64_t done, uint64_t total); /* nullable */
    void *user;
    uint64_t done_bytes, total_bytes, told_ns;
    bool telling; /* this sweep */
};

/* How the rows of a prompt pass through a layer: never changes a result. Small: what a kernel call needs beside
 * the rows themselves (packed inputs, the second half of a gated product) is there for one chunk of rows alone and
 * is made anew for every panel. */
struct ps_chunks {
    uint32_t rows;
    bool small;
};

struct ps_compute_options {
    const struct ps_arch *arch;
    const struct ps_weights *weights;
    const struct ps_map *map;
    struct ps_sweep *sweep;
    uint32_t max_rows;   /* most T of a sweep */
    uint32_t ubatch;     /* rows of one kernel call, 1 .. max_rows */
    bool small;          /* least memory: see struct ps_chunks */
    uint32_t logit_rows; /* most rows of logits: 1 or max_rows */
    uint32_t ctx;        /* positions of the KV cache */
    bool host_gathers;   /* embedding rows are taken on the CPU, also for layers of a device */
    const atomic_int *interrupt; /* nullable */
    struct ps_compute_progress *progress;
};

/* The activations of T rows. */
struct ps_rows {
    float *x;  /* [T][hidden] residual stream */
    float *xn; /* [T][hidden] normed */
    float *q, *k, *v;
    float *att;       /* [T][n_heads * head_dim] */
    float *gate, *up; /* [T][inter]; up NULL: see `gated` */
};

struct ps_compute {
    const struct ps_compute_ops *ops;
    struct ps_compute_options o;
    struct ps_rows rows;
};

struct ps_compute_ops {
    void (*free)(struct ps_compute *c);
    /* T rows at positions pos0 ..: what the operations below work on. new_sweep: the first compute of a sweep puts the
     * scheduler at its start. */
    int (*begin)(struct ps_compute *c, uint32_t pos0, size_t T, bool new_sweep, struct ps_err *err);
    /* rows.x = embedding rows of ids[T] */
    int (*gather)(struct ps_compute *c, const uint32_t *ids, struct ps_err *err);
    /* out = rmsnorm(in) with the weight `tensor`, `n` rows of K */
    int (*norm)(struct ps_compute *c, uint32_t tensor, float *out, const float *in, size_t n,
                size_t K, struct ps_err *err);
    /* out[n][ldc] (+)= in[n][cols] . W^T */
    int (*matrix)(struct ps_compute *c, uint32_t tensor, const float *in, size_t n, float *out,
                  size_t ldc, bool add, struct ps_err *err);
    int (*bias)(struct ps_compute *c, uint32_t tensor, float *x, size_t n, size_t K,
                struct ps_err *err);
    /* rotates x[T][n_heads * head_dim] in place by the positions of the rows */
    int (*rope)(struct ps_compute *c, float *x, uint32_t n_heads, struct ps_err *err);
    /* rows.k and rows.v to the pages of their positions */
    int (*kv_put)(struct ps_compute *c, struct ps_kv *kv, uint32_t layer, struct ps_err *err);
    /* rows.att = attention of rows.q */
    int (*attention)(struct ps_compute *c, struct ps_kv *kv, uint32_t layer, struct ps_err *err);
    /* rows.gate = silu(rows.gate) * rows.up */
    int (*swiglu)(struct ps_compute *c, struct ps_err *err);
    /* rows.gate = silu(rows.gate) * (in[n][hidden] . up^T) without rows.up, where that is NULL: panel by panel */
    int (*gated)(struct ps_compute *c, uint32_t tensor, const float *in, size_t n,
                 struct ps_err *err);
    /* out[n][vocab] on the host = in[n][hidden] . head^T; waits until it is there */
    int (*logits)(struct ps_compute *c, const float *in, size_t n, float *out, struct ps_err *err);
    /* rows.x where the first layers are computed on the host (host_x, its alone) and the rest on a device (put_x, its
     * alone): T rows from there to here */
    int (*put_x)(struct ps_compute *c, const float *host, struct ps_err *err);
    const float *(*host_x)(struct ps_compute *c);
};

/* Lays the rows out from `base` on, which may be NULL, and returns the bytes that they take, each buffer 256-byte
 * aligned with room for a vector load past its end. What attention needs and what the MLP needs are never there at once
 * and share their place. */
uint64_t ps_rows_carve(struct ps_rows *r, uint8_t *base, const struct ps_arch *a, uint64_t T,
                       bool without_up);
/* The widest input of any matrix of the model. */
uint32_t ps_arch_widest(const struct ps_arch *a);
/* The attention of a layer over `kv`, but for q, out, pos, T and scratch. */
struct ps_attn ps_compute_attn(const struct ps_compute *c, const struct ps_kv *kv, uint32_t layer);
int ps_compute_interrupted(const struct ps_compute *c, struct ps_err *err); /* PS_EINTERRUPTED or 0 */
void ps_compute_tell(struct ps_compute *c, uint64_t weight_bytes);

/* On the CPU. Takes from the scheduler directly. Bytes: of arch, weights, map, max_rows, ubatch and small. */
uint64_t ps_compute_host_bytes(const struct ps_compute_options *o, const struct ps_backend *b,
                               unsigned threads);
int ps_compute_host_new(struct ps_compute **out, const struct ps_compute_options *o,
                        const struct ps_backend *backend, struct ps_pool *pool, struct ps_err *err);
#endif
