/* A CUDA device behind struct ps_device_api: context, memory, two streams and their marks. In: what the runtime
 * copies in and queues; out: the same memory, computed on by the kernels that device_ops.cu launches. The only
 * file that knows the CUDA runtime beyond launching kernels.
 *
 * Waiting sleeps in the driver instead of spinning: on a machine of few cores the thread that waits for the GPU
 * would take a core from the threads that feed it. It costs some ten microseconds a wait; PENSTOCK_CUDA_SPIN=1
 * spins instead, for comparison.
 *
 * Kernels are loaded when the device is opened (CUDA_MODULE_LOADING=EAGER, set before the driver starts unless it
 * is set already): loaded lazily, each would allocate at its first launch, somewhere among the first tokens. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/device_state.h"

extern "C" {
#include "base/alloc.h"
#include "base/host.h"
}

namespace
{

const int MIN_MAJOR = 7,
          MIN_MINOR = 5; /* Turing: the first with a tensor core step that takes 8-row fragments */
const uint32_t PROBE_WORD = 0x600du;

enum area_kind { DEVICE_MEMORY, SHARED_MEMORY, PINNED_MEMORY };

struct area {
    area *next;
    void *p;
    area_kind kind;
};

struct cuda_device : ps_device {
    int index;
    cudaStream_t streams[2]; /* by enum ps_stream */
    cudaEvent_t *marks;      /* [n_marks] */
    uint32_t n_marks;
    uint64_t host_bytes;
    pthread_mutex_t lock;
    area *areas; /* under lock: pin and unpin come from any thread */
};

cuda_device *self(struct ps_device *d)
{
    return static_cast<cuda_device *>(d);
}

/* Takes the error out of the runtime's own memory too, or the next launch would be blamed for it. */
int check(struct ps_device *d, cudaError_t e, const char *op)
{
    if (e == cudaSuccess)
        return d->failed;
    (void)cudaGetLastError();
    return ps_device_fail(d, PS_EFAIL, "CUDA: %s: %s", op, cudaGetErrorString(e));
}

/* ---- memory ---- */

/* Puts `p` on the list, or says that there was no memory for that. */
int remember(cuda_device *c, void *p, area_kind kind, struct ps_err *err)
{
    area *a = (area *)ps_malloc(sizeof *a);
    if (!a)
        return ps_err_set(err, PS_ENOMEM, "device", "no memory");
    pthread_mutex_lock(&c->lock);
    *a = {c->areas, p, kind};
    c->areas = a;
    pthread_mutex_unlock(&c->lock);
    return 0;
}

void forget(cuda_device *c, const void *p, area_kind kind)
{
    pthread_mutex_lock(&c->lock);
    area **at = &c->areas;
    while (*at && ((*at)->p != p || (*at)->kind != kind))
        at = &(*at)->next;
    area *a = *at;
    PS_ASSERT(a); /* not ours, or given back twice */
    *at = a->next;
    pthread_mutex_unlock(&c->lock);
    ps_free(a);
}

cudaError_t give_back(void *p, area_kind kind)
{
    cudaError_t e = kind == DEVICE_MEMORY   ? cudaFree(p)
                    : kind == SHARED_MEMORY ? cudaFreeHost(p)
                                            : cudaHostUnregister(p);
    if (e != cudaSuccess)
        (void)cudaGetLastError();
    return e;
}

int cuda_alloc(struct ps_device *d, void **out, uint64_t bytes, struct ps_err *err)
{
    ps_device_enter(d);
    void *p = NULL;
    PS_ASSERT(bytes > 0);
    cudaError_t e = cudaMalloc(&p, bytes);
    if (e == cudaErrorMemoryAllocation) {
        size_t free_bytes = 0, total = 0;
        (void)cudaGetLastError();
        (void)cudaMemGetInfo(&free_bytes, &total);
        return ps_err_set(err, PS_EBUDGET, "device",
                          "the GPU has no room for %llu bytes (%zu of %zu are free): lower --vram",
                          (unsigned long long)bytes, free_bytes, total);
    }
    if (check(d, e, "cudaMalloc"))
        return ps_device_status(d, err);
    PS_ASSERT((uintptr_t)p % 256 == 0);
    int rc = remember(self(d), p, DEVICE_MEMORY, err);
    if (rc)
        give_back(p, DEVICE_MEMORY);
    else
        *out = p;
    return rc;
}

