"""Pushing a model to a stand-in of the hub: huggingface_hub's own requests against an HTTP server on this machine."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from spo_rlhf.errors import UserError
from spo_rlhf.launch import hub


class Hub(BaseHTTPRequestHandler):
    """Just as much of the hub as an upload needs; what it got stands in the server's `got`."""

    def log_message(self, format, *args):
        pass

    def _answer(self, value, status=200, **headers):
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_GET(self):
        self._answer({"id": "me/model", "sha": "0" * 40, "siblings": [], "name": "me", "type": "user"})

    def do_PUT(self):
        self.server.got["lfs"] = self._body()
        self._answer({}, ETag="etag")

    def do_POST(self):
        body, got, url = self._body(), self.server.got, f"http://127.0.0.1:{self.server.server_port}"
        got.setdefault("tokens", set()).add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            if self.server.refuses:
                return self._answer({"error": "You have no right to write here"}, status=403)
            got["created"] = json.loads(body)
            return self._answer({"url": f"{url}/me/model", "id": "me/model"})
        if "/preupload/" in self.path:
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            return self._answer({"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = {"upload": {"href": f"{url}/storage", "header": {}}}
            answer = {"transfer": "basic", "objects": [{**one, "actions": actions} for one in objects]}
            return self._answer(answer)
        if "/commit/" in self.path:
            got["commit"] = [json.loads(line) for line in body.splitlines()]
            commit = {"commitUrl": f"{url}/me/model/commit/1", "commitOid": "1" * 40, "success": True}
            return self._answer(commit)
        return self._answer({})


@pytest.fixture
def server(monkeypatch):
    # As HF_HUB_DISABLE_XET=1: weights go over Git LFS's HTTP interface, not to the hub's binary store.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as one:
        one.got, one.refuses = {}, False
        one.url = f"http://127.0.0.1:{one.server_port}"
        thread = threading.Thread(target=one.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", one.url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield one
        one.shutdown()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    (folder / "global_step2").mkdir(parents=True)
    (folder / "README.md").write_text("# The card\n", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"\x00\x01weights")
    (folder / "global_step2" / "optimizer.pt").write_bytes(b"big")
    return folder


def test_card_and_weights_arrive_in_a_private_repository(server, folder):
    assert hub.push_or_tell(folder, "me/model") == f"pushed to {server.url}/me/model"
    got = server.got
    assert got["created"]["name"] == "model" and got["created"]["visibility"] == "private"
    assert got["tokens"] == {"Bearer hf_test"}
    assert got["lfs"] == b"\x00\x01weights"
    files = {one["value"]["path"]: one["value"] for one in got["commit"] if one["key"] in ("file", "lfsFile")}
    assert set(files) == {"README.md", "model.safetensors"}, "checkpoints stay here"
    assert base64.b64decode(files["README.md"]["content"]) == b"# The card\n"


def test_a_refusal_is_told_and_how_to_push_later(server, folder):
    server.refuses = True
    line = hub.push_or_tell(folder, "me/model")
    assert line.startswith("not pushed to me/model (") and line.endswith(f"`hf upload me/model {folder}`")
    assert "\n" not in line and (folder / "model.safetensors").exists()


def test_a_hub_that_is_not_there_is_told(monkeypatch, folder):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "ConnectError" in hub.push_or_tell(folder, "me/model")


@pytest.mark.parametrize("name", ["a/b/c", "me/mo del", "-x", "me/.."])
def test_a_name_that_the_hub_does_not_take_is_refused_before_the_run(name):
    with pytest.raises(UserError, match="--spo.push_to_hub"):
        hub.check_name(name)


def test_without_a_way_to_the_hub_the_run_does_not_start(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        hub.check_access()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="no token"):
        hub.check_access()
