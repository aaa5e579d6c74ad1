/* Which of the kernels of a type multiplies a shape. The choice is free: no sum depends on it. */
#ifndef PS_KERNELS_CUDA_MATMUL_SHAPES_H
#define PS_KERNELS_CUDA_MATMUL_SHAPES_H
#include "kernels/cuda/matmul_few.h"
#include "kernels/cuda/matmul_many.h"

/* mm_many takes the time of 128 rows however few blocks there are, while mm_few shares small matrices out among all
 * processors; but mm_few brings all activations for each 16 rows, which from 16 of them on is more than the weights. So
 * mm_many has to have a block for each processor up to T = 16, and for one in MM_MANY_SHARE beyond. */
#define MM_MANY_SHARE 5u

static inline bool mm_wants_many(struct mm_launch *l)
{
    uint32_t T = l->args.T;
    if (l->any || T <= 2 * MM_COLS)
        return false;
    mm_count_tiles(&l->args, MM_MANY_ROWS);
    uint64_t blocks = mm_many_blocks(&l->args, 1);
    return (T <= MM_FEW_MAX * MM_COLS ? 1 : MM_MANY_SHARE) * blocks >= mm_processors();
}

template <int TYPE> static inline int mm_launch_type(struct mm_launch *l)
{
    uint32_t T = l->args.T;
    if (l->any)
        return mm_launch_few<TYPE, MM_FEW_MAX, true>(l);
    if (mm_wants_many(l))
        return mm_launch_many<TYPE>(l);
    if (T <= MM_COLS)
        return mm_launch_few<TYPE, 1, false>(l);
    if (T <= 2 * MM_COLS)
        return mm_launch_few<TYPE, 2, false>(l);
    return mm_launch_few<TYPE, MM_FEW_MAX, false>(l);
}
#endif
