/* Adding up, reading back, removing: see split_report.h. */
#include "tools/split_report.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "fetcher/store.h"
#include "proto/layout.h"
#include "proto/parallel.h"

#define ORIGIN "split"
#define INDEX  "model.safetensors.index.json"

static void add_tensor(struct ps_split_report *r, const struct ps_map *in, const struct ps_map *out,
                       uint32_t i)
{
    const struct ps_tensor *t = &out->tensors[i];
    int64_t was = ps_map_find(in, t->name);
    struct ps_split_kind_sum *k = &r->kinds[ps_split_kind_of(t)];
    k->tensors++;
    if (was >= 0)
        k->bytes_in += in->tensors[was].rows * in->tensors[was].row_bytes;
    for (uint32_t e = 0; e < t->n_extents; e++) {
        const struct ps_extent *x = &out->extents[t->first_extent + e];
        k->bytes_out += x->stored_bytes;
        k->widened_extents += ps_extent_dtype(out, x) != t->dtype;
    }
    if (!t->rounded)
        return;
    double relative = ps_quant_error_relative(&t->error);
    k->worst = relative > k->worst ? relative : k->worst;
    ps_quant_error_add(&k->error, &t->error);
}

struct reading {
    struct ps_source *s;
    const struct ps_map *m;
    const volatile sig_atomic_t *stop;
};

static int read_back(void *user, uint32_t i, struct ps_err *err)
{
    const struct reading *r = user;
    const struct ps_extent *e = &r->m->extents[i];
    if (r->stop && __atomic_load_n(r->stop, __ATOMIC_RELAXED))
        return ps_err_set(err, PS_EINTERRUPTED, ORIGIN, "interrupted: the source was left");
    void *buf = ps_malloc(e->stored_bytes);
    if (!buf)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    int rc = ps_source_read(r->s, r->m->objects[e->object].name, e->offset, buf, e->stored_bytes,
                            e->key, err);
    ps_free(buf);
    return rc;
}

int ps_split_report_make(struct ps_split_report *r, struct ps_source *src,
                         const struct ps_split_options *o, bool verify, struct ps_err *err)
{
    struct ps_model_files in = {0}, out = {0};
    struct ps_source *back = NULL;
    int rc = ps_model_files_open(&in, src, err);
    if (rc == 0)
        rc = ps_store_open(&back, o->dst, o->store, err);
    if (rc == 0)
        rc = ps_model_files_open(&out, back, err);
    if (rc == 0 && verify) {
        struct reading reading = {back, out.map, o->stop};
        rc = ps_parallel(out.map->n_extents, read_back, &reading, err);
        r->verified_bytes = out.map->stored_bytes;
    }
    for (uint32_t i = 0; rc == 0 && i < out.map->n_tensors; i++)
        add_tensor(r, in.map, out.map, i);
    if (rc == 0) {
        r->bytes_in = in.map->raw_bytes;
        r->bytes_out = out.map->stored_bytes;
    }
    ps_model_files_close(&in);
    ps_model_files_close(&out);
    ps_source_close(back);
    return rc;
}

static double ratio(uint64_t in, uint64_t out)
{
    return out ? (double)in / (double)out : 1;
}

void ps_split_report_write(struct ps_json_writer *w, const struct ps_split_report *r)
{
    ps_jw_kuint(w, "bytes_in", r->bytes_in);
    ps_jw_kuint(w, "bytes_out", r->bytes_out);
    ps_jw_kdouble(w, "ratio", ratio(r->bytes_in, r->bytes_out));
    if (r->verified_bytes)
        ps_jw_kuint(w, "verified_bytes", r->verified_bytes);
    if (r->deleted_files)
        ps_jw_kuint(w, "deleted_files", r->deleted_files);
    ps_jw_key(w, "kinds");
    ps_jw_array(w);
    for (int i = 0; i < PS_KIND_COUNT; i++) {
        const struct ps_split_kind_sum *k = &r->kinds[i];
        if (k->tensors == 0)
            continue;
        ps_jw_object(w);
        ps_jw_kstring(w, "kind", ps_split_kind_name((enum ps_split_kind)i));
        ps_jw_kuint(w, "tensors", k->tensors);
        ps_jw_kuint(w, "bytes_in", k->bytes_in);
        ps_jw_kuint(w, "bytes_out", k->bytes_out);
        ps_jw_kdouble(w, "ratio", ratio(k->bytes_in, k->bytes_out));
        if (k->error.weight2 > 0) {
            ps_quant_error_write(w, &k->error);
            ps_jw_kdouble(w, "rel_rmse_worst", k->worst);
            ps_jw_kuint(w, "widened_extents", k->widened_extents);
        }
        ps_jw_object_end(w);
    }
    ps_jw_array_end(w);
}

