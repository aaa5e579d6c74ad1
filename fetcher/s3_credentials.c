/* The chain of key sources. See s3_credentials.h. */
#include "fetcher/s3_credentials.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "fetcher/http_fetch.h"
#include "fetcher/s3_config.h"
#include "fetcher/uri.h"
#include "fetcher/xml_scan.h"

#define ORIGIN          "fetcher"
#define TOKEN_MAX_BYTES (32u << 10)
#define URL_MAX_BYTES   2048
/* Off EC2 nothing answers at 169.254.169.254; the AWS tools wait a second, too. */
#define EC2_TIMEOUT_S 1
#define EC2_LIFETIME  "21600"

struct chain {
    const struct ps_s3_key_ask *ask;
    enum ps_retry_class *cls;
    struct ps_s3_files files;
};

const char *ps_s3_key_source_name(enum ps_s3_key_source s)
{
    static const char *const names[] = {"nowhere",       "the environment",
                                        "web identity",  "the profile",
                                        "the container", "the EC2 metadata service"};
    return names[s];
}

uint64_t ps_s3_parse_time(const char *text)
{
    struct tm tm = {0};
    const char *rest = text ? strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;
    if (!rest)
        return 0;
    if (*rest == '.')
        rest += 1 + strspn(rest + 1, "0123456789");
    if (strcmp(rest, "Z") != 0 && strcmp(rest, "+00:00") != 0)
        return 0;
    time_t t = timegm(&tm);
    return t > 0 ? (uint64_t)t : 0;
}

/* A value for a header or a key must be printable ASCII: a line end in it would begin another header. */
static bool plain(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s <= 0x20 || (unsigned char)*s >= 0x7f)
            return false;
    return true;
}

static bool put(char *out, size_t cap, const char *from)
{
    size_t n = strlen(from);
    if (n >= cap || !plain(from))
        return false;
    memcpy(out, from, n + 1);
    return true;
}

static int fill(struct ps_s3_keys *k, enum ps_s3_key_source source, const char *access,
                const char *secret, const char *token, struct ps_err *err)
{
    memset(k, 0, sizeof *k);
    k->source = source;
    if (!*access || !*secret || !put(k->access, sizeof k->access, access) ||
        !put(k->secret, sizeof k->secret, secret) ||
        !put(k->token, sizeof k->token, token ? token : ""))
        return ps_err_set(
            err, PS_EREFUSED, ORIGIN,
            "AWS keys from %s are malformed: copy them again, without blanks or quotes",
            ps_s3_key_source_name(source));
    return 0;
}

/* ---- environment ---- */

static int from_env(struct chain *c, struct ps_s3_keys *k, struct ps_err *err)
{
    const char *access = ps_s3_env("AWS_ACCESS_KEY_ID"),
               *secret = ps_s3_env("AWS_SECRET_ACCESS_KEY");
    (void)c;
    if (!access && !secret)
        return PS_ENOTFOUND;
    if (!access || !secret)
        return ps_err_set(err, PS_EREFUSED, ORIGIN,
                          "AWS keys in the environment are incomplete: set %s, too",
                          access ? "AWS_SECRET_ACCESS_KEY" : "AWS_ACCESS_KEY_ID");
    return fill(k, PS_S3_KEYS_ENV, access, secret, ps_s3_env("AWS_SESSION_TOKEN"), err);
}

/* ---- small exchanges ---- */

/* An answer that is no success becomes an error; `who` names the service. */
static int ask(struct chain *c, struct ps_fetch_reply *r, struct ps_fetch *f, struct ps_err *err)
{
    f->stop = c->ask->stop;
    f->stats = c->ask->stats;
    f->limit = c->ask->limit;
    f->ca_file = c->ask->ca_file;
    int rc = ps_http_fetch(r, f, c->cls, err);
    if (rc != 0 || r->status == 200)
        return rc;
    char code[64];
    if (!ps_xml_text(r->body.data, r->body.len, "Code", code, sizeof code))
        snprintf(code, sizeof code, "HTTP %d", r->status);
    rc = r->status >= 500 || r->status == 429 ? PS_ENET
         : r->status == 404                   ? PS_ENOTFOUND
                                              : PS_EREFUSED;
    *c->cls = rc == PS_ENET ? PS_RETRY_SERVER : PS_RETRY_FATAL;
    ps_err_set(err, rc, ORIGIN, "no AWS keys (%s): %s: check its settings", code, f->where);
    ps_fetch_reply_deinit(r);
    return rc;
}

