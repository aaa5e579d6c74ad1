#!/usr/bin/env python3
"""`penstock run s3://...` of models/kjv through a small S3 that checks every signature: the text of a run from the
folder, from each source of keys, through a wrong region, a wrong clock and keys that expire under way; a refusal names
bucket, key and what to do; no secret appears in a log, an error or the cache. Where PENSTOCK_TEST_S3 names a real store
(tests/support/real_s3.py says how): what can be asked of that one instead."""
# ctest-timeout: 240
import glob
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import badhttp  # noqa: E402
import fakes3  # noqa: E402
import peer  # noqa: E402
import real_s3  # noqa: E402

PROMPT, N = "In the beginning", 16
SLOW = 6 if peer.SANITIZED else 1
PREFIX = "dir/we ird+%25 \u00fc=&?"  # taken literally, escaped on the wire


class Setting:
    text, root = b"", ""


def run(t, address, env, *args, cache="cache", seconds=40):
    return t.run("run", address, "-p", PROMPT, "-n", N, "--temp", "0", "--ignore-eos", *args, cache=t.path(cache), disk="32M",
                 env=env, seconds=seconds * SLOW)


def fine(t, r, what):
    t.equal(r.rc, 0, f"{what}: {r}")
    t.equal(r.text, Setting.text, f"{what}: the text")


def served(function, **kw):
    def part(t):
        s3 = fakes3.S3(Setting.root, **kw)
        try:
            function(t, s3)
        finally:
            s3.stop()
    return part


def plain(t, s3):
    r = run(t, "s3://models/" + PREFIX, s3.env())
    fine(t, r, "odd key")
    t.check(len(s3.log) > 3, "requests")
    for q in s3.log:
        t.check(q.status in (206, 404), f"{q}")
        t.check(q.target.startswith("/models/dir/we%20ird%2B%2525%20%C3%BC%3D%26%3F/"), q.target)
        t.equal(q.headers.get("x-amz-content-sha256"), fakes3.EMPTY, "hash of the empty body")
    parts = [q for q in s3.log if q.name.endswith(".safetensors")]
    t.check(parts and all("if-match" in q.headers for q in parts[1:]), "If-Match on every part but the first")
    before = len(s3.log)
    fine(t, run(t, "s3://models/" + PREFIX, s3.env()), "again, from the cache")
    t.check(len(s3.log) - before < before, "the cache is used")


def version(t, s3):
    fine(t, run(t, "s3://models/kjv?versionId=a b/c=", s3.env()), "version")
    t.check(all(q.query == "versionId=a%20b%2Fc%3D" for q in s3.log), str(s3.log[0].query))


def region(t, s3):
    fine(t, run(t, "s3://models/kjv", s3.env(AWS_REGION="us-west-2")), "another region")
    wrong = [q for q in s3.log if q.status == 400]
    t.check(1 <= len(wrong) <= 8, f"{len(wrong)} requests for the wrong region")


def moved(t, s3):
    """301 with the bucket's region in a header, as AWS answers."""
    def scenario(q, r):
        if "/us-west-2/" in q.headers["authorization"]:
            s3.refuse(r, 301, "PermanentRedirect", x_amz_bucket_region="us-east-1")
    s3.set(scenario)
    fine(t, run(t, "s3://models/kjv", s3.env(AWS_REGION="us-west-2")), "301")


def region_loop(t, s3):
    """Two regions that each name the other: told as what it is, at once."""
    for status, code in ((301, "PermanentRedirect"), (400, "AuthorizationHeaderMalformed")):
        def scenario(q, r, status=status, code=code):
            there = "us-east-1" if "/us-west-2/" in q.headers["authorization"] else "us-west-2"
            s3.refuse(r, status, code, x_amz_bucket_region=there)
        s3.check = lambda q: None  # signed for whatever region
        s3.set(scenario)
        r = run(t, "s3://models/kjv", s3.env())
        badhttp.check_failed(t, r, 3, ("another region each time", "us-", "AWS_ENDPOINT_URL"), what=f"{status} from two regions")
        t.check(len(s3.log) <= 16 and r.seconds < 5 * SLOW, f"{len(s3.log)} requests, {r.seconds} s")


