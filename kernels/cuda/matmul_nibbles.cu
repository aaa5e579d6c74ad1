/* Products with NF4B64 and MXFP4 weights by tensor cores: the kernels of matmul_few.h and matmul_many.h for these
 * types. */
#include "kernels/cuda/matmul_shapes.h"

int mm_launch_nibbles(struct mm_launch *l, enum ps_dtype t)
{
    return t == PS_NF4B64 ? mm_launch_type<PS_NF4B64>(l) : mm_launch_type<PS_MXFP4>(l);
}
