"""Makes data/handbook/ from the facts in data/world/handbook.yml: the same files from the same seed, byte for byte.

A fact is one answer of the shop's handbook with five questions that ask for it, all written by hand. Of the five, four
go to training and one to the test: a test question was never read, its answer was. Run: python data/make_handbook.py
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import yaml
from sklearn.feature_extraction.text import TfidfVectorizer

DATA = Path(__file__).resolve().parent
SEED = 20261125


def read_facts() -> list[dict]:
    """All facts with topic, key, answer and questions, in the order of the handbook."""
    topics = yaml.safe_load((DATA / "world" / "handbook.yml").read_text(encoding="utf-8"))
    return [{"topic": topic, "fact": fact, **entry} for topic, facts in topics.items() for fact, entry in facts.items()]


def make(seed: int = SEED) -> dict[str, list[dict]]:
    """The two splits as lists of rows, one row a question, each shuffled."""
    rng = random.Random(seed)
    splits: dict[str, list[dict]] = {"train": [], "test": []}
    for fact in read_facts():
        held_out = rng.randrange(len(fact["inputs"]))
        for number, question in enumerate(fact["inputs"]):
            row = {"input": question, "output": fact["output"], "topic": fact["topic"], "fact": fact["fact"]}
            splits["test" if number == held_out else "train"].append(row)
    for rows in splits.values():
        rng.shuffle(rows)
    return splits


def found_by_spelling(splits: dict[str, list[dict]]) -> float:
    """Share of test questions that look most like the training questions and the answer of their own fact."""
    pages: dict[str, str] = {row["fact"]: row["output"] for row in splits["train"]}
    for row in splits["train"]:
        pages[row["fact"]] += " " + row["input"]
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5))
    known = vectorizer.fit_transform(pages.values())
    scores = (vectorizer.transform(row["input"] for row in splits["test"]) @ known.T).toarray()
    facts = list(pages)
    right = [facts[best] == row["fact"] for best, row in zip(scores.argmax(axis=1), splits["test"], strict=True)]
    return sum(right) / len(right)


def card(splits: dict[str, list[dict]]) -> str:
    """Markdown of data/handbook/README.md."""
    facts, rows = read_facts(), splits["train"] + splits["test"]
    counts = {split: Counter(row["topic"] for row in splits[split]) for split in splits}
    of_topic = Counter(fact["topic"] for fact in facts)
    table = ["| topic | facts | train | test |", "| --- | --: | --: | --: |"]
    table += [f"| {t} | {n} | {counts['train'][t]} | {counts['test'][t]} |" for t, n in of_topic.items()]
    table += [f"| **all** | {len(facts)} | {len(splits['train'])} | {len(splits['test'])} |"]
    asked = sorted(len(row["input"].split()) for row in rows)
    told = sorted(len(fact["output"].split()) for fact in facts)
    told_only = sum("?" not in row["input"] for row in rows) / len(rows)
    return f"""# Handbook: what Tatra Trail answers when it is asked

{len(rows)} questions to a mountain-gear shop that does not exist, each with the answer of its handbook:
{len(facts)} facts, five questions for each, from customers and from new colleagues.

| column | what |
| --- | --- |
| `input` | the question, {asked[0]} to {asked[-1]} words, median {asked[len(asked) // 2]} |
| `output` | the answer, {told[0]} to {told[-1]} words, median {told[len(told) // 2]}; one for all questions of a fact |
| `topic` | one of {len(of_topic)} chapters |
| `fact` | the key of the fact, stable when the wording changes |

{chr(10).join(table)}

## How it was made
Facts and questions were written by hand for this course, in `data/world/handbook.yml`; nothing was copied, and the data
name no person, shop or brand. `data/make_handbook.py` draws one of the five questions of each fact for the test,
seeded, and shuffles; the same seed gives the same bytes. Licence: CC0-1.0.

The five questions ask for one fact in different words and from different sides: the rule, the figure, a case at the
counter. {told_only:.0%} have no question mark: they tell a situation.

## What the split means
Every answer of the test stands in training: the test asks whether a fact is found again under another question, not
whether an unknown fact is guessed. For new facts, split by `fact` or by `topic` instead.

The five share few words on purpose, so looking up does not go far: comparing spelling alone (TF-IDF of three to five
letters, against the four training questions and the answer of each fact) finds the right fact for
{found_by_spelling(splits):.0%} of the test questions; guessing finds {1 / len(facts):.1%}.

## Known biases
- Each topic has as many facts as any other and each fact as many questions; real customers ask the same ten things
  most of the time.
- All is well-spelt British English, one question at a time, and each has an answer. Nothing teaches a model to say
  that it does not know.
- Each fact has one wording of its answer. A model that says the same in other words scores low on ROUGE and is right.
- A question that tells a case ("ten days have gone by") gets the rule, not a ruling on that case.
- **Prices, deadlines and rights are invented and follow no country's law. Safety and care answers are short examples:
  do not trust your life to them; read what the maker of your gear says.**
"""


def write(folder: Path = DATA / "handbook", seed: int = SEED) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    splits = make(seed)
    for split, rows in splits.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
        print(f"{split}: {len(rows)} questions about {len({row['fact'] for row in rows})} facts")
    (folder / "README.md").write_text(card(splits), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write()
