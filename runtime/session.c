/* One text being written: prompt in, tokens out, one sweep of the weights per step. */
#include <float.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "runtime/engine.h"
#include "runtime/sampler.h"

static const char *const ORIGIN = "session";
#define MAX_STOPS         64
#define STOP_BYTES        4096
#define PUBLIC_SWEEPS_MAX 20 /* contract.md --max-egress */

struct ps_session {
    struct ps_engine *e;
    struct ps_need need; /* what the plan counts us with */
    uint32_t ctx;
    struct ps_kv kv;
    struct ps_forward *forward;
    uint32_t forward_rows;
    uint64_t forward_of; /* e->sweeps_stopped when it was made: another session may have had all planned anew */
    uint32_t *history; /* [ctx] ids so far */
    uint32_t length;
    bool told_far;
    float *logits; /* [vocab] */
};

static int alloc_session(struct ps_session *s, struct ps_err *err)
{
    struct ps_engine *e = s->e;
    const struct ps_arch *a = e->arch;
    struct ps_device_place place = ps_engine_place(e);
    int rc = ps_kv_init(&s->kv, a->n_layers, a->n_kv_heads, a->head_dim, s->ctx, e->gpu.first_layer,
                        e->k_type, e->v_type, err);
    if (rc == 0 && place.api)
        rc = ps_kv_put_away(&s->kv, &place, e->o.no_kv_offload != 0, err);
    if (rc < 0)
        return rc;
    s->history = ps_calloc((size_t)s->ctx + 1, sizeof *s->history);
    s->logits = ps_calloc(a->vocab, sizeof *s->logits);
    return s->history && s->logits ? 0 : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
}

/* Room in the plan first, then memory. A plan whose memory can't be had is not to be believed by those who come
 * next. */
static int session_init(struct ps_session *s, struct ps_engine *e, const struct ps_need *wanted,
                        struct ps_err *err)
{
    s->e = e;
    s->ctx = wanted->ctx;
    int rc = ps_engine_reserve(e, &s->need, wanted, err);
    if (rc < 0)
        return rc;
    rc = alloc_session(s, err);
    e->planned = e->planned && rc == 0;
    return rc;
}

static void session_deinit(struct ps_session *s)
{
    ps_forward_free(s->forward);
    ps_kv_free_away(&s->kv);
    ps_kv_deinit(&s->kv);
    ps_free(s->history);
    ps_free(s->logits);
    if (s->e)
        ps_engine_unreserve(s->e, &s->need);
}

static int take_options(struct ps_session_options *out, const struct ps_session_options *o,
                        struct ps_err *err)
{
    *out = (struct ps_session_options){0};
    if (!o)
        return 0;
    if (o->struct_size < sizeof(uint32_t) || o->struct_size > sizeof *out)
        return ps_err_set(
            err, PS_EUSAGE,
            ORIGIN, "ps_session_options.struct_size is wrong: was this program built for a newer libpenstock?");
    memcpy(out, o, o->struct_size);
    return 0;
}

int ps_session_new(struct ps_session **out, struct ps_engine *e,
                   const struct ps_session_options *options, struct ps_error *error)
{
    struct ps_err err = {0};
    struct ps_session_options o;
    struct ps_session *s = NULL;
    int rc = take_options(&o, options, &err);
    if (rc == 0 && !(s = ps_calloc(1, sizeof *s)))
        rc = ps_err_set(&err, PS_ENOMEM, ORIGIN, "out of memory for a session");
    if (rc == 0) {
        struct ps_need wanted = e->estimate; /* where the caller does not know better */
        wanted.ctx = o.ctx_size ? o.ctx_size : wanted.ctx;
        wanted.rows = o.max_rows ? o.max_rows : wanted.rows;
        wanted.rows = wanted.rows < wanted.ctx ? wanted.rows : wanted.ctx;
        wanted.ubatch = o.ubatch ? o.ubatch : wanted.ubatch;
        rc = session_init(s, e, &wanted, &err);
    }
    if (rc < 0) {
        ps_session_free(s);
        return ps_engine_error(error, rc, &err);
    }
    *out = s;
    return 0;
}

