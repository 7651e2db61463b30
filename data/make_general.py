"""Makes data/general/: what tiny-base could do before any fine-tuning, so that it can be seen what is forgotten.

Texts and questions of the same kinds as the base has read, drawn with a seed that its training never used.
Run: python data/make_general.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

DATA = Path(__file__).resolve().parent
SEED = 20261128  # the base was trained with seed 0 and watched with others; none is this one
TEXTS = {"story": 60, "catalogue": 40}
QUESTIONS = 120

sys.path.insert(0, str(DATA / "recipe"))
import corpus  # noqa: E402


def texts(maker: corpus.Maker) -> list[dict]:
    """Plain texts: little stories, and a catalogue's descriptions."""
    found: dict[str, dict] = {}
    for kind, count in TEXTS.items():
        while sum(row["kind"] == kind for row in found.values()) < count:
            if isinstance(document := getattr(maker, kind)(), str):
                found.setdefault(document, {"kind": kind, "text": document})
    return list(found.values())


def questions(maker: corpus.Maker) -> list[dict]:
    """A short note with a question about it; the answer stands in the note, word for word."""
    found: dict[str, dict] = {}
    while len(found) < QUESTIONS:
        turns = maker.question_about_fields()
        (_, prompt), (_, answer) = turns[0], turns[-1]
        if len(turns) == 2 and answer in prompt:
            found.setdefault(prompt, {"prompt": prompt, "completion": answer})
    return list(found.values())


def main() -> None:
    maker = corpus.Maker(corpus.World(), SEED)
    for name, rows in (("texts", texts(maker)), ("questions", questions(maker))):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (DATA / "general" / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
