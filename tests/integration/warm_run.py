#!/usr/bin/env python3
"""`penstock warm` as a user calls it, seen from the server too: a dry run fetches no weights and says what the real one
does; parts by bytes and by layers add up; lists; kill -9 in the middle; memory and disk within their budgets; a run beside it."""
# ctest-timeout: 240
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import badhttp  # noqa: E402
import peer  # noqa: E402

KJV = os.path.join(os.environ["PENSTOCK_SOURCE_DIR"], "models", "kjv")
WEIGHTS = os.path.join(KJV, "model.safetensors")
SIZE = os.path.getsize(WEIGHTS)
RUN = ("-p", "And it came to pass", "-n", "12", "--temp", "0")
HEADER = 64 << 10  # the first bytes of the file, asked for at every opening


def sent(server):
    """Bytes of the weights' file that went out, header probes aside."""
    with server.lock:
        return sum(q.sent for q in server.log if q.name == "model.safetensors" and (q.first != 0 or q.sent > HEADER))


def asked(server):
    with server.lock:
        return sum(q.name == "model.safetensors" and q.sent > 0 for q in server.log)


def warm(t, server, *args, cache, rc=0, **kw):
    r = t.run("warm", server.url, *args, "--json", cache=t.path(cache), **kw)
    t.equal(r.rc, rc, f"warm {args}: {r.err[-300:]}")
    return r.json if r.rc == 0 else {}


def test_dry_run(t, server):
    server.set(None)
    d = warm(t, server, "--dry-run", "--price-per-gb", "0.09", cache="dry", disk="100%")
    t.check(sent(server) == 0 and d["bytes_fetched"] == 0 and not d["complete"], f"a dry run fetches no weights: {sent(server)} {d}")
    t.equal(d["bytes_to_fetch"], d["bytes_wanted"], "all is to be fetched")
    t.check(SIZE - HEADER < d["bytes_to_fetch"] <= SIZE, f"the weights: {d['bytes_to_fetch']} of {SIZE}")
    t.check(abs(d["egress_cost"] - (d["bytes_to_fetch"] + d["file_bytes_to_fetch"]) / 1e9 * 0.09) < 1e-12, f"what it costs: {d['egress_cost']}")
    t.equal(d["stored_bytes"], d["bytes_wanted"], "all of the model has room")
    t.check(d["predicted_seconds"] is None and d["probe_age_s"] is None, "no rate was ever measured")
    server.set(None)
    w = warm(t, server, "--price-per-gb", "0.09", cache="dry", disk="100%")
    t.check(w["complete"] and w["bytes_fetched"] == d["bytes_to_fetch"] and w["bytes_missing"] == 0, f"warm: {w}")
    t.equal(sent(server), w["bytes_fetched"], "what the server sent is what was stored")
    t.check(0 <= w["egress_cost"] - d["egress_cost"] < 0.01 * w["egress_cost"], f"and costs what was foretold: {d} {w}")
    with server.lock:
        came = len(server.log)
    t.equal(came, w["requests"], "requests that the server has seen, and that warm tells")
    t.note(f"{d['requests']} requests were foretold, {came} came")
    t.check(0.85 <= came / d["requests"] <= 1.15, f"{d['requests']} requests were foretold, {came} came")
    again = warm(t, server, "--dry-run", "--price-per-gb", "0.09", cache="dry", disk="100%")
    t.check(again["complete"] and again["bytes_to_fetch"] == again["egress_cost"] == 0, f"nothing is left: {again}")
    t.equal(again["requests"], warm(t, server, cache="dry", disk="100%")["requests"], "what asks whether anything is left")
    t.check("predicted" in t.run("warm", server.url, "--dry-run", cache=t.path("dry"), disk="100%").out.decode(), "as text")
    t.run("doctor", server.url, "--seconds", "0.1", cache=t.path("dry"), disk="100%")
    part = warm(t, server, "--dry-run", "--layers", "0", cache="other", disk="100%")
    t.check(part["probed_link_bytes_s"] is None, "another cache has measured nothing")
    p = t.run("plan", server.url, "--price-per-gb", "0.5", "--json", cache=t.path("dry"), disk="50%", ram="min").json
    t.check(abs(p["egress_cost_per_sweep"] - p["bytes_net_per_sweep"] / 2e9) < 1e-12 and p["bytes_net_per_sweep"] > 0, f"plan: {p}")
    t.check(abs(p["egress_cost_to_fill"] - p["disk_bytes"] / 2e9) < 1e-12, f"plan: {p}")


