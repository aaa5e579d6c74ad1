#!/usr/bin/env bash
# Builds and tests everything, offline once the packages are there. Run from anywhere:
#
#   ./test.sh            release build and all tests; address and undefined sanitizers; thread sanitizer
#   ./test.sh --quick    the release part only
#   ./test.sh --no-deps  does not look for packages to install
#
# Ends with the summary of each part; the exit status is 0 only when every part passed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

quick=0
deps=1
for arg in "$@"; do
    case "$arg" in
    --quick) quick=1 ;;
    --no-deps) deps=0 ;;
    *)
        echo "usage: ./test.sh [--quick] [--no-deps]" >&2
        exit 2
        ;;
    esac
done

jobs=$(nproc)
summaries=()
status=0

if ((deps)); then
    deploy/debian-deps.sh --test
fi

# build PRESET
build() {
    echo "== $1: build"
    cmake --preset "$1" -DPENSTOCK_WERROR=ON -DPENSTOCK_TESTS=ON --log-level=NOTICE
    cmake --build --preset "$1" -- -j "$jobs"
}

# run_tests PRESET CTEST_ARGUMENT...: goes on after a failure, so that one run shows all of them.
run_tests() {
    local preset=$1 log="build/$1/test.log" rc=0
    shift
    echo "== $preset: tests"
    ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -j "$jobs" "$@" 2>&1 </dev/null |
        tee "$log" || rc=$?
    summaries+=("$preset: $(grep -E '^[0-9]+% tests passed' "$log" || echo "ctest ended with status $rc")")
    ((rc == 0)) || status=1
}

build release
run_tests release

if ! ((quick)); then
    build asan
    run_tests asan --label-exclude 'slow|style'
    build tsan
    run_tests tsan --label-regex threads
fi

echo "== summary"
printf '%s\n' "${summaries[@]}"
exit "$status"