def clock(ahead):
    def part(t, s3):
        s3.ahead_s = ahead
        r = run(t, "s3://models/kjv", s3.env())
        fine(t, r, f"clock {ahead}")
        t.check("clock is off by" in r.err, "the clock is named")
        t.check(sum(q.status == 403 for q in s3.log) <= 8, "corrected once")
    return part


def public(t, s3):
    env = {k: v for k, v in s3.env().items() if "KEY" not in k}
    fine(t, run(t, "s3://models/kjv", env), "public")
    t.check(not any("authorization" in q.headers for q in s3.log), "nothing is signed")
    s3.keys.clear()
    fine(t, run(t, "s3://models/kjv", s3.env(AWS_NO_SIGN_REQUEST="YES"), cache="c2"), "unsigned on demand")


def hidden(t, s3):
    """Keys that may read but not list: what does not exist is answered with 403."""
    s3.set(lambda q, r: s3.refuse(r, 403, "AccessDenied") if r.status == 404 else None)
    fine(t, run(t, "s3://models/kjv", s3.env()), "403 for what is missing")


def payer(t, s3):
    s3.needs_payer = True
    fine(t, run(t, "s3://models/kjv", s3.env(AWS_REQUEST_PAYER="requester")), "requester pays")
    r = run(t, "s3://models/kjv", s3.env(), cache="c2")
    badhttp.check_failed(t, r, 3, ("AWS_REQUEST_PAYER",))


def google(t, s3):
    """The XML interface of Google's store: HMAC keys, region "auto", nothing said of a bucket's region. AWS_ENDPOINT_URL_S3 goes
    before AWS_ENDPOINT_URL, where nobody listens."""
    s3.keys = {"GOOG1EXAMPLE": fakes3.Key("hmac/Secret+Value")}
    s3.set(lambda q, r: r.headers.pop("x-amz-bucket-region", None))
    env = s3.env(AWS_ACCESS_KEY_ID="GOOG1EXAMPLE", AWS_SECRET_ACCESS_KEY="hmac/Secret+Value", AWS_REGION="auto",
                 AWS_ENDPOINT_URL=f"http://127.0.0.1:{peer.free_port()}", AWS_ENDPOINT_URL_S3=s3.url)
    fine(t, run(t, "s3://models/kjv", env), "HMAC keys")
    t.check(all("/auto/s3/aws4_request" in q.headers["authorization"] for q in s3.log), "signed for region auto")
    parts = [q for q in s3.log if q.name.endswith(".safetensors")]
    t.check(parts and all("if-match" in q.headers for q in parts[1:]), "If-Match on every part but the first")


def redirect(t, s3):
    """A gateway that sends reads on to a CDN: followed, without signature or token."""
    cdn = badhttp.Server(Setting.root)
    s3.keys["AKIATEST"].token = "theToken"
    s3.set(lambda q, r: r.redirect(f"{cdn.url}/{q.name}?X-Sig=hiddenSig") if r.status < 300 else None)
    try:
        r = run(t, "s3://models/kjv", s3.env(AWS_SESSION_TOKEN="theToken", PENSTOCK_LOG="trace"))
        fine(t, r, "CDN")
        t.check("hiddenSig" not in r.err, "a signed address in the log")
        for q in cdn.log:
            t.check(not any(n == "authorization" or n.startswith("x-amz") for n in q.headers), f"{q.headers}")
        t.check(len(s3.log) < len(cdn.log), "targets are remembered")
    finally:
        cdn.stop()


def refused(status, says, **env):
    def part(t, s3):
        s3.keys["AKIAOLD"] = fakes3.Key("oldSecretValue", code="ExpiredToken", status=400)
        s3.keys["AKIANO"] = fakes3.Key("noSecretValue", code="AccessDenied")
        r = run(t, env.pop("address", "s3://models/kjv"), s3.env(PENSTOCK_LOG="trace", **env), "--net-deadline", "6")
        badhttp.check_failed(t, r, status, says)
        for secret in ("topSecretValue", "oldSecretValue", "noSecretValue", "otherSecretValue", "Signature=", "AWS4-HMAC"):
            t.check(secret not in r.err and secret not in str(r.stats), f"{secret} is shown")
        t.check(len(s3.log) <= 8, f"{len(s3.log)} requests")
    return part


