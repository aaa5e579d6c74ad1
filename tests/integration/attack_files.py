#!/usr/bin/env python3
"""Files that are damaged, absurd or made to do harm, in place of each file of models/kjv: weights, config.json, the
tokenizer, the index, a manifest, the heads of shards. `penstock run` refuses each with the contract's exit status and one
line that names the file, in little time and memory; it never crashes, never asks for a name outside the model, and never
writes wrong text. Mutations are drawn from a fixed seed and served over HTTP."""
# ctest-timeout: 300
import hashlib
import json
import os
import random
import shutil
import struct
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import badhttp  # noqa: E402
import peer  # noqa: E402

PROMPT = "In the beginning"
N = 3
SLOW = 6 if peer.SANITIZED else 1
MUTATIONS = 200 if not peer.SANITIZED else 60
MEMORY = 200 * peer.MIB
ARGS = ("-p", PROMPT, "-n", N, "--temp", "0", "--ignore-eos")


class Right:
    text = b""


def folder(t, **files):
    """models/kjv as links, with other files in place of some; None: left out. Names come with _ for the dot."""
    to = t.path("model")
    os.makedirs(to)
    files = {k.replace("__", ".").replace("_DOT_", "."): v for k, v in files.items()}
    for name in os.listdir(peer.KJV):
        if name.endswith((".json", ".safetensors")) and name not in files:
            os.symlink(os.path.join(peer.KJV, name), os.path.join(to, name))
    for name, data in files.items():
        if data is not None:
            with open(os.path.join(to, name), "wb") as f:
                f.write(data)
    return to


def run(t, model, **kw):
    return t.run("run", model, *ARGS, cache=t.path("cache"), seconds=30 * SLOW, watch=True, **kw)


def judged(t, r, status, says=()):
    """status: what is allowed; 0 among it means with the right text."""
    allowed = status if isinstance(status, tuple) else (status,)
    if r.rc == 0 and 0 in allowed:
        t.equal(r.text, Right.text, "a run that does not mind writes the right text")
    else:
        badhttp.check_failed(t, r, tuple(s for s in allowed if s), says, what="refused")
        t.equal(r.out, b"", "and nothing on stdout")
    t.check(r.seconds < 10 * SLOW, f"took {r.seconds:.1f} s")
    t.check(peer.SANITIZED or r.peak_rss < MEMORY, f"took {r.peak_rss >> 20} MiB")


def part(name, data, status, *says):
    """(name, function) of one file in place of the right one."""
    def work(t):
        judged(t, run(t, folder(t, **{name.replace(".", "__"): data})), status, says)
    return work


# ---- weights ----

def split_file(data):
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + n]), data[8 + n:]


