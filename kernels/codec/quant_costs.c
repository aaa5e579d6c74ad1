/* The table of costs: see quant_costs.h. Sums, products and comparisons of doubles: nothing that machines differ in. */
#include "kernels/codec/quant_costs.h"

#include <math.h>
#include <pthread.h>
#include <stddef.h>

#include "kernels/codec/quant_middles.h"
#include "proto/quant.h"

#define UNIT                                                                                       \
    131072.0 /* the dearest cost, (1 - 0.7)^2, is 11797 of them: 64 weights seldom come to 65535 */

static struct ps_nf4_costs table;
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static double nearest(double y)
{
    size_t q = 0;
    while (y > (double)nf4_middles[q])
        q++;
    return (double)ps_nf4_values[q];
}

static void make_table(void)
{
    for (int c = 0; c < PS_NF4_SCALES; c++) {
        double size = (double)(50 - c % 16) / 50, scale = c < 16 ? size : -size;
        table.scales[c] = (float)scale;
        for (int step = -127; step <= 127; step++) {
            double w = (double)step / 127, d = w - nearest(w / scale) * scale;
            table.of[(uint8_t)step][c] = (uint16_t)rint(d * d * UNIT);
        }
    }
}

const struct ps_nf4_costs *ps_nf4_costs(void)
{
    pthread_once(&table_once, make_table);
    return &table;
}
