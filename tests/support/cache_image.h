/* A cache folder kept in memory: damage it, look what becomes of it, put it back, thousands of times. The extents are
 * those of crash_cache.h, numbers 0 to IMAGE_EXTENTS - 1, of two models. */
#ifndef PS_TESTS_SUPPORT_CACHE_IMAGE_H
#define PS_TESTS_SUPPORT_CACHE_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "cache/cache.h"

#define IMAGE_EXTENTS    24u
#define IMAGE_EXTENT_CAP 16384u
#define IMAGE_BUDGET     (1u << 20)
#define IMAGE_FILES_MAX  16u

struct image_file {
    char name[48];
    uint8_t *bytes;
    size_t n; /* up to the last byte that isn't zero */
    uint64_t size;
};
struct image {
    struct image_file files[IMAGE_FILES_MAX];
    size_t n_files;
};

/* $TMPDIR becomes a file system in memory, if there is one: a commit costs no disk there. */
void image_use_memory(void);
/* Fills `dir` with extents, evicts and refills some, so that pages are free too, and closes it cleanly. */
void image_make_cache(const char *dir);
/* Every regular file of a folder of ours; image_free gives the memory back. */
void image_load(struct image *img, const char *dir);
void image_free(struct image *img);
struct image_file *image_find(struct image *img, const char *name);
/* Makes the folder what it was: other files in it stay, the known ones are written anew. */
void image_restore(const struct image *img, const char *dir);
/* XORs a byte of a file in place. */
void image_flip(const char *dir, const char *name, uint64_t at, uint8_t mask);

enum {                    /* what image_trial allows */
       IMAGE_REFUSED = 1, /* the index is found damaged, and emptied */
       IMAGE_KEPT = 2,    /* it is used as it is */
       IMAGE_WHOLE = 4,   /* with IMAGE_KEPT: nothing is missing or wrong */
       IMAGE_OLDER = 8,   /* with IMAGE_KEPT: it may be the state before the last commit */
};
/* Lists, verifies and reads the folder read-only, then opens it to write, reads all, fills it beyond its budget,
 * repairs once, and verifies. False, with a line on stderr, when anything is not as it should be: wrong bytes, more
 * than the budget, an error where there should be none, a second repair that finds something. */
bool image_trial(const char *dir, unsigned allowed);

#endif
