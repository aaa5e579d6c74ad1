/* Host facts: the real machine gives sane numbers, invented /proc and /sys trees give exact ones; small file
 * helpers. */
#include "tests/support/test.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/host.h"
#include "base/host_probe.h"

static void test_this_machine(void **state)
{
    (void)state;
    assert_true(ps_host_free_memory_bytes() > 1 << 20);
    assert_true(ps_host_rss_bytes() > 100000);
    assert_true(ps_host_rss_peak_bytes() >= 100000);
    assert_true(ps_host_cpus() >= 1);
    const struct ps_cpu_features *cpu = ps_host_cpu();
    assert_ptr_equal(cpu, ps_host_cpu());
    if (cpu->avx512bw || cpu->avx512_bf16)
        assert_true(cpu->avx512f);
#if defined(__x86_64__)
    assert_int_equal(cpu->avx2, __builtin_cpu_supports("avx2") != 0);
    assert_int_equal(cpu->fma, __builtin_cpu_supports("fma") != 0);
    assert_int_equal(cpu->avx512f, __builtin_cpu_supports("avx512f") != 0);
    assert_int_equal(cpu->avx512vl, __builtin_cpu_supports("avx512vl") != 0);
    assert_int_equal(cpu->avx512_vbmi, __builtin_cpu_supports("avx512vbmi") != 0);
    assert_int_equal(cpu->avx512_vbmi2, __builtin_cpu_supports("avx512vbmi2") != 0);
    assert_int_equal(cpu->bmi2, __builtin_cpu_supports("bmi2") != 0);
    assert_int_equal(cpu->popcnt, __builtin_cpu_supports("popcnt") != 0);
    assert_int_equal(cpu->avx512_vnni, __builtin_cpu_supports("avx512vnni") != 0);
    assert_false(cpu->neon);
#endif
}

struct tree {
    char root[PATH_MAX / 2];
};

static void put(const struct tree *t, const char *path, const char *text)
{
    char full[PATH_MAX];
    snprintf(full, sizeof(full), "%s%s", t->root, path);
    test_write_file(full, text, strlen(text));
}

static const char meminfo[] = "MemTotal:        8000000 kB\nMemFree:         1000000 kB\n"
                              "MemAvailable:    4000000 kB\n";
enum { MIB = 1 << 20 };

static void test_no_cgroup(void **state)
{
    (void)state;
    struct tree t;
    test_temp_dir(t.root, sizeof(t.root));
    assert_int_equal(ps_host_probe_free_memory(t.root), 0); /* nothing readable: claim nothing */
    put(&t, "/proc/meminfo", meminfo);
    assert_int_equal(ps_host_probe_free_memory(t.root), 4000000ull * 1024);
    assert_int_equal(ps_host_probe_quota_cpus(t.root), 0);
    test_remove_tree(t.root);
}

static void test_last_cache(void **state)
{
    (void)state;
    static const char file[] = "/sys/devices/system/cpu/cpu0/cache/index3/size";
    struct tree t;
    test_temp_dir(t.root, sizeof(t.root));
    assert_int_equal(ps_host_probe_last_cache(t.root), 0);
    put(&t, file, "32768K\n");
    assert_int_equal(ps_host_probe_last_cache(t.root), 32 * MIB);
    put(&t, file, "1G\n");
    assert_int_equal(ps_host_probe_last_cache(t.root), 1024ull * MIB);
    put(&t, file, "99999999999999999999G\n");
    assert_int_equal(ps_host_probe_last_cache(t.root), 0);
    test_remove_tree(t.root);
}