def test_rate(t, server):
    """The prediction is bytes over the rate that stands beside it."""
    cache = t.path("rated")
    os.makedirs(cache)
    with open(os.path.join(cache, "probes.json"), "w") as f:
        f.write('{"link_bytes_s":2000000,"measured_at":%d}' % (time.time() - 3600))
    d = warm(t, server, "--dry-run", cache="rated", disk="100%")
    t.check(abs(d["predicted_seconds"] - (d["bytes_to_fetch"] + d["file_bytes_to_fetch"]) / 2e6) < 1e-6, f"predicted: {d}")
    t.check(3600 <= d["probe_age_s"] < 3700, f"the age of the rate: {d['probe_age_s']}")
    with open(os.path.join(cache, "probes.json"), "w") as f:  # the clock was set back since
        f.write('{"link_bytes_s":2000000,"measured_at":%d}' % (time.time() + 3600))
    t.equal(warm(t, server, "--dry-run", cache="rated", disk="100%")["probe_age_s"], 0, "a rate from the future")
    t.equal(t.run("plan", server.url, "--json", cache=cache, disk="100%").json["probe_age_s"], 0, "a rate from the future")


def saved_rate(t, cache):
    with open(os.path.join(t.path(cache), "probes.json")) as f:
        return json.load(f)["link_bytes_s"]


def test_limit(t):
    """--net-limit: what is foretold keeps to it, what is measured under it is never more, and nothing is learned of the link
    that is only the limit. A pre-split tree: extents in the order of the file, so that neighbours are asked for together."""
    tree, limit = t.path("tree-of-limits"), 2 << 20
    t.equal(t.run("split", KJV, tree, "--codec", "raw").rc, 0, "split")
    server = badhttp.Server(tree)
    t.servers.append(server)
    os.makedirs(t.path("limit"))  # who only looks makes none
    fresh = warm(t, server, "--dry-run", "--net-limit", "2M", cache="limit", disk="100%")
    t.check(fresh["probed_link_bytes_s"] is None, f"nothing was measured: {fresh}")
    t.check(abs(fresh["predicted_seconds"] - (fresh["bytes_to_fetch"] + fresh["file_bytes_to_fetch"]) / limit) < 1e-6, f"but no more than that comes: {fresh}")
    d = t.run("doctor", server.url, "--seconds", "0.5", "--net-limit", "2M", "--json", cache=t.path("limit"), disk="100%").json["probes"]
    t.check(limit / 3 < d["link_bytes_s"] <= limit, f"doctor measures what it was allowed: {d}")
    t.equal(saved_rate(t, "limit"), d["link_bytes_s"], "the first rate is better than none")
    t.check(d["bus_bytes_s"] is None and d["vram_bytes_s"] is None, f"what was not measured is not 0: {d}")
    text = t.run("doctor", server.url, "--seconds", "0.1", cache=t.path("limit"), disk="100%").out.decode()
    t.check(re.search(r"bus rate +not measured", text) and " 0 B/s" not in text, f"doctor as text: {text}")
    fast = saved_rate(t, "limit")
    t.check(peer.SANITIZED or fast > 2 * limit, f"without a limit it is faster: {fast}")
    d = t.run("doctor", server.url, "--seconds", "0.5", "--net-limit", "2M", "--json", cache=t.path("limit"), disk="100%").json["probes"]
    t.check(d["link_bytes_s"] <= limit and saved_rate(t, "limit") == fast, f"a limit is not the link: {d} {fast}")
    dry = warm(t, server, "--dry-run", "--net-limit", "2M", cache="limit", disk="100%")
    t.check(dry["probed_link_bytes_s"] == fast, f"the rate of the link: {dry}")
    t.check(abs(dry["predicted_seconds"] - (dry["bytes_to_fetch"] + dry["file_bytes_to_fetch"]) / limit) < 1e-6, f"the limit counts: {dry}")
    plan = {k: t.run("plan", server.url, "--json", *a, cache=t.path("limit"), disk="0", ram="min").json for k, a in
            (("free", ()), ("limited", ("--net-limit", "2M")))}
    least = plan["limited"]["bytes_net_per_sweep"] / limit
    t.check(plan["limited"]["predicted_s_per_token"] >= least > plan["free"]["predicted_s_per_token"], f"plan: {plan}")
    server.set(None)
    w = warm(t, server, "--net-limit", "2M", cache="limit", disk="100%")
    t.check(w["complete"] and w["link_bytes_s"] <= limit, f"no more than the limit: {w}")
    t.check(w["seconds"] > 0.8 * dry["predicted_seconds"], f"it took as long as was foretold: {w} {dry}")
    t.note(f"over a limited link {dry['requests']} requests were foretold, {w['requests']} came")
    t.check(0.7 <= w["requests"] / dry["requests"] <= 1.4, f"{dry['requests']} requests were foretold, {w['requests']} came")
    t.equal(saved_rate(t, "limit"), fast, "nor did warming learn the limit")


