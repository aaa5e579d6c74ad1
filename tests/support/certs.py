"""Certificates for tests, made by the openssl program. A script's own file: peer.skip where there is none."""
import os
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
import peer  # noqa: E402


def openssl(*args):
    if not shutil.which("openssl"):
        peer.skip("openssl is not installed")
    subprocess.run(["openssl", *map(str, args)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make(t, name, host=None, ca=None, expired=False):
    """(certificate, key): PEM files for `host` ("IP:127.0.0.1"), signed by itself or by the CA of that name, which was made
    without a host."""
    key, crt, csr, ext = (t.path(name + end) for end in (".key", ".crt", ".csr", ".ext"))
    with open(ext, "w") as f:
        f.write(f"subjectAltName={host}\n" if host else "basicConstraints=critical,CA:TRUE\n")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-subj", f"/CN=penstock test {name}", "-out", csr)
    if expired:
        _expired(t, name, csr, crt, ext, ca)
        return crt, key
    sign = ["-CA", t.path(ca + ".crt"), "-CAkey", t.path(ca + ".key"), "-CAcreateserial"] if ca else ["-signkey", key]
    openssl("x509", "-req", "-in", csr, "-out", crt, "-days", 2, "-extfile", ext, *sign)
    return crt, key


def _expired(t, name, csr, crt, ext, ca):
    """`openssl x509` takes no date before today; `openssl ca` does."""
    folder = t.path(name + ".ca")
    os.mkdir(folder)
    open(os.path.join(folder, "index.txt"), "w").close()
    config = os.path.join(folder, "ca.conf")
    with open(config, "w") as f:
        f.write(f"[ca]\ndefault_ca=d\n[d]\ndatabase={folder}/index.txt\nnew_certs_dir={folder}\nserial={folder}/serial\npolicy=p\n[p]\ncommonName=supplied\n")
    openssl("ca", "-batch", "-config", config, "-in", csr, "-out", crt, "-cert", t.path(ca + ".crt"), "-keyfile", t.path(ca + ".key"),
            "-startdate", "20200101000000Z", "-enddate", "20200201000000Z", "-extfile", ext, "-notext", "-md", "sha256", "-create_serial")
