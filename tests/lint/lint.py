#!/usr/bin/env python3
"""Checks that the compiler does not make: who may include whom, calls that are banned, sizes, names.

    lint.py SOURCE_DIR     prints one line per finding and ends with status 1 if there is any
    lint.py --self-test    checks the checks

A line that must break a rule says so in a comment on that line: lint-allow: RULE, and why.
"""
import os
import re
import sys

# A directory may include itself and what is listed. The layers: base <- proto <- {fetcher, cache, kernels} <- runtime
# <- tools; fetcher, cache and kernels never see one another.
LAYERS = {
    "base": set(),
    "proto": {"base"},
    "fetcher": {"base", "proto"},
    "cache": {"base", "proto"},
    "kernels": {"base", "proto"},
    "runtime": {"base", "proto", "fetcher", "cache", "kernels", "penstock"},
    "tools": {"base", "proto", "fetcher", "cache", "kernels", "runtime", "penstock"},
}

# Third-party headers and the only places that may include them: a path, or a directory that ends in "/".
HOMES = [
    (r"curl/", ["fetcher/"]),
    (r"lmdb\.h", ["cache/index_internal.h"]),
    (r"microhttpd\.h", ["tools/"]),
    (r"yajl/", ["base/json.c"]),
    (r"protobuf-c/|.*\.pb-c\.h", ["base/", "proto/"]),
    (r"openssl/(?!ssl\.h)", ["base/", "proto/"]),
    (r"openssl/ssl\.h", ["fetcher/http_handshake.c"]),
    (r"lz4", ["proto/", "kernels/codec/"]),
    (r"utf8proc", ["runtime/"]),
    (r"cuda|cublas|nvml", ["kernels/cuda/"]),
]

BANNED_CALLS = {
    "strcpy": "use memcpy with a known length, or ps_strbuf",
    "strcat": "use ps_strbuf",
    "sprintf": "use snprintf",
    "vsprintf": "use vsnprintf",
    "gets": "use read",
    "system": "no shell",
    "popen": "no shell",
    "alloca": "no unbounded stack",
    "atoi": "use strtol and look at its end",
    "atol": "use strtol and look at its end",
    "atof": "use strtod and look at its end",
    "strtok": "keeps hidden state: use strtok_r or strcspn",
    "usleep": "no sleeping polls: wait on a condition, a futex or a file descriptor",
    "sleep": "no sleeping polls: wait on a condition, a futex or a file descriptor",
    "nanosleep": "no sleeping polls: wait on a condition, a futex or a file descriptor",
}
HEAP_CALLS = {"malloc", "calloc", "realloc", "free", "strdup", "strndup", "aligned_alloc", "posix_memalign"}
HEAP_HOME = "base/alloc.c"

MAX_FUNCTION_LINES = 120
MAX_FILE_LINES = 1500
MAX_COLUMNS = 120

# C everywhere; C++ and CUDA in the one directory that may have them.
SOURCES = (".c", ".h", ".cc", ".cu", ".cuh")
CXX_HOME = "kernels/cuda/"

SKIP_DIRS = {".git", "build", "__pycache__", "fixtures", "corpus", "third_party", "models", "node_modules"}
# Paths of the machine that a file was written on have no place in the tree. (Written in pieces: this file is checked too.)
LOCAL_PATH = re.compile(r"(?<![\w.])/(?:" + "wor" + r"k/(?:main|shared)|" + "roo" + r"t/[.\w])")


def strip_code(text):
    """Blanks comments and the contents of strings, keeping line breaks, so that patterns see code only."""
    pattern = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)

    def blank(match):
        s = match.group(0)
        if s[0] == '"':
            return '"' + " " * (len(s) - 2) + '"'
        return re.sub(r"[^\n]", " ", s)

    return pattern.sub(blank, text)


