/* Prints what ps_bench_gemv measures: bench_kernels [threads]. */
#include <stdio.h>
#include <stdlib.h>

#include "base/host.h"
#include "kernels/bench_gemv.h"
#include "kernels/kernels.h"

int main(int argc, char **argv)
{
    struct ps_bench_row rows[PS_BENCH_GEMV_ROWS];
    struct ps_err err = {0};
    const struct ps_backend *be;
    size_t n = 0;
    double limit = 0;
    unsigned threads = argc > 1 ? (unsigned)atoi(argv[1]) : ps_host_cpus();
    if (threads < 1 || ps_backend_choose(&be, &err) ||
        ps_bench_gemv(rows, PS_BENCH_GEMV_ROWS, &n, &limit, threads, &err)) {
        fprintf(stderr, "bench_kernels: %s\n", err.text);
        return ps_err_exit_status(err.code);
    }
    printf("backend %s, %u threads, read bandwidth %.1f GB/s\n", be->name, threads, limit);
    for (size_t i = 0; i < n; i++)
        printf("%-6s t=%-4u %8.2f ms  %6.2f GB/s = %.2f of the limit  %7.1f GFLOP/s  %.2f per "
               "weight\n",
               rows[i].dtype, rows[i].t, rows[i].seconds * 1e3, rows[i].gb_s, rows[i].share,
               rows[i].gflops, rows[i].per_weight);
    return 0;
}
