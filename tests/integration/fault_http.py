#!/usr/bin/env python3
"""What a server, or what stands in front of it, can do to a run, from a port that nobody listens on to wrong bytes under
the right ETag. `penstock run` of models/kjv, plain and pre-split, against each: either the text of the healthy run to
the byte, or the contract's exit status with a line that names what and where, in time, with a result file; never wrong
text. Afterwards the cache is clean and the same command against the healed server writes the right text."""
# ctest-timeout: 240
import base64
import os
import shutil
import socket
import sys
import threading
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import badhttp  # noqa: E402
import peer  # noqa: E402

PROMPT = "In the beginning"
N = 16
SLOW = 6 if peer.SANITIZED else 1
ROOM = 4 * SLOW  # seconds that a machine with two busy cores may add to any bound
PLAIN, SPLIT = "plain", "split"
WEIGHTS = (".safetensors", ".shard")


class Setting:
    """The two forms of the model and the text that every run must write."""
    text = b""
    root = {}


def run(t, url, *args, cache="cache", seconds=40, **kw):
    return t.run("run", url, "-p", PROMPT, "-n", N, "--temp", "0", "--ignore-eos", *args, cache=t.path(cache), disk="32M",
                 env=dict({"PENSTOCK_MIN_FREE": "0"}, **kw.pop("env", {})), seconds=seconds * SLOW, **kw)


def clean(t):
    """The cache of a run that has ended: nothing wrong in it, no byte outside it."""
    if os.path.isdir(t.path("cache")):
        r = t.run("cache", "verify", cache=t.path("cache"))
        t.equal(r.rc, 0, f"cache verify afterwards: {r}")
    for name in ("home", "xdg", "tmp"):
        t.check(not os.path.exists(t.path(name)), f"{name} was written to")


def fine(t, r, what="goes on"):
    t.equal(r.rc, 0, f"{what}: {r}")
    t.equal(r.text, Setting.text, f"{what}: the text")
    t.check("error" not in r.stats, f"{what}: an error in the stats: {str(r.stats)[:300]}")


def healed(t, web, url, args=()):
    web.set(None)
    fine(t, run(t, url, *args), "healed")


def survives(form, scenario, *args, within=20, after=None, path=""):
    """The run gets through."""
    def part(t):
        web = badhttp.Server(Setting.root[form], scenario(t) if getattr(scenario, "wants_part", False) else scenario)
        try:
            r = run(t, web.url + path, *args)
            fine(t, r)
            t.check(r.seconds < within * SLOW + ROOM, f"took {r.seconds:.1f} s")
            if after:
                after(t, web, r)
            clean(t)
        finally:
            web.stop()
    return part


def fails(form, scenario, status, *args, says=(), within=8, heals=True):
    """The run ends with that status; what it wrote is a beginning of the text."""
    def part(t):
        web = badhttp.Server(Setting.root[form], scenario)
        try:
            r = run(t, web.url, *args)
            badhttp.check_failed(t, r, status, says)
            t.check(r.seconds < within * SLOW + ROOM, f"took {r.seconds:.1f} s")
            t.check(Setting.text.startswith(r.text), f"wrong text: {r.out}")
            clean(t)
            if heals:
                healed(t, web, web.url)
        finally:
            web.stop()
    return part


def always(change, where=WEIGHTS, first=None):
    """Every reply for an object with such a name's end; first: its first requests alone. Headers of files and of shard
    indexes are read by the first request: `late` leaves them in peace."""
    def scenario(q, r):
        if q.name.endswith(where) and (first is None or q.n < first):
            change(q, r)
    return scenario


def late(change, where=WEIGHTS, times=None):
    """The same for requests that begin behind the headers; times: so often for each byte, because what is asked for
    again may be joined with other neighbours."""
    lock, before = threading.Lock(), []

    def scenario(q, r):
        if not q.name.endswith(where) or not q.first:
            return
        with lock:
            seen = sum(1 for name, first, last in before if name == q.name and first <= q.last and q.first <= last)
            if times is not None and seen >= times:
                return
            before.append((q.name, q.first, q.last))
        change(q, r)
    return scenario


EVERYTHING = ("",)


def status(code, **headers):
    return lambda q, r: r.error(code, **headers)


