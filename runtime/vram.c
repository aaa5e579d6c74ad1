/* Copies ahead of kernels. See vram.h. */
#include "runtime/vram.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "runtime/plan.h"

static const char *const ORIGIN = "vram";
/* Kernels that decode may read a little past the end of a block (kernels/device.h). */
#define READ_PAST 64u

/* ---- pins ---- */

struct ps_pins {
    const struct ps_device_api *api;
    struct ps_device *device;
    uint32_t most;
    pthread_mutex_t mutex;
    void **list; /* mutex */
    uint32_t n;  /* mutex */
    bool told;   /* mutex */
};

int ps_pins_new(struct ps_pins **out, const struct ps_device_api *api, struct ps_device *device,
                uint32_t most, struct ps_err *err)
{
    struct ps_pins *p = ps_calloc(1, sizeof *p);
    void **list = ps_calloc((size_t)most + 1, sizeof *list);
    if (!p || !list) {
        ps_free(p);
        ps_free(list);
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    }
    *p = (struct ps_pins){.api = api, .device = device, .most = most, .list = list};
    pthread_mutex_init(&p->mutex, NULL);
    *out = p;
    return 0;
}

void ps_pins_add(void *pins, void *at, size_t bytes)
{
    struct ps_pins *p = pins;
    struct ps_err e = {0};
    int rc = p->api->pin(p->device, at, bytes, &e);
    pthread_mutex_lock(&p->mutex);
    bool tell = rc < 0 && !p->told;
    if (rc == 0) {
        PS_ASSERT(p->n < p->most);
        p->list[p->n++] = at;
    }
    p->told = p->told || tell;
    pthread_mutex_unlock(&p->mutex);
    if (tell)
        ps_log(PS_LOG_WARN, ORIGIN, "going on with slower copies: %s", e.text);
}

void ps_pins_clear(void *pins)
{
    struct ps_pins *p = pins;
    pthread_mutex_lock(&p->mutex);
    while (p->n)
        p->api->unpin(p->device, p->list[--p->n]);
    pthread_mutex_unlock(&p->mutex);
}

void ps_pins_free(struct ps_pins *p)
{
    if (!p)
        return;
    ps_pins_clear(p);
    pthread_mutex_destroy(&p->mutex);
    ps_free(p->list);
    ps_free(p);
}

/* ---- ring ---- */

/* Copies that may be queued beyond the slots: one waits in the stream, behind the kernels that still read its slot, and
 * not in the host, which would have to be woken for every one of them. (With none, and three slots, H100: small panels
 * left gaps on the bus, 8 % of a sweep.) */
#define QUEUED_BEYOND 16u

/* One extent on its way into device memory: load number i uses slot i % slots and record i % n_records. */
struct load {
    uint64_t seq;
    struct ps_panel panel; /* held until the copy is done */
    bool coded;
};

struct ps_vram {
    struct ps_vram_options o;
    uint64_t slot_bytes, stored_room;
    uint8_t *ring;      /* device */
    uint8_t *arena;     /* device; NULL if nothing stays */
    uint64_t *home;     /* [n_extents]: offset in the arena, where the plan says VRAM */
    const uint8_t **at; /* [n_extents]: device address once it is there */
    struct load *loads; /* [n_records] */
    uint32_t n_records;
    uint64_t n_loaded; /* loads begun, ever */
    uint64_t n_idle; /* of them, those that had been used when the device was last seen idle: no mark is theirs */
    uint64_t n_given;    /* loads of which the host panel was given back */
    uint64_t n_released; /* loads whose users are all queued */
    uint64_t copy_seq,
        use_seq;        /* in the scheduler's endless order: next to be copied, next to be used */
    uint32_t n_passing; /* extents in use that came through the ring: loads n_released .. */
};

uint32_t ps_vram_marks(uint32_t slots)
{
    return 2 * (slots + QUEUED_BEYOND);
}

static struct load *record_of(const struct ps_vram *v, uint64_t load)
{
    return &v->loads[load % v->n_records];
}

