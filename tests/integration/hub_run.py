"""`hf://org/name` against the Hub in small (tests/support/hub.py): the text of the folder to the byte, one question per file,
links renewed before they end or after they have ended, nothing secret anywhere but at the Hub; what the Hub refuses is told
apart; its cache directory, HF_HUB_OFFLINE, renames, revisions, mirrors, rate limits, and whole files against its hashes."""
# ctest-timeout: 240
import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import badhttp  # noqa: E402
import hub as hub_in_small  # noqa: E402
import peer  # noqa: E402

PROMPT = "In the beginning"
N = 8
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345"
WEIGHTS = "model.safetensors"
SLOW = 4 if peer.SANITIZED else 1


class Setting:
    """The model and the text that every run must write."""
    model = ""
    text = b""


def new_hub(t, **kw):
    h = hub_in_small.Hub(t, **kw)
    h.push("test/kjv", Setting.model)
    return h


def run(t, h, address="hf://test/kjv", *args, cache="cache", disk="32M", env=None, n=N, command="run", **kw):
    env = {"HF_ENDPOINT": h.url, "PENSTOCK_MIN_FREE": "0", **(env or {})}
    args = ("-p", PROMPT, "-n", n, "--temp", "0", "--ignore-eos", *args) if command == "run" else args
    return t.run(command, address, *args, cache=t.path(cache), disk=disk, env=env, **kw)


def fine(t, r, what, text=None):
    t.equal(r.rc, 0, f"{what}: {r}")
    t.equal(r.text, Setting.text if text is None else text, f"{what}: the text")


def statuses(h):
    return {q.status for q in h.cdn.requests()}


def plain_run(t):
    h = new_hub(t)
    h.repos["test/kjv"].gated, h.repos["test/kjv"].token = True, TOKEN
    r = run(t, h, cache="plain", disk="25%", env={"HF_TOKEN": TOKEN, "PENSTOCK_LOG": "trace"})
    fine(t, r, "a gated model with a token")
    asked = h.resolves()
    t.equal(len(asked), len({x[2] for x in asked}), f"one question per file: {asked}")
    t.check({"config.json", WEIGHTS, "tokenizer.json"} <= {x[2] for x in asked}, f"asked for {asked}")
    t.check(all(q.headers.get("authorization") == "Bearer " + TOKEN for q in h.log), "the Hub sees the token")
    t.check(all(q.headers.get("user-agent", "").startswith("penstock/") for q in h.log), "who we are")
    sent = h.cdn.requests()
    t.check(sent and all(q.status == 206 for q in sent), f"the CDN sees no token and no bad link: {sent[:5]}")
    t.check(TOKEN not in r.err and "Signature" not in r.err, f"secrets in the log: {r.err[:2000]}")
    t.check("lies at" in r.err, "the log tells of links")
    for base, _, names in os.walk(t.path("plain")):
        for name in names:
            with open(os.path.join(base, name), "rb") as f:
                data = f.read()
            t.check(TOKEN.encode() not in data and b"Signature=" not in data, f"secrets in {name}")
    r = t.run("cache", "ls", "--json", cache=t.path("plain"))
    t.equal([m["source"] for m in r.json["models"]], ["hf://test/kjv"], "cache ls")
    r = t.run("tokenize", "hf://test/kjv", "In", env={"HF_ENDPOINT": h.url, "HF_TOKEN": TOKEN})
    t.equal(r.rc, 0, f"tokenize: {r}")


def many_files(t):
    """As many questions as files, over a few connections."""
    peer.random_llama(t.path("many"), seed=3, files=24, hidden=64, layers=6, inter=128, heads=2, kv_heads=2)
    h = hub_in_small.Hub(t)
    h.push("test/many", t.path("many"))
    r = run(t, h, "hf://test/many", cache="many-cache")
    t.equal(r.rc, 0, f"many files: {r}")
    asked = h.resolves()
    t.check(len(asked) > 24 and len(asked) == len({x[2] for x in asked}), f"one question per file: {len(asked)}")
    t.check(h.connections <= 8 + 4, f"{h.connections} connections for {len(h.log)} requests")


