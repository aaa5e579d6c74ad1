#!/usr/bin/env python3
"""What lets a run in, and to whom it is told. Bearer tokens, headers, .netrc, userinfo, query strings, CAs and client
certificates against nginx and a scripted server over TLS: each carries the run to the text of the folder, goes to the
scheme, host and port of the model's address alone (never where a redirect leads), and appears in no log at trace level, no
error, no result file, no plan and no byte of the cache folder. What can't be sent is refused before anything is.

TLS that is not what it should be (expired, foreign, self-signed, another host, a client certificate that is missing or not
taken), redirect loops, 401 and a 403 that heals: right text or the right status, at once."""
# ctest-timeout: 240
import base64
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import badhttp  # noqa: E402
import certs  # noqa: E402
import peer  # noqa: E402

ARGS = ("-p", "And it came to pass", "-n", "6", "--temp", "0", "--ignore-eos")
TOKEN = "tok3nTOK3N-._~+/=="
SECRETS = (TOKEN, "hunter2pass", "hdrS3cret", "queryS3cret")
SLOW = 6 if peer.SANITIZED else 1


class Setting:
    text = b""


def write(t, name, text):
    with open(t.path(name), "wb") as f:
        f.write(text if isinstance(text, bytes) else text.encode())
    return t.path(name)


def run(t, address, *args, env=None, cache="cache", seconds=30):
    env = {"PENSTOCK_LOG": "trace", "PENSTOCK_MIN_FREE": "0", **(env or {})}
    return t.run("run", address, *ARGS, *args, cache=t.path(cache), disk="32M", env=env, seconds=seconds * SLOW)


def silent(t, r, what):
    """No secret in anything that the run has written."""
    written = [r.out, r.err.encode(), repr(r.stats).encode()]
    for folder, _, names in os.walk(t.path("cache")):
        for name in names:
            with open(os.path.join(folder, name), "rb") as f:
                written.append(f.read())
    for secret in SECRETS + tuple(base64.b64encode(s.encode()).decode()[:12] for s in SECRETS):
        t.check(not any(secret.encode() in w for w in written), f"{what}: a secret was written: {secret}")


def fine(t, r, what):
    t.equal((r.rc, r.text), (0, Setting.text), f"{what}: {r.rc} {r.err[-300:]}")
    silent(t, r, what)


def failed(t, r, status, says, what, seconds=None):
    errors = [x for x in r.err.splitlines() if x.startswith("penstock: ") and not badhttp.NOISE.match(x)]
    t.equal(r.rc, status, f"{what}: {r}")
    t.check(len(errors) == 1 and all(w in errors[0] for w in says), f"{what}: {errors}")
    t.check(not badhttp.CRASH.search(r.err), f"{what}: a crash: {r.err[-1000:]}")
    if seconds:
        t.check(r.seconds < seconds * SLOW, f"{what}: {r.seconds:.1f} s")
    silent(t, r, what)


def wants(name, value):
    """A scenario: 401 for who does not say so."""
    return lambda q, r: r.error(401) if q.headers.get(name) != value else None


