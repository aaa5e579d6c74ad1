/* Runs CUDA kernels on the CPU, for tests: see simt.h. Every thread of a block is a fiber; the scheduler below resumes
 * those that can run, and opens a barrier when all whom it concerns have come. */
#include "kernels/cuda/simt.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
extern "C" {
void __sanitizer_start_switch_fiber(void **save, const void *bottom, size_t size);
void __sanitizer_finish_switch_fiber(void *save, const void **bottom, size_t *size);
void __asan_unpoison_memory_region(void const volatile *p, size_t bytes);
}
#endif

/* The switch from one stack to another. swapcontext would do, and does on other processors, but it asks the kernel for
 * the signal mask each time: nine tenths of the time of a test. Saved is what the System V ABI says a callee keeps. */
#if defined(__x86_64__)
extern "C" void simt_switch(void **from, void *to);
asm(".pushsection .text\n"
    ".type simt_switch, @function\n"
    "simt_switch:\n"
    "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
    "movq %rsp, (%rdi)\n"
    "movq %rsi, %rsp\n"
    "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n"
    "ret\n"
    ".size simt_switch, . - simt_switch\n"
    ".popsection\n");
#endif

simt_thread *simt_now;
uint8_t *simt_dynamic;

namespace
{

const size_t STACK_BYTES = 256 * 1024;
const unsigned MAX_THREADS = 1024;
const size_t MAX_SHARED = 227 * 1024; /* what the largest of the GPUs gives a block */

enum state { READY, AT_BLOCK, AT_WARP, DONE };

#if defined(__x86_64__)
struct resting {
    void *sp;
};

void switch_stack(resting *from, const resting *to)
{
    simt_switch(&from->sp, to->sp);
}

/* Six registers, the address that the switch returns to, and what keeps the stack as a call would leave it. */
void start_stack(resting *at, uint8_t *stack, size_t bytes, void (*entry)())
{
    void **top = (void **)(stack + bytes) - 2;
    memset(top - 6, 0, 6 * sizeof *top);
    top[0] = (void *)entry;
    top[1] = NULL;
    at->sp = top - 6;
}
#else
typedef ucontext_t resting;

void switch_stack(resting *from, const resting *to)
{
    swapcontext(from, to);
}

void start_stack(resting *at, uint8_t *stack, size_t bytes, void (*entry)())
{
    getcontext(at);
    at->uc_stack.ss_sp = stack;
    at->uc_stack.ss_size = bytes;
    at->uc_link = NULL;
    makecontext(at, entry, 0);
}
#endif

struct fiber {
    resting rests;
    simt_thread id;
    state at;
    uint32_t mask; /* AT_WARP: whom it waits for */
    void *fake_stack;
};

struct machine {
    fiber *fibers;
    unsigned n;
    uint8_t *stacks;
    resting scheduler;
    fiber *running;
    const std::function<void()> *body;
    uint64_t exchange[MAX_THREADS];
    uint32_t random;
    void *scheduler_fake_stack;
    const void *scheduler_bottom;
    size_t scheduler_size;
} m;

[[noreturn]] void give_up(const char *what)
{
    fprintf(stderr, "simt: %s: block (%u, %u, %u)\n", what, m.fibers[0].id.block.x,
            m.fibers[0].id.block.y, m.fibers[0].id.block.z);
    abort();
}

void enter_fiber(fiber *f)
{
    m.running = f;
    simt_now = &f->id;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&m.scheduler_fake_stack,
                                   m.stacks + (size_t)(f - m.fibers) * STACK_BYTES, STACK_BYTES);
#endif
    switch_stack(&m.scheduler, &f->rests);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(m.scheduler_fake_stack, NULL, NULL);
#endif
}

void leave_fiber(fiber *f, bool forever)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(forever ? NULL : &f->fake_stack, m.scheduler_bottom,
                                   m.scheduler_size);
#else
    (void)forever;
#endif
    switch_stack(&f->rests, &m.scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(f->fake_stack, NULL, NULL);
#endif
}

void fiber_main()
{
    fiber *f = m.running;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(NULL, &m.scheduler_bottom, &m.scheduler_size);
#endif
    (*m.body)();
    f->at = DONE;
    leave_fiber(f, true);
}

/* Opens the barriers that are complete. False: none was. */
bool open_barriers()
{
    bool opened = false;
    unsigned waiting = 0, done = 0;
    for (unsigned i = 0; i < m.n; i++) {
        waiting += m.fibers[i].at == AT_BLOCK;
        done += m.fibers[i].at == DONE;
    }
    if (waiting && waiting + done == m.n) {
        if (done)
            give_up("a barrier of the block that ended threads never reach");
        for (unsigned i = 0; i < m.n; i++)
            m.fibers[i].at = READY;
        return true;
    }
    for (unsigned i = 0; i < m.n; i++) {
        if (m.fibers[i].at != AT_WARP)
            continue;
        uint32_t mask = m.fibers[i].mask;
        unsigned first = i / PS_WARP * PS_WARP;
        bool all = true;
        for (unsigned l = 0; l < PS_WARP; l++)
            if (mask >> l & 1u)
                all = all && first + l < m.n && m.fibers[first + l].at == AT_WARP &&
                      m.fibers[first + l].mask == mask;
        if (!all)
            continue;
        for (unsigned l = 0; l < PS_WARP; l++)
            if (mask >> l & 1u)
                m.fibers[first + l].at = READY;
        opened = true;
    }
    return opened;
}

