#!/usr/bin/env python3
"""Surroundings that are against a run: a cache folder that can't be written, is full, is a file or belongs to a newer
Penstock, budgets that are too small by a byte, signals, closed pipes, odd prompts. A cache that can't be had costs one
warning and never the text; a budget that is too small names the least that works, and that works; and no user name,
password, token or signed query ever appears on stderr, in a result file or in the cache."""
# ctest-timeout: 240
import base64
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import badhttp  # noqa: E402
import peer  # noqa: E402

PROMPT = "In the beginning"
N = 8
ARGS = ("-p", PROMPT, "--temp", "0", "--ignore-eos")
SLOW = 6 if peer.SANITIZED else 1
ROOM = {"PENSTOCK_MIN_FREE": "0"}
# One for each place in which a secret can travel; none is a part of another or of anything else.
USER, PASSWORD, TOKEN, SIGNATURE = "us3rqz", "pa55wqz", "t0kenqz", "s1gnqz"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class Right:
    text = b""
    web = None
    root = ""


def run(t, *args, cache="cache", n=N, model=None, **kw):
    kw["env"] = {**ROOM, **kw.get("env", {})}
    return t.run("run", model or Right.web.url, *ARGS, "-n", n, *args, cache=t.path(cache) if cache else None,
                 seconds=60 * SLOW, **kw)


def fine(t, r, what):
    t.equal(r.rc, 0, f"{what}: {r}")
    t.equal(r.text, Right.text, f"{what}: the text")
    t.check(not badhttp.CRASH.search(r.err), f"{what}: a crash: {r.err[-1500:]}")


def said_once(t, r, *words):
    lines = [x for x in r.err.splitlines() if x.strip()]
    t.equal(len(lines), 1, f"one line says that nothing is cached: {lines}")
    for word in ("cache", *words):
        t.check(re.search(word, r.err), f"{word!r} is not said: {r.err!r}")
    t.equal(r.stats.get("bytes_disk_written"), 0, "bytes_disk_written")


# ---- the cache's folder ----

