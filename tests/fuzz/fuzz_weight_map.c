/* Fuzz target: model.safetensors.index.json. Files that are named lie below the folder, in order and each once; every
 * tensor is found by its name and points at one of them. */
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "proto/source.h"
#include "proto/weight_map.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ps_weight_map *w = NULL;
    struct ps_err err = {0};
    if (ps_weight_map_parse(&w, data, size, &err) != 0) {
        PS_ASSERT(!w && err.code < 0 && ps_alloc_live_count() == 0);
        return 0;
    }
    PS_ASSERT(w->n_weights >= 1 && w->n_files >= 1 && w->n_files <= w->n_weights);
    for (uint32_t i = 0; i < w->n_files; i++) {
        PS_ASSERT(ps_name_ok(w->files[i], strlen(w->files[i])));
        PS_ASSERT(i == 0 || strcmp(w->files[i - 1], w->files[i]) < 0);
    }
    for (uint32_t i = 0; i < w->n_weights; i++) {
        PS_ASSERT(w->weights[i].file < w->n_files);
        PS_ASSERT(ps_weight_map_find(w, w->weights[i].name) == &w->weights[i]);
    }
    PS_ASSERT(!ps_weight_map_find(w, "no such tensor, surely"));
    ps_weight_map_free(w);
    PS_ASSERT(ps_alloc_live_count() == 0);
    return 0;
}
