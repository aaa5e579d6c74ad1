#!/usr/bin/env python3
"""How far quantised weights move a model's predictions: KL(original, quantised) in nats per token, mean over all positions of a text.

    PENSTOCK=build/release/penstock tests/bench/kl.py MODEL TEXT [q8b64 nf4b64 nf4-everything ...]

MODEL: a folder of safetensors files with a tokenizer. The text goes through it in 8 windows of 256 tokens, teacher-forced, by `penstock logits` with a
float32 KV cache. q8b64 and nf4b64 are what `penstock split` makes of the model. nf4-everything is the scheme of a well-known layer runner, for
comparison: every tensor, norms and embeddings too, in blocks of 64 by bitsandbytes' NF4 with float32 scales, without a search; written here as float32.
Needs numpy. Not a test: prints one line per variant.
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
NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495,
                0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                0.7229568362236023, 1.0], np.float32)


def read_safetensors(path):
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    for name, t in json.loads(raw[8:8 + n]).items():
        if name == "__metadata__":
            continue
        a, b = (8 + n + x for x in t["data_offsets"])
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


def log_probabilities(program, model, ids, tmp):
    file = tmp / "logits.f32"
    subprocess.run([program, "logits", str(model), "--tokens", ",".join(map(str, ids)), "--out", str(file)], check=True, stdout=subprocess.DEVNULL)
    logits = np.fromfile(file, "<f4").reshape(len(ids), -1).astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def main():
    program, model, text = os.environ["PENSTOCK"], pathlib.Path(sys.argv[1]), sys.argv[2]
    variants = sys.argv[3:] or ["q8b64", "nf4b64", "nf4-everything"]
    ids = json.loads(subprocess.check_output([program, "tokenize", str(model), "-f", text, "--no-bos", "--json"]))["tokens"]
    step = max(TOKENS, (len(ids) - TOKENS) // WINDOWS)
    windows = [ids[i * step:i * step + TOKENS] for i in range(WINDOWS) if len(ids) >= i * step + TOKENS]
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        places = {}
        for v in variants:
            places[v] = tmp / v
            if v == "nf4-everything":
                places[v].mkdir()
                everything_in_nf4(model, places[v])
            else:
                subprocess.run([program, "split", str(model), str(places[v]), "--codec", v], check=True, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
        sums, same = dict.fromkeys(variants, 0.0), dict.fromkeys(variants, 0)
        for w in windows:
            want = log_probabilities(program, model, w, tmp)
            for v in variants:
                got = log_probabilities(program, places[v], w, tmp)
                sums[v] += float((np.exp(want) * (want - got)).sum())
                same[v] += int((want.argmax(1) == got.argmax(1)).sum())
    n = len(windows) * TOKENS
    for v in variants:
        print(f"{model.name:28} {v:16} {n} tokens: KL {sums[v] / n:.5f}, same first choice {100 * same[v] / n:.1f} %", flush=True)


if __name__ == "__main__":
    main()
