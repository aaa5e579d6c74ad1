/* A walk over the pages of an LMDB file. In: its bytes; out: records, or false as soon as something is odd. */
#include "cache/index_pages.h"

#include <string.h>
#include "base/alloc.h"
#include "base/err.h"

#define PAGE       4096u
#define PAGE_HEAD  16u
#define NODE_HEAD  8u
#define META_MAGIC 0xBEEFC0DEu
#define LAYOUT     1u /* LMDB's own version of its file */
#define DEPTH_MAX  16
#define NO_PAGE    UINT64_MAX
#define MAP_MAX    (1ull << 40) /* no index of ours maps more; LMDB would believe any number */

enum { P_BRANCH = 1, P_LEAF = 2, P_OVERFLOW = 4, P_META = 8 };
enum { F_BIGDATA = 1, F_SUBDATA = 2 };

/* Offsets inside the meta page's payload and its table descriptors. */
enum {
    META_VERSION = 4,
    META_ADDRESS = 8,
    META_MAP_BYTES = 16,
    META_DBS = 24,
    META_LAST_PAGE = 120,
    META_TXNID = 128,
    DB_BYTES = 48,
    DB_PAD = 0,
    DB_FLAGS = 4,
    DB_DEPTH = 6,
    DB_BRANCHES = 8,
    DB_LEAVES = 16,
    DB_OVERFLOWS = 24,
    DB_ENTRIES = 32,
    DB_ROOT = 40
};

/* One tree being walked: what was counted, and the key that the next one must follow. */
struct tree {
    struct ps_pages *p;
    bool numeric;
    bool tables; /* the table of tables: records are descriptors */
    ps_pages_visit visit;
    void *user;
    uint64_t branches, leaves, overflows, entries;
    const uint8_t *last_key;
    size_t last_bytes;
    bool or_equal; /* last_key is a separator: the next key may be the same */
};

static uint64_t u16_at(const uint8_t *p)
{
    return (uint64_t)p[0] | (uint64_t)p[1] << 8;
}

