"""--disk is hard (design.md, promise 2; contract.md): allocated bytes of the whole cache folder, sampled every 5 ms.

Never above the budget while running, for shares and byte counts down to the least that works; one byte less ends with
status 5 and names the least; --disk 0 keeps at most 64 KiB and no index. A smaller budget shrinks the folder in that
run. A larger budget, or another --ram, fetches nothing again that is kept. Two processes share one limit."""
# ctest-timeout: 300
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import peer  # noqa: E402

PROMPT = "And it came to pass"


def run(t, model, cache, n=2, **kw):
    kw.setdefault("ram", "min")
    return t.run("run", model, "-p", PROMPT, "-n", n, "--temp", "0", "--ignore-eos", "--min-free", "64M", cache=cache, watch=True, **kw)


def holds(t, r, what):
    """The folder stayed within what the run itself calls its budget."""
    if not t.equal(r.rc, 0, f"{what}: {r}"):
        return
    budget = r.stats["plan"]["disk_budget_bytes"]
    t.check(r.peak_folder <= budget, f"{what}: the folder reached {r.peak_folder}, {r.peak_folder - budget} above {budget}")
    t.check(r.stats["cache_bytes_max"] <= budget, f"{what}: cache_bytes_max {r.stats['cache_bytes_max']} above {budget}")


def shares(t, model, stored, embedding):
    for share in (5, 10, 25, 50, 100, 200):
        cache = t.path(f"share{share}")
        for n in (3, 2):  # cold, warm
            r = run(t, model, cache, n=n, disk=f"{share}%")
            holds(t, r, f"--disk {share}% -n {n}")
        if r.rc == 0:
            p = r.stats["plan"]
            room = min(share / 100 * stored, stored - embedding)  # of an untied embedding only rows that were used
            t.note(f"--disk {share}%: budget {p['disk_budget_bytes']}, peak {r.peak_folder}, kept {r.stats['cache_bytes']} of {stored}")
            t.check(r.stats["cache_bytes"] >= room - 2 * p["extent_bytes"], f"--disk {share}% keeps {r.stats['cache_bytes']}, not {room:.0f}")
            t.check(p["disk_budget_bytes"] <= share / 100 * stored * 1.1 + 2 * peer.MIB, f"--disk {share}% asks for {p['disk_budget_bytes']}")


def named_least(err):
    """The largest number of a message: it names what was given and the least."""
    return max((int(n) for n in re.findall(r"\d+", err)), default=0)


def tiny(t, model):
    r = run(t, model, t.path("tiny"), disk="8192")
    t.equal(r.rc, 5, f"--disk 8192: {r}")
    least = named_least(r.err)
    t.note(f"least --disk: {least}")
    t.check(8192 < least < 4 * peer.MIB, f"the least is named: {r.err!r}")
    t.check(not peer.allocated_bytes(t.path("tiny")) > 65536, "a refused budget leaves no folder behind")
    r = run(t, model, t.path("tiny"), disk=least - 1)
    t.equal(r.rc, 5, f"--disk least - 1: {r}")
    for more in (0, 4096, 100000, peer.MIB):
        r = run(t, model, t.path("tiny"), disk=least + more)
        if t.equal(r.rc, 0, f"--disk least + {more}: {r}"):
            t.check(r.peak_folder <= least + more, f"--disk {least + more}: the folder reached {r.peak_folder}")
    nothing = t.path("nothing")
    for cache, before in ((nothing, "an absent folder"), (t.path("tiny"), "a used folder")):
        r = run(t, model, cache, disk="0")
        t.equal(r.rc, 0, f"--disk 0, {before}: {r}")
        t.check(peer.allocated_bytes(cache) <= 65536, f"--disk 0, {before}: {peer.allocated_bytes(cache)} bytes stay")
        found = [f for _, _, files in os.walk(cache) for f in files if f.endswith(".mdb")]
        t.check(not found, f"--disk 0, {before}: no index, found {found}")
    r = run(t, model, nothing, disk="0")
    t.check(r.peak_folder <= 65536, f"--disk 0: the folder reached {r.peak_folder}")


def fetched(web, t, model, cache, disk, shrinks=False, **kw):
    """The bytes that one sweep with this cache and budget fetches. shrinks: the folder is above the budget at first."""
    web.fetched()
    r = run(t, model, cache, n=1, disk=disk, **kw)
    if not shrinks:
        holds(t, r, f"--disk {disk} {kw}")
    elif t.equal(r.rc, 0, f"down to {disk}: {r}"):
        now, budget = peer.allocated_bytes(cache), r.stats["plan"]["disk_budget_bytes"]
        t.check(now <= budget, f"down to {disk}: the folder still has {now} of {budget}")
    return web.fetched()


