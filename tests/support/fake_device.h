/* A device for tests that is late on purpose. Memory is the host's, arithmetic is the reference backend's, but every
 * queued call runs on the thread of its stream, as slowly as it was told, so that a runtime which forgets a mark gets
 * NaNs or is caught:
 *
 *  - Each queued call says what it reads and writes. Where two calls of different streams touch the same bytes, one of
 *    them writing, and no mark or wait of the host orders them, that is a race, found from the order of calls alone and
 *    not by luck of timing: the device fails with a text that names both.
 *  - A copy fills its destination with NaNs when it begins and brings the bytes when it ends. Its pinned source is
 *    summed when it is queued and again when it runs: a slot filled anew too early is found.
 *  - Every address must lie in one allocation; fresh memory holds NaNs; memory is bounded by `vram`.
 *
 * Configuration, in PENSTOCK_FAKE_DEVICE or by fake_device_configure: words key=value separated by commas.
 *    vram=64M        device memory (default 1G)           host=32M     what opening claims to have taken (default 0)
 *    copy=100M       bytes a second of copies (0: at once)  op=50      microseconds that each operation takes at least
 *    fail=matmul:3   the third call of matmul fails at once late=copy_in:2  is queued, and fails when it runs
 *    codecs=0        which blocks it says it decodes: bits as in struct ps_device_info (default lz4, wh, xc34)
 *    lost=200        the device is lost after 200 executed commands
 *    alloc=5, shared=1, pin=2, open=1   the n-th such call says that there is no room (open: no device)
 * Names of operations are those of struct ps_device_api. When a device is closed its trace is written as JSON to the
 * file that PENSTOCK_FAKE_TRACE names.
 *
 * Threads: as device.h says. */
#ifndef PS_TESTS_SUPPORT_FAKE_DEVICE_H
#define PS_TESTS_SUPPORT_FAKE_DEVICE_H
#include "kernels/device.h"

const struct ps_device_api *fake_device(void);
/* For devices opened from now on, instead of the environment; NULL: the environment again. Copied. */
void fake_device_configure(const char *config);

struct fake_device_trace {
    uint64_t live_bytes, peak_bytes; /* device memory */
    uint64_t live_allocs, n_allocs;  /* device and shared memory */
    uint64_t shared_bytes;           /* now */
    uint64_t pinned_bytes, n_pins;   /* now; pins ever */
    uint64_t copies_in, copy_in_bytes, copies_out, copy_out_bytes;
    uint64_t pageable_copies; /* of them, from or to memory that is not pinned: each of these blocks or stages */
    uint64_t calls;        /* queued operations other than copies and marks */
    uint64_t most_waiting; /* most of them that were queued and not done at once */
    uint64_t races;
    double copy_busy_ms, compute_busy_ms, both_busy_ms;
    /* The same on an idle machine with a host that takes no time: computed from the order of calls, the marks and
     * the configured speeds, so that a test of overlap does not depend on what else runs here. run_ms is when the
     * last command would end; a host that waits for a mark queues what follows no earlier than that mark. */
    double model_copy_ms, model_compute_ms, model_run_ms;
};
void fake_device_trace(struct ps_device *d, struct fake_device_trace *out);

#endif
