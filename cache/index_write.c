/* Changes of the index, all of one call in one transaction: records with their slots and sums, models, counters. */
#include "cache/index_internal.h"

#include <errno.h>
#include <string.h>

int ps_index_store_meta(struct ps_index *ix, MDB_txn *txn, struct ps_index_meta *meta)
{
    char name[] = PS_ROWS_META;
    MDB_val k = {.mv_size = sizeof name - 1, .mv_data = name}, v = {.mv_size = sizeof *meta};
    ps_rows_seal_meta(meta);
    const int rc = mdb_put(txn, ix->info, &k, &v, MDB_RESERVE);
    if (rc == 0)
        memcpy(v.mv_data, meta, sizeof *meta);
    return rc;
}

static int fail(struct ps_index_write *w, int rc, const char *what, struct ps_err *err)
{
    if (w->mdb_rc == 0)
        w->mdb_rc = rc;
    return ps_index_error(w->ix, rc, what, err);
}

struct ps_index_meta *ps_index_write_meta(struct ps_index_write *w)
{
    return &w->meta;
}

static int set_slot(struct ps_index_write *w, int cls, uint32_t slot, bool used, struct ps_err *err)
{
    const uint8_t *old;
    uint8_t bits[PS_ROWS_SLOTS_BYTES] = {0};
    uint32_t id = ps_rows_bitmap_key(cls, slot);
    MDB_val k = {.mv_size = sizeof id, .mv_data = &id}, v = {.mv_size = sizeof bits, .mv_data = bits};
    int rc = ps_index_load_bitmap(w->ix, w->txn, cls, slot, &old);
    if (rc != 0)
        return fail(w, rc, "slots", err);
    if (old)
        memcpy(bits, old, sizeof bits);
    const uint32_t i = slot % PS_ROWS_SLOTS_BITS;
    if (ps_index_bit_is_set(bits, slot) == used) /* claims make this impossible: the file lies */
        return fail(w, MDB_CORRUPTED, "slots", err);
    bits[i / 8] ^= (uint8_t)(1u << (i % 8));
    static const uint8_t none[PS_ROWS_SLOTS_BYTES];
    rc = memcmp(bits, none, sizeof bits) == 0 ? mdb_del(w->txn, w->ix->slots, &k, NULL)
                                              : mdb_put(w->txn, w->ix->slots, &k, &v, 0);
    return rc == 0 ? 0 : fail(w, rc, "slots", err);
}

/* Counts a record in (sign 1) or out (-1, two's complement) of the totals and of its model. */
static int count_record(struct ps_index_write *w, const struct ps_record *rec, uint64_t sign,
                        struct ps_err *err)
{
    const uint64_t padded = ps_budget_round(rec->bytes);
    w->meta.n_extents += sign;
    w->meta.classes[rec->cls].bytes += padded * sign;
    w->meta.classes[rec->cls].used += (uint32_t)sign;
    if (w->meta.classes[rec->cls].used == 0)
        w->meta.classes[rec->cls].high = 0;
    else if (w->meta.classes[rec->cls].high <= rec->slot)
        w->meta.classes[rec->cls].high = rec->slot + 1;
    struct ps_model m;
    const int code = ps_index_load_model(w->ix, w->txn, rec->model, &m);
    if (code != 0) /* its row is gone: nobody asks for its sums */
        return code == PS_ENOTFOUND ? 0 : fail(w, MDB_CORRUPTED, "model", err);
    m.bytes += rec->bytes * sign;
    m.padded_bytes += padded * sign;
    m.n_extents += sign;
    return ps_index_write_put_model(w, &m, err);
}

int ps_index_write_add(struct ps_index_write *w, const uint8_t key[PS_SHA256_BYTES],
                       const struct ps_record *rec, struct ps_err *err)
{
    MDB_val k = {.mv_size = PS_SHA256_BYTES, .mv_data = (void *)(uintptr_t)key};
    MDB_val v = {.mv_size = sizeof *rec, .mv_data = (void *)(uintptr_t)rec};
    const int rc = mdb_put(w->txn, w->ix->extents, &k, &v, MDB_NOOVERWRITE);
    if (rc == MDB_KEYEXIST)
        return PS_EAGAIN;
    if (rc != 0)
        return fail(w, rc, "add", err);
    const int code = set_slot(w, rec->cls, rec->slot, true, err);
    return code != 0 ? code : count_record(w, rec, 1, err);
}

