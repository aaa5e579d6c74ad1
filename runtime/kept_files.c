/* Copies of small files in the disk cache. See kept_files.h. */
#include "runtime/kept_files.h"

#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "proto/text.h"

#define ORIGIN "files"

#define FORMAT                                                                                     \
    "penstock kept file 2" /* begins every key: another meaning of the bytes is another number */
#define PART_BYTES (4u << 20)
/* With the question for a version comes the beginning of the file: of most settings that is all of it, for which
 * nobody has to wait, and which nobody has to keep. */
#define FIRST_BYTES 1024u
#define TURN_BYTES  1u /* stored for a turn that was left to a dead process: nothing */
#define ROOM_LEAST  (512ull << 10)
#define ROOM_MOST   (48ull << 20)

uint64_t ps_kept_room(uint64_t stored_bytes)
{
    const uint64_t room = ROOM_LEAST + stored_bytes / 8;
    return room < ROOM_MOST ? room : ROOM_MOST;
}

static void hash_text(struct ps_sha256 *h, const char *text)
{
    ps_sha256_update(h, text, strlen(text) + 1); /* with its NUL: no two lists of texts look the same */
}

static int make_key(uint8_t key[PS_SHA256_BYTES], const struct ps_kept *k, const char *name,
                    const char *identity, uint32_t part)
{
    struct ps_sha256 *h;
    const uint8_t le[4] = {(uint8_t)part, (uint8_t)(part >> 8), (uint8_t)(part >> 16),
                           (uint8_t)(part >> 24)};
    if (ps_sha256_new(&h) != 0)
        return PS_ENOMEM;
    hash_text(h, FORMAT);
    hash_text(h, k->source->label);
    hash_text(h, name);
    hash_text(h, identity);
    ps_sha256_update(h, le, sizeof le);
    ps_sha256_final(h, key);
    ps_sha256_free(h);
    return 0;
}

/* Says that something of this address is kept, so that others are not asked one question more. */
static int make_mark(uint8_t key[PS_SHA256_BYTES], const struct ps_kept *k)
{
    return make_key(key, k, "", "", 0);
}

/* Claimed by who fetches this file, whose version he will know when it has come. */
static int make_turn(uint8_t key[PS_SHA256_BYTES], const struct ps_kept *k, const char *name)
{
    return make_key(key, k, name, "", 0);
}

static bool holds(const struct ps_kept *k, const uint8_t key[PS_SHA256_BYTES])
{
    return ps_cache_look(k->cache, key) == 0;
}

/* Read, not only looked for: so a damaged mark is dropped like any damaged extent. */
static bool is_marked(const struct ps_kept *k)
{
    uint8_t key[PS_SHA256_BYTES];
    char mark[sizeof FORMAT];
    return make_mark(key, k) == 0 &&
           ps_cache_read(k->cache, key, mark, sizeof mark, sizeof mark, NULL) == 0;
}

static bool is_version(const struct ps_object_info *info)
{
    return info->bytes > 0 && (info->etag[0] || strncmp(info->identity, "sha256:", 7) == 0 ||
                               strncmp(info->identity, "git:", 4) == 0);
}

/* What a source says of a file when it is asked. */
struct version {
    struct ps_object_info info;
    char first[FIRST_BYTES];
    size_t n; /* bytes of it; 0 where the manifest has told all */
};

/* 0: v->info names a version. Anything else: nothing can be said of it. */
static int version_of(struct version *v, const struct ps_kept *k, const char *name,
                      size_t first_bytes, struct ps_err *err)
{
    v->n = 0;
    int rc = ps_model_files_version(k->files, name, &v->info);
    if (rc != PS_EUNSUPPORTED)
        return rc;
    rc = ps_source_head(k->source, name, v->first, first_bytes, &v->n, &v->info, err);
    return rc < 0 ? rc : is_version(&v->info) ? 0 : PS_EUNSUPPORTED;
}

/* ---- parts ---- */

static uint32_t parts_of(uint64_t bytes)
{
    return (uint32_t)((bytes + PART_BYTES - 1) / PART_BYTES);
}

static size_t part_bytes(uint64_t bytes, uint32_t part)
{
    const uint64_t left = bytes - (uint64_t)part * PART_BYTES;
    return left < PART_BYTES ? (size_t)left : PART_BYTES;
}

