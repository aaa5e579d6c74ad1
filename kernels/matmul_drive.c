/* The walk over a panel. In: rows of weights as they lie in the panel, prepared activations. Out: C, by micro-kernels.
 *
 * Few columns: memory binds. A thread walks its rows once, a handful at a time; while one handful is multiplied the next
 * is prefetched, spread over the column blocks. Many columns: arithmetic binds. Columns go in groups whose activations
 * stay in the L2 cache while the rows of a task pass by. */
#include "kernels/matmul_drive.h"

/* Activations of a column group: under half of the L2 cache of a core (1 MB on Zen 5, 2 MB on recent Intel). */
#define GROUP_BYTES (384u << 10)
/* Weights of a task: read once per column group, so they should still be in L3 then, better in L2. */
#define TASK_BYTES (256u << 10)
/* Up to so many columns the rows are cut evenly, one stretch per thread: the walk is short and linear. */
#define STATIC_COLS 32

struct drive {
    const struct ps_micro_set *set;
    const struct ps_matmul_job *job;
    size_t col_bytes, blocks, group; /* column blocks, and how many make a group */
    size_t step;                     /* rows of a micro-kernel */
    size_t task_rows, row_tasks, task_blocks;
};

/* Rows [r0, r1) times column blocks [b0, b1). */
static void rows_by_blocks(const struct drive *d, size_t r0, size_t r1, size_t b0, size_t b1)
{
    const struct ps_matmul_job *j = d->job;
    const struct ps_act *act = j->act;
    struct ps_micro m = {.row_stride = j->row_stride,
                         .K = act->K,
                         .lda = act->lda,
                         .ldc = j->ldc,
                         .accumulate = j->accumulate};
    for (size_t r = r0, n; r < r1; r += n) {
        n = ps_min_size(d->step, r1 - r);
        size_t n_next = ps_min_size(d->step, r1 - r - n);
        m.w = j->W + r * j->row_stride;
        m.rows = n;
        for (size_t b = b0; b < b1; b++) {
            size_t t = ps_col_start(d->set, act->T, b);
            size_t from = n_next * (b - b0) / (b1 - b0);
            m.cols = ps_col_start(d->set, act->T, b + 1) - t;
            m.a = d->set->packed ? (const uint8_t *)act->packed + t * d->col_bytes
                                 : (const uint8_t *)(act->a + t * act->lda);
            m.c = j->C + t * j->ldc + r;
            m.ahead = m.w + (n + from) * j->row_stride;
            m.n_ahead = n_next * (b - b0 + 1) / (b1 - b0) - from;
            d->set->run(&m);
        }
    }
}

static void stretch(void *user, unsigned index, unsigned threads)
{
    const struct drive *d = user;
    size_t handfuls = ps_div_up(d->job->n_rows, d->step);
    size_t r0 = handfuls * index / threads * d->step;
    size_t r1 = ps_min_size(handfuls * (index + 1) / threads * d->step, d->job->n_rows);
    if (r0 < r1)
        rows_by_blocks(d, r0, r1, 0, d->blocks);
}

static void tasks(void *user, size_t begin, size_t end, unsigned thread)
{
    const struct drive *d = user;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        size_t r0 = i % d->row_tasks * d->task_rows;
        size_t r1 = ps_min_size(r0 + d->task_rows, d->job->n_rows);
        size_t b0 = i / d->row_tasks * d->task_blocks;
        size_t end_b = ps_min_size(b0 + d->task_blocks, d->blocks);
        for (size_t b1; b0 < end_b; b0 = b1) {
            b1 = ps_min_size(b0 + d->group, end_b);
            rows_by_blocks(d, r0, r1, b0, b1);
        }
    }
}

/* Enough tasks that the threads end together, and few enough that a task's weights are worth their walk. */
static void cut_tasks(struct drive *d, size_t threads)
{
    size_t n_rows = d->job->n_rows, rows = TASK_BYTES / (d->job->row_stride + 1) + 1;
    size_t even = ps_div_up(n_rows, 4 * threads);
    d->task_rows = ps_round_up(ps_min_size(rows, even), d->step);
    d->row_tasks = ps_div_up(n_rows, d->task_rows);
    size_t col_tasks = ps_min_size(ps_div_up(4 * threads, d->row_tasks), d->blocks);
    if (d->row_tasks >= 2 * threads)
        col_tasks = 1;
    d->task_blocks = ps_div_up(d->blocks, col_tasks);
}

void ps_drive_matmul(struct ps_pool *pool, const struct ps_micro_set *set, size_t col_bytes,
                     const struct ps_matmul_job *job)
{
    size_t T = job->act->T, threads = ps_threads_of(pool);
    if (T == 0 || job->n_rows == 0)
        return;
    struct drive d = {.set = set, .job = job, .col_bytes = col_bytes};
    d.blocks = ps_col_blocks(set, T);
    d.step = T <= set->narrow ? set->rows_narrow : set->rows;
    if (T <= STATIC_COLS) {
        ps_fork(pool, stretch, &d);
        return;
    }
    d.group = GROUP_BYTES / (set->cols * col_bytes + 1) + 1;
    cut_tasks(&d, threads);
    ps_fork_for(pool, d.row_tasks * ps_div_up(d.blocks, d.task_blocks), 1, tasks, &d);
}
