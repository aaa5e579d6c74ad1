/* What a run says about itself: the statistics as JSON and the summary for people. Pure: text
 * from text. */
#ifndef PS_TOOLS_RUN_REPORT_H
#define PS_TOOLS_RUN_REPORT_H
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/strbuf.h"

struct ps_run_report {
    const char *stats; /* the engine's object, NULL: there is no engine */
    const char *text;  /* what was written, NULL: leave it out */
    size_t text_len;
    const uint64_t *seed; /* NULL: leave it out */
    int rc;
    const char *error; /* with rc < 0 */
};
/* One object: "text", the engine's members, "seed", and on failure "error" and "exit" unless the
 * engine has said them. */
void ps_run_report_json(struct ps_strbuf *b, const struct ps_run_report *r);
/* Two lines of figures; nothing where the object can't be read. */
void ps_run_report_summary(struct ps_strbuf *b, const struct ps_run_report *r);
#endif