def tokens(t):
    web = badhttp.Server(peer.KJV, wants("authorization", "Bearer " + TOKEN))
    t.servers += [web]
    fine(t, run(t, web.url, "--bearer", TOKEN), "--bearer")
    fine(t, run(t, web.url, env={"PENSTOCK_BEARER": TOKEN}), "PENSTOCK_BEARER")
    token = write(t, "token", f"  {TOKEN}\r\n")
    fine(t, run(t, web.url, "--bearer-file", token), "--bearer-file")
    fine(t, run(t, web.url, env={"PENSTOCK_BEARER_FILE": token}), "PENSTOCK_BEARER_FILE")
    fine(t, run(t, web.url.replace("//", "//me:hunter2pass@"), "--bearer-file", token), "a token goes before userinfo")
    failed(t, run(t, web.url), 3, ("401", "--bearer"), "no token", 10)
    failed(t, run(t, web.url, "--bearer", "hunter2pass"), 3, ("401",), "another token", 10)
    r = t.run("plan", web.url, "--json", "--bearer", TOKEN, cache=t.path("cache"), disk="32M", env={"PENSTOCK_LOG": "trace"})
    t.equal(r.rc, 0, f"plan: {r}")
    silent(t, r, "plan")
    for command, extra in (("tokenize", ("x",)), ("inspect", ("--json",))):
        r = t.run(command, web.url, *extra, "--bearer-file", token)
        t.equal(r.rc, 0, f"{command} with a token: {r}")
    r = t.run("split", web.url, t.path("split"), "--codec", "raw", "--bearer-file", token, cache=None)
    t.equal(r.rc, 0, f"split with a token: {r}")
    for what, text in (("empty", " \n"), ("two words", "a b"), ("two lines", f"{TOKEN}\nX: y"), ("control", "a\x01b"), ("long", "a" * 9000)):
        before = len(web.log)
        failed(t, run(t, web.url, "--bearer-file", write(t, "bad", text)), 2, ("--bearer-file",), f"a token that is {what}")
        t.equal(len(web.log), before, f"a token that is {what}: nothing is asked")
    failed(t, run(t, web.url, "--bearer-file", t.path("none")), 2, ("--bearer-file", "none"), "no such file")
    failed(t, run(t, web.url, "--bearer-file", token, "--bearer", TOKEN), 2, ("give one of --bearer-file and --bearer, not both",),
           "two tokens")
    fine(t, run(t, web.url, "--bearer", TOKEN, env={"PENSTOCK_BEARER_FILE": t.path("none")}), "--bearer beats PENSTOCK_BEARER_FILE")
    fine(t, run(t, web.url, "--bearer-file", token, env={"PENSTOCK_BEARER": "another"}), "--bearer-file beats PENSTOCK_BEARER")
    wrong = {"PENSTOCK_HEADER": "authorization: Basic bm9ib2R5"}
    fine(t, run(t, web.url, "--bearer", TOKEN, env=wrong), "--bearer beats an Authorization in PENSTOCK_HEADER")
    fine(t, run(t, web.url, "--bearer-file", token, env=wrong), "--bearer-file beats it, too")
    fine(t, run(t, web.url, "-H", "Authorization: Bearer " + TOKEN, env={"PENSTOCK_BEARER": "another"}), "an Authorization as an option beats PENSTOCK_BEARER")
    failed(t, run(t, web.url, env={"PENSTOCK_BEARER": TOKEN, **wrong}), 2, ("Authorization",), "two variables")
    several(t, web, token)
    r = subprocess.run([t.program, "tokenize", web.url, "x", "--bearer-file", "/dev/stdin"], input=TOKEN.encode(), capture_output=True,
                       env={"HOME": t.path("home")})
    t.equal(r.returncode, 0, f"a token from a pipe: {r.stderr[-200:]}")


def several(t, web, token):
    """What is for one server is refused before any is asked where the addresses are of several."""
    other = badhttp.Server(peer.KJV)
    t.servers.append(other)
    asked = len(web.log)
    listed = write(t, "list", f"{web.url}\nhttp://\n{peer.KJV}\n{other.url}\n")
    for option, value in (("--bearer", TOKEN), ("--bearer-file", token), ("-H", "X-A: hdrS3cret"), ("--cert", token)):
        name = "--header" if option == "-H" else option
        for args in (("warm", "--from-file", listed), ("inspect", "--diff", web.url, other.url)):
            r = t.run(*args, option, value, cache=t.path("cache"))
            t.check(r.rc == 2 and f"{name}: it is for one server" in r.err, f"{option}, two servers: {r}")
            silent(t, r, f"{option}, two servers")
    t.equal((len(web.log), len(other.log)), (asked, 0), "nothing is asked")
    secret = web.url.replace("//", "//me:hunter2pass@") + "?sig=queryS3cret"
    r = t.run("inspect", "--diff", secret, web.url, "--json", "--bearer", TOKEN)
    t.equal((r.rc, r.json["a"]["model"], r.json["same"]), (0, web.url, True), f"one server: {r}")
    silent(t, r, "inspect --diff")
    r = t.run("warm", "--from-file", write(t, "list", f"{web.url}\n{secret}\n"), "--bearer", TOKEN, "--disk", "32M", cache=t.path("cache"),
              env={"PENSTOCK_MIN_FREE": "0"})
    t.equal(r.rc, 0, f"a list of one server: {r}")


