/* The likeliest rows of a tied matrix, kept while the head passes by. In a tied model the next token's embedding
 * row is a row of the head that has just been used; without this, its extent would be asked for a second time in
 * every sweep. Not thread-safe: the sweep's consumer owns it. */
#ifndef PS_RUNTIME_ROW_STASH_H
#define PS_RUNTIME_ROW_STASH_H
#include <stddef.h>
#include <stdint.h>

#define PS_STASH_ROWS 64u /* more than the usual top-k of 40 */

struct ps_row_stash {
    uint8_t *bytes; /* [PS_STASH_ROWS][row_bytes]; NULL: off, or they lie elsewhere */
    size_t row_bytes;
    uint32_t row[PS_STASH_ROWS];
    float score[PS_STASH_ROWS];
    uint32_t n, worst; /* entries; index of the one with the least score */
};
int ps_row_stash_init(struct ps_row_stash *s, size_t row_bytes); /* 0 or PS_ENOMEM */
void ps_row_stash_deinit(struct ps_row_stash *s);
void ps_row_stash_clear(struct ps_row_stash *s);
/* Where a row with this score belongs, in the place of a worse one; PS_STASH_ROWS if that is nowhere. Its bytes
 * are for the caller to put there: on a device they are out of our reach. */
uint32_t ps_row_stash_place(struct ps_row_stash *s, uint32_t row, float score);
uint32_t ps_row_stash_index(const struct ps_row_stash *s, uint32_t row); /* PS_STASH_ROWS if not kept */
/* Keeps a copy of the row if its score is among the best so far. */
void ps_row_stash_offer(struct ps_row_stash *s, uint32_t row, float score, const uint8_t *data);
const uint8_t *ps_row_stash_find(const struct ps_row_stash *s, uint32_t row); /* NULL if not kept */
#endif
