#!/usr/bin/env python3
"""Train the demonstration model of this folder from Debian's King James Bible.

Everything comes from two Debian packages and this file: bible-kjv (the
`bible` program) prints bible-kjv-text, the text is cut into a training part
and held-out books, a byte-level BPE is trained on the training part, then a
small Llama.  The same seed gives the same data order and the same dropout,
also across --resume; two machines still differ in the last bits of a sum.

requirements: Debian packages bible-kjv and bible-kjv-text; python packages
numpy, torch >= 2.9 (torch.optim.Muon), tokenizers, safetensors.

    python3 train.py --work DIR --out DIR/model
    python3 train.py --work DIR --out DIR/model --resume
    python3 train.py --work DIR --out DIR/model --export-only

README.md gives the three commands that made the weights here.
"""
import argparse
import json
import math
import os
import re
import subprocess
import time

BEGIN, END = "<|begin|>", "<|end|>"

BOOKS = """Ge Genesis|Exo Exodus|Lev Leviticus|Num Numbers|Deu Deuteronomy
Josh Joshua|Jdgs Judges|Ruth Ruth|1Sm 1 Samuel|2Sm 2 Samuel|1Ki 1 Kings
2Ki 2 Kings|1Chr 1 Chronicles|2Chr 2 Chronicles|Ezra Ezra|Neh Nehemiah
Est Esther|Job Job|Psa Psalms|Prv Proverbs|Eccl Ecclesiastes
SSol Song of Solomon|Isa Isaiah|Jer Jeremiah|Lam Lamentations|Eze Ezekiel
Dan Daniel|Hos Hosea|Joel Joel|Amos Amos|Obad Obadiah|Jonah Jonah|Mic Micah
Nahum Nahum|Hab Habakkuk|Zep Zephaniah|Hag Haggai|Zec Zechariah|Mal Malachi
Mat Matthew|Mark Mark|Luke Luke|John John|Acts Acts|Rom Romans
1Cor 1 Corinthians|2Cor 2 Corinthians|Gal Galatians|Eph Ephesians
Phi Philippians|Col Colossians|1Th 1 Thessalonians|2Th 2 Thessalonians
1Tim 1 Timothy|2Tim 2 Timothy|Titus Titus|Phmn Philemon|Heb Hebrews|Jas James
1Pet 1 Peter|2Pet 2 Peter|1Jn 1 John|2Jn 2 John|3Jn 3 John|Jude Jude
Rev Revelation"""
BOOKS = dict(b.split(" ", 1) for b in BOOKS.replace("\n", "|").split("|"))

VALID = ("Ecclesiastes", "Galatians")   # decides when to stop
TEST = ("Ruth", "James")                # only ever measured

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "max_position_embeddings": 512,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 3072,
}


# --- text -----------------------------------------------------------------

def extract():
    """All verses in order: (book, "chapter:verse", text)."""
    out = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], check=True,
                         stdin=subprocess.DEVNULL, capture_output=True)
    verses = []
    for line in out.stdout.decode("ascii").splitlines():
        m = re.fullmatch(r"(\d?[A-Za-z]+)(\d+:\d+) (.+)", line.strip())
        verses.append((BOOKS[m[1]], m[2], " ".join(m[3].split())))
    assert len(verses) == 31102, len(verses)
    return verses


def line_of(verse):
    return "%s %s %s\n" % verse


def split(verses, run=30):
    """Training, validation and test verses.

    A training verse that repeats `run` words of an earlier one is left out
    (the twelve like offerings of Numbers 7, say): a formula met twelve times
    is learnt by heart.
    """
    train, valid, test, seen = [], [], [], set()
    for v in verses:
        if v[0] in VALID:
            valid.append(v)
        elif v[0] in TEST:
            test.append(v)
        else:
            w = re.findall(r"[a-z']+", v[2].lower())
            grams = {tuple(w[i:i + run]) for i in range(len(w) - run + 1)}
            if not grams & seen:
                train.append(v)
            seen |= grams
    return train, valid, test


# --- tokenizer --------------------------------------------------------------

def train_tokenizer(verses, path):
    from tokenizers import (Tokenizer, decoders, models, pre_tokenizers,
                            processors, trainers)
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"], special_tokens=[BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False)
    tok.train_from_iterator((line_of(v) for v in verses), trainer)
    tok.post_processor = processors.TemplateProcessing(
        single=BEGIN + " $A", pair=BEGIN + " $A " + BEGIN + " $B",
        special_tokens=[(BEGIN, 0)])
    assert tok.get_vocab_size() == CONFIG["vocab_size"]
    tok.save(path)


