#!/bin/bash
# Help, exit statuses, hints and generated files of the program; no model, no network.
# ctest-timeout: 60
set -u
: "${PENSTOCK:?path of the program}" "${PENSTOCK_SOURCE_DIR:?}"
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
for name in $(compgen -e PENSTOCK_); do
    case $name in PENSTOCK_SOURCE_DIR | PENSTOCK_BINARY_DIR | PENSTOCK_TEST_DATA | PENSTOCK_LIB) ;; *) unset "$name" ;; esac
done
export XDG_CACHE_HOME=$work/cache HOME=$work
failed=0

fail() {
    echo "FAIL: $*"
    failed=1
}

# expect STATUS PATTERN ARGUMENT...: the exit status, and an extended regular expression that stderr must match
expect() {
    local status=$1 pattern=$2 rc
    shift 2
    "$PENSTOCK" "$@" >"$work/out" 2>"$work/err" </dev/null
    rc=$?
    [ "$rc" = "$status" ] || fail "penstock $*: status $rc, not $status: $(head -c 300 "$work/err")"
    [ -z "$pattern" ] || grep -qE -- "$pattern" "$work/err" || fail "penstock $*: stderr lacks /$pattern/: $(head -c 300 "$work/err")"
    if [ "$rc" != 0 ] && [ $# -gt 0 ] && [ "$(wc -l <"$work/err")" -gt 4 ]; then
        fail "penstock $*: more than four lines of error"
    fi
}

commands="run chat serve plan doctor split warm share cache inspect logits tokenize bench completion version help"

# help
expect 2 '^usage: penstock COMMAND'
[ ! -s "$work/out" ] || fail "penstock alone writes to stdout"
! grep -qE '^penstock: *$' "$work/err" || fail "penstock alone ends with an empty error"
expect 0 '' --help
for c in $commands; do
    grep -q "^  $c " "$work/out" || fail "--help lacks $c"
done
for c in $commands; do
    "$PENSTOCK" "$c" --help >"$work/out" 2>"$work/err" || fail "$c --help: status $?"
    [ ! -s "$work/err" ] || fail "$c --help writes to stderr"
    for word in "Usage: penstock $c" "^Example" "^Exit status:"; do
        grep -q "$word" "$work/out" || fail "$c --help lacks '$word'"
    done
    "$PENSTOCK" help "$c" | cmp -s - "$work/out" || fail "help $c differs from $c --help"
    awk 'length > 110 { exit 1 }' "$work/out" || fail "$c --help has overlong lines"
done
expect 0 '' version
grep -qE '^penstock [0-9]+\.[0-9]+\.[0-9]+$' "$work/out" || fail "version: $(cat "$work/out")"
expect 0 '' --version
expect 0 '' version --json
expect 2 'unknown command' help nonsense

# mistakes are named, with a hint
expect 2 "did you mean .run.\?" rum ./model
expect 2 'unknown command' xyzzy
expect 2 'did you mean --temp\?' run ./model --tmp 0
expect 2 'did you mean --n-predict\?' run ./model --n_predict 3
expect 2 'did you mean --top-k\?' run ./model --topk=3
expect 2 'unknown option' run ./model --qqqqqqqqqq
expect 2 "not an option of .plan" plan ./model --temp 0
expect 2 'MODEL is missing' run
expect 2 'one argument too many' run a b -p x
expect 2 'its value is missing' run ./model -n
expect 2 "^penstock: --temp: '1x' is not a number" run ./model --temp 1x
expect 2 'not a number' run ./model --temp nan
expect 2 'not a number' run ./model --temp=
expect 2 'out of range' run ./model --temp -1
expect 2 '^penstock: -n: .*not a whole number' run ./model -n 1.5
expect 2 'out of range' run ./model -n -2
expect 2 'give -c N' run ./model -p x -n -1
expect 2 '^penstock: -n: its value is the next word: write -n N$' run ./model -n=1
expect 2 '^penstock: -H: its value is the next word: write -H LINE$' run ./model -H='X-Api-Key: s3cret'
expect 2 '^penstock: -q: it takes no value: write -q, or --quiet=off to turn it off$' run ./model -q=1
expect 2 '^penstock: --quiet: it takes no value: write --quiet, or --quiet=off to turn it off$' run ./model '--quiet on'
expect 2 '^penstock: -z: unknown option' run ./model -z=1
expect 2 '^penstock: -HX-Api-Key: unknown option: see penstock --help$' run ./model '-HX-Api-Key: s3cret'
expect 2 '^penstock: --header: its value is the next word: write --header LINE$' run ./model '--header X-Api-Key: s3cret'
expect 2 'not a whole number' run ./model -n ' 1'
expect 2 'not a whole number' run ./model -n 0x10
expect 2 'out of range' run ./model -n 99999999999
expect 2 'out of range' run ./model -n 99999999999999999999
expect 2 '^penstock: --http: .*auto\|h1\|h2' run ./model --http h3
expect 2 '--disk' run ./model --disk 12Q
expect 2 '--ram' plan ./model --ram ''
expect 2 '--disk.*min.*25%, all' run ./model --disk min
expect 2 '--min-free.*25%' run ./model --min-free 25%
expect 2 '--max-egress.*all' run ./model --max-egress all
expect 2 'no device memory' run ./model -p x --device cpu --vram 4G
PENSTOCK_VRAM=4G expect 3 "$work/none" run "$work/none" -p x --device cpu
expect 2 'layers' warm ./model --layers 4-2
expect 2 'neither on nor off' run ./model --json=maybe
expect 2 'give one of them' run ./model -p x -f y
expect 2 'nofile' run ./model -f "$work/nofile"
expect 2 'tokens' logits ./model
expect 2 'no token id' logits ./model --tokens 1,,2
expect 2 'no token id' logits ./model --tokens 1,-2
expect 2 'no token id' logits ./model --tokens ''
expect 2 '^penstock: --net-limit: .25%.' run ./model -p x --net-limit 25%
expect 2 'net-limit' split ./model ./out --net-limit 10
expect 2 'hedge' run ./model -p x --hedge 101
expect 2 'none of' cache nonsense
expect 2 'the model is missing' cache pin
expect 2 '--all' cache evict
expect 2 'none of' bench nonsense
# options that would be ignored
expect 2 '^penstock: --seconds: .*--probe' plan "$work/none" --seconds 1
PENSTOCK_SECONDS=1 expect 3 "$work/none" plan "$work/none"
expect 3 "$work/none" plan "$work/none" --seconds 1 --probe
for verb in ls stat dir evict "pin x"; do
    expect 2 '^penstock: [a-z]*: --repair: only `cache verify`' cache $verb --repair
done
for verb in ls stat dir verify "pin x"; do
    expect 2 '^penstock: [a-z]*: --all: only `cache evict`' cache $verb --all
done
for option in "--connections 4" "--mirror http://host/m" "--verify-key $work/none" "--netrc"; do
    expect 2 '^penstock: codec: --[a-z-]*: only `bench net`' bench codec $option
done
expect 2 'none of' completion tcsh
expect 1 'not yet' chat ./model
expect 1 'not yet' serve ./model
expect 3 "$work/none" run "$work/none" -p x
expect 3 "$work/none" share "$work/none"
expect 3 "$work/none" plan "$work/none"
expect 3 '' inspect "$work/none"
mkdir "$work/others"
: >"$work/others/theirs"
expect 2 'holds other files' bench disk --cache "$work/others"
[ "$(ls -A "$work/others")" = theirs ] || fail "bench disk left something in a folder of others"
expect 2 'ftp' run ftp://host/model -p x

# variables: read for the options that a command has, beaten by the option, ignored when empty
PENSTOCK_TEMP=warm expect 2 '^penstock: PENSTOCK_TEMP:' run ./model -p x
PENSTOCK_TEMP=warm expect 3 '' run "$work/none" -p x --temp 0
PENSTOCK_TEMP='' expect 3 '' run "$work/none" -p x
PENSTOCK_TEMP=warm expect 0 '' version
PENSTOCK_VERIFY_KEY='' expect 2 '^penstock: PENSTOCK_VERIFY_KEY: .*empty' run "$work/none" -p x
PENSTOCK_VERIFY_KEY='' expect 2 'no-key' run "$work/none" -p x --verify-key "$work/no-key"
PENSTOCK_VERIFY_KEY='' expect 0 '' version
PENSTOCK_IGNORE_EOS=maybe expect 2 'PENSTOCK_IGNORE_EOS' run ./model -p x
PENSTOCK_MODEL=$work/none expect 3 "$work/none" run -p x
PENSTOCK_JSON=1 expect 0 '' cache ls
grep -q '"models":' "$work/out" || fail "PENSTOCK_JSON=1 cache ls: $(cat "$work/out")"

# an empty cache is no error, and looking at it makes no folder
expect 0 '' cache ls
expect 0 '' cache stat --json
expect 0 '' cache verify
expect 0 '' cache evict --all
expect 3 'not in the cache' cache evict abcd
for verb in evict pin unpin; do
    expect 3 '^penstock: http://host/m: not in the cache' cache $verb "http://me:geheim@HOST:80/m//?sig=geheim"
    expect 2 'malformed' cache $verb "http://me:geheim@/m?sig=geheim"
    expect 2 'unknown scheme' cache $verb "ftp://me:geheim@host/m"
    grep -q geheim "$work/err" && fail "cache $verb prints a secret: $(cat "$work/err")"
done
expect 0 '' cache dir
[ "$(cat "$work/out")" = "$work/cache/penstock" ] || fail "cache dir: $(cat "$work/out")"
[ ! -e "$work/cache/penstock" ] || fail "the cache folder was made by looking at it"

# a name that is mistyped is no clean cache
mkdir -p "$work/full/slabs" "$work/empty"
: >"$work/full/slabs/x.slab"
for verb in ls stat verify "evict --all" "evict abcd" "pin abcd"; do
    expect 3 "^penstock: no cache: $work/none/x: " cache $verb --cache "$work/none/x"
    PENSTOCK_CACHE=$work/none expect 3 "no cache: $work/none" cache $verb
    expect 2 'no cache: left as it is' cache $verb --cache "$work/full"
done
expect 2 'no cache: left as it is' cache verify --repair --cache "$work/full/slabs"
[ -e "$work/full/slabs/x.slab" ] || fail "cache verify --repair removed a file of others"
expect 0 "^penstock: no cache yet: $work/empty" cache verify --cache "$work/empty"
expect 0 '' cache verify

# an address whose scheme was forgotten holds its password all the same
for model in user:geheim@127.0.0.1/nope http:/user:geheim@127.0.0.1/nope geheim@localhost:1/nope 'h/m?sig=geheim' user:ge/heim@geheim@h; do
    expect 3 'no such folder: ' run "$model" -p x --stats "$work/stats.json"
    grep -q 'heim' "$work/err" "$work/stats.json" && fail "a secret of $model: $(cat "$work/err" "$work/stats.json")"
    for command in "plan $model" "share $model" "inspect $model" "split $model $work/tree" "tokenize $model x" "warm $model" \
        "inspect --diff $model $work" "run $work/none --mirror $model -p x"; do
        expect 3 '' $command
        grep -q 'heim' "$work/err" "$work/out" && fail "a secret: penstock $command: $(cat "$work/err")"
    done
done
expect 3 'did you mean http://127.0.0.1/nope?' run user:geheim@127.0.0.1/nope -p x
expect 3 'did you mean http://localhost:18470/x?' plan localhost:18470/x
expect 3 'did you mean http://host/x?' share http:/host/x
expect 3 'did you mean hf://org/name?' run org/name -p x
expect 3 "^penstock: no such folder: $work/none: check the path$" run "$work/none" -p x

# what is wrong with a file: which, where, what to do
mkdir "$work/broken"
: >"$work/broken/config.json"
printf '\2\0\0\0\0\0\0\0{}' >"$work/broken/model.safetensors"
for command in "run $work/broken -p x" "plan $work/broken" "inspect --diff $work/broken $work/broken" "split $work/broken $work/tree"; do
    expect 4 "^penstock: $work/broken: config.json: JSON: .*: fetch it again" $command
done
echo nonsense >"$work/broken/penstock.manifest"
for command in "run $work/broken -p x" "tokenize $work/broken x" "split $work/broken $work/tree"; do
    expect 4 "^penstock: .*$work/broken.*penstock.manifest: is not a manifest: check the address, or split" $command
done

# options stand anywhere; -- ends them
expect 3 "$work/none" --temp 0 run -p x "$work/none" -n 1
expect 3 '--odd' run -p x -- --odd

# the statistics are written on failure, too
"$PENSTOCK" run "$work/none" -p x --stats "$work/stats.json" 2>/dev/null
python3 - "$work/stats.json" <<'PY' || fail "stats of a failed run"
import json, sys
s = json.load(open(sys.argv[1]))
assert s["exit"] == 3 and s["error"], s
PY
ls "$work"/stats.json*.tmp 2>/dev/null && fail "a temporary file is left"

# wherever --stats stands, whatever is wrong with the rest
refused() { # STATUS WORD ARGUMENT...: stats.json tells of it
    local status=$1 word=$2
    shift 2
    rm -f "$work/stats.json"
    "$PENSTOCK" "$@" >/dev/null 2>&1 </dev/null
    [ $? = "$status" ] || fail "penstock $*: not status $status"
    python3 - "$work/stats.json" "$status" "$word" <<'PY' || fail "penstock $*: stats"
import json, sys
s = json.load(open(sys.argv[1]))
assert s["exit"] == int(sys.argv[2]) and sys.argv[3] in s["error"], s
PY
}
refused 2 --temp run ./model --stats "$work/stats.json" --temp 1x
refused 2 --temp run ./model --temp 1x -p "$work/stats.json" --stats "$work/stats.json"
refused 2 --qqqqqqqq run ./model --qqqqqqqq --stats="$work/stats.json" -p
refused 2 MODEL run --stats "$work/stats.json"
PENSTOCK_TEMP=warm refused 2 PENSTOCK_TEMP run ./model -p x --stats "$work/stats.json"
PENSTOCK_STATS=$work/stats.json refused 2 'unknown option' run ./model --qqqqqqqq
"$PENSTOCK" run ./model --temp 1x -p --stats "$work/none.json" 2>/dev/null
[ ! -e "$work/none.json" ] || fail "the value of -p was taken for --stats"
expect 2 'stdout is for the text' run "$work/none" -p x --stats -
[ ! -e ./- ] || fail "--stats - made a file"
: >"$work/log"
"$PENSTOCK" run "$work/none" -p x --stats /dev/stderr 2>>"$work/log"
grep -q '"exit":3' "$work/log" && grep -q '^penstock: ' "$work/log" || fail "--stats /dev/stderr: $(cat "$work/log")"
[ -c /dev/null ] && [ -L /dev/stderr ] || fail "/dev/stderr is no longer what it was"

# SIGINT while the prompt is still coming
rm -f "$work/stats.json"
mkfifo "$work/fifo"
"$PENSTOCK" run ./model --stats "$work/stats.json" <"$work/fifo" 2>/dev/null &
pid=$!
exec 9>"$work/fifo"
printf 'Once upon' >&9
sleep 0.5
kill -INT "$pid"
wait "$pid"
[ $? = 130 ] || fail "SIGINT while reading a prompt: another status than 130"
exec 9>&-
grep -q '"exit":130' "$work/stats.json" || fail "SIGINT while reading a prompt: no statistics"

# what is generated is what is checked in
"$PENSTOCK" --man | cmp - "$PENSTOCK_SOURCE_DIR/deploy/man/penstock.1" || fail "deploy/man/penstock.1 is stale: penstock --man"
for pair in bash:penstock.bash zsh:_penstock fish:penstock.fish; do
    "$PENSTOCK" completion "${pair%%:*}" | cmp - "$PENSTOCK_SOURCE_DIR/deploy/completion/${pair##*:}" ||
        fail "deploy/completion/${pair##*:} is stale: penstock completion ${pair%%:*}"
done
if command -v groff >/dev/null; then
    [ -z "$("$PENSTOCK" --man | groff -man -Tutf8 -ww 2>&1 >/dev/null)" ] || fail "groff warns about the man page"
fi
"$PENSTOCK" completion bash >"$work/completion.bash"
bash -n "$work/completion.bash" || fail "bash completion does not parse"
words=$(bash --norc -c 'source "$1"; COMP_WORDS=(penstock cache v); COMP_CWORD=2; _penstock; echo "${COMPREPLY[*]}"' - "$work/completion.bash")
[ "$words" = verify ] || fail "bash completion of 'cache v': $words"
words=$(bash --norc -c 'source "$1"; COMP_WORDS=(penstock run --te); COMP_CWORD=2; _penstock; echo "${COMPREPLY[*]}"' - "$work/completion.bash")
[ "$words" = --temp ] || fail "bash completion of 'run --te': $words"
words=$(bash --norc -c 'source "$1"; COMP_WORDS=(penstock run --http h); COMP_CWORD=3; _penstock; echo "${COMPREPLY[*]}"' - "$work/completion.bash")
[ "$words" = "h1 h2" ] || fail "bash completion of '--http h': $words"

[ "$failed" = 0 ] && echo "cli_usage: ok"
exit "$failed"
