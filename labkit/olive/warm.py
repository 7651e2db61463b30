"""A process that has imported Olive once and forks for every command: each starts in no time, and none sees another.

Used by `command` where there is a fork that can be trusted (Linux); elsewhere every command starts from nothing.
It runs the very function that the `olive` script calls. Importing that, and the libraries behind it, takes as long
as training the tiny model.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

PRELOADED = ("olive.cli.launcher", "olive.workflows", "olive.passes.pytorch.lora", "olive.passes.onnx.model_builder",
             "olive.passes.onnx.extract_adapters", "olive.evaluator.olive_evaluator", "transformers", "peft",
             "datasets", "transformers.models.llama.modeling_llama", "bitsandbytes")
possible = sys.platform == "linux"

_lock = threading.Lock()
_server: subprocess.Popen | None = None


def call(words: list[str], folder: Path, log: Path, env: dict[str, str], timeout: float) -> int | None:
    """Run `olive WORDS` in a folder, everything that it says into the log.

    Args:
        env: of the process that forks, from its first command on.
        timeout: in seconds.

    Returns:
        The command's exit code, or None where the time was up.

    Raises:
        RuntimeError: the process that forks has ended.
    """
    with _lock:
        server = _started(env)
        request = {"words": words, "folder": str(folder), "log": str(log)}
        server.stdin.write(json.dumps(request).encode() + b"\n")
        server.stdin.flush()
        pid = _answer(server)
        ready, _, _ = select.select([server.stdout], [], [], timeout)
        if not ready:
            os.killpg(pid, signal.SIGKILL)
            _answer(server)
            return None
        return _answer(server)


def _answer(server: subprocess.Popen) -> int:
    line = server.stdout.readline()
    if not line:
        raise RuntimeError("the process that runs Olive has ended")
    return int(line)


def _started(env: dict[str, str]) -> subprocess.Popen:
    global _server
    if _server is None or _server.poll() is not None:
        _server = subprocess.Popen([sys.executable, "-c", "from labkit.olive import warm; warm.serve()"], env=env,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        atexit.register(_server.kill)
    return _server


def serve() -> None:
    """Import Olive, then fork for each request on stdin and write the child's number and its exit code to stdout."""
    from contextlib import suppress
    from importlib import import_module

    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what an import prints is no answer
    for name in PRELOADED:
        with suppress(Exception):  # whoever needs it will say that it is missing
            import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_child(**request))
        print(pid, file=out)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=out)


def _child(words: list[str], folder: str, log: str) -> int:
    import traceback

    os.setpgid(0, 0)
    with open(os.devnull) as empty, open(log, "wb", buffering=0) as told:
        os.dup2(empty.fileno(), 0)
        for number in (1, 2):
            os.dup2(told.fileno(), number)
    os.chdir(folder)
    code = 0
    try:
        from olive.cli.launcher import main

        main(words, called_as_console_script=False)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code
