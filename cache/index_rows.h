/* The rows of the index as bytes: which of them can be believed. In: what a table holds; out: a struct, or a verdict.
 *
 * Counters and models carry a checksum of their own and are checked whenever they are read: a budget that rests on a
 * flipped counter is no budget. The format number has one to itself, in a place that every later format keeps, so that
 * a flipped bit is not taken for a newer version. Records have none: a wrong slot is found by counting again
 * (index_check.c), wrong bytes by the CRC of what is read.
 *
 * Pure functions; any thread. */
#ifndef PS_CACHE_INDEX_ROWS_H
#define PS_CACHE_INDEX_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "cache/index.h"

#define PS_ROWS_META        "meta" /* the key of the counters, in every format */
#define PS_ROWS_SLOTS_BITS  4096u  /* slots per bitmap */
#define PS_ROWS_SLOTS_BYTES (PS_ROWS_SLOTS_BITS / 8)

/* Sets the checksums of counters that are about to be written. */
void ps_rows_seal_meta(struct ps_index_meta *meta);
/* 0; PS_EUNSUPPORTED: sound, of a newer format; PS_EDATA: damaged. *format (nullable) is what the row says. */
int ps_rows_read_meta(const void *row, size_t bytes, struct ps_index_meta *meta, uint32_t *format);

void ps_rows_seal_model(struct ps_model *model);
/* 0 or PS_EDATA. */
int ps_rows_read_model(const void *row, size_t bytes, struct ps_model *model);
/* The key of a model's row. */
void ps_rows_model_key(uint16_t number, uint8_t key[3]);

/* Sizes of a model's parts, some to a row, so that no row leaves its page. */
#define PS_ROWS_PARTS 64u
struct ps_rows_parts {
    uint32_t check; /* of all behind it */
    uint32_t n;
    uint64_t bytes[PS_ROWS_PARTS]; /* the row ends behind the n-th */
};
void ps_rows_parts_key(uint16_t number, unsigned row, uint8_t key[5]);
/* Sets the checksum; returns the bytes of the row. */
size_t ps_rows_seal_parts(struct ps_rows_parts *parts);
/* 0 or PS_EDATA. */
int ps_rows_read_parts(const void *row, size_t bytes, struct ps_rows_parts *parts);

/* Values come from a file: nothing in them is used as an index before this. */
bool ps_rows_record_is_sane(const struct ps_record *rec);
/* The key of the bitmap that covers a slot. */
uint32_t ps_rows_bitmap_key(int cls, uint32_t slot);

#endif