void run_block()
{
    for (;;) {
        unsigned left = 0, ran = 0;
        m.random = m.random * 1664525u + 1013904223u;
        unsigned start = (m.random >> 8) % m.n;
        bool down = m.random >> 31;
        for (unsigned k = 0; k < m.n; k++) {
            fiber *f = &m.fibers[(start + (down ? m.n - k : k)) % m.n];
            left += f->at != DONE;
            if (f->at == READY) {
                enter_fiber(f);
                ran++;
            }
        }
        if (!left)
            return;
        if (!open_barriers() && !ran)
            give_up("threads wait at barriers that are never complete");
    }
}

void start_block(dim3 block, dim3 at, dim3 grid)
{
    for (unsigned i = 0; i < m.n; i++) {
        fiber *f = &m.fibers[i];
        f->at = READY;
        f->id.thread = dim3(i % block.x, i / block.x % block.y, i / block.x / block.y);
        f->id.block = at;
        f->id.block_dim = block;
        f->id.grid_dim = grid;
        f->id.lane = i % PS_WARP;
        f->id.warp = i / PS_WARP;
#if defined(__SANITIZE_ADDRESS__)
        /* The fiber that had this stack before never returned from its outermost calls. */
        __asan_unpoison_memory_region(m.stacks + (size_t)(i + 1) * STACK_BYTES - 4096, 4096);
#endif
        start_stack(&f->rests, m.stacks + (size_t)i * STACK_BYTES, STACK_BYTES, fiber_main);
    }
}

void wait_warp(uint32_t mask)
{
    fiber *f = m.running;
    if (!(mask >> f->id.lane & 1u))
        give_up("a lane names a mask that it is not in");
    f->mask = mask;
    f->at = AT_WARP;
    leave_fiber(f, false);
}

} // namespace

void __syncthreads()
{
    m.running->at = AT_BLOCK;
    leave_fiber(m.running, false);
}

void __syncwarp(uint32_t mask)
{
    wait_warp(mask);
}

const uint64_t *simt_exchange(uint32_t mask, uint64_t word)
{
    static uint64_t copies[MAX_THREADS][PS_WARP];
    unsigned self = (unsigned)(m.running - m.fibers), first = self / PS_WARP * PS_WARP;
    m.exchange[self] = word;
    wait_warp(mask);
    for (unsigned l = 0; l < PS_WARP; l++)
        copies[self][l] = mask >> l & 1u ? m.exchange[first + l] : 0;
    wait_warp(mask); /* nobody gives its next word before all have read this one */
    return copies[self];
}

static float bf16_half(uint64_t words, unsigned half)
{
    uint32_t word = (uint32_t)(words >> 32 * (half / 2));
    return simt_bits_float(half % 2 ? word & 0xffff0000u : word << 16);
}

/* Two registers of a fragment travel in one exchange: that is what this costs. */
void simt_mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    uint64_t low[PS_WARP], high[PS_WARP], all_b[PS_WARP]; /* a0 and a1; a2 and a3 */
    memcpy(low, simt_exchange(PS_FULL, a[0] | (uint64_t)a[1] << 32), sizeof low);
    memcpy(high, simt_exchange(PS_FULL, a[2] | (uint64_t)a[3] << 32), sizeof high);
    memcpy(all_b, simt_exchange(PS_FULL, b[0] | (uint64_t)b[1] << 32), sizeof all_b);
    unsigned g = simt_now->lane / 4, t = simt_now->lane % 4;
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = g + (i / 2) * 8, col = 2 * t + i % 2;
        double sum = (double)d[i];
        for (unsigned k = 0; k < 16; k++) {
            unsigned pair = k % 8 / 2, half = k % 2;
            const uint64_t *from = k < 8 ? low : high;
            float x = bf16_half(from[row % 8 * 4 + pair], row / 8 * 2 + half);
            float y = bf16_half(all_b[col * 4 + pair], k / 8 * 2 + half);
            sum += (double)x * (double)y;
        }
        d[i] = (float)sum;
    }
}

int simt_run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &body)
{
    unsigned n = block.x * block.y * block.z;
    if (n == 0 || n > MAX_THREADS || shared_bytes > MAX_SHARED || grid.x == 0 || grid.y == 0 ||
        grid.z == 0 || grid.y > 65535 || grid.z > 65535)
        return -1;
    if (!m.fibers) { /* kept for the life of the test program */
        m.fibers = new fiber[MAX_THREADS];
        m.stacks = (uint8_t *)mmap(NULL, MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        simt_dynamic = (uint8_t *)mmap(NULL, MAX_SHARED, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (m.stacks == MAP_FAILED || simt_dynamic == MAP_FAILED)
            abort();
        m.random = 1;
    }
    m.n = n;
    m.body = &body;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                memset(simt_dynamic, 0xff, shared_bytes);
                start_block(block, dim3(x, y, z), grid);
                run_block();
            }
    simt_now = NULL;
    return 0;
}