def as_nobody(t, *args):
    """Another user, for whom modes count. The temporary folder is open to all from here on."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() == 0 and not setpriv:
        t.note("setpriv is not installed: root can't be kept out of a folder: left out")
        return None
    os.chmod(t.whole.temp, 0o755)
    os.chmod(t.temp, 0o755)
    prefix = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    stats = os.path.join(t.temp, "open", "stats.json")
    os.makedirs(os.path.dirname(stats), exist_ok=True)
    os.chmod(os.path.dirname(stats), 0o777)
    if prefix and subprocess.run([*prefix, t.program, "version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 check=False).returncode:
        t.note("another user can't run the program where it is: left out")
        return None
    r = peer.Result()
    p = peer.spawn([*prefix, t.program, "run", Right.web.url, *ARGS, "-n", str(N), "-q", "--stats", stats, *args],
                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"HOME": t.path("home"), **ROOM})
    r.out, err = p.communicate(timeout=60 * SLOW)
    r.rc, r.err, r.args = p.returncode, err.decode(errors="replace"), args
    with open(stats) as f:
        r.stats = json.load(f)
    os.unlink(stats)
    return r


def listing(folder):
    """Names, sizes and contents, to see that nothing was touched. Times of reading apart."""
    out = {}
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            with open(path, "rb") as f:
                out[os.path.relpath(path, folder)] = f.read() if os.path.getsize(path) < 1 << 20 else os.stat(path).st_mtime_ns
    return out


def read_only(t):
    r = run(t, cache="full", disk="32M")
    fine(t, r, "fills the cache")
    os.makedirs(t.path("empty"))
    for name in ("full", "empty"):
        for base, folders, files in os.walk(t.path(name)):
            for x in files:
                os.chmod(os.path.join(base, x), 0o444)
            os.chmod(base, 0o555)
    before = listing(t.path("full"))
    for name in ("full", "empty", "empty/below"):
        r = as_nobody(t, "--cache", t.path(name), "--disk", "32M")
        if r is None:
            return
        fine(t, r, f"a cache that can't be written ({name})")
        t.check(len(r.err.splitlines()) <= 1, f"{name}: {r.err!r}")
        if name != "full":  # a filled one may be read in silence
            said_once(t, r)
    t.equal(listing(t.path("full")), before, "a cache that can't be written is as it was")
    # somebody else's home, as containers have it that run as another user
    os.makedirs(t.path("closed"))
    os.chmod(t.path("closed"), 0o700 if os.geteuid() == 0 else 0)
    for more in ((), ("--disk", "32M"), ("--disk", "50%")):
        r = as_nobody(t, "--cache", t.path("closed/.cache/penstock"), *more)
        fine(t, r, f"a cache in a folder that can't be entered {more}")
        said_once(t, r)


def read_only_mount(t):
    """A file system that is mounted read-only: for root too."""
    place = mount(t, "ro", "1m")
    if not place:
        return
    try:
        if subprocess.run(["mount", "-o", "remount,ro", place], check=False, stderr=subprocess.DEVNULL).returncode:
            t.note("no remounting here: left out")
            return
        r = run(t, "--cache", place, cache=None, disk="32M")
        fine(t, r, "a read-only file system")
        said_once(t, r)
    finally:
        unmount(place)


def mount(t, name, size):
    place = t.path(name)
    os.makedirs(place)
    if os.geteuid() != 0 or not shutil.which("mount"):
        t.note("not root: no file system of its own: left out")
        return None
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + size, "none", place], check=False,
                      stderr=subprocess.DEVNULL).returncode:
        t.note("mounting is not permitted here: left out")
        return None
    return place


def unmount(place):
    subprocess.run(["umount", place], check=False)


def full_disk(t):
    """Room for nothing, for an index alone, for a half, and none in the middle of a run."""
    for size, fill in (("64k", True), ("300k", False), ("700k", False), ("4m", False), ("4m", True)):
        place = mount(t, f"disk-{size}-{fill}", size)
        if not place:
            return
        try:
            if fill:
                with open(os.path.join(place, "filler"), "wb", buffering=0) as f:
                    try:
                        while f.write(b"x" * 65536):
                            pass
                    except OSError:
                        pass
            where = os.path.join(place, "c")
            r = run(t, "--cache", where, cache=None, disk="32M")
            what = f"a disk of {size}{', full' if fill else ''}"
            fine(t, r, what)
            lines = r.err.splitlines()
            t.check(len(lines) <= 1, f"{what}: said {len(lines)} times: {lines[:4]}")
            if fill:
                said_once(t, r)
            v = t.run("cache", "verify", cache=where)
            t.equal(v.rc, 0, f"{what}: cache verify: {v}")
            fine(t, run(t, "--cache", where, cache=None, disk="32M"), what + ", again")
        finally:
            unmount(place)


def fills_under_way(t):
    """Somebody else takes the last room while a run writes."""
    place = mount(t, "shared", "6m")
    if not place:
        return
    filler = os.path.join(place, "filler")

    def scenario(q, r):
        if q.name.endswith(".safetensors") and q.first and q.total > 14 and not os.path.exists(filler):
            try:
                with open(filler, "wb", buffering=0) as f:
                    while f.write(b"x" * 65536):
                        pass
            except OSError:
                pass
    web = badhttp.Server(Right.root, scenario)
    try:
        r = run(t, "--cache", os.path.join(place, "c"), cache=None, disk="32M", model=web.url)
        fine(t, r, "a disk that fills")
        t.check(len(r.err.splitlines()) <= 1, f"said more than once: {r.err[:600]}")
        t.check(os.path.exists(filler), "it did fill")
        v = t.run("cache", "verify", cache=os.path.join(place, "c"))
        t.equal(v.rc, 0, f"cache verify: {v}")
        os.unlink(filler)
        fine(t, run(t, "--cache", os.path.join(place, "c"), cache=None, disk="32M", model=web.url), "with room again")
    finally:
        web.stop()
        unmount(place)


def a_file(t):
    with open(t.path("file"), "wb") as f:
        f.write(b"precious")
    r = run(t, cache="file", disk="32M")
    if r.rc == 0:
        fine(t, r, "--cache names a file")
        said_once(t, r, "file")
    else:
        badhttp.check_failed(t, r, (2, 5), ("file",), what="--cache names a file")
    with open(t.path("file"), "rb") as f:
        t.equal(f.read(), b"precious", "the file")


def not_a_cache(t):
    """A folder of somebody's own files is refused, and left as it was; --disk 0 makes no cache and needs none."""
    for name in ("slabs", "index"):
        os.makedirs(t.path("home2", name))
    for name in ("thesis.txt", "index/notes", "slabs/notes"):
        with open(t.path("home2", name), "wb") as f:
            f.write(b"precious " * 100)
    before = listing(t.path("home2"))
    r = run(t, cache="home2", disk="32M")
    badhttp.check_failed(t, r, 2, ("home2", "--cache"), what="a folder with other files")
    t.equal(listing(t.path("home2")), before, "--disk 32M in a folder that is no cache")
    r = run(t, cache="home2", disk=0)
    t.equal((r.rc, r.text), (0, Right.text), f"a folder with other files and --disk 0: {r}")
    after = listing(t.path("home2"))
    t.check(all(after.get(k) == v for k, v in before.items()), f"--disk 0 removed files that are not the cache's: {sorted(after)} are left")