def test_parts(t, server):
    server.set(None)
    some = warm(t, server, "--bytes", "1M", cache="parts", disk="100%")
    t.check(0 < some["bytes_fetched"] <= 1 << 20 and not some["complete"], f"--bytes 1M: {some}")
    have, calls = some["bytes_fetched"], 1
    while calls < 20 and not some["complete"]:
        some = warm(t, server, "--bytes", "25%", cache="parts", disk="100%")
        t.equal(some["bytes_present"], have, "the next call goes on")
        have += some["bytes_fetched"]
        calls += 1
    t.check(some["complete"] and 4 <= calls <= 7, f"quarters add up: {calls} calls")
    t.equal(sent(server), have, "nothing is fetched twice")
    warm(t, server, "--bytes", "10K", cache="parts2", disk="100%")  # ends at the first that is larger
    e = t.run("warm", server.url, "--bytes", "10K", cache=t.path("parts2"), disk="100%")
    badhttp.check_failed(t, e, 2, ["--bytes"], stats=False, what="less than an extent")
    layers = warm(t, server, "--layers", "1-2", cache="layers", disk="100%")
    ls = t.run("cache", "ls", "--json", cache=t.path("layers")).json["models"][0]
    t.check(layers["complete"] and ls["layers"] == [1, 2], f"--layers 1-2: {ls['layers']}")
    all_of_it = warm(t, server, cache="layers", disk="100%")
    t.equal(all_of_it["bytes_wanted"], all_of_it["bytes_fetched"] + layers["bytes_fetched"], "layers are not fetched again")
    e = t.run("warm", server.url, "--layers", "3-99", cache=t.path("layers"), disk="100%")
    badhttp.check_failed(t, e, 2, ["--layers", "99"], stats=False, what="layers that the model lacks")


