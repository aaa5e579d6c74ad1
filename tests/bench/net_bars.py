#!/usr/bin/env python3
"""Measures how transfers behave on links that are not healthy; what SPEED.md quotes under "Transport". Not a test.

    PENSTOCK=build/release/penstock tests/bench/net_bars.py [slow|wait|down|versions|limit ...]

slow: 8 connections of which 2 run at a tenth, against 6 healthy ones. wait: how long a layer waits, with and without
hedging, where some replies crawl. down: a server that is gone for 20 s in the middle of a run. versions: HTTP/1.1 against
HTTP/2 over TLS (needs nginx and openssl), also over a link with a delay (needs root, ip, tc and unshare). limit: --net-limit
against what arrives. Everything stays on loopback.
"""
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
import badhttp  # noqa: E402
import peer  # noqa: E402

MB = 1_000_000
PACE = 20 * MB  # what a healthy connection gets


def row(what, value, limit, ratio, bar):
    print(f"{what:58} {value:>22} {limit:>26} {ratio:>8} {bar:>10}", flush=True)


class Paced(badhttp.Server):
    """Each connection runs at the rate that rate(number of the connection) says; the kernel paces it."""

    def __init__(self, root, rate):
        self.rate = rate
        super().__init__(root)

    def _serve(self, connection):
        with self.lock:
            self.numbered = getattr(self, "numbered", -1) + 1
            number = self.numbered
        connection.setsockopt(socket.SOL_SOCKET, badhttp.SO_MAX_PACING_RATE, int(self.rate(number)))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 << 10)  # what is sent is soon there
        super()._serve(connection)


def model(t, mb):
    """A random model of about so many MB in one file; extents of 2 MiB for 200 MB."""
    folder = t.path(f"m{mb}")
    if not os.path.isdir(folder):
        layers = max(2, mb // 13)
        peer.random_llama(folder, hidden=1024, layers=layers, inter=1408, heads=8, vocab=3072, tied=True)
    return folder


def run(t, url, *args, n=1, prompt="x", seconds=280):
    r = t.run("run", url, "-p", prompt, "-n", n, "--temp", 0, "--ignore-eos", *args, disk=0, ram="min", seconds=seconds)
    if r.rc != 0:
        raise RuntimeError(r.err[-2000:])
    return r


def timed(t, folder, rate, *args):
    web = Paced(folder, rate)
    t.servers.append(web)
    r = run(t, web.url, *args)
    with web.lock:
        sent = sum(q.sent for q in web.log)
    return r.stats["sweep_s"], r, sent, web


def slow(t):
    folder = model(t, 400)
    six = timed(t, folder, lambda k: PACE, "--connections", 6)[0]
    for name, rate in (("the first two of all connections", lambda k: PACE / 10 if k < 2 else PACE),
                       ("two of every eight connections", lambda k: PACE / 10 if k % 8 < 2 else PACE)):
        seconds, r, sent, web = timed(t, folder, rate, "--connections", 8)
        row(f"8 connections, at a tenth: {name}", f"{seconds:.2f} s", f"6 healthy: {six:.2f} s", f"{seconds / six:.2f}", "<= 1.15")
        print("   ", {k: r.stats[k] for k in ("escapes", "hedges", "hedges_won", "bytes_net", "bytes_hedged", "connections_opened")},
              "sent", sent)
    seconds, r, _, _ = timed(t, folder, lambda k: PACE / 4, "--connections", 8)
    print("    all at a quarter:", f"{seconds:.2f} s", {k: r.stats[k] for k in ("escapes", "hedges", "connections_opened")})


def wait(t):
    """A reply in 40 crawls: silent for half a second in the middle, or before its headers."""
    folder = model(t, 400)
    found = {}
    for hedge in (0, 2):
        rng = random.Random(7)
        chosen = {}

        def scenario(q, r):
            if q.first is None or not q.name.endswith(".safetensors"):
                return
            with web.lock:
                kind = chosen.setdefault((q.first, q.last, q.same), rng.random())
            if kind < 0.0125:
                r.delay = 0.5
            elif kind < 0.025:
                r.stall = (len(r.body) // 4, 0.5)

        web = badhttp.Server(folder, scenario, pace=PACE)
        t.servers.append(web)
        r = run(t, web.url, "--hedge", hedge, n=8)
        with web.lock:
            sent = sum(q.sent for q in web.log)
        found[hedge] = r.stats
        s = r.stats
        print(f"    --hedge {hedge}:", {k: s[k] for k in ("layer_wait_p50_s", "layer_wait_p99_s", "layer_wait_max_s", "sweep_s", "escapes", "hedges",
                                                        "hedges_won", "bytes_hedged", "bytes_net", "requests")}, "sent", sent)
    a, b = found[2]["layer_wait_p99_s"], found[0]["layer_wait_p99_s"]
    row("99th percentile of a layer's wait, with hedging", f"{a * 1e3:.0f} ms", f"without: {b * 1e3:.0f} ms", f"{a / b:.2f}", "<= 0.50")
    share = found[2]["bytes_hedged"] / found[2]["bytes_net"]
    row("extra bytes of hedging", f"{found[2]['bytes_hedged'] / MB:.2f} MB", f"of {found[2]['bytes_net'] / MB:.0f} MB", f"{share:.4f}", "<= 0.02")


def main():
    which = sys.argv[1:] or ["slow", "wait", "down", "versions", "limit"]
    with peer.Test() as t:
        for name in which:
            globals()[name](t)


if __name__ == "__main__":
    main()
