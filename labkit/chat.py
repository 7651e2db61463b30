"""Talks to a model that `labkit finetune` left, in the same words that it was trained on.

Behind the job on the data's way: reads a Run's folder, renders through `data.render`, answers as the scores were made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from labkit.errors import LabError
from labkit.job import answer
from labkit.training import Run

PLAIN = {"kind": "completion", "template": "{text}", "answer_tokens": 96}  # a Run that no job made


class Chat:
    """A tuned model to talk to.

    Args:
        folder: of a Run. Where a job made it, a text goes into the job's template, and a model for labels picks one;
            a model trained on conversations is told what was said before.

    Raises:
        LabError: there is no run, or it is damaged.
    """

    def __init__(self, folder: str | Path):
        self.run = Run.read(folder)
        self.settings = _settings(Path(folder), self.run)
        self.turns: list[dict[str, str]] = []

    def ask(self, text: str) -> str:
        """The answer to a text."""
        prompt: Any = self.settings["template"].replace("{text}", text)
        if self.settings["kind"] == "messages":
            self.turns.append({"role": "user", "content": prompt})
            prompt = self.turns
        [said] = answer(self.run.model, self.run.tokenizer, self.settings, [prompt])
        if self.settings["kind"] == "messages":
            self.turns.append({"role": "assistant", "content": said})
        return said


def _wording(run: Run) -> dict[str, Any]:
    """What a Run that no job made remembers of its prompts: a text is asked as training asked, or as it is."""
    labels = run.settings.get("labels") or []
    found = {"template": run.settings.get("template", PLAIN["template"]), "labels": labels}
    return PLAIN | found | ({"kind": "label"} if labels else {})


def _settings(folder: Path, run: Run) -> dict[str, Any]:
    file = folder / "settings.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {name: found[name] for name in (*PLAIN, "labels")}
    except FileNotFoundError:
        return _wording(run)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabError("settings.json is damaged", where=str(file), todo="Train again, or take another run") from error
