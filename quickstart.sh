#!/usr/bin/env bash
# From a fresh clone on Debian 12 to text in one command:
#
#   ./quickstart.sh              installs what is missing (root or sudo), builds, shares the model in models/kjv on
#                                loopback, and runs it over HTTP with a disk cache of half its size
#   ./quickstart.sh --no-deps    does not look for packages
#   ./quickstart.sh "a prompt"   with a prompt of your own
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

deps=1
prompt="And it came to pass"
for arg in "$@"; do
    case "$arg" in
    --no-deps) deps=0 ;;
    -h | --help)
        sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    -*)
        echo "usage: ./quickstart.sh [--no-deps] [PROMPT]" >&2
        exit 2
        ;;
    *) prompt=$arg ;;
    esac
done

if ((deps)); then
    deploy/debian-deps.sh
fi

echo "== build"
cmake --preset release -DPENSTOCK_TESTS=OFF --log-level=NOTICE
cmake --build --preset release --target penstock
penstock=build/release/penstock

work=$(mktemp -d)
share_pid=
cleanup() {
    if [[ -n $share_pid ]]; then
        kill "$share_pid" 2>/dev/null || true
        wait "$share_pid" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap cleanup EXIT

echo "== share models/kjv on loopback"
"$penstock" share models/kjv --port 0 --json >"$work/share.json" 2>"$work/share.log" &
share_pid=$!
url=
for _ in $(seq 100); do
    url=$(sed -n 's/.*"url": *"\([^"]*\)".*/\1/p' "$work/share.json")
    [[ -n $url ]] && break
    kill -0 "$share_pid" 2>/dev/null || break
    sleep 0.1
done
if [[ -z $url ]]; then
    echo "quickstart: penstock share did not start:" >&2
    cat "$work/share.log" >&2
    exit 1
fi

echo "== run $url with a disk cache of half the model"
"$penstock" run "$url" -p "$prompt" --echo -n 120 --temp 0.8 -s 7 --disk 50% --ram min --cache "$work/cache" \
    --stats "$work/stats.json"

echo "== what the run did"
python3=$(command -v python3 || true)
if [[ -n $python3 ]]; then
    "$python3" -c 'import json, sys; print(json.dumps({k: v for k, v in json.load(open(sys.argv[1])).items() if k != "plan"}, indent=1))' \
        "$work/stats.json"
else
    cat "$work/stats.json"
fi
echo "cache folder: $(du -sB1 "$work/cache" | cut -f1) bytes of $(stat -c %s models/kjv/model.safetensors) bytes of weights"
