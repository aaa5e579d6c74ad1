/* What a split rounds, how far it may go, and what an extent becomes that would lose too much. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "kernels/codec/codec.h"
#include "kernels/kernel_scalar.h"
#include "proto/quant.h"
#include "tests/support/test.h"

/* The program's sources are no library. */
#include "tools/split_pack.c"
#include "tools/split_policy.c"

static struct ps_tensor tensor(const char *name, enum ps_dtype dtype, uint64_t rows, uint64_t cols,
                               int32_t layer)
{
    return (struct ps_tensor){.name = (char *)name,
                              .dtype = dtype,
                              .n_dims = 2,
                              .rows = rows,
                              .cols = cols,
                              .row_bytes = cols * ps_dtype_bytes(dtype),
                              .block_rows = ps_block_rows(cols * ps_dtype_bytes(dtype)),
                              .layer = layer};
}

static void who_is_rounded(void **state)
{
    static const struct {
        const char *name;
        int32_t layer;
        enum ps_dtype dtype, q8, nf4;
    } cases[] = {
        {"model.layers.3.mlp.up_proj.weight", 3, PS_BF16, PS_Q8B64, PS_NF4B64},
        {"model.layers.3.mlp.up_proj.weight", 3, PS_F32, PS_Q8B64, PS_NF4B64},
        {"model.layers.3.self_attn.q_proj.weight", 3, PS_F16, PS_Q8B64, PS_NF4B64},
        {"model.layers.3.mlp.experts.7.down_proj.weight", 3, PS_BF16, PS_Q8B64, PS_NF4B64},
        {"model.layers.3.self_attn.kv_b_proj.weight", 3, PS_BF16, PS_Q8B64, PS_NF4B64},
        {"model.layers.3.self_attn.k_proj.weight", 3, PS_BF16, PS_Q8B64, PS_NF4B64},
        {"model.layers.3.self_attn.v_proj.weight", 3, PS_BF16, 0, PS_Q8B64},
        {"layers.3.attention.wv.weight", 3, PS_BF16, 0, PS_Q8B64},
        {"model.layers.3.self_attn.kv_a_proj_with_mqa.weight", 3, PS_BF16, 0, PS_Q8B64},
        {"model.layers.3.mlp.v_proj.weight", 3, PS_BF16, PS_Q8B64, PS_NF4B64},
        {"model.embed_tokens.weight", -1, PS_BF16, PS_Q8B64, PS_Q8B64},
        {"lm_head.weight", -1, PS_F32, PS_Q8B64, PS_Q8B64},
        {"model.layers.3.mlp.gate.weight", 3, PS_BF16, 0, 0},
        {"model.layers.3.block_sparse_moe.gate.weight", 3, PS_BF16, 0, 0},
        {"model.layers.3.mlp.router.weight", 3, PS_BF16, 0, 0},
        {"model.layers.3.mlp.shared_expert_gate.weight", 3, PS_BF16, 0, 0},
        {"model.layers.3.self_attn.q_norm.weight", 3, PS_BF16, 0, 0},
        {"model.layers.3.input_layernorm.weight", 3, PS_BF16, 0, 0},
        {"model.layers.3.mlp.gate_proj.weight", 3, PS_BF16, PS_Q8B64, PS_NF4B64},
        {"model.layers.3.mlp.gate_proj.weight", 3, PS_F8_E4M3, 0, 0},
        {"model.layers.3.mlp.gate_proj.weight_scale_inv", 3, PS_F32, 0, 0},
        {"model.layers.3.mlp.experts.down_proj_blocks", 3, PS_U8, 0, 0},
        {"model.layers.3.mlp.gate_proj.bias", 3, PS_BF16, 0, 0},
        {"vision_tower.layers.3.mlp.fc1.weight", 3, PS_BF16, 0, 0},
        {"h.3.mlp.c_fc.weight", 3, PS_F32, 0, 0},
        {"something.weight", -1, PS_BF16, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct ps_tensor t = tensor(cases[i].name, cases[i].dtype, 128, 256, cases[i].layer);
        if (ps_split_quant_of(&t, PS_Q8B64) != cases[i].q8 ||
            ps_split_quant_of(&t, PS_NF4B64) != cases[i].nf4 ||
            ps_split_quant_of(&t, PS_DTYPE_NONE) != PS_DTYPE_NONE)
            fail_msg("%s", cases[i].name);
        t.n_dims = 3;
        assert_int_equal(ps_split_quant_of(&t, PS_Q8B64), PS_DTYPE_NONE);
    }
    /* as many value heads as query heads: a matrix like the others */
    struct ps_tensor v = tensor("model.layers.0.self_attn.v_proj.weight", PS_BF16, 256, 256, 0);
    assert_int_equal(ps_split_quant_of(&v, PS_Q8B64), PS_Q8B64);
    assert_int_equal(ps_split_quant_of(&v, PS_NF4B64), PS_Q8B64);
    /* rows so short that codes and scales would be more bytes */
    struct ps_tensor t = tensor("model.layers.0.mlp.up_proj.weight", PS_BF16, 8, 33, 0);
    assert_int_equal(ps_split_quant_of(&t, PS_Q8B64), PS_DTYPE_NONE);
}

/* ---- extents ---- */

enum { ROWS = 96, COLS = 256 };
struct extent_of_weights {
    struct ps_tensor t;
    struct ps_extent e;
    uint16_t raw[ROWS * COLS];
    uint8_t out[ROWS * COLS * 2];
    uint32_t blocks[4];
    struct ps_packed p;
};

static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static struct extent_of_weights *gaussian(void)
{
    struct extent_of_weights *w = ps_calloc(1, sizeof *w);
    uint64_t x = 88172645463325252ull;
    w->t = tensor("model.layers.0.mlp.up_proj.weight", PS_BF16, ROWS, COLS, 0);
    w->e = (struct ps_extent){.n_rows = ROWS, .raw_bytes = sizeof w->raw};
    for (size_t i = 0; i < ROWS * COLS; i++) {
        double sum = 0;
        for (int k = 0; k < 6; k++)
            sum += (double)(next_random(&x) >> 11) * 0x1p-53 - 0.5;
        w->raw[i] = ps_f32_to_bf16((float)(0.028 * sum));
    }
    return w;
}

static void pack_it(struct extent_of_weights *w, enum ps_dtype quant)
{
    struct ps_err err = {0};
    memset(w->out, 0xee, sizeof w->out);
    assert_ok(ps_split_pack(&w->p, PS_CODEC_WH, quant, &w->t, &w->e, w->raw, w->out, w->blocks, &err),
              &err);
}

static void near_enough(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        enum ps_dtype t = i ? PS_NF4B64 : PS_Q8B64;
        struct extent_of_weights *w = gaussian();
        pack_it(w, t);
        assert_int_equal(w->p.dtype, t);
        assert_int_equal(w->p.codec, PS_CODEC_RAW);
        assert_int_equal(w->p.stored_bytes, ROWS * ps_quant_row_bytes(t, COLS));
        assert_int_equal(w->p.raw_bytes, w->p.stored_bytes);
        assert_false(w->p.in_place);
        double relative = ps_quant_error_relative(&w->p.error);
        assert_true(relative > (i ? 0.05 : 0.003) && relative < ps_quant_error_limit(t));
        ps_free(w);
    }
}