def crc32c(seed, data):
    crc = seed ^ 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def format_record(number):
    """What cache/index_rows.c writes: the number of the format and its checksum."""
    head = struct.pack("<I", number)
    return head + struct.pack("<I", crc32c(0x6b636f74, head))


def newer_version(t):
    fine(t, run(t, disk="32M"), "fills the cache")
    path = t.path("cache", "index", "data.mdb")
    with open(path, "rb") as f:
        data = bytearray(f.read())
    patched = 0
    for m in re.finditer(rb"meta" + re.escape(format_record(3)), bytes(data)):
        data[m.start() + 4:m.start() + 12] = format_record(9)
        patched += 1
    t.check(patched > 0, "the counters of the index are not where they were")
    with open(path, "wb") as f:
        f.write(data)
    slabs = {x: os.stat(t.path("cache", "slabs", x)).st_mtime_ns for x in os.listdir(t.path("cache", "slabs"))}
    r = run(t, disk="32M")
    if r.rc == 0:
        fine(t, r, "a cache of a newer version")
        said_once(t, r, "newer")
    else:
        badhttp.check_failed(t, r, 1, ("newer", "cache"), what="a cache of a newer version")
    for command in ("ls", "stat", "verify"):
        r = t.run("cache", command, cache=t.path("cache"))
        badhttp.check_failed(t, r, 1, ("newer",), stats=False, what="cache " + command)
    with open(path, "rb") as f:
        t.equal(f.read(), bytes(data), "the newer index is as it was")
    t.equal({x: os.stat(t.path("cache", "slabs", x)).st_mtime_ns for x in os.listdir(t.path("cache", "slabs"))}, slabs, "its slabs")


# ---- budgets ----

def least(t, r, what):
    badhttp.check_failed(t, r, 5, (r"\d",), what=what)
    t.equal(r.out, b"", f"{what}: stdout")
    m = re.search(r"(?:least[^\d]*)(\d+)", r.err)
    return int(m[1]) if t.check(m, f"{what}: the least is not named: {r.err!r}") else None


def little_disk(t):
    n = least(t, run(t, disk="20K"), "--disk 20K")
    t.check(not os.path.exists(t.path("cache")), "a refused budget leaves a folder")
    if n:
        r = run(t, disk=n, watch=True)
        fine(t, r, f"--disk {n}")
        t.check(r.peak_folder <= n, f"--disk {n}: {r.peak_folder} bytes were on disk")
        least(t, run(t, disk=n - 1), f"--disk {n - 1}")


def little_ram(t):
    web = badhttp.Server(Right.root)
    for what, model, more in (("over HTTP, no cache", None, dict(disk=0)), ("with a cache", None, dict(disk="32M")), ("from a folder", peer.KJV, {})):
        r = run(t, ram="1M", model=model or web.url, **more)
        n = least(t, r, f"--ram 1M {what}")
        t.equal(r.stats.get("plan", {}).get("ram_min_bytes", n), n, f"{what}: ram_min_bytes")
        weights = [q for q in web.log if q.name.endswith(".safetensors") and q.first]
        t.equal(weights, [], f"{what}: weights were fetched for a run that can't be")
        if n:
            fine(t, run(t, ram=n, model=model or web.url, **more), f"--ram {n} {what}")
            least(t, run(t, ram=n - 1, model=model or web.url, **more), f"--ram {n - 1} {what}")
            fine(t, run(t, ram="min", model=model or web.url, **more), f"--ram min {what}")
        web.set(None)
    web.stop()


def max_egress(t):
    r = run(t, "--max-egress", "2M", disk=0)
    badhttp.check_failed(t, r, 5, ("egress",), what="--max-egress")
    t.check(r.stats.get("bytes_net", 1 << 40) <= 2 << 20, f"--max-egress 2M: {r.stats.get('bytes_net')} bytes came")