def changes(t, web, model):
    cache = t.path("changes")
    everything = fetched(web, t, model, cache, "25%")  # cold: everything is fetched
    quarter = everything.minus(fetched(web, t, model, cache, "25%"))
    t.note(f"--disk 25% keeps {quarter.bytes()} of {everything.bytes()} bytes")
    t.check(quarter, "something is kept")
    again = fetched(web, t, model, cache, "50%").both(quarter)
    t.check(not again, f"from 25% to 50%: {again.bytes()} of {quarter.bytes()} kept bytes were fetched again")
    half = everything.minus(fetched(web, t, model, cache, "50%"))
    gone = quarter.minus(half)
    t.check(not gone, f"what 25% keeps, 50% keeps: {gone.bytes()} bytes are gone")
    t.check(half.bytes() > 1.5 * quarter.bytes(), f"50% keeps {half.bytes()} bytes, 25% kept {quarter.bytes()}")
    for ram in ("30%", "70%", None, "min"):
        again = fetched(web, t, model, cache, "50%", ram=ram).both(half)
        t.check(not again, f"--ram {ram}: {again.bytes()} of {half.bytes()} bytes kept on disk were fetched again")
    shrinking = fetched(web, t, model, cache, "10%", shrinks=True)
    tenth = everything.minus(fetched(web, t, model, cache, "10%"))
    t.note(f"from 50% to 10%: {tenth.bytes()} bytes stay of {half.bytes()}")
    t.check(tenth, "10% keeps something")
    again = shrinking.both(tenth)
    t.check(not again, f"from 50% to 10%: {again.bytes()} of {tenth.bytes()} bytes were dropped and fetched again")


def refused(t, web, model):
    """A run that is refused changes nothing: a smaller --disk, none at all, and the file of a tokenizer that is kept."""
    cache = t.path("refused")
    t.equal(t.run("warm", model, "--json", cache=cache, disk="100%").rc, 0, "warm")
    held = t.run("cache", "ls", "--json", cache=cache).json["models"]
    t.check(held and held[0]["bytes"] > 0, f"warm keeps something: {held}")
    for command in (("run", model, "-p", "In the beginning"), ("logits", model, "--tokens", "1,2", "--out", t.path("none")),
                    ("warm", model)):
        for disk in ("1M", "0"):
            if command[0] == "warm" and disk == "0":
                continue  # refused for another reason
            r = t.run(*command, cache=cache, disk=disk, ram="1")
            t.equal(r.rc, 5, f"{command} --disk {disk} --ram 1: {r}")
            t.equal(t.run("cache", "ls", "--json", cache=cache).json["models"], held, f"what {command} --disk {disk} --ram 1 leaves")
    results = ("logits", model, "--tokens", ",".join(["1"] * 400), "--out", t.path("none"))
    least = named_least(t.run(*results, cache=cache, disk="1M", ram="1").err)
    r = t.run(*results, cache=cache, disk="1M", ram=least)
    t.equal(r.rc, 5, f"a sweep fits into --ram {least}, its results do not: {r}")
    t.equal(t.run("cache", "ls", "--json", cache=cache).json["models"], held, "what logits leave whose results are too many")
    web.requests()
    r = t.run("run", model, "-p", "In the beginning", cache=cache, ram="1")
    t.equal(r.rc, 5, f"--ram 1: {r}")
    sent = [q.bytes for q in web.requests() if q.path.endswith("/tokenizer.json")]
    t.equal(sent, [1024], "the tokenizer is the one that is kept: the server says which it has, with its beginning")
    r = t.run("run", model, "-p", "In the beginning", "-n", "1", cache=cache, disk="1M")
    t.equal(r.rc, 0, f"--disk 1M: {r}")
    t.check(peer.allocated_bytes(cache) <= peer.MIB, "one that is not refused shrinks it")


def together(t, models):
    """Two processes, two models, one folder, one limit."""
    cache, budget = t.path("together"), 6 * peer.MIB
    watcher = peer.Watcher(os.getpid(), cache)
    watcher.start()
    processes = [peer.spawn([t.program, "run", m, "-p", PROMPT, "-n", "12", "--temp", "0", "--ignore-eos", "--ram", "min", "--quiet",
                             "--min-free", "64M", "--disk", str(budget), "--cache", cache], stdout=-3, stderr=open(t.path(f"e{i}"), "w"))
                 for i, m in enumerate(models)]
    for i, p in enumerate(processes):
        t.equal(p.wait(60), 0, f"two at once: {open(t.path(f'e{i}')).read()}")
    watcher.finish()
    t.note(f"two processes: peak {watcher.peak_folder} of {budget}, {watcher.samples} samples")
    t.check(watcher.peak_folder <= budget, f"two processes: the folder reached {watcher.peak_folder} of {budget}")


def unequal(t, model):
    """Two that start at once with different limits: the smaller one governs, and neither fails for what the other has on its
    way (one in six did)."""
    for i in range(12):
        cache = t.path(f"unequal{i}")
        processes = [peer.spawn([t.program, "run", model, "-p", PROMPT, "-n", "30", "--temp", "0", "--ignore-eos", "--ram", "min", "--quiet",
                                 "--min-free", "0", "--disk", disk, "--cache", cache], stdout=-3, stderr=open(t.path(f"u{disk}"), "w"))
                     for disk in ("2M", "4M")]
        for p, disk in zip(processes, ("2M", "4M")):
            t.equal(p.wait(60), 0, f"--disk 2M and 4M at once, {disk}: {open(t.path(f'u{disk}')).read()}")


def main():
    with peer.Test() as t:
        web = t.nginx(t.path("."))
        c = peer.random_llama(t.path("m"), dtype="f32")
        peer.random_llama(t.path("other"), seed=2, dtype="f32")
        model, stored = web.url + "/m", peer.stored_bytes(t.path("m"))
        tiny(t, model)
        shares(t, model, stored, c["vocab_size"] * c["hidden_size"] * 4)
        changes(t, web, model)
        refused(t, web, model)
        together(t, (model, web.url + "/other"))
        unequal(t, model)


main()