void ps_session_free(struct ps_session *s)
{
    if (!s)
        return;
    session_deinit(s);
    ps_free(s);
}

static void on_prefill(void *engine, uint64_t done, uint64_t total)
{
    struct ps_engine *e = engine;
    e->o.progress(e->o.progress_user, "prefill", done, total);
}

static int need_forward(struct ps_session *s, uint32_t rows, struct ps_err *err)
{
    struct ps_engine *e = s->e;
    if (s->forward && s->forward_rows >= rows && s->forward_of == e->sweeps_stopped)
        return 0;
    ps_forward_free(s->forward);
    s->forward = NULL;
    struct ps_need wanted = s->need;
    wanted.rows = rows > wanted.rows ? rows : wanted.rows;
    int rc = ps_engine_reserve(e, &s->need, &wanted, err);
    if (rc < 0)
        return rc;
    struct ps_forward_options fo = {
        .arch = e->arch,
        .weights = e->weights,
        .map = e->files.map,
        .backend = e->backend,
        .pool = e->pool,
        .sweep = e->sweep,
        .device = ps_engine_place(e),
        .device_layer = e->gpu.first_layer,
        .max_rows = rows,
        .chunks = s->need.chunks,
        .ubatch = s->need.ubatch,
        .ctx = s->ctx,
        .all_logits = s->need.all_logits,
        .interrupt = &e->interrupt,
        .progress = e->o.progress ? on_prefill : NULL,
        .progress_user = e,
    };
    s->forward_rows = rows;
    s->forward_of = e->sweeps_stopped;
    rc = ps_forward_new(&s->forward, &fo, err);
    e->planned = e->planned && rc == 0;
    return rc;
}

static int sweep(struct ps_session *s, const uint32_t *ids, size_t n, float *logits, bool all,
                 struct ps_err *err)
{
    struct ps_engine *e = s->e;
    uint64_t t0 = ps_now_ns();
    int rc = ps_forward_sweep(s->forward, &s->kv, ids, n, s->length, logits, all, err);
    ps_stat_add(&e->stats.sweep_ns, ps_now_ns() - t0);
    if (rc < 0)
        return rc;
    e->run.sweeps++;
    memcpy(s->history + s->length, ids, n * sizeof *ids);
    s->length += (uint32_t)n;
    return 0;
}

/* ---- text on its way out: stop strings hold back what might become one ---- */

struct writer {
    const struct ps_generate_options *o;
    ps_token_fn on_token;
    void *user;
    struct ps_detok *detok; /* NULL: ids only */
    struct ps_strbuf held;  /* text not yet shown */
    bool stopped;
};

/* Length of the longest tail of text that is a head of a stop string. */
static size_t partial_stop(const struct ps_generate_options *o, const char *text, size_t len)
{
    size_t most = 0;
    for (uint32_t i = 0; i < o->n_stop; i++) {
        size_t n = strlen(o->stop[i]);
        for (size_t k = n < len ? n : len; k > most; k--) {
            if (memcmp(text + len - k, o->stop[i], k) == 0) {
                most = k;
                break;
            }
        }
    }
    return most;
}

/* Offset of the first stop string in text, or len. */
static size_t find_stop(const struct ps_generate_options *o, const char *text, size_t len)
{
    size_t first = len;
    for (uint32_t i = 0; i < o->n_stop; i++) {
        size_t n = strlen(o->stop[i]);
        const char *at = n ? memmem(text, len, o->stop[i], n) : NULL;
        if (at && (size_t)(at - text) < first)
            first = (size_t)(at - text);
    }
    return first;
}

/* Shows the first n held bytes. */
static int show(struct writer *w, size_t n, uint32_t id)
{
    int rc = w->on_token ? w->on_token(w->user, w->held.data, n, id) : 0;
    memmove(w->held.data, w->held.data + n, w->held.len - n);
    w->held.len -= n;
    return rc;
}

