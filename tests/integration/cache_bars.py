#!/usr/bin/env python3
"""Short forms of the cache's bars (tests/bench/bench_cache.c holds the long ones): an index of 100,000 extents is small and
quick, two processes that evict and refill stay within their budget and do not grow the index, and cyclic use hits what fits."""
# ctest-timeout: 200
# ctest-labels: slow
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import peer  # noqa: E402


def bench(t, program, *args):
    r = subprocess.run([program, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=150)
    t.note(f"{' '.join(map(str, args[:1] + args[2:]))}: {r.stdout.decode().strip()} {r.stderr.decode().strip()}")
    t.check(r.stdout != b"", f"{args[0]}: status {r.returncode}")
    return r.returncode, json.loads(r.stdout or b"{}")


def main():
    with peer.Test() as t:
        program = os.path.join(os.path.dirname(t.program), "tests", "bench_cache")
        if not os.path.exists(program):
            peer.skip("bench_cache is not built: sanitizers")
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else t.temp
        folder = os.path.join(memory, os.path.basename(t.temp) + "-index")
        try:
            _, i = bench(t, program, "index", folder, 100000)
        finally:
            subprocess.run(["rm", "-rf", folder], check=True)
        t.check(i["bytes_per_extent"] <= 150, "bytes per extent")
        t.check(i["open_ms"] <= 50 and i["lookup_us"] <= 5, "times, ten times below the bar's size")
        rc, c = bench(t, program, "churn", t.path("churn"), 12)
        t.check(c["folder_bytes_max"] <= c["budget_bytes"], f"the folder reached {c['folder_bytes_max']}")
        t.equal(c["wrong"], 0, "wrong extents")
        t.equal(c["index_bytes"][5:], c["index_bytes"][4:5] * 5, f"the index grows: {c['index_bytes']}")
        rc, _ = bench(t, program, "cycle", t.path("cycle"))
        t.equal(rc, 0, "cyclic use hits C/N")


main()
