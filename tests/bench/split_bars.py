#!/usr/bin/env python3
"""Measures what SPEED.md says of `penstock split`, each figure beside its limit in the same run. Not a test.

    PENSTOCK=build/release/penstock tests/bench/split_bars.py s3 MODEL            http -> S3: AWS_ENDPOINT_URL, keys and BUCKET
                                                              folder SCRATCH [GB]  8 GB of bf16, folder to folder, beside cp
                                                              link MODEL           tokens/s over 100 MB/s, wh against raw (root)
                                                              kill MODEL           ten kill -9 of one tree, then compared
"""
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
import peer  # noqa: E402

LINK_BYTES_S = 100_000_000


def watched(argv, **kw):
    """Runs to the end. (seconds, peak resident bytes, bytes written to disks, stdout)"""
    began = time.monotonic()
    p = subprocess.Popen(argv, stdout=subprocess.PIPE, **kw)
    peak = written = 0
    while p.poll() is None:
        try:
            peak = max(peak, int(re.search(r"VmHWM:\s+(\d+)", open(f"/proc/{p.pid}/status").read())[1]) * 1024)
            written = max(written, int(re.search(r"^write_bytes: (\d+)", open(f"/proc/{p.pid}/io").read(), re.M)[1]))
        except (OSError, TypeError):
            pass
        time.sleep(0.02)
    out = p.stdout.read()
    if p.returncode:
        sys.exit(f"{argv}: exit {p.returncode}")
    return time.monotonic() - began, peak, written, out


def ask(t, model, n=16, cache=None, **kw):
    r = t.run("run", model, "-p", "Once upon a time", "-n", n, "--temp", "0", "--ignore-eos", seconds=600, cache=cache or t.path("c"), **kw)
    if r.rc:
        sys.exit(f"{r}")
    return r


def s3(t, model):
    dst = f"s3://{os.environ['BUCKET']}/split-bars"
    web = t.nginx(model)
    seconds, peak, written, out = watched([t.program, "split", web.url, dst, "--json", "--quiet"])
    print(f"http -> {dst}: {seconds:.1f} s, {peak / 1e6:.0f} MB resident, {written / 1e6:.1f} MB written to local disks (bar < 64 MiB)")
    keys = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
    same = ask(t, dst, disk=0, env=keys).text == ask(t, model, disk=0).text
    print("the text is", "identical" if same else "DIFFERENT")


def folder(t, scratch, gb="8"):
    src, dst, copy = (os.path.join(scratch, n) for n in ("src", "dst", "copy"))
    layers = int(float(gb) * 4)
    rows, cols = 30517, 4096  # 250 MB of bf16
    os.makedirs(src, exist_ok=True)
    rng = random.Random(1)
    if not os.path.exists(os.path.join(src, "model.safetensors")):
        block = bytearray()
        for _ in range(1 << 20):  # sums of uniforms: a normal distribution near enough
            u = struct.pack("<f", (sum(rng.random() for _ in range(6)) - 3) * 0.028)
            block += u[2:]
        head = {f"model.layers.{i}.mlp.up_proj.weight": {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [i * rows * cols * 2, (i + 1) * rows * cols * 2]}
                for i in range(layers)}
        text = json.dumps(head).encode()
        with open(os.path.join(src, "model.safetensors"), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text)
            left = layers * rows * cols * 2
            while left:
                left -= f.write(block[:left])
        with open(os.path.join(src, "config.json"), "w") as f:
            f.write("{}")
    if os.environ.get("PREPARE"):
        return
    size = os.path.getsize(os.path.join(src, "model.safetensors"))
    speeds = {}
    for name in ("cp", "split"):
        shutil.rmtree(dst, ignore_errors=True)
        shutil.rmtree(copy, ignore_errors=True)
        os.sync()
        if name == "cp":
            seconds, peak, _, _ = watched(["sh", "-c", f"cp -r {src} {copy} && sync -f {copy}"])
        else:
            seconds, peak, _, _ = watched([t.program, "split", src, dst, "--json", "--quiet"])
        speeds[name] = size / seconds
        print(f"{name:6} {size / 1e9:.2f} GB in {seconds:.1f} s: {size / seconds / 1e9:.2f} GB/s, {peak / 1e6:.0f} MB resident", flush=True)
    shutil.rmtree(copy, ignore_errors=True)
    rows_ = json.loads(subprocess.check_output([t.program, "bench", "codec", "-t", "1", "--json"]))["rows"]
    encoder = next(r["encode_gb_s"] for r in rows_ if r["codec"] == "wh" and r["dtype"] == "bf16") * 1e9
    bar = min(0.5 * speeds["cp"], 0.9 * os.cpu_count() * encoder)
    print(f"bar: min(0.5 x cp, 0.9 x {os.cpu_count()} x {encoder / 1e9:.2f} GB/s) = {bar / 1e9:.2f} GB/s: split is {speeds['split'] / bar:.2f} of it")


