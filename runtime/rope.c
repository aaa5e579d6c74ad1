/* Rotary frequencies and their scalings. Comes in: the rope part of the descriptor. Goes out: cos and sin tables
 * for the rows of a sweep.
 *
 * Angles are position x frequency in float32 and the sine of that float, because that is what the checkpoints were
 * trained with: a double here would be "better" and wrong at position 100,000. */
#include <math.h>

#include "runtime/arch.h"

static double yarn_mscale(double scale, double mscale)
{
    return scale <= 1.0 ? 1.0 : 0.1 * mscale * log(scale) + 1.0;
}

static double yarn_dim(double rotations, uint32_t dim, const struct ps_rope_config *c)
{
    return dim * log(c->original_max_position / (rotations * 2.0 * M_PI)) / (2.0 * log(c->theta));
}

static void yarn(float *f, float *scale, const struct ps_rope_config *c, uint32_t dim)
{
    double lo = yarn_dim(c->beta_fast, dim, c), hi = yarn_dim(c->beta_slow, dim, c);
    if (c->truncate) {
        lo = floor(lo);
        hi = ceil(hi);
    }
    /* the upper clamp is dim - 1, not dim / 2 - 1: a quirk of the reference that checkpoints rely on */
    lo = fmax(lo, 0.0);
    hi = fmin(hi, dim - 1.0);
    if (lo == hi)
        hi += 0.001;
    for (uint32_t i = 0; i < dim / 2; i++) {
        float ramp = ((float)i - (float)lo) / (float)(hi - lo);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        float extrapolated = f[i], interpolated = 1.0f / ((float)c->factor * (1.0f / f[i]));
        f[i] = interpolated * ramp + extrapolated * (1.0f - ramp);
    }
    double a = c->attention_factor;
    if (a <= 0)
        a = c->mscale > 0 && c->mscale_all_dim > 0
                ? yarn_mscale(c->factor, c->mscale) / yarn_mscale(c->factor, c->mscale_all_dim)
                : yarn_mscale(c->factor, 1.0);
    *scale = (float)a;
}

static void llama3(float *f, const struct ps_rope_config *c, uint32_t dim)
{
    float old = (float)c->original_max_position, factor = (float)c->factor;
    float low = (float)c->low_freq_factor, high = (float)c->high_freq_factor;
    for (uint32_t i = 0; i < dim / 2; i++) {
        float wavelen = (float)(2.0 * M_PI) / f[i];
        if (wavelen > old / low) {
            f[i] /= factor;
        } else if (!(wavelen < old / high)) {
            float smooth = (old / wavelen - low) / (high - low);
            f[i] = (1.0f - smooth) * f[i] / factor + smooth * f[i];
        }
    }
}

void ps_rope_frequencies(float *out, float *scale, const struct ps_rope_config *c, uint32_t rot_dim)
{
    *scale = 1.0f;
    for (uint32_t i = 0; i < rot_dim / 2; i++)
        out[i] = 1.0f / powf((float)c->theta, (float)(2 * i) / (float)rot_dim);
    switch (c->kind) {
    case PS_ROPE_DEFAULT: break;
    case PS_ROPE_LINEAR:
        for (uint32_t i = 0; i < rot_dim / 2; i++)
            out[i] /= (float)c->factor;
        break;
    case PS_ROPE_LLAMA3: llama3(out, c, rot_dim); break;
    case PS_ROPE_YARN: yarn(out, scale, c, rot_dim); break;
    }
}

void ps_rope_tables(float *cos_out, float *sin_out, const struct ps_arch *a, const uint32_t *pos,
                    size_t T)
{
    size_t half = a->rot_dim / 2;
    for (size_t t = 0; t < T; t++) {
        for (size_t i = 0; i < half; i++) {
            float angle = (float)pos[t] * a->inv_freq[i];
            cos_out[t * half + i] = cosf(angle) * a->rope_scale;
            sin_out[t * half + i] = sinf(angle) * a->rope_scale;
        }
    }
}