def test_list(t, server):
    listed = t.path("models.txt")
    with open(listed, "w", encoding="utf-8-sig") as f:
        f.write(f"# what the nodes need\n\n  {server.url}\t# the Bible\r\n{server.url}/none?sig=geheim\nhttp://me:geheim@/x\n"
                f"{KJV}\n{server.url}#not-a-comment\n")

    def run(*args, env=None):
        e = {**os.environ, "HOME": t.path("home"), **(env or {})}
        return subprocess.run([t.program, "warm", *args, "--cache", t.path("listed"), "--disk", "64M"], capture_output=True, text=True,
                              timeout=60, env=e, stdin=open(listed))
    p = run("--from-file", listed, "--json")
    t.equal(p.returncode, 3, f"the worst status: {p.stderr}")
    d = json.loads(p.stdout)
    m = d["models"]
    t.check([x.get("exit", 0) for x in m] == [0, 3, 2, 2, 0] and d["exit"] == 3 and d["failed"] == 3, f"each in its turn: {d}")
    t.check(m[0]["complete"] and m[4]["bytes_fetched"] == 0, f"the same model once more: {m[4]}")
    t.check("model 3 of the list" in p.stderr, f"which one can't be read: {p.stderr}")
    t.check("geheim" not in p.stdout + p.stderr, f"a secret is shown: {p.stderr}")
    t.check(p.stderr.count("penstock: ") == 4, f"a line for each failure and one for all: {p.stderr}")
    # models that do not fit together: each is stored whole, and then displaced
    tree = t.path("tree-of-list")
    t.equal(t.run("split", KJV, tree, "--codec", "wh").rc, 0, "split")
    other = badhttp.Server(tree)
    t.servers.append(other)
    both = t.path("both.txt")
    with open(both, "w") as f:
        f.write(f"{server.url}\n{other.url}\n")
    for disk, status, displaced in (("9M", 5, 1), ("16M", 0, 0)):
        p = subprocess.run([t.program, "warm", "--from-file", both, "--dry-run", "--json", "--cache", t.path("both" + disk), "--disk", disk],
                           capture_output=True, text=True, timeout=60, env={**os.environ, "HOME": t.path("home"), "PENSTOCK_MIN_FREE": "0"})
        d = json.loads(p.stdout)
        t.check((p.returncode, d["exit"], d["fits"], d["failed"]) == (status, status, not displaced, 0), f"{disk} for both, foretold: {p}")
        t.check(("would displace" in p.stderr) == bool(displaced), f"{disk} for both, foretold: {p.stderr}")
        p = subprocess.run([t.program, "warm", "--from-file", both, "--json", "--cache", t.path("both" + disk), "--disk", disk],
                           capture_output=True, text=True, timeout=60, env={**os.environ, "HOME": t.path("home"), "PENSTOCK_MIN_FREE": "0"})
        d = json.loads(p.stdout)
        t.check((p.returncode, d["displaced"]) == (status, displaced) and all(m["complete"] for m in d["models"]), f"{disk} for both: {p}")
        t.check(("displaced by later ones" in p.stderr) == bool(displaced), f"{disk} for both: {p.stderr}")
    test_list_beside(t, server, other, both)
    for part in (("--layers", "0-0"), ("--bytes", "10%")):  # of a part less has to fit
        for dry in (("--dry-run",), ()):
            p = subprocess.run([t.program, "warm", "--from-file", both, *dry, *part, "--json", "--cache", t.path("part" + part[0]), "--disk", "9M"],
                               capture_output=True, text=True, timeout=60, env={**os.environ, "HOME": t.path("home"), "PENSTOCK_MIN_FREE": "0"})
            t.equal((p.returncode, json.loads(p.stdout)["exit"]), (0, 0), f"{part} {dry}: {p.stderr}")
    # one that fails beside one that is displaced: its own status, and both are told
    with open(both, "a") as f:
        f.write(f"{server.url}/none\n")
    for args in ((), ("-q",)):
        p = subprocess.run([t.program, "warm", "--from-file", both, "--json", "--cache", t.path("both-and-none"), "--disk", "9M", *args],
                           capture_output=True, text=True, timeout=60, env={**os.environ, "HOME": t.path("home"), "PENSTOCK_MIN_FREE": "0"})
        d = json.loads(p.stdout)
        t.check((p.returncode, d["exit"], d["failed"], d["displaced"]) == (3, 3, 1, 1), f"a failure and a displaced one: {p}")
        t.equal(d["displaced_models"], [server.url], "which one")
        t.check(f"{server.url}: displaced by later models" in p.stderr and "1 of 3 models failed" in p.stderr and "1 more displaced" in p.stderr,
                f"both are told: {p.stderr}")
    # two revisions of one model: what they share is stored once
    revision = t.path("revision")
    shutil.copytree(KJV, revision)
    with open(os.path.join(revision, "model.safetensors"), "r+b") as f:
        f.seek(SIZE - 64)
        f.write(bytes(64))
    t.equal(t.run("split", revision, t.path("tree-of-revision"), "--codec", "wh").rc, 0, "split")
    revised = badhttp.Server(t.path("tree-of-revision"))
    t.servers.append(revised)
    with open(both, "w") as f:
        f.write(f"{other.url}\n{revised.url}\n")
    p = subprocess.run([t.program, "warm", "--from-file", both, "--json", "--cache", t.path("revisions"), "--disk", "16M"],
                       capture_output=True, text=True, timeout=60, env={**os.environ, "HOME": t.path("home"), "PENSTOCK_MIN_FREE": "0"})
    d = json.loads(p.stdout)
    t.check(0 < d["models"][1]["bytes_fetched"] < d["models"][0]["bytes_fetched"] / 2, f"most is shared: {d}")
    t.check((p.returncode, d["displaced"]) == (0, 0), f"nothing is displaced: {p}")
    p = run("--from-file", "-")
    t.check(p.returncode == 3 and p.stdout.count("complete") == 2, f"from stdin, as text: {p.stdout}")
    p = run(server.url, "-q")
    t.check(p.returncode == 0 and not p.stdout and not p.stderr, f"--quiet: {p}")
    p = run(server.url, "-q", "--dry-run")
    t.check(p.returncode == 0 and "bytes to fetch" in p.stdout, f"--quiet --dry-run: {p}")
    p = run("--from-file", listed, "-q")
    t.check(p.returncode == 3 and not p.stdout and "see above" in p.stderr, f"--quiet, a list: {p}")
    p = run("--from-file", listed, server.url)
    t.check(p.returncode == 2 and "one of them" in p.stderr, f"a model and a list: {p.stderr}")
    p = run("--from-file", "/dev/null")
    t.check(p.returncode == 2 and "no model" in p.stderr, f"an empty list: {p.stderr}")
    p = run()
    t.check(p.returncode == 2 and "MODEL is missing" in p.stderr, f"nothing at all: {p.stderr}")
    p = run("--json", env={"PENSTOCK_MODEL": server.url})
    t.check(p.returncode == 0 and json.loads(p.stdout)["complete"], f"PENSTOCK_MODEL: {p.stderr}")
    p = run("--json", server.url, env={"PENSTOCK_FROM_FILE": listed})
    t.check(p.returncode == 0 and "models" not in json.loads(p.stdout), f"an argument beats PENSTOCK_FROM_FILE: {p.stderr}")
    p = run("--json", env={"PENSTOCK_FROM_FILE": listed, "PENSTOCK_MODEL": server.url})
    t.check(p.returncode == 3 and len(json.loads(p.stdout)["models"]) == 5, f"PENSTOCK_FROM_FILE: {p.stderr}")
    limited = warm(t, server, "--max-egress", str(SIZE + 100_000), cache="limited", disk="100%")
    t.check(limited["complete"] and limited["files_kept"] == 0, f"a limit that holds the weights alone: {limited}")


