/* `penstock split`: opens the source, hands it to ps_split, says what came of it. */
#include "tools/cli.h"

#include <stdatomic.h>
#include <string.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/host.h"
#include "base/json.h"
#include "base/minmax.h"
#include "base/strbuf.h"
#include "proto/signature.h"
#include "tools/interrupt.h"
#include "tools/progress.h"
#include "tools/split.h"
#include "tools/split_report.h"
#include "tools/textio.h"

static void on_progress(void *user, uint64_t done_bytes, uint64_t total_bytes, uint32_t shard,
                        uint32_t n_shards)
{
    (void)shard;
    (void)n_shards;
    ps_progress_update(user, "split", done_bytes, total_bytes);
}

static atomic_int stopped; /* requests to a store heed this one */

/* ps_split polls ps_interrupt_seen; that was set before this is called. */
static void stop_soon(void *user, int signo)
{
    (void)user;
    (void)signo;
    atomic_store(&stopped, 1);
}

static int print_result(const struct ps_opts *o, const uint8_t id[PS_SHA256_BYTES],
                        const struct ps_split_report *report, double seconds, struct ps_err *err)
{
    char hex[2 * PS_SHA256_BYTES + 1];
    struct ps_json_writer w;
    struct ps_strbuf b;
    int rc;

    ps_hex_encode(id, PS_SHA256_BYTES, hex);
    ps_strbuf_init(&b, 1 << 20);
    ps_jw_init(&w, &b);
    ps_jw_object(&w);
    ps_jw_kstring(&w, "model_id", hex);
    ps_jw_kstring(&w, "dst", o->args[1]);
    ps_jw_kstring(&w, "codec", o->codec);
    ps_jw_kdouble(&w, "seconds", seconds);
    ps_split_report_write(&w, report);
    ps_jw_object_end(&w);
    rc = ps_cli_print_summary(o, ps_strbuf_ok(&b) ? b.data : NULL, err);
    ps_strbuf_deinit(&b);
    return rc;
}

static int try_key(const char *pem, struct ps_err *err)
{
    char *text;
    size_t len;
    int rc = ps_signature_make(&text, &len, pem, "", 0, err);
    if (rc == 0)
        ps_free(text);
    return rc;
}

/* A missing key is the user's mistake, and so is one that is none: neither must be found out at the end. */
static int read_key(char **key, size_t *len, const char *path, struct ps_err *err)
{
    int rc = ps_file_read(key, len, path, PS_KEY_MAX_BYTES, err);
    if (rc == 0)
        return try_key(*key, err);
    if (rc == PS_ENOMEM)
        return rc;
    ps_err_prefix(err, "--sign");
    return err->code = PS_EUSAGE;
}

/* Where a source is to be deleted, it alone is read, and opened anew once its files have been looked at: the first one
 * may hold files open that lay there before. */
static int open_source(struct ps_source **src, struct ps_split_doomed **doomed,
                       const struct ps_opts *o, const struct ps_store_options *store,
                       struct ps_err *err)
{
    struct ps_store_options one = *store;
    if (!o->delete_source)
        return ps_store_open(src, o->args[0], store, err);
    if (store->n_mirrors > 0)
        return ps_err_set(err, PS_EUSAGE, "split",
                          "--delete-source: not together with --mirror: what a mirror gave was not "
                          "read from the files that would go");
    one.sole = true;
    int rc = ps_store_open(src, o->args[0], &one, err);
    if (rc != 0)
        return rc;
    rc = ps_split_doomed_new(doomed, *src, err);
    ps_source_close(*src);
    *src = NULL;
    return rc == 0 ? ps_store_open(src, o->args[0], &one, err) : rc;
}

static int split_and_tell(struct ps_source *src, const struct ps_split_doomed *doomed,
                          const struct ps_opts *o, const struct ps_split_options *so,
                          struct ps_err *err)
{
    struct ps_split_report report = {0};
    uint64_t began_ns = ps_now_ns();
    uint8_t id[PS_SHA256_BYTES];
    ps_interrupt_set(stop_soon, NULL);
    int rc = ps_split(src, so, id, err);
    if (rc == 0)
        rc = ps_split_report_make(&report, src, so, doomed != NULL, err);
    ps_interrupt_set(NULL, NULL);
    if (rc == 0 && doomed)
        rc = ps_split_delete_source(&report, doomed, err);
    return rc < 0 ? rc : print_result(o, id, &report, ps_seconds_since(began_ns), err);
}

/* 0 in struct ps_split_options is the default, which no user means by it. */
static int take_ram(uint64_t *bytes, const struct ps_size *ram, const char *text, struct ps_err *err)
{
    switch (ram->kind) {
    case PS_SIZE_DEFAULT: *bytes = 0; return 0;
    case PS_SIZE_BYTES: *bytes = ram->bytes ? ps_min_u64(ram->bytes, INT64_MAX) : 1; return 0;
    case PS_SIZE_MIN: *bytes = PS_SPLIT_RAM_MIN; return 0;
    case PS_SIZE_PERCENT:
    case PS_SIZE_ALL: break;
    }
    return ps_err_set(err, PS_EUSAGE, "split", "--ram: '%s': give bytes here, such as 1G, or min",
                      text);
}

int ps_cmd_split(const struct ps_opts *o, struct ps_err *err)
{
    /* source_label: paths and hosts stay out of a manifest, so the same input gives the same
     * tree everywhere */
    struct ps_split_options so = {.dst = o->args[1],
                                  .threads = (unsigned)o->threads,
                                  .progress = on_progress,
                                  .source_label = "",
                                  .stop = &ps_interrupt_seen};
    struct ps_store_options store = {0};
    struct ps_size ram = {.kind = PS_SIZE_DEFAULT};
    struct ps_source *src = NULL;
    struct ps_split_doomed *doomed = NULL;
    int rc = ps_cli_store_options(&store, o, err);

    if (rc == 0)
        rc = ps_size_parse(&ram, o->ram, "--ram", err);
    if (rc == 0)
        rc = take_ram(&so.ram_bytes, &ram, o->ram, err);
    if (rc == 0 && !ps_packing_from_name(&so.packing, o->codec))
        rc = ps_err_set(err, PS_EUSAGE, "split", "--codec: '%s' is none of %s", o->codec,
                        PS_PACKINGS_KNOWN);
    char *key = NULL;
    size_t key_len;
    if (rc == 0 && o->sign)
        rc = read_key(&key, &key_len, o->sign, err);
    so.sign_key = key;
    store.interrupt = &stopped;
    /* The source's mirrors hold nothing of the destination, and its credentials are not the destination's. */
    struct ps_access_options access = {.ca_file = store.access ? store.access->ca_file : NULL};
    struct ps_store_options there = store;
    there.access = &access;
    there.mirrors = NULL;
    there.n_mirrors = 0;
    there.sole = true;
    so.store = &there;
    if (rc == 0)
        rc = open_source(&src, &doomed, o, &store, err);
    if (rc == 0)
        rc = split_and_tell(src, doomed, o, &so, err);
    ps_source_close(src);
    ps_split_doomed_free(doomed);
    ps_rate_limit_free(store.limit);
    if (key)
        explicit_bzero(key, key_len);
    ps_free(key);
    return rc;
}