void sync_quietly(cuda_device *c)
{
    for (int s = 0; s < 2; s++)
        check(c, cudaStreamSynchronize(c->streams[s]), "cudaStreamSynchronize");
}

void cuda_free(struct ps_device *d, void *p)
{
    if (!p)
        return;
    ps_device_enter(d);
    forget(self(d), p, DEVICE_MEMORY);
    sync_quietly(self(d));
    check(d, give_back(p, DEVICE_MEMORY), "cudaFree");
}

int cuda_pin(struct ps_device *d, void *host, uint64_t bytes, struct ps_err *err)
{
    PS_ASSERT(bytes > 0 && (uintptr_t)host % 4096 == 0 && bytes % 4096 == 0);
    ps_device_enter(d);
    cudaError_t e = cudaHostRegister(host, bytes, cudaHostRegisterPortable);
    if (e != cudaSuccess) {
        /* Not sticky: the copies work from pageable memory too, only slower and not beside the arithmetic. */
        (void)cudaGetLastError();
        return ps_err_set(err, PS_EBUDGET, "device",
                          "can't page-lock %llu bytes of host memory (%s): free some, or raise the "
                          "limit on locked "
                          "memory (ulimit -l, or the container's)",
                          (unsigned long long)bytes, cudaGetErrorString(e));
    }
    int rc = remember(self(d), host, PINNED_MEMORY, err);
    if (rc)
        give_back(host, PINNED_MEMORY);
    return rc;
}

void cuda_unpin(struct ps_device *d, void *host)
{
    ps_device_enter(d);
    forget(self(d), host, PINNED_MEMORY);
    /* No note of an error: another thread may be writing one. A device that is lost says so elsewhere. */
    (void)give_back(host, PINNED_MEMORY);
}

int cuda_alloc_shared(struct ps_device *d, void **out, uint64_t bytes, struct ps_err *err)
{
    PS_ASSERT(bytes > 0);
    ps_device_enter(d);
    void *p = NULL;
    cudaError_t e = cudaHostAlloc(&p, bytes, cudaHostAllocMapped | cudaHostAllocPortable);
    if (e != cudaSuccess) {
        (void)cudaGetLastError();
        return ps_err_set(err, PS_EBUDGET, "device",
                          "can't page-lock %llu bytes of host memory for the GPU (%s)",
                          (unsigned long long)bytes, cudaGetErrorString(e));
    }
    int rc = remember(self(d), p, SHARED_MEMORY, err);
    if (rc)
        give_back(p, SHARED_MEMORY);
    else
        *out = p; /* the same address on both sides: opening has checked that */
    return rc;
}

void cuda_free_shared(struct ps_device *d, void *p)
{
    if (!p)
        return;
    ps_device_enter(d);
    forget(self(d), p, SHARED_MEMORY);
    sync_quietly(self(d));
    check(d, give_back(p, SHARED_MEMORY), "cudaFreeHost");
}

/* ---- streams ---- */

/* The runtime knows from the addresses what lies where. From pageable memory it stages before it returns, to pageable
 * memory it returns when all is there: what device.h promises. */
int copy(struct ps_device *d, enum ps_stream s, void *to, const void *from, uint64_t bytes,
         const char *op)
{
    ps_device_enter(d);
    if (d->failed || bytes == 0)
        return d->failed;
    return check(d, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, self(d)->streams[s]), op);
}

int cuda_copy_in(struct ps_device *d, enum ps_stream s, void *to, const void *host, uint64_t bytes)
{
    return copy(d, s, to, host, bytes, "copy_in");
}

int cuda_copy_out(struct ps_device *d, enum ps_stream s, void *host, const void *from, uint64_t bytes)
{
    return copy(d, s, host, from, bytes, "copy_out");
}

int cuda_copy_within(struct ps_device *d, enum ps_stream s, void *to, const void *from, uint64_t bytes)
{
    return copy(d, s, to, from, bytes, "copy_within");
}

