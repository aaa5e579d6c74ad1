"""A small S3 for integration scripts: one bucket over a folder, path or virtual-host style, that checks every signature
with code of its own. Also the services that hand out temporary keys. Python's standard library only.

    s3 = fakes3.S3(folder, bucket="models")     # a badhttp.Server: url, log, set(scenario), stop()
    s3.keys["AKIATEST"] = fakes3.Key("secret")  # access key: secret, token (None: must be absent), code (a refusal)
    s3.env()                                    # what the program needs to find it

Refusals carry the codes, the status and the XML of the real one. Objects can be written too: whole, in parts (no part but
the last under 5 MiB), copied part by part, listed, removed; s3.uploads holds the multipart uploads that are open,
s3.refuse_writes, where set to a code, what every write is answered with, s3.page how much a page of a list holds.
"""
import calendar
import email.utils
import hashlib
import hmac
import itertools
import json
import os
import re
import sys
import time
import urllib.parse
import xml.sax.saxutils

sys.dont_write_bytecode = True
import badhttp  # noqa: E402

EMPTY = hashlib.sha256(b"").hexdigest()
AUTH = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, ?"
                  r"SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$")


class Key:
    def __init__(self, secret, token=None, code=None, status=403):
        self.secret, self.token, self.code, self.status = secret, token, code, status


def _mac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signature(secret, day, region, service, date, canonical):
    key = ("AWS4" + secret).encode()
    for part in (day, region, service, "aws4_request"):
        key = _mac(key, part)
    text = "\n".join(("AWS4-HMAC-SHA256", date, f"{day}/{region}/{service}/aws4_request",
                      hashlib.sha256(canonical.encode()).hexdigest()))
    return _mac(key, text).hex()


def canonical_query(query):
    pairs = urllib.parse.parse_qsl(query, keep_blank_values=True)
    quoted = sorted((urllib.parse.quote(k, safe="-_.~"), urllib.parse.quote(v, safe="-_.~")) for k, v in pairs)
    return "&".join(f"{k}={v}" for k, v in quoted)


