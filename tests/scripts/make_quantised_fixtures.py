#!/usr/bin/env python3
"""Writes the quantised models of tests/fixtures/models: tiny random decoders in the forms in which checkpoints come, with logits by transformers.

    make_quantised_fixtures.py OUT        (needs torch, transformers, accelerate and compressed-tensors; run once, the result is committed)

Weights are cut to FP8 or MXFP4 here, in the layouts that the formats' checkpoints have; what they mean is transformers' to say: it reads the folder,
expands the weights to float32 by its own code and runs them (MXFP4, which it knows for gpt-oss alone: by its convert_moe_packed_tensors, in a model of
plain weights). Same files as make_model_fixtures.py.
"""
import json
import pathlib
import shutil
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, CompressedTensorsConfig, FineGrainedFP8Config, LlamaConfig, LlamaForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM)
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

BASE = dict(hidden_size=256, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=32, vocab_size=61,
            max_position_embeddings=64, rms_norm_eps=1e-5, initializer_range=0.06, bos_token_id=1, eos_token_id=2, pad_token_id=0,
            tie_word_embeddings=True, attn_implementation="eager")


def is_linear(name):
    return name.endswith("_proj.weight")


def to_fp8(w, scale):
    """w / scale as e4m3 and the scale, where `scale` broadcasts over w."""
    return (w / scale).to(torch.float8_e4m3fn)


def fp8_blocks(tensors):
    out = {}
    for name, w in tensors.items():
        if not is_linear(name):
            out[name] = w.to(torch.bfloat16)
            continue
        grid = [max(1, n // 128) for n in w.shape]
        blocks = w.reshape(grid[0], w.shape[0] // grid[0], grid[1], w.shape[1] // grid[1])
        scale = (blocks.abs().amax((1, 3), keepdim=True) / 448).to(torch.bfloat16 if "mlp" in name else torch.float32)
        out[name] = to_fp8(blocks, scale.float()).reshape(w.shape)
        out[name + "_scale_inv"] = scale.reshape(grid)
    return out


def fp8_whole(tensors, per_row):
    """Scales in float32: with bfloat16 ones compressed-tensors expands to bfloat16, which rounds every weight once more."""
    out = {}
    for name, w in tensors.items():
        if not is_linear(name):
            out[name] = w.to(torch.bfloat16)
            continue
        scale = ((w.abs().amax(1, keepdim=True) if per_row else w.abs().amax().reshape(1)) / 448).float()
        out[name] = to_fp8(w, scale)
        out[name + "_scale"] = scale
    return out


def mxfp4(tensors):
    out = {}
    for name, w in tensors.items():
        if not is_linear(name):
            out[name] = w.to(torch.bfloat16)
            continue
        values = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
        blocks = w.reshape(w.shape[0], -1, 32)
        exponent = torch.floor(torch.log2(blocks.abs().amax(2) / 4))
        codes = ((blocks / torch.exp2(exponent)[..., None]).abs()[..., None] - values).abs().argmin(-1) | (blocks < 0).long() << 3
        stem = name.removesuffix(".weight")
        out[stem + "_blocks"] = (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8)
        out[stem + "_scales"] = (exponent + 127).to(torch.uint8)
    return out


def compressed(strategy):
    weights = dict(num_bits=8, type="float", strategy=strategy, symmetric=True, dynamic=False)
    return dict(quant_method="compressed-tensors", format="float-quantized", quantization_status="compressed", ignore=["lm_head"],
                config_groups=dict(group_0=dict(targets=["Linear"], weights=weights, input_activations=None, output_activations=None)))


MODELS = {
    "qwen3_fp8_blocks": (Qwen3Config, Qwen3ForCausalLM, fp8_blocks,
                         dict(quant_method="fp8", activation_scheme="dynamic", fmt="e4m3", weight_block_size=[128, 128])),
    "llama_fp8_channel": (LlamaConfig, LlamaForCausalLM, lambda t: fp8_whole(t, True), compressed("channel")),
    "llama_fp8_tensor": (LlamaConfig, LlamaForCausalLM, lambda t: fp8_whole(t, False), compressed("tensor")),
    "llama_mxfp4": (LlamaConfig, LlamaForCausalLM, mxfp4, dict(quant_method="mxfp4")),
}


def reference(folder, model_class, config, quant):
    method = quant["quant_method"]
    if method == "mxfp4":
        plain = {}
        for name, t in load_file(folder / "model.safetensors").items():
            if name.endswith("_blocks"):
                scales = load_file(folder / "model.safetensors")[name.removesuffix("_blocks") + "_scales"]
                plain[name.removesuffix("_blocks") + ".weight"] = convert_moe_packed_tensors(t[None], scales[None], dtype=torch.float32)[0].T.contiguous()
            elif not name.endswith("_scales"):
                plain[name] = t.float()
        with tempfile.TemporaryDirectory() as d:
            d = pathlib.Path(d)
            save_file(plain, d / "model.safetensors", metadata={"format": "pt"})
            config.save_pretrained(d)
            return model_class.from_pretrained(d, dtype=torch.float32, attn_implementation="eager")
    how = FineGrainedFP8Config(weight_block_size=(128, 128), dequantize=True) if method == "fp8" else CompressedTensorsConfig(run_compressed=False)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", quantization_config=how)


def make(name, out):
    config_class, model_class, cut, quant = MODELS[name]
    torch.manual_seed(sum(name.encode()))
    config = config_class(**BASE)
    model = model_class(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.copy_(torch.randn_like(p) * 0.3 + 1.0)
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    config.save_pretrained(folder)
    tensors = {k: v.detach().float() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file({k: v.contiguous() for k, v in cut(tensors).items()}, folder / "model.safetensors", metadata={"format": "pt"})
    c = json.loads((folder / "config.json").read_text())
    c.update(architectures=[model_class.__name__], quantization_config=quant, dtype="bfloat16")
    (folder / "config.json").write_text(json.dumps(c, indent=2) + "\n")
    ids = torch.randint(3, BASE["vocab_size"], (1, 33))
    ran = reference(folder, model_class, config, quant).eval()
    weight = ran.model.layers[0].mlp.up_proj.weight
    assert weight.dtype == torch.float32, weight.dtype
    with torch.no_grad():
        logits = ran(ids).logits[0]
    print(name, "weights off by", float((weight - tensors["model.layers.0.mlp.up_proj.weight"]).norm() / weight.norm()), "logits", float(logits.std()))
    (folder / "tokens.txt").write_text(",".join(map(str, ids[0].tolist())) + "\n")
    (folder / "logits.f32").write_bytes(logits.float().contiguous().numpy().astype("<f4").tobytes())


def main():
    out = pathlib.Path(sys.argv[1])
    for name in MODELS:
        make(name, out)


if __name__ == "__main__":
    main()