int cuda_fill(struct ps_device *d, enum ps_stream s, void *to, uint8_t byte, uint64_t bytes)
{
    ps_device_enter(d);
    if (d->failed || bytes == 0)
        return d->failed;
    return check(d, cudaMemsetAsync(to, byte, bytes, self(d)->streams[s]), "fill");
}

cudaEvent_t event_of(cuda_device *c, uint32_t mark)
{
    PS_ASSERT(mark < c->n_marks);
    return c->marks[mark];
}

int cuda_mark(struct ps_device *d, enum ps_stream s, uint32_t mark)
{
    ps_device_enter(d);
    if (d->failed)
        return d->failed;
    return check(d, cudaEventRecord(event_of(self(d), mark), self(d)->streams[s]), "mark");
}

int cuda_wait_mark(struct ps_device *d, enum ps_stream s, uint32_t mark)
{
    ps_device_enter(d);
    if (d->failed)
        return d->failed;
    return check(d, cudaStreamWaitEvent(self(d)->streams[s], event_of(self(d), mark), 0),
                 "wait_mark");
}

int cuda_await(struct ps_device *d, uint32_t mark, struct ps_err *err)
{
    ps_device_enter(d);
    if (!d->failed)
        check(d, cudaEventSynchronize(event_of(self(d), mark)), "waiting for the GPU");
    return ps_device_status(d, err);
}

int cuda_reached(struct ps_device *d, uint32_t mark, struct ps_err *err)
{
    ps_device_enter(d);
    if (d->failed)
        return ps_device_status(d, err);
    cudaError_t e = cudaEventQuery(event_of(self(d), mark));
    if (e == cudaErrorNotReady) {
        (void)cudaGetLastError();
        return 0;
    }
    check(d, e, "looking at the GPU");
    int rc = ps_device_status(d, err);
    return rc ? rc : 1;
}

int cuda_elapsed_ms(struct ps_device *d, uint32_t from, uint32_t to, float *out)
{
    ps_device_enter(d);
    cuda_device *c = self(d);
    return check(d, cudaEventElapsedTime(out, event_of(c, from), event_of(c, to)), "elapsed_ms");
}

int cuda_sync(struct ps_device *d, struct ps_err *err)
{
    ps_device_enter(d);
    if (!d->failed)
        sync_quietly(self(d));
    return ps_device_status(d, err);
}

/* ---- opening ---- */

/* Says that kernels of this module run on this GPU, and that they and the host see one another's words. */
PS_KERNEL probe(uint32_t *word)
{
    *word = PROBE_WORD;
}

/* No device to be had: which of the reasons. */
int no_device(cudaError_t e, struct ps_err *err)
{
    int driver = 0;
    (void)cudaGetLastError();
    (void)cudaDriverGetVersion(&driver);
    if (e == cudaErrorInsufficientDriver && driver == 0)
        return ps_err_set(err, PS_EUNSUPPORTED, "device",
                          "no NVIDIA driver here (libcuda.so.1 is missing): install one that knows "
                          "CUDA %d.0 or later, or "
                          "run on the CPU",
                          CUDART_VERSION / 1000);
    if (e == cudaErrorInsufficientDriver)
        return ps_err_set(err, PS_EUNSUPPORTED, "device",
                          "the NVIDIA driver is too old: it knows CUDA %d.%d, this build needs "
                          "%d.0 or later: update the "
                          "driver, or run on the CPU",
                          driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000);
    if (e == cudaErrorNoDevice || e == cudaSuccess)
        return ps_err_set(err, PS_EUNSUPPORTED, "device",
                          "the NVIDIA driver (CUDA %d.%d) shows no GPU: look at nvidia-smi and "
                          "CUDA_VISIBLE_DEVICES, or "
                          "run on the CPU",
                          driver / 1000, driver % 1000 / 10);
    return ps_err_set(err, PS_EUNSUPPORTED, "device",
                      "CUDA does not start (driver for CUDA %d.%d): %s", driver / 1000,
                      driver % 1000 / 10, cudaGetErrorString(e));
}

bool spins()
{
    const char *s = getenv("PENSTOCK_CUDA_SPIN");
    return s && *s == '1';
}