# ---- changes ----

def half(q, r):
    r.cut = len(r.body) // 2


def too_long(q, r):
    r.body += b"\0" * 777
    r.headers["Content-Length"] = str(len(r.body))


def too_long_chunked(q, r):
    r.body += b"\0" * 777
    r.chunked = True


def shifted(q, r):
    total = r.headers["Content-Range"].rsplit("/", 1)[1]
    r.headers["Content-Range"] = f"bytes {q.first - 1}-{q.last - 1}/{total}"


def multipart(q, r):
    body = b"--x\r\nContent-Range: " + r.headers.pop("Content-Range", "").encode() + b"\r\n\r\n" + r.body + b"\r\n--x--\r\n"
    r.body = body
    r.headers.update({"Content-Type": "multipart/byteranges; boundary=x", "Content-Length": str(len(body))})


def zipped(q, r):
    r.body = zlib.compress(r.body)
    r.headers.update({"Content-Encoding": "deflate", "Content-Length": str(len(r.body))})


def flipped(q, r):
    middle = len(r.body) // 2
    r.body = r.body[:middle] + bytes([r.body[middle] ^ 4]) + r.body[middle + 1:] if r.body else r.body


def other_etag(q, r):
    r.headers["ETag"] = '"another"'


def other_length(q, r):
    if r.status == 206:
        r.headers["Content-Range"] = r.headers["Content-Range"].rsplit("/", 1)[0] + "/99999999"


