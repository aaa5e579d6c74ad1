/* The streaming JSON reader: bytes of a safetensors header, a config or a tokenizer come in, events go out, under
 * limits.
 *
 * yajl does the grammar. Around it stand the checks that it lacks: strict UTF-8 and paired surrogates (one pass
 * before it starts), duplicate keys, depth, string and value limits, exact 64-bit integers, and its missing test
 * for a failed allocation: yajl writes through the NULL that its allocator returns, so ours leaves by longjmp
 * instead, and frees what yajl held. Only yajl's frames are ever jumped over, because callbacks do not run inside
 * an allocation. */
#include "base/json.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <yajl/yajl_parse.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/utf8.h"

enum {
    DEFAULT_MAX_BYTES = 100000000,
    DEFAULT_MAX_DEPTH = 64,
    DEFAULT_MAX_STRING = 16 << 20,
    DEFAULT_MAX_VALUES = 50000000,
    MAX_NUMBER_TEXT = 512, /* a double needs 17 digits and 3 of exponent; nobody means more */
    KEEP_KEY_SLOTS = 256,  /* a larger set is freed with its object, so that clearing stays cheap */
};

/* A key is remembered by a keyed 128-bit hash: 16 bytes however long it is, and no input can aim at a collision. */
struct key_hash {
    uint64_t lo, hi; /* both 0: empty slot */
};

/* The keys of one open object. Open addressing, at most three quarters full. */
struct key_set {
    struct key_hash *slots;
    size_t capacity, used; /* capacity is 0 or a power of two */
};

/* In front of each of yajl's blocks, so that they can be freed when it is left by longjmp. */
struct yajl_block {
    struct yajl_block *prev, *next;
};

struct reader {
    struct ps_json_limits limits;
    ps_json_fn fn;
    void *user;
    struct ps_err *err;
    const uint8_t *bytes;
    size_t len;
    yajl_handle yajl;
    struct yajl_block blocks; /* list head */
    jmp_buf no_memory;
    int rc; /* why a callback stopped the reading */
    unsigned depth;
    uint64_t values;
    struct key_set *sets; /* by depth; n_sets of them exist */
    unsigned n_sets;
    uint64_t hash_key[2];
    locale_t c_locale;
};

static pthread_once_t shared_once = PTHREAD_ONCE_INIT;
static uint64_t shared_hash_key[2];
static locale_t shared_c_locale;