def headers(t):
    web = badhttp.Server(peer.KJV, wants("x-api-key", "hdrS3cret: with, commas"))
    t.servers += [web]
    file = write(t, "headers", "# a comment\r\nX-Api-Key: hdrS3cret: with, commas\r\n\r\nAccept: application/octet-stream\nX-Empty;\n")
    fine(t, run(t, web.url, "--header", "@" + file), "--header @FILE")
    q = web.log[-1]
    t.equal((q.headers.get("accept"), q.headers.get("x-empty")), ("application/octet-stream", ""), "the other headers of the file")
    fine(t, run(t, web.url, "-H", "X-Api-Key: hdrS3cret: with, commas", "-H", "X-Two: 2"), "-H twice")
    t.equal(web.log[-1].headers.get("x-two"), "2", "the second header")
    fine(t, run(t, web.url, env={"PENSTOCK_HEADER": "@" + file}), "PENSTOCK_HEADER")
    before = len(web.log)
    for what, text in (("CR inside", "X-A: b\rX-Evil: hdrS3cret\n"), ("NUL", b"X-A: b\0c\n"), ("no colon", "hdrS3cret\n"),
                       ("no name", ": hdrS3cret\n"), ("a blank in the name", "X A: hdrS3cret\n"), ("a folded line", "X-A: b\n hdrS3cret\n"),
                       ("Range", "range: bytes=0-1\n"), ("Host", "Host: hdrS3cret\n"), ("Transfer-Encoding", "Transfer-Encoding: chunked\n"),
                       ("escape", "X-A: \x1b[2J\n"), ("a line without end", "X-A: " + "b" * 9000 + "\n"), ("too many", "X-A: b\n" * 65)):
        failed(t, run(t, web.url, "-H", "@" + write(t, "bad", text)), 2, ("--header",), f"a header file with {what}")
    failed(t, run(t, web.url, "-H", "X-A: b\r\nX-Evil: hdrS3cret"), 2, ("--header",), "CR LF in an option")
    failed(t, run(t, web.url, "-H", "@" + file, "-H", "Authorization: x", "--bearer", TOKEN), 2, ("Authorization",), "two Authorizations")
    t.equal(len(web.log), before, "nothing is asked with what can't be sent")


def logins(t):
    auth = "Basic " + base64.b64encode(b"me:hunter2pass").decode()
    web = badhttp.Server(peer.KJV, wants("authorization", auth))
    t.servers += [web]
    fine(t, run(t, web.url.replace("//", "//me:hunter2pass@")), "userinfo")
    netrc = write(t, "netrc", '# who\nmachine other.example login you password no\nmacdef init\nmachine 127.0.0.1\n\n'
                              'machine 127.0.0.1 login me password "hunter2pass"\ndefault login x password y\n')
    fine(t, run(t, web.url, "--netrc-file", netrc), "--netrc-file")
    fine(t, run(t, web.url.replace("//", "//me@"), "--netrc-file", netrc), "--netrc-file for a user")
    failed(t, run(t, web.url), 3, ("401",), "a .netrc that nobody asked for", 10)
    home = t.path("netrc-home")
    os.mkdir(home)
    os.rename(netrc, os.path.join(home, ".netrc"))
    fine(t, run(t, web.url, "--netrc", env={"HOME": home}), "--netrc")
    failed(t, run(t, web.url, env={"HOME": home}), 3, ("401",), "~/.netrc without --netrc", 10)
    failed(t, run(t, web.url, "--netrc"), 3, ("401",), "--netrc without a ~/.netrc", 10)
    failed(t, run(t, web.url, "--netrc-file", t.path("none")), 2, ("--netrc-file",), "no such file")


def queries(t):
    """A SAS or presigned prefix: its query goes with every object, and nowhere else."""
    query = "sv=2024-01-01&sig=queryS3cret%2Babc%3D"
    web = badhttp.Server(peer.KJV, lambda q, r: r.error(403) if q.query != query else None)
    t.servers += [web]
    fine(t, run(t, web.url + "/?" + query), "a query string")
    t.check(len(web.log) > 4 and all(q.query == query for q in web.log), "with every object")
    failed(t, run(t, web.url + "/?sig=queryS3cretX"), 3, ("403",), "a wrong signature", 10)


