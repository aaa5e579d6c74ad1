#!/usr/bin/env python3
"""Measures what SPEED.md quotes, each figure beside its limit in the same run. Not a test: machines differ, ratios are what counts.

    PENSTOCK=build/release/penstock tests/bench/bars.py MODEL_1B REAL_MODEL [gemv|model|link|overlap|warm ...]

MODEL_1B: tests/scripts/make_random_llama.py's folder; REAL_MODEL: any smaller model folder with a tokenizer. Needs nginx and curl,
`overlap` and `warm` also root, unshare, ip and tc; everything stays on loopback.
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
import badhttp  # noqa: E402
import peer  # noqa: E402


def row(what, value, limit, ratio, bar):
    print(f"{what:58} {value:>14} {limit:>22} {ratio:>8} {bar:>10}", flush=True)


def gemv(t, _model, _real):
    d = json.loads(subprocess.check_output([t.program, "bench", "gemv", "-t", "2", "--json"]))
    by = {(r["dtype"], r["t"]): r for r in d["rows"]}
    for dtype, share, per_weight in ("bf16", 0.85, None), ("q8b64", 0.80, 1.5), ("nf4b64", 0.65, 2.0):
        r = by[dtype, 1]
        row(f"{dtype} GEMV T=1 ({d['cpu']}, 2 threads)", f"{r['gb_s']:.1f} GB/s", f"read {r['limit_gb_s']:.1f} GB/s", f"{r['share']:.2f}", f">= {share}")
        if per_weight:
            row("the same per weight, against bf16", f"{r['per_weight']:.2f} times", "", "", f">= {per_weight}")
    one, many = by["bf16", 1], by["bf16", 16]
    row("T=16 against T=1", f"{many['seconds'] * 1e3:.1f} ms", f"T=1 {one['seconds'] * 1e3:.1f} ms", f"{many['seconds'] / one['seconds']:.2f}", "<= 2.5")
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


def rates(t, server, size, runs=2):
    """Bytes per second of curl in parallel and of `penstock bench net`, by turns."""
    curl, ours = [], []
    for _ in range(runs):
        curl.append(size / curl_parallel(server.url + "/model.safetensors", size))
        ours.append(json.loads(subprocess.check_output([t.program, "bench", "net", server.url, "--json", "--cache", t.path("c")])))
    return max(curl), ours


def link(t, model_1b, real):
    paced = badhttp.Server(real, pace=20_000_000)
    t.servers.append(paced)
    for name, server, folder, bar in (("20 MB/s a connection, 8 connections", paced, real, ">= 0.95"),
                                      ("unlimited loopback", t.nginx(model_1b), model_1b, ">= 0.80")):
        best, ours = rates(t, server, os.path.getsize(os.path.join(folder, "model.safetensors")))
        got = max(r["gb_s"] for d in ours for r in d["rows"]) * 1e9
        row(f"link, {name}", f"{got / 1e6:.0f} MB/s", f"curl -Z {best / 1e6:.0f} MB/s", f"{got / best:.2f}", bar)
        print("   ", json.dumps({"limit": [d["limit"] for d in ours], "rows": [d["rows"] for d in ours]}))


SHAPED = {"overlap": 100_000_000, "warm": 200_000_000}  # bytes a second of the link in all


def shaped_link(name):
    """Starts this script again in a network namespace of its own whose loopback passes so much in all. Needs root."""
    if os.environ.get("PENSTOCK_SHAPED") == name:
        return
    setup = (f"ip link set lo up && tc qdisc add dev lo root tbf rate {8 * SHAPED[name]} burst 256k limit 64m && "
             'exec "$@"')
    env = dict(os.environ, PENSTOCK_SHAPED=name)
    os.execvpe("unshare", ["unshare", "--net", "sh", "-c", setup, "sh", sys.executable, os.path.abspath(__file__),
                           *sys.argv[1:3], name], env)


def overlap(t, _model, real):
    """Sweep time against max(transfer alone, compute alone) on a link of 100 MB/s, rows such that neither is under half of
    the other: the compute side of ROWS rows is measured on the resident model. THREADS=1 leaves one of two cores to the
    server and the kernel, which would be elsewhere on a real link."""
    threads = os.environ.get("THREADS", "2")
    server = t.nginx(real)
    bench = os.path.join(os.path.dirname(t.program), "tests", "bench_model")
    size = os.path.getsize(os.path.join(real, "model.safetensors"))
    row("the link", f"{size / curl_parallel(server.url + '/model.safetensors', size) / 1e6:.1f} MB/s", "curl -Z", "", "")
    for rows in map(int, os.environ.get("ROWS", "1024 2048 3072").split()):
        long = t.path("long.txt")
        with open(long, "w") as f:
            f.write("the " * (rows - 1))

        def sweep(prompt):
            r = t.run("run", server.url, *prompt, "-n", 1, "--temp", 0, "-t", threads, disk=0, ram="4G", seconds=300)
            assert r.rc == 0, r.err
            return r.stats["sweep_s"], r.stats["tokens_prompt"]
        alone, transfer, both = [], [], []
        for _ in range(3):
            alone.append(json.loads(subprocess.check_output([bench, real, str(rows), "3", threads]))["prefill_s"])
            transfer.append(sweep(("-p", "a"))[0])
            both.append(sweep(("-f", long)))
        n = both[0][1]
        a, b, c = statistics.median(transfer), statistics.median(alone), statistics.median(x for x, _ in both)
        row(f"overlap: {n} rows, {threads} threads", f"{c:.2f} s", f"max({a:.2f}, {b:.2f}) s", f"{c / max(a, b):.2f}", "<= 1.10")


def warm(t, model_1b, real):
    """Filling a cold cache over a link of 200 MB/s: the whole command, from its start to its end, against the link's limit."""
    limit = SHAPED["warm"]
    for name, folder in (("SmolLM2-135M", real), ("1 B Llama", model_1b)):
        server = t.nginx(folder)
        size = os.path.getsize(os.path.join(folder, "model.safetensors"))
        best = size / curl_parallel(server.url + "/model.safetensors", size)
        row("the link", f"{best / 1e6:.1f} MB/s", f"curl -Z of {limit / 1e6:.0f} MB/s", f"{best / limit:.3f}", "")
        for _ in range(2):
            cache = t.path("warm")
            r = t.run("warm", server.url, "--json", "-q", cache=cache, disk="100%", seconds=300, watch=True)
            assert r.rc == 0 and r.json["complete"], r.err
            rate = r.json["bytes_fetched"] / r.seconds
            row(f"warm, {name}, {r.json['bytes_fetched'] / 1e9:.2f} GB in {r.seconds:.2f} s", f"{rate / 1e6:.1f} MB/s",
                f"limit {limit / 1e6:.0f} MB/s", f"{rate / limit:.3f}", ">= 0.95")
            print("   ", json.dumps({**r.json, "peak_rss": r.peak_rss, "peak_folder": r.peak_folder}))
            shutil.rmtree(cache)


def main():
    model_1b, real = sys.argv[1:3]
    which = sys.argv[3:] or ["gemv", "model", "link", "overlap", "warm"]
    if len(which) == 1 and which[0] in SHAPED:
        shaped_link(which[0])
    with peer.Test() as t:
        for name in which:
            if name in SHAPED and os.environ.get("PENSTOCK_SHAPED") != name:
                subprocess.check_call([sys.executable, os.path.abspath(__file__), model_1b, real, name])
                continue
            {"gemv": gemv, "model": model, "link": link, "overlap": overlap, "warm": warm}[name](t, model_1b, real)


if __name__ == "__main__":
    main()
