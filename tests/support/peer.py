"""The other side of Penstock, for integration scripts: servers, watchers and models. Python's standard library only.

    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
    import peer

    with peer.Test() as t:                         # temporary folder, checks, clean-up, exit status
        peer.random_llama(t.path("m"), tied=True)  # a small random model in Hugging Face layout
        web = t.nginx(t.path("."))                 # nginx on a free port of 127.0.0.1
        r = t.run("run", web.url + "/m", "-p", "x", "-n", "4", cache=t.path("c"), disk="25%")
        t.equal(r.rc, 0, "it runs")
        web.fetched()                              # what was asked for since the last call, range by range

Everything that a script starts dies with it (also when it is killed), everything that it writes lies in its own
temporary folder. PENSTOCK names the program; without it, or without nginx, a script ends with status 77 (skipped).
"""
import ctypes
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
SKIPPED = 77
SOURCE_DIR = os.environ.get("PENSTOCK_SOURCE_DIR") or os.path.abspath(
    os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
TEST_DATA = os.environ.get("PENSTOCK_TEST_DATA") or os.path.join(SOURCE_DIR, "..", "shared", "data")
KJV = os.path.join(SOURCE_DIR, "models", "kjv")
# Sanitizers slow the program down and make it larger: bounds on time and memory mean nothing then.
SANITIZED = bool(os.environ.get("PENSTOCK_SANITIZE"))
SAMPLE_S = 0.005
MIB = 1 << 20


def skip(why):
    print("skipped:", why, flush=True)
    sys.exit(SKIPPED)


# ---- processes ----

def _die_with_parent():
    """In a child, before exec: SIGKILL when the script goes, however it goes."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)


def _environment(extra):
    """Nothing of the caller's set-up may change a result: no proxies, no PENSTOCK_* but the backend."""
    keep = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PENSTOCK_BACKEND", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS")
    env = {k: v for k, v in os.environ.items() if k in keep}
    env.update(extra or {})
    return env


def spawn(args, **kw):
    """Popen, with pipes that hold nothing back: a buffered stdout takes more than was asked for, and communicate(), which
    reads past it, would not return that."""
    kw.setdefault("stdin", subprocess.DEVNULL)
    kw.setdefault("bufsize", 0)
    kw["env"] = _environment(kw.get("env"))
    return subprocess.Popen(args, preexec_fn=_die_with_parent, **kw)