static void init_shared(void)
{
    if (getrandom(shared_hash_key, sizeof(shared_hash_key), 0) != sizeof(shared_hash_key)) {
        /* Old kernels only. The address and the clock are worse, and still unknown to whoever wrote the file. */
        shared_hash_key[0] = ps_now_ns() ^ (uint64_t)(uintptr_t)&shared_once;
        shared_hash_key[1] = ps_wall_s() * 0x9e3779b97f4a7c15u;
    }
    shared_c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

/* ---- yajl's memory ---- */

static void *yajl_malloc_or_leave(void *ctx, size_t bytes)
{
    struct reader *r = ctx;
    struct yajl_block *b = ps_malloc(bytes + sizeof(*b));
    if (!b)
        longjmp(r->no_memory, 1);
    b->prev = &r->blocks;
    b->next = r->blocks.next;
    b->next->prev = b;
    r->blocks.next = b;
    return b + 1;
}

static void yajl_free_block(void *ctx, void *p)
{
    (void)ctx;
    if (!p)
        return;
    struct yajl_block *b = (struct yajl_block *)p - 1;
    b->prev->next = b->next;
    b->next->prev = b->prev;
    ps_free(b);
}

static void *yajl_realloc_or_leave(void *ctx, void *p, size_t bytes)
{
    struct reader *r = ctx;
    if (!p)
        return yajl_malloc_or_leave(ctx, bytes);
    struct yajl_block *b = ps_realloc((struct yajl_block *)p - 1, bytes + sizeof(*b));
    if (!b)
        longjmp(r->no_memory, 1); /* the old block is still in the list */
    b->prev->next = b;
    b->next->prev = b;
    return b + 1;
}

/* Everything of yajl's, handle included, whatever state it was left in. */
static void free_yajl(struct reader *r)
{
    while (r->blocks.next != &r->blocks)
        yajl_free_block(r, r->blocks.next + 1);
}

/* ---- keys ---- */

static inline uint64_t rotl(uint64_t v, int n)
{
    return v << n | v >> (64 - n);
}

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotl(v[1], 13) ^ v[0];
    v[0] = rotl(v[0], 32);
    v[2] += v[3];
    v[3] = rotl(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotl(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotl(v[1], 17) ^ v[2];
    v[2] = rotl(v[2], 32);
}

/* SipHash-1-3 with a 128-bit result (Aumasson and Bernstein, 2012). */
static struct key_hash hash_key(const uint64_t key[2], const void *bytes, size_t len)
{
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575u, key[1] ^ 0x646f72616e646f6du ^ 0xee,
                     key[0] ^ 0x6c7967656e657261u, key[1] ^ 0x7465646279746573u};
    const uint8_t *p = bytes;
    size_t left = len;
    for (; left >= 8; p += 8, left -= 8) {
        uint64_t m;
        memcpy(&m, p, 8);
        v[3] ^= m;
        sip_round(v);
        v[0] ^= m;
    }
    uint64_t m = (uint64_t)len << 56;
    for (size_t i = 0; i < left; i++)
        m |= (uint64_t)p[i] << 8 * i;
    v[3] ^= m;
    sip_round(v);
    v[0] ^= m;
    v[2] ^= 0xee;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    struct key_hash h = {.lo = v[0] ^ v[1] ^ v[2] ^ v[3]};
    v[1] ^= 0xdd;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    h.hi = v[0] ^ v[1] ^ v[2] ^ v[3];
    if (!h.lo && !h.hi)
        h.lo = 1;
    return h;
}

/* The slot that holds h, or the empty one where it belongs. */
static struct key_hash *find_slot(const struct key_set *set, struct key_hash h)
{
    size_t mask = set->capacity - 1;
    for (size_t i = h.lo & mask;; i = (i + 1) & mask) {
        struct key_hash *slot = &set->slots[i];
        if ((!slot->lo && !slot->hi) || (slot->lo == h.lo && slot->hi == h.hi))
            return slot;
    }
}

static int grow_set(struct key_set *set)
{
    struct key_set bigger = {.capacity = set->capacity ? set->capacity * 2 : 16, .used = set->used};
    bigger.slots = ps_calloc(bigger.capacity, sizeof(*bigger.slots));
    if (!bigger.slots)
        return PS_ENOMEM;
    for (size_t i = 0; i < set->capacity; i++) {
        if (set->slots[i].lo || set->slots[i].hi)
            *find_slot(&bigger, set->slots[i]) = set->slots[i];
    }
    ps_free(set->slots);
    *set = bigger;
    return 0;
}

/* 0 new, PS_EDATA seen before, PS_ENOMEM. */
static int add_key(struct key_set *set, struct key_hash h)
{
    if (set->used >= set->capacity / 4 * 3 && grow_set(set))
        return PS_ENOMEM;
    struct key_hash *slot = find_slot(set, h);
    if (slot->lo || slot->hi)
        return PS_EDATA;
    *slot = h;
    set->used++;
    return 0;
}

static void clear_set(struct key_set *set)
{
    if (set->capacity > KEEP_KEY_SLOTS) {
        ps_free(set->slots);
        *set = (struct key_set){0};
    } else if (set->used) {
        memset(set->slots, 0, set->capacity * sizeof(*set->slots));
        set->used = 0;
    }
}

/* ---- callbacks ---- */

/* Ends the reading with an error of ours. */
static int stop(struct reader *r, int code, const char *what)
{
    size_t at = r->yajl ? yajl_get_bytes_consumed(r->yajl) : 0;
    r->rc = ps_err_set(r->err, code, "base", "JSON: %s at byte %zu", what, at);
    return 0;
}

static int emit(struct reader *r, const struct ps_json_event *ev)
{
    r->rc = r->fn(r->user, ev, r->err);
    return r->rc == 0;
}

static bool count_value(struct reader *r)
{
    return ++r->values <= r->limits.max_values;
}

static int on_null(void *ctx)
{
    struct reader *r = ctx;
    if (!count_value(r))
        return stop(r, PS_EDATA, "too many values");
    return emit(r, &(struct ps_json_event){.kind = PS_JSON_NULL, .depth = r->depth});
}

static int on_bool(void *ctx, int value)
{
    struct reader *r = ctx;
    if (!count_value(r))
        return stop(r, PS_EDATA, "too many values");
    return emit(r, &(struct ps_json_event){.kind = PS_JSON_BOOL,
                                           .depth = r->depth,
                                           .boolean = value != 0});
}

/* An integer by the grammar (no point, no exponent) that fits. */
static bool parse_int64(int64_t *out, const char *s, size_t len)
{
    bool negative = s[0] == '-';
    int64_t v = 0;
    for (size_t i = negative; i < len; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        int digit = s[i] - '0';
        /* Built on the negative side, because INT64_MIN has no positive twin. */
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_sub_overflow(v, digit, &v))
            return false;
    }
    return negative ? (*out = v, true) : !__builtin_sub_overflow(0, v, out);
}

