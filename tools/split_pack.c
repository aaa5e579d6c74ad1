/* Rounding, coding, or neither: see split_pack.h. */
#include "tools/split_pack.h"

#include "kernels/codec/codec.h"
#include "kernels/codec/quant_encode.h"
#include "proto/quant.h"

/* False: no type of few bits is near enough. */
static bool round_rows(struct ps_packed *p, enum ps_dtype quant, const struct ps_tensor *t,
                       const struct ps_extent *e, const void *raw, void *out)
{
    for (; quant != PS_DTYPE_NONE; quant = ps_quant_wider(quant)) {
        struct ps_quant_error error;
        size_t row = ps_quant_row_bytes(quant, (size_t)t->cols);
        if (row >= t->row_bytes ||
            ps_quant_rows_encode(out, quant, t->dtype, raw, e->n_rows, (size_t)t->cols, &error) != 0)
            continue;
        p->error = error;
        if (ps_quant_error_relative(&error) > ps_quant_error_limit(quant))
            continue;
        p->dtype = quant;
        p->raw_bytes = p->stored_bytes = (uint32_t)(e->n_rows * row);
        return true;
    }
    p->error.error2 = 0;
    p->error.max_error = 0;
    return false;
}

/* Block by block. An extent in which no block shrank is stored raw: whoever reads it later need not copy it. */
static int code_blocks(struct ps_packed *p, enum ps_codec codec, const struct ps_tensor *t,
                       const struct ps_extent *e, const uint8_t *raw, uint8_t *out,
                       uint32_t *block_bytes, struct ps_err *err)
{
    size_t block = (size_t)t->block_rows * t->row_bytes, in = 0, at = 0;
    uint32_t n_blocks = 0;
    while (in < e->raw_bytes) {
        size_t n = e->raw_bytes - in < block ? e->raw_bytes - in : block, packed;
        int rc = ps_codec_encode(codec, t->dtype, raw + in, n, out + at, &packed, err);
        if (rc != 0)
            return rc;
        block_bytes[n_blocks++] = (uint32_t)packed;
        in += n;
        at += packed;
    }
    if (at >= in)
        return 0;
    p->codec = codec;
    p->stored_bytes = (uint32_t)at;
    p->n_blocks = n_blocks;
    p->in_place = false;
    return 0;
}

int ps_split_pack(struct ps_packed *p, enum ps_codec codec, enum ps_dtype quant,
                  const struct ps_tensor *t, const struct ps_extent *e, const void *raw, void *out,
                  uint32_t *block_bytes, struct ps_err *err)
{
    *p = (struct ps_packed){.codec = PS_CODEC_RAW,
                            .dtype = t->dtype,
                            .raw_bytes = e->raw_bytes,
                            .stored_bytes = e->raw_bytes};
    if (quant != PS_DTYPE_NONE && round_rows(p, quant, t, e, raw, out))
        return 0;
    p->in_place = true;
    return codec == PS_CODEC_RAW ? 0 : code_blocks(p, codec, t, e, raw, out, block_bytes, err);
}
