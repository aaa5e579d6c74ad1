/* Blocks of weights, taken apart and put together. Comes in: rows of weights, or a block written by anyone. Goes
 * out: the other. */
#include "kernels/codec/block.h"

#include <string.h>

const struct ps_block_ops ps_block_ops_scalar = {
    .name = "scalar",
    .wh_piece = ps_wh_piece,
    .xc34_piece = ps_xc34_piece,
    .wh_deal = ps_wh_deal,
    .join = ps_planes_join,
};

/* ---- Unpacking ---- */

struct reader {
    const struct ps_block_ops *ops;
    enum ps_dtype type;
    const uint8_t *in;
    struct ps_block_head head;
    struct ps_wh wh;
    struct ps_xc34 xc34;
    uint8_t constant[PS_BLOCK_MAX_REST][PS_PLANES_CHUNK]; /* of rest planes that are not stored */
};

static bool open_plane(struct reader *r)
{
    const struct ps_block_head *h = &r->head;
    switch (h->codec) {
    case PS_CODEC_WH: return ps_wh_open(&r->wh, r->in + h->plane_at, h->plane_bytes, h->n);
    case PS_CODEC_XC34: return ps_xc34_open(&r->xc34, r->in + h->plane_at, h->plane_bytes, h->n);
    default: return true; /* RAW and CONST: their sizes have been checked */
    }
}

/* Exponents of one piece: where they lie, or in `e`. NULL: they do not add up. */
static const uint8_t *piece_exponents(const struct reader *r, size_t piece, uint8_t *e,
                                      struct ps_ahead ahead)
{
    const struct ps_block_head *h = &r->head;
    switch (h->codec) {
    case PS_CODEC_WH: return r->ops->wh_piece(&r->wh, piece, e, ahead) ? e : NULL;
    case PS_CODEC_XC34: return r->ops->xc34_piece(&r->xc34, piece, e, ahead) ? e : NULL;
    case PS_CODEC_RAW: return r->in + h->plane_at + piece * PS_BLOCK_PIECE;
    default: memset(e, h->exponent, PS_BLOCK_PIECE); return e;
    }
}

static void join_piece(const struct reader *r, size_t first, size_t n, const uint8_t *e, uint8_t *out)
{
    const struct ps_block_head *h = &r->head;
    unsigned each = ps_block_weight_bytes(r->type);
    for (size_t i = 0; i < n; i += PS_PLANES_CHUNK) {
        const uint8_t *rest[PS_BLOCK_MAX_REST];
        for (unsigned p = 0; p < PS_BLOCK_MAX_REST; p++)
            rest[p] = h->rest_const[p]
                          ? r->constant[p]
                          : r->in + h->rest_at[p] + ps_block_rest_bytes(r->type, p, first + i);
        r->ops->join(out + i * each, r->type, e + i, rest,
                     n - i < PS_PLANES_CHUNK ? n - i : PS_PLANES_CHUNK);
    }
}

bool ps_block_decode(const struct ps_block_ops *ops, enum ps_codec codec, enum ps_dtype t,
                     const uint8_t *in, size_t in_bytes, uint8_t *out, size_t out_bytes)
{
    struct reader r;
    uint8_t e[PS_BLOCK_PIECE + PS_PLANES_OVER];
    r.ops = ops;
    r.type = t;
    r.in = in;
    if (!ps_block_head_read(&r.head, in, in_bytes, codec, t, out_bytes) || !open_plane(&r))
        return false;
    for (unsigned p = 0; p < PS_BLOCK_MAX_REST; p++)
        if (r.head.rest_const[p])
            memset(r.constant[p], r.head.rest_byte[p], PS_PLANES_CHUNK);
    unsigned each = ps_block_weight_bytes(t);
    for (size_t first = 0; first < r.head.n; first += PS_BLOCK_PIECE) {
        size_t n = r.head.n - first < PS_BLOCK_PIECE ? r.head.n - first : PS_BLOCK_PIECE;
        uint8_t *to = out + first * each;
        struct ps_ahead ahead = {.in = in + r.head.rest_at[0] +
                                       (r.head.rest_const[0] ? 0 : ps_block_rest_bytes(t, 0, first)),
                                 .out = to,
                                 .out_end = to + n * each};
        const uint8_t *piece = piece_exponents(&r, first / PS_BLOCK_PIECE, e, ahead);
        if (!piece)
            return false;
        join_piece(&r, first, n, piece, to);
    }
    return true;
}

/* ---- Packing ---- */

/* What a first look at the weights tells. */
struct survey {
    uint32_t counts[256]; /* of exponents */
    unsigned n_exponents; /* different ones */
    bool rest_const[PS_BLOCK_MAX_REST];
    uint8_t rest_byte[PS_BLOCK_MAX_REST];
    size_t rest_bytes; /* stored for all rest planes */
};

static bool all_are(const uint8_t *p, size_t n, uint8_t byte)
{
    uint8_t other = 0;
    for (size_t i = 0; i < n; i++)
        other |= p[i] ^ byte;
    return other == 0;
}

static void look_at_rest(struct survey *v, const struct ps_planes_source *s, size_t first, size_t n)
{
    uint8_t buffer[PS_BLOCK_MAX_REST][PS_PLANES_CHUNK];
    uint8_t *rest[PS_BLOCK_MAX_REST];
    for (unsigned p = 0; p < PS_BLOCK_MAX_REST; p++)
        rest[p] = first == 0 || v->rest_const[p] ? buffer[p] : NULL;
    ps_planes_rest(rest, s, first, n);
    for (unsigned p = 0; p < PS_BLOCK_MAX_REST; p++) {
        size_t bytes = ps_block_rest_bytes(s->type, p, n);
        if (first == 0 && bytes) {
            v->rest_const[p] = true;
            v->rest_byte[p] = buffer[p][0];
        }
        if (v->rest_const[p])
            v->rest_const[p] = all_are(buffer[p], bytes, v->rest_byte[p]);
    }
}