# ---- signals and pipes ----

def start(t, *args, out=subprocess.PIPE, model=None):
    return peer.spawn([t.program, "run", model or Right.web.url, *map(str, args), "--temp", "0", "--ignore-eos", "--cache",
                       t.path("cache"), "--disk", "32M", "--stats", t.path("stats.json"), "-q"], stdout=out,
                      stderr=subprocess.PIPE, env={"HOME": t.path("home"), **ROOM})


def stats(t):
    with open(t.path("stats.json")) as f:
        return json.load(f)


def interrupted(number):
    def part(t):
        # At once, where the text is a few tokens, and later, where many came between the first bytes and the signal.
        for pause in (0, 0.05, 0.4):
            # A fast machine must not finish first: this text is more than a pipe holds.
            p = start(t, "-p", PROMPT, "-n", 20000)
            first = peer.first_bytes(p, 12)
            time.sleep(pause)
            began = time.monotonic()
            p.send_signal(number)
            rest, err = p.communicate(timeout=20 * SLOW)
            t.check(time.monotonic() - began < 2 * SLOW, f"took {time.monotonic() - began:.1f} s")
            text, s = first + rest, stats(t)
            t.equal(p.returncode, 130, f"exit: {err[-300:]}")
            # beside it the warning that the text went beyond what the model was made for
            t.check(len([x for x in err.splitlines() if b": warn: " not in x]) <= 1, f"stderr: {err}")
            t.check(s.get("exit") == 130 and s.get("error") and s.get("tokens_generated", 0) > 0, f"stats: {str(s)[:300]}")
            # Not only a beginning: every token that was counted, and a newline.
            alone = run(t, n=s.get("tokens_generated", 0), cache="other", disk=0)
            t.check(alone.rc == 0 and text == alone.out,
                    f"after {pause} s: {s.get('tokens_generated')} tokens: {text[:60]}...{text[-20:]} is not {alone.out[:60]}...{alone.out[-20:]}")
            v = t.run("cache", "verify", cache=t.path("cache"))
            t.equal(v.rc, 0, f"cache verify: {v}")
            fine(t, run(t, disk="32M"), "afterwards")
    return part


def interrupted_prefill(t):
    """A prompt that takes minutes gives way as well."""
    with open(t.path("prompt"), "w") as f:
        f.write("a" * 60000)
    p = start(t, "-f", t.path("prompt"), "-n", 1)
    time.sleep(1.5)
    if not t.check(p.poll() is None, "a prompt of 60,000 tokens takes a while"):
        return
    began = time.monotonic()
    p.send_signal(signal.SIGINT)
    try:
        p.communicate(timeout=3 * SLOW)
    except subprocess.TimeoutExpired:
        p.kill()
        p.communicate()
    t.equal(p.returncode, 130, f"SIGINT in a long prompt, after {time.monotonic() - began:.1f} s")


def interrupted_fetch(t):
    """Before anything has come, and while one thing is waited for. The tokenizer is on a thread of its own, also behind
    weights that take all connections."""
    held = {"manifest": lambda q: True, "weights": lambda q: q.first, "tokenizer": lambda q: q.name == "tokenizer.json",
            "tokenizer's smaller files": lambda q: q.name in ("tokenizer_config.json", "special_tokens_map.json")}
    web = badhttp.Server(Right.root)
    try:
        for where, holds in held.items():
            web.set(lambda q, r, holds=holds: setattr(r, "delay", 600) if holds(q) else None)
            p = start(t, "-p", PROMPT, "-n", 4, model=web.url)
            end = time.monotonic() + 10 * SLOW
            while not any(holds(q) for q in web.log) and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(0.2)
            began = time.monotonic()
            p.send_signal(signal.SIGINT)
            out, err = p.communicate(timeout=30)
            t.equal((p.returncode, out), (130, b""), f"interrupted while the {where} is waited for: {err[-300:]}")
            t.check(time.monotonic() - began < 2 * SLOW, f"{where}: took {time.monotonic() - began:.1f} s")
            t.equal(stats(t).get("exit"), 130, f"{where}: stats")
    finally:
        web.stop()


