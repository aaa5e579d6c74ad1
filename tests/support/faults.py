"""Scenarios of faults: one small TOML file each, in tests/faults/. This module says what their words mean; see there for
examples and tests/integration/faults.py for the runner.

    model = "plain"              which form of models/kjv is served: "plain", "split", or ["plain", "split"] (two parts);
                                 "altered": plain with other weights
    url = "{near}"               what is run, when it is not just the server: {near}, {far}, {near_host}, {nobody} are filled in
    args = ["--net-stall", "2"]  further options of `run`; env = { NAME = "value" }
    exit = 0                     status, or several that are right; with 0 the text must be the right one to the byte, else a
                                 beginning of it
    says = ["503", "shard"]      regular expressions that the error must match; silent = [...]: texts that nothing may show
    within = 8                   seconds
    heals = false                do not run again on the healed server (done after every failure unless told otherwise)
    then = "altered"             a second run after the server's model was exchanged

    [server]                     pace: bytes per second of each connection; tls: "good", "unknown", "name"; handshake: what
                                 happens to new connections (count = how many first ones; absent: all) = "reset", "close",
                                 "garbage", "http", "silent"; dies: { after = requests, seconds = s, long = s } (long: with
                                 PENSTOCK_FAULTS_LONG); full = true: a listener that lets nobody in
    [far]                        a second, healthy server: model; says nothing of its own

    [[fault]]                    what happens to which replies; every table that fits is applied, in order
    object = "weights"           "weights" (files of weights), "any", "middle" (one shard of them), or a pattern
    part = "body"                "body": ranges behind the first byte; "head": those at it; absent: all
    times = 1                    so often for each byte (part = "body"), for each object (else); absent: always
    first = 3                    the first so many requests of the whole run that fit; skip = 2: not the first two
    status, headers, page, ...   what is done: DEEDS below

    [seen]                       what the server must have seen; CHECKS below
"""
import fnmatch
import os
import ssl
import subprocess
import sys
import threading
import time
import tomllib
import zlib

sys.dont_write_bytecode = True
import badhttp  # noqa: E402
import certs  # noqa: E402
import peer  # noqa: E402

FOLDER = os.path.join(peer.SOURCE_DIR, "tests", "faults")
PROMPT, N = "In the beginning", 16
WEIGHTS = (".safetensors", ".shard")
SLOW = 6 if peer.SANITIZED else 1
ROOM = 4 * SLOW  # seconds that a machine with two busy cores may add to any bound
LONG = bool(os.environ.get("PENSTOCK_FAULTS_LONG"))
HTML = b"<!DOCTYPE html><html><body><h1>no</h1></body></html>\n"


# ---- what may be done to a reply ----

def _fraction(r, value):
    return int(len(r.body) * value) if isinstance(value, float) else value


def _whole(q, r, value):
    data = _served(q)
    if data is not None:
        r.whole(data)


def _served(q):
    found = q.server.file(q.name)
    return found[0] if found else None


def _headers(q, r, value):
    for name, text in value.items():
        for old in [k for k in r.headers if k.lower() == name.lower()]:
            del r.headers[old]
        if text is not False:
            r.headers[name] = _fill(q, text)


def _fill(q, text):
    return (str(text).replace("{now}", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()))
            .replace("{soon}", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2)))
            .replace("{epoch}", str(int(time.time()) + 2)).replace("{name}", q.name).replace("{query}", q.query)
            .replace("{first}", str(q.first)).replace("{last}", str(q.last))
            .replace("{far}", getattr(q.server, "far_url", "")).replace("{nobody}", getattr(q.server, "nobody", "")))


def _longer(q, r, value):
    r.body += b"\0" * value
    r.headers["Content-Length"] = str(len(r.body))


def _shift(q, r, value):
    if r.status == 206:
        first, last, total = q.first + value, q.first + len(r.body) - 1 + value, r.headers["Content-Range"].rsplit("/", 1)[1]
        r.headers["Content-Range"] = f"bytes {first}-{last}/{total}"


def _total(q, r, value):
    if r.status == 206:
        r.headers["Content-Range"] = r.headers["Content-Range"].rsplit("/", 1)[0] + f"/{value}"


