/* Opening a model: from a source to its map, whether pre-split or a plain Hugging Face style
 * folder. The only part of proto that asks a source for bytes (by ps_source, so still no sockets
 * and no disk here).
 *
 * Blocking; run from one thread; uses several requests at once for shard indexes and safetensors
 * headers. */
#ifndef PS_PROTO_LAYOUT_H
#define PS_PROTO_LAYOUT_H
#include "base/err.h"
#include "proto/manifest.h"
#include "proto/map.h"
#include "proto/source.h"

struct ps_model_files {
    struct ps_map *map;
    struct ps_manifest *manifest; /* NULL unless pre-split */
    char *config;                 /* config.json, NUL-terminated */
    size_t config_len;
};
/* Asks for "penstock.manifest" and "config.json" at the same time. Without a manifest
 * (PS_ENOTFOUND, or 403 from stores that hide missing keys): model.safetensors.index.json (its
 * weight_map names the files) or model.safetensors; then every file's header by range (first
 * request at most 64 KiB of each, less where config.json tells of few layers; the rest if longer).
 * The synthesised model id is the SHA-256 over config.json and, per file in name order, its name,
 * identity, size and header bytes. Errors name
 * the object and what was looked for. `tied_hint`: config.json's tie_word_embeddings, read here,
 * decides the gather flag of the embedding tensor (model.embed_tokens.weight, untied and
 * lm_head.weight present). */
int ps_model_files_open(struct ps_model_files *out, struct ps_source *src, struct ps_err *err);
/* The same, and the manifest must be signed by a key of `trust` (nullable: nothing is asked for): PS_EDATA where
 * it is not, also for a plain folder, which nobody signs. Everything else is checked against the manifest, as
 * ever. */
struct ps_trust;
int ps_model_files_open_trusted(struct ps_model_files *out, struct ps_source *src,
                                const struct ps_trust *trust, struct ps_err *err);
/* Only what the small files are checked against: manifest and config.json, no map. Without a manifest *out is empty and
 * that is no error, unless a signature is asked for. */
int ps_model_files_open_small(struct ps_model_files *out, struct ps_source *src,
                              const struct ps_trust *trust, struct ps_err *err);
void ps_model_files_close(struct ps_model_files *f);
/* A small file of the model, checked against the manifest's SHA-256 where there is one.
 * PS_ENOTFOUND if the model has no such file. */
int ps_model_files_get(char **out, size_t *len, const struct ps_model_files *f, struct ps_source *src,
                       const char *name, uint64_t max_bytes, struct ps_err *err);
/* The same with its version, as the reply or the manifest told it; of config.json, which came with the model, nothing
 * is told. */
int ps_model_files_get_as(char **out, size_t *len, struct ps_object_info *info,
                          const struct ps_model_files *f, struct ps_source *src, const char *name,
                          uint64_t max_bytes, struct ps_err *err);
/* What the manifest says of a file: identity ("sha256:...") and bytes in *info, else untouched. PS_ENOTFOUND: it
 * lists no such file; PS_EUNSUPPORTED: the model has no manifest. */
int ps_model_files_version(const struct ps_model_files *f, const char *name,
                           struct ps_object_info *info);
/* Whether these are the bytes that the manifest says; without one any are. */
bool ps_model_files_fits(const struct ps_model_files *f, const char *name, const void *bytes,
                         size_t len);
#endif
