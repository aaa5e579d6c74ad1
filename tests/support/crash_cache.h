/* What the cache's tests share: extents whose bytes follow from a number, so that any reader in any process can
 * tell right from wrong, and a measure of a folder that shares no code with the cache. */
#ifndef PS_TESTS_SUPPORT_CRASH_CACHE_H
#define PS_TESTS_SUPPORT_CRASH_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "cache/cache.h"

/* Key and bytes of extent `number`. Keys are SHA-256 of the number, or with `hashed` of the bytes. */
void crash_extent_key(uint64_t number, uint8_t key[PS_SHA256_BYTES]);
size_t crash_extent_size(uint64_t number, size_t min_bytes,
                         size_t max_bytes); /* spread over the range, rarely whole grains */
void crash_extent_fill(uint64_t number, void *buf, size_t bytes);
bool crash_extent_equal(uint64_t number, const void *buf, size_t bytes);
void crash_model_id(uint64_t number, uint8_t id[PS_SHA256_BYTES]);

/* st_blocks of a folder and everything in it, each inode once. */
uint64_t crash_folder_bytes(const char *dir);

/* Opens with a budget; asserts success. */
struct ps_cache *crash_open(const char *dir, uint64_t budget_bytes);
/* Opens model `number`, of one layer; asserts success. */
uint32_t crash_model(struct ps_cache *c, uint64_t number);
/* Reserves and puts; the code of whichever failed. buf holds at least `bytes`. */
int crash_store(struct ps_cache *c, uint32_t model, uint64_t number, int32_t layer, void *buf,
                size_t bytes);
/* The same, with the error's text. */
int crash_store_err(struct ps_cache *c, uint32_t model, uint64_t number, int32_t layer, void *buf,
                    size_t bytes, struct ps_err *err);
/* Reads and compares: 0, PS_ENOTFOUND, PS_EDATA, or PS_EFAIL when wrong bytes were returned as right. */
int crash_load(struct ps_cache *c, uint64_t number, void *buf, size_t bytes, size_t cap);
bool crash_holds(struct ps_cache *c, uint64_t number);

/* Starts this test program again as `role` with two numbers and the folder as arguments 1 to 4, and returns its
 * pid: an exec, because neither LMDB nor the thread sanitizer survive a mere fork. */
int crash_spawn(const char *role, const char *dir, uint64_t a, uint64_t b);
/* Waits; true if it ended with status 0. */
bool crash_wait(int pid);

/* Watches a folder from a thread of its own and keeps the largest size seen. */
struct crash_watch;
struct crash_watch *crash_watch_start(const char *dir);
uint64_t crash_watch_stop(struct crash_watch *w);

#endif
