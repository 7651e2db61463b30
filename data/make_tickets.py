"""Makes data/tickets/ from the hand-written frames in data/world/: the same files from the same seed, byte for byte.

A frame is one ticket written by hand, with slots; a *family* is all tickets made from one frame. Splits are made by
family, so a test ticket is never a training frame filled in again. Run: python data/make_tickets.py
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import yaml

from labkit.data import LABELS

DATA = Path(__file__).resolve().parent
SEED = 20261124
TONES = LABELS["tone"]
FIELDS = ("product", "order", "place", "date")
MONTHS = "January February March April May June July August September October November December".split()

# Of the eight frames that each tone has for each intent: how many go where. The letters are for training alone.
FRAMES = {"train": 5, "validation": 1, "test": 2}
FILLS = {"train": 4, "validation": 6, "test": 6}  # how often each is filled in
UNSEEN_PLACES = 50  # the last places of the list: never in training, in half of the validation and test tickets


def load(name: str) -> dict:
    return yaml.safe_load((DATA / "world" / name).read_text(encoding="utf-8"))


def read_frames() -> list[dict]:
    """All frames with tone, intent and family, in a fixed order; those of letters/ are marked as for training."""
    frames = []
    for tone in TONES:
        letters = load(f"letters/{tone}.yml")
        for intent, group in load(f"frames/{tone}.yml").items():
            marked = group + [{**letter, "split": "train"} for letter in letters[intent]]
            for number, frame in enumerate(marked, 1):
                family = f"{tone}-{intent}-{number}"
                frames.append({"kind": "any", **frame, "tone": tone, "intent": intent, "family": family})
    return frames


def split_families(frames: list[dict], rng: random.Random) -> dict[str, str]:
    """Family to split: the same number of families of every tone and intent in each split."""
    where = {frame["family"]: frame["split"] for frame in frames if "split" in frame}
    cells: dict[tuple[str, str], list[str]] = {}
    for frame in frames:
        if frame["family"] in where:
            continue
        cells.setdefault((frame["tone"], frame["intent"]), []).append(frame["family"])
    for families in cells.values():
        families = rng.sample(families, len(families))
        for split, count in FRAMES.items():
            for family in families[:count]:
                where[family] = split
            families = families[count:]
    return where


def fill(frame: dict, split: str, names: dict, answers: dict, rng: random.Random) -> dict:
    """One ticket from a frame: random product, order, place and date, and the labels that follow from them."""
    kinds = [kind for kind, group in names["kinds"].items() if frame["kind"] in ("any", group)]
    unseen = split != "train" and rng.random() < 0.5
    places = names["places"][-UNSEEN_PLACES:] if unseen else names["places"][:-UNSEEN_PLACES]
    values = {
        "product": f"{rng.choice(names['brands'])} {rng.choice(kinds)}",
        "order": f"{rng.randint(10000, 99999)}",
        "place": rng.choice(places),
        "date": f"{rng.randint(1, 28)} {rng.choice(MONTHS)}",
    }
    used = re.findall(r"\{(\w+)\}", frame["text"])
    entities = {field: values[field] if field in used else None for field in FIELDS}
    known = [f"order {values['order']}" if field == "order" else values[field] for field in FIELDS[1:] if field in used]
    answer = answers["issues"][frame["intent"]][frame["issue"]]
    parts = [answers["greetings"][frame["intent"]], rng.choice(answers["openings"][frame["tone"]]), answer["action"]]
    return {
        "text": frame["text"].format(**values),
        "tone": frame["tone"],
        "intent": frame["intent"],
        "issue": frame["issue"],
        "entities": entities,
        "summary": answer["summary"].format(**values) + (f" ({', '.join(known)})" if known else ""),
        "reply": " ".join(parts).format(**values),
        "family": frame["family"],
    }


def make(seed: int = SEED) -> dict[str, list[dict]]:
    """The three splits as lists of tickets, each shuffled."""
    rng = random.Random(seed)
    frames, names, answers = read_frames(), load("names.yml"), load("answers.yml")
    where = split_families(frames, rng)
    splits: dict[str, list[dict]] = {split: [] for split in FRAMES}
    for frame in frames:
        split = where[frame["family"]]
        splits[split] += [fill(frame, split, names, answers, rng) for _ in range(FILLS[split])]
    number = 0
    for tickets in splits.values():
        rng.shuffle(tickets)
        for row, ticket in enumerate(tickets):
            number += 1
            tickets[row] = {"id": f"T{number:04d}", **ticket}
    return splits


def write(folder: Path = DATA / "tickets", seed: int = SEED) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, tickets in make(seed).items():
        lines = (json.dumps(ticket, ensure_ascii=False) + "\n" for ticket in tickets)
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
        print(f"{split}: {len(tickets)} tickets of {len({t['family'] for t in tickets})} families")


if __name__ == "__main__":
    write()
