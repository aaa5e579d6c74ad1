/* The one table of options. See options.h for what is made of it.
 *
 * Spellings and defaults follow llama.cpp (common/arg.cpp) where the meaning is the same. */
#include "tools/options.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define RUN      PS_ON(PS_CMD_RUN)
#define PLAN     PS_ON(PS_CMD_PLAN)
#define DOCTOR   PS_ON(PS_CMD_DOCTOR)
#define SPLIT    PS_ON(PS_CMD_SPLIT)
#define KEYGEN   PS_ON(PS_CMD_KEYGEN)
#define WARM     PS_ON(PS_CMD_WARM)
#define SHARE    PS_ON(PS_CMD_SHARE)
#define CACHE    PS_ON(PS_CMD_CACHE)
#define INSPECT  PS_ON(PS_CMD_INSPECT)
#define LOGITS   PS_ON(PS_CMD_LOGITS)
#define TOKENIZE PS_ON(PS_CMD_TOKENIZE)
#define BENCH    PS_ON(PS_CMD_BENCH)
#define VERSION  PS_ON(PS_CMD_VERSION)
#define EVERY    0xffffffffu
#define ENGINE   (RUN | PLAN | DOCTOR | WARM | LOGITS)
#define SOURCE   (ENGINE | SPLIT | INSPECT | TOKENIZE | BENCH)

#define AT(member) offsetof(struct ps_opts, member)

