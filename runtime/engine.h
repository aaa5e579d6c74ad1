/* The engine: the only place that wires source, cache, plan, scheduler and arithmetic together. The public face is
 * include/penstock/penstock.h; this header is for the engine's own files. */
#ifndef PS_RUNTIME_ENGINE_H
#define PS_RUNTIME_ENGINE_H
#include <pthread.h>
#include <stdatomic.h>

#include "base/size.h"
#include "base/stats.h"
#include "cache/cache.h"
#include "kernels/kernels.h"
#include "penstock/penstock.h"
#include "proto/layout.h"
#include "runtime/arch.h"
#include "runtime/forward.h"
#include "runtime/plan.h"
#include "runtime/sweep.h"
#include "runtime/tokenizer.h"
#include "runtime/weights.h"

/* Figures that outlive a run, kept beside the cache: what the links of this machine gave. 0 = never measured. */
struct ps_probes {
    double link_bytes_s, disk_bytes_s, ram_bytes_s, flops;
    uint64_t wall_s; /* when the oldest of them was taken */
};

struct ps_run_facts { /* of the last generate call */
    uint64_t tokens_prompt, tokens_generated, sweeps;
    double ttft_s, decode_s;
    uint64_t stall_ns_at_first; /* of the wait for weights, what lay before the first token */
    struct ps_err error;
};

struct ps_engine {
    struct ps_engine_options o; /* strings point into `strings` */
    char *strings[8];
    char *cache_dir;
    struct ps_size disk, ram, min_free;
    enum ps_dtype k_type, v_type; /* of the KV cache */
    uint64_t opened_ns;
    atomic_int interrupt;
    struct ps_stats stats;

    struct ps_source *source;
    struct ps_model_files files;
    struct ps_arch *arch;
    struct ps_weights *weights;
    uint32_t *order;
    uint32_t n_order;
    const struct ps_backend *backend;
    struct ps_pool *pool;

    struct ps_cache *cache; /* NULL: local source, --disk 0, or unusable */
    uint32_t cache_model;
    uint64_t disk_budget_bytes;
    uint64_t ram_budget_bytes;

    struct ps_plan plan; /* tier indexed like plan_extents */
    uint8_t *tier;       /* [map->n_extents] */
    uint64_t caller_bytes; /* what the caller holds for us and --ram has to cover: the logits of all positions */
    bool planned;
    uint32_t planned_ctx, planned_rows;
    struct ps_sweep *sweep;

    pthread_t tokenizer_thread;
    bool tokenizer_started, tokenizer_joined;
    int tokenizer_rc;
    struct ps_err tokenizer_err;
    struct ps_tokenizer *tokenizer;

    struct ps_probes probes;  /* what the plan was made with */
    struct ps_probes learned; /* what this run has seen: for the next one */
    struct ps_run_facts run;
};

/* Internal error to public one; returns the code. */
int ps_engine_error(struct ps_error *out, int rc, const struct ps_err *err);

/* engine_plan.c */
int ps_engine_budgets(struct ps_engine *e, struct ps_err *err); /* parses sizes, opens the cache */
int ps_engine_plan(struct ps_engine *e, uint32_t ctx, uint32_t rows,
                   struct ps_err *err); /* fills plan and tier */
void ps_engine_write_plan(struct ps_engine *e, struct ps_json_writer *w);
int ps_engine_start_sweep(struct ps_engine *e,
                          struct ps_err *err); /* opens the scheduler for the present plan */
/* engine_tokens.c */
int ps_engine_start_tokenizer(struct ps_engine *e, struct ps_err *err);
int ps_engine_need_tokenizer(struct ps_engine *e, struct ps_err *err); /* waits for it */
int ps_tokenizer_from_source(struct ps_tokenizer **out, const struct ps_model_files *files,
                             struct ps_source *src, struct ps_err *err);
/* engine_probes.c */
void ps_probes_load(struct ps_probes *p, const char *cache_dir);
void ps_probes_save(const struct ps_probes *p, const char *cache_dir);
void ps_engine_learn_rates(struct ps_engine *e); /* from what this run has measured */
#endif