/* What the container's endpoint and the metadata service answer with. */
static int keys_of_json(struct ps_s3_keys *k, enum ps_s3_key_source source, const char *text,
                        size_t bytes, struct ps_err *err)
{
    const struct ps_json_limits limits = {.max_bytes = 64 << 10, .max_depth = 4, .max_values = 100};
    struct ps_json *root;
    const char *access, *secret, *token, *until;
    int rc = ps_json_parse(&root, text, bytes, &limits, NULL);
    if (rc == 0) {
        rc = ps_json_get_string(root, "AccessKeyId", "", &access, NULL);
        rc = rc ? rc : ps_json_get_string(root, "SecretAccessKey", "", &secret, NULL);
        rc = rc ? rc : ps_json_get_string(root, "Token", "", &token, NULL);
        rc = rc ? rc : ps_json_get_string(root, "Expiration", "", &until, NULL);
        if (rc == 0)
            rc = fill(k, source, access, secret, token, err);
        if (rc == 0)
            k->expires_s = ps_s3_parse_time(until);
        ps_json_free(root);
    }
    if (rc == PS_EREFUSED || rc == PS_ENOMEM)
        return rc == PS_ENOMEM ? ps_err_set(err, rc, ORIGIN, "out of memory") : rc;
    return rc == 0 ? 0
                   : ps_err_set(err, PS_EDATA, ORIGIN,
                                "AWS keys are unreadable: %s: is it the right endpoint?",
                                ps_s3_key_source_name(source));
}

/* ---- web identity ---- */

static int read_token(const char *path, char **out, struct ps_err *err)
{
    size_t n;
    int rc = ps_s3_read_file(path, TOKEN_MAX_BYTES, out, &n, err);
    if (rc != 0)
        return rc == PS_ENOTFOUND ? PS_EREFUSED : rc;
    while (n > 0 && strchr(" \r\n\t", (*out)[n - 1]))
        (*out)[--n] = '\0';
    if (n > 0 && plain(*out))
        return 0;
    ps_free(*out);
    return ps_err_set(err, PS_EREFUSED, ORIGIN, "no token: %s: the file is empty or no text", path);
}

static int sts_address(const struct chain *c, char *out, size_t cap, struct ps_err *err)
{
    const char *region = c->ask->region;
    char *set = NULL;
    const int rc = ps_s3_endpoint(&set, &c->files, "sts");
    if (rc != 0)
        return ps_err_set(err, rc, ORIGIN, "out of memory");
    if (set)
        snprintf(out, cap, "%s", set);
    else
        snprintf(out, cap, "https://sts.%s.amazonaws.com%s/", region,
                 strncmp(region, "cn-", 3) == 0 ? ".cn" : "");
    ps_free(set);
    return 0;
}

static int keys_of_sts(struct ps_s3_keys *k, const char *xml, size_t n, struct ps_err *err)
{
    char access[128], secret[256], until[64];
    char *token = ps_malloc(sizeof k->token);
    int rc = PS_EDATA;
    if (!token)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    if (ps_xml_text(xml, n, "AccessKeyId", access, sizeof access) &&
        ps_xml_text(xml, n, "SecretAccessKey", secret, sizeof secret) &&
        ps_xml_text(xml, n, "SessionToken", token, sizeof k->token) &&
        ps_xml_text(xml, n, "Expiration", until, sizeof until))
        rc = fill(k, PS_S3_KEYS_WEB_IDENTITY, access, secret, token, err);
    else
        ps_err_set(
            err, rc,
            ORIGIN, "AWS keys are unreadable: STS: check AWS_ENDPOINT_URL_STS, or endpoint_url of the profile");
    if (rc == 0)
        k->expires_s = ps_s3_parse_time(until);
    explicit_bzero(token, sizeof k->token);
    ps_free(token);
    return rc;
}