def first_bytes(process, n):
    """n bytes of stdout as soon as they are there, fewer if it ends. The rest is left to communicate()."""
    data = b""
    while len(data) < n and (more := process.stdout.read(n - len(data))):
        data += more
    return data


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for_port(port, process, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            return False
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return True
        except OSError:
            time.sleep(0.01)
    return False


def stop(process, seconds=5):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


class Request:
    """One line of nginx's log. first and last: the byte range asked for, inclusive; None: the whole object. began: when
    its first byte was read, on time.time()'s clock, to a millisecond."""
    __slots__ = ("began", "ended", "method", "path", "first", "last", "status", "bytes", "connection", "protocol")

    def __init__(self, line):
        ended, took, self.connection, self.method, self.path, rng, status, body, self.protocol = line.rstrip("\n").split("\t")
        self.ended = float(ended)
        self.began = self.ended - float(took)
        self.status, self.bytes = int(status), int(body)
        m = re.fullmatch(r"bytes=(\d+)-(\d+)", rng)
        self.first, self.last = (int(m[1]), int(m[2])) if m else (None, None)

    def __repr__(self):
        return f"{self.method} {self.path} [{self.first}-{self.last}] {self.status} {self.bytes}"


class Coverage:
    """How often each byte of some ranges was covered. A reader may ask for neighbours in one request, so that ranges as
    such say little. pieces: [(path, first, last, times)], maximal, in order."""

    def __init__(self, ranges=()):
        self.pieces, events = [], {}
        self.ranges = list(ranges)
        for path, first, last in self.ranges:
            changes = events.setdefault(path, {})
            changes[first] = changes.get(first, 0) + 1
            changes[last + 1] = changes.get(last + 1, 0) - 1
        for path in sorted(events):
            times = before = 0
            for at in sorted(events[path]):
                if times:
                    self.pieces.append((path, before, at - 1, times))
                times += events[path][at]
                before = at

    def bytes(self, least=1, most=None):
        """Bytes that were covered at least, and at most, so often."""
        return sum(last - first + 1 for _, first, last, n in self.pieces if n >= least and (most is None or n <= most))

    def often(self, times):
        """Pieces that were covered more than so often."""
        return [p for p in self.pieces if p[3] > times]

    def minus(self, other):
        """The bytes covered here and not in `other`."""
        return self._combine(other, lambda a, b: a and not b)

    def both(self, other):
        return self._combine(other, lambda a, b: a and b)

    def _combine(self, other, keep):
        out = []
        edges = {}
        for which, coverage in enumerate((self, other)):
            for path, first, last, _ in coverage.pieces:
                edges.setdefault(path, []).append((first, which, 1))
                edges[path].append((last + 1, which, -1))
        for path, list_ in edges.items():
            inside, before = [0, 0], 0
            for at, which, step in sorted(list_):
                if at > before and keep(inside[0] > 0, inside[1] > 0):
                    out.append((path, before, at - 1))
                inside[which] += step
                before = at
        return Coverage(out)

    def __bool__(self):
        return bool(self.pieces)


class Nginx:
    """nginx over a folder, without forking: one process, one log line a request. rate: limit_rate, bytes per second
    of each response (nginx lets a response's first second's worth through at once, so it must be well below the size of
    a range to be felt). extra: lines for the server block, in nginx's own syntax. tls: (certificate, key) of a second
    port, https with HTTP/2, at tls_url."""

    def __init__(self, prefix, root, rate=None, extra="", program=None, tls=None):
        self.prefix, self.root = prefix, os.path.abspath(root)
        self.log_path = os.path.join(prefix, "access.log")
        self.program = program or find_nginx()
        self.position = 0
        for attempt in range(5):  # a free port may be taken between the choice and the start
            self.port = free_port()
            self.url = f"http://127.0.0.1:{self.port}"
            more = extra
            if tls:
                port = free_port()
                self.tls_url = f"https://127.0.0.1:{port}"
                more += f" listen 127.0.0.1:{port} ssl http2; ssl_certificate {tls[0]}; ssl_certificate_key {tls[1]};"
            self._write_config(rate, more)
            self.process = spawn([self.program, "-p", prefix, "-c", os.path.join(prefix, "nginx.conf"),
                                  "-e", os.path.join(prefix, "error.log")], stderr=subprocess.DEVNULL)
            if wait_for_port(self.port, self.process):
                return
            stop(self.process)
        raise RuntimeError("nginx does not start: " + open(os.path.join(prefix, "error.log")).read())

    def _write_config(self, rate, extra):
        temps = "".join(f"{kind}_temp_path {self.prefix}/{kind};\n"
                        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        text = f"""
daemon off;
master_process off;
pid {self.prefix}/nginx.pid;
events {{ worker_connections 512; }}
http {{
{temps}
log_format ranges '$msec\\t$request_time\\t$connection\\t$request_method\\t$uri\\t$http_range\\t$status\\t$body_bytes_sent\\t$server_protocol';
access_log {self.log_path} ranges;
keepalive_requests 1000000;
keepalive_timeout 60s;
sendfile on;
tcp_nodelay on;
{f"limit_rate {int(rate)};" if rate else ""}
server {{
    listen 127.0.0.1:{self.port} backlog=1024;
    root {self.root};
    etag on;
    default_type application/octet-stream;
    {extra}
}}
}}
"""
        os.makedirs(self.prefix, exist_ok=True)
        with open(os.path.join(self.prefix, "nginx.conf"), "w") as f:
            f.write(text)

    def requests(self):
        """Requests that ended since the last call. Waits until the log rests, because nginx writes a line a moment
        after the client has its bytes."""
        size, same = -1, 0
        while same < 3:
            now = os.path.getsize(self.log_path) if os.path.exists(self.log_path) else 0
            same = same + 1 if now == size else 0
            size = now
            time.sleep(0.01)
        if not size:
            return []
        with open(self.log_path) as f:
            f.seek(self.position)
            lines = f.readlines()
            self.position = f.tell()
        return [Request(line) for line in lines]

    def fetched(self, suffix=(".safetensors", ".shard"), after=1):
        """Coverage of the weight bytes that were sent since the last call; ranges that begin below `after` (headers, shard
        indexes) are left out."""
        return Coverage((r.path, r.first, r.last) for r in self.requests()
                        if r.method == "GET" and r.path.endswith(suffix) and r.status == 206 and r.first >= after)

    def protocols(self):
        """HTTP versions of the requests since the last call."""
        return {r.protocol for r in self.requests()}

    def stop(self):
        stop(self.process)


def find_nginx():
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")
    return found or skip("nginx is not installed")


class Share:
    """`penstock share` over a folder."""

    def __init__(self, program, root):
        self.process = spawn([program, "share", root, "--port", "0", "--json", "--quiet"], stdout=subprocess.PIPE)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("penstock share does not start")
        self.url = json.loads(line)["url"]

    def stop(self):
        stop(self.process)
        self.process.stdout.close()


# ---- watchers ----

def allocated_bytes(folder, pid=None):
    """st_blocks of everything in a folder, itself included, and of files in it that were deleted but are still open in
    the process. Hard links count once."""
    seen, total = set(), 0

    def add(st):
        nonlocal total
        if (st.st_dev, st.st_ino) not in seen:
            seen.add((st.st_dev, st.st_ino))
            total += st.st_blocks * 512

    def walk(path):
        try:
            add(os.lstat(path))
            with os.scandir(path) as entries:
                for e in entries:
                    if e.is_dir(follow_symlinks=False):
                        walk(e.path)
                    else:
                        try:
                            add(os.lstat(e.path))
                        except FileNotFoundError:
                            pass
        except (FileNotFoundError, NotADirectoryError):
            pass

    walk(folder)
    if pid:
        root = os.path.realpath(folder) + "/"
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                link = f"/proc/{pid}/fd/{fd}"
                try:
                    target = os.readlink(link)
                    if target.startswith(root) and target.endswith(" (deleted)"):
                        add(os.stat(link))
                except OSError:
                    pass
        except OSError:
            pass
    return total


class Watcher(threading.Thread):
    """Samples, until told to stop, the highest resident memory of a process and the most bytes that a folder takes."""

    def __init__(self, pid, folder=None):
        super().__init__(daemon=True)
        self.pid, self.folder = pid, folder
        self.peak_rss = self.peak_folder = self.samples = 0
        self.done = threading.Event()

    def sample(self):
        try:
            with open(f"/proc/{self.pid}/status") as f:
                m = re.search(r"^VmHWM:\s+(\d+) kB", f.read(), re.M)
            if m:
                self.peak_rss = max(self.peak_rss, int(m[1]) * 1024)
        except OSError:
            pass
        if self.folder:
            self.peak_folder = max(self.peak_folder, allocated_bytes(self.folder, self.pid))
        self.samples += 1

    def run(self):
        while not self.done.wait(SAMPLE_S):
            self.sample()

    def finish(self):
        self.done.set()
        self.join()
        if self.folder:
            self.peak_folder = max(self.peak_folder, allocated_bytes(self.folder))


class Result:
    """What a command did. out: bytes of stdout; text: of a `run`, as bytes without its final newline; json: of --json
    commands, stats: of `run --stats`; began: time.time() just before the start; cpu_s: user and system time."""

    def __init__(self):
        self.rc = None
        self.out = b""
        self.err = ""
        self.stats = {}
        self.seconds = self.cpu_s = self.began = 0.0
        self.peak_rss = self.peak_folder = 0
        self.args = []

    @property
    def text(self):
        return self.out[:-1] if self.out.endswith(b"\n") else self.out

    @property
    def json(self):
        return json.loads(self.out)

    def __repr__(self):
        return f"rc {self.rc}: penstock {' '.join(map(str, self.args))}\n    {self.err.strip()[-600:]}"


def children_cpu_s():
    u = resource.getrusage(resource.RUSAGE_CHILDREN)
    return u.ru_utime + u.ru_stime


def slowdown():
    """How much longer a short computation takes now than it would on an idle machine: 1 or more."""
    wall, cpu = time.monotonic(), time.process_time()
    while time.process_time() - cpu < 0.02:
        pass
    return max(1.0, (time.monotonic() - wall) / (time.process_time() - cpu))


# ---- a test ----

class Test:
    """Checks that go on after a failure, and the clean-up. Use it as a context manager."""

    def __init__(self):
        self.program = os.environ.get("PENSTOCK") or skip("PENSTOCK does not name the program")
        self.failures = self.passed = 0
        self.servers = []
        self.t0 = time.monotonic()

    def __enter__(self):
        self.temp = tempfile.mkdtemp(prefix="penstock-test-")
        return self

    def __exit__(self, kind, value, trace):
        for s in reversed(self.servers):
            s.stop()
        shutil.rmtree(self.temp, ignore_errors=True)
        if kind is not None:
            return False
        print(f"{self.passed} checks passed, {self.failures} failed, {time.monotonic() - self.t0:.1f} s", flush=True)
        sys.exit(1 if self.failures else 0)

    def path(self, *names):
        return os.path.join(self.temp, *names)

    def check(self, ok, what):
        if ok:
            self.passed += 1
        else:
            self.failures += 1
            print("FAILED:", what, flush=True)
        return bool(ok)

    def equal(self, got, want, what):
        return self.check(got == want, f"{what}: got {_short(got)}, want {_short(want)}")

    def note(self, text):
        print(text, flush=True)

    def nginx(self, root, **kw):
        s = Nginx(self.path(f"nginx-{len(self.servers)}"), root, **kw)
        self.servers.append(s)
        return s

    def share(self, root):
        s = Share(self.program, root)
        self.servers.append(s)
        return s

    def run(self, command, model, *args, cache=None, disk=None, ram=None, env=None, seconds=60, watch=False):
        """Runs the program to its end. cache, disk and ram are the options of that name; `run` always writes --stats.
        watch: sample its memory and its cache folder."""
        r = Result()
        stats = self.path("stats.json")
        argv = [self.program, command, model, *map(str, args)]
        for name, value in (("--disk", disk), ("--ram", ram)):
            if value is not None:
                argv += [name, str(value)]
        if command != "split":
            argv += ["--cache", cache] if cache and command != "inspect" else []
        if command == "run":
            argv += ["--stats", stats, "--quiet"]
            if os.path.exists(stats):
                os.unlink(stats)
        home = self.path("home")  # nothing may ever appear in it
        env = {"HOME": home, "XDG_CACHE_HOME": self.path("xdg"), "TMPDIR": self.path("tmp"), **(env or {})}
        r.args = argv[1:]
        with open(self.path("out"), "wb") as out, open(self.path("err"), "wb") as err:
            cpu0 = children_cpu_s()
            r.began = time.time()
            t0 = time.monotonic()
            p = spawn(argv, stdout=out, stderr=err, env=env)
            w = None
            if watch:
                w = Watcher(p.pid, cache)
                w.start()
            try:
                p.wait(seconds)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
                r.err = f"(killed after {seconds} s) "
            r.seconds = time.monotonic() - t0
            r.cpu_s = children_cpu_s() - cpu0
            if w:
                w.finish()
                r.peak_rss, r.peak_folder = w.peak_rss, w.peak_folder
        r.rc = p.returncode
        with open(self.path("out"), "rb") as f:
            r.out = f.read()
        with open(self.path("err"), "rb") as f:
            r.err += f.read().decode("utf-8", "replace")
        if command == "run" and os.path.exists(stats):
            with open(stats) as f:
                r.stats = json.load(f)
        return r


def _short(v):
    s = repr(v)
    return s if len(s) < 300 else s[:300] + "..."


# ---- models ----

# Of each type: bytes, bits that are drawn, bits that are set. Magnitudes fall into [2^-7, 2^-3), signs are drawn.
_TYPES = {"f32": (4, 0x81FFFFFF, 0x3C000000), "f16": (2, 0x8FFF, 0x2000), "bf16": (2, 0x81FF, 0x3C00)}
# The same for norms: [1, 2), no sign.
_NORMS = {"f32": (0x007FFFFF, 0x3F800000), "f16": (0x03FF, 0x3C00), "bf16": (0x007F, 0x3F80)}


def _draw(rng, n, dtype, norm):
    """n values as little-endian bytes. One pair of big-integer operations instead of n conversions."""
    size, mask, base = _TYPES[dtype]
    if norm:
        mask, base = _NORMS[dtype]
    out, step = [], 1 << 18
    for at in range(0, n, step):
        k = min(step, n - at)
        bits = int.from_bytes(rng.randbytes(k * size), "little")
        bits &= int.from_bytes(mask.to_bytes(size, "little") * k, "little")
        bits |= int.from_bytes(base.to_bytes(size, "little") * k, "little")
        out.append(bits.to_bytes(k * size, "little"))
    return b"".join(out)


def llama_tensors(c):
    """(name, shape) of a Llama, in order of use."""
    hidden, inter, kv = c["hidden_size"], c["intermediate_size"], c["num_key_value_heads"] * c["head_dim"]
    q = c["num_attention_heads"] * c["head_dim"]
    yield "model.embed_tokens.weight", (c["vocab_size"], hidden)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (hidden,)
        yield p + "self_attn.q_proj.weight", (q, hidden)
        yield p + "self_attn.k_proj.weight", (kv, hidden)
        yield p + "self_attn.v_proj.weight", (kv, hidden)
        yield p + "self_attn.o_proj.weight", (hidden, q)
        yield p + "post_attention_layernorm.weight", (hidden,)
        yield p + "mlp.gate_proj.weight", (inter, hidden)
        yield p + "mlp.up_proj.weight", (inter, hidden)
        yield p + "mlp.down_proj.weight", (hidden, inter)
    yield "model.norm.weight", (hidden,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (c["vocab_size"], hidden)


def llama_config(hidden=256, layers=4, inter=512, heads=4, kv_heads=2, head_dim=None, vocab=3072, dtype="bf16", tied=False,
                 positions=4096):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": inter,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
            "head_dim": head_dim or hidden // heads, "vocab_size": vocab, "max_position_embeddings": positions,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": tied,
            "torch_dtype": {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[dtype], "bos_token_id": 0, "eos_token_id": 1}


def _header(items, dtype):
    size = _TYPES[dtype][0]
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in items:
        n = size
        for d in shape:
            n *= d
        header[name] = {"dtype": dtype.upper(), "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, at


def _write_file(path, items, dtype, rng):
    """rng None: a sparse file of zeros, made in no time whatever its size."""
    head, data_bytes = _header(items, dtype)
    with open(path, "wb") as f:
        f.write(head)
        if rng is None:
            f.truncate(len(head) + data_bytes)
            return
        for _, shape in items:
            norm = len(shape) == 1
            n = shape[0] if norm else shape[0] * shape[1]
            f.write(_draw(rng, n, dtype, norm))


def write_llama(folder, config, dtype, rng=None, files=1):
    """The Hugging Face layout: config.json and safetensors files, with an index where there are several."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
    items = list(llama_tensors(config))
    if files == 1:
        _write_file(os.path.join(folder, "model.safetensors"), items, dtype, rng)
        return
    weight_map, each, n_files = {}, -(-len(items) // files), 0
    n_files = -(-len(items) // each)
    for i in range(n_files):
        name = f"model-{i + 1:05d}-of-{n_files:05d}.safetensors"
        part = items[i * each:(i + 1) * each]
        _write_file(os.path.join(folder, name), part, dtype, rng)
        weight_map.update((tensor, name) for tensor, _ in part)
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {}, "weight_map": weight_map}, f)


def random_llama(folder, seed=1, dtype="bf16", files=1, tokenizer=True, **shape):
    """A random Llama. The same arguments give the same bytes. tokenizer: that of models/kjv (vocabulary 3072)."""
    config = llama_config(dtype=dtype, **shape)
    write_llama(folder, config, dtype, random.Random(seed), files)
    if tokenizer:
        copy_tokenizer(folder)
    return config


def sparse_llama(folder, dtype="bf16", files=1, tokenizer=False, **shape):
    """A Llama of zeros in sparse files: any size, no disk. Returns its config."""
    config = llama_config(dtype=dtype, **shape)
    write_llama(folder, config, dtype, None, files)
    if tokenizer:
        copy_tokenizer(folder)
    return config


def copy_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(KJV, name), folder)


def stored_bytes(folder):
    """Bytes of all tensors of a folder of safetensors files."""
    total = 0
    for name in os.listdir(folder):
        if name.endswith(".safetensors"):
            with open(os.path.join(folder, name), "rb") as f:
                n = struct.unpack("<Q", f.read(8))[0]
                total += max((t["data_offsets"][1] for k, t in json.loads(f.read(n)).items() if k != "__metadata__"), default=0)
    return total


def floats(path):
    """The float32 values of a raw file."""
    import array
    a = array.array("f")
    with open(path, "rb") as f:
        a.frombytes(f.read())
    return a


def copy_model(folder, to):
    """A folder's files as plain files of one's own, whatever they were."""
    shutil.copytree(folder, to, symlinks=False)


def argmax_rows(path, n):
    """Of n rows of float32 in a raw file: the place of each row's largest value, the first where several are equal."""
    a = floats(path)
    width = len(a) // n
    rows = (a[i * width:(i + 1) * width] for i in range(n))
    return [row.index(max(row)) for row in rows]