/* The text of a token, and what the last one lets go of, to what is held. cut: a longer -n would write more, and of
 * that this text is a prefix: half a character is left out. */
static int hold(struct writer *w, uint32_t id, bool silent, bool last, bool cut, struct ps_err *err)
{
    int rc = w->detok && !silent ? ps_detok_put(w->detok, id, &w->held) : 0;
    if (rc == 0 && w->detok && last)
        rc = ps_detok_finish(w->detok, cut, &w->held);
    return rc < 0 ? ps_err_set(err, rc, ORIGIN, "out of memory for the text") : 0;
}

static int emit(struct writer *w, uint32_t id, bool last)
{
    if (!w->detok)
        return w->on_token ? w->on_token(w->user, "", 0, id) : 0;
    size_t stop = find_stop(w->o, w->held.data, w->held.len);
    if (stop < w->held.len) {
        w->stopped = true;
        return show(w, stop, id);
    }
    size_t keep = last ? 0 : partial_stop(w->o, w->held.data, w->held.len);
    if (w->held.len == 0 && !w->on_token)
        return 0;
    return w->held.len ? show(w, w->held.len - keep, id) : w->on_token(w->user, "", 0, id);
}

static int writer_init(struct writer *w, struct ps_session *s, const struct ps_generate_options *o,
                       ps_token_fn fn, void *user, struct ps_err *err)
{
    *w = (struct writer){.o = o, .on_token = fn, .user = user};
    ps_strbuf_init(&w->held, 16u << 20);
    if (o->n_stop > MAX_STOPS)
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "more than %d stop strings", MAX_STOPS);
    for (uint32_t i = 0; i < o->n_stop; i++)
        if (!o->stop || !o->stop[i])
            return ps_err_set(err, PS_EUSAGE, ORIGIN,
                              "%u stop strings, but not all of them are given", o->n_stop);
    for (uint32_t i = 0; i < o->n_stop; i++)
        if (strlen(o->stop[i]) > STOP_BYTES)
            return ps_err_set(err, PS_EUSAGE, ORIGIN, "a stop string is longer than %d bytes",
                              STOP_BYTES);
    if (s->e->o.without_tokenizer)
        return 0;
    int rc = ps_engine_need_tokenizer(s->e, err);
    if (rc == 0 && (rc = ps_detok_new(&w->detok, s->e->tokenizer, o->special != 0)) < 0)
        ps_err_set(err, rc, ORIGIN, "out of memory for the text");
    return rc;
}

static void writer_deinit(struct writer *w)
{
    ps_detok_free(w->detok);
    ps_strbuf_deinit(&w->held);
}

/* ---- generation ---- */

static int check_prompt(struct ps_session *s, const uint32_t *prompt, size_t n, struct ps_err *err)
{
    if (n == 0 || !prompt)
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "no token ids were given: a session goes on from one at least");
    for (size_t i = 0; i < n; i++)
        if (prompt[i] >= s->e->arch->vocab)
            return ps_err_set(err, PS_EUSAGE, ORIGIN,
                              "token id %u is out of range: the vocabulary has %u", prompt[i],
                              s->e->arch->vocab);
    if (n + s->length > s->ctx && s->length > 0)
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "the prompt has %zu tokens but %u of the context's %u are left: use a "
                          "larger -c, or begin a new session",
                          n, s->ctx - s->length, s->ctx);
    if (n > s->ctx)
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "the prompt has %zu tokens but the context holds %u: use a larger -c", n,
                          s->ctx);
    return 0;
}

/* A rotary embedding goes on for ever, and so do transformers and llama.cpp, which warn: the text is what suffers. Said
 * when it comes to that: a large -n alone means nothing, most texts end before. n: tokens about to be read. */
static void warn_if_far(struct ps_session *s, uint64_t n)
{
    uint64_t made_for = ps_arch_positions(s->e->arch);
    if (s->length + n <= made_for || s->told_far)
        return;
    s->told_far = true;
    ps_log(
        PS_LOG_WARN, ORIGIN,
        "the model was made for %llu positions: what it says beyond them may make no sense: use a "
        "shorter prompt or a smaller -n",
        (unsigned long long)made_for);
}

