/* Signatures of manifests: Ed25519 (RFC 8032) over the bytes of a manifest, and so over every byte of the model
 * (proto/manifest.h has the chain). Pure code over bytes; keys are PEM texts as `openssl genpkey -algorithm ed25519`
 * and `openssl pkey -pubout` write them.
 *
 * The object "penstock.manifest.sig" beside the manifest is text:
 *
 *     penstock-signature 1
 *     ed25519 <key id> <model id> <signature>
 *
 * one line for each signature, all in hex. Key id: the first 8 bytes of the SHA-256 of the public key's 32. Model id:
 * SHA-256 of the manifest. Lines of other models or by unknown methods are passed over, so that a manifest and its
 * successor can be signed side by side while one takes the other's place, and another method needs no new version. A
 * newer version means that lines mean something else: none of them counts. */
#ifndef PS_PROTO_SIGNATURE_H
#define PS_PROTO_SIGNATURE_H
#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"

#define PS_SIGNATURE_NAME      "penstock.manifest.sig"
#define PS_SIGNATURE_MAX_BYTES (64u << 10)
#define PS_KEY_MAX_BYTES       (16u << 10) /* of a PEM text */
#define PS_KEY_ID_CHARS        16u

/* A new key pair as PEM texts (heap), and its id. PS_ENOMEM, PS_EFAIL without random numbers. */
int ps_key_generate(char **private_pem, char **public_pem, char id[PS_KEY_ID_CHARS + 1],
                    struct ps_err *err);
/* The text of a signature object for this manifest, heap. PS_EUSAGE: the key is no private Ed25519 key. */
int ps_signature_make(char **out, size_t *len, const char *private_pem, const void *manifest,
                      size_t manifest_len, struct ps_err *err);
/* Whether such a text, of our version, has a line for this manifest, by whatever key. */
bool ps_signature_names(const char *text, const void *manifest, size_t manifest_len);

/* Public keys that are trusted. Immutable once filled; any thread. */
struct ps_trust;
int ps_trust_new(struct ps_trust **out); /* 0 or PS_ENOMEM */
void ps_trust_free(struct ps_trust *t);  /* nullable */
/* PS_EUSAGE: `pem` is no public Ed25519 key; `what` names it in messages. */
int ps_trust_add(struct ps_trust *t, const char *pem, const char *what, struct ps_err *err);
/* 0: one of the keys signed this manifest. PS_EDATA names what is wrong: no such object (text NULL), signed by
 * others, a signature that does not fit, another first line. PS_EUNSUPPORTED: the object is of a newer version. */
int ps_trust_check(const struct ps_trust *t, const void *manifest, size_t manifest_len,
                   const char *text, size_t text_len, struct ps_err *err);
#endif
