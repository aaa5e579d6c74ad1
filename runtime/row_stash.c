/* See row_stash.h. */
#include "runtime/row_stash.h"

#include <string.h>

#include "base/alloc.h"
#include "base/err.h"

int ps_row_stash_init(struct ps_row_stash *s, size_t row_bytes)
{
    memset(s, 0, sizeof *s);
    s->row_bytes = row_bytes;
    s->bytes = ps_malloc(PS_STASH_ROWS * row_bytes);
    return s->bytes ? 0 : PS_ENOMEM;
}

void ps_row_stash_deinit(struct ps_row_stash *s)
{
    ps_free(s->bytes);
    s->bytes = NULL;
}

void ps_row_stash_clear(struct ps_row_stash *s)
{
    s->n = 0;
}

static void find_worst(struct ps_row_stash *s)
{
    s->worst = 0;
    for (uint32_t i = 1; i < s->n; i++)
        if (s->score[i] < s->score[s->worst])
            s->worst = i;
}

uint32_t ps_row_stash_place(struct ps_row_stash *s, uint32_t row, float score)
{
    if (s->n == PS_STASH_ROWS && !(score > s->score[s->worst]))
        return PS_STASH_ROWS;
    uint32_t at = s->n < PS_STASH_ROWS ? s->n++ : s->worst;
    s->row[at] = row;
    s->score[at] = score;
    if (s->n == PS_STASH_ROWS)
        find_worst(s);
    return at;
}

uint32_t ps_row_stash_index(const struct ps_row_stash *s, uint32_t row)
{
    uint32_t i = 0;
    while (i < s->n && s->row[i] != row)
        i++;
    return i < s->n ? i : PS_STASH_ROWS;
}

void ps_row_stash_offer(struct ps_row_stash *s, uint32_t row, float score, const uint8_t *data)
{
    uint32_t at = s->bytes ? ps_row_stash_place(s, row, score) : PS_STASH_ROWS;
    if (at < PS_STASH_ROWS)
        memcpy(s->bytes + at * s->row_bytes, data, s->row_bytes);
}

const uint8_t *ps_row_stash_find(const struct ps_row_stash *s, uint32_t row)
{
    uint32_t at = s->bytes ? ps_row_stash_index(s, row) : PS_STASH_ROWS;
    return at < PS_STASH_ROWS ? s->bytes + at * s->row_bytes : NULL;
}
