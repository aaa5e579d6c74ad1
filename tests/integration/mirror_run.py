#!/usr/bin/env python3
"""One model at several addresses. `penstock run --mirror` and mirrors.json, plain and pre-split, against servers that are
not there, lose an object, send wrong bytes, refuse, hang, die under way and come back: always the text of the folder, in
time, with the cache clean and the same whichever server delivered; and wrong text from nobody: a mirror of another version
is found out. Credentials of one address never go to another; a list from a server leads nowhere it must not."""
# ctest-timeout: 240
import json
import os
import shutil
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import badhttp  # noqa: E402
import fakes3  # noqa: E402
import hub as hub_in_small  # noqa: E402
import peer  # noqa: E402
import proxy as web_proxy  # noqa: E402

ARGS = ("-p", "And it came to pass", "-n", "6", "--temp", "0", "--ignore-eos")
SLOW = 6 if peer.SANITIZED else 1
WEIGHTS = (".safetensors", ".shard")


class Setting:
    text, plain, split, other = b"", "", "", ""


def run(t, address, *args, env=None, cache="cache", seconds=60, disk="32M"):
    return t.run("run", address, *ARGS, *args, cache=t.path(cache), disk=disk, env={"PENSTOCK_MIN_FREE": "0", **(env or {})},
                 seconds=seconds * SLOW)


def fine(t, r, what, seconds=None):
    t.equal((r.rc, r.text), (0, Setting.text), f"{what}: {r.rc} {r.err[-400:]}")
    if seconds:
        t.check(r.seconds < seconds * SLOW, f"{what}: {r.seconds:.1f} s")
    return r


def serve(t, root, scenario=None, **kw):
    s = badhttp.Server(root, scenario, **kw)
    t.servers.append(s)
    return s


def by(r, label):
    """What a mirror delivered, after the statistics."""
    return sum(m["bytes"] for m in r.stats.get("mirrors", []) if m["source"].rstrip("/") == label)


def weights(s):
    return [q for q in s.log if q.name.endswith(WEIGHTS) and (q.first or 0) > 0]


def withheld(q):
    """A range of weights, but none of the small ones by which mirrors of a plain folder are compared."""
    return q.name.endswith(WEIGHTS) and (q.first or 0) > 0 and q.last - q.first + 1 != 2048


def clean(t):
    t.equal(t.run("cache", "verify", cache=t.path("cache")).rc, 0, "cache verify")


def forms(function):
    """The same for a plain folder and for a pre-split model."""
    def part(t):
        for form, root in (("plain", Setting.plain), ("split", Setting.split)):
            t.name = f"{function.__name__} {form}"
            function(t, root, form)
            for name in ("cache", "c2", "c3"):
                shutil.rmtree(t.path(name), ignore_errors=True)
    part.__name__ = function.__name__
    return part


@forms
def unreachable(t, root, form):
    mirror = serve(t, root)
    gone = f"http://127.0.0.1:{peer.free_port()}"
    r = fine(t, run(t, gone, "--mirror", mirror.url), "the first address is not there", 15)
    t.check(by(r, mirror.url) > 100000, f"who delivered: {r.stats.get('mirrors')}")
    first = serve(t, root)
    r = fine(t, run(t, first.url, "--mirror", gone, "--mirror", mirror.url, cache="c2"), "a mirror that nobody needs", 10)
    t.equal(by(r, mirror.url), 0, "nobody else is asked while the first one works")
    r = run(t, gone, "--mirror", f"http://127.0.0.1:{peer.free_port()}", cache="c3")
    badhttp.check_failed(t, r, 3, ("127.0.0.1",), what="nobody there")


@forms
def lost(t, root, form):
    """The first server loses its weights after their headers: each is asked for elsewhere, and the cache is one."""
    mirror = serve(t, root)
    first = serve(t, root, lambda q, r: r.error(404) if withheld(q) else None)
    r = fine(t, run(t, first.url, "--mirror", mirror.url), "404 of weights", 20)
    t.check(weights(mirror), "the mirror was asked")
    clean(t)
    first.set(None)
    r = fine(t, run(t, first.url), "the same cache, the first server alone")
    t.check(r.stats["bytes_net"] < 600000 and not weights(first), f"all came from the cache: {r.stats['bytes_net']} bytes")


