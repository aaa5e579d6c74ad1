/* Name lookup. Comes in: names by index. Goes out: the index of a name. */
#include "proto/name_set.h"

#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/err.h"

#define FIRST_SIZE 64u

static uint64_t rotl(uint64_t x, int b)
{
    return x << b | x >> (64 - b);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotl(v[1], 13) ^ v[0];
    v[0] = rotl(v[0], 32);
    v[2] += v[3];
    v[3] = rotl(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotl(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotl(v[1], 17) ^ v[2];
    v[2] = rotl(v[2], 32);
}

/* Both halves of the key come from one 64-bit seed: enough against collisions that must be
 * prepared without knowing it. */
static uint64_t name_hash(uint64_t seed, const char *name)
{
    uint64_t k1 = seed * 0x9E3779B97F4A7C15ull + 1;
    uint64_t v[4] = {seed ^ 0x736f6d6570736575ull, k1 ^ 0x646f72616e646f6dull,
                     seed ^ 0x6c7967656e657261ull, k1 ^ 0x7465646279746573ull};
    size_t len = strlen(name), i = 0;
    for (; i + 8 <= len; i += 8) {
        uint64_t m;
        memcpy(&m, name + i, 8);
        v[3] ^= m;
        sip_round(v);
        v[0] ^= m;
    }
    uint64_t last = (uint64_t)len << 56;
    memcpy(&last, name + i, len - i); /* byte order only changes which slot is taken */
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xFF;
    for (int r = 0; r < 3; r++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

void ps_name_set_init(struct ps_name_set *s)
{
    memset(s, 0, sizeof *s);
    /* Early in boot the pool may be empty: an address is then unpredictable enough. */
    if (getrandom(&s->seed, sizeof s->seed, GRND_NONBLOCK) != (ssize_t)sizeof s->seed)
        s->seed = (uint64_t)(uintptr_t)s * 0x9E3779B97F4A7C15ull;
}

void ps_name_set_deinit(struct ps_name_set *s)
{
    ps_free(s->slots);
    s->slots = NULL;
    s->size = s->count = 0;
}

/* The slot that holds `name`, or the empty one where it belongs. There is always an empty slot: at
 * most half are taken. */
static uint32_t find_slot(const struct ps_name_set *s, ps_name_at_fn name_at, const void *user,
                          const char *name)
{
    uint32_t mask = s->size - 1;
    uint32_t i = (uint32_t)name_hash(s->seed, name) & mask;
    while (s->slots[i] != 0 && strcmp(name_at(user, s->slots[i] - 1), name) != 0)
        i = (i + 1) & mask;
    return i;
}

static int grow(struct ps_name_set *s, ps_name_at_fn name_at, const void *user)
{
    struct ps_name_set bigger = *s;
    bigger.size = s->size ? s->size * 2 : FIRST_SIZE;
    bigger.slots = ps_calloc(bigger.size, sizeof *bigger.slots);
    if (!bigger.slots)
        return PS_ENOMEM;
    for (uint32_t i = 0; i < s->size; i++)
        if (s->slots[i] != 0)
            bigger.slots[find_slot(&bigger, name_at, user, name_at(user, s->slots[i] - 1))] =
                s->slots[i];
    ps_free(s->slots);
    *s = bigger;
    return 0;
}

int ps_name_set_insert(struct ps_name_set *s, ps_name_at_fn name_at, const void *user, uint32_t index)
{
    if (s->count >= s->size / 2) {
        if (s->size > UINT32_MAX / 4)
            return PS_ENOMEM;
        int rc = grow(s, name_at, user);
        if (rc != 0)
            return rc;
    }
    uint32_t slot = find_slot(s, name_at, user, name_at(user, index));
    if (s->slots[slot] != 0)
        return PS_EDATA;
    s->slots[slot] = index + 1;
    s->count++;
    return 0;
}

int64_t ps_name_set_find(const struct ps_name_set *s, ps_name_at_fn name_at, const void *user,
                         const char *name)
{
    if (s->size == 0)
        return -1;
    uint32_t v = s->slots[find_slot(s, name_at, user, name)];
    return v == 0 ? -1 : (int64_t)v - 1;
}
