/* Bounded memory for unpacking. Comes in: allocation requests of protobuf-c. Goes out: memory, or no. */
#include "proto/pb_alloc.h"

#include "base/alloc.h"

/* Measured on real manifests and indexes: 2 to 4 bytes in memory per byte on the wire. */
#define BYTES_PER_WIRE_BYTE 16
#define FIXED_BYTES         65536

static void *pb_alloc(void *user, size_t bytes)
{
    struct ps_pb_alloc *a = user;
    if (bytes > a->left_bytes)
        return NULL;
    void *p = ps_malloc(bytes);
    if (p)
        a->left_bytes -= bytes;
    else
        a->out_of_memory = true;
    return p;
}

static void pb_free(void *user, void *p)
{
    (void)user;
    ps_free(p);
}

void ps_pb_alloc_init(struct ps_pb_alloc *a, size_t wire_bytes)
{
    a->allocator = (ProtobufCAllocator){.alloc = pb_alloc, .free = pb_free, .allocator_data = a};
    a->out_of_memory = false;
    if (__builtin_mul_overflow(wire_bytes, (size_t)BYTES_PER_WIRE_BYTE, &a->left_bytes) ||
        __builtin_add_overflow(a->left_bytes, (size_t)FIXED_BYTES, &a->left_bytes))
        a->left_bytes = 0;
}