def page_for(*names):
    """A server that answers these, or all that it lacks, with 200 and a web page."""
    def scenario(q, r):
        if q.name in names or (not names and r.status == 404):
            r.headers = {"Content-Type": "text/html"}
            r.whole(b"<!DOCTYPE html><title>log in</title>")
    return scenario


@forms
def pages(t, root, form):
    """A page is no answer: whoever gives one for the config or the manifest does not speak for the model."""
    mirror, config = serve(t, root), "config.json"
    for names in ((config,), ("penstock.manifest", config)):
        first = serve(t, root, page_for(*names))
        fine(t, run(t, first.url, "--mirror", mirror.url, disk="0"), f"a page for {names}", 15)
        t.check(first.names().count(config) <= 3, f"it is not asked over and over: {first.names()[:30]}")


def unhashed(t):
    """A plain folder whose server has a page for all that it lacks, a manifest too, is plain: no mirror's bytes without proof."""
    def flip(q, r):
        if q.name.endswith(WEIGHTS) and q.first and q.first > 70000 and r.status == 206:
            r.body = bytes(b ^ 1 for b in r.body)
    page = page_for()
    first = serve(t, Setting.plain, lambda q, r: r.error(403) if withheld(q) else page(q, r))
    other, same = serve(t, Setting.plain, flip), serve(t, Setting.plain)
    r = run(t, first.url, "--mirror", other.url, "--net-deadline", "6", disk="0")
    badhttp.check_failed(t, r, 3, (), what="a mirror of another version, besides pages")
    t.check("no mirror of this model" in r.err, f"it is named: {r.err[-500:]}")
    fine(t, run(t, first.url, "--mirror", same.url, disk="0"), "a mirror of the same, besides pages", 20)


@forms
def wrong(t, root, form):
    """Flipped bits under right headers. Only hashes find them, so for a plain folder the mirror is the liar: its sample tells."""
    def flip(q, r):
        if q.name.endswith(WEIGHTS) and q.first and q.first > 70000 and r.status == 206:
            r.body = bytes(b ^ 1 for b in r.body)
    good, bad = serve(t, root), serve(t, root, flip)
    if form == "split":
        r = fine(t, run(t, bad.url, "--mirror", good.url), "wrong bytes, then a mirror", 30)
        clean(t)
        r = run(t, bad.url, "--mirror", bad.url + "/", cache="c2")
        badhttp.check_failed(t, r, 4, (), what="wrong bytes everywhere")
        return
    first = serve(t, root)
    deaths(first, 12)
    r = run(t, first.url, "--mirror", bad.url, "--net-deadline", "6")
    badhttp.check_failed(t, r, 3, (), what="a mirror of another version")
    t.check("no mirror of this model" in r.err, f"it is named: {r.err[-500:]}")
    first.set(None)
    fine(t, run(t, first.url), "nothing of it was kept")


def damaged(t):
    """What is damaged at the first address before anything can be checked by a hash: the manifest itself, or its signature."""
    key, tree = t.path("k.pem"), t.path("signed")
    t.equal(t.run("keygen", key).rc, 0, "keygen")
    t.equal(t.run("split", Setting.plain, tree, "--codec", "lz4", "--sign", key).rc, 0, "split --sign")
    good, mine = serve(t, tree), ("--verify-key", key + ".pub")

    def at_first(name, change, *args, what, fail):
        first = serve(t, tree, lambda q, r: setattr(r, "body", change(r.body)) if q.name == name and r.status < 300 else None)
        fine(t, run(t, first.url, "--mirror", good.url, *args, disk="0"), what, 20)
        badhttp.check_failed(t, run(t, first.url, *args, disk="0"), *fail, what=what + ", nowhere else")
    manifest, sig = "penstock.manifest", "penstock.manifest.sig"
    at_first(manifest, lambda b: b"\xff" + b[1:], what="a damaged manifest", fail=(4, ("manifest",)))
    at_first(manifest, lambda b: b"<!DOCTYPE html>".ljust(len(b)), what="a page for a manifest", fail=(3, ()))
    at_first(manifest, lambda b: b[:-1] + bytes([b[-1] ^ 1]), *mine, what="a manifest that nobody signed", fail=(4, ("signature",)))
    at_first(sig, lambda b: b[:-2] + b"x\n", *mine, what="a damaged signature", fail=(4, ("signature",)))


