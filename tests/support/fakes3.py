"""A small S3 for integration scripts: one bucket over a folder, path or virtual-host style, that checks every signature
with code of its own. Also the services that hand out temporary keys. Python's standard library only.

    s3 = fakes3.S3(folder, bucket="models")     # a badhttp.Server: url, log, set(scenario), stop()
    s3.keys["AKIATEST"] = fakes3.Key("secret")  # access key: secret, token (None: must be absent), code (a refusal)
    s3.env()                                    # what the program needs to find it

Refusals carry the codes, the status and the XML of the real one.
"""
import calendar
import email.utils
import hashlib
import hmac
import json
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
        if parts[0] != self.bucket or len(parts) < 2:
            self.refuse(r, 404, "NoSuchBucket")
            return
        q.name = parts[1]
        super()._answer(q, r)
        r.headers["x-amz-bucket-region"] = self.region
        if r.status in (404, 412):
            self.refuse(r, r.status, {404: "NoSuchKey", 412: "PreconditionFailed"}[r.status])

    def check(self, q):
        """None, or (status, code, more XML) of a refusal."""
        h = q.headers
        if "authorization" not in h:
            return None if self.public else (403, "AccessDenied")
        m = AUTH.match(h["authorization"])
        date, payload = h.get("x-amz-date", ""), h.get("x-amz-content-sha256")
        if not m or not re.fullmatch(r"\d{8}T\d{6}Z", date) or payload not in (EMPTY, "UNSIGNED-PAYLOAD"):
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

    def _one(self, connection, f):
        line = f.readline(65536).decode("latin-1").split()
        if len(line) != 3:
            return False
        headers = {k.lower(): v for k, v in badhttp.http.client.parse_headers(f).items()}
        body = f.read(int(headers.get("content-length", 0)))
        q, r = self._request(line[0], line[1], headers), badhttp.Reply()
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
