#!/usr/bin/env python3
"""Signed models and their differences: keygen, `split --sign`, --verify-key in every command that opens a model, keys that
change, signatures that are missing, foreign or wrong; `inspect --diff` of a revision that changes one layer, and that a run
of it fetches only what it names; `split --delete-source`; what a split says of its result; rounded trees are the same on
every table of instructions."""
# ctest-timeout: 200
import glob
import json
import os
import shutil
import stat
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import peer  # noqa: E402

SIG = "penstock.manifest.sig"


def call(t, *args, env=None):
    return subprocess.run([t.program, *args], capture_output=True, text=True, timeout=100, env=dict(os.environ, **(env or {})),
                          stdin=subprocess.DEVNULL)


def expect(t, status, says, *args):
    r = call(t, *args)
    t.equal(r.returncode, status, f"{args}: {r.stderr}")
    t.check(says in r.stderr and r.stderr.count("\n") <= 4, f"{args}: {says!r} is not said: {r.stderr!r}")


def keys(t):
    made = {}
    for name in "abc":
        path = t.path(f"{name}.pem")
        made[name] = json.loads(call(t, "keygen", path, "--json").stdout)
        t.equal(stat.S_IMODE(os.stat(path).st_mode), 0o600, "the private key is its owner's")
    before = open(t.path("a.pem")).read()
    expect(t, 2, "exists", "keygen", t.path("a.pem"))
    os.rename(t.path("c.pem.pub"), t.path("c.kept"))
    expect(t, 2, "never replaced", "keygen", t.path("c.pem"))
    t.equal(open(t.path("a.pem")).read(), before, "a key is not replaced")
    t.check(len({k["key_id"] for k in made.values()}) == 3, "three keys")


def openssl(t, model):
    """An independent check: the signature is plain Ed25519 over the manifest's bytes."""
    if not shutil.which("openssl"):
        return
    sig = open(os.path.join(model, SIG)).read().split()[-1]
    with open(t.path("raw.sig"), "wb") as f:
        f.write(bytes.fromhex(sig))
    r = subprocess.run(["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", t.path("a.pem.pub"), "-rawin", "-in",
                        os.path.join(model, "penstock.manifest"), "-sigfile", t.path("raw.sig")], capture_output=True)
    t.equal(r.returncode, 0, f"openssl: {r.stdout} {r.stderr}")


