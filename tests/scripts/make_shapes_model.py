#!/usr/bin/env python3
"""Writes a Llama-shaped model in Hugging Face layout for measurements and experiments, by the standard library alone.

    make_shapes_model.py OUT [--hidden 2048] [--layers 22] [--inter 5632] [--heads 32] [--kv-heads 4] [--head-dim 64] [--vocab 32000]
                         [--dtype bf16] [--tied] [--files 1] [--sparse] [--seed 1] [--tokenizer] [--config FILE]

--sparse writes zeros as holes: any size in no time, and no disk. --config takes the shape from a Hugging Face config.json
of a Llama. --tokenizer copies that of models/kjv (use --vocab 3072). The same arguments give the same bytes.
"""
import argparse
import json
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import peer  # noqa: E402

SHAPE = {"hidden": 2048, "layers": 22, "inter": 5632, "heads": 32, "kv_heads": 4, "vocab": 32000}


def shape_of(path):
    """The shape that a config.json describes."""
    with open(path) as f:
        c = json.load(f)
    return {"hidden": c["hidden_size"], "layers": c["num_hidden_layers"], "inter": c["intermediate_size"],
            "heads": c["num_attention_heads"], "kv_heads": c.get("num_key_value_heads", c["num_attention_heads"]),
            "head_dim": c.get("head_dim"), "vocab": c["vocab_size"], "tied": bool(c.get("tie_word_embeddings"))}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    for name, default in SHAPE.items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    p.add_argument("--head-dim", type=int)
    p.add_argument("--dtype", choices=("bf16", "f16", "f32"), default="bf16")
    p.add_argument("--tied", action="store_true")
    p.add_argument("--files", type=int, default=1)
    p.add_argument("--sparse", action="store_true")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--tokenizer", action="store_true")
    p.add_argument("--config")
    o = p.parse_args()
    shape = {name: getattr(o, name) for name in (*SHAPE, "head_dim", "tied")}
    if o.config:
        shape = shape_of(o.config)
    config = peer.llama_config(dtype=o.dtype, **shape)
    peer.write_llama(o.out, config, o.dtype, None if o.sparse else random.Random(o.seed), o.files)
    if o.tokenizer:
        peer.copy_tokenizer(o.out)
    print(f"{o.out}: {peer.stored_bytes(o.out) / 1e9:.3f} GB of weights")


if __name__ == "__main__":
    main()
