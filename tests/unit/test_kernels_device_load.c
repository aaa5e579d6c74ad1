/* The loader of device modules: what it takes, what it refuses, and what it says. A process loads one module for good,
 * so each case is a child of its own. */
#include "tests/support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/device.h"

struct outcome {
    int rc;
    char kind[32];
    struct ps_err err;
};

/* What happens in a fresh process: load, maybe from another folder; and open device `index` unless that is negative. */
static struct outcome in_child(const char *module, const char *kind, const char *folder, int index)
{
    struct outcome o = {.rc = -1000};
    int fd[2], status = 0;
    assert_int_equal(pipe(fd), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const struct ps_device_api *api = NULL;
        struct ps_device *d = NULL;
        struct ps_device_options options = {.index = (uint32_t)index, .n_marks = 1};
        if (module)
            setenv("PENSTOCK_DEVICE_MODULE", module, 1);
        else
            unsetenv("PENSTOCK_DEVICE_MODULE");
        if (folder && chdir(folder) != 0)
            _exit(2);
        o.rc = ps_device_load(&api, kind, &o.err);
        if (o.rc == 0)
            snprintf(o.kind, sizeof o.kind, "%s", api->kind);
        if (o.rc == 0 && index >= 0)
            o.rc = api->open(&d, &options, &o.err);
        if (d)
            api->close(d);
        _exit(write(fd[1], &o, sizeof o) == (ssize_t)sizeof o ? 0 : 1);
    }
    assert_int_equal(read(fd[0], &o, sizeof o), sizeof o);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(fd[0]);
    close(fd[1]);
    return o;
}

static void expect(const struct outcome *o, int rc, const char *word)
{
    if (o->rc != rc || !strstr(o->err.text, word))
        fail_msg("%s (%d): '%s', wanted %d and '%s'", ps_err_name(o->rc), o->rc, o->err.text, rc,
                 word);
    assert_null(strchr(o->err.text, '\n'));
}

static const char *module_of(const char *name)
{
    const char *path = getenv(name);
    if (!path)
        skip(); /* ctest names them */
    return path;
}

static void test_a_module_is_loaded(void **state)
{
    (void)state;
    struct outcome o = in_child(module_of("PENSTOCK_FAKE_MODULE"), "cuda", NULL, 0);
    assert_ok(o.rc, &o.err);
    assert_string_equal(o.kind, "fake"); /* what the environment names stands in for any kind */
    o = in_child(module_of("PENSTOCK_EMULATED_MODULE"), "cuda", NULL, 0);
    assert_ok(o.rc, &o.err);
    assert_string_equal(o.kind, "emulated");
}

static void test_what_is_no_module(void **state)
{
    (void)state;
    char dir[256], path[512];
    test_temp_dir(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/text.so", dir);
    test_write_file(path, "not a library\n", 14);
    struct outcome o = in_child(path, "cuda", NULL, -1);
    expect(&o, PS_EUNSUPPORTED, "can't be loaded");
    snprintf(path, sizeof path, "%s/absent.so", dir);
    o = in_child(path, "cuda", NULL, -1);
    expect(&o, PS_EUNSUPPORTED, "can't be loaded");
    o = in_child("libm.so.6", "cuda", NULL, -1);
    expect(&o, PS_EUSAGE, "slash");
    test_remove_tree(dir);
    o = in_child(module_of("PENSTOCK_OLD_MODULE"), "cuda", NULL, -1);
    expect(&o, PS_EUNSUPPORTED, "another version");
    o = in_child(module_of("PENSTOCK_LIB"), "cuda", NULL, -1);
    expect(&o, PS_EUNSUPPORTED, "not a device module");
}

static void test_no_such_kind(void **state)
{
    (void)state;
    struct outcome o = in_child(NULL, "abacus", NULL, -1);
    expect(&o, PS_EUSAGE, "use cpu, cuda or cuda:N");
}

/* A file of that name in the current folder is not even looked at. */
static void test_not_from_the_current_folder(void **state)
{
    (void)state;
    char dir[256], path[512];
    test_temp_dir(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/libpenstock_cuda.so", dir);
    test_write_file(path, "not a library\n", 14);
    struct outcome there = in_child(NULL, "cuda", dir, -1), here = in_child(NULL, "cuda", NULL, -1);
    assert_int_equal(there.rc, here.rc);
    assert_string_equal(there.err.text, here.err.text);
    test_remove_tree(dir);
}

/* Whatever this machine has: a GPU, or one line that says what is missing. */
static void test_cuda_opens_or_says_why(void **state)
{
    (void)state;
    struct outcome o = in_child(NULL, "cuda", NULL, 0);
    if (o.rc == 0) {
        assert_string_equal(o.kind, "cuda");
        o = in_child(NULL, "cuda", NULL, 1000);
        expect(&o, PS_EUNSUPPORTED, "there is no GPU number 1000");
        return;
    }
    print_message("%s\n", o.err.text);
    expect(&o, PS_EUNSUPPORTED, "CPU");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_module_is_loaded),
                                       cmocka_unit_test(test_what_is_no_module),
                                       cmocka_unit_test(test_no_such_kind),
                                       cmocka_unit_test(test_not_from_the_current_folder),
                                       cmocka_unit_test(test_cuda_opens_or_says_why)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
