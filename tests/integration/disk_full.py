#!/usr/bin/env python3
"""Disks without room: small tmpfs mounts in a mount namespace of their own, and a loop device that fails. The cache's folder is full from the start, becomes
full in the middle, in the middle of a commit (every size in steps of a page or so), or is filled by others between two runs: a
run goes on without caching, writes the right text and says so once; the cache is clean afterwards, and serves when there is room
again. Without --disk nothing that
is held is thrown away. The destination of a split that becomes full: status 5 and no manifest, so that nobody takes it for a model; the same
command finishes it when there is room. Skipped where such a mount is not permitted."""
# ctest-labels: slow
# ctest-timeout: 300
import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import badhttp  # noqa: E402
import peer  # noqa: E402

SLOW = 6 if peer.SANITIZED else 1
ARGS = ("-p", "In the beginning", "-n", "8", "--temp", "0", "--ignore-eos")
STEPS = int(os.environ.get("PENSTOCK_DISK_STEPS", 6 if not peer.SANITIZED else 2))


class Setting:
    url, text = "", b""


def namespace():
    """This process moves into a mount namespace of its own; the mounts below end with it."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000) != 0:  # CLONE_NEWNS
        peer.skip("no mount namespace: " + os.strerror(ctypes.get_errno()))
    if libc.mount(b"none", b"/", None, 0x44000, None) != 0:  # MS_REC | MS_PRIVATE: nothing comes out of it
        peer.skip("mounts can't be made private: " + os.strerror(ctypes.get_errno()))


def disk(t, name, kib):
    path = t.path(name)
    os.makedirs(path, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", path], stderr=subprocess.DEVNULL).returncode != 0:
        peer.skip("tmpfs can't be mounted")
    return path


def undisk(path):
    subprocess.run(["umount", "-l", path], check=True)


def fill(path, leave_kib=0):
    """A file of somebody else that leaves so much room."""
    st = os.statvfs(path)
    n = st.f_bavail * st.f_frsize - leave_kib * 1024
    with open(os.path.join(path, "somebody's"), "wb", buffering=0) as f:
        os.posix_fallocate(f.fileno(), 0, n)


def run(t, path, budget="32M"):
    return t.run("run", Setting.url, *ARGS, cache=os.path.join(path, "cache"), disk=budget, env={"PENSTOCK_MIN_FREE": "0"}, seconds=60 * SLOW)


def goes_on(t, r, path, what, says=True):
    t.equal((r.rc, r.text), (0, Setting.text), f"{what}: {r}")
    t.check(not badhttp.CRASH.search(r.err), f"{what}: a crash: {r.err[-1500:]}")
    said = [x for x in r.err.splitlines() if x.strip()]
    t.check(len(said) == 1 if says else len(said) <= 1, f"{what}: says {said}")
    if says:
        t.check("penstock: warn: " in r.err and ("room" in r.err or "space" in r.err), f"{what}: says {said}")
    verify(t, path, what)


def verify(t, path, what):
    if os.path.isdir(os.path.join(path, "cache")):
        v = t.run("cache", "verify", cache=os.path.join(path, "cache"))
        t.equal(v.rc, 0, f"{what}: cache verify: {v}")


def full_at_the_start(t):
    for leave in (0, 4, 24, 64):
        path = disk(t, f"start-{leave}", 2048)
        fill(path, leave)
        goes_on(t, run(t, path), path, f"{leave} KiB free at the start")
        os.unlink(os.path.join(path, "somebody's"))
        subprocess.run(["mount", "-o", "remount,size=32m", path], check=True)
        goes_on(t, run(t, path), path, f"{leave} KiB free at the start, then room", says=False)
        r = run(t, path)
        t.check(r.stats.get("bytes_disk_read", 0) > 4 << 20, f"and then it serves: {r.stats.get('bytes_disk_read')}")
        undisk(path)


def full_in_the_middle(t):
    """Sizes from the least that holds an index up to nearly all: each ends in another slab write, growth or commit."""
    for i in range(STEPS):
        kib = 320 + i * (7000 // STEPS) + 4 * i
        path = disk(t, f"middle-{i}", kib)
        what = f"a disk of {kib} KiB"
        goes_on(t, run(t, path), path, what, says=False)
        goes_on(t, run(t, path), path, what + ", again", says=False)
        undisk(path)


def full_in_a_commit(t):
    """Room for the slabs, but the last pages of the index meet the end: sizes a page apart around what a run takes."""
    path = disk(t, "measure", 32768)
    goes_on(t, run(t, path), path, "measuring", says=False)
    st = os.statvfs(path)
    used = (st.f_blocks - st.f_bfree) * st.f_frsize // 1024
    undisk(path)
    for i in range(2 * STEPS):
        path = disk(t, f"commit-{i}", used - 4 * (2 * STEPS - 1) + 4 * i)
        goes_on(t, run(t, path), path, f"{used} KiB would do, there are {4 * (2 * STEPS - 1 - i)} fewer", says=False)
        undisk(path)


def filled_by_others(t):
    """A good cache on a disk that somebody fills: it still serves, and nothing in it is lost."""
    path = disk(t, "others", 8192)
    goes_on(t, run(t, path, "4M"), path, "filling the cache", says=False)
    fill(path)
    r = run(t, path, "4M")
    goes_on(t, r, path, "a full disk around a good cache", says=False)
    t.check(r.stats.get("bytes_disk_read", 0) > 1 << 20, f"it serves no more: {r.stats.get('bytes_disk_read')}")
    r = run(t, path, "2M")
    goes_on(t, r, path, "and a smaller budget on it", says=False)
    os.unlink(os.path.join(path, "somebody's"))
    goes_on(t, run(t, path, "4M"), path, "and room again", says=False)
    undisk(path)


def broken(t):
    """A device that takes less than it says: writes end well and their sync with EIO, of the file system's own blocks too."""
    if not shutil.which("mkfs.ext4") and not os.path.exists("/sbin/mkfs.ext4"):
        return t.note("no mkfs.ext4: no device that fails")
    for kib in (600, 2500, 5000):
        under, path = disk(t, f"thin-{kib}", kib), t.path(f"broken-{kib}")
        image, what = os.path.join(under, "image"), f"a device of 32 MiB that takes {kib} KiB"
        os.makedirs(path)
        with open(image, "wb") as f:
            f.truncate(32 << 20)
        env = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
        made = subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", image], env=env, capture_output=True).returncode
        if made != 0 or subprocess.run(["mount", "-o", "loop", image, path], env=env, capture_output=True).returncode != 0:
            t.note("no loop device: no device that fails")
            return undisk(under)
        for again in ("", ", again"):
            r = run(t, path, "16M")
            t.equal((r.rc, r.text), (0, Setting.text), f"{what}{again}: {r}")
            t.check(not badhttp.CRASH.search(r.err), f"{what}{again}: a crash: {r.err[-1500:]}")
            t.check("penstock: warn: " in r.err, f"{what}{again}: says {r.err}")
            verify(t, path, f"{what}{again}")
        r = run(t, path, "0")
        t.equal((r.rc, r.text), (0, Setting.text), f"{what}, without a cache: {r}")
        undisk(path)
        undisk(under)