/* Sweeps still possible after this one: the look-ahead wraps into them. */
static uint64_t sweeps_left(const struct ps_session *s, const struct ps_generate_options *o,
                            uint64_t made, size_t pending)
{
    uint64_t by_ctx = s->ctx - s->length - pending,
             by_n = o->n_predict > made ? o->n_predict - made : 0;
    return by_ctx < by_n ? by_ctx : by_n;
}

/* A hub for everybody is no weight server: streaming the same bytes from it for every token is asked for in so many
 * words, or not done. */
static int check_public_traffic(const struct ps_session *s, const struct ps_generate_options *o,
                                struct ps_err *err)
{
    const struct ps_engine *e = s->e;
    uint64_t each = e->plan.bytes_net_per_sweep, sweeps = sweeps_left(s, o, 0, 0);
    if (!e->source->is_public || (e->o.max_egress && *e->o.max_egress) || each == 0 ||
        sweeps <= PUBLIC_SWEEPS_MAX)
        return 0;
    return ps_err_set(
        err, PS_EBUDGET, ORIGIN,
        "%s: the same %.1f MB would be fetched up to %llu times from a public hub: "
        "give it more --disk or "
        "--ram, a mirror (--mirror, HF_ENDPOINT), or say how much is fine with --max-egress",
        e->source->label, (double)each / 1e6, (unsigned long long)sweeps);
}

static int generate(struct ps_session *s, const uint32_t *prompt, size_t n_prompt,
                    const struct ps_generate_options *o, struct writer *w,
                    struct ps_sampler *sampler, struct ps_err *err)
{
    struct ps_engine *e = s->e;
    uint64_t made = 0, first_ns = 0;
    uint32_t id = 0;
    const uint32_t *next = prompt;
    size_t n = n_prompt;
    int rc = 0;
    while (made < o->n_predict) {
        /* one more sweep for each token that may follow this step's, so that layer 0 is fetched while the last
         * layer computes */
        ps_sweep_allow(e->sweep, 1 + (sweeps_left(s, o, made + 1, n) ? 1 : 0));
        warn_if_far(s, n);
        if ((rc = sweep(s, next, n, s->logits, false, err)) < 0)
            return rc;
        id = ps_sampler_pick(sampler, s->logits, s->history, s->length, s->length);
        made++;
        e->run.tokens_generated = made;
        if (made == 1) {
            first_ns = ps_now_ns();
            e->run.ttft_s = ps_seconds_since(e->opened_ns);
            e->run.stall_ns_at_first = ps_stat_get(&e->stats.stall_ns);
        } else {
            e->run.decode_s = ps_seconds_since(first_ns);
        }
        bool eos = e->tokenizer && ps_tokenizer_is_eos(e->tokenizer, id) && !o->ignore_eos;
        bool last = eos || made >= o->n_predict || s->length >= s->ctx;
        if ((rc = hold(w, id, eos && !o->special, last, !eos, err)) < 0)
            return rc;
        if (emit(w, id, last) != 0 || w->stopped || last)
            break;
        next = &id;
        n = 1;
    }
    return rc;
}

static void tell_generated(const struct ps_engine *e, int rc)
{
    const struct ps_stats *s = &e->stats;
    ps_log(PS_LOG_DEBUG, ORIGIN,
           "%s after %llu tokens in %llu sweeps: %llu bytes over the network in %llu requests, "
           "%llu from disk, %llu from RAM",
           rc == 0 ? "done" : ps_err_name(rc), (unsigned long long)e->run.tokens_generated,
           (unsigned long long)e->run.sweeps, (unsigned long long)ps_stat_get(&s->bytes_net),
           (unsigned long long)ps_stat_get(&s->requests),
           (unsigned long long)ps_stat_get(&s->bytes_disk_read),
           (unsigned long long)ps_stat_get(&s->bytes_ram_hit));
}

