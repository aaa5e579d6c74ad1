#!/usr/bin/env bash
# Installs what Penstock needs on Debian 12. The only list of packages in this tree.
#
#   deploy/debian-deps.sh           to build and run
#   deploy/debian-deps.sh --test    that, and what the tests use
#   deploy/debian-deps.sh --list    prints the packages, installs nothing (add --test for both groups)
#
# Works as root or through sudo; does nothing, quickly, when all is installed.
set -euo pipefail

build=(
    build-essential cmake ninja-build pkg-config ca-certificates
    libcurl4-openssl-dev libssl-dev liblz4-dev libprotobuf-c-dev protobuf-c-compiler liblmdb-dev
    libutf8proc-dev libyajl-dev libmicrohttpd-dev
)
tests=(
    libcmocka-dev clang-format-14 nginx-light python3 python3-numpy curl openssl binutils procps
)

with_tests=0
list_only=0
for arg in "$@"; do
    case "$arg" in
    --test) with_tests=1 ;;
    --list) list_only=1 ;;
    *)
        echo "usage: deploy/debian-deps.sh [--test] [--list]" >&2
        exit 2
        ;;
    esac
done

packages=("${build[@]}")
if ((with_tests)); then
    packages+=("${tests[@]}")
fi
if ((list_only)); then
    printf '%s\n' "${packages[@]}"
    exit 0
fi

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "debian-deps.sh: no apt here: install the equivalents of: ${packages[*]}" >&2
    exit 1
fi

# nginx-light is one of several packages that bring the same program: any of them will do.
is_installed() {
    if [[ $1 == nginx-light ]] && command -v /usr/sbin/nginx >/dev/null; then
        return 0
    fi
    [[ $(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null) == "ii "* ]]
}

missing=()
for package in "${packages[@]}"; do
    is_installed "$package" || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
    echo "debian-deps.sh: all ${#packages[@]} packages are installed"
    exit 0
fi

as_root=()
if ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then
        echo "debian-deps.sh: run as root (there is no sudo) to install: ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi

# Tests start their own nginx on their own ports: keep the package from starting one as a service.
export DEBIAN_FRONTEND=noninteractive
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300)
echo "debian-deps.sh: installing ${missing[*]}"
install=("${apt[@]}" install -y --no-install-recommends "${missing[@]}")
# The package lists of a fresh image are empty or old: refresh them only when the first try fails.
if ! "${install[@]}" </dev/null >/dev/null 2>&1; then
    "${apt[@]}" update -q </dev/null
    "${install[@]}" -q </dev/null
fi
