"""A web server over a folder that misbehaves on order, for integration scripts. Python's standard library only.

    web = badhttp.Server(folder, scenario)          # 127.0.0.1, a free port; threads of this process
    web.url                                         # "http://127.0.0.1:12345"
    web.log                                         # every Request so far, in order of arrival
    web.stop()                                      # peer.Test does it for what is in its list of servers

Without a scenario it is a plain, correct server: ranges, strong ETags, If-Match, keep-alive. A scenario is a function
(request, reply) that may change the reply in place before it is sent, by name, range or count:

    def scenario(q, r):
        if q.name == "model.safetensors" and q.n == 2:   # the third request for this object
            r.cut = 1000                                 # the connection ends after 1000 bytes of the body
"""
import email.utils
import hashlib
import http.client
import itertools
import os
import re
import select
import socket
import struct
import sys
import threading
import time
import urllib.parse

sys.dont_write_bytecode = True
import peer  # noqa: E402


class Request:
    """name: the decoded path without its first slash and without the query; first, last: the range, inclusive (None:
    the whole, or a tail); n: how many requests for this object came before; total: before, of any object; same: how
    many for just this range of it; connection: its number; subject: whose certificate the client showed; body: of the request; whole: the reply was sent to its end."""
    __slots__ = ("method", "target", "name", "query", "headers", "first", "last", "n", "total", "same", "status", "sent", "began",
                 "connection", "body", "whole", "server", "subject")

    def __repr__(self):
        return f"{self.method} {self.target} [{self.first}-{self.last}] {self.status} {self.sent}"


class Reply:
    """What will be sent. Change any of it: status, reason, headers (a dict), body (bytes). cut: end the connection after
    so many bytes of the body; reset: the same with RST; stall: (bytes, seconds) be silent there, then go on; delay:
    seconds before the first byte; chunked: send the body so, without a length; unended: no last chunk, then silence;
    raw: these bytes instead of everything; close: end the connection after the reply; lines: bytes behind the headers,
    as they are; before: bytes in front of the status line; drip: seconds between the pieces of sixteen bytes that the
    headers come in; trickle: the same for eight bytes of the body; pace: bytes per second of this connection from now on; garble: break the TLS records after so many
    bytes of the body."""

    def __init__(self):
        self.status, self.reason, self.headers, self.body = 200, None, {}, b""
        self.cut = self.reset = self.stall = self.raw = self.pace = self.garble = None
        self.delay = self.drip = self.trickle = 0.0
        self.lines = self.before = b""
        self.chunked = self.unended = self.close = False

    def error(self, status, body=b"<html><body><h1>no</h1></body></html>\n", **headers):
        """An error page in place of everything."""
        self.status, self.body = status, body
        self.headers = {"Content-Type": "text/html", "Content-Length": str(len(body))}
        self.headers.update((k.replace("_", "-"), str(v)) for k, v in headers.items())

    def whole(self, body, **headers):
        """Status 200 with this body, whatever was asked for."""
        self.status, self.body = 200, body
        self.headers.pop("Content-Range", None)
        self.headers["Content-Length"] = str(len(body))
        self.headers.update((k.replace("_", "-"), str(v)) for k, v in headers.items())

    def redirect(self, location, status=302):
        self.error(status, b"")
        self.headers["Location"] = location


SO_MAX_PACING_RATE = 47  # Linux: the kernel spaces the segments of a connection, whatever the queueing discipline


