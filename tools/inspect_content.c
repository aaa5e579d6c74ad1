/* Two models side by side, row by row. Comes in: two sources and which of their tensors to compare. Goes out: a
 * word for each. The scheduler of a run reads them: ahead, over all connections, checked and decoded; here rows of
 * both meet, which are cut into extents differently. See inspect_content.h. */
#include "tools/inspect_content.h"

#include <string.h>

#include "base/alloc.h"
#include "runtime/sweep.h"

#define RING_SLOTS 8u

/* One side's rows as they come. */
struct rows {
    struct ps_content_side side;
    struct ps_sweep *sweep; /* NULL: no extents at all */
    uint32_t *order;
    uint32_t n_order, at;
    uint8_t *tier; /* nothing stays anywhere */
    struct ps_stats stats;
    struct ps_panel panel;
    uint64_t left; /* rows of the panel; 0: there is none */
    uint64_t done_bytes, all_bytes;
};

static int rows_open(struct rows *r, const struct ps_content_side *side, uint32_t n,
                     struct ps_err *err)
{
    const struct ps_map *m = side->map;
    r->side = *side;
    r->order = ps_malloc(((size_t)m->n_extents + 1) * sizeof *r->order);
    r->tier = ps_calloc((size_t)m->n_extents + 1, 1);
    if (!r->order || !r->tier)
        return ps_err_set(err, PS_ENOMEM, "inspect", "out of memory");
    for (uint32_t i = 0; i < n; i++) {
        const struct ps_tensor *t = &m->tensors[side->tensors[i]];
        for (uint32_t e = 0; e < t->n_extents; e++) {
            r->order[r->n_order++] = t->first_extent + e;
            r->all_bytes += m->extents[t->first_extent + e].stored_bytes;
        }
    }
    if (r->n_order == 0)
        return 0;
    const struct ps_sweep_options o = {.map = m,
                                       .source = side->source,
                                       .order = r->order,
                                       .n_order = r->n_order,
                                       .tier = r->tier,
                                       .ring_slots = RING_SLOTS,
                                       .gather_slots = 1,
                                       .stats = &r->stats};
    const int rc = ps_sweep_open(&r->sweep, &o, err);
    if (rc == 0)
        ps_sweep_begin(r->sweep, false);
    return rc;
}

static void rows_drop(struct rows *r)
{
    if (!r->panel.extent)
        return;
    r->done_bytes += r->panel.extent->stored_bytes;
    ps_sweep_release(r->sweep, &r->panel);
    r->panel = (struct ps_panel){0};
    r->left = 0;
}

static void rows_close(struct rows *r)
{
    rows_drop(r);
    ps_sweep_close(r->sweep);
    ps_free(r->order);
    ps_free(r->tier);
}

/* Some rows are there afterwards. */
static int rows_need(struct rows *r, struct ps_err *err)
{
    if (r->left > 0)
        return 0;
    rows_drop(r);
    const int rc = ps_sweep_next(r->sweep, r->order[r->at++], &r->panel, err);
    if (rc == 0)
        r->left = r->panel.extent->n_rows;
    return rc;
}

static const uint8_t *rows_data(const struct rows *r)
{
    const struct ps_extent *e = r->panel.extent;
    return r->panel.data + (e->n_rows - r->left) * ps_extent_row_bytes(e);
}

static bool same_rows(const struct rows *a, const struct rows *b, uint64_t n)
{
    const struct ps_extent *x = a->panel.extent, *y = b->panel.extent;
    return ps_extent_dtype(a->side.map, x) == ps_extent_dtype(b->side.map, y) &&
           ps_extent_row_bytes(x) == ps_extent_row_bytes(y) &&
           memcmp(rows_data(a), rows_data(b), n * ps_extent_row_bytes(x)) == 0;
}

/* All rows are walked over, also behind the first that differs: the order of the next tensors is the scheduler's. */
static int compare_tensor(bool *same, struct rows *a, struct rows *b, uint64_t rows,
                          struct ps_err *err)
{
    bool all = true;
    while (rows > 0) {
        int rc = rows_need(a, err);
        if (rc == 0)
            rc = rows_need(b, err);
        if (rc < 0)
            return rc;
        const uint64_t n = a->left < b->left ? a->left : b->left;
        all = all && same_rows(a, b, n);
        a->left -= n;
        b->left -= n;
        rows -= n;
    }
    *same = all;
    return 0;
}

static uint64_t rows_of(const struct ps_tensor *t)
{
    return t->n_extents ? t->rows : 0;
}

int ps_inspect_content(bool *same, const struct ps_content_side *a, const struct ps_content_side *b,
                       uint32_t n,
                       void (*progress)(void *user, const char *what, uint64_t done, uint64_t total),
                       struct ps_err *err)
{
    struct rows x = {0}, y = {0};
    int rc = rows_open(&x, a, n, err);
    if (rc == 0)
        rc = rows_open(&y, b, n, err);
    if (rc == 0 && progress)
        progress(NULL, "compare", 0, x.all_bytes + y.all_bytes);
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        rc = compare_tensor(&same[i], &x, &y, rows_of(&a->map->tensors[a->tensors[i]]), err);
        if (progress)
            progress(NULL, "compare", x.done_bytes + y.done_bytes, x.all_bytes + y.all_bytes);
    }
    rows_close(&x);
    rows_close(&y);
    return rc;
}