static char *sts_body(const char *role, const char *session, const char *token)
{
    struct ps_strbuf b;
    char name[64];
    if (!session)
        snprintf(name, sizeof name, "penstock-%llu", (unsigned long long)ps_wall_s());
    ps_strbuf_init(&b, 4 * TOKEN_MAX_BYTES);
    ps_strbuf_puts(&b, "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=");
    ps_uri_escape(&b, role, false);
    ps_strbuf_puts(&b, "&RoleSessionName=");
    ps_uri_escape(&b, session ? session : name, false);
    ps_strbuf_puts(&b, "&WebIdentityToken=");
    ps_uri_escape(&b, token, false);
    char *body = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return body;
}

static int web_identity(struct chain *c, struct ps_s3_keys *k, const char *token_file,
                        const char *role, const char *session, struct ps_err *err)
{
    static const char *const headers[] = {
        "Content-Type: application/x-www-form-urlencoded; charset=utf-8", "Accept: application/xml",
        NULL};
    char url[URL_MAX_BYTES], *token, *body;
    struct ps_fetch_reply r;
    int rc = sts_address(c, url, sizeof url, err);
    if (rc == 0)
        rc = read_token(token_file, &token, err);
    if (rc != 0)
        return rc;
    body = sts_body(role, session, token);
    ps_free(token);
    if (!body)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    struct ps_fetch f = {.url = url,
                         .headers = headers,
                         .body = body,
                         .body_bytes = strlen(body),
                         .where = "STS, web identity"};
    rc = ask(c, &r, &f, err);
    ps_free(body);
    if (rc != 0)
        return rc == PS_ENOTFOUND ? PS_EREFUSED : rc;
    rc = keys_of_sts(k, r.body.data, r.body.len, err);
    ps_fetch_reply_deinit(&r);
    return rc;
}

static int from_web_identity(struct chain *c, struct ps_s3_keys *k, struct ps_err *err)
{
    const char *file = ps_s3_env("AWS_WEB_IDENTITY_TOKEN_FILE"), *role = ps_s3_env("AWS_ROLE_ARN");
    if (!file)
        return PS_ENOTFOUND;
    if (!role)
        return ps_err_set(err, PS_EREFUSED, ORIGIN,
                          "AWS web identity is incomplete: set AWS_ROLE_ARN, too");
    return web_identity(c, k, file, role, ps_s3_env("AWS_ROLE_SESSION_NAME"), err);
}

/* ---- profile ---- */

static bool profile_has(const struct chain *c, const char *key, char *out, size_t cap)
{
    return ps_s3_profile_get(&c->files, c->files.profile, key, out, cap);
}

/* What other tools can turn into keys, and how. */
static int unsupported_profile(const struct chain *c, const char *key, struct ps_err *err)
{
    return ps_err_set(
        err, PS_EUNSUPPORTED, ORIGIN,
        "AWS profile %s uses %s: not supported: set the variables that `aws configure "
        "export-credentials --format env` prints",
        c->files.profile, key);
}

static int from_role(struct chain *c, struct ps_s3_keys *k, const char *role, struct ps_err *err)
{
    char file[PS_S3_VALUE_MAX], session[PS_S3_NAME_MAX];
    if (!profile_has(c, "web_identity_token_file", file, sizeof file))
        return unsupported_profile(c, "role_arn with other keys", err);
    bool named = profile_has(c, "role_session_name", session, sizeof session);
    return web_identity(c, k, file, role, named ? session : NULL, err);
}

static int from_profile(struct chain *c, struct ps_s3_keys *k, struct ps_err *err)
{
    static const char *const others[] = {"sso_session", "sso_start_url", "credential_process",
                                         "login_session"};
    char access[PS_S3_VALUE_MAX], secret[PS_S3_VALUE_MAX], value[PS_S3_VALUE_MAX];
    char token[sizeof k->token] = "";
    if (profile_has(c, "role_arn", value, sizeof value))
        return from_role(c, k, value, err);
    bool id = profile_has(c, "aws_access_key_id", access, sizeof access);
    bool key = profile_has(c, "aws_secret_access_key", secret, sizeof secret);
    if (id && key) {
        profile_has(c, "aws_session_token", token, sizeof token);
        return fill(k, PS_S3_KEYS_PROFILE, access, secret, token, err);
    }
    if (id || key)
        return ps_err_set(err, PS_EREFUSED, ORIGIN, "AWS profile %s is incomplete: add %s",
                          c->files.profile, id ? "aws_secret_access_key" : "aws_access_key_id");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (profile_has(c, others[i], value, sizeof value))
            return unsupported_profile(c, others[i], err);
    return PS_ENOTFOUND;
}

