/* The emulated device: the kernels of this directory run by simt_emulate.cc behind the same table as the real ones.
 * For tests. Both streams run at once and in the caller's thread, so marks are always reached; what it is strict about
 * is memory: fresh memory holds NaNs, each allocation has guards (poisoned under the address sanitizer) that are looked
 * at when it is freed, and a copy must lie inside one allocation.
 *
 * Environment: PENSTOCK_EMULATED_ARCH (75 .. 90, default 90) for the kernels that differ between generations;
 * PENSTOCK_EMULATED_VRAM_MB (default 1024), beyond which alloc says PS_EBUDGET. */
#include "kernels/cuda/device_emulated.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/cuda/device_state.h"

extern "C" {
#include "base/alloc.h"
}

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n)   ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

namespace
{

const size_t ALIGN = 256, GUARD = 256;
const uint8_t GUARD_BYTE = 0xa5;

/* malloc's block: slack up to the alignment, a guard, the memory, a guard. */
struct area {
    area *next;
    uint8_t *raw, *p;
    uint64_t bytes;
    bool shared;
};

struct pinned {
    pinned *next;
    uint8_t *host;
    uint64_t bytes;
};

struct emulated : ps_device {
    area *areas;
    pinned *pins;
    uint64_t limit, used;
    uint32_t n_marks;
    double *mark_ms; /* [n_marks], negative: never set */
    uint32_t fault_word;
};

emulated *self(struct ps_device *d)
{
    return static_cast<emulated *>(d);
}

double now_ms()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

uint64_t env_number(const char *name, uint64_t otherwise)
{
    const char *s = getenv(name);
    return s && *s ? strtoull(s, NULL, 10) : otherwise;
}

/* ---- memory ---- */

int new_area(emulated *e, void **out, uint64_t bytes, bool shared, struct ps_err *err)
{
    PS_ASSERT(bytes > 0);
    if (!shared && bytes > e->limit - e->used)
        return ps_err_set(err, PS_EBUDGET, "device", "no room for %llu bytes on the emulated device",
                          (unsigned long long)bytes);
    area *a = (area *)ps_malloc(sizeof *a);
    uint8_t *raw = (uint8_t *)ps_malloc(bytes + ALIGN + 2 * GUARD);
    if (!a || !raw) {
        ps_free(a);
        ps_free(raw);
        return ps_err_set(err, PS_ENOMEM, "device", "no memory for an emulated device");
    }
    uint8_t *p = (uint8_t *)(((uintptr_t)raw + GUARD + ALIGN - 1) / ALIGN * ALIGN);
    memset(p - GUARD, GUARD_BYTE, GUARD);
    memset(p + bytes, GUARD_BYTE, GUARD);
    memset(p, 0xff, bytes);
    ASAN_POISON_MEMORY_REGION(p - GUARD, GUARD);
    ASAN_POISON_MEMORY_REGION(p + bytes, GUARD);
    *a = {e->areas, raw, p, bytes, shared};
    e->areas = a;
    e->used += shared ? 0 : bytes;
    *out = p;
    return 0;
}

void check_guards(const area *a)
{
    ASAN_UNPOISON_MEMORY_REGION(a->p - GUARD, GUARD);
    ASAN_UNPOISON_MEMORY_REGION(a->p + a->bytes, GUARD);
    for (size_t i = 0; i < GUARD; i++) {
        PS_ASSERT(a->p[-1 - (ptrdiff_t)i] == GUARD_BYTE); /* a kernel wrote in front of its memory */
        PS_ASSERT(a->p[a->bytes + i] == GUARD_BYTE);      /* a kernel wrote behind its memory */
    }
}

void free_area(emulated *e, void *p, bool shared)
{
    if (!p)
        return;
    area **at = &e->areas;
    while (*at && (*at)->p != p)
        at = &(*at)->next;
    area *a = *at;
    PS_ASSERT(a && a->shared == shared); /* not from alloc, or freed twice */
    check_guards(a);
    *at = a->next;
    e->used -= shared ? 0 : a->bytes;
    ps_free(a->raw);
    ps_free(a);
}

void check_inside(emulated *e, const void *p, uint64_t bytes)
{
    const uint8_t *b = (const uint8_t *)p;
    for (const area *a = e->areas; a; a = a->next)
        if (b >= a->p && bytes <= a->bytes && (uint64_t)(b - a->p) <= a->bytes - bytes)
            return;
    PS_ASSERT(!"a copy that does not lie in one allocation of the device");
}

int emulated_alloc(struct ps_device *d, void **out, uint64_t bytes, struct ps_err *err)
{
    return new_area(self(d), out, bytes, false, err);
}

void emulated_free(struct ps_device *d, void *p)
{
    free_area(self(d), p, false);
}

int emulated_alloc_shared(struct ps_device *d, void **out, uint64_t bytes, struct ps_err *err)
{
    return new_area(self(d), out, bytes, true, err);
}

void emulated_free_shared(struct ps_device *d, void *p)
{
    free_area(self(d), p, true);
}

int emulated_pin(struct ps_device *d, void *host, uint64_t bytes, struct ps_err *err)
{
    PS_ASSERT(bytes > 0 && (uintptr_t)host % 4096 == 0 && bytes % 4096 == 0);
    emulated *e = self(d);
    uint8_t *h = (uint8_t *)host;
    for (const pinned *p = e->pins; p; p = p->next)
        PS_ASSERT(h + bytes <= p->host ||
                  p->host + p->bytes <= h); /* CUDA refuses to pin a page twice */
    pinned *p = (pinned *)ps_malloc(sizeof *p);
    if (!p)
        return ps_err_set(err, PS_ENOMEM, "device", "no memory for an emulated device");
    *p = {e->pins, h, bytes};
    e->pins = p;
    return 0;
}

void emulated_unpin(struct ps_device *d, void *host)
{
    pinned **at = &self(d)->pins;
    while (*at && (*at)->host != host)
        at = &(*at)->next;
    PS_ASSERT(*at); /* not pinned, or not its beginning */
    pinned *p = *at;
    *at = p->next;
    ps_free(p);
}

/* ---- streams ---- */

int emulated_copy_in(struct ps_device *d, enum ps_stream s, void *to, const void *host, uint64_t bytes)
{
    (void)s;
    check_inside(self(d), to, bytes);
    memcpy(to, host, bytes);
    return d->failed;
}

int emulated_copy_out(struct ps_device *d, enum ps_stream s, void *host, const void *from,
                      uint64_t bytes)
{
    (void)s;
    check_inside(self(d), from, bytes);
    memcpy(host, from, bytes);
    return d->failed;
}

int emulated_copy_within(struct ps_device *d, enum ps_stream s, void *to, const void *from,
                         uint64_t bytes)
{
    (void)s;
    check_inside(self(d), to, bytes);
    check_inside(self(d), from, bytes);
    memcpy(to, from, bytes);
    return d->failed;
}

int emulated_fill(struct ps_device *d, enum ps_stream s, void *to, uint8_t byte, uint64_t bytes)
{
    (void)s;
    check_inside(self(d), to, bytes);
    memset(to, byte, bytes);
    return d->failed;
}

int emulated_mark(struct ps_device *d, enum ps_stream s, uint32_t mark)
{
    (void)s;
    PS_ASSERT(mark < self(d)->n_marks);
    self(d)->mark_ms[mark] = now_ms();
    return d->failed;
}

int emulated_wait_mark(struct ps_device *d, enum ps_stream s, uint32_t mark)
{
    (void)s;
    PS_ASSERT(mark < self(d)->n_marks);
    return d->failed;
}

int emulated_await(struct ps_device *d, uint32_t mark, struct ps_err *err)
{
    PS_ASSERT(mark < self(d)->n_marks);
    return ps_device_status(d, err);
}

int emulated_reached(struct ps_device *d, uint32_t mark, struct ps_err *err)
{
    int rc = emulated_await(d, mark, err);
    return rc ? rc : 1;
}

int emulated_elapsed_ms(struct ps_device *d, uint32_t from, uint32_t to, float *out)
{
    emulated *e = self(d);
    PS_ASSERT(from < e->n_marks && to < e->n_marks && e->mark_ms[from] >= 0 && e->mark_ms[to] >= 0);
    *out = (float)(e->mark_ms[to] - e->mark_ms[from]);
    return d->failed;
}

int emulated_sync(struct ps_device *d, struct ps_err *err)
{
    return ps_device_status(d, err);
}

/* ---- the device ---- */

void emulated_close(struct ps_device *d)
{
    if (!d)
        return;
    emulated *e = self(d);
    while (e->areas)
        free_area(e, e->areas->p, e->areas->shared);
    while (e->pins)
        emulated_unpin(d, e->pins->host);
    ps_free(e->mark_ms);
    ps_free(e);
}

int emulated_open(struct ps_device **out, const struct ps_device_options *o, struct ps_err *err)
{
    if (o->index != 0)
        return ps_err_set(err, PS_EUNSUPPORTED, "device",
                          "there is one emulated device, number 0; %u was asked for", o->index);
    emulated *e = (emulated *)ps_calloc(1, sizeof *e);
    double *marks = (double *)ps_calloc(o->n_marks + 1, sizeof *marks);
    if (!e || !marks) {
        ps_free(e);
        ps_free(marks);
        return ps_err_set(err, PS_ENOMEM, "device", "no memory for an emulated device");
    }
    for (uint32_t i = 0; i < o->n_marks; i++)
        marks[i] = -1;
    e->mark_ms = marks;
    e->n_marks = o->n_marks;
    e->fault = &e->fault_word;
    e->arch = (unsigned)env_number("PENSTOCK_EMULATED_ARCH", 90);
    e->limit = env_number("PENSTOCK_EMULATED_VRAM_MB", 1024) << 20;
    *out = e;
    return 0;
}

void emulated_info(struct ps_device *d, struct ps_device_info *out)
{
    emulated *e = self(d);
    *out = {};
    snprintf(out->name, sizeof out->name, "emulation on the CPU");
    snprintf(out->arch, sizeof out->arch, "sm_%u", e->arch);
    out->memory_bytes = e->limit;
    out->free_bytes = e->limit - e->used;
    out->codecs = ps_device_codecs();
}

struct ps_device_api make_table()
{
    struct ps_device_api api = {};
    api.abi = PS_DEVICE_ABI;
    api.kind = "emulated";
    api.open = emulated_open;
    api.close = emulated_close;
    api.info = emulated_info;
    api.alloc = emulated_alloc;
    api.free = emulated_free;
    api.pin = emulated_pin;
    api.unpin = emulated_unpin;
    api.alloc_shared = emulated_alloc_shared;
    api.free_shared = emulated_free_shared;
    api.copy_in = emulated_copy_in;
    api.copy_out = emulated_copy_out;
    api.copy_within = emulated_copy_within;
    api.fill = emulated_fill;
    api.mark = emulated_mark;
    api.wait_mark = emulated_wait_mark;
    api.await = emulated_await;
    api.reached = emulated_reached;
    api.elapsed_ms = emulated_elapsed_ms;
    api.sync = emulated_sync;
    ps_device_fill_ops(&api);
    return api;
}

} // namespace

void ps_device_enter(struct ps_device *d)
{
    (void)d;
}

const char *ps_device_launch_text(int launch_error)
{
    return launch_error == -1 ? "a launch of a shape that no GPU takes" : "launch failed";
}

const struct ps_device_api *ps_emulated_device(void)
{
    static const struct ps_device_api api = make_table();
    return &api;
}