class S3(badhttp.Server):
    def __init__(self, root, bucket="models", region="us-east-1", scenario=None, public=False):
        self.bucket, self.region, self.public = bucket, region, public
        self.keys, self.ahead_s, self.needs_payer = {"AKIATEST": Key("topSecretValue")}, 0, False
        self.uploads, self.numbers, self.refuse_writes, self.page = {}, itertools.count(1), None, 3
        self.parts_min = 5 << 20
        super().__init__(root, scenario)

    def env(self, **more):
        return {"AWS_ENDPOINT_URL": self.url, "AWS_REGION": self.region, "AWS_ACCESS_KEY_ID": "AKIATEST",
                "AWS_SECRET_ACCESS_KEY": "topSecretValue", "AWS_EC2_METADATA_DISABLED": "true", "PENSTOCK_MIN_FREE": "0", **more}

    def refuse(self, r, status, code, extra="", **headers):
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>no</Message>{extra}</Error>'
        r.error(status, body.encode(), Date=email.utils.formatdate(time.time() + self.ahead_s, usegmt=True), **headers)

    def _answer(self, q, r):
        wrong = self.check(q)
        if wrong:
            self.refuse(r, *wrong)
            return
        parts = q.name.split("/", 1)
        if parts[0] != self.bucket:
            self.refuse(r, 404, "NoSuchBucket")
            return
        query = dict(urllib.parse.parse_qsl(q.query, keep_blank_values=True))
        q.name = parts[1] if len(parts) > 1 else ""
        if q.method in ("PUT", "POST", "DELETE") and self.refuse_writes:
            self.refuse(r, 403, self.refuse_writes)
            return
        if q.method in ("PUT", "POST", "DELETE") or not q.name:
            self.write(q, r, query)
            return
        super()._answer(q, r)
        r.headers["x-amz-bucket-region"] = self.region
        if r.status in (404, 412):
            self.refuse(r, r.status, {404: "NoSuchKey", 412: "PreconditionFailed"}[r.status])

    # ---- writing ----

    def xml(self, r, text):
        r.whole(b'<?xml version="1.0" encoding="UTF-8"?>\n' + text.encode(), Content_Type="application/xml")

    def path(self, name):
        path = os.path.normpath(os.path.join(self.root, name))
        assert path.startswith(os.path.join(self.root, "")), name
        return path

    def store(self, name, data):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with self.lock:
            with open(path + ".new", "wb") as f:
                f.write(data)
            os.replace(path + ".new", path)

    def write(self, q, r, query):
        """What changes the bucket, and its lists."""
        upload = query.get("uploadId")
        if not q.name:
            self.list(r, query)
        elif q.method == "POST" and "uploads" in query:
            with self.lock:
                upload = f"up/{next(self.numbers)}+x"
                self.uploads[upload] = (q.name, {})
            self.xml(r, f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
        elif upload is not None and (upload not in self.uploads or self.uploads[upload][0] != q.name):
            self.refuse(r, 404, "NoSuchUpload")
        elif q.method == "PUT" and upload:
            self.put_part(q, r, self.uploads[upload][1], int(query["partNumber"]))
        elif q.method == "POST" and upload:
            self.complete(q, r, upload)
        elif q.method == "DELETE" and upload:
            del self.uploads[upload]
            r.status = 204
        elif q.method == "DELETE":
            with self.lock:
                if os.path.isfile(self.path(q.name)):
                    os.remove(self.path(q.name))
            r.status = 204
        else:
            self.store(q.name, q.body)
            r.headers["ETag"] = f'"{hashlib.md5(q.body).hexdigest()}"'
        r.headers.setdefault("Content-Length", str(len(r.body)))

    def put_part(self, q, r, parts, number):
        data, source = q.body, q.headers.get("x-amz-copy-source")
        if source:
            bucket, _, name = urllib.parse.unquote(source).lstrip("/").partition("/")
            found = self.file(name) if bucket == self.bucket else None
            m = re.fullmatch(r"bytes=(\d+)-(\d+)", q.headers.get("x-amz-copy-source-range", ""))
            if not found or not m or int(m[2]) >= len(found[0]):
                self.refuse(r, 400, "InvalidArgument")
                return
            data = found[0][int(m[1]):int(m[2]) + 1]
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        parts[number] = (etag, data)
        if source:
            self.xml(r, f"<CopyPartResult><ETag>{xml.sax.saxutils.escape(etag, {chr(34): '&quot;'})}</ETag></CopyPartResult>")
        else:
            r.headers["ETag"] = etag

    def complete(self, q, r, upload):
        name, parts = self.uploads[upload]
        listed = [(int(n), e) for n, e in re.findall(r"<PartNumber>(\d+)</PartNumber><ETag>([^<]*)</ETag>", q.body.decode())]
        if not listed or any(parts.get(n, (None,))[0] != e for n, e in listed):
            self.refuse(r, 400, "InvalidPart")
        elif any(len(parts[n][1]) < self.parts_min for n, _ in listed[:-1]):
            self.refuse(r, 400, "EntityTooSmall")
        else:
            self.store(name, b"".join(parts[n][1] for n, _ in listed))
            del self.uploads[upload]
            self.xml(r, "<CompleteMultipartUploadResult><ETag>&quot;x-1&quot;</ETag></CompleteMultipartUploadResult>")

    def list(self, r, query):
        prefix, esc = query.get("prefix", ""), xml.sax.saxutils.escape
        if "uploads" in query:
            after = (query.get("key-marker", ""), query.get("upload-id-marker", ""))
            all_ = sorted((n, u) for u, (n, _) in self.uploads.items() if n.startswith(prefix) and (n, u) > after)
            page = all_[:self.page]
            more = (f"<NextKeyMarker>{esc(page[-1][0])}</NextKeyMarker><NextUploadIdMarker>{page[-1][1]}</NextUploadIdMarker>"
                    if len(all_) > len(page) else "")
            items = "".join(f"<Upload><Key>{esc(n)}</Key><UploadId>{u}</UploadId></Upload>" for n, u in page)
            tag = "ListMultipartUploadsResult"
        else:
            all_ = sorted(n for n in self.names_below() if n.startswith(prefix) and n > query.get("continuation-token", ""))
            page = all_[:self.page]
            more = f"<NextContinuationToken>{esc(page[-1])}</NextContinuationToken>" if len(all_) > len(page) else ""
            items = "".join(f"<Contents><Key>{esc(n)}</Key></Contents>" for n in page)
            tag = "ListBucketResult"
        self.xml(r, f"<{tag}><IsTruncated>{str(len(all_) > len(page)).lower()}</IsTruncated>{more}{items}</{tag}>")

    def names_below(self):
        return [os.path.relpath(os.path.join(d, f), self.root) for d, _, files in os.walk(self.root) for f in files]

    def check(self, q):
        """None, or (status, code, more XML) of a refusal."""
        h = q.headers
        if "authorization" not in h:
            return None if self.public else (403, "AccessDenied")
        m = AUTH.match(h["authorization"])
        date, payload = h.get("x-amz-date", ""), h.get("x-amz-content-sha256")
        if not m or not re.fullmatch(r"\d{8}T\d{6}Z", date) or payload not in (hashlib.sha256(q.body).hexdigest(), "UNSIGNED-PAYLOAD"):
            return 400, "AuthorizationHeaderMalformed"
        access, day, region, service, names, sig = m.groups()
        if region != self.region or service != "s3":
            return 400, "AuthorizationHeaderMalformed", f"<Region>{self.region}</Region>"
        at = calendar.timegm(time.strptime(date, "%Y%m%dT%H%M%SZ"))
        if abs(at - time.time() - self.ahead_s) > 900 or day != date[:8]:
            return 403, "RequestTimeTooSkewed"
        key = self.keys.get(access)
        if key is None:
            return 403, "InvalidAccessKeyId"
        names = names.split(";")
        must = {"host"} | {n for n in h if n.startswith("x-amz-")}
        if names != sorted(names) or not must <= set(names):
            return 403, "AccessDenied"  # there were headers present in the request which were not signed
        path, _, query = q.target.partition("?")
        canonical = "\n".join((q.method, urllib.parse.quote(urllib.parse.unquote_to_bytes(path), safe="/-_.~"),
                               canonical_query(query), *(f"{n}:{' '.join(h.get(n, '').split())}" for n in names), "",
                               ";".join(names), payload))
        if sig != signature(key.secret, day, region, service, date, canonical):
            return 403, "SignatureDoesNotMatch"
        if h.get("x-amz-security-token") != key.token:
            return 400, "InvalidToken"
        if key.code:
            return key.status, key.code
        if self.needs_payer and h.get("x-amz-request-payer") != "requester":
            return 403, "AccessDenied"
        return None


class KeyService(badhttp.Server):
    """Hands out temporary keys as STS (POST /), a container's endpoint (GET /container) and EC2's metadata service do.
    keys: a list of (access, secret, token, seconds to live); each request gets the next, the last for good. The script
    sets wants: the token that a caller must show."""

    def __init__(self, keys, wants="pass", role="some role"):
        self.sets, self.wants, self.role, self.given = list(keys), wants, role, 0
        self.bodies = []
        super().__init__("/nonexistent")

    def next(self):
        with self.lock:
            k = self.sets[min(self.given, len(self.sets) - 1)]
            self.given += 1
        return k[:3] + (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + k[3])),)

    def _one(self, connection, f, number):
        line = f.readline(65536).decode("latin-1").split()
        if len(line) != 3:
            return False
        headers = {k.lower(): v for k, v in badhttp.http.client.parse_headers(f).items()}
        body = f.read(int(headers.get("content-length", 0)))
        q, r = self._request(line[0], line[1], headers), badhttp.Reply()
        q.connection = number
        self.bodies.append(body)
        self.hand_out(q, r, body)
        q.status = r.status
        return self._send(connection, q, r)

    def hand_out(self, q, r, body):
        if q.method == "POST":
            self.sts(r, dict(urllib.parse.parse_qsl(body.decode())))
        elif q.name == "container":
            if q.headers.get("authorization") == self.wants:
                self.json(r)
            else:
                r.error(401)
        elif q.target == "/latest/api/token":
            ok = q.method == "PUT" and q.headers.get("x-aws-ec2-metadata-token-ttl-seconds") == "21600"
            r.whole(self.wants.encode()) if ok else r.error(400)
        elif q.name.startswith("latest/meta-data/iam/security-credentials/"):
            if q.headers.get("x-aws-ec2-metadata-token") != self.wants:
                r.error(401)
            elif q.name.endswith("/"):
                r.whole(self.role.encode() + b"\n")
            elif q.name.endswith("/" + self.role):
                self.json(r)
            else:
                r.error(404)
        else:
            r.error(404)

    def json(self, r):
        access, secret, token, until = self.next()
        r.whole(json.dumps({"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": access, "SecretAccessKey": secret,
                            "Token": token, "Expiration": until}).encode())

    def sts(self, r, form):
        if form.get("Action") != "AssumeRoleWithWebIdentity" or form.get("WebIdentityToken") != self.wants or \
                not form.get("RoleArn") or not form.get("RoleSessionName"):
            r.error(400, b"<ErrorResponse><Error><Code>InvalidIdentityToken</Code></Error></ErrorResponse>")
            return
        access, secret, token, until = map(xml.sax.saxutils.escape, self.next())
        r.whole(f"<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{access}"
                f"</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{token}</SessionToken><Expiration>"
                f"{until}</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>".encode())
