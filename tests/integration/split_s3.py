#!/usr/bin/env python3
"""`penstock split SRC s3://...` against a small S3 that checks every signature: the tree is the one that a folder gets, byte
for byte, whether a shard goes up whole, in parts, or (larger than --ram has room for) under another name first; nothing
stays open or half visible after a kill -9, lost credentials or an interrupt; the result runs."""
# ctest-timeout: 240
import json
import os
import signal
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import fakes3  # noqa: E402
import peer  # noqa: E402

TIGHT = "142M"  # four parts of 8 MiB on their way to S3, whatever a shard is


def noise(folder):
    """A model of bytes that no codec makes smaller: shards of 40, 20 and 1 MB."""
    os.makedirs(folder)
    shapes = {"model.embed_tokens.weight": 40, "model.layers.0.mlp.up_proj.weight": 20, "model.layers.1.mlp.up_proj.weight": 1,
              "model.layers.2.mlp.up_proj.weight": 1, "lm_head.weight": 1}
    header, at = {}, 0
    for name, mb in shapes.items():
        header[name] = {"dtype": "U8", "shape": [mb * 1000, 1000], "data_offsets": [at, at + mb * 1000000]}
        at += mb * 1000000
    head = json.dumps(header).encode()
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head)
        for _ in range(at // 1000000):
            f.write(os.urandom(1000000))
    with open(os.path.join(folder, "config.json"), "w") as f:
        f.write("{}")


def tree(folder):
    return {os.path.relpath(os.path.join(d, n), folder): open(os.path.join(d, n), "rb").read()
            for d, _, names in os.walk(folder) for n in names}


def split(t, s3, src, dst, *args):
    return subprocess.run([t.program, "split", src, dst, "--quiet", "--ram", TIGHT, *args],
                          env=dict(os.environ, **s3.env()), capture_output=True, text=True, timeout=120)


def check_tree(t, s3, prefix, want, what):
    t.check(tree(os.path.join(s3.root, prefix)) == want, f"{what}: another tree: {s3.names_below()}")
    t.equal(s3.uploads, {}, f"{what}: uploads are open")


def undisturbed(t, s3, src, want):
    r = split(t, s3, src, "s3://models/whole")
    t.equal(r.returncode, 0, f"split: {r.stderr}")
    check_tree(t, s3, "whole", want, "undisturbed")
    begun = [q.name for q in s3.log if q.method == "POST" and q.query == "uploads="]
    t.check(any(".penstock-split" in n for n in begun), f"nothing went up under another name first: {begun}")
    t.check(any("x-amz-copy-source" in q.headers for q in s3.log), "nothing was copied inside the store")
    names = [q.name for q in s3.log if q.method == "PUT"]
    t.check(names[-1].endswith("penstock.manifest"), f"the manifest is not last: {names[-3:]}")
    before = len([q for q in s3.log if q.method == "PUT" and "shards/" in q.name])
    r = split(t, s3, src, "s3://models/whole")
    t.equal(r.returncode, 0, f"split again: {r.stderr}")
    check_tree(t, s3, "whole", want, "again")
    t.check(before > 0, "no shards were put")
    # a mirror is the source's: it holds nothing of what is written
    r = split(t, s3, src, "s3://models/mirrored", "--mirror", src)
    t.equal(r.returncode, 0, f"split with a mirror of the source: {r.stderr}")
    check_tree(t, s3, "mirrored", want, "with a mirror of the source")


def killed(t, s3, src, want):
    left_open = 0
    for at in (4, 11):
        state = {"puts": 0, "pid": None}

        def scenario(q, r):
            state["puts"] += q.method == "PUT"
            if state["puts"] == at and state["pid"]:
                os.kill(state["pid"], signal.SIGKILL)
                state["pid"] = None
        s3.set(scenario)
        p = subprocess.Popen([t.program, "split", src, f"s3://models/killed{at}", "--quiet", "--ram", TIGHT],
                             env=dict(os.environ, **s3.env()), stderr=subprocess.PIPE)
        state["pid"] = p.pid
        p.communicate(timeout=120)
        t.equal(p.returncode, -signal.SIGKILL, f"killed at {at}")
        half = tree(os.path.join(s3.root, f"killed{at}"))
        t.check("penstock.manifest" not in half, "a half-made model looks whole")
        left_open += len(s3.uploads)
        journal = half.get(".penstock-split", b"").decode().splitlines()[1:]
        s3.set(None)
        r = split(t, s3, src, f"s3://models/killed{at}")
        t.equal(r.returncode, 0, f"after the kill at {at}: {r.stderr}")
        check_tree(t, s3, f"killed{at}", want, f"killed at {at}")
        for line in journal:
            name = f"killed{at}/shards/{line.split()[-1]}.shard"
            t.check(not any(q.method in ("PUT", "POST") and q.name == name for q in s3.log), f"{name} was done again")
    t.check(left_open > 0, "no kill left an upload open: this proves nothing")


def two_at_once(t, s3, src, want):
    """Whoever begins later has the prefix. The earlier one ends, says why, and leaves no trace, wherever it is just then:
    in its first parts, in a copy, before its manifest."""
    for at, what in (("uploadId", "in parts"), ("copy", "in a copy"), ("shards/", "between shards"), ("config.json", "at its beginning")):
        state, prefix = {"later": None}, f"two-{what.replace(' ', '-')}"

        def scenario(q, r):
            here = at == "copy" and "x-amz-copy-source" in q.headers or at != "copy" and q.method == "PUT" and at in q.name + "?" + q.query
            if here and state["later"] is None:
                state["later"] = False  # what it asks for itself comes here too
                state["later"] = split(t, s3, src, f"s3://models/{prefix}")
        s3.set(scenario)
        earlier = split(t, s3, src, f"s3://models/{prefix}")
        s3.set(None)
        later = state["later"]
        t.equal(later and later.returncode, 0, f"{what}: the later one: {later}")
        t.equal(earlier.returncode, 1, f"{what}: the earlier one: {earlier.stderr}")
        t.check("another split" in earlier.stderr and earlier.stderr.count("\n") == 1, f"{what}: the reason: {earlier.stderr}")
        left = tree(os.path.join(s3.root, prefix))
        t.equal(sorted(set(left) - set(want)), [], f"{what}: left behind")
        t.check(left == want, f"{what}: another tree")
        t.equal(s3.uploads, {}, f"{what}: uploads are open")


def leftovers(t, s3, src, want):
    """Temporary objects of runs that are dead, of this version and of the one before, which had one name for all."""
    s3.store("left/.penstock-split", b"penstock-split 2 00\n")
    for name in (".penstock-split.shard", ".penstock-split.shard.0123456789abcdef"):
        s3.store(f"left/{name}", b"x")
    names = set()
    for prefix in ("left", "left2"):
        r = split(t, s3, src, f"s3://models/{prefix}")
        t.equal(r.returncode, 0, f"over leftovers: {r.stderr}")
        check_tree(t, s3, prefix, want, "over leftovers")
        names |= {q.name.split("/")[-1] for q in s3.log if q.method == "POST" and q.query == "uploads=" and ".penstock-split" in q.name}
    t.equal(len(names), 2, f"two runs have one name for what is temporary: {names}")


def refused(t, s3, src, want):
    def scenario(q, r):
        if q.method == "PUT" and "shards/" in q.name:
            s3.refuse_writes = "ExpiredToken"
    s3.set(scenario)
    r = split(t, s3, src, "s3://models/refused")
    t.equal(r.returncode, 3, f"credentials lost half-way: {r.stderr}")
    t.check("ExpiredToken" in r.stderr and r.stderr.count("\n") <= 4, f"the reason: {r.stderr}")
    t.check("penstock.manifest" not in tree(os.path.join(s3.root, "refused")), "a half-made model looks whole")
    s3.refuse_writes = None
    s3.set(None)
    r = split(t, s3, src, "s3://models/refused")
    t.equal(r.returncode, 0, f"with credentials: {r.stderr}")
    check_tree(t, s3, "refused", want, "refused")


def others(t, s3, src):
    r = split(t, s3, peer.KJV, "s3://models/whole")
    t.equal(r.returncode, 2, f"over another model: {r.stderr}")
    t.check("another model" in r.stderr, r.stderr)
    s3.store("strange/precious.txt", b"x")
    r = split(t, s3, src, "s3://models/strange")
    t.equal(r.returncode, 2, f"over something else: {r.stderr}")
    t.check("precious.txt" in r.stderr, r.stderr)
    t.equal(s3.file("strange/precious.txt")[0], b"x", "and it is still there")
    r = split(t, s3, src, "s3://nobucket/x")
    t.equal(r.returncode, 3, f"no such bucket: {r.stderr}")
    r = split(t, s3, src, "http://127.0.0.1:1/x")
    t.equal(r.returncode, 2, f"a destination that can't be written to: {r.stderr}")


def runs(t, s3):
    """From a web server to S3, and the text of the result."""
    web = t.nginx(peer.KJV)
    r = split(t, s3, web.url, "s3://models/kjv")
    t.equal(r.returncode, 0, f"http to s3: {r.stderr}")
    ask = ("-p", "In the beginning", "-n", 12, "--temp", "0", "--ignore-eos")
    local = t.run("run", peer.KJV, *ask, cache=t.path("c"), disk="32M")
    there = t.run("run", "s3://models/kjv", *ask, cache=t.path("c"), disk="32M", env=s3.env())
    t.equal(there.rc, 0, f"it runs: {there}")
    t.equal(there.text, local.text, "the text")


def main():
    with peer.Test() as t:
        src, ref = t.path("noise"), t.path("ref")
        noise(src)
        subprocess.run([t.program, "split", src, ref, "--quiet"], check=True)
        want = tree(ref)
        os.makedirs(t.path("bucket"))
        s3 = fakes3.S3(t.path("bucket"))
        t.servers.append(s3)
        undisturbed(t, s3, src, want)
        killed(t, s3, src, want)
        two_at_once(t, s3, src, want)
        leftovers(t, s3, src, want)
        refused(t, s3, src, want)
        others(t, s3, src)
        runs(t, s3)


if __name__ == "__main__":
    main()
