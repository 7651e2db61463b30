"""What Olive itself says of a command or of a workflow, without running either: for exercises, and before long runs.

Beside `command`: uses Olive's own parser and its own classes of settings, so it is as strict as the real thing.
"""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import lru_cache

from labkit.errors import LabError
from labkit.olive.command import installed, reason


@lru_cache(maxsize=1)
def _parser():
    installed()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        from olive.cli.launcher import get_cli_parser

        return get_cli_parser()


def parse(words: Sequence[str]) -> dict:
    """The settings that Olive reads from a command; Hugging Face training arguments of `finetune` among them.

    Args:
        words: with or without `olive` in front.

    Returns:
        "command", such as "finetune", and every option by its name, defaults included; "training" has the training
        arguments that were given.

    Raises:
        LabError: Olive refuses the command; the text is its own.
    """
    words = [str(word) for word in words]
    words = words[1:] if words[:1] == ["olive"] else words
    name = words[0] if words else ""
    said = io.StringIO()
    try:
        # Olive makes the output folder while it parses, so this is done where a folder may be made.
        with tempfile.TemporaryDirectory() as folder, chdir(folder), redirect_stderr(said), redirect_stdout(said):
            found, unknown = _parser().parse_known_args(words)
            if not hasattr(found, "func"):
                raise LabError("no command is named", where="olive", expected="such as finetune or capture-onnx-graph")
            command = found.func(_parser(), found, unknown)  # refuses what it does not know, but for finetune
            training = command.parse_training_args() if unknown else {}
    except SystemExit as end:
        raise LabError(reason(said.getvalue()), where=f"olive {name}".strip()) from end
    except (ValueError, AssertionError) as error:
        raise LabError(reason(str(error)), where=f"olive {name}") from error
    options = {key: value for key, value in vars(found).items() if key != "func"}
    return {"command": name, **options, "training": training}


def workflow(config: dict) -> dict[str, dict]:
    """The passes of a workflow with all their settings, as Olive completes them; nothing is loaded or run.

    Args:
        config: as in the file that `olive run --config` takes.

    Returns:
        For each pass its `type` in small letters and its settings.

    Raises:
        LabError: Olive refuses it; the text is its own.
    """
    installed()
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said):
            from olive.package_config import OlivePackageConfig
            from olive.systems.accelerator_creator import create_accelerator
            from olive.workflows.run.config import RunConfig

            read = RunConfig.model_validate(copy.deepcopy(config))
            known = OlivePackageConfig.load_default_config()
            spec = create_accelerator(read.engine.target, skip_supported_eps_check=True, is_ep_required=False) \
                if read.engine.target else None
            passes = {}
            for name, (first, *_) in read.passes.items():
                kind = known.import_pass_module(first.type)
                settings = kind.generate_config(spec or _cpu(), first.config or {}, {}, True)
                passes[name] = {"type": first.type.lower(), **settings.model_dump()}
    except (ValueError, AssertionError, TypeError, KeyError, ImportError) as error:
        raise LabError(_of_pydantic(error), where="workflow") from error
    return passes


def _cpu():
    from olive.hardware.accelerator import AcceleratorSpec

    return AcceleratorSpec("cpu", "CPUExecutionProvider")


def _of_pydantic(error: Exception) -> str:
    """The place and the sentence of the first thing that is wrong."""
    if hasattr(error, "errors"):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place}: {first['msg']}" if place else first["msg"]
    return str(error).splitlines()[0] if str(error) else type(error).__name__
