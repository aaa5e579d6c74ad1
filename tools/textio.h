/* What the commands read and write besides the model: prompts, stdout, result files. One thread. */
#ifndef PS_TOOLS_TEXTIO_H
#define PS_TOOLS_TEXTIO_H
#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"
#include "base/strbuf.h"

/* What an error says when the reader has gone: it stands in results, but the program ends silently with status 1. */
#define PS_OUT_NOBODY_READS "stdout: Broken pipe"

/* Writes and flushes. PS_EIO; PS_OUT_NOBODY_READS when the reader has gone. */
int ps_out_write(const char *text, size_t len, struct ps_err *err);
int ps_out_line(const char *text, struct ps_err *err);      /* text and a newline */
int ps_out_strbuf(struct ps_strbuf *b, struct ps_err *err); /* PS_ENOMEM if the buffer had failed */

/* The bytes of a file, or of stdin where `path` is NULL. PS_EUSAGE names the file; at most 256
 * MiB. *out: ps_free. */
int ps_text_read(char **out, size_t *len, const char *path, struct ps_err *err);
/* Writes beside `path` and renames, so that a reader sees the old or the new file; straight into what is not a regular
 * file (a pipe, /dev/null). A symbolic link stays, and what it names is written. */
int ps_text_write_file(const char *path, const void *bytes, size_t len, struct ps_err *err);
/* Before the work: whether ps_text_write_file can write there. Leaves nothing behind. PS_EUSAGE, PS_ENOSPC; `option`
 * is for the message. */
int ps_text_check_file(const char *option, const char *path, struct ps_err *err);
#endif