static int read_parts(char *bytes, const struct ps_kept *k, const char *name,
                      const struct ps_object_info *info)
{
    uint8_t key[PS_SHA256_BYTES];
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < parts_of(info->bytes); i++) {
        const size_t n = part_bytes(info->bytes, i);
        rc = make_key(key, k, name, info->identity, i);
        if (rc == 0)
            rc = ps_cache_read(k->cache, key, bytes + (size_t)i * PART_BYTES, n, n, NULL);
    }
    return rc;
}

/* PS_ENOTFOUND: the cache has it not, or no longer whole. */
static int read_kept(char **out, size_t *len, const struct ps_kept *k, const char *name,
                     const struct ps_object_info *info)
{
    uint8_t key[PS_SHA256_BYTES];
    if (make_key(key, k, name, info->identity, 0) != 0 || !holds(k, key))
        return PS_ENOTFOUND;
    char *bytes = ps_malloc((size_t)info->bytes + 1);
    if (!bytes || read_parts(bytes, k, name, info) != 0 ||
        !ps_model_files_fits(k->files, name, bytes, (size_t)info->bytes)) {
        ps_free(bytes);
        return PS_ENOTFOUND;
    }
    bytes[info->bytes] = '\0';
    *out = bytes;
    *len = (size_t)info->bytes;
    return 0;
}

/* ---- keeping ---- */

/* What is on its way, ours or another process's, counts as put. No room: not kept, and no error. */
static bool put(const struct ps_kept *k, const uint8_t key[PS_SHA256_BYTES], const void *bytes,
                size_t n)
{
    struct ps_cache_ticket *t = NULL;
    if (holds(k, key))
        return true;
    const int rc = ps_cache_reserve(&t, k->cache, k->model, key, PS_CACHE_LAYER_FILE, n, NULL);
    return rc == PS_EAGAIN || (rc == 0 && ps_cache_put(t, bytes, n, NULL) == 0);
}

static bool put_parts(const struct ps_kept *k, const char *name, const struct ps_object_info *info,
                      const char *bytes)
{
    uint8_t key[PS_SHA256_BYTES];
    bool ok = true;
    /* The first part last: it is what is looked for. */
    for (uint32_t i = parts_of(info->bytes); ok && i-- > 0;)
        ok = make_key(key, k, name, info->identity, i) == 0 &&
             put(k, key, bytes + (size_t)i * PART_BYTES, part_bytes(info->bytes, i));
    return ok && make_mark(key, k) == 0 && put(k, key, FORMAT, sizeof FORMAT);
}

/* ---- getting ---- */

struct wanted {
    const struct ps_kept *k;
    const char *name;
    uint64_t max_bytes;
    struct version version;
    bool asked, known; /* for the version; and it has one, of a size that is allowed */
};

static bool may_be_kept(uint64_t bytes, const struct ps_object_info *info)
{
    return bytes >= FIRST_BYTES && is_version(info);
}

static int copy_first(char **out, size_t *len, const struct version *v, struct ps_err *err)
{
    char *copy = ps_malloc(v->n + 1);
    if (!copy)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for %zu bytes", v->n);
    memcpy(copy, v->first, v->n);
    copy[v->n] = '\0';
    *out = copy;
    *len = v->n;
    return 0;
}

/* Which version is there? PS_EAGAIN: the file has still to be read, here or there. Else that is the outcome. */
static int ask(char **out, size_t *len, struct wanted *w, struct ps_err *err)
{
    struct version *v = &w->version;
    const int rc = version_of(v, w->k, w->name, sizeof v->first, err);
    w->asked = true;
    if (rc == PS_ENOTFOUND || rc == PS_EINTERRUPTED) /* asking again would get the same answer */
        return rc;
    w->known = rc == 0 && v->info.bytes <= w->max_bytes;
    const bool whole = v->n > 0 && v->n < sizeof v->first && v->n == v->info.bytes;
    return w->known && whole && !ps_text_is_markup(v->first, v->n) ? copy_first(out, len, v, err)
                                                                   : PS_EAGAIN;
}

/* Asked of this file if its version is known, else of any file of the model: whether it is kept, or will be. */
static bool is_under_way(const struct wanted *w)
{
    uint8_t key[PS_SHA256_BYTES];
    const int rc =
        w->known ? make_key(key, w->k, w->name, w->version.info.identity, 0) : make_mark(key, w->k);
    return rc == 0 && ps_cache_look(w->k->cache, key) != PS_ENOTFOUND;
}