class Stream:
    """Verses as one run of tokens: <|begin|> book <|end|> <|begin|> ..."""

    def __init__(self, tok, verses):
        import numpy as np
        enc = lambda s: tok.encode(s, add_special_tokens=False).ids
        ids, starts, names, words, book = [], [], [], [], None
        for v in verses:
            if v[0] != book:
                if book:
                    ids.append(1), words.append(False)
                ids.append(0), words.append(False)
                book = v[0]
            label, text = enc("%s %s" % v[:2]), enc(" " + v[2])
            assert label + text + enc("\n") == enc(line_of(v))
            starts.append(len(ids))
            names.append(len(enc(v[0])))
            ids += label + text + enc("\n")
            words += [False] * len(label) + [True] * len(text) + [False]
        ids.append(1), words.append(False)
        self.ids = np.array(ids, np.int64)
        self.starts = np.array(starts)
        self.names = np.array(names)    # tokens of the book's name
        self.words = np.array(words)
        self.bytes = sum(len(line_of(v)) for v in verses)
        self.word_bytes = sum(1 + len(v[2]) for v in verses)
        proper = {w for v in verses for w in re.findall("[A-Z][a-z]{3,}", v[2])}
        self.proper = [enc(w) for w in sorted(proper)]

    def relabelled(self, p, n, rng):
        """n tokens from the verse at p on, the book under another name."""
        import numpy as np
        row, v = [], int(np.searchsorted(self.starts, p))
        name = self.proper[rng.integers(len(self.proper))]
        while len(row) < n:
            a, b = self.starts[v], self.starts[v + 1]
            row += name + self.ids[a + self.names[v]:b].tolist()
            if self.ids[b - 1] == 0:    # the next book begins
                name = self.proper[rng.integers(len(self.proper))]
            v += 1
        return row[:n]


# --- model --------------------------------------------------------------

