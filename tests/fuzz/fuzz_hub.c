/* Fuzz target: what the Hub and users write. The first byte chooses which: an hf:// address, the query of a signed
 * link, or headers of a reply ("name: value" lines). Checks what must hold of anything accepted: names that stay
 * inside their folder, texts that end. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "fetcher/hf_reply.h"
#include "fetcher/uri.h"
#include "proto/source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_address(const char *text)
{
    struct ps_hf_ref r;
    if (ps_hf_ref_parse(&r, text, NULL) != 0)
        return;
    PS_ASSERT(ps_name_ok(r.repo, strlen(r.repo)) && ps_name_ok(r.revision, strlen(r.revision)));
    PS_ASSERT(!r.folder[0] || ps_name_ok(r.folder, strlen(r.folder)));
    char *cache = ps_hf_cache_path(&r, "/c"), *label = ps_hf_label(&r);
    if (cache)
        PS_ASSERT(strncmp(cache, "/c/models--", 11) == 0 && !strchr(cache + 3, '/'));
    if (label) { /* what is shown can be given again, and means the same */
        struct ps_hf_ref again;
        PS_ASSERT(!strpbrk(label, "?#"));
        if (strlen(label) <=
            PS_URI_MAX_BYTES) { /* escapes may have made it longer than any address may be */
            PS_ASSERT(ps_hf_ref_parse(&again, label, NULL) == 0);
            PS_ASSERT(strcmp(again.repo, r.repo) == 0 && strcmp(again.revision, r.revision) == 0);
            PS_ASSERT(strcmp(again.folder, r.folder) == 0);
            ps_hf_ref_deinit(&again);
        }
    }
    ps_free(cache);
    ps_free(label);
    ps_hf_ref_deinit(&r);
}

static void check_headers(char *text)
{
    struct ps_hf_facts f = {0};
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *value = strstr(line, ": ");
        if (!value)
            continue;
        *value = '\0';
        ps_hf_facts_put(&f, line, value + 2);
    }
    PS_ASSERT(!f.commit[0] || ps_hf_is_commit(f.commit));
    PS_ASSERT(memchr(f.content, '\0', sizeof f.content) && (f.content[0] || !f.linked));
    for (int status = 400; status < 500; status += 3)
        PS_ASSERT(ps_hf_refusal_what(ps_hf_refusal_of(status, &f)) != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    char *text = ps_strndup((const char *)data + 1, size - 1);
    if (text && data[0] % 3 == 0)
        check_address(text);
    else if (text && data[0] % 3 == 1)
        (void)ps_signed_until(text);
    else if (text)
        check_headers(text);
    ps_free(text);
    return 0;
}
