/* The walk over a panel. In: rows of weights as they lie in the panel, packed activations. Out: C, by micro-kernels.
 *
 * Few columns: memory binds. A thread walks its rows once, a handful at a time; while one handful is multiplied the next
 * is prefetched, spread over the column blocks. Many columns: arithmetic binds. Columns go in groups, K in stretches, such
 * that the activations of both stay in the L2 cache while the rows of a task pass by, and a handful of rows in L1. */
#include "kernels/matmul_drive.h"

/* Activations of a group and stretch: under half of the L2 of a core (1 MB on Zen 5, 2 MB on recent Intel). */
#define GROUP_BYTES (384u << 10)
/* Bytes of a row in a stretch of K: four rows fill two thirds of a 48 KiB L1. A multiple of every k_step. */
#define STRETCH_BYTES 8192u
/* Sums that rest between two stretches: on the stack of the thread, in its L2. */
#define SUMS_FLOATS (24u << 10)
/* Up to so many columns the rows are cut evenly, one run per thread: the walk is linear and ends together. */
#define STATIC_COLS 32
/* Rows of a task for which bringing in its activations is worth it. */
#define TASK_ROWS 64

struct drive {
    const struct ps_micro_set *set;
    const struct ps_matmul_job *job;
    size_t elem, col_bytes;
    size_t blocks, group; /* column blocks, and how many make a group */
    size_t stretch;       /* elements of K */
    size_t step;          /* rows of a micro-kernel */
    size_t row_tasks, task_blocks;
};

/* One stretch of K of the rows [r0, r1) times the column blocks [b0, b1). */
static void walk(const struct drive *d, size_t r0, size_t r1, size_t b0, size_t b1, size_t k0,
                 float *sums)
{
    const struct ps_matmul_job *j = d->job;
    const struct ps_act *act = j->act;
    size_t K = ps_min_size(d->stretch, act->K - k0);
    struct ps_micro m = {.row_stride = j->row_stride,
                         .K = K,
                         .ldc = j->ldc,
                         .accumulate = j->accumulate,
                         .more = k0 + K<act->K, .begun = k0> 0,
                         .sums = sums};
    for (size_t r = r0; r < r1; r += m.rows) {
        m.rows = ps_min_size(d->step, r1 - r);
        m.w = j->W + r * j->row_stride + k0 * d->elem;
        size_t n_next = ps_min_size(d->step, r1 - r - m.rows);
        for (size_t b = b0; b < b1; b++) {
            size_t t = ps_col_start(d->set, act->T, b);
            size_t from = n_next * (b - b0) / (b1 - b0);
            m.cols = ps_col_start(d->set, act->T, b + 1) - t;
            m.a = (const uint8_t *)act->packed + t * d->col_bytes +
                  k0 * 4 * ps_round_up(m.cols, d->set->pad_cols);
            m.c = j->C + t * j->ldc + r;
            m.ahead = m.w + (m.rows + from) * j->row_stride;
            m.n_ahead = n_next * (b - b0 + 1) / (b1 - b0) - from;
            d->set->run(&m);
            if (sums)
                m.sums += d->step * d->set->cols * d->set->sum_floats;
        }
    }
}

/* Rows [r0, r1) times column blocks [b0, b1), whole sums. */
static void multiply(const struct drive *d, size_t r0, size_t r1, size_t b0, size_t b1)
{
    if (d->job->act->K <= d->stretch) {
        walk(d, r0, r1, b0, b1, 0, NULL);
        return;
    }
    _Alignas(64) float sums[SUMS_FLOATS];
    size_t handful = d->step * d->set->cols * d->set->sum_floats * (b1 - b0);
    size_t rows = SUMS_FLOATS / handful * d->step;
    PS_ASSERT(rows > 0);
    for (size_t r = r0; r < r1; r += rows)
        for (size_t k = 0; k < d->job->act->K; k += d->stretch)
            walk(d, r, ps_min_size(r + rows, r1), b0, b1, k, sums);
}

