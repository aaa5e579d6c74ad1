#!/usr/bin/env python3
"""What a server, or what stands in front of it, can do to a run: every scenario of tests/faults/ (tests/support/faults.py
says what its words mean). `penstock run` of models/kjv, plain or pre-split, ends with the text of the healthy run to the byte,
or with the contract's exit status and a line that names what and where, in time, with a result file; never wrong text, never a
hang. Afterwards the cache is clean, and the same command against the healed server writes the right text.

    faults.py [WORD...]          scenarios whose names hold one of the words (under sanitizers, the malformed ones by default)
    PENSTOCK_FAULTS_LONG=1       with outages of 20 s"""
# ctest-timeout: 240
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import badhttp  # noqa: E402
import faults  # noqa: E402
import peer  # noqa: E402

WORKERS = 4 if peer.SANITIZED else 12  # most of them wait for a clock
# Sanitizers look at bytes, not at clocks, and are slow: what is malformed, not what is late.
HOSTILE = ("body_chunk", "body_gzip", "etag_", "head_", "hints", "http09", "length_", "other_protocol", "page_", "range_", "redirect_m",
           "status_9", "tls_record", "tls_handshake_garbage", "upgrade")


def main():
    if not os.path.exists(os.path.join(peer.KJV, "model.safetensors")):
        peer.skip("models/kjv is not here")
    with peer.Test() as t:
        wanted = sys.argv[1:]
        usual = HOSTILE if peer.SANITIZED else ("",)
        scenarios = [s for s in faults.load() if (any(w in s.name for w in wanted) if wanted else s.name.startswith(usual))]
        t.check(scenarios, "no scenario")
        setting = faults.Setting(t)
        scenarios.sort(key=lambda s: -s.within)
        badhttp.side_by_side(t, [(s.name, lambda part, s=s: faults.play(part, s, setting)) for s in scenarios], workers=WORKERS)
        t.note(f"{len(scenarios)} scenarios")


main()
