/* What every cmocka test includes: cmocka with the headers it needs, and a few helpers of ours. */
#ifndef PS_TESTS_SUPPORT_TEST_H
#define PS_TESTS_SUPPORT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"

#define TEST_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Defines main() from an array of CMUnitTest. */
#define TEST_MAIN(tests)                                                                           \
    int main(void)                                                                                 \
    {                                                                                              \
        return cmocka_run_group_tests(tests, NULL, NULL);                                          \
    }

/* As assert_int_equal(rc, 0), but prints the error's text. */
#define assert_ok(rc, err) test_assert_ok((rc), (err), #rc, __FILE__, __LINE__)
void test_assert_ok(int rc, const struct ps_err *err, const char *expr, const char *file, int line);

/* Runs fn again and again while the 1st, 2nd, 3rd ... allocation of ps_* fails, until it succeeds. Every failed
 * run must return PS_ENOMEM and leave no allocation behind. Returns the number of failed runs. */
unsigned test_every_alloc_failure(int (*fn)(void *user), void *user);

/* A fresh directory under $TMPDIR or /tmp; test_remove_tree deletes it with all that is in it. */
void test_temp_dir(char *path, size_t cap);
void test_remove_tree(const char *path);
/* One for each test, as cmocka's setup and teardown: its path is in test_dir meanwhile. */
extern char test_dir[256];
int test_dir_setup(void **state);
int test_dir_teardown(void **state);
/* Writes a file, with its parent directories. */
void test_write_file(const char *path, const void *bytes, size_t len);
/* $PENSTOCK_TEST_DATA/name into path, or false (with a printed line) where that is absent: then call skip(). */
bool test_data_path(char *path, size_t cap, const char *name);

#endif
