/* A processor with memory of its own beside the CPU. The runtime sees one table of functions; behind it stands CUDA
 * (kernels/cuda, a module loaded at run time), or in tests the same kernels run by an emulation of their execution
 * model, or a fake that computes on the CPU with delays and failures put in. No type of any vendor leaks out of here.
 *
 *     host slots and arena (pinned) --copy stream--> device memory --compute stream--> activations --> logits
 *
 * Order. Two streams, each in order of its calls; between them only marks: `mark` puts a mark behind what a stream was
 * given so far, `wait_mark` makes a stream wait for one, `await` makes the host wait. Each means the mark as last set
 * before that call, and one never set counts as reached; it may be set again at any time. Calls that queue work return
 * at once and take pointers to device memory unless they say "host"; what they point to on the host is either copied
 * before they return (structs, lists) or said to stay (pinned sources of copies).
 *
 * Meaning. Each operation computes what kernels.h says of the operation of the same name, on device memory. One order
 * of additions per weight type for every T: C[t][r] depends on A[t] and W[r] alone.
 *
 * Errors. A queueing call may return a code already known; whatever goes wrong later (a device lost, a block that does
 * not decode) is sticky and comes out of the next await or sync, with its text. After PS_EFAIL the device is of no use
 * but to be closed. No call blocks for ever: a lost device ends every wait with an error.
 *
 * Threads: pin and unpin may be called from any thread; all else by one thread at a time. */
#ifndef PS_KERNELS_DEVICE_H
#define PS_KERNELS_DEVICE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "kernels/kernels.h"
#include "kernels/matrix.h"
#include "proto/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PS_DEVICE_ABI 1u

/* What device memory is aligned to, and so what parts of one allocation are laid out by. */
#define PS_DEVICE_ALIGN 256u
static inline uint64_t ps_device_align(uint64_t bytes)
{
    return (bytes + PS_DEVICE_ALIGN - 1) / PS_DEVICE_ALIGN * PS_DEVICE_ALIGN;
}

struct ps_device; /* opaque; each implementation has its own */

enum ps_stream { PS_STREAM_COPY, PS_STREAM_COMPUTE };

struct ps_device_options {
    uint32_t index;   /* which of them, 0 = the first that the driver shows */
    uint32_t n_marks; /* marks 0 .. n_marks - 1 exist */
};

struct ps_device_info {
    char name[96]; /* "NVIDIA H100 80GB HBM3" */
    char arch[16]; /* "sm_90" */
    uint64_t memory_bytes, free_bytes;
    uint64_t host_bytes; /* host memory that opening took: driver context and code, measured */
    uint32_t codecs;     /* bits 1 << enum ps_codec of blocks that decode() takes, beside RAW */
};

/* KV pages on the device: as in struct ps_attn. The tables lie in device memory. */
struct ps_device_kv {
    void *const *k_pages; /* [pages], of one layer */
    void *const *v_pages;
    enum ps_dtype k_dtype, v_dtype;
    uint32_t n_kv_heads, head_dim;
};

/* Blocks of one extent, one behind the other. Block i has in_bytes[i] stored bytes and block_bytes raw ones, the last
 * the rest of raw_bytes. */
struct ps_device_blocks {
    enum ps_codec codec;
    enum ps_dtype dtype; /* element type of the weights in it */
    const void *in; /* stored bytes, 16-byte aligned; may be read up to 64 bytes past their end */
    void *out;      /* raw_bytes */
    const uint32_t *in_bytes; /* [n_blocks], on the host */
    uint32_t n_blocks;
    uint64_t block_bytes, raw_bytes;
};

struct ps_device_api {
    uint32_t abi;     /* PS_DEVICE_ABI */
    const char *kind; /* "cuda", "emulated", "fake" */

    /* PS_EUNSUPPORTED: no driver, one too old, no device, one too old: the text says which and what to do. */
    int (*open)(struct ps_device **out, const struct ps_device_options *o, struct ps_err *err);
    void (*close)(struct ps_device *d); /* nullable; frees all that was allocated, unpins all that was pinned */
    void (*info)(struct ps_device *d, struct ps_device_info *out);

    /* Device memory, 256-byte aligned. PS_EBUDGET when there is no more. Blocks; start-up only. */
    int (*alloc)(struct ps_device *d, void **out, uint64_t bytes, struct ps_err *err);
    void (*free)(struct ps_device *d, void *p); /* nullable; waits for what uses it */
    /* Page-locks `bytes` at `host` (both multiples of 4096): copies from it then run beside everything else. */
    int (*pin)(struct ps_device *d, void *host, uint64_t bytes, struct ps_err *err);
    void (*unpin)(struct ps_device *d, void *host);
    /* Host memory that kernels may read and write over the bus (a KV cache that does not fit): *out is valid on both
     * sides. */
    int (*alloc_shared)(struct ps_device *d, void **out, uint64_t bytes, struct ps_err *err);
    void (*free_shared)(struct ps_device *d, void *p);

