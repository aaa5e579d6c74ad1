/* Added tokens: texts that become one token wherever they stand, before the model sees the rest.
 * Longest at the leftmost place wins, as in the library's automaton; here a sorted list is
 * narrowed byte by byte. */
#include <stdlib.h>
#include <string.h>
#include "base/alloc.h"
#include "runtime/tok_internal.h"

void ps_tok_added_deinit(struct ps_tok_added_set *a)
{
    ps_free(a->v);
    ps_free(a->raw);
    ps_free(a->norm);
    ps_free(a->by_id);
    ps_strbuf_deinit(&a->arena);
    memset(a, 0, sizeof *a);
}

static const char *text_of(const struct ps_tok_added_set *a, uint32_t i, bool normalized,
                           uint32_t *len)
{
    const struct ps_tok_added *t = &a->v[i];
    *len = normalized ? t->norm_len : t->len;
    return a->arena.data + (normalized ? t->norm_off : t->off);
}

struct order {
    const struct ps_tok_added_set *a;
    bool normalized, by_id;
};

static int compare(const void *x, const void *y, void *arg)
{
    const struct order *o = arg;
    uint32_t i = *(const uint32_t *)x, k = *(const uint32_t *)y, li, lk;
    if (o->by_id && o->a->v[i].id != o->a->v[k].id)
        return o->a->v[i].id < o->a->v[k].id ? -1 : 1;
    if (o->by_id)
        return i < k ? -1 : i > k;
    const char *s = text_of(o->a, i, o->normalized, &li), *t = text_of(o->a, k, o->normalized, &lk);
    int c = memcmp(s, t, li < lk ? li : lk);
    return c ? c : li < lk ? -1 : li > lk;
}

static int build_list(const struct ps_tok_added_set *a, bool normalized, uint32_t **list, size_t *n,
                      uint64_t first[4])
{
    uint32_t *v = ps_malloc((a->n + 1) * sizeof *v);
    if (!v)
        return PS_ENOMEM;
    *n = 0;
    for (uint32_t i = 0; i < a->n; i++) {
        uint32_t len;
        const char *s = text_of(a, i, normalized, &len);
        if (a->v[i].replaced || a->v[i].normalized != normalized || !len)
            continue;
        unsigned char c = (unsigned char)s[0];
        first[c >> 6] |= 1ull << (c & 63);
        v[(*n)++] = i;
    }
    struct order o = {.a = a, .normalized = normalized};
    qsort_r(v, *n, sizeof *v, compare, &o);
    *list = v;
    return 0;
}

/* One entry per id: a later one replaces an earlier one, as in the library. */
static int build_ids(struct ps_tok_added_set *a)
{
    struct order o = {.a = a, .by_id = true};
    size_t kept = 0;
    a->by_id = ps_malloc((a->n + 1) * sizeof *a->by_id);
    if (!a->by_id)
        return PS_ENOMEM;
    for (uint32_t i = 0; i < a->n; i++)
        a->by_id[i] = i;
    qsort_r(a->by_id, a->n, sizeof *a->by_id, compare, &o);
    for (size_t i = 0; i < a->n; i++) {
        if (i + 1 < a->n && a->v[a->by_id[i]].id == a->v[a->by_id[i + 1]].id)
            a->v[a->by_id[i]].replaced = true;
        else
            a->by_id[kept++] = a->by_id[i];
    }
    a->n_by_id = kept;
    return 0;
}

int ps_tok_added_prepare(struct ps_tok_added_set *a, struct ps_err *err)
{
    if (build_ids(a) || build_list(a, false, &a->raw, &a->n_raw, a->raw_first) ||
        build_list(a, true, &a->norm, &a->n_norm, a->norm_first))
        return ps_err_set(err, PS_ENOMEM, "tokenizer",
                          "tokenizer.json: not enough memory: give more with --ram");
    return 0;
}

