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
#include "runtime/kept_files.h"
#include "runtime/plan.h"
#include "runtime/sweep.h"
#include "runtime/tokenizer.h"
#include "runtime/weights.h"

/* Figures that outlive a run, kept beside the cache: what the links of this machine gave. 0 = never measured. */
struct ps_probes {
    double link_bytes_s, disk_bytes_s;
    double ram_bytes_s;               /* decoded bytes through the CPU's arithmetic */
    double bus_bytes_s, vram_bytes_s; /* of the device */
    uint64_t wall_s;                  /* when the oldest of them was taken */
};

struct ps_run_facts { /* of the last generate call */
    uint64_t tokens_prompt, tokens_generated, sweeps;
    double ttft_s, decode_s;
    uint64_t vram_bytes; /* device memory that opening and this session have taken, as its driver counts */
    uint64_t stall_ns_at_first; /* of the wait for weights, what lay before the first token */
    struct ps_err error;
};

/* What one session takes beside the weights: engine_reserve.c. */
struct ps_need {
    uint32_t ctx, rows; /* positions of its KV cache; most rows of a sweep. ctx 0: nothing at all */
    uint32_t ubatch;    /* rows of a kernel call that were asked for; 0: the plan chooses */
    bool all_logits;    /* of every row, not of the last alone */
    uint64_t caller_bytes; /* what the caller holds for us and --ram has to cover: the logits of all positions */
    struct ps_chunks chunks;           /* on the CPU, as the budget allows */
    uint64_t host_bytes, device_bytes; /* of all this */
    struct ps_need *next;
};

struct ps_reserved {
    uint64_t host_bytes, device_bytes;
};

/* The device, if layers are computed on one: engine_device.c. */
struct ps_engine_gpu {
    const struct ps_device_api *api; /* NULL: everything on the CPU */
    struct ps_device *device;
    struct ps_device_info info; /* at opening */
    uint32_t first_layer;       /* that it computes; n_layers without a device */
    uint32_t first_position;    /* where that layer begins in the order of use */
    struct ps_pins *pins;       /* with the scheduler */
    struct ps_vram *vram;
};

struct ps_engine {
    struct ps_engine_options o; /* strings point into `strings` */
    char *strings[11];
    char *cache_dir;
    struct ps_size disk, ram, vram, min_free;
    enum ps_dtype k_type, v_type; /* of the KV cache */
    uint64_t opened_ns;
    atomic_int interrupt;
    struct ps_stats stats;

    struct ps_source *source;
    bool mirrored; /* the user gave mirrors: for a moment two stores may hold buffers */
    struct ps_rate_limit *net_limit; /* nullable; of all sources of this engine */
    struct ps_model_files files;
    struct ps_arch *arch;
    struct ps_weights *weights;
    uint32_t *order;
    uint32_t n_order;
    const struct ps_backend *backend;
    struct ps_pool *pool;
    struct ps_engine_gpu gpu;

    struct ps_cache *cache;  /* NULL: local source, --disk 0, or unusable, or not opened yet */
    bool cache_opened;       /* or there is nothing that this engine might open for writing */
    struct ps_err cache_err; /* why it can't be used; code 0: it can, or nobody has tried */
    bool waits; /* headers_only: nobody has asked for a weight yet, and a plan opens no cache */
    uint32_t cache_model;
    uint64_t disk_budget_bytes;
    uint64_t disk_room_bytes; /* of that, what the file system has beside --min-free */
    uint64_t ram_budget_bytes;
    uint64_t ram_free_bytes; /* when the model was opened: later, what we have taken ourselves is missing */
    uint64_t vram_budget_bytes;

    struct ps_plan plan; /* tier indexed like plan_extents */
    uint8_t *tier;       /* [map->n_extents] */
    bool planned;
    uint32_t planned_step;       /* of ps_engine_need_step: how small the plan's chunks are */
    struct ps_reserved reserved; /* what the plan leaves for sessions */
    struct ps_need *needs;       /* of those that live */
    struct ps_need estimate;     /* of the first one, before it comes */
    struct ps_sweep *sweep;
    uint64_t sweeps_stopped; /* schedulers closed so far: what was built on one of them is void */

