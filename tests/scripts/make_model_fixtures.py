#!/usr/bin/env python3
"""Writes tests/fixtures/models: tiny random decoders of every supported family, with logits by transformers in float32.

    make_model_fixtures.py OUT        (needs torch and transformers; run once, the result is committed)

Each folder NAME holds config.json and model.safetensors as transformers saves them, tokens.txt (one line of ids) and logits.f32: little-endian float32
[positions][vocab], computed from the weights as stored (a bf16 model is widened, then run in float32) with eager attention. Sizes are odd on purpose:
no dimension is a multiple of a vector register, windows are shorter than the text.
"""
import json
import pathlib
import sys

import torch
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM)

BASE = dict(hidden_size=36, intermediate_size=54, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, vocab_size=101,
            max_position_embeddings=64, rms_norm_eps=1e-5, initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=0)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16)

MODELS = {
    "llama_default": (LlamaConfig, LlamaForCausalLM, {}, torch.float32),
    "llama_linear_tied": (LlamaConfig, LlamaForCausalLM, dict(tie_word_embeddings=True,
                          rope_parameters=dict(rope_type="linear", rope_theta=500000.0, factor=4.0)), torch.float32),
    "llama_llama3_bf16": (LlamaConfig, LlamaForCausalLM, dict(rope_parameters=LLAMA3), torch.bfloat16),
    "llama_yarn_bias": (LlamaConfig, LlamaForCausalLM, dict(rope_parameters=YARN, attention_bias=True, mlp_bias=True), torch.float32),
    "llama_headdim_f16": (LlamaConfig, LlamaForCausalLM, dict(head_dim=10, num_key_value_heads=6), torch.float16),
    "mistral_window": (MistralConfig, MistralForCausalLM, dict(sliding_window=5, head_dim=8), torch.float32),
    "mistral_full_bf16": (MistralConfig, MistralForCausalLM, dict(sliding_window=None, head_dim=14, num_key_value_heads=1), torch.bfloat16),
    "qwen2_window_layers": (Qwen2Config, Qwen2ForCausalLM, dict(use_sliding_window=True, sliding_window=7, max_window_layers=1), torch.float32),
    "qwen2_yarn_tied_bf16": (Qwen2Config, Qwen2ForCausalLM, dict(rope_parameters=YARN, tie_word_embeddings=True), torch.bfloat16),
    "qwen3_qk_norm": (Qwen3Config, Qwen3ForCausalLM, dict(head_dim=10), torch.float32),
    "qwen3_tied_yarn_mscale_bf16": (Qwen3Config, Qwen3ForCausalLM, dict(head_dim=16, tie_word_embeddings=True,
                                    rope_parameters=dict(YARN, attention_factor=1.2, beta_fast=16, beta_slow=2)), torch.bfloat16),
    "smollm_like": (LlamaConfig, LlamaForCausalLM, dict(hidden_size=45, num_attention_heads=9, num_key_value_heads=3, head_dim=6,
                    tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=100000.0)), torch.float32),
}


def make(name, out):
    config_class, model_class, extra, dtype = MODELS[name]
    torch.manual_seed(sum(name.encode()))
    config = config_class(**{**BASE, **extra}, attn_implementation="eager")
    model = model_class(config).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.ndim == 1:  # norms of one and biases of nought would hide a forgotten one
                p.copy_(torch.randn_like(p) * 0.3 + (0.0 if key.endswith("bias") else 1.0))
    model = model.to(dtype)
    folder = out / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    ids = torch.randint(3, BASE["vocab_size"], (1, 33))
    # read back: model.to(bf16).float() would leave the rotary frequencies rounded to bf16, which no checkpoint's are
    reference = model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = reference(ids).logits[0]
    (folder / "tokens.txt").write_text(",".join(map(str, ids[0].tolist())) + "\n")
    (folder / "logits.f32").write_bytes(logits.contiguous().numpy().astype("<f4").tobytes())


def old_style_config(out):
    """The same linear-scaled model as an older repository would describe it: the reader takes both forms."""
    src, dst = out / "llama_linear_tied", out / "llama_linear_old_config"
    dst.mkdir(exist_ok=True)
    for f in src.iterdir():
        (dst / f.name).write_bytes(f.read_bytes())
    c = json.loads((src / "config.json").read_text())
    r = c.pop("rope_parameters")
    c["rope_theta"] = r["rope_theta"]
    c["rope_scaling"] = {"type": "linear", "factor": r["factor"]}
    c["torch_dtype"] = c.pop("dtype")
    (dst / "config.json").write_text(json.dumps(c, indent=1) + "\n")


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        make(name, out)
    old_style_config(out)


if __name__ == "__main__":
    main()
