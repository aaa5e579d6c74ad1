"""Quantised models as a user has them. Checkpoints in FP8 and MXFP4 (tests/fixtures/models, made in the forms of Qwen3-FP8,
compressed-tensors and gpt-oss): the same bits of logits from the plain folder, from a pre-split copy, for other threads, panels
and budgets. Models rounded by `split` to Q8B64 and NF4B64: near to the original, 8 bits nearer than 4; the same text for every
budget, on the CPU and on devices. And what is wrong with such files is said by name, with the right exit status."""
# ctest-timeout: 120
import json
import os
import shutil
import struct
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import peer  # noqa: E402

FIXTURES = os.path.join(peer.SOURCE_DIR, "tests", "fixtures", "models")
QUANTISED = ("qwen3_fp8_blocks", "llama_fp8_channel", "llama_fp8_tensor", "llama_mxfp4")
KJV_IDS = "1,52,63,74,85,96,107,118,129,140,151,162"
EMULATED, FAKE = os.environ.get("PENSTOCK_EMULATED_MODULE"), os.environ.get("PENSTOCK_FAKE_MODULE")


def logits(t, model, ids, *args, **kw):
    out = t.path("logits.f32")
    if os.path.exists(out):
        os.unlink(out)
    r = t.run("logits", model, "--tokens", ids, "--out", out, *args, **kw)
    t.equal(r.rc, 0, f"logits of {model} {args}: {r}")
    return np.fromfile(out, "<f4") if r.rc == 0 else np.zeros(1, np.float32)


def ids_of(name):
    with open(os.path.join(FIXTURES, name, "tokens.txt")) as f:
        return f.read().strip()


def check_checkpoints(t):
    for name in QUANTISED:
        plain, ids = os.path.join(FIXTURES, name), ids_of(name)
        want = logits(t, plain, ids)
        for args in (("-t", 1), ("-t", 3), ("--ram", "min")):
            t.check(np.array_equal(logits(t, plain, ids, *args), want), f"{name} {args}: other logits")
        for codec in ("wh", "raw"):
            copy = t.path("split", name, codec)
            r = t.run("split", plain, copy, "--codec", codec, "--quiet")
            t.equal(r.rc, 0, f"split of {name}: {r}")
            t.check(np.array_equal(logits(t, copy, ids), want), f"{name} split, {codec}: other logits")


def check_rounded(t):
    original = logits(t, peer.KJV, KJV_IDS)
    scale = original.std()
    far = {}
    for codec in ("q8b64", "nf4b64"):
        copy = t.path("split", "kjv", codec)
        r = t.run("split", peer.KJV, copy, "--codec", codec, "--quiet")
        t.equal(r.rc, 0, f"split to {codec}: {r}")
        got = logits(t, copy, KJV_IDS)
        far[codec] = float(np.sqrt(((got - original) ** 2).mean()) / scale)
        ref = logits(t, copy, KJV_IDS, env={"PENSTOCK_BACKEND": "ref"})
        t.check(float(np.abs(got - ref).max()) < 1e-3 * scale, f"{codec}: far from the reference backend")
        for args in (("-t", 1), ("--ram", "min")):
            t.check(np.array_equal(logits(t, copy, KJV_IDS, *args), got), f"{codec} {args}: other logits")
        if EMULATED:
            env = {"PENSTOCK_DEVICE_MODULE": EMULATED}
            on_device = logits(t, copy, KJV_IDS, "--device", "cuda", env=env)
            t.check(float(np.abs(on_device - ref).max()) < 1e-3 * scale, f"{codec}: far from the reference on a device")
    t.note(f"rounded logits are off by {far} of their deviation")
    t.check(0 < far["q8b64"] < 0.03, f"Q8B64 is off by {far['q8b64']}")
    t.check(4 * far["q8b64"] < far["nf4b64"] < 0.5, f"NF4B64 is off by {far['nf4b64']}")


def check_texts(t):
    """One text for every tier: RAM, ring, disk, device memory."""
    for model in (t.path("split", "kjv", "q8b64"), t.path("split", "kjv", "nf4b64")):
        args = ("-p", "And God said", "-n", 12, "--ignore-eos", "--temp", 0)
        ref = {"PENSTOCK_BACKEND": "ref"}
        want = t.run("run", model, *args, env=ref)
        t.equal(want.rc, 0, f"runs: {want}")
        for more in (("--ram", "min"), ("--ram", "25%"), ("-ub", 3)):
            t.equal(t.run("run", model, *args, *more, env=ref).text, want.text, f"{more}")
        for vram in ("min", "50%", "1G"):
            if FAKE:
                got = t.run("run", model, *args, "--device", "fake", "--vram", vram, env={**ref, "PENSTOCK_DEVICE_MODULE": FAKE})
                t.equal((got.rc, got.text), (0, want.text), f"--vram {vram}: {got}")


