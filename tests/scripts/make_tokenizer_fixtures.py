#!/usr/bin/env python3
"""Makes what the tokenizer tests and tables are made of, by asking the Python `tokenizers` library.

  make_tokenizer_fixtures.py unicode FILE.c    Unicode tables as the library's engines see them (runtime/tok_unicode_data.c)
  make_tokenizer_fixtures.py fixtures DIR      small tokenizers with expected ids and texts (tests/fixtures/tokenizers)

The library is the reference: nothing here computes an expected value by itself. `unicode` needs the utf8proc shared
library as well, because only the differences to it are stored.
"""
import ctypes
import json
import os
import sys

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers import decoders as D
from tokenizers import models as M
from tokenizers import normalizers as N
from tokenizers import pre_tokenizers as P
from tokenizers import processors as R
from tokenizers import trainers as T

CPS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
ALL = "".join(map(chr, CPS))
CATS = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn".split()
SCRIPTS = ("Han Hiragana Katakana Hangul Bopomofo Latin Greek Cyrillic Arabic Hebrew Thai Devanagari Bengali Tamil "
           "Armenian Georgian Ethiopic Khmer Lao Tibetan Myanmar Mongolian Emoji Extended_Pictographic").split()


def matched(pattern):
    """Code points that the regex class matches."""
    pt = P.Split(Regex(pattern + "+"), "removed", invert=True)
    return {c for _, (a, b) in pt.pre_tokenize_str(ALL) for c in CPS[a:b]}


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] + 1 == c:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def emit(f, kind, name, values, per_line=9):
    f.write("const %s %s[%d] = {\n" % (kind, name, len(values)))
    for i in range(0, len(values), per_line):
        f.write("    " + ", ".join("0x%x" % v for v in values[i:i + per_line]) + ",\n")
    f.write("};\n")


