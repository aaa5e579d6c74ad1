/* Element types and codecs: names and sizes. One table, so that a type can't have a size in one
 * place and a name in another. */
#include "proto/dtype.h"

#include <string.h>

struct dtype_info {
    const char *name;
    uint8_t bytes;
};

static const struct dtype_info dtypes[] = {
    [PS_F32] = {"F32", 4},         [PS_F16] = {"F16", 2},         [PS_BF16] = {"BF16", 2},
    [PS_F64] = {"F64", 8},         [PS_F8_E4M3] = {"F8_E4M3", 1}, [PS_F8_E5M2] = {"F8_E5M2", 1},
    [PS_F8_E8M0] = {"F8_E8M0", 1}, [PS_I64] = {"I64", 8},         [PS_I32] = {"I32", 4},
    [PS_I16] = {"I16", 2},         [PS_I8] = {"I8", 1},           [PS_U64] = {"U64", 8},
    [PS_U32] = {"U32", 4},         [PS_U16] = {"U16", 2},         [PS_U8] = {"U8", 1},
    [PS_BOOL] = {"BOOL", 1},       [PS_Q8B64] = {"Q8B64", 0},     [PS_NF4B64] = {"NF4B64", 0},
    [PS_MXFP4] = {"MXFP4", 0},
};
#define N_DTYPES (sizeof dtypes / sizeof dtypes[0])

/* The value may come from remote bytes, so anything outside the table is simply unknown. */
static const struct dtype_info *dtype_info(enum ps_dtype t)
{
    size_t i = (size_t)t;
    return i < N_DTYPES && dtypes[i].name ? &dtypes[i] : NULL;
}

size_t ps_dtype_bytes(enum ps_dtype t)
{
    const struct dtype_info *d = dtype_info(t);
    return d ? d->bytes : 0;
}

const char *ps_dtype_name(enum ps_dtype t)
{
    const struct dtype_info *d = dtype_info(t);
    return d ? d->name : "?";
}

enum ps_dtype ps_dtype_from_name(const char *s, size_t len)
{
    for (size_t i = 0; i < N_DTYPES; i++)
        if (dtypes[i].bytes && strlen(dtypes[i].name) == len && memcmp(dtypes[i].name, s, len) == 0)
            return (enum ps_dtype)i;
    return PS_DTYPE_NONE;
}

const char *ps_codec_name(enum ps_codec c)
{
    switch (c) {
    case PS_CODEC_RAW: return "raw";
    case PS_CODEC_LZ4: return "lz4";
    case PS_CODEC_CONST: return "const";
    case PS_CODEC_WH: return "wh";
    case PS_CODEC_XC34: return "xc34";
    }
    return "?";
}

bool ps_codec_known(uint32_t c)
{
    return c == PS_CODEC_RAW || c == PS_CODEC_LZ4 || c == PS_CODEC_WH || c == PS_CODEC_XC34;
}

int ps_codec_from_name(const char *name)
{
    for (uint32_t c = PS_CODEC_RAW; c <= PS_CODEC_XC34; c++)
        if (ps_codec_known(c) && strcmp(name, ps_codec_name((enum ps_codec)c)) == 0)
            return (int)c;
    return -1;
}

bool ps_packing_from_name(struct ps_packing *out, const char *name)
{
    int codec = ps_codec_from_name(name);
    if (codec >= 0)
        *out = (struct ps_packing){(enum ps_codec)codec, PS_DTYPE_NONE};
    else if (strcmp(name, "q8b64") == 0)
        *out = (struct ps_packing){PS_CODEC_WH, PS_Q8B64};
    else if (strcmp(name, "nf4b64") == 0)
        *out = (struct ps_packing){PS_CODEC_WH, PS_NF4B64};
    else
        return false;
    return true;
}

const char *ps_packing_name(const struct ps_packing *p)
{
    return p->quant == PS_Q8B64    ? "q8b64"
           : p->quant == PS_NF4B64 ? "nf4b64"
                                   : ps_codec_name(p->codec);
}
