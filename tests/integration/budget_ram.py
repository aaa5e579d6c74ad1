"""--ram is hard (design.md, promise 2; contract.md): resident memory stays within it, and 64 MiB for program and libraries.

Measured as VmHWM of the process, for a small model and for one whose layers take 400 MB each, near and far: a layer is
never held whole. Too little ends with status 5, names the least and fetches no weight; exactly that least works."""
# ctest-timeout: 300
import math
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import peer  # noqa: E402

GRANTED = 64 * peer.MIB
LARGE = dict(hidden=4096, layers=2, inter=12800, heads=32, kv_heads=8)
PROMPT = "And it came to pass in those days"


def within(t, r, budget, what):
    if not t.equal(r.rc, 0, f"{what}: {r}"):
        return
    t.note(f"{what}: {r.peak_rss / peer.MIB:.1f} MiB resident of {budget / peer.MIB:.1f} + 64, {r.seconds:.2f} s")
    if not peer.SANITIZED:
        t.check(r.peak_rss <= budget + GRANTED, f"{what}: {r.peak_rss} resident, {budget + GRANTED} allowed")


def run(t, model, what, ram, n=2, **kw):
    r = t.run("run", model, "-p", PROMPT, "-n", n, "--temp", "0", "--ignore-eos", cache=t.path("cache"), ram=ram, watch=True, **kw)
    if r.rc == 0:
        within(t, r, r.stats["plan"]["ram_budget_bytes"], f"{what} --ram {ram}")
    else:
        t.equal(r.rc, 0, f"{what}: {r}")
    return r


def least(t, web, model, what, given="300K"):
    web.fetched()
    r = t.run("run", model, "-p", PROMPT, "-n", "1", "--temp", "0", cache=t.path("cache"), ram=given, disk="0")
    t.equal(r.rc, 5, f"{what} --ram {given}: {r}")
    t.check(r.stats.get("exit") == 5 and r.stats.get("error"), f"{what}: --stats tells of the failure: {r.stats}")
    fetched = web.fetched()
    t.check(not fetched, f"{what}: {fetched.bytes()} bytes of weights were fetched before the refusal")
    number = max((int(n) for n in re.findall(r"\d+", r.err)), default=0)
    t.note(f"{what}: least --ram {number} ({number / peer.MIB:.1f} MiB)")
    t.check(number > 307200, f"{what}: the least is named: {r.err!r}")
    r = t.run("run", model, "-p", PROMPT, "-n", "1", "--temp", "0", cache=t.path("cache"), ram=number - 1, disk="0")
    t.equal(r.rc, 5, f"{what} --ram least - 1: {r}")
    r = t.run("run", model, "-p", PROMPT, "-n", "1", "--temp", "0", cache=t.path("cache"), ram=number, disk="0", watch=True)
    within(t, r, number, f"{what} --ram least")
    if r.rc == 0:
        t.equal(r.stats["plan"]["ram_min_bytes"], number, f"{what}: plan.ram_min_bytes is the least that was named")


def large(t, web):
    """The logits of a model of zeros are zeros: all finite, of the right number."""
    config = peer.sparse_llama(t.path("large"), tokenizer=True, **LARGE)
    ids = [1, 2, 3, 4, 5]
    for model, what in ((t.path("large"), "400 MB layers, local"), (web.url + "/large", "400 MB layers, nginx")):
        for ram in ("200M", "min"):
            out = t.path("logits")
            r = t.run("logits", model, "--tokens", ",".join(map(str, ids)), "--out", out, cache=t.path("cache"), ram=ram, disk="0",
                      watch=True)
            within(t, r, 200 * peer.MIB, f"{what} logits --ram {ram}")
            if r.rc == 0:
                values = peer.floats(out)
                t.equal(len(values), len(ids) * config["vocab_size"], f"{what}: number of logits")
                t.check(all(math.isfinite(v) for v in values), f"{what}: logits are finite")
        run(t, model, what, "200M", disk="0")


def many_logits(t):
    """The result itself counts: 196 MiB of logits either fit into --ram or are refused before they are computed."""
    peer.sparse_llama(t.path("wide"), hidden=256, layers=2, inter=512, heads=4, kv_heads=2, vocab=128256)
    ids = ",".join(str(i) for i in range(400))
    r = t.run("logits", t.path("wide"), "--tokens", ids, "--out", t.path("logits"), ram="64M", watch=True)
    t.check(r.rc in (0, 5), f"400 x 128256 logits: {r}")
    if r.rc == 0:
        within(t, r, 64 * peer.MIB, "400 x 128256 logits --ram 64M")


