"""Whole runs of the program on a device, without a GPU: on the fake, which computes as the reference backend does, late and
in its own threads, and which finds a forgotten mark or a slot filled too early; and on the CUDA kernels themselves, run by
emulation.

On the fake: the same text as `--device cpu` with the reference backend, whatever --vram, --ram, --disk, -ub, -nkvo and the
speed of copies; the bytes that cross the bus are the planned ones; device memory stays within --vram; nothing stays pinned
or allocated; -ngl gives one text per number of layers. Faults: every allocation refused, a call that fails at once or late,
a device lost in the middle: exit status and one line, no hang, a clean cache. On the emulation: the logits of every model of
tests/fixtures/models within the bounds of the CPU backends, for all rows at once, and to the bit for the first three
alone."""
# ctest-timeout: 300
import itertools
import json
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import peer  # noqa: E402

PROMPT = "Genesis 1:1 In the beginning God created the heaven and the earth"
N = 10
FIXTURES = os.path.join(peer.SOURCE_DIR, "tests", "fixtures", "models")
FAKE, EMULATED = os.environ.get("PENSTOCK_FAKE_MODULE"), os.environ.get("PENSTOCK_EMULATED_MODULE")
SLACK = 64 << 10  # of the driver's own rounding: none on the fake


def fake_env(t, config=""):
    return {"PENSTOCK_DEVICE_MODULE": FAKE, "PENSTOCK_FAKE_DEVICE": config, "PENSTOCK_FAKE_TRACE": t.path("trace")}


def trace_of(t):
    with open(t.path("trace")) as f:
        return json.load(f)


def cpu_text(t, model, *args):
    r = t.run("run", model, "-p", PROMPT, "-n", N, "--ignore-eos", *args, env={"PENSTOCK_BACKEND": "ref"})
    t.check(r.rc == 0, f"runs on the CPU: {r}")
    return r.text


def on_fake(t, model, *args, config="", **kw):
    if os.path.exists(t.path("trace")):
        os.unlink(t.path("trace"))
    return t.run("run", model, "-p", PROMPT, "-n", N, "--ignore-eos", "--device", "fake", *args, env=fake_env(t, config), **kw)


def check_trace(t, what, budget=None):
    trace = trace_of(t)
    t.equal((trace["races"], trace["live_bytes"], trace["live_allocs"], trace["pinned_bytes"]), (0, 0, 0, 0), f"{what}: races, leaks")
    if budget is not None:
        t.check(trace["peak_bytes"] <= budget, f"{what}: {trace['peak_bytes']} bytes of device memory, --vram {budget}")
    return trace


def check_budgets(t, name, bases, mode):
    """One text for every budget; what the plan says of the bus is what crosses it."""
    want = cpu_text(t, bases["hf"], *mode)
    choices = itertools.product(("min", "50%", "1G"), ("min", None), ("0", "50%"), (1, 7, 512))
    speeds = itertools.cycle(("", "copy=100M", "op=20", "copy=200M,op=10"))
    for i, (vram, ram, disk, ubatch) in enumerate(choices):
        layout = ("hf", "lz4", "hf-local")[i % 3]
        extra = ("-nkvo",) if i % 5 == 4 else ()
        what = f"{name} {layout} --vram {vram} --ram {ram} --disk {disk} -ub {ubatch} {extra}"
        r = on_fake(t, bases[layout], *mode, "--vram", vram, "-ub", ubatch, *extra, config=next(speeds), ram=ram, disk=disk,
                    cache=t.path("cache", name))
        if not t.equal(r.rc, 0, f"{what}: {r}"):
            continue
        t.equal(r.text, want, what)
        plan, sweeps = r.stats["plan"], r.stats["sweeps"]
        check_trace(t, what, plan["vram_budget_bytes"])
        t.check(0 < r.stats["vram_bytes_max"] <= plan["vram_budget_bytes"], f"{what}: vram_bytes_max {r.stats['vram_bytes_max']}")
        # what stays crosses once
        stays = r.stats["bytes_to_device"] - plan["bytes_bus_per_sweep"] * sweeps
        t.check(0 <= stays <= plan["vram_bytes"] + SLACK, f"{what}: {stays} bytes beyond the plan crossed the bus")
        t.check(vram != "1G" or plan["bytes_bus_per_sweep"] == 0, f"{what}: everything stays")


