"""Certificates for integration scripts, made with the openssl program."""
import os
import socket
import ssl
import struct
import subprocess
import sys

sys.dont_write_bytecode = True


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def certificate(t, name, host, ca=None, days=2, expired=False):
    """A key and a certificate for `host` ("DNS:name", "IP:address"), signed by itself or by the one called `ca`."""
    key, crt, ext = t.path(name + ".key"), t.path(name + ".crt"), t.path(name + ".ext")
    with open(ext, "w") as f:
        f.write(f"subjectAltName={host}\n" if ca else "basicConstraints=critical,CA:TRUE\n")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-subj", f"/CN=penstock test {name}", "-out", t.path(name + ".csr"))
    if expired:
        _expired(t, name, ca)
        return crt, key
    sign = ["-CA", t.path(ca + ".crt"), "-CAkey", t.path(ca + ".key"), "-CAcreateserial"] if ca else ["-signkey", key]
    openssl("x509", "-req", "-in", t.path(name + ".csr"), "-out", crt, "-days", days, "-extfile", ext, *sign)
    return crt, key


def _expired(t, name, ca):
    """`openssl x509` takes no date before today; `openssl ca` does."""
    folder = t.path(name + ".ca")
    os.mkdir(folder)
    open(os.path.join(folder, "index.txt"), "w").close()
    config = os.path.join(folder, "ca.conf")
    with open(config, "w") as f:
        f.write(f"[ca]\ndefault_ca=d\n[d]\ndatabase={folder}/index.txt\nnew_certs_dir={folder}\nserial={folder}/serial\npolicy=p\n[p]\ncommonName=supplied\n")
    openssl("ca", "-batch", "-config", config, "-in", t.path(name + ".csr"), "-out", t.path(name + ".crt"), "-cert", t.path(ca + ".crt"),
            "-keyfile", t.path(ca + ".key"), "-startdate", "20200101000000Z", "-enddate", "20200201000000Z",
            "-extfile", t.path(name + ".ext"), "-notext", "-md", "sha256", "-create_serial")


def context(cert, client_ca=None, required=True):
    """For a server with this (certificate, key); client_ca: a file of CAs, one of which must have signed the client's;
    not required: it is asked for and may be missing."""
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    c.load_cert_chain(*cert)
    if client_ca:
        c.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        c.load_verify_locations(client_ca)
    return c


def refuse_silently(context, plain):
    """A handshake whose end is a refusal that does not get through: what the server says last is not sent, the
    connection is reset. So it goes when the client is still sending while the server closes."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    while True:
        try:
            tls.do_handshake()
            raise AssertionError("the handshake was to fail")
        except ssl.SSLWantReadError:
            plain.sendall(outgoing.read())
            data = plain.recv(65536)
            if not data:
                return
            incoming.write(data)
        except ssl.SSLError:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
