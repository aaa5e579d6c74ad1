#!/usr/bin/env python3
"""Containers that share a cache folder but no PID namespace: LMDB tells its readers by their pids, so who comes second says so in one
line and goes on without the cache, whether its pid is taken (both are pid 1) or not; the first one's cache is not touched, and
open to both when it has ended."""
# ctest-timeout: 240
import os
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import badhttp  # noqa: E402
import peer  # noqa: E402

SLOW = 3 if peer.SANITIZED else 1
CONTAINER = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


class Holding(badhttp.Server):
    """Gives so many ranges of weights; what is asked for after them waits until let_go()."""

    def __init__(self, t, root, ranges):
        self.left, self.held, self.go = ranges, threading.Event(), threading.Event()
        super().__init__(root, self.hold)
        t.servers.append(self)

    def hold(self, q, r):
        if q.name.endswith(".safetensors") and q.first:
            self.left -= 1
            if self.left < 0:
                self.held.set()
                self.go.wait(200)

    def let_go(self):
        self.go.set()

    def stop(self):
        self.let_go()
        super().stop()


def start(t, url, name, cache, container, *args):
    p = peer.spawn([*(CONTAINER if container else []), t.program, "run", url, "-p", "In the beginning", "-n", "4", "--temp", "0", "--ignore-eos",
                    "--quiet", "--min-free", "0", "--disk", "100%", "--cache", cache, "-t", "1", *args],
                   stdout=open(t.path(name), "wb"), stderr=open(t.path(name + ".err"), "wb"), env={"HOME": t.path("home")})
    p.name = name
    return p


def result(t, p):
    rc = p.wait(60 * SLOW)
    with open(t.path(p.name), "rb") as out, open(t.path(p.name + ".err")) as err:
        return rc, out.read(), err.read()


def main():
    try:
        if subprocess.run([*CONTAINER, "true"], stderr=subprocess.DEVNULL, timeout=10).returncode != 0:
            peer.skip("unshare --pid is not permitted here")
    except FileNotFoundError:
        peer.skip("no unshare here")
    with peer.Test() as t:
        peer.random_llama(t.path("m"))
        fast, holding = t.nginx(t.path(".")), Holding(t, t.path("m"), 8)
        rc, want, err = result(t, start(t, fast.url + "/m", "alone", t.path("alone.cache"), True))
        t.equal((rc, err), (0, ""), "alone in a container")
        cache = t.path("shared")
        owner = start(t, holding.url, "owner", cache, True, "--net-stall", "200", "--net-deadline", "300")
        t.check(holding.held.wait(60 * SLOW), "the owner has opened the cache and fetches weights")
        for name, container in (("pid 1 as well", True), ("another pid", False)):
            rc, text, err = result(t, start(t, fast.url + "/m", name, cache, container))
            t.equal((rc, text), (0, want), f"{name}: the text: {err}")
            lines = err.splitlines()
            t.check(len(lines) == 1 and "PID namespace" in lines[0] and "without a disk cache" in lines[0], f"{name}: says {lines}")
        t.check(owner.poll() is None, "the owner was at work all the time")
        holding.let_go()
        t.equal(result(t, owner), (0, want, ""), "the owner")
        r = t.run("cache", "verify", "--json", cache=cache)
        t.check(r.rc == 0 and r.json["extents_wrong"] == 0 and r.json["extents_checked"] > 0, f"verify: {r}")
        rc, text, err = result(t, start(t, fast.url + "/m", "later", cache, False))
        t.equal((rc, text, err), (0, want, ""), "the owner has ended: the cache serves another namespace")


main()