def emit_ranges(f, name, points):
    flat = [x for r in ranges(points) for x in r]
    emit(f, "uint32_t", "ps_uc_" + name, flat)
    f.write("const unsigned ps_uc_%s_len = %d;\n" % (name, len(flat) // 2))


def fold_groups(gc):
    """Sets of characters that the regex engine takes as equal under (?i)."""
    cased = [c for c in CPS if chr(c).lower() != chr(c) or chr(c).upper() != chr(c) or chr(c).casefold() != chr(c)
             or gc[c] in ("Lu", "Ll", "Lt")]
    text = "".join(map(chr, cased))
    groups = set()
    for c in cased:
        pt = P.Split(Regex("(?i:\\x{%x})" % c), "removed", invert=True)
        hit = {s for s, _ in pt.pre_tokenize_str(text)}
        one = frozenset(ord(s) for s in hit if len(s) == 1)
        if len(one) > 1:
            groups.add(one)
    return sorted(sorted(g) for g in groups)


def utf8proc():
    lib = ctypes.CDLL("libutf8proc.so.2")
    lib.utf8proc_tolower.restype = ctypes.c_int32
    lib.utf8proc_decompose_char.restype = ctypes.c_ssize_t
    return lib


def u8_decomp(lib, c, compat):
    buf = (ctypes.c_int32 * 64)()
    last = ctypes.c_int(0)
    flags = (1 << 4) | ((1 << 2) if compat else 0)  # DECOMPOSE, COMPAT
    n = lib.utf8proc_decompose_char(c, buf, 64, flags, ctypes.byref(last))
    return "".join(map(chr, buf[:n]))


def u8_ccc_nonzero(lib, c):
    class Property(ctypes.Structure):
        _fields_ = [("category", ctypes.c_int16), ("combining_class", ctypes.c_int16)]
    lib.utf8proc_get_property.restype = ctypes.POINTER(Property)
    return lib.utf8proc_get_property(c).contents.combining_class


def unicode_tables(path):
    gc = {}
    for k in CATS:
        if k != "Cs":
            for c in matched(r"\p{%s}" % k):
                gc[c] = k
    for c in range(0xD800, 0xE000):
        gc[c] = "Cs"
    cat = lambda *ks: {c for c in CPS if gc[c] in ks or gc[c][0] in ks}
    alphabetic = matched(r"\p{Alphabetic}")
    word = alphabetic | cat("M", "Nd", "Pc")
    latin1_no = {0xb2, 0xb3, 0xb9, 0xbc, 0xbd, 0xbe}
    assert matched(r"\w") == word | latin1_no and matched("[[:word:]]") == word
    assert matched(r"\s") == cat("Z") | {9, 10, 11, 12, 13, 0x85}
    assert matched(r"\d") == cat("Nd") and matched("[[:punct:]]") == cat("P", "S")
    # The added-token and Whitespace rules use another engine (its \w has the join controls too), Digits and Punctuation others.
    pieces = P.Digits(False).pre_tokenize_str(ALL)
    numeric = {c for i, (_, (a, b)) in enumerate(pieces) if i % 2 for c in CPS[a:b]}
    punct = set(CPS)
    for _, (a, b) in P.Punctuation("removed").pre_tokenize_str(ALL):
        punct -= set(CPS[a:b])
    lib = utf8proc()
    inert, lower = set(), []
    nfd, nfkd, low = N.NFD(), N.NFKD(), N.Lowercase()
    for c in CPS:  # one by one: some 2 minutes
        ch = chr(c)
        same = nfd.normalize_str(ch) == u8_decomp(lib, c, False) and nfkd.normalize_str(ch) == u8_decomp(lib, c, True)
        if 0xAC00 <= c < 0xD7A4:
            assert same
        ccc = u8_ccc_nonzero(lib, c)
        ours = ccc != 0 and (ccc >= 240 or nfd.normalize_str("\u0345" + ch)[0] != "\u0345")
        if not same or (ccc != 0) != ours:
            assert nfkd.normalize_str(ch) == ch and not ours, hex(c)
            inert.add(c)
            inert.update(map(ord, u8_decomp(lib, c, False)[1:]))  # so that utf8proc doesn't compose what the library can't
        l = low.normalize_str(ch)
        if len(l) != 1 or ord(l) != lib.utf8proc_tolower(c):
            lower.append((c, [ord(x) for x in l]))
    print("inert", [[hex(x) for x in r] for r in ranges(inert)], "lower", len(lower), file=sys.stderr)
    groups = fold_groups(gc)
    starts = []
    for c in range(0x110000):
        v = CATS.index(gc[c])
        if not starts or starts[-1] & 0xff != v:
            starts.append(c << 8 | v)
    with open(path, "w") as f:
        f.write("/* Generated by tests/scripts/make_tokenizer_fixtures.py unicode; do not edit. Character classes as the regex\n"
                " * engines of the `tokenizers` library see them (measured, not copied): see tok_unicode.h. */\n"
                "#include \"runtime/tok_unicode.h\"\n\n/* clang-format off */\n")
        f.write("/* first code point << 8 | general category */\n")
        emit(f, "uint32_t", "ps_uc_gc", starts)
        f.write("const unsigned ps_uc_gc_len = %d;\n" % len(starts))
        emit_ranges(f, "other_alphabetic", alphabetic - cat("L", "Nl"))
        assert alphabetic >= cat("L", "Nl")
        emit_ranges(f, "lower_extra", matched("[[:lower:]]") - cat("Ll"))
        emit_ranges(f, "upper_extra", matched("[[:upper:]]") - cat("Lu"))
        f.write("/* differs from category N: the Digits rule has newer tables */\n")
        assert numeric >= cat("N")
        emit_ranges(f, "numeric_extra", numeric - cat("N"))
        f.write("/* differs from category P: the Punctuation rule has older tables, and all ASCII punctuation */\n")
        emit_ranges(f, "punct_xor", punct ^ cat("P"))
        accents = set(CPS) - {ord(c) for c in N.StripAccents().normalize_str(ALL)}
        f.write("/* differs from category M: the StripAccents rule has older tables */\n")
        emit_ranges(f, "accent_xor", accents ^ cat("M"))
        f.write("/* no normalization for these in the library, whose tables are older than utf8proc's */\n")
        emit_ranges(f, "nf_inert", inert)
        f.write("/* lower case where it differs from utf8proc's: from, to, to or 0 */\n")
        assert all(len(l) <= 2 for _, l in lower)
        emit(f, "uint32_t", "ps_uc_lower", [x for c, l in lower for x in ([c] + (l + [0, 0])[:2])])
        f.write("const unsigned ps_uc_lower_len = %d;\n" % len(lower))
        f.write("/* case-insensitive groups: members, then 0 */\n")
        flat = [x for g in groups for x in g + [0]]
        emit(f, "uint32_t", "ps_uc_fold", flat)
        f.write("const unsigned ps_uc_fold_len = %d;\n" % len(flat))
        for s in SCRIPTS:
            emit_ranges(f, "script_" + s.lower(), matched(r"\p{%s}" % s))
        f.write("const struct ps_uc_script ps_uc_scripts[] = {\n")
        for s in SCRIPTS:
            k = s.lower()
            f.write('    {"%s", ps_uc_script_%s, sizeof ps_uc_script_%s / 8},\n' % (k.replace("_", ""), k, k))
        f.write("    {NULL, NULL, 0},\n};\n")


TRAINING = """
The pipe carries water from the lake to the wheel, and the wheel turns whether or not anybody watches it turn.
Weights are carried the same way: a little at a time, in the order in which they are needed, and never twice.
A layer is read, used and let go. The next layer is already on its way while this one is still at work.
She said that it couldn't be done; he'd done it already. They're here, we've seen them, I'll wait, I'm late.
In 1969 there were 42 valves, 1,024 bolts and 3.14 metres of chain. Call 555-0199 before 12:30 on 31/12/1999.
def turn(wheel, water):
    if water > 0:
        return wheel.turn(water * 2)
    return None  # nothing to do
Der Müller überprüft die Schleuse. L'eau coule à travers le barrage. El río está lleno. Вода течёт по трубе.
水从湖里流到水轮。 みずは パイプ を とおります。 물은 파이프를 통해 흐릅니다.  Το νερό ρέει.   تتدفق المياه
"""

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\t\n \r\n", "the water", " the water", "The  wheel   turns.\n\n  And turns!\n",
    "couldn't they'RE I'LL we'Ve 'S 'ſ 'ſt 'M", "12 345 67890 3.14 1,024 ٣٤٥ ²³ ½ Ⅷ १२", "水从湖里流到水轮。みずはパイプ", "Вода течёт",
    "überprüft u\u0308berpru\u0308ft", "e\u0301 a\u0323\u0307 a\u0307\u0323 \u1e9b\u0323 \ufb01 \u212b \uac00\u11a8", "İstanbul ΣΑΣ ǅ ẞ",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea", "a\u00a0b\u2003c\u3000d\u1680e\u180ef\u200bg\u2028h\u0085i",
    "\x00\x01\x1f\x7f\ufeff\ufffd", "<s>", "<s> the </s>", "a<s>b", "<unk>x<pad>", "x <mask> y", "x<mask>y", "[w] a[w]b [w][w] _[w]",
    "Wheel wheel WHEEL", "▁▁the▁water▁", "ĠtheĊ", "<0x0A><0xFF>", "_snake_case camelCase HTTPServer42x", "!!!???...--—«»", "$1+1=2€ ^~`|<>",
    "//path/to\\x?a=b&c=d#e", "    return None  # x\n\tif x:\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "ababababababababababababababababababababababababababab",
    "\u0301\u0301 \u0345\u0323\u0307x\u0315\u0300\u05ae\u0062", "क्षत्रिय தமிழ் ไทย", "\U00031350\U00010d50\u1c89\U000e0100\U0010ffff\ue000",
    "Hello<e>x </e> <tab>\t<tab>  end", "q\r\nq\rq\n\rq  \r\n  q", " \n \n\n  \n", "'s's 't", "1" * 30, "...\n\n/\n/ \n", "水1a中ab 12水 水",
]


def byte_level(vocab_size=340):
    t = Tokenizer(M.BPE())
    t.pre_tokenizer = P.ByteLevel(add_prefix_space=False)
    t.train_from_iterator(TRAINING.splitlines(True), T.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(P.ByteLevel.alphabet()), show_progress=False))
    return json.loads(t.to_str())


