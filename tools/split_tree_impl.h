/* What a kind of destination provides: split_tree.h says what each function does. Private to tools/split_*.c. */
#ifndef PS_TOOLS_SPLIT_TREE_IMPL_H
#define PS_TOOLS_SPLIT_TREE_IMPL_H
#include "tools/split_journal.h"
#include "tools/split_tree.h"

struct ps_split_tree_ops {
    void (*close)(struct ps_split_tree *t);
    int (*begin)(struct ps_split_tree *t, uint64_t data_begin, struct ps_err *err);
    int (*write)(struct ps_split_tree *t, const void *bytes, size_t len, uint64_t offset,
                 struct ps_err *err);
    int (*finish_shard)(struct ps_split_tree *t, uint32_t shard, const struct ps_split_done *d,
                        struct ps_err *err);
    int (*put)(struct ps_split_tree *t, const char *name, const void *bytes, size_t len,
               struct ps_err *err);
    /* A small object, heap, with a NUL behind it; NULL where it can't be had. */
    char *(*get)(struct ps_split_tree *t, const char *name, size_t max_bytes);
    int (*remove)(struct ps_split_tree *t, const char *name, struct ps_err *err);
    /* Of everything but the signature. */
    int (*seal)(struct ps_split_tree *t, const void *manifest, size_t len,
                const struct ps_split_done *done, uint32_t n_shards, struct ps_err *err);
};
/* First member of every kind. */
struct ps_split_tree {
    const struct ps_split_tree_ops *ops;
};

int ps_split_folder_open(struct ps_split_tree **out, const char *dst,
                         const uint8_t key[PS_SHA256_BYTES], struct ps_split_done *done,
                         uint32_t n_shards, struct ps_err *err);
/* Of a finished split that is there already. The texts (heap) are NULL where there is none, and nothing is made. */
struct ps_split_found {
    char *where; /* the place as it may be shown */
    char *manifest, *config;
    size_t manifest_len, config_len;
};
int ps_split_folder_look(struct ps_split_found *f, const char *dst, struct ps_err *err);
int ps_split_s3_open(struct ps_split_tree **out, const struct ps_split_place *place,
                     const uint8_t key[PS_SHA256_BYTES], struct ps_split_done *done,
                     uint32_t n_shards, uint64_t max_shard_bytes, struct ps_err *err);
int ps_split_s3_look(struct ps_split_found *f, const struct ps_split_place *place,
                     struct ps_err *err);
#endif
