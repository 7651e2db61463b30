"""A folder to type `olive` commands in: each really runs, keeps its whole log, and says in a few lines what it made.

First part of `labkit.olive`: what a command leaves goes on to `weights`, to the evaluation and to the export.
"""

from __future__ import annotations

import html
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from labkit import models, profiles
from labkit.errors import LabError
from labkit.olive import warm
from labkit.tables import VERBATIM, cut

INSTALL = "Run `pip install -c constraints.txt -e '.[olive]'` in the course's folder"
# Either of the first two alone lets Olive wait for its telemetry: the one is asked before, the other after its start.
QUIET = {"OLIVE_DISABLE_TELEMETRY": "1", "CI": "1", "TOKENIZERS_PARALLELISM": "false",
         "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONIOENCODING": "utf-8"}
CACHE = ".olive-cache"  # where Olive looks whether it did the same before; it knows data by file name, not by content
LOGS = "logs"
BASE = "base"
SHOWN = 6  # files that a report names
LONGEST_REASON = 240  # characters of a sentence
LONGEST_LOG = 60_000  # characters of a log that a notebook shows; the file has all
SEE = "\n... ({:,} characters, see the file)\n"
ERROR = re.compile(r"^(?:[\w.]*(?:Error|Exception|Exit|Interrupt)\b.*|.*\berror: .*)$")
NOTHING = ("No output model produced", "Failed to run Olive")  # Olive says so and ends with code 0
TELLING = re.compile(r"^(?:Model is saved at|Exported adapter|Config file saved|Dry run|Required packages)")
PYDANTIC = re.compile(r"validation errors? for \w+\n(\S.*)\n +(.*?)(?: \[type=.*)?$", re.M)  # settings that are refused
LOSS = re.compile(r"^\{'loss': '?([\d.]+)", re.M)