def _multipart(q, r, value):
    if r.status == 206:
        r.body = b"--x\r\nContent-Range: " + r.headers.pop("Content-Range").encode() + b"\r\n\r\n" + r.body + b"\r\n--x--\r\n"
        r.headers.update({"Content-Type": "multipart/byteranges; boundary=x", "Content-Length": str(len(r.body))})


def _gzip(q, r, value):
    squeeze = zlib.compressobj(1, zlib.DEFLATED, 31 if value == "gzip" else 15)
    r.body = squeeze.compress(r.body) + squeeze.flush()
    r.headers.update({"Content-Encoding": value, "Content-Length": str(len(r.body))})


def _flip(q, r, value):
    at = _fraction(r, value)
    if r.body:
        r.body = r.body[:at] + bytes([r.body[at] ^ 4]) + r.body[at + 1:]


def _weak(q, r, value):
    if "ETag" in r.headers:
        r.headers["ETag"] = "W/" + r.headers["ETag"]


def _no_length(q, r, value):
    r.headers.pop("Content-Length", None)
    r.close = True


def _if_match(q, r, value):
    if "if-match" in q.headers:
        r.error(value)


# In this order: first what is answered, then with which headers, then how it travels.
DEEDS = {
    "only_status": None,  # a condition: only replies that would have had it
    "only_method": None,
    "status": lambda q, r, v: r.error(v),
    "page": lambda q, r, v: r.whole(HTML if v is True else v.encode(), Content_Type="text/html"),
    "redirect": lambda q, r, v: r.redirect(_fill(q, v)),
    "whole": _whole,  # 200 with the whole object
    "body_bytes": lambda q, r, v: r.whole(b"\x0a" * v),
    "if_match": _if_match,  # this status, where the request has one
    "flip": _flip,  # a byte of the body: its place, or the fraction
    "longer": _longer,  # so many bytes too many, and a length that says so
    "shift": _shift,  # Content-Range is off by so much
    "total": _total,  # another total in Content-Range
    "multipart": _multipart,
    "encode": _gzip,  # "gzip" or "deflate"
    "weak": _weak,
    "headers": _headers,  # set, or with false removed
    "lines": lambda q, r, v: setattr(r, "lines", v.encode("latin-1")),  # behind the headers, as they are
    "big_header": lambda q, r, v: setattr(r, "lines", b"X-Big: " + b"a" * v + b"\r\n"),
    "many_headers": lambda q, r, v: setattr(r, "lines", b"".join(b"X-%d: a\r\n" % i for i in range(v))),
    "hints": lambda q, r, v: setattr(r, "before", b"HTTP/1.1 103 Early Hints\r\nContent-Length: 7\r\nETag: \"x\"\r\n\r\n" * v),
    "raw": lambda q, r, v: setattr(r, "raw", v.encode("latin-1")),
    "raw_big": lambda q, r, v: setattr(r, "raw", b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * v),
    "raw_body": lambda q, r, v: setattr(r, "raw", r.body),  # HTTP/0.9
    "no_length": _no_length,
    "chunked": lambda q, r, v: setattr(r, "chunked", v),
    "chunk_lies": lambda q, r, v: (_no_length(q, r, v), r.headers.update({"Transfer-Encoding": "chunked"}),
                                   setattr(r, "body", v.encode("latin-1"))),
    "unended": lambda q, r, v: (setattr(r, "chunked", True), setattr(r, "unended", v)),
    "close": lambda q, r, v: setattr(r, "close", v),
    "cut": lambda q, r, v: setattr(r, "cut", _fraction(r, v)),
    "reset": lambda q, r, v: setattr(r, "reset", _fraction(r, v)),
    "garble": lambda q, r, v: setattr(r, "garble", _fraction(r, v)),
    "stall": lambda q, r, v: setattr(r, "stall", (_fraction(r, v), 600)),
    "delay": lambda q, r, v: setattr(r, "delay", v),
    "drip": lambda q, r, v: setattr(r, "drip", v),
    "trickle": lambda q, r, v: setattr(r, "trickle", v),  # seconds for every eight bytes of the body
    "pace": lambda q, r, v: setattr(r, "pace", v),
}
WHERE = {"object", "part", "times", "first", "skip", "connection"}
KEYS = {"model", "url", "args", "env", "exit", "says", "silent", "within", "heals", "then", "server", "far", "fault", "seen"}