# ---- sources of keys ----

def no_keys(s3, **more):
    return {k: v for k, v in s3.env(**more).items() if k not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}


def files(t, s3):
    os.makedirs(t.path("home", ".aws"))
    with open(t.path("home", ".aws", "credentials"), "w") as f:
        f.write("[default]\naws_access_key_id = AKIAWRONG\naws_secret_access_key = x\n"
                "[mine]\naws_access_key_id = AKIATEST\naws_secret_access_key = topSecretValue\n")
    with open(t.path("home", ".aws", "config"), "w") as f:
        f.write(f"[profile mine]\nregion = {s3.region}\nendpoint_url = {s3.url}\n")
    env = {"AWS_PROFILE": "mine", "AWS_EC2_METADATA_DISABLED": "true", "PENSTOCK_MIN_FREE": "0"}
    fine(t, run(t, "s3://models/kjv", env), "profile")
    with open(t.path("home", ".aws", "config"), "a") as f:  # as `aws configure` writes a name with a blank
        f.write(f"[profile 'my dev']\nregion = {s3.region}\nservices = near\naws_access_key_id = AKIATEST\n"
                f"aws_secret_access_key = topSecretValue\n[services near]\ns3 =\n  endpoint_url = {s3.url}\n")
    fine(t, run(t, "s3://models/kjv", {**env, "AWS_PROFILE": "my dev"}, cache="c3"), "services of a profile")
    r = run(t, "s3://models/kjv", {**env, "AWS_PROFILE": "missing"}, cache="c2")
    badhttp.check_failed(t, r, 3, ("no such AWS profile: missing",), stats=False)


def sts_of_profile(t, s3, service):
    """The address of STS where the AWS tools take it from: the environment, [services NAME], the profile's for all."""
    os.makedirs(t.path("aws"), exist_ok=True)
    nobody = f"http://127.0.0.1:{peer.free_port()}"
    role = f"web_identity_token_file = {t.path('token')}\nrole_arn = arn:aws:iam::1:role/a b\nregion = {s3.region}\n"
    with open(t.path("aws", "config"), "w") as f:
        f.write(f"[profile all]\n{role}endpoint_url = {service.url}\n"
                f"[profile one]\n{role}endpoint_url = {nobody}\nservices = near\n"
                f"[services near]\nsts =\n  endpoint_url = {service.url}\ns3 =\n  endpoint_url = {nobody}\n")
    env = no_keys(s3, AWS_CONFIG_FILE=t.path("aws", "config"), AWS_ENDPOINT_URL_S3=s3.url)
    del env["AWS_ENDPOINT_URL"]
    for i, more in enumerate(({"AWS_PROFILE": "all"}, {"AWS_PROFILE": "one"},
                              {"AWS_PROFILE": "one", "AWS_ENDPOINT_URL_STS": service.url, "AWS_ENDPOINT_URL": nobody})):
        before = service.given
        fine(t, run(t, "s3://models/kjv", {**env, **more}, cache=f"sts{i}"), f"STS by {more}")
        t.check(service.given > before, f"STS was asked: {more}")


