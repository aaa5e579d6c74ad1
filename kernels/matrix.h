/* A panel of stored weights as the kernels see it: whole rows of one matrix, in whatever type they are stored. The
 * bytes are multiplied as they lie; nothing is expanded first. Layouts of the block-scaled types: proto/quant.h. */
#ifndef PS_KERNELS_MATRIX_H
#define PS_KERNELS_MATRIX_H
#include <stddef.h>
#include <stdint.h>
#include "proto/dtype.h"

struct ps_matrix {
    enum ps_dtype type;
    size_t K;         /* columns */
    const void *data; /* n_rows rows, row_stride bytes apart, at any byte address */
    size_t row_stride;
    size_t n_rows;
    size_t row0; /* place of the first of them in the whole matrix: the output column, and the row of block scales */
    /* Scales kept apart from the rows; NULL for types that have none or carry them in the row. PS_F8_E4M3:
     * float32; the weight is e4m3 * scales[(row0 + r) / scale_rows * scale_ld + k / scale_cols], the last block of
     * either direction may be short; one scale a row is scale_rows = 1, scale_cols = K, one in all is scale_rows =
     * SIZE_MAX. PS_MXFP4: bytes of e8m0, the weight is e2m1 * 2^(scales[(row0 + r) * scale_ld + k / 32] - 127);
     * scale_rows and scale_cols are not read. */
    const void *scales;
    size_t scale_ld; /* elements */
    size_t scale_rows, scale_cols;
    float factor; /* multiplies the finished sum (scale of a whole tensor); 0 means 1 */
};
#endif
