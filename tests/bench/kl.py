#!/usr/bin/env python3
"""How far quantised weights move a model's predictions: KL(original, quantised) in nats per token, mean over all positions of a text.

    PENSTOCK=build/release/penstock tests/bench/kl.py MODEL TEXT [q8b64 nf4b64 nf4-everything ...] [--first]

MODEL: a folder of safetensors files with a tokenizer. The text goes through it in 8 windows of 256 tokens, teacher-forced, by `penstock logits` with a
float32 KV cache. q8b64 and nf4b64 are what `penstock split` makes of the model. nf4-everything is the scheme of a well-known layer runner, for
comparison: every tensor, norms and embeddings too, in blocks of 64 by bitsandbytes' NF4 with float32 scales, without a search; written here as float32.
--first: the windows are the text's first 2048 tokens, not spread over all of it. Needs numpy. Not a test: prints one line per variant, bits per
weight of linear layers included, and a verdict against the two bars: q8b64 at most 0.002, nf4b64 at least 1.9 times nearer than nf4-everything.
Exits with 1 where one is missed.
"""
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

import numpy as np

WINDOWS, TOKENS = 8, 256
Q8_BAR, NF4_BAR = 0.002, 1.9
NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495,
                0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                0.7229568362236023, 1.0], np.float32)


def header_of(path):
    """(where the data begin, the header) of a safetensors file"""
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        return 8 + n, json.loads(f.read(n))


def read_safetensors(path):
    raw, (begin, header) = path.read_bytes(), header_of(path)
    for name, t in header.items():
        if name == "__metadata__":
            continue
        a, b = (begin + x for x in t["data_offsets"])
        if t["dtype"] == "BF16":
            values = (np.frombuffer(raw[a:b], "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw[a:b], {"F32": "<f4", "F16": "<f2"}[t["dtype"]]).astype(np.float32)
        yield name, t["shape"], values


def nf4_and_back(v):
    blocks = np.concatenate([v, np.zeros(-len(v) % 64, np.float32)]).reshape(-1, 64)
    scale = np.abs(blocks).max(1, keepdims=True)
    codes = np.searchsorted((NF4[1:] + NF4[:-1]) / 2, blocks / np.where(scale == 0, 1, scale))
    return (NF4[codes] * scale).reshape(-1)[:len(v)]


def everything_in_nf4(model, out):
    for f in model.iterdir():
        if f.suffix != ".safetensors" and "index" not in f.name and f.is_file():
            shutil.copy(f, out)
    header, at, parts = {}, 0, []
    for path in sorted(model.glob("*.safetensors")):
        for name, shape, v in read_safetensors(path):
            parts.append(nf4_and_back(v).astype("<f4").tobytes())
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(parts[-1])]}
            at += len(parts[-1])
    text = json.dumps(header).encode()
    with open(out / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.writelines(parts)


def source_bits(model):
    """Of a weight: of the largest tensor's type."""
    tensors = [t for path in model.glob("*.safetensors") for t in header_of(path)[1].values() if "dtype" in t]
    return 8 * {"F32": 4, "BF16": 2, "F16": 2}[max(tensors, key=lambda t: t["data_offsets"][1] - t["data_offsets"][0])["dtype"]]


def log_probabilities(program, model, ids, tmp):
    file = tmp / "logits.f32"
    subprocess.run([program, "logits", str(model), "--tokens", ",".join(map(str, ids)), "--out", str(file)], check=True, stdout=subprocess.DEVNULL)
    logits = np.fromfile(file, "<f4").reshape(len(ids), -1).astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def split(program, model, place, codec):
    """Splits. Bits per weight of the linear layers, from what the split reports of them."""
    report = json.loads(subprocess.check_output([program, "split", str(model), str(place), "--codec", codec, "--quiet", "--json"]))
    kinds = [k for k in report["kinds"] if k["kind"] in ("attention", "mlp", "experts")]
    return source_bits(model) * sum(k["bytes_out"] for k in kinds) / sum(k["bytes_in"] for k in kinds)


def verdict(kl):
    """Lines, and whether every bar that was measured is met."""
    lines, met = [], True
    if "q8b64" in kl:
        good = kl["q8b64"] <= Q8_BAR
        lines.append(f"q8b64: KL {kl['q8b64']:.5f}, bar <= {Q8_BAR}: {'met' if good else 'MISSED'}")
        met &= good
    if "nf4b64" in kl and "nf4-everything" in kl:
        ratio = kl["nf4-everything"] / kl["nf4b64"]
        lines.append(f"nf4b64: {ratio:.2f} times nearer than nf4-everything, bar >= {NF4_BAR}: {'met' if ratio >= NF4_BAR else 'MISSED'}")
        met &= ratio >= NF4_BAR
    return lines, met


def main():
    program, model, text = os.environ["PENSTOCK"], pathlib.Path(sys.argv[1]), sys.argv[2]
    first = "--first" in sys.argv
    variants = [v for v in sys.argv[3:] if v != "--first"] or ["q8b64", "nf4b64", "nf4-everything"]
    ids = json.loads(subprocess.check_output([program, "tokenize", str(model), "-f", text, "--no-bos", "--json"]))["tokens"]
    step = TOKENS if first else max(TOKENS, (len(ids) - TOKENS) // WINDOWS)
    windows = [ids[i * step:i * step + TOKENS] for i in range(WINDOWS) if len(ids) >= i * step + TOKENS]
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        places, bits = {}, {}
        for v in variants:
            places[v] = tmp / v
            if v == "nf4-everything":
                places[v].mkdir()
                everything_in_nf4(model, places[v])
                bits[v] = 4.5
            else:
                bits[v] = split(program, model, places[v], v)
        sums, same = dict.fromkeys(variants, 0.0), dict.fromkeys(variants, 0)
        for w in windows:
            want = log_probabilities(program, model, w, tmp)
            for v in variants:
                got = log_probabilities(program, places[v], w, tmp)
                sums[v] += float((np.exp(want) * (want - got)).sum())
                same[v] += int((want.argmax(1) == got.argmax(1)).sum())
    n = len(windows) * TOKENS
    for v in variants:
        print(f"{model.name:28} {v:16} {n} tokens: KL {sums[v] / n:.5f}, same first choice {100 * same[v] / n:.1f} %, "
              f"{bits[v]:.2f} bits per linear weight", flush=True)
    lines, met = verdict({v: sums[v] / n for v in variants})
    print("\n".join(lines))
    sys.exit(not met)


if __name__ == "__main__":
    main()
