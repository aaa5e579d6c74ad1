/* A whole model against the memory of this machine: decode and prefill of a resident model, and the read bandwidth
 * measured in the same run.
 *
 *     bench_model MODEL [PROMPT_TOKENS [DECODE_TOKENS [THREADS]]]
 *
 * The weights are brought into RAM by a first short generation, so that what is timed is the arithmetic alone. Every
 * fourth token the read bandwidth is measured beside it. Prints one JSON object. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/alloc.h"
#include "kernels/read_probe.h"
#include "penstock/penstock.h"

#define MAX_TOKENS 4096
#define BURST      4 /* tokens between two passes of the probe */

/* The limit, measured between the tokens: memory of a shared machine changes its speed from second to second. */
struct probe {
    struct ps_pool *pool;
    void *mem;
    unsigned variant;
    unsigned n;
    double gb_s[MAX_TOKENS / BURST + 1];
};

struct clock_user {
    struct probe *probe; /* NULL: none */
    uint64_t first_ns, last_ns;
    unsigned n;
    double step_s[MAX_TOKENS]; /* between two tokens, without the probe */
};

static void probe_open(struct probe *p, unsigned threads)
{
    struct ps_read_best best;
    p->mem = ps_alloc_pages(PS_READ_BYTES, PS_HUGE_PAGE);
    if (!p->mem || ps_pool_new(&p->pool, threads, NULL, NULL, NULL) < 0) {
        fprintf(stderr, "bench_model: no memory for the probe\n");
        exit(1);
    }
    memset(p->mem, 1, PS_READ_BYTES);
    ps_read_best_init(&best);
    for (int i = 0; i < 3; i++)
        ps_read_try_all(p->pool, p->mem, PS_READ_BYTES, &best);
    ps_read_best_gb_s(&best, PS_READ_BYTES, &p->variant);
}

static void probe_close(struct probe *p)
{
    ps_free_pages(p->mem, PS_READ_BYTES);
    ps_pool_free(p->pool);
}

static void probe_pass(struct probe *p)
{
    p->gb_s[p->n++] =
        (double)PS_READ_BYTES / ps_read_pass(p->pool, p->mem, PS_READ_BYTES, p->variant) / 1e9;
}

static int on_token(void *user, const char *text, size_t len, uint32_t id)
{
    struct clock_user *u = user;
    (void)text, (void)len, (void)id;
    uint64_t now = ps_now_ns();
    if (u->n == 0)
        u->first_ns = now;
    else if (u->n < MAX_TOKENS)
        u->step_s[u->n - 1] = (double)(now - u->last_ns) / 1e9;
    if (u->probe && u->n % BURST == 0 && u->n < MAX_TOKENS)
        probe_pass(u->probe);
    u->last_ns = ps_now_ns();
    u->n++;
    return 0;
}

static double generate(struct ps_engine *e, unsigned prompt, unsigned n, struct probe *probe,
                       struct clock_user *u)
{
    struct ps_error err = {0};
    struct ps_session *s = NULL;
    struct ps_session_options so = {.struct_size = sizeof so, .ctx_size = prompt + n};
    struct ps_generate_options g = {.struct_size = sizeof g, .n_predict = n, .ignore_eos = 1};
    uint32_t *ids = calloc(prompt, sizeof *ids);
    *u = (struct clock_user){.probe = probe};
    for (unsigned i = 0; ids && i < prompt; i++)
        ids[i] = 3 + i * 37 % 1000;
    if (!ids || ps_session_new(&s, e, &so, &err) < 0) {
        fprintf(stderr, "bench_model: %s\n", err.text);
        exit(1);
    }
    uint64_t t0 = ps_now_ns();
    if (ps_session_generate(s, ids, prompt, &g, on_token, u, &err) < 0) {
        fprintf(stderr, "bench_model: %s\n", err.text);
        exit(1);
    }
    ps_session_free(s);
    free(ids);
    return (double)(u->first_ns - t0) / 1e9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(const double *values, unsigned n)
{
    static double sorted[MAX_TOKENS];
    memcpy(sorted, values, n * sizeof *values);
    qsort(sorted, n, sizeof *sorted, by_value);
    return n ? sorted[n / 2] : 0;
}

/* Median over the bursts of (rate of its tokens) / (rate of reading just before and just after). */
static double share_of_limit(const struct clock_user *u, double swept_bytes)
{
    static double share[MAX_TOKENS];
    const struct probe *p = u->probe;
    unsigned n = 0;
    for (unsigned i = 0; i + 1 < p->n; i++) {
        double s = 0;
        for (unsigned j = 0; j < BURST; j++)
            s += u->step_s[i * BURST + j];
        share[n++] = BURST * swept_bytes / s / 1e9 / ((p->gb_s[i] + p->gb_s[i + 1]) / 2);
    }
    return median(share, n);
}

static double swept_bytes_of(struct ps_engine *e)
{
    const char *at = strstr(ps_engine_stats_json(e), "\"bytes_per_sweep\":");
    return at ? strtod(at + strlen("\"bytes_per_sweep\":"), NULL) : 0;
}

int main(int argc, char **argv)
{
    unsigned prompt = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 512;
    unsigned decode = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 64;
    unsigned threads = argc > 4 ? (unsigned)strtoul(argv[4], NULL, 10) : 2;
    struct ps_engine_options o = {.struct_size = sizeof o,
                                  .model = argc > 1 ? argv[1] : "",
                                  .without_tokenizer = 1,
                                  .threads = threads,
                                  .ctx_size = prompt + decode,
                                  .max_rows = prompt};
    struct ps_engine *e = NULL;
    struct ps_error err = {0};
    static struct clock_user u;
    static struct probe probe;
    if (ps_engine_open(&e, &o, &err) < 0) {
        fprintf(stderr, "bench_model: %s\n", err.text);
        return 1;
    }
    generate(e, 4, 2, NULL, &u); /* brings the weights in */
    double prefill_s = generate(e, prompt, 1, NULL, &u);
    double again_s = generate(e, prompt, 1, NULL, &u);
    prefill_s = again_s < prefill_s ? again_s : prefill_s;
    probe_open(&probe, threads);
    generate(e, 4, decode, &probe, &u);
    double seconds = 0, swept = swept_bytes_of(e);
    unsigned steps = u.n > 1 ? u.n - 1 : 0;
    for (unsigned i = 0; i < steps; i++)
        seconds += u.step_s[i];
    printf("{\"read_gb_s\": %.3f, \"decode_tok_s\": %.3f, \"decode_median_tok_s\": %.3f, "
           "\"decode_gb_s\": %.3f, \"decode_of_read\": %.3f,\n",
           median(probe.gb_s, probe.n), steps / seconds, 1 / median(u.step_s, steps),
           swept * steps / seconds / 1e9, share_of_limit(&u, swept));
    printf(" \"prefill_s\": %.4f, \"prefill_tok_s\": %.2f, \"prompt\": %u, \"threads\": %u,\n "
           "\"stats\": %s}\n",
           prefill_s, prompt / prefill_s, prompt, threads, ps_engine_stats_json(e));
    probe_close(&probe);
    ps_engine_close(e);
    return 0;
}
