#!/usr/bin/env python3
"""`penstock share` as an HTTP server: ranges, conditions, escape attempts, links, parallel readers, slow clients, its end.

Where nginx is present the same requests go to both, and status, bytes and Content-Range must be equal.
"""
# ctest-timeout: 120
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

PENSTOCK = os.environ["PENSTOCK"]
SHARD = "shards/" + "ab" * 32 + ".shard"
failures = []


def check(ok, what):
    if not ok:
        failures.append(what)
        print("FAIL:", what, flush=True)


class Share:
    """A running `penstock share`."""

    def __init__(self, folder, *options):
        self.process = subprocess.Popen([PENSTOCK, "share", folder, "--port", "0", "--json", *options],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.facts = json.loads(self.process.stdout.readline())
        self.port = int(self.facts["url"].rsplit(":", 1)[1])

    def stop(self, signo=signal.SIGTERM):
        self.process.send_signal(signo)
        err = self.process.communicate(timeout=20)[1]
        return self.process.returncode, err


def request(port, path, headers=None, method="GET"):
    """(status, headers, body); the path goes out as it is."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    c.putrequest(method, path, skip_accept_encoding=True)
    for k, v in (headers or {}).items():
        c.putheader(k, v)
    c.endheaders()
    r = c.getresponse()
    body = r.read()
    c.close()
    return r.status, r.headers, body


def raw(port, data, seconds=5.0):
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as s:
        s.sendall(data)
        try:
            return s.recv(65536)
        except (socket.timeout, ConnectionResetError):
            return b""


def make_folder(root):
    folder = os.path.join(root, "hub", "models--a--b", "snapshots", "0123")
    blobs = os.path.join(root, "hub", "models--a--b", "blobs")
    other = os.path.join(root, "hub", "models--c--d", "blobs")
    for d in (folder, blobs, other, os.path.join(folder, "shards"), os.path.join(folder, "sub"), os.path.join(folder, ".git")):
        os.makedirs(d)
    rng = random.Random(1)
    data = rng.randbytes(3_000_001)
    files = {
        "model.safetensors": data, "config.json": b'{"a": 1}', "empty": b"", "one": b"x", SHARD: data[:100_000],
        "sub/deep.bin": data[:5000], "with space": b"space", ".hidden": b"secret", ".git/config": b"secret",
    }
    for name, content in files.items():
        with open(os.path.join(folder, name), "wb") as f:
            f.write(content)
    with open(os.path.join(blobs, "aaaa"), "wb") as f:
        f.write(b"blob")
    for place in (os.path.join(other, "bbbb"), os.path.join(root, "outside")):
        with open(place, "wb") as f:
            f.write(b"secret")
    os.symlink("../../blobs/aaaa", os.path.join(folder, "link_blob"))
    os.symlink("sub/deep.bin", os.path.join(folder, "link_inside"))
    os.symlink("../../../models--c--d/blobs/bbbb", os.path.join(folder, "link_other"))
    os.symlink(os.path.join(root, "outside"), os.path.join(folder, "link_outside"))
    os.symlink("/etc/passwd", os.path.join(folder, "link_passwd"))
    os.symlink(".hidden", os.path.join(folder, "link_hidden"))
    os.symlink("/", os.path.join(folder, "link_root"))
    os.symlink("nowhere", os.path.join(folder, "link_dead"))
    os.mkfifo(os.path.join(folder, "fifo"))
    return folder, files


def test_plain(port, files):
    for name in ("model.safetensors", "config.json", "empty", "one", SHARD, "sub/deep.bin"):
        status, h, body = request(port, "/" + name)
        check(status == 200 and body == files[name], f"GET {name}: {status}, {len(body)} bytes")
        check(h["ETag"] and h["ETag"][0] == '"' == h["ETag"][-1], f"{name}: strong ETag, not {h['ETag']}")
        check(h["Accept-Ranges"] == "bytes" and int(h["Content-Length"]) == len(files[name]), f"{name}: headers")
        check("Content-Encoding" not in h and "Transfer-Encoding" not in h, f"{name}: sent as it is")
        status, h2, body = request(port, "/" + name, method="HEAD")
        check(status == 200 and body == b"" and int(h2["Content-Length"]) == len(files[name]), f"HEAD {name}")
        check(h2["ETag"] == h["ETag"], f"HEAD {name}: the same ETag")
    check(request(port, "/with%20space")[2] == b"space", "an escaped space")
    status, h, _ = request(port, "/" + SHARD)
    check(h["Cache-Control"] == "public, max-age=31536000, immutable, no-transform", "a shard is immutable")
    check(h["ETag"] == '"' + "ab" * 32 + '"', "a shard's ETag is its name")
    check(request(port, "/config.json")[1]["Cache-Control"] == "no-cache", "a plain file is revalidated")
    check(request(port, "/config.json")[1]["Content-Type"] == "application/json", "the type of JSON")
    status, h, body = request(port, "/")
    check(status == 200 and b"shares" in body and body.count(b"\n") == 1, f"the root says what it is: {body}")
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        status, h, _ = request(port, "/config.json", method=method)
        check(status == 405 and h["Allow"] == "GET, HEAD", f"{method}: {status}")


def test_conditions(port):
    h = request(port, "/model.safetensors")[1]
    tag, date = h["ETag"], h["Last-Modified"]
    early = "Mon, 01 Jan 2001 00:00:00 GMT"
    for headers, want in (
        ({"If-Match": tag}, 200), ({"If-Match": '"x"'}, 412), ({"If-Match": "W/" + tag}, 412), ({"If-Match": "*"}, 200),
        ({"If-Match": '"x"', "Range": "bytes=0-1"}, 412), ({"If-Match": tag, "Range": "bytes=0-1"}, 206),
        ({"If-None-Match": tag}, 304), ({"If-None-Match": "W/" + tag}, 304), ({"If-None-Match": '"x"'}, 200),
        ({"If-None-Match": '"x", ' + tag}, 304), ({"If-Modified-Since": date}, 304), ({"If-Modified-Since": early}, 200),
        ({"If-Unmodified-Since": date}, 200), ({"If-Unmodified-Since": early}, 412),
        ({"If-Range": tag, "Range": "bytes=0-1"}, 206), ({"If-Range": '"x"', "Range": "bytes=0-1"}, 200),
        ({"If-Range": date, "Range": "bytes=0-1"}, 206), ({"If-Range": early, "Range": "bytes=0-1"}, 200),
    ):
        status, got, body = request(port, "/model.safetensors", headers)
        check(status == want, f"{headers}: {status}, not {want}")
        if status == 304:
            check(body == b"" and got["ETag"] == tag, f"{headers}: an empty 304 with the ETag")


def test_escapes(port):
    for path in (
        "/../outside", "/../../../../outside", "/%2e%2e/%2e%2e/outside", "/.%2e/outside", "/sub/../../../../../outside",
        "/..%2f..%2foutside", "/..%5coutside", "/..\\outside", "//etc/passwd", "/sub//deep.bin", "/%2fetc/passwd",
        "/etc/passwd%00.json", "/.hidden", "/.git/config", "/sub/./deep.bin", "/link_outside", "/link_passwd", "/link_other",
        "/link_hidden", "/link_root/etc/passwd", "/link_dead", "/fifo", "/sub", "/sub/", "/nothing", "/" + "a" * 5000,
        "/%", "/%zz", "/a%0d%0aX: y", "http://127.0.0.1/config.json", "*",
    ):
        try:
            status, _, body = request(port, path)
        except (http.client.InvalidURL, ValueError):
            status, body = int(raw(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).split(b" ")[1]), b""
        check(400 <= status < 500 and b"secret" not in body and b"root:" not in body, f"{path[:60]}: {status} {body[:40]}")
    check(request(port, "/link_blob")[2] == b"blob", "a link into the blobs of the same entry")
    check(len(request(port, "/link_inside")[2]) == 5000, "a link inside the folder")


def test_ranges(port, files):
    rng = random.Random(2)
    for name in ("model.safetensors", SHARD, "one"):
        n = len(files[name])
        ranges = [(0, 0), (0, n - 1), (n - 1, n - 1), (0, n + 5)] + [
            sorted((rng.randrange(n), rng.randrange(n))) for _ in range(40)]
        for a, b in ranges:
            status, h, body = request(port, "/" + name, {"Range": f"bytes={a}-{b}"})
            b = min(b, n - 1)
            check(status == 206 and body == files[name][a:b + 1], f"{name} {a}-{b}: {status}, {len(body)} bytes")
            check(h["Content-Range"] == f"bytes {a}-{b}/{n}", f"{name} {a}-{b}: {h['Content-Range']}")
        for k in (1, n, n + 7):
            status, h, body = request(port, "/" + name, {"Range": f"bytes=-{k}"})
            check(status == 206 and body == files[name][-min(k, n):], f"{name} the last {k}: {status}")
        status, h, body = request(port, "/" + name, {"Range": f"bytes={n}-"})
        check(status == 416 and h["Content-Range"] == f"bytes */{n}" and body == b"", f"{name}: behind its end: {status}")
        status, h, body = request(port, "/" + name, {"Range": "bytes=0-0"}, "HEAD")
        check(status == 200 and int(h["Content-Length"]) == n, f"{name}: HEAD knows no ranges: {status}")
    check(request(port, "/empty", {"Range": "bytes=0-"})[0] == 416, "a range of an empty file")


def test_keepalive(port, files):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for i in range(50):
        c.request("GET", "/model.safetensors", headers={"Range": f"bytes={i * 1000}-{i * 1000 + 99}"})
        r = c.getresponse()
        check(r.read() == files["model.safetensors"][i * 1000:i * 1000 + 100], f"request {i} of one connection")
    c.close()


def test_parallel(port, files):
    data, step, got = files["model.safetensors"], 10_000, {}

    def reader(k):
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for a in range(k * step, len(data), 16 * step):
            c.request("GET", "/model.safetensors", headers={"Range": f"bytes={a}-{min(a + step, len(data)) - 1}"})
            got[a] = c.getresponse().read()
        c.close()

    threads = [threading.Thread(target=reader, args=(k,)) for k in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    joined = b"".join(got[a] for a in sorted(got))
    check(hashlib.sha256(joined).digest() == hashlib.sha256(data).digest(), "16 parallel readers")


def test_crowd(port, files):
    """Idle connections shut nobody out, and a reply that is being read goes on."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    reader.settimeout(20)
    reader.connect(("127.0.0.1", port))
    reader.sendall(b"GET /model.safetensors HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    got = reader.recv(1000)
    idle = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(700)]
    for i in range(5):
        check(raw(port, b"GET /one HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200"),
              f"request {i} beside 700 idle connections")
    while part := reader.recv(1 << 16):
        got += part
    check(got.partition(b"\r\n\r\n")[2] == files["model.safetensors"], f"a reply beside 700 idle connections: {len(got)} bytes")
    for s in (reader, *idle):
        s.close()


def test_malformed(port):
    for text in (b"\r\n\r\n", b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"/a" * 40000 + b" HTTP/1.1\r\n\r\n",
                 b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20000 + b"\r\n", b"\x16\x03\x01\x02\x00\x01\x00"):
        raw(port, text, 1.0)
    check(request(port, "/one")[2] == b"x", "alive after malformed requests")
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    for s in idle:
        s.sendall(b"GET /one HTTP/1.1\r\nHo")
    check(request(port, "/one")[2] == b"x", "alive beside 100 clients that do not finish their request")
    for s in idle:
        s.close()


def test_end(folder):
    share = Share(folder)
    c = socket.create_connection(("127.0.0.1", share.port))
    c.sendall(b"GET /model.safetensors HTTP/1.1\r\nHost: x\r\n\r\n")
    first = c.recv(1000)
    share.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    n = len(first)
    while chunk := c.recv(1 << 20):
        n += len(chunk)
        if n > 3_000_001:
            break
    check(n > 3_000_001, f"a reply that runs is finished: {n} bytes")
    c.close()
    share.process.communicate(timeout=20)
    check(share.process.returncode == 0, f"SIGTERM ends with 0, not {share.process.returncode}")
    share = Share(folder)
    idle = socket.create_connection(("127.0.0.1", share.port))
    begin = time.monotonic()
    rc, err = share.stop(signal.SIGINT)
    check(rc == 130 and time.monotonic() - begin < 5, f"SIGINT ends with 130 at once, not {rc}")
    check(f"penstock run {share.facts['url']}\n" in err, f"the announcement: {err}")
    idle.close()
    share = Share(os.path.dirname(folder))  # what lies around a model is none
    rc, err = share.stop(signal.SIGINT)
    check(f"penstock run {share.facts['url']}/FOLDER (it is no model itself)" in err, f"the announcement of a folder: {err}")


def test_port(folder):
    share = Share(folder)
    p = subprocess.run([PENSTOCK, "share", folder, "--port", str(share.port)], capture_output=True, text=True, timeout=20)
    check(p.returncode == 1 and "--port" in p.stderr, f"a port in use: {p.returncode} {p.stderr}")
    share.stop()
    p = subprocess.Popen([PENSTOCK, "share", folder, "--host", "0.0.0.0", "--port", "0"], stderr=subprocess.PIPE, text=True)
    lines = p.stderr.readline() + p.stderr.readline()
    check("warning" in lines, f"an open address is warned about: {lines}")
    p.terminate()
    p.communicate(timeout=20)


def start_nginx(root, folder):
    if not shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin"):
        return None, 0
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    conf = os.path.join(root, "nginx.conf")
    with open(conf, "w") as f:
        f.write(f"""daemon off; pid {root}/nginx.pid; error_log {root}/nginx.err; worker_processes 1;
{'user root;' if os.geteuid() == 0 else ''} events {{ worker_connections 64; }}
http {{ access_log off; client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
server {{ listen 127.0.0.1:{port}; root {folder}; }} }}""")
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    p = subprocess.Popen([nginx, "-c", conf, "-e", f"{root}/nginx.err"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return p, port
        except OSError:
            time.sleep(0.05)
    return p, 0


def test_against_nginx(port, other, files):
    rng = random.Random(3)
    for name in ("model.safetensors", "one", "sub/deep.bin"):
        n = len(files[name])
        ranges = ["0-0", f"0-{n - 1}", f"{n - 1}-", f"{n}-", f"{n + 5}-{n + 9}", f"-{n}", f"-{n + 3}", "-1", f"0-{n * 3}", "0-"]
        ranges += ["%d-%d" % tuple(sorted((rng.randrange(n), rng.randrange(n)))) for _ in range(20)]
        for r in ranges:
            ours, theirs = (request(p, "/" + name, {"Range": "bytes=" + r}) for p in (port, other))
            same = ours[0] == theirs[0] and ours[1]["Content-Range"] == theirs[1]["Content-Range"]
            if ours[0] != 416:
                same = same and ours[2] == theirs[2]
            check(same, f"{name} {r}: {ours[0]} {ours[1]['Content-Range']}, nginx {theirs[0]} {theirs[1]['Content-Range']}")
        for make in (lambda h: {"If-Match": h["ETag"]}, lambda h: {"If-Match": '"x"'}, lambda h: {"If-None-Match": h["ETag"]},
                     lambda h: {"If-Range": h["ETag"], "Range": "bytes=0-0"}, lambda h: {"If-Range": '"x"', "Range": "bytes=0-0"},
                     lambda h: {"If-Modified-Since": h["Last-Modified"]}):
            got = [request(p, "/" + name, make(request(p, "/" + name)[1]))[0] for p in (port, other)]
            check(got[0] == got[1], f"{name} {make({'ETag': 'E', 'Last-Modified': 'D'})}: {got[0]}, nginx {got[1]}")


def main():
    with tempfile.TemporaryDirectory() as root:
        folder, files = make_folder(root)
        share = Share(folder)
        nginx = None
        try:
            test_plain(share.port, files)
            test_conditions(share.port)
            test_escapes(share.port)
            test_ranges(share.port, files)
            test_keepalive(share.port, files)
            test_parallel(share.port, files)
            test_malformed(share.port)
            test_crowd(share.port, files)
            nginx, other = start_nginx(root, folder)
            if other:
                test_against_nginx(share.port, other, files)
            else:
                print("nginx is absent: not compared with it")
        finally:
            if nginx:
                nginx.terminate()
                nginx.wait(10)
            rc, err = share.stop()
        check(rc == 0, f"the end of the server: {rc} {err}")
        test_end(folder)
        test_port(folder)
    print("share_ranges:", "FAILED" if failures else "ok")
    return 1 if failures else 0


sys.exit(main())
