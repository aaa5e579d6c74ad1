"""The Hugging Face Hub in small, for integration scripts: repositories, revisions, gates and renames here, large files on a
second host behind signed links that end. The real `huggingface_hub` client downloads from it too (HF_ENDPOINT=hub.url).

    hub = Hub(test)                               # two ports of 127.0.0.1: this process, and nginx as the CDN
    commit = hub.push("test/kjv", folder)         # a new state of branch main
    hub.repos["test/kjv"].gated = True            # or .private, .disabled; .token is what opens it
    hub.rename("test/kjv", "new/kjv")
    hub.link_seconds = 2                          # how long links live; hub.link_tells: whether they say so
    hub.resolves()                                # [(repository, revision, file)] that were asked for
    hub.cdn.requests()                            # peer.Nginx's

As on the Hub, /resolve/ answers for large files (.safetensors, .shard) with 302 to a signed link on the CDN and for small ones
with a relative 307, both with X-Repo-Commit, X-Linked-Size and X-Linked-Etag: SHA-256 of a large file, git's SHA-1 of a
small one. The CDN answers 418 to whoever brings an Authorization header, and 403 to a link that has ended."""
import base64
import hashlib
import json
import os
import re
import sys
import time
import urllib.parse

sys.dont_write_bytecode = True
import badhttp  # noqa: E402

LARGE = (".safetensors", ".shard")
SECRET = "of-the-cdn"


class Repo:
    def __init__(self):
        self.commits = {}  # commit -> {path: bytes}
        self.refs = {}
        self.private = self.gated = self.disabled = False
        self.token = None


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(path):
    return path.endswith(LARGE)