class Fault:
    """One [[fault]] table."""

    def __init__(self, table, middle):
        unknown = set(table) - set(DEEDS) - WHERE
        if unknown:
            raise ValueError(f"unknown words in a fault: {unknown}")
        self.where = {k: table[k] for k in WHERE if k in table}
        self.deeds = [(name, table[name]) for name in DEEDS if name in table]
        self.lock, self.before, self.counts, self.fitting = threading.Lock(), [], {}, 0
        self.middle, self.applied = middle, 0

    def _fits_object(self, q):
        what = self.where.get("object", "weights")
        if what == "weights":
            return q.name.endswith(WEIGHTS)
        return what == "any" or (q.name == self.middle if what == "middle" else fnmatch.fnmatch(q.name, what))

    def _often_enough(self, q):
        """Counts; with times and part = "body" by the byte, because what is asked for again may be joined with others."""
        times = self.where.get("times")
        if times is None:
            return False
        if self.where.get("part") == "body":
            last = q.last if q.last is not None else 1 << 62
            seen = sum(1 for name, a, b in self.before if name == q.name and a <= last and q.first <= b)
            self.before.append((q.name, q.first, last))
        else:
            seen = self.counts.get(q.name, 0)
            self.counts[q.name] = seen + 1
        return seen >= times

    def fits(self, q, r):
        conditions = dict(self.deeds)
        part = self.where.get("part")
        if not self._fits_object(q) or (part == "body" and not q.first) or (part == "head" and q.first):
            return False
        if conditions.get("only_status", r.status) != r.status or conditions.get("only_method", q.method) != q.method:
            return False
        if self.where.get("connection", q.connection) != q.connection:
            return False
        with self.lock:
            self.fitting += 1
            number = self.fitting - self.where.get("skip", 0)
            if number <= 0 or number > self.where.get("first", number):
                return False
            return not self._often_enough(q)

    def apply(self, q, r):
        if self.fits(q, r):
            self.applied += 1
            for name, value in self.deeds:
                if DEEDS[name]:
                    DEEDS[name](q, r, value)


# ---- what the servers must have seen ----

def _header_everywhere(name):
    return lambda s, v: all(q.headers.get(name) == v for q in s.near.log) and s.near.log


def _received(server):
    """Requests whose whole reply the client surely has: it asked for something else on the same connection afterwards."""
    last = {}
    for i, q in enumerate(server.log):
        last[q.connection] = i
    return [q for i, q in enumerate(server.log) if q.whole and i < last[q.connection] and q.name.endswith(WEIGHTS) and q.first]


def _twice(server):
    c = peer.Coverage((q.name, q.first, q.last) for q in _received(server) if q.status == 206)
    return c.bytes(least=2)


def _held(server):
    """Seconds until a range that was refused with 429 was asked for again."""
    return min((min((x.began - q.began for x in server.log if x.began > q.began and x.name == q.name and x.first <= q.first <= x.last),
                    default=0) for q in server.log if q.status == 429), default=0)


CHECKS = {
    "authorization": _header_everywhere("authorization"),
    "query": lambda s, v: s.near.log and all(q.query == v for q in s.near.log),
    "far_served": lambda s, v: bool(s.far.log) == v,
    "far_without": lambda s, v: not any(word in str(q.headers) + q.target for q in s.far.log for word in v),
    "weak_never_sent": lambda s, v: not any(q.headers.get("if-match", "").startswith("W/") for q in s.near.log),
    "held": lambda s, v: _held(s.near) >= v,
    "retries": lambda s, v: s.result.stats.get("retries", 0) >= v,
    "requests_most": lambda s, v: len(s.near.log) <= v,
    "received_twice": lambda s, v: _twice(s.near) <= v,
    "applied": lambda s, v: all(f.applied >= v for f in s.faults),
}


