/* S3 settings from the environment and the AWS files. See s3_config.h. */
#include "fetcher/s3_config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/alloc.h"
#include "fetcher/ini.h"

#define ORIGIN         "fetcher"
#define PATH_MAX_BYTES 4096

const char *ps_s3_env(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

static bool says_yes(const char *v)
{
    return v && (strcasecmp(v, "true") == 0 || strcasecmp(v, "yes") == 0 || strcmp(v, "1") == 0 ||
                 strcasecmp(v, "on") == 0);
}

bool ps_s3_env_true(const char *name)
{
    return says_yes(ps_s3_env(name));
}

bool ps_s3_region_ok(const char *region)
{
    size_t n = strlen(region);
    return n > 0 && n <= 32 && strspn(region, "abcdefghijklmnopqrstuvwxyz0123456789-") == n &&
           region[0] != '-' && region[n - 1] != '-';
}

/* ---- files ---- */

static int read_all(int fd, const char *path, size_t max, char **out, size_t *bytes,
                    struct ps_err *err)
{
    size_t n = 0, cap = 4096;
    char *text = ps_malloc(cap);
    for (;;) {
        ssize_t k = text ? read(fd, text + n, cap - n - 1) : -1;
        if (k < 0 && text && errno == EINTR)
            continue;
        if (k <= 0 || n + (size_t)k > max) {
            if (k == 0) {
                text[n] = '\0';
                *out = text;
                *bytes = n;
                return 0;
            }
            ps_free(text);
            if (!text)
                return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
            return k < 0
                       ? ps_err_set(err, PS_EIO, ORIGIN, "can't read: %s: %s", path, strerror(errno))
                       : ps_err_set(err, PS_EDATA, ORIGIN, "file is too long: %s", path);
        }
        n += (size_t)k;
        if (cap - n < 2) {
            char *more = ps_realloc(text, cap *= 2);
            if (!more)
                ps_free(text);
            text = more;
        }
    }
}

int ps_s3_read_file(const char *path, size_t max, char **out, size_t *bytes, struct ps_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ps_err_set(err, errno == ENOENT || errno == ENOTDIR ? PS_ENOTFOUND : PS_EIO, ORIGIN,
                          "can't read: %s: %s", path, strerror(errno));
    int rc = read_all(fd, path, max, out, bytes, err);
    close(fd);
    return rc;
}

static bool path_of(const char *variable, const char *name, char *out, size_t cap)
{
    const char *set = ps_s3_env(variable), *home = ps_s3_env("HOME");
    int n;
    if (set && strncmp(set, "~/", 2) != 0)
        n = snprintf(out, cap, "%s", set);
    else if (!home)
        return false;
    else
        n = snprintf(out, cap, "%s/%s%s", home, set ? set + 2 : ".aws/", set ? "" : name);
    return n > 0 && (size_t)n < cap;
}

/* A file that is not there is an empty one. */
static int load_file(const char *variable, const char *name, char **out, size_t *bytes,
                     struct ps_err *err)
{
    char path[PATH_MAX_BYTES];
    int rc = PS_ENOTFOUND;
    if (path_of(variable, name, path, sizeof path))
        rc = ps_s3_read_file(path, PS_S3_FILE_MAX_BYTES, out, bytes, err);
    if (rc != PS_ENOTFOUND)
        return rc;
    *bytes = 0;
    *out = ps_strdup("");
    return *out ? 0 : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
}

/* The config file calls all but the default "profile NAME". */
static void config_section(const char *profile, char *out, size_t cap)
{
    snprintf(out, cap, "%s%s", strcmp(profile, "default") == 0 ? "" : "profile ", profile);
}

static bool profile_exists(const struct ps_s3_files *f)
{
    char section[PS_S3_NAME_MAX + 16];
    config_section(f->profile, section, sizeof section);
    return ps_ini_has_section(f->credentials, f->credentials_bytes, f->profile) ||
           ps_ini_has_section(f->config, f->config_bytes, section);
}

int ps_s3_files_load(struct ps_s3_files *out, struct ps_err *err)
{
    struct ps_s3_files f = {0};
    const char *profile = ps_s3_env("AWS_PROFILE");
    profile = profile ? profile : ps_s3_env("AWS_DEFAULT_PROFILE");
    f.explicit_profile = profile != NULL;
    snprintf(f.profile, sizeof f.profile, "%s", profile ? profile : "default");
    int rc = load_file("AWS_CONFIG_FILE", "config", &f.config, &f.config_bytes, err);
    if (rc == 0)
        rc = load_file("AWS_SHARED_CREDENTIALS_FILE", "credentials", &f.credentials,
                       &f.credentials_bytes, err);
    if (rc == 0 && f.explicit_profile && !profile_exists(&f))
        rc = ps_err_set(err, PS_EREFUSED, ORIGIN,
                        "no such AWS profile: %s: check AWS_PROFILE, or add it to ~/.aws/config",
                        f.profile);
    if (rc != 0) {
        ps_s3_files_deinit(&f);
        return rc;
    }
    *out = f;
    return 0;
}

void ps_s3_files_deinit(struct ps_s3_files *f)
{
    if (f->credentials)
        explicit_bzero(f->credentials, f->credentials_bytes);
    if (f->config)
        explicit_bzero(f->config, f->config_bytes);
    ps_free(f->config);
    ps_free(f->credentials);
    memset(f, 0, sizeof *f);
}

bool ps_s3_profile_get(const struct ps_s3_files *f, const char *profile, const char *key, char *out,
                       size_t cap)
{
    char section[PS_S3_NAME_MAX + 16];
    config_section(profile, section, sizeof section);
    return ps_ini_get(f->credentials, f->credentials_bytes, profile, key, out, cap) ||
           ps_ini_get(f->config, f->config_bytes, section, key, out, cap);
}

/* ---- settings ---- */

/* The first of the variables, else the profile's key. */
static bool setting(const struct ps_s3_files *f, const char *first, const char *second,
                    const char *key, char *out, size_t cap)
{
    const char *v = ps_s3_env(first);
    if (!v && second)
        v = ps_s3_env(second);
    if (!v)
        return key && ps_s3_profile_get(f, f->profile, key, out, cap);
    return snprintf(out, cap, "%s", v) < (int)cap;
}

static int heap_setting(char **out, const struct ps_s3_files *f, const char *first,
                        const char *second, const char *key)
{
    char value[PS_S3_VALUE_MAX];
    if (!setting(f, first, second, key, value, sizeof value))
        return 0;
    *out = ps_strdup(value);
    return *out ? 0 : PS_ENOMEM;
}

int ps_s3_endpoint(char **out, const struct ps_s3_files *f, const char *service)
{
    char variable[64], key[64], name[PS_S3_NAME_MAX], section[PS_S3_NAME_MAX + 16];
    char value[PS_S3_VALUE_MAX];
    if (ps_s3_env_true("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"))
        return 0;
    snprintf(variable, sizeof variable, "AWS_ENDPOINT_URL_%s", service);
    for (char *p = variable; *p; p++)
        *p = (char)toupper((unsigned char)*p);
    int rc = heap_setting(out, f, variable, "AWS_ENDPOINT_URL", NULL);
    if (rc != 0 || *out)
        return rc;
    if (ps_s3_profile_get(f, f->profile, "services", name, sizeof name)) {
        snprintf(section, sizeof section, "services %s", name);
        snprintf(key, sizeof key, "%s.endpoint_url", service);
        if (ps_ini_get(f->config, f->config_bytes, section, key, value, sizeof value)) {
            *out = ps_strdup(value);
            return *out ? 0 : PS_ENOMEM;
        }
    }
    return heap_setting(out, f, variable, NULL, "endpoint_url");
}

static bool flag(const struct ps_s3_files *f, const char *variable, const char *key)
{
    char value[16];
    return setting(f, variable, NULL, key, value, sizeof value) && says_yes(value);
}

static enum ps_s3_style style_of(const struct ps_s3_files *f)
{
    char value[16];
    if (!ps_s3_profile_get(f, f->profile, "s3.addressing_style", value, sizeof value))
        return PS_S3_STYLE_AUTO;
    return strcmp(value, "path") == 0      ? PS_S3_STYLE_PATH
           : strcmp(value, "virtual") == 0 ? PS_S3_STYLE_VIRTUAL
                                           : PS_S3_STYLE_AUTO;
}

static int settle(struct ps_s3_config *c, const struct ps_s3_files *f, struct ps_err *err)
{
    char payer[16];
    if (!setting(f, "AWS_REGION", "AWS_DEFAULT_REGION", "region", c->region, sizeof c->region))
        snprintf(c->region, sizeof c->region, "us-east-1");
    if (!ps_s3_region_ok(c->region))
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "bad AWS region: %.40s: write one like eu-west-1",
                          c->region);
    int rc = ps_s3_endpoint(&c->endpoint, f, "s3");
    if (rc == 0)
        rc = heap_setting(&c->ca_file, f, "AWS_CA_BUNDLE", NULL, "ca_bundle");
    c->style = style_of(f);
    c->dualstack = flag(f, "AWS_USE_DUALSTACK_ENDPOINT", "use_dualstack_endpoint");
    c->fips = flag(f, "AWS_USE_FIPS_ENDPOINT", "use_fips_endpoint");
    c->requester_pays = setting(f, "AWS_REQUEST_PAYER", NULL, NULL, payer, sizeof payer) &&
                        strcasecmp(payer, "requester") == 0;
    c->anonymous =
        ps_s3_env_true("PENSTOCK_NO_SIGN_REQUEST") || ps_s3_env_true("AWS_NO_SIGN_REQUEST");
    return rc == 0 ? 0 : ps_err_set(err, rc, ORIGIN, "out of memory");
}

int ps_s3_config_load(struct ps_s3_config *out, struct ps_err *err)
{
    struct ps_s3_files f;
    struct ps_s3_config c = {.endpoint = NULL};
    int rc = ps_s3_files_load(&f, err);
    if (rc != 0)
        return rc;
    rc = settle(&c, &f, err);
    ps_s3_files_deinit(&f);
    if (rc != 0) {
        ps_s3_config_deinit(&c);
        return rc;
    }
    *out = c;
    return 0;
}

void ps_s3_config_deinit(struct ps_s3_config *c)
{
    ps_free(c->endpoint);
    ps_free(c->ca_file);
    memset(c, 0, sizeof *c);
}
