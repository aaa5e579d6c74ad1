/* What the environment says of the Hub. Comes in: variables and one small file (the token). Goes
 * out: where to ask, as whom, and where the Hub's own tools keep their files. The names and their
 * order of precedence are those of huggingface_hub (constants.py), so that whoever has set it up
 * need not do it again. Read once, when a source is opened. */
#ifndef PS_FETCHER_HF_SETTINGS_H
#define PS_FETCHER_HF_SETTINGS_H
#include <stdbool.h>
#include "base/err.h"

struct ps_hf_settings {
    char *endpoint; /* HF_ENDPOINT or https://huggingface.co, without '/' at its end */
    /* Nullable. HF_TOKEN, else the file HF_TOKEN_PATH or $HF_HOME/token. Never printed, sent to the endpoint's origin
     * only. */
    char *token;
    char *token_from; /* where it came from, or would have: for messages */
    char *hub_cache;  /* nullable: HF_HUB_CACHE, else $HF_HOME/hub; NULL where there is no home */
    bool token_withheld; /* HF_HUB_DISABLE_IMPLICIT_TOKEN: there is one, and it is not sent */
    bool offline;        /* HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE: no request at all */
    bool is_public; /* the Hub itself, not a mirror of one's own: traffic that others pay for */
};

/* `env` is getenv, or a test's. PS_EUSAGE: a malformed endpoint, or a token that can't be sent. */
int ps_hf_settings_read(struct ps_hf_settings *out, char *(*env)(const char *name),
                        struct ps_err *err);
/* For an address that the user has not given himself: no token, and not his cache of the Hub. */
void ps_hf_settings_forget_user(struct ps_hf_settings *s);
void ps_hf_settings_deinit(struct ps_hf_settings *s); /* also fine on a zeroed struct */
#endif
