/* What a finished split comes to, found by opening its result; and the end of a source that is no longer wanted. */
#ifndef PS_TOOLS_SPLIT_REPORT_H
#define PS_TOOLS_SPLIT_REPORT_H
#include "base/err.h"
#include "base/json.h"
#include "proto/map.h"
#include "proto/source.h"
#include "tools/split.h"
#include "tools/split_policy.h"

struct ps_split_report {
    struct ps_split_kind_sum {
        uint32_t tensors, widened_extents;
        uint64_t bytes_in, bytes_out;
        struct ps_quant_error error; /* over all rounded tensors of the kind */
        double worst;                /* largest relative error of one */
    } kinds[PS_KIND_COUNT];
    uint64_t bytes_in, bytes_out; /* of weights */
    uint64_t verified_bytes;      /* read back and hashed; 0: that was not asked for */
    uint32_t deleted_files;
};
/* Opens source and result and adds up. `verify`: every extent of the result is read back first and must have its hash,
 * PS_EDATA otherwise. */
int ps_split_report_make(struct ps_split_report *r, struct ps_source *src,
                         const struct ps_split_options *o, bool verify, struct ps_err *err);
/* The members "bytes_in", "bytes_out", "ratio", "kinds" (and what was verified and deleted) of an open object. */
void ps_split_report_write(struct ps_json_writer *w, const struct ps_split_report *r);

/* The files of a source that hold weights, and the index that names them, each as it lies there. Made before the source
 * that is split is opened: what is still the same file at the end is the one that was split. PS_EUSAGE: not a folder of
 * this machine, or a file is a symbolic link. */
struct ps_split_doomed;
int ps_split_doomed_new(struct ps_split_doomed **out, struct ps_source *src, struct ps_err *err);
void ps_split_doomed_free(struct ps_split_doomed *d); /* nullable */
/* Removes them; nothing else. Only after a report that verified. PS_EDATA: one is another file by now, or changed: it
 * stays, and all others if it was so from the beginning. */
int ps_split_delete_source(struct ps_split_report *r, const struct ps_split_doomed *d,
                           struct ps_err *err);
#endif
