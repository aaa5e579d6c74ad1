/* Where one value of NF4 is nearer than the next: halfway between neighbours, exact in float32. A weight exactly there
 * takes the lower one. nf4_middles[15] is beyond all. */
#ifndef PS_KERNELS_CODEC_QUANT_MIDDLES_H
#define PS_KERNELS_CODEC_QUANT_MIDDLES_H
#include <math.h>

static const float nf4_middles[16] = {
    (-0x1p0f - 0x1.64p-1f) / 2,
    (-0x1.64p-1f - 0x1.0cp-1f) / 2,
    (-0x1.0cp-1f - 0x1.94p-2f) / 2,
    (-0x1.94p-2f - 0x1.24p-2f) / 2,
    (-0x1.24p-2f - 0x1.7ap-3f) / 2,
    (-0x1.7ap-3f - 0x1.74p-4f) / 2,
    -0x1.74p-5f,
    0x1.46p-5f,
    (0x1.46p-4f + 0x1.4ap-3f) / 2,
    (0x1.4ap-3f + 0x1.f8p-3f) / 2,
    (0x1.f8p-3f + 0x1.5ap-2f) / 2,
    (0x1.5ap-2f + 0x1.c4p-2f) / 2,
    (0x1.c4p-2f + 0x1.2p-1f) / 2,
    (0x1.2p-1f + 0x1.72p-1f) / 2,
    (0x1.72p-1f + 0x1p0f) / 2,
    INFINITY,
};
#endif
