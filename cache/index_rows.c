/* Rows of the index. In: bytes out of its tables; out: structs that can be believed. */
#include "cache/index_rows.h"

#include <string.h>
#include "base/hash.h"

/* Any number but 0, so that a row that lacks the checksum (format 1 had zeros there) never seems to have it. */
#define HEAD_SEED 0x6b636f74u

static uint32_t head_check(uint32_t format)
{
    return ps_crc32c(HEAD_SEED, &format, sizeof format);
}

static uint32_t meta_check(const struct ps_index_meta *meta)
{
    return ps_crc32c(0, meta, offsetof(struct ps_index_meta, check));
}

static uint32_t model_check(const struct ps_model *model)
{
    return ps_crc32c(0, model, offsetof(struct ps_model, check));
}

void ps_rows_seal_meta(struct ps_index_meta *meta)
{
    meta->format_check = head_check(meta->format);
    meta->check = meta_check(meta);
}

int ps_rows_read_meta(const void *row, size_t bytes, struct ps_index_meta *meta, uint32_t *format)
{
    uint32_t head[2] = {0, 0};
    struct ps_index_meta m;
    if (bytes >= sizeof head)
        memcpy(head, row, sizeof head);
    if (format)
        *format = head[0];
    if (bytes < sizeof head || head_check(head[0]) != head[1])
        return PS_EDATA;
    if (head[0] > PS_INDEX_FORMAT)
        return PS_EUNSUPPORTED;
    if (head[0] != PS_INDEX_FORMAT || bytes != sizeof m)
        return PS_EDATA;
    memcpy(&m, row, sizeof m);
    if (meta_check(&m) != m.check)
        return PS_EDATA;
    *meta = m;
    return 0;
}

void ps_rows_seal_model(struct ps_model *model)
{
    model->label[PS_INDEX_LABEL_MAX - 1] = 0;
    model->check = model_check(model);
}

int ps_rows_read_model(const void *row, size_t bytes, struct ps_model *model)
{
    struct ps_model m;
    if (bytes != sizeof m)
        return PS_EDATA;
    memcpy(&m, row, sizeof m);
    if (model_check(&m) != m.check || m.label[PS_INDEX_LABEL_MAX - 1] != 0)
        return PS_EDATA;
    *model = m;
    return 0;
}

void ps_rows_model_key(uint16_t number, uint8_t key[3])
{
    key[0] = 'm';
    key[1] = (uint8_t)(number >> 8);
    key[2] = (uint8_t)number;
}

void ps_rows_parts_key(uint16_t number, unsigned row, uint8_t key[5])
{
    key[0] = 'p';
    key[1] = (uint8_t)(number >> 8);
    key[2] = (uint8_t)number;
    key[3] = (uint8_t)(row >> 8);
    key[4] = (uint8_t)row;
}

static size_t parts_bytes(const struct ps_rows_parts *p)
{
    return offsetof(struct ps_rows_parts, bytes) + p->n * sizeof p->bytes[0];
}

static uint32_t parts_check(const struct ps_rows_parts *p)
{
    return ps_crc32c(0, &p->n, parts_bytes(p) - sizeof p->check);
}

size_t ps_rows_seal_parts(struct ps_rows_parts *parts)
{
    parts->check = parts_check(parts);
    return parts_bytes(parts);
}

int ps_rows_read_parts(const void *row, size_t bytes, struct ps_rows_parts *parts)
{
    struct ps_rows_parts p = {.n = 0};
    if (bytes > sizeof p || bytes < parts_bytes(&p))
        return PS_EDATA;
    memcpy(&p, row, bytes);
    if (p.n > PS_ROWS_PARTS || bytes != parts_bytes(&p) || parts_check(&p) != p.check)
        return PS_EDATA;
    *parts = p;
    return 0;
}

bool ps_rows_record_is_sane(const struct ps_record *rec)
{
    return rec->cls < PS_CACHE_CLASSES && rec->bytes > 0 &&
           rec->bytes <= ps_budget_class_bytes(rec->cls);
}

uint32_t ps_rows_bitmap_key(int cls, uint32_t slot)
{
    return (uint32_t)cls << 24 | slot / PS_ROWS_SLOTS_BITS;
}