def check_layers(t, bases):
    """-ngl: where a layer is computed is the user's choice alone, so budgets do not change that text either."""
    layers = 5
    seen = {}
    for ngl in (1, 3, layers - 1, layers, 99):
        for vram in ("min", "1G"):
            r = on_fake(t, bases["lz4"], "--temp", "0", "-ngl", ngl, "--vram", vram, cache=t.path("cache", "ngl"), disk="50%",
                        config="copy=80M")
            t.equal(r.rc, 0, f"-ngl {ngl}: {r}")
            t.equal(r.stats["plan"]["device_layers"], min(ngl, layers), f"-ngl {ngl}: layers on the device")
            t.equal(r.text, seen.setdefault(ngl, r.text), f"-ngl {ngl} --vram {vram}")
            check_trace(t, f"-ngl {ngl}", r.stats["plan"]["vram_budget_bytes"])
    # a tied head in VRAM, its rows taken by the CPU: once everything lies somewhere, nothing is fetched again
    net = [on_fake(t, bases["hf"], "--temp", "0", "-ngl", 3, "-n", n, disk="0").stats["bytes_net"] for n in (3, 24)]
    t.check(net[1] == net[0], f"-ngl 3, tied: {net[1] - net[0]} bytes fetched by 21 more tokens")
    r = on_fake(t, bases["hf-local"], "--temp", "0", "-ngl", 0)
    t.check(r.rc == 0 and "device" not in r.stats["plan"], f"-ngl 0 is the CPU: {r}")
    t.check("-ngl 0" in r.err and "--device" in r.err and r.err.count("\n") == 1, f"-ngl 0 wins, and that is said: {r}")
    r = t.run("run", bases["hf-local"], "-p", PROMPT, "-n", 1, "--device", "gpu")
    t.check(r.rc == 2 and "use cpu, cuda or cuda:N" in r.err, f"a device that nobody knows: {r}")
    r = t.run("run", bases["hf-local"], "-p", PROMPT, "-n", 1, "--device", "cpu", "-ngl", 0)
    t.check(r.rc == 0 and not r.err, f"no contradiction, no word: {r}")


def check_warm(t, bases):
    """What goes to the disk needs nothing of a device."""
    if os.path.exists(t.path("trace")):
        os.unlink(t.path("trace"))
    r = t.run("warm", bases["lz4"], "--json", "--quiet", "--device", "fake", "--vram", "50%", cache=t.path("cache", "warm"), disk="100%", env=fake_env(t))
    t.check(r.rc == 0 and r.json["complete"], f"warm: {r}")
    trace = check_trace(t, "warm")
    t.equal((trace["peak_bytes"], trace["n_pins"]), (0, 0), "warm: device memory and pins")


def check_tied(t, bases):
    """A tied head that streams: the next token's embedding row is kept as its panel passes, so that a sweep takes what the
    plan says and not an extent more. All layers on the device, and two of three."""
    for layout, args in itertools.product(("hf", "lz4"), ((), ("-ngl", 2))):
        runs = [on_fake(t, bases[layout], "--temp", "0", "-n", n, "--vram", "min", *args, ram="min", disk="0", cache=t.path("cache", "tied-net"))
                for n in (3, 15)]
        if not t.equal([r.rc for r in runs], [0, 0], f"tied {layout} {args}: {runs}"):
            continue
        check_trace(t, f"tied {layout} {args}", runs[1].stats["plan"]["vram_budget_bytes"])
        extra, want = runs[1].stats["bytes_net"] - runs[0].stats["bytes_net"], runs[0].stats["plan"]["bytes_net_per_sweep"]
        t.check(extra == 12 * want > 0, f"tied {layout} {args}: {extra} bytes by 12 more sweeps, the plan says {want} each")
        t.equal(runs[1].text, t.run("run", bases[layout], "-p", PROMPT, "-n", 15, "--ignore-eos", "--temp", "0",
                                    cache=t.path("cache", "tied-net"), disk="0", env={**fake_env(t), "PENSTOCK_BACKEND": "ref"}).text, "tied: the text")


