#!/usr/bin/env python3
"""Checks that every C, C++ and CUDA file is laid out as clang-format 14 would: format.py SOURCE_DIR [--fix [FILE...]]

--fix lays the files out, and rewraps comments that run beyond the 120 columns of lint.py. FILE... after it: only those.
Skipped (status 77) where clang-format 14 is missing: another version lays out differently.
"""
import os
import re
import shutil
import subprocess
import sys
import textwrap

DIRS = ["base", "proto", "fetcher", "cache", "kernels", "runtime", "tools", "include", "tests"]
SKIP_DIRS = {"fixtures", "corpus", "third_party", "__pycache__"}


def find_clang_format():
    for name in ("clang-format-14", "clang-format"):
        path = shutil.which(name)
        if path:
            version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
            if "version 14." in version:
                return path
    return None


def c_files(root):
    for top in DIRS:
        for folder, dirs, files in os.walk(os.path.join(root, top)):
            dirs[:] = sorted(d for d in dirs if d not in SKIP_DIRS)
            for name in sorted(files):
                # Generated tables are laid out by their generator.
                if name.endswith((".c", ".h", ".cc", ".cu", ".cuh")) and not name.endswith(("_data.c", "_data.h")):
                    yield os.path.relpath(os.path.join(folder, name), root)


def rewrap(match):
    """A comment that stands alone, if one of its lines is too long: the same paragraphs in lines of at most 118."""
    indent, body = match.group(1), match.group(2)
    if all(len(line) <= 120 for line in match.group(0).split("\n")):
        return match.group(0)
    if re.search(r"\n[ \t]*\*[ \t]*(?:-|\d[.)]|[ ]{3})", body):
        return match.group(0)  # a list or a table: for its author
    text = "\n".join(re.sub(r"^\s*\*? ?", "", line).rstrip() for line in body.split("\n"))
    out = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if out:
            out.append("")
        out += textwrap.wrap(" ".join(paragraph.split()), 118 - len(indent) - 6, break_long_words=False,
                             break_on_hyphens=False)
    lines = [indent + ("/* " if i == 0 else " * ") + line for i, line in enumerate(out)]
    return "\n".join(line.rstrip() for line in lines) + " */"


def fix(tool, root, files):
    for name in files:
        path = os.path.join(root, name)
        with open(path, encoding="utf-8") as f:
            before = f.read()
        after = re.sub(r"(?m)^([ \t]*)/\*(.*?)\*/[ \t]*$", rewrap, before, flags=re.S)
        if after != before:
            with open(path, "w", encoding="utf-8") as f:
                f.write(after)
    return subprocess.run([tool, "-i", *files], cwd=root).returncode if files else 0


def main():
    root = sys.argv[1]
    tool = find_clang_format()
    if not tool:
        print("format: clang-format 14 is not installed: skipped")
        return 77
    files = list(c_files(root))
    if "--fix" in sys.argv[2:]:
        return fix(tool, root, sys.argv[sys.argv.index("--fix") + 1:] or files)
    bad = []
    for i in range(0, len(files), 40):
        # Exit status first; only a batch that fails is looked at file by file.
        batch = files[i:i + 40]
        if subprocess.run([tool, "--dry-run", "-Werror", *batch], cwd=root, capture_output=True).returncode == 0:
            continue
        for name in batch:
            if subprocess.run([tool, "--dry-run", "-Werror", name], cwd=root, capture_output=True).returncode:
                bad.append(name)
    for name in bad:
        print(f"{name}: not laid out as .clang-format says: run tests/lint/format.py . --fix")
    print(f"format: {len(files)} files, {len(bad)} to fix")
    return 1 if bad else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: format.py SOURCE_DIR [--fix [FILE...]]")
    sys.exit(main())
