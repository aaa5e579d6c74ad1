/* Products with bf16 and f16 weights by tensor cores: the kernels of matmul_few.h and matmul_many.h for these types. */
#include "kernels/cuda/matmul_shapes.h"

int mm_launch_wide(struct mm_launch *l, enum ps_dtype t)
{
    return t == PS_BF16 ? mm_launch_type<PS_BF16>(l) : mm_launch_type<PS_F16>(l);
}
