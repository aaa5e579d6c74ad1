/* Replays the fuzz targets' corpora without a fuzzer: every file, its beginnings, and a few hundred fixed changes of
 * single bytes of it. Comes in: tests/fuzz/corpus/TARGET/. A target without a corpus is a failure.
 *
 *     replay [TARGET...]
 *
 * All targets are linked into this one program: CMakeLists.txt gives LLVMFuzzerTestOneInput of each another name and
 * writes their list into fuzz_targets.h. */
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TARGET(name)                                                                               \
    int name##_run(const uint8_t *data, size_t size);                                              \
    int name##_init(int *argc, char ***argv) __attribute__((weak));
#include "fuzz_targets.h"
#undef TARGET

typedef int (*run_fn)(const uint8_t *data, size_t size);
typedef int (*init_fn)(int *argc, char ***argv);

static const struct target {
    const char *name;
    run_fn run;
    init_fn init;
} targets[] = {
#define TARGET(name) {#name, name##_run, name##_init},
#include "fuzz_targets.h"
#undef TARGET
};

enum { MAX_FILE = 1 << 18, PREFIXES = 64, CHANGES = 200 };

static uint32_t random_state;

static uint32_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

/* In memory of its own size, so that a sanitizer sees a read beyond the end. */
static void run_copy(const struct target *t, const uint8_t *data, size_t n, size_t at, uint8_t flip)
{
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy)
        abort();
    memcpy(copy, data, n);
    if (at < n)
        copy[at] ^= flip;
    t->run(copy, n);
    free(copy);
}

static void run_file(const struct target *t, const char *name, const uint8_t *data, size_t n)
{
    printf("%s/%s\n", t->name, name); /* before it is run: the last line before a crash names it */
    run_copy(t, data, n, n, 0);
    const size_t step = n / PREFIXES + 1;
    for (size_t k = 0; k < n; k += step)
        run_copy(t, data, k, k, 0);
    random_state = 2463534242u + (uint32_t)n;
    for (unsigned i = 0; n > 0 && i < CHANGES; i++) {
        const size_t at = next_random() % n;
        run_copy(t, data, n, at, (uint8_t)(1 + next_random() % 255));
    }
}

/* How many files were run; -1 if one can't be read. */
static int run_corpus(const struct target *t, const char *root)
{
    static uint8_t data[MAX_FILE];
    char folder[1024], path[2048];
    int files = 0;
    snprintf(folder, sizeof folder, "%s/%s", root, t->name);
    DIR *d = opendir(folder);
    for (const struct dirent *e; d && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        FILE *f = fopen(path, "rb");
        size_t n = f ? fread(data, 1, sizeof data, f) : 0;
        if (!f || n == sizeof data) {
            printf("%s: unreadable, or larger than %d bytes\n", path, MAX_FILE);
            files = -1;
        }
        if (f)
            fclose(f);
        if (files < 0)
            break;
        run_file(t, e->d_name, data, n);
        files++;
    }
    if (d)
        closedir(d);
    return files;
}

static bool wanted(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return true;
    return argc < 2;
}

int main(int argc, char **argv)
{
    const char *source = getenv("PENSTOCK_SOURCE_DIR");
    char root[512];
    int failed = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(root, sizeof root, "%s/tests/fuzz/corpus", source ? source : ".");
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        if (!wanted(targets[i].name, argc, argv))
            continue;
        if (targets[i].init)
            targets[i].init(&argc, &argv);
        const int files = run_corpus(&targets[i], root);
        printf("%s: %d files\n", targets[i].name, files);
        failed += files < 3;
    }
    if (failed)
        printf("%d targets with fewer than 3 files in %s\n", failed, root);
    return failed != 0;
}