    pthread_t tokenizer_thread;
    bool tokenizer_started, tokenizer_joined;
    bool tokenizer_looks; /* its thread: at a cache that is not opened yet */
    int tokenizer_rc;
    struct ps_err tokenizer_err;
    struct ps_tokenizer *tokenizer;

    struct ps_probes probes;  /* what the plan was made with */
    struct ps_probes learned; /* what this run has seen: for the next one */
    struct ps_run_facts run;
    struct ps_kept_extents files_foreseen; /* small files that the last dry warm-up would find, or leave, kept */
};

/* Internal error to public one; returns the code. */
int ps_engine_error(struct ps_error *out, int rc, const struct ps_err *err);

/* engine_source.c: opens what `o` names. limit, stats and interrupt nullable, to outlive the source. */
int ps_engine_source_open(struct ps_source **out, const struct ps_engine_options *o, bool direct,
                          struct ps_rate_limit *limit, struct ps_stats *stats,
                          const atomic_int *interrupt, struct ps_err *err);
/* engine_disk.c */
int ps_engine_budgets(struct ps_engine *e,
                      struct ps_err *err); /* parses sizes, decides --disk; changes nothing */
/* The cache for writing: it shrinks to the budget here, and --disk 0 empties it. Waits for the tokenizer, if that
 * runs. A folder that can't be used is told, and the run goes on without. Once. */
int ps_engine_open_cache(struct ps_engine *e, struct ps_err *err);
/* The cache read-only into *out, for ps_cache_close, and this model's number in it; *out stays as it is if there is
 * none. Who only asks what would be, or may yet be refused, must not find afterwards that it is: a plan with a small
 * --disk would have thrown away what hours had fetched. */
int ps_engine_look_at_cache(struct ps_cache **out, uint32_t *model, struct ps_engine *e,
                            struct ps_err *err);
/* Whether --disk, and the file system, take all of the model and the small files beside it. */
bool ps_engine_has_room_for_all(const struct ps_engine *e);
/* Of this model in the cache: that which was asked for, or the one that it has. */
int ps_engine_priority(const struct ps_engine *e);
uint64_t ps_engine_disk_room(const struct ps_engine *e); /* bytes of weights that the plan may put there */
/* Why that is too little for any extent, or why there is no cache that could be written: fills *err and returns its
 * code, never 0. */
int ps_engine_why_no_disk(const struct ps_engine *e, struct ps_err *err);
/* engine_plan.c */
/* Makes the plan for what is beside and `wanted`, whose chunks and bytes it sets, in the place of the present one; the
 * scheduler is stopped then. Opens the cache before the first plan that fits. PS_EBUDGET, and nothing has changed, if
 * that does not fit. */
int ps_engine_plan(struct ps_engine *e, const struct ps_reserved *beside, struct ps_need *wanted,
                   struct ps_err *err);
/* Whether there is a plan for `wanted`, beside nothing else: 0, PS_EBUDGET or PS_ENOMEM. Changes nothing. */
int ps_engine_check_plan(struct ps_engine *e, const struct ps_need *wanted);
void ps_engine_write_plan(struct ps_engine *e, struct ps_json_writer *w);
/* Opens the scheduler, and the device's ring behind it, for the present plan. */
int ps_engine_start_sweep(struct ps_engine *e, struct ps_err *err);
/* The scheduler alone, which fills the disk. */
int ps_engine_start_fetching(struct ps_engine *e, struct ps_err *err);
void ps_engine_stop_sweep(struct ps_engine *e);
/* engine_reserve.c */
/* The step-th way to meet a need, each with less memory than the one before: sets chunks and bytes. False: none. */
bool ps_engine_need_step(const struct ps_engine *e, struct ps_need *n, uint32_t step);
/* Makes room for `wanted` in the place of what `held` stands for (nothing at first): before its memory is allocated.
 * *held is then counted until it is given up; the scheduler runs. After an error it is as it was. */
