"""Talks to a model that `labkit finetune` left, in the same words that it was trained on.

Behind the job on the data's way: reads a Run's folder, renders through `data.render`, answers as the scores were made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labkit.job import answer
from labkit.training import Run
from labkit.wording import wording


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
        self.settings = wording(self.run)
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