# ---- servers ----

GREETINGS = {
    "close": b"",
    "garbage": b"SSH-2.0-OpenSSH_9.2\r\n" + b"\xa5" * 512,
    "http": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "silent": None,
    "reset": None,
}


def _greeting(what, count, stopped):
    import socket
    import struct

    def greet(number, connection):
        if count is not None and number >= count:
            return False
        if what == "silent":
            stopped().wait(600)
        elif what == "reset":
            connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            connection.recv(1)
            connection.sendall(GREETINGS[what])
        return True
    return greet


class FullQueue:
    """A listener whose queue is full lets nobody in, and says nothing."""

    def __init__(self):
        import socket
        self.log, self.sockets = [], [socket.socket()]
        self.sockets[0].bind(("127.0.0.1", 0))
        self.sockets[0].listen(0)
        self.port = self.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        for _ in range(4):
            c = socket.socket()
            c.setblocking(False)
            c.connect_ex(("127.0.0.1", self.port))
            self.sockets.append(c)

    def stop(self):
        for s in self.sockets:
            s.close()


class Setting:
    """What all scenarios share: the forms of the model with the texts that they must give, and certificates."""

    def __init__(self, t):
        self.roots = {"plain": peer.KJV, "split": t.path("split"), "altered": t.path("altered")}
        self.texts = {}
        r = t.run("split", peer.KJV, self.roots["split"])
        t.equal(r.rc, 0, f"split: {r}")
        _alter(self.roots["altered"])
        for form in ("plain", "altered"):
            r = t.run("run", self.roots[form], "-p", PROMPT, "-n", N, "--temp", "0", "--ignore-eos", cache=t.path("none"))
            t.equal(r.rc, 0, f"the local run of {form}: {r}")
            self.texts[form] = r.text
        t.check(self.texts["plain"] != self.texts["altered"], "other weights give another text")
        self.texts["split"] = self.texts["plain"]
        names = sorted(os.listdir(os.path.join(self.roots["split"], "shards")))
        self.middle = "shards/" + names[len(names) // 2]
        self.lock, self.t, self.made = threading.Lock(), t, {}

    def tls(self, kind):
        """(context of the server, environment of the client)."""
        with self.lock:
            if kind not in self.made:
                if "ca" not in self.made:
                    self.made["ca"] = certs.certificate(self.t, "ca", "")
                host = "DNS:elsewhere.test" if kind == "name" else "IP:127.0.0.1"
                crt, key = certs.certificate(self.t, kind, host, ca="ca")
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(crt, key)
                self.made[kind] = context
        trusted = self.made["ca"][0] if kind != "unknown" else ""
        return self.made[kind], {"SSL_CERT_FILE": trusted} if trusted else {}


def _alter(to):
    peer.copy_model(peer.KJV, to)
    name = os.path.join(to, "model.safetensors")
    with open(name, "r+b") as f:
        data = bytearray(f.read())
        for i in range(len(data) // 2 | 1, len(data), 4096):
            data[i] ^= 0x80  # signs of weights
        f.seek(0)
        f.write(data)


class Scenario:
    def __init__(self, name, table, form):
        unknown = set(table) - KEYS
        if unknown:
            raise ValueError(f"{name}: unknown words: {unknown}")
        self.name, self.table, self.form = name, table, form
        self.near = self.far = self.result = None
        self.faults, self.env = [], {}

    @property
    def within(self):
        return self.table.get("within", 20 if self.table.get("exit", 0) == 0 else 8)

    def _scenario(self, q, r):
        q.server = self.near
        dies = self.table.get("server", {}).get("dies")
        if dies and q.total == dies["after"]:
            self.near.die(dies["long"] if LONG else dies["seconds"])
        for f in self.faults:
            f.apply(q, r)

    def start(self, setting):
        server = self.table.get("server", {})
        if server.get("full"):
            self.near = FullQueue()
            return
        context = None
        if "tls" in server:
            context, self.env = setting.tls(server["tls"])
        greet = None
        if "handshake" in server:
            greet = _greeting(server["handshake"], server.get("count"), lambda: self.near.stopped)
        self.near = badhttp.Server(setting.roots[self.form], self._scenario, server.get("pace"), context, greet)
        self.near.nobody = str(peer.free_port())
        if "far" in self.table:
            self.far = badhttp.Server(setting.roots[self.table["far"]["model"]])
            self.near.far_url = self.far.url
        self.faults = [Fault(f, setting.middle) for f in self.table.get("fault", [])]

    def stop(self):
        for s in (self.near, self.far):
            if s:
                s.stop()

    def url(self):
        return (self.table.get("url", "{near}").replace("{near}", self.near.url).replace("{near_host}", f"127.0.0.1:{self.near.port}")
                .replace("{nobody}", str(peer.free_port())))

    def run(self, t):
        env = {"PENSTOCK_MIN_FREE": "0", **self.env, **self.table.get("env", {})}
        return t.run("run", self.url(), "-p", PROMPT, "-n", N, "--temp", "0", "--ignore-eos", *self.table.get("args", []),
                     cache=t.path("cache"), disk="32M", env=env, seconds=(self.within + 30) * SLOW)


def in_time(seconds, bound):
    """On a machine that others keep busy the same work takes longer: measured only where it matters."""
    bound = bound * SLOW + ROOM
    return seconds < bound or seconds < bound * max(peer.slowdown() for _ in range(3))


def fine(t, r, text, what):
    t.equal(r.rc, 0, f"{what}: {r}")
    t.equal(r.text, text, f"{what}: the text")
    t.check(not badhttp.CRASH.search(r.err), f"{what}: a crash: {r.err[-2000:]}")
    t.check("error" not in r.stats, f"{what}: an error in the stats: {str(r.stats)[:300]}")


def clean(t):
    """The cache of a run that has ended: nothing wrong in it, no byte outside it."""
    if os.path.isdir(t.path("cache")):
        r = t.run("cache", "verify", cache=t.path("cache"))
        t.equal(r.rc, 0, f"cache verify afterwards: {r}")
    for name in ("home", "xdg", "tmp"):
        t.check(not os.path.exists(t.path(name)), f"{name} was written to")


def play(t, s, setting):
    """One scenario in one form of the model, with all its checks."""
    table = s.table
    s.start(setting)
    try:
        status = table.get("exit", 0)
        allowed = status if isinstance(status, list) else [status]
        r = s.result = s.run(t)
        if 0 in allowed and (r.rc == 0 or len(allowed) == 1):
            fine(t, r, setting.texts[s.form], "goes on")
        else:
            badhttp.check_failed(t, r, tuple(allowed), table.get("says", ()))
            t.check(setting.texts[s.form].startswith(r.text), f"wrong text: {r.out}")
        t.check(in_time(r.seconds, s.within), f"took {r.seconds:.1f} s")
        for name, value in table.get("seen", {}).items():
            t.check(CHECKS[name](s, value), f"seen: {name} is not {value!r}: {r.seconds:.1f} s, {r.stats}, {s.near.log[:4]}")
        for word in table.get("silent", ()):
            t.check(word not in r.err + str(r.stats), f"{word!r} is shown: {r.err}")
        clean(t)
        if table.get("then"):
            s.near.root = setting.roots[table["then"]]
            fine(t, s.run(t), setting.texts[table["then"]], "the exchanged model, through the cache of the old one")
            clean(t)
        elif status != 0 and table.get("heals", True) and "server" not in table and "url" not in table:
            s.near.set(None)
            fine(t, s.run(t), setting.texts[s.form], "healed")
    finally:
        s.stop()


def load(folder=FOLDER):
    """Every scenario of the folder, in each of its forms."""
    out = []
    for file in sorted(os.listdir(folder)):
        if file.endswith(".toml"):
            with open(os.path.join(folder, file), "rb") as f:
                table = tomllib.load(f)
            forms = table.get("model", "plain")
            for form in forms if isinstance(forms, list) else [forms]:
                name = file[:-5] + (f", {form}" if isinstance(forms, list) else "")
                out.append(Scenario(name, table, form))
    return out
