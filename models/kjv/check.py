#!/usr/bin/env python3
"""Check the model of this folder as it lies here, through transformers.

1. the exported weights in float32 give the bits per byte that train.py saw;
2. many samples hold no run of 50 tokens of the training text, neither as
   written nor with the verse labels and line ends taken out of both;
3. with --reference FILE, write the greedy continuations C tests compare with.

requirements: as train.py, and transformers >= 4.45.

    python3 check.py
    python3 check.py --samples samples.txt --reference FILE
"""
import argparse
import json
import os
import sys

import numpy as np
import torch

import train

HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT = 50

PROMPTS = [
    "Genesis 1:1 In the beginning",
    "Exodus 20:3 Thou shalt",
    "Leviticus 4:2 Speak unto the children of Israel",
    "Numbers 7:13 And his offering was",
    "Joshua 15:1 This then was the lot",
    "1 Samuel 17:4 And there went out",
    "2 Kings 10:34 Now the rest of the acts",
    "1 Chronicles 1:1 The sons of",
    "Nehemiah 7:8 The children of",
    "Job 38:4 Where wast thou",
    "Psalms 23:1 The LORD is",
    "Psalms 136:1 O give thanks",
    "Proverbs 10:1 A wise",
    "Isaiah 40:1 Comfort ye",
    "Ezekiel 37:1 The hand of the LORD",
    "Matthew 5:3 Blessed are",
    "John 1:1 In the beginning was",
    "1 Corinthians 13:4 Charity",
    "Revelation 7:5 Of the tribe of",
    "Ruth 5:1 And Ruth said",
]

REFERENCE = [
    "Genesis 1:1 In the beginning",
    "And it came to pass",
    "Psalms 151:1 O LORD, the river",
    "Luke 25:1 And Jesus answered and said unto them,",
]


def generate(model, ids, n, temperatures, seed=0, take_end=False):
    """For each temperature (0 is greedy) n tokens after ids, and the gap
    between the two best logits at each step.  <|end|> is left out of the
    choice unless asked for."""
    gen = torch.Generator().manual_seed(seed)
    out, gaps, past = [], [], None
    rows = torch.tensor([ids] * len(temperatures))
    with torch.no_grad():
        for _ in range(n):
            r = model(rows, past_key_values=past, use_cache=True)
            past, logits = r.past_key_values, r.logits[:, -1].float()
            if not take_end:
                logits[:, :2] = -np.inf
            top = logits.topk(2)
            gaps.append((top.values[:, 0] - top.values[:, 1]).tolist())
            rows = top.indices[:, :1].clone()
            for i, t in enumerate(temperatures):
                if t:
                    p = (logits[i] / t).softmax(-1)
                    rows[i] = torch.multinomial(p, 1, generator=gen)
            out.append(rows[:, 0].tolist())
    return [list(x) for x in zip(*out)], [list(x) for x in zip(*gaps)]


class Runs:
    """The longest run of a text's tokens that a sample holds."""

    def __init__(self, ids, k=8):
        self.ids, self.k, self.at = list(ids), k, {}
        for i in range(len(self.ids) - k + 1):
            self.at.setdefault(tuple(self.ids[i:i + k]), []).append(i)

    def longest(self, s):
        best, where = 0, 0
        for i in range(len(s) - self.k + 1):
            for p in self.at.get(tuple(s[i:i + self.k]), ()):
                n = self.k
                while (i + n < len(s) and p + n < len(self.ids)
                       and s[i + n] == self.ids[p + n]):
                    n += 1
                if n > best:
                    best, where = n, i
        return best, where