def redirects(t):
    """Everything at once, to a server that sends all requests on: nothing goes along."""
    other = badhttp.Server(peer.KJV)
    web = badhttp.Server(peer.KJV, lambda q, r: r.redirect(f"{other.url}/{q.name}"))
    t.servers += [web, other]
    file = write(t, "headers", "X-Api-Key: hdrS3cret\nCookie: a=hdrS3cret\n")
    given = ("--bearer", TOKEN, "-H", "@" + file)
    fine(t, run(t, web.url + "/?sig=queryS3cret", *given), "redirected to another port")
    t.check(other.log and all(not {"authorization", "x-api-key", "cookie"} & set(q.headers) and not q.query for q in other.log),
            f"what the other server got: {other.log[:1] and other.log[0].headers}")
    t.check(all(q.headers.get("authorization") and q.headers.get("x-api-key") for q in web.log), "what the first one got")
    # ... and back: what was left behind stays behind
    web.set(lambda q, r: r.redirect(f"{other.url}/{q.name}") if not q.query else None)
    other.set(lambda q, r: r.redirect(f"{web.url}/{q.name}?back=1"))
    fine(t, run(t, web.url, *given, cache="r1"), "to another port and back")
    back = [q for q in web.log if q.query]
    t.check(back and all(not {"authorization", "x-api-key"} & set(q.headers) for q in back), "after a detour")
    # inside the same origin they go along
    web.set(lambda q, r: r.redirect(f"/{q.name}?moved=1") if not q.query else None)
    fine(t, run(t, web.url, *given, cache="r2"), "redirected inside the server")
    t.check(all(q.headers.get("authorization") for q in web.log), "they go along inside the origin")
    web.set(lambda q, r: r.redirect(f"/{q.name}?{q.total}"))
    failed(t, run(t, web.url, *given, cache="c2"), 3, ("too many redirects",), "a redirect loop", 10)
    web.set(lambda q, r: r.redirect("file:///etc/passwd"))
    failed(t, run(t, web.url, *given, cache="c2"), 3, ("redirect",), "a redirect to a file", 10)
    # a signed address that expires (403) where a redirect led: asked for afresh, once
    seen = []

    def expires(q, r):
        seen.append(q.query)
        if seen.count(q.query) > 20:
            r.error(403)
    other.set(expires)
    web.set(lambda q, r: r.redirect(f"{other.url}/{q.name}?sig={q.total}queryS3cret"))
    fine(t, run(t, web.url, *given, cache="r3"), "signed addresses that expire")
    t.check(any(q.status == 403 for q in other.log), f"one has expired: {len(other.log)} requests")
    other.set(lambda q, r: r.error(403))
    failed(t, run(t, web.url, *given, cache="c2"), 3, ("403",), "signed addresses that are never good", 10)


def certificates(t):
    ca, _ = certs.certificate(t, "ca", None)
    server = certs.certificate(t, "server", "IP:127.0.0.1", ca="ca")
    me, key = certs.certificate(t, "me", "DNS:me", ca="ca")
    foreign_ca, _ = certs.certificate(t, "foreign-ca", None)
    both = write(t, "both.pem", open(me, "rb").read() + open(key, "rb").read())
    web = badhttp.Server(peer.KJV, tls=certs.context(server))
    strict = badhttp.Server(peer.KJV, tls=certs.context(server, ca))
    t.servers += [web, strict]
    fine(t, run(t, web.url, "--cacert", ca), "--cacert")
    fine(t, run(t, web.url, env={"SSL_CERT_FILE": ca}), "SSL_CERT_FILE")
    fine(t, run(t, web.url, env={"CURL_CA_BUNDLE": ca}), "CURL_CA_BUNDLE")
    fine(t, run(t, web.url, "--cacert", ca, env={"SSL_CERT_FILE": foreign_ca}), "--cacert goes before SSL_CERT_FILE")
    failed(t, run(t, web.url, "--cacert", foreign_ca), 3, ("not trusted", "--cacert"), "a foreign CA", 10)
    failed(t, run(t, web.url, "--cacert", t.path("none")), 2, ("--cacert",), "no such CA file")
    for name, what, cert in (("self", "self-signed", certs.certificate(t, "self", "IP:127.0.0.1")), ("name", "another host", certs.certificate(t, "name", "DNS:other.example", ca="ca")),
                             ("old", "expired", certs.certificate(t, "old", "IP:127.0.0.1", ca="ca", expired=True))):
        bad = badhttp.Server(peer.KJV, tls=certs.context(cert))
        t.servers.append(bad)
        failed(t, run(t, bad.url, "--cacert", ca, "--bearer", TOKEN), 3, ("not trusted",), what, 10)
        t.equal(bad.log, [], f"{what}: no request, no token")
    fine(t, run(t, strict.url, "--cacert", ca, "--cert", me, "--key", key), "a client certificate")
    t.check("penstock test me" in str(strict.log[-1].subject), f"whose: {strict.log[-1].subject}")
    fine(t, run(t, strict.url, "--cacert", ca, "--cert", both), "with its key in one file")
    other = write(t, "other.key", open(certs.certificate(t, "other", "DNS:other", ca="ca")[1], "rb").read())
    fine(t, run(t, strict.url, "--cacert", ca, "--cert", both, env={"PENSTOCK_KEY": other}), "PENSTOCK_KEY is none of a --cert")
    fine(t, run(t, strict.url, "--cacert", ca, "--key", key, env={"PENSTOCK_KEY": other, "PENSTOCK_CERT": me}), "--key beats PENSTOCK_KEY")
    failed(t, run(t, strict.url, "--cacert", ca), 3, ("client certificate", "--cert"), "none, where one is wanted", 10)
    alien = certs.certificate(t, "alien", "DNS:me", ca="foreign-ca")
    failed(t, run(t, strict.url, "--cacert", ca, "--cert", alien[0], "--key", alien[1]), 3, ("client certificate",), "a foreign one", 10)
    failed(t, run(t, strict.url, "--cacert", ca, "--cert", me, "--key", alien[1]), 2, ("--cert", "--key"), "a key of another", 10)
    failed(t, run(t, strict.url, "--cacert", ca, "--key", key), 2, ("--cert",), "a key alone")
    locked = t.path("locked.key")
    certs.openssl("rsa", "-aes128", "-passout", "pass:hunter2pass", "-in", key, "-out", locked)
    failed(t, run(t, strict.url, "--cacert", ca, "--cert", me, "--key", locked), 2, ("passphrase",), "a key with a passphrase", 10)
    # the server's word on it gets lost: known by what always happens
    mute = badhttp.Server(peer.KJV, greet=lambda n, plain: certs.refuse_silently(certs.context(server, ca), plain) or True)
    t.servers.append(mute)
    failed(t, run(t, mute.url.replace("http:", "https:"), "--cacert", ca), 3, ("client certificate", "--cert"), "a refusal that is lost", 10)
    t.check(mute.connections <= 8, f"two objects, three tries each: {mute.connections}")
    # one that has answered before is taken to be in trouble instead
    moody = badhttp.Server(peer.KJV, tls=certs.context(server, ca, required=False))
    t.servers.append(moody)
    moody.set(lambda q, r: setattr(r, "raw", b"") if q.name == "model.safetensors" and q.n < 6 else None)
    fine(t, run(t, moody.url, "--cacert", ca, "--connections", "1", cache="moody"), "breaks six times, after answers")
    # a redirect to another server that wants one: ours is not shown
    web.set(lambda q, r: r.redirect(f"{strict.url}/{q.name}"))
    failed(t, run(t, web.url, "--cacert", ca, "--cert", me, "--key", key, cache="c2"), 3, ("client certificate",), "not shown elsewhere", 10)
    web.set(lambda q, r: r.redirect("http://127.0.0.1:1/"))
    failed(t, run(t, web.url, "--cacert", ca, cache="c2"), 3, ("https down to http",), "https down to http", 10)