def deaths(server, n, back_after=None):
    """From its n-th request on the server resets every connection; for so many seconds, or for good. The small ranges by
    which mirrors of a plain folder are compared do not count, and get through."""
    state = {"seen": 0}

    def scenario(q, r):
        small = q.last is not None and q.first and q.last - q.first + 1 == 2048
        state["seen"] += not small
        if state["seen"] > n and not small:
            began = state.setdefault("began", time.monotonic())
            if back_after is None or time.monotonic() - began < back_after:
                r.reset = 0
    server.set(scenario)
    return state


@forms
def dies(t, root, form):
    first, mirror = serve(t, root), serve(t, root)
    deaths(first, 20)
    r = fine(t, run(t, first.url, "--mirror", mirror.url), "it dies under way", 30)
    t.check(by(r, mirror.url) > 0, f"the mirror went on: {r.stats.get('mirrors')}")
    clean(t)


@forms
def storm(t, root, form):
    """503 for all weights: at its share of the deadline the mirror is asked; once, not extent by extent."""
    first = serve(t, root, lambda q, r: r.error(503) if withheld(q) else None)
    mirror = serve(t, root)
    fine(t, run(t, first.url, "--mirror", mirror.url, "--net-deadline", "12"), "503 for weights", 25)


@forms
def hangs(t, root, form):
    def stall(q, r):
        if withheld(q) and q.total > 20:
            r.stall = (100, 60)
    first, mirror = serve(t, root, stall), serve(t, root)
    fine(t, run(t, first.url, "--mirror", mirror.url, "--net-deadline", "8", "--net-stall", "2"), "it hangs", 30)


@forms
def fails(t, root, form):
    """A server that answers each question with 500 costs a moment, where another has what it should give."""
    first, second, mirror = serve(t, root, lambda q, r: r.error(500)), serve(t, root, lambda q, r: r.error(503)), serve(t, root)
    r = fine(t, run(t, first.url, "--mirror", second.url, "--mirror", mirror.url), "500 and 503 for everything", 3)
    t.check(len(first.log) < 40, f"it is left alone: {len(first.log)} requests")
    first = serve(t, root, lambda q, r: r.error(500) if withheld(q) else None)
    fine(t, run(t, first.url, "--mirror", mirror.url, cache="c2"), "500 for weights", 3)


@forms
def refuses(t, root, form):
    first = serve(t, root, lambda q, r: r.error(403) if withheld(q) else None)
    mirror = serve(t, root)
    fine(t, run(t, first.url, "--mirror", mirror.url), "403 for weights", 20)
    all_of_it = serve(t, root, lambda q, r: r.error(401))
    fine(t, run(t, all_of_it.url, "--mirror", mirror.url, cache="c2"), "401 for everything", 20)


def unproved(t):
    """A plain folder whose first server gives headers and nothing else: equal headers prove nothing, so the mirror's weights
    are not taken, and nothing of them is kept."""
    first = serve(t, Setting.plain, lambda q, r: r.error(500) if q.name.endswith(WEIGHTS) and (q.first or 0) > 0 else None)
    mirror = serve(t, Setting.plain)
    r = run(t, first.url, "--mirror", mirror.url, "--net-deadline", "6")
    badhttp.check_failed(t, r, 3, (), what="weights that nothing is known of")
    t.check("could be compared" in r.err and not weights(mirror), f"it is said why, and nothing was taken: {r.err[-500:]}")