def signatures(t):
    keys(t)
    m, plain = t.path("signed"), t.path("unsigned")
    a, b = ("--verify-key", t.path("a.pem.pub")), ("--verify-key", t.path("b.pem.pub"))
    expect(t, 2, "--sign", "split", peer.KJV, m, "--sign", t.path("none.pem"), "-q")
    expect(t, 2, "no private", "split", peer.KJV, m, "--sign", t.path("a.pem.pub"), "-q")
    t.check(not os.path.exists(os.path.join(m, "penstock.manifest")), "a bad key is found out before the work")
    t.equal(call(t, "split", peer.KJV, m, "--sign", t.path("a.pem"), "-q").returncode, 0, "split --sign")
    t.equal(call(t, "split", peer.KJV, plain, "-q").returncode, 0, "split")
    t.equal(open(os.path.join(m, "penstock.manifest"), "rb").read(), open(os.path.join(plain, "penstock.manifest"), "rb").read(),
            "a signature changes nothing of the manifest")
    openssl(t, m)
    run = ("run", m, "-p", "In the", "-n", "2", "--temp", "0", "-q")
    t.equal(call(t, *run).stdout, call(t, *run, *a).stdout, "the same text")
    web = t.nginx(t.path("."))
    commands = (run, ("plan", m), ("inspect", m), ("logits", m, "--tokens", "1,2"), ("tokenize", m, "x"), ("warm", web.url + "/signed"),
                ("inspect", "--diff", m, m), ("bench", "net", m, "--seconds", "0.1"))
    for c in commands:
        c += ("--cache", t.path("cache")) if c[0] in ("run", "plan", "warm", "bench") else ()
        t.equal(call(t, *c, *b, *a).returncode, 0, f"{c}: one of two trusted keys")
        expect(t, 4, "not trusted", *c, *b)
    for c in (run, ("tokenize", plain, "x"), ("inspect", plain)):
        expect(t, 4, "not signed" if c[1] == plain else "not trusted", *c, *b)
    expect(t, 4, "not a split model", "run", peer.KJV, "-p", "x", "-n", "1", *a)
    expect(t, 2, "no public", "run", m, "-p", "x", "--verify-key", t.path("a.pem"))
    expect(t, 2, "--verify-key", "run", m, "-p", "x", "--verify-key", t.path("none"))
    wrong(t, m, run, a)
    left_out(t, m, run, a)
    # another key: the manifest stays, its signature changes; then none
    t.equal(call(t, "split", peer.KJV, m, "--sign", t.path("b.pem"), "-q").returncode, 0, "signed anew")
    t.equal(call(t, *run, *b).returncode, 0, "by the new key")
    expect(t, 4, "not trusted", *run, *a)
    shutil.copytree(peer.KJV, t.path("newer"))
    with open(t.path("newer", "tokenizer_config.json"), "a", encoding="utf-8") as f:
        f.write("\n")
    t.equal(call(t, "split", t.path("newer"), m, "-q").returncode, 0, "a new version, unsigned")
    t.check(not os.path.exists(os.path.join(m, SIG)), "a signature of a manifest that is gone stays behind")


def left_out(t, m, run, key):
    """A server that keeps back a file which the manifest lists would decide how texts end: the run ends instead."""
    web = t.nginx(os.path.dirname(m))
    listed = [n for n in ("generation_config.json", "tokenizer_config.json") if os.path.exists(os.path.join(m, n))]
    t.check(listed != [], "the model has side files")
    for name in listed:
        path = os.path.join(m, name)
        os.rename(path, path + ".kept")
        for where in (m, f"{web.url}/{os.path.basename(m)}"):
            expect(t, 3, name, "run", where, *run[2:], *key, "--cache", t.path(f"left_out.{name}"))
            expect(t, 3, name, "run", where, *run[2:], "--cache", t.path(f"left_out.{name}"))
            expect(t, 3, name, "tokenize", where, "x", *key)
        expect(t, 3, name, "warm", f"{web.url}/{os.path.basename(m)}", "--cache", t.path(f"left_out.{name}"))
        os.rename(path + ".kept", path)


def wrong(t, m, run, key):
    path = os.path.join(m, SIG)
    good = open(path).read()
    last = good.rstrip("\n")
    flipped = last[:-1] + ("0" if last[-1] != "0" else "1") + "\n"
    for text, says in ((flipped, "does not fit"), ("", "does not begin"), (good.replace("ed25519", "rot13"), "none of this manifest"),
                       ("x" * 70000, ""), (good.upper(), "does not begin")):
        with open(path, "w") as f:
            f.write(text)
        expect(t, 4, says, *run, *key)
    with open(path, "w") as f:
        f.write(good.replace("penstock-signature 1", "penstock-signature 2"))
    expect(t, 1, "newer Penstock", *run, *key)
    with open(path, "w") as f:
        f.write(good)
    manifest = os.path.join(m, "penstock.manifest")
    data = bytearray(open(manifest, "rb").read())
    data[-1] ^= 1
    os.rename(manifest, manifest + ".kept")
    with open(manifest, "wb") as f:
        f.write(data)
    expect(t, 4, "none of this manifest", *run, *key)
    os.rename(manifest + ".kept", manifest)


