#!/usr/bin/env python3
"""The program around a real small model: what is on stdout and what on stderr, result files, interruption, closed pipes,
the same text from a folder and over HTTP, the facts of every command as JSON. A hanging server for the early end."""
# ctest-timeout: 300
import json
import os
import pty
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

PENSTOCK = os.environ["PENSTOCK"]
MODEL = os.path.join(os.environ.get("PENSTOCK_TEST_DATA", ""), "models", "stories260K")
KJV = os.path.join(os.environ.get("PENSTOCK_SOURCE_DIR", "."), "models", "kjv")
failures = []


def check(ok, what):
    if not ok:
        failures.append(what)
        print("FAIL:", what, flush=True)


def penstock(*args, status=0, **more):
    p = subprocess.run([PENSTOCK, *args], capture_output=True, timeout=120, stdin=more.pop("stdin", subprocess.DEVNULL), **more)
    check(p.returncode == status, f"{' '.join(args)[:120]}: status {p.returncode}, not {status}: {p.stderr[-300:]}")
    return p


def facts(*args, status=0):
    p = penstock(*args, "--json", status=status)
    try:
        return json.loads(p.stdout)
    except ValueError:
        check(False, f"{' '.join(args)[:120]}: no JSON on stdout: {p.stdout[:200]}")
        return {}


STATS = ("model_id tokens_prompt tokens_generated ttft_s decode_tok_s sweeps tokens_per_sweep bytes_net bytes_disk_read "
         "bytes_disk_written bytes_ram_hit requests retries hit_ratio link_bytes_s link_busy_pct cache_bytes "
         "cache_bytes_max rss_bytes_max plan plan_predicted_s_per_token link_use_pct bytes_hedged").split()
PLAN = ("model_id model_bytes stored_bytes layers extents extent_bytes disk_bytes ram_bytes ram_min_bytes bytes_per_sweep "
        "bytes_net_per_sweep bytes_disk_per_sweep predicted_s_per_token binds").split()