static uint32_t copied_mark(const struct ps_vram *v, uint64_t load)
{
    return (uint32_t)(load % v->n_records) * 2;
}

static uint32_t used_mark(const struct ps_vram *v, uint64_t load)
{
    return copied_mark(v, load) + 1;
}

static bool decodes_any(const struct ps_map *m, uint32_t consumer_codecs)
{
    for (uint32_t i = 0; consumer_codecs && i < m->n_extents; i++)
        if (consumer_codecs >> m->extents[i].codec & 1u)
            return true;
    return false;
}

uint64_t ps_vram_slot_bytes(const struct ps_map *m, uint32_t consumer_codecs)
{
    return ps_device_align(m->max_raw_bytes) +
           (decodes_any(m, consumer_codecs)
                ? ps_device_align((uint64_t)m->max_stored_bytes + READ_PAST)
                : 0);
}

static int alloc_tables(struct ps_vram *v, uint64_t *arena_bytes, struct ps_err *err)
{
    const struct ps_map *m = v->o.map;
    v->home = ps_calloc((size_t)m->n_extents + 1, sizeof *v->home);
    v->at = ps_calloc((size_t)m->n_extents + 1, sizeof *v->at);
    v->n_records = v->o.slots + QUEUED_BEYOND;
    v->loads = ps_calloc(v->n_records, sizeof *v->loads);
    if (!v->home || !v->at || !v->loads)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    *arena_bytes = 0;
    for (uint32_t i = 0; i < m->n_extents; i++) {
        if (!(v->o.tier[i] & PS_TIER_VRAM))
            continue;
        v->home[i] = *arena_bytes;
        *arena_bytes += ps_device_align(m->extents[i].raw_bytes);
    }
    return 0;
}

int ps_vram_open(struct ps_vram **out, const struct ps_vram_options *o, struct ps_err *err)
{
    uint64_t arena_bytes = 0;
    struct ps_vram *v = ps_calloc(1, sizeof *v);
    if (!v)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    PS_ASSERT(o->slots >= PS_VRAM_SLOTS_MIN && o->first_position < o->n_order);
    v->o = *o;
    v->slot_bytes = ps_vram_slot_bytes(o->map, o->consumer_codecs);
    v->stored_room = v->slot_bytes - ps_device_align(o->map->max_raw_bytes);
    v->copy_seq = v->use_seq = o->first_position;
    void *ring = NULL, *arena = NULL;
    int rc = alloc_tables(v, &arena_bytes, err);
    if (rc == 0)
        rc = o->api->alloc(o->device, &ring, v->slot_bytes * o->slots, err);
    v->ring = ring;
    if (rc == 0 && arena_bytes)
        rc = o->api->alloc(o->device, &arena, arena_bytes, err);
    v->arena = arena;
    if (rc < 0) {
        ps_vram_close(v);
        return rc;
    }
    *out = v;
    return 0;
}

static void give_back(struct ps_vram *v)
{
    ps_sweep_release(v->o.sweep, &record_of(v, v->n_given)->panel);
    v->n_given++;
}

/* Waits for the copy whose host panel is held longest. */
static int await_oldest(struct ps_vram *v, struct ps_err *err)
{
    int rc = v->o.api->await(v->o.device, copied_mark(v, v->n_given), err);
    if (rc == 0)
        give_back(v);
    return rc;
}

/* Gives back the host panels of the copies that are done. */
static int reap(struct ps_vram *v, struct ps_err *err)
{
    int rc = 1;
    while (v->n_given < v->n_loaded &&
           (rc = v->o.api->reached(v->o.device, copied_mark(v, v->n_given), err)) == 1)
        give_back(v);
    return rc < 0 ? rc : 0;
}

/* Where the sweep in progress ends; between two, the end of the last. */
static uint64_t sweep_end(const struct ps_vram *v)
{
    return (v->use_seq + v->o.n_order - 1) / v->o.n_order * v->o.n_order;
}

