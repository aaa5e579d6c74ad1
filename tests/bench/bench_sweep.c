/* A sweep that streams through a device's memory against its two sides alone: the same rows with every weight resident
 * (arithmetic alone), and the bytes that cross the bus at the rate of plain pinned copies (copies alone).
 *
 *     bench_sweep MODEL [DEVICE [ROWS...]]
 *
 * Host memory holds the whole model in all cases, so nothing else binds. Streamed twice: with the least device memory
 * that works (the shortest ring) and with a full ring. For each number of rows: the median sweep of five, and its
 * ratio to the longer side. Prints one JSON object. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "penstock/penstock.h"

#define MOST_ROWS 4096u
#define REPEATS   5

static void give_up(const char *what)
{
    fprintf(stderr, "bench_sweep: %s\n", what);
    exit(1);
}

static struct ps_engine *open_engine(const char *model, const char *device, const char *vram)
{
    struct ps_engine_options o = {.struct_size = sizeof o,
                                  .model = model,
                                  .device = device,
                                  .vram = vram,
                                  .without_tokenizer = 1,
                                  .ctx_size = MOST_ROWS + 1,
                                  .max_rows = MOST_ROWS};
    struct ps_error err = {0};
    struct ps_engine *e = NULL;
    if (ps_engine_open(&e, &o, &err) < 0)
        give_up(err.text);
    return e;
}

/* A figure of the statistics, or of the object `inside` in them. */
static double figure(char *json, const char *inside, const char *name)
{
    struct ps_json *root = NULL;
    double v = -1;
    if (!json || ps_json_parse(&root, json, strlen(json), NULL, NULL) < 0)
        give_up("statistics that can't be read");
    const struct ps_json *o = inside ? ps_json_get(root, inside) : root;
    if (!o || ps_json_get_double(o, name, -1, &v, NULL) < 0)
        give_up(name);
    ps_json_free(root);
    ps_string_free(json);
    return v;
}

/* Seconds of one sweep with `rows` rows, sampling and set-up not counted. */
static double one_sweep(struct ps_engine *e, unsigned rows)
{
    struct ps_error err = {0};
    struct ps_session *s = NULL;
    struct ps_session_options so = {.struct_size = sizeof so, .ctx_size = rows + 1};
    struct ps_generate_options g = {.struct_size = sizeof g, .n_predict = 1, .ignore_eos = 1};
    static uint32_t ids[MOST_ROWS];
    for (unsigned i = 0; i < rows; i++)
        ids[i] = 3 + i * 37 % 1000;
    double before = figure(ps_engine_stats_json(e), NULL, "sweep_s");
    if (ps_session_new(&s, e, &so, &err) < 0 ||
        ps_session_generate(s, ids, rows, &g, NULL, NULL, &err) < 0)
        give_up(err.text);
    ps_session_free(s);
    return figure(ps_engine_stats_json(e), NULL, "sweep_s") - before;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median_sweep(struct ps_engine *e, unsigned rows)
{
    double s[REPEATS];
    for (int i = 0; i < REPEATS; i++)
        s[i] = one_sweep(e, rows);
    qsort(s, REPEATS, sizeof *s, by_value);
    return s[REPEATS / 2];
}

static void measure(double *out, const char *model, const char *device, const char *vram,
                    const unsigned *rows, unsigned n, double *bus_bytes, double *bus_bytes_s)
{
    struct ps_engine *e = open_engine(model, device, vram);
    struct ps_error err = {0};
    one_sweep(e, 1); /* brings the weights in */
    one_sweep(e, rows[n - 1]);
    for (unsigned i = 0; i < n; i++)
        out[i] = median_sweep(e, rows[i]);
    *bus_bytes = figure(ps_engine_plan_json(e), NULL, "bytes_bus_per_sweep");
    ps_engine_close(e);
    struct ps_engine_options o = {.struct_size = sizeof o,
                                  .model = model,
                                  .device = device,
                                  .disk = "0", /* a figure of a fake is for nobody's later plans */
                                  .without_tokenizer = 1,
                                  .headers_only = 1};
    char *json = NULL;
    if (ps_engine_open(&e, &o, &err) < 0 || ps_engine_probe_json(&json, e, 0.1, &err) < 0)
        give_up(err.text);
    *bus_bytes_s = figure(json, "probes", "bus_bytes_s");
    ps_engine_close(e);
}

/* A budget with which the ring is as long as it gets. */
static void full_ring(char *out, size_t cap, const char *model, const char *device)
{
    struct ps_engine *e = open_engine(model, device, "min");
    double least = figure(ps_engine_plan_json(e), NULL, "vram_min_bytes");
    ps_engine_close(e);
    snprintf(out, cap, "%.0f",
             least + 64 * (8 << 20)); /* a quarter of what is spare: 16 more slots of 8 MiB */
}

static void report(const char *name, const char *end, const unsigned *rows, unsigned n,
                   const double *alone, const double *streamed, double copy_s)
{
    printf("\n \"%s\": {\"copy_s\": %.5f, \"sweeps\": [", name, copy_s);
    for (unsigned i = 0; i < n; i++) {
        double longer = alone[i] > copy_s ? alone[i] : copy_s;
        printf("%s\n  {\"rows\": %u, \"compute_s\": %.5f, \"sweep_s\": %.5f, \"ratio\": %.3f}",
               i ? "," : "", rows[i], alone[i], streamed[i], streamed[i] / longer);
    }
    printf("]}%s", end);
}

int main(int argc, char **argv)
{
    unsigned rows[16] = {1, 16, 64, 128, 256, 512, 1024}, n = 7;
    double alone[16], streamed[16], bus_bytes = 0, rate = 0;
    char vram[32];
    const char *device = argc > 2 ? argv[2] : "cuda";
    if (argc < 2)
        give_up("usage: bench_sweep MODEL [DEVICE [ROWS...]]");
    for (int i = 3; i < argc && i < 19; i++, n = (unsigned)i - 3) {
        rows[i - 3] = (unsigned)strtoul(argv[i], NULL, 10);
        if (rows[i - 3] < 1 || rows[i - 3] > MOST_ROWS)
            give_up("rows: 1 to 4096");
    }
    measure(alone, argv[1], device, NULL, rows, n, &bus_bytes, &rate);
    measure(streamed, argv[1], device, "min", rows, n, &bus_bytes, &rate);
    printf("{\"bus_gb_s\": %.2f,", rate / 1e9);
    report("least_vram", ",", rows, n, alone, streamed, bus_bytes / rate);
    full_ring(vram, sizeof vram, argv[1], device);
    measure(streamed, argv[1], device, vram, rows, n, &bus_bytes, &rate);
    report("full_ring", "}\n", rows, n, alone, streamed, bus_bytes / rate);
    return 0;
}
