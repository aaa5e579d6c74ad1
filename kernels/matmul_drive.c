/* The walk over a panel. In: rows of weights as they lie in the panel, packed activations. Out: C, by
 * micro-kernels.
 *
 * A thread walks its rows a handful at a time, with every column block of a group; meanwhile the next handful is
 * prefetched, its share at each block. Few columns make one group: memory binds, and the weights pass once. With
 * many, arithmetic binds: the groups are such that their activations stay in L2, from where they stream past the
 * handful, while the rows of the task come from L3. */
#include "kernels/matmul_drive.h"

/* Activations of a group: most of the L2 of a core (1 MB on Zen 5, 2 MB on recent Intel). Measured best of 384 to
 * 1152. */
#define GROUP_BYTES (576u << 10)
/* Elements of K in one go where a group would be too narrow otherwise. */
#define STRETCH 4096u
/* Rows of which the sums rest between two stretches, 144 KiB for a group: on the stack of the thread, in its L2. */
#define REST_ROWS   64u
#define SUMS_FLOATS (REST_ROWS * (GROUP_BYTES / 4 / STRETCH) * 16u)
/* Up to so many columns the rows are cut evenly, one run per thread: the walk is linear and ends together. */
#define FEW_COLS 32
/* What is prefetched lies one handful ahead, or two if they are no more than this. */
#define AHEAD_BYTES (24u << 10)

struct drive {
    const struct ps_micro_set *set;
    const struct ps_matmul_job *job;
    const struct ps_matrix *panel; /* of tasks */
    size_t bits;                   /* of an element in a row */
    size_t col_bytes;
    size_t step;          /* rows of a micro-kernel: a handful */
    size_t ahead;         /* handfuls from one to that which is prefetched meanwhile */
    size_t blocks, group; /* column blocks, and how many make a group */
    size_t stretch;       /* elements of K */
    size_t row_tasks, task_blocks;
};

/* One stretch of K of some rows times some column blocks. */
struct cells {
    const struct ps_matrix *panel;
    size_t r0, r1, b0, b1, k0;
    float *sums;         /* NULL if the stretch is all of K */
    const uint8_t *then; /* n_then rows of the next panel, to be prefetched when these end */
    size_t n_then;
};

static void cell(const struct drive *d, const struct cells *s, size_t r, size_t b)
{
    const struct ps_matmul_job *j = d->job;
    const struct ps_act *act = j->act;
    size_t t = ps_col_start(d->set, act->T, b), n_blocks = s->b1 - s->b0, i = b - s->b0;
    size_t handful = d->step * d->set->cols * d->set->sum_floats;
    const struct ps_matrix *panel = s->panel;
    const uint8_t *W = (const uint8_t *)panel->data + s->k0 * d->bits / 8;
    struct ps_micro m = {.w = W + r * panel->row_stride,
                         .matrix = panel,
                         .row = r,
                         .k0 = s->k0,
                         .row_stride = panel->row_stride,
                         .rows = ps_min_size(d->step, s->r1 - r),
                         .cols = ps_col_start(d->set, act->T, b + 1) - t,
                         .K = ps_min_size(d->stretch, act->K - s->k0),
                         .c = j->C + t * j->ldc + panel->row0 + r,
                         .ldc = j->ldc,
                         .accumulate = j->accumulate,
                         .begun = s->k0 > 0};
    m.more = s->k0 + m.K < act->K;
    m.a = (const uint8_t *)act->packed + t * d->col_bytes +
          ps_col_bytes(d->set, s->k0) * ps_round_up(m.cols, d->set->pad_cols);
    if (s->sums)
        m.sums = s->sums + ((r - s->r0) / d->step * n_blocks + i) * handful;
    size_t next = r + d->step * d->ahead, n_next = 0;
    const uint8_t *ahead = W;
    if (next < s->r1) {
        ahead = W + next * panel->row_stride;
        n_next = ps_min_size(d->step, s->r1 - next);
    } else if (next < ps_round_up(s->r1, d->step) + s->n_then) {
        next -= ps_round_up(s->r1, d->step);
        ahead = s->then + next * panel->row_stride;
        n_next = ps_min_size(d->step, s->n_then - next);
    }
    size_t from = n_next * i / n_blocks;
    m.ahead = ahead + from * panel->row_stride;
    m.n_ahead = n_next * (i + 1) / n_blocks - from;
    d->set->run(&m);
}

static void walk(const struct drive *d, const struct cells *s)
{
    for (size_t r = s->r0; r < s->r1; r += d->step)
        for (size_t b = s->b0; b < s->b1; b++)
            cell(d, s, r, b);
}

/* Rows [r0, r1) of a panel times column blocks [b0, b1), whole sums; the thread goes on with `n_then` rows at
 * `then`. */
static void multiply(const struct drive *d, struct cells s)
{
    size_t K = d->job->act->K, r0 = s.r0, r1 = s.r1, rows = r1 - r0;
    _Alignas(64) float sums[SUMS_FLOATS];
    if (K > d->stretch) {
        size_t handful = d->step * d->set->cols * d->set->sum_floats * (s.b1 - s.b0);
        PS_ASSERT(handful <= SUMS_FLOATS);
        rows = SUMS_FLOATS / handful * d->step;
        s.sums = sums;
        s.n_then = 0;
    }
    for (s.r0 = r0; s.r0 < r1; s.r0 += rows) {
        s.r1 = ps_min_size(s.r0 + rows, r1);
        for (s.k0 = 0; s.k0 == 0 || s.k0 < K; s.k0 += d->stretch)
            walk(d, &s);
    }
}

