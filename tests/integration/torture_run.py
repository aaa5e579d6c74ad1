#!/usr/bin/env python3
"""One call of a whole run fails: an allocation anywhere in the process, a read, a write, a sync, a map of the cache's folder
(LMDB's own included), or one reply of the server. `penstock run` of models/kjv into an empty cache and from a warm one: it ends
with the right text or with an error in words and a beginning of that text, never a signal, never a hang. Afterwards `cache
verify` finds nothing wrong, and a run without failures writes the right text. A disk that is full from some moment on
(ENOSPC for ever) keeps the run running, and is told once.

    PENSTOCK_TORTURE=N           so many moments of each kind instead of 4"""
# ctest-timeout: 300
import os
import random
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import badhttp  # noqa: E402
import peer  # noqa: E402

SHIM = os.environ.get("PENSTOCK_FAULT_SHIM", "")
SAMPLES = int(os.environ.get("PENSTOCK_TORTURE", 4))
ARGS = ("-p", "In the beginning", "-n", "8", "--temp", "0", "--ignore-eos", "--net-deadline", "10")
ENOMEM, EIO, ENOSPC = 12, 5, 28
KINDS = {"malloc": ENOMEM, "pread": EIO, "pwrite": EIO, "sync": EIO, "truncate": ENOSPC, "mmap": ENOMEM}
TOLD = "no room|full|without|not cached|cache"


class Setting:
    url, text, warm = "", b"", ""


def run(t, cache, shim=None, count=None, seconds=60):
    env = {"PENSTOCK_MIN_FREE": "0"}
    if shim or count:
        env["LD_PRELOAD"] = SHIM
    if shim:
        env["PENSTOCK_SHIM"] = shim
    if count:
        env["PENSTOCK_SHIM_COUNT"] = count
    if not (shim or "").startswith("malloc"):
        env["PENSTOCK_SHIM_UNDER"] = cache
    return t.run("run", Setting.url, *ARGS, cache=cache, disk="6M", env=env, seconds=seconds)


def counts(t, cache, under):
    """How often each kind is called in a run where nothing fails."""
    file = t.path("counts")
    env = {"PENSTOCK_MIN_FREE": "0", "LD_PRELOAD": SHIM, "PENSTOCK_SHIM_COUNT": file}
    if under:
        env["PENSTOCK_SHIM_UNDER"] = cache
    r = t.run("run", Setting.url, *ARGS, cache=cache, disk="6M", env=env)
    t.equal((r.rc, r.text), (0, Setting.text), f"with the shim and no failure: {r}")
    with open(file) as f:
        return {kind: int(n) for kind, n in (line.split() for line in f)}


def fresh(t, warm):
    cache = t.path("cache")
    shutil.rmtree(cache, ignore_errors=True)
    if warm:
        shutil.copytree(Setting.warm, cache)
    return cache


def judge(t, r, cache, what):
    """After a run in which something failed."""
    t.check(r.rc is not None and r.rc >= 0, f"{what}: ended by signal or killed: {r}")
    t.check(not badhttp.CRASH.search(r.err), f"{what}: a crash: {r.err[-1500:]}")
    if r.rc == 0:
        t.equal(r.text, Setting.text, f"{what}: the text")
    else:
        t.check(r.rc in (1, 3, 4, 5), f"{what}: exit {r.rc}: {r.err[-300:]}")
        t.check(Setting.text.startswith(r.text), f"{what}: wrong text {r.out}")
        t.check("penstock: " in r.err, f"{what}: no word of error: {r.err[-300:]!r}")
    if os.path.isdir(cache):
        v = t.run("cache", "verify", cache=cache)
        t.equal(v.rc, 0, f"{what}: cache verify: {v}")
    after = run(t, cache)
    t.equal((after.rc, after.text), (0, Setting.text), f"{what}: and then without failures: {after}")
    return r