/* ---- container ---- */

/* Keys go over http only to this machine and to the addresses that ECS and EKS use. */
static bool container_host_ok(const struct ps_uri *u)
{
    static const char *const near[] = {"localhost", "[::1]", "169.254.170.2", "169.254.170.23",
                                       "[fd00:ec2::23]"};
    if (strcmp(u->scheme, "https") == 0)
        return true;
    /* 127.x.y.z, but not a name that begins so */
    if (strncmp(u->host, "127.", 4) == 0 && strspn(u->host, "0123456789.") == strlen(u->host))
        return true;
    for (size_t i = 0; i < sizeof near / sizeof *near; i++)
        if (strcmp(u->host, near[i]) == 0)
            return true;
    return false;
}

static int container_address(char *url, size_t cap, struct ps_err *err)
{
    const char *relative = ps_s3_env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    const char *full = ps_s3_env("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    struct ps_uri u;
    if (!relative && !full)
        return PS_ENOTFOUND;
    snprintf(url, cap, "%s%s", relative ? "http://169.254.170.2" : "", relative ? relative : full);
    int rc = ps_uri_parse(&u, url, err);
    if (rc != 0)
        return ps_err_set(err, PS_EREFUSED, ORIGIN,
                          "malformed address of the container's AWS keys: check "
                          "AWS_CONTAINER_CREDENTIALS_FULL_URI");
    bool ok = container_host_ok(&u);
    ps_uri_deinit(&u);
    return ok ? 0
              : ps_err_set(
                    err, PS_EREFUSED, ORIGIN,
                    "AWS_CONTAINER_CREDENTIALS_FULL_URI: http to another machine: use https");
}

/* The line of the Authorization header, or none. */
static int container_login(char *line, size_t cap, struct ps_err *err)
{
    const char *file = ps_s3_env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    const char *value = ps_s3_env("AWS_CONTAINER_AUTHORIZATION_TOKEN");
    char *token = NULL;
    int rc = 0;
    line[0] = '\0';
    if (file)
        rc = read_token(file, &token, err);
    const char *use = token ? token : value;
    for (const char *p = use; rc == 0 && p && *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) /* "Bearer xyz" has a blank */
            rc = ps_err_set(err, PS_EREFUSED, ORIGIN,
                            "AWS_CONTAINER_AUTHORIZATION_TOKEN holds a line end: remove it");
    if (rc == 0 && use && snprintf(line, cap, "Authorization: %s", use) >= (int)cap)
        rc = ps_err_set(err, PS_EREFUSED, ORIGIN, "the container's token is too long");
    ps_free(token);
    return rc;
}

static int from_container(struct chain *c, struct ps_s3_keys *k, struct ps_err *err)
{
    char url[URL_MAX_BYTES], login[8192];
    struct ps_fetch_reply r;
    int rc = container_address(url, sizeof url, err);
    if (rc == 0)
        rc = container_login(login, sizeof login, err);
    if (rc != 0)
        return rc;
    const char *const headers[] = {"Accept: application/json", login[0] ? login : NULL, NULL};
    struct ps_fetch f = {.url = url,
                         .headers = headers,
                         .timeout_s = 10,
                         .connect_timeout_s = 2,
                         .direct = true,
                         .where = "the container's credentials endpoint"};
    rc = ask(c, &r, &f, err);
    if (rc != 0)
        return rc == PS_ENOTFOUND ? PS_EREFUSED : rc;
    rc = keys_of_json(k, PS_S3_KEYS_CONTAINER, r.body.data, r.body.len, err);
    ps_fetch_reply_deinit(&r);
    return rc;
}

/* ---- EC2 ---- */

static int ec2_exchange(struct chain *c, struct ps_fetch_reply *r, const char *method,
                        const char *path, const char *header, struct ps_err *err)
{
    const char *set = ps_s3_env("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    const char *mode = ps_s3_env("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE");
    const char *base = set                                     ? set
                       : mode && strcasecmp(mode, "ipv6") == 0 ? "http://[fd00:ec2::254]"
                                                               : "http://169.254.169.254";
    char url[URL_MAX_BYTES];
    size_t n = strlen(base);
    int k =
        snprintf(url, sizeof url, "%.*s%s", (int)(n && base[n - 1] == '/' ? n - 1 : n), base, path);
    if (k < 0 || (size_t)k >= sizeof url)
        return ps_err_set(err, PS_EREFUSED, ORIGIN, "AWS_EC2_METADATA_SERVICE_ENDPOINT is too long");
    const char *const headers[] = {header, NULL};
    struct ps_fetch f = {.method = method,
                         .url = url,
                         .headers = headers,
                         .timeout_s = c->ask->last == PS_S3_KEYS_EC2 ? 5 : EC2_TIMEOUT_S,
                         .connect_timeout_s = EC2_TIMEOUT_S,
                         .direct = true,
                         .where = "the EC2 metadata service"};
    return ask(c, r, &f, err);
}

static int ec2_keys(struct chain *c, struct ps_s3_keys *k, const char *session, struct ps_err *err)
{
    char path[512] = "/latest/meta-data/iam/security-credentials/", header[512];
    struct ps_fetch_reply r;
    size_t n = strlen(path);
    snprintf(header, sizeof header, "X-aws-ec2-metadata-token: %s", session);
    int rc = ec2_exchange(c, &r, "GET", path, header, err);
    if (rc != 0)
        return rc;
    size_t role = strcspn(r.body.data, "\r\n");
    struct ps_strbuf b;
    ps_strbuf_init(&b, sizeof path - n - 1);
    r.body.data[role] = '\0';
    ps_uri_escape(&b, r.body.data, false);
    bool ok = role > 0 && ps_strbuf_ok(&b);
    snprintf(path + n, sizeof path - n, "%s", b.data);
    ps_strbuf_deinit(&b);
    ps_fetch_reply_deinit(&r);
    if (!ok)
        return PS_ENOTFOUND;
    rc = ec2_exchange(c, &r, "GET", path, header, err);
    if (rc != 0)
        return rc;
    rc = keys_of_json(k, PS_S3_KEYS_EC2, r.body.data, r.body.len, err);
    ps_fetch_reply_deinit(&r);
    return rc;
}

/* A machine that is not on EC2, or has no role, is no error. */
static int from_ec2(struct chain *c, struct ps_s3_keys *k, struct ps_err *err)
{
    struct ps_fetch_reply r;
    char session[400];
    if (ps_s3_env_true("AWS_EC2_METADATA_DISABLED"))
        return PS_ENOTFOUND;
    int rc = ec2_exchange(c, &r, "PUT", "/latest/api/token",
                          "X-aws-ec2-metadata-token-ttl-seconds: " EC2_LIFETIME, err);
    if (rc == 0) {
        bool ok = put(session, sizeof session, r.body.data) && session[0];
        ps_fetch_reply_deinit(&r);
        rc = ok ? ec2_keys(c, k, session, err) : PS_EREFUSED;
    }
    if (rc == PS_ECANCELLED || rc == PS_ENOMEM || rc == 0 || c->ask->last == PS_S3_KEYS_EC2)
        return rc;
    return PS_ENOTFOUND;
}

/* ---- chain ---- */

int ps_s3_keys_fetch(struct ps_s3_keys *out, const struct ps_s3_key_ask *a,
                     enum ps_retry_class *cls, struct ps_err *err)
{
    static int (*const sources[])(struct chain *, struct ps_s3_keys *,
                                  struct ps_err *) = {from_env, from_web_identity, from_profile,
                                                      from_container, from_ec2};
    struct chain c = {.ask = a, .cls = cls};
    struct ps_s3_keys *k = ps_malloc(sizeof *k);
    *cls = PS_RETRY_FATAL;
    if (!k)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    int rc = ps_s3_files_load(&c.files, err);
    if (rc != 0) {
        ps_free(k);
        return rc;
    }
    rc = PS_ENOTFOUND;
    for (size_t i = 0; i < sizeof sources / sizeof *sources && rc == PS_ENOTFOUND; i++)
        rc = sources[i](&c, k, err);
    ps_s3_files_deinit(&c.files);
    if (rc == PS_ENOTFOUND) {
        memset(k, 0, sizeof *k);
        rc = 0;
    }
    if (rc == 0) {
        *out = *k;
        ps_log(PS_LOG_DEBUG, "fetcher", "AWS keys from %s", ps_s3_key_source_name(k->source));
    }
    explicit_bzero(k, sizeof *k);
    ps_free(k);
    return rc;
}