class Hub(badhttp.Server):
    def __init__(self, test, scenario=None, rate=None):
        self.repos, self.renamed = {}, {}
        self.link_seconds, self.link_tells = 3600, True
        self.sends_commit = True
        self.known_tokens = set()
        self.blobs = test.path(f"cdn-{len(test.servers)}")
        os.makedirs(self.blobs)
        self.cdn = test.nginx(self.blobs, extra=self._cdn_rules(), rate=rate)
        super().__init__(self.blobs, scenario)
        test.servers.append(self)

    def _cdn_rules(self):
        """Two kinds of links: /cloudfront/ in the parameters that the real one uses, /opaque/ in others that nobody knows."""
        rule = """
    location /%s/ {
        alias %s/;
        secure_link $arg_%s,$arg_%s;
        secure_link_md5 "$secure_link_expires$uri %s";
        if ($http_authorization) { return 418; }
        if ($secure_link = "") { return 403; }
        if ($secure_link = "0") { return 403; }
    }
"""
        return (rule % ("cloudfront", self.blobs, "Signature", "Expires", SECRET)
                + rule % ("opaque", self.blobs, "s", "e", SECRET) + "location / { return 404; }")

    # ---- what is in it ----

    def push(self, name, folder, branch="main"):
        """A state of a repository from the files of a folder; the branch moves to it."""
        files = {}
        for base, _, names in os.walk(folder):
            for n in names:
                path = os.path.join(base, n)
                with open(path, "rb") as f:
                    files[os.path.relpath(path, folder)] = f.read()
        repo = self.repos.setdefault(name, Repo())
        state = "".join(f"{p} {git_sha1(d)}\n" for p, d in sorted(files.items()))
        commit = hashlib.sha1((state + str(len(repo.commits))).encode()).hexdigest()
        repo.commits[commit], repo.refs[branch] = files, commit
        for path, data in files.items():
            if is_large(path):
                blob = os.path.join(self.blobs, hashlib.sha256(data).hexdigest())
                if not os.path.exists(blob):
                    with open(blob, "wb") as f:
                        f.write(data)
        return commit

    def rename(self, old, new):
        self.repos[new] = self.repos.pop(old)
        self.renamed[old] = new

    def fill_cache(self, name, to, files=None, branch="main"):
        """The Hub's cache directory as its client leaves it: blobs, a snapshot of links, a reference."""
        commit = self.repos[name].refs[branch]
        repo = os.path.join(to, "models--" + name.replace("/", "--"))
        for folder in ("blobs", "refs", f"snapshots/{commit}"):
            os.makedirs(os.path.join(repo, folder), exist_ok=True)
        with open(os.path.join(repo, "refs", branch), "w") as f:
            f.write(commit)
        for path, data in self.repos[name].commits[commit].items():
            if files is None or path in files:
                tag = hashlib.sha256(data).hexdigest() if is_large(path) else git_sha1(data)
                with open(os.path.join(repo, "blobs", tag), "wb") as f:
                    f.write(data)
                link = os.path.join(repo, "snapshots", commit, path)
                os.makedirs(os.path.dirname(link), exist_ok=True)
                os.symlink(os.path.relpath(os.path.join(repo, "blobs", tag), os.path.dirname(link)), link)
        return repo

    def resolves(self):
        with self.lock:
            return [m.groups() for q in self.log if (m := re.fullmatch(r"((?:[\w.-]+/)?[\w.-]+)/resolve/([^/]+)/(.+)", q.name))]

    # ---- answers ----

    def link(self, data):
        sha = hashlib.sha256(data).hexdigest()
        until = int(time.time() + self.link_seconds)
        kind, s, e = ("cloudfront", "Signature", "Expires") if self.link_tells else ("opaque", "s", "e")
        path = f"/{kind}/{sha}"
        mac = base64.urlsafe_b64encode(hashlib.md5(f"{until}{path} {SECRET}".encode()).digest()).decode().rstrip("=")
        return f"{self.cdn.url}{path}?{e}={until}&{s}={mac}&Key-Pair-Id=K1"

    def _refuse(self, r, status, code, message):
        r.error(status, json.dumps({"error": message}).encode(), X_Error_Code=code, X_Error_Message=message)

    def _may(self, q, r, repo):
        """Whether the repository answers at all. Missing and private look the same to whoever is not logged in."""
        token = q.headers.get("authorization", "").removeprefix("Bearer ")
        known = token and (token in self.known_tokens or any(token == x.token for x in self.repos.values()))
        if token and not known:
            r.error(401, b"{}", X_Error_Message="Invalid credentials in Authorization header")
            return False
        if repo is None or (repo.private and token != repo.token):
            self._refuse(r, *((404, "RepoNotFound", "Repository not found") if known
                              else (401, "RepoNotFound", "Invalid username or password.")))
            return False
        if repo.disabled:
            r.error(403, b"{}", X_Error_Message="Access to this resource is disabled.")
            return False
        return True

    def _answer(self, q, r):
        r.headers = {"Date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())}
        raw = urllib.parse.urlsplit(q.target)
        path = raw.path
        if m := re.fullmatch(r"/api/resolve-cache/models/(.+)/([0-9a-f]{40})/(.+)", path):
            self._small(q, r, *map(urllib.parse.unquote, m.groups()))
        elif m := re.fullmatch(r"/api/models/((?:[^/]+/)?[^/]+?)(?:/(revision|tree)/([^/]+))?(?:/(.*))?", path):
            self._api(q, r, m[1], m[2], urllib.parse.unquote(m[3] or "main"))
        elif m := re.fullmatch(r"/((?:[^/]+/)?[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(q, r, m[1], urllib.parse.unquote(m[2]), urllib.parse.unquote(m[3]))
        else:
            r.error(404)

    def _state(self, q, r, name, revision):
        """(commit, files), or None with the refusal in r."""
        if name in self.renamed:
            r.redirect(q.target.replace(name, self.renamed[name], 1), 307)
            return None
        repo = self.repos.get(name)
        if not self._may(q, r, repo):
            return None
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            self._refuse(r, 404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit, repo.commits[commit]

    def _api(self, q, r, name, kind, revision):
        state = self._state(q, r, name, revision)
        if state is None:
            return
        commit, files = state
        if kind == "tree":
            answer = [{"type": "file", "path": p, "size": len(d), "oid": git_sha1(d),
                       **({"lfs": {"oid": hashlib.sha256(d).hexdigest(), "size": len(d), "pointerSize": 134}} if is_large(p) else {})}
                      for p, d in sorted(files.items())]
        else:
            answer = {"id": name, "modelId": name, "sha": commit, "private": False, "gated": False, "disabled": False, "tags": [],
                      "downloads": 0, "likes": 0, "siblings": [{"rfilename": p} for p in sorted(files)]}
        body = json.dumps(answer).encode()
        r.whole(body, Content_Type="application/json")

    def _resolve(self, q, r, name, revision, path):
        state = self._state(q, r, name, revision)
        if state is None:
            return
        commit, files = state
        repo = self.repos[name]
        if repo.gated and q.headers.get("authorization") != f"Bearer {repo.token}":
            token = "authorization" in q.headers
            self._refuse(r, 403 if token else 401, "GatedRepo", f"Access to model {name} is restricted.")
        elif path not in files:
            self._refuse(r, 404, "EntryNotFound", "Entry not found")
        else:
            data = files[path]
            tag = hashlib.sha256(data).hexdigest() if is_large(path) else git_sha1(data)
            if is_large(path):
                r.redirect(self.link(data), 302)
            else:
                r.redirect(f"/api/resolve-cache/models/{name}/{commit}/{urllib.parse.quote(path)}?etag=%22{tag}%22", 307)
            r.headers.update({"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{tag}"', "ETag": f'"{tag}"'})
        if self.sends_commit:
            r.headers["X-Repo-Commit"] = commit
        r.headers.setdefault("Date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()))

    def _small(self, q, r, name, commit, path):
        repo = self.repos.get(name)
        if not self._may(q, r, repo):
            return
        data = repo.commits[commit][path]
        if q.first is None or q.first >= len(data):
            r.whole(data)
        else:
            last = len(data) - 1 if q.last is None else min(q.last, len(data) - 1)
            r.status, r.body = 206, data[q.first:last + 1]
            r.headers.update({"Content-Range": f"bytes {q.first}-{last}/{len(data)}", "Content-Length": str(len(r.body))})
        r.headers.update({"ETag": f'"{git_sha1(data)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"})