static uint64_t u64_at(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint32_t u32_at(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static bool walk_tree(struct tree *t, uint64_t page, int levels);

/* Takes n pages from `at` on; false when one doesn't exist or was taken before (a loop, or free and in use). */
static bool take_pages(struct ps_pages *p, uint64_t at, uint64_t n)
{
    if (at < 2 || at >= p->n_pages || n > p->n_pages - at)
        return false;
    for (uint64_t i = at; i < at + n; i++) {
        const uint8_t bit = (uint8_t)(1u << (i % 8));
        if (p->seen[i / 8] & bit)
            return false;
        p->seen[i / 8] |= bit;
    }
    return true;
}

/* Page `at`, if it calls itself so and nobody had it. */
static const uint8_t *page_at(struct ps_pages *p, uint64_t at)
{
    if (!take_pages(p, at, 1))
        return NULL;
    const uint8_t *page = p->bytes + at * PAGE;
    return u64_at(page) == at ? page : NULL;
}

/* Data that did not fit its page lies in consecutive pages; more than it needs where it was longer once. */
static const uint8_t *overflow_data(struct tree *t, const uint8_t *pointer, uint64_t data_bytes)
{
    const uint64_t at = u64_at(pointer);
    const uint8_t *page = page_at(t->p, at);
    if (!page || u16_at(page + 10) != P_OVERFLOW)
        return NULL;
    const uint64_t n = u32_at(page + 12);
    if (n == 0 || data_bytes > n * PAGE - PAGE_HEAD || (n > 1 && !take_pages(t->p, at + 1, n - 1)))
        return NULL;
    t->overflows += n;
    return page + PAGE_HEAD;
}

/* -1, 0, 1 as LMDB orders keys. */
static int compare_keys(const struct tree *t, const uint8_t *a, size_t a_bytes, const uint8_t *b,
                        size_t b_bytes)
{
    if (t->numeric) {
        const uint64_t x = a_bytes == 8 ? u64_at(a) : u32_at(a),
                       y = b_bytes == 8 ? u64_at(b) : u32_at(b);
        return x < y ? -1 : x > y;
    }
    const size_t n = a_bytes < b_bytes ? a_bytes : b_bytes;
    const int diff = memcmp(a, b, n);
    if (diff != 0)
        return diff;
    return a_bytes < b_bytes ? -1 : a_bytes > b_bytes;
}

/* LMDB finds a key by halving: one out of order hides others. */
static bool key_follows(struct tree *t, const uint8_t *key, size_t bytes, bool separator)
{
    if (bytes == 0 || (t->numeric && bytes != 4 && bytes != 8))
        return false;
    if (t->last_key) {
        const int diff = compare_keys(t, t->last_key, t->last_bytes, key, bytes);
        if (diff > 0 || (diff == 0 && !t->or_equal))
            return false;
    }
    t->last_key = key;
    t->last_bytes = bytes;
    t->or_equal = separator;
    return true;
}

/* Length of a leaf node, 0 if it is none. */
static uint64_t leaf_bytes(const uint8_t *node, uint64_t room)
{
    const uint64_t flags = u16_at(node + 4), key = u16_at(node + 6),
                   data = u16_at(node) | u16_at(node + 2) << 16;
    const uint64_t stored = flags & F_BIGDATA ? 8 : data;
    if (flags & ~(uint64_t)(F_BIGDATA | F_SUBDATA) || key > room || stored > room - key)
        return 0;
    return NODE_HEAD + ((key + stored + 1) & ~1ull);
}

static bool leaf_node_ok(struct tree *t, const uint8_t *node)
{
    const uint64_t flags = u16_at(node + 4), key = u16_at(node + 6),
                   data = u16_at(node) | u16_at(node + 2) << 16;
    const uint8_t *value = node + NODE_HEAD + key;
    if ((flags != 0 && flags != (t->tables ? F_SUBDATA : F_BIGDATA)) ||
        (t->tables && flags != F_SUBDATA))
        return false;
    if (flags & F_BIGDATA && !(value = overflow_data(t, value, data)))
        return false;
    t->entries++;
    const struct ps_pages_record r = {.key = node + NODE_HEAD,
                                      .data = value,
                                      .key_bytes = key,
                                      .data_bytes = data};
    return key_follows(t, r.key, r.key_bytes, false) && (!t->visit || t->visit(t->user, &r));
}

static uint64_t branch_bytes(const uint8_t *node, uint64_t room)
{
    const uint64_t key = u16_at(node + 6);
    return key > room ? 0 : NODE_HEAD + ((key + 1) & ~1ull);
}

static uint64_t child_of(const uint8_t *node)
{
    return u16_at(node) | u16_at(node + 2) << 16 | u16_at(node + 4) << 32;
}

/* Pages of a tree lie in no order, and nodes in a page neither: without this the walk waits for memory. */
static void prefetch_page(const struct ps_pages *p, uint64_t at)
{
    if (at < p->n_pages)
        for (size_t i = 0; i < PAGE; i += 64)
            __builtin_prefetch(p->bytes + at * PAGE + i);
}

static bool branch_node_ok(struct tree *t, const uint8_t *node, uint64_t i, int levels)
{
    const uint64_t child = child_of(node);
    /* The first separator of a page is never looked at, and may be stale. */
    if (i > 0 && !key_follows(t, node + NODE_HEAD, u16_at(node + 6), true))
        return false;
    return walk_tree(t, child, levels - 1);
}

/* Nodes lie from `upper` to the end of the page without gap or overlap, and the n pointers name each of them: LMDB
 * moves them by these lengths when one goes. */
static bool nodes_tile(const uint8_t *page, uint64_t n, uint64_t upper, bool leaf)
{
    uint64_t starts[PAGE / 2 / 64] = {0}, found = 0, at = upper;
    for (uint64_t i = 0; i < n; i++) {
        const uint64_t start = u16_at(page + PAGE_HEAD + 2 * i);
        if (start < upper || start > PAGE - NODE_HEAD || start % 2 != 0)
            return false;
        starts[start / 128] |= 1ull << (start / 2 % 64);
    }
    while (at <= PAGE - NODE_HEAD) {
        const uint64_t room = PAGE - at - NODE_HEAD,
                       bytes = leaf ? leaf_bytes(page + at, room) : branch_bytes(page + at, room);
        if (bytes == 0 || !(starts[at / 128] >> (at / 2 % 64) & 1))
            return false;
        at += bytes;
        found++;
    }
    return at == PAGE && found == n;
}

static bool walk_tree(struct tree *t, uint64_t page, int levels)
{
    const uint8_t *p = page_at(t->p, page);
    if (!p || levels < 1)
        return false;
    const uint64_t flags = u16_at(p + 10), lower = u16_at(p + 12), upper = u16_at(p + 14);
    const bool leaf = levels == 1;
    if (flags != (leaf ? P_LEAF : P_BRANCH) || lower < PAGE_HEAD || lower % 2 != 0 ||
        lower > upper || upper > PAGE)
        return false;
    const uint64_t n = (lower - PAGE_HEAD) / 2;
    if (n < (leaf ? 1u : 2u) || !nodes_tile(p, n, upper, leaf))
        return false;
    *(leaf ? &t->leaves : &t->branches) += 1;
    for (uint64_t i = 0; i < n; i++) {
        const uint8_t *node = p + u16_at(p + PAGE_HEAD + 2 * i);
        if (!leaf && i + 1 < n)
            prefetch_page(t->p, child_of(p + u16_at(p + PAGE_HEAD + 2 * (i + 1))));
        if (leaf ? !leaf_node_ok(t, node) : !branch_node_ok(t, node, i, levels))
            return false;
    }
    return true;
}

/* A whole tree, and what its descriptor says of it. */
static bool walk_table(struct tree *t, const uint8_t *db)
{
    const uint64_t root = u64_at(db + DB_ROOT), depth = u16_at(db + DB_DEPTH);
    t->numeric = (u16_at(db + DB_FLAGS) & PS_PAGES_NUMERIC) != 0;
    if (depth > DEPTH_MAX || (root == NO_PAGE) != (depth == 0) ||
        (root != NO_PAGE && !walk_tree(t, root, (int)depth)))
        return false;
    return u64_at(db + DB_BRANCHES) == t->branches && u64_at(db + DB_LEAVES) == t->leaves &&
           u64_at(db + DB_OVERFLOWS) == t->overflows && u64_at(db + DB_ENTRIES) == t->entries;
}

/* A free list record: the transaction that freed, a count and that many page numbers, strictly falling. */
static bool take_free(void *user, const struct ps_pages_record *r)
{
    struct ps_pages *p = user;
    if (r->key_bytes != 8 || r->data_bytes < 8 || u64_at(r->key) > p->txnid)
        return false;
    const uint64_t n = u64_at(r->data);
    uint64_t above = p->n_pages;
    if (n > r->data_bytes / 8 - 1)
        return false;
    for (uint64_t i = 1; i <= n; i++) {
        const uint64_t id = u64_at(r->data + 8 * i);
        if (id >= above || !take_pages(p, id, 1))
            return false;
        above = id;
    }
    return true;
}

static bool note_table(void *user, const struct ps_pages_record *r)
{
    struct ps_pages *p = user;
    if (r->data_bytes != DB_BYTES || p->n_tables == PS_PAGES_TABLES_MAX ||
        u32_at(r->data + DB_PAD) != 0)
        return false;
    p->tables[p->n_tables++] = (struct ps_pages_table){.name = r->key,
                                                       .name_bytes = r->key_bytes,
                                                       .descriptor = r->data,
                                                       .flags = (uint16_t)u16_at(r->data + DB_FLAGS),
                                                       .n_records = u64_at(r->data + DB_ENTRIES)};
    return true;
}

/* ---- headers ---- */

/* What LMDB never changes in a file of ours, in both headers: it asserts on some flags, divides by the page size. */
static bool meta_ok(const uint8_t *page, uint64_t number)
{
    const uint8_t *m = page + PAGE_HEAD, *free_db = m + META_DBS, *main_db = free_db + DB_BYTES;
    return u64_at(page) == number && u16_at(page + 10) == P_META && u32_at(m) == META_MAGIC &&
           u32_at(m + META_VERSION) == LAYOUT && u64_at(m + META_ADDRESS) == 0 &&
           u64_at(m + META_MAP_BYTES) <= MAP_MAX && u32_at(free_db + DB_PAD) == PAGE &&
           u16_at(free_db + DB_FLAGS) == PS_PAGES_NUMERIC && u32_at(main_db + DB_PAD) == 0 &&
           u16_at(main_db + DB_FLAGS) == 0;
}

/* The header that LMDB goes on from: the newer one. They are written in turn, so that their numbers differ by one and
 * the even one lies in front; a new file has two zeros. NULL: not so. */
static const uint8_t *newer_meta(const uint8_t *bytes)
{
    const uint8_t *m = bytes + PAGE_HEAD, *other = m + PAGE;
    const uint64_t a = u64_at(m + META_TXNID), b = u64_at(other + META_TXNID);
    if (a == 0 && b == 0)
        return m;
    if (a > b)
        return a - b == 1 && a % 2 == 0 ? m : NULL;
    return b - a == 1 && b % 2 == 1 ? other : NULL;
}

/* Both headers name another LMDB's layout: one alone that does is damage. */
static bool is_foreign(const uint8_t *bytes)
{
    const uint8_t *a = bytes + PAGE_HEAD, *b = a + PAGE;
    return u32_at(a) == META_MAGIC && u32_at(b) == META_MAGIC &&
           u32_at(a + META_VERSION) == u32_at(b + META_VERSION) &&
           u32_at(a + META_VERSION) != LAYOUT;
}

static int walk_base(struct ps_pages *p, const uint8_t *meta)
{
    const uint8_t *db = meta + META_DBS;
    struct tree free_list = {.p = p, .visit = take_free, .user = p};
    struct tree tables = {.p = p, .tables = true, .visit = note_table, .user = p};
    p->seen = ps_calloc(1, (size_t)(p->n_pages / 8 + 1));
    if (!p->seen)
        return PS_ENOMEM;
    return walk_table(&free_list, db) && walk_table(&tables, db + DB_BYTES) ? 0 : PS_EDATA;
}

uint64_t ps_pages_used(const uint8_t head[PS_PAGES_HEAD])
{
    if (!meta_ok(head, 0) || !meta_ok(head + PAGE, 1))
        return 0;
    const uint64_t a = u64_at(head + PAGE_HEAD + META_LAST_PAGE),
                   b = u64_at(head + PAGE + PAGE_HEAD + META_LAST_PAGE), last = a > b ? a : b;
    return last < MAP_MAX / PAGE ? last + 1 : 0;
}

int ps_pages_begin(struct ps_pages *p, const void *bytes, size_t len)
{
    const uint8_t *b = bytes;
    memset(p, 0, sizeof *p);
    p->bytes = bytes;
    if (len < 2 * PAGE)
        return PS_EDATA;
    p->foreign = is_foreign(b);
    if (p->foreign)
        return 0;
    const uint8_t *m = meta_ok(b, 0) && meta_ok(b + PAGE, 1) ? newer_meta(b) : NULL;
    if (!m)
        return PS_EDATA;
    const uint64_t last = u64_at(m + META_LAST_PAGE);
    if (last < 1 || last >= len / PAGE)
        return PS_EDATA;
    p->n_pages = last + 1;
    p->txnid = u64_at(m + META_TXNID);
    return walk_base(p, m);
}

void ps_pages_end(struct ps_pages *p)
{
    ps_free(p->seen);
    p->seen = NULL;
}

const struct ps_pages_table *ps_pages_find(const struct ps_pages *p, const char *name)
{
    for (size_t i = 0; i < p->n_tables; i++)
        if (p->tables[i].name_bytes == strlen(name) &&
            memcmp(p->tables[i].name, name, p->tables[i].name_bytes) == 0)
            return &p->tables[i];
    return NULL;
}

int ps_pages_walk(struct ps_pages *p, const struct ps_pages_table *table, ps_pages_visit visit,
                  void *user)
{
    struct tree t = {.p = p, .visit = visit, .user = user};
    return walk_table(&t, table->descriptor) ? 0 : PS_EDATA;
}