def test_list_beside(t, server, other, both):
    """What is foretold of a list is what happens: pinned models give it no room, and the small files that it keeps take some,
    whether they are kept already or not."""
    cache, one = t.path("beside"), t.path("one.txt")
    tree = t.path("tree-beside")
    t.equal(t.run("split", KJV, tree, "--codec", "raw").rc, 0, "split")
    third = badhttp.Server(tree)
    t.servers.append(third)

    def both_of(what, disk, *dry, list_=both):
        r = t.run("warm", "--from-file", list_, *dry, "--json", cache=t.path(what), disk=disk)
        return r, json.loads(r.out)
    _, fresh = both_of("beside", "40M", "--dry-run")
    least = fresh["disk_wanted"]
    for disk, fits in ((least, True), (least - 4096, False)):
        r, d = both_of("beside", disk, "--dry-run")
        t.check((r.rc, d["fits"], d["disk_wanted"]) == (0 if fits else 5, fits, least), f"{disk} for both: {r} {d}")
    r, d = both_of("beside", least)
    t.check((r.rc, d["displaced"]) == (0, 0) and all(m["files_kept"] == 3 for m in d["models"]), f"what was said to hold all does: {r} {d}")
    r, d = both_of("beside", least, "--dry-run")
    t.check(d["fits"] and d["disk_wanted"] == least, f"what is kept already takes room, too: {d['disk_wanted']}, was {least}")
    t.check(all(m["bytes_to_fetch"] == m["file_bytes_to_fetch"] == 0 for m in d["models"]), f"and is not fetched: {d}")
    # a third, which is pinned
    for pinned in (False, True):
        t.equal(t.run("warm", third.url, cache=cache, disk="40M").rc, 0, "a third one")
        t.equal(t.run("cache", "pin" if pinned else "unpin", third.url, cache=cache).rc, 0, "pin")
        r, d = both_of("beside", least, "--dry-run")
        t.check(d["fits"] != pinned and ("with what is pinned" in r.err) == pinned, f"beside a third one, pinned: {pinned}: {r} {d}")
    r, d = both_of("beside", "40M", "--dry-run")
    t.check(r.rc == 0 and d["fits"] and d["disk_wanted"] > least + SIZE, f"with what is pinned: {r} {d}")
    for disk, fits in ((d["disk_wanted"], True), (d["disk_wanted"] - (4 << 20), False)):
        r, dry = both_of("beside", disk, "--dry-run")
        r, w = both_of("beside", disk)
        t.check((r.rc, dry["fits"], w["displaced"]) == (0 if fits else 5, fits, int(not fits)), f"{disk} beside a pinned one: {r} {dry} {w}")
    # one of a higher priority stays as a pinned one does; not so for those of the same
    t.equal(t.run("cache", "unpin", third.url, cache=cache).rc, 0, "unpin")
    t.equal(t.run("warm", third.url, "--priority", "5", cache=cache, disk="40M").rc, 0, "a third one, of a higher priority")
    for more, fits in (((), False), (("--priority", "5"), True)):
        r, d = both_of("beside", least, "--dry-run", *more)
        t.check(d["fits"] == fits, f"beside one of a higher priority {more}: {r} {d}")
    dry, w = (t.run("warm", server.url, *a, "--json", cache=cache, disk="12M").json for a in (("--dry-run",), ()))
    t.check(abs(dry["bytes_wanted"] - w["bytes_wanted"]) < SIZE / 20 and w["bytes_wanted"] < SIZE * 0.8, f"room beside it: {dry} {w}")
    # it is of the list: it takes its room once
    with open(one, "w") as f:
        f.write(f"{third.url}\n")
    r, d = both_of("beside", "40M", "--dry-run", list_=one)
    t.check(r.rc == 0 and d["fits"] and SIZE < d["disk_wanted"] < 1.2 * SIZE, f"a list of that one: {r} {d}")