def installed() -> dict[str, str]:
    """The versions of olive-ai and of what it exports with.

    Raises:
        LabError: one of them is not installed.
    """
    found = {}
    for name in ("olive-ai", "onnxruntime-genai", "onnxruntime", "onnx"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise LabError(f"{name} is not installed, and this lab is about it", todo=INSTALL) from error
    if importlib.util.find_spec("olive") is None:
        raise LabError("olive-ai cannot be imported", todo=INSTALL)
    return found


@dataclass(frozen=True)
class Done:
    """What a command did: `said` are the lines that matter, `files` what it wrote, in bytes, by name below `folder`.

    A notebook shows it as a table, with the whole log behind a click; `log` is the file that has it.
    """

    command: str
    seconds: float
    said: tuple[str, ...]
    files: dict[str, int]
    folder: Path
    log: Path

    @property
    def bytes(self) -> int:
        """All that it wrote."""
        return sum(self.files.values())

    @property
    def head(self) -> str:
        """Command, seconds and bytes in a line."""
        return f"olive {self.command.split()[0]}: {self.seconds:.0f} s, {len(self.files)} files, {self.bytes:,} bytes"

    def __str__(self) -> str:
        width = max((len(name) for name in self._largest()), default=0)
        rows = [f"  {name.ljust(width)}  {size:>11,}" for name, size in self._largest().items()]
        return "\n".join([self.head, *rows, *self._more(), *(f"  {line}" for line in self.said)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(f'<tr><td style="text-align:left">{html.escape(name)}</td><td>{size:,}</td></tr>'
                       for name, size in self._largest().items())
        log, warned = without_warnings(self.log.read_text(encoding="utf-8"))
        warnings = "1 warning" if warned == 1 else f"{warned} warnings"
        title = f"the log, without {warnings} of libraries" if warned else "the whole log"
        more = "".join(f"<div>{html.escape(line.strip())}</div>" for line in [*self._more(), *self.said])
        return (f"<div class='{VERBATIM}'><b>{html.escape(self.head)}</b><table><thead><tr>"
                f"<th style='text-align:left'>file</th><th>bytes</th></tr></thead><tbody>{rows}</tbody>"
                f"</table>{more}<details><summary>{title}</summary><pre>{html.escape(cut(log, LONGEST_LOG, SEE))}</pre>"
                "</details></div>")

    def _largest(self) -> dict[str, int]:
        return dict(sorted(self.files.items(), key=lambda item: -item[1])[:SHOWN])

    def _more(self) -> list[str]:
        rest = len(self.files) - SHOWN
        return [f"  and {rest} smaller files"] if rest > 0 else []


class Desk:
    """A folder in which `olive` commands run, with the base model beside them under the name `base`.

    Args:
        folder: made where it is missing.
        model: as `models.find` takes it; None is the current profile's.

    Raises:
        LabError: olive-ai is not installed, or there is no such model.
    """

    def __init__(self, folder: str | Path, model: str | None = None):
        installed()
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        _lay(models.find(model), self.folder / BASE)

    def run(self, command: str, timeout: float = 1800) -> Done:
        """Run `olive COMMAND` in this folder.

        Telemetry is off, what Olive remembers of earlier runs is cleared, `--log_level 1` is added where no level is
        given, and `--max_steps` is capped by LABKIT_STEPS.

        Args:
            command: as one would type it behind `olive`, on as many lines as one likes.
            timeout: in seconds.

        Raises:
            LabError: the command failed; the text has the last line that says why.
        """
        words = shlex.split(command)
        if words[:1] == ["olive"]:
            words = words[1:]
        if not words:
            raise LabError("no command", where="command", expected="such as finetune or run")
        words = _capped(words)
        out = self._emptied(words)
        before = _files(out)
        shutil.rmtree(self.folder / CACHE, ignore_errors=True)
        log = self.folder / LOGS / f"{len(list((self.folder / LOGS).glob('*.txt'))) + 1:02d}_{words[0]}.txt"
        log.parent.mkdir(exist_ok=True)
        started = time.monotonic()
        code, text = self._call(words, log, timeout)
        seconds = time.monotonic() - started
        if code or any(sign in text for sign in NOTHING):
            raise LabError(reason(text), where=f"olive {words[0]}",
                           todo=f"The whole log is in {LOGS}/{log.name}, in the folder of this lab's runs")
        files = {name: size for name, (size, when) in _files(out).items() if before.get(name) != (size, when)}
        said = [line for line in text.splitlines() if TELLING.match(line)][-3:]
        if losses := LOSS.findall(text):
            if text.count("'train_runtime'") < 2:  # a search trains many, and the first of one is not the last's
                said.insert(0, f"training loss {losses[0]} at the first look, {losses[-1]} at the last")
        return Done(shlex.join(words), seconds, tuple(said), files, out, log)

    def _emptied(self, words: list[str]) -> Path:
        """Where a command will write, without what an earlier one left there; this folder where it does not say."""
        name = _value(words, ("-o", "--output_path"), "")
        config = _value(words, ("--config", "--run-config"), "")
        if not name and config and (self.folder / config).is_file():
            name = self.read(config).get("output_dir", "")
        out = self.folder / name
        if name and out.resolve().is_relative_to(self.folder.resolve()) and out.resolve() != self.folder.resolve():
            if out.is_dir():
                shutil.rmtree(out)
            out.unlink(missing_ok=True)
        return out

    def _call(self, words: list[str], log: Path, timeout: float) -> tuple[int, str]:
        env = {**os.environ, **QUIET, "PYTHONPATH": profiles.python_path()}
        words = words if "--log_level" in words else [*words, "--log_level", "1"]
        if warm.possible and profiles.device() == "cpu":  # who has looked for a GPU cannot use it after a fork
            code = warm.call(words, self.folder, log, env, timeout)
        else:
            with log.open("wb") as told:
                try:
                    code = subprocess.run([sys.executable, "-m", "olive", *words], cwd=self.folder, env=env,
                                          stdout=told, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                          timeout=timeout).returncode
                except subprocess.TimeoutExpired:
                    code = None
        text = tidy(log.read_text(encoding="utf-8", errors="replace"), self.folder)
        log.write_text(text, encoding="utf-8")
        if code is None:
            raise LabError(f"still running after {timeout:.0f} seconds", where=f"olive {words[0]}",
                           todo="Take fewer steps, or give it more time: run(..., timeout=...)")
        return code, text

    def path(self, name: str) -> Path:
        """A file or folder that a command has made here.

        Raises:
            LabError: it is not there yet.
        """
        place = self.folder / name
        if not place.exists():
            raise LabError("is not there yet", where=name, todo="Run the cell above whose command writes it first")
        return place

    def write(self, name: str, content: dict | Iterable[dict]) -> Path:
        """Write a file into the folder: a dict as JSON, rows as JSON lines."""
        place = self.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            content = json.dumps(content, indent=1) + "\n"
        else:
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        place.write_text(content, encoding="utf-8")
        return place

    def read(self, name: str) -> dict:
        """A JSON file from the folder.

        Raises:
            LabError: it is not there yet, or no JSON.
        """
        try:
            return json.loads(self.path(name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise LabError("is no JSON", where=name) from error


def one_line(text: str) -> str:
    r"""A text as one quoted word of a command: line breaks as \n, which Olive turns back.

    >>> print(one_line("Tone?\n{phrase}"))
    'Tone?\n{phrase}'
    """
    return shlex.quote(text.replace("\\", "\\\\").replace("\n", "\\n"))


def reason(log: str) -> str:
    """The last line of a log that says why a command failed, without what stands around it."""
    if settings := PYDANTIC.findall(log):
        place, what = settings[-1]
        return f"{place}: {what.removeprefix('Value error, ')}".rstrip(".")
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.match(line)]
    found = (errors or lines or ["it failed without a word"])[-1]
    found = re.sub(r"argument \{[^}]*\}: ", "", re.sub(r"^.*?\berror: ", "", found)).rstrip(".")
    return found if len(found) <= LONGEST_REASON else found[: LONGEST_REASON - 3].rstrip(", ") + "..."


def tidy(text: str, folder: Path) -> str:
    """A log as it would read in a terminal: bars as they stood at their end, places below the folder by their name."""
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", "\n".join(lines))
    for place, name in ((folder.resolve(), "."), (folder, "."), (profiles.COURSE, "course"),
                        (Path(sys.prefix), "python"), (Path.home(), "~")):
        text = text.replace(str(place), name)
    return re.sub(r"/tmp/[\w./-]*", "(a temporary folder)", text)


def without_warnings(log: str) -> tuple[str, int]:
    """A log without the lines in which Python warns (and the code that each quotes), and how many there were."""
    kept, warned, before = [], 0, ""
    for line in log.split("\n"):
        if "Warning:" in line:
            warned += 1
        elif not ("Warning:" in before and line.startswith("  ")):  # what Python quotes below a warning
            kept.append(line)
        before = line
    return "\n".join(kept), warned


def _lay(source: Path, target: Path) -> None:
    """Lay a model's files into a folder, linked where the disk can, and its tokenizer as labkit reads it."""
    mark = target / "labkit-base.txt"
    if mark.is_file() and mark.read_text(encoding="utf-8") == models.identity(source):
        return
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.name.endswith((".safetensors", "safetensors.index.json")) or file.name in (
                "config.json", "generation_config.json"):
            try:
                os.link(file, target / file.name)
            except OSError:
                shutil.copy2(file, target / file.name)
    models.tokenizer(source).save_pretrained(target)
    mark.write_text(models.identity(source), encoding="utf-8")


def _capped(words: list[str]) -> list[str]:
    from labkit.training import capped

    steps = _value(words, ("--max_steps",), "")
    if not steps.isdecimal():
        return words
    place = words.index("--max_steps") + 1
    return [*words[:place], str(capped(int(steps))), *words[place + 1 :]]


def _value(words: list[str], names: tuple[str, ...], otherwise: str) -> str:
    return next((b for a, b in zip(words, words[1:], strict=False) if a in names), otherwise)


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Bytes and time of each file below a folder, or of the file of that name, without cache and logs."""
    below = folder.is_dir()
    found = folder.rglob("*") if below else [folder] if folder.is_file() else folder.parent.glob(folder.name + ".*")
    return {file.relative_to(folder).as_posix() if below else file.name:
            (file.stat().st_size, file.stat().st_mtime_ns)
            for file in sorted(found)
            if file.is_file() and not {CACHE, LOGS} & set(file.relative_to(folder.parent).parts)}