def test_run(work):
    stats = os.path.join(work, "stats.json")
    short = penstock("run", MODEL, "-p", "Once upon a time", "-n", "8", "--temp", "0", "--stats", stats)
    text = short.stdout
    check(text.endswith(b"\n") and len(text) > 8, f"text and a newline: {text}")
    check(b"8 tokens" in short.stderr and b"tok/s" in short.stderr, f"a summary on stderr: {short.stderr}")
    s = json.load(open(stats))
    check(all(k in s for k in STATS), f"stats lack {[k for k in STATS if k not in s]}")
    check(all(k in s["plan"] for k in PLAN), f"plan lacks {[k for k in PLAN if k not in s['plan']]}")
    check(s["tokens_generated"] == 8 and "error" not in s, f"stats: {s}")
    quiet = penstock("run", "-q", "--temp=0", "-n", "24", MODEL, "-p", "Once upon a time")
    check(quiet.stderr == b"", f"--quiet: {quiet.stderr}")
    check(quiet.stdout.startswith(text[:-1]), "-n 8 writes a prefix of -n 24")
    wild = ("--temp", "100", "--top-k", "0", "--top-p", "1", "--min-p", "0", "-s", "4", "--ignore-eos", "-q")
    longest = penstock("run", MODEL, "-p", "Once", "-n", "60", *wild).stdout[:-1]
    for n in range(1, 60):  # also where it ends within a character
        part = penstock("run", MODEL, "-p", "Once", "-n", str(n), *wild).stdout[:-1]
        check(longest.startswith(part), f"-n {n} writes a prefix of -n 60: {part[-20:]}")
    full = ("--temp", "0", "--ignore-eos", "-p", "Once upon a time", "-q")
    check(penstock("run", MODEL, "-n", "-1", "-c", "30", *full).stdout == penstock("run", MODEL, "-n", "300", "-c", "30", *full).stdout,
          "-n -1 fills the context")
    p = penstock("run", MODEL, "-n", "-1", *full, status=2)
    check(b"-c" in p.stderr and penstock("plan", MODEL, "-n", "-1", status=2).stderr == p.stderr, f"-n -1 asks for a -c: {p.stderr}")
    last = [penstock("run", MODEL, "-n", "60", "--repeat-penalty", x, "--repeat-last-n", n, *full).stdout
            for x, n in (("1", "64"), ("5", "0"), ("5", "-1"), ("5", "1000"), ("5", "64"))]
    check(last[0] == last[1] != last[2] == last[3], f"--repeat-last-n 0 is none, -1 is all: {last}")
    echo = penstock("run", MODEL, "-p", "Once upon a time", "-n", "8", "--temp", "0", "--echo", "-q")
    check(echo.stdout == b"Once upon a time" + text, f"--echo: {echo.stdout}")
    one = facts("run", MODEL, "-p", "Once upon a time", "-n", "8", "--temp", "0", "-q")
    check(one.get("text", "").encode() + b"\n" == text and one.get("tokens_generated") == 8, f"--json: {one}")
    nothing = penstock("run", MODEL, "-p", "Once", "-n", "0", "-q")
    check(nothing.stdout == b"\n", f"-n 0: {nothing.stdout}")
    nothing = penstock("run", MODEL, "-p", "Once", "-n", "0", "--stats", stats)
    check(json.load(open(stats))["ttft_s"] is None and b"first after" not in nothing.stderr, f"no first token: {nothing.stderr}")
    penstock("run", KJV, "-p", "Once", "-n", "0", "-q", "--stats", stats)
    check(json.load(open(stats))["bytes_disk_read"] < 1 << 19, "-n 0 reads the tokenizer and no weights")
    likeliest = [penstock("run", MODEL, "-p", "Once upon a time", "-n", "8", "-q", *how).stdout
                 for how in (("--temp", "0"), ("--top-p", "0", "-s", "1"), ("--top-p", "0", "--temp", "3", "-s", "2"))]
    check(likeliest[0] == likeliest[1] == likeliest[2], f"--top-p 0 is the likeliest token alone: {likeliest}")
    seeded = [penstock("run", MODEL, "-p", "Once", "-n", "12", "-s", "5", "-q").stdout for _ in range(2)]
    check(seeded[0] == seeded[1], "one seed, one text")
    drawn = penstock("run", MODEL, "-p", "Once", "-n", "2")
    check(b"seed" in drawn.stderr, f"a drawn seed is named: {drawn.stderr}")
    return text


