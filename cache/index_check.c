/* Verdicts on index files. In: bytes; out: whether they are an index of ours in which everything agrees. */
#include "cache/index_check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/hash.h"
#include "base/read_at.h"
#include "cache/index_pages.h"
#include "cache/index_rows.h"
#include "proto/parallel.h"

#define ORIGIN    "cache"
#define SUM_CHUNK (256u << 10) /* stays in the L2 cache between the read and the sum */
#define SUM_PART  (4u << 20)   /* a thread's share, if there are several */

/* ---- counting again ---- */

/* A bitmap row of the file, and the one that the records make. */
struct row {
    uint32_t key;
    const uint8_t *stored;
};

struct sums {
    uint64_t n, bytes, padded_bytes;
};

struct recount {
    struct ps_index_meta meta;
    int meta_code;    /* PS_ENOTFOUND until its row was met */
    bool models_good; /* judged once the format is known: their rows come first */
    uint64_t n_extents;
    struct {
        uint64_t bytes;
        uint32_t used, high;
    } classes[PS_CACHE_CLASSES];
    struct sums recorded[PS_INDEX_MODELS_MAX], counted[PS_INDEX_MODELS_MAX];
    uint8_t known[PS_INDEX_MODELS_MAX / 8]; /* models that have a row */
    struct row *rows;                       /* by key */
    uint8_t *found;                         /* bitmap i of the records at i * PS_ROWS_SLOTS_BYTES */
    size_t n_rows, cap_rows;
    size_t first_row[PS_CACHE_CLASSES];
};

static bool note_model(struct recount *rc, const struct ps_pages_record *r)
{
    struct ps_model m;
    uint8_t key[3];
    if (r->key_bytes != sizeof key || ps_rows_read_model(r->data, r->data_bytes, &m) != 0)
        return false;
    ps_rows_model_key(m.number, key);
    if (memcmp(key, r->key, sizeof key) != 0 || m.number >= PS_INDEX_MODELS_MAX)
        return false;
    rc->recorded[m.number] =
        (struct sums){.n = m.n_extents, .bytes = m.bytes, .padded_bytes = m.padded_bytes};
    rc->known[m.number / 8] |= (uint8_t)(1u << (m.number % 8));
    return true;
}

static bool is_parts(const struct ps_pages_record *r)
{
    struct ps_rows_parts parts;
    return r->key_bytes == 5 && r->key[0] == 'p' &&
           ps_rows_read_parts(r->data, r->data_bytes, &parts) == 0;
}

static bool note_info(void *user, const struct ps_pages_record *r)
{
    struct recount *rc = user;
    if (r->key_bytes == sizeof PS_ROWS_META - 1 && memcmp(r->key, PS_ROWS_META, r->key_bytes) == 0)
        rc->meta_code = ps_rows_read_meta(r->data, r->data_bytes, &rc->meta, NULL);
    else if (!is_parts(r) && !note_model(rc, r))
        rc->models_good = false;
    return true;
}

static bool note_row(void *user, const struct ps_pages_record *r)
{
    struct recount *rc = user;
    uint32_t key;
    if (r->key_bytes != sizeof key || r->data_bytes != PS_ROWS_SLOTS_BYTES ||
        rc->n_rows == rc->cap_rows)
        return false;
    memcpy(&key, r->key, sizeof key);
    const uint32_t cls = key >> 24;
    if (cls >= PS_CACHE_CLASSES)
        return false;
    if (rc->n_rows == 0 || rc->rows[rc->n_rows - 1].key >> 24 != cls)
        rc->first_row[cls] = rc->n_rows;
    rc->rows[rc->n_rows++] = (struct row){.key = key, .stored = r->data};
    return true;
}

/* Rows of a class mostly follow one another without gaps: the guess holds. */
static size_t find_row(const struct recount *rc, int cls, uint32_t slot)
{
    const uint32_t key = ps_rows_bitmap_key(cls, slot);
    const size_t guess = rc->first_row[cls] + slot / PS_ROWS_SLOTS_BITS;
    size_t lo = 0, hi = rc->n_rows;
    if (guess < hi && rc->rows[guess].key == key)
        return guess;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (rc->rows[mid].key < key)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < rc->n_rows && rc->rows[lo].key == key ? lo : rc->n_rows;
}

