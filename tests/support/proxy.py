"""An HTTP proxy for integration scripts. Python's standard library only."""
import re
import select
import socket
import threading


class Proxy:
    """An HTTP proxy: forwards whole requests, tunnels CONNECT. seen: [(method, target, its Proxy-Authorization)]."""

    def __init__(self):
        self.seen, self.lock = [], threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self.listener.close()

    def take(self):
        with self.lock:
            seen, self.seen = self.seen, []
        return seen

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            with client:
                head = b""
                while b"\r\n\r\n" not in head:
                    more = client.recv(65536)
                    if not more:
                        return
                    head += more
                head, rest = head.split(b"\r\n\r\n", 1)
                method, target, _ = head.split(b"\r\n")[0].decode().split()
                secret = re.search(rb"(?im)^proxy-authorization: *(.*?)\r?$", head)
                with self.lock:
                    self.seen.append((method, target, secret and secret[1].decode()))
                if method == "CONNECT":
                    host, port = target.rsplit(":", 1)
                    with socket.create_connection((host, int(port)), 10) as server:
                        client.sendall(b"HTTP/1.1 200 go on\r\n\r\n")
                        self._pump(client, server)
                    return
                m = re.fullmatch(r"http://([^/:]+):(\d+)(/.*)", target)
                # one request a connection: this is a proxy for a test
                lines = [f"{method} {m[3]} HTTP/1.1".encode()] + [
                    x for x in head.split(b"\r\n")[1:] if not x.lower().startswith((b"proxy-", b"connection:"))]
                with socket.create_connection((m[1], int(m[2])), 10) as server:
                    server.sendall(b"\r\n".join(lines) + b"\r\nConnection: close\r\n\r\n" + rest)
                    self._pump(client, server)
        except (OSError, ValueError, TypeError):
            pass  # one of the two went away

    @staticmethod
    def _pump(a, b):
        while True:
            readable, _, _ = select.select([a, b], [], [], 30)
            if not readable:
                return
            for s in readable:
                data = s.recv(1 << 18)
                if not data:
                    return
                (b if s is a else a).sendall(data)