int ps_index_write_remove(struct ps_index_write *w, const uint8_t key[PS_SHA256_BYTES],
                          const struct ps_record *rec, struct ps_err *err)
{
    MDB_val k = {.mv_size = PS_SHA256_BYTES, .mv_data = (void *)(uintptr_t)key};
    struct ps_record now;
    int code = ps_index_load_record(w->ix, w->txn, key, &now, err);
    if (code != 0)
        return code;
    if (now.cls != rec->cls || now.slot != rec->slot)
        return PS_ENOTFOUND;
    const int rc = mdb_del(w->txn, w->ix->extents, &k, NULL);
    if (rc != 0)
        return fail(w, rc, "remove", err);
    code = set_slot(w, now.cls, now.slot, false, err);
    return code != 0 ? code : count_record(w, &now, (uint64_t)-1, err);
}

int ps_index_write_flags(struct ps_index_write *w, const uint8_t key[PS_SHA256_BYTES],
                         uint8_t flags, struct ps_err *err)
{
    struct ps_record rec;
    const int code = ps_index_load_record(w->ix, w->txn, key, &rec, err);
    if (code != 0)
        return code;
    rec.flags = flags;
    MDB_val k = {.mv_size = PS_SHA256_BYTES, .mv_data = (void *)(uintptr_t)key};
    MDB_val v = {.mv_size = sizeof rec, .mv_data = &rec};
    const int rc = mdb_put(w->txn, w->ix->extents, &k, &v, 0);
    return rc == 0 ? 0 : fail(w, rc, "flags", err);
}

struct model_search {
    const uint8_t *id;
    struct ps_model found;
    bool ok;
    uint8_t taken[PS_INDEX_MODELS_MAX / 8];
};

static bool match_model(void *user, const struct ps_model *m)
{
    struct model_search *s = user;
    if (m->number < PS_INDEX_MODELS_MAX)
        s->taken[m->number / 8] |= (uint8_t)(1u << (m->number % 8));
    if (!s->id || memcmp(m->id, s->id, PS_SHA256_BYTES) != 0)
        return true;
    s->found = *m;
    s->ok = true;
    return false;
}

int ps_index_write_get_model(struct ps_index_write *w, const uint8_t *id, uint16_t number,
                             struct ps_model *model, struct ps_err *err)
{
    if (!id)
        return ps_index_load_model(w->ix, w->txn, number, model);
    struct model_search s = {.id = id};
    const int rc = ps_index_each_model(w->ix, w->txn, match_model, &s);
    if (rc != 0)
        return fail(w, rc, "models", err);
    if (!s.ok)
        return PS_ENOTFOUND;
    *model = s.found;
    return 0;
}

int ps_index_write_free_number(struct ps_index_write *w, uint16_t *number, struct ps_err *err)
{
    struct model_search s = {.id = NULL};
    const int rc = ps_index_each_model(w->ix, w->txn, match_model, &s);
    if (rc != 0)
        return fail(w, rc, "models", err);
    for (unsigned i = 0; i < PS_INDEX_MODELS_MAX; i++)
        if (!(s.taken[i / 8] >> (i % 8) & 1)) {
            *number = (uint16_t)i;
            return 0;
        }
    return ps_err_set(err, PS_EBUDGET, ORIGIN, "cache: holds %u models already: evict some",
                      PS_INDEX_MODELS_MAX);
}

int ps_index_write_put_model(struct ps_index_write *w, const struct ps_model *model,
                             struct ps_err *err)
{
    struct ps_model sealed = *model;
    uint8_t name[3];
    ps_rows_seal_model(&sealed);
    ps_rows_model_key(model->number, name);
    MDB_val k = {.mv_size = sizeof name, .mv_data = name};
    MDB_val v = {.mv_size = sizeof sealed, .mv_data = &sealed};
    const int rc = mdb_put(w->txn, w->ix->info, &k, &v, 0);
    return rc == 0 ? 0 : fail(w, rc, "model", err);
}

/* Removes the rows of parts from `row` on. */
static int cut_parts(struct ps_index_write *w, uint16_t number, unsigned row, struct ps_err *err)
{
    for (int rc = 0; rc == 0; row++) {
        uint8_t name[5];
        ps_rows_parts_key(number, row, name);
        MDB_val k = {.mv_size = sizeof name, .mv_data = name};
        rc = mdb_del(w->txn, w->ix->info, &k, NULL);
        if (rc != 0 && rc != MDB_NOTFOUND)
            return fail(w, rc, "layers", err);
    }
    return 0;
}

