/* Penstock: run a language model whose weights stay on a server.
 *
 * Two objects. A `ps_engine` is one opened model: its source, its disk cache, its plan of what stays where. A
 * `ps_session` is one text being written: its KV cache and its sampler. Open an engine, make a session, generate;
 * free in the opposite order.
 *
 * Conventions: every fallible function returns 0 or a negative code and fills the caller's `struct ps_error`
 * (nullable). Option structs begin with `struct_size` (sizeof the struct that the caller was compiled with); zero
 * in any other field means the default. Strings are NUL-terminated UTF-8 unless a length stands beside them. An
 * engine and its sessions belong to one thread at a time, except for ps_engine_interrupt, which may be called from
 * any thread and from a signal handler. Memory that a function returns is freed with ps_string_free. */
#ifndef PENSTOCK_H
#define PENSTOCK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define PENSTOCK_VERSION "0.1.0"

struct ps_engine;
struct ps_session;

struct ps_error {
    int32_t code;        /* negative, stable: see ps_error_exit_status */
    int32_t exit_status; /* what the penstock program would exit with: 1, 2, 3, 4, 5, 130 */
    char text[512];      /* one line: what: where: what to do */
};

const char *ps_version(void);
void ps_string_free(char *s);

/* How the model's server lets us in, and where else the same bytes are. Read while the source is opened. */
struct ps_source_options {
    uint32_t struct_size;
    /* http(s) only. They go to the scheme, host and port of the model's address and nowhere else. */
    uint32_t netrc;             /* 1: the login may stand in ~/.netrc */
    const char *bearer;         /* a token; NULL: none */
    const char *bearer_file;    /* a file that holds it */
    const char *const *headers; /* "Name: value", or "@FILE" for a file of such lines */
    uint32_t n_headers, n_mirrors;
    const char *netrc_file;     /* in place of ~/.netrc; it has to exist */
    const char *cert, *key;     /* PEM files; the key may stand in cert's */
    const char *cacert;         /* PEM file: trusted in place of SSL_CERT_FILE; for every scheme */
    const char *const *mirrors; /* addresses of the same model */
};

