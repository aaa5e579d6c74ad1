/* The one JSON reader: bounded, streaming (yajl), duplicate keys refused. Used for safetensors headers, config.json,
 * tokenizer.json and options. Pure code over bytes; one call per thread at a time.
 *
 * Two forms: ps_json_read() hands events to a callback and keeps nothing (a 10 MB tokenizer.json costs a few MB);
 * ps_json_parse() builds a small tree for documents whose size the caller has bounded. */
#ifndef PS_BASE_JSON_H
#define PS_BASE_JSON_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/strbuf.h"

enum ps_json_kind {
    PS_JSON_NULL,
    PS_JSON_BOOL,
    PS_JSON_INT,
    PS_JSON_DOUBLE,
    PS_JSON_STRING,
    PS_JSON_OBJECT,
    PS_JSON_OBJECT_END,
    PS_JSON_ARRAY,
    PS_JSON_ARRAY_END,
    PS_JSON_KEY,
};

struct ps_json_limits {
    size_t max_bytes;    /* 0 = 100 MB */
    unsigned max_depth;  /* 0 = 64 */
    size_t max_string;   /* longest string or key; 0 = 16 MiB */
    uint64_t max_values; /* 0 = 50 million */
    /* Python's json writes NaN, Infinity and -Infinity as words, which are no JSON, and published config.json files
     * hold them: they arrive as strings. */
    bool python_words;
};

struct ps_json_event {
    enum ps_json_kind kind;
    unsigned depth; /* of the containing object or array; the top value has depth 0 */
    bool boolean;
    int64_t integer; /* kind INT; integers beyond int64 arrive as DOUBLE with exact text in s/len */
    double number;   /* INT and DOUBLE */
    const char *s; /* STRING, KEY and numbers' text; valid UTF-8, may contain NUL bytes; borrowed for the call */
    size_t len;
};
/* Non-zero stops the reading and is returned as it is. */
typedef int (*ps_json_fn)(void *user, const struct ps_json_event *ev, struct ps_err *err);

/* Reads one JSON value that fills `bytes` (white space around it allowed). PS_EDATA with byte offset on malformed JSON,
 * duplicate keys, invalid UTF-8, or a limit exceeded; numbers that overflow a double are refused. */
int ps_json_read(const void *bytes, size_t len, const struct ps_json_limits *limits, ps_json_fn fn,
                 void *user, struct ps_err *err);

/* Tree form. Nodes live in one arena owned by the root. */
struct ps_json {
    enum ps_json_kind kind; /* never *_END or KEY */
    bool boolean;
    int64_t integer;
    double number;
    const char *s;
    size_t len;
    const char *key;              /* inside an object: this member's name, else NULL */
    struct ps_json *child, *next; /* first child; next sibling, in document order */
    size_t n_children;
};
int ps_json_parse(struct ps_json **out, const void *bytes, size_t len,
                  const struct ps_json_limits *limits, struct ps_err *err);
void ps_json_free(struct ps_json *root);
/* Member of an object, or NULL (also when `o` is NULL or no object). A JSON null counts as absent. */
const struct ps_json *ps_json_get(const struct ps_json *o, const char *key);
/* Value of a member, or the default where it is absent. A member of another type sets PS_EDATA through the return
 * value: 0 ok (found or defaulted), PS_EDATA wrong type or out of range. */
int ps_json_get_int(const struct ps_json *o, const char *key, int64_t dflt, int64_t *out,
                    struct ps_err *err);
int ps_json_get_double(const struct ps_json *o, const char *key, double dflt, double *out,
                       struct ps_err *err);
int ps_json_get_bool(const struct ps_json *o, const char *key, bool dflt, bool *out,
                     struct ps_err *err);
/* Borrowed NUL-terminated string; *out = dflt where absent. */
int ps_json_get_string(const struct ps_json *o, const char *key, const char *dflt, const char **out,
                       struct ps_err *err);

/* Writer: appends to a ps_strbuf, inserts commas itself. Doubles are written with "%.9g"; NaN and infinities as
 * null. */
struct ps_json_writer {
    struct ps_strbuf *b;
    unsigned depth;
    bool first[32]; /* per depth: nothing written yet */
    bool after_key;
};
void ps_jw_init(struct ps_json_writer *w, struct ps_strbuf *b);
void ps_jw_object(struct ps_json_writer *w);
void ps_jw_object_end(struct ps_json_writer *w);
void ps_jw_array(struct ps_json_writer *w);
void ps_jw_array_end(struct ps_json_writer *w);
void ps_jw_key(struct ps_json_writer *w, const char *key);
void ps_jw_string(struct ps_json_writer *w, const char *s,
                  size_t len); /* invalid UTF-8 becomes U+FFFD */
void ps_jw_int(struct ps_json_writer *w, int64_t v);
void ps_jw_uint(struct ps_json_writer *w, uint64_t v);
void ps_jw_double(struct ps_json_writer *w, double v);
void ps_jw_bool(struct ps_json_writer *w, bool v);
void ps_jw_null(struct ps_json_writer *w);
void ps_jw_raw(struct ps_json_writer *w, const char *json); /* a finished JSON value */
/* key + value in one call */
void ps_jw_kint(struct ps_json_writer *w, const char *key, int64_t v);
void ps_jw_kuint(struct ps_json_writer *w, const char *key, uint64_t v);
void ps_jw_kdouble(struct ps_json_writer *w, const char *key, double v);
void ps_jw_kstring(struct ps_json_writer *w, const char *key, const char *s); /* NULL -> null */
void ps_jw_kbool(struct ps_json_writer *w, const char *key, bool v);
#endif
