/* Copies of small files in the disk cache. See kept_files.h. */
#include "runtime/kept_files.h"

#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"

#define FORMAT                                                                                     \
    "penstock kept file 2" /* begins every key: another meaning of the bytes is another number */
#define PART_BYTES (4u << 20)
#define ROOM_LEAST (512ull << 10)
#define ROOM_MOST  (48ull << 20)

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

static bool holds(const struct ps_kept *k, const uint8_t key[PS_SHA256_BYTES])
{
    uint8_t present = 0;
    return ps_cache_lookup(k->cache, (const uint8_t(*)[PS_SHA256_BYTES])key, 1, &present, NULL) == 0 &&
           (present & 1);
}

static bool is_marked(const struct ps_kept *k)
{
    uint8_t key[PS_SHA256_BYTES];
    return make_mark(key, k) == 0 && holds(k, key);
}

static bool is_version(const struct ps_object_info *info)
{
    return info->bytes > 0 && (info->etag[0] || strncmp(info->identity, "sha256:", 7) == 0 ||
                               strncmp(info->identity, "git:", 4) == 0);
}

/* 0: info->identity and info->bytes name a version. Anything else: nothing can be said of it. */
static int version_of(struct ps_object_info *info, const struct ps_kept *k, const char *name,
                      struct ps_err *err)
{
    char first;
    size_t n;
    int rc = ps_model_files_version(k->files, name, info);
    if (rc != PS_EUNSUPPORTED)
        return rc;
    rc = ps_source_head(k->source, name, &first, sizeof first, &n, info, err);
    return rc < 0 ? rc : is_version(info) ? 0 : PS_EUNSUPPORTED;
}

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

bool ps_kept_is_listed(const struct ps_kept *k, const char *name)
{
    struct ps_object_info info;
    return k->files && ps_model_files_version(k->files, name, &info) == 0;
}

int ps_kept_get(char **out, size_t *len, const struct ps_kept *k, const char *name,
                uint64_t max_bytes, struct ps_err *err)
{
    struct ps_object_info info;
    if (!k->files)
        return ps_source_get(k->source, name, max_bytes, out, len, NULL, err);
    if (k->cache && strcmp(name, "config.json") != 0 /* it came with the model */ && is_marked(k)) {
        const int rc = version_of(&info, k, name, err);
        if (rc == PS_ENOTFOUND || rc == PS_EINTERRUPTED) /* asking again would get the same answer */
            return rc;
        if (rc == 0 && info.bytes <= max_bytes && read_kept(out, len, k, name, &info) == 0)
            return 0;
    }
    return ps_model_files_get(out, len, k->files, k->source, name, max_bytes, err);
}

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

/* Which version there is (bytes 0: none that could be kept), and whether it is kept. */
static int ask(struct ps_object_info *info, bool *kept, const struct ps_kept *k, const char *name,
               uint64_t max_bytes, struct ps_err *err)
{
    uint8_t key[PS_SHA256_BYTES];
    const int rc = version_of(info, k, name, err);
    *kept = false;
    if (rc != 0 || info->bytes > max_bytes)
        info->bytes = 0;
    else
        *kept = k->cache && make_key(key, k, name, info->identity, 0) == 0 && holds(k, key) &&
                is_marked(k);
    return rc == PS_EINTERRUPTED || rc == PS_EBUDGET ? rc : 0;
}

int ps_kept_foresee(uint64_t *bytes, bool *again, const struct ps_kept *k, const char *name,
                    uint64_t max_bytes, struct ps_err *err)
{
    struct ps_object_info info;
    bool kept;
    const int rc = ask(&info, &kept, k, name, max_bytes, err);
    if (rc != 0)
        return rc;
    *bytes = kept ? 0 : info.bytes;
    *again = *bytes > 0 && !k->files->manifest;
    return 0;
}

int ps_kept_store(bool *kept, const struct ps_kept *k, const char *name, uint64_t max_bytes,
                  struct ps_err *err)
{
    struct ps_object_info before, after;
    char *bytes = NULL;
    size_t len = 0;
    int rc = ask(&before, kept, k, name, max_bytes, err);
    if (rc != 0 || before.bytes == 0 || *kept)
        return rc;
    rc = ps_model_files_get(&bytes, &len, k->files, k->source, name, max_bytes, err);
    if (rc == PS_ENOTFOUND && !ps_kept_is_listed(k, name))
        return 0;
    /* Asked once more: what came in between is one version only if both ends are. */
    if (rc == 0 && version_of(&after, k, name, NULL) == 0 &&
        strcmp(before.identity, after.identity) == 0 && len == after.bytes)
        *kept = put_parts(k, name, &after, bytes);
    ps_free(bytes);
    return rc;
}
