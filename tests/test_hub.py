"""The hub path of `small` and `full`, run against a hub on this machine: real architectures, and every way to fail."""

import json
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from hub import CONFIGS, checkpoint
from test_fetch import FETCH, NO_INDEX, hub_of, serving, use_hub

from labkit import course
from labkit.errors import LabError
from labkit.models import find, load
from labkit.profiles import COURSE, PROFILES

SMALL, FULL = PROFILES["small"].model, PROFILES["full"].model
RUN = """
import json, sys, tempfile
from labkit import data, models
from labkit.fetch import fetch
from labkit.training import finetune

fetch("small", progress=False)
rows, found = data.ticket_task("tone", "tiny").train.select(range(6)), {}
for name in sys.argv[1:]:
    for how in ({"method": "full"}, {}, {"quantize": "nf4"}):
        run = finetune(rows, model=name, steps=2, batch_size=2, rank=2, max_length=1024, out=tempfile.mkdtemp(), **how)
        kind = type(run.model.get_base_model() if hasattr(run.model, "get_base_model") else run.model).__name__
        found[name + " " + (how.get("method") or how.get("quantize") or "lora")] = [
            kind, run.finished, run.curve[-1]["loss"], len(run.findings)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    home = tmp_path_factory.mktemp("hub")
    return {repo: checkpoint(home / repo.replace("/", "--"), repo) for repo in CONFIGS}


def all_of(folders: dict):
    """A hub that has several models."""
    hubs = {repo: hub_of(folder, repo) for repo, folder in folders.items()}

    def answer(path):
        return next((hub(path) for repo, hub in hubs.items() if repo in path),
                    (404, {"X-Error-Code": "RepoNotFound"}, b""))

    return answer


def user(endpoint: str, home) -> dict[str, str]:
    """The environment of somebody who has nothing yet and knows the hub by its address alone."""
    return NO_INDEX | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), "LABKIT_CACHE": str(home / "labkit"),
                       "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(COURSE), "LABKIT_STEPS": ""}


@pytest.fixture(scope="module")
def trained(checkpoints, tmp_path_factory):
    """What a process finds that knows the hub by HF_ENDPOINT alone: each model trained in three ways for two steps."""
    home = tmp_path_factory.mktemp("user")
    names = ["small", "full", *(repo for repo in CONFIGS if repo not in (SMALL, FULL))]
    with serving(all_of(checkpoints)) as endpoint:
        done = subprocess.run([sys.executable, "-c", RUN, *names], env=os.environ | user(endpoint, home),
                              capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1]), home


@pytest.mark.parametrize("method", ["full", "lora", "nf4"])
@pytest.mark.parametrize("name, kind", [("small", "LlamaForCausalLM"), ("full", "Qwen2ForCausalLM"),
                                        ("meta-llama/Llama-3.2-1B-Instruct", "LlamaForCausalLM"),
                                        ("microsoft/Phi-4-mini-instruct", "Phi3ForCausalLM")])
def test_a_model_from_the_hub_is_trained_in_every_way_with_its_tripwires(trained, name, kind, method):
    found, finished, loss, findings = trained[0][f"{name} {method}"]
    assert (found, finished) == (kind, True) and 0 < loss < 20 and findings >= 5


@pytest.mark.parametrize("lab, steps", [("02", "4"), ("03", "2"), ("04", "2")])  # lab 02 is stopped in its third
@pytest.mark.parametrize("profile", ["small", "full"])
def test_a_lab_runs_whole_on_what_the_hub_serves(profile, lab, steps, checkpoints, tmp_path, monkeypatch):
    few = {"LABKIT_STEPS": steps, "LABKIT_TOKENS": "4", "LABKIT_ROWS": "12"}
    with serving(all_of(checkpoints)) as endpoint:
        for name, value in (user(endpoint, tmp_path) | few | {"LABKIT_PROFILE": profile}).items():
            monkeypatch.setenv(name, value)
        if profile == "small":
            subprocess.run(FETCH, check=True, capture_output=True)
        (result,) = course.run([lab], "solutions", progress=False)
    assert result.ok, str(result)


def test_the_cache_holds_whole_files_only_and_no_code_or_pickle(trained):
    files = [file.name for file in trained[1].rglob("*") if file.is_file()]
    assert "model.safetensors" in files
    assert not [name for name in files if name.endswith((".incomplete", ".bin", ".py", ".part"))]


# -- what can go wrong -------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    from labkit import models

    waiting = SimpleNamespace(sleep=lambda seconds: None, time=time.time, monotonic=time.monotonic)
    for module in (_http, file_download):  # the library's waits between its tries, half a minute in all
        monkeypatch.setattr(module, "time", waiting)
    monkeypatch.setattr(models, "HUB_TIMEOUT", 1)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(constants, name, 1)
    return tmp_path / "cache"


def half_files(cache) -> list[str]:
    """Files that are no file of the model: pieces, and weights that are not whole."""
    return [file.name for file in cache.rglob("*") if file.is_file() and not file.is_symlink()
            and (file.name.endswith(".incomplete") or (file.parent.name == "blobs" and not file.stat().st_size))]


def refused(name: str) -> str:
    with pytest.raises(LabError) as caught:
        load(name)
    return str(caught.value)


@pytest.mark.parametrize("status, code, says", [
    (401, None, "does not let you have this model (401)"),
    (401, "GatedRepo", "accept the licence there"),
    (403, "GatedRepo", "hf auth login"),
    (403, None, "does not let you have this model (403)"),
    (404, "RepoNotFound", "no model of this name"),
    (500, None, "cannot be reached"),
    (503, None, "cannot be reached"),
])
@pytest.mark.parametrize("what", ["everything", "the weights"])
def test_an_answer_other_than_ok_is_told_and_leaves_no_half_file(checkpoints, cache, monkeypatch, what, status, code,
                                                                 says):
    good = all_of(checkpoints)

    def answer(path):
        if what == "everything" or path.endswith(".safetensors"):
            return status, {"X-Error-Code": code} if code else {}, b""
        return good(path)

    with serving(answer) as endpoint:
        use_hub(monkeypatch, endpoint)
        text = refused(FULL)
    assert text.startswith(FULL) and says in text and "\n" not in text
    assert not half_files(cache)


@pytest.mark.parametrize("how", ["dead", "slow to answer", "slow in the weights", "gone in the weights"])
def test_a_dead_slow_or_breaking_hub_is_told_and_leaves_no_half_file(checkpoints, cache, monkeypatch, how):
    good, over = all_of(checkpoints), threading.Event()

    def answer(path):
        status, headers, body = good(path)
        weights = path.endswith(".safetensors")
        if how == "slow to answer":
            over.wait(2)
        if weights and how == "gone in the weights":
            return status, headers | {"Content-Length": str(len(body))}, body[: len(body) // 2]
        if weights and how == "slow in the weights":
            over.wait(2)
        return status, headers, body

    with serving(answer) as endpoint:
        use_hub(monkeypatch, "http://127.0.0.1:9" if how == "dead" else endpoint)
        started = time.monotonic()
        text = refused(FULL)
        seconds = time.monotonic() - started
        over.set()
    assert text.startswith(FULL) and "Connect to the network, or take the profile tiny" in text
    assert seconds < 30
    assert not half_files(cache)


def test_after_a_failure_the_next_try_gets_the_whole_model(checkpoints, cache, monkeypatch):
    good, broken = all_of(checkpoints), [True]

    def answer(path):
        status, headers, body = good(path)
        if path.endswith(".safetensors") and broken[0]:
            return status, headers | {"Content-Length": str(len(body))}, body[: len(body) // 2]
        return status, headers, body

    with serving(answer) as endpoint:
        use_hub(monkeypatch, endpoint)
        refused(FULL)
        broken[0] = False
        folder = find(FULL)
    weights = (folder / "model.safetensors").read_bytes()
    assert weights == (checkpoints[FULL] / "model.safetensors").read_bytes()