def check_interrupt(t):
    """The host queues about two layers ahead of a slow device, so that is what an interrupt waits for. Sixteen layers, all of
    them on the device: nothing but the kernels takes time."""
    layers, op_s = 16, 0.02
    peer.random_llama(t.path("deep"), seed=3, dtype="bf16", hidden=64, layers=layers, inter=96, heads=2, kv_heads=1)
    r = on_fake(t, t.path("deep"), "--temp", "0", "-n", 2, config="op=300")
    t.equal(r.rc, 0, f"runs: {r}")
    trace = check_trace(t, "sixteen layers")
    each = trace["calls"] / 2 / layers
    t.check(trace["most_waiting"] <= 3 * each, f"{trace['most_waiting']} operations queued ahead, a layer has {each:.0f}")
    args = [os.environ["PENSTOCK"], "run", t.path("deep"), "-p", PROMPT, "-n", "4", "--device", "fake", "--quiet", "--cache", t.path("cache", "deep")]
    p = subprocess.Popen(args, env={**os.environ, **fake_env(t, f"op={op_s * 1e6:.0f}")}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(1.5)  # long after it has queued what it will
    begin = time.monotonic()
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    took, sweep = time.monotonic() - begin, layers * each * op_s
    t.note(f"interrupted after {took:.2f} s; a sweep takes {sweep:.1f} s, two layers {2 * each * op_s:.2f} s")
    t.check(p.returncode == 130 and took < 3 * each * op_s + 0.5, f"interrupted after {took:.2f} s of {sweep:.1f}: {p.returncode} {err}")


def check_too_small(t, bases):
    r = on_fake(t, bases["hf-local"], "--vram", "1M")
    t.check(r.rc == 5 and "--vram" in r.err and r.err.count("\n") == 1, f"--vram 1M names the least: {r}")
    least = int(r.err.split()[-1])
    t.equal(on_fake(t, bases["hf-local"], "--vram", least).rc, 0, "the least works")
    t.equal(on_fake(t, bases["hf-local"], "--vram", least - 1).rc, 5, "one byte less does not")
    r = on_fake(t, bases["hf-local"], config="vram=1M")
    t.check(r.rc == 5 and "1048576 bytes free" in r.err and str(least) in r.err, f"a full device: how full, and the least: {r}")
    t.equal(on_fake(t, bases["hf-local"], config=f"vram={least}").rc, 0, "less free than the margin")


def check_faults(t, bases):
    """Whatever a device can do to us: an exit status, a line, nothing half-done, a cache that is clean."""
    want = cpu_text(t, bases["hf"], "--temp", "0")
    cache = t.path("cache", "faults")
    faults = [("open=1", 1)]
    faults += [(f"alloc={i}", 5) for i in (1, 2, 3, 4, 5)]
    faults += [(f"fail={op}:{i}", 1) for op in ("matmul", "copy_in", "attention", "mark") for i in (1, 40)]
    faults += [(f"late={op}:{i}", 1) for op in ("matmul", "copy_in", "to_f32", "copy_out") for i in (1, 7)]
    faults += [(f"lost={n}", 1) for n in (1, 5, 50, 500, 1500)]
    for config, status in faults:
        r = on_fake(t, bases["hf"], "--temp", "0", "--vram", "50%", config=config + ",copy=200M", cache=cache, disk="50%", seconds=30)
        t.check(r.rc == status and 1 <= r.err.count("\n") <= 4 and ("as configured" in r.err or "alloc" in config),
                f"{config}: exit {status} and a line, in the device's own words: {r}")
    for config in ("pin=1", "pin=3"):  # costs speed alone
        r = on_fake(t, bases["hf"], "--temp", "0", "--vram", "50%", config=config, cache=cache, disk="50%")
        t.check(r.rc == 0 and r.text == want, f"{config}: goes on: {r}")
    r = t.run("cache", "verify", cache=cache)
    t.equal(r.rc, 0, f"the cache is clean: {r}")
    r = on_fake(t, bases["hf"], "--temp", "0", "--vram", "50%", cache=cache, disk="50%")
    t.equal(r.text, want, "the text after all faults")
    r = on_fake(t, bases["hf-local"], "-nkvo", "--vram", "min", config="shared=1")
    t.check(r.rc == 5 and r.err.count("\n") == 1, f"no shared memory: {r}")
    for device in ("", "gpu", "fake:x", "cpu:0", "fake:-1"):
        r = t.run("run", bases["hf-local"], "-p", "x", "-n", 1, f"--device={device}", env={})
        t.check(r.rc in (1, 2) and r.err.count("\n") == 1 or (device == "" and r.rc == 0), f"--device {device!r}: {r}")


def check_emulated(t, name):
    """The CUDA kernels in the whole program: logits of all rows at once, and -ub 1."""
    folder = os.path.join(FIXTURES, name)
    with open(os.path.join(folder, "tokens.txt")) as f:
        ids = f.read().strip()
    want = peer.floats(os.path.join(folder, "logits.f32"))
    bound = 1e-3 * max(map(abs, want)) if "16" in name else 1e-4
    env = {"PENSTOCK_DEVICE_MODULE": EMULATED}
    r = t.run("logits", folder, "--tokens", ids, "--out", t.path("l"), "--device", "emulated", env=env, seconds=120)
    if not t.equal(r.rc, 0, f"{name} emulated: {r}"):
        return
    got = peer.floats(t.path("l"))
    worst = max(abs(a - b) for a, b in zip(got, want))
    t.check(len(got) == len(want) and worst <= bound, f"{name} emulated: differs by {worst:.3g}, allowed {bound:.3g}")
    few = ids.split(",")[:3]
    r = t.run("logits", folder, "--tokens", ",".join(few), "--out", t.path("l"), "--device", "emulated", env=env, seconds=120)
    vocab = len(want) // (ids.count(",") + 1)
    t.check(r.rc == 0 and peer.floats(t.path("l")) == got[: len(few) * vocab], f"{name} emulated: three rows alone, to the bit: {r}")


def main():
    if not FAKE or not EMULATED:
        peer.skip("PENSTOCK_FAKE_MODULE and PENSTOCK_EMULATED_MODULE do not name the modules")
    with peer.Test() as t:
        peer.copy_model(peer.KJV, t.path("m", "kjv", "hf"))
        peer.random_llama(t.path("m", "tied", "hf"), seed=21, dtype="bf16", hidden=192, layers=3, inter=520, heads=6, kv_heads=2,
                          tied=True)
        for name in ("kjv", "tied"):
            r = t.run("split", t.path("m", name, "hf"), t.path("m", name, "lz4"), "--codec", "lz4", "--quiet")
            t.equal(r.rc, 0, f"split: {r}")
        web = t.share(t.path("m"))

        def bases(name):
            return {"hf": f"{web.url}/{name}/hf", "lz4": f"{web.url}/{name}/lz4", "hf-local": t.path("m", name, "hf")}

        check_budgets(t, "kjv", bases("kjv"), ("--temp", "0"))
        check_budgets(t, "tied", bases("tied"), ("--temp", "0.8", "-s", "7"))
        check_tied(t, bases("tied"))
        check_layers(t, bases("kjv"))
        check_warm(t, bases("kjv"))
        check_interrupt(t)
        check_too_small(t, bases("kjv"))
        check_faults(t, bases("kjv"))
        for name in sorted(os.listdir(FIXTURES)):
            check_emulated(t, name)


main()