def link(t, model):
    if not os.environ.get("PENSTOCK_SHAPED") and not os.environ.get("PREPARE"):
        setup = f"ip link set lo up && tc qdisc add dev lo root tbf rate {8 * LINK_BYTES_S} burst 256k limit 64m && exec \"$@\""
        os.execvpe("unshare", ["unshare", "--net", "sh", "-c", setup, "sh", sys.executable, os.path.abspath(__file__), "link", model],
                   dict(os.environ, PENSTOCK_SHAPED="1"))
    got = {}
    for codec in ("raw", "wh"):
        dst = os.path.join(os.environ.get("SCRATCH", t.path("")), f"link-{codec}")  # kept: splitting is not what is measured
        subprocess.run([t.program, "split", model, dst, "--codec", codec, "--quiet", "--json"], check=True, stdout=subprocess.DEVNULL)
        if os.environ.get("PREPARE"):
            continue
        web = t.nginx(dst)
        r = ask(t, web.url, n=int(os.environ.get("TOKENS", "5")), disk=0, ram="min")
        got[codec] = r.stats["decode_tok_s"], r.text
        print(f"{codec:4} {r.stats['decode_tok_s']:.3f} tokens/s, {r.stats['bytes_net'] / 1e6:.0f} MB", flush=True)
    if os.environ.get("PREPARE"):
        return
    print(f"wh / raw = {got['wh'][0] / got['raw'][0]:.2f} (bar >= 1.40), the text is {'the same' if got['wh'][1] == got['raw'][1] else 'DIFFERENT'}")


def finished(folder):
    """inode and time of every shard that is whole: one that is made again has others."""
    try:
        with os.scandir(os.path.join(folder, "shards")) as found:
            return {e.name: (e.stat().st_ino, e.stat().st_mtime_ns) for e in found if e.name.endswith(".shard")}
    except FileNotFoundError:
        return {}


def kill(t, model):
    """Ten kills on one tree, each at a random moment behind the next shard, so that every run gets on; never begun anew."""
    dst, argv = t.path("killed"), [t.program, "split", model, t.path("killed"), "--quiet", "--json"]
    began = time.monotonic()
    subprocess.run([*argv[:3], t.path("whole"), *argv[4:]], check=True, stdout=subprocess.DEVNULL)
    rng, kills, again, whole = random.Random(7), 0, 0, time.monotonic() - began
    shards = len(finished(t.path("whole")))
    while kills < 10:
        before = finished(dst)
        p = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        while p.poll() is None and len(finished(dst)) <= len(before):
            time.sleep(0.001)
        try:
            p.wait(rng.uniform(0, 1.5 * whole / shards))
            break  # too few shards for ten kills
        except subprocess.TimeoutExpired:
            p.send_signal(signal.SIGKILL)
            p.wait()
            kills += 1
        after = finished(dst)
        again += sum(after.get(n) != v for n, v in before.items())
        print(f"kill {kills}: {len(after)} of {shards} shards", flush=True)
    before = finished(dst)
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    again += sum(finished(dst).get(n) != v for n, v in before.items())
    same = subprocess.run(["diff", "-r", t.path("whole"), dst]).returncode == 0
    print(f"{kills} kills of one tree, then to the end: {again} finished shards were made again, the tree is {'byte-identical' if same else 'ANOTHER'}")
    if kills < 10:
        print(f"bar: NOT MEASURED: {shards} shards were finished before ten kills: take a model of more layers")
    else:
        print(f"bar: {'met' if same and not again else 'MISSED'}")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with peer.Test() as t:
        {"s3": s3, "folder": folder, "link": link, "kill": kill}[sys.argv[1]](t, *sys.argv[2:])


if __name__ == "__main__":
    main()