def other_mirror(t):
    """Another mirror, another commit, the same weights: one cache."""
    a, b = new_hub(t), hub_in_small.Hub(t)
    folder = t.path("other-readme")
    peer.copy_model(Setting.model, folder)
    with open(os.path.join(folder, "README.md"), "a") as f:
        f.write("\n")
    b.push("copy/of-kjv", folder)
    fine(t, run(t, a, cache="shared", disk="64M"), "the first mirror")
    r = run(t, b, "hf://copy/of-kjv", cache="shared", disk="64M")
    fine(t, r, "the second mirror")
    counts = b.cdn.fetched(suffix=("",))
    t.equal(counts.bytes(), 0, f"weights from the second mirror: {counts.pieces[:3]}")


def expiry(t, tells):
    h = new_hub(t, rate=150000)
    h.link_seconds, h.link_tells = 3, tells
    what = "links that tell their end" if tells else "links that do not"
    # nginx lets a reply's first second through at once: second requests would halve the time and outrun the links' end
    r = run(t, h, "hf://test/kjv", "--ram", "min", "--hedge", 0, disk="0", n=2)
    t.equal(r.rc, 0, f"{what}: {r}")
    t.check(Setting.text.startswith(r.text), f"{what}: the text {r.text}")
    asked = [x for x in h.resolves() if x[2] == WEIGHTS]
    t.note(f"{what}: {r.seconds:.1f} s, asked {len(asked)} times")
    t.check(2 <= len(asked) <= r.seconds, f"{what}: {len(asked)} questions in {r.seconds:.1f} s")
    t.equal(len({x[1] for x in asked}), 1, f"{what}: one commit")
    seen = statuses(h)
    t.check(seen == {206} if tells else seen == {206, 403}, f"{what}: statuses {seen}")


def refused(t, h, status, *says, address="hf://test/kjv", env=None, seconds=15):
    r = run(t, h, address, env=env, cache="refused")
    badhttp.check_failed(t, r, status, says, what=f"{address} {env or ''}")
    t.check(r.seconds < seconds, f"{address}: took {r.seconds:.1f} s")
    t.check("Traceback" not in r.err and TOKEN not in r.err, f"{address}: {r.err}")


def refusals(t):
    h = new_hub(t)
    repo = h.repos["test/kjv"]
    repo.token = TOKEN
    h.known_tokens = {"hf_another00000000"}
    refused(t, h, 3, "no such repository, or a private one", "spelling of test/nothing", "set HF_TOKEN", address="hf://test/nothing")
    refused(t, h, 3, "no such repository", "HF_TOKEN may read", address="hf://test/nothing", env={"HF_TOKEN": TOKEN})
    refused(t, h, 3, "no such revision", "'v7'", address="hf://test/kjv@v7")
    refused(t, h, 3, "no model at hf://test/kjv/sub", address="hf://test/kjv/sub")
    refused(t, h, 3, "does not know this token", "revoked", env={"HF_TOKEN": "hf_wrong0000000000"})
    refused(t, h, 2, "malformed address", address="hf://test/kjv@a b")
    refused(t, h, 2, "only models", address="hf://datasets/test/kjv")
    refused(t, h, 2, "HF_ENDPOINT", env={"HF_ENDPOINT": "mirror"})
    repo.gated = True
    refused(t, h, 3, "gated", f"licence at {h.url}/test/kjv", "set HF_TOKEN")
    refused(t, h, 3, "gated", f"licence at {h.url}/test/kjv", "no access yet", env={"HF_TOKEN": "hf_another00000000"})
    refused(t, h, 3, "unset HF_HUB_DISABLE_IMPLICIT_TOKEN", env={"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"})
    repo.gated, repo.private = False, True
    refused(t, h, 3, "no such repository, or a private one", "set HF_TOKEN")
    os.makedirs(t.path("hf"), exist_ok=True)
    with open(t.path("hf", "token"), "w") as f:
        f.write(TOKEN + "\n")
    fine(t, run(t, h, env={"HF_HOME": t.path("hf")}), "private, with the token of HF_HOME")
    repo.private, repo.disabled = False, True
    refused(t, h, 3, "disabled")


def names(t):
    """Renamed repositories, old ones without an owner, tags, commits, folders, pull requests."""
    h = new_hub(t)
    old = h.push("kjv", Setting.model, branch="v1")
    fine(t, run(t, h, "hf://kjv@v1"), "no owner, a tag")
    fine(t, run(t, h, f"hf://kjv:{old}"), "a commit")
    t.check(not [x for x in h.resolves() if x[1] not in (old, "v1")], "pinned")
    h.push("kjv", Setting.model, branch="refs/pr/1")
    fine(t, run(t, h, "hf://kjv@refs/pr/1"), "a pull request")
    os.makedirs(t.path("nested", "a b"))
    peer.copy_model(Setting.model, t.path("nested", "a b", "m"))
    h.push("test/nested", t.path("nested"))
    fine(t, run(t, h, "hf://models/test/nested/a b/m"), "a folder of a repository")
    h.rename("test/kjv", "new/name")
    h.repos["new/name"].private, h.repos["new/name"].token = True, TOKEN
    fine(t, run(t, h, env={"HF_TOKEN": TOKEN}), "renamed")
    h.sends_commit = False
    fine(t, run(t, h, "hf://kjv@v1", cache="no-commit"), "a mirror that tells no commit")