def spm(vocab_size=300, byte_tokens=True, **model):
    t = Tokenizer(M.BPE())
    t.normalizer = N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")])
    first = ["<unk>", "<s>", "</s>"] + (["<0x%02X>" % b for b in range(256)] if byte_tokens else [])
    t.train_from_iterator([w for l in TRAINING[:700].splitlines() for w in l.replace(" ", " \0").split("\0")], T.BpeTrainer(
        vocab_size=vocab_size + (256 if byte_tokens else 0), special_tokens=first, show_progress=False))
    d = json.loads(t.to_str())
    d["added_tokens"] = []
    d["model"].update({"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": byte_tokens})
    d["model"].update(model)
    return d


def added(content, **flags):
    return dict({"id": 0, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                 "special": True}, **flags)


def with_parts(base, add=(), **parts):
    """A copy with other parts; added tokens that are not in the vocabulary get the ids that the library will give them."""
    d = json.loads(json.dumps(base))
    for k in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        v = parts.get(k, d[k] if k not in parts and k == "decoder" else None)
        d[k] = json.loads(v.__getstate__()) if v is not None and not isinstance(v, dict) else v
    d["model"].update(parts.get("model", {}))
    d["added_tokens"], following = list(add), len(d["model"]["vocab"])
    for a in d["added_tokens"]:
        a["id"] = d["model"]["vocab"].get(a["content"], following)
        following += a["id"] == following
    return d


