#!/usr/bin/env python3
"""Checks that the shared library exports exactly the functions that the public header declares.

    exports.py LIBRARY NAME,NAME,...
"""
import subprocess
import sys

library, declared = sys.argv[1], set(filter(None, sys.argv[2].split(",")))
lines = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
exported = {line.split()[-1].split("@")[0] for line in lines.splitlines() if " A " not in line}
for name in sorted(declared - exported):
    print(f"{name}: declared in penstock.h, not exported: is it defined, and inside the visibility pragma?")
for name in sorted(exported - declared):
    print(f"{name}: exported, but not declared in penstock.h")
print(f"exports: {len(exported)} names, {len(declared)} declared")
sys.exit(0 if exported == declared else 1)
