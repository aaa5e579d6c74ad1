#!/usr/bin/env python3
"""Whole runs of the program (PENSTOCK) on a real device (PENSTOCK_TEST_DEVICE), against the CPU: called by run.sh.

Every model of tests/fixtures/models and models/kjv: logits of the device against those of the CPU (2e-3 of the largest with
16-bit weights, 1e-4 absolute with f32) and against transformers' where the fixture has them; the text of models/kjv for
every --vram, --ram, -ub and KV place, compressed and not, with -ngl; logits of a few rows and of many, equal to the bit; the least --vram, and one
byte less. Ends with 'N checks passed, N failed'."""
import array
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
FIXTURES, KJV = os.path.join(ROOT, "tests", "fixtures", "models"), os.path.join(ROOT, "models", "kjv")
PROMPT = "Genesis 1:1 In the beginning God created the heaven and the earth. And the earth was without form, and void"

passed = failed = 0
worst_of = {}


def check(ok, what):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print("FAILED:", what, flush=True)
    return ok


class Program:
    def __init__(self, path, device, temp):
        self.path, self.device, self.temp = path, device, temp

    def run(self, *args, device=True, seconds=300):
        argv = [*self.path, *map(str, args)] + (["--device", self.device] if device else [])
        env = {**os.environ, "PENSTOCK_CACHE": os.path.join(self.temp, "cache")}
        return subprocess.run(argv, capture_output=True, timeout=seconds, env=env)

    def logits(self, model, ids, **kw):
        out = os.path.join(self.temp, "logits")
        r = self.run("logits", model, "--tokens", ids, "--out", out, **kw)
        if r.returncode != 0:
            return r.stderr.decode("utf-8", "replace")
        values = array.array("f")
        with open(out, "rb") as f:
            values.frombytes(f.read())
        return values

    def text(self, model, *args, **kw):
        stats = os.path.join(self.temp, "stats.json")
        r = self.run("run", model, "-p", PROMPT, "-n", 24, "--temp", 0, "--ignore-eos", "--quiet", "--stats", stats, *args, **kw)
        with open(stats) as f:
            facts = json.load(f)
        return (r.stdout if r.returncode == 0 else r.stderr.decode("utf-8", "replace")), facts


def compare(what, got, want, bound):
    if not check(not isinstance(got, str), f"{what}: {got}"):
        return
    worst = max(abs(a - b) for a, b in zip(got, want))
    worst_of[what] = worst / bound
    check(len(got) == len(want) and worst <= bound, f"{what}: differs by {worst:.3g}, allowed {bound:.3g}")


def check_fixtures(p):
    for name in sorted(os.listdir(FIXTURES)):
        folder = os.path.join(FIXTURES, name)
        with open(os.path.join(folder, "tokens.txt")) as f:
            ids = f.read().strip()
        want = array.array("f")
        with open(os.path.join(folder, "logits.f32"), "rb") as f:
            want.frombytes(f.read())
        largest = max(map(abs, want))
        got = p.logits(folder, ids)
        compare(f"{name} against transformers", got, want, 1e-3 * largest if "16" in name else 1e-4)
        compare(f"{name} against the CPU", got, p.logits(folder, ids, device=False), 2e-3 * largest if "16" in name else 1e-4)
    ids = ",".join(str(3 + i * 37 % 3000) for i in range(300))
    cpu = p.logits(KJV, ids, device=False)
    compare("kjv, 300 rows, against the CPU", p.logits(KJV, ids), cpu, 2e-3 * max(map(abs, cpu)))


def check_rows(p):
    """A row's logits do not depend on how many rows went with it: to the bit."""
    ids = [3 + i * 53 % 3000 for i in range(70)]
    full = p.logits(KJV, ",".join(map(str, ids)))
    if not check(not isinstance(full, str), f"kjv, 70 rows: {full}"):
        return
    vocab = len(full) // len(ids)
    for n in (1, 2, 3, 5, 8, 17, 33, 64):
        part = p.logits(KJV, ",".join(map(str, ids[:n])))
        check(part == full[: n * vocab], f"kjv: {n} rows of {len(ids)} have the same bits alone")


def check_texts(p):
    want, facts = p.text(KJV)
    check(isinstance(want, bytes), f"kjv runs: {want}")
    packed = {"raw": KJV}
    for codec in ("wh", "xc34"):
        packed[codec] = os.path.join(p.temp, codec)
        r = p.run("split", KJV, packed[codec], "--codec", codec, "--quiet", device=False)
        check(r.returncode == 0, f"split {codec}: {r.stderr}")
    for codec, model in packed.items():
        for vram in ("min", "25%", "50%", "100%"):
            for extra in ((), ("-ub", 1), ("-ub", 7, "--ram", "min"), ("-nkvo",)):
                got, facts = p.text(model, "--vram", vram, *extra)
                check(got == want, f"{codec} --vram {vram} {extra}: {got!r}, not {want!r}")
                plan = facts.get("plan", {})
                check(facts.get("bytes_to_device", 0) >= plan.get("bytes_bus_per_sweep", 0), f"{codec} {vram}: the bus is used")
                check(facts.get("vram_bytes_max", 1 << 60) <= plan.get("vram_budget_bytes", 0), f"{codec} {vram}: device memory")
    cpu, _ = p.text(KJV, device=False)
    print("text as on the CPU:", "yes" if cpu == want else "no (near ties may fall otherwise)")
    for ngl in (1, 3):
        texts = {p.text(KJV, "-ngl", ngl, "--vram", vram)[0] for vram in ("min", "100%")}
        check(len(texts) == 1 and isinstance(texts.pop(), bytes), f"-ngl {ngl}: one text")


def check_least(p):
    r = p.run("run", KJV, "-p", "x", "-n", 2, "--vram", "1M")
    check(r.returncode == 5 and b"--vram" in r.stderr and r.stderr.count(b"\n") == 1, f"--vram 1M: {r}")
    least = int(r.stderr.split()[-1])
    check(p.run("run", KJV, "-p", "x", "-n", 2, "--vram", least).returncode == 0, "the least works")
    check(p.run("run", KJV, "-p", "x", "-n", 2, "--vram", least - 1).returncode == 5, "a byte less does not")
    r = p.run("run", KJV, "-p", "x", "-n", 2, "--device", f"{p.device}:63", device=False)
    check(r.returncode == 1 and r.stderr.count(b"\n") == 1, f"a device that is not there: {r}")


def main():
    if not os.environ.get("PENSTOCK"):
        print("PENSTOCK does not name the program")
        sys.exit(77)
    with tempfile.TemporaryDirectory(prefix="penstock-gpu-") as temp:
        p = Program(os.environ["PENSTOCK"].split(), os.environ.get("PENSTOCK_TEST_DEVICE", "cuda"), temp)
        check_fixtures(p)
        check_rows(p)
        check_texts(p)
        check_least(p)
    for what, share in sorted(worst_of.items(), key=lambda x: -x[1])[:5]:
        print(f"{what}: {100 * share:.1f} % of what is allowed")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