def test_prompts(work, text):
    path = os.path.join(work, "prompt.txt")
    common = ("-n", "8", "--temp", "0", "-q")
    with open(path, "wb") as f:
        f.write(b"Once upon a time\n")
    check(penstock("run", MODEL, "-f", path, *common).stdout == text, "-f drops one newline")
    with open(path) as f:
        check(penstock("run", MODEL, *common, stdin=f).stdout == text, "a prompt from stdin loses one newline, too")
    with open(path) as f:
        check(penstock("run", MODEL, "-f", "-", *common, stdin=f).stdout == text, "-f - is stdin")
    newline = penstock("run", MODEL, "-p", "Once upon a time\n", *common).stdout
    check(newline != text, "-p takes the bytes as they are")
    with open(path, "ab") as f:
        f.write(b"\n")
    with open(path) as f:
        check(penstock("run", MODEL, *common, stdin=f).stdout == newline, "a prompt from stdin loses no more than one")
    with open(path, "wb") as f:
        f.write(b"Once upon a time\n")
    env = dict(os.environ, PENSTOCK_PROMPT="Once upon a time", PENSTOCK_N_PREDICT="8", PENSTOCK_TEMP="0", PENSTOCK_QUIET="1")
    check(penstock("run", MODEL, env=env).stdout == text, "everything from variables")
    check(penstock("run", MODEL, "-p", "Once upon a time", "-f", "/none", *common, status=2).stdout == b"", "-p and -f")
    check(penstock("run", MODEL, "-p", "", *common).stdout != b"\n", "-p '' is BOS alone")
    bare = os.path.join(work, "bare")  # a tokenizer that adds nothing: an empty prompt is BOS all the same
    shutil.copytree(MODEL, bare)
    with open(os.path.join(MODEL, "tokenizer.json"), encoding="utf-8") as f:
        tokenizer = json.load(f)
    tokenizer["post_processor"] = None
    with open(os.path.join(bare, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(tokenizer, f)
    with open(os.path.join(bare, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump({"bos_token": "<s>", "add_bos_token": False}, f)
    check(penstock("tokenize", bare, "").stdout == b"\n", "the tokenizer adds nothing")
    begun = penstock("run", MODEL, "-p", "", *common).stdout
    check(penstock("run", bare, "-p", "", *common).stdout == begun, "-p '' is BOS alone where the tokenizer adds none")
    penstock("run", bare, "-p", "", "--no-bos", *common, status=2)
    p = penstock("run", MODEL, "-p", "Once upon a time", "-c", "2", *common, status=2)
    check(b"--ctx-size" in p.stderr, f"a prompt longer than -c: {p.stderr}")


def test_tokens(work):
    ids = penstock("tokenize", MODEL, "Once upon a time").stdout
    check(ids == (" ".join(ids.decode().split()) + "\n").encode(), f"one line of ids: {ids}")
    ids = [int(i) for i in ids.split()]
    check(facts("tokenize", MODEL, "Once upon a time") == {"tokens": ids}, "tokenize --json")
    bare = [int(i) for i in penstock("tokenize", MODEL, "--no-bos", "-p", "Once upon a time").stdout.split()]
    check(ids[-len(bare):] == bare and len(ids) == len(bare) + 1, f"--no-bos: {ids} {bare}")
    only = os.path.join(work, "tokenizer")
    os.makedirs(only)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if os.path.exists(os.path.join(MODEL, name)):
            shutil.copy(os.path.join(MODEL, name), only)
    check(facts("tokenize", only, "Once upon a time", "--no-bos")["tokens"] == bare, "tokenizer files alone")
    path = os.path.join(work, "text")
    with open(path, "wb") as f:
        f.write(b"Once\n")
    check(len(facts("tokenize", MODEL, "-f", path)["tokens"]) > 2, "tokenize -f takes the newline")
    check(penstock("tokenize", MODEL, "-f", "/dev/null", "--no-bos").stdout == b"\n", "no text, no ids")
    out = os.path.join(work, "logits.f32")
    given = ",".join(map(str, ids))
    j = facts("logits", MODEL, "--tokens", given, "--out", out)
    raw = open(out, "rb").read()
    check(j["positions"] == len(ids) and len(raw) == 4 * j["vocab"] * len(ids), f"logits: {j['positions']} {len(raw)}")
    flat = [x for row in j["logits"] for x in row]
    same = all(struct.pack("<f", x) == raw[4 * i:4 * i + 4] for i, x in enumerate(flat))
    check(len(flat) * 4 == len(raw) and same, "--out and --json hold the same floats")
    p = penstock("logits", MODEL, "--tokens", "1,999999", status=2)
    check(b"999999" in p.stderr, f"an id out of range is named: {p.stderr}")
    check(b"likeliest" in penstock("logits", MODEL, "--tokens", given).stdout, "logits as text")


def test_facts(work):
    plan = facts("plan", MODEL)
    check(all(k in plan for k in PLAN), f"plan lacks {[k for k in PLAN if k not in plan]}")
    check(b"least that works" in penstock("plan", MODEL).stdout, "plan as text")
    shapes = [facts("bench", what, *more) for what, more in (("net", (MODEL, "--seconds", "0.05")), ("disk", ("--cache", os.path.join(work, "bench"))))]
    err = penstock("bench", "codec", "--seconds", "1", status=2).stderr
    check(b"--seconds" in err and b"bench net" in err, f"bench codec --seconds: {err}")
    check(all({"bench", "threads", "cpu", "limit", "rows"} <= set(s) for s in shapes), f"one shape of bench: {shapes}")
    check(shapes[0]["cpu"] == shapes[1]["cpu"] and shapes[0]["threads"] == shapes[1]["threads"], f"one machine: {shapes}")
    ins = facts("inspect", MODEL, "--extents")
    check(ins["tensors"] and ins["tensors"][0]["extent_list"], "inspect --extents")
    f = facts("inspect", os.path.join(MODEL, "model.safetensors"))
    check({t["name"] for t in f["tensors"]} == {t["name"] for t in ins["tensors"]}, "inspect of the file and of the model")
    check(b"model.safetensors" in penstock("inspect", MODEL).stdout, "inspect as text")
    bad = os.path.join(work, "bad.safetensors")
    with open(bad, "wb") as out:
        out.write(b"\xff" * 64)
    penstock("inspect", bad, status=4)
    p = penstock("run", MODEL, "-p", "x", "--ram", "4K", "--stats", os.path.join(work, "s5.json"), status=5)
    check(p.stdout == b"" and json.load(open(os.path.join(work, "s5.json")))["exit"] == 5, "a budget that is too small")
    penstock("split", MODEL, os.path.join(work, "half"), "--ram", "1K", status=5)
    check(not os.path.exists(os.path.join(work, "half")), "a --ram too small for `split` leaves nothing behind")
    python = os.path.join(work, "python")
    os.mkdir(python)
    os.symlink(os.path.join(MODEL, "model.safetensors"), os.path.join(python, "model.safetensors"))
    with open(os.path.join(python, "config.json"), "w") as out:  # as Python writes it, and published models have it
        json.dump({"architectures": ["NemotronHForCausalLM"], "time_step_limit": [0.0, float("inf")]}, out)
    p = penstock("plan", python, status=1)
    check(b"NemotronHForCausalLM is not supported" in p.stderr, f"Infinity in config.json: {p.stderr}")


def test_pipes(work):
    p = subprocess.Popen([PENSTOCK, "run", MODEL, "-p", "Once", "-n", "400", "--ignore-eos", "-q"], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
    p.stdout.read(1)
    p.stdout.close()
    err = p.stderr.read()
    check(p.wait(60) == 1 and err == b"", f"a closed pipe: {p.returncode} {err}")
    p.stderr.close()
    for argv in (["run", MODEL, "-p", "Once", "-n", "3", "-q"], ["plan", MODEL, "--json"]):
        with open("/dev/full", "wb") as full:
            p = subprocess.run([PENSTOCK, *argv], stdout=full, stderr=subprocess.PIPE)
        check(p.returncode == 5 and b"stdout" in p.stderr, f"a full disk: {argv[0]}: {p.returncode} {p.stderr}")
    penstock("run", MODEL, "-p", "Once", "-n", "3", "-q", "--stats", "/dev/full", status=5)
    penstock("run", MODEL, "-p", "Once", "-n", "3", "-q", "--stats", "/dev/stderr")


def test_result_files(work):
    """A name that can't be written is told before the work; a link stays one; - is stdout."""
    run = ("run", MODEL, "-p", "Once", "-n", "3", "-q", "--stats")
    for name in (os.path.join(work, "no", "such", "dir"), work, "/proc/stats", "", "/dev/fd/99"):
        p = penstock(*run, name, status=2)
        check(p.stdout == b"" and b"--stats" in p.stderr, f"--stats '{name}': {p.stdout} {p.stderr}")
        p = penstock("logits", MODEL, "--tokens", "1,2", "--out", name, status=2)
        check(p.stdout == b"" and b"--out" in p.stderr, f"--out '{name}': {p.stdout} {p.stderr}")
    link, target = os.path.join(work, "link"), os.path.join(work, "target")
    os.symlink("target", link)
    penstock("logits", os.path.join(work, "no-model"), "--tokens", "1,2", "--out", link, status=3)
    check(os.path.islink(link) and not os.path.exists(target), "a failed run leaves an empty --out behind a link")
    for old in (None, b"old"):  # a link to nothing, and one to a file
        if old:
            with open(target, "wb") as f:
                f.write(old)
        penstock(*run, link)
        check(os.path.islink(link) and "tokens_generated" in json.load(open(target)), f"--stats through a link, {old}")
        penstock("logits", MODEL, "--tokens", "1,2", "--out", link)
        check(os.path.islink(link) and os.path.getsize(target) > 8, f"--out through a link, {old}")
    raw = open(target, "rb").read()
    check(penstock("logits", MODEL, "--tokens", "1,2", "--out", "-", cwd=work).stdout == raw, "--out - is stdout")
    check(not os.path.exists(os.path.join(work, "-")), "--out - made a file")
    check(b"--json" in penstock("logits", MODEL, "--tokens", "1,2", "--out", "-", "--json", status=2).stderr, "--out - and --json")
    check(not [n for n in os.listdir(work) if n.endswith(".tmp")], f"temporary files are left: {os.listdir(work)}")


def test_interrupt(work):
    stats = os.path.join(work, "interrupted.json")
    # A fast machine must not finish first: a long text, and the signal comes with its first bytes. Unbuffered, because
    # communicate() does not return what a reader holds.
    p = subprocess.Popen([PENSTOCK, "run", MODEL, "-p", "Once", "-n", "100000", "--ignore-eos", "--stats", stats],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    head = p.stdout.read(5)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    check(p.returncode == 130, f"SIGINT: status {p.returncode} {err}")
    check((head + out).endswith(b"\n"), "the text so far stays")
    s = json.load(open(stats))
    check(s["exit"] == 130 and s["tokens_generated"] > 0 and s["error"], f"stats of an interrupted run: {s.get('error')}")
    warned = err.count(b"penstock: warn: session: ")  # a fast machine gets as far as the model was made for
    check(warned <= 1 and err.count(b"penstock: ") == 1 + warned, f"one line of error: {err}")


def test_least_memory():
    """What `plan` calls the least that works is what `run` works with."""
    args = (MODEL, "-p", "Once", "-n", "5", "--temp", "0")
    least = facts("plan", *args[:5], "--ram", "min")["ram_min_bytes"]
    penstock("run", *args, "--ram", str(least), "-q")
    err = penstock("run", *args, "--ram", str(least // 2), "-q", status=5).stderr
    check(b"least" in err, f"half of the least: {err}")


def test_too_far():
    """Beyond the positions that the model was made for, as llama.cpp does: it runs, and says so once."""
    long, ids = " ".join(["word"] * 700), ",".join(["5"] * 520)
    for args, far in ((("run", MODEL, "-p", "Once", "-n", "520"), True), (("run", MODEL, "-p", "Once", "-n", "300"), False),
                      (("run", MODEL, "-p", long, "-n", "1"), True), (("logits", MODEL, "--tokens", ids, "--out", os.devnull), True),
                      (("logits", MODEL, "--tokens", ids[:99], "--out", os.devnull), False)):
        err = penstock(*args, "-q").stderr
        check(err.count(b"512 positions") == far and err.count(b"penstock: ") == far, f"{args[0]} {args[2:][:30]}: {err}")


def test_interrupt_early(work):
    """A server that accepts and says nothing: the engine does not exist yet."""
    stats = os.path.join(work, "early.json")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        kept = []
        threading.Thread(target=lambda: kept.append(server.accept()), daemon=True).start()
        for signo in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            p = subprocess.Popen([PENSTOCK, "run", f"http://127.0.0.1:{port}", "-p", "x", "--stats", stats],
                                 stderr=subprocess.PIPE)
            time.sleep(0.7)
            begin = time.monotonic()
            p.send_signal(signo)
            err = p.communicate(timeout=30)[1]
            check(p.returncode == 130 and time.monotonic() - begin < 3, f"signal {signo} while opening: {p.returncode} {err}")
            check(json.load(open(stats))["exit"] == 130, "stats of a run that was not open yet")
            os.unlink(stats)


def interrupt_probes(url, cache):
    """SIGINT while memory is measured. A machine may be done before it comes: sooner then."""
    for command in (("doctor",), ("plan", "--probe")):
        for wait in (0.2, 0.15, 0.1, 0.07, 0.05, 0.03):
            p = subprocess.Popen([PENSTOCK, *command, url, "--cache", cache, "--seconds", "0.01", "-q"], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE)
            time.sleep(wait)
            begin = time.monotonic()
            p.send_signal(signal.SIGINT)
            err = p.communicate(timeout=60)[1]
            if p.returncode != 0:
                break
        took = time.monotonic() - begin
        check(p.returncode == 130 and took < 10 and b"interrupted" in err, f"SIGINT for {command}: {p.returncode} {took:.1f} s {err}")


def look_only(url, cache):
    """Commands that only ask leave the cache as it is, whatever budget they are given."""
    facts("warm", url, "--cache", cache, "--disk", "100%")
    env = dict(os.environ, PENSTOCK_CACHE=cache)
    held = facts("cache", "ls", "--cache", cache)["models"]
    for args in (("plan", url, "--disk", "1M"), ("plan", url, "--disk", "0"), ("doctor", url, "--disk", "1M", "--seconds", "0.05"),
                 ("inspect", url), ("warm", url, "--disk", "1M", "--dry-run")):
        penstock(*args, "-q", env=env)
        now = facts("cache", "ls", "--cache", cache)["models"]
        check(now == held and held, f"{args[0]} {args[2:]}: {held} -> {now}")
    small, large = (facts("plan", url, "--disk", d, "--cache", cache)["disk_bytes"] for d in ("1M", "64M"))
    check(0 < small < large and small < 1 << 20, f"what a plan says: {small} {large}")
    none = cache + "-none"
    for args in (("plan", url), ("inspect", url), ("warm", url, "--dry-run")):
        penstock(*args, env=dict(os.environ, PENSTOCK_CACHE=none))
        check(not os.path.exists(none), f"{args[0]} made a folder")
    planned = facts("plan", url, "--disk", "1M", "--cache", none)["disk_bytes"]
    check(planned == facts("warm", url, "--disk", "1M", "--cache", none)["bytes_wanted"], f"a plan for a cache to come: {planned}")
    penstock("plan", url, "--disk", "10K", "--cache", none, status=5)


def doctor_saves(work, url):
    """What was measured is there for later plans, also where there was no cache folder yet and no room for a test file; a folder
    of others, and --disk 0, keep none of it."""
    os.makedirs(work)
    for model in (url, KJV):
        for disk in ((), ("--disk", "1M")):
            cache = tempfile.mkdtemp(dir=work) + "/made/here"
            facts("doctor", model, "--cache", cache, "--seconds", "0.05", *disk)
            age = facts("plan", model, "--cache", cache)["probe_age_s"]
            check(age is not None and age < 60, f"doctor {model} {disk}: the age of what it measured: {age}")
            check(os.stat(cache).st_mode & 0o777 == 0o700, "the folder is made as a run makes it")
    none = os.path.join(work, "kept-none")
    facts("doctor", url, "--cache", none, "--seconds", "0.05", "--disk", "0")
    check(not os.path.exists(none), "--disk 0 keeps nothing")
    others = tempfile.mkdtemp(dir=work)
    open(os.path.join(others, "letter.txt"), "w").close()
    r = penstock("doctor", KJV, "--cache", others, "--seconds", "0.05")
    check(os.listdir(others) == ["letter.txt"] and b"not saved" in r.stderr, f"a folder of others: {os.listdir(others)} {r.stderr}")


def on_terminal(*args):
    """What the program draws on a terminal."""
    master, slave = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k != "CI"} | {"TERM": "xterm", "COLUMNS": "100"}
    p = subprocess.Popen([PENSTOCK, *args], stdout=subprocess.DEVNULL, stderr=slave, env=env)
    os.close(slave)
    drawn = b""
    try:
        while piece := os.read(master, 65536):
            drawn += piece
    except OSError:  # Linux's end of file
        pass
    os.close(master)
    check(p.wait(60) == 0, f"on a terminal: {args}: {p.returncode} {drawn[-300:]}")
    return drawn.decode()


def test_doctor_progress(work):
    """Bytes are drawn as bytes while the link is measured, slowly enough to be drawn."""
    size = os.path.getsize(os.path.join(KJV, "model.safetensors")) / 2**20
    share = subprocess.Popen([PENSTOCK, "share", KJV, "--port", "0", "--json", "-q"], stdout=subprocess.PIPE, text=True)
    try:
        url = json.loads(share.stdout.readline())["url"]
        drawn = on_terminal("doctor", url, "--cache", os.path.join(work, "doctor"), "--seconds", "2", "--net-limit", "3M")
        check(f" MiB of {size:.1f} MiB " in drawn and " B of " not in drawn, f"doctor's progress: {drawn[:600]}")
    finally:
        share.terminate()
        share.communicate(timeout=20)


def accepts(port, program):
    """Whether a program listens, within 20 s."""
    end = time.monotonic() + 20
    while program.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            time.sleep(0.01)
    return False


def test_share_quietly(work):
    """A port that was chosen is known from the program alone."""
    share = subprocess.Popen([PENSTOCK, "share", MODEL, "--port", "0", "-q"], stderr=subprocess.PIPE, text=True)
    line = share.stderr.readline()
    share.terminate()
    check("http://127.0.0.1:" in line, f"share --port 0 -q: {line}")
    check(share.communicate(timeout=20)[1] == "" and share.returncode == 0, "share -q says no more")
    port = int(line.split("127.0.0.1:")[1].split("/")[0])
    fixed = subprocess.Popen([PENSTOCK, "share", MODEL, "--port", str(port), "-q"], stderr=subprocess.PIPE)
    check(accepts(port, fixed), f"share --port {port} does not listen")
    fixed.terminate()
    err = fixed.communicate(timeout=20)[1]
    check(err == b"" and fixed.returncode == 0, f"share -q with a port says nothing: {fixed.returncode} {err}")


def test_nohup(work):
    """Who was told to ignore a hangup does."""
    p = subprocess.Popen([PENSTOCK, "run", MODEL, "-p", "Once", "-n", "300", "--ignore-eos", "-q"], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, bufsize=0, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    p.stdout.read(1)
    p.send_signal(signal.SIGHUP)
    err = p.communicate(timeout=60)[1]
    check(p.returncode == 0, f"SIGHUP ignored: {p.returncode} {err}")


def test_truncated(work):
    """A shard that was not copied whole."""
    tree = os.path.join(work, "tree")
    p = penstock("split", MODEL, tree, "-q", "--ram", "min")
    check(not p.stdout and not p.stderr, f"split --quiet: {p}")
    again = facts("split", MODEL, tree, "-q")
    check(again["model_id"] == facts("split", MODEL, tree + "2", "--ram", "64G")["model_id"], "split --ram min: the same tree")
    err = penstock("split", MODEL, tree + "3", "--ram", "50%", status=2).stderr
    check(b"or min" in err, f"split --ram 50%: {err}")
    shards = os.path.join(tree, "shards")
    largest = max((os.path.join(shards, n) for n in os.listdir(shards)), key=os.path.getsize)
    os.truncate(largest, os.path.getsize(largest) - 1)
    err = penstock("run", tree, "-p", "Once", "-n", "1", "-q", status=4).stderr
    check(b"truncated" in err and b"changed" not in err, f"a truncated shard: {err}")


def test_http(work, text):
    cache = os.path.join(work, "cache")
    share = subprocess.Popen([PENSTOCK, "share", MODEL, "--port", "0", "--json", "-q"], stdout=subprocess.PIPE, text=True)
    try:
        url = json.loads(share.stdout.readline())["url"]
        common = ("-p", "Once upon a time", "-n", "8", "--temp", "0", "-q", "--cache", cache)
        for disk in ("0", "100%", "100%"):
            check(penstock("run", url, *common, "--disk", disk).stdout == text, f"over HTTP, --disk {disk}: another text")
        check(facts("warm", url, "--cache", cache, "--disk", "100%")["complete"] is True, "warm")
        ls = facts("cache", "ls", "--cache", cache)
        check(len(ls["models"]) == 1 and ls["models"][0]["source"] == url, f"cache ls: {ls}")
        model = ls["models"][0]["model_id"]
        facts("cache", "pin", model[:8], "--cache", cache)
        check(facts("cache", "stat", "--cache", cache)["models"][0]["pinned"] is True, "cache pin")
        facts("cache", "unpin", url, "--cache", cache)
        check(facts("cache", "verify", "--cache", cache)["extents_wrong"] == 0, "cache verify")
        for args in (("verify",), ("pin", url), ("unpin", url)):
            p = penstock("cache", *args, "--cache", cache, "-q")
            check(not p.stdout and not p.stderr, f"cache {args} --quiet: {p}")
        for args in (("ls",), ("stat",), ("dir",)):
            check(penstock("cache", *args, "--cache", cache, "-q").stdout, f"cache {args} --quiet: what was asked for")
        secret = url.replace("http://127", "HTTP://me:geheim@127") + "//?sig=geheim"
        said = [penstock("run", secret.replace("//?", "?"), "-p", "Once", "-n", "2", "-q", "--cache", cache + "-log", "--log", level).stderr.decode() for level in ("debug", "trace")]
        for word in ("a plain folder, 5 layers, ", "cache: ", "plan: ", "done after 2 tokens in 2 sweeps: "):
            check(all(word in s for s in said), f"--log debug and trace lack '{word}': {said}")
        check("status 20" not in said[0] and len(said[0].splitlines()) < 20, f"--log debug is no trace: {said[0]}")
        check("/config.json: 0-" in said[1] and ": status 20" in said[1] and "geheim" not in said[0] + said[1], f"--log trace: {said[1]}")
        p = penstock("cache", "pin", secret, "--cache", cache)
        check(b"geheim" not in p.stdout + p.stderr, f"cache pin prints a secret: {p.stdout}{p.stderr}")
        check(facts("cache", "ls", "--cache", cache)["models"][0]["pinned"] is True, "another spelling of the address")
        facts("cache", "unpin", secret, "--cache", cache)
        before = facts("cache", "stat", "--cache", cache)["budget_bytes"]
        penstock("run", url, *common, "--disk", "64M")
        facts("cache", "verify", "--repair", "--cache", cache)  # upkeep has no limit of its own
        after = facts("cache", "stat", "--cache", cache)["budget_bytes"]
        check(before > 0 and after == 64 << 20 != before, f"the last budget that governed: {before} {after}")
        check(facts("cache", "evict", model[:8], "--cache", cache)["freed_bytes"] > 0, "cache evict")
        penstock("cache", "evict", "zzzz", "--cache", cache, status=3)
        doctor = facts("doctor", url, "--cache", cache, "--seconds", "0.3")
        check("probes" in doctor and "binds" in doctor, f"doctor: {list(doctor)}")
        disk = facts("bench", "disk", "--cache", cache)
        check(disk["limit"]["gb_s"] > 0 and all(r["gb_s"] > 0 for r in disk["rows"]), f"bench disk: {disk}")
        check(not [n for n in os.listdir(cache) if n.startswith("bench")], f"left by bench disk: {os.listdir(cache)}")
        interrupt_probes(url, cache)
        look_only(url, cache)
        doctor_saves(cache + "-doctor", url)
        check("predicted_s_per_token" in facts("plan", url, "--cache", cache), "plan over HTTP")
    finally:
        share.terminate()
        share.communicate(timeout=20)


def main():
    if not os.path.exists(os.path.join(MODEL, "model.safetensors")):
        print("cli_run: skipped: no test data (PENSTOCK_TEST_DATA)")
        return 77
    with tempfile.TemporaryDirectory() as work:
        for name in list(os.environ):
            if name.startswith("PENSTOCK_") and name not in ("PENSTOCK_BACKEND",):
                del os.environ[name]
        os.environ.update(HOME=work, XDG_CACHE_HOME=os.path.join(work, "xdg"))
        text = test_run(work)
        test_prompts(work, text)
        test_tokens(work)
        test_facts(work)
        test_pipes(work)
        test_least_memory()
        test_too_far()
        test_result_files(work)
        test_interrupt(work)
        test_doctor_progress(work)
        test_share_quietly(work)
        test_nohup(work)
        test_interrupt_early(work)
        test_truncated(work)
        test_http(work, text)
    print("cli_run:", "FAILED" if failures else "ok")
    return 1 if failures else 0


sys.exit(main())
