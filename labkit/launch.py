"""Starting the same command in several processes on this machine, as `torchrun` does, and saying plainly how it ended.

Near the bottom: `labkit finetune --processes 2` and `labkit search` begin here; `processes` is what the workers ask.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from labkit import profiles
from labkit.errors import LabError

TAIL = 12  # lines of a failed worker's own words that are shown


def words(options: dict) -> list[str]:
    """The options of a labkit command on a file as one would type them.

    >>> words({"source": "rows.csv", "steps": 20, "resume": True, "rank": None})
    ['rows.csv', '--steps', '20', '--resume']
    """
    typed = [str(options["source"])]
    for name, value in options.items():
        if name != "source" and value is not None and value is not False:
            typed += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return typed


def threads(processes: int) -> int:
    """Threads for each process, so that together they take each core once."""
    return max(1, profiles.cores() // processes)


def refuse_many(processes: int) -> None:
    """See that this machine has a device for each process.

    Raises:
        LabError: fewer GPUs, or where there is none fewer cores, than processes.
    """
    import torch

    gpus = torch.cuda.device_count()
    what, there = ("GPUs", gpus) if gpus else ("cores", profiles.cores())
    if processes > there:
        raise LabError(f"{processes} processes, and this machine has {there} {what}", where="--processes",
                       expected=f"at most {there}", todo="A process more than that only makes the others wait")


def torchrun(command: Sequence[str], processes: int) -> int:
    """Run `python -m labkit <command>` in several processes with torchrun's own engine, and wait for the end.

    Process 0 talks to this terminal. The others are silent, and what a failed one said last is shown.

    Returns:
        The exit code: 0, or that of the process that failed first.

    Raises:
        KeyboardInterrupt: Ctrl-C; the processes were asked to stop after their step.
    """
    refuse_many(processes)
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # its reports repeat what is said below
    os.environ.setdefault("OMP_NUM_THREADS", str(threads(processes)))
    with tempfile.TemporaryDirectory(prefix="labkit-") as logs:
        silent = DefaultLogsSpecs(log_dir=logs, redirects=dict.fromkeys(range(1, processes), Std.ALL))
        config = LaunchConfig(1, 1, processes, logs_specs=silent, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
                              rdzv_endpoint="localhost:0", max_restarts=0, local_addr="localhost")
        try:
            elastic_launch(config, sys.executable)("-m", "labkit", *command)
        except ChildFailedError as error:
            return _failed(error.failures, processes, Path(logs))
        except SignalException:
            raise KeyboardInterrupt("Stopped") from None
    return 0


def _failed(failures: dict, processes: int, logs: Path) -> int:
    """Say which process failed first, unless it has said so itself; its exit code."""
    told_to_end = (-signal.SIGTERM, 128 + signal.SIGTERM)
    own = {rank: failure for rank, failure in failures.items() if failure.exitcode not in told_to_end}
    rank, failure = min((own or failures).items(), key=lambda item: (item[1].exitcode >= 0, item[1].timestamp))
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        why = ", which is what a system does when memory runs out" if name == "SIGKILL" else ""
        print(f"labkit: process {rank} of {processes} was ended by {name}{why}; the run is over.", file=sys.stderr)
        return 2
    if rank:
        said = "\n".join(file.read_text(errors="replace") for file in sorted(logs.rglob(f"{rank}/stderr.log")))
        print(f"labkit: process {rank} of {processes} failed:", *said.strip().splitlines()[-TAIL:], sep="\n",
              file=sys.stderr)
    return failure.exitcode


def show(command: Sequence[str], folder: str | Path = ".", **environment: str) -> subprocess.CompletedProcess:
    """Run a command of this Python's environment from a notebook, and print it with what it said.

    Args:
        command: as one would type it; torchrun, accelerate, labkit or python first.
        folder: where it runs.
        environment: variables beside those of this process.

    Returns:
        The finished process; its `stdout` and `stderr` hold everything. Where it failed, the sentences of labkit and
        torchrun's finding, which process failed first and how, are printed, without the tracebacks.
    """
    import torch

    modules = {"torchrun": ["-m", "torch.distributed.run"], "labkit": ["-m", "labkit"], "python": [],
               "accelerate": ["-m", "accelerate.commands.accelerate_cli"]}
    print("$", *command, flush=True)
    given = {"OMP_NUM_THREADS": str(threads(2)), "PYTHONPATH": profiles.python_path(), "PYTHONWARNINGS": "ignore",
             "LABKIT_PROFILE": profiles.current().name}
    if torch.cuda.device_count() == 1:  # nccl wants a GPU for each process: two meet on the CPU then
        given["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run([sys.executable, *modules[command[0]], *command[1:]], cwd=folder, capture_output=True,
                          text=True, errors="replace", env={**os.environ, **given, **environment})
    if done.stdout.strip():
        print(done.stdout.strip())
    if done.returncode:
        print(*sentences(done.stderr), sep="\n")
    return done


def sentences(stderr: str) -> list[str]:
    """What there is to read in a failed run's output: labkit's sentences, and torchrun's root cause."""
    found = dict.fromkeys(line.split("labkit: ", 1)[1] if "labkit: " in line else line.partition("Gone: ")[2]
                          for line in stderr.splitlines() if "labkit: " in line or "Gone: " in line)
    if cause := re.search(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)", stderr, re.S):
        rank, code = int(cause[1]), int(cause[2])
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        found[f"torchrun: process {rank} {how}"] = None
    return list(found)