SIDE = ("tokenizer_config.json", "generation_config.json", "special_tokens_map.json")


def without_side_files(t):
    """A plain folder whose first server dies before it could say that it has no such files. A mirror with the same config.json is
    believed about them, with a warning; one that holds weights and a tokenizer alone is not, and then the first one is waited for."""
    bare, part = t.path("bare"), t.path("weights")
    for root, ignored in ((bare, SIDE), (part, (*SIDE, "config.json"))):
        shutil.copytree(Setting.plain, root, ignore=shutil.ignore_patterns(*ignored))
    wanted = t.run("run", bare, *ARGS).text

    def first_that_dies(root, back_after=None):
        s, died = serve(t, root), []

        def scenario(q, r):
            if q.name in SIDE and not died:
                died.append(time.monotonic())
            if died and not (q.last is not None and q.first and q.last - q.first + 1 == 2048):
                if back_after is None or time.monotonic() - died[0] < back_after:
                    r.raw, r.close = b"", True
        s.set(scenario)
        return s

    mirror = serve(t, bare)
    r = run(t, first_that_dies(bare).url, "--mirror", mirror.url, disk="0")
    t.equal((r.rc, r.text), (0, wanted), f"a mirror that has none either: {r.err[-500:]}")
    t.check(r.seconds < 15 * SLOW, f"it took {r.seconds:.1f} s")
    said = [x for x in r.err.splitlines() if "going on without it" in x and mirror.url in x]
    t.check(len(said) == len(SIDE), f"it is said: {r.err[-800:]}")
    weights_only = serve(t, part)
    first = first_that_dies(Setting.plain)
    r = run(t, first.url, "--mirror", weights_only.url, "--net-deadline", "8", disk="0")
    badhttp.check_failed(t, r, 3, (SIDE[0], first.url, f"{weights_only.url} has none"), what="a mirror that holds weights alone")
    fine(t, run(t, first_that_dies(Setting.plain, 7).url, "--mirror", weights_only.url, disk="0"), "the first one comes back", 30)


def both_blink(t):
    """Both are down for some seconds: the run waits and goes on."""
    a, b = serve(t, Setting.split), serve(t, Setting.split)
    deaths(a, 20, 6)
    deaths(b, 3, 6)
    fine(t, run(t, a.url, "--mirror", b.url, "--net-deadline", "40"), "both down for 6 s", 40)


def comes_back(t):
    """A server that was left alone is asked again, with a range, and then with all."""
    first = serve(t, Setting.split)
    mirror = serve(t, Setting.split, pace=400000) # with --ram min below, each token takes seconds from it
    state = deaths(first, 14, 7)
    r = fine(t, run(t, first.url, "--mirror", mirror.url, "--connections", "2", "--ram", "min", disk="0"), "it comes back", 50)
    late = [q for q in weights(first) if q.began > state.get("began", 0) + 7 and q.status == 206]
    t.check(late, f"the first server is asked again once it is back: {r.seconds:.1f} s, {r.stats.get('mirrors')}")


def other_schemes(t):
    gone = f"http://127.0.0.1:{peer.free_port()}"
    r = fine(t, run(t, gone, "--mirror", Setting.split), "a folder as the mirror", 15)
    s3 = fakes3.S3(os.path.dirname(Setting.plain))
    t.servers.append(s3)
    r = fine(t, run(t, gone, "--mirror", "s3://models/plain", env=s3.env(), cache="c2"), "s3 as the mirror", 15)
    t.check(all("authorization" in q.headers for q in s3.log), "signed with the user's keys: he named it himself")
    badhttp.check_failed(t, run(t, gone, "--mirror", "ftp://x/y", cache="c3"), 2, ("--mirror",), what="an unknown scheme", stats=False)
    badhttp.check_failed(t, run(t, gone, "--mirror", t.path("none"), cache="c3"), 3, ("--mirror",), what="no such folder", stats=False)


