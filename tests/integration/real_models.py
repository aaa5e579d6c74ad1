"""Trained models that others made write what their own references say, greedily and token by token.

TinyStories-656K and stories260K from PENSTOCK_TEST_DATA; SmolLM2-135M-Instruct, where PENSTOCK_REAL_MODELS names a folder
that holds it, over nginx with a quarter of it on disk. Skipped without the data.

In that folder also: `exact` models (SmolLM2-135M-Instruct, random-llama-1b of tests/scripts/make_random_llama.py with any
tokenizer) write one text for every disk and RAM budget, 1 and 2 threads, chunks of 1, 7 and all rows, straight from
safetensors and split, over nginx: 96 runs a model."""
# ctest-timeout: 3000
import itertools
import json
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import peer  # noqa: E402

SMALL = ("TinyStories-656K", "stories260K")
REAL = "SmolLM2-135M-Instruct"


def small(t, name):
    folder = os.path.join(peer.TEST_DATA, "models", name)
    with open(os.path.join(folder, "reference_greedy.json")) as f:
        cases = json.load(f)["cases"]
    for c in cases:
        what = f"{name} {c['prompt'][:30]!r}"
        r = t.run("tokenize", folder, c["prompt"], "--json")
        t.equal(r.rc == 0 and r.json["tokens"], c["prompt_ids"], f"{what}: ids of the prompt")
        ids = c["prompt_ids"] + c["generated_ids"]
        r = t.run("logits", folder, "--tokens", ",".join(map(str, ids[:-1])), "--out", t.path("l"))
        if t.equal(r.rc, 0, f"{what}: {r}"):
            got = peer.argmax_rows(t.path("l"), len(ids) - 1)[len(c["prompt_ids"]) - 1:]
            t.equal(got, c["generated_ids"], f"{what}: greedy ids")
        # the reference's text is that of prompt and continuation, without special tokens
        r = t.run("run", folder, "-p", c["prompt"], "-n", len(c["generated_ids"]), "--temp", "0", "--echo")
        t.equal(r.text.decode("utf-8", "replace"), c["text"], f"{what}: greedy text {r}")
    t.note(f"{name}: {len(cases)} prompts")


def real(t, folder):
    with open(os.path.join(peer.TEST_DATA, "models", "real", "reference.json")) as f:
        cases = json.load(f)["models"][REAL]
    web = t.nginx(folder)
    for c in cases:
        what = f"{REAL} {c['prompt'][:30]!r}"
        r = t.run("tokenize", os.path.join(folder, REAL), c["prompt"], "--json")
        t.equal(r.rc == 0 and r.json["tokens"], c["ids"], f"{what}: ids of the prompt")
        r = t.run("run", f"{web.url}/{REAL}", "-p", c["prompt"], "-n", len(c["greedy"]), "--temp", "0", "--special",
                  cache=t.path("cache"), disk="25%", watch=True, seconds=120)
        if t.equal(r.rc, 0, f"{what}: {r}"):
            t.equal(r.text.decode("utf-8", "replace"), c["text"], f"{what}: greedy text")
            s = r.stats
            t.note(f"{what}: {s['tokens_generated']} tokens, first {s['ttft_s']:.2f} s, then {s['decode_tok_s']:.1f}/s, "
                   f"{s['bytes_net'] / 1e6:.0f} MB by net, folder {r.peak_folder / 1e6:.0f} MB")
            t.check(r.peak_folder <= s["plan"]["disk_budget_bytes"], f"{what}: the folder reached {r.peak_folder}")


EXACT = {REAL: 16, "random-llama-1b": 6}  # tokens that each run writes
EXACT_PROMPT = "In the beginning God created the heaven and the earth. And the earth was without form"


def exact(t, folder, name, n):
    """Every combination, each with a cold cache of its own, beside one plain run from the local folder."""
    r = t.run("split", os.path.join(folder, name), t.path("split", name), "--quiet", seconds=600)
    t.equal(r.rc, 0, f"{name}: split {r}")
    bases = {"safetensors": t.nginx(folder).url, "pre-split": t.nginx(t.path("split")).url}
    args = ("-p", EXACT_PROMPT, "-n", n, "--temp", "0", "--ignore-eos")
    want = t.run("run", os.path.join(folder, name), *args, seconds=600)
    t.check(want.rc == 0 and want.text, f"{name}: {want}")
    runs = 0
    for layout, disk, ram, threads, rows in itertools.product(bases, ("0", "25%", "50%", "100%"), ("min", None), (1, 2), (1, 7, 512)):
        cache = t.path("exact")
        got = t.run("run", f"{bases[layout]}/{name}", *args, "-t", threads, "-ub", rows, cache=cache, disk=disk, ram=ram, seconds=600)
        what = f"{name} {layout} --disk {disk} --ram {ram} -t {threads} -ub {rows}"
        t.equal((got.rc, got.text), (0, want.text), what)
        if got.rc == 0:
            plan = got.stats["plan"]
            t.check(plan["disk_bytes"] == 0 if disk == "0" else plan["disk_bytes"] > 0, f"{what}: {plan['disk_bytes']} bytes planned on disk")
        shutil.rmtree(cache, ignore_errors=True)
        runs += 1
    t.note(f"{name}: {runs} runs wrote {want.text[:60]!r}")
    shutil.rmtree(t.path("split"), ignore_errors=True)


def main():
    have = [n for n in SMALL if os.path.exists(os.path.join(peer.TEST_DATA, "models", n, "reference_greedy.json"))]
    folder = os.environ.get("PENSTOCK_REAL_MODELS", "")
    has_real = os.path.exists(os.path.join(folder, REAL, "model.safetensors")) and have
    if not have:
        peer.skip(f"no test data at {peer.TEST_DATA}")
    with peer.Test() as t:
        for name in have:
            small(t, name)
        if has_real:
            real(t, folder)
            for name, n in EXACT.items():
                if os.path.isdir(os.path.join(folder, name)):
                    exact(t, folder, name, n)
        else:
            t.note(f"{REAL} left out: PENSTOCK_REAL_MODELS names no folder that holds it")


main()
