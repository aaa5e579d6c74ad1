/* What a model computes, read from its config.json: a descriptor, not a copy of the forward pass. Comes in:
 * config.json as bytes. Goes out: shapes, rope frequencies, windows, which the one block in forward.c follows.
 * Both forms of config are read: the older one (rope_theta, rope_scaling, torch_dtype) and that of transformers 5
 * (rope_parameters, dtype). Pure code; immutable after reading. */
#ifndef PS_RUNTIME_ARCH_H
#define PS_RUNTIME_ARCH_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

#define PS_ARCH_MAX_LAYERS 4096
#define PS_ARCH_MAX_DIM    (1u << 20)

enum ps_rope_kind { PS_ROPE_DEFAULT, PS_ROPE_LINEAR, PS_ROPE_LLAMA3, PS_ROPE_YARN };

struct ps_rope_config {
    enum ps_rope_kind kind;
    double theta, factor;
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow,
        attention_factor; /* yarn; attention_factor <= 0: derive from factor */
    double mscale, mscale_all_dim;
    bool truncate;
    double original_max_position;
};

struct ps_arch {
    char name[64]; /* architectures[0] */
    uint32_t hidden, inter, n_layers, n_heads, n_kv_heads, head_dim, vocab, max_position;
    uint32_t rot_dim; /* rotated part of head_dim */
    float rms_eps;
    bool tied;        /* embedding and head are one matrix */
    bool says_untied; /* config.json says in so many words that they are two */
    bool quantised;   /* config.json says that weights have scales */
    uint32_t scale_block_rows, scale_block_cols; /* that share a scale in block-scaled FP8; 0: none */
    bool wants_qk_norm; /* family has per-head q/k norms: tensors must exist */
    struct ps_rope_config rope;
    float *inv_freq;  /* [rot_dim/2], float32 as the reference computes it */
    float rope_scale; /* multiplies cos and sin (yarn), else 1 */
    uint32_t *window; /* [n_layers]: 0 = full attention */
};

/* PS_EUNSUPPORTED names an architecture, activation or rope type that Penstock lacks and lists what it has;
 * PS_EDATA names a malformed or absurd member. Free with ps_arch_free. */
int ps_arch_read(struct ps_arch **out, const char *config_json, size_t len, struct ps_err *err);
void ps_arch_free(struct ps_arch *a);
/* Positions that the model was made for. Yarn is configured on top of a shorter length, which max_position_embeddings
 * often still names. */
uint64_t ps_arch_positions(const struct ps_arch *a);

/* inv_freq for a rope configuration: out[rot_dim/2]; *scale receives the factor for cos and sin. Method: transformers'
 * modeling_rope_utils (default, linear, llama3, yarn), in float32 where it is float32 there. */
void ps_rope_frequencies(float *out, float *scale, const struct ps_rope_config *c, uint32_t rot_dim);
/* cos/sin tables of T rows: [T][rot_dim/2] each, for the positions given. */
void ps_rope_tables(float *cos_out, float *sin_out, const struct ps_arch *a, const uint32_t *pos,
                    size_t T);
#endif