/* PS_EAGAIN: it is another's turn, or he has just had it. 0: ours; *turn stays NULL where the cache has no room. */
static int begin_turn(struct ps_cache_ticket **turn, const struct wanted *w)
{
    uint8_t key[PS_SHA256_BYTES];
    *turn = NULL;
    if (make_turn(key, w->k, w->name) != 0)
        return 0;
    if (ps_cache_reserve(turn, w->k->cache, w->k->model, key, PS_CACHE_LAYER_FILE, TURN_BYTES,
                         NULL) == PS_EAGAIN)
        return PS_EAGAIN;
    if (!*turn || !is_under_way(w))
        return 0;
    ps_cache_abort(*turn);
    *turn = NULL;
    return PS_EAGAIN;
}

/* Until this version is kept, or nobody is at it any longer: PS_EAGAIN then. Who has the turn claims the first part
 * before he gives it up, so that there is no moment between the two. Deaths and stops end it as they end a wait for
 * weights. */
static int await_kept(char **out, size_t *len, const struct wanted *w, struct ps_err *err)
{
    const struct ps_kept *k = w->k;
    uint8_t turn[PS_SHA256_BYTES], first[PS_SHA256_BYTES];
    if (make_turn(turn, k, w->name) != 0 ||
        make_key(first, k, w->name, w->version.info.identity, 0) != 0)
        return PS_EAGAIN;
    for (;;) {
        if (k->interrupt && atomic_load(k->interrupt))
            return ps_err_set(err, PS_EINTERRUPTED, ORIGIN, "interrupted");
        const uint32_t seen = ps_cache_changes(k->cache);
        const bool turn_taken = ps_cache_look(k->cache, turn) == PS_EAGAIN;
        const int rc = ps_cache_look(k->cache, first);
        if (rc == 0)
            return read_kept(out, len, k, w->name, &w->version.info) == 0 ? 0 : PS_EAGAIN;
        if (!turn_taken && rc != PS_EAGAIN)
            return PS_EAGAIN;
        ps_cache_wait(k->cache, seen, PS_CACHE_LOOK_NS);
    }
}

static int fetch(char **out, size_t *len, const struct wanted *w, struct ps_cache_ticket *turn,
                 struct ps_err *err)
{
    struct ps_object_info info;
    const struct ps_kept *k = w->k;
    const int rc =
        ps_model_files_get_as(out, len, &info, k->files, k->source, w->name, w->max_bytes, err);
    if (!turn)
        return rc;
    if (rc == 0 && *len == info.bytes && may_be_kept(*len, &info) &&
        put_parts(k, w->name, &info, *out))
        ps_cache_hasten(k->cache);
    ps_cache_abort(turn);
    return rc;
}

/* The first to come fetches the file and keeps it. The others ask for its version meanwhile, so that nobody gets
 * what is older than his own question, wait for that version and read it. They wait once: who finds nothing then,
 * because the first one failed, died, was stopped or got another version, fetches it himself, whatever others do. */
static int take_turns(char **out, size_t *len, struct wanted *w, struct ps_err *err)
{
    struct ps_cache_ticket *turn;
    int rc = begin_turn(&turn, w);
    if (rc == PS_EAGAIN && !w->asked)
        rc = ask(out, len, w, err);
    else if (rc == 0)
        return fetch(out, len, w, turn, err);
    if (rc == PS_EAGAIN && w->known)
        rc = await_kept(out, len, w, err);
    if (rc != PS_EAGAIN)
        return rc;
    (void)begin_turn(&turn, w);
    return fetch(out, len, w, turn, err);
}

bool ps_kept_is_listed(const struct ps_kept *k, const char *name)
{
    struct ps_object_info info;
    return k->files && ps_model_files_version(k->files, name, &info) == 0;
}

int ps_kept_get(char **out, size_t *len, const struct ps_kept *k, const char *name,
                uint64_t max_bytes, struct ps_err *err)
{
    struct wanted w = {.k = k, .name = name, .max_bytes = max_bytes};
    if (!k->files)
        return ps_source_get(k->source, name, max_bytes, out, len, NULL, err);
    if (!k->cache || strcmp(name, "config.json") == 0 /* it came with the model */)
        return fetch(out, len, &w, NULL, err);
    if (k->files->manifest || is_marked(k)) {
        const int rc = ask(out, len, &w, err);
        if (rc != PS_EAGAIN)
            return rc;
        if (w.known && read_kept(out, len, k, name, &w.version.info) == 0)
            return 0;
    }
    const bool shared =
        k->shares && (!w.asked || (w.known && may_be_kept(w.version.info.bytes, &w.version.info)));
    return shared ? take_turns(out, len, &w, err) : fetch(out, len, &w, NULL, err);
}