    /* Copies. Pageable host memory is allowed: copied before the call returns (in) or complete when it returns
     * (out). */
    int (*copy_in)(struct ps_device *d, enum ps_stream s, void *to, const void *host, uint64_t bytes);
    int (*copy_out)(struct ps_device *d, enum ps_stream s, void *host, const void *from,
                    uint64_t bytes);
    /* Both in device memory, not overlapping. */
    int (*copy_within)(struct ps_device *d, enum ps_stream s, void *to, const void *from,
                       uint64_t bytes);
    int (*fill)(struct ps_device *d, enum ps_stream s, void *to, uint8_t byte, uint64_t bytes);

    int (*mark)(struct ps_device *d, enum ps_stream s, uint32_t mark);
    int (*wait_mark)(struct ps_device *d, enum ps_stream s, uint32_t mark);
    int (*await)(struct ps_device *d, uint32_t mark, struct ps_err *err);
    int (*reached)(struct ps_device *d, uint32_t mark, struct ps_err *err); /* 1, 0, or an error */
    /* Milliseconds between two reached marks; for benchmarks. */
    int (*elapsed_ms)(struct ps_device *d, uint32_t from, uint32_t to, float *out);
    /* Both streams. When it returns, with an error too, no copy touches host memory any more. */
    int (*sync)(struct ps_device *d, struct ps_err *err);

    /* ---- compute stream ---- */
    int (*decode)(struct ps_device *d, const struct ps_device_blocks *b);
    bool (*multiplies)(struct ps_device *d, enum ps_dtype weights); /* has matmul for this type */
    size_t (*act_bytes)(struct ps_device *d, enum ps_dtype weights, size_t T, size_t K);
    int (*act_pack)(struct ps_device *d, const struct ps_act *act); /* `packed` 256-byte aligned */
    /* C[t][row0 + r] (+)= A[t] . W[r] for each of `n` panels of one matrix: one type, K and row_stride. Rows of
     * panels may lie anywhere. */
    int (*matmul)(struct ps_device *d, const struct ps_act *act, const struct ps_matrix *panels,
                  size_t n, float *C, size_t ldc, bool accumulate);
    /* k, v: [T] rows of n_kv_heads * head_dim floats; row t goes to position pos[t]. */
    int (*kv_store)(struct ps_device *d, const struct ps_device_kv *kv, const uint32_t *pos,
                    size_t T, const float *k, const float *v);
    /* As ps_attn says, all pointers device memory (the page tables too), `scratch` attn_bytes() of it. max_pos: the
     * largest pos, known to the host. */
    size_t (*attn_bytes)(struct ps_device *d, size_t T, uint32_t n_heads, uint32_t head_dim,
                         uint32_t max_pos);
    int (*attention)(struct ps_device *d, const struct ps_attn *a, uint32_t max_pos);
    int (*rmsnorm)(struct ps_device *d, float *y, size_t ldy, const float *x, size_t ldx,
                   const float *w, float w_offset, size_t T, size_t K, float eps);
    int (*swiglu)(struct ps_device *d, float *y, size_t ldy, const float *g, size_t ldg,
                  const float *u, size_t ldu, size_t T, size_t K);
    int (*rope)(struct ps_device *d, float *x, size_t ld, size_t T, uint32_t n_heads,
                uint32_t head_dim, uint32_t rot_dim, const float *cos, const float *sin,
                bool interleaved);
    int (*add_bias)(struct ps_device *d, float *x, size_t ldx, const float *b, size_t T, size_t K);
    int (*to_f32)(struct ps_device *d, float *out, const void *in, enum ps_dtype t, size_t n);
};

/* What a module exports under the name PS_DEVICE_SYMBOL: its table. */
typedef const struct ps_device_api *(*ps_device_module_fn)(void);
#define PS_DEVICE_SYMBOL "ps_device_module"

/* Loads the module for `kind` ("cuda"): PENSTOCK_DEVICE_MODULE if set, else libpenstock_cuda.so beside the program or
 * library, then in the install directory. Loaded once per process and kept. PS_EUNSUPPORTED says why there is none,
 * PS_EUSAGE that nobody knows such a kind. */
int ps_device_load(const struct ps_device_api **out, const char *kind, struct ps_err *err);

#ifdef __cplusplus
}
#endif
#endif