def split_over_another(t):
    """A finished split of another model or codec is not lost by a slip; a second time the same is no change."""
    peer.random_llama(t.path("other"), hidden=64, layers=2, inter=128, heads=2, kv_heads=1)
    for _ in range(2):
        r = t.run("split", peer.KJV, t.path("tree"), "--codec", "lz4", "--quiet")
        t.equal(r.rc, 0, f"split: {r}")
    before = sorted((d, sorted(names)) for d, _, names in os.walk(t.path("tree")))
    for codec in ("wh", "raw", "q8b64"):
        r = t.run("split", peer.KJV, t.path("tree"), "--codec", codec, "--quiet")
        badhttp.check_failed(t, r, 2, (t.path("tree"), "--codec lz4", "another place"), stats=False, what=f"split to {codec} over lz4")
    r = t.run("split", t.path("other"), t.path("tree"), "--quiet")
    badhttp.check_failed(t, r, 2, ("another model", "empty directory"), stats=False, what="split over another model")
    t.equal(sorted((d, sorted(names)) for d, _, names in os.walk(t.path("tree"))), before, "and nothing has changed")
    r = t.run("run", t.path("tree"), *ARGS, "-n", N, "-q")
    t.equal((r.rc, r.text), (0, Right.text), f"it still runs: {r}")


def closed_stdout(t):
    p = start(t, "-p", PROMPT, "-n", 4000)
    head = subprocess.run(["head", "-c", "5"], stdin=p.stdout, stdout=subprocess.PIPE, check=False)
    p.stdout.close()
    err = p.stderr.read()
    t.equal(p.wait(30), 1, "exit with nobody reading")
    t.equal(head.stdout, Right.text[:5], "what head got")
    t.check(all(b": warn: " in x for x in err.splitlines()), f"stderr: {err}")
    p.stderr.close()
    t.equal((stats(t).get("exit"), stats(t).get("error")), (1, "stdout: Broken pipe"), "stats")
    with open("/dev/full", "wb") as full:
        p = start(t, "-p", PROMPT, "-n", 4, out=full)
        err = p.communicate(timeout=30)[1]
        t.check(p.returncode == 5 and len(err.splitlines()) == 1, f"a full stdout: {p.returncode} {err}")
    p = peer.spawn(["sh", "-c", 'exec "$0" run "$1" -p x -n 2 --temp 0 --disk 0 >&- 2>&-', t.program, Right.web.url])
    t.check(p.wait(30) in (0, 1), f"no stdout and no stderr at all: {p.returncode}")


