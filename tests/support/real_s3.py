"""A real S3 store for integration scripts, named by the environment; without it they use fakes3. Python's standard library only.

    PENSTOCK_TEST_S3          the endpoint, http(s)://host[:port]; addresses of it are path-style
    PENSTOCK_TEST_S3_BUCKET   a bucket, made where it is not there; default "penstock-test"
    PENSTOCK_TEST_S3_KEY, PENSTOCK_TEST_S3_SECRET, PENSTOCK_TEST_S3_REGION (default us-east-1)

What a script puts there lies below a prefix of its own and is deleted at the end.
"""
import hashlib
import html
import http.client
import os
import re
import secrets
import time
import urllib.parse

import fakes3


def named():
    return bool(os.environ.get("PENSTOCK_TEST_S3"))


class Store:
    def __init__(self):
        get = os.environ.get
        self.url = get("PENSTOCK_TEST_S3").rstrip("/")
        self.bucket, self.region = get("PENSTOCK_TEST_S3_BUCKET", "penstock-test"), get("PENSTOCK_TEST_S3_REGION", "us-east-1")
        self.key, self.secret = get("PENSTOCK_TEST_S3_KEY", ""), get("PENSTOCK_TEST_S3_SECRET", "")
        self.prefix = f"run-{secrets.token_hex(6)}"
        status, _ = self.request("PUT", "")
        if status not in (200, 409):
            raise RuntimeError(f"{self.url}: bucket {self.bucket}: HTTP {status}")

    def env(self, **more):
        return {"AWS_ENDPOINT_URL": self.url, "AWS_REGION": self.region, "AWS_ACCESS_KEY_ID": self.key,
                "AWS_SECRET_ACCESS_KEY": self.secret, "AWS_EC2_METADATA_DISABLED": "true", "PENSTOCK_MIN_FREE": "0", **more}

    def address(self, name):
        return f"s3://{self.bucket}/{self.prefix}/{name}"

    def request(self, method, name, body=b"", query=""):
        """(status, body) of one signed request for a key of the bucket, "" for the bucket itself."""
        at = urllib.parse.urlsplit(self.url)
        path = "/" + self.bucket + ("/" + urllib.parse.quote(name, safe="/-_.~") if name else "")
        date, sha = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), hashlib.sha256(body).hexdigest()
        signed = "host;x-amz-content-sha256;x-amz-date"
        canonical = "\n".join((method, path, fakes3.canonical_query(query), f"host:{at.netloc}", f"x-amz-content-sha256:{sha}", f"x-amz-date:{date}", "", signed, sha))
        mac = fakes3.signature(self.secret, date[:8], self.region, "s3", date, canonical)
        line = (f"AWS4-HMAC-SHA256 Credential={self.key}/{date[:8]}/{self.region}/s3/aws4_request, SignedHeaders={signed}, "
                f"Signature={mac}")
        kind = http.client.HTTPSConnection if at.scheme == "https" else http.client.HTTPConnection
        connection = kind(at.netloc, timeout=60)
        connection.request(method, path + ("?" + query if query else ""), body, {"x-amz-content-sha256": sha, "x-amz-date": date, "Authorization": line})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, data

    def put_folder(self, folder, name):
        for file in sorted(os.listdir(folder)):
            with open(os.path.join(folder, file), "rb") as f:
                status, data = self.request("PUT", f"{self.prefix}/{name}/{file}", f.read())
            if status != 200:
                raise RuntimeError(f"{name}/{file}: HTTP {status}: {data[:200]}")

    def keys(self):
        """Of what lies below our prefix, at most a page."""
        _, text = self.request("GET", "", query=f"list-type=2&prefix={self.prefix}%2F")
        return [html.unescape(k) for k in re.findall(r"<Key>([^<]+)</Key>", text.decode())]

    def stop(self):
        for _ in range(10):
            for name in (keys := self.keys()):
                self.request("DELETE", name)
            if not keys:
                break
