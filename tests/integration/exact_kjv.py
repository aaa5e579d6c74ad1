"""Same model, same seed, same text, whatever carries the weights (design.md, promise 1).

The trained model of models/kjv and three small random Llamas (f32, f16, bf16; tied and untied) run greedily and with
--temp 0.8 -s 7: from a local folder, `penstock share` and nginx; straight from safetensors, split raw, lz4, wh and xc34;
with --disk 0, 25%, 50% and 100%; --ram min and the default; -t 1 and 2; -ub 1, 7 and 512. Every text must equal that of
the plain run of the same model. The trained model's greedy ids and text must equal the reference that transformers wrote,
and a shorter run must write a prefix of a longer one."""
# ctest-timeout: 300
import itertools
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import peer  # noqa: E402

PROMPT = "Genesis 1:1 In the beginning God created the heaven and the earth"
N = 12
MODES = {"greedy": ("--temp", "0"), "seeded": ("--temp", "0.8", "-s", "7")}
MODELS = {
    "kjv": None,
    "f32": dict(seed=11, dtype="f32", hidden=192, layers=3, inter=520, heads=6, kv_heads=2, tied=False),
    "f16": dict(seed=12, dtype="f16", hidden=256, layers=4, inter=512, heads=4, kv_heads=4, tied=True, files=3),
    "bf16": dict(seed=13, dtype="bf16", hidden=320, layers=3, inter=776, heads=5, kv_heads=1, tied=False, files=2),
}
LAYOUTS = ("hf", "raw", "lz4", "wh", "xc34")
DISK, RAM, THREADS, UBATCH = ("0", "25%", "50%", "100%"), ("min", None), (1, 2), (1, 7, 512)


def write(t, name):
    shape = MODELS[name]
    if shape is None:
        peer.copy_model(peer.KJV, t.path("m", name, "hf"))
    else:
        peer.random_llama(t.path("m", name, "hf"), **shape)
    for codec in LAYOUTS[1:]:
        r = t.run("split", t.path("m", name, "hf"), t.path("m", name, codec), "--codec", codec, "--quiet")
        t.equal(r.rc, 0, f"{name}: split {codec}: {r}")


def text_of(t, model, mode, n=N, threads=2, ubatch=512, prompt=PROMPT, **kw):
    r = t.run("run", model, "-p", prompt, "-n", n, "-t", threads, "-ub", ubatch, "--ignore-eos", *MODES[mode], **kw)
    t.check(r.rc == 0, f"runs: {r}")
    return r.text


def check_model(t, name, bases, combos):
    want = {mode: text_of(t, t.path("m", name, "hf"), mode) for mode in MODES}
    t.check(want["greedy"] != want["seeded"], f"{name}: sampling differs from greedy")
    runs = 0
    for layout, where in itertools.product(LAYOUTS, bases):
        address = bases[where] + f"/{name}/{layout}"
        for k in range(1 if where == "local" else 2):
            disk, ram, threads, ubatch = next(combos)
            mode = ("greedy", "seeded")[(runs + k) % 2]
            cache = t.path("cache", name + layout)  # both servers fill one cache, with what differs and what does not
            got = text_of(t, address, mode, threads=threads, ubatch=ubatch, cache=cache, disk=disk, ram=ram)
            t.equal(got, want[mode], f"{name} {layout} {where} --disk {disk} --ram {ram} -t {threads} -ub {ubatch} {mode}")
        runs += 1
    return want


def check_full_disk_by_ram(t, bases):
    """Every disk and RAM budget of the trained model, straight from safetensors, cold and warm."""
    want = text_of(t, peer.KJV, "seeded")
    for disk, ram in itertools.product(DISK, RAM):
        for state in ("cold", "warm"):
            got = text_of(t, bases["nginx"] + "/kjv/hf", "seeded", cache=t.path("cache", f"full{disk}{ram}"), disk=disk, ram=ram)
            t.equal(got, want, f"kjv nginx --disk {disk} --ram {ram} {state}")


def check_reference(t):
    path = os.path.join(peer.SOURCE_DIR, "tests", "fixtures", "kjv_reference.json")
    if not os.path.exists(path):
        t.note("no tests/fixtures/kjv_reference.json: the reference is not compared")
        return
    with open(path) as f:
        cases = json.load(f)["cases"]
    for c in cases:
        r = t.run("tokenize", peer.KJV, c["prompt"], "--json")
        t.equal(r.rc == 0 and r.json["tokens"], c["prompt_ids"], f"ids of {c['prompt']!r}")
        ids = c["prompt_ids"] + c["greedy_ids"]
        r = t.run("logits", peer.KJV, "--tokens", ",".join(map(str, ids[:-1])), "--out", t.path("l"))
        t.equal(r.rc, 0, f"logits: {r}")
        t.equal(peer.argmax_rows(t.path("l"), len(ids) - 1)[len(c["prompt_ids"]) - 1:], c["greedy_ids"],
                f"greedy ids of {c['prompt']!r}")
        r = t.run("run", peer.KJV, "-p", c["prompt"], "-n", len(c["greedy_ids"]), "--temp", "0", "--ignore-eos")
        t.equal(r.text.decode(), c["text"], f"greedy text of {c['prompt']!r}")


def main():
    with peer.Test() as t:
        web = t.nginx(t.path("m"))
        for name in MODELS:
            write(t, name)
        bases = {"local": t.path("m"), "share": t.share(t.path("m")).url, "nginx": web.url}
        check_reference(t)
        # Steps that are prime to the length visit all 48 combinations, neighbours far apart.
        all_of_them = list(itertools.product(DISK, RAM, THREADS, UBATCH))
        combos = (all_of_them[17 * i % len(all_of_them)] for i in itertools.count())
        for name in MODELS:
            want = check_model(t, name, bases, combos)
            for mode in MODES:
                short = text_of(t, t.path("m", name, "lz4"), mode, n=5)
                t.check(want[mode].startswith(short), f"{name} {mode}: -n 5 is a prefix of -n {N}")
        check_full_disk_by_ram(t, bases)
        t.check(not os.path.exists(t.path("home")) and not os.path.exists(t.path("tmp")), "nothing in HOME or TMPDIR")


main()
