/* Reader of safetensors headers (format of huggingface/safetensors: u64 little-endian length,
 * JSON, data). Pure code over bytes. Refuses what the reference implementation refuses: overlaps,
 * holes, wrong sizes, overflow, unknown types, duplicate names, a header over 100 MB or beyond the
 * file, non-UTF-8, metadata that is not string to string. */
#ifndef PS_PROTO_SAFETENSORS_H
#define PS_PROTO_SAFETENSORS_H
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "proto/dtype.h"
#include "proto/map.h"

#define PS_SAFETENSORS_MAX_HEADER (100ull * 1000 * 1000)

struct ps_st_tensor {
    const char *name; /* borrowed from the header object */
    enum ps_dtype dtype;
    uint8_t n_dims;
    uint64_t shape[PS_MAX_DIMS];
    uint64_t begin, end; /* in the FILE (header length added) */
};
struct ps_st_header {
    uint64_t header_bytes;        /* 8 + JSON length: where data begins */
    uint64_t file_bytes;          /* header_bytes + end of the last tensor */
    struct ps_st_tensor *tensors; /* sorted by begin */
    uint32_t n_tensors;
    void *impl;
};
/* Total bytes that must be at hand to parse (8 + JSON length), from the first 8 bytes. PS_EDATA if
 * absurd; file_bytes 0 = unknown. */
int ps_st_header_bytes(uint64_t *out, const void *first8, size_t len, uint64_t file_bytes,
                       struct ps_err *err);
/* Parses 8 + n bytes. file_bytes (0 = unknown) must equal the size that the header implies. */
int ps_st_parse(struct ps_st_header **out, const void *bytes, size_t len, uint64_t file_bytes,
                struct ps_err *err);
void ps_st_free(struct ps_st_header *h);
#endif
