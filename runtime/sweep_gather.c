/* Rows of the embedding for a sweep: each extent that holds some is asked for once, or comes from the stash, the
 * arena or the ring. */
#include <string.h>

#include "base/alloc.h"
#include "kernels/kernels.h"
#include "runtime/plan.h"
#include "runtime/sweep_internal.h"

static const char *const ORIGIN = "sweep";

struct wanted {
    uint32_t extent;
    size_t first, n; /* run in the sorted row list */
    struct item *item;
    bool shared; /* the item belongs to the ring: it was on its way anyway */
};

struct gather {
    struct ps_sweep *s;
    const uint32_t *rows;
    uint32_t *by_row; /* indices into rows, sorted by row */
    struct wanted *wanted;
    size_t n_wanted;
};

/* In the arena, for the host to read: not moved away. */
static bool in_arena_locked(const struct ps_sweep *s, uint32_t extent)
{
    return s->resident[extent] == RESIDENT_YES && !(s->o.tier[extent] & PS_TIER_VRAM);
}

/* Starts w, or finds that nothing is to be started. False: no room now. */
static bool gather_start_locked(struct ps_sweep *s, struct wanted *w)
{
    if (w->item || in_arena_locked(s, w->extent))
        return true;
    uint32_t position = s->position[w->extent];
    if (position != UINT32_MAX && s->by_position[position]) {
        w->item = s->by_position[position];
        w->item->refs++;
        w->shared = true;
        return true;
    }
    w->item = ps_sweep_take_item_locked(s, w->extent, SLOT_GATHER);
    if (w->item)
        ps_sweep_issue_locked(s, w->item, 0);
    return w->item != NULL;
}

static int gather_rows(struct gather *g, const struct wanted *w, const uint8_t *data, float *out,
                       size_t ld)
{
    const struct ps_map *m = g->s->o.map;
    const struct ps_tensor *t = &m->tensors[g->s->o.gather_tensor];
    const struct ps_extent *e = &m->extents[w->extent];
    uint64_t row_bytes = ps_extent_row_bytes(e);
    for (size_t i = w->first; i < w->first + w->n; i++) {
        uint32_t at = g->by_row[i];
        int rc = ps_to_f32(out + at * ld, data + (g->rows[at] - e->row0) * row_bytes,
                           ps_extent_dtype(m, e), t->cols);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int gather_run(struct gather *g, float *out, size_t ld, struct ps_err *err)
{
    struct ps_sweep *s = g->s;
    int rc = 0;
    size_t started = 0;
    pthread_mutex_lock(&s->mutex);
    for (size_t i = 0; i < g->n_wanted && rc == 0; i++) {
        struct wanted *w = &g->wanted[i];
        while (started < g->n_wanted && gather_start_locked(s, &g->wanted[started]))
            started++;
        while (started <= i && rc == 0) {
            rc = ps_sweep_wait_changed_locked(s, err);
            if (rc == 0 && gather_start_locked(s, w))
                started = i + 1;
        }
        if (rc == 0 && w->item)
            rc = ps_sweep_need_locked(s, w->item, err);
        if (rc < 0)
            break;
        const uint8_t *data = w->item ? w->item->raw : s->arena + s->arena_offset[w->extent];
        pthread_mutex_unlock(&s->mutex);
        rc = gather_rows(g, w, data, out, ld);
        pthread_mutex_lock(&s->mutex);
        if (w->item)
            ps_sweep_unref_locked(s, w->item);
        w->item = NULL;
    }
    for (size_t i = 0; i < started; i++)
        if (g->wanted[i].item)
            ps_sweep_unref_locked(s, g->wanted[i].item);
    s->sweeps_gathered = s->next_sweep_seq / s->o.n_order;
    ps_sweep_pump_locked(s);
    pthread_mutex_unlock(&s->mutex);
    return rc;
}

/* Rows sorted by a plain merge of a small key list: T is at most a prompt. */
static void sort_rows(uint32_t *by_row, uint32_t *tmp, const uint32_t *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        by_row[i] = (uint32_t)i;
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = lo + width < n ? lo + width : n,
                   hi = lo + 2 * width < n ? lo + 2 * width : n;
            size_t a = lo, b = mid;
            for (size_t k = lo; k < hi; k++)
                tmp[k] = b >= hi || (a < mid && rows[by_row[a]] <= rows[by_row[b]]) ? by_row[a++]
                                                                                    : by_row[b++];
        }
        memcpy(by_row, tmp, n * sizeof *tmp);
    }
}

/* Serves what the stash holds and lists the extents of the rest. */
static int list_wanted(struct gather *g, size_t n, float *out, size_t ld)
{
    const struct ps_map *m = g->s->o.map;
    const struct ps_tensor *t = &m->tensors[g->s->o.gather_tensor];
    uint32_t rows_each =
        m->extents[t->first_extent].n_rows; /* all but the last extent of a tensor are equal */
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t at = g->by_row[i];
        const uint8_t *row = ps_row_stash_find(&g->s->stash, g->rows[at]);
        int rc = row ? ps_to_f32(out + at * ld, row, t->dtype, t->cols) : 0;
        if (rc < 0)
            return rc;
        if (!row)
            g->by_row[kept++] = at;
    }
    for (size_t i = 0; i < kept; i++) {
        uint32_t x = t->first_extent + g->rows[g->by_row[i]] / rows_each;
        struct wanted *last = g->n_wanted ? &g->wanted[g->n_wanted - 1] : NULL;
        if (last && last->extent == x)
            last->n++;
        else
            g->wanted[g->n_wanted++] = (struct wanted){.extent = x, .first = i, .n = 1};
    }
    return 0;
}

int ps_sweep_gather(struct ps_sweep *s, const uint32_t *rows, size_t n, float *out, size_t ld,
                    struct ps_err *err)
{
    struct gather g = {.s = s, .rows = rows};
    uint32_t *tmp = ps_malloc(n * sizeof *tmp + 1);
    g.by_row = ps_malloc(n * sizeof *g.by_row + 1);
    g.wanted = ps_calloc(n + 1, sizeof *g.wanted);
    int rc;
    if (!tmp || !g.by_row || !g.wanted) {
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: gathering %zu rows", n);
    } else {
        sort_rows(g.by_row, tmp, rows, n);
        rc = list_wanted(&g, n, out, ld);
        if (rc == 0)
            rc = gather_run(&g, out, ld, err);
    }
    ps_free(tmp);
    ps_free(g.by_row);
    ps_free(g.wanted);
    return rc;
}

void ps_sweep_stash_clear(struct ps_sweep *s)
{
    ps_row_stash_clear(&s->stash);
}

void ps_sweep_stash_offer(struct ps_sweep *s, uint32_t row, float score, const uint8_t *data)
{
    ps_row_stash_offer(&s->stash, row, score, data);
}
