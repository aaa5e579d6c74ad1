/* Fetching past the consumer: extents that only the cache, or the one who measures the link, wants. */
#include "base/alloc.h"
#include "runtime/sweep_internal.h"

static const char *const ORIGIN = "sweep";

struct flight {
    struct item **item; /* [n_items], oldest first from head to tail, modulo n_items */
    uint32_t head, tail;
};

static void launch_locked(struct ps_sweep *s, struct flight *f, const uint32_t *extents, uint32_t n,
                          uint32_t *next)
{
    while (*next < n && f->tail - f->head < s->n_items) {
        struct item *it = ps_sweep_take_item_locked(s, extents[*next], SLOT_RING);
        if (!it)
            return;
        it->unhurried = true;
        ps_sweep_issue_locked(s, it, *next + 1);
        f->item[f->tail++ % s->n_items] = it;
        ++*next;
    }
}

int ps_sweep_fetch(struct ps_sweep *s, const uint32_t *extents, uint32_t n,
                   void (*progress)(void *user, uint64_t done, uint64_t total), void *user,
                   struct ps_err *err)
{
    uint64_t total = 0, done = 0;
    struct flight f = {.item = ps_calloc(s->n_items, sizeof *f.item)};
    uint32_t next = 0;
    int rc = f.item ? 0 : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: fetching %u extents", n);
    for (uint32_t i = 0; i < n; i++)
        total += s->o.map->extents[extents[i]].stored_bytes;
    if (rc == 0 && progress)
        progress(user, 0, total); /* who reckons a rate needs the beginning, not the first arrival */
    pthread_mutex_lock(&s->mutex);
    while (rc == 0 && (next < n || f.head != f.tail)) {
        launch_locked(s, &f, extents, n, &next);
        if (f.head == f.tail) {
            rc = ps_sweep_wait_changed_locked(s, err); /* slots are still held by writes */
            continue;
        }
        struct item *it = f.item[f.head % s->n_items];
        if ((rc = ps_sweep_await_locked(s, it, err)) < 0)
            break;
        f.head++;
        done += s->o.map->extents[it->extent].stored_bytes;
        ps_sweep_unref_locked(s, it);
        if (progress) {
            pthread_mutex_unlock(&s->mutex);
            progress(user, done, total);
            pthread_mutex_lock(&s->mutex);
        }
    }
    for (; f.head != f.tail; f.head++)
        ps_sweep_unref_locked(s, f.item[f.head % s->n_items]);
    if (rc < 0)
        ps_sweep_drain_locked(s);
    while (s->n_busy)
        pthread_cond_wait(&s->changed, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
    ps_free(f.item);
    return rc;
}
