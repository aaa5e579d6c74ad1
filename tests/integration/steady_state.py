"""What a sweep costs on the link, told by the program's own figures and by nginx's log (design.md, promise 4).

Each sweep beyond the first fetches the sweep's bytes less what disk and RAM hold, to within one extent; no byte of a
weight is asked for twice in one sweep, none twice at all where the disk holds everything; with a warm cache, or after
`penstock warm`, a run fetches less than 1 % of the model."""
# ctest-timeout: 300
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import peer  # noqa: E402

# 270 MB of zeros: one sweep takes longer than the cache waits before it commits.
BIG = dict(hidden=2048, layers=3, inter=5632, heads=16, kv_heads=4)
PROMPT = "And it came to pass"


def run(t, model, n, cache, **kw):
    # without second requests: whether one is made depends on how busy this machine is
    r = t.run("run", model, "-p", PROMPT, "-n", n, "--temp", "0", "--ignore-eos", "-ub", "16", "--hedge", 0, cache=t.path(cache), **kw)
    t.equal(r.rc, 0, f"runs: {r}")
    return r


def check_tied(t, web, counts, sweeps, plan, what):
    """A tied matrix is gathered at the start of a sweep and multiplied with at its end: what both need may come twice."""
    twice = counts.often(sweeps)
    t.note(f"{what}: {counts.bytes(sweeps + 1)} bytes of the tied matrix were fetched for the gather and for the head")
    t.check(not counts.often(2 * sweeps), f"{what}: more than twice in a sweep: {counts.often(2 * sweeps)[:3]}")
    t.check(len({p[0] for p in twice}) <= 1, f"{what}: only the tied matrix comes twice: {twice[:3]}")


def per_extra_sweep(t, web, model, what, short=2, long=5, tied=False, **kw):
    """Fresh caches, two lengths: the difference is the steady state."""
    a = run(t, model, short, what + "-a", **kw)
    web.fetched()
    b = run(t, model, long, what + "-b", **kw)
    counts = web.fetched()
    if a.rc or b.rc:
        return
    plan = b.stats["plan"]
    t.equal((a.stats["sweeps"], b.stats["sweeps"]), (short, long), f"{what}: one sweep a token")
    extra = (b.stats["bytes_net"] - a.stats["bytes_net"]) / (long - short)
    slack = plan["extent_bytes"]
    want = plan["bytes_net_per_sweep"]
    t.note(f"{what}: {extra / 1e6:.2f} MB a sweep from the link, {want / 1e6:.2f} planned, of {plan['bytes_per_sweep'] / 1e6:.2f}")
    t.check(abs(extra - want) <= slack, f"{what}: bytes_net per extra sweep {extra:.0f}, the plan says {want}, an extent is {slack}")
    if tied:
        check_tied(t, web, counts, long, plan, what)
    else:
        t.check(not counts.often(long), f"{what}: more often than there were sweeps: {counts.often(long)[:3]}")
    once = counts.bytes(1, 1)
    held = plan["bytes_per_sweep"] - want
    t.check(abs(once - held) <= 3 * slack, f"{what}: {once} bytes were fetched once only, {held} are held")


