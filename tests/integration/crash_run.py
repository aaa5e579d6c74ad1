#!/usr/bin/env python3
"""A cache that is killed, torn and lied to. `penstock run` is ended by SIGKILL at 50 seeded moments while it writes to
its cache; two processes share one cache and one or both are killed, at 15 moments (PENSTOCK_CRASH_ROUNDS); bytes of slabs
and of the index are flipped, cut off, replaced and deleted. After each: what `cache verify` says is true, the budget is kept, and the next run writes the right
text and gets its bytes back. (design.md, promise 3)"""
# ctest-timeout: 300
import os
import random
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import badhttp  # noqa: E402
import peer  # noqa: E402

N = 6
ARGS = ("-p", "In the beginning", "-n", str(N), "--temp", "0", "--ignore-eos")
SLOW = 6 if peer.SANITIZED else 1
KILLS = 50 if not peer.SANITIZED else 12
ROUNDS = int(os.environ.get("PENSTOCK_CRASH_ROUNDS", 15 if not peer.SANITIZED else 5))  # of two processes
SMALL, LARGE = 9 * peer.MIB, 32 * peer.MIB
ENV = {"PENSTOCK_MIN_FREE": "0"}


class Models:
    """Addresses, and the text of each."""
    url, text = {}, {}


def run(t, name, disk=LARGE, cache="cache", **kw):
    return t.run("run", Models.url[name], *ARGS, cache=t.path(cache), disk=disk, env=ENV, seconds=60 * SLOW, **kw)


def start(t, name, disk=LARGE, cache="cache"):
    out = open(t.path(f"out-{name}-{random.random()}"), "w+b")
    p = peer.spawn([t.program, "run", Models.url[name], *ARGS, "--cache", t.path(cache), "--disk", str(disk), "-q"], stdout=out,
                   stderr=subprocess.STDOUT, env=dict(ENV, HOME=t.path("home")))
    p.file = out
    return p


def output(p):
    p.wait()
    p.file.seek(0)
    data = p.file.read()
    p.file.close()
    return data


def right(t, r, name, what):
    ok = t.equal((r.rc, r.text), (0, Models.text[name]), f"{what}: {r}")
    t.check(not badhttp.CRASH.search(r.err), f"{what}: a crash: {r.err[-1500:]}")
    return ok


def verify(t, rc, what, *args, cache="cache"):
    r = t.run("cache", "verify", *args, "--json", cache=t.path(cache))
    t.check(r.rc in (rc if isinstance(rc, tuple) else (rc,)), f"{what}: cache verify says {r.rc}, not {rc}: {r}")
    return r.json if r.out else {}


def within(t, disk, what, cache="cache"):
    used = peer.allocated_bytes(t.path(cache))
    t.check(used <= disk, f"{what}: {used} bytes on disk, the budget is {disk}")


# ---- SIGKILL ----

