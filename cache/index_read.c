/* What the index holds. In: keys; out: records, counters, models, free slots, each from one snapshot. */
#include "cache/index_internal.h"

#include <errno.h>
#include <string.h>
#include "base/alloc.h"

int ps_index_load_meta(const struct ps_index *ix, MDB_txn *txn, struct ps_index_meta *meta,
                       struct ps_err *err)
{
    char name[] = PS_ROWS_META;
    MDB_val k = {.mv_size = sizeof name - 1, .mv_data = name}, v;
    uint32_t format;
    const int rc = mdb_get(txn, ix->info, &k, &v);
    if (rc != 0)
        return ps_index_error(ix, rc, "counters", err);
    const int code = ps_rows_read_meta(v.mv_data, v.mv_size, meta, &format);
    if (code == PS_EUNSUPPORTED)
        return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                          "cache: %s: made by a newer Penstock (format %u, this one knows %u): "
                          "upgrade, or use another "
                          "--cache",
                          ix->dir, format, PS_INDEX_FORMAT);
    return code == 0 ? 0 : ps_err_set(err, code, ORIGIN, "index: damaged: counters");
}

static int begin_txn(struct ps_index *ix, MDB_txn *txn, MDB_txn **out)
{
    if (txn) {
        if (mdb_txn_renew(txn) == 0) {
            *out = txn;
            return 0;
        }
        mdb_txn_abort(txn);
    }
    return mdb_txn_begin(ix->env, NULL, MDB_RDONLY, out);
}

int ps_index_read_begin(struct ps_index_read *r, struct ps_index *ix, struct ps_err *err)
{
    int rc = EIO;
    for (int i = 0; i < TRIES; i++) {
        MDB_txn *txn;
        MDB_txn *ended = ps_index_enter_for_read(ix);
        rc = ix->env ? begin_txn(ix, ended, &txn) : EIO;
        if (rc == 0) {
            r->ix = ix;
            r->txn = txn;
            return 0;
        }
        ps_index_leave(ix);
        if (!ps_index_mended(ix, rc))
            break;
    }
    return ps_index_error(ix, rc, "read", err);
}

void ps_index_read_end(struct ps_index_read *r)
{
    mdb_txn_reset(r->txn); /* the snapshot ends here, whatever becomes of the handle */
    ps_index_leave_after_read(r->ix, r->txn);
    r->txn = NULL;
}

int ps_index_read_meta(struct ps_index_read *r, struct ps_index_meta *meta, struct ps_err *err)
{
    return ps_index_load_meta(r->ix, r->txn, meta, err);
}

int ps_index_load_record(const struct ps_index *ix, MDB_txn *txn, const uint8_t *key,
                         struct ps_record *rec, struct ps_err *err)
{
    MDB_val k = {.mv_size = PS_SHA256_BYTES, .mv_data = (void *)(uintptr_t)key}, v;
    const int rc = mdb_get(txn, ix->extents, &k, &v);
    if (rc == MDB_NOTFOUND)
        return PS_ENOTFOUND;
    if (rc != 0)
        return ps_index_error(ix, rc, "read", err);
    struct ps_record got;
    if (v.mv_size != sizeof got)
        return ps_index_error(ix, MDB_CORRUPTED, "read", err);
    memcpy(&got, v.mv_data, sizeof got);
    if (!ps_rows_record_is_sane(&got))
        return ps_index_error(ix, MDB_CORRUPTED, "read", err);
    *rec = got;
    return 0;
}

int ps_index_read_get(struct ps_index_read *r, const uint8_t key[PS_SHA256_BYTES],
                      struct ps_record *rec, struct ps_err *err)
{
    return ps_index_load_record(r->ix, r->txn, key, rec, err);
}

int ps_index_get(struct ps_index *ix, const uint8_t key[PS_SHA256_BYTES], struct ps_record *rec,
                 struct ps_err *err)
{
    struct ps_index_read r;
    int code = ps_index_read_begin(&r, ix, err);
    if (code != 0)
        return code;
    code = ps_index_read_get(&r, key, rec, err);
    ps_index_read_end(&r);
    return code;
}

int ps_index_get_meta(struct ps_index *ix, struct ps_index_meta *meta, struct ps_err *err)
{
    struct ps_index_read r;
    int code = ps_index_read_begin(&r, ix, err);
    if (code != 0)
        return code;
    code = ps_index_read_meta(&r, meta, err);
    ps_index_read_end(&r);
    return code;
}