def silent(q, r):
    r.stall = (len(r.body) // 3, 600)


def mute(q, r):
    r.delay = 600


def broken(q, r):
    r.reset = len(r.body) // 3


def bare(q, r):
    """The least that the contract accepts: no length, an unknown total, an end by closing."""
    if r.status == 206:
        r.headers["Content-Range"] = r.headers["Content-Range"].rsplit("/", 1)[0] + "/*"
        del r.headers["Content-Length"]
        r.close = True


def weak(q, r):
    if "ETag" in r.headers:
        r.headers["ETag"] = "W/" + r.headers["ETag"]


def whole(root):
    def change(q, r):
        with open(os.path.join(Setting.root[root], q.name), "rb") as f:
            r.whole(f.read())
    return change


def ignores_range(form):
    change = whole(form)

    def scenario(q, r):
        if r.status == 206:
            change(q, r)
    return scenario


# ---- parts that need more than one server ----

def nobody_listens(t):
    r = run(t, f"http://127.0.0.1:{peer.free_port()}/m")
    badhttp.check_failed(t, r, 3, ("127.0.0.1", "refused|connect"))
    t.check(r.seconds < 15 * SLOW, f"took {r.seconds:.1f} s")


def unknown_host(t):
    r = run(t, "http://penstock-test.invalid/m")
    badhttp.check_failed(t, r, 3, ("penstock-test.invalid",))
    t.check(r.seconds < 15 + ROOM, f"took {r.seconds:.1f} s")


def black_hole(t):
    """A listener whose queue is full lets nobody in, and says nothing."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(0)
        clients = []
        for _ in range(4):
            c = socket.socket()
            c.setblocking(False)
            c.connect_ex(s.getsockname())
            clients.append(c)
        r = run(t, f"http://127.0.0.1:{s.getsockname()[1]}/m")
        badhttp.check_failed(t, r, 3, ("127.0.0.1",))
        t.check(r.seconds < 15 + ROOM, f"took {r.seconds:.1f} s")
        for c in clients:
            c.close()


def no_http(answer):
    """Something else listens there."""
    def part(t):
        web = badhttp.Server(Setting.root[PLAIN], lambda q, r: setattr(r, "raw", answer))
        try:
            r = run(t, web.url, "--net-deadline", "3")
            badhttp.check_failed(t, r, (3, 4), ("127.0.0.1",))
            t.check(r.seconds < 6 * SLOW + ROOM, f"took {r.seconds:.1f} s")
            clean(t)
        finally:
            web.stop()
    return part


def redirect_elsewhere(t):
    """Works; what the address says of user and password stays with its host; a redirect back does not bring it again."""
    far = badhttp.Server(Setting.root[PLAIN])
    near = badhttp.Server(Setting.root[PLAIN])
    near.set(lambda q, r: r.redirect(far.url + "/" + q.name + "?" + q.query) if q.name.endswith(WEIGHTS) else None)
    try:
        r = run(t, f"http://alice:s3cr3t@127.0.0.1:{near.port}?key=k1")
        fine(t, r)
        basic = "Basic " + base64.b64encode(b"alice:s3cr3t").decode()
        t.check(near.log and all(q.headers.get("authorization") == basic for q in near.log), f"{near.log[:3]} without credentials")
        t.check(all(q.query == "key=k1" for q in near.log), "the query goes with every object")
        t.check(far.log and not any("authorization" in q.headers for q in far.log), "credentials went to another port")
        t.check(not any("s3cr3t" in str(q.headers) or "alice" in str(q.headers) for q in far.log), "in another header")
        clean(t)
    finally:
        near.stop()
        far.stop()


def redirect_to(location, status, *says):
    def part(t):
        web = badhttp.Server(Setting.root[PLAIN], lambda q, r: r.redirect(location))
        try:
            r = run(t, web.url, "--net-deadline", "5")
            badhttp.check_failed(t, r, status, says)
            t.check(r.seconds < 8 * SLOW, f"took {r.seconds:.1f} s")
        finally:
            web.stop()
    return part


def changes_between(t):
    """An object that was replaced between two runs: the cached half of the old one is not mixed with the new one."""
    root = t.path("model")
    shutil.copytree(Setting.root[PLAIN], root)
    web = badhttp.Server(root)
    try:
        fine(t, run(t, web.url))
        name = os.path.join(root, "model.safetensors")
        with open(name, "r+b") as f:
            data = bytearray(f.read())
            for i in range(len(data) // 2 | 1, len(data), 4096):
                data[i] ^= 0x80  # signs of weights
            f.seek(0)
            f.write(data)
        web.cache.clear()
        local = t.run("run", root, "-p", PROMPT, "-n", N, "--temp", "0", "--ignore-eos", cache=t.path("none"))
        t.check(local.rc == 0 and local.text != Setting.text, f"another model writes another text: {local}")
        r = run(t, web.url)
        t.equal((r.rc, r.text), (0, local.text), "the new object, through the cache of the old one")
        clean(t)
    finally:
        web.stop()


def tag_changes(t):
    """The ETag changes after some requests: from then on If-Match fails, as with a real server."""
    def scenario(q, r):
        if q.name == "model.safetensors" and q.n >= 3:
            if "if-match" in q.headers:
                r.error(412)
            else:
                other_etag(q, r)
    fails(PLAIN, scenario, 4, says=("model.safetensors", "changed"))(t)


def query_and_weak(t):
    def after(t, web, r):
        t.check(not any(q.headers.get("if-match", "").startswith("W/") for q in web.log), "a weak tag in If-Match")
    survives(PLAIN, always(weak, EVERYTHING), after=after)(t)


def waited(seconds):
    def after(t, web, r):
        t.check(r.seconds >= seconds, f"only {r.seconds:.2f} s: Retry-After was not kept")
        t.check(r.stats.get("retries", 0) > 0, "retries are counted")
    return after


def one_shard(change, form=SPLIT):
    """One shard in the middle alone."""
    names = sorted(os.listdir(os.path.join(Setting.root[form], "shards")))
    return always(change, (names[len(names) // 2],))


def parts():
    refused, html = ("127.0.0.1",), status(200)
    short = ("--net-deadline", "3")
    return [
        ("black hole", black_hole),  # the longest first
        ("unknown host", unknown_host),
        ("stalls for ever", fails(PLAIN, late(silent), 3, "--net-stall", "2", "--net-deadline", "5", says=("model.safetensors",), within=9)),
        ("mute for ever", fails(SPLIT, late(mute), 3, "--net-stall", "2", "--net-deadline", "5", says=("shard",), within=9)),
        ("nobody listens", nobody_listens),
        ("503 for ever", fails(PLAIN, late(status(503)), 3, *short, says=("503", "model.safetensors"), within=6)),
        ("503 from the start", fails(PLAIN, always(status(503), EVERYTHING), 3, *short, says=("503",), within=6)),
        ("500 for ever", fails(SPLIT, late(status(500)), 3, *short, says=("shard",), within=6)),
        ("429 beyond the deadline", fails(PLAIN, late(status(429, Retry_After=100)), 3, "--net-deadline", "20", says=("429",), within=8)),
        ("429 with a far date", fails(PLAIN, late(status(429, Retry_After="Fri, 31 Dec 2100 23:59:59 GMT")), 3, says=("429",))),
        ("cut every time", fails(PLAIN, late(lambda q, r: setattr(r, "cut", 0)), 3, *short, says=("model.safetensors",), within=6)),
        ("halved every time", fails(PLAIN, late(half), 3, *short, says=("model.safetensors",), within=6)),
        ("reset every time", fails(SPLIT, late(lambda q, r: setattr(r, "reset", 0)), 3, *short, says=("shard",), within=6)),
        ("no reply at all", no_http(b"")),
        ("another protocol", no_http(b"SSH-2.0-OpenSSH_9.2\r\n")),
        ("headers without end", no_http(b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 3000000)),
        ("404 everywhere", fails(PLAIN, always(status(404), EVERYTHING), 3, says=("404|not found|no model", "127.0.0.1"))),
        ("404 of the weights", fails(PLAIN, always(status(404)), 3, says=("model.safetensors",))),
        ("404 of config.json", fails(PLAIN, always(status(404), ("config.json",)), 3, says=("config.json",))),
        ("404 of tokenizer.json", fails(PLAIN, always(status(404), ("tokenizer.json",)), 3, says=("tokenizer",))),
        ("404 of one shard", fails(SPLIT, one_shard(status(404)), 3, says=("404", "shards/"))),
        ("410 of one shard", fails(SPLIT, one_shard(status(410)), 3, says=("shards/",))),
        ("404 under way", fails(PLAIN, late(status(404)), 3, says=("model.safetensors",))),
        ("401", fails(PLAIN, always(status(401, WWW_Authenticate="Basic realm=x"), EVERYTHING), 3, says=("401",) + refused)),
        ("403", fails(SPLIT, always(status(403), EVERYTHING), 3, says=("403",) + refused)),
        ("403 of the weights", fails(SPLIT, late(status(403)), 3, says=("403", "shard"))),
        ("ignores Range", fails(PLAIN, ignores_range(PLAIN), 3, says=("Range", "model.safetensors"))),
        ("ignores Range, split", fails(SPLIT, ignores_range(SPLIT), 3, says=("Range", "shards/"))),
        ("too long every time", fails(PLAIN, late(too_long), 4, says=("model.safetensors",))),
        ("too long, chunked", fails(SPLIT, late(too_long_chunked), 4, says=("shard",))),
        ("another range", fails(PLAIN, late(shifted), 4, says=("range", "model.safetensors"))),
        ("multipart", fails(SPLIT, late(multipart), 4, says=("multipart",))),
        ("compressed", fails(PLAIN, late(zipped), 4, says=("encod",))),
        ("compressed config", fails(PLAIN, always(zipped, ("config.json",)), 4, says=("config.json",))),
        ("tag changes", tag_changes),
        ("length changes", fails(PLAIN, late(other_length), 4, says=("model.safetensors", "changed"))),
        ("wrong bytes every time", fails(SPLIT, late(flipped), 4, says=("SHA-256|hash|wrong bytes", "shard"))),
        ("wrong shard index", fails(SPLIT, always(flipped, first=None), 4, says=("shard",))),
        ("wrong tokenizer, split", fails(SPLIT, always(flipped, ("tokenizer.json",)), 4, says=("tokenizer.json",))),
        ("wrong config, split", fails(SPLIT, always(flipped, ("config.json",)), 4, says=("config.json",))),
        ("416 inside", fails(PLAIN, late(status(416, Content_Range="bytes */4096")), 4, says=("model.safetensors",))),
        ("redirect loop", redirect_to("/again", 3, "redirect")),
        ("redirect to a file", redirect_to("file:///etc/passwd", (2, 3))),
        ("redirect to nowhere", redirect_to(f"http://127.0.0.1:{peer.free_port()}/x", 3, "127.0.0.1")),
        ("redirect without a place", redirect_to("", (3, 4))),
        # a page with status 200 is how some servers say 404
        ("HTML where a manifest would be", survives(PLAIN, always(html, ("penstock.manifest",)))),
        ("HTML as the manifest", fails(SPLIT, always(html, ("penstock.manifest",)), (3, 4), says=refused)),
        ("HTML for everything", fails(PLAIN, always(html, EVERYTHING), (3, 4), says=refused)),
        ("HTML as config.json", fails(PLAIN, always(html, ("config.json",)), (3, 4), says=("config.json",))),
        ("HTML as the tokenizer", fails(PLAIN, always(html, ("tokenizer.json",)), (3, 4), says=("tokenizer.json",))),
        ("HTML as the weights", fails(PLAIN, always(html), (3, 4), says=("model.safetensors",))),
        ("a manifest without end", fails(SPLIT, always(endless, ("penstock.manifest",)), (3, 4), says=("penstock.manifest",))),
        # what a run survives
        ("cut once", survives(PLAIN, late(half, times=1))),
        ("cut once, headers too", survives(SPLIT, always(half, EVERYTHING, first=1))),
        ("too long once", survives(SPLIT, late(too_long, times=1))),
        ("too long once, chunked", survives(PLAIN, late(too_long_chunked, times=1))),
        ("another range once", survives(PLAIN, late(shifted, times=1))),
        ("multipart once", survives(SPLIT, late(multipart, times=1))),
        ("wrong bytes once", survives(SPLIT, late(flipped, times=1))),
        ("wrong shard index once", survives(SPLIT, always(flipped, first=1))),
        ("reset once", survives(PLAIN, late(broken, times=1))),
        ("stalls once", survives(PLAIN, once(silent), "--net-stall", "2", within=10)),
        ("503 a few times", survives(PLAIN, always(status(503), ("config.json",) + WEIGHTS, first=3))),
        ("500 twice", survives(SPLIT, late(status(500), times=2))),
        ("429 with a short wait", survives(PLAIN, always(status(429, Retry_After=1), first=2), after=waited(1.0))),
        ("everything at once", survives(SPLIT, late(trouble, times=1))),
        ("bare replies", survives(PLAIN, always(bare, EVERYTHING))),
        ("bare replies, split", survives(SPLIT, always(bare, EVERYTHING))),
        ("chunked replies", survives(SPLIT, always(lambda q, r: setattr(r, "chunked", True), EVERYTHING))),
        ("weak tags", query_and_weak),
        ("HEAD refused", survives(PLAIN, lambda q, r: r.error(405) if q.method == "HEAD" else None)),
        ("ignores Range where it is small", survives(PLAIN, always(small_whole, (".json",)))),
        ("one request a connection", survives(SPLIT, lambda q, r: setattr(r, "close", True))),
        ("redirect elsewhere", redirect_elsewhere),
        ("changes between runs", changes_between),
    ]


def endless(q, r):
    r.whole(b"\x0a" * (80 << 20))
    r.chunked = True


def small_whole(q, r):
    if r.status == 206:
        whole(PLAIN)(q, r)


def once(change):
    """The third request for weights alone."""
    done = []

    def scenario(q, r):
        if q.name.endswith(WEIGHTS) and q.first and not done:
            done.append(1)
            change(q, r)
    return scenario


def trouble(q, r):
    (half, too_long, flipped, broken, status(500), status(503), multipart, shifted)[q.first // 4096 % 8](q, r)


def main():
    if not os.path.exists(os.path.join(peer.KJV, "model.safetensors")):
        peer.skip("models/kjv is not here")
    with peer.Test() as t:
        Setting.root = {PLAIN: peer.KJV, SPLIT: t.path("split")}
        r = t.run("split", peer.KJV, t.path("split"))
        t.equal(r.rc, 0, f"split: {r}")
        r = t.run("run", peer.KJV, "-p", PROMPT, "-n", N, "--temp", "0", "--ignore-eos", cache=t.path("none"))
        t.equal(r.rc, 0, f"the local run: {r}")
        Setting.text = r.text
        wanted = sys.argv[1:]
        badhttp.side_by_side(t, [p for p in parts() if not wanted or any(w in p[0] for w in wanted)], workers=4)


main()