static int on_number(void *ctx, const char *s, size_t len)
{
    struct reader *r = ctx;
    if (!count_value(r))
        return stop(r, PS_EDATA, "too many values");
    char text[MAX_NUMBER_TEXT + 1];
    if (len > MAX_NUMBER_TEXT)
        return stop(r, PS_EDATA, "number of more than 512 characters");
    memcpy(text, s, len);
    text[len] = '\0';
    struct ps_json_event ev = {.kind = PS_JSON_DOUBLE, .depth = r->depth, .s = text, .len = len};
    if (parse_int64(&ev.integer, text, len)) {
        ev.kind = PS_JSON_INT;
        ev.number = (double)ev.integer;
    } else {
        /* In the C locale: the program that uses the library may have set one with a decimal comma. */
        ev.number = strtod_l(text, NULL, r->c_locale);
        if (!isfinite(ev.number))
            return stop(r, PS_EDATA, "number beyond the range of a double");
    }
    return emit(r, &ev);
}

static int on_string(void *ctx, const unsigned char *s, size_t len)
{
    struct reader *r = ctx;
    if (!count_value(r))
        return stop(r, PS_EDATA, "too many values");
    if (len > r->limits.max_string)
        return stop(r, PS_EDATA, "string longer than allowed");
    return emit(r, &(struct ps_json_event){.kind = PS_JSON_STRING,
                                           .depth = r->depth,
                                           .s = len ? (const char *)s : "",
                                           .len = len});
}

static int on_key(void *ctx, const unsigned char *s, size_t len)
{
    struct reader *r = ctx;
    if (len > r->limits.max_string)
        return stop(r, PS_EDATA, "key longer than allowed");
    int rc = add_key(&r->sets[r->depth - 1], hash_key(r->hash_key, s, len));
    if (rc == PS_ENOMEM)
        return stop(r, PS_ENOMEM, "no memory for the keys");
    if (rc) {
        int shown = len < 60 ? (int)len : 60;
        r->rc =
            ps_err_set(r->err, PS_EDATA, "base", "JSON: key '%.*s' twice in one object at byte %zu",
                       shown, len ? (const char *)s : "", yajl_get_bytes_consumed(r->yajl));
        return 0;
    }
    return emit(r, &(struct ps_json_event){.kind = PS_JSON_KEY,
                                           .depth = r->depth - 1,
                                           .s = len ? (const char *)s : "",
                                           .len = len});
}

static int open_container(struct reader *r, enum ps_json_kind kind)
{
    if (!count_value(r))
        return stop(r, PS_EDATA, "too many values");
    if (r->depth >= r->limits.max_depth)
        return stop(r, PS_EDATA, "nested deeper than allowed");
    if (r->depth >= r->n_sets) {
        unsigned n = r->n_sets ? r->n_sets * 2 : 8;
        struct key_set *sets = ps_realloc_array(r->sets, n, sizeof(*sets));
        if (!sets)
            return stop(r, PS_ENOMEM, "no memory for the nesting");
        memset(sets + r->n_sets, 0, (n - r->n_sets) * sizeof(*sets));
        r->sets = sets;
        r->n_sets = n;
    }
    struct ps_json_event ev = {.kind = kind, .depth = r->depth++};
    return emit(r, &ev);
}