static int put_parts(struct ps_index_write *w, uint16_t number, unsigned row,
                     struct ps_rows_parts *parts, struct ps_err *err)
{
    struct ps_rows_parts old;
    uint8_t name[5];
    const size_t bytes = ps_rows_seal_parts(parts);
    if (ps_index_load_parts(w->ix, w->txn, number, row, &old) == 0 && old.n == parts->n &&
        memcmp(&old, parts, bytes) == 0)
        return 0;
    ps_rows_parts_key(number, row, name);
    MDB_val k = {.mv_size = sizeof name, .mv_data = name};
    MDB_val v = {.mv_size = bytes, .mv_data = parts};
    const int rc = mdb_put(w->txn, w->ix->info, &k, &v, 0);
    return rc == 0 ? 0 : fail(w, rc, "layers", err);
}

int ps_index_write_parts(struct ps_index_write *w, uint16_t number, const uint64_t *bytes, size_t n,
                         struct ps_err *err)
{
    unsigned row = 0;
    n = n < PS_INDEX_PARTS_MAX ? n : PS_INDEX_PARTS_MAX;
    for (size_t at = 0; at < n; at += PS_ROWS_PARTS, row++) {
        struct ps_rows_parts parts = {.n = 0};
        parts.n = (uint32_t)(n - at < PS_ROWS_PARTS ? n - at : PS_ROWS_PARTS);
        memcpy(parts.bytes, bytes + at, parts.n * sizeof *bytes);
        const int code = put_parts(w, number, row, &parts, err);
        if (code != 0)
            return code;
    }
    return cut_parts(w, number, row, err);
}

int ps_index_write_remove_model(struct ps_index_write *w, uint16_t number, struct ps_err *err)
{
    uint8_t name[3];
    ps_rows_model_key(number, name);
    MDB_val k = {.mv_size = sizeof name, .mv_data = name};
    const int rc = mdb_del(w->txn, w->ix->info, &k, NULL);
    return rc == 0 || rc == MDB_NOTFOUND ? cut_parts(w, number, 0, err) : fail(w, rc, "model", err);
}

/* One attempt. PS_EAGAIN with *mdb_rc set: mend that and try again. */
static int update_once(struct ps_index *ix, ps_index_body body, void *user, int *mdb_rc,
                       struct ps_err *err)
{
    struct ps_index_write w = {.ix = ix};
    if (!ix->env)
        return ps_index_error(ix, EIO, "write", err);
    int rc = mdb_txn_begin(ix->env, NULL, 0, &w.txn);
    if (rc != 0) {
        *mdb_rc = rc;
        return ps_index_error(ix, rc, "write", err);
    }
    int code = ps_index_load_meta(ix, w.txn, &w.meta, err);
    if (code == 0)
        code = body(&w, user, err);
    if (code == 0 && (rc = ps_index_store_meta(ix, w.txn, &w.meta)) != 0)
        code = fail(&w, rc, "write", err);
    if (code != 0) {
        mdb_txn_abort(w.txn);
        *mdb_rc = w.mdb_rc;
        return code;
    }
    rc = mdb_txn_commit(w.txn);
    *mdb_rc = rc;
    return rc == 0 ? 0 : ps_index_error(ix, rc, "commit", err);
}

int ps_index_update(struct ps_index *ix, ps_index_body body, void *user, struct ps_err *err)
{
    int code = PS_EIO;
    for (int i = 0; i < TRIES; i++) {
        int mdb_rc = 0;
        ps_index_enter(ix);
        code = update_once(ix, body, user, &mdb_rc, err);
        ps_index_leave(ix);
        if (code == 0 || !ps_index_mended(ix, mdb_rc))
            break;
    }
    return code;
}

/* Taking LMDB's write lock over from a dead process is what brings its readers up to date. */
int ps_index_pause_commits(struct ps_index *ix, void (*fn)(void *user), void *user, struct ps_err *err)
{
    int rc = EIO;
    for (int i = 0; i < TRIES; i++) {
        MDB_txn *txn;
        ps_index_enter(ix);
        rc = ix->env ? mdb_txn_begin(ix->env, NULL, 0, &txn) : EIO;
        if (rc == 0) {
            if (fn)
                fn(user);
            mdb_txn_abort(txn);
        }
        ps_index_leave(ix);
        if (rc == 0)
            return 0;
        if (!ps_index_mended(ix, rc))
            break;
    }
    return ps_index_error(ix, rc, "write", err);
}
