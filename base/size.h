/* Sizes as users write them: bare bytes, K M G T (powers of 1024, optional trailing "B" or "iB"), or a percentage
 * of the model. Pure functions. */
#ifndef PS_BASE_SIZE_H
#define PS_BASE_SIZE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum ps_size_kind { PS_SIZE_DEFAULT, PS_SIZE_BYTES, PS_SIZE_PERCENT, PS_SIZE_MIN, PS_SIZE_ALL };
struct ps_size {
    enum ps_size_kind kind;
    uint64_t bytes; /* PS_SIZE_BYTES */
    double percent; /* PS_SIZE_PERCENT, 0..100000 */
};
/* "20G", "1.5G", "25%", "min", "all", "0". NULL or "" gives PS_SIZE_DEFAULT. PS_EUSAGE names `what` ("--disk"). */
int ps_size_parse(struct ps_size *out, const char *text, const char *what, struct ps_err *err);
bool ps_size_is_nothing(const struct ps_size *s); /* "0", "0%" */
/* "1.5 GiB", "820 KiB", "12 B" into out (at least 24 bytes); returns out. */
char *ps_size_format(char *out, size_t cap, uint64_t bytes);
#endif