def tokenizers(t):
    """`tokenize` without a key: what the manifest says of the tokenizer holds; a folder of a tokenizer alone needs none."""
    m, alone = t.path("damaged"), t.path("alone")
    shutil.copytree(t.path("unsigned"), m)
    want = call(t, "tokenize", m, "In the beginning")
    t.equal(want.returncode, 0, f"tokenize: {want.stderr}")
    path = os.path.join(m, "tokenizer.json")
    text = open(path).read()
    with open(path, "w") as f:
        f.write(text + " ")
    expect(t, 4, "tokenizer.json", "tokenize", m, "In the beginning")
    os.mkdir(alone)
    shutil.copy(path, alone)
    t.equal(call(t, "tokenize", alone, "In the beginning").stdout, want.stdout, "a tokenizer alone")
    expect(t, 4, "not a split model", "tokenize", alone, "x", "--verify-key", t.path("a.pem.pub"))
    web = t.nginx(alone)
    began = time.monotonic()
    r = call(t, "tokenize", web.url, "In the beginning", "--net-limit", "100K")
    t.equal(r.stdout, want.stdout, f"over the network: {r.stderr}")
    t.check(time.monotonic() - began > 1, f"--net-limit: {time.monotonic() - began:.2f} s for {len(text)} bytes")


