"""Makes data/pairs/ from data/tickets: pairs of tickets that do or do not mean the same, byte for byte from one seed.

Two tickets mean the same when intent and issue are the same, whatever their tone and product. Splits are those of the
tickets, so by family; the two tickets of a pair are never of one family. Run: python data/make_pairs.py
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

DATA = Path(__file__).resolve().parent
SEED = 20261128
PAIRS = {"train": 600, "validation": 24, "test": 80}  # of each y; the test families have hardly more that mean the same
MORE = 1200  # further ones of each y for training, drawn after all others
HARD = ("tone and product", "team")  # what else a hard negative shares; two of three negatives are hard
KINDS = ("same", *HARD, "nothing")


def matter(ticket: dict) -> str:
    """What a ticket is about; tickets of one matter mean the same."""
    return f"{ticket['intent']}/{ticket['issue']}"


def product_kind(ticket: dict) -> str | None:
    """The product without its brand, such as "rain jacket"."""
    product = ticket["entities"]["product"]
    return product.split(" ", 1)[1] if product else None


def shares(kind: str, one: dict, other: dict) -> bool:
    """Whether two tickets may be a pair of this kind."""
    if one["family"] == other["family"]:
        return False
    if kind == "same":
        return matter(one) == matter(other)
    if kind == "team":
        return one["intent"] == other["intent"] and matter(one) != matter(other)
    tone, product = one["tone"] == other["tone"], product_kind(one)
    like = product is not None and product == product_kind(other)
    if kind == "tone and product":
        return tone and like and matter(one) != matter(other)
    return not tone and not like and one["intent"] != other["intent"]


def pair(kind: str, one: dict, other: dict) -> dict:
    """A row: y is 1 where the two do not mean the same, as in the contrastive loss."""
    return {
        "a": one["text"],
        "b": other["text"],
        "y": int(kind != "same"),
        "kind": kind,
        "matter_a": matter(one),
        "matter_b": matter(other),
        "family_a": one["family"],
        "family_b": other["family"],
    }


def families_of(row: dict) -> frozenset[str]:
    return frozenset((row["family_a"], row["family_b"]))


def draw(tickets: list[dict], each: int, rng: random.Random, before: list[dict] = ()) -> list[dict]:
    """`each` pairs that mean the same and as many that do not; no pair of families comes twice, or was there `before`."""
    rows, met, teams = [], {families_of(row) for row in before}, {}
    for ticket in tickets:
        teams.setdefault(ticket["intent"], []).append(ticket)
    wanted = ["same"] * each + [(*HARD, "nothing")[n % 3] for n in range(each)]
    order = [ticket for _ in range(9) for ticket in rng.sample(tickets, len(tickets))]
    for kind in wanted:
        while True:
            one = order.pop()
            near = teams[one["intent"]] if kind in ("same", "team") else tickets  # an eighth of the work
            found = [t for t in near if shares(kind, one, t) and frozenset((one["family"], t["family"])) not in met]
            if found:
                break
        rows.append(pair(kind, one, rng.choice(found)))
        met.add(families_of(rows[-1]))
    rng.shuffle(rows)
    return rows


def make(seed: int = SEED) -> dict[str, list[dict]]:
    """The three splits as lists of pairs."""
    rng = random.Random(seed)
    tickets = {split: read(DATA / "tickets" / f"{split}.jsonl") for split in PAIRS}
    splits = {split: draw(tickets[split], each, rng) for split, each in PAIRS.items()}
    splits["train"] += draw(tickets["train"], MORE, rng, splits["train"])
    return splits


def card(splits: dict[str, list[dict]]) -> str:
    """Markdown of data/pairs/README.md."""
    rows = [row for group in splits.values() for row in group]
    counts = {split: Counter(row["kind"] for row in group) for split, group in splits.items()}
    families = {s: {row[f] for row in group for f in ("family_a", "family_b")} for s, group in splits.items()}
    table = ["| the two share | y | train | validation | test |", "| --- | --: | --: | --: | --: |"]
    says = {"same": "the matter", "nothing": "neither matter, team, tone nor kind of product"}
    table += [
        f"| {says.get(kind, kind + ', not the matter')} | {int(kind != 'same')} | "
        + " | ".join(str(counts[s][kind]) for s in PAIRS) + " |"
        for kind in KINDS
    ]
    table.append("| **families met** | | " + " | ".join(str(len(families[s])) for s in PAIRS) + " |")
    listing = "\n".join(table)
    tones = sum(r["family_a"].split("-")[0] == r["family_b"].split("-")[0] for r in rows if not r["y"])
    return f"""# Pairs: tickets that do, or do not, mean the same

{len(rows):,} pairs of letters to Tatra Trail, a mountain-gear shop that does not exist. `y` is **1 for pairs that do
not mean the same**, as in the contrastive loss, where y = 1 pushes apart. Many other datasets have it the other way
round: 1 for "similar".

| column | what |
| --- | --- |
| `a`, `b` | the texts of the two tickets |
| `y` | 0: they mean the same; 1: they do not |
| `kind` | what the two share |
| `matter_a`, `matter_b` | intent and issue of each, such as `{rows[0]["matter_a"]}`; one of {len({r["matter_a"] for r in rows})} |
| `family_a`, `family_b` | the frame that each came from |

{listing}

## How it was made
`data/make_pairs.py` draws pairs from `data/tickets`, seeded; the same seed gives the same bytes. Two tickets mean the
same when intent and issue are the same; tone, product, order number and place may differ. The two tickets of a pair are
never of one family, and no two families are paired twice. Two of three pairs with y = 1 are hard: the same tone and
kind of product but another matter, or the same team but another issue. Licence: CC0-1.0, all of it written for this
course.

## What the split means
The splits are those of the tickets, made by family: no frame of the test was read in training. The matters are the
same in all splits, so the test asks whether a known matter is recognised in unseen words, not whether the model can
tell matters apart of which it has never read.

## Known biases
- Each matter is about as frequent as any other; in a real inbox a few make up most of it.
- "Means the same" is decided by the issue that a frame was written for, not by people who compared the two letters.
  Some issues of one team lie close together, and a reader might call two such letters the same.
- {tones / sum(not r["y"] for r in rows):.0%} of the pairs that mean the same have the same tone, so tone alone says little.
- All is well-spelt British English, and each letter has one matter.
"""


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(folder: Path = DATA / "pairs", seed: int = SEED) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    splits = make(seed)
    for split, rows in splits.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
        print(f"{split}: {len(rows)} pairs of {len({r['a'] for r in rows} | {r['b'] for r in rows})} tickets")
    (folder / "README.md").write_text(card(splits), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write()