def homeless(t):
    """Nobody's home: no cache in the root folder. Who wants none needs none."""
    for more, status in (((), 2), (("--disk", "0"), 0), (("--cache", t.path("given")), 0)):
        p = peer.spawn([t.program, "run", Right.web.url, *ARGS, "-n", str(N), "-q", *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(ROOM))
        out, err = p.communicate(timeout=30)
        t.equal(p.returncode, status, f"without HOME, {more}: {err}")
        t.check(status == 0 or b"HOME" in err and b"--cache" in err, f"without HOME, {more}: {err}")
        t.check(status != 0 or out.rstrip(b"\n") == Right.text, f"without HOME, {more}: {out}")


def stats_nowhere(t):
    """A result file that can't be written is a failure, before anything is asked for."""
    p = peer.spawn([t.program, "run", Right.web.url, *ARGS, "-n", str(N), "-q", "--disk", "0", "--stats", t.path("no", "such", "dir")],
                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = p.communicate(timeout=30)
    t.equal(out, b"", "no text whose figures would be lost")
    t.check(p.returncode == 2 and len(err.splitlines()) == 1, f"{p.returncode} {err}")


# ---- prompts ----

def prompts(t):
    def piped(data, *args):
        p = subprocess.Popen([t.program, "run", peer.KJV, "--temp", "0", "--ignore-eos", "-n", str(N), "-q", *args], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = p.communicate(data, timeout=60 * SLOW)
        return p.returncode, out, err

    t.equal(piped(PROMPT.encode()), (0, Right.text + b"\n", b""), "the prompt from stdin")
    t.equal(piped(b"", "-p", PROMPT)[:2], (0, Right.text + b"\n"), "-p wins over stdin")
    rc, out, err = piped(b"")
    t.check((rc == 0 and len(out) > 1) or (rc == 2 and len(err.splitlines()) == 1), f"an empty stdin: {rc} {err}")
    rc, out, err = piped(b"", "-p", "")
    t.check(rc == 0 and len(out) > 1, f"an empty prompt: {rc} {err}")
    rc, out, err = piped(b"", "-p", "", "--no-bos")
    t.check(rc == 2 and len(err.splitlines()) == 1, f"nothing at all: {rc} {err}")
    t.equal(piped(b"", "-p", PROMPT, "-n", "0")[:2], (0, b"\n"), "-n 0")
    for what, data in (("not UTF-8", b"In \xff\xfe\xc0\x80 the"), ("surrogates", b"\xed\xa0\x80 a"), ("NUL", b"a\0b"), ("controls", bytes(range(32))),
                       ("a lone lead byte", b"abc\xf0"), ("a long word", b"a" * (3000 // SLOW)), ("spaces", b" " * (3000 // SLOW)), ("newlines", b"\n" * (500 // SLOW)),
                       ("marks", "e\u0301".encode() * (400 // SLOW)), ("every byte", bytes(range(256)))):
        rc, out, err = piped(data)
        t.check((rc == 0 and len(out) > 1) or (rc == 2 and len(err.splitlines()) == 1), f"a prompt of {what}: {rc} {err[-300:]}")
        t.equal(piped(data)[:2], (rc, out), f"a prompt of {what}: the same again")
    for n in ("-1", "x", "", "1e3", "99999999999999999999", "0x10"):
        rc, out, err = piped(b"", "-p", PROMPT, "-n", n)
        t.check(rc in (0, 2) and len(err.splitlines()) == (1 if rc else 0), f"-n {n!r}: {rc} {err}")


def long_prompt(t):
    """1 MB: refused where it can't be held, by name of what has to give way."""
    with open(t.path("prompt"), "w") as f:
        f.write("In the beginning God created the heaven and the earth. " * 19000)
    args = ("--temp", "0", "-n", 1)
    r = t.run("run", peer.KJV, "-f", t.path("prompt"), *args, ram="64M", seconds=60)
    badhttp.check_failed(t, r, 5, ("ram|KV|memory", r"\d"), what="1 MB of prompt in 64 MiB")
    t.check(r.seconds < 5 * SLOW, f"took {r.seconds:.1f} s")
    r = t.run("run", peer.KJV, "-f", t.path("prompt"), *args, "-c", 512, seconds=60)
    badhttp.check_failed(t, r, 2, ("ctx-size",), what="1 MB of prompt with -c 512")
    t.check(r.seconds < 10 * SLOW, f"took {r.seconds:.1f} s")


# ---- secrets ----

def tells(data):
    return [x for x in (USER, PASSWORD, TOKEN, SIGNATURE, BASIC) if x.encode() in data]


def secrets(t):
    """Redirects to signed addresses, and every kind of failure, at the most talkative level of the log."""
    far = badhttp.Server(Right.root)
    near = badhttp.Server(Right.root)
    url = f"http://{USER}:{PASSWORD}@127.0.0.1:{near.port}/?token={TOKEN}"
    signed = f"{far.url}/%s?X-Amz-Signature={SIGNATURE}&token={TOKEN}"

    def redirected(q, r):
        if q.name.endswith(".safetensors"):
            r.redirect(signed % q.name)

    def status(code):
        return lambda q, r: r.error(code, f"<p>{TOKEN} {PASSWORD}".encode())

    def nowhere(q, r):
        r.redirect(f"http://127.0.0.1:{dead}/x?X-Amz-Signature={SIGNATURE}")

    def odd(q, r):
        r.redirect(f"ftp://{USER}:{PASSWORD}@127.0.0.1/x?sig={SIGNATURE}")

    def loop(q, r):
        r.redirect(f"/{q.name}?X-Amz-Signature={SIGNATURE}&n={q.total}")

    def late(change):
        return lambda q, r: change(q, r) if q.first else None

    def wrong(q, r):
        if q.first:
            redirected(q, r)

    dead = peer.free_port()
    trace = {"PENSTOCK_LOG": "trace"}
    cases = [("healthy", None, 0), ("redirected", redirected, 0), ("weights redirected", wrong, 0), ("401", status(401), 3), ("404", status(404), 3),
             ("503", status(503), 3), ("503 of weights", late(status(503)), 3), ("412 of weights", late(status(412)), 4),
             ("redirect to nowhere", nowhere, 3), ("an odd redirect", odd, (2, 3, 4)), ("a loop", loop, 3), ("a late loop", late(loop), 3),
             ("cut", late(lambda q, r: setattr(r, "cut", 3)), 3), ("no HTTP", lambda q, r: setattr(r, "raw", b"220 x\r\n"), (3, 4))]
    seen = b""
    try:
        for name, scenario, rc in cases:
            near.set(scenario)
            r = run(t, "--net-deadline", "2", "--connections", "2", model=url, disk="32M" if name == "healthy" else 0, env=trace, cache="c " + name)
            t.check(r.rc in (rc if isinstance(rc, tuple) else (rc,)), f"{name}: {r}")
            with open(t.path("stats.json"), "rb") as f:
                said = r.err.encode() + r.out + f.read()
            seen += said
            t.equal(tells(said), [], f"{name}: said in the log, an error or the stats: {[x for x in said.splitlines() if tells(x)][:2]}")
        t.check(seen.count(b"\n") > 50, "the log is talkative")
        near.set(None)
        for command in (("plan",), ("plan", "--json"), ("inspect",), ("inspect", "--json"), ("warm", "--disk", "100%"), ("tokenize", "x"),
                        ("cache ls", "--json"), ("cache ls",), ("cache stat", "--json"), ("cache verify",)):
            words = command[0].split()
            model = [url] if words[0] != "cache" else []
            p = subprocess.run([t.program, *words, *model, *command[1:], *(["--cache", t.path("c healthy")] if words[0] not in ("inspect", "tokenize") else [])],
                               capture_output=True, timeout=60, check=False,
                               env={"PENSTOCK_LOG": "trace", "HOME": t.path("home"), "PATH": os.environ["PATH"], **ROOM})
            t.equal((p.returncode, tells(p.stdout + p.stderr)), (0, []), f"{command}: {p.stderr[-300:]}")
        p = t.run("split", url, t.path("split"), env=trace)
        t.equal((p.rc, tells(p.err.encode() + p.out)), (0, []), f"split: {p}")
        for base, _, names in os.walk(t.temp):
            for name in names:
                if os.path.getsize(os.path.join(base, name)) > 0 and name not in ("out", "err", "stats.json"):
                    t.equal(tells(stored(os.path.join(base, name))), [], f"in the file {os.path.relpath(os.path.join(base, name), t.temp)}")
        usage = subprocess.run([t.program, "run", f"http://{USER}:{PASSWORD}@127.0.0.1:99999999/?token={TOKEN}", "-p", "x"], capture_output=True,
                               check=False, timeout=20)
        t.equal((usage.returncode, tells(usage.stderr)), (2, []), f"a malformed address: {usage.stderr}")
    finally:
        near.stop()
        far.stop()


def stored(path):
    """The bytes of a file without its holes."""
    out = []
    with open(path, "rb") as f:
        at, end = 0, os.path.getsize(path)
        while at < end:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            hole = os.lseek(f.fileno(), at, os.SEEK_HOLE)
            out.append(os.pread(f.fileno(), hole - at, at))
            at = hole
    return b"\0".join(out)


PARTS = [("secrets", secrets), ("interrupted prefill", interrupted_prefill), ("full disk", full_disk), ("fills under way", fills_under_way),
         ("read-only", read_only), ("read-only mount", read_only_mount), ("a file", a_file), ("not a cache", not_a_cache), ("newer version", newer_version), ("little disk", little_disk), ("little RAM", little_ram),
         ("max egress", max_egress), ("SIGINT", interrupted(signal.SIGINT)), ("SIGTERM", interrupted(signal.SIGTERM)), ("interrupted fetch", interrupted_fetch),
         ("closed stdout", closed_stdout), ("split over another model", split_over_another), ("homeless", homeless), ("stats nowhere", stats_nowhere),
         ("prompts", prompts), ("long prompt", long_prompt)]


def main():
    if not os.path.exists(os.path.join(peer.KJV, "model.safetensors")):
        peer.skip("models/kjv is not here")
    with peer.Test() as t:
        Right.root = peer.KJV
        Right.web = badhttp.Server(peer.KJV)
        t.servers.append(Right.web)
        r = t.run("run", peer.KJV, *ARGS, "-n", N, cache=t.path("none"))
        t.equal(r.rc, 0, f"the healthy run: {r}")
        Right.text = r.text
        wanted = sys.argv[1:]
        badhttp.side_by_side(t, [p for p in PARTS if not wanted or p[0] in wanted], workers=2)


main()