int ps_index_load_bitmap(const struct ps_index *ix, MDB_txn *txn, int cls, uint32_t slot,
                         const uint8_t **bits)
{
    uint32_t id = ps_rows_bitmap_key(cls, slot);
    MDB_val k = {.mv_size = sizeof id, .mv_data = &id}, v;
    const int rc = mdb_get(txn, ix->slots, &k, &v);
    *bits = NULL;
    if (rc == 0 && v.mv_size == PS_ROWS_SLOTS_BYTES)
        *bits = v.mv_data;
    return rc == MDB_NOTFOUND ? 0 : rc == 0 && !*bits ? MDB_CORRUPTED : rc;
}

bool ps_index_read_slot_used(struct ps_index_read *r, int cls, uint32_t slot)
{
    const uint8_t *bits;
    /* Unreadable counts as used: nobody writes there. */
    return ps_index_load_bitmap(r->ix, r->txn, cls, slot, &bits) != 0 ||
           ps_index_bit_is_set(bits, slot);
}

int ps_index_read_free_slot(struct ps_index_read *r, int cls, uint32_t from, uint32_t to,
                            bool (*busy)(void *user, int cls, uint32_t slot), void *user,
                            uint32_t *slot)
{
    for (uint32_t at = from; at < to;) {
        const uint8_t *bits;
        if (ps_index_load_bitmap(r->ix, r->txn, cls, at, &bits) != 0)
            return PS_EDATA;
        const uint32_t end = (at / PS_ROWS_SLOTS_BITS + 1) * PS_ROWS_SLOTS_BITS < to
                                 ? (at / PS_ROWS_SLOTS_BITS + 1) * PS_ROWS_SLOTS_BITS
                                 : to;
        for (; at < end; at++) {
            if (bits && at % 8 == 0 && bits[at % PS_ROWS_SLOTS_BITS / 8] == 0xff) {
                at += 7; /* the loop adds the eighth; past `end` only where `end` was not a multiple of 8 */
                continue;
            }
            if (!ps_index_bit_is_set(bits, at) && !busy(user, cls, at)) {
                *slot = at;
                return 0;
            }
        }
    }
    return PS_ENOTFOUND;
}

int ps_index_load_model(const struct ps_index *ix, MDB_txn *txn, uint16_t number,
                        struct ps_model *model)
{
    uint8_t name[3];
    ps_rows_model_key(number, name);
    MDB_val k = {.mv_size = sizeof name, .mv_data = name}, v;
    const int rc = mdb_get(txn, ix->info, &k, &v);
    if (rc != 0)
        return rc == MDB_NOTFOUND ? PS_ENOTFOUND : PS_EDATA;
    return ps_rows_read_model(v.mv_data, v.mv_size, model);
}

int ps_index_read_model(struct ps_index_read *r, uint16_t number, struct ps_model *model)
{
    return ps_index_load_model(r->ix, r->txn, number, model);
}

int ps_index_scan(struct ps_index *ix, const uint8_t *after, struct ps_keyed_record *recs,
                  size_t cap, size_t *n, struct ps_err *err)
{
    struct ps_index_read r;
    int code = ps_index_read_begin(&r, ix, err);
    if (code != 0)
        return code;
    MDB_cursor *cursor;
    MDB_val k = {.mv_size = PS_SHA256_BYTES, .mv_data = (void *)(uintptr_t)after}, v;
    size_t got = 0;
    int rc = mdb_cursor_open(r.txn, ix->extents, &cursor);
    if (rc == 0) {
        rc = mdb_cursor_get(cursor, &k, &v, after ? MDB_SET_RANGE : MDB_FIRST);
        if (rc == 0 && after && k.mv_size == PS_SHA256_BYTES &&
            memcmp(k.mv_data, after, PS_SHA256_BYTES) == 0)
            rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT);
        for (; rc == 0 && got < cap; rc = got < cap ? mdb_cursor_get(cursor, &k, &v, MDB_NEXT) : 0) {
            if (k.mv_size != PS_SHA256_BYTES || v.mv_size != sizeof recs->rec) {
                rc = MDB_CORRUPTED;
                break;
            }
            memcpy(recs[got].key, k.mv_data, PS_SHA256_BYTES);
            memcpy(&recs[got].rec, v.mv_data, sizeof recs->rec);
            if (ps_rows_record_is_sane(&recs[got].rec))
                got++;
        }
        mdb_cursor_close(cursor);
    }
    ps_index_read_end(&r);
    if (rc != 0 && rc != MDB_NOTFOUND)
        return ps_index_error(ix, rc, "scan", err);
    *n = got;
    return 0;
}

