#!/usr/bin/env python3
"""Measures reading from a real S3 store in ranges of 8 MiB against boto3 on the same object; what SPEED.md quotes. Not a test.

    PENSTOCK=build/release/penstock PENSTOCK_TEST_S3=http://127.0.0.1:7480 ... tests/bench/s3_bars.py

tests/support/real_s3.py says what names the store. boto3 is that of this Python. Both read over 8 connections and throw
the bytes away, in turns; medians count. Bars: at least 90 % of boto3, at most 256 MiB resident.
"""
import json
import os
import re
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
import peer  # noqa: E402
import real_s3  # noqa: E402

MIB, CONNECTIONS, ROUNDS, SECONDS = 1 << 20, 8, 3, 4


class Nothing:
    """A file that forgets."""

    def write(self, data):
        return len(data)

    def seek(self, at, whence=0):
        return at


def boto3_bytes_s(s3, key):
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config
    client = boto3.client("s3", endpoint_url=s3.url, region_name=s3.region, aws_access_key_id=s3.key, aws_secret_access_key=s3.secret,
                          config=Config(max_pool_connections=CONNECTIONS, s3={"addressing_style": "path"}))
    parts = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB, max_concurrency=CONNECTIONS)
    began, n = time.monotonic(), 0
    while time.monotonic() - began < SECONDS:
        client.download_fileobj(s3.bucket, key, Nothing(), Config=parts)
        n += client.head_object(Bucket=s3.bucket, Key=key)["ContentLength"]
    return n / (time.monotonic() - began)


def penstock(t, s3):
    """(bytes per second, most bytes resident while it fetched): afterwards it copies memory, to have a limit to tell."""
    p = peer.spawn([t.program, "bench", "net", s3.address("m"), "--seconds", str(SECONDS), "--connections", str(CONNECTIONS), "--json"],
                   stdout=subprocess.PIPE, env=s3.env())
    time.sleep(0.9 * SECONDS)
    with open(f"/proc/{p.pid}/status") as f:
        resident = int(re.search(r"VmHWM:\s*(\d+) kB", f.read())[1]) << 10
    out = p.communicate(timeout=60)[0]
    t.equal(p.returncode, 0, "bench net")
    return json.loads(out)["rows"][0]["gb_s"] * 1e9, resident


def main():
    if not real_s3.named():
        peer.skip("PENSTOCK_TEST_S3 names no store")
    with peer.Test() as t:
        s3 = real_s3.Store()
        t.servers.append(s3)
        folder = t.path("m")  # above 512 MiB: extents of 8 MiB
        peer.random_llama(folder, hidden=2048, layers=8, inter=4096, heads=16, vocab=8192, tied=True)
        s3.put_folder(folder, "m")
        key, ours, theirs, resident = f"{s3.prefix}/m/model.safetensors", [], [], 0
        for _ in range(ROUNDS):
            bytes_s, most = penstock(t, s3)
            ours.append(bytes_s)
            resident = max(resident, most)
            theirs.append(boto3_bytes_s(s3, key))
        ours, theirs = statistics.median(ours), statistics.median(theirs)
        print(f"{os.path.getsize(os.path.join(folder, 'model.safetensors')) / 1e6:.0f} MB in ranges of 8 MiB, {CONNECTIONS} connections: "
              f"penstock {ours / 1e6:.0f} MB/s, boto3 {theirs / 1e6:.0f} MB/s: {ours / theirs:.2f}; {resident / MIB:.0f} MiB resident")
        t.check(ours >= 0.9 * theirs and resident <= 256 * MIB, "the bars")


main()