SPECIAL = [added("<s>"), added("</s>"), added("<pad>"), added("<mask>", lstrip=True)]
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
O200K = "|".join([r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                  r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                  r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
KIMI = "|".join([r"[\p{Han}]+",
                 r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                 r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                 r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]
ODD = [r"(?<=[a-z])(?=[A-Z])|_+", r"\d{1,3}(?=(?:\d{3})*\b)", r"(?<!\d)1|(?<=a|bc)b", r"(?m:.)+?x|^\s+|[[:alpha:]&&[^aeiou]]{2,}?",
       r"(?>a+|ab)b|\R|[^\W\d_]+(?:-\w+)*", r"(?i)the|ſ|[k-m]+(?-i:T)", r"\p{^L}\P{N}|[^[:space:]\p{P}]{3}?", r"( *)*\.|a{2}+|\x{6C34}|\u3002$"]


def split(pattern, behavior="isolated", invert=False):
    return P.Split(Regex(pattern), behavior, invert)


def bl_variants(b):
    raw = P.ByteLevel(add_prefix_space=False, use_regex=False)
    template = R.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    ids = {a["content"]: a["id"] for a in with_parts(b, SPECIAL)["added_tokens"]}
    template = R.TemplateProcessing(single="<s> $A </s>", special_tokens=[(k, ids[k]) for k in ("<s>", "</s>")])
    dec = D.ByteLevel()
    yield "gpt2", with_parts(b, SPECIAL, pre_tokenizer=P.ByteLevel(add_prefix_space=False), decoder=dec)
    yield "roberta", with_parts(b, SPECIAL, pre_tokenizer=P.ByteLevel(add_prefix_space=True), decoder=dec,
                                post_processor=R.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"])))
    yield "llama3", with_parts(b, SPECIAL, pre_tokenizer=P.Sequence([split(GPT4), raw]), decoder=dec, model={"ignore_merges": True},
                               post_processor=R.Sequence([R.ByteLevel(trim_offsets=False), template]))
    yield "cl100k", with_parts(b, SPECIAL, pre_tokenizer=P.Sequence([split(CL100K), raw]), decoder=dec)
    yield "qwen", with_parts(b, SPECIAL, normalizer=N.NFC(), pre_tokenizer=P.Sequence([split(GPT4.replace("{1,3}", "")), raw]), decoder=dec)
    yield "o200k", with_parts(b, SPECIAL, pre_tokenizer=P.Sequence([split(O200K), raw]), decoder=dec)
    yield "kimi", with_parts(b, SPECIAL, pre_tokenizer=P.Sequence([split(KIMI), raw]), decoder=dec)
    yield "deepseek", with_parts(b, SPECIAL, normalizer=N.Sequence([]), decoder=dec,
                                 pre_tokenizer=P.Sequence([split(p) for p in DEEPSEEK] + [raw]))
    yield "smol", with_parts(b, SPECIAL, decoder=dec, post_processor=R.BertProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"])),
                             pre_tokenizer=P.Sequence([P.Digits(individual_digits=True), P.ByteLevel(add_prefix_space=False)]))
    yield "falcon", with_parts(b, SPECIAL, decoder=dec, pre_tokenizer=P.Sequence(
        [P.Punctuation("contiguous"), P.ByteLevel(add_prefix_space=False), P.Digits(False), split("[0-9][0-9][0-9]")]))
    for i, (behavior, invert) in enumerate([("removed", False), ("isolated", True), ("merged_with_previous", False), ("merged_with_next", False),
                                            ("contiguous", False), ("merged_with_next", True), ("merged_with_previous", True), ("removed", True)]):
        pre = [split(ODD[i], behavior, invert), P.Punctuation(behavior), raw]
        yield "split%d" % i, with_parts(b, SPECIAL, pre_tokenizer=P.Sequence(pre), decoder=dec)
    for i, n in enumerate([N.Sequence([N.NFKC(), N.Lowercase(), N.Strip(), N.Replace(Regex(r"\s+"), " ")]), N.Sequence([N.NFD(), N.StripAccents()]),
                           N.Sequence([N.Nmt(), N.NFKD(), N.Strip(left=False)]), N.Sequence([N.Replace(Regex("the|(?=w)"), "<>"), N.Prepend("x ")])]):
        flags = [added("<s>", normalized=True, special=False), added("[w]", single_word=True, special=False, normalized=True), added("<e>", rstrip=True),
                 added("</e>", lstrip=True, rstrip=True), added("<tab>", rstrip=True), added("Wheel", special=False, normalized=True),
                 added("The", special=False, single_word=True)]
        yield "norm%d" % i, with_parts(b, flags, normalizer=n, pre_tokenizer=P.ByteLevel(add_prefix_space=False), decoder=dec)
    spaces = [added(" " * k, special=False, normalized=True) for k in (2, 3, 4, 8)]
    yield "neox", with_parts(b, SPECIAL + spaces, normalizer=N.NFC(), pre_tokenizer=P.ByteLevel(add_prefix_space=False), decoder=dec)
    yield "norm_bytes", with_parts(b, [added("<s>"), added(" the ", special=False, normalized=True)], normalizer=N.ByteLevel(), decoder=dec)


def spm_variants(s):
    legacy = N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")])
    dec = D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
    template = R.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", s["model"]["vocab"]["<s>"])])
    sp = [added("<unk>"), added("<s>"), added("</s>"), added("<mask>", lstrip=True, rstrip=True)]
    yield "llama2", with_parts(s, sp, normalizer=legacy, decoder=dec, post_processor=template)
    yield "mistral", with_parts(s, sp, pre_tokenizer=P.Metaspace(prepend_scheme="first", split=False), decoder=dec, post_processor=template)
    yield "metaspace", with_parts(s, sp, pre_tokenizer=P.Metaspace(prepend_scheme="always"), decoder=D.Metaspace())
    yield "metaspace_never", with_parts(s, sp, pre_tokenizer=P.Metaspace(prepend_scheme="never"), decoder=D.Metaspace(prepend_scheme="never"))
    yield "gemma", with_parts(s, sp, normalizer=N.Replace(" ", "▁"), pre_tokenizer=P.Split(" ", "merged_with_previous"),
                              decoder=D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse()]))
    yield "no_decoder", with_parts(s, sp, normalizer=legacy, decoder=None)
    yield "fuse_strip", with_parts(s, sp, normalizer=legacy, decoder=D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 2, 2)]))
    yield "token_strip", with_parts(s, sp, normalizer=legacy, decoder=D.Sequence([D.ByteFallback(), D.Strip("▁", 1, 1), D.Replace(Regex("[ae]"), "-")]))
    for k, pre in [("whitespace", P.Whitespace()), ("whitespace_split", P.WhitespaceSplit()), ("bert", P.BertPreTokenizer()),
                   ("delimiter", P.CharDelimiterSplit("e")), ("fixed", P.FixedLength(3))]:
        yield "pre_" + k, with_parts(s, sp, pre_tokenizer=pre, decoder=D.Fuse(), model={"byte_fallback": k == "bert", "fuse_unk": k == "fixed"})