def secrets(t):
    """What was given for the first address goes to no other."""
    first = serve(t, Setting.split, lambda q, r: r.error(500) if q.total > 6 else None)
    mirror = serve(t, Setting.split)
    headers = t.path("headers")
    with open(headers, "w") as f:
        f.write("X-Key: hdrS3cret\n")
    url = first.url.replace("//", "//me:hunter2pass@") + "/?sig=queryS3cret"
    r = fine(t, run(t, url, "--mirror", mirror.url, "-H", "@" + headers, "--net-deadline", "6", env={"PENSTOCK_LOG": "trace"}), "secrets", 30)
    t.check(mirror.log and all(not {"authorization", "x-key"} & set(q.headers) and not q.query for q in mirror.log), "the mirror got none")
    t.check(all(q.headers.get("x-key") and q.headers.get("authorization") for q in first.log), "the first one got them")
    own = serve(t, Setting.split)
    fine(t, run(t, url, "--mirror", own.url.replace("//", "//you:mirr0rS3cret@") + "?token=mirr0rS3cret", "--net-deadline", "6", cache="c2",
                env={"PENSTOCK_LOG": "trace"}), "a mirror with a login of its own", 30)
    t.check(all(q.headers.get("authorization") and q.query == "token=mirr0rS3cret" for q in own.log), "it gets its own")
    for secret in ("hunter2pass", "hdrS3cret", "queryS3cret", "mirr0rS3cret"):
        t.check(secret not in r.err + json.dumps(r.stats), f"{secret} was written")


def listed(t):
    """mirrors.json beside the manifest."""
    mirror, trap = serve(t, Setting.split), serve(t, Setting.split)
    root = t.path("m")
    shutil.copytree(Setting.split, root)

    def write(text):
        with open(os.path.join(root, "mirrors.json"), "w") as f:
            f.write(text)

    first = serve(t, root)

    def fails(q, r):
        if q.name.endswith(".shard") and (q.first or 0) > 0:
            r.error(404)

    def attempt(text, what, cache, ok=True, env=None):
        write(text)
        first.set(fails)
        r = run(t, first.url, "-H", "X-Key: hdrS3cret", "--net-deadline", "8", cache=cache,
                env={"PENSTOCK_LOG": "debug", **(env or {})})
        return fine(t, r, what, 25) if ok else badhttp.check_failed(t, r, 3, (), what=what) if "debug" not in r.err else \
            t.equal(r.rc, 3, f"{what}: {r}")

    attempt(json.dumps({"mirrors": [mirror.url], "note": [1, {"x": None}]}), "a list", "c1")
    t.check(weights(mirror) and all("x-key" not in q.headers for q in mirror.log), "the listed mirror delivers, without our headers")
    bad = ["file:///etc", "/etc", 7, None, {"url": 3}, "http://169.254.169.254/latest", "http://[fe80::1]/", "http://x:y@127.0.0.1/", "ftp://x",
           "http://metadata.google.internal/", "http://0.0.0.0:1/", "http://a\u0001b/", {"url": trap.url.replace("127.0.0.1", "169.254.1.1")}]
    attempt(json.dumps(bad + [{"url": mirror.url}]), "a list with what is not allowed", "c2")
    attempt(json.dumps([mirror.url.replace("127.0.0.1", "localhost")]), "a bare list, a name", "c3")
    for i, text in enumerate(("{", "[]", '{"mirrors": 3}', "\0\0", "[" * 100, json.dumps([peer.KJV]), json.dumps({"mirrors": ["x" * 70000]}))):
        attempt(text, f"no list: {text[:12]!r}", f"d{i}", ok=False)
    # behind a proxy nobody knows how far away the first address is: its list names nothing that is near
    proxy = web_proxy.Proxy()
    t.servers.append(proxy)
    asked = len(mirror.log)
    attempt(json.dumps([mirror.url]), "a list behind a proxy", "p", ok=False, env={"http_proxy": f"http://127.0.0.1:{proxy.port}"})
    t.check(proxy.take() and len(mirror.log) == asked, "the mirror that it names is not asked")
    os.unlink(os.path.join(root, "mirrors.json"))
    first.set(None)
    fine(t, run(t, first.url, cache="e"), "without a list")
    # a list that hangs holds nothing up
    write(json.dumps([mirror.url]))
    first.set(lambda q, r: setattr(r, "delay", 20) if q.name == "mirrors.json" else None)
    fine(t, run(t, first.url, cache="f"), "a list that hangs", 10)