static const struct ps_opt_spec options[] = {
    {"model", NULL, "m", "MODEL", "The model, where it is not given as the first argument", NULL,
     NULL, PS_OPT_TEXT, PS_GROUP_TEXT, ENGINE | INSPECT | TOKENIZE, AT(model), 0, 0},
    {"prompt", NULL, "p", "TEXT", "The text to go on from; \"\" is the model's start token alone",
     NULL, NULL, PS_OPT_TEXT, PS_GROUP_TEXT, RUN | PLAN | TOKENIZE, AT(prompt), 0, 0},
    {"file", NULL, "f", "FILE", "Read the text from FILE, - is stdin (`run` drops one final newline)",
     NULL, NULL, PS_OPT_FILE, PS_GROUP_TEXT, RUN | PLAN | TOKENIZE, AT(file), 0, 0},
    {"n-predict", "predict", "n", "N", "Most tokens to write; -1: as many as --ctx-size has room for",
     "256", NULL, PS_OPT_INT, PS_GROUP_TEXT, RUN | PLAN, AT(n_predict), -1, 1 << 24},
    {"ctx-size", NULL, "c", "N", "Positions to reserve KV for; 0 is what prompt and --n-predict need",
     "0", NULL, PS_OPT_INT, PS_GROUP_TEXT, ENGINE, AT(ctx_size), 0, 1 << 24},
    {"stop", NULL, NULL, "TEXT", "End before this text is written; may be given several times",
     NULL, NULL, PS_OPT_LIST, PS_GROUP_TEXT, RUN, AT(stop), 0, 0},
    {"ignore-eos", NULL, NULL, NULL, "Go on after the model's end-of-text token", NULL, NULL,
     PS_OPT_FLAG, PS_GROUP_TEXT, RUN, AT(ignore_eos), 0, 0},
    {"echo", NULL, NULL, NULL, "Print the prompt before the text", NULL, NULL, PS_OPT_FLAG,
     PS_GROUP_TEXT, RUN, AT(echo), 0, 0},
    {"special", NULL, NULL, NULL, "Print special tokens too", NULL, NULL, PS_OPT_FLAG,
     PS_GROUP_TEXT, RUN, AT(special), 0, 0},
    {"no-bos", NULL, NULL, NULL, "Add no start token to the text", NULL, NULL, PS_OPT_FLAG,
     PS_GROUP_TEXT, RUN | TOKENIZE, AT(no_bos), 0, 0},

    {"temp", NULL, NULL, "T", "Temperature; 0 takes the likeliest token always", "0.8", NULL,
     PS_OPT_REAL, PS_GROUP_SAMPLING, RUN, AT(temp), 0, 100},
    {"top-k", NULL, NULL, "K", "Choose among the K likeliest tokens; 0 is all", "40", NULL,
     PS_OPT_INT, PS_GROUP_SAMPLING, RUN, AT(top_k), 0, INT32_MAX},
    {"top-p", NULL, NULL, "P", "Choose among the likeliest tokens that sum up to P; 1 is all",
     "0.95", NULL, PS_OPT_REAL, PS_GROUP_SAMPLING, RUN, AT(top_p), 0, 1},
    {"min-p", NULL, NULL, "P", "Drop tokens less likely than P times the likeliest; 0 is off",
     "0.05", NULL, PS_OPT_REAL, PS_GROUP_SAMPLING, RUN, AT(min_p), 0, 1},
    {"repeat-penalty", NULL, NULL, "X", "Penalty of tokens seen lately; 1 is off", "1.0", NULL,
     PS_OPT_REAL, PS_GROUP_SAMPLING, RUN, AT(repeat_penalty), 0, 100},
    {"repeat-last-n", NULL, NULL, "N",
     "How many tokens --repeat-penalty looks back; 0 is none, -1 is all", "64", NULL, PS_OPT_INT,
     PS_GROUP_SAMPLING, RUN, AT(repeat_last_n), -1, 1 << 24},
    {"seed", NULL, "s", "SEED", "Seed of the random choices; -1 draws one and names it in the summary",
     "-1", NULL, PS_OPT_INT, PS_GROUP_SAMPLING, RUN, AT(seed), -1, INT64_MAX},

    {"disk", NULL, NULL, "SIZE",
     "Most bytes of the cache folder: 20G, 25% of the model, 0 for none (default: half of what is "
     "free, at "
     "most 100G)",
     NULL, NULL, PS_OPT_SIZE, PS_GROUP_BUDGET, ENGINE, AT(disk),
     PS_OPT_SIZE_SHARE | PS_OPT_SIZE_ALL, 0},
    {"ram", NULL, NULL, "SIZE",
     "Most memory for everything: 4G, 50% of the model, min (default: as much as helps, at most 80 "
     "% of what "
     "is free; in `split` bytes or min, 1G)",
     NULL, NULL, PS_OPT_SIZE, PS_GROUP_BUDGET, ENGINE | SPLIT, AT(ram),
     PS_OPT_SIZE_SHARE | PS_OPT_SIZE_MIN | PS_OPT_SIZE_ALL, 0},
    {"vram", NULL, NULL, "SIZE",
     "Most GPU memory for everything: 6G, 50% of the model, min; implies --device cuda (default: "
     "as "
     "much as "
     "helps of what is free, less a margin)",
     NULL, NULL, PS_OPT_SIZE, PS_GROUP_BUDGET, ENGINE, AT(vram),
     PS_OPT_SIZE_SHARE | PS_OPT_SIZE_MIN | PS_OPT_SIZE_ALL, 0},
    {"cache", NULL, NULL, "DIR",
     "The cache folder (default: $XDG_CACHE_HOME/penstock, else ~/.cache/penstock)", NULL, NULL,
     PS_OPT_DIR, PS_GROUP_BUDGET, ENGINE | CACHE | BENCH, AT(cache), 0, 0},
    {"min-free", NULL, NULL, "SIZE", "Leave this much of the file system free", "1G", NULL,
     PS_OPT_SIZE, PS_GROUP_BUDGET, ENGINE, AT(min_free), 0, 0},

    {"priority", NULL, NULL, "N",
     "Of this model in a cache of several: it takes room from those of a lower priority, also "
     "while "
     "they run, and "
     "gives them none; stays until it is set again (default: as it was, 0 at first)",
     "0", NULL, PS_OPT_INT, PS_GROUP_BUDGET, RUN | WARM, AT(priority), -100, 100},

    {"connections", NULL, NULL, "N", "Connections to the source", "8", NULL, PS_OPT_INT,
     PS_GROUP_NETWORK, SOURCE, AT(connections), 1, 256},
    {"net-deadline", NULL, NULL, "S", "Longest time in seconds that one extent may go without success",
     "120", NULL, PS_OPT_INT, PS_GROUP_NETWORK, SOURCE, AT(net_deadline), 1, 86400},
    {"net-stall", NULL, NULL, "S", "Longest silence in seconds before a connection is dropped",
     "20", NULL, PS_OPT_INT, PS_GROUP_NETWORK, SOURCE, AT(net_stall), 1, 3600},
    {"max-egress", NULL, NULL, "SIZE", "Never fetch more than this in one run (default: no limit)",
     NULL, NULL, PS_OPT_SIZE, PS_GROUP_NETWORK, SOURCE, AT(max_egress), 0, 0},
    {"net-limit", NULL, NULL, "RATE",
     "Never fetch faster than this many bytes per second (default: no limit)", NULL, NULL,
     PS_OPT_SIZE, PS_GROUP_NETWORK, SOURCE, AT(net_limit), 0, 0},
    {"hedge", NULL, NULL,
     "PERCENT", "Ask a second time for what a layer waits for, for at most this share of extra bytes; 0: never",
     "2", NULL, PS_OPT_INT, PS_GROUP_NETWORK, SOURCE, AT(hedge), 0, 100},
    {"bearer", "oauth2-bearer", NULL, "TOKEN",
     "Token for an http(s) server; better in PENSTOCK_BEARER or --bearer-file, where `ps` does not "
     "show it",
     NULL, NULL, PS_OPT_TEXT, PS_GROUP_NETWORK, SOURCE, AT(bearer), 0, 0},
    {"bearer-file", NULL, NULL, "FILE", "Read that token from FILE", NULL, NULL, PS_OPT_FILE,
     PS_GROUP_NETWORK, SOURCE, AT(bearer_file), 0, 0},
    {"header", NULL, "H", "LINE",
     "Send a header 'Name: value', or with @FILE each line of a file, to the model's own server; "
     "may be given several times",
     NULL, NULL, PS_OPT_LIST, PS_GROUP_NETWORK, SOURCE, AT(header), 0, 0},
    {"netrc", NULL, NULL, NULL, "Take the login of an http(s) server from ~/.netrc", NULL, NULL,
     PS_OPT_FLAG, PS_GROUP_NETWORK, SOURCE, AT(netrc), 0, 0},
    {"netrc-file", NULL, NULL, "FILE", "Take it from FILE, which has to exist", NULL, NULL,
     PS_OPT_FILE, PS_GROUP_NETWORK, SOURCE, AT(netrc_file), 0, 0},
    {"cacert", NULL, NULL, "FILE",
     "Trust the CAs of this PEM file (default: SSL_CERT_FILE, CURL_CA_BUNDLE, else the system's)",
     NULL, NULL, PS_OPT_FILE, PS_GROUP_NETWORK, SOURCE, AT(cacert), 0, 0},
    {"cert", NULL, NULL, "FILE", "Client certificate for an https server, PEM", NULL, NULL,
     PS_OPT_FILE, PS_GROUP_NETWORK, SOURCE, AT(cert), 0, 0},
    {"key", NULL, NULL, "FILE",
     "Its private key, PEM without a passphrase (default: in --cert's file)", NULL, NULL,
     PS_OPT_FILE, PS_GROUP_NETWORK, SOURCE, AT(key), 0, 0},
    {"mirror", NULL, NULL, "ADDRESS",
     "Another address of the same model (http, s3, hf or a folder), asked where the first one "
     "fails; "
     "may be given several times",
     NULL, NULL, PS_OPT_LIST, PS_GROUP_NETWORK, SOURCE, AT(mirror), 0, 0},
    {"http", NULL, NULL, "VERSION", "HTTP version", "auto", "auto|h1|h2", PS_OPT_CHOICE,
     PS_GROUP_NETWORK, SOURCE, AT(http), 0, 0},

    {"verify-key", NULL, NULL, "FILE",
     "Open only a split model whose manifest this public key signed; may be given several times",
     NULL, NULL, PS_OPT_LIST, PS_GROUP_NETWORK, ENGINE | INSPECT | TOKENIZE | BENCH,
     AT(verify_keys), 0, 0},
    {"threads", NULL, "t", "N", "Compute threads; 0 is every usable CPU", "0", NULL, PS_OPT_INT,
     PS_GROUP_COMPUTE, ENGINE | SPLIT | BENCH, AT(threads), 0, 1024},
    {"device", NULL, "dev", "NAME",
     "Where layers are computed: cpu, cuda, or cuda:1 for the second GPU", NULL, NULL, PS_OPT_TEXT,
     PS_GROUP_COMPUTE, ENGINE, AT(device), 0, 0},
    {"gpu-layers", "n-gpu-layers", "ngl", "N",
     "Compute only the last N layers on the GPU, those before on the CPU; 0 is none (default: all, "
     "with --device "
     "cuda)",
     "-1", NULL, PS_OPT_INT, PS_GROUP_COMPUTE, ENGINE, AT(gpu_layers), -1, 1 << 16},
    {"no-kv-offload", NULL, "nkvo", NULL, "Keep the KV cache of the GPU's layers in host memory",
     NULL, NULL, PS_OPT_FLAG, PS_GROUP_COMPUTE, ENGINE, AT(no_kv_offload), 0, 0},
    {"ubatch-size", NULL, "ub", "N",
     "Rows of a prompt worked on at once inside a layer; fewer take less memory; never changes "
     "text "
     "or bytes (default: 512, as many fewer as a small --ram demands)",
     NULL, NULL, PS_OPT_INT, PS_GROUP_COMPUTE, RUN | PLAN, AT(ubatch_size), 1, 1 << 20},
    {"cache-type-k", NULL, "ctk", "TYPE", "Type of the K cache (default: f16; f32 in `logits`)",
     NULL, "f32|f16|bf16", PS_OPT_CHOICE, PS_GROUP_COMPUTE, ENGINE, AT(cache_type_k), 0, 0},
    {"cache-type-v", NULL, "ctv", "TYPE", "Type of the V cache (default: f16; f32 in `logits`)",
     NULL, "f32|f16|bf16", PS_OPT_CHOICE, PS_GROUP_COMPUTE, ENGINE, AT(cache_type_v), 0, 0},
    {"direct-io", NULL, NULL, "HOW", "Local folders: read past the page cache", "auto",
     "auto|on|off", PS_OPT_CHOICE, PS_GROUP_COMPUTE, ENGINE, AT(direct_io), 0, 0},

    {"tokens", NULL, NULL, "IDS", "Token ids, separated by commas", NULL, NULL, PS_OPT_TEXT,
     PS_GROUP_COMMAND, LOGITS, AT(tokens), 0, 0},
    {"out", NULL, NULL, "FILE", "Write raw float32, little-endian, [positions][vocab]; - is stdout",
     NULL, NULL, PS_OPT_FILE, PS_GROUP_COMMAND, LOGITS, AT(out), 0, 0},
    {"probe", NULL, NULL, NULL, "Measure link, disk and memory first", NULL, NULL, PS_OPT_FLAG,
     PS_GROUP_COMMAND, PLAN, AT(probe), 0, 0},
    {"seconds", NULL, NULL, "S", "About how long to measure", "3", NULL, PS_OPT_REAL,
     PS_GROUP_COMMAND, PLAN | DOCTOR | BENCH, AT(seconds), 0, 3600},
    {"codec", NULL, NULL,
     "CODEC", "How blocks are stored: bit by bit as they are, or linear weights rounded to 8 or 4 bits (q8b64, nf4b64)",
     "wh", "raw|lz4|wh|xc34|q8b64|nf4b64", PS_OPT_CHOICE, PS_GROUP_COMMAND, SPLIT, AT(codec), 0, 0},
    {"sign", NULL, NULL, "FILE", "Sign the manifest with this private key (`penstock keygen`)",
     NULL, NULL, PS_OPT_FILE, PS_GROUP_COMMAND, SPLIT, AT(sign), 0, 0},
    {"delete-source", NULL, NULL, NULL,
     "Remove a local source's weights once every byte of the result has been read back and found "
     "right",
     NULL, NULL, PS_OPT_FLAG, PS_GROUP_COMMAND, SPLIT, AT(delete_source), 0, 0},
    {"diff", NULL, NULL, NULL, "Say what differs between two models", NULL, NULL, PS_OPT_FLAG,
     PS_GROUP_COMMAND, INSPECT, AT(diff), 0, 0},
    {"content", NULL, NULL, NULL,
     "With --diff: read and decode, of both models, the tensors of which hashes don't tell whether "
     "they differ",
     NULL, NULL, PS_OPT_FLAG, PS_GROUP_COMMAND, INSPECT, AT(content), 0, 0},
    {"layers", NULL, NULL, "A-B", "Only these layers", NULL, NULL, PS_OPT_LAYERS, PS_GROUP_COMMAND,
     WARM, AT(layers), 0, 0},
    {"check", NULL, NULL, NULL,
     "Verify what the cache already holds, and whole files by the hashes of the Hub", NULL, NULL,
     PS_OPT_FLAG, PS_GROUP_COMMAND, WARM, AT(check), 0, 0},
    {"bytes", NULL, NULL, "SIZE",
     "Fetch at most this now, what matters most first; the next call goes on (default: all)", NULL,
     NULL, PS_OPT_SIZE, PS_GROUP_COMMAND, WARM, AT(bytes), PS_OPT_SIZE_SHARE, 0},
    {"from-file", NULL, NULL, "FILE",
     "Models one after the other: one to a line, # begins a comment, - is stdin", NULL, NULL,
     PS_OPT_FILE, PS_GROUP_COMMAND, WARM, AT(from_file), 0, 0},
    {"dry-run", NULL, NULL,
     NULL, "Fetch no weights: say how many bytes and requests it takes, and how long at the last measured rate",
     NULL, NULL, PS_OPT_FLAG, PS_GROUP_COMMAND, WARM, AT(dry_run), 0, 0},
    {"price-per-gb", NULL, NULL, "P", "What 10^9 bytes of traffic cost, to reckon with", NULL, NULL,
     PS_OPT_REAL, PS_GROUP_COMMAND, WARM | PLAN, AT(price_per_gb), 0, 1000000},
    {"host", NULL, NULL, "ADDR", "Address to listen on", "127.0.0.1", NULL, PS_OPT_TEXT,
     PS_GROUP_COMMAND, SHARE, AT(host), 0, 0},
    {"port", NULL, NULL, "N", "Port to listen on; 0 takes a free one and names it", "8420", NULL,
     PS_OPT_INT, PS_GROUP_COMMAND, SHARE, AT(port), 0, 65535},
    {"repair", NULL, NULL, NULL, "`cache verify`: drop what is wrong", NULL, NULL, PS_OPT_FLAG,
     PS_GROUP_COMMAND, CACHE, AT(repair), 0, 0},
    {"all", NULL, NULL, NULL, "`cache evict`: every unpinned model", NULL, NULL, PS_OPT_FLAG,
     PS_GROUP_COMMAND, CACHE, AT(all), 0, 0},
    {"extents", NULL, NULL, NULL, "List every extent of every tensor", NULL, NULL, PS_OPT_FLAG,
     PS_GROUP_COMMAND, INSPECT, AT(extents), 0, 0},

    {"json", NULL, NULL, NULL, "Print one JSON object on stdout", NULL, NULL, PS_OPT_FLAG,
     PS_GROUP_OUTPUT, SOURCE | KEYGEN | SHARE | CACHE | VERSION, AT(json), 0, 0},
    {"stats", NULL, NULL, "FILE",
     "Write the figures of the run to FILE as JSON, on failure too; /dev/stderr for the terminal",
     NULL, NULL, PS_OPT_FILE, PS_GROUP_OUTPUT, RUN, AT(stats), 0, 0},
    {"quiet", NULL, "q", NULL,
     "No progress and no summary: of `split`, `warm` and what `cache` did only errors are told",
     NULL, NULL, PS_OPT_FLAG, PS_GROUP_OUTPUT, SOURCE | KEYGEN | SHARE | CACHE, AT(quiet), 0, 0},
    {"log", NULL, NULL, "LEVEL", "What to log on stderr", "warn", "error|warn|info|debug|trace",
     PS_OPT_CHOICE, PS_GROUP_OUTPUT, SOURCE | KEYGEN | SHARE | CACHE, AT(log), 0, 0},
    {"help", NULL, "h", NULL, "Print this text", NULL, NULL, PS_OPT_FLAG, PS_GROUP_OUTPUT, EVERY,
     AT(help), 0, 0},
    {"version", NULL, NULL, NULL, "Print the version", NULL, NULL, PS_OPT_FLAG, PS_GROUP_OUTPUT, 0,
     AT(version), 0, 0},
    {"man", NULL, NULL, NULL, NULL, NULL, NULL, PS_OPT_FLAG, PS_GROUP_OUTPUT, 0, AT(man), 0, 0},
};
#define N_OPTIONS (sizeof options / sizeof options[0])
_Static_assert(N_OPTIONS <= PS_OPT_MAX, "struct ps_opts.origin has a place for each option");

