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


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "unicode":
        unicode_tables(sys.argv[2])
    else:
        sys.exit(__doc__)