def hub(t):
    """A hub for everybody is not asked for the same bytes over and over; with a mirror it need not be, and gives little but
    names and samples. Its whole-file hashes name the cache keys, whoever delivers."""
    hub = hub_in_small.Hub(t.whole)
    hub.push("test/kjv", Setting.plain)
    mirror = serve(t, Setting.plain)
    env = {"HF_ENDPOINT": "http://huggingface.co", "http_proxy": hub.url, "no_proxy": "127.0.0.1"}
    few = ("--ram", "min", "-n", "30")
    r = run(t, "hf://test/kjv", *few, env=env, disk="0")
    badhttp.check_failed(t, r, 5, ("--mirror",), what="30 times the same bytes from a hub")
    r = run(t, "hf://test/kjv", *few, "--mirror", mirror.url, env=env, disk="0")
    t.equal(r.rc, 0, f"with a mirror: {r}")
    mirrors = r.stats.get("mirrors", [{"bytes": 0}])
    t.check(by(r, mirror.url) > 10 * mirrors[0]["bytes"], f"the mirror gave the weights: {mirrors}")
    fine(t, run(t, "hf://test/kjv", "--mirror", mirror.url, env=env), "fill the cache from the mirror")
    mirror.set(None)
    r = fine(t, run(t, "hf://test/kjv", env=env), "the same cache without it")
    t.check(r.stats["bytes_net"] < 600000, f"all weights came from the cache: {r.stats['bytes_net']}")
    other = serve(t, Setting.plain, lambda q, r: setattr(r, "body", bytes(b ^ 1 for b in r.body)) if (q.first or 0) > 70000 else None)
    r = fine(t, run(t, "hf://test/kjv", "--mirror", other.url, env=env, cache="c3"), "a mirror of another version: the hub gives it all")
    t.check("no mirror of this model" in r.err, "it is named")


def egress(t):
    """--max-egress counts what all of them send."""
    size = sum(os.path.getsize(os.path.join(Setting.split, d, n)) for d, _, names in os.walk(Setting.split) for n in names)
    def half(q, r):
        if q.total > 30 and q.name.endswith(".shard"):
            r.error(404)
    for limit in (size // 2, size * 2):
        first, mirror = serve(t, Setting.split, half), serve(t, Setting.split)
        r = run(t, first.url, "--mirror", mirror.url, "--max-egress", limit, cache=f"c{limit}", disk="32M")
        sent = sum(q.sent for q in first.log + mirror.log)
        t.check(sent <= limit + 200000, f"{sent} bytes were sent, {limit} allowed")
        if limit < size:
            badhttp.check_failed(t, r, 5, ("egress",), what="a limit below the model")
        else:
            fine(t, r, "a limit above it")


def main():
    with peer.Test() as t:
        Setting.plain, Setting.split = t.path("plain"), t.path("split")
        peer.copy_model(peer.KJV, Setting.plain)
        t.equal(t.run("split", Setting.plain, Setting.split, "--codec", "lz4").rc, 0, "split")
        Setting.text = t.run("run", Setting.plain, *ARGS).text
        t.check(Setting.text, "a text from the folder")
        only = os.environ.get("PENSTOCK_TEST_ONLY", "").split()
        parts = (unreachable, lost, pages, unhashed, wrong, damaged, dies, storm, hangs, fails, refuses, unproved, without_side_files, both_blink, comes_back, other_schemes,
             secrets, listed, hub, egress)
        badhttp.side_by_side(t, [(p.__name__, p) for p in parts if not only or p.__name__ in only])


main()