struct ps_engine_options {
    uint32_t struct_size;
    uint32_t threads;      /* compute threads; 0 = usable CPUs */
    const char *model;     /* path, file://, http://, https:// */
    const char *cache_dir; /* NULL: $PENSTOCK_CACHE, $XDG_CACHE_HOME/penstock, ~/.cache/penstock */
    const char *disk;      /* "20G", "25%", "0"; NULL: half of what is free, at most 100 G */
    const char *ram; /* "4G", "50%", "min"; NULL: as much as helps, at most 80 % of what is free */
    const char *min_free;       /* NULL: 1G */
    const char *max_egress;     /* NULL: no limit */
    const char *http_version;   /* "auto", "h1", "h2" */
    uint32_t connections;       /* 0 = 8 */
    uint32_t net_deadline_s;    /* 0 = 120 */
    uint32_t net_stall_s;       /* 0 = 20 */
    uint32_t without_tokenizer; /* 1: ids only */
    uint32_t headers_only; /* 1: no weight is fetched until a session or warm asks (plan, inspect) */
    const char *kv_type_k; /* "f32", "f16", "bf16"; NULL: f16 */
    const char *kv_type_v;
    uint32_t ctx_size;  /* positions to plan for: 0 = 256 */
    uint32_t max_rows;  /* most rows in one sweep (prompt length) to plan for: 0 = ctx_size */
    uint32_t direct_io; /* local folders: 0 = decide by size, 1 = O_DIRECT, 2 = page cache */
    /* Rows worked on at once inside a layer, to plan for and for sessions that name none; 0 = 512, fewer where `ram` is
     * small, and on a device 1024. Never changes the text. */
    uint32_t ubatch;
    /* 1: the disk cache is looked at and not changed, whatever `disk` says (plan, probes, inspect, a dry run of
     * warm): none is made, nothing is evicted. While such an engine is open no other one of this process can open
     * the same cache for writing. */
    uint32_t look_only;
    /* Where ctx_size and max_rows are guessed from a text whose tokens nobody has counted: what they may come to.
     * If that is too much for `ram`, no weight is fetched, nor the cache opened, before the session says what it
     * is. 0: no guess. */
    uint32_t ctx_most, rows_most;
    uint32_t reserved[3];
    /* Called from the opening or generating thread a few times a second while something takes long. Nullable.
     * `what` is a static word: "open", "fetch", "prefill", "warm", "verify". done and total are bytes; the first call
     * of a word is at its beginning, where what an earlier run has done is done already. */
    void (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *progress_user;
    const char *device; /* "cpu", "cuda", "cuda:1"; NULL: cpu */
    const char *vram; /* most device memory: "6G", "50%" of the model, "min"; NULL: what is free less a margin */
    int32_t gpu_layers;     /* the last so many layers are computed on the device; 0 or less: all */
    uint32_t no_kv_offload; /* 1: the KV cache of those layers stays in host memory */
    const char *net_limit;  /* most bytes per second over all connections: "20M"; NULL: no limit */
    /* Extra bytes, in percent of what is fetched, for asking a second time for what a layer waits for: 0 = 2;
     * less: never. */
    int32_t hedge_pct;
    /* Files of public Ed25519 keys: the model must be a split one that the owner of one of them signed. NULL:
     * nothing is verified. Read while opening. */
    const char *const *verify_keys;
    uint32_t n_verify_keys;
    /* In a disk cache of several models: one of a higher priority takes room from lower ones, also from those in
     * use, and gives them none. It stays with the model until it is set again; 0 at first. */
    int32_t priority;                       /* -100 to 100 */
    uint32_t has_priority;                  /* 1: set it */
    const struct ps_source_options *source; /* NULL: none of it */
};
/* Blocks until the model's map is known (config, headers or manifest) and its budgets are checked. Its disk cache
 * is opened, and shrunk to `disk` where it was larger, once a plan for what is wanted fits: here, if the plan for
 * ctx_size and max_rows does and weights are wanted at once, else by the first session or warm that is not
 * refused. Who is refused finds the cache as it was. */
int ps_engine_open(struct ps_engine **out, const struct ps_engine_options *options,
                   struct ps_error *err);
void ps_engine_close(struct ps_engine *engine); /* nullable; sessions must be gone */
/* Makes the running and all later calls return "interrupted" (exit status 130) soon. Async-signal-safe. */
void ps_engine_interrupt(struct ps_engine *engine);

/* JSON texts (ps_string_free). plan: contract.md "plan" for the engine's ctx_size and max_rows; stats: contract.md
 * "run --stats", of the last generate call; inspect: manifest, objects, tensors (with extents if `extents`). NULL
 * on allocation failure. */
char *ps_engine_plan_json(struct ps_engine *engine);
char *ps_engine_stats_json(struct ps_engine *engine);
char *ps_engine_inspect_json(struct ps_engine *engine, int extents);
/* Measures link, disk, memory and device for about `seconds`, saves the figures beside the cache for later plans
 * (unless `disk` is 0), returns them as JSON: doctor's facts {"probes": {"link_bytes_s", "disk_read_bytes_s",
 * "ram_bytes_s", "bus_bytes_s", "vram_bytes_s"}, "plan": {...}, "binds": "link|disk|ram|bus|vram|unknown",
 * "backend"}. A rate that was never measured is null. Under net_limit the link's is at most that, and a higher one
 * of before stays saved. */
int ps_engine_probe_json(char **out, struct ps_engine *engine, double seconds, struct ps_error *err);

/* Ids of a text. flags: 1 = add what the model adds (BOS; BOS alone for an empty text where the model has one), 2
 * = parse the text of special tokens. Bytes that are not UTF-8 become tokens of these bytes where the model has
 * them. *ids is freed with ps_ids_free. */
int ps_engine_tokenize(struct ps_engine *engine, const char *text, size_t len, uint32_t flags,
                       uint32_t **ids, size_t *n, struct ps_error *err);
void ps_ids_free(uint32_t *ids);
/* The same without any weights: `model` may be a folder that holds only tokenizer files. */
int ps_tokenize_only(const char *model, const char *text, size_t len, uint32_t flags,
                     uint32_t **ids, size_t *n, struct ps_error *err);
/* The same with all that engine options say of the source; the others are not looked at. */
int ps_tokenize_from(const struct ps_engine_options *options, const char *text, size_t len,
                     uint32_t flags, uint32_t **ids, size_t *n, struct ps_error *err);

/* Logits of every position: n * vocab floats into `out` (out_count must be at least that); *vocab is set first
 * and, when out is NULL, alone. */
int ps_engine_logits(struct ps_engine *engine, const uint32_t *ids, size_t n, float *out,
                     size_t out_count, uint32_t *vocab, struct ps_error *err);

struct ps_warm_options {
    uint32_t struct_size;
    int32_t layer_first, layer_last; /* inclusive; both -1 = all */
    /* 1: also verify what the cache already holds, and whole files where the source names their SHA-256 (hf://) */
    uint32_t check;
    uint32_t dry_run; /* 1: only say what would be fetched */
    /* "4G", "25%" of the model: fetch no more than this now, what matters most first; a later call goes on. NULL:
     * all */
    const char *bytes;
    double price_per_gb; /* of traffic, per 10^9 bytes, in any currency: adds "egress_cost". 0: nothing */
};
/* Fetches into the disk cache what the plan keeps there and is not yet held: a call that was cut short, by kill -9 too,
 * is gone on with by the next. Other processes may use the cache meanwhile. With room for all of the model its
 * tokenizer's files are kept as well.
 *
 * JSON: model_id, source, stored_bytes (of the model, or of the layers), bytes_wanted (of these, what the plan has
 * room for), bytes_present, bytes_fetched, bytes_missing, extents, bad_extents_dropped, files_checked, files_kept,
 * complete; with bytes_net, requests, retries, link_bytes_s, seconds or, of a dry run, dry_run, bytes_to_fetch,
 * file_bytes_to_fetch (the tokenizer's), requests, predicted_seconds (of both, at net_limit where that is less than
 * the rate, or nothing is known of the link), probed_link_bytes_s, probe_age_s: null where no rate was ever measured;
 * bad_extents with `check`. PS_EBUDGET or PS_ENOSPC where nothing at all has room. */
int ps_engine_warm(char **json, struct ps_engine *engine, const struct ps_warm_options *options,
                   struct ps_error *err);

struct ps_session_options {
    uint32_t struct_size;
    uint32_t ctx_size; /* positions reserved up front: prompt + generated */
    uint32_t ubatch;   /* as the engine's; 0 = the same */
    uint32_t max_rows; /* tokens of its longest prompt; 0 = as the engine's */
    uint32_t reserved[4];
};
int ps_session_new(struct ps_session **out, struct ps_engine *engine,
                   const struct ps_session_options *options, struct ps_error *err);
void ps_session_free(struct ps_session *session);

struct ps_generate_options {
    uint32_t struct_size;
    uint32_t n_predict; /* most tokens to write; 0 writes none */
    uint64_t seed;
    float temp;             /* 0 = greedy; not below */
    uint32_t top_k;         /* 0 = off */
    float top_p;            /* 1 or 0 = off */
    float min_p;            /* 0 = off */
    float repeat_penalty;   /* 1 or 0 = off */
    uint32_t repeat_last_n; /* window of the penalty; 0 = 64 */
    uint32_t ignore_eos;
    uint32_t special;        /* 1: special tokens are written too */
    const char *const *stop; /* stop strings, n_stop of them: generation ends before the first match */
    uint32_t n_stop;
    uint32_t reserved[4];
};
/* A finished piece of text (whole UTF-8 characters; may be empty) and the id behind it. Non-zero ends the
 * generation early (still success). */
typedef int (*ps_token_fn)(void *user, const char *text, size_t len, uint32_t id);
/* Appends prompt ids and generates. Ends at n_predict, an end-of-text id, a stop string or ctx_size. */
int ps_session_generate(struct ps_session *session, const uint32_t *prompt, size_t n_prompt,
                        const struct ps_generate_options *options, ps_token_fn on_token, void *user,
                        struct ps_error *err);

/* Codec, kernel and memory figures (bench): JSON per contract.md. what: "gemv", "codec", "disk". dir: where "disk"
 * writes its test file. */
int ps_bench_json(char **out, const char *what, uint32_t threads, const char *dir,
                  struct ps_error *err);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