def rewrite(src, dst, change_header=None, change_config=None):
    shutil.copytree(src, dst)
    path = os.path.join(dst, "model.safetensors")
    if change_header:
        with open(path, "rb") as f:
            raw = f.read()
        n = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8:8 + n])
        change_header(header)
        text = json.dumps(header).encode()
        with open(path, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + raw[8 + n:])
    if change_config:
        path = os.path.join(dst, "config.json")
        with open(path) as f:
            c = json.load(f)
        change_config(c)
        with open(path, "w") as f:
            json.dump(c, f)


def check_wrong(t):
    gate, up = "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"

    def without(name):
        def change(h):
            h["unused"] = h.pop(name)
        return change

    def shaped(name, shape):
        def change(h):
            h[name]["shape"] = shape
        return change

    def typed(name, dtype):
        def change(h):
            h[name]["dtype"] = dtype
        return change

    def method(**fields):
        return lambda c: c.update(quantization_config=fields)

    cases = (
        ("no scales", "qwen3_fp8_blocks", without(gate + ".weight_scale_inv"), None, 4, "weight_scale"),
        ("no scales, and none spoken of", "qwen3_fp8_blocks", without("model.layers.0.self_attn.q_proj.weight_scale_inv"),
         lambda c: c.pop("quantization_config"), 1, "F8_E4M3"),
        ("scales of another shape", "qwen3_fp8_blocks", shaped(gate + ".weight_scale_inv", [2, 1]), None, 1, "weight_scale_inv"),
        ("blocks of another size", "qwen3_fp8_blocks", None, method(quant_method="fp8", weight_block_size=[64, 64]), 1, "weight_scale_inv"),
        ("blocks that are no numbers", "qwen3_fp8_blocks", None, method(quant_method="fp8", weight_block_size=["a", 2]), 4, "block size"),
        ("blocks of nothing", "qwen3_fp8_blocks", None, method(quant_method="fp8", weight_block_size=[0, -1]), 4, "block size"),
        ("scales of integers", "llama_fp8_tensor", typed(gate + ".weight_scale", "I32"), None, 1, "I32"),
        ("codes of another type", "llama_fp8_tensor", typed(up + ".weight", "F8_E5M2"), None, 1, "F8_E5M2"),
        ("a norm in FP8", "llama_fp8_tensor", lambda h: h["model.norm.weight"].update(dtype="U16"), None, 1, "model.norm.weight"),
        ("int4 by compressed-tensors", "llama_fp8_tensor", None, method(quant_method="compressed-tensors", format="pack-quantized"), 1,
         "pack-quantized"),
        ("another method", "llama_fp8_tensor", None, method(quant_method="awq"), 1, "awq"),
        ("no blocks", "llama_mxfp4", without(gate + "_blocks"), None, 4, "gate_proj.weight is missing"),
        ("no exponents", "llama_mxfp4", without(gate + "_scales"), None, 4, "gate_proj.weight is missing"),
        ("blocks of another shape", "llama_mxfp4", shaped(gate + "_blocks", [64, 16, 16]), None, 4, "gate_proj_blocks"),
        ("exponents of another shape", "llama_mxfp4", shaped(gate + "_scales", [64, 16]), None, 4, "gate_proj_scales"),
        ("blocks of signed bytes", "llama_mxfp4", typed(gate + "_blocks", "I8"), None, 1, "I8"),
    )
    for i, (what, model, header, config, rc, word) in enumerate(cases):
        folder = t.path("wrong", str(i))
        rewrite(os.path.join(FIXTURES, model), folder, header, config)
        r = t.run("logits", folder, "--tokens", "3,4")
        t.equal(r.rc, rc, f"{what}: {r}")
        t.check(word in r.err and r.err.count("\n") <= 4, f"{what}: {r.err!r}")


def main():
    with peer.Test() as t:
        os.makedirs(t.path("wrong"))
        check_checkpoints(t)
        check_rounded(t)
        check_texts(t)
        check_wrong(t)


main()
