#!/usr/bin/env python3
"""Measures what SPEED.md quotes, each figure beside its limit in the same run. Not a test: machines differ, ratios are what counts.

    PENSTOCK=build/release/penstock tests/bench/bars.py MODEL_1B REAL_MODEL [gemv|model|link|overlap ...]

MODEL_1B: tests/scripts/make_random_llama.py's folder; REAL_MODEL: any smaller model folder. Needs nginx and curl; everything stays on loopback.
"""
import json
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
import peer  # noqa: E402


def row(what, value, limit, ratio, bar):
    print(f"{what:58} {value:>14} {limit:>22} {ratio:>8} {bar:>10}", flush=True)


def gemv(t, _model, _real):
    d = json.loads(subprocess.check_output([t.program, "bench", "gemv", "-t", "2", "--json"]))
    limit = d["limit"]["gb_s"]
    by = {(r["dtype"], r["t"]): r for r in d["rows"]}
    one = by["bf16", 1]
    row(f"bf16 GEMV T=1 ({d['cpu']}, 2 threads)", f"{one['gb_s']:.1f} GB/s", f"read {limit:.1f} GB/s", f"{one['gb_s'] / limit:.2f}", ">= 0.85")
    ratio = by["bf16", 16]["seconds"] / one["seconds"]
    row("T=16 against T=1", f"{by['bf16', 16]['seconds'] * 1e3:.1f} ms", f"T=1 {one['seconds'] * 1e3:.1f} ms", f"{ratio:.2f}", "<= 2.5")
    row("T=512", f"{by['bf16', 512]['gflops']:.0f} GFLOP/s", "", "", "")


def model(t, model_1b, _real):
    program = os.path.join(os.path.dirname(t.program), "tests", "bench_model")
    d = json.loads(subprocess.check_output([program, model_1b, "512", "64"]))
    swept = d["stats"]["plan"]["bytes_per_sweep"]
    row("resident 1 B bf16 Llama, decode", f"{d['decode_tok_s']:.2f} tok/s", f"{d['decode_gb_s']:.1f} of {d['read_gb_s']:.1f} GB/s",
        f"{d['decode_of_read']:.2f}", ">= 0.78")
    gflops = 2 * swept / 2 * d["prompt"] / d["prefill_s"] / 1e9
    row("prefill of 512 tokens, the same", f"{d['prefill_tok_s']:.1f} tok/s", f"{gflops:.0f} GFLOP/s", "", "")


def curl_parallel(url, total, part=8 << 20, connections=8):
    """Seconds that curl takes for [0, total) of one object in ranges, to nowhere."""
    config = "next\n".join(f'url = "{url}"\noutput = /dev/null\nrange = {a}-{min(a + part, total) - 1}\n' for a in range(0, total, part))
    argv = ["curl", "-s", "-Z", "--parallel-immediate", "--parallel-max", str(connections), "-K", "-"]
    t0 = time.monotonic()
    subprocess.run(argv, input=config.encode(), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - t0


def link(t, model_1b, real):
    for name, folder, rate, bar in (("20 MB/s per connection, 8 connections", real, 20_000_000, ">= 0.95"),
                                    ("unlimited loopback", model_1b, None, ">= 0.80")):
        server = t.nginx(folder, rate=rate)
        size = os.path.getsize(os.path.join(folder, "model.safetensors"))
        best = 0
        for _ in range(2):
            curl = size / curl_parallel(server.url + "/model.safetensors", size)
            best = max(best, curl)
        ours = []
        for _ in range(2):
            d = json.loads(subprocess.check_output([t.program, "bench", "net", server.url, "--json", "--cache", t.path("c")]))
            ours.append(d)
        rows = {r.get("op", r.get("name", str(i))): r for i, r in enumerate(ours[-1]["rows"])}
        got = max(r["gb_s"] for d in ours for r in d["rows"]) * 1e9
        row(f"link, {name}", f"{got / 1e6:.0f} MB/s", f"curl -Z {best / 1e6:.0f} MB/s", f"{got / best:.2f}", bar)
        print("   ", json.dumps({"limit": ours[-1]["limit"], "rows": rows}))


def overlap(t, _model, real):
    """Sweep time against max(transfer alone, compute alone): the link gives 100 MB/s over 8 connections; rows chosen so that neither side is under half."""
    server = t.nginx(real, rate=12_500_000)
    bench = os.path.join(os.path.dirname(t.program), "tests", "bench_model")
    rows = int(os.environ.get("ROWS", "1024"))
    alone = json.loads(subprocess.check_output([bench, real, str(rows), "3"]))["prefill_s"]
    short = t.path("short.txt")
    long = t.path("long.txt")
    with open(short, "w") as f:
        f.write("a")
    with open(long, "w") as f:
        f.write("the " * (rows - 1))

    def sweep(path):
        r = t.run("run", server.url, "-f", path, "-n", 1, "--temp", 0, disk=0, ram="2G", seconds=300)
        assert r.rc == 0, r.err
        return r.stats["sweep_s"], r.stats["tokens_prompt"]
    transfer = min(sweep(short)[0] for _ in range(2))
    both, n = min(sweep(long) for _ in range(2))
    row(f"overlap: {n} rows at 100 MB/s", f"{both:.2f} s", f"max({transfer:.2f}, {alone:.2f}) s", f"{both / max(transfer, alone):.2f}", "<= 1.10")


def main():
    model_1b, real = sys.argv[1:3]
    which = sys.argv[3:] or ["gemv", "model", "link", "overlap"]
    with peer.Test() as t:
        for name in which:
            {"gemv": gemv, "model": model, "link": link, "overlap": overlap}[name](t, model_1b, real)


if __name__ == "__main__":
    main()