static int close_container(struct reader *r, enum ps_json_kind kind)
{
    struct ps_json_event ev = {.kind = kind, .depth = --r->depth};
    clear_set(&r->sets[r->depth]);
    return emit(r, &ev);
}

static int on_object(void *ctx)
{
    return open_container(ctx, PS_JSON_OBJECT);
}

static int on_object_end(void *ctx)
{
    return close_container(ctx, PS_JSON_OBJECT_END);
}

static int on_array(void *ctx)
{
    return open_container(ctx, PS_JSON_ARRAY);
}

static int on_array_end(void *ctx)
{
    return close_container(ctx, PS_JSON_ARRAY_END);
}

static const yajl_callbacks callbacks = {
    .yajl_null = on_null,
    .yajl_boolean = on_bool,
    .yajl_number = on_number, /* takes precedence over yajl_integer and yajl_double */
    .yajl_string = on_string,
    .yajl_start_map = on_object,
    .yajl_map_key = on_key,
    .yajl_end_map = on_object_end,
    .yajl_start_array = on_array,
    .yajl_end_array = on_array_end,
};

/* ---- before yajl ---- */

static int hex4(const uint8_t *p)
{
    int v = 0;
    for (int i = 0; i < 4; i++) {
        int c = p[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        v = v << 4 | digit;
    }
    return v;
}

/* A surrogate that stands alone in \u escapes is no character. yajl writes '?' for it: two keys could become one, and a
 * tokenizer's piece another piece. Returns the offset of the first such escape, or len. Malformed escapes are left to
 * yajl. Back slashes outside strings are malformed JSON anyway, so this need not know what is a string. */
static size_t find_lone_surrogate(const uint8_t *s, size_t len)
{
    const uint8_t *end = s + len;
    for (const uint8_t *p = s; (p = memchr(p, '\\', (size_t)(end - p)));) {
        if (end - p < 6 || p[1] != 'u') {
            p += end - p < 2 ? 1 : 2;
            continue;
        }
        int unit = hex4(p + 2);
        if (unit >= 0xdc00 && unit <= 0xdfff)
            return (size_t)(p - s);
        if (unit >= 0xd800 && unit <= 0xdbff) {
            int low = end - p >= 12 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8) : -1;
            if (low < 0xdc00 || low > 0xdfff)
                return (size_t)(p - s);
            p += 6;
        }
        p += 6;
    }
    return len;
}

static int check_text(const uint8_t *s, size_t len, struct ps_err *err)
{
    size_t at = ps_utf8_check(s, len);
    if (at != len)
        return ps_err_set(err, PS_EDATA, "base", "JSON: invalid UTF-8 at byte %zu", at);
    at = find_lone_surrogate(s, len);
    if (at != len)
        return ps_err_set(err, PS_EDATA, "base", "JSON: unpaired surrogate escape at byte %zu", at);
    return 0;
}

/* ---- running ---- */

/* yajl's own words for a syntax error, without its newline. */
static int report_syntax(struct reader *r)
{
    size_t at = yajl_get_bytes_consumed(r->yajl);
    unsigned char *text = yajl_get_error(r->yajl, 0, NULL, 0);
    size_t n = strcspn((const char *)text, "\n");
    return ps_err_set(r->err, PS_EDATA, "base", "JSON: %.*s at byte %zu", (int)(n < 200 ? n : 200),
                      (const char *)text, at < r->len ? at : r->len);
}

static int run_yajl(struct reader *r)
{
    yajl_alloc_funcs memory = {
        .malloc = yajl_malloc_or_leave,
        .realloc = yajl_realloc_or_leave,
        .free = yajl_free_block,
        .ctx = r,
    };
    r->yajl = yajl_alloc(&callbacks, &memory, r);
    yajl_status status = yajl_parse(r->yajl, r->bytes, r->len);
    if (status == yajl_status_ok)
        status = yajl_complete_parse(r->yajl);
    if (r->rc)
        return r->rc;
    return status == yajl_status_ok ? 0 : report_syntax(r);
}

