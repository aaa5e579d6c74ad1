/* Products with Q8B64 and F8_E4M3 weights by tensor cores: the kernels of matmul_few.h and matmul_many.h for these
 * types. */
#include "kernels/cuda/matmul_shapes.h"

int mm_launch_bytes(struct mm_launch *l, enum ps_dtype t)
{
    return t == PS_Q8B64 ? mm_launch_type<PS_Q8B64>(l) : mm_launch_type<PS_F8_E4M3>(l);
}