def make_model(dropout):
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    c = CONFIG
    d, hd = c["hidden_size"], c["head_dim"]
    nh, nkv = c["num_attention_heads"], c["num_key_value_heads"]

    def linear(i, o, std=0.02):
        m = nn.Linear(i, o, bias=False)
        nn.init.normal_(m.weight, std=std)
        return m

    deep = 0.02 / math.sqrt(2 * c["num_hidden_layers"])

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj = linear(d, nh * hd)
            self.k_proj = linear(d, nkv * hd)
            self.v_proj = linear(d, nkv * hd)
            self.o_proj = linear(nh * hd, d, deep)

        def forward(self, x, cos, sin):
            b, t, _ = x.shape
            q = self.q_proj(x).view(b, t, nh, hd).transpose(1, 2)
            k = self.k_proj(x).view(b, t, nkv, hd).transpose(1, 2)
            v = self.v_proj(x).view(b, t, nkv, hd).transpose(1, 2)

            def rope(y):
                y1, y2 = y[..., :hd // 2], y[..., hd // 2:]
                return torch.cat((y1 * cos - y2 * sin, y2 * cos + y1 * sin),
                                 -1)
            k = rope(k).repeat_interleave(nh // nkv, 1)
            v = v.repeat_interleave(nh // nkv, 1)
            y = F.scaled_dot_product_attention(rope(q).to(v.dtype),
                                               k.to(v.dtype), v,
                                               is_causal=True)
            return self.o_proj(y.transpose(1, 2).reshape(b, t, nh * hd))

    class MLP(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj = linear(d, c["intermediate_size"])
            self.up_proj = linear(d, c["intermediate_size"])
            self.down_proj = linear(c["intermediate_size"], d, deep)

        def forward(self, x):
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.self_attn, self.mlp = Attention(), MLP()
            self.input_layernorm = nn.RMSNorm(d, eps=c["rms_norm_eps"])
            self.post_attention_layernorm = nn.RMSNorm(d,
                                                       eps=c["rms_norm_eps"])

        def forward(self, x, cos, sin):
            drop = lambda y: F.dropout(y, dropout, self.training)
            x = x + drop(self.self_attn(self.input_layernorm(x), cos, sin))
            return x + drop(self.mlp(self.post_attention_layernorm(x)))

    class Llama(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed_tokens = nn.Embedding(c["vocab_size"], d)
            nn.init.normal_(self.embed_tokens.weight, std=0.02)
            self.layers = nn.ModuleList(
                Layer() for _ in range(c["num_hidden_layers"]))
            self.norm = nn.RMSNorm(d, eps=c["rms_norm_eps"])
            f = c["rope_theta"] ** (-torch.arange(0, hd, 2) / hd)
            a = torch.arange(c["max_position_embeddings"])[:, None] * f
            self.register_buffer("cos", a.cos(), persistent=False)
            self.register_buffer("sin", a.sin(), persistent=False)

        def forward(self, ids):
            t = ids.shape[1]
            x = F.dropout(self.embed_tokens(ids), dropout, self.training)
            for layer in self.layers:
                x = layer(x, self.cos[:t], self.sin[:t])
            return F.linear(self.norm(x), self.embed_tokens.weight)

    return Llama()


def bits(forward, stream):
    """Bits for every token of a stream, each seen after at least 256 others
    (where the book has them), in windows that start at a verse."""
    import numpy as np
    import torch
    import torch.nn.functional as F
    n = CONFIG["max_position_embeddings"]
    ids, out = stream.ids, np.zeros(len(stream.ids))
    begins = np.flatnonzero(ids == 0)
    for a, b in zip(begins, list(begins[1:]) + [len(ids)]):
        starts = [s for s in stream.starts if a < s < b]
        pos = a + 1
        while pos < b:
            s = max([x for x in starts if x <= max(pos - 256, a + 1)])
            e = min(b, s + n)
            row = torch.tensor([[0] + list(ids[s:e])])
            with torch.no_grad():
                lp = F.log_softmax(forward(row[:, :-1]).float()[0], -1)
            got = -lp[torch.arange(e - s), row[0, 1:]].numpy() / math.log(2)
            out[pos:e] = got[pos - s:]
            pos = e
    return out


def bpb(forward, stream):
    """Bits per byte of whole lines, and of the verses without their labels.
    <|end|> is not counted."""
    b = bits(forward, stream)
    b[stream.ids <= 1] = 0
    return (float(b.sum()) / stream.bytes,
            float(b[stream.words].sum()) / stream.word_bytes)


# --- training -------------------------------------------------------------

def batch(stream, seed, step, rows, relabel):
    """Rows of <|begin|> and 512 tokens from some verse on.  An epoch lays a
    grid of 512 tokens over the text at a random offset and takes the verse
    before each point.  A part of the rows name the book by a proper name out
    of the verses: else the names are learnt by heart, and a book that was
    held out costs some 90 bits a label."""
    import numpy as np
    n = CONFIG["max_position_embeddings"]
    last = len(stream.ids) - 2 * n
    per = last // n // rows
    epoch, at = divmod(step, per)
    rng = np.random.default_rng([seed, epoch])
    grid = rng.integers(n) + n * np.arange(per * rows)
    s = stream.starts[np.searchsorted(stream.starts,
                                      np.clip(grid, 1, last), "right") - 1]
    s = rng.permutation(s)[at * rows:(at + 1) * rows]
    rng = np.random.default_rng([seed, epoch, at])
    x = np.zeros((rows, n + 1), np.int64)
    for i, p in enumerate(s):
        if rng.random() < relabel:
            x[i, 1:] = stream.relabelled(p, n, rng)
        else:
            x[i, 1:] = stream.ids[p:p + n]
    return x, per


def rounded(model):
    import copy
    import torch
    m = copy.deepcopy(model).eval()
    with torch.no_grad():
        for p in m.parameters():
            p.copy_(p.bfloat16().float())
    return m


def export(model, out, work):
    import shutil
    import torch
    from safetensors.torch import save_file
    os.makedirs(out, exist_ok=True)
    w = {"model." + k: v.detach().to(torch.bfloat16).contiguous()
         for k, v in model.state_dict().items()}
    save_file(w, out + "/model.safetensors.tmp", metadata={"format": "pt"})
    os.replace(out + "/model.safetensors.tmp", out + "/model.safetensors")
    shutil.copyfile(work + "/tokenizer.json", out + "/tokenizer.json")
    dump = lambda name, o: open(out + "/" + name, "w").write(
        json.dumps(o, indent=2) + "\n")
    dump("config.json", CONFIG)
    dump("generation_config.json", {
        "bos_token_id": 0, "eos_token_id": 1, "do_sample": True,
        "temperature": 0.8})
    special = lambda s: {"content": s, "lstrip": False, "normalized": False,
                         "rstrip": False, "single_word": False,
                         "special": True}
    dump("tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False,
        "added_tokens_decoder": {"0": special(BEGIN), "1": special(END)},
        "bos_token": BEGIN, "eos_token": END,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONFIG["max_position_embeddings"],
        "tokenizer_class": "PreTrainedTokenizerFast"})


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--work", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--seed", type=int, default=1611)
    ap.add_argument("--steps", type=int, default=1720)
    ap.add_argument("--decay", type=int, default=320,
                    help="last steps, in which the rate falls to nothing")
    ap.add_argument("--stop", type=int,
                    help="leave off after this step, to --resume later")
    ap.add_argument("--rows", type=int, default=8)
    ap.add_argument("--lr", type=float, default=3e-3)
    ap.add_argument("--wd", type=float, default=0.1)
    ap.add_argument("--dropout", type=float, default=0.15)
    ap.add_argument("--relabel", type=float, default=0.2)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--eval-every", type=int, default=200)
    ap.add_argument("--compile", type=int, default=1)
    ap.add_argument("--bf16", type=int, default=1)
    ap.add_argument("--resume", action="store_true")
    ap.add_argument("--export-only", action="store_true")
    a = ap.parse_args()

    import torch
    import torch.nn.functional as F
    from tokenizers import Tokenizer
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    os.makedirs(a.work, exist_ok=True)
    verses = extract()
    train, valid, test = split(verses)
    tokfile = a.work + "/tokenizer.json"
    if not os.path.exists(tokfile):
        train_tokenizer(train, tokfile)
    tok = Tokenizer.from_file(tokfile)
    tr, va, te = (Stream(tok, v) for v in (train, valid, test))
    model = make_model(a.dropout)
    print("verses %d train (%d repeats left out) %d valid %d test; "
          "tokens %d, bytes %d; parameters %d" % (
              len(train), len(verses) - len(train) - len(valid) - len(test),
              len(valid), len(test), len(tr.ids), tr.bytes,
              sum(p.numel() for p in model.parameters())), flush=True)

    hidden = [p for n, p in model.named_parameters()
              if p.ndim == 2 and "embed" not in n]
    other = [p for n, p in model.named_parameters()
             if p.ndim == 1 or "embed" in n]
    opts = [torch.optim.Muon(hidden, lr=a.lr, weight_decay=a.wd,
                             adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([
                {"params": [p for p in other if p.ndim == 2],
                 "weight_decay": a.wd},
                {"params": [p for p in other if p.ndim == 1],
                 "weight_decay": 0.0}], lr=a.lr, betas=(0.9, 0.95))]
    step, best = 0, 9.0
    ckpt = a.work + "/last.pt"
    if a.resume or a.export_only:
        s = torch.load(a.work + "/best.pt" if a.export_only else ckpt)
        model.load_state_dict(s["model"])
        if a.resume:
            step, best = s["step"], s["best"]
            for o, st in zip(opts, s["opts"]):
                o.load_state_dict(st)
    if a.export_only:
        m = rounded(model)
        export(m, a.out, a.work)
        print("valid %.4f %.4f  test %.4f %.4f" % (bpb(m, va) + bpb(m, te)))
        return

    def loss_of(x):
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(a.bf16)):
            y = model(x[:, :-1])
            return F.cross_entropy(y.float().flatten(0, 1),
                                   x[:, 1:].flatten())
    if a.compile:
        loss_of = torch.compile(loss_of)

    t0, seen, mean = time.time(), 0, None
    stop = min(a.stop or a.steps, a.steps)
    while step < stop:
        lr = a.lr * min(1, (step + 1) / 60, (a.steps - step) / a.decay)
        for o in opts:
            for g in o.param_groups:
                g["lr"] = lr
        torch.manual_seed(a.seed * 1000003 + step)
        x, per = batch(tr, a.seed, step, a.rows, a.relabel)
        model.train()
        loss = loss_of(torch.from_numpy(x))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
            o.zero_grad()
        step += 1
        seen += 1
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 20 == 0:
            print("step %d epoch %.2f lr %.5f loss %.4f  %.2f s/step" % (
                step, step / per, lr, mean, (time.time() - t0) / seen),
                flush=True)
        if step % a.eval_every == 0 or step == stop:
            m = rounded(model)
            v = bpb(m, va)
            print("step %d valid bpb %.4f (verses %.4f) train bpb %.4f" % (
                step, *v, mean / math.log(2) * len(tr.ids) / tr.bytes),
                flush=True)
            s = {"model": model.state_dict(), "step": step,
                 "best": min(best, v[1]), "opts": [o.state_dict()
                                                   for o in opts]}
            torch.save(s, ckpt + ".tmp")
            os.replace(ckpt + ".tmp", ckpt)
            if v[1] < best:
                best = v[1]
                torch.save({"model": model.state_dict(), "step": step},
                           a.work + "/best.pt")


if __name__ == "__main__":
    main()