def killed(t):
    """Three models in turn in room for about one, so that every run writes and evicts; now and then a new folder, or
    another budget."""
    rng = random.Random(41)
    began = time.monotonic()
    right(t, run(t, "plain", SMALL), "plain", "the first run")
    whole = time.monotonic() - began
    names, reached = sorted(Models.url), 0
    for i in range(KILLS):
        name = names[i % len(names)]
        disk = SMALL if rng.random() < 0.8 else SMALL * 2
        if rng.random() < 0.15 and os.path.isdir(t.path("cache")):  # the last kill may have come before it was made
            shutil.rmtree(t.path("cache"))
        p = start(t, name, disk)
        time.sleep(rng.uniform(0, whole * 1.1))
        reached += p.poll() is None
        p.kill()
        output(p)
        if os.path.isdir(t.path("cache")):
            verify(t, 0, f"kill {i}")
            within(t, SMALL * 2, f"kill {i}")
    t.check(reached >= KILLS // 4, f"only {reached} of {KILLS} were killed while they ran")
    for name in names:
        r = run(t, name, SMALL, watch=True)
        right(t, r, name, f"{name} after all kills")
        t.equal(r.stats.get("corrupt_reads"), 0, f"{name}: corrupt_reads")
        t.check(r.peak_folder <= SMALL * 2, f"{name}: {r.peak_folder} bytes at most")
        within(t, SMALL, f"{name} after all kills")
    again = run(t, names[-1], SMALL)
    t.check(again.stats.get("bytes_disk_read", 0) > 0, "the cache still serves")


def two_at_once(t):
    """Two processes on one cache, of the same model or of two; one of them, or both, end by SIGKILL at a random moment. The one
    that lives writes the right text, and so does the next one."""
    rng = random.Random(42)
    reached = 0
    for i in range(ROUNDS):
        if i % 4 == 0 and os.path.isdir(t.path("cache")):
            shutil.rmtree(t.path("cache"))
        pair = ("plain", "plain") if i % 2 else ("plain", "split")
        disk = LARGE if i % 3 else SMALL
        both = [start(t, name, disk) for name in pair]
        dying = rng.choice((both[:1], both[1:], both))
        for p in sorted(dying, key=lambda _: rng.random()):
            time.sleep(rng.uniform(0, 0.2 * SLOW))
            reached += p.poll() is None
            p.kill()
        for p, name in zip(both, pair):
            out = output(p)
            if p not in dying:
                t.equal((p.returncode, out), (0, Models.text[name] + b"\n"), f"two at once, {i}, {pair}: the one that lives")
        if os.path.isdir(t.path("cache")):
            verify(t, 0, f"two at once, {i}")
            within(t, disk if dying is not both else LARGE, f"two at once, {i}")  # the dead shrink nothing
        if i % 3 == 2:
            right(t, run(t, pair[1], disk), pair[1], f"after both, {i}")
    t.check(reached >= ROUNDS // 3, f"only {reached} of {ROUNDS} were killed while they ran")
    t.note(f"two at once: {reached} killed while they ran, in {ROUNDS} rounds")


def stopped_owner(t):
    """One that holds claims and does nothing (SIGSTOP) must not keep another from its text."""
    p = start(t, "slow")
    time.sleep(0.15 * SLOW)
    os.kill(p.pid, signal.SIGSTOP)
    try:
        r = run(t, "slow")
        right(t, r, "slow", "beside a process that is stopped")
        t.check(r.seconds < 30 * SLOW, f"took {r.seconds:.1f} s")
    finally:
        os.kill(p.pid, signal.SIGCONT)
    t.equal(output(p), Models.text["slow"] + b"\n", "and that one goes on")
    t.equal(p.returncode, 0, "with status 0")
    verify(t, 0, "afterwards")


def deleted_under_way(t):
    """The folder of a run that goes on is removed."""
    p = start(t, "slow")
    time.sleep(0.2 * SLOW)
    shutil.rmtree(t.path("cache"), ignore_errors=True)
    out = output(p)
    t.check(p.returncode == 0 and out.endswith(Models.text["slow"] + b"\n"), f"its folder was removed: {p.returncode} {out[-300:]}")
    right(t, run(t, "slow"), "slow", "afterwards")


# ---- torn files ----

def data_ranges(path):
    out, at, end = [], 0, os.path.getsize(path)
    with open(path, "rb") as f:
        while at < end:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            hole = os.lseek(f.fileno(), at, os.SEEK_HOLE)
            out.append((at, hole))
            at = hole
    return out


def flip(path, rng, times):
    """Changes bytes that hold something."""
    ranges = data_ranges(path)
    with open(path, "r+b") as f:
        for _ in range(times):
            first, end = rng.choice(ranges)
            at = rng.randrange(first, end)
            f.seek(at)
            byte = f.read(1)
            f.seek(at)
            f.write(bytes([byte[0] ^ (1 << rng.randrange(8))]))


def slabs(t, cache="cache"):
    folder = t.path(cache, "slabs")
    return [p for p in (os.path.join(folder, x) for x in sorted(os.listdir(folder))) if data_ranges(p)]


def filled(t, cache="cache", name="plain"):
    shutil.rmtree(t.path(cache), ignore_errors=True)
    right(t, run(t, name, cache=cache), name, "fills the cache")
    verify(t, 0, "filled", cache=cache)


def largest(paths):
    return max(paths, key=lambda p: sum(b - a for a, b in data_ranges(p)))


def flipped_slabs(t):
    rng = random.Random(43)
    for i in range(6):
        filled(t)
        for path in slabs(t) if i % 2 else [largest(slabs(t))]:
            flip(path, rng, 40)
        if i < 3:
            found = verify(t, 4, "flipped bytes")
            t.check(found.get("extents_wrong", 0) > 0, f"flipped bytes: {found}")
            r = run(t, "plain")
            right(t, r, "plain", "from flipped bytes")
            t.check(r.stats.get("corrupt_reads", 0) > 0, f"corrupt_reads: {r.stats.get('corrupt_reads')}")
            t.check(len(r.err.splitlines()) <= 4, f"a line for each flipped byte: {r.err[:600]}")
        else:
            found = verify(t, 4, "--repair tells what it found", "--repair")
            t.equal(found.get("extents_dropped"), found.get("extents_wrong"), f"--repair drops what is wrong: {found}")
        verify(t, 0, "once repaired" if i >= 3 else "once read")
        r = run(t, "plain")
        right(t, r, "plain", "once repaired")
        t.equal(r.stats.get("corrupt_reads"), 0, "corrupt_reads once repaired")
        r = run(t, "plain")
        t.check(r.stats.get("bytes_net", 1 << 40) < 1 << 20, f"all of it is cached again: {r.stats.get('bytes_net')} bytes came")


def slab_empty(t):
    os.truncate(largest(slabs(t)), 0)


def slab_half(t):
    path = largest(slabs(t))
    ranges = data_ranges(path)
    os.truncate(path, (ranges[0][0] + ranges[-1][1]) // 2)


def deleted_slab(t):
    os.unlink(largest(slabs(t)))


def all_slabs_deleted(t):
    shutil.rmtree(t.path("cache", "slabs"))


def slab_is_a_folder(t):
    path = largest(slabs(t))
    os.unlink(path)
    os.makedirs(path)


def slab_is_a_link(t):
    path = largest(slabs(t))
    os.unlink(path)
    with open(t.path("victim"), "wb") as f:
        f.write(b"precious")
    os.symlink(t.path("victim"), path)


def slab_swapped(t):
    paths = slabs(t)
    a, b = paths[-1], paths[-2]
    os.rename(a, a + ".x")
    os.rename(b, a)
    os.rename(a + ".x", b)


def index_garbage(t):
    with open(t.path("cache", "index", "data.mdb"), "wb") as f:
        f.write(random.Random(3).randbytes(100000))


def index_empty(t):
    os.truncate(t.path("cache", "index", "data.mdb"), 0)


def index_half(t):
    path = t.path("cache", "index", "data.mdb")
    os.truncate(path, os.path.getsize(path) // 2)


def index_deleted(t):
    shutil.rmtree(t.path("cache", "index"))


def index_file_deleted(t):
    os.unlink(t.path("cache", "index", "data.mdb"))


def lock_garbage(t):
    with open(t.path("cache", "index", "lock.mdb"), "r+b") as f:
        f.write(random.Random(4).randbytes(8192))


def claims_garbage(t):
    with open(t.path("cache", "claims"), "wb") as f:
        f.write(random.Random(5).randbytes(60000))


def lock_deleted(t):
    for name in ("lock", "claims"):
        os.unlink(t.path("cache", name))


def tag_deleted(t):
    os.unlink(t.path("cache", "CACHEDIR.TAG"))


DAMAGE = (slab_empty, slab_half, deleted_slab, all_slabs_deleted, slab_is_a_folder, slab_is_a_link, slab_swapped, index_garbage,
          index_empty, index_half, index_deleted, index_file_deleted, lock_garbage, claims_garbage, lock_deleted, tag_deleted)


def damaged(change):
    """Any `verify` that does not crash will do before; after a run it must be clean; --repair leaves a clean one too."""
    def part(t):
        what = change.__name__.replace("_", " ")
        for repair in (False, True):
            filled(t)
            change(t)
            r = t.run("cache", "verify", *(["--repair"] if repair else []), cache=t.path("cache"))
            t.check(r.rc in (0, 1, 4) and not badhttp.CRASH.search(r.err), f"{what}: cache verify: {r}")
            if repair and r.rc != 1:
                verify(t, 0, f"{what}: after --repair")
            for i in (1, 2):
                r = run(t, "plain", watch=True)
                right(t, r, "plain", f"{what}: run {i}{', repaired' if repair else ''}")
                t.check(len(r.err.splitlines()) <= 4, f"{what}: {r.err[:500]}")
                t.check(r.peak_folder <= LARGE, f"{what}: {r.peak_folder} bytes on disk")
            if change not in (slab_is_a_folder, slab_is_a_link):  # such a slab is left alone, and its slots stay unused
                t.check(r.stats.get("bytes_net", 1 << 40) < 1 << 20, f"{what}: the second run has all: {r.stats.get('bytes_net')} bytes came")
            verify(t, 0, f"{what}: after two runs")
        if os.path.exists(t.path("victim")):
            with open(t.path("victim"), "rb") as f:
                t.equal(f.read(), b"precious", "what a link in the cache points at")
    return part


def index_damage(rng, data, i):
    """The index with a few bytes changed, most often where LMDB keeps what it trusts: meta pages, heads of pages, records
    (at the ends of pages). The first ones are those that were found to hurt."""
    b = bytearray(data)
    if i < 2:
        b[4096 + (44, 20)[i]] ^= 0xff  # flags of a table; the version
        return b
    pages = [p for p in range(len(b) // 4096) if any(b[p * 4096:p * 4096 + 4096])]
    for _ in range(rng.choice((1, 1, 2, 8))):
        page, kind = rng.choice(pages) * 4096, rng.randrange(4)
        at = page + (rng.randrange(160) if kind == 0 else rng.randrange(3300, 4096) if kind == 1 else rng.randrange(4096))
        if kind == 3:  # as a failing sector would leave it
            b[at:at + 64] = rng.choice((b"\0", b"\xff")) * len(b[at:at + 64])
        else:
            b[at] ^= rng.choice((1, 0x80, 0xff))
    return b


def flipped_index(t):
    """Whatever is flipped in the index: a command that only reads says so and how to repair it, or reads it; a run gives
    the right text and says at most one thing; one --repair is enough."""
    rng = random.Random(44)
    filled(t, "good")
    with open(t.path("good", "index", "data.mdb"), "rb") as f:
        data = f.read()
    for i in range(60 if not peer.SANITIZED else 16):
        what = f"flipped index {i}"
        shutil.rmtree(t.path("cache"), ignore_errors=True)
        subprocess.run(["cp", "-a", "--sparse=always", t.path("good"), t.path("cache")], check=True)
        with open(t.path("cache", "index", "data.mdb"), "wb") as f:
            f.write(index_damage(rng, data, i))
        r = t.run("cache", ("verify", "ls", "stat")[i % 3], cache=t.path("cache"))
        t.check(r.rc in (0, 4) and not badhttp.CRASH.search(r.err), f"{what}: cache: {r}")
        t.check(r.rc == 0 or "--repair" in r.err, f"{what}: says what to do: {r.err[:300]}")
        if i % 2:
            r = run(t, "plain")
            right(t, r, "plain", what)
            within(t, LARGE, what)
            t.check(r.err.count("index was damaged") <= 1, f"{what}: {r.err[:500]}")
        verify(t, (0, 4), f"{what}, --repair", "--repair")
        verify(t, 0, f"{what}, once repaired")
        r = run(t, "plain")
        right(t, r, "plain", f"{what}, repaired")
        within(t, LARGE, what)


def foreign_folder(t):
    """A folder that holds something else is left as it is."""
    os.makedirs(t.path("mine"))
    with open(t.path("mine", "letter"), "w", encoding="utf-8") as f:
        f.write("dear reader")
    r = run(t, "plain", cache="mine")
    t.equal(r.rc, 2, f"a folder of others: {r}")
    t.check(len(r.err.splitlines()) == 1 and "--cache" in r.err and t.path("mine") in r.err, f"one line that helps: {r.err[:300]}")
    t.equal(os.listdir(t.path("mine")), ["letter"], "nothing was made there")


PARTS = [("killed", killed), ("flipped slabs", flipped_slabs), ("two at once", two_at_once),
         ("stopped owner", stopped_owner), ("deleted under way", deleted_under_way), ("flipped index", flipped_index),
         ("foreign folder", foreign_folder)]
PARTS += [(f.__name__.replace("_", " "), damaged(f)) for f in DAMAGE]


def slowly(q, r):
    if q.name.endswith(".safetensors") and q.first:
        r.delay = 0.03


def main():
    if not os.path.exists(os.path.join(peer.KJV, "model.safetensors")):
        peer.skip("models/kjv is not here")
    with peer.Test() as t:
        r = t.run("split", peer.KJV, t.path("split"))
        t.equal(r.rc, 0, f"split: {r}")
        peer.random_llama(t.path("random"), seed=5, tied=False)
        folders = {"plain": peer.KJV, "split": t.path("split"), "random": t.path("random")}
        for name, folder in folders.items():
            web = badhttp.Server(folder)
            t.servers.append(web)
            r = t.run("run", folder, *ARGS, cache=t.path("none"))
            t.equal(r.rc, 0, f"{name}: {r}")
            Models.url[name], Models.text[name] = web.url, r.text
        wanted = sys.argv[1:]
        parts = [p for p in PARTS if not wanted] + [p for p in PARTS if any(p[0].startswith(w) for w in wanted)]
        slow = badhttp.Server(peer.KJV, slowly)
        t.servers.append(slow)
        killing = [p for p in parts if p[0] == "killed"]
        badhttp.side_by_side(t, killing, workers=1)
        Models.url["slow"], Models.text["slow"] = slow.url, Models.text["plain"]
        badhttp.side_by_side(t, [p for p in parts if p not in killing])


main()
