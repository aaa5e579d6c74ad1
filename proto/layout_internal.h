/* Private to proto: the two halves of opening a model. layout.c decides which kind it is,
 * layout_folder.c reads a plain folder. */
#ifndef PS_PROTO_LAYOUT_INTERNAL_H
#define PS_PROTO_LAYOUT_INTERNAL_H
#include <stdbool.h>
#include "base/err.h"
#include "proto/map.h"
#include "proto/source.h"

/* Outcome of one blocking request that may fail without failing the rest. */
struct ps_fetched {
    int rc;
    struct ps_err err;
    char *bytes; /* heap */
    size_t len;
    struct ps_object_info info;
};
/* A whole object. A web page instead of it (ps_text_is_markup) counts as PS_ENOTFOUND: nothing
 * that is fetched so begins with '<'. */
void ps_fetch(struct ps_fetched *f, struct ps_source *src, const char *name, uint64_t max_bytes);
void ps_fetched_deinit(struct ps_fetched *f);
/* Missing, or hidden by a store that answers 403 for keys that do not exist. */
bool ps_fetched_is_missing(const struct ps_fetched *f);

/* The map of a folder with config.json (its bytes are given) and safetensors files. */
int ps_folder_open(struct ps_map **out, struct ps_source *src, const char *config,
                   size_t config_len, struct ps_err *err);
#endif
