/* XC34, both ways, scalar. Comes in: exponents of a block, or a plane written by anyone. Goes out: the other. */
#include "kernels/codec/xc34.h"

#include <string.h>

#define ESCAPE      PS_XC34_SHORT
#define LONG_ESCAPE PS_XC34_LONG
#define GROUP       64u
#define GROUP_BYTES 24u

/* ---- Packing ---- */

/* The commonest exponents in order, equals by value; zeros where there are fewer. */
static void make_book(uint8_t book[PS_XC34_BOOK], uint8_t code_of[256], const uint32_t counts[256])
{
    bool taken[256] = {false};
    memset(book, 0, PS_XC34_BOOK);
    memset(code_of, PS_XC34_BOOK, 256);
    for (unsigned k = 0; k < PS_XC34_BOOK; k++) {
        unsigned best = 256;
        for (unsigned s = 0; s < 256; s++)
            if (!taken[s] && counts[s] > (best < 256 ? counts[best] : 0))
                best = s;
        if (best == 256)
            return;
        taken[best] = true;
        book[k] = (uint8_t)best;
        code_of[best] = (uint8_t)k;
    }
}

/* Where the writer of a plane stands. */
struct writer {
    const uint8_t *code_of;
    uint8_t *nibbles, *bare;
    size_t n_nibbles, n_bare;
};

static void put_escape(struct writer *w, uint8_t e)
{
    unsigned nibble = w->code_of[e] - PS_XC34_SHORT; /* LONG_ESCAPE for what is not in the book */
    w->nibbles[w->n_nibbles / 2] |= (uint8_t)(nibble << 4 * (w->n_nibbles % 2));
    w->n_nibbles++;
    if (nibble == LONG_ESCAPE)
        w->bare[w->n_bare++] = e;
}

/* Bit j of eight bytes, side by side: the products' other bits meet above and below, without a carry. */
static inline uint64_t gather_bits(uint64_t bytes, unsigned j)
{
    return (bytes >> j & 0x0101010101010101u) * 0x0102040810204080u >> 56;
}

static void put_group(struct writer *w, uint8_t *out, const uint8_t *e, size_t n)
{
    uint64_t word[3] = {0};
    uint8_t code[GROUP] = {0};
    for (size_t i = 0; i < n; i++)
        code[i] = w->code_of[e[i]] < ESCAPE ? w->code_of[e[i]] : ESCAPE;
    for (size_t i = 0; i < GROUP; i += 8) {
        uint64_t eight;
        memcpy(&eight, code + i, sizeof eight);
        for (unsigned j = 0; j < 3; j++)
            word[j] |= gather_bits(eight, j) << i;
    }
    for (uint64_t escapes = word[0] & word[1] & word[2]; escapes; escapes &= escapes - 1)
        put_escape(w, e[__builtin_ctzll(escapes)]);
    memcpy(out, word, sizeof word);
}

size_t ps_xc34_encode(uint8_t *out, size_t cap, const struct ps_planes_source *s,
                      const uint32_t counts[256])
{
    uint8_t book[PS_XC34_BOOK], code_of[256], e[PS_XC34_SEGMENT];
    struct ps_xc34_head x;
    uint32_t all[2] = {0};
    make_book(book, code_of, counts);
    for (unsigned k = 0; k < 256; k++) {
        all[0] += code_of[k] >= ESCAPE ? counts[k] : 0;
        all[1] += code_of[k] == PS_XC34_BOOK ? counts[k] : 0;
    }
    size_t bytes = ps_xc34_layout(&x, s->n, all[0], all[1]);
    if (bytes > cap)
        return 0;
    memset(out, 0, bytes);
    memcpy(out, book, sizeof book);
    memcpy(out + 24, all, sizeof all);
    struct writer w = {.code_of = code_of, .nibbles = out + x.nibbles_at, .bare = out + x.bare_at};
    for (size_t first = 0; first < s->n; first += PS_XC34_SEGMENT) {
        uint32_t before[2] = {(uint32_t)w.n_nibbles, (uint32_t)w.n_bare};
        memcpy(out + PS_XC34_SEGMENTS_AT + first / PS_XC34_SEGMENT * 8, before, sizeof before);
        size_t n = s->n - first < PS_XC34_SEGMENT ? s->n - first : PS_XC34_SEGMENT;
        ps_planes_exponents(e, s, first, n);
        uint8_t *group = out + x.groups_at + first / GROUP * GROUP_BYTES;
        for (size_t i = 0; i < n; i += GROUP, group += GROUP_BYTES)
            put_group(&w, group, e + i, n - i < GROUP ? n - i : GROUP);
    }
    return bytes;
}

