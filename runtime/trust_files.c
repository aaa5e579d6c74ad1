/* See trust_files.h. */
#include "runtime/trust_files.h"

#include "base/alloc.h"
#include "base/host.h"

int ps_trust_from_files(struct ps_trust **out, const char *const *paths, size_t n, struct ps_err *err)
{
    struct ps_trust *t = NULL;
    if (n > 0 && !paths)
        return ps_err_set(err, PS_EUSAGE, "signature", "%zu keys, but none of them is given", n);
    int rc = n == 0 ? 0 : ps_trust_new(&t);
    if (rc != 0)
        return ps_err_set(err, rc, "signature", "out of memory");
    for (size_t i = 0; i < n && rc == 0; i++) {
        char *pem;
        size_t len;
        if (ps_file_read(&pem, &len, paths[i], PS_KEY_MAX_BYTES, err) != 0) {
            rc = PS_EUSAGE;
            if (err)
                err->code = rc;
            ps_err_prefix(err, "--verify-key");
            break;
        }
        rc = ps_trust_add(t, pem, paths[i], err);
        ps_free(pem);
    }
    if (rc != 0) {
        ps_trust_free(t);
        return rc;
    }
    *out = t;
    return 0;
}
