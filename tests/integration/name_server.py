#!/usr/bin/env python3
"""Name servers that fall silent, in namespaces of the script's own (real `unshare`): libcurl looks names up on threads that can't be
stopped, and a C library waits for ten seconds and more per name. A host that was never heard of fails within 15 s all the same,
and nobody who is told to end, or gives up a transfer, waits for such a thread."""
# ctest-timeout: 120
import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import badhttp  # noqa: E402
import peer  # noqa: E402

INSIDE = "PENSTOCK_TEST_INSIDE"
SLOW = 3 if peer.SANITIZED else 1
ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
NEAR = b"\x03web\x04test\x00"  # the one name that is known


class Names(threading.Thread):
    """All name servers of this machine. silent: from now on nothing is answered; unheard: how much was asked since."""

    def __init__(self):
        super().__init__(daemon=True)
        self.sockets = []
        for a in ADDRESSES:
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.bind((a, 53))
            self.sockets.append(s)
        self.silent = False
        self.unheard = threading.Event()
        self.start()

    def run(self):
        while True:
            for s in select.select(self.sockets, [], [])[0]:
                question, whom = s.recvfrom(2048)
                known = question[12:].lower().startswith(NEAR)
                if self.silent or not known:
                    self.unheard.set()
                else:
                    s.sendto(self.answer(question), whom)

    @staticmethod
    def answer(q):
        end = 12 + len(NEAR) + 4
        is_a = q[end - 4:end - 2] == b"\0\1"
        head = q[:2] + struct.pack(">HHHHH", 0x8180, 1, is_a, 0, 0)
        return head + q[12:end] + (b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 0, 4) + socket.inet_aton("127.0.0.1") if is_a else b"")


def put_over(t, path, text):
    """What this mount namespace sees at `path`."""
    own = t.path(os.path.basename(path))
    with open(own, "w") as f:
        f.write(text)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(own.encode(), path.encode(), None, 4096, None) != 0:
        peer.skip(f"{path} can't be replaced here")


def settle(t):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    up = struct.pack("16sh", b"lo", 0x1 | 0x40)  # IFF_UP | IFF_RUNNING
    fcntl.ioctl(s, 0x8914, up)  # SIOCSIFFLAGS
    put_over(t, "/etc/resolv.conf", "".join(f"nameserver {a}\n" for a in ADDRESSES))
    put_over(t, "/etc/nsswitch.conf", "hosts: files dns\n")
    put_over(t, "/etc/hosts", "127.0.0.1 localhost\n")


def never_heard_of(address):
    def part(t):
        r = t.run("run", address, "-p", "x", "-n", "2", cache=t.path("c"), disk="0", seconds=40)
        badhttp.check_failed(t, r, 3, ("penstock.manifest",), what="nobody tells the address")
        t.check(r.seconds < 15 * SLOW, f"it took {r.seconds:.1f} s")
    return part


def interrupted(t, names):
    """Each request needs a connection of its own, and so a look-up; then there is no answer, and then SIGINT."""
    web = badhttp.Server(peer.KJV, lambda q, r: setattr(r, "close", True))
    t.servers.append(web)
    p = peer.spawn([t.program, "run", f"http://web.test:{web.port}", "-p", "x", "-n", "4000", "--ram", "min", "--disk", "0", "--ignore-eos",
                    "--cache", t.path("c")], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={"HOME": t.path("home")})
    until = time.monotonic() + 30 * SLOW
    while len(web.log) < 60 and p.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    names.silent = True
    names.unheard.clear()
    t.check(len(web.log) >= 60 and names.unheard.wait(30), f"it runs, and looks up: {len(web.log)} requests")
    began = time.monotonic()
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=60)[1].decode()
    took = time.monotonic() - began
    t.check(p.returncode == 130 and "interrupted" in err, f"SIGINT: {p.returncode} {err[-300:]}")
    t.check(took < 3 * SLOW, f"SIGINT beside a look-up: {took:.1f} s")


def main():
    if not os.environ.get(INSIDE):
        enter = ["unshare", "--map-root-user", "--net", "--mount"]
        try:
            if subprocess.run([*enter, "true"], stderr=subprocess.DEVNULL, timeout=10).returncode != 0:
                peer.skip("unshare --net --mount is not permitted here")
        except FileNotFoundError:
            peer.skip("no unshare here")
        os.environ[INSIDE] = "1"
        os.execvp(enter[0], [*enter, sys.executable, os.path.abspath(__file__)])
    with peer.Test() as t:
        settle(t)
        names = Names()
        parts = [(a, never_heard_of(a)) for a in ("http://far.test/x", "s3://bucket/x", "hf://test/kjv")]
        badhttp.side_by_side(t, [("interrupted", lambda part: interrupted(part, names)), *parts], workers=4)


main()