def affixed():
    t = Tokenizer(M.BPE(unk_token="<unk>", continuing_subword_prefix="##", end_of_word_suffix="</w>"))
    t.pre_tokenizer = P.Whitespace()
    t.train_from_iterator(TRAINING.splitlines(), T.BpeTrainer(vocab_size=420, special_tokens=["<unk>"], continuing_subword_prefix="##",
                                                              end_of_word_suffix="</w>", show_progress=False))
    d = json.loads(t.to_str())
    return with_parts(d, [added("<unk>")], pre_tokenizer=P.Whitespace(), decoder=D.BPEDecoder())


def all_fixtures():
    yield from bl_variants(byte_level())
    yield from spm_variants(spm())
    yield "unk", with_parts(spm(byte_tokens=False, fuse_unk=False), [added("<unk>")], decoder=D.Fuse())
    yield "affixed", affixed()


def fixtures(folder):
    os.makedirs(folder, exist_ok=True)
    for name, d in all_fixtures():
        text = json.dumps(d, ensure_ascii=False, separators=(",", ":"))
        t = Tokenizer.from_str(text)
        cases = []
        for s in TEXTS:
            ids = t.encode(s, add_special_tokens=False).ids
            try:
                plain, shown = t.decode(ids), t.decode(ids, skip_special_tokens=False)
            except BaseException:  # pylint: disable=broad-except
                continue  # some decoders of the library panic on an empty text
            cases.append({"text": s, "ids": ids, "post": t.encode(s).ids, "plain": plain, "all": shown})
        with open(os.path.join(folder, name + ".tokenizer.json"), "w") as f:
            f.write(text + "\n")
        with open(os.path.join(folder, name + ".cases.json"), "w") as f:
            f.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "unicode":
        unicode_tables(sys.argv[2])
    elif len(sys.argv) == 3 and sys.argv[1] == "fixtures":
        fixtures(sys.argv[2])
    else:
        sys.exit(__doc__)