void ps_vram_abandon(struct ps_vram *v)
{
    v->o.api->sync(v->o.device, NULL);
    while (v->n_given < v->n_loaded)
        give_back(v);
    v->n_released = v->n_loaded;
    v->n_passing = 0;
    v->copy_seq = v->use_seq = sweep_end(v);
    v->n_idle = v->n_loaded;
}

void ps_vram_close(struct ps_vram *v)
{
    if (!v)
        return;
    if (v->ring)
        ps_vram_abandon(v);
    v->o.api->free(v->o.device, v->ring);
    v->o.api->free(v->o.device, v->arena);
    ps_free(v->home);
    ps_free(v->at);
    ps_free(v->loads);
    ps_free(v);
}

static uint8_t *slot_stored(const struct ps_vram *v, uint64_t load)
{
    return v->ring + load % v->o.slots * v->slot_bytes;
}

static uint8_t *slot_raw(const struct ps_vram *v, uint64_t load)
{
    return slot_stored(v, load) + v->stored_room;
}

/* Where the rows of an extent end up. */
static uint8_t *destination(const struct ps_vram *v, uint32_t extent, uint64_t load)
{
    return v->o.tier[extent] & PS_TIER_VRAM ? v->arena + v->home[extent] : slot_raw(v, load);
}

static uint32_t extent_at(const struct ps_vram *v, uint64_t seq)
{
    return v->o.order[seq % v->o.n_order];
}

static int queue_copy(struct ps_vram *v, uint32_t extent, const struct ps_panel *p)
{
    const struct ps_device_api *api = v->o.api;
    uint64_t n = v->n_loaded;
    bool coded = p->coded;
    int rc = 0;
    if (n >= v->n_idle + v->o.slots) /* behind what reads this slot */
        rc = api->wait_mark(v->o.device, PS_STREAM_COPY, used_mark(v, n - v->o.slots));
    uint64_t bytes = coded ? p->extent->stored_bytes : p->extent->raw_bytes;
    if (rc == 0)
        rc = api->copy_in(v->o.device, PS_STREAM_COPY,
                          coded ? slot_stored(v, n) : destination(v, extent, n), p->data, bytes);
    if (rc == 0)
        rc = api->mark(v->o.device, PS_STREAM_COPY, copied_mark(v, n));
    *record_of(v, n) = (struct load){.seq = v->copy_seq, .panel = *p, .coded = coded};
    v->n_loaded++;
    ps_stat_add(&v->o.stats->bytes_to_device, bytes);
    return rc;
}

/* The scheduler's next panel. Its bytes may wait for host slots that only our own old copies hold. */
static int take_panel(struct ps_vram *v, uint32_t extent, struct ps_panel *p, struct ps_err *err)
{
    while (!ps_sweep_ready(v->o.sweep) && v->n_given < v->n_loaded) {
        int rc = await_oldest(v, err);
        if (rc < 0)
            return rc;
    }
    return ps_sweep_next(v->o.sweep, extent, p, err);
}

/* Is there a slot whose former users are all queued, and a record whose former panel was given back? */
static bool has_slot(const struct ps_vram *v)
{
    return v->n_loaded - v->n_released < v->o.slots;
}

static bool has_record(const struct ps_vram *v)
{
    return v->n_loaded - v->n_given < v->n_records;
}

/* Puts the next extent in line on its way; it has a slot. */
static int issue(struct ps_vram *v, struct ps_err *err)
{
    uint32_t extent = extent_at(v, v->copy_seq);
    struct ps_panel p;
    int rc = 0;
    if (!v->at[extent]) {
        PS_ASSERT(has_slot(v));
        while (rc == 0 && !has_record(v))
            rc = await_oldest(v, err);
    }
    if (rc == 0)
        rc = take_panel(v, extent, &p, err);
    if (rc < 0)
        return rc;
    if (v->at[extent])
        ps_sweep_release(v->o.sweep, &p);
    else
        rc = queue_copy(v, extent, &p);
    v->copy_seq++;
    return rc < 0 ? ps_err_set(err, rc, ORIGIN, "the device refuses a copy") : 0;
}

