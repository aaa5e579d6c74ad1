/* What an interrupted split leaves for the next one: a text that names the split and, a line each, the shards that are
 * finished. Pure. */
#ifndef PS_TOOLS_SPLIT_JOURNAL_H
#define PS_TOOLS_SPLIT_JOURNAL_H
#include "tools/split_tree.h"

#define PS_SPLIT_JOURNAL           ".penstock-split"
#define PS_SPLIT_JOURNAL_MAX_BYTES (16u << 20)
#define PS_SPLIT_LINE_MAX          256
#define PS_SPLIT_NAME_MAX          96

/* The first line, newline included. A journal that begins otherwise is of another split. */
void ps_split_journal_head(char out[PS_SPLIT_NAME_MAX], const uint8_t key[PS_SHA256_BYTES]);
/* A shard's line, newline included; returns its length. */
int ps_split_journal_line(char *out, size_t cap, uint32_t shard, const struct ps_split_done *d);
bool ps_split_journal_parse(const char *line, uint32_t *shard, struct ps_split_done *d);

/* File name of a shard inside shards/, and whether a name there could be one of ours: nothing else is ever removed. */
void ps_split_shard_file(char out[PS_SPLIT_NAME_MAX], const uint8_t sha[PS_SHA256_BYTES]);
bool ps_split_is_shard_file(const char *name, uint8_t sha[PS_SHA256_BYTES]);
/* Whether a finished split names it. */
bool ps_split_names_shard(const struct ps_split_done *done, uint32_t n,
                          const uint8_t sha[PS_SHA256_BYTES]);
#endif