def join_file(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def retyped(header, body, which, dtype, size):
    """The same model, one tensor in another type of so many bytes."""
    new, data = {}, []
    at = 0
    for name, h in sorted(((k, v) for k, v in header.items() if k != "__metadata__"), key=lambda x: x[1]["data_offsets"]):
        part = body[h["data_offsets"][0]:h["data_offsets"][1]]
        if name == which:
            part = (part * 4)[:len(part) // 2 * size]
        new[name] = {"dtype": dtype if name == which else h["dtype"], "shape": h["shape"], "data_offsets": [at, at + len(part)]}
        data.append(part)
        at += len(part)
    return join_file(new, b"".join(data))


def weights(real):
    header, body = split_file(real)
    name, norm = "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"
    n = len(body)

    def but(change, data=body):
        h = json.loads(json.dumps(header))
        change(h)
        return join_file(h, data)

    def patched(**fields):
        return but(lambda h: h[name].update(fields))

    def moved(a, b):
        at = header[name]["data_offsets"]
        return patched(data_offsets=[at[0] + a, at[1] + b])

    text = json.dumps(header).encode()
    first = text.index(b'"' + norm.encode())
    twice = text[:first] + b'"' + norm.encode() + b'":' + json.dumps(header[norm]).encode() + b"," + text[first:]
    f = "model.safetensors"
    yield "nothing", b"", 4, f
    yield "seven bytes", b"\x10\0\0\0\0\0\0", 4, f
    yield "a huge header", struct.pack("<Q", 1 << 63) + text + body, 4, f
    yield "a header of all that there is", struct.pack("<Q", 2 ** 64 - 1) + text + body, 4, f
    yield "a header to the file's end and one more", struct.pack("<Q", len(text) + n + 1) + text + body, 4, f
    yield "a header of no bytes", struct.pack("<Q", 0) + body, 4, f
    yield "an empty header", join_file({}, b""), 4, "missing|" + f
    yield "a header that is a list", join_file([1, 2], body), 4, f
    yield "a header with more after it", join_file(text + b"{}", body), 4, f
    yield "half a header", join_file(text[:len(text) // 2], body), 4, f
    yield "no UTF-8", join_file(text.replace(b"q_proj", b"q\xff\xfeoj"), body), 4, f
    yield "a NUL in a name", join_file(text.replace(b"q_proj", b"q\\u0000oj"), body), 4, f
    yield "NaN", join_file(text.replace(b'"data_offsets": [0,', b'"data_offsets": [NaN,', 1), body), 4, f
    yield "deep", join_file(b'{"a":' * 100000 + b"1" + b"}" * 100000, body), 4, f
    yield "deep lists", join_file(b'{"__metadata__":' + b"[" * 1000000 + b"]" * 1000000 + b"}", body), 4, f
    yield "a name twice", join_file(twice, body), 4, f
    yield "an overlap", moved(-512, -512), 4, name
    yield "a hole", but(lambda h: [h.pop(name)]), 4, f
    yield "too few bytes for its shape", moved(0, -512), 4, name
    yield "ends before it begins", patched(data_offsets=header[name]["data_offsets"][::-1]), 4, name
    yield "negative offsets", patched(data_offsets=[-512, header[name]["data_offsets"][1]]), 4, f
    yield "offsets beyond 2^64", patched(data_offsets=[2 ** 64, 2 ** 64 + 10]), 4, f
    yield "offsets that are texts", patched(data_offsets=["0", "1"]), 4, f
    yield "three offsets", patched(data_offsets=[0, 1, 2]), 4, f
    yield "a shape that overflows", patched(shape=[2 ** 40, 2 ** 40]), 4, name
    yield "a negative shape", patched(shape=[-256, -256]), 4, f
    yield "a shape of 1000 dimensions", patched(shape=[1] * 1000), (1, 4), name
    yield "a shape of no dimensions", patched(shape=[]), 4, name
    yield "a fraction in a shape", patched(shape=[256.5, 256]), 4, f
    yield "the shape of another model", patched(shape=[128, 512]), 4, name
    yield "no type", but(lambda h: h[name].pop("dtype")), 4, f
    yield "a type that nobody knows", patched(dtype="X9"), (1, 4), "X9"
    yield "integers as weights", patched(dtype="I16"), 1, "I16", name
    for kind in ("F8_E4M3", "F8_E5M2", "U8", "I8", "BOOL"):
        yield f"a type of one byte, {kind}", retyped(header, body, name, kind, 1), 1, kind, name
    yield "F64", retyped(header, body, name, "F64", 8), 1, "F64", name
    yield "C64", retyped(header, body, name, "C64", 8), (1, 4), "C64", name
    yield "cut short", real[:len(real) * 2 // 3], 4, f
    yield "cut by a byte", real[:-1], 4, f
    yield "longer by a byte", real + b"\0", 4, f
    yield "100 MB of junk", b"\x00\x10\xff\x05\0\0\0\0" + b"{\"" + b"a" * (100 << 20), 4, f
    yield "a page", b"<!DOCTYPE html><html></html>\n", (3, 4), f


def malformed_of_others():
    """What safetensors' own tests refuse."""
    base = os.path.join(peer.TEST_DATA, "safetensors", "malformed")
    if not os.path.isdir(base):
        print("no PENSTOCK_TEST_DATA/safetensors/malformed: left out", flush=True)
        return
    for name in sorted(os.listdir(base)):
        with open(os.path.join(base, name), "rb") as f:
            yield "malformed/" + name, f.read(), 4, "model.safetensors"


# ---- config.json ----

def configs(real):
    def but(**fields):
        c = json.loads(json.dumps(real))
        for k, v in fields.items():
            if v is KeyError:
                c.pop(k, None)
            else:
                c[k] = v
        return json.dumps(c).encode()

    f = "config.json"
    text = json.dumps(real).encode()
    yield "nothing", b"", 4, f
    yield "no JSON", b"hello", 4, f
    yield "null", b"null", 4, f
    yield "a list", b"[]", 4, f
    yield "no member at all", b"{}", (1, 4), f
    yield "half of it", text[:len(text) // 2], 4, f
    yield "more after it", text + b"x", 4, f
    yield "NaN", text.replace(b"256", b"NaN", 1), 4, f
    yield "no UTF-8", text.replace(b"silu", b"si\xfflu"), 4, f
    yield "a name twice", text[:-1] + b', "hidden_size": 128}', 4, f
    yield "deep", b'{"a":' * 200000 + b"1" + b"}" * 200000, 4, f
    yield "10 MB of junk", b"\x01" * (10 << 20), 4, f
    yield "10 MB of open brackets", b"[" * (10 << 20), 4, f
    yield "a text of 10 MB", but(description="x" * (10 << 20)), (0, 4)
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"):
        for value in (-1, 0, 2 ** 31, 2 ** 63, 1e30, 0.5, "256", None, [256], {}, True):
            yield f"{key} = {value!r}", but(**{key: value}), (1, 4), key
        yield f"{key} is missing", but(**{key: KeyError}), (1, 4), key
    for key, values in {"num_key_value_heads": (0, -2, 3, 8, 2 ** 40, "2"), "head_dim": (0, -64, 63, 128, 2 ** 33, "64"),
                        "rms_norm_eps": (-1, "x", [], 1e400), "rope_theta": (0, -1, "x"),
                        "max_position_embeddings": (0, -1, "x")}.items():
        for value in values:
            yield f"{key} = {value!r}", but(**{key: value}), (1, 4)
    yield "a layer too many", but(num_hidden_layers=6), 4, "model.layers.5"
    yield "layers without end", but(num_hidden_layers=1000000), (1, 4)
    yield "another vocabulary", but(vocab_size=3000), 4, "embed_tokens|vocab"
    yield "not tied, and no head", but(tie_word_embeddings=False), 4, "lm_head"
    yield "another architecture", but(architectures=["GPT2LMHeadModel"], model_type="gpt2"), 1, "GPT2LMHeadModel", "LlamaForCausalLM"
    yield "no architecture", but(architectures=[]), (1, 4), "architecture"
    yield "an architecture of bytes", but(architectures=["\x1b[31m\n\x07" + "A" * 5000]), (1, 4)
    yield "quantised", but(quantization_config={"quant_method": "gptq", "bits": 4}), 1, "gptq|quanti"
    yield "another activation", but(hidden_act="relu6"), 1, "relu6"
    yield "another rope", but(rope_scaling={"rope_type": "spiral", "factor": 2.0}), 1, "spiral"
    yield "rope without a factor", but(rope_scaling={"rope_type": "linear"}), (1, 4), "factor|rope"
    yield "rope of a factor 0", but(rope_scaling={"rope_type": "linear", "factor": 0}), (1, 4), "factor|rope"


# ---- tokenizer ----

def tokenizers(real):
    def but(change):
        c = json.loads(json.dumps(real))
        change(c)
        return json.dumps(c).encode()

    def model(**fields):
        return but(lambda c: c["model"].update(fields))

    f = "tokenizer.json"
    text = json.dumps(real).encode()
    for kind in ("WordPiece", "Unigram", "WordLevel", "Oracle"):
        yield kind, model(type=kind), 1, kind
    yield "a Unigram of its own form", but(lambda c: c.update(model={"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]})), 1, "Unigram"
    yield "nothing", b"", 4, f
    yield "no JSON", b"\x00\x01", 4, f
    yield "no members", b"{}", (1, 4), f
    yield "half of it", text[:len(text) // 2], 4, f
    yield "no vocabulary", but(lambda c: c["model"].pop("vocab")), 4, f
    yield "a vocabulary that is a list", model(vocab=[1, 2]), 4, f
    yield "an empty vocabulary", model(vocab={}), 4, f
    yield "negative ids", model(vocab={k: -v for k, v in real["model"]["vocab"].items()}), 4, f
    yield "one id for all", model(vocab={k: 7 for k in real["model"]["vocab"]}), 4, f
    yield "huge ids", model(vocab={k: v * 2 ** 40 for k, v in real["model"]["vocab"].items()}), 4, f
    yield "ids that are texts", model(vocab={k: str(v) for k, v in real["model"]["vocab"].items()}), 4, f
    yield "more ids than the model has", model(vocab={k: v + 3000 for k, v in real["model"]["vocab"].items()}), (0, 4)
    yield "merges of what is not there", model(merges=["\u6f22 \u5b57"] * 3), 4, f
    yield "merges of one half", model(merges=["a"] * 3), 4, f
    yield "merges of numbers", model(merges=[[1, 2]]), 4, f
    yield "no merges", but(lambda c: c["model"].pop("merges")), (0, 4)
    yield "an unknown pre-tokenizer", but(lambda c: c.update(pre_tokenizer={"type": "Guess"})), 1, "Guess"
    yield "an unknown normalizer", but(lambda c: c.update(normalizer={"type": "Guess"})), 1, "Guess"
    yield "an unknown decoder", but(lambda c: c.update(decoder={"type": "Guess"})), 1, "Guess"
    yield "a wild pattern", but(lambda c: c.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(((((a*)*)*)*)*)*\\"},
                                "behavior": "Isolated", "invert": False})), (1, 4), f
    yield "an added token beyond", but(lambda c: c["added_tokens"].append({"id": 2 ** 40, "content": "<x>", "special": True})), 4, f
    yield "an added token without text", but(lambda c: c["added_tokens"].append({"id": 5, "content": "", "special": True})), (0, 4)
    yield "deep", b'{"model":' * 100000 + b"1" + b"}" * 100000, 4, f
    yield "10 MB of junk", b'{"model": {"vocab": {"' + b"\\u0041" * (10 << 20 >> 2), 4, f


# ---- names in the index ----

def index_of(real, name):
    header, _ = split_file(real)
    return json.dumps({"metadata": {}, "weight_map": {k: name for k in header if k != "__metadata__"}}).encode()


def indexes(real):
    f = "model.safetensors.index.json"
    for name in ("../secret.safetensors", "a/../../secret.safetensors", "/etc/passwd", "", ".", "..", "a//b", "a\\..\\b",
                 "%2e%2e/secret.safetensors", "file:///etc/passwd", "http://127.0.0.1:1/x", "a\nb", "a\x00b", "x" * 5000,
                 "\x1b[2J.safetensors"):
        yield f"a file named {name[:30]!r}", index_of(real, name), (3, 4)
    yield "a file that is missing", index_of(real, "other.safetensors"), 3, "other.safetensors"
    yield "nothing", b"", 4, f
    yield "no map", b"{}", 4, f
    yield "a map that is a list", b'{"weight_map": ["model.safetensors"]}', 4, f
    yield "a map of numbers", b'{"weight_map": {"model.norm.weight": 5}}', 4, f
    yield "an empty map", b'{"weight_map": {}}', 4
    yield "a tensor that is not there", index_of(real, "model.safetensors")[:-2] + b', "model.extra": "model.safetensors"}}', (0, 4)
    yield "half of the tensors", b'{"weight_map": {"model.norm.weight": "model.safetensors"}}', 4


def index_part(real, data, status, *says):
    """From a folder and over HTTP; a file beside the folder must not be read, whatever the name says."""
    def work(t):
        model = folder(t, **{"model_DOT_safetensors_DOT_index_DOT_json": data})
        with open(t.path("secret.safetensors"), "wb") as f:
            f.write(real)
        judged(t, run(t, model), status, says)
        web = badhttp.Server(t.path("."))
        try:
            judged(t, run(t, web.url + "/model"), status, says)
            t.check(all(n.startswith("model/") and ".." not in n for n in web.names()), f"asked for {web.names()[-3:]}")
        finally:
            web.stop()
    return work


# ---- manifests and heads of shards ----

class Mutants(badhttp.Server):
    """The same tree below any first folder, with other bytes for some of its objects by that folder's name."""

    def __init__(self, root):
        self.changed = {}
        super().__init__(root)

    def file(self, name):
        first, _, rest = name.partition("/")
        data = self.changed.get(first, {}).get(rest)
        return (data, '"' + first + '"') if data is not None else super().file(rest)


def mutate(rng, data, begin, end, grow):
    """One to three small changes within data[begin:end]; grow: its length may change too."""
    b = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, kind = rng.randrange(begin, min(end, len(b))), rng.randrange(6 if grow else 4)
        if kind == 0:
            b[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            b[at] = rng.choice((0, 1, 0x7f, 0x80, 0xff))
        elif kind == 2:  # the largest number of the wire format
            most = (b"\xff" * 9 + b"\x01")[:end - at] if not grow else b"\xff" * 9 + b"\x01"
            b[at:at + len(most)] = most
        elif kind == 3:
            n = min(rng.randrange(1, 12), end - at)
            b[at:at + n] = rng.randbytes(n)
        elif kind == 4:
            b[at:at + rng.randrange(1, 40)] = b""
        else:
            b[at:at] = rng.randbytes(rng.randrange(1, 12))
        if len(b) <= begin:
            return bytes(b)
    return bytes(b)


class Tree:
    """A pre-split model in memory."""

    def __init__(self, root):
        with open(os.path.join(root, "penstock.manifest"), "rb") as f:
            self.manifest = f.read()
        self.shards = []
        for name in sorted(os.listdir(os.path.join(root, "shards"))):
            with open(os.path.join(root, "shards", name), "rb") as f:
                self.shards.append((name, f.read()))


def mutants(tree, seed, count):
    """(kind, {object: its bytes}). Kinds in turn: a manifest; a shard's head or index under the old hash; an index whose
    new hash the manifest tells, as somebody who means harm would do it: the decoder itself has to see it."""
    rng = random.Random(seed)
    for i in range(count):
        name, data = rng.choice(tree.shards)
        end = 16 + struct.unpack("<I", data[12:16])[0]
        if i % 5 < 2:
            yield "manifest", {"penstock.manifest": mutate(rng, tree.manifest, 0, len(tree.manifest), True)}
        elif i % 5 == 2:
            yield "shard", {"shards/" + name: mutate(rng, data, 0, end, rng.random() < 0.2)}
        else:
            evil = mutate(rng, data, 16, end, False)
            old, new = (hashlib.sha256(x[16:end]).digest() for x in (data, evil))
            assert old.hex() + ".shard" == name and old in tree.manifest
            yield "rehashed", {"penstock.manifest": tree.manifest.replace(old, new), f"shards/{new.hex()}.shard": evil}


# A hash that names a shard, or a file's name, may have changed: not found. A version may be newer, a type another.
ALLOWED = {"manifest": (1, 3, 4), "shard": (1, 4), "rehashed": (1, 4, 5)}


def mutation_part(web, jobs, lock, unnamed):
    def work(t):
        while True:
            with lock:
                if not jobs:
                    return
                i, kind, objects = jobs.pop()
                web.changed[f"m{i}"] = objects
            r = t.run("run", f"{web.url}/m{i}", *ARGS, disk=0, cache=t.path("cache"), seconds=30 * SLOW)
            what = f"mutant {i}, {kind}"
            if r.rc:
                badhttp.check_failed(t, r, ALLOWED[kind], what=what)
                # a tensor whose name was changed is missing from the model, not from one shard; a shape that was changed may
                # still fit its shard, whose blocks are packed, and then only the sum over all shards tells
                if kind == "rehashed" and not any(w in r.err for w in ("shards/", "tensor ", "its totals do not fit")):
                    unnamed.append(r.err.strip())
            elif kind != "rehashed":  # there it is another model: f16 for bf16, say
                t.equal(r.text, Right.text, f"{what}: the text")
            t.check(r.seconds < 8 * SLOW, f"{what}: took {r.seconds:.1f} s")
    return work


def newer(root, name, at):
    """The format's version made larger."""
    def work(t):
        web = Mutants(root)
        try:
            with open(os.path.join(root, name), "rb") as f:
                data = bytearray(f.read())
            t.equal(data[at], 1, "the version is where it was")
            data[at] = 2
            web.changed["m"] = {name: bytes(data)}
            r = t.run("run", web.url + "/m", *ARGS, cache=t.path("cache"))
            badhttp.check_failed(t, r, 1, ("newer", "2"), what="a newer version")
        finally:
            web.stop()
    return work


def swapped(root):
    """Two shards under each other's names."""
    def work(t):
        names = sorted(os.listdir(os.path.join(root, "shards")))
        web = Mutants(root)
        try:
            with open(os.path.join(root, "shards", names[1]), "rb") as f:
                web.changed["m"] = {"shards/" + names[0]: f.read()}
            r = t.run("run", web.url + "/m", *ARGS, cache=t.path("cache"))
            badhttp.check_failed(t, r, 4, (names[0][:20],), what="another shard")
        finally:
            web.stop()
    return work


def older_tokenizer(name):
    """A model with a tokenizer of the kind that transformers made before tokenizer.json."""
    def work(t):
        folder = t.path(name)
        shutil.copytree(peer.KJV, folder, ignore=shutil.ignore_patterns("tokenizer.json"))
        web = Mutants(folder)
        try:
            web.changed["m"] = {name: b"\n\x0e\n\x05<unk>"}
            r = t.run("run", web.url + "/m", *ARGS, cache=t.path("cache"))
            badhttp.check_failed(t, r, 1, ("tokenizer.json", name), what=f"{name} alone")
        finally:
            web.stop()
    return work


def parts(split):
    with open(os.path.join(peer.KJV, "model.safetensors"), "rb") as f:
        real = f.read()
    with open(os.path.join(peer.KJV, "config.json")) as f:
        config = json.load(f)
    with open(os.path.join(peer.KJV, "tokenizer.json")) as f:
        tokenizer = json.load(f)
    for label, data, *rest in (*weights(real), *malformed_of_others()):
        yield "weights: " + label, part("model.safetensors", data, *rest)
    for label, data, *rest in configs(config):
        yield "config: " + label, part("config.json", data, *rest)
    for label, data, *rest in tokenizers(tokenizer):
        yield "tokenizer: " + label, part("tokenizer.json", data, *rest)
    for name in ("tokenizer_config.json", "generation_config.json"):
        for label, data in (("nothing", b""), ("no JSON", b"{{"), ("a list", b"[]"), ("deep", b"[" * 100000), ("odd", b'{"bos_token": 5, "eos_token_id": "x"}')):
            yield f"{name}: {label}", part(name, data, (0, 1, 4))
    yield "tokenizer.json is missing", part("tokenizer.json", None, 3, "tokenizer")
    for name in ("tokenizer.model", "vocab.json"):
        yield f"{name} instead of tokenizer.json", older_tokenizer(name)
    yield "model.safetensors is missing", part("model.safetensors", None, 3, "model.safetensors")
    yield "config.json is missing", part("config.json", None, 3, "config.json")
    for label, data, *rest in indexes(real):
        yield "index: " + label, index_part(real, data, *rest)
    yield "a newer manifest", newer(split, "penstock.manifest", 1)
    yield "a newer shard", newer(split, "shards/" + sorted(os.listdir(os.path.join(split, "shards")))[2], 8)
    yield "swapped shards", swapped(split)


def main():
    if not os.path.exists(os.path.join(peer.KJV, "model.safetensors")):
        peer.skip("models/kjv is not here")
    with peer.Test() as t:
        r = t.run("split", peer.KJV, t.path("split"))
        t.equal(r.rc, 0, f"split: {r}")
        r = t.run("run", peer.KJV, *ARGS, cache=t.path("none"))
        t.equal(r.rc, 0, f"the healthy run: {r}")
        Right.text = r.text
        wanted = sys.argv[1:]
        badhttp.side_by_side(t, [p for p in parts(t.path("split")) if not wanted or any(w in p[0] for w in wanted)])
        if wanted and "mutants" not in wanted:
            return
        web = Mutants(t.path("split"))
        t.servers.append(web)
        jobs = [(i, *m) for i, m in enumerate(mutants(Tree(t.path("split")), 20, MUTATIONS))]
        lock = threading.Lock()
        unnamed = []
        badhttp.side_by_side(t, [(f"mutants {i}", mutation_part(web, jobs, lock, unnamed)) for i in range(3)])
        t.check(not unnamed, f"{len(unnamed)} errors do not say which shard: {unnamed[:3]}")


main()