static void is_lossless(struct extent_of_weights *w)
{
    uint16_t back[ROWS * COLS];
    struct ps_err err = {0};
    assert_int_equal(w->p.dtype, PS_BF16);
    assert_int_equal(w->p.codec, PS_CODEC_WH);
    assert_int_equal(w->p.raw_bytes, sizeof w->raw);
    assert_int_equal(w->p.n_blocks, 1);
    assert_true(w->p.error.error2 == 0 && w->p.error.max_error == 0);
    assert_ok(ps_codec_decode(PS_CODEC_WH, PS_BF16, w->out, w->blocks[0], back, sizeof back, &err),
              &err);
    assert_memory_equal(back, w->raw, sizeof back);
}

/* One large weight in every block, the others just so small that four bits make zeros of them. */
static void outliers_widen_to_eight_bits(void **state)
{
    (void)state;
    struct extent_of_weights *w = gaussian();
    for (size_t i = 0; i < ROWS * COLS; i++)
        w->raw[i] = ps_f32_to_bf16(i % 64 == 7 ? 1.0f : i % 3 ? 0.039f : -0.039f);
    pack_it(w, PS_NF4B64);
    assert_int_equal(w->p.dtype, PS_Q8B64);
    assert_int_equal(w->p.stored_bytes, ROWS * ps_quant_row_bytes(PS_Q8B64, COLS));
    assert_true(ps_quant_error_relative(&w->p.error) < 0.015);
    ps_free(w);
}

static void what_can_t_be_rounded_stays(void **state)
{
    static const uint16_t strange[] = {0x7f80, 0xffc1, 0x7f00}; /* infinite, not a number, 1.7e38 */
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(strange); i++)
        for (int k = 0; k < 2; k++) {
            struct extent_of_weights *w = gaussian();
            w->raw[ROWS * COLS - 3] = strange[i];
            pack_it(w, k ? PS_NF4B64 : PS_Q8B64);
            is_lossless(w);
            ps_free(w);
        }
    /* weights under the smallest float16 scale */
    struct extent_of_weights *w = gaussian();
    for (size_t i = 0; i < ROWS * COLS; i++)
        w->raw[i] = ps_f32_to_bf16(ps_bf16_to_f32(w->raw[i]) * 1e-7f);
    pack_it(w, PS_NF4B64);
    is_lossless(w);
    for (size_t i = 0; i < ROWS * COLS; i++) /* so small that their squares are none */
        w->raw[i] = ps_f32_to_bf16(ps_bf16_to_f32(w->raw[i]) * 1e-20f);
    pack_it(w, PS_Q8B64);
    is_lossless(w);
    ps_free(w);
}

static void zeros_cost_nothing(void **state)
{
    (void)state;
    struct extent_of_weights *w = gaussian();
    memset(w->raw, 0, sizeof w->raw);
    pack_it(w, PS_NF4B64);
    assert_int_equal(w->p.dtype, PS_NF4B64);
    assert_true(ps_quant_error_relative(&w->p.error) == 0);
    ps_free(w);
}

/* Random bytes: never more than what came. */
static void noise_is_kept(void **state)
{
    (void)state;
    struct extent_of_weights *w = gaussian();
    uint64_t x = 5;
    for (size_t i = 0; i < ROWS * COLS; i++)
        w->raw[i] = (uint16_t)(next_random(&x) >> 20);
    pack_it(w, PS_DTYPE_NONE);
    assert_int_equal(w->p.codec, PS_CODEC_RAW);
    assert_true(w->p.in_place);
    assert_int_equal(w->p.stored_bytes, sizeof w->raw);
    ps_free(w);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(who_is_rounded),
    cmocka_unit_test(near_enough),
    cmocka_unit_test(outliers_widen_to_eight_bits),
    cmocka_unit_test(what_can_t_be_rounded_stays),
    cmocka_unit_test(zeros_cost_nothing),
    cmocka_unit_test(noise_is_kept),
};

TEST_MAIN(tests)