static void test_cgroup_v2(void **state)
{
    (void)state;
    struct tree t;
    test_temp_dir(t.root, sizeof(t.root));
    put(&t, "/proc/meminfo", meminfo);
    put(&t, "/proc/self/cgroup", "0::/a/b\n");
    put(&t, "/sys/fs/cgroup/a/b/memory.max", "max\n");
    put(&t, "/sys/fs/cgroup/a/b/memory.current", "1048576\n");
    assert_int_equal(ps_host_probe_free_memory(t.root), 4000000ull * 1024);
    /* The parent's limit binds; its page cache can be taken back. */
    put(&t, "/sys/fs/cgroup/a/memory.max", "1073741824\n");
    put(&t, "/sys/fs/cgroup/a/memory.current", "805306368\n");
    assert_int_equal(ps_host_probe_free_memory(t.root), 256 * MIB);
    put(&t, "/sys/fs/cgroup/a/memory.stat",
        "anon 1\ninactive_file 104857600\nactive_file 52428800\nslab_reclaimable 1048576\n");
    assert_int_equal(ps_host_probe_free_memory(t.root), (256 + 151) * MIB);
    put(&t, "/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    assert_int_equal(ps_host_probe_quota_cpus(t.root), 0);
    put(&t, "/sys/fs/cgroup/a/cpu.max", "250000 100000\n");
    assert_int_equal(ps_host_probe_quota_cpus(t.root), 3);
    put(&t, "/sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
    assert_int_equal(ps_host_probe_quota_cpus(t.root), 1);
    test_remove_tree(t.root);
}

static void test_cgroup_v2_in_container(void **state)
{
    (void)state;
    struct tree t;
    test_temp_dir(t.root, sizeof(t.root));
    put(&t, "/proc/meminfo", meminfo);
    /* The path is the host's; only the mount point, the container's own group, exists here. */
    put(&t, "/proc/self/cgroup", "0::/docker/0123456789\n");
    put(&t, "/sys/fs/cgroup/memory.max", "536870912\n");
    put(&t, "/sys/fs/cgroup/memory.current",
        "600000000\n"); /* over its limit: no room, not a huge one */
    assert_int_equal(ps_host_probe_free_memory(t.root), 0);
    put(&t, "/sys/fs/cgroup/memory.current", "0\n");
    assert_int_equal(ps_host_probe_free_memory(t.root), 512 * MIB);
    test_remove_tree(t.root);
}

static void test_cgroup_v1(void **state)
{
    (void)state;
    struct tree t;
    test_temp_dir(t.root, sizeof(t.root));
    put(&t, "/proc/meminfo", meminfo);
    put(&t, "/proc/self/cgroup", "5:cpuset:/\n4:memory:/job\n3:cpuacct,cpu:/job\n0::/\n");
    put(&t, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put(&t, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n");
    put(&t, "/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "209715200\n");
    put(&t, "/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "104857600\n");
    assert_int_equal(ps_host_probe_free_memory(t.root), 100 * MIB);
    put(&t, "/sys/fs/cgroup/memory/job/memory.stat",
        "inactive_file 7\ntotal_inactive_file 10485760\ntotal_active_file 0\n");
    assert_int_equal(ps_host_probe_free_memory(t.root), 110 * MIB);
    put(&t, "/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1\n");
    put(&t, "/sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
    assert_int_equal(ps_host_probe_quota_cpus(t.root), 0);
    put(&t, "/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "200000\n");
    assert_int_equal(ps_host_probe_quota_cpus(t.root), 2);
    test_remove_tree(t.root);
}

static void test_disk(void **state)
{
    (void)state;
    char dir[PATH_MAX / 2], deep[PATH_MAX];
    test_temp_dir(dir, sizeof(dir));
    uint64_t room = 0, total = 0, room2 = 0, total2 = 0;
    struct ps_err err = {0};
    assert_ok(ps_host_disk_free(dir, &room, &total, &err), &err);
    assert_true(total > 0 && room <= total);
    snprintf(deep, sizeof(deep), "%s/not/there/yet", dir); /* asked of the nearest parent */
    assert_ok(ps_host_disk_free(deep, &room2, &total2, &err), &err);
    assert_int_equal(total2, total);
    assert_ok(ps_host_disk_free("relative-not-there", &room2, &total2, &err), &err);
    static const struct {
        uint64_t f_type;
        const char *name;
    } kinds[] = {
        {0x6969, "NFS"},
        {0xff534d42, "CIFS"},
        {0xffffffffff534d42, "CIFS"}, /* sign-extended */
        {0x65735546, "FUSE"},
        {0x01021997, "9p"},
        {0xef53, NULL}, /* ext4 */
        {0x58465342, NULL},
        {0x9123683e, NULL},
        {0x01021994, NULL}, /* XFS, Btrfs, tmpfs */
        {0x794c7630, NULL},
        {0x2fc12fc1, NULL},
        {0x73717368, NULL}, /* overlay, ZFS, squashfs */
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const char *name = ps_host_network_fs_name(kinds[i].f_type);
        assert_int_equal(name != NULL, kinds[i].name != NULL);
        if (name)
            assert_string_equal(name, kinds[i].name);
    }
    assert_false(ps_host_is_network_fs("/proc"));
    assert_int_equal(ps_host_is_network_fs(deep), ps_host_is_network_fs(dir));
    test_remove_tree(dir);
}

static void test_mkdir_p(void **state)
{
    (void)state;
    char dir[PATH_MAX / 2], path[PATH_MAX];
    struct stat st;
    struct ps_err err = {0};
    test_temp_dir(dir, sizeof(dir));
    snprintf(path, sizeof(path), "%s/a/b//c/", dir);
    assert_ok(ps_mkdir_p(path, 0700, &err), &err);
    assert_ok(ps_mkdir_p(path, 0700, &err), &err); /* again */
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    snprintf(path, sizeof(path), "%s/file", dir);
    test_write_file(path, "x", 1);
    snprintf(path, sizeof(path), "%s/file/d", dir);
    assert_int_equal(ps_mkdir_p(path, 0700, &err), PS_EIO);
    assert_int_equal(ps_mkdir_p("", 0700, &err), PS_EUSAGE);
    test_remove_tree(dir);
}

static int read_file(void *path)
{
    char *text;
    int rc = ps_file_read(&text, NULL, path, 1 << 20, NULL);
    if (rc == 0)
        ps_free(text);
    return rc;
}

static void test_file_read(void **state)
{
    (void)state;
    char dir[PATH_MAX / 2], path[PATH_MAX];
    test_temp_dir(dir, sizeof(dir));
    snprintf(path, sizeof(path), "%s/f", dir);
    char big[10000];
    memset(big, 'q', sizeof(big));
    test_write_file(path, big, sizeof(big));
    char *text = NULL;
    size_t len = 0;
    struct ps_err err = {0};
    assert_ok(ps_file_read(&text, &len, path, sizeof(big), &err), &err); /* exactly the maximum */
    assert_int_equal(len, sizeof(big));
    assert_memory_equal(text, big, len);
    assert_int_equal(text[len], '\0');
    ps_free(text);
    text = NULL;
    assert_int_equal(ps_file_read(&text, &len, path, sizeof(big) - 1, &err), PS_EDATA);
    assert_true(test_every_alloc_failure(read_file, path) >= 2);
    assert_int_equal(ps_file_read(&text, &len, dir, 100, &err), PS_EIO); /* a directory */
    snprintf(path, sizeof(path), "%s/none", dir);
    assert_int_equal(ps_file_read(&text, &len, path, 100, &err), PS_ENOTFOUND);
    assert_null(text);
    snprintf(path, sizeof(path), "%s/empty", dir);
    test_write_file(path, "", 0);
    assert_ok(ps_file_read(&text, &len, path, 0, &err), &err);
    assert_int_equal(len, 0);
    assert_string_equal(text, "");
    ps_free(text);
    assert_ok(ps_file_read(&text, &len, "/proc/self/status", 1 << 20, &err), &err); /* st_size 0 */
    assert_true(len > 0);
    ps_free(text);
    test_remove_tree(dir);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_this_machine),
    cmocka_unit_test(test_no_cgroup),
    cmocka_unit_test(test_last_cache),
    cmocka_unit_test(test_cgroup_v2),
    cmocka_unit_test(test_cgroup_v2_in_container),
    cmocka_unit_test(test_cgroup_v1),
    cmocka_unit_test(test_disk),
    cmocka_unit_test(test_mkdir_p),
    cmocka_unit_test(test_file_read),
};
TEST_MAIN(tests)
