/* The AMX backend: bf16 weights by TDPBF16PS, all else by AVX-512. (Block-scaled weights too: their scales would
 * have to meet the sums every two or four steps of a tile, which then leaves the tiles.)
 *
 * The row-major weights are tile operand A as they lie in the panel: 16 rows x 32 elements, the stride being the
 * row's. Nothing is repacked. The activations, few, are operand B in its pair layout, packed once per matrix: a
 * tile holds 32 elements of eight activation rows, each row as two columns, its hi and its lo half
 * (kernel_scalar.h); the two sums are added at the end. So up to eight activation rows cost what one costs, and
 * the result keeps about 17 bits of each activation (measured relative rms error of a product of 4096: 2.9e-6;
 * with bf16 activations it is 1.8e-3).
 *
 * Order of additions: one tile accumulator per sum, over k in steps of 32, within a step as the instruction does;
 * then hi + lo. The same for every T: columns that are not used cost nothing while memory binds.
 *
 * Two traps. Linux lets no process use tiles before it has asked (ps_amx_permit); without that the first tile
 * instruction is an illegal one, although cpuid and XCR0 say that all is well. And tile shapes are per-thread
 * state: each thread that multiplies must have run ps_amx_thread_start. */
#include "kernels/matmul_drive.h"

#include "kernels/kernel_scalar.h"

#if defined(PS_AMX_EMULATE) && PS_AMX_EMULATE
#include "kernels/amx_emulate.h"
#define PLAIN ps_cpu_ref
#define OTHER ps_cpu_ref
#define TABLE ps_cpu_amx_emulated
#else
#include <errno.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define PLAIN ps_cpu_avx512
#define OTHER ps_cpu_avx512_dots /* products of other weights */
#define TABLE ps_cpu_amx

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA  18

/* Kernels before 5.16 don't know the request (EINVAL) and don't enable tiles either. The kernel also refuses if a
 * thread has an alternate signal stack too small for the 8 KiB that tiles add to a signal frame. */
int ps_amx_permit(void)
{
    static int asked = 1; /* same answer however often and by whomever it is asked */
    int now = __atomic_load_n(&asked, __ATOMIC_RELAXED);
    if (now == 1) {
        now = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) ? PS_EUNSUPPORTED : 0;
        __atomic_store_n(&asked, now, __ATOMIC_RELAXED);
    }
    return now;
}

void ps_amx_thread_start(void)
{
    /* Palette 1; all eight tiles 16 rows of 64 bytes: the byte counts are 16-bit at 16, the row counts bytes at 48. */
    static const struct {
        uint8_t palette, start_row, zero[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config __attribute__((aligned(64))) = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},
    };
    _Static_assert(sizeof config == 64, "the instruction reads 64 bytes");
    _tile_loadconfig(&config);
}
#endif

#define STEP       32 /* elements of K in a tile row */
#define TILE_BYTES 1024
#define TILE_ROWS  16
#define TILE_ACT   8 /* activation rows in a B tile */

/* Where the tile of row-tile `i` for the step at k is: in the panel if it is whole there, else in `pad`, copied and
 * filled up with zeros, because the panel may be the end of its buffer. */
static const uint8_t *a_tile(const struct ps_micro *m, size_t i, size_t k, uint8_t *pad,
                             size_t *stride)
{
    const uint8_t *w = m->w + i * TILE_ROWS * m->row_stride + 2 * k;
    size_t rows = ps_min_size(m->rows - i * TILE_ROWS, TILE_ROWS);
    size_t bytes = 2 * ps_min_size(m->K - k, STEP);
    *stride = m->row_stride;
    if (rows == TILE_ROWS && bytes == 2 * STEP)
        return w;
    memset(pad, 0, TILE_BYTES);
    for (size_t r = 0; r < rows; r++)
        memcpy(pad + r * 64, w + r * m->row_stride, bytes);
    /* gcc's _tile_loadd doesn't tell the compiler which memory it reads: without this the copy may come too late */
    __asm__ volatile("" ::: "memory");
    *stride = 64;
    return pad;
}

static void ahead(const struct ps_micro *m, size_t k)
{
    for (size_t i = 0; i < m->n_ahead; i++)
        __builtin_prefetch(m->ahead + i * m->row_stride + 2 * k, 0, 2);
}

/* sums: the tiles of rows 0-15 times columns 0-7 and 8-15, then of rows 16-31, 256 floats each. `begun`: they hold
 * the sums so far. Tile numbers must be literals: sums in 0-3, A in 4-5, B in 6-7. */