/* Four tables, so that equal neighbours do not wait for one another. */
static void count_exponents(uint32_t counts[256], const uint8_t *e, size_t n)
{
    uint32_t part[4][256] = {{0}};
    for (size_t i = 0; i < n; i++)
        part[i % 4][e[i]]++;
    for (unsigned k = 0; k < 256; k++)
        counts[k] += part[0][k] + part[1][k] + part[2][k] + part[3][k];
}

static void survey_weights(struct survey *v, const struct ps_planes_source *s)
{
    uint8_t e[PS_BLOCK_PIECE + PS_PLANES_OVER];
    memset(v, 0, sizeof *v);
    for (size_t first = 0; first < s->n; first += PS_BLOCK_PIECE) {
        size_t n = s->n - first < PS_BLOCK_PIECE ? s->n - first : PS_BLOCK_PIECE;
        ps_planes_exponents(e, s, first, n);
        count_exponents(v->counts, e, n);
    }
    for (size_t first = 0; first < s->n; first += PS_PLANES_CHUNK)
        look_at_rest(v, s, first, s->n - first < PS_PLANES_CHUNK ? s->n - first : PS_PLANES_CHUNK);
    for (unsigned k = 0; k < 256; k++)
        v->n_exponents += v->counts[k] != 0;
    for (unsigned p = 0; p < PS_BLOCK_MAX_REST; p++)
        v->rest_bytes += v->rest_const[p] ? 0 : ps_block_align(ps_block_rest_bytes(s->type, p, s->n));
}

static enum ps_codec put_exponents(uint8_t *out, size_t cap, size_t *bytes, enum ps_codec codec,
                                   const struct ps_planes_source *s, const struct survey *v,
                                   const struct ps_block_ops *ops)
{
    size_t raw = ps_block_align(s->n), less = cap < raw ? cap : raw - 1;
    *bytes = 0;
    if (v->n_exponents == 1)
        return PS_CODEC_CONST;
    *bytes = codec == PS_CODEC_WH ? ps_wh_encode(out, less, s, v->counts, ops->wh_deal)
                                  : ps_xc34_encode(out, less, s, v->counts);
    if (*bytes != 0)
        return codec;
    *bytes = raw;
    if (raw > cap)
        return PS_CODEC_RAW; /* the caller sees that it does not fit */
    ps_planes_exponents(out, s, 0, s->n);
    memset(out + s->n, 0, raw - s->n);
    return PS_CODEC_RAW;
}

static void put_rest(uint8_t *out, const struct ps_planes_source *s, const struct survey *v)
{
    uint8_t *at[PS_BLOCK_MAX_REST] = {NULL};
    for (unsigned p = 0; p < PS_BLOCK_MAX_REST; p++) {
        size_t bytes = ps_block_rest_bytes(s->type, p, s->n);
        if (v->rest_const[p] || bytes == 0)
            continue;
        memset(out + bytes, 0, ps_block_align(bytes) - bytes);
        at[p] = out;
        out += ps_block_align(bytes);
    }
    for (size_t first = 0; first < s->n; first += PS_PLANES_CHUNK) {
        uint8_t *rest[PS_BLOCK_MAX_REST];
        for (unsigned p = 0; p < PS_BLOCK_MAX_REST; p++)
            rest[p] = at[p] ? at[p] + ps_block_rest_bytes(s->type, p, first) : NULL;
        ps_planes_rest(rest, s, first,
                       s->n - first < PS_PLANES_CHUNK ? s->n - first : PS_PLANES_CHUNK);
    }
}

static void put_head(uint8_t *out, const struct ps_planes_source *s, const struct survey *v,
                     enum ps_codec plane, size_t plane_bytes)
{
    uint32_t n = (uint32_t)s->n, bytes = (uint32_t)plane_bytes;
    memset(out, 0, PS_BLOCK_HEAD_BYTES);
    out[0] = PS_BLOCK_VERSION;
    out[1] = (uint8_t)s->type;
    out[2] = (uint8_t)plane;
    if (plane == PS_CODEC_CONST)
        ps_planes_exponents(out + 3, s, 0, 1);
    memcpy(out + 4, &n, sizeof n);
    memcpy(out + 8, &bytes, sizeof bytes);
    for (unsigned p = 0; p < PS_BLOCK_MAX_REST; p++) {
        out[12 + p] = v->rest_const[p] ? PS_CODEC_CONST : PS_CODEC_RAW;
        out[16 + p] = v->rest_const[p] ? v->rest_byte[p] : 0;
    }
}

size_t ps_block_encode(const struct ps_block_ops *ops, enum ps_codec codec, enum ps_dtype t,
                       const uint8_t *in, size_t in_bytes, uint8_t *out)
{
    unsigned each = ps_block_weight_bytes(t);
    if (each == 0 || in_bytes % each != 0)
        return 0;
    struct ps_planes_source s = {.type = t, .weights = in, .n = in_bytes / each};
    struct survey v;
    survey_weights(&v, &s);
    size_t fixed = PS_BLOCK_HEAD_BYTES + v.rest_bytes, most = in_bytes - (in_bytes * 3 + 99) / 100;
    if (fixed > most)
        return 0;
    size_t bytes;
    enum ps_codec plane =
        put_exponents(out + PS_BLOCK_HEAD_BYTES, most - fixed, &bytes, codec, &s, &v, ops);
    if (fixed + bytes > most)
        return 0;
    put_rest(out + PS_BLOCK_HEAD_BYTES + bytes, &s, &v);
    put_head(out, &s, &v, plane, bytes);
    return fixed + bytes;
}