def chunks(t, web):
    """-ub lowers the least, and where --ram is small fewer rows are taken by themselves: the same text, the same bytes."""
    model, args = web.url + "/small", ("-f", t.path("long"), "-n", "4", "--temp", "0", "--ignore-eos")
    with open(t.path("long"), "w") as f:
        f.write(" ".join([PROMPT] * 60))

    def named(*more):
        r = t.run("run", model, *args, *more, cache=t.path("cache"), ram="300K", disk="0")
        return max((int(n) for n in re.findall(r"\d+", r.err)), default=0)

    def planned(*more):
        r = t.run("plan", model, *args[:4], *more, "--json", cache=t.path("cache"), disk="0")
        return r.json["ram_min_bytes"] if r.rc == 0 else 0

    leasts = [named("-ub", n) for n in (512, 128, 32, 8, 1)]
    own = named()
    t.equal(planned(), own, "what a plan calls the least is what run does")
    t.equal([planned("-ub", n) for n in (512, 128, 32, 8, 1)], leasts, "also with -ub")
    r = t.run("run", model, *args, "--ram", "min", cache=t.path("cache"), disk="0")
    t.equal(r.stats["plan"]["ram_budget_bytes"], own, "--ram min is the least for the text")
    t.note(f"{args}: least --ram with -ub 512, 128, 32, 8, 1: {leasts}, without -ub {own}")
    t.check(all(a > b for a, b in zip(leasts, leasts[1:])), f"a smaller -ub lowers the least: {leasts}")
    t.check(leasts[3] < own < leasts[2], f"the least without -ub {own} is that of 16 rows: {leasts}")
    runs = []
    for more, ram in (((), None), ((), own), (("-ub", "8"), leasts[3]), (("-ub", "1"), leasts[4]), (("-ub", "512"), leasts[0]), ((), leasts[1])):
        r = t.run("run", model, *args, *more, cache=t.path("cache"), ram=ram, disk="0", watch=True)
        if ram:
            within(t, r, ram, f"{more} --ram {ram}")
        runs.append(r)
    t.equal([r.text for r in runs], [runs[0].text] * len(runs), "one text")
    t.equal({r.stats.get("sweeps") for r in runs}, {4}, "a prompt costs one sweep")
    got = []  # here the number of rows is known beforehand, so that the least has to work in the smallest chunks
    for ram in ("min", None):
        r = t.run("logits", model, "--tokens", ",".join(str(7 * i % 3000) for i in range(203)), "--out", t.path("logits"), ram=ram, disk="0",
                  cache=t.path("cache"))
        t.equal(r.rc, 0, f"logits --ram {ram}: {r}")
        got.append(peer.floats(t.path("logits")))
    t.check(got[0] == got[1] and len(got[0]) == 203 * 3072, "logits in chunks of 16 rows, to the bit")
    r = t.run("run", model, *args, cache=t.path("cache"), ram=own - 1, disk="0")
    t.equal(r.rc, 5, f"less than the least: {r}")


def long_prompts(t, web):
    """The least is that of the tokens, not of a guess from the bytes: one token a word, and one a byte."""
    for what, text in (("words", PROMPT * 100), ("signs", "@" * 3000)):
        with open(t.path(what), "w") as f:
            f.write(text)
        args = ("-f", t.path(what), "-n", "2", "--temp", "0", "--ignore-eos")
        web.fetched()
        r = t.run("run", web.url + "/kjv", *args, cache=t.path("cache"), ram="300K", disk="0")
        t.equal(r.rc, 5, f"{what} --ram 300K: {r}")
        fetched = web.fetched()
        t.check(not fetched, f"{what}: {fetched.bytes()} bytes of weights were fetched before the refusal")
        number = max((int(n) for n in re.findall(r"\d+", r.err)), default=0)
        for given, status in ((number - 1, 5), (number, 0)):
            r = t.run("run", web.url + "/kjv", *args, cache=t.path("cache"), ram=given, disk="0", watch=True)
            t.equal(r.rc, status, f"{what}, the least {number}, --ram {given}: {r}")
            fetched = web.fetched()
            t.check(bool(fetched) == (status == 0), f"{what} --ram {given}: {fetched.bytes()} bytes of weights with status {r.rc}")
        within(t, r, number, f"{what} --ram least")


def main():
    with peer.Test() as t:
        peer.copy_model(peer.KJV, t.path("kjv"))
        web = t.nginx(t.path("."))
        peer.random_llama(t.path("small"), dtype="f32")
        peer.sparse_llama(t.path("middle"), tokenizer=True, hidden=2048, layers=3, inter=5632, heads=16, kv_heads=4)
        least(t, web, web.url + "/small", "small")
        least(t, web, web.url + "/middle", "middle")
        least(t, web, t.path("middle"), "middle, local")
        for ram in ("min", "200M", "300M", None):
            run(t, web.url + "/small", "small", ram, disk="25%")
            run(t, web.url + "/middle", "middle", ram, disk="25%")
            run(t, t.path("middle"), "middle, local", ram)
        chunks(t, web)
        long_prompts(t, web)
        large(t, web)
        many_logits(t)


main()
