/* Structural check of an LMDB file. In: its bytes; out: whether every offset in it stays inside. */
#include "cache/index_check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define ORIGIN     "cache"
#define PAGE       4096u
#define PAGE_HEAD  16u
#define NODE_HEAD  8u
#define META_MAGIC 0xBEEFC0DEu
#define DEPTH_MAX  16
#define NO_PAGE    UINT64_MAX

enum { P_BRANCH = 1, P_LEAF = 2, P_OVERFLOW = 4, P_META = 8 };
enum { F_BIGDATA = 1, F_SUBDATA = 2, F_DUPDATA = 4 };

/* Offsets inside the meta page's payload and its table descriptors. */
enum {
    META_VERSION = 4,
    META_DBS = 24,
    META_LAST_PAGE = 120,
    META_TXNID = 128,
    DB_BYTES = 48,
    DB_DEPTH = 6,
    DB_ROOT = 40
};

struct walk {
    const uint8_t *bytes;
    uint64_t pages;   /* last page + 1 */
    uint64_t visited; /* more than pages: a loop */
    bool free_list;   /* the tree being walked is LMDB's own */
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

static bool walk_tree(struct walk *w, uint64_t page, int levels);

/* Page `at` if it exists and calls itself so. */
static const uint8_t *page_at(struct walk *w, uint64_t at)
{
    if (at < 2 || at >= w->pages || ++w->visited > w->pages)
        return NULL;
    const uint8_t *p = w->bytes + at * PAGE;
    return u64_at(p) == at ? p : NULL;
}

/* Data that did not fit its page lies in consecutive pages. */
static const uint8_t *overflow_data(struct walk *w, const uint8_t *pointer, uint64_t data_bytes)
{
    const uint64_t at = u64_at(pointer);
    const uint8_t *p = page_at(w, at);
    if (!p || u16_at(p + 10) != P_OVERFLOW)
        return NULL;
    const uint64_t n = u32_at(p + 12);
    if (n == 0 || n > w->pages - at || data_bytes > n * PAGE - PAGE_HEAD)
        return NULL;
    w->visited += n - 1;
    return p + PAGE_HEAD;
}

/* A free list record: a count and that many page numbers, strictly falling. A wrong one would hand out pages in use. */
static bool ids_ok(const struct walk *w, const uint8_t *data, uint64_t data_bytes)
{
    if (data_bytes < 8)
        return false;
    const uint64_t n = u64_at(data);
    uint64_t above = w->pages;
    if (n > data_bytes / 8 - 1)
        return false;
    for (uint64_t i = 1; i <= n; i++) {
        const uint64_t id = u64_at(data + 8 * i);
        if (id >= above || id < 2)
            return false;
        above = id;
    }
    return true;
}

/* A table inside the main table. What its records mean is not asked: a newer version may have other ones. */
static bool walk_table(struct walk *w, const uint8_t *db)
{
    const uint64_t root = u64_at(db + DB_ROOT);
    return root == NO_PAGE || walk_tree(w, root, (int)u16_at(db + DB_DEPTH));
}

static inline bool leaf_node_ok(struct walk *w, const uint8_t *node, uint64_t room)
{
    const uint64_t flags = u16_at(node + 4), key = u16_at(node + 6),
                   data = u16_at(node) | u16_at(node + 2) << 16;
    if (flags == 0 && !w->free_list) /* nearly all of them */
        return key <= room && data <= room - key;
    const uint64_t stored = flags & F_BIGDATA ? 8 : data;
    if (key > room || stored > room - key || flags & F_DUPDATA || flags > 7)
        return false;
    const uint8_t *value = node + NODE_HEAD + key;
    if (flags & F_BIGDATA && !(value = overflow_data(w, value, data)))
        return false;
    if (w->free_list)
        return key == 8 && ids_ok(w, value, data);
    if (flags & F_SUBDATA)
        return data == DB_BYTES && !(flags & F_BIGDATA) && walk_table(w, value);
    return true;
}

static bool branch_node_ok(struct walk *w, const uint8_t *node, uint64_t room, int levels)
{
    const uint64_t child = u16_at(node) | u16_at(node + 2) << 16 | u16_at(node + 4) << 32;
    return u16_at(node + 6) <= room && walk_tree(w, child, levels - 1);
}

static bool walk_tree(struct walk *w, uint64_t page, int levels)
{
    const uint8_t *p = page_at(w, page);
    if (!p || levels < 1 || levels > DEPTH_MAX)
        return false;
    const uint64_t flags = u16_at(p + 10), lower = u16_at(p + 12), upper = u16_at(p + 14);
    if (flags != (levels > 1 ? P_BRANCH : P_LEAF) || lower < PAGE_HEAD || lower % 2 != 0 ||
        lower > upper || upper > PAGE)
        return false;
    const uint64_t n = (lower - PAGE_HEAD) / 2;
    if (n < (levels > 1 ? 2u : 1u))
        return false;
    for (uint64_t i = 0; i < n; i++) {
        const uint64_t at = u16_at(p + PAGE_HEAD + 2 * i);
        if (at < upper || at > PAGE - NODE_HEAD)
            return false;
        const uint64_t room = PAGE - at - NODE_HEAD;
        if (levels > 1 ? !branch_node_ok(w, p + at, room, levels) : !leaf_node_ok(w, p + at, room))
            return false;
    }
    return true;
}

static bool meta_ok(const uint8_t *page)
{
    const uint8_t *m = page + PAGE_HEAD;
    return u16_at(page + 10) == P_META && u32_at(m) == META_MAGIC;
}

static bool file_ok(const uint8_t *bytes, uint64_t len)
{
    if (len < 2 * PAGE || !meta_ok(bytes) || !meta_ok(bytes + PAGE))
        return false;
    /* LMDB goes on from the newer of the two. */
    const uint8_t *m = bytes + PAGE_HEAD, *other = bytes + PAGE + PAGE_HEAD;
    if (u64_at(other + META_TXNID) > u64_at(m + META_TXNID))
        m = other;
    if (u32_at(m + META_VERSION) != 1)
        return true; /* another LMDB's: for LMDB to refuse by name */
    const uint64_t last = u64_at(m + META_LAST_PAGE);
    if (last < 1 || last >= len / PAGE || u32_at(m + META_DBS) != PAGE)
        return false;
    struct walk w = {.bytes = bytes, .pages = last + 1};
    for (int i = 0; i < 2; i++) {
        const uint8_t *db = m + META_DBS + i * DB_BYTES;
        const uint64_t root = u64_at(db + DB_ROOT);
        w.free_list = i == 0;
        if (root != NO_PAGE && !walk_tree(&w, root, (int)u16_at(db + DB_DEPTH)))
            return false;
    }
    return true;
}

int ps_index_check(const void *bytes, size_t len, struct ps_err *err)
{
    return file_ok(bytes, len)
               ? 0
               : ps_err_set(err, PS_EDATA, ORIGIN, "index: damaged: its pages don't hang together");
}

int ps_index_check_file(const char *path, struct ps_err *err)
{
    struct stat st;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return ps_err_set(err, errno == ENOENT ? PS_ENOTFOUND : PS_EIO, ORIGIN, "index: %s",
                          strerror(errno));
    int rc = 0;
    if (fstat(fd, &st) != 0)
        rc = ps_err_set(err, PS_EIO, ORIGIN, "index: %s", strerror(errno));
    else if (st.st_size > 0) { /* an empty file is one that LMDB will fill */
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
        if (p == MAP_FAILED) {
            rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "index: map: %s", strerror(errno));
        } else {
            rc = ps_index_check(p, (size_t)st.st_size, err);
            munmap(p, (size_t)st.st_size);
        }
    }
    close(fd);
    return rc;
}