/* Which version there is (info.bytes 0: none that could be kept), and whether it is kept. */
static int look_for(struct version *v, bool *kept, const struct ps_kept *k, const char *name,
                    uint64_t max_bytes, struct ps_err *err)
{
    uint8_t key[PS_SHA256_BYTES];
    const int rc = version_of(v, k, name, 1, err);
    *kept = false;
    if (rc != 0 || v->info.bytes > max_bytes)
        v->info.bytes = 0;
    else
        *kept = k->cache && make_key(key, k, name, v->info.identity, 0) == 0 && holds(k, key) &&
                is_marked(k);
    return rc == PS_EINTERRUPTED || rc == PS_EBUDGET ? rc : 0;
}

void ps_kept_extents_deinit(struct ps_kept_extents *x)
{
    ps_free(x->keys);
    ps_free(x->bytes);
    *x = (struct ps_kept_extents){0};
}

/* Once, whatever was there before: all files of a model share their mark. */
static int note_extent(struct ps_kept_extents *x, const uint8_t key[PS_SHA256_BYTES], uint64_t bytes)
{
    for (size_t i = 0; i < x->n; i++)
        if (memcmp(x->keys[i], key, PS_SHA256_BYTES) == 0)
            return 0;
    uint8_t(*keys)[PS_SHA256_BYTES] = ps_realloc_array(x->keys, x->n + 1, sizeof *keys);
    if (keys)
        x->keys = keys;
    uint64_t *list = keys ? ps_realloc_array(x->bytes, x->n + 1, sizeof *list) : NULL;
    if (!list)
        return PS_ENOMEM;
    x->bytes = list;
    memcpy(x->keys[x->n], key, PS_SHA256_BYTES);
    x->bytes[x->n++] = bytes;
    return 0;
}

/* What put_parts makes of it. */
static int note_parts(struct ps_kept_extents *x, const struct ps_kept *k, const char *name,
                      const struct ps_object_info *info, struct ps_err *err)
{
    uint8_t key[PS_SHA256_BYTES];
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < parts_of(info->bytes); i++) {
        rc = make_key(key, k, name, info->identity, i);
        if (rc == 0)
            rc = note_extent(x, key, part_bytes(info->bytes, i));
    }
    if (rc == 0 && (rc = make_mark(key, k)) == 0)
        rc = note_extent(x, key, sizeof FORMAT);
    return rc == 0 ? 0 : ps_err_set(err, rc, ORIGIN, "out of memory");
}

int ps_kept_foresee(uint64_t *bytes, bool *again, struct ps_kept_extents *all,
                    const struct ps_kept *k, const char *name, uint64_t max_bytes, struct ps_err *err)
{
    struct version v;
    bool kept;
    int rc = look_for(&v, &kept, k, name, max_bytes, err);
    if (rc == 0 && v.info.bytes > 0)
        rc = note_parts(all, k, name, &v.info, err);
    if (rc != 0)
        return rc;
    *bytes = kept ? 0 : v.info.bytes;
    *again = *bytes > 0 && !k->files->manifest;
    return 0;
}

int ps_kept_store(bool *kept, const struct ps_kept *k, const char *name, uint64_t max_bytes,
                  struct ps_err *err)
{
    struct version before, after;
    char *bytes = NULL;
    size_t len = 0;
    int rc = look_for(&before, kept, k, name, max_bytes, err);
    if (rc != 0 || before.info.bytes == 0 || *kept)
        return rc;
    rc = ps_model_files_get(&bytes, &len, k->files, k->source, name, max_bytes, err);
    if (rc == PS_ENOTFOUND && !ps_kept_is_listed(k, name))
        return 0;
    /* Asked once more: what came in between is one version only if both ends are. */
    if (rc == 0 && version_of(&after, k, name, 1, NULL) == 0 &&
        strcmp(before.info.identity, after.info.identity) == 0 && len == after.info.bytes)
        *kept = put_parts(k, name, &after.info, bytes);
    ps_free(bytes);
    return rc;
}
