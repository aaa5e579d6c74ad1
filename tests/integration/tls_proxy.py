"""https, HTTP/2 and proxies: the same text as from a folder, and errors that say what to do.

nginx with a certificate of a CA of our own: SSL_CERT_FILE decides; another name, an expired or an unknown certificate is
refused with status 3. --http h1 and h2 are what nginx saw. http_proxy carries plain requests whole, https_proxy by CONNECT;
no_proxy goes around them; a proxy that is not there is named; credentials of a proxy are never printed."""
# ctest-timeout: 300
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import badhttp  # noqa: E402
import certs  # noqa: E402
import peer  # noqa: E402
import proxy as web_proxy  # noqa: E402

ARGS = ("-p", "And it came to pass", "-n", "8", "--temp", "0", "--ignore-eos")
SECRET = "s3cretword"


def run(t, address, env=None, *args):
    return t.run("run", address, *ARGS, *args, disk="0", ram="min", env=env)


def check_tls(t, want, web, url, ca, plain):
    trusted = {"SSL_CERT_FILE": ca}
    for version in ("auto", "h1", "h2"):
        web.protocols()
        r = run(t, url + "/kjv", trusted, "--http", version)
        t.equal((r.rc, r.text), (0, want), f"https, --http {version}: {r}")
        seen = web.protocols()
        t.equal(seen, {"HTTP/2.0"} if version == "h2" else {"HTTP/1.1"}, f"--http {version}: what nginx saw")
    r = run(t, url + "/kjv")
    badhttp.check_failed(t, r, 3, ("certificate", "SSL_CERT_FILE"), what="an unknown CA")
    r = run(t, url.replace("127.0.0.1", "localhost") + "/kjv", trusted)
    badhttp.check_failed(t, r, 3, ("certificate",), what="a certificate for another name")
    r = run(t, url.replace("https", "http") + "/kjv", trusted)
    badhttp.check_failed(t, r, (3, 4), (), what="http to a port of https")
    r = run(t, plain.replace("http:", "https:") + "/kjv", trusted)
    badhttp.check_failed(t, r, 3, ("does not speak TLS", "http://"), what="https to a port of http")
    t.check(r.seconds < 10, f"https to a port of http: {r.seconds:.1f} s")


def check_proxies(t, want, http_url, https_url, ca):
    proxy = web_proxy.Proxy()
    t.servers.append(proxy)
    env = {"http_proxy": f"http://127.0.0.1:{proxy.port}", "https_proxy": f"http://user:{SECRET}@127.0.0.1:{proxy.port}", "SSL_CERT_FILE": ca}
    r = run(t, http_url + "/kjv", env)
    t.equal((r.rc, r.text), (0, want), f"through http_proxy: {r}")
    seen = proxy.take()
    t.check(seen and all(m == "GET" and x.startswith("http://") for m, x, _ in seen), f"whole requests through http_proxy: {seen[:2]}")
    r = run(t, https_url + "/kjv", {**env, "PENSTOCK_LOG": "trace"})
    t.equal((r.rc, r.text), (0, want), f"through https_proxy: {r.rc}")
    seen = proxy.take()
    t.check(seen and all(m == "CONNECT" for m, _, _ in seen), f"tunnels through https_proxy: {seen[:2]}")
    t.check(any(a and a.startswith("Basic ") for _, _, a in seen), f"the proxy gets its credentials: {seen[:2]}")
    t.check(SECRET not in r.err, "a proxy's password is never printed")
    r = run(t, http_url + "/kjv", {**env, "no_proxy": "127.0.0.1"})
    t.equal((r.rc, r.text, proxy.take()), (0, want, []), f"around the proxy by no_proxy: {r}")
    gone = peer.free_port()
    r = run(t, http_url + "/kjv", {"http_proxy": f"http://user:{SECRET}@127.0.0.1:{gone}"})
    badhttp.check_failed(t, r, 3, ("proxy|127.0.0.1",), what="a proxy that is not there")
    t.check(SECRET not in r.err, "nor when it is not there")


def main():
    with peer.Test() as t:
        peer.copy_model(peer.KJV, t.path("m", "kjv"))
        want = run(t, t.path("m", "kjv")).text
        t.check(want, "a text from the folder")
        ca, _ = certs.certificate(t, "ca", None)
        crt, key = certs.certificate(t, "server", "IP:127.0.0.1", ca="ca")
        web = t.nginx(t.path("m"), tls=(crt, key))
        check_tls(t, want, web, web.tls_url, ca, web.url)
        check_proxies(t, want, web.url, web.tls_url, ca)


main()