def includes(text):
    """(line number, name) of every #include. Read from the raw text, because names are string contents."""
    for m in re.finditer(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"]', text, re.M):
        yield text.count("\n", 0, m.start()) + 1, m.group(1)


def at_home(path, homes):
    return any(path == h or (h.endswith("/") and path.startswith(h)) for h in homes)


def check_includes(path, text):
    top = path.split("/")[0]
    product = top in LAYERS
    for line, name in includes(text):
        target = name.split("/")[0]
        if product and "/" in name and target != top:
            if target in LAYERS and target not in LAYERS[top]:
                yield line, "layer", f"{top}/ may not include {name}"
            elif target == "penstock" and target not in LAYERS[top]:
                yield line, "layer", f"{top}/ may not include {name}"
            elif target == "tests":
                yield line, "layer", f"{top}/ may not include {name}"
        if product:
            for pattern, homes in HOMES:
                # Our own headers may have such a name in them; only the system's are meant, and generated ones.
                own = target in LAYERS and not name.endswith(".pb-c.h")
                if not own and re.match(pattern, name) and not at_home(path, homes):
                    yield line, "home", f"{name} belongs to {', '.join(homes)} only"


def check_calls(path, code):
    if path.split("/")[0] not in LAYERS:
        return
    for m in re.finditer(r"(?<![\w.>])([a-z_][a-z0-9_]*)[ \t]*\(", code):
        name = m.group(1)
        line = code.count("\n", 0, m.start()) + 1
        if name in BANNED_CALLS:
            yield line, "banned", f"{name}(): {BANNED_CALLS[name]}"
        elif name in HEAP_CALLS and path != HEAP_HOME:
            yield line, "heap", f"{name}(): allocate through base/alloc.h"


def check_functions(code):
    """The house style puts the braces of functions, and only theirs, alone in column 0."""
    start = None
    for number, line in enumerate(code.split("\n"), 1):
        if line.rstrip() == "{":
            start = number
        elif line.startswith("}") and start is not None:
            length = number - start + 1
            if length > MAX_FUNCTION_LINES:
                yield start, "function-length", f"function of {length} lines, at most {MAX_FUNCTION_LINES}"
            start = None


def check_shape(path, text):
    lines = text.split("\n")
    is_c = path.endswith(SOURCES)
    if is_c and not text.startswith("/*"):
        yield 1, "opening", "the file must open with a comment: its place in the data path"
    if path.endswith((".cc", ".cu", ".cuh")) and not path.startswith(CXX_HOME):
        yield 1, "language", f"C++ and CUDA belong in {CXX_HOME} only"
    # Generated tables are data, whatever their length.
    if is_c and len(lines) - 1 > MAX_FILE_LINES and not path.endswith(("_data.c", "_data.h")):
        yield 1, "file-length", f"{len(lines) - 1} lines, at most {MAX_FILE_LINES}"
    for number, line in enumerate(lines, 1):
        if is_c and len(line) > MAX_COLUMNS:
            yield number, "columns", f"{len(line)} columns, at most {MAX_COLUMNS}"
        if line != line.rstrip():
            yield number, "blank", "blanks at the end of the line"
        if is_c and "\t" in line:
            yield number, "tab", "tab"
        if LOCAL_PATH.search(line):
            yield number, "local-path", "path of one machine"
    if text and not text.endswith("\n"):
        yield len(lines), "newline", "no newline at the end of the file"


def check_file(path, text):
    """All findings of one file as (line, rule, message), in order."""
    found = list(check_shape(path, text))
    if path.endswith(SOURCES):
        code = strip_code(text)
        found += check_includes(path, text)
        found += check_calls(path, code)
        found += check_functions(code)
    lines = text.split("\n")
    allowed = lambda line, rule: f"lint-allow: {rule}" in lines[line - 1] if line <= len(lines) else False
    return sorted(f for f in found if not allowed(f[0], f[1]))


def check_names(paths):
    """A file name that occurs once can be spoken of without its directory."""
    seen = {}
    for path in sorted(paths):
        name = path.rsplit("/", 1)[-1]
        if name.endswith((*SOURCES, ".proto", ".sh")):
            if name in seen:
                yield path, f"same file name as {seen[name]}"
            seen.setdefault(name, path)


def source_files(root):
    for folder, dirs, files in os.walk(root):
        dirs[:] = sorted(d for d in dirs if d not in SKIP_DIRS and not d.startswith("build-"))
        for name in sorted(files):
            if name.endswith((*SOURCES, ".py", ".sh", ".cmake", ".proto")) or name == "CMakeLists.txt":
                yield os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")


def run(root):
    paths = list(source_files(root))
    count = 0
    for path in paths:
        with open(os.path.join(root, path), encoding="utf-8") as f:
            text = f.read()
        for line, rule, message in check_file(path, text):
            print(f"{path}:{line}: {message} [{rule}]")
            count += 1
    for path, message in check_names(paths):
        print(f"{path}:1: {message} [unique-name]")
        count += 1
    print(f"lint: {len(paths)} files, {count} findings")
    return 1 if count else 0


def self_test():
    head = "/* x */\n"

    def rules(path, body):
        return sorted({rule for _, rule, _ in check_file(path, head + body)})

    cases = [
        ("cache/a.c", '#include "fetcher/store.h"\n', ["layer"]),
        ("kernels/a.c", '#include "cache/cache.h"\n', ["layer"]),
        ("base/a.c", '#include "proto/map.h"\n', ["layer"]),
        ("proto/a.c", '#include "base/err.h"\n#include "proto/map.h"\n', []),
        ("runtime/a.c", '#include "cache/cache.h"\n#include "fetcher/store.h"\n', []),
        ("runtime/a.c", '#include "tools/options.h"\n', ["layer"]),
        ("runtime/a.c", '#include "tests/support/test.h"\n', ["layer"]),
        ("kernels/cuda/a.cu", "#include <cuda_runtime.h>\n", []),
        ("kernels/a.c", "#include <cuda_runtime.h>\n", ["home"]),
        ("kernels/cuda/a.cuh", '#include "runtime/plan.h"\n', ["layer"]),
        ("kernels/cuda/a.cc", "int f()\n{\n    return malloc(1);\n}\n", ["heap"]),
        ("kernels/a.cu", "int x;\n", ["language"]),
        ("cache/a.c", "#include <curl/curl.h>\n", ["home"]),
        ("cache/a.c", "# include <lmdb.h>\n", ["home"]),
        ("cache/index_internal.h", "#include <lmdb.h>\n", []),
        ("runtime/a.c", '#include "cache/index.h"\n', []),
        ("base/log.c", "#include <yajl/yajl_parse.h>\n", ["home"]),
        ("runtime/a.c", '#include "proto/manifest.pb-c.h"\n', ["home"]),
        ("runtime/a.c", "#include <microhttpd.h>\n", ["home"]),
        ("fetcher/a.c", "#include <openssl/sha.h>\n", ["home"]),
        ("fetcher/a.c", "#include <openssl/ssl.h>\n", ["home"]),
        ("base/a.c", "#include <openssl/ssl.h>\n", ["home"]),
        ("fetcher/http_handshake.c", "#include <openssl/ssl.h>\n", []),
        ("tests/unit/test_a.c", "#include <curl/curl.h>\n", []),
        ("base/a.c", "int f(void)\n{\n    return atoi(x);\n}\n", ["banned"]),
        ("base/a.c", "/* strcpy(a, b) */\nconst char *s = \"system(1)\";\n", []),
        ("base/a.c", "p = malloc (3);\n", ["heap"]),
        ("base/alloc.c", "p = malloc(3);\n", []),
        ("base/a.c", "ops->free(p);\nx.free(p);\nps_free(p);\nps_malloc(1);\n", []),
        ("base/a.c", "free(p); /* lint-allow: heap, the library's own memory */\n", []),
        ("base/a.c", "void f(void)\n{\n" + "    x();\n" * 118 + "}\n", []),
        ("base/a.c", "void f(void)\n{\n" + "    x();\n" * 119 + "}\n", ["function-length"]),
        ("base/a.c", "x;\n" * 1499, []),
        ("base/a.c", "x;\n" * 1500, ["file-length"]),
        ("base/a_data.c", "x;\n" * 1500, []),
        ("base/a.c", "x" * 121 + "\n", ["columns"]),
        ("base/a.c", "x; \n", ["blank"]),
        ("base/a.c", "\tx;\n", ["tab"]),
        ("base/a.c", "x", ["newline"]),
        ("base/a.c", "/* see /wor" + "k/main/x */\n", ["local-path"]),
    ]
    failed = 0
    for path, body, want in cases:
        got = rules(path, body)
        if got != want:
            print(f"self-test: {path}: {body[:60]!r}: {got}, want {want}")
            failed += 1
    if [rule for _, rule, _ in check_file("base/a.c", "int x;\n")] != ["opening"]:
        print("self-test: a file without an opening comment passes")
        failed += 1
    if len(list(check_names(["a/x.c", "b/x.c", "a/CMakeLists.txt", "b/CMakeLists.txt"]))) != 1:
        print("self-test: unique names")
        failed += 1
    print(f"lint self-test: {len(cases) + 2} cases, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: lint.py SOURCE_DIR | --self-test")
    sys.exit(self_test() if sys.argv[1] == "--self-test" else run(sys.argv[1]))