/* Rows [r0, r1) times column blocks [b0, end), by groups. */
static void groups(const struct drive *d, size_t r0, size_t r1, size_t b0, size_t end)
{
    for (size_t b1; r0 < r1 && b0 < end; b0 = b1) {
        b1 = ps_min_size(b0 + d->group, end);
        multiply(d, r0, r1, b0, b1);
    }
}

/* Part i of n of the rows, cut between handfuls. */
static void rows_of(const struct drive *d, size_t i, size_t n, size_t *r0, size_t *r1)
{
    size_t handfuls = ps_div_up(d->job->n_rows, d->step);
    *r0 = handfuls * i / n * d->step;
    *r1 = ps_min_size(handfuls * (i + 1) / n * d->step, d->job->n_rows);
}

static void even_run(void *user, unsigned index, unsigned threads)
{
    const struct drive *d = user;
    size_t r0, r1;
    rows_of(d, index, threads, &r0, &r1);
    groups(d, r0, r1, 0, d->blocks);
}

static void tasks(void *user, size_t begin, size_t end, unsigned thread)
{
    const struct drive *d = user;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        size_t r0, r1, b0 = i / d->row_tasks * d->task_blocks;
        rows_of(d, i % d->row_tasks, d->row_tasks, &r0, &r1);
        groups(d, r0, r1, b0, ps_min_size(b0 + d->task_blocks, d->blocks));
    }
}

/* Up to four tasks per thread, all alike, so that the threads end together even if one was held up; by rows as long as a
 * task keeps enough of them, else by columns too. */
static void cut_tasks(struct drive *d, size_t threads)
{
    size_t per_thread = ps_min_size(4, d->job->n_rows / (threads * TASK_ROWS));
    if (per_thread > 0) {
        d->row_tasks = per_thread * threads;
        d->task_blocks = d->blocks;
        return;
    }
    d->row_tasks = ps_min_size(threads, ps_div_up(d->job->n_rows, TASK_ROWS));
    d->task_blocks = ps_div_up(d->blocks, ps_div_up(2 * threads, d->row_tasks));
}

void ps_drive_matmul(struct ps_pool *pool, const struct ps_micro_set *set,
                     const struct ps_matmul_job *job)
{
    size_t T = job->act->T, K = job->act->K, threads = ps_threads_of(pool);
    if (T == 0 || job->n_rows == 0)
        return;
    struct drive d = {.set = set,
                      .job = job,
                      .elem = job->act->weights == PS_F32 ? 4 : 2,
                      .col_bytes = ps_col_bytes(set, K),
                      .blocks = ps_col_blocks(set, T),
                      .step = T <= set->narrow ? set->rows_narrow : set->rows};
    d.stretch = K;
    d.group = d.blocks;
    if (T * d.col_bytes > GROUP_BYTES) {
        d.stretch = STRETCH_BYTES / d.elem;
        if (T > STATIC_COLS) /* else every column at once, lest the weights come twice from memory */
            d.group = ps_max_size(1, GROUP_BYTES / (set->cols * 4 * ps_min_size(K, d.stretch)));
    }
    if (T <= STATIC_COLS) {
        ps_fork(pool, even_run, &d);
        return;
    }
    cut_tasks(&d, threads);
    ps_fork_for(pool, d.row_tasks * ps_div_up(d.blocks, d.task_blocks), 1, tasks, &d);
}

struct pack {
    const struct ps_micro_set *set;
    const struct ps_act *act;
    void (*block)(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to);
};

static void pack_blocks(void *user, size_t begin, size_t end, unsigned thread)
{
    const struct pack *p = user;
    const struct ps_act *act = p->act;
    (void)thread;
    for (size_t b = begin; b < end; b++) {
        size_t t0 = ps_col_start(p->set, act->T, b), t1 = ps_col_start(p->set, act->T, b + 1);
        p->block(act, t0, t1, (uint8_t *)act->packed + t0 * ps_col_bytes(p->set, act->K));
    }
}

void ps_drive_pack(struct ps_pool *pool, const struct ps_micro_set *set, const struct ps_act *act,
                   void (*block)(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to))
{
    struct pack p = {set, act, block};
    ps_fork_for(pool, ps_col_blocks(set, act->T), ps_div_up(PS_FORK_MIN, set->cols * act->K + 1),
                pack_blocks, &p);
}