static bool within(float x, float most)
{
    return x >= 0 && x <= most; /* no NaN is */
}

static int check_sampling(const struct ps_generate_options *o, struct ps_err *err)
{
    if (!within(o->temp, FLT_MAX) || !within(o->repeat_penalty, FLT_MAX))
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "temp is %g and repeat_penalty %g: both are finite and not below 0",
                          (double)o->temp, (double)o->repeat_penalty);
    if (!within(o->top_p, 1) || !within(o->min_p, 1))
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "top_p is %g and min_p %g: both are 0 to 1",
                          (double)o->top_p, (double)o->min_p);
    return 0;
}

int ps_session_generate(struct ps_session *s, const uint32_t *prompt, size_t n_prompt,
                        const struct ps_generate_options *options, ps_token_fn on_token, void *user,
                        struct ps_error *error)
{
    struct ps_err err = {0};
    struct ps_generate_options o = {0};
    struct writer w = {0};
    struct ps_sampler *sampler = NULL;
    int rc = 0;
    if (!options || options->struct_size < sizeof(uint32_t) || options->struct_size > sizeof o)
        rc = ps_err_set(&err, PS_EUSAGE, ORIGIN, "ps_generate_options.struct_size is wrong");
    else
        memcpy(&o, options, options->struct_size);
    s->e->run = (struct ps_run_facts){.tokens_prompt = n_prompt};
    struct ps_sampler_options so = {o.temp,           o.top_k,         o.top_p, o.min_p,
                                    o.repeat_penalty, o.repeat_last_n, o.seed};
    if (rc == 0)
        rc = check_sampling(&o, &err);
    if (rc == 0)
        rc = check_prompt(s, prompt, n_prompt, &err);
    if (rc == 0)
        rc = need_forward(s, (uint32_t)n_prompt, &err);
    if (rc == 0)
        rc = check_public_traffic(s, &o, &err);
    if (rc == 0)
        rc = ps_sampler_new(&sampler, &so, s->e->arch->vocab, &err);
    if (rc == 0)
        rc = writer_init(&w, s, &o, on_token, user, &err);
    if (rc == 0 && w.detok && (rc = ps_detok_prime(w.detok, prompt, n_prompt)) < 0)
        ps_err_set(&err, rc, ORIGIN, "out of memory for the text");
    if (rc == 0)
        rc = generate(s, prompt, n_prompt, &o, &w, sampler, &err);
    s->e->run.vram_bytes = ps_engine_device_taken(s->e);
    writer_deinit(&w);
    ps_sampler_free(sampler);
    tell_generated(s->e, rc);
    s->e->run.error = err;
    return ps_engine_error(error, rc, &err);
}

int ps_engine_logits(struct ps_engine *e, const uint32_t *ids, size_t n, float *out,
                     size_t out_count, uint32_t *vocab, struct ps_error *error)
{
    struct ps_err err = {0};
    struct ps_session s = {0};
    *vocab = e->arch->vocab;
    if (!out)
        return 0;
    int rc = 0;
    const struct ps_need wanted = {.ctx = (uint32_t)n,
                                   .rows = (uint32_t)n,
                                   .ubatch = e->estimate.ubatch,
                                   .all_logits = true,
                                   .caller_bytes = (uint64_t)n * e->arch->vocab * sizeof(float)};
    if (n == 0 || n > UINT32_MAX || out_count / e->arch->vocab < n)
        rc = ps_err_set(&err, PS_EUSAGE, ORIGIN, "logits: no token ids, or the output is too small");
    if (rc == 0)
        rc = session_init(&s, e, &wanted, &err);
    if (rc == 0)
        rc = check_prompt(&s, ids, n, &err);
    if (rc == 0)
        warn_if_far(&s, n);
    if (rc == 0)
        rc = need_forward(&s, (uint32_t)n, &err);
    if (rc == 0) {
        ps_sweep_allow(e->sweep, 1);
        rc = sweep(&s, ids, n, out, true, &err);
    }
    session_deinit(&s);
    return ps_engine_error(error, rc, &err);
}
