#!/usr/bin/env bash
# Tests and measures the CUDA backend on this machine's GPU. From a fresh clone, one command:
#
#   tests/gpu/run.sh                 installs what is missing, builds, tests, measures
#   tests/gpu/run.sh --no-deps       does not look for packages
#   tests/gpu/run.sh --build DIR     uses a folder that was built before (a release build with the tests, by any machine)
#                                    and builds nothing: for a GPU machine without packages or compiler
#   tests/gpu/run.sh --collect DIR   on the machine that built DIR: puts the shared libraries that its programs need into
#                                    DIR/libs, from where --build takes them if the GPU machine lacks them. Runs nothing
#   tests/gpu/run.sh --only WORDS    some of: tests sanitizer bench program ("tests bench")
#   tests/gpu/run.sh --json FILE     the benchmark's figures as JSON, too
#
# Ends with what was covered and what was not. Exit status: 0 when all that ran passed and the tests did run on a GPU, 77
# when there is none, 1 otherwise. Whole-program checks are the scripts tests/gpu/program_*.{sh,py}; they get the program
# in PENSTOCK and the GPU in PENSTOCK_TEST_DEVICE=cuda, and say 77 for skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=build/release
make=1
deps=1
collect=0
json=
only="tests sanitizer bench program"
usage() {
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' tests/gpu/run.sh
    exit "$1"
}
while (($#)); do
    case "$1" in
    --no-deps) deps=0 ;;
    --build | --collect | --only | --json)
        (($# > 1)) || usage 2 >&2
        case "$1" in
        --build) build=$2 make=0 ;;
        --collect) build=$2 make=0 collect=1 ;;
        --only) only=$2 ;;
        --json) json=$2 ;;
        esac
        shift
        ;;
    -h | --help) usage 0 ;;
    *) usage 2 >&2 ;;
    esac
    shift
done

programs() {
    find "$build/tests" -maxdepth 1 -type f -perm -u+x \( -name 'test_device_*' -o -name bench_device \) | sort
}

if ((collect)); then
    mkdir -p "$build/libs"
    # The C library and its loader too: a program built against a newer one does not start on an older system.
    { programs; echo "$build/penstock"; } | xargs -r ldd 2>/dev/null | grep -o '/[^ ]*\.so[^ ]*' | sort -u |
        xargs -r cp -Lt "$build/libs"
    echo "run.sh: $(find "$build/libs" -type f | wc -l) libraries in $build/libs"
    exit 0
fi

# ---- what is here ----

gpu=
if command -v nvidia-smi >/dev/null; then
    gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -1 || true)
fi
if [[ -z $gpu ]]; then
    echo "run.sh: no GPU here (nvidia-smi shows none): nothing was tested" >&2
    exit 77
fi
echo "== GPU: $gpu"

if ((make)); then
    if ((deps)) && ! deploy/debian-deps.sh --test; then
        echo "run.sh: some packages are missing; trying to build without" >&2
    fi
    cmake --preset release -DPENSTOCK_TESTS=ON -DPENSTOCK_CUDA=ON --log-level=NOTICE
    cmake --build --preset release -- -j "$(nproc)"
fi
if [[ -z $(programs) ]]; then
    echo "run.sh: $build holds no test programs: build it with -DPENSTOCK_TESTS=ON" >&2
    exit 1
fi

# Programs that were built elsewhere may need the libraries that came with them.
start=()
if ldd "$build/tests/bench_device" "$build/tests/test_device_memory" 2>&1 | grep -q 'not found'; then
    loader=$build/libs/ld-linux-x86-64.so.2
    if [[ ! -e $loader ]]; then
        echo "run.sh: libraries are missing here; fill $build/libs with --collect where it was built:" >&2
        ldd "$build/tests/test_device_memory" 2>&1 | grep 'not found' >&2
        exit 1
    fi
    chmod u+x "$loader" 2>/dev/null || true
    start=("$loader" --library-path "$build/libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}")
fi

export PENSTOCK_TEST_DEVICE=cuda
unset PENSTOCK_DEVICE_MODULE # a fake would pass for a GPU
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
passed=() failed=() skipped=()
on_gpu=0

