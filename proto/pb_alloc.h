/* Private to proto: protobuf-c's memory through base/alloc.h, with a ceiling. An unpacked message
 * can be many times larger than its bytes (an empty sub-message takes two bytes on the wire and a
 * struct in memory), so what remote bytes may cost is fixed beforehand. */
#ifndef PS_PROTO_PB_ALLOC_H
#define PS_PROTO_PB_ALLOC_H
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

struct ps_pb_alloc {
    ProtobufCAllocator allocator; /* hand this to unpack and free_unpacked */
    size_t left_bytes;  /* of the ceiling; frees give nothing back: it bounds the work too */
    bool out_of_memory; /* the system said no, not the ceiling */
};
/* Ceiling for a message of wire_bytes: what honest messages need, several times over. */
void ps_pb_alloc_init(struct ps_pb_alloc *a, size_t wire_bytes);
#endif
