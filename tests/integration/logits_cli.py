"""`penstock logits` against tests/fixtures/models, whose logits transformers computed in float32: raw output and --json,
on every backend that this machine runs. f32 models: 1e-4 absolute; 16-bit weights: 1e-3 of the largest logit."""
# ctest-timeout: 120
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import peer  # noqa: E402

FIXTURES = os.path.join(peer.SOURCE_DIR, "tests", "fixtures", "models")
BACKENDS = ("ref", "avx2", "avx512", "amx")


def vocab_of(name):
    with open(os.path.join(FIXTURES, name, "config.json")) as f:
        return json.load(f)["vocab_size"]


def differ(got, want):
    return max(abs(a - b) for a, b in zip(got, want))


def check_fixture(t, name, backend):
    folder = os.path.join(FIXTURES, name)
    with open(os.path.join(folder, "tokens.txt")) as f:
        ids = f.read().strip()
    want = peer.floats(os.path.join(folder, "logits.f32"))
    bound = 1e-3 * max(map(abs, want)) if "16" in name else 1e-4
    env = {"PENSTOCK_BACKEND": backend}
    r = t.run("logits", folder, "--tokens", ids, "--out", t.path("l"), env=env)
    if r.rc == 1 and "can't run it" in r.err:
        return None
    if not t.equal(r.rc, 0, f"{name} {backend}: {r}"):
        return 0
    got = peer.floats(t.path("l"))
    t.equal(len(got), len(want), f"{name} {backend}: number of logits")
    worst = differ(got, want)
    t.check(worst <= bound, f"{name} {backend}: differs by {worst:.3g}, allowed {bound:.3g}")
    r = t.run("logits", folder, "--tokens", ids, "--json", env=env)
    if t.equal(r.rc, 0, f"{name} {backend} --json: {r}"):
        j = r.json
        t.equal((j["vocab"], j["positions"], len(j["logits"])), (vocab_of(name), ids.count(",") + 1, ids.count(",") + 1), f"{name} --json")
        flat = [v for row in j["logits"] for v in row]
        t.check(len(flat) == len(got) and differ(flat, got) <= 1e-6 * max(map(abs, want)), f"{name} {backend}: --json and --out agree")
    return worst / bound


def check_usage(t, name):
    folder, vocab = os.path.join(FIXTURES, name), vocab_of(name)
    for ids, named in ((f"1,{vocab}", str(vocab)), (f"{vocab + 4711},1", str(vocab + 4711)), ("99999999999", "99999999999"),
                       ("-3", "-3"), ("1,x", "x"), ("", ""), ("1,,2", "")):
        r = t.run("logits", folder, f"--tokens={ids}", "--out", t.path("none"))
        t.check(r.rc == 2 and named in r.err, f"--tokens {ids!r} must end with 2 and name it: {r}")
        t.check(not os.path.exists(t.path("none")), f"--tokens {ids!r}: no output file")
    r = t.run("logits", folder)
    t.equal(r.rc, 2, f"without --tokens: {r}")
    r = t.run("logits", folder, "--tokens=1,2,3", "-c", "2", "--out", t.path("none"))
    t.check(r.rc == 2 and "--ctx-size 2" in r.err, f"a context that is too small: {r}")


def check_memory(t):
    """--json, too, stays inside of --ram: the text of these logits takes 100 MB."""
    model, ids = os.path.join(peer.SOURCE_DIR, "models", "kjv"), ",".join(str(i % 3000) for i in range(3000))
    r = t.run("logits", model, "--tokens", ids, "--ram", "1")
    least = int(r.err.rsplit(" ", 1)[1])
    p = subprocess.Popen([t.program, "logits", model, "--tokens", ids, "--ram", "min", "--json"],
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    t.equal(p.returncode, 0, "logits --json of 3000 positions")
    t.check(usage.ru_maxrss * 1024 <= least + (64 << 20), f"resident {usage.ru_maxrss} KiB, --ram {least >> 10} KiB")


def main():
    with peer.Test() as t:
        names = sorted(os.listdir(FIXTURES))
        for backend in BACKENDS:
            worst = [check_fixture(t, name, backend) for name in names if os.path.exists(os.path.join(FIXTURES, name, "logits.f32"))]
            if None in worst:
                t.note(f"{backend}: not on this CPU")
            else:
                t.note(f"{backend}: {len(worst)} models, worst difference {100 * max(worst):.1f} % of what is allowed")
        check_usage(t, names[0])
        if not peer.SANITIZED:  # which multiplies memory
            check_memory(t)


main()
