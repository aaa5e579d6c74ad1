/* Errors: one code, one origin, one line of text that says what to do next.
 *
 * Every fallible function of Penstock returns 0 or a negative PS_E code and takes a nullable `struct ps_err *err` as
 * its last parameter. The detail travels in the caller's storage, not in thread-local memory, because a transfer is
 * started on one thread and fails on another. Outputs of a failed call are untouched.
 *
 * Threads: a struct ps_err belongs to whoever declared it; the functions here keep no state. */
#ifndef PS_BASE_ERR_H
#define PS_BASE_ERR_H

#include <stdarg.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Codes are grouped by the exit status that the program ends with (contract.md "Exit status"). */
enum ps_code {
    PS_OK = 0,
    PS_EFAIL = -1,        /* exit 1: anything not named below */
    PS_EUNSUPPORTED = -2, /* exit 1: architecture, tokenizer kind, tensor type that Penstock can't do */
    PS_ENOMEM = -3,       /* exit 5: the allocator said no */
    PS_EUSAGE = -4, /* exit 2: unknown option or scheme, malformed address, token id out of range */
    PS_ENET = -5,   /* exit 3: unreachable, or still failing at the deadline */
    PS_ENOTFOUND = -6, /* exit 3: 404, no such file; also "no such record" where a function says so */
    PS_EREFUSED = -7,      /* exit 3: 401, 403, a server without ranges */
    PS_EDATA = -8,         /* exit 4: bytes that are not what they should be */
    PS_EBUDGET = -9,       /* exit 5: budget too small, disk without room for what was demanded */
    PS_EINTERRUPTED = -10, /* exit 130 */
    PS_EIO = -11,          /* exit 1: a local system call failed */
    PS_ENOSPC = -12,       /* exit 5: no room on a file system */
    PS_ECANCELLED = -13,   /* the caller withdrew the request; never shown to a user */
    PS_EAGAIN =
        -14, /* not now: a full queue, nothing ready, somebody is at it already; never shown to a user */
    PS_EINUSE =
        -15, /* exit 1: others hold it in a way that it can't be shared in (a cache, across PID namespaces) */
};

#define PS_ERR_TEXT_MAX 512

struct ps_err {
    int code;                   /* PS_E..., 0 = nothing recorded */
    const char *origin;         /* static string: the module that failed, e.g. "fetcher" */
    char text[PS_ERR_TEXT_MAX]; /* "what: where: what to do", no newline, secrets already redacted */
};

/* Records `code` with a printf-formatted line in *err (nullable) and returns `code`, so that callers can write
 * `return ps_err_set(err, PS_EDATA, "proto", "...")`. Control characters in the result are replaced by '?' because the
 * text may quote remote bytes. `origin` must be a static string. */
int ps_err_set(struct ps_err *err, int code, const char *origin, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Puts "prefix: " in front of the text already recorded (where that text lacks the place). Returns err->code. */
int ps_err_prefix(struct ps_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same with "where: ", unless *err (nullable) holds no error or its text names `where` already. */
void ps_err_place(struct ps_err *err, const char *where);
/* Puts ": remedy" behind the text of an error: what to do about it. Nothing where *err (nullable) holds none. */
void ps_err_advise(struct ps_err *err, const char *remedy);
/* As ps_err_place, for the outcome `rc` of opening a model: only of errors about its files (wrong, missing, of a kind
 * that is not supported), which may name none. Errors of the way to it name an address themselves. */
void ps_err_place_files(struct ps_err *err, int rc, const char *model);

/* The process exit status of a code: 0, 1, 2, 3, 4, 5 or 130. */
int ps_err_exit_status(int code);

/* Short constant name of a code, "data" for PS_EDATA. Never NULL. */
const char *ps_err_name(int code);

/* An invariant of ours (never a property of input). Stays on in release builds: prints place and expression, aborts. */
#define PS_ASSERT(x) ((x) ? (void)0 : ps_assert_failed(__FILE__, __LINE__, #x))
void ps_assert_failed(const char *file, int line, const char *expr) __attribute__((noreturn));

#ifdef __cplusplus
}
#endif
#endif
