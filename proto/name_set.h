/* Private to proto: a set of indexes found by name, for tensors and objects whose names come from
 * remote bytes. Open addressing with a keyed hash (SipHash-1-3, Aumasson and Bernstein 2012; key
 * drawn per set), because a hostile header could otherwise list a million names that collide. The
 * names stay with the caller, who gives them through a function. Not thread-safe while it grows. */
#ifndef PS_PROTO_NAME_SET_H
#define PS_PROTO_NAME_SET_H
#include <stddef.h>
#include <stdint.h>

struct ps_name_set {
    uint32_t *slots; /* index + 1; 0 = empty */
    uint32_t size;   /* of slots: 0 or a power of two */
    uint32_t count;
    uint64_t seed;
};
/* Name of entry i, NUL-terminated; called only for indexes that were inserted. */
typedef const char *(*ps_name_at_fn)(const void *user, uint32_t i);

void ps_name_set_init(struct ps_name_set *s);
void ps_name_set_deinit(struct ps_name_set *s);
/* Inserts entry `index`, whose name name_at can already give. 0, PS_ENOMEM, or PS_EDATA if an
 * equal name is inside. */
int ps_name_set_insert(struct ps_name_set *s, ps_name_at_fn name_at, const void *user,
                       uint32_t index);
/* Index of `name`, or -1. */
int64_t ps_name_set_find(const struct ps_name_set *s, ps_name_at_fn name_at, const void *user,
                         const char *name);
#endif
