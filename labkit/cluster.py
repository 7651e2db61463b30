"""The same jobs over the machines of a Ray cluster: a fine-tuning by Ray Train, and the workers of a search.

Beside `launch`, which starts processes on this machine alone; `labkit finetune --ray` and `labkit search --ray` come
here. The cluster is the one that RAY_ADDRESS names, or one that runs on this machine, or a new one of this machine's
cores and GPUs that ends with the job. All its machines need the course at the same place, and a folder that they share.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from labkit import profiles
from labkit.errors import LabError

END = ("end", "")


def import_ray():
    """Ray, told to send no usage statistics.

    Raises:
        LabError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.train.torch
    except ImportError as error:
        raise LabError("Ray is not installed, and a cluster needs it", where="--ray",
                       todo="Run `pip install 'ray[train]'`") from error
    return ray


@contextmanager
def connected(processes: int) -> Iterator[Any]:
    """Ray with a cluster behind it that has a CPU, or where it has GPUs a GPU, for each process.

    Raises:
        LabError: there is no such cluster, or it is too small; a job would wait for ever.
    """
    ray = import_ray()
    there = ray.is_initialized()
    if not there:
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise LabError(f"no Ray cluster answers ({str(error).splitlines()[0]})", where=_address(),
                           todo="Start it with `ray start --head`, or unset RAY_ADDRESS for one of this machine"
                           ) from error
    try:
        what = _device(ray)
        if (has := int(ray.cluster_resources().get(what, 0))) < processes:
            raise LabError(f"{processes} processes, and the cluster has {has} {what}s", where=_address(),
                           expected=f"at most {has}", todo="Add a machine with `ray start`, or take fewer processes")
        yield ray
    finally:
        if not there:
            ray.shutdown()


def _device(ray: Any) -> str:
    """What each process gets one of: a GPU where the cluster has any, else a CPU."""
    return "GPU" if ray.cluster_resources().get("GPU") else "CPU"


def _environment() -> dict[str, dict[str, str]]:
    """What the processes on the cluster find in their environment beside that of their machine."""
    return {"env_vars": {"PYTHONPATH": profiles.python_path(), "LABKIT_PROFILE": profiles.current().name,
                         "RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}}  # Ray's print forgets the file that it was given


def _address() -> str:
    return os.environ.get("RAY_ADDRESS") or "Ray on this machine"


def train(job: Callable[..., Any], options: dict[str, Any], processes: int, shown: Callable[[Any], None]) -> None:
    """Call the same job in several processes of the cluster, as Ray Train's TorchTrainer starts them.

    What process 0 prints is printed here; the others are silent.

    Args:
        job: trains in as many processes as it finds itself in; `labkit.job.run_job`.
        options: its arguments, the same for all.
        processes: how many, a GPU or a CPU each.
        shown: prints what the job gave in process 0.

    Raises:
        LabError: what the job raised, or that a process is gone.
    """
    with connected(processes) as ray, tempfile.TemporaryDirectory(prefix="labkit-ray-") as notes:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError
        from ray.util.queue import Queue

        gpu = _device(ray) == "GPU"
        said: Any = Queue()
        trainer = TorchTrainer(
            _process, train_loop_config={"job": job, "options": options, "shown": shown, "said": said,
                                         "folder": os.getcwd()},
            scaling_config=ScalingConfig(num_workers=processes, use_gpu=gpu),
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            run_config=RunConfig(storage_path=notes, worker_runtime_env=_environment()))
        sentences: dict[int, str] = {}
        listener = threading.Thread(target=_listen, args=(said, sentences), daemon=True)
        listener.start()
        failed = None
        try:
            with _own_ctrl_c():
                trainer.fit()
        except TrainingFailedError as error:
            failed = error
        finally:
            said.put(END)
            listener.join()
        if failed:
            raise _ended(failed, sentences, processes) from failed


@contextmanager
def _own_ctrl_c() -> Iterator[None]:
    """Ray Train leaves its answer to Ctrl-C behind, which asks a training that is over to stop; put back ours."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _listen(said: Any, sentences: dict[int, str]) -> None:
    """Print what arrives until the end of it; sentences of processes that gave up are kept by their number."""
    while (item := said.get()) != END:
        kind, text = item
        if isinstance(kind, int):
            sentences[kind] = text
        else:
            stream = getattr(sys, kind)
            stream.write(text)
            stream.flush()


def _ended(error: Exception, sentences: dict[int, str], processes: int) -> LabError:
    """Why a training over the cluster ended: a process that is gone without a word, or the first one's sentence."""
    failures = getattr(error, "worker_failures", {})
    if lost := sorted(rank for rank in failures if rank not in sentences):
        kept = next((text for text in sentences.values() if "resume" in text), "")
        return LabError(f"process {lost[0]} of {processes} is gone: {_last_line(failures[lost[0]])}", where=_address(),
                        todo=kept)
    own = [text for text in sentences.values() if "another process is gone" not in text]
    return LabError((own or list(sentences.values()) or [_last_line(error)])[0])


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


class _Voice(io.TextIOBase):
    """A stream that hands on what is written to whoever listens at the other end of the queue."""

    def __init__(self, said: Any, name: str):
        self.said, self.name = said, name

    def write(self, text: str) -> int:
        self.said.put((self.name, text))
        return len(text)


def _process(config: dict[str, Any]) -> None:
    """One process of the training; Ray has set RANK and WORLD_SIZE and joined them."""
    from labkit import processes

    out, err = ((_Voice(config["said"], name) for name in ("stdout", "stderr")) if processes.first()
                else (io.StringIO(), io.StringIO()))
    with redirect_stdout(out), redirect_stderr(err):
        try:
            _go_to(config["folder"])
            if result := config["job"](**config["options"]):
                config["shown"](result)
        except (LabError, KeyboardInterrupt) as error:
            config["said"].put((processes.rank(), str(error)))
            raise RuntimeError(str(error)) from None


def _go_to(folder: str) -> None:
    if not Path(folder).is_dir():
        raise LabError("this folder is not on every machine of the cluster", where=folder,
                       todo="Begin in a folder that all of them share")
    os.chdir(folder)


@contextmanager
def beside(job: Callable[..., Any], options: dict[str, Any], number: int) -> Iterator[None]:
    """Call a job so many times on the cluster, a GPU or a CPU each, while the caller does the same here.

    Args:
        job: called in this folder, which the machines share; what it prints is lost.
        options: its arguments.
        number: how many; with the caller's own they must find room on the cluster.

    Raises:
        LabError: there is no such cluster, or one of them failed; their sentence.
    """
    with connected(number + 1) as ray:
        begin = ray.remote(**{f"num_{_device(ray).lower()}s": 1}, runtime_env=_environment())(_silently)
        begun = [begin.remote(job, options, os.getcwd()) for _ in range(number)]
        yield
        for said in filter(None, ray.get(begun)):
            raise LabError(f"a worker failed: {said}", where=_address())


def _silently(job: Callable[..., Any], options: dict[str, Any], folder: str) -> str:
    """Call the job; its sentence where it failed, else nothing."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            _go_to(folder)
            job(**options)
        except LabError as error:
            return str(error)
    return ""