# check NAME COMMAND...: runs it, keeps its output for when it fails. Prints one line.
check() {
    local name=$1 rc=0 log
    log=$logs/$(tr -c 'a-zA-Z0-9_\n' _ <<<"$name")
    shift
    "$@" >"$log" 2>&1 </dev/null || rc=$?
    case $rc in
    0) passed+=("$name") && echo "   passed   $name" ;;
    77) skipped+=("$name: $(tail -n 1 "$log")") && echo "   skipped  $name: $(tail -n 1 "$log")" ;;
    *)
        failed+=("$name: status $rc")
        echo "   FAILED   $name (status $rc)"
        tail -n 60 "$log" | sed 's/^/      /'
        ;;
    esac
    return 0
}

wanted() {
    [[ " $only " == *" $1 "* ]] || { skipped+=("$1: not asked for") && false; }
}

device_tests() {
    programs | grep -v /bench_device
}

# ---- tests ----

if wanted tests; then
    echo "== tests on the GPU"
    for program in $(device_tests); do
        check "$(basename "$program")" "${start[@]}" "$program"
    done
    on_gpu=${#passed[@]}
fi

if wanted sanitizer; then
    sanitizer=$(command -v compute-sanitizer || true)
    for place in /usr/local/cuda/bin /usr/local/cuda/compute-sanitizer; do
        [[ -n $sanitizer || ! -x $place/compute-sanitizer ]] || sanitizer=$place/compute-sanitizer
    done
    if [[ -z $sanitizer ]]; then
        skipped+=("compute-sanitizer: not installed")
    else
        # Small shapes: every memory access is looked at. A call that fails on purpose (memory that is not there) is no finding.
        for tool in memcheck racecheck synccheck; do
            echo "== tests under compute-sanitizer $tool"
            for program in $(device_tests); do
                check "$tool $(basename "$program")" env PENSTOCK_TEST_SMALL=1 timeout 1200 "$sanitizer" --tool "$tool" \
                    --report-api-errors no --error-exitcode 99 "${start[@]}" "$program"
            done
        done
    fi
fi

# ---- speed ----

if wanted bench; then
    echo "== benchmark"
    bench=("${start[@]}" "$build/tests/bench_device" --device cuda --bars)
    rc=0
    if [[ -n $json ]]; then
        "${bench[@]}" --json >"$json" || rc=$?
    else
        "${bench[@]}" || rc=$?
    fi
    if ((rc == 0)); then
        passed+=("benchmark: every bar met")
    else
        failed+=("benchmark: status $rc (a bar missed, or it did not run)")
    fi
fi

# ---- the whole program ----

if wanted program; then
    echo "== the program"
    found=0
    penstock=$PWD/$build/penstock
    [[ $build == /* ]] && penstock=$build/penstock
    if ((${#start[@]})); then # a name that scripts can call
        printf '#!/bin/sh\nexec %q --library-path %q %q "$@"\n' "$(realpath "${start[0]}")" "${start[2]}" "$penstock" >"$logs/penstock"
        chmod +x "$logs/penstock"
        penstock=$logs/penstock
    fi
    for script in tests/gpu/program_*.sh tests/gpu/program_*.py; do
        [[ -e $script ]] || continue
        found=1
        case $script in
        *.py) run=(python3 "$script") ;;
        *) run=(bash "$script") ;;
        esac
        check "$(basename "$script")" env PENSTOCK="$penstock" PENSTOCK_SOURCE_DIR="$PWD" "${run[@]}"
    done
    ((found)) || skipped+=("program: there are no tests/gpu/program_* scripts")
fi

# ---- what it came to ----

echo "== covered on $gpu"
printf '   %s\n' "${passed[@]:-nothing}"
if ((${#skipped[@]})); then
    echo "== not covered"
    printf '   %s\n' "${skipped[@]}"
fi
if ((${#failed[@]})); then
    echo "== FAILED"
    printf '   %s\n' "${failed[@]}"
    exit 1
fi
if [[ " $only " == *" tests "* ]] && ((on_gpu == 0)); then
    echo "== no test ran on a GPU"
    exit 1
fi