int ps_engine_reserve(struct ps_engine *e, struct ps_need *held, const struct ps_need *wanted,
                      struct ps_err *err);
void ps_engine_unreserve(struct ps_engine *e, struct ps_need *held); /* it may be unknown */
/* A plan for what lives, or for the first session. */
int ps_engine_replan(struct ps_engine *e, struct ps_err *err);
/* engine_device.c */
int ps_engine_open_device(struct ps_engine *e, struct ps_err *err);
void ps_engine_close_device(struct ps_engine *e);
/* RAM keeps it as stored, and so it crosses the bus. */
bool ps_engine_stays_coded(const struct ps_engine *e, const struct ps_extent *x);
bool ps_engine_on_device(const struct ps_engine *e, uint32_t position); /* in the order of use */
/* The device's part of the planner's input, `bytes` of its memory being taken by sessions; its extents are marked
 * already. */
int ps_engine_plan_device(struct ps_engine *e, struct ps_plan_input *in, uint64_t bytes,
                          struct ps_err *err);
/* Of a need: device memory, and host memory for the device's sake. */
uint64_t ps_engine_device_bytes(const struct ps_engine *e, const struct ps_need *n);
uint64_t ps_engine_device_host_bytes(const struct ps_engine *e, const struct ps_need *n);
int ps_engine_start_pins(struct ps_engine *e, struct ps_sweep_options *so, struct ps_err *err);
int ps_engine_start_vram(struct ps_engine *e, struct ps_err *err);
uint64_t ps_engine_device_taken(const struct ps_engine *e); /* bytes of its memory since it was opened */
struct ps_device_place ps_engine_place(const struct ps_engine *e);
/* engine_tokens.c */
int ps_engine_start_tokenizer(struct ps_engine *e, struct ps_err *err);
int ps_engine_need_tokenizer(struct ps_engine *e, struct ps_err *err); /* waits for it */
int ps_tokenizer_from_source(struct ps_tokenizer **out, const struct ps_kept *k, struct ps_err *err);
extern const char *const ps_tokenizer_names[]; /* the files that it reads, NULL at the end */
uint64_t ps_tokenizer_max_bytes(const char *name);
struct ps_kept ps_engine_kept(const struct ps_engine *e);
/* engine_warm.c: keys of all extents (*keys: ps_free) and the model's id (the engine's). PS_ENOMEM. */
int ps_engine_keys(uint8_t (**keys)[PS_SHA256_BYTES], size_t *n, const uint8_t **id,
                   const struct ps_engine *e, struct ps_err *err);
/* engine_probes.c */
void ps_probes_load(struct ps_probes *p, const char *cache_dir);
/* False: not saved, for what reason ever. The folder has to exist. */
bool ps_probes_save(const struct ps_probes *p, const char *cache_dir);
void ps_engine_learn_rates(struct ps_engine *e); /* from what this run has measured */
/* Bytes per second: what came in this run while the link moved; what may be expected of it: the rate of before, or
 * --net-limit where that is less or nothing was ever measured. 0: not known. */
double ps_engine_link_seen(const struct ps_engine *e);
double ps_engine_link_rate(const struct ps_engine *e);
/* Seconds since the oldest of what the plan was made with was measured; 0: never, or the clock was set back since. */
double ps_engine_probe_age_s(const struct ps_engine *e);
/* ps_tokenize_only for a model that must be signed by one of these keys (files; none: no matter). */
int ps_tokenize_trusted(const char *model, const char *const *keys, size_t n_keys, const char *text,
                        size_t len, uint32_t flags, uint32_t **ids, size_t *n,
                        struct ps_error *error);
#endif