def one_sweep(t, web, model, what, tied, **kw):
    r = run(t, model, 1, what, **kw)
    counts = web.fetched()
    if r.rc:
        return
    swept = r.stats["plan"]["bytes_per_sweep"]
    if tied:
        check_tied(t, web, counts, 1, r.stats["plan"], what)
    else:
        t.check(not counts.often(1), f"{what}: fetched twice in one sweep: {counts.often(1)[:3]}")
    # at most as many extents of the embedding as the prompt has tokens
    t.check(0 <= counts.bytes() - swept + peer.MIB // 16 <= 8 * 256 * 1024, f"{what}: {counts.bytes()} bytes fetched for a sweep of {swept}")


def quick_sweeps(t, web, model, what, n=40, **kw):
    """Sweeps of a few milliseconds: what was written a moment ago is read back, not fetched again."""
    r = run(t, model, n, what, **kw)
    counts = web.fetched()
    if r.rc:
        return
    plan = r.stats["plan"]
    t.note(f"{what}: {counts.bytes(1, 1)} bytes fetched once, {counts.bytes(2, n - 1)} more often, {counts.bytes(n)} in every sweep; "
           f"{plan['bytes_disk_per_sweep']} planned on disk; bytes_disk_read {r.stats['bytes_disk_read']}")
    t.check(counts.bytes(n) <= plan["bytes_net_per_sweep"] + plan["extent_bytes"],
            f"{what}: {counts.bytes(n)} bytes are fetched in every sweep, the plan says {plan['bytes_net_per_sweep']}")
    t.check(counts.bytes(1, 1) >= plan["bytes_disk_per_sweep"] - plan["extent_bytes"],
            f"{what}: of {plan['bytes_disk_per_sweep']} bytes for the disk {counts.bytes(1, 1)} were fetched once only")


def warm_cache(t, web, model, stored):
    cache = "warm"
    first = run(t, model, 3, cache, disk="100%", ram="min")
    counts = web.fetched()
    t.check(not counts.often(1), f"--disk 100%: fetched twice: {counts.bytes(2)} bytes, {counts.often(1)[:3]}")
    second = run(t, model, 3, cache, disk="100%", ram="min")
    counts = web.fetched()
    t.check(not counts, f"--disk 100%, second run: {counts.bytes()} bytes of weights were fetched again")
    share = second.stats.get("bytes_net", stored) / stored
    t.check(share < 0.01, f"--disk 100%, second run: {100 * share:.2f} % of the model was fetched")
    t.equal(second.text, first.text, "the same text from the cache")
    r = t.run("warm", model, "--json", "--quiet", cache=t.path("warmed"), disk="100%")
    t.check(r.rc == 0 and r.json["complete"], f"warm: {r}")
    t.check(r.rc == 0 and r.json["bytes_wanted"] == stored, f"warm --disk 100% wants {r.out!r} of {stored}")
    counts = web.fetched()
    t.check(not counts.often(1), f"warm fetches nothing twice: {counts.often(1)[:3]}")
    for kw in (dict(disk="100%", ram="min"), dict(disk="100%")):
        r = run(t, model, 2, "warmed", **kw)
        share = r.stats.get("bytes_net", stored) / stored
        t.check(share < 0.01, f"after warm, {kw}: {100 * share:.2f} % of the model was fetched")
        t.check(not web.fetched(), f"after warm, {kw}: no weight is fetched")


def all_fits(t, model):
    """100% is room for everything, whatever the padding: contract.md."""
    r = t.run("plan", model, "--json", "--quiet", cache=t.path("all"), disk="100%", ram="min")
    if t.equal(r.rc, 0, f"plan: {r}"):
        p = r.json
        t.equal((p["disk_bytes"], p["bytes_net_per_sweep"]), (p["stored_bytes"], 0), f"{model} --disk 100%: planned on disk, and by net")


def main():
    with peer.Test() as t:
        web = t.nginx(t.path("."))
        peer.sparse_llama(t.path("big"), tokenizer=True, **BIG)
        peer.sparse_llama(t.path("big-tied"), tokenizer=True, tied=True, **BIG)
        peer.random_llama(t.path("small"), dtype="f32")
        peer.random_llama(t.path("small-tied"), dtype="f32", tied=True)
        big = web.url + "/big"
        for name in ("big", "small", "big-tied", "small-tied"):
            one_sweep(t, web, f"{web.url}/{name}", f"one sweep, {name}", name.endswith("tied"), disk="0", ram="min")
        quick_sweeps(t, web, web.url + "/small", "quick sweeps, --disk 50%", disk="50%", ram="min")
        quick_sweeps(t, web, web.url + "/small", "quick sweeps, --disk 100%", disk="100%", ram="min")
        per_extra_sweep(t, web, big, "--disk 0 --ram min", disk="0", ram="min")
        per_extra_sweep(t, web, big, "--disk 30% --ram min", disk="30%", ram="min")
        per_extra_sweep(t, web, big, "--disk 0 --ram 40%", disk="0", ram="40%")
        per_extra_sweep(t, web, big, "--disk 30% --ram 40%", disk="30%", ram="40%")
        per_extra_sweep(t, web, big + "-tied", "tied, --disk 30% --ram 20%", tied=True, disk="30%", ram="20%")
        per_extra_sweep(t, web, big, "--disk 0, all in RAM", disk="0")
        peer.copy_model(peer.KJV, t.path("kjv"))
        for name in ("kjv", "small", "small-tied", "big"):
            all_fits(t, f"{web.url}/{name}")
        warm_cache(t, web, big, peer.stored_bytes(t.path("big")))


main()