/* ---- The end of the source ---- */

struct doomed_file {
    char *path;
    bool there; /* false: an index that the model does without */
    struct stat st;
};

struct ps_split_doomed {
    uint32_t n;
    struct doomed_file files[];
};

static int look_at(struct doomed_file *f, struct ps_err *err)
{
    f->there = lstat(f->path, &f->st) == 0;
    return f->there || errno == ENOENT
               ? 0
               : ps_err_set(err, PS_EIO, ORIGIN, "--delete-source: %s: %s", f->path, strerror(errno));
}

static int doomed_init(struct doomed_file *f, struct ps_source *src, const char *name,
                       struct ps_err *err)
{
    int rc = src->ops->local_path(src, name, &f->path, err);
    if (rc == 0)
        rc = look_at(f, err);
    if (rc == 0 && f->there && S_ISLNK(f->st.st_mode))
        rc = ps_err_set(err, PS_EUSAGE, ORIGIN,
                        "--delete-source: %s is a symbolic link: what it points to would stay: "
                        "leave the option out",
                        f->path);
    return rc;
}

void ps_split_doomed_free(struct ps_split_doomed *d)
{
    for (uint32_t i = 0; d && i < d->n; i++)
        ps_free(d->files[i].path);
    ps_free(d);
}

int ps_split_doomed_new(struct ps_split_doomed **out, struct ps_source *src, struct ps_err *err)
{
    struct ps_model_files in = {0};
    struct doomed_file index = {0};
    struct ps_split_doomed *d = NULL;
    if (!src->local || strcmp(src->ops->scheme, "file") != 0 || !src->ops->local_path)
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "--delete-source: %s is no folder of this machine: leave it out",
                          src->label);
    int rc = doomed_init(&index, src, INDEX, err); /* before it is read: it names the others */
    if (rc == 0)
        rc = ps_model_files_open(&in, src, err);
    uint32_t n = rc == 0 ? in.map->n_objects : 0;
    if (rc == 0 && !(d = ps_calloc(1, sizeof *d + (n + 1ull) * sizeof d->files[0])))
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        d->n++;
        rc = doomed_init(&d->files[i], src, in.map->objects[i].name, err);
    }
    ps_model_files_close(&in);
    if (rc != 0) {
        ps_split_doomed_free(d);
        ps_free(index.path);
        return rc;
    }
    d->files[d->n++] = index; /* removed last */
    *out = d;
    return 0;
}

static int check_same(const struct doomed_file *f, struct ps_err *err)
{
    struct doomed_file now = {.path = f->path};
    int rc = look_at(&now, err);
    if (rc != 0)
        return rc;
    bool same = now.there == f->there;
    if (same && f->there)
        same = now.st.st_dev == f->st.st_dev && now.st.st_ino == f->st.st_ino &&
               now.st.st_size == f->st.st_size && now.st.st_mtim.tv_sec == f->st.st_mtim.tv_sec &&
               now.st.st_mtim.tv_nsec == f->st.st_mtim.tv_nsec;
    return same ? 0
                : ps_err_set(err, PS_EDATA, ORIGIN,
                             "--delete-source: %s is not the file that was split: it was left",
                             f->path);
}

int ps_split_delete_source(struct ps_split_report *r, const struct ps_split_doomed *d,
                           struct ps_err *err)
{
    int rc = 0;
    PS_ASSERT(r->verified_bytes == r->bytes_out);
    for (uint32_t i = 0; rc == 0 && i < d->n; i++)
        rc = check_same(&d->files[i], err);
    for (uint32_t i = 0; rc == 0 && i < d->n; i++) {
        const struct doomed_file *f = &d->files[i];
        rc = check_same(f, err);
        if (rc != 0 || !f->there)
            continue;
        if (unlink(f->path) != 0)
            rc = ps_err_set(err, PS_EIO, ORIGIN, "--delete-source: %s: %s", f->path, strerror(errno));
        else
            r->deleted_files++;
    }
    return rc;
}