/* ---- Unpacking ---- */

bool ps_xc34_open(struct ps_xc34 *x, const uint8_t *plane, size_t bytes, size_t n)
{
    x->plane = plane;
    x->n = n;
    return ps_xc34_head_read(&x->head, plane, bytes, n);
}

/* Where the reader of a plane stands. */
struct reader {
    const struct ps_xc34 *x;
    size_t nibble, bare;
};

static bool get_escape(uint8_t *e, struct reader *r)
{
    const struct ps_xc34 *x = r->x;
    if (r->nibble >= x->head.n_nibbles)
        return false;
    unsigned nibble = x->plane[x->head.nibbles_at + r->nibble / 2] >> 4 * (r->nibble % 2) & 15u;
    r->nibble++;
    if (nibble < LONG_ESCAPE) {
        *e = x->plane[PS_XC34_SHORT + nibble];
        return true;
    }
    if (r->bare >= x->head.n_bare)
        return false;
    *e = x->plane[x->head.bare_at + r->bare++];
    return true;
}

/* Bit i to byte i: 0 or 1. */
static inline uint64_t spread(unsigned bits)
{
    uint64_t x = (bits & 0xffu) * 0x0101010101010101u & 0x8040201008040201u;
    return (x + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u;
}

/* Eight codes through the book; n is less in a plane's last group. */
static void get_short(uint8_t *e, const uint8_t *book, const uint64_t word[3], size_t n)
{
    for (size_t i = 0; i < n; i += 8) {
        uint64_t codes = spread((unsigned)(word[0] >> i)) | spread((unsigned)(word[1] >> i)) << 1 |
                         spread((unsigned)(word[2] >> i)) << 2;
        size_t m = n - i < 8 ? n - i : 8;
        for (size_t k = 0; k < m; k++)
            e[i + k] = book[codes >> 8 * k & 7];
    }
}

static bool get_group(uint8_t *e, struct reader *r, const uint8_t *group, size_t n)
{
    uint64_t word[3];
    memcpy(word, group, sizeof word);
    get_short(e, r->x->plane, word, n);
    uint64_t escapes = word[0] & word[1] & word[2] & ~0ull >> (GROUP - n);
    for (; escapes; escapes &= escapes - 1)
        if (!get_escape(&e[__builtin_ctzll(escapes)], r))
            return false;
    return true;
}

bool ps_xc34_span(struct ps_xc34_span *s, const struct ps_xc34 *x, size_t segment)
{
    const uint8_t *table = x->plane + PS_XC34_SEGMENTS_AT + 8 * segment;
    bool last = segment + 1 == ps_xc34_segments(x->n);
    s->nibble = ps_block_u32(table);
    s->bare = ps_block_u32(table + 4);
    s->nibble_end = last ? x->head.n_nibbles : ps_block_u32(table + 8);
    s->bare_end = last ? x->head.n_bare : ps_block_u32(table + 12);
    return s->nibble <= s->nibble_end && s->nibble_end <= x->head.n_nibbles &&
           s->nibble_end - s->nibble <= PS_XC34_SEGMENT && s->bare <= s->bare_end &&
           s->bare_end <= x->head.n_bare && s->bare_end - s->bare <= s->nibble_end - s->nibble;
}

/* A segment must begin where the table says and end where the next begins: a GPU enters there. */
static bool get_segment(const struct ps_xc34 *x, size_t segment, uint8_t *e)
{
    struct ps_xc34_span s;
    if (!ps_xc34_span(&s, x, segment))
        return false;
    size_t first = segment * PS_XC34_SEGMENT;
    size_t n = x->n - first < PS_XC34_SEGMENT ? x->n - first : PS_XC34_SEGMENT;
    struct reader r = {.x = x, .nibble = s.nibble, .bare = s.bare};
    const uint8_t *group = x->plane + x->head.groups_at + first / GROUP * GROUP_BYTES;
    for (size_t i = 0; i < n; i += GROUP, group += GROUP_BYTES)
        if (!get_group(e + i, &r, group, n - i < GROUP ? n - i : GROUP))
            return false;
    return r.nibble == s.nibble_end && r.bare == s.bare_end;
}

bool ps_xc34_piece(const struct ps_xc34 *x, size_t piece, uint8_t *e, struct ps_ahead ahead)
{
    (void)ahead; /* plain C is slower than any memory */
    size_t per = PS_BLOCK_PIECE / PS_XC34_SEGMENT, first = piece * per;
    for (size_t k = 0; k < per && first + k < ps_xc34_segments(x->n); k++)
        if (!get_segment(x, first + k, e + k * PS_XC34_SEGMENT))
            return false;
    return true;
}
