/* Private to proto: the two halves of opening a model. layout.c decides which kind it is,
 * layout_folder.c reads a plain folder. */
#ifndef PS_PROTO_LAYOUT_INTERNAL_H
#define PS_PROTO_LAYOUT_INTERNAL_H
#include <stdatomic.h>
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
 * that is fetched so begins with '<'. withdrawn: nullable, as in struct ps_terms. */
void ps_fetch(struct ps_fetched *f, struct ps_source *src, const char *name, uint64_t max_bytes,
              const atomic_bool *withdrawn);
void ps_fetched_deinit(struct ps_fetched *f);
/* Missing, or hidden by a store that answers 403 for keys that do not exist. */
bool ps_fetched_is_missing(const struct ps_fetched *f);

/* The first question to every model: both answers decide what it is. */
struct ps_roots {
    struct ps_source *src;
    struct ps_fetched manifest, config;
};
#define PS_CONFIG_NAME      "config.json"
#define PS_CONFIG_MAX_BYTES (16u << 20)
/* Asks for both at the same time. One is PS_ECANCELLED where the other has decided that there is nothing to open
 * without it (layout_roots.c says how long it is waited for). 0, or PS_E... if not even that could be done. */
int ps_roots_fetch(struct ps_roots *r, struct ps_err *err);
/* Each alone, as often as wanted; what was there before has been freed. */
void ps_roots_fetch_manifest(struct ps_roots *r);
void ps_roots_fetch_config(struct ps_roots *r);

/* The map of a folder with config.json (its bytes are given) and safetensors files. */
int ps_folder_open(struct ps_map **out, struct ps_source *src, const char *config,
                   size_t config_len, struct ps_err *err);
#endif