def nginx(t):
    """The same by a server that is not ours."""
    ca, _ = certs.certificate(t, "ca", None)
    me, key = certs.certificate(t, "me", "DNS:me", ca="ca")
    passwd = write(t, "passwd", "me:" + subprocess.run(["openssl", "passwd", "-apr1", "hunter2pass"], check=True, capture_output=True,
                                                       text=True).stdout)
    web = t.whole.nginx(peer.KJV, tls=certs.certificate(t, "server", "IP:127.0.0.1", ca="ca"), extra=f"""
        ssl_client_certificate {ca}; ssl_verify_client optional;
        location /basic/ {{ alias {peer.KJV}/; auth_basic "model"; auth_basic_user_file {passwd}; }}
        location /token/ {{ alias {peer.KJV}/; if ($http_authorization != "Bearer {TOKEN}") {{ return 401; }} }}
        location /cert/ {{ alias {peer.KJV}/; if ($ssl_client_verify != SUCCESS) {{ return 403; }} }}
        location /sas/ {{ alias {peer.KJV}/; if ($arg_sig != "queryS3cret") {{ return 403; }} }}""")
    for scheme, url in (("http", web.url), ("https", web.tls_url)):
        for version in ("h1", "h2") if scheme == "https" else ("h1",):
            given = ("--cacert", ca, "--http", version)
            fine(t, run(t, url.replace("//", "//me:hunter2pass@") + "/basic", *given), f"{scheme} {version}: auth_basic")
            fine(t, run(t, url + "/token", "--bearer", TOKEN, *given), f"{scheme} {version}: a token")
            fine(t, run(t, url + "/sas?sig=queryS3cret", *given), f"{scheme} {version}: a query")
    fine(t, run(t, web.tls_url + "/cert", "--cacert", ca, "--cert", me, "--key", key), "https: a client certificate")
    failed(t, run(t, web.tls_url + "/cert", "--cacert", ca, cache="c2"), 3, ("403",), "https: none", 10)
    failed(t, run(t, web.url + "/basic", "--bearer", TOKEN, cache="c2"), 3, ("401",), "http: a token where a login is wanted", 10)


def main():
    with peer.Test() as t:
        Setting.text = t.run("run", peer.KJV, *ARGS).text
        t.check(Setting.text, "a text from the folder")
        parts = (tokens, headers, logins, queries, redirects, certificates, nginx)
        badhttp.side_by_side(t, [(p.__name__, p) for p in parts])


main()