def test_kill(t):
    """kill -9 while extents arrive: what had been published stays, and nothing of it is asked for again."""
    server = badhttp.Server(KJV, pace=1_000_000)
    t.servers.append(server)
    cache = t.path("killed")
    argv = [t.program, "warm", server.url, "--cache", cache, "--disk", "100%", "-q"]
    for i in range(3):
        server.set(None)
        p = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        end = time.monotonic() + 20
        aim = random.randrange(1, SIZE // 2)
        while sent(server) < aim and p.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        p.kill()
        p.communicate()
        held = t.run("cache", "ls", "--json", cache=cache).json["models"]
        held = held[0]["bytes"] if held else 0
        server.pace = None
        server.set(None)
        d = t.run("warm", server.url, "--json", "--bytes", "30%", cache=cache, disk="100%").json
        t.equal(d["bytes_present"], min(held, d["bytes_wanted"]), f"kill {i}: what was published is there")  # held: kept files, too
        t.equal(sent(server), d["bytes_fetched"], f"kill {i}: only what was missing is asked for")
        server.pace = 1_000_000
        if d["complete"]:
            t.run("cache", "evict", "--all", cache=cache)
    server.pace = None
    t.check(t.run("warm", server.url, "--json", "--check", cache=cache, disk="100%").json["complete"], "the end")
    t.equal(t.run("cache", "verify", cache=cache).rc, 0, "no wrong byte")


def test_budgets(t, server):
    least = t.run("plan", server.url, "--ram", "min", "--json", cache=t.path("small"), disk="50%").json["ram_min_bytes"]
    r = t.run("warm", server.url, "--json", cache=t.path("small"), disk="50%", ram=least, watch=True)
    t.equal(r.rc, 0, f"in little room: {r.err}")
    limit = t.run("cache", "stat", "--json", cache=t.path("small")).json["budget_bytes"]
    t.check(r.json["complete"] and 0.4 * SIZE < r.json["bytes_fetched"] < 0.55 * SIZE, f"half: {r.json}")
    t.check(0 < r.peak_folder <= limit, f"--disk: {r.peak_folder} of {limit}")
    if not os.environ.get("PENSTOCK_SANITIZE"):
        t.check(r.peak_rss <= least + (64 << 20), f"--ram {least}: {r.peak_rss}")


def test_silly_sizes(t, server):
    """A budget beyond any disk is one that all of the model fits in."""
    for disk in ("1024T", "100000T", "16777215T", str(2**64 - 1)):
        w = warm(t, server, "--layers", "1", cache="silly" + disk, disk=disk)
        t.check(w["complete"] and w["bytes_fetched"] > SIZE / 10, f"--disk {disk}: {w}")
        d = warm(t, server, "--dry-run", cache="silly" + disk, disk=disk)
        t.check(SIZE - HEADER < d["bytes_wanted"] and d["bytes_present"] == w["bytes_fetched"], f"--disk {disk}: {d}")
        t.check(t.run("cache", "stat", "--json", cache=t.path("silly" + disk)).json["budget_bytes"] >= 1 << 50, f"--disk {disk}")


def test_no_room(t, server):
    """Nothing of a model has room: that is no warm cache, and whoever runs it hears why everything comes from afar."""
    cache = t.path("no-room")
    for disk, args, names in (("400K", (), "room for one extent"), ("100%", ("--min-free", "1000T"), "of --min-free"),
                              (None, ("--min-free", "1000T"), "--min-free")):
        for dry in ((), ("--dry-run",)):
            e = t.run("warm", server.url, *args, *dry, cache=cache, disk=disk)
            badhttp.check_failed(t, e, 5, [names], stats=False, what=f"warm {disk} {args} {dry}")
        r = t.run("run", server.url, *RUN, *args, cache=cache, disk=disk)
        t.check(r.rc == 0 and names in r.err and r.err.count("warn") == 1, f"run {disk} {args}: {r}")
    whole = warm(t, server, "--layers", "1", cache="no-room-2", disk="100%")
    t.equal(whole["stored_bytes"], whole["bytes_fetched"], "a layer as large as it is")
    part = warm(t, server, "--layers", "1", cache="no-room-3", disk="2M")
    t.check(part["stored_bytes"] == whole["stored_bytes"] > part["bytes_wanted"], f"a layer that has no room: {part}")


def test_bad_extent(t, server):
    """--check --dry-run tells of what it would drop, and drops nothing."""
    cache = t.path("rotten")
    warm(t, server, cache="rotten", disk="100%")
    slab = max((os.path.join(cache, "slabs", n) for n in os.listdir(os.path.join(cache, "slabs"))), key=os.path.getsize)
    with open(slab, "r+b") as f:
        f.write(b"rot!" * 4)
    for _ in range(2):
        d = warm(t, server, "--check", "--dry-run", cache="rotten", disk="100%")
        t.check((d["bad_extents"], d["bad_extents_dropped"], d["complete"]) == (1, 0, False), f"a dry check: {d}")
    w = warm(t, server, "--check", cache="rotten", disk="100%")
    t.check(w["bad_extents_dropped"] == 1 and w["bytes_fetched"] > 0 and w["complete"], f"a check: {w}")


def test_shrunk_meanwhile(t):
    """Somebody evicts what warm has stored, and is gone before it ends: that is not complete."""
    server = badhttp.Server(KJV)
    t.servers.append(server)
    cache = t.path("shrunk")
    p = subprocess.Popen([t.program, "warm", server.url, "--json", "--cache", cache, "--disk", "100%", "--net-limit", "1500K"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 30
    while sent(server) < SIZE * 0.3 and p.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    for _ in range(100):  # what was put is published in batches
        r = t.run("cache", "evict", "--all", "--json", cache=cache)
        if r.rc != 0 or r.json["freed_bytes"] > 0 or p.poll() is not None:
            break
        time.sleep(0.02)
    out, err = p.communicate(timeout=60)
    missing = re.search(r"(\d+) bytes are missing", err)
    held = t.run("cache", "ls", "--json", cache=cache).json["models"][0]
    t.check(r.rc == 0 and p.returncode == 5 and missing, f"warm beside a smaller one: {p.returncode} {err} {out} {r}")
    t.check(missing and held["bytes"] - held.get("files_bytes", 0) == held["stored_bytes"] - int(missing[1]), f"{missing} of {held}")


def test_lost_meanwhile(t):
    """What was there when warm began, and was evicted before it ended, is missing too."""
    server = badhttp.Server(KJV)
    t.servers.append(server)
    cache = t.path("lost")
    r = t.run("warm", server.url, "--bytes", "60%", cache=cache, disk="100%")
    t.equal(r.rc, 0, f"60 % first: {r.err}")
    before = sent(server)
    p = subprocess.Popen([t.program, "warm", server.url, "--json", "--cache", cache, "--disk", "100%", "--net-limit", "1M"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 30
    while sent(server) < before + SIZE * 0.05 and p.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    r = t.run("cache", "evict", "--all", "--json", cache=cache)
    t.check(r.rc == 0 and r.json["freed_bytes"] > SIZE * 0.5 and p.poll() is None, f"evicted meanwhile: {r}")
    out, err = p.communicate(timeout=60)
    missing = re.search(r"(\d+) bytes are missing", err)
    held = t.run("cache", "ls", "--json", cache=cache).json["models"][0]
    t.check(p.returncode == 5 and missing, f"warm beside an eviction: {p.returncode} {err} {out}")
    t.check(missing and held["bytes"] - held.get("files_bytes", 0) == held["stored_bytes"] - int(missing[1]), f"{missing} of {held}")


def test_no_disk(t, server):
    """--disk 0 is a contradiction, not an order to empty the cache."""
    cache = t.path("no-disk")
    warm(t, server, cache=cache, disk="100%")
    before = peer.allocated_bytes(cache)
    for disk in ("0", "0%"):
        r = t.run("warm", server.url, cache=cache, disk=disk)
        t.equal(r.rc, 2, f"warm --disk {disk}: {r.err}")
        t.check(f"--disk {disk}" in r.err, f"warm --disk {disk} says {r.err!r}")
        t.check(peer.allocated_bytes(cache) >= before, f"warm --disk {disk} took something away")


def test_kept_files(t):
    """With room for everything a later run fetches less than 1 %, tokenizer included; a changed tokenizer is noticed; a server
    that names no versions is believed in nothing."""
    folder = t.path("model")
    shutil.copytree(KJV, folder)
    tokenizer = os.path.join(folder, "tokenizer.json")
    server = badhttp.Server(folder)
    t.servers.append(server)
    cache = t.path("kept")
    want = t.run("run", folder, *RUN).out
    w = warm(t, server, cache="kept", disk="100%")
    server.set(None)
    t.check(w["complete"] and w["files_kept"] == 3, f"three files are there: {w}")
    ls = t.run("cache", "ls", "--json", cache=cache).json["models"][0]
    t.check(ls["files_bytes"] > os.path.getsize(tokenizer) and ls["bytes"] - ls["files_bytes"] == ls["stored_bytes"], f"files apart: {ls}")
    table = t.run("cache", "ls", cache=cache)
    t.equal(set(re.findall(r"([0-9.]+) %", table.text.decode())), {"100.0"}, f"all is there, and no more than all: {table}")
    for disk in ("100%", "100%", "1G"):
        r = t.run("run", server.url, *RUN, cache=cache, disk=disk)
        t.check(r.out == want and r.stats["bytes_net"] < SIZE / 100, f"a later run: {r.stats['bytes_net']} bytes of {SIZE}")
        names = server.names()
        t.check(all(names.count(n) == 1 for n in set(names) - {"model.safetensors"}), f"no file is asked for twice: {names}")
        server.set(None)
    again = warm(t, server, cache="kept", disk="100%")
    t.check(again["files_kept"] == 3 and again["bytes_net"] < SIZE / 100, f"kept already: {again}")
    changed = open(tokenizer, "rb").read() + b"\n"
    with open(tokenizer, "wb") as f:
        f.write(changed)
    r = t.run("run", server.url, *RUN, cache=cache, disk="100%")
    t.check(r.out == want and r.stats["bytes_net"] > len(changed), f"another tokenizer: {r.stats['bytes_net']} {r.out[:40]}")
    w = warm(t, server, cache="kept", disk="100%")
    r = t.run("run", server.url, *RUN, cache=cache, disk="100%")
    t.check(r.out == want and r.stats["bytes_net"] < SIZE / 100, f"the new one is kept, too: {w} {r.stats['bytes_net']}")
    t.equal(t.run("cache", "verify", cache=cache).rc, 0, "no wrong byte")
    # bytes that rot on the disk cost a fetch
    slabs = os.path.join(cache, "slabs")
    for name in os.listdir(slabs):
        path = os.path.join(slabs, name)
        with open(path, "r+b") as f:
            data = f.read()
            for at in re.finditer(re.escape(changed[1000:1100]), data):  # the old version lies there still
                f.seek(at.start())
                f.write(b"rot" * 10)
    r = t.run("run", server.url, *RUN, cache=cache, disk="100%")
    t.check(r.out == want and r.stats["bytes_net"] > len(changed), f"rotten bytes: {r.stats['bytes_net']} {r.out[:40]}")
    # no version, nothing kept
    server.set(lambda q, r: [r.headers.pop("ETag", None)])
    bare = t.path("bare")
    w = t.run("warm", server.url, "--json", cache=bare, disk="100%").json
    t.check(w["complete"] and w["files_kept"] == 0, f"no ETag: {w}")
    t.equal(t.run("run", server.url, *RUN, cache=bare, disk="100%").out, want, "and the text is right")
    # a small budget is for weights
    server.set(None)
    w = warm(t, server, cache="tight", disk="50%")
    t.check(w["files_kept"] == 0 or w["complete"], f"half: {w}")
    limit = t.run("cache", "stat", "--json", cache=t.path("tight")).json
    t.check(limit["allocated_bytes"] <= limit["budget_bytes"], f"within the budget: {limit}")
    # pre-split: the manifest names the versions, nobody has to be asked
    tree = t.path("tree")
    t.equal(t.run("split", folder, tree).rc, 0, "split")
    split = badhttp.Server(tree)
    t.servers.append(split)
    w = t.run("warm", split.url, "--json", cache=t.path("split"), disk="100%").json
    split.set(None)
    r = t.run("run", split.url, *RUN, cache=t.path("split"), disk="100%")
    t.check(w["files_kept"] == 3 and r.out == want and "tokenizer.json" not in split.names(), f"pre-split: {w} {split.names()}")
    t.check(r.stats["bytes_net"] < SIZE / 100, f"pre-split: {r.stats['bytes_net']}")


def test_beside_a_run(t):
    """Both begin with nothing, on one cache."""
    server = badhttp.Server(KJV, pace=2_000_000)
    t.servers.append(server)
    cache = t.path("shared")
    want = t.run("run", KJV, *RUN).out
    server.set(None)
    p = subprocess.Popen([t.program, "run", server.url, *RUN, "--cache", cache, "--disk", "100%", "-q"], stdout=subprocess.PIPE)
    r = t.run("warm", server.url, "--json", cache=cache, disk="100%")
    text = p.communicate(timeout=60)[0]
    t.check(p.returncode == 0 and text == want, f"the run beside it: {p.returncode} {text}")
    t.check(r.rc == 0 and r.json["complete"], f"warm beside a run: {r.err} {r.out}")
    t.check(sent(server) <= 1.02 * SIZE, f"one fetches what both want: {sent(server)} of {SIZE}")
    before = sent(server)
    again = t.run("run", server.url, *RUN, cache=cache, disk="100%")
    t.check(again.out == want and sent(server) == before, "a later run fetches no weights")
    t.equal(t.run("cache", "verify", cache=cache).rc, 0, "no wrong byte")


def test_interrupt(t):
    server = badhttp.Server(KJV, pace=200_000)
    t.servers.append(server)
    listed = t.path("slow.txt")
    with open(listed, "w") as f:
        f.write(f"{server.url}\n{server.url}/other\n")
    p = subprocess.Popen([t.program, "warm", "--from-file", listed, "--json", "--cache", t.path("slow"), "--disk", "100%", "-q"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 20
    while sent(server) == 0 and asked(server) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=30)
    t.check(p.returncode == 130 and err == "penstock: interrupted\n", f"SIGINT: {p.returncode} {err!r}")
    t.check('"exit":130' in out and "other" not in out, f"the list ends there: {out}")


def main():
    with peer.Test() as t:
        server = badhttp.Server(KJV)
        t.servers.append(server)
        test_dry_run(t, server)
        test_rate(t, server)
        test_limit(t)
        test_parts(t, server)
        test_list(t, server)
        test_kill(t)
        test_budgets(t, server)
        test_silly_sizes(t, server)
        test_no_room(t, server)
        test_bad_extent(t, server)
        test_shrunk_meanwhile(t)
        test_lost_meanwhile(t)
        test_no_disk(t, server)
        test_kept_files(t)
        test_beside_a_run(t)
        test_interrupt(t)


main()
