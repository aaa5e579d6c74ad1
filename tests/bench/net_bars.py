#!/usr/bin/env python3
"""Measures how transfers behave on links that are not healthy; what SPEED.md quotes under "Transport". Not a test.

    PENSTOCK=build/release/penstock tests/bench/net_bars.py [slow|wait|down|versions|limit ...]

slow: 8 connections of which 2 run at a tenth, against 6 healthy ones. wait: how long a layer waits, with and without
hedging, where some replies crawl. down: a server that is gone for 20 s in the middle of a run. versions: HTTP/1.1 against
HTTP/2 over TLS (needs nginx and openssl), also over a link of a given rate (needs root, ip, tc and unshare). limit: --net-limit
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

    def _serve(self, connection, number):
        connection.setsockopt(socket.SOL_SOCKET, badhttp.SO_MAX_PACING_RATE, int(self.rate(number)))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 << 10)  # what is sent is soon there
        super()._serve(connection, number)


def model(t, mb, tied=True):
    """A random model of about so many MB in one file; extents of 2 MiB for 200 MB. What a tied one gathers comes twice."""
    folder = t.path(f"m{mb}{tied}")
    if not os.path.isdir(folder):
        layers = max(2, mb // 13)
        peer.random_llama(folder, hidden=1024, layers=layers, inter=1408, heads=8, vocab=3072, tied=tied)
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


def down(t):
    """The server goes away for 20 s in the middle of a run: no listener, every connection reset."""
    folder = model(t, 200, tied=False)
    last = {}  # request of each connection: a thread serves one
    web = badhttp.Server(folder, lambda q, r: last.update({threading.get_ident(): q}), pace=5 * MB)
    open_sockets = []
    serve = web._serve

    def tracked(connection, number):
        open_sockets.append(connection)
        serve(connection, number)

    web._serve = tracked
    result = {}

    def worker():
        result["r"] = t.run("run", web.url, "-p", "x", "-n", 1, "--temp", 0, "--ignore-eos", disk=0, ram="min", seconds=200)

    w = threading.Thread(target=worker)
    t0 = time.monotonic()
    w.start()
    time.sleep(2)
    web.listener.shutdown(socket.SHUT_RDWR)
    web.listener.close()
    for c in open_sockets:
        try:
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, badhttp.struct.pack("ii", 1, 0))
            c.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
    web.thread.join()
    before = len(web.log)
    in_flight = [q for q in last.values() if q.first is not None]
    time.sleep(20)
    web.listener = socket.create_server(("127.0.0.1", web.port), backlog=256)
    web.thread = threading.Thread(target=web._accept, args=(web.listener,), daemon=True)
    web.thread.start()
    w.join()
    took = time.monotonic() - t0
    web.stop()
    r = result["r"]
    asked = [(q.name, q.first, q.last) for q in web.log if q.name.endswith(".safetensors") and q.first is not None and q.last - q.first > 100000]
    twice = peer.Coverage(asked).often(1)
    allowed = peer.Coverage([(q.name, q.first, q.last) for q in in_flight])
    stray = peer.Coverage([p[:3] for p in twice]).minus(allowed) if twice else None
    stray_bytes = stray.bytes() if stray else 0
    if os.environ.get("VERBOSE"):
        for piece in stray.pieces if stray else ():
            print("    twice:", piece, [q for q in web.log if q.first is not None and q.first <= piece[2] and q.last >= piece[1]])
    row("a server gone for 20 s in a run", f"exit {r.rc} after {took:.1f} s", f"{before} requests before", "", "completes")
    row("fetched twice, other than what was in flight", f"{stray_bytes} bytes", f"{len(in_flight)} in flight", "", "0")
    print("   ", {k: r.stats.get(k) for k in ("retries", "bytes_net", "requests", "hedges", "escapes", "bytes_hedged", "window_min", "error")})


def certificate(folder):
    crt, key = os.path.join(folder, "tls.crt"), os.path.join(folder, "tls.key")
    if not os.path.exists(crt):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", crt, "-days", "2",
                        "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, stderr=subprocess.DEVNULL)
    return crt, key


def versions(t):
    """HTTP/1.1 and HTTP/2 over TLS by turns; again in a network namespace whose loopback passes so much."""
    if not os.environ.get("PENSTOCK_SHAPED") and os.geteuid() == 0:
        for setup, name in (("tbf rate 1600mbit burst 256k limit 64m", "a link of 200 MB/s in all"),
                            ("tbf rate 400mbit burst 256k limit 64m", "a link of 50 MB/s in all")):
            env = dict(os.environ, PENSTOCK_SHAPED=name)
            subprocess.run(["unshare", "--net", "sh", "-c", f"ip link set lo up && tc qdisc add dev lo root {setup} && exec \"$@\"", "sh",
                            sys.executable, os.path.abspath(__file__), "versions"], env=env, check=True)
    folder = model(t, 400)
    web = t.nginx(folder, tls=certificate(t.temp))
    rates = {"h1": [], "h2": []}
    for _ in range(3):
        for version in rates:
            argv = [t.program, "bench", "net", web.tls_url, "--json", "--http", version, "--seconds", "3", "--cache", t.path("c")]
            d = json.loads(subprocess.check_output(argv, env=dict(os.environ, SSL_CERT_FILE=certificate(t.temp)[0])))
            rates[version].append(max(r["gb_s"] for r in d["rows"]) * 1000)
    h1, h2 = max(rates["h1"]), max(rates["h2"])
    row(f"HTTP/2 over TLS, {os.environ.get('PENSTOCK_SHAPED', 'bare loopback')}", f"{h2:.0f} MB/s", f"HTTP/1.1 {h1:.0f} MB/s", f"{h2 / h1:.2f}", "")
    print("   ", {k: [round(x) for x in v] for k, v in rates.items()})


def limit(t):
    folder = model(t, 200)
    web = t.nginx(folder)
    for rate in ("20M", "100M"):
        r = run(t, web.url, "--net-limit", rate)
        want = int(rate[:-1]) << 20
        got = r.stats["bytes_net"] / r.stats["sweep_s"]
        row(f"--net-limit {rate}", f"{got / MB:.1f} MB/s", f"limit {want / MB:.1f} MB/s", f"{got / want:.3f}", "")


def main():
    which = sys.argv[1:] or ["slow", "wait", "down", "versions", "limit"]
    with peer.Test() as t:
        for name in which:
            globals()[name](t)


if __name__ == "__main__":
    main()