def one_call(kind, warm):
    def part(t):
        rng = random.Random(f"{kind} {warm}")
        total = counts(t, fresh(t, warm), kind != "malloc")[kind]
        if total == 0:
            return
        ends = set()
        for n in sorted({rng.randint(1, total) for _ in range(SAMPLES)} | {1, total}):
            cache = fresh(t, warm)
            r = run(t, cache, f"{kind}:{n}:{KINDS[kind]}")
            judge(t, r, cache, f"{kind} {n} of {total}")
            ends.add(r.rc)
            if kind not in ("malloc", "mmap"):  # a cache in trouble is no reason to stop; want of memory may be
                t.equal(r.rc, 0, f"{kind} {n} of {total}: {r}")
        t.note(f"{t.name}: {total} calls, ends {sorted(ends)}")
    return part


def from_then_on(kind, error):
    """Nothing works any more from some moment on."""
    def part(t):
        rng = random.Random(f"{kind} {error} for ever")
        total = counts(t, fresh(t, False), True)[kind]
        for n in sorted({rng.randint(1, max(1, total)) for _ in range(SAMPLES)} | {1}):
            cache = fresh(t, False)
            r = run(t, cache, f"{kind}:{n}+:{error}")
            what = f"{kind} from {n} of {total} on"
            judge(t, r, cache, what)
            t.equal(r.rc, 0, f"{what}: {r}")
            said = [x for x in r.err.splitlines() if x.strip()]
            t.check(len(said) <= 2, f"{what}: said more than once: {said}")
    return part


def one_reply(t):
    """Each reply of the server in turn is cut, reset or refused."""
    seen = []
    web = badhttp.Server(peer.KJV)
    try:
        for n in range(-1, 64):
            def scenario(q, r, n=n):
                if q.total == n:
                    seen.append(n)
                    if n % 3 == 0:
                        r.cut = len(r.body) // 2
                    elif n % 3 == 1:
                        r.reset = 0
                    else:
                        r.error(503)
            web.set(scenario)
            cache = fresh(t, False)
            r = t.run("run", web.url, *ARGS, cache=cache, disk="6M", env={"PENSTOCK_MIN_FREE": "0"})
            t.equal((r.rc, r.text), (0, Setting.text), f"reply {n}: {r}")
            if n >= 0 and n not in seen:
                break
            if SAMPLES <= 4 and n > 8 and n % 3 != 1:
                continue
    finally:
        web.stop()
    t.check(len(seen) > 10, f"only {len(seen)} replies failed")


def main():
    if peer.SANITIZED:
        peer.skip("the shim and the sanitizers want the same places")
    if not SHIM or not os.path.exists(os.path.join(peer.KJV, "model.safetensors")):
        peer.skip("no shim, or models/kjv is not here")
    with peer.Test() as t:
        web = badhttp.Server(peer.KJV)
        t.servers.append(web)
        Setting.url, Setting.warm = web.url, t.path("warm")
        r = t.run("run", peer.KJV, *ARGS, cache=t.path("none"))
        t.equal(r.rc, 0, f"the local run: {r}")
        Setting.text = r.text
        r = run(t, Setting.warm)
        t.equal((r.rc, r.text), (0, Setting.text), f"filling: {r}")
        parts = [(f"{kind}, {'warm' if warm else 'cold'}", one_call(kind, warm)) for kind in KINDS for warm in (False, True)]
        parts += [("full disk", from_then_on("pwrite", ENOSPC)), ("no room to grow", from_then_on("truncate", ENOSPC)),
                  ("broken disk", from_then_on("pwrite", EIO)), ("no syncs", from_then_on("sync", EIO)),
                  ("nothing is read", from_then_on("pread", EIO)), ("replies", one_reply)]
        wanted = sys.argv[1:]
        badhttp.side_by_side(t, [p for p in parts if not wanted or any(w in p[0] for w in wanted)], workers=3)


main()
