/* Private to proto: model.safetensors.index.json, which says in which file each tensor lies. */
#ifndef PS_PROTO_WEIGHT_MAP_H
#define PS_PROTO_WEIGHT_MAP_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "proto/name_set.h"

#define PS_MAX_FILES 16384u

struct ps_weight {
    const char *name;
    uint32_t file;
    bool seen; /* the reader of the files marks what it found */
};
struct ps_weight_map {
    char *names; /* arena of all texts below */
    struct ps_weight *weights;
    uint32_t n_weights;
    const char **files; /* in name order */
    uint32_t n_files;
    struct ps_name_set by_name; /* over weights */
};
/* PS_EDATA: malformed, a file name that is not ps_name_ok, no tensor at all. */
int ps_weight_map_parse(struct ps_weight_map **out, const void *json, size_t len, struct ps_err *err);
void ps_weight_map_free(struct ps_weight_map *w); /* nullable */
/* Borrowed entry, or NULL. */
struct ps_weight *ps_weight_map_find(struct ps_weight_map *w, const char *tensor);
#endif