def moving_branch(t):
    """The branch moves while a run goes on: the run does not."""
    shape = dict(hidden=64, layers=2, inter=128, heads=2, kv_heads=2)
    for name, seed in (("a", 1), ("b", 2)):
        peer.random_llama(t.path("moving", name), seed=seed, **shape)
    texts = {x: t.run("run", t.path("moving", x), "-p", PROMPT, "-n", N, "--temp", "0", "--ignore-eos").text for x in "ab"}
    t.check(texts["a"] != texts["b"], "the two states differ")
    for when in ("model.safetensors.index.json", "config.json"):
        h = hub_in_small.Hub(t)
        commits = [h.push("test/m", t.path("moving", "a"))]

        def moves(q, r):
            if q.name.endswith("resolve/main/" + when) or (len(commits) == 1 and q.name.endswith(when)):
                commits.append(h.push("test/m", t.path("moving", "b")))
        h.set(moves)
        r = run(t, h, "hf://test/m", cache="moving-cache-" + when)
        t.equal(r.rc, 0, f"moved at {when}: {r}")
        t.check(len(commits) > 1, f"moved at {when}: it did not")
        fetched = {m[1] for q in h.log if (m := re.search(r"resolve-cache/models/test/m/([0-9a-f]{40})/", q.name))}
        t.equal(len(fetched), 1, f"moved at {when}: files of {fetched}")
        state = "a" if fetched == {commits[0]} else "b"
        t.equal(r.text, texts[state], f"moved at {when}: the text of one state")
        if when != "config.json":
            t.equal(state, "a", "the state at the start")