static bool note_extent(void *user, const struct ps_pages_record *r)
{
    struct recount *rc = user;
    struct ps_record rec;
    if (r->key_bytes != PS_SHA256_BYTES || r->data_bytes != sizeof rec)
        return false;
    memcpy(&rec, r->data, sizeof rec);
    if (!ps_rows_record_is_sane(&rec))
        return false;
    const size_t row = find_row(rc, rec.cls, rec.slot);
    if (row == rc->n_rows)
        return false;
    const uint32_t i = rec.slot % PS_ROWS_SLOTS_BITS;
    uint8_t *at = &rc->found[row * PS_ROWS_SLOTS_BYTES + i / 8];
    const uint8_t bit = (uint8_t)(1u << (i % 8));
    if (*at & bit) /* two extents in one slot */
        return false;
    *at |= bit;
    const uint64_t padded = ps_budget_round(rec.bytes);
    rc->n_extents++;
    rc->classes[rec.cls].bytes += padded;
    rc->classes[rec.cls].used++;
    if (rc->classes[rec.cls].high <= rec.slot)
        rc->classes[rec.cls].high = rec.slot + 1;
    if (rec.model < PS_INDEX_MODELS_MAX) {
        struct sums *s = &rc->counted[rec.model];
        s->n++;
        s->bytes += rec.bytes;
        s->padded_bytes += padded;
    }
    return true;
}

static bool counters_agree(const struct recount *rc)
{
    if (rc->meta.n_extents != rc->n_extents)
        return false;
    for (int i = 0; i < PS_CACHE_CLASSES; i++)
        if (rc->meta.classes[i].bytes != rc->classes[i].bytes ||
            rc->meta.classes[i].used != rc->classes[i].used ||
            rc->meta.classes[i].high < rc->classes[i].high)
            return false;
    for (size_t i = 0; i < rc->n_rows; i++)
        if (memcmp(rc->rows[i].stored, rc->found + i * PS_ROWS_SLOTS_BYTES, PS_ROWS_SLOTS_BYTES) != 0)
            return false;
    for (size_t i = 0; i < PS_INDEX_MODELS_MAX; i++)
        if (rc->known[i / 8] >> (i % 8) & 1 &&
            memcmp(&rc->recorded[i], &rc->counted[i], sizeof rc->counted[i]) != 0)
            return false;
    return true;
}

/* ---- one file ---- */

/* Tables that this version doesn't know, or of which a newer one makes something else: their pages only. */
static int walk_unknown(struct ps_pages *p, bool newer)
{
    static const char *const ours[] = {"extents", "slots", "info"};
    for (size_t i = 0; i < p->n_tables; i++) {
        bool known = false;
        for (size_t j = 0; j < sizeof ours / sizeof *ours; j++)
            known = known || ps_pages_find(p, ours[j]) == &p->tables[i];
        const bool walked = ps_pages_find(p, "info") == &p->tables[i];
        if ((newer ? !walked : !known) && ps_pages_walk(p, &p->tables[i], NULL, NULL) != 0)
            return PS_EDATA;
    }
    return 0;
}

static int recount_tables(struct ps_pages *p, struct recount *rc)
{
    const struct ps_pages_table *extents = ps_pages_find(p, "extents"),
                                *slots = ps_pages_find(p, "slots");
    if (!extents || !slots || extents->flags != 0 || slots->flags != PS_PAGES_NUMERIC)
        return PS_EDATA;
    /* Each row takes a part of a page: a number that the file can't hold is damage, not a reason to allocate. */
    if (slots->n_records > p->n_pages * 8)
        return PS_EDATA;
    rc->cap_rows = (size_t)slots->n_records;
    rc->rows = ps_calloc(rc->cap_rows + 1, sizeof *rc->rows);
    rc->found = ps_calloc(rc->cap_rows + 1, PS_ROWS_SLOTS_BYTES);
    if (!rc->rows || !rc->found)
        return PS_ENOMEM;
    if (ps_pages_walk(p, slots, note_row, rc) != 0 || ps_pages_walk(p, extents, note_extent, rc) != 0)
        return PS_EDATA;
    return counters_agree(rc) ? 0 : PS_EDATA;
}

static int check_tables(struct ps_pages *p, struct recount *rc)
{
    const struct ps_pages_table *info = ps_pages_find(p, "info");
    if (p->foreign || (p->n_tables == 0 && p->txnid == 0)) /* LMDB's to refuse; new, not filled yet */
        return 0;
    if (!info || info->flags != 0)
        return PS_EDATA;
    rc->meta_code = PS_ENOTFOUND;
    rc->models_good = true;
    if (ps_pages_walk(p, info, note_info, rc) != 0)
        return PS_EDATA;
    const bool newer = rc->meta_code == PS_EUNSUPPORTED;
    if (!newer && (rc->meta_code != 0 || !rc->models_good))
        return PS_EDATA;
    const int others = walk_unknown(p, newer);
    return newer ? others : others == 0 ? recount_tables(p, rc) : others;
}

int ps_index_check(const void *bytes, size_t len, struct ps_err *err)
{
    struct ps_pages p;
    struct recount *rc = ps_calloc(1, sizeof *rc);
    int code = rc ? ps_pages_begin(&p, bytes, len) : PS_ENOMEM;
    if (code == 0)
        code = check_tables(&p, rc);
    if (rc) {
        ps_pages_end(&p);
        ps_free(rc->rows);
        ps_free(rc->found);
    }
    ps_free(rc);
    if (code == PS_ENOMEM)
        return ps_err_set(err, code, ORIGIN, "index: check: out of memory");
    return code == 0 ? 0 : ps_err_set(err, code, ORIGIN, "index: damaged: its parts don't agree");
}

