/* A whole model against the memory of this machine: decode and prefill of a resident model, and the read bandwidth
 * measured in the same run.
 *
 *     bench_model MODEL [PROMPT_TOKENS [DECODE_TOKENS [THREADS]]]
 *
 * The weights are brought into RAM by a first short generation, so that what is timed is the arithmetic alone. Prints
 * one JSON object. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "kernels/bench_gemv.h"
#include "penstock/penstock.h"

#define MAX_TOKENS 4096

struct clock_user {
    uint64_t first_ns, last_ns;
    unsigned n;
    double step_s[MAX_TOKENS]; /* between two tokens */
};

static int on_token(void *user, const char *text, size_t len, uint32_t id)
{
    struct clock_user *u = user;
    (void)text, (void)len, (void)id;
    uint64_t now = ps_now_ns();
    if (u->n == 0)
        u->first_ns = now;
    else if (u->n < MAX_TOKENS)
        u->step_s[u->n - 1] = (double)(now - u->last_ns) / 1e9;
    u->last_ns = now;
    u->n++;
    return 0;
}

static double generate(struct ps_engine *e, unsigned prompt, unsigned n, struct clock_user *u)
{
    struct ps_error err = {0};
    struct ps_session *s = NULL;
    struct ps_session_options so = {.struct_size = sizeof so, .ctx_size = prompt + n};
    struct ps_generate_options g = {.struct_size = sizeof g, .n_predict = n, .ignore_eos = 1};
    uint32_t *ids = calloc(prompt, sizeof *ids);
    *u = (struct clock_user){0};
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

int main(int argc, char **argv)
{
    unsigned prompt = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 512;
    unsigned decode = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 32;
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
    double gb_s = 0;
    if (ps_bench_read_bandwidth(&gb_s, threads, NULL) < 0 || ps_engine_open(&e, &o, &err) < 0) {
        fprintf(stderr, "bench_model: %s\n", err.text);
        return 1;
    }
    generate(e, 4, 2, &u); /* brings the weights in */
    double prefill_s = generate(e, prompt, 1, &u);
    double again_s = generate(e, prompt, 1, &u);
    prefill_s = again_s < prefill_s ? again_s : prefill_s;
    generate(e, 4, decode, &u);
    double tok_s = (u.n - 1) / ((double)(u.last_ns - u.first_ns) / 1e9);
    unsigned steps = u.n > 1 ? u.n - 1 : 1;
    qsort(u.step_s, steps, sizeof *u.step_s, by_value);
    double after = 0;
    ps_bench_read_bandwidth(&after, threads, NULL);
    gb_s = after > gb_s ? after : gb_s;
    printf("{\"read_gb_s\": %.3f, \"decode_tok_s\": %.3f, \"decode_median_tok_s\": %.3f, "
           "\"decode_best_tok_s\": %.3f,\n",
           gb_s, tok_s, 1 / u.step_s[steps / 2], 1 / u.step_s[0]);
    printf(" \"prefill_s\": %.4f, \"prefill_tok_s\": %.2f, \"prompt\": %u, \"threads\": %u,\n "
           "\"stats\": %s}\n",
           prefill_s, prompt / prefill_s, prompt, threads, ps_engine_stats_json(e));
    ps_engine_close(e);
    return 0;
}