int ps_vram_look_ahead(struct ps_vram *v, struct ps_err *err)
{
    int rc = reap(v, err);
    /* never a whole lap: an extent on its way to its resident place must not be copied a second time; and where the
     * host computes the first layers, it takes their panels itself */
    uint64_t oldest = v->n_passing ? record_of(v, v->n_released)->seq : v->use_seq;
    uint64_t end = v->o.first_position ? sweep_end(v) : oldest + v->o.n_order;
    while (rc == 0 && v->copy_seq < end && ps_sweep_ready(v->o.sweep) &&
           (v->at[extent_at(v, v->copy_seq)] || (has_slot(v) && has_record(v))))
        rc = issue(v, err);
    return rc;
}

void ps_vram_begin(struct ps_vram *v, bool new_sweep)
{
    if (new_sweep)
        ps_sweep_begin(v->o.sweep, v->copy_seq > v->use_seq);
    else /* what lies before has just been used on the host */
        v->copy_seq = v->use_seq = sweep_end(v) + v->o.first_position;
}

static int decode(struct ps_vram *v, uint32_t extent, uint64_t load)
{
    const struct ps_map *m = v->o.map;
    const struct ps_extent *e = &m->extents[extent];
    uint64_t row_bytes = ps_extent_row_bytes(e);
    const struct ps_device_blocks b = {
        .codec = (enum ps_codec)e->codec,
        .dtype = ps_extent_dtype(m, e),
        .in = slot_stored(v, load),
        .out = destination(v, extent, load),
        .in_bytes = m->block_bytes + e->first_block,
        .n_blocks = e->n_blocks,
        .block_bytes = ps_block_rows(row_bytes) * row_bytes,
        .raw_bytes = e->raw_bytes,
    };
    return v->o.api->decode(v->o.device, &b);
}

/* The kernels may have it: behind its copy, decoded if need be. */
static int arrive(struct ps_vram *v, uint32_t extent, struct ps_err *err)
{
    uint64_t n = v->n_released + v->n_passing;
    const struct load *l = record_of(v, n);
    PS_ASSERT(l->seq == v->use_seq);
    int rc = v->o.api->wait_mark(v->o.device, PS_STREAM_COMPUTE, copied_mark(v, n));
    if (rc == 0 && l->coded)
        rc = decode(v, extent, n);
    return rc < 0 ? ps_err_set(err, rc, ORIGIN, "the device can't take extent %u", extent) : 0;
}

int ps_vram_next(struct ps_vram *v, uint32_t extent, const void **rows, struct ps_err *err)
{
    PS_ASSERT(extent_at(v, v->use_seq) == extent && ps_vram_may_take(v));
    int rc = 0;
    if (v->copy_seq == v->use_seq)
        rc = issue(v, err);
    bool passing = rc == 0 && !v->at[extent];
    if (passing)
        rc = arrive(v, extent, err);
    if (rc < 0)
        return rc;
    *rows = passing ? destination(v, extent, v->n_released + v->n_passing) : v->at[extent];
    v->n_passing += passing;
    v->use_seq++;
    return 0;
}

bool ps_vram_may_take(const struct ps_vram *v)
{
    return v->n_passing < v->o.slots / 2;
}

/* The users of the oldest load are queued. */
static int release_one(struct ps_vram *v)
{
    uint64_t n = v->n_released++;
    uint32_t extent = extent_at(v, record_of(v, n)->seq);
    if (v->o.tier[extent] & PS_TIER_VRAM) {
        v->at[extent] = v->arena + v->home[extent];
        ps_sweep_moved_away(v->o.sweep, extent);
    }
    return v->o.api->mark(v->o.device, PS_STREAM_COMPUTE, used_mark(v, n));
}

int ps_vram_release(struct ps_vram *v)
{
    int rc = 0;
    for (; v->n_passing; v->n_passing--) {
        int failed = release_one(v);
        rc = rc < 0 ? rc : failed;
    }
    return rc;
}

const void *ps_vram_resident(const struct ps_vram *v, uint32_t extent)
{
    return v->at[extent];
}
