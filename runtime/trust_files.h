/* Public keys from files: what --verify-key names. */
#ifndef PS_RUNTIME_TRUST_FILES_H
#define PS_RUNTIME_TRUST_FILES_H
#include "proto/signature.h"

/* *out is NULL where n is 0: nothing is verified. PS_EUSAGE: a file that can't be read or holds no public key. */
int ps_trust_from_files(struct ps_trust **out, const char *const *paths, size_t n,
                        struct ps_err *err);
#endif
