"""Certificates for integration scripts, made with the openssl program."""
import subprocess
import sys

sys.dont_write_bytecode = True


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def certificate(t, name, host, ca=None, days=2):
    """A key and a certificate for `host` ("DNS:name", "IP:address"), signed by itself or by the one called `ca`."""
    key, crt, ext = t.path(name + ".key"), t.path(name + ".crt"), t.path(name + ".ext")
    with open(ext, "w") as f:
        f.write(f"subjectAltName={host}\n" if ca else "basicConstraints=critical,CA:TRUE\n")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-subj", f"/CN=penstock test {name}", "-out", t.path(name + ".csr"))
    sign = ["-CA", t.path(ca + ".crt"), "-CAkey", t.path(ca + ".key"), "-CAcreateserial"] if ca else ["-signkey", key]
    openssl("x509", "-req", "-in", t.path(name + ".csr"), "-out", crt, "-days", days, "-extfile", ext, *sign)
    return crt, key