def revision(t):
    """A model of ten layers, and one in which layer 5 is another: they share the rest, in their description and in the cache."""
    peer.random_llama(t.path("v1"), layers=10, hidden=256, vocab=512)
    shutil.copytree(t.path("v1"), t.path("v2"))
    path = os.path.join(t.path("v2"), "model.safetensors")
    with open(path, "r+b") as f:
        n = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(n))
        begin, end = header["model.layers.5.mlp.up_proj.weight"]["data_offsets"]
        f.seek(8 + n + begin)
        old = f.read(end - begin)
        f.seek(8 + n + begin)
        f.write(old[2:] + old[:2])
    for v in ("v1", "v2"):
        t.equal(call(t, "split", t.path(v), t.path(v + "s"), "-q").returncode, 0, f"split {v}")
    d = json.loads(call(t, "inspect", "--diff", t.path("v1s"), t.path("v2s"), "--json").stdout)
    t.equal([x["layer"] for x in d["layers"]], [5], "one layer differs")
    t.equal([x["name"] for x in d["changes"]], ["model.layers.5.mlp.up_proj.weight"], "one tensor differs")
    t.equal(d["tensors"]["changed"], 1, "one")
    t.check(0 < d["bytes_new"] < d["bytes_b"] / 20 and d["bytes_new"] + d["bytes_shared"] == d["bytes_b"], f"{d}")
    t.equal(json.loads(call(t, "inspect", "--diff", t.path("v1s"), t.path("v1s"), "--json").stdout)["same"], True, "same")
    for pair, plain in (("v1 v2", 2), ("v1 v2s", 1), ("v1s v2s", 0), ("v1 v1", 0)):  # plain folders have no hashes to compare by
        r = call(t, "inspect", "--diff", *(t.path(p) for p in pair.split()))
        t.equal((r.returncode, r.stderr.count("without hashes")), (0, plain), f"{pair}: {r.stderr}")
        t.equal(call(t, "inspect", "--diff", *(t.path(p) for p in pair.split()), "--json").stderr, "", f"{pair} --json")
    # a split beside the folder it was made from: nothing says that they differ
    t.equal(call(t, "split", t.path("v1"), t.path("v1raw"), "--codec", "raw", "-q").returncode, 0, "split v1 --codec raw")
    beside = json.loads(call(t, "inspect", "--diff", t.path("v1raw"), t.path("v1"), "--json").stdout)
    t.equal((beside["same"], beside["tensors"]["changed"], beside["tensors"]["same"]), (None, 0, 0), f"{beside['tensors']}")
    t.check(beside["tensors"]["not_compared"] > 0 and {c["change"] for c in beside["changes"]} == {"not_compared"}, f"{beside['tensors']}")
    r = call(t, "inspect", "--diff", t.path("v1raw"), t.path("v1"))
    t.check("can't be told" in r.stdout and "was not compared: --content" in r.stderr, f"{r.stdout[-600:]} {r.stderr}")
    # two forms of one model: their hashes say nothing of each other; content does, whatever the form
    forms = json.loads(call(t, "inspect", "--diff", t.path("v1raw"), t.path("v1s"), "--json").stdout)
    t.check(forms["same"] is None and forms["tensors"]["changed"] == 0 and forms["tensors"]["not_compared"] > 0, f"{forms['tensors']}")
    r = call(t, "inspect", "--diff", t.path("v1raw"), t.path("v1s"))
    t.check("different forms (raw, wh)" in r.stderr and f"of {forms['tensors']['not_compared']} tensors was not compared" in r.stderr, r.stderr)
    for pair, changed in (("v1 v1s", 0), ("v1raw v1s", 0), ("v1s v1raw", 0), ("v1 v2", 1), ("v1raw v2s", 1), ("v2 v1s", 1), ("v1s v2s", 1)):
        read = call(t, "inspect", "--diff", *(t.path(p) for p in pair.split()), "--content", "--json")
        read = json.loads(read.stdout) if read.returncode == 0 else {"tensors": {}, "changes": [read.stderr], "same": None}
        t.equal((read["same"], read["tensors"].get("changed"), read["tensors"].get("not_compared")), (changed == 0, changed, 0), f"{pair} --content")
        t.equal([x["name"] for x in read["changes"]], ["model.layers.5.mlp.up_proj.weight"] * changed, f"{pair} --content")
        t.equal(sum(x["tensors_changed"] for x in read.get("layers", [])), changed, f"{pair} --content: by layers")
    r = call(t, "inspect", "--diff", t.path("v1raw"), t.path("v1s"), "--content")
    t.equal((r.returncode, r.stderr), (0, ""), "nothing is left to say")
    # bytes that are not what their hash says are an error, not a difference
    shutil.copytree(t.path("v1s"), t.path("broken"))
    shard = max(glob.glob(t.path("broken/shards/*")), key=os.path.getsize)
    with open(shard, "r+b") as f:
        f.seek(os.path.getsize(shard) - 100)
        f.write(bytes(64))
    expect(t, 4, "SHA-256", "inspect", "--diff", t.path("v1raw"), t.path("broken"), "--content")
    expect(t, 2, "--diff", "inspect", t.path("v1"), "--content")
    expect(t, 2, "missing", "inspect", "--diff", t.path("v1s"))
    expect(t, 2, "--diff", "inspect", t.path("v1s"), t.path("v2s"))
    web = t.nginx(t.path("."))
    for v, most in (("v1s", None), ("v2s", d["bytes_new"])):
        r = t.run("warm", f"{web.url}/{v}", cache=t.path("c"), disk="64M")
        t.equal(r.rc, 0, f"warm {v}: {r}")
        got = web.fetched(after=4096).bytes()
        if most is not None:
            t.equal(got, most, "what a cache that holds v1 fetches of v2")
            t.check(got > 0, "something is fetched")


def rounded(t):
    """What a split says, and that plain C, AVX2 and AVX-512 write the same."""
    want = None
    for backend in ("ref", "avx2", "avx512"):
        dst = t.path("nf4-" + backend)
        r = call(t, "split", t.path("v1"), dst, "--codec", "nf4b64", "--json", "-q", env={"PENSTOCK_BACKEND": backend})
        t.equal(r.returncode, 0, f"nf4b64 with {backend}: {r.stderr}")
        tree = {os.path.relpath(os.path.join(d, n), dst): open(os.path.join(d, n), "rb").read() for d, _, names in os.walk(dst) for n in names}
        t.check(want is None or want == tree, f"{backend} writes another tree")
        want = tree
    s = json.loads(r.stdout)
    kinds = {k["kind"]: k for k in s["kinds"]}
    t.check(s["ratio"] > 1.5 and s["bytes_in"] / s["bytes_out"] - s["ratio"] < 1e-6, f"{s}")
    t.check(3.2 < kinds["mlp"]["ratio"] < 3.8 and 0.05 < kinds["mlp"]["rel_rmse"] < 0.13, f"{kinds['mlp']}")
    t.check(1.8 < kinds["embedding"]["ratio"] < 2.0 and kinds["embedding"]["rel_rmse"] < 0.015, f"{kinds['embedding']}")
    t.check("rel_rmse" not in kinds["other"], "norms lose nothing")