int ps_index_each_model(const struct ps_index *ix, MDB_txn *txn,
                        bool (*fn)(void *user, const struct ps_model *m), void *user)
{
    MDB_cursor *cursor;
    uint8_t first[3] = {'m', 0, 0};
    MDB_val k = {.mv_size = sizeof first, .mv_data = first}, v;
    int rc = mdb_cursor_open(txn, ix->info, &cursor);
    if (rc != 0)
        return rc;
    rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
    for (; rc == 0; rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT)) {
        struct ps_model m;
        if (k.mv_size != 3)
            continue; /* "meta" and the parts sort among them */
        if (ps_rows_read_model(v.mv_data, v.mv_size, &m) != 0) {
            rc = MDB_CORRUPTED;
            break;
        }
        if (!fn(user, &m))
            break;
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

struct model_list {
    struct ps_model *models;
    size_t n, cap;
};

static bool list_model(void *user, const struct ps_model *m)
{
    struct model_list *l = user;
    if (l->n < l->cap)
        l->models[l->n++] = *m;
    return l->n < l->cap;
}

int ps_index_models(struct ps_index *ix, struct ps_model **models, size_t *n, struct ps_err *err)
{
    struct ps_index_read r;
    struct model_list l = {.cap = 0};
    MDB_stat ms;
    int code = ps_index_read_begin(&r, ix, err);
    if (code != 0)
        return code;
    int rc = mdb_stat(r.txn, ix->info, &ms);
    if (rc == 0) {
        l.cap = ms.ms_entries < PS_INDEX_MODELS_MAX ? ms.ms_entries : PS_INDEX_MODELS_MAX;
        l.models = ps_calloc(l.cap + 1, sizeof *l.models);
        rc = l.models ? ps_index_each_model(ix, r.txn, list_model, &l) : ENOMEM;
    }
    ps_index_read_end(&r);
    if (rc != 0) {
        ps_free(l.models);
        return ps_index_error(ix, rc, "models", err);
    }
    *models = l.models;
    *n = l.n;
    return 0;
}

int ps_index_load_parts(const struct ps_index *ix, MDB_txn *txn, uint16_t number, unsigned row,
                        struct ps_rows_parts *parts)
{
    uint8_t name[5];
    ps_rows_parts_key(number, row, name);
    MDB_val k = {.mv_size = sizeof name, .mv_data = name}, v;
    const int rc = mdb_get(txn, ix->info, &k, &v);
    if (rc != 0)
        return rc;
    return ps_rows_read_parts(v.mv_data, v.mv_size, parts) == 0 ? 0 : MDB_CORRUPTED;
}

int ps_index_parts(struct ps_index *ix, uint16_t number, uint64_t **bytes, size_t *n,
                   struct ps_err *err)
{
    struct ps_index_read r;
    struct ps_rows_parts parts;
    uint64_t *all = ps_malloc(sizeof *all); /* never NULL, also without parts */
    size_t got = 0;
    int rc = all ? 0 : ENOMEM;
    int code = ps_index_read_begin(&r, ix, err);
    if (code != 0) {
        ps_free(all);
        return code;
    }
    for (unsigned row = 0; rc == 0 && got < PS_INDEX_PARTS_MAX; row++) {
        rc = ps_index_load_parts(ix, r.txn, number, row, &parts);
        if (rc != 0)
            break;
        uint64_t *more = ps_realloc_array(all, got + parts.n + 1, sizeof *more);
        if (!more) {
            rc = ENOMEM;
            break;
        }
        all = more;
        memcpy(all + got, parts.bytes, parts.n * sizeof *all);
        got += parts.n;
    }
    ps_index_read_end(&r);
    if (rc != 0 && rc != MDB_NOTFOUND) {
        ps_free(all);
        return ps_index_error(ix, rc, "layers", err);
    }
    *bytes = all;
    *n = got;
    return 0;
}