/* Chooses the device and starts its context. Its compute capability into *arch. */
int start_context(uint32_t index, unsigned *arch, struct ps_err *err)
{
    int n = 0, major = 0, minor = 0, unified = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess || n == 0)
        return no_device(e, err);
    if (index >= (uint32_t)n)
        return ps_err_set(err, PS_EUNSUPPORTED, "device",
                          "there is no GPU number %u: the driver shows %d, numbered from 0", index,
                          n);
    (void)cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, (int)index);
    (void)cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, (int)index);
    (void)cudaDeviceGetAttribute(&unified, cudaDevAttrUnifiedAddressing, (int)index);
    if (major * 10 + minor < MIN_MAJOR * 10 + MIN_MINOR || !unified)
        return ps_err_set(
            err, PS_EUNSUPPORTED,
            "device", "GPU %u has compute capability %d.%d; %d.%d or later is needed (Turing, 2018): run on the CPU",
            index, major, minor, MIN_MAJOR, MIN_MINOR);
    /* May be refused where the host program has started the context itself: then its choice stands. */
    (void)cudaInitDevice((int)index,
                         spins() ? cudaDeviceScheduleSpin : cudaDeviceScheduleBlockingSync,
                         cudaInitDeviceFlagsAreValid);
    (void)cudaGetLastError();
    e = cudaSetDevice((int)index);
    if (e == cudaSuccess)
        e = cudaFree(0); /* a call that needs the context: what keeps it from starting shows here */
    if (e != cudaSuccess) {
        (void)cudaGetLastError();
        return ps_err_set(err, PS_EUNSUPPORTED, "device", "GPU %u can't be used: %s", index,
                          cudaGetErrorString(e));
    }
    *arch = (unsigned)(major * 10 + minor);
    return 0;
}

int make_streams(cuda_device *c, struct ps_err *err)
{
    unsigned flags = spins() ? cudaEventDefault : cudaEventBlockingSync;
    cudaError_t e = cudaSuccess;
    for (int s = 0; s < 2 && e == cudaSuccess; s++)
        e = cudaStreamCreateWithFlags(&c->streams[s], cudaStreamNonBlocking);
    for (uint32_t i = 0; i < c->n_marks && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&c->marks[i], flags);
    if (e == cudaSuccess)
        e = cudaHostAlloc((void **)&c->fault, sizeof *c->fault,
                          cudaHostAllocMapped | cudaHostAllocPortable);
    if (e != cudaSuccess) {
        (void)cudaGetLastError();
        return ps_err_set(err, PS_EFAIL, "device", "CUDA: streams and marks: %s",
                          cudaGetErrorString(e));
    }
    c->compute = c->streams[PS_STREAM_COMPUTE];
    *c->fault = 0;
    return 0;
}

int run_probe(cuda_device *c, struct ps_err *err)
{
    cudaError_t e = (cudaError_t)PS_LAUNCH(probe, 1, 1, 0, c->compute, c->fault);
    if (e == cudaSuccess)
        e = cudaStreamSynchronize(c->compute);
    if (e == cudaErrorNoKernelImageForDevice || e == cudaErrorUnsupportedPtxVersion ||
        e == cudaErrorInvalidDeviceFunction) {
        (void)cudaGetLastError();
        return ps_err_set(err, PS_EUNSUPPORTED, "device",
                          "this build holds no code for compute capability %u.%u (%s): build with "
                          "-DPENSTOCK_CUDA_ARCHITECTURES=all, or update the driver",
                          c->arch / 10, c->arch % 10, cudaGetErrorString(e));
    }
    if (e != cudaSuccess || *(volatile uint32_t *)c->fault != PROBE_WORD) {
        (void)cudaGetLastError();
        return ps_err_set(err, PS_EFAIL, "device", "CUDA: the first kernel: %s",
                          e != cudaSuccess ? cudaGetErrorString(e) : "its result did not arrive");
    }
    *c->fault = 0;
    return 0;
}