def told_nothing(t):
    """No --disk: what is cached is neither thrown away nor grows from run to run, whatever is free beside it."""
    def run(path, *args, command="run"):
        return t.run(command, Setting.url, *(ARGS if command == "run" else ()), *args, cache=os.path.join(path, "cache"), env={"PENSTOCK_MIN_FREE": "0"},
                     seconds=60 * SLOW)

    def held(path):
        return json.loads(t.run("cache", "stat", "--json", cache=os.path.join(path, "cache")).out)["models"][0]["bytes"]

    path = disk(t, "default", 11000)  # the model takes 7.5 MB: more than half
    r = run(path, "--disk", "100%", command="warm")
    t.equal(r.rc, 0, f"warm --disk 100%: {r}")
    t.equal(t.run("cache", "pin", Setting.url, cache=os.path.join(path, "cache")).rc, 0, "pinned")
    warmed = held(path)
    t.check(warmed > 7 << 20, f"warm holds {warmed}")
    for what in ("room beside it", "none"):
        r = run(path)
        goes_on(t, r, path, f"no --disk, {what}", says=False)
        t.check(r.stats["bytes_net"] < 400000, f"no --disk, {what}: {r.stats['bytes_net']} bytes were fetched again")
        t.equal(held(path), warmed, f"no --disk, {what}: what is held")
        if what == "room beside it":
            fill(path)
    # the disk is full: whoever wants to remove something gets in
    for args in (("pin", Setting.url), ("unpin", Setting.url), ("evict", "--all")):
        t.equal(t.run("cache", *args, cache=os.path.join(path, "cache")).rc, 0, f"cache {args[0]} on a full disk")
    undisk(path)
    for kib in (120, 160):  # too little for an index, and nobody asked for one
        path = disk(t, f"default-{kib}", kib)
        goes_on(t, run(path), path, f"no --disk, a disk of {kib} KiB", says=False)
        undisk(path)
    path = disk(t, "plan", 6000)
    r = run(path, "--disk", "10G", "--json", command="plan")
    t.check(json.loads(r.out)["disk_bytes"] < 6000 << 10, f"plan --disk 10G on 6 MB: {r}")
    t.check("has room for 5 MiB of the 10240 MiB" in r.err, f"and says so: {r.err}")
    undisk(path)


def full_split(t):
    whole = t.path("split-whole")
    r = t.run("split", peer.KJV, whole)
    t.equal(r.rc, 0, f"split: {r}")
    with open(os.path.join(whole, "penstock.manifest"), "rb") as f:
        manifest = f.read()
    for kib in (16, 512, 2048, 4400):
        path = disk(t, f"split-{kib}", kib)
        to = os.path.join(path, "m")
        r = t.run("split", peer.KJV, to)
        badhttp.check_failed(t, r, 5, (r"room|space",), stats=False, what=f"split onto {kib} KiB")
        t.check(not os.path.exists(os.path.join(to, "penstock.manifest")), f"split onto {kib} KiB: a manifest is there")
        subprocess.run(["mount", "-o", "remount,size=32m", path], check=True)
        r = t.run("split", peer.KJV, to)
        t.equal(r.rc, 0, f"and with room: {r}")
        with open(os.path.join(to, "penstock.manifest"), "rb") as f:
            t.equal(f.read(), manifest, "the same tree as ever")
        left = sorted(os.listdir(to)), sorted(os.listdir(os.path.join(to, "shards")))
        t.equal(left, (sorted(os.listdir(whole)), sorted(os.listdir(os.path.join(whole, "shards")))), "nothing else is left")
        undisk(path)


def main():
    if not os.path.exists(os.path.join(peer.KJV, "model.safetensors")):
        peer.skip("models/kjv is not here")
    namespace()
    with peer.Test() as t:
        web = badhttp.Server(peer.KJV)
        t.servers.append(web)
        Setting.url = web.url
        r = t.run("run", peer.KJV, *ARGS, cache=t.path("none"))
        t.equal(r.rc, 0, f"the local run: {r}")
        Setting.text = r.text
        wanted = sys.argv[1:]
        for part in (full_at_the_start, full_in_the_middle, full_in_a_commit, filled_by_others, broken, told_nothing, full_split):
            if not wanted or any(w in part.__name__ for w in wanted):
                part(t)


main()
