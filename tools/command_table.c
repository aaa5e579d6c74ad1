/* The one table of commands. See options.h for what is made of it. */
#include "tools/options.h"

#include <string.h>

static const struct ps_command_spec commands[] = {
    {PS_CMD_RUN, "run", "MODEL [-p TEXT | -f FILE] [-n N]", "write text that goes on from a prompt",
     "Writes the text alone to stdout, token by token, and a final newline; everything else goes "
     "to stderr. "
     "The prompt is read from stdin where neither -p nor -f is given and stdin is not a terminal. "
     "The "
     "sampling defaults are llama.cpp's; --temp 0 gives the same text every time, and so does a "
     "--seed.",
     "penstock run https://models.example/llama-3.1-8b -p \"Once upon a time\" -n 64 --disk 20G "
     "--ram 4G\n"
     "penstock run ./model -f prompt.txt --temp 0 --stats run.json\n",
     NULL, 1, 1, true},
    {PS_CMD_CHAT, "chat", "MODEL", "talk with a model (comes in a later release)",
     "Not in this release: use `penstock run`.", "penstock chat ./model\n", NULL, 0, 9, false},
    {PS_CMD_SERVE, "serve", "MODEL", "an OpenAI-compatible server (comes in a later release)",
     "Not in this release: use `penstock run`.", "penstock serve ./model\n", NULL, 0, 9, false},
    {PS_CMD_PLAN, "plan", "MODEL", "say what would lie where and how fast it would be",
     "Reads the headers alone, and the tokenizer where there is a text to count. Prints the bytes "
     "that each tier holds, the bytes that move in one "
     "sweep, the "
     "predicted seconds per token and what binds. Figures of link, disk and memory come from the "
     "last probe; "
     "--probe measures them now.",
     "penstock plan https://models.example/llama-3.1-70b --disk 40G --ram 8G\n", NULL, 1, 1, true},
    {PS_CMD_DOCTOR, "doctor", "MODEL", "measure link, disk and memory, say what will bind",
     "Measures for about --seconds and saves the figures beside the cache, for later plans.",
     "penstock doctor https://models.example/llama-3.1-70b\n", NULL, 1, 1, true},
    {PS_CMD_SPLIT, "split", "SRC DST",
     "make a pre-split model: a shard per layer, hashed and compressed",
     "Streams: the model is never held locally. SRC is a folder or address of safetensors files, "
     "DST a "
     "folder or s3://bucket/prefix (keys and endpoint as for reading: AWS_*). A split that was "
     "stopped goes on where it was; the manifest is written last.",
     "penstock split https://models.example/llama-3.1-8b /srv/llama-3.1-8b --codec xc34\n", NULL, 2,
     2, false},
    {PS_CMD_KEYGEN, "keygen", "FILE", "make a key pair to sign models with",
     "Writes a private Ed25519 key to FILE (readable by you alone) and the public one to FILE.pub. "
     "Sign with `split --sign FILE`; whoever runs the model gives FILE.pub to --verify-key. To "
     "change keys, let users trust both for a while: --verify-key may be given several times.",
     "penstock keygen ~/.config/penstock/release.pem\n", NULL, 1, 1, false},
    {PS_CMD_WARM, "warm", "MODEL | --from-file FILE [--layers A-B] [--bytes SIZE] [--check]",
     "fetch into the disk cache what the plan keeps there",
     "With room for everything, a later run fetches neither weights nor the tokenizer, only what "
     "tells that the model is still the same: config.json, the index and the beginning of each "
     "file, less than "
     "1 % of any model above 7 MB. (A tokenizer is kept where its server names a version of it, by "
     "an ETag or a commit; a run with room for everything keeps it too.) "
     "What is held already is never fetched again, so that a warm-up which was stopped or killed "
     "goes on where it "
     "was; runs may use the cache meanwhile. A list of models goes on after a failure and ends "
     "with the worst status of them; "
     "--disk has to hold them all, or the last ones push the first ones out.",
     "penstock warm https://models.example/llama-3.1-8b --disk 20G\n"
     "penstock warm https://models.example/llama-3.1-8b --dry-run --price-per-gb 0.09\n"
     "penstock warm --from-file models.txt --disk 200G --json\n",
     NULL, 0, 1, true},
    {PS_CMD_SHARE, "share", "DIR [--host ADDR] [--port N]",
     "serve pre-split models or model folders to others",
     "A static file server for GET and HEAD with ranges and strong ETags; pre-split shards are "
     "served as "
     "immutable. There is no authentication: whoever reaches the address can read DIR. Hidden "
     "files and "
     "links that lead out of DIR are refused, links into the blobs of the same Hugging Face cache "
     "entry are "
     "followed. For many clients put nginx or an object store in front or instead.",
     "penstock share /srv/models --host 0.0.0.0 --port 8420\n", NULL, 1, 1, false},
    {PS_CMD_CACHE, "cache", "ls | stat | dir | verify | evict MODEL | pin MODEL | unpin MODEL",
     "list, check, shrink or pin what the disk cache holds",
     "MODEL is an address as given to `run`, or the first digits of a model id. `verify` reads "
     "every byte: it "
     "ends with status 4 where it finds wrong ones, and --repair drops them so that they are "
     "fetched again.",
     "penstock cache ls\npenstock cache verify --repair\npenstock cache evict 3f2a\n",
     "ls|stat|dir|verify|evict|pin|unpin", 1, 2, false},
    {PS_CMD_INSPECT, "inspect", "MODEL | FILE | --diff A B",
     "manifest, objects and tensors of a model, a shard or a file",
     "FILE is a .safetensors file, a .shard or a penstock.manifest on this machine. --diff "
     "compares "
     "two models by the hashes of their extents: what they share is fetched and cached once. Of "
     "plain folders, and of splits with different codecs, hashes don't tell; --content reads "
     "both.",
     "penstock inspect ./model\npenstock inspect model.safetensors --json\n"
     "penstock inspect --diff s3://models/m-v1 s3://models/m-v2\n",
     NULL, 1, 2, true},
    {PS_CMD_LOGITS, "logits", "MODEL --tokens IDS [--out FILE]", "float32 logits of every position",
     "To compare with other runtimes. Without --out and --json the likeliest tokens behind the "
     "last position "
     "are listed. Needs no tokenizer; KV is float32 unless -ctk and -ctv say otherwise.",
     "penstock logits ./model --tokens 1,15043,3186 --out logits.f32\n", NULL, 1, 1, true},
    {PS_CMD_TOKENIZE, "tokenize", "MODEL [TEXT | -f FILE] [--no-bos]", "the token ids of a text",
     "MODEL may be a folder that holds tokenizer files alone. Bytes of FILE are taken as they are. "
     "Without "
     "TEXT, -p and -f the text is read from stdin where that is not a terminal.",
     "penstock tokenize ./model \"Once upon a time\"\n", NULL, 1, 2, true},
    {PS_CMD_BENCH, "bench", "gemv | codec | disk | net MODEL",
     "measure one stage against its own limit",
     "gemv: weight rows times a vector, beside plain reading of memory. codec: decoding and "
     "encoding of "
     "blocks, beside memcpy. disk: the cache folder. net: the bytes of a model, beside a plain "
     "reader of the "
     "same address.",
     "penstock bench gemv -t 4 --json\npenstock bench net http://127.0.0.1:8420\n",
     "gemv|codec|disk|net", 1, 2, false},
    {PS_CMD_COMPLETION, "completion", "bash | zsh | fish", "print a completion script for a shell",
     "Packages install these; otherwise load the output from the start-up file of the shell.",
     "source <(penstock completion bash)\n", "bash|zsh|fish", 1, 1, false},
    {PS_CMD_VERSION, "version", "", "print the version", "Also `penstock --version`.",
     "penstock version\n", NULL, 0, 0, false},
    {PS_CMD_HELP, "help", "[COMMAND]", "print help", "The same as `penstock COMMAND --help`.",
     "penstock help run\n", NULL, 0, 1, false},
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

const struct ps_command_spec *ps_command_get(enum ps_command c)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (commands[i].id == c)
            return &commands[i];
    return NULL;
}

const struct ps_command_spec *ps_command_find(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}