def temporary(how):
    """Short-lived keys: the first expire at once and the server says so; the next ones are good."""
    def part(t, s3):
        s3.keys = {"AKIAOLD": fakes3.Key("oldSecretValue", "oldToken", code="ExpiredToken", status=400),
                   "AKIANEW": fakes3.Key("newSecret&Value", "newToken+/=")}
        service = fakes3.KeyService([("AKIAOLD", "oldSecretValue", "oldToken", 3600),
                                     ("AKIANEW", "newSecret&Value", "newToken+/=", 3600)])
        with open(t.path("token"), "w") as f:
            f.write("pass\n")
        env = {"sts": {"AWS_WEB_IDENTITY_TOKEN_FILE": t.path("token"), "AWS_ROLE_ARN": "arn:aws:iam::1:role/a b",
                       "AWS_ENDPOINT_URL_STS": service.url},
               "container": {"AWS_CONTAINER_CREDENTIALS_FULL_URI": service.url + "/container",
                             "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": t.path("token")},
               "ec2": {"AWS_EC2_METADATA_SERVICE_ENDPOINT": service.url + "/", "AWS_EC2_METADATA_DISABLED": "false"}}[how]
        try:
            r = run(t, "s3://models/kjv", no_keys(s3, PENSTOCK_LOG="trace", **env))
            fine(t, r, how)
            t.equal(service.given, 2, f"{how}: sets of keys fetched")
            for secret in ("SecretValue", "newSecret", "oldToken", "newToken", "Signature="):
                t.check(secret not in r.err, f"{how}: {secret} in the log")
            if how == "sts":
                sts_of_profile(t, s3, service)
            service.wants = "another"
            if how != "ec2":
                r = run(t, "s3://models/kjv", no_keys(s3, **env), cache="c2")
                badhttp.check_failed(t, r, 3, ("no AWS keys",))
        finally:
            service.stop()
    return part


def renewed(t, s3):
    """Keys near their end are renewed while the old ones still work; the requests go on."""
    s3.keys = {"AKIAOLD": fakes3.Key("oldSecretValue", "oldToken"), "AKIANEW": fakes3.Key("newSecretValue", "newToken")}
    service = fakes3.KeyService([("AKIAOLD", "oldSecretValue", "oldToken", 45), ("AKIANEW", "newSecretValue", "newToken", 3600)])
    s3.set(lambda q, r: setattr(r, "delay", 0.35) if q.name.endswith(".safetensors") else None)
    try:
        r = run(t, "s3://models/kjv", no_keys(s3, AWS_CONTAINER_CREDENTIALS_FULL_URI=service.url + "/container",
                                              AWS_CONTAINER_AUTHORIZATION_TOKEN="pass"), "--connections", "1")
        fine(t, r, "renewed")
        t.check(service.given <= 2, f"{service.given} sets of keys fetched")
        t.check(all(q.status in (206, 404) for q in s3.log), "no request was refused")
        t.check(any("AKIANEW" in q.headers["authorization"] for q in s3.log), "the new keys are used")
    finally:
        service.stop()


def nothing_stays(t, s3, address="s3://models/kjv", secrets=(b"topSecretValue", b"AKIATEST", b"AWS4-HMAC", b"X-Amz")):
    r = run(t, address, s3.env())
    fine(t, r, "cached")
    for path in glob.glob(t.path("cache", "**", "*"), recursive=True):
        if os.path.isfile(path):
            with open(path, "rb") as f:
                data = f.read()
            for secret in secrets:
                t.check(secret not in data, f"{secret} in {path}")


# ---- a real store ----

def real(t):
    s3 = real_s3.Store()
    t.servers.append(s3)
    s3.put_folder(peer.KJV, "kjv")
    s3.put_folder(peer.KJV, PREFIX)
    address, tree = s3.address("kjv"), s3.address("kjv-split")
    t.name = "real store"
    fine(t, run(t, s3.address(PREFIX), s3.env()), "odd key")
    r = run(t, s3.address(PREFIX), s3.env())
    fine(t, r, "again, from the cache")
    t.check(r.stats["bytes_net"] < os.path.getsize(os.path.join(peer.KJV, "model.safetensors")), "the cache is used")
    fine(t, run(t, address, s3.env(PENSTOCK_LOG="trace"), cache="c2"), "a plain key")
    files = {"AWS_PROFILE": "mine", "AWS_EC2_METADATA_DISABLED": "true", "PENSTOCK_MIN_FREE": "0"}
    os.makedirs(t.path("home", ".aws"))
    with open(t.path("home", ".aws", "credentials"), "w") as f:
        f.write(f"[mine]\naws_access_key_id = {s3.key}\naws_secret_access_key = {s3.secret}\n")
    with open(t.path("home", ".aws", "config"), "w") as f:
        f.write(f"[profile mine]\nregion = {s3.region}\nendpoint_url = {s3.url}\n")
    fine(t, run(t, address, files, cache="c3"), "profile")
    split = t.run("split", peer.KJV, tree, "--codec", "lz4", env=s3.env())
    t.equal(split.rc, 0, f"split to it: {split}")
    fine(t, run(t, tree, s3.env(), cache="c4"), "a pre-split tree")
    wrong = "otherSecretValue"
    for what, status, says, where, env in (
            ("wrong secret", 3, ("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"), address, {"AWS_SECRET_ACCESS_KEY": wrong}),
            ("unknown key", 3, ("InvalidAccessKeyId",), address, {"AWS_ACCESS_KEY_ID": "unknown-key"}),
            ("unsigned", 3, (address,), address, {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}),
            ("no bucket", 3, ("NoSuchBucket",), f"s3://{s3.bucket}-none/kjv", {}), ("no key", 3, (s3.address("none"),), s3.address("none"), {})):
        r = run(t, where, s3.env(PENSTOCK_LOG="info", **env), "--net-deadline", "6", cache="c5")
        badhttp.check_failed(t, r, status, says, what=what)
        for secret in (s3.secret, wrong, "Signature=", "AWS4-HMAC"):
            t.check(secret not in r.err and secret not in str(r.stats), f"{what}: a secret is shown")
    nothing_stays(t, s3, address, (s3.secret.encode(), b"AWS4-HMAC", b"X-Amz"))


