/* Which of the kernels of a type multiplies a shape. The choice is free: no sum depends on it. */
#ifndef PS_KERNELS_CUDA_MATMUL_SHAPES_H
#define PS_KERNELS_CUDA_MATMUL_SHAPES_H
#include "kernels/cuda/matmul_few.h"
#include "kernels/cuda/matmul_many.h"

/* Of so many processors one at least must have a block of mm_many: its time is that of 128 rows, however few blocks
 * there are, while mm_few shares small matrices out among all. */
#define MM_MANY_SHARE 5u

template <int TYPE> static inline int mm_launch_type(struct mm_launch *l)
{
    uint32_t T = l->args.T;
    if (l->any)
        return mm_launch_few<TYPE, MM_FEW_MAX, true>(l);
    if (T > MM_FEW_MAX * MM_COLS) {
        mm_count_tiles(&l->args, MM_MANY_ROWS);
        if (MM_MANY_SHARE * mm_many_blocks(&l->args, 1) >= mm_processors())
            return mm_launch_many<TYPE>(l);
    }
    if (T <= MM_COLS)
        return mm_launch_few<TYPE, 1, false>(l);
    if (T <= 2 * MM_COLS)
        return mm_launch_few<TYPE, 2, false>(l);
    return mm_launch_few<TYPE, MM_FEW_MAX, false>(l);
}
#endif