class Server:
    """pace: bytes per second that each connection gets, from its first byte on (nginx's limit_rate lets the first second
    of every reply through). tls: an ssl.SSLContext. greet: a function (number of the connection, socket) that may deal
    with a connection before anything is read from it; True: it has."""
    reading, read = threading.Lock(), {}

    def __init__(self, root, scenario=None, pace=None, tls=None, greet=None):
        self.root, self.scenario, self.pace, self.tls, self.greet = os.path.abspath(root), scenario, pace, tls, greet
        self.lock = threading.Lock()
        self.log, self.counts = [], {}
        self.connections, self.alive = 0, set()
        self.stopped = threading.Event()
        self._listen(0)
        self.port = self.listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def _listen(self, port):
        self.listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self.thread = threading.Thread(target=self._accept, args=(self.listener,), daemon=True)
        self.thread.start()

    def die(self, seconds):
        """Gone, and all its connections with it; back on the same port after so many seconds. Returns at once."""
        self._close_listener()
        with self.lock:
            alive, self.alive = self.alive, set()
        for connection in alive:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        back = threading.Timer(seconds, lambda: self.stopped.is_set() or self._listen(self.port))
        back.daemon = True
        back.start()

    def _close_listener(self):
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()

    def set(self, scenario):
        """Another scenario; counting starts again."""
        with self.lock:
            self.scenario, self.log, self.counts = scenario, [], {}

    def names(self):
        with self.lock:
            return [q.name for q in self.log]

    def stop(self):
        self.stopped.set()
        self._close_listener()
        self.thread.join()

    def file(self, name):
        """(bytes, ETag) of a file below root, or None."""
        path = os.path.normpath(os.path.join(self.root, name))
        if not path.startswith(os.path.join(self.root, "")) or not os.path.isfile(path):
            return None
        st = os.stat(path)
        key = path, st.st_mtime_ns, st.st_size
        with self.reading:  # of all servers: dozens may serve one model
            if key not in self.read:
                with open(path, "rb") as f:
                    data = f.read()
                self.read[key] = data, '"' + hashlib.sha256(data).hexdigest()[:20] + '"'
            return self.read[key]

    # ---- connections ----

    def _accept(self, listener):
        while not self.stopped.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self.lock:
                number = self.connections
                self.connections += 1
                self.alive.add(connection)
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, plain, number):
        connection = plain
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.pace:
                plain.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, int(self.pace))
            plain.settimeout(30)
            if self.greet and self.greet(number, plain):
                return
            if self.tls:
                connection = self.tls.wrap_socket(plain, server_side=True)
                with self.lock:
                    self.alive.discard(plain)
                    self.alive.add(connection)
            with connection.makefile("rb") as f:
                while not self.stopped.is_set() and self._one(connection, f, number):
                    pass
        except (OSError, ValueError):
            pass  # the client went away, or we did
        finally:
            with self.lock:
                self.alive.discard(connection)
            connection.close()

    def _one(self, connection, f, number):
        line = f.readline(65536).decode("latin-1").split()
        if len(line) != 3:
            return False
        headers = {k.lower(): v for k, v in http.client.parse_headers(f).items()}
        q, r = self._request(line[0], line[1], headers), Reply()
        q.subject = connection.getpeercert() if self.tls else None
        q.connection, q.body = number, f.read(int(headers.get("content-length", 0)))
        self._answer(q, r)
        if self.scenario:
            self.scenario(q, r)
        q.status = r.status
        return self._send(connection, q, r) and headers.get("connection", "").lower() != "close"

    def _request(self, method, target, headers):
        q = Request()
        q.method, q.target, q.headers, q.sent, q.began = method, target, headers, 0, time.monotonic()
        q.whole, q.connection, q.status = False, -1, None
        path, _, q.query = target.partition("?")
        q.name = urllib.parse.unquote(path).lstrip("/")
        m = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        q.first, q.last = (int(m[1]), int(m[2]) if m[2] else None) if m else (None, None)
        with self.lock:
            q.total, q.n = len(self.log), self.counts.get(q.name, 0)
            key = (q.name, q.first, q.last)
            q.same = self.counts.get(key, 0)
            self.counts[q.name], self.counts[key] = q.n + 1, q.same + 1
            self.log.append(q)
        return q

    def _answer(self, q, r):
        """The right reply."""
        found = self.file(q.name)
        r.headers = {"Date": email.utils.formatdate(usegmt=True), "Accept-Ranges": "bytes"}
        if found is None:
            r.error(404)
            return
        data, etag = found
        r.headers["ETag"] = etag
        if q.headers.get("if-match", etag) not in (etag, "*"):
            r.error(412)
        elif q.first is None:
            r.whole(data)
        elif q.first >= len(data):
            r.error(416, Content_Range=f"bytes */{len(data)}")
        else:
            last = len(data) - 1 if q.last is None else min(q.last, len(data) - 1)
            r.status, r.body = 206, data[q.first:last + 1]
            r.headers["Content-Range"] = f"bytes {q.first}-{last}/{len(data)}"
            r.headers["Content-Length"] = str(len(r.body))
            r.headers["Content-Type"] = "application/octet-stream"

    def _pause(self, connection, seconds):
        """Silence, until the client has gone or the server ends."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.stopped.is_set():
            readable, _, _ = select.select([connection], [], [], 0.05)
            if readable and not os.read(connection.fileno(), 1):  # whoever waits sends nothing else
                raise OSError("gone")

    def _head(self, connection, q, r):
        headers = dict(r.headers)
        if r.chunked:
            headers.pop("Content-Length", None)
            headers["Transfer-Encoding"] = "chunked"
        reason = r.reason or http.client.responses.get(r.status, "Whatever")
        head = f"HTTP/1.1 {r.status} {reason}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        head = r.before + head.encode("latin-1") + r.lines + b"\r\n"
        if not r.drip:
            connection.sendall(head)
            return
        for at in range(0, len(head), 16):
            connection.sendall(head[at:at + 16])
            self._pause(connection, r.drip)

    def _send(self, connection, q, r):
        if r.pace:
            connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, int(r.pace))
        if r.delay:
            self._pause(connection, r.delay)
        if r.raw is not None:
            connection.sendall(r.raw)
            return False
        self._head(connection, q, r)
        if q.method == "HEAD":
            return True
        for at in range(0, len(r.body) if r.trickle else 0, 8):
            self._body(connection, q, r, r.body[at:at + 8])
            self._pause(connection, r.trickle)
        body, end = r.body, len(r.body)
        for stop in (r.cut, r.reset, r.garble):
            end = end if stop is None else min(end, stop)
        at = 0
        if r.stall is not None:
            at = min(end, r.stall[0])
            self._body(connection, q, r, body[:at])
            self._pause(connection, r.stall[1])
        self._body(connection, q, r, body[at:end])
        if r.garble is not None:
            os.write(connection.fileno(), b"\x17\x03\x03\x00\x40" + b"\xa5" * 64)
            return False
        if r.reset is not None:
            time.sleep(0.02)  # what was sent before is to arrive: RST throws away what is still under way
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if r.unended:
            self._pause(connection, 600)
        if r.cut is not None or r.close:
            return False
        if r.chunked:
            connection.sendall(b"0\r\n\r\n")
        q.whole = True
        return True

    def _body(self, connection, q, r, data):
        if data and r.chunked:
            connection.sendall(b"%x\r\n" % len(data) + data + b"\r\n")
        elif data:
            connection.sendall(data)
        q.sent += len(data)


class Part(peer.Test):
    """A part of a test that may run beside others, with a temporary folder of its own; checks count in the whole. What it
    puts into its list of servers is stopped when it ends."""

    counting = threading.Lock()
    numbers = itertools.count()  # names that differ in punctuation alone must not meet in one folder

    def __init__(self, whole, name):
        self.whole, self.name, self.program, self.servers = whole, name, whole.program, []
        self.temp = whole.path(f"part-{next(self.numbers)}-" + re.sub(r"[^A-Za-z0-9]+", "-", name))
        os.makedirs(self.temp)

    def check(self, ok, what):
        with self.counting:
            return self.whole.check(ok, f"{self.name}: {what}")


def side_by_side(test, parts, workers=3):
    """Runs parts, [(name, function of a Part)], a few at once: most of them wait for a clock. The watcher of dead
    parents counts by thread, so a part does its work in the thread that started it."""
    left, lock = list(parts), threading.Lock()

    def work():
        while True:
            with lock:
                if not left:
                    return
                name, function = left.pop(0)
            part = Part(test, name)
            began = time.monotonic()
            try:
                function(part)
            except Exception as e:  # one part that breaks must not hide the others
                part.check(False, f"broke: {type(e).__name__}: {e}")
            finally:
                for s in reversed(part.servers):
                    s.stop()
            if os.environ.get("PENSTOCK_TEST_VERBOSE"):
                print(f"{time.monotonic() - began:6.2f} s  {name}", flush=True)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


NOISE = re.compile(r"penstock: (warn|info|debug|trace): ")
CRASH = re.compile(r"Sanitizer|runtime error:|[Aa]ssertion|Traceback|core dumped|stack smashing|\(\): |corrupted size|double free")


def check_failed(t, r, status, says=(), stats=True, what=""):
    """A failure as the contract wants it: that exit status, one line of error (at most four, warnings aside), every
    word of `says` in it, the result file with "error" and "exit"."""
    what = what or "fails"
    lines = [x for x in r.err.splitlines() if x.strip()]
    errors = [x for x in lines if not NOISE.match(x)]
    wanted = status if isinstance(status, tuple) else (status,)
    t.check(r.rc in wanted, f"{what}: exit {r.rc}, not {status}: {r.err[-500:]!r}")
    t.check(not CRASH.search(r.err), f"{what}: a crash: {r.err[-2000:]}")
    t.check(1 <= len(errors) <= 4 and errors[0].startswith("penstock: "), f"{what}: not one line of error: {r.err[-800:]!r}")
    t.check(len(lines) <= 12, f"{what}: {len(lines)} lines on stderr: {r.err[:800]!r}")
    for word in says:
        t.check(re.search(word, "\n".join(errors)), f"{what}: {word!r} is not said: {errors}")
    if stats:
        t.check(r.stats.get("exit") == r.rc and r.stats.get("error"), f"{what}: stats {str(r.stats)[:300]} after exit {r.rc}")
    return r.rc in wanted