def without_labels(tok, text):
    """Tokens of the words alone: labels such as "1 Kings 3:4" at the start
    of a line and line ends are dropped."""
    ids = []
    for line in text.split("\n"):
        for name in sorted(train.BOOKS.values(), key=len, reverse=True):
            if line.startswith(name + " "):
                rest = line[len(name) + 1:].split(" ", 1)
                if rest[0].replace(":", "").isdigit():
                    line = " " + rest[1] if len(rest) > 1 else ""
                break
        ids += tok.encode(line, add_special_tokens=False).ids
    return ids


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model", default=HERE)
    ap.add_argument("--samples", help="write the samples to this file")
    ap.add_argument("--reference", help="write the greedy reference here")
    ap.add_argument("--seeds", type=int, default=1,
                    help="samples at temperature 0.8 for each prompt")
    ap.add_argument("--tokens", type=int, default=300)
    ap.add_argument("--threads", type=int, default=2)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)

    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained(a.model,
                                                 dtype=torch.float32).eval()
    hf = AutoTokenizer.from_pretrained(a.model)
    tok = Tokenizer.from_file(a.model + "/tokenizer.json")
    for p in PROMPTS + REFERENCE:
        assert hf(p)["input_ids"] == tok.encode(p).ids
        assert tok.encode(p).ids[0] == 0 and hf.decode(
            tok.encode(p).ids, skip_special_tokens=True) == p
    print("parameters %d" % sum(p.numel() for p in model.parameters()))
    print("bytes %d" % sum(
        os.path.getsize(os.path.join(a.model, f)) for f in (
            "config.json", "generation_config.json", "model.safetensors",
            "tokenizer.json", "tokenizer_config.json")))

    verses = train.extract()
    for name, part in zip(("valid", "test"), train.split(verses)[1:]):
        books = list(dict.fromkeys(v[0] for v in part))
        for names in [[b] for b in books] + [books]:
            s = train.Stream(tok, [v for v in part if v[0] in names])
            print("bits per byte, %s (%s): %.4f; without labels %.4f" % (
                (", ".join(names), name)
                + train.bpb(lambda x: model(x).logits, s)))

    # The training text, and the repeats and held-out books with it.
    whole = train.Stream(tok, verses).ids.tolist()
    bare = without_labels(tok, "".join(map(train.line_of, verses)))
    whole, bare = Runs(whole), Runs(bare)
    worst, bad, out = [0, 0], 0, []
    for i, p in enumerate(PROMPTS):
        ids = tok.encode(p).ids
        temps = [0] + [0.8] * a.seeds
        for seed, got in enumerate(generate(model, ids, a.tokens, temps,
                                            i)[0]):
            text = tok.decode(ids + got)
            n = whole.longest(ids + got)[0]
            ids2 = without_labels(tok, text)
            m, at = bare.longest(ids2)
            worst = [max(worst[0], n), max(worst[1], m)]
            bad += max(n, m) >= LIMIT
            how = "temperature 0.8, number %d" % seed if seed else "greedy"
            out.append("--- %s; longest runs %d, %d\n%s\n" % (how, n, m, text))
            if max(n, m) >= LIMIT:
                print("COPY %r %s %d %d: %s" % (
                    p, how, n, m, tok.decode(ids2[at:at + m])))
    print("samples %d of %d tokens; longest run of the text %d tokens, "
          "without labels %d; limit %d" % (len(out), a.tokens, *worst, LIMIT))
    if a.samples:
        open(a.samples, "w").write("\n".join(out))

    if a.reference:
        cases = []
        for p in REFERENCE:
            ids = tok.encode(p).ids
            (got,), (gaps,) = generate(model, ids, 40, [0], take_end=True)
            cases.append({"prompt": p, "prompt_ids": ids, "greedy_ids": got,
                          "text": tok.decode(got),
                          "margins": [round(g, 5) for g in gaps]})
            print("reference least margin %.4f: %r" % (
                min(gaps), tok.decode(got)))
        with open(a.reference, "w") as f:
            json.dump({"model": "models/kjv", "dtype": "float32",
                       "weights": "bfloat16", "cases": cases}, f, indent=1)
            f.write("\n")
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
