"""Blind ratings of two models' replies by people: which side each stands on, what was chosen, kept in a file.

Takes prompts and the replies of two models; gives wins with an interval, kappa between two raters, and a CSV file.
The widget over it is `labkit.widgets.rating`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labkit.errors import LabError
from labkit.evaluation.scores import Score, wilson
from labkit.scratch.metrics import kappa
from labkit.tables import Table

CHOICES = ("left", "right", "tie")
TIE = "tie"


@dataclass(frozen=True)
class Pair:
    """A prompt and the replies that stand left and right of it; `left` and `right` name no model."""

    id: str
    prompt: str
    left: str
    right: str


class Ratings:
    """One rater's choices between two models on the same prompts.

    Sides are drawn for each rater and pair, and are the same after a restart; the order of the pairs is drawn too. Each
    choice is written to the file at once.

    Args:
        prompts: what was asked.
        replies: two models' names to their replies, one a prompt.
        rater: whose ratings these are.
        file: JSON lines; choices that it holds already are taken up. Several raters may share it.
        seed: of the sides and the order.

    Raises:
        LabError: not exactly two models, unequal numbers, or a file of other replies.
    """

    def __init__(self, prompts: Sequence[str], replies: Mapping[str, Sequence[str]], rater: str, file: str | Path,
                 seed: int = 0):
        self.models = tuple(replies)
        lengths = {len(prompts), *map(len, replies.values())}
        if len(self.models) != 2 or len(lengths) != 1 or not len(prompts):
            raise LabError(f"{len(self.models)} models with {sorted(lengths)} replies and prompts", where="replies",
                           expected="two models with one reply a prompt")
        if TIE in self.models or not rater.strip():
            raise LabError("a model called tie" if TIE in self.models else "no name", where="rater",
                           expected="a rater's name, and models that are not called tie")
        self.rater, self.file, self.seed = rater.strip(), Path(file), seed
        rows = zip(prompts, *replies.values(), strict=True)
        self._rows = {self._id(i, row): row for i, row in enumerate(rows)}
        order = sorted(self._rows)
        random.Random(f"{seed} {self.rater}").shuffle(order)
        self.order = order
        self.choices: dict[str, str] = self._read()

    @staticmethod
    def _id(number: int, row: tuple) -> str:
        return f"{number:04d}-{hashlib.sha256(json.dumps(row).encode()).hexdigest()[:10]}"

    def _swapped(self, id: str) -> bool:
        """Whether the second model's reply stands on the left; a hash, so that a restart draws the same."""
        return hashlib.sha256(f"{self.seed} {self.rater} {id}".encode()).digest()[0] % 2 == 1

    def _read(self) -> dict[str, str]:
        found: dict[str, str] = {}
        try:
            lines = self.file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return found
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                rater, id, winner = row["rater"], row["pair"], row["winner"]
            except (ValueError, KeyError, TypeError):
                if number == len(lines):  # the machine went off in the middle of a line
                    continue
                raise LabError("this is no rating", where=f"{self.file}, line {number}",
                               todo="Mend the line, or take another file") from None
            if rater != self.rater:
                continue
            if id not in self._rows or winner not in (*self.models, TIE, None):
                raise LabError("a rating of other replies", where=f"{self.file}, line {number}",
                               expected=f"pairs of {' and '.join(self.models)} as they are now",
                               todo="Take another file for other replies")
            found.pop(id, None)
            if winner is not None:
                found[id] = winner
        return found

    def pair(self) -> Pair | None:
        """The next pair that this rater has not rated; None when all are."""
        for id in self.order:
            if id not in self.choices:
                prompt, first, second = self._rows[id]
                left, right = (second, first) if self._swapped(id) else (first, second)
                return Pair(id, prompt, left, right)
        return None

    def choose(self, choice: str) -> None:
        """Rate the pair at hand: "left", "right" or "tie"; nothing happens when all are rated.

        Raises:
            LabError: another word, or the file cannot be written.
        """
        if choice not in CHOICES:
            raise LabError(f"{choice!r} is no choice", where="choose", expected=", ".join(CHOICES))
        if (pair := self.pair()) is None:
            return
        winner = TIE
        if choice != "tie":
            winner = self.models[(choice == "right") != self._swapped(pair.id)]
        self._write(pair.id, winner)
        self.choices[pair.id] = winner

    def undo(self) -> None:
        """Take the last choice back; its pair comes again."""
        if self.choices:
            id = list(self.choices)[-1]
            self._write(id, None)
            del self.choices[id]

    def _write(self, id: str, winner: str | None) -> None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            _cut_half_line(self.file)
            with self.file.open("a", encoding="utf-8") as opened:
                opened.write(json.dumps({"rater": self.rater, "pair": id, "winner": winner}) + "\n")
                opened.flush()
                os.fsync(opened.fileno())
        except OSError as error:
            raise LabError(f"the rating could not be kept ({error.strerror})", where=str(self.file)) from error

    # -- what came of it ---------------------------------------------------------------------------------------

    def wins(self) -> Score:
        """Share of pairs that the second model won, among those that were no tie, with Wilson's interval.

        Raises:
            LabError: nothing but ties so far.
        """
        count = Counter(self.choices.values())
        decided = count[self.models[0]] + count[self.models[1]]
        if not decided:
            raise LabError("no pair was decided yet", where=f"ratings of {self.rater}")
        share = count[self.models[1]] / decided
        return Score(f"{self.models[1]} preferred", share, *wilson(share, decided), decided)

    def table(self) -> Table:
        """How often each model won; names stand here alone, when the rating is over."""
        count = Counter(self.choices.values())
        return Table([{"preferred": name, "pairs": count[name]} for name in (*self.models, TIE)],
                     f"{self.rater}: {len(self.choices)} of {len(self._rows)} pairs rated")

    def export(self, file: str | Path) -> Path:
        """Write a CSV file: rater, pair, prompt, both replies by model, and the winner."""
        with Path(file).open("w", encoding="utf-8", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["rater", "pair", "prompt", *self.models, "winner"])
            for id, winner in self.choices.items():
                writer.writerow([self.rater, id, *self._rows[id], winner])
        return Path(file)


def agreement(first: Ratings, second: Ratings) -> tuple[float, int]:
    """Cohen's kappa of two raters on the pairs that both have rated, and how many those are.

    Raises:
        LabError: there is no such pair.
    """
    both = [id for id in first.choices if id in second.choices]
    if not both:
        raise LabError("no pair was rated by both", where=f"{first.rater} and {second.rater}")
    return kappa([first.choices[id] for id in both], [second.choices[id] for id in both]), len(both)


def _cut_half_line(file: Path) -> None:
    """Drop a last line without an end: the machine went off while it was written."""
    content = file.read_bytes() if file.is_file() else b""
    if content and not content.endswith(b"\n"):
        os.truncate(file, content.rfind(b"\n") + 1)