def cache_of_the_hub(t):
    h = new_hub(t)
    empty, full, part = t.path("hub-empty"), t.path("hub-full"), t.path("hub-part")
    r = run(t, h, env={"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": empty})
    badhttp.check_failed(t, r, 3, ("not in the Hub's cache", "HF_HUB_OFFLINE", "hf download test/kjv"), what="offline")
    r = run(t, h, "hf://test/kjv", command="plan", env={"TRANSFORMERS_OFFLINE": "true", "HF_HUB_CACHE": empty})
    t.equal(r.rc, 3, "offline by its other name")
    h.fill_cache("test/kjv", full)
    kept = sorted(os.walk(full))
    for env in ({"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "YES", "HF_ENDPOINT": "https://huggingface.co"}):
        r = run(t, h, cache="offline", env={"HF_HUB_CACHE": full, **env})
        fine(t, r, f"offline, from the Hub's cache {env}")
        t.equal((r.stats["bytes_net"], r.stats["requests"], r.stats["cache_bytes"]), (0, 0, 0), "offline: traffic")
    t.equal(h.log, [], "offline asks nobody")
    h.fill_cache("test/kjv", part, files=("config.json", "tokenizer.json", "tokenizer_config.json"))
    r = run(t, h, env={"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": part})
    badhttp.check_failed(t, r, 3, ("no weights",), what="offline, without the weights")
    r = run(t, h, cache="online", env={"HF_HUB_CACHE": full})
    fine(t, r, "online, from the Hub's cache")
    t.equal(statuses(h), set(), "nothing that is there is fetched")
    t.equal(r.stats["cache_bytes"], 0, "nor kept twice")
    t.check(WEIGHTS not in {x[2] for x in h.resolves()}, f"nor asked for: {h.resolves()}")
    fine(t, run(t, h, cache="partly", env={"HF_HUB_CACHE": part}), "the weights from the CDN, the rest from the cache")
    t.equal(statuses(h), {206}, "weights are fetched")
    t.check("tokenizer.json" not in {x[2] for x in h.resolves()[-6:]}, "the tokenizer is there")
    gone = f"http://127.0.0.1:{peer.free_port()}"
    r = run(t, h, cache="gone", env={"HF_HUB_CACHE": full, "HF_ENDPOINT": gone})
    fine(t, r, "the Hub does not answer")
    t.check("does not answer" in r.err, f"and that is said: {r.err}")
    commit = open(os.path.join(full, "models--test--kjv", "refs", "main"), encoding="ascii").read().strip()
    r = run(t, h, f"hf://test/kjv@{commit}", cache="gone-pinned", env={"HF_HUB_CACHE": full, "HF_ENDPOINT": gone})
    fine(t, r, "the Hub does not answer, a pinned commit")
    t.equal(sorted(os.walk(full)), kept, "its cache is not written to")


def moved_on(t):
    """The Hub's cache holds an older state: its files are not mixed into the new one."""
    h = new_hub(t)
    h.fill_cache("test/kjv", t.path("hub-old"))
    folder = t.path("next")
    peer.copy_model(Setting.model, folder)
    with open(os.path.join(folder, "README.md"), "a") as f:
        f.write("\n")
    h.push("test/kjv", folder)
    r = run(t, h, cache="moved-on", env={"HF_HUB_CACHE": t.path("hub-old")})
    fine(t, r, "a newer state")
    t.equal(statuses(h), {206}, "is fetched")


def rate_limits(t):
    h = new_hub(t)

    def once(q, r):
        if q.name.endswith(WEIGHTS) and q.n == 0:
            r.error(429, RateLimit='"resolvers";r=0;t=2', RateLimit_Policy='"fixed window";"resolvers";q=3000;w=300')
    h.set(once)
    fine(t, run(t, h, cache="limits"), "after a rate limit")
    at = [q.began for q in h.log if q.name.endswith(WEIGHTS)]
    t.check(len(at) == 2 and at[1] - at[0] >= 2, f"asked again after {[round(x - at[0], 2) for x in at]} s")
    h.set(lambda q, r: r.error(429, RateLimit='"resolvers";r=0;t=290'))
    refused(t, h, 3, "429", "290 s")
    h.set(lambda q, r: r.error(503) if q.total < 3 else None)
    fine(t, run(t, h, cache="limits-503"), "after 503")


def public_hub(t):
    """As huggingface.co itself, by way of a proxy."""
    h = new_hub(t)
    env = {"HF_ENDPOINT": "http://huggingface.co", "http_proxy": h.url, "no_proxy": "127.0.0.1"}
    args = ("hf://test/kjv", "--ram", "min")
    r = run(t, h, *args, disk="0", n=40, env=env)
    badhttp.check_failed(t, r, 5, ("--max-egress", "mirror", "40 times"), what="40 times the same bytes")
    r = run(t, h, *args, "--max-egress", "1G", disk="0", n=24, env=env)
    t.equal(r.rc, 0, f"it was asked for: {r}")
    badhttp.check_failed(t, run(t, h, *args, "--max-egress", "0", disk="64M", n=1, env=env, cache="nothing"), 5,
                         ("egress", "now 0 bytes"), what="0 forbids all traffic")
    t.equal(run(t, h, *args, disk="64M", n=40, env=env, cache="public").rc, 0, "once only")
    t.equal(run(t, h, *args, disk="0", n=20, env=env).rc, 0, "20 times")
    t.equal(run(t, h, *args, disk="0", n=24).rc, 0, "a mirror")
    for command, more in (("run", ()), ("plan", ()), ("split", (t.path("of-page"),)), ("tokenize", ("x",))):
        for page, says in (("test/kjv", "hf://test/kjv"), ("test/kjv/tree/v1", "hf://test/kjv@v1"), ("datasets/kjv", None)):
            r = (run(t, h, f"http://huggingface.co/{page}", env=env) if command == "run" else
                 t.run(command, f"http://huggingface.co/{page}", *more, env=env))
            errors = [x for x in r.err.splitlines() if x.startswith("penstock: ")]
            t.check(r.rc == 3 and ("the Hub is reached as" in r.err) == bool(says) and len(errors) == 1
                    and (not says or errors[0].endswith(f"the Hub is reached as {says}")), f"{command}: the address of a page: {r}")


def presplit(t):
    """A pre-split model in a repository, from the CDN and from the Hub's cache."""
    r = t.run("split", Setting.model, t.path("presplit"), "--codec", "wh", "--quiet")
    t.equal(r.rc, 0, f"split: {r}")
    h = hub_in_small.Hub(t)
    h.push("test/split", t.path("presplit"))
    fine(t, run(t, h, "hf://test/split", cache="presplit-cache"), "pre-split")
    asked = h.resolves()
    t.equal(len(asked), len({x[2] for x in asked}), f"pre-split: one question per file: {asked}")
    t.equal(statuses(h), {206}, "pre-split: the shards come from the CDN")
    h.fill_cache("test/split", t.path("hub-split"))
    r = run(t, h, "hf://test/split", cache="presplit-held", env={"HF_HUB_CACHE": t.path("hub-split")})
    fine(t, r, "pre-split, from the Hub's cache")
    t.equal((statuses(h), r.stats["cache_bytes"]), (set(), 0), "and nothing is fetched or kept twice")


def whole_files(t):
    h = new_hub(t)
    r = run(t, h, "hf://test/kjv", "--check", "--json", command="warm", cache="whole", disk="100%")
    t.equal(r.rc == 0 and (r.json["files_checked"], r.json["complete"]), (1, True), f"warm --check: {r}")
    counts = h.cdn.fetched(suffix=("",))
    t.check(not counts.often(1), f"checked from the cache: {counts.often(1)[:3]}")
    blob = os.path.join(h.blobs, os.listdir(h.blobs)[0])
    with open(blob, "r+b") as f:
        f.seek(3000000)
        byte = f.read(1)
        f.seek(3000000)
        f.write(bytes([byte[0] ^ 1]))
    r = run(t, h, "hf://test/kjv", "--check", "--json", command="warm", cache="whole-bad", disk="100%")
    badhttp.check_failed(t, r, 4, ("SHA-256", WEIGHTS), stats=False, what="wrong bytes at the CDN")
    with open(blob, "r+b") as f:
        f.seek(3000000)
        f.write(byte)
    r = run(t, h, "hf://test/kjv", "--check", "--json", command="warm", cache="whole-bad", disk="100%")
    t.equal(r.rc == 0 and r.json["files_checked"], 1, f"wrong bytes are dropped and fetched anew: {r}")
    fine(t, run(t, h, cache="whole-bad", disk="100%"), "and the text is right")


def hanging(t):
    """A question for an address that gets no reply holds nobody up who does not need it: not the end of a run, nor SIGINT, nor an
    error that makes it idle."""
    def never(q, r):
        if q.method == "HEAD" and q.name.endswith(WEIGHTS) and q.n > 0:
            r.delay = 60

    def start(h, n):
        return peer.spawn([t.program, "run", "hf://test/kjv", "-p", PROMPT, "-n", str(n), "--temp", "0", "--ignore-eos", "--ram", "min", "--quiet",
                           "--disk", "0", "--cache", t.path("hanging")], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={"HOME": t.path("home"), "HF_ENDPOINT": h.url})

    def hangs(h):
        until = time.monotonic() + 30
        while time.monotonic() < until and not any(q.method == "HEAD" and q.name.endswith(WEIGHTS) and q.n > 0 for q in list(h.log)):
            time.sleep(0.02)

    h = new_hub(t, scenario=never)
    h.link_seconds = 4  # asked for again after three; good for three and a half
    p = start(h, 3000)
    hangs(h)
    began = time.monotonic()
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=60)[1].decode()
    t.check(p.returncode == 130 and time.monotonic() - began < 3 * SLOW, f"SIGINT: {p.returncode} after {time.monotonic() - began:.1f} s: {err[-300:]}")
    h = new_hub(t, scenario=lambda q, r: r.error(404) if q.name.endswith("config.json") else setattr(r, "delay", 60))
    r = run(t, h, cache="hanging-2")
    badhttp.check_failed(t, r, 3, ("config.json",), what="no config.json, the other question hangs")
    t.check(r.seconds < 5 * SLOW, f"it took {r.seconds:.1f} s")


def main():
    with peer.Test() as t:
        peer.copy_model(peer.KJV, t.path("kjv"))
        Setting.model = t.path("kjv")
        Setting.text = t.run("run", Setting.model, "-p", PROMPT, "-n", N, "--temp", "0", "--ignore-eos").text
        t.check(len(Setting.text) > 10, "the text to compare with")
        wanted = sys.argv[1:]
        for part in (plain_run, many_files, other_mirror, refusals, names, moving_branch, cache_of_the_hub, moved_on, rate_limits, public_hub,
                     presplit, whole_files, hanging):
            if not wanted or part.__name__ in wanted:
                part(t)
        for tells in (True, False):
            if not wanted or "expiry" in wanted:
                expiry(t, tells)
        t.check(not os.path.exists(t.path("home")) and not os.path.exists(t.path("tmp")), "nothing in HOME or TMPDIR")


main()
