/* The journal of a split: see split_journal.h. */
#include "tools/split_journal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SHARD_SUFFIX ".shard"

void ps_split_journal_head(char out[PS_SPLIT_NAME_MAX], const uint8_t key[PS_SHA256_BYTES])
{
    char hex[2 * PS_SHA256_BYTES + 1];
    ps_hex_encode(key, PS_SHA256_BYTES, hex);
    snprintf(out, PS_SPLIT_NAME_MAX, "penstock-split 2 %s\n", hex);
}

int ps_split_journal_line(char *out, size_t cap, uint32_t shard, const struct ps_split_done *d)
{
    char hex[2 * PS_SHA256_BYTES + 1];
    ps_hex_encode(d->index_sha256, PS_SHA256_BYTES, hex);
    return snprintf(out, cap,
                    "%" PRIu32 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu32 " %" PRIu32 " %s\n",
                    shard, d->bytes, d->stored_bytes, d->raw_bytes, d->index_bytes, d->n_extents,
                    hex);
}

bool ps_split_journal_parse(const char *line, uint32_t *shard, struct ps_split_done *d)
{
    char hex[2 * PS_SHA256_BYTES + 2];
    *d = (struct ps_split_done){.done = true};
    return sscanf(line,
                  "%" SCNu32 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu32 " %" SCNu32 " %65s",
                  shard, &d->bytes, &d->stored_bytes, &d->raw_bytes, &d->index_bytes, &d->n_extents,
                  hex) == 7 &&
           ps_hex_decode(hex, strlen(hex), d->index_sha256, PS_SHA256_BYTES) == 0;
}

void ps_split_shard_file(char out[PS_SPLIT_NAME_MAX], const uint8_t sha[PS_SHA256_BYTES])
{
    ps_hex_encode(sha, PS_SHA256_BYTES, out);
    memcpy(out + 2 * PS_SHA256_BYTES, SHARD_SUFFIX, sizeof SHARD_SUFFIX);
}

bool ps_split_is_shard_file(const char *name, uint8_t sha[PS_SHA256_BYTES])
{
    size_t n = strlen(name);
    return n == 2 * PS_SHA256_BYTES + sizeof SHARD_SUFFIX - 1 &&
           strcmp(name + 2 * PS_SHA256_BYTES, SHARD_SUFFIX) == 0 &&
           ps_hex_decode(name, 2 * PS_SHA256_BYTES, sha, PS_SHA256_BYTES) == 0;
}

bool ps_split_names_shard(const struct ps_split_done *done, uint32_t n,
                          const uint8_t sha[PS_SHA256_BYTES])
{
    for (uint32_t i = 0; i < n; i++)
        if (memcmp(done[i].index_sha256, sha, PS_SHA256_BYTES) == 0)
            return true;
    return false;
}
