#!/usr/bin/env python3
"""`cmake --install BUILD --prefix X`: a program is compiled, linked and run with what pkg-config says of X, also once the
tree has been moved."""
# ctest-timeout: 120
import os
import re
import shutil
import subprocess
import sys
import tempfile

BINARY_DIR = os.environ.get("PENSTOCK_BINARY_DIR", "")
CC = shutil.which(os.environ.get("CC", "cc"))
PROGRAM = r"""
#include <stdio.h>
#include <penstock/penstock.h>
int main(void)
{
    return puts(ps_version()) < 0;
}
"""


def run(*argv, **more):
    p = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False, **more)
    if p.returncode != 0:
        sys.exit(f"FAIL: {' '.join(argv)}: status {p.returncode}: {p.stdout[-500:]}{p.stderr[-500:]}")
    return p.stdout


def compile_with(prefix, work):
    [pc] = [os.path.join(base, name) for base, _, names in os.walk(prefix) for name in names if name == "penstock.pc"]
    env = dict(os.environ, PKG_CONFIG_PATH=os.path.dirname(pc))
    flags = run("pkg-config", "--cflags", "--libs", "penstock", env=env).split()
    outside = [f for f in flags if re.match("-[IL]", f) and not os.path.realpath(f[2:]).startswith(prefix + "/")]
    if outside or not flags:
        sys.exit(f"FAIL: pkg-config names what is outside of {prefix}: {flags}")
    source, program = os.path.join(work, "p.c"), os.path.join(work, "p")
    with open(source, "w", encoding="ascii") as f:
        f.write(PROGRAM)
    run(CC, source, "-o", program, *flags)
    libdir = run("pkg-config", "--variable=libdir", "penstock", env=env).strip()
    said = run(program, env=dict(os.environ, LD_LIBRARY_PATH=libdir)).strip()
    version = run("pkg-config", "--modversion", "penstock", env=env).strip()
    if said != version:
        sys.exit(f"FAIL: the program says {said!r}, pkg-config {version!r}")


def main():
    if os.environ.get("PENSTOCK_SANITIZE") or not BINARY_DIR:
        print("skipped: a sanitizer's library needs a sanitizer's program")
        return 77
    if not (CC and shutil.which("pkg-config") and shutil.which("cmake")):
        print("skipped: no cc, pkg-config or cmake")
        return 77
    with tempfile.TemporaryDirectory() as work:
        work = os.path.realpath(work)
        first, moved = os.path.join(work, "first"), os.path.join(work, "moved", "tree")
        run("cmake", "--install", BINARY_DIR, "--prefix", first)
        compile_with(first, work)
        os.makedirs(os.path.dirname(moved))
        os.rename(first, moved)
        compile_with(moved, work)
    print("install_tree: ok")
    return 0


sys.exit(main())
