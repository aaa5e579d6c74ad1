"""`penstock bench codec --json`: every row of contract.md, with figures that can be. Speeds are not judged here (machines differ);
ratios are: they follow from the weights alone, whatever the CPU."""
# ctest-labels: slow
# ctest-timeout: 300
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import peer  # noqa: E402

LEAST = {("wh", "bf16"): 1.48, ("xc34", "bf16"): 1.42, ("wh", "f16"): 1.16, ("xc34", "f16"): 1.12,
         ("q8b64", "bf16"): 1.93, ("nf4b64", "bf16"): 3.76, ("q8b64", "f16"): 1.93, ("nf4b64", "f16"): 3.76, ("q8b64", "f32"): 3.87, ("nf4b64", "f32"): 7.52,
         ("wh", "f32"): 1.19, ("xc34", "f32"): 1.17, ("wh", "f8"): 1.17, ("xc34", "f8"): 1.08}


def main():
    with peer.Test() as t:
        ratios = []
        for threads, backend in ((1, None), (2, "avx2")):
            r = t.run("bench", "codec", "-t", threads, "--json", env={"PENSTOCK_BACKEND": backend} if backend else None, seconds=140)
            t.equal(r.rc, 0, f"bench codec -t {threads}: {r}")
            d = json.loads(r.out)
            t.equal((d["bench"], d["threads"], d["limit"]["name"]), ("codec", threads, "memcpy"), "what was measured")
            rows = {(x["codec"], x["dtype"]): x for x in d["rows"]}
            t.equal(sorted(rows), sorted((c, w) for c in ("raw", "lz4", "wh", "xc34", "q8b64", "nf4b64") for w in ("bf16", "f16", "f32", "f8")
                                        if w != "f8" or not c.endswith("b64")), "rows")
            for key, x in rows.items():
                t.equal(sorted(x), sorted(("codec", "dtype", "ratio", "decode_gb_s", "encode_gb_s")), f"names of {key}")
                rounded = key[0].endswith("b64")  # multiplied as it lies: nothing unpacks it
                t.check(x["decode_gb_s"] is None if rounded else x["decode_gb_s"] > 0, f"{key}: {x}")
                t.check(x["encode_gb_s"] > 0, f"{key}: {x}")
                t.check(x["ratio"] >= LEAST.get(key, 1), f"{key}: ratio {x['ratio']}")
                t.check(key[0] != "raw" or x["ratio"] == 1, f"{key}: {x}")
            t.check(d["limit"]["gb_s"] > 0, f"limit: {d['limit']}")
            ratios.append({k: x["ratio"] for k, x in rows.items()})
        t.equal(ratios[0], ratios[1], "blocks packed by other instructions")


main()
