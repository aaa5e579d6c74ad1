/* Blocks of Q8B64 and NF4B64 in plain C: the truth that the tables for vectors are tested against. */
#include <math.h>
#include <string.h>

#include "kernels/codec/block.h"
#include "kernels/codec/quant_costs.h"
#include "kernels/codec/quant_middles.h"
#include "kernels/codec/quant_ops.h"
#include "kernels/kernel_scalar.h"

#define LANES 16
typedef struct {
    float f[LANES];
} lanes;
typedef struct {
    int i[LANES];
} ints;

#define EACH for (int l = 0; l < LANES; l++)

static inline lanes vset(float v)
{
    lanes r;
    EACH r.f[l] = v;
    return r;
}
static inline lanes vload(const float *p)
{
    lanes r;
    memcpy(r.f, p, sizeof r.f);
    return r;
}
static inline lanes vmul(lanes a, lanes b)
{
    EACH a.f[l] *= b.f[l];
    return a;
}
static inline lanes vadd(lanes a, lanes b)
{
    EACH a.f[l] += b.f[l];
    return a;
}
static inline lanes vsub(lanes a, lanes b)
{
    EACH a.f[l] -= b.f[l];
    return a;
}
static inline lanes vdiv(lanes a, lanes b)
{
    EACH a.f[l] /= b.f[l];
    return a;
}
static inline lanes vmaxabs(lanes max, lanes x)
{
    EACH max.f[l] = fmaxf(max.f[l], fabsf(x.f[l]));
    return max;
}
static inline lanes vround(lanes a)
{
    EACH a.f[l] = rintf(a.f[l]);
    return a;
}
static inline lanes vclamp(lanes a, float least, float most)
{
    EACH a.f[l] = fminf(fmaxf(a.f[l], least), most);
    return a;
}
static inline float vfold(lanes a)
{
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++)
            a.f[l] += a.f[l + half];
    return a.f[0];
}
static inline float vmost(lanes a)
{
    float most = a.f[0];
    EACH most = fmaxf(most, a.f[l]);
    return most;
}
static inline ints vsearch(lanes y)
{
    ints r;
    EACH
    {
        int q = y.f[l] > nf4_middles[7] ? 8 : 0;
        q |= y.f[l] > nf4_middles[q | 3] ? 4 : 0;
        q |= y.f[l] > nf4_middles[q | 1] ? 2 : 0;
        q |= y.f[l] > nf4_middles[q] ? 1 : 0;
        r.i[l] = q;
    }
    return r;
}
static inline lanes vvalues(ints q)
{
    lanes r;
    EACH r.f[l] = ps_nf4_values[q.i[l]];
    return r;
}
static inline ints vints(lanes a)
{
    ints r;
    EACH r.i[l] = (int)a.f[l];
    return r;
}
static inline void vbytes(uint8_t *out, ints q)
{
    EACH out[l] = (uint8_t)q.i[l];
}
static inline void vhalves(uint16_t *out, lanes a)
{
    EACH out[l] = ps_f32_to_f16(a.f[l]);
}
static inline void vcosts(uint16_t sums[PS_NF4_SCALES], const uint8_t at[PS_QUANT_BLOCK],
                          const struct ps_nf4_costs *costs)
{
    uint32_t wide[PS_NF4_SCALES] = {0}; /* 64 times 65535 fits */
    for (size_t i = 0; i < PS_QUANT_BLOCK; i++)
        for (int c = 0; c < PS_NF4_SCALES; c++)
            wide[c] += costs->of[at[i]][c];
    for (int c = 0; c < PS_NF4_SCALES; c++)
        sums[c] = (uint16_t)(wide[c] < UINT16_MAX ? wide[c] : UINT16_MAX);
}
static inline void vwiden(float *out, enum ps_dtype t, const uint8_t *weights)
{
    EACH out[l] = t == PS_F32   ? ps_load_f32(weights + 4 * l)
                  : t == PS_F16 ? ps_f16_to_f32(ps_load_u16(weights + 2 * l))
                                : ps_bf16_to_f32(ps_load_u16(weights + 2 * l));
}

#include "kernels/codec/quant_block_impl.h"

extern const struct ps_quant_ops ps_quant_ops_scalar, ps_quant_ops_avx2, ps_quant_ops_avx512;
QUANT_TABLE(ps_quant_ops_scalar, "scalar");

const struct ps_quant_ops *ps_quant_ops_by_name(const char *name)
{
#if defined(__x86_64__)
    if (strcmp(name, "avx512") == 0 && ps_block_ops_by_name("avx512"))
        return &ps_quant_ops_avx512;
    if (strcmp(name, "avx2") == 0 && ps_block_ops_by_name("avx2"))
        return &ps_quant_ops_avx2;
#endif
    return strcmp(name, "scalar") == 0 ? &ps_quant_ops_scalar : NULL;
}

/* As the block codecs chose, whose tables go one step further. */
const struct ps_quant_ops *ps_quant_ops(void)
{
    const char *name = ps_block_ops()->name;
    return ps_quant_ops_by_name(strncmp(name, "avx512", 6) == 0 ? "avx512" : name);
}