const struct ps_tok_added *ps_tok_added_get(const struct ps_tok_added_set *a, uint32_t id)
{
    size_t lo = 0, hi = a->n_by_id;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (a->v[a->by_id[mid]].id < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < a->n_by_id && a->v[a->by_id[lo]].id == id ? &a->v[a->by_id[lo]] : NULL;
}

/* The longest listed text that s begins with; its index into v or PS_TOK_NONE. */
static uint32_t longest_at(const struct ps_tok_added_set *a, bool normalized, const char *s,
                           size_t len)
{
    const uint32_t *list = normalized ? a->norm : a->raw;
    size_t lo = 0, hi = normalized ? a->n_norm : a->n_raw;
    uint32_t found = PS_TOK_NONE;
    for (size_t d = 0; d < len && lo < hi; d++) {
        /* of [lo, hi), all longer than d and equal up to d, keep those with this byte at d */
        unsigned char c = (unsigned char)s[d];
        size_t ends[2];
        for (unsigned upper = 0; upper < 2; upper++) {
            size_t l = lo, h = hi;
            while (l < h) {
                size_t mid = (l + h) / 2;
                uint32_t n;
                const char *t = text_of(a, list[mid], normalized, &n);
                if ((unsigned char)t[d] < c + upper)
                    l = mid + 1;
                else
                    h = mid;
            }
            ends[upper] = l;
        }
        lo = ends[0];
        hi = ends[1];
        uint32_t n;
        if (lo < hi && (text_of(a, list[lo], normalized, &n), n == d + 1))
            found = list[lo];
        while (lo < hi && (text_of(a, list[lo], normalized, &n), n == d + 1))
            lo++; /* duplicates of it cannot go on */
    }
    return found;
}

static bool word_before(const char *s, size_t pos)
{
    unsigned n;
    if (pos == 0)
        return false;
    do
        pos--;
    while (((unsigned char)s[pos] & 0xc0) == 0x80);
    return ps_uc_is_word(ps_utf8_decode(s + pos, &n));
}

static size_t spaces_before(const char *s, size_t pos)
{
    unsigned n;
    while (pos > 0) {
        size_t p = pos - 1;
        while (((unsigned char)s[p] & 0xc0) == 0x80)
            p--;
        if (!ps_uc_is_space(ps_utf8_decode(s + p, &n)))
            break;
        pos = p;
    }
    return pos;
}

static size_t spaces_after(const char *s, size_t len, size_t pos)
{
    unsigned n;
    while (pos < len && ps_uc_is_space(ps_utf8_decode(s + pos, &n)))
        pos += n;
    return pos;
}

int ps_tok_added_split(const struct ps_tok_added_set *a, bool normalized, bool special,
                       const char *s, uint32_t off, uint32_t len, bool at_zero,
                       struct ps_tok_pieces *out, struct ps_err *err)
{
    const uint64_t *first = normalized ? a->norm_first : a->raw_first;
    size_t done = 0;
    int rc = 0;
    unsigned n;
    for (size_t i = 0; i < len && !rc;) {
        unsigned char c = (unsigned char)s[i];
        uint32_t hit =
            first[c >> 6] >> (c & 63) & 1 ? longest_at(a, normalized, s + i, len - i) : PS_TOK_NONE;
        if (hit == PS_TOK_NONE) {
            i++;
            continue;
        }
        const struct ps_tok_added *t = &a->v[hit];
        size_t start = i, stop = i + (normalized ? t->norm_len : t->len);
        i = stop;
        if (t->special && !special)
            continue; /* its text is text */
        if (t->single_word &&
            (word_before(s, start) || (stop < len && ps_uc_is_word(ps_utf8_decode(s + stop, &n)))))
            continue;
        if (t->lstrip) {
            size_t from = spaces_before(s, start);
            start = from > done ? from : done;
        }
        if (t->rstrip)
            stop = spaces_after(s, len, stop);
        if (start > stop)
            continue; /* inside what rstrip of the one before has taken; the library panics here */
        if (done < start)
            rc = ps_tok_pieces_push(out, (struct ps_tok_piece){off + (uint32_t)done,
                                                               (uint32_t)(start - done),
                                                               PS_TOK_NONE, at_zero && done == 0});
        if (!rc)
            rc = ps_tok_pieces_push(out,
                                    (struct ps_tok_piece){off + (uint32_t)start,
                                                          (uint32_t)(stop - start), t->id, false});
        done = stop; /* may lie beyond i, or before it for a token of spaces: the library goes on like this too */
    }
    if (!rc && done < len)
        rc = ps_tok_pieces_push(out,
                                (struct ps_tok_piece){off + (uint32_t)done, (uint32_t)(len - done),
                                                      PS_TOK_NONE, at_zero && done == 0});
    if (rc)
        return ps_err_set(err, rc, "tokenizer",
                          "text: not enough memory to tokenize it: use a shorter one");
    return 0;
}
