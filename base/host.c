/* What this machine has: /proc, /sys, cpuid and statfs come in; memory, CPUs and disk room go out as plain numbers for
 * the residency plan. Memory and CPU limits of every enclosing cgroup (version 1 and 2) count, because a container that
 * believes /proc/meminfo is killed. */
#include "base/host.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "base/alloc.h"
#include "base/host_probe.h"

enum { SMALL_FILE_BYTES = 16384 };

/* A small file of /proc or /sys into buf; false where it cannot be read. No allocation: called while memory is
 * short. */
static bool read_small(char *buf, size_t cap, const char *root, const char *path)
{
    char full[PATH_MAX];
    int n = snprintf(full, sizeof(full), "%s%s", root, path);
    if (n < 0 || (size_t)n >= sizeof(full))
        return false;
    int fd = open(full, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    size_t len = 0;
    while (len < cap - 1) {
        ssize_t got = read(fd, buf + len, cap - 1 - len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        len += (size_t)got;
    }
    close(fd);
    buf[len] = '\0';
    return len > 0;
}

/* The number behind `name` at the start of a line: "MemAvailable:  123 kB", "inactive_file 123". */
static bool find_field(const char *text, const char *name, uint64_t *value)
{
    size_t n = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n')
            line++;
        if (strncmp(line, name, n) == 0 && (line[n] == ' ' || line[n] == '\t' || line[n] == ':')) {
            const char *p = line + n + strspn(line + n, ": \t");
            if (!isdigit((unsigned char)*p))
                return false;
            *value = strtoull(p, NULL, 10);
            return true;
        }
    }
    return false;
}

static bool read_number(uint64_t *value, const char *root, const char *dir, const char *file)
{
    char path[PATH_MAX], text[64];
    int n = snprintf(path, sizeof(path), "%s/%s", dir, file);
    if (n < 0 || (size_t)n >= sizeof(path) || !read_small(text, sizeof(text), root, path))
        return false;
    if (!isdigit((unsigned char)text[0])) /* "max" */
        return false;
    *value = strtoull(text, NULL, 10);
    return true;
}

/* ---- cgroups ---- */

/* Names of one cgroup version's files. */
struct cgroup_names {
    const char *limit, *usage,
        *cache[3]; /* cache: fields of memory.stat that the kernel can take back */
};
static const struct cgroup_names names_v2 = {"memory.max",
                                             "memory.current",
                                             {"inactive_file", "active_file", "slab_reclaimable"}};
static const struct cgroup_names names_v1 = {"memory.limit_in_bytes",
                                             "memory.usage_in_bytes",
                                             {"total_inactive_file", "total_active_file"}};

/* The directory of this process for a controller ("" = version 2) under /sys/fs/cgroup, from /proc/self/cgroup lines
 * "4:memory:/docker/abc" and "0::/user.slice". */
static bool cgroup_dir(char *dir, size_t cap, const char *root, const char *controller)
{
    char text[SMALL_FILE_BYTES];
    if (!read_small(text, sizeof(text), root, "/proc/self/cgroup"))
        return false;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *list = strchr(line, ':');
        char *path = list ? strchr(list + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = '\0';
        list++;
        bool match = *controller == '\0' && *list == '\0';
        for (char *word = *controller ? list : NULL; word && !match;) {
            char *comma = strchr(word, ',');
            size_t n = comma ? (size_t)(comma - word) : strlen(word);
            match = strlen(controller) == n && strncmp(word, controller, n) == 0;
            word = comma ? comma + 1 : NULL;
        }
        if (!match)
            continue;
        int n = snprintf(dir, cap, "/sys/fs/cgroup%s%s%s", *controller ? "/" : "", controller,
                         strcmp(path, "/") == 0 ? "" : path);
        return n > 0 && (size_t)n < cap;
    }
    return false;
}

/* Cuts the last component; false when the mount point itself has been visited. `base` is the mount point's length. */
static bool to_parent(char *dir, size_t base)
{
    if (strlen(dir) <= base)
        return false;
    *strrchr(dir, '/') = '\0';
    return strlen(dir) >= base;
}

static uint64_t room_in_cgroup(const char *root, const char *dir, const struct cgroup_names *names)
{
    uint64_t limit, usage;
    if (!read_number(&limit, root, dir, names->limit) ||
        !read_number(&usage, root, dir, names->usage))
        return UINT64_MAX;
    char path[PATH_MAX], text[SMALL_FILE_BYTES];
    int n = snprintf(path, sizeof(path), "%s/memory.stat", dir);
    if (n > 0 && (size_t)n < sizeof(path) && read_small(text, sizeof(text), root, path)) {
        for (size_t i = 0; i < 3 && names->cache[i]; i++) {
            uint64_t cache = 0;
            if (find_field(text, names->cache[i], &cache))
                usage -= cache < usage ? cache : usage;
        }
    }
    return limit > usage ? limit - usage : 0;
}

/* The tightest room of this process's cgroup and all its parents. Inside a container /proc/self/cgroup often names
 * a path that is not mounted: the walk up then still finds the mount point, which is the container's own group. */
static uint64_t cgroup_room(const char *root, const char *controller, const struct cgroup_names *names)
{
    char dir[PATH_MAX];
    if (!cgroup_dir(dir, sizeof(dir), root, controller))
        return UINT64_MAX;
    size_t base = strlen("/sys/fs/cgroup") + (*controller ? strlen(controller) + 1 : 0);
    uint64_t room = UINT64_MAX;
    do {
        uint64_t here = room_in_cgroup(root, dir, names);
        room = here < room ? here : room;
    } while (to_parent(dir, base));
    return room;
}

uint64_t ps_host_probe_free_memory(const char *root)
{
    char text[SMALL_FILE_BYTES];
    uint64_t kib = 0;
    uint64_t free_bytes = UINT64_MAX;
    if (read_small(text, sizeof(text), root, "/proc/meminfo") &&
        find_field(text, "MemAvailable", &kib))
        free_bytes = kib * 1024;
    uint64_t v2 = cgroup_room(root, "", &names_v2);
    uint64_t v1 = cgroup_room(root, "memory", &names_v1);
    free_bytes = v2 < free_bytes ? v2 : free_bytes;
    free_bytes = v1 < free_bytes ? v1 : free_bytes;
    return free_bytes == UINT64_MAX ? 0 : free_bytes;
}

static unsigned quota_cpus(uint64_t quota, uint64_t period)
{
    if (period == 0 || quota == 0)
        return 0;
    uint64_t cpus = quota / period + (quota % period != 0);
    return cpus > UINT_MAX ? UINT_MAX : (unsigned)cpus;
}

static unsigned tighter(unsigned a, unsigned b)
{
    if (a == 0 || b == 0)
        return a ? a : b;
    return a < b ? a : b;
}

/* cpu.max of version 2: "150000 100000" or "max 100000". */
static unsigned quota_v2(const char *root, const char *dir)
{
    char path[PATH_MAX], text[64], *end;
    int n = snprintf(path, sizeof(path), "%s/cpu.max", dir);
    if (n < 0 || (size_t)n >= sizeof(path) || !read_small(text, sizeof(text), root, path))
        return 0;
    if (!isdigit((unsigned char)text[0]))
        return 0;
    uint64_t quota = strtoull(text, &end, 10);
    return quota_cpus(quota, strtoull(end, NULL, 10));
}

static unsigned quota_v1(const char *root, const char *dir)
{
    uint64_t quota, period;
    if (!read_number(&quota, root, dir, "cpu.cfs_quota_us") ||
        !read_number(&period, root, dir, "cpu.cfs_period_us"))
        return 0; /* "-1": no quota */
    return quota_cpus(quota, period);
}

unsigned ps_host_probe_quota_cpus(const char *root)
{
    char dir[PATH_MAX];
    unsigned cpus = 0;
    if (cgroup_dir(dir, sizeof(dir), root, "")) {
        do {
            cpus = tighter(cpus, quota_v2(root, dir));
        } while (to_parent(dir, strlen("/sys/fs/cgroup")));
    }
    if (cgroup_dir(dir, sizeof(dir), root, "cpu")) {
        do {
            cpus = tighter(cpus, quota_v1(root, dir));
        } while (to_parent(dir, strlen("/sys/fs/cgroup/cpu")));
    }
    return cpus;
}

uint64_t ps_host_free_memory_bytes(void)
{
    return ps_host_probe_free_memory("");
}

static uint64_t status_field(const char *name)
{
    char text[SMALL_FILE_BYTES];
    uint64_t kib = 0;
    if (!read_small(text, sizeof(text), "", "/proc/self/status") || !find_field(text, name, &kib))
        return 0;
    return kib * 1024;
}

uint64_t ps_host_rss_bytes(void)
{
    return status_field("VmRSS");
}

uint64_t ps_host_rss_peak_bytes(void)
{
    return status_field("VmHWM");
}

static unsigned affinity_cpus(void)
{
    /* The kernel refuses masks smaller than its own; a fixed cpu_set_t ends at 1024 CPUs. */
    for (int cpus = 1024; cpus <= 1 << 16; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC(cpus);
        if (!set)
            break;
        size_t bytes = CPU_ALLOC_SIZE(cpus);
        int rc = sched_getaffinity(0, bytes, set);
        int saved_errno = errno;
        int count = rc == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (rc == 0)
            return count > 0 ? (unsigned)count : 1;
        if (saved_errno != EINVAL)
            break;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (unsigned)online : 1;
}

unsigned ps_host_cpus(void)
{
    return tighter(affinity_cpus(), ps_host_probe_quota_cpus(""));
}

uint64_t ps_host_probe_last_cache(const char *root)
{
    char text[32], *unit;
    if (!read_small(text, sizeof text, root, "/sys/devices/system/cpu/cpu0/cache/index3/size"))
        return 0;
    uint64_t n = strtoull(text, &unit, 10);
    unsigned shift = *unit == 'K' ? 10 : *unit == 'M' ? 20 : *unit == 'G' ? 30 : 0;
    return n < 1u << 30 ? n << shift : 0;
}

uint64_t ps_host_last_cache_bytes(void)
{
    return ps_host_probe_last_cache("");
}

/* ---- processor ---- */

static struct ps_cpu_features features;
static pthread_once_t features_once = PTHREAD_ONCE_INIT;

#if defined(__x86_64__)
static uint64_t xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* A feature bit says what the processor can; XCR0 says which registers the system saves at a switch. Both are
 * needed. */
static void detect(void)
{
    enum { YMM = 0x6, ZMM = 0xe6, TILES = 0x60000 };
    uint32_t a, b, c, d, a1, b1 = 0, c1 = 0, d1 = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return;
    uint64_t os = xcr0();
    if (!__get_cpuid_count(7, 0, &a1, &b1, &c1, &d1))
        return;
    if ((os & YMM) == YMM && (c & bit_AVX)) {
        features.fma = c & bit_FMA;
        features.f16c = c & bit_F16C;
        features.avx2 = b1 & bit_AVX2;
        features.popcnt = c & bit_POPCNT;
        features.bmi2 = b1 & bit_BMI2;
    }
    if ((os & ZMM) == ZMM) {
        features.avx512f = b1 & bit_AVX512F;
        features.avx512bw = b1 & bit_AVX512BW;
        features.avx512vl = b1 & bit_AVX512VL;
        features.avx512_vbmi = c1 & (1u << 1);
        features.avx512_vbmi2 = c1 & (1u << 6);
        features.avx512_vnni = c1 & (1u << 11);
    }
    /* The kernel hands tiles only to a process that asked with arch_prctl(ARCH_REQ_XCOMP_PERM): the AMX backend
     * does. */
    if ((os & TILES) == TILES) {
        features.amx_bf16 = d1 & (1u << 22);
        features.amx_tile = d1 & (1u << 24);
        features.amx_int8 = d1 & (1u << 25);
    }
    if (features.avx512f && __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1))
        features.avx512_bf16 = a1 & (1u << 5);
}
#else
static void detect(void)
{
#if defined(__aarch64__)
    features.neon = true; /* part of the base architecture */
#endif
}
#endif

const struct ps_cpu_features *ps_host_cpu(void)
{
    pthread_once(&features_once, detect);
    return &features;
}

/* ---- file systems ---- */

/* Calls fn on `path` and, while that does not exist or may not be looked at, on its parents. 0 or the errno of the last
 * try. */
static int on_nearest(const char *path, int (*fn)(const char *path, void *buf), void *buf)
{
    char dir[PATH_MAX];
    size_t n = strlen(path);
    if (n >= sizeof(dir))
        return ENAMETOOLONG;
    memcpy(dir, path, n + 1);
    for (;;) {
        if (fn(*dir ? dir : ".", buf) == 0)
            return 0;
        if ((errno != ENOENT && errno != ENOTDIR && errno != EACCES) || strcmp(dir, "/") == 0 ||
            strcmp(dir, ".") == 0)
            return errno;
        char *up = dirname(dir); /* may be a static "." */
        memmove(dir, up, strlen(up) + 1);
    }
}

static int call_statvfs(const char *path, void *buf)
{
    return statvfs(path, buf);
}

static int call_statfs(const char *path, void *buf)
{
    return statfs(path, buf);
}

int ps_host_disk_free(const char *path, uint64_t *free_bytes, uint64_t *total_bytes,
                      struct ps_err *err)
{
    struct statvfs fs;
    int e = on_nearest(path, call_statvfs, &fs);
    if (e)
        return ps_err_set(err, PS_EIO, "base", "%s: cannot ask its file system for room: %s", path,
                          strerror(e));
    /* f_bavail, not f_bfree: the blocks kept for root are not ours. */
    *free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    *total_bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
    return 0;
}

const char *ps_host_network_fs_name(uint64_t f_type)
{
    static const struct {
        uint32_t magic;
        const char *name;
    } known[] = {
        {0x6969, "NFS"},       {0x517b, "SMB"},      {0xff534d42, "CIFS"},   {0xfe534d42, "SMB"},
        {0x01021997, "9p"},    {0x65735546, "FUSE"}, {0x0bd00bd0, "Lustre"}, {0x00c36400, "Ceph"},
        {0x5346414f, "AFS"},   {0x6b414653, "AFS"},  {0x73757245, "Coda"},   {0x01161970, "GFS2"},
        {0x7461636f, "OCFS2"}, {0x47504653, "GPFS"}, {0x19830326, "BeeGFS"}, {0x786f4256, "vboxsf"},
    };
    /* The field is signed and of 32 bits on some machines: the low half is what all agree on. */
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if ((uint32_t)f_type == known[i].magic)
            return known[i].name;
    return NULL;
}

const char *ps_host_network_fs(const char *path)
{
    struct statfs fs;
    return on_nearest(path, call_statfs, &fs) == 0 ? ps_host_network_fs_name((uint64_t)fs.f_type)
                                                   : NULL;
}

bool ps_host_is_network_fs(const char *path)
{
    return ps_host_network_fs(path) != NULL;
}

/* ---- files ---- */

static int open_for_reading(int *fd, const char *path, struct ps_err *err)
{
    int f = open(path, O_RDONLY | O_CLOEXEC);
    if (f < 0) {
        int code = errno == ENOENT || errno == ENOTDIR ? PS_ENOTFOUND : PS_EIO;
        return ps_err_set(err, code, "base", "%s: cannot open: %s", path, strerror(errno));
    }
    *fd = f;
    return 0;
}

/* Room for one byte more than was read and the NUL, so that the byte beyond the maximum is seen. */
static int grow(char **buf, size_t *cap, size_t len, size_t max_bytes)
{
    size_t want = *cap ? *cap * 2 : 4096;
    if (want > max_bytes)
        want = max_bytes + 2;
    if (want < len + 2)
        want = len + 2;
    char *p = ps_realloc(*buf, want);
    if (!p)
        return PS_ENOMEM;
    *buf = p;
    *cap = want;
    return 0;
}

int ps_file_read(char **out, size_t *len, const char *path, size_t max_bytes, struct ps_err *err)
{
    int fd = -1;
    int rc = open_for_reading(&fd, path, err);
    if (rc)
        return rc;
    if (max_bytes > PTRDIFF_MAX - 2)
        max_bytes = PTRDIFF_MAX - 2;
    char *buf = NULL;
    size_t cap = 0, used = 0;
    for (;;) {
        if (used + 2 > cap && grow(&buf, &cap, used, max_bytes)) {
            rc = ps_err_set(err, PS_ENOMEM, "base", "%s: no memory to read it", path);
            goto out;
        }
        ssize_t got = read(fd, buf + used, cap - used - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            rc = ps_err_set(err, PS_EIO, "base", "%s: cannot read: %s", path, strerror(errno));
            goto out;
        }
        if (got == 0)
            break;
        used += (size_t)got;
        if (used > max_bytes) {
            rc = ps_err_set(err, PS_EDATA, "base", "%s: larger than %zu bytes", path, max_bytes);
            goto out;
        }
    }
    buf[used] = '\0';
    *out = buf;
    if (len)
        *len = used;
    buf = NULL;
out:
    ps_free(buf);
    close(fd);
    return rc;
}

/* 0 where the directory exists afterwards, whoever made it. */
static int make_one(const char *path, unsigned mode)
{
    if (mkdir(path, (mode_t)mode) == 0)
        return 0;
    int e = errno;
    struct stat st;
    if (stat(path, &st) == 0)
        return S_ISDIR(st.st_mode) ? 0 : ENOTDIR;
    return e;
}

int ps_mkdir_p(const char *path, unsigned mode, struct ps_err *err)
{
    char dir[PATH_MAX];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof(dir))
        return ps_err_set(err, PS_EUSAGE, "base", "'%s': no usable directory name", path);
    memcpy(dir, path, n + 1);
    while (n > 1 && dir[n - 1] == '/')
        dir[--n] = '\0';
    int e = 0;
    for (char *p = dir + 1; *p && !e; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        e = make_one(dir, 0755);
        *p = '/';
    }
    if (!e)
        e = make_one(dir, mode);
    if (e)
        return ps_err_set(err, e == ENOSPC || e == EDQUOT ? PS_ENOSPC : PS_EIO, "base",
                          "%s: cannot make the directory: %s", path, strerror(e));
    return 0;
}