static void tiles(const struct ps_micro *m, bool two_rows, bool two_cols, float *sums)
{
    _Alignas(64) uint8_t pad[2][TILE_BYTES];
    size_t stride, b_step = two_cols ? 2 * TILE_BYTES : TILE_BYTES;
    const uint8_t *a, *b = m->a;
    if (m->begun) {
        _tile_loadd(0, sums, 64);
        _tile_loadd(1, sums + 256, 64);
        _tile_loadd(2, sums + 512, 64);
        _tile_loadd(3, sums + 768, 64);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (size_t k = 0; k < m->K; k += STEP, b += b_step) {
        ahead(m, k);
        _tile_loadd(6, b, 64);
        a = a_tile(m, 0, k, pad[0], &stride);
        _tile_loadd(4, a, stride);
        _tile_dpbf16ps(0, 4, 6);
        if (two_rows) {
            a = a_tile(m, 1, k, pad[1], &stride);
            _tile_loadd(5, a, stride);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (two_cols) {
            _tile_loadd(7, b + TILE_BYTES, 64);
            _tile_dpbf16ps(1, 4, 7);
            if (two_rows)
                _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    _tile_stored(2, sums + 512, 64);
    _tile_stored(3, sums + 768, 64);
}

static void run(const struct ps_micro *m)
{
    _Alignas(64) float here[4 * 256];
    float *sums = m->more || m->begun ? m->sums : here;
    tiles(m, m->rows > TILE_ROWS, m->cols > TILE_ACT, sums);
    for (size_t t = 0; t < m->cols && !m->more; t++) {
        float *c = m->c + t * m->ldc;
        for (size_t r = 0; r < m->rows; r++) {
            size_t tile = r / TILE_ROWS * 2 + t / TILE_ACT;
            const float *two = sums + tile * 256 + r % TILE_ROWS * 16 + t % TILE_ACT * 2;
            float sum = two[0] + two[1];
            c[r] = m->accumulate ? c[r] + sum : sum;
        }
    }
}

static const struct ps_micro_set set = {
    .run = run,
    .rows = 2 * TILE_ROWS,
    .cols = 2 * TILE_ACT,
    .k_step = STEP,
    .step_bytes = STEP * 4,
    .pad_cols = TILE_ACT,
    .sum_floats = 2,
};

/* B tiles of one column block: for each step of K its one or two tiles; row p of a tile holds elements 2p and 2p +
 * 1 of the hi half of activation row 0, of its lo half, of the hi half of row 1, ... */
static void pack_block(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to)
{
    for (size_t k0 = 0; k0 < act->K; k0 += STEP)
        for (size_t first = t0; first < t1; first += TILE_ACT, to += TILE_BYTES) {
            memset(to, 0, TILE_BYTES);
            for (size_t t = first; t < ps_min_size(first + TILE_ACT, t1); t++)
                for (size_t k = k0; k < ps_min_size(k0 + STEP, act->K); k++) {
                    uint16_t half[2];
                    uint8_t *at = to + (k - k0) / 2 * 64 + (t - first) * 8 + k % 2 * 2;
                    ps_split_bf16(act->a[t * act->lda + k], &half[0], &half[1]);
                    memcpy(at, &half[0], 2);
                    memcpy(at + 4, &half[1], 2);
                }
        }
}

static size_t act_bytes(enum ps_dtype weights, size_t T, size_t K)
{
    return weights == PS_BF16 ? ps_packed_bytes(&set, T, K) : OTHER.act_bytes(weights, T, K);
}

static void act_pack(struct ps_pool *pool, const struct ps_act *act)
{
    if (act->weights == PS_BF16)
        ps_drive_pack(pool, &set, act, pack_block);
    else
        OTHER.act_pack(pool, act);
}

static void matmul(struct ps_pool *pool, const struct ps_act *act, const struct ps_matrix *panels,
                   size_t n, float *C, size_t ldc, bool accumulate)
{
    if (act->weights != PS_BF16) {
        OTHER.matmul(pool, act, panels, n, C, ldc, accumulate);
        return;
    }
    struct ps_matmul_job job = ps_matmul_job(act, panels, n, C, ldc, accumulate);
    ps_drive_matmul(pool, &set, &job);
}

PS_OPS_OF(PLAIN)

extern const struct ps_backend TABLE;
const struct ps_backend TABLE = {
    .name = "amx",
    .act_bytes = act_bytes,
    .act_pack = act_pack,
    .multiplies = ps_all_weights,
    .matmul = matmul,
    .attention = attention,
    .rmsnorm = rmsnorm,
    .swiglu = swiglu,
};
