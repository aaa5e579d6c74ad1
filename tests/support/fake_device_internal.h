/* Between the two halves of the fake device: commands as they are queued (fake_device.c) and run
 * (fake_device_run.c). */
#ifndef PS_TESTS_SUPPORT_FAKE_DEVICE_INTERNAL_H
#define PS_TESTS_SUPPORT_FAKE_DEVICE_INTERNAL_H
#include "kernels/device.h"

enum fake_op {
    FAKE_COPY_IN,
    FAKE_COPY_OUT,
    FAKE_COPY_WITHIN,
    FAKE_FILL,
    FAKE_MARK,
    FAKE_WAIT_MARK,
    FAKE_DECODE,
    FAKE_ACT_PACK,
    FAKE_MATMUL,
    FAKE_KV_STORE,
    FAKE_ATTENTION,
    FAKE_RMSNORM,
    FAKE_SWIGLU,
    FAKE_ROPE,
    FAKE_ADD_BIAS,
    FAKE_TO_F32,
    FAKE_N_OPS
};
extern const char *const fake_op_names[FAKE_N_OPS];

#define FAKE_PANELS 8  /* of a matmul in one command; longer lists become more commands */
#define FAKE_BLOCKS 64 /* of a decode, the same */

struct fake_command {
    enum fake_op op;
    uint64_t seq;   /* of its stream, from 1 */
    bool fails;     /* late=...: when it runs */
    uint64_t bytes; /* that the copy rate counts */
    union {
        struct {
            void *to;
            const void *from;
            uint64_t bytes, sum;
            void *staged; /* pageable source: our copy of it, freed when done */
            bool summed;
            uint8_t byte; /* fill */
        } copy;
        struct {
            uint32_t mark;
            uint64_t of_other; /* wait: the other stream's seq that must be done */
        } mark;
        struct {
            struct ps_device_blocks b;
            uint32_t in_bytes[FAKE_BLOCKS];
        } decode;
        struct {
            struct ps_act act;
            struct ps_matrix panels[FAKE_PANELS];
            size_t n, ldc;
            float *C;
            bool accumulate;
        } mm;
        struct {
            struct ps_device_kv kv;
            const uint32_t *pos;
            size_t T;
            const float *k, *v;
        } kv;
        struct {
            struct ps_attn a;
            size_t scratch_bytes;
        } attn;
        struct {
            float *y;
            const float *x, *w; /* swiglu: g, u; add_bias: w */
            size_t ldy, ldx, ldw, T, K;
            float w_offset, eps;
        } rows;
        struct {
            float *x;
            size_t ld, T;
            uint32_t n_heads, head_dim, rot_dim;
            const float *cos, *sin;
            bool interleaved;
        } rope;
        struct {
            float *out;
            const void *in;
            enum ps_dtype t;
            size_t n;
        } f32;
    } u;
};

/* Computes what the command says. 0 or a PS_E code (a block that does not decode). On the thread of its stream. */
int fake_run(const struct fake_command *c);
bool fake_multiplies(enum ps_dtype weights);
size_t fake_act_bytes(enum ps_dtype weights, size_t T, size_t K);
size_t fake_attn_bytes(size_t T, uint32_t n_heads, uint32_t head_dim, uint32_t max_pos);
uint32_t fake_codecs(void);

#endif