/* Alone in its function: what setjmp returns to must have no local variable that changed in between. */
static int run_guarded(struct reader *r)
{
    if (setjmp(r->no_memory))
        return ps_err_set(r->err, PS_ENOMEM, "base", "JSON: no memory for the reader");
    return run_yajl(r);
}

static struct ps_json_limits effective_limits(const struct ps_json_limits *given)
{
    struct ps_json_limits l = given ? *given : (struct ps_json_limits){0};
    l.max_bytes = l.max_bytes ? l.max_bytes : DEFAULT_MAX_BYTES;
    l.max_depth = l.max_depth ? l.max_depth : DEFAULT_MAX_DEPTH;
    l.max_string = l.max_string ? l.max_string : DEFAULT_MAX_STRING;
    l.max_values = l.max_values ? l.max_values : DEFAULT_MAX_VALUES;
    return l;
}

/* The same document with Python's words for numbers in quotes. They stand nowhere else outside of strings. */
static void quote_words(struct ps_strbuf *out, const char *s, size_t len)
{
    static const char *const words[] = {"NaN", "Infinity", "-Infinity"};
    bool in_string = false;
    for (size_t i = 0, n; i < len; i += n) {
        const char *word = NULL;
        n = in_string && s[i] == '\\' && i + 1 < len ? 2 : 1;
        if (n == 1 && s[i] == '"')
            in_string = !in_string;
        for (size_t k = 0; !in_string && !word && k < sizeof words / sizeof *words; k++)
            if (strlen(words[k]) <= len - i && memcmp(s + i, words[k], strlen(words[k])) == 0)
                word = words[k];
        n = word ? strlen(word) : n;
        if (word)
            ps_strbuf_puts(out, "\"");
        ps_strbuf_append(out, s + i, n);
        if (word)
            ps_strbuf_puts(out, "\"");
    }
}

static int read_checked(struct reader *r)
{
    struct ps_strbuf quoted;
    ps_strbuf_init(&quoted, r->limits.max_bytes / 2 * 5);
    if (r->limits.python_words &&
        (memmem(r->bytes, r->len, "NaN", 3) || memmem(r->bytes, r->len, "Infinity", 8))) {
        quote_words(&quoted, (const char *)r->bytes, r->len);
        if (!ps_strbuf_ok(&quoted)) {
            ps_strbuf_deinit(&quoted);
            return ps_err_set(r->err, PS_ENOMEM, "base", "JSON: no memory for the document");
        }
        r->bytes = (const uint8_t *)quoted.data;
        r->len = quoted.len;
    }
    const int rc = run_guarded(r);
    ps_strbuf_deinit(&quoted);
    return rc;
}

int ps_json_read(const void *bytes, size_t len, const struct ps_json_limits *limits, ps_json_fn fn,
                 void *user, struct ps_err *err)
{
    pthread_once(&shared_once, init_shared);
    if (!shared_c_locale)
        return ps_err_set(err, PS_ENOMEM, "base", "JSON: no memory for the C locale");
    struct reader r = {
        .limits = effective_limits(limits),
        .fn = fn,
        .user = user,
        .err = err,
        .bytes = len ? bytes : (const void *)"",
        .len = len,
        .hash_key = {shared_hash_key[0], shared_hash_key[1]},
        .c_locale = shared_c_locale,
    };
    if (len > r.limits.max_bytes)
        return ps_err_set(err, PS_EDATA, "base", "JSON: %zu bytes, more than the %zu allowed", len,
                          r.limits.max_bytes);
    int rc = check_text(r.bytes, len, err);
    if (rc)
        return rc;
    r.blocks.prev = r.blocks.next = &r.blocks;
    rc = read_checked(&r);
    free_yajl(&r);
    for (unsigned i = 0; i < r.n_sets; i++)
        ps_free(r.sets[i].slots);
    ps_free(r.sets);
    return rc;
}