const struct ps_opt_spec *ps_option_at(size_t i)
{
    return i < N_OPTIONS ? &options[i] : NULL;
}

const char *ps_option_group_title(enum ps_opt_group g)
{
    static const char *const titles[PS_GROUP_COUNT] = {
        [PS_GROUP_COMMAND] = "Options of this command",
        [PS_GROUP_TEXT] = "Text",
        [PS_GROUP_SAMPLING] = "Sampling",
        [PS_GROUP_BUDGET] = "Budgets",
        [PS_GROUP_NETWORK] = "Network",
        [PS_GROUP_COMPUTE] = "Compute",
        [PS_GROUP_OUTPUT] = "Output",
    };
    return titles[g];
}

static bool same(const char *name, const char *word, size_t len)
{
    return name && strlen(name) == len && memcmp(name, word, len) == 0;
}

int ps_option_find_long(const char *name, size_t len)
{
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (same(options[i].name, name, len) || same(options[i].alias, name, len))
            return (int)i;
    return -1;
}

int ps_option_find_letter(const char *letter)
{
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (same(options[i].letter, letter, strlen(letter)))
            return (int)i;
    return -1;
}

char *ps_option_env_name(char *out, size_t cap, const struct ps_opt_spec *s)
{
    snprintf(out, cap, "PENSTOCK_%s", s->name);
    for (char *p = out; *p; p++)
        *p = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
    return out;
}