void cuda_close(struct ps_device *d)
{
    if (!d)
        return;
    cuda_device *c = self(d);
    ps_device_enter(d);
    for (int s = 0; s < 2; s++)
        if (c->streams[s])
            (void)cudaStreamSynchronize(c->streams[s]);
    while (c->areas) {
        area *a = c->areas;
        c->areas = a->next;
        (void)give_back(a->p, a->kind);
        ps_free(a);
    }
    for (uint32_t i = 0; i < c->n_marks; i++)
        if (c->marks[i])
            (void)cudaEventDestroy(c->marks[i]);
    for (int s = 0; s < 2; s++)
        if (c->streams[s])
            (void)cudaStreamDestroy(c->streams[s]);
    if (c->fault)
        (void)cudaFreeHost(c->fault);
    (void)cudaGetLastError();
    pthread_mutex_destroy(&c->lock);
    ps_free(c->marks);
    ps_free(c);
}

int cuda_open(struct ps_device **out, const struct ps_device_options *o, struct ps_err *err)
{
    unsigned arch = 0;
    uint64_t before = ps_host_rss_bytes();
    setenv("CUDA_MODULE_LOADING", "EAGER", 0);
    int rc = start_context(o->index, &arch, err);
    if (rc)
        return rc;
    cuda_device *c = (cuda_device *)ps_calloc(1, sizeof *c);
    cudaEvent_t *marks = (cudaEvent_t *)ps_calloc(o->n_marks + 1, sizeof *marks);
    if (!c || !marks) {
        ps_free(c);
        ps_free(marks);
        return ps_err_set(err, PS_ENOMEM, "device", "no memory");
    }
    pthread_mutex_init(&c->lock, NULL);
    c->index = (int)o->index;
    c->arch = arch;
    c->marks = marks;
    c->n_marks = o->n_marks;
    rc = make_streams(c, err);
    if (rc == 0)
        rc = run_probe(c, err);
    if (rc) {
        cuda_close(c);
        return rc;
    }
    uint64_t after = ps_host_rss_bytes();
    c->host_bytes = after > before ? after - before : 0;
    *out = c;
    return 0;
}

void cuda_info(struct ps_device *d, struct ps_device_info *out)
{
    cuda_device *c = self(d);
    size_t free_bytes = 0, total = 0;
    struct cudaDeviceProp prop;
    ps_device_enter(d);
    *out = {};
    if (cudaGetDeviceProperties(&prop, c->index) == cudaSuccess)
        snprintf(out->name, sizeof out->name, "%.95s", prop.name);
    snprintf(out->arch, sizeof out->arch, "sm_%u", c->arch);
    if (cudaMemGetInfo(&free_bytes, &total) == cudaSuccess) {
        out->memory_bytes = total;
        out->free_bytes = free_bytes; /* what the context itself took is gone from it already */
    }
    (void)cudaGetLastError();
    out->host_bytes = c->host_bytes;
    out->codecs = ps_device_codecs();
}

struct ps_device_api make_table()
{
    struct ps_device_api api = {};
    api.abi = PS_DEVICE_ABI;
    api.kind = "cuda";
    api.open = cuda_open;
    api.close = cuda_close;
    api.info = cuda_info;
    api.alloc = cuda_alloc;
    api.free = cuda_free;
    api.pin = cuda_pin;
    api.unpin = cuda_unpin;
    api.alloc_shared = cuda_alloc_shared;
    api.free_shared = cuda_free_shared;
    api.copy_in = cuda_copy_in;
    api.copy_out = cuda_copy_out;
    api.copy_within = cuda_copy_within;
    api.fill = cuda_fill;
    api.mark = cuda_mark;
    api.wait_mark = cuda_wait_mark;
    api.await = cuda_await;
    api.reached = cuda_reached;
    api.elapsed_ms = cuda_elapsed_ms;
    api.sync = cuda_sync;
    ps_device_fill_ops(&api);
    return api;
}

} // namespace

void ps_device_enter(struct ps_device *d)
{
    /* The current device belongs to the thread, and a host program may use others: cheap where it is the same. */
    (void)cudaSetDevice(self(d)->index);
}

const char *ps_device_launch_text(int launch_error)
{
    return launch_error > 0 ? cudaGetErrorString((cudaError_t)launch_error)
                            : "a launch of an impossible shape";
}

extern "C" __attribute__((visibility("default"))) const struct ps_device_api *ps_device_module(void)
{
    static const struct ps_device_api api = make_table();
    return &api;
}