def main():
    with peer.Test() as t:
        Setting.root = t.path("bucket")
        peer.copy_model(peer.KJV, os.path.join(Setting.root, "kjv"))
        os.makedirs(os.path.join(Setting.root, "dir"))
        shutil.copytree(os.path.join(Setting.root, "kjv"), os.path.join(Setting.root, PREFIX))
        local = t.run("run", peer.KJV, "-p", PROMPT, "-n", N, "--temp", "0", "--ignore-eos")
        t.equal(local.rc, 0, f"from the folder: {local}")
        Setting.text = local.text
        if real_s3.named():
            real(t)
            return
        parts = [
            ("odd key", served(plain)),
            ("version", served(version)),
            ("region", served(region, region="eu-central-1")),
            ("region loop", served(region_loop)),
            ("moved", served(moved)),
            ("clock behind", served(clock(7200))),
            ("clock ahead", served(clock(-7200))),
            ("public", served(public, public=True)),
            ("hidden", served(hidden)),
            ("requester pays", served(payer)),
            ("google", served(google, region="auto")),
            ("gateway", served(redirect)),
            ("files", served(files)),
            ("web identity", served(temporary("sts"))),
            ("container", served(temporary("container"))),
            ("ec2", served(temporary("ec2"))),
            ("renewed", served(renewed)),
            ("nothing stays", served(nothing_stays)),
            ("wrong secret", served(refused(3, ("s3://models/kjv/", "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
                                            AWS_SECRET_ACCESS_KEY="otherSecretValue"))),
            ("unknown key", served(refused(3, ("s3://models/kjv", "InvalidAccessKeyId"), AWS_ACCESS_KEY_ID="AKIAUNKNOWN"))),
            ("expired", served(refused(3, ("s3://models/kjv", "ExpiredToken", "fresh"), AWS_ACCESS_KEY_ID="AKIAOLD",
                                       AWS_SECRET_ACCESS_KEY="oldSecretValue"))),
            ("denied", served(refused(3, ("s3://models/kjv/", "AccessDenied"), AWS_ACCESS_KEY_ID="AKIANO",
                                      AWS_SECRET_ACCESS_KEY="noSecretValue"))),
            ("unsigned", served(refused(3, ("s3://models/kjv/", "asked without AWS keys"), AWS_ACCESS_KEY_ID="",
                                        AWS_SECRET_ACCESS_KEY=""))),
            ("half", served(refused(3, ("AWS_SECRET_ACCESS_KEY",), AWS_SECRET_ACCESS_KEY=""))),
            ("no bucket", served(refused(3, ("s3://else/kjv/", "NoSuchBucket"), address="s3://else/kjv"))),
            ("no key", served(refused(3, ("s3://models/nothing",), address="s3://models/nothing"))),
        ]
        badhttp.side_by_side(t, parts)


main()
