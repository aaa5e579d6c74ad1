#!/usr/bin/env python3
"""Writes a random Llama in Hugging Face layout, straight to disk: for measurements, where only shapes matter.

    make_random_llama.py OUT [--hidden 2048] [--layers 22] [--inter 5632] [--heads 32] [--kv-heads 4] [--vocab 32000] [--shards 1] [--dtype bf16]

The default is the 1.1 B parameter shape (2.2 GB in bf16). Needs numpy. The same arguments give the same bytes.
"""
import argparse
import json
import pathlib
import struct

import numpy as np


def bf16(a):
    u = a.view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def tensors(o):
    head = o.hidden // o.heads
    yield "model.embed_tokens.weight", (o.vocab, o.hidden)
    for i in range(o.layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (o.hidden,)
        yield p + "self_attn.q_proj.weight", (o.heads * head, o.hidden)
        yield p + "self_attn.k_proj.weight", (o.kv_heads * head, o.hidden)
        yield p + "self_attn.v_proj.weight", (o.kv_heads * head, o.hidden)
        yield p + "self_attn.o_proj.weight", (o.hidden, o.heads * head)
        yield p + "post_attention_layernorm.weight", (o.hidden,)
        yield p + "mlp.gate_proj.weight", (o.inter, o.hidden)
        yield p + "mlp.up_proj.weight", (o.inter, o.hidden)
        yield p + "mlp.down_proj.weight", (o.hidden, o.inter)
    yield "model.norm.weight", (o.hidden,)
    yield "lm_head.weight", (o.vocab, o.hidden)


def write_file(path, items, rng, dtype):
    size = 2 if dtype == "bf16" else 4
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in items:
        n = int(np.prod(shape)) * size
        header[name] = {"dtype": dtype.upper(), "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape in items:
            rows = shape[0] if len(shape) == 2 else 1
            cols = shape[-1]
            step = max(1, (8 << 20) // (cols * 4))
            for r in range(0, rows, step):
                n = min(step, rows - r)
                a = rng.standard_normal((n, cols), dtype=np.float32)
                a = a * np.float32(0.02) if len(shape) == 2 else np.ones((n, cols), np.float32)
                f.write((bf16(a) if dtype == "bf16" else a).tobytes())
    return {name: path.name for name, _ in items}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out", type=pathlib.Path)
    for name, default in (("hidden", 2048), ("layers", 22), ("inter", 5632), ("heads", 32), ("kv-heads", 4), ("vocab", 32000), ("shards", 1),
                          ("seed", 1)):
        p.add_argument("--" + name, type=int, default=default)
    p.add_argument("--dtype", choices=("bf16", "f32"), default="bf16")
    o = p.parse_args()
    o.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(o.seed)
    items = list(tensors(o))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": o.hidden, "intermediate_size": o.inter,
              "num_hidden_layers": o.layers, "num_attention_heads": o.heads, "num_key_value_heads": o.kv_heads, "vocab_size": o.vocab,
              "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
              "tie_word_embeddings": False, "torch_dtype": {"bf16": "bfloat16", "f32": "float32"}[o.dtype], "bos_token_id": 1, "eos_token_id": 2}
    (o.out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    if o.shards == 1:
        write_file(o.out / "model.safetensors", items, rng, o.dtype)
        return
    weight_map, each = {}, -(-len(items) // o.shards)
    for s in range(o.shards):
        name = f"model-{s + 1:05d}-of-{o.shards:05d}.safetensors"
        weight_map.update(write_file(o.out / name, items[s * each:(s + 1) * each], rng, o.dtype))
    (o.out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1) + "\n")


if __name__ == "__main__":
    main()