/* A regular file for reading; negative code. Anything else under this name (a pipe would block) is damage. */
static int open_regular(const char *path, struct stat *st, struct ps_err *err)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return ps_err_set(err,
                          errno == ENOENT  ? PS_ENOTFOUND
                          : errno == ELOOP ? PS_EDATA
                                           : PS_EIO,
                          ORIGIN, "index: %s", strerror(errno));
    if (fstat(fd, st) == 0 && S_ISREG(st->st_mode))
        return fd;
    close(fd);
    return ps_err_set(err, PS_EDATA, ORIGIN, "index: damaged: no regular file");
}

int ps_index_check_file(const char *path, struct ps_err *err)
{
    struct stat st;
    const int fd = open_regular(path, &st, err);
    int rc = 0;
    if (fd < 0)
        return fd;
    if (st.st_size > 0) {
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

/* ---- sums ---- */

/* Exactly n bytes. Read, not mapped: a sector that can't be read is an error here and would be SIGBUS there. */
static int read_whole(int fd, void *buf, size_t n, uint64_t at, struct ps_err *err)
{
    const int64_t k = ps_read_at(fd, buf, n, n, at);
    if (k == (int64_t)n)
        return 0;
    return ps_err_set(err, PS_EDATA, ORIGIN, "index: damaged: read: %s",
                      k < 0 ? strerror(errno) : "shorter than it was");
}

static int sum_head(struct ps_index_sum *out, int fd, const struct stat *st, struct ps_err *err)
{
    uint8_t head[PS_PAGES_HEAD] = {0};
    const uint64_t size = (uint64_t)st->st_size;
    const size_t n = size < sizeof head ? (size_t)size : sizeof head;
    const int rc = read_whole(fd, head, n, 0, err);
    if (rc != 0)
        return rc;
    const uint64_t used = ps_pages_used(head) * PS_CACHE_GRAIN;
    *out = (struct ps_index_sum){.bytes = used > 0 && used < size ? used : size,
                                 .head = ps_crc32c(0, head, n)};
    return 0;
}

struct parts {
    int fd;
    uint64_t bytes;
    uint32_t *sums;
};

static int sum_part(void *user, uint32_t i, struct ps_err *err)
{
    const struct parts *p = user;
    uint64_t at = (uint64_t)i * SUM_PART;
    const uint64_t end = p->bytes - at < SUM_PART ? p->bytes : at + SUM_PART;
    uint8_t *buf = ps_malloc(SUM_CHUNK);
    int rc = buf ? 0 : ps_err_set(err, PS_ENOMEM, ORIGIN, "index: sum: out of memory");
    uint32_t sum = 0;
    while (rc == 0 && at < end) {
        const size_t n = end - at < SUM_CHUNK ? (size_t)(end - at) : SUM_CHUNK;
        rc = read_whole(p->fd, buf, n, at, err);
        if (rc == 0)
            sum = ps_crc32c(sum, buf, n);
        at += n;
    }
    p->sums[i] = sum;
    ps_free(buf);
    return rc;
}

/* The sum of the parts' sums. */
static int sum_parts(uint32_t *out, int fd, uint64_t bytes, struct ps_err *err)
{
    const uint32_t n = (uint32_t)((bytes + SUM_PART - 1) / SUM_PART);
    struct parts p = {.fd = fd, .bytes = bytes, .sums = ps_calloc(n + 1, sizeof *p.sums)};
    int rc = p.sums ? ps_parallel(n, sum_part, &p, err)
                    : ps_err_set(err, PS_ENOMEM, ORIGIN, "index: sum: out of memory");
    if (rc == 0)
        *out = ps_crc32c(0, p.sums, n * sizeof *p.sums);
    ps_free(p.sums);
    return rc;
}

static int sum_file(struct ps_index_sum *out, const char *path, bool whole, struct ps_err *err)
{
    struct ps_index_sum s;
    struct stat st;
    const int fd = open_regular(path, &st, err);
    if (fd < 0)
        return fd;
    int rc = sum_head(&s, fd, &st, err);
    if (rc == 0 && whole)
        rc = sum_parts(&s.crc32c, fd, s.bytes, err);
    close(fd);
    if (rc == 0)
        *out = s;
    return rc;
}

int ps_index_sum_head(struct ps_index_sum *out, const char *path, struct ps_err *err)
{
    return sum_file(out, path, false, err);
}

int ps_index_sum_file(struct ps_index_sum *out, const char *path, struct ps_err *err)
{
    return sum_file(out, path, true, err);
}