def unrunnable(t):
    """Said before the work, of an architecture that runs here: a source that is deleted behind a split would be gone."""
    def model(name, weights=None, **config):
        folder = t.path(name)
        shutil.copytree(t.path("v1"), folder)
        with open(os.path.join(folder, "config.json")) as f:
            c = json.load(f)
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump(dict(c, **config), f)
        if weights:
            with open(os.path.join(folder, "model.safetensors"), "r+b") as f:
                data = f.read()
                n = int.from_bytes(data[:8], "little")
                header = json.loads(data[8:8 + n])
                weights(header)
                f.seek(8)
                f.write(json.dumps(header, separators=(",", ":")).encode().ljust(n)[:n])
        return folder

    def odd_type(header):
        header["model.layers.1.mlp.up_proj.weight"]["dtype"] = "I16"  # as many bytes as BF16
    inter = json.load(open(os.path.join(t.path("v1"), "config.json")))["intermediate_size"]
    for status, says, folder in ((1, "has type I16", model("odd", odd_type)),
                                 (4, "do not belong together", model("shape", intermediate_size=inter + 1))):
        expect(t, status, says, "split", folder, t.path("never"), "--delete-source", "-q")
        t.check(not os.path.exists(t.path("never")) and os.path.exists(os.path.join(folder, "model.safetensors")), f"{says}: refused too late")
    r = call(t, "split", model("other", odd_type, architectures=["SomethingElse"]), t.path("other-s"), "-q")
    t.equal(r.returncode, 0, f"an architecture that is not run here: {r.stderr}")


def deleted(t):
    src = t.path("gone")
    shutil.copytree(t.path("v1"), src)
    with open(os.path.join(src, "notes.txt"), "w") as f:
        f.write("mine")
    web = t.nginx(src)
    expect(t, 2, "--delete-source", "split", web.url, t.path("never"), "--delete-source", "-q")
    expect(t, 2, "--mirror", "split", src, t.path("never"), "--delete-source", "--mirror", t.path("v1"), "-q")
    linked = t.path("linked")
    shutil.copytree(src, linked)
    os.remove(os.path.join(linked, "model.safetensors"))
    os.symlink(os.path.join(src, "model.safetensors"), os.path.join(linked, "model.safetensors"))
    expect(t, 2, "symbolic link", "split", linked, t.path("never"), "--delete-source", "-q")
    t.check(os.path.islink(os.path.join(linked, "model.safetensors")) and not os.path.exists(t.path("never")), "refused too late")
    r = call(t, "split", src, t.path("kept"), "--delete-source", "--json", "-q")
    t.equal(r.returncode, 0, f"--delete-source: {r.stderr}")
    s = json.loads(r.stdout)
    t.check(s["verified_bytes"] == s["bytes_out"] and s["deleted_files"] == 1, f"{s}")
    t.check(not os.path.exists(os.path.join(src, "model.safetensors")) and os.path.exists(os.path.join(src, "notes.txt")), os.listdir(src))
    same = subprocess.run(["diff", "-r", t.path("kept"), t.path("v1s")], capture_output=True).returncode
    t.equal(same, 0, "the tree")


def main():
    with peer.Test() as t:
        signatures(t)
        tokenizers(t)
        revision(t)
        rounded(t)
        unrunnable(t)
        deleted(t)


if __name__ == "__main__":
    main()