/* Rows [r0, r1) times column blocks [b0, end), by groups. */
static void groups(const struct drive *d, struct cells s, size_t end)
{
    for (; s.r0 < s.r1 && s.b0 < end; s.b0 = s.b1) {
        s.b1 = ps_min_size(s.b0 + d->group, end);
        multiply(d, s);
    }
}

static size_t handfuls(const struct drive *d, const struct ps_matrix *panel)
{
    return ps_div_up(panel->n_rows, d->step);
}

/* Handfuls [h0, h1) of a panel. */
static struct cells rows_of(const struct drive *d, const struct ps_matrix *panel, size_t h0, size_t h1)
{
    return (struct cells){.panel = panel,
                          .r0 = h0 * d->step,
                          .r1 = ps_min_size(h1 * d->step, panel->n_rows)};
}

/* One run of handfuls for each thread, through all panels. */
static void even_run(void *user, unsigned index, unsigned threads)
{
    const struct drive *d = user;
    const struct ps_matmul_job *j = d->job;
    size_t all = 0, at = 0;
    for (size_t p = 0; p < j->n; p++)
        all += handfuls(d, &j->panels[p]);
    const size_t begin = all * index / threads, end = all * (index + 1) / threads;
    for (size_t p = 0; p < j->n && at < end; at += handfuls(d, &j->panels[p++])) {
        size_t next = at + handfuls(d, &j->panels[p]);
        if (next <= begin)
            continue;
        struct cells s =
            rows_of(d, &j->panels[p], ps_max_size(begin, at) - at, ps_min_size(end, next) - at);
        if (end > next && p + 1 < j->n) {
            s.then = j->panels[p + 1].data;
            s.n_then = ps_min_size(d->step * d->ahead, j->panels[p + 1].n_rows);
        }
        groups(d, s, d->blocks);
    }
}

static void tasks(void *user, size_t begin, size_t end, unsigned thread)
{
    const struct drive *d = user;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        size_t n = handfuls(d, d->panel), part = i % d->row_tasks;
        struct cells s = rows_of(d, d->panel, n * part / d->row_tasks, n * (part + 1) / d->row_tasks);
        s.b0 = i / d->row_tasks * d->task_blocks;
        groups(d, s, ps_min_size(s.b0 + d->task_blocks, d->blocks));
    }
}

/* Eight tasks per thread, so that the threads end together even if one was held up (by a net thread on its core, say);
 * by rows as long as a task keeps enough of them for its activations to be worth bringing in, else by columns too. */
static void cut_tasks(struct drive *d, size_t threads)
{
    size_t n_rows = d->panel->n_rows, per_thread = ps_min_size(8, n_rows / (threads * REST_ROWS));
    if (per_thread > 0) {
        d->row_tasks = per_thread * threads;
        d->task_blocks = d->blocks;
        return;
    }
    d->row_tasks = ps_min_size(threads, ps_div_up(n_rows, REST_ROWS));
    d->task_blocks = ps_div_up(d->blocks, ps_div_up(2 * threads, d->row_tasks));
}

/* Of the codes alone, for types that have scales. */
static size_t element_bits(enum ps_dtype t)
{
    if (t == PS_NF4B64 || t == PS_MXFP4)
        return 4;
    return t == PS_Q8B64 ? 8 : ps_dtype_bytes(t) * 8;
}

void ps_drive_matmul(struct ps_pool *pool, const struct ps_micro_set *set,
                     const struct ps_matmul_job *job)
{
    size_t T = job->act->T, K = job->act->K, threads = ps_threads_of(pool);
    if (T == 0 || job->n == 0)
        return;
    struct drive d = {.set = set,
                      .job = job,
                      .bits = element_bits(job->act->weights),
                      .col_bytes = ps_col_bytes(set, K),
                      .blocks = ps_col_blocks(set, T),
                      .step = T <= set->narrow ? set->rows_narrow : set->rows};
    bool many = T > FEW_COLS;
    d.ahead = !many && d.step * job->panels[0].row_stride <= AHEAD_BYTES / 2 ? 2 : 1;
    d.stretch = T * d.col_bytes > GROUP_BYTES ? STRETCH : K + 1;
    d.group = d.blocks;
    if (many)
        d.group = ps_max_size(1, GROUP_BYTES /
                                     (set->cols *
                                      ps_col_bytes(set, ps_min_size(ps_max_size(K, 1), STRETCH))));
    if (!many) {
        ps_fork(pool, even_run, &d);
        return;
    }
    for (size_t p = 0; p < job->n; p++) {
        d.panel = &job->panels[p];
        if (d.panel->n_rows == 0)
            continue;
        cut_tasks(&d, threads);
        ps_fork_for(pool, d.row_tasks * ps_div_up(d.blocks, d.task_blocks), 1, tasks, &d);
    }
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
