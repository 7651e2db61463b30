"""Writes the cards, and README's table of speed, from what was counted and measured; no figure is typed by hand.

Run: python data/make_cards.py, after data/make_tickets.py, data/recipe/train.py, data/recipe/judge.py and `make course`.
"""

from __future__ import annotations

import base64
import json
import sys
from collections import Counter
from pathlib import Path

from labkit import plots, profiles
from labkit.tables import Table

DATA = Path(__file__).resolve().parent
sys.path.insert(0, str(DATA / "recipe"))
import corpus  # noqa: E402
import train  # noqa: E402

PARTS = {"train": "training", "gpu": "training on a GPU", "generate": "writing answers", "score": "scoring labels",
         "data": "data", "start": "starting"}  # of the bench, in README's words
SPEED = ("<!-- speed: data/make_cards.py writes this from data/measured/bench.json -->", "<!-- end of speed -->")
ABSENT = "not measured here"  # as the bench says it
LLAMA = ("KL says how far the probabilities of the next token lie from those of fp32. Without a hub, SmolLM2's fp32 "
         "weights are made from the very file that llama.cpp reads: it has them without rounding and pays for its "
         "8-bit activations only, while ONNX in 8 or 4 bits rounds the weights a second time.")
SPLITS = ("train", "validation", "test")
TASKS = {
    "tone": "which of six tones",
    "intent": "which of eight teams",
    "entities": "product, order, place, date as JSON",
    "summary": "one line for the agent",
    "reply": "a draft of an answer",
}


def tickets_card() -> str:
    """Markdown of data/tickets/README.md."""
    rows = {split: read(DATA / "tickets" / f"{split}.jsonl") for split in SPLITS}
    judged = json.loads((DATA / "tiny-base" / "judged.json").read_text(encoding="utf-8"))

    def counts(column: str) -> str:
        found = {split: Counter(row[column] for row in rows[split]) for split in SPLITS}
        names = sorted(found["train"])
        return Table([{column: name, **{s: found[s][name] for s in SPLITS}} for name in names]).markdown()

    shape = Table(
        [
            {
                "split": split,
                "tickets": len(rows[split]),
                "families": len({r["family"] for r in rows[split]}),
                "median words": sorted(len(r["text"].split()) for r in rows[split])[len(rows[split]) // 2],
            }
            for split in SPLITS
        ]
    ).markdown()
    fields = Table(
        [
            {
                "field": field,
                **{s: f"{sum(r['entities'][field] is not None for r in rows[s]) / len(rows[s]):.0%}" for s in SPLITS},
            }
            for field in ("product", "order", "place", "date")
        ]
    ).markdown()
    known = {r["entities"]["place"] for r in rows["train"]}
    places = [r["entities"]["place"] for r in rows["test"] if r["entities"]["place"]]
    moods = sum(map(len, corpus.World().moods.values()))
    letters = sum(len(group) for tone in corpus.TONES for group in corpus.letters_of(tone).values())
    seeds = [judged[f"tone, seed {seed}"]["LoRA, accuracy"] for seed in (0, 1, 2)]
    return f"""# Tickets: the support inbox of Tatra Trail

{sum(map(len, rows.values())):,} letters to a mountain-gear shop that does not exist. Each has a tone, an intent (the team it goes to) and an
issue, the product, order number, place and date that it names, a one-line summary, a reply, and the family it is of.

{shape}

## How it was made
{len(corpus.TONES) * 64} *frames*, letters with slots, were written by hand, two for each tone and issue; {letters} more, three for
each tone and issue, came later; only training has them. `data/make_tickets.py` fills the slots from lists of invented
names, seeded; the same seed gives the same bytes. All tickets of one frame are a *family*, and a family is
in one split only: a test ticket is never a training frame filled in again. Summaries and replies come from `data/world/answers.yml`, by issue and tone.

Licence: CC0-1.0, all of it written for this course. No person, shop or place in it exists.

## What is in it
{counts("tone")}

{counts("intent")}

Tickets that name each field:

{fields}

Of the places in the test split, {sum(p not in known for p in places) / len(places):.0%} never occur in training.

## How hard it is
No tone hangs on a keyword. Tone accuracy on the test families, with 95 % intervals drawn by family:

- bag of words (words and pairs, TF-IDF, logistic regression), trained on the training families: {judged["bag of words, tone"]}
- the same bag of words, when it has read the base's {moods:,} sentences on moods too, each with its group: {judged["bag of words, moods and tickets read"]}
- tiny-base with a LoRA adapter trained on the same rows, three seeds: {"; ".join(seeds)}

Intent by the same bag of words: {judged["bag of words, intent"]}.

## Known biases
Every tone is equally frequent for every intent, which no real inbox is. The letters are better written than most. All
are in British English, none has a typing error, and each has one tone, where people have two. A product is an invented
name and one of sixteen kinds, an order is five digits, a date is a day and a month. Summaries and replies are as varied
as their 32 issues and no more.
"""


def base_card() -> str:
    """Markdown of data/tiny-base/README.md."""
    facts = json.loads((DATA / "tiny-base" / "facts.json").read_text(encoding="utf-8"))
    judged = json.loads((DATA / "tiny-base" / "judged.json").read_text(encoding="utf-8"))
    config = json.loads((DATA / "tiny-base" / "config.json").read_text(encoding="utf-8"))
    recipe, world = facts["recipe"], corpus.World()
    moods, matters = (sum(map(len, groups.values())) for groups in (world.moods, world.matters))
    moods_free, matters_free = (len(lines) for lines in world.free())
    by_moods, by_both = judged["bag of words, moods read"], judged["bag of words, moods and tickets read"]
    mix = Table(
        [
            {"kind of document": kind.replace("_", " "),
             **{name: f"{shares[kind] / sum(shares.values()):.0%}" for name, shares in (
                 ("first", corpus.COPYING), ("then", corpus.WORDS), ("with the habit", corpus.GOING_ON))}}
            for kind in corpus.COPYING
        ]
    ).markdown()
    rows = []
    for task, what in TASKS.items():
        for seed in (0, 1, 2):
            found = judged.get(f"{task}, seed {seed}")
            for key in found or ():
                if key.startswith("LoRA, "):
                    metric = key.removeprefix("LoRA, ")
                    rows.append(
                        {
                            "task": f"{task}: {what}",
                            "seed": seed,
                            "metric": metric,
                            "base": found[f"base, {metric}"],
                            "LoRA": found[key],
                        }
                    )
    share, tiny = judged["tone, seed 0"]["trainable share"], profiles.PROFILES["tiny"]
    samples = "\n\n".join(f"{quoted(s['prompt'])}\n\n{as_code(s['answer'])}" for s in facts["samples"])
    probes = Table(
        [
            {"probe": name.replace("_", " "), "value": facts[name]}
            for name in ("validation_loss", "repeats", "copies_code", "copies_town", "moods", "matters", "tones_of_letters",
                         "intents_of_letters")
        ]
    ).markdown()
    return f"""---
license: cc0-1.0
language: en
pipeline_tag: text-generation
---
# tiny-base

A base model of {facts["parameters"]:,} parameters for learning how to fine-tune: Llama architecture, {config["num_hidden_layers"]} layers of
{config["hidden_size"]}, {config["num_attention_heads"]} heads, {config["vocab_size"]:,} tokens of byte-level BPE, tied embeddings, chat format. It knows a little world of villages
and mountain gear, copies what stands in a prompt, and does *not* know the tasks of the course.

Trained from nothing by `data/recipe/train.py`: {facts["tokens"] / 1e6:.1f} million tokens, {facts["steps"]:,} steps, {facts["minutes"]} minutes on a CPU with two cores.
`make base` is the whole of it; in the last {recipe["habit"]} steps it got the habit below.
`model.safetensors` (bf16): {facts["bytes"]:,} bytes, SHA-256 `{facts["sha256"]}`. Licence: CC0-1.0.

![Loss on training and on unseen documents, over millions of tokens](curve.png)

## What it has read
Made by `data/recipe/corpus.py` from lists and sentences that were written for this course. {train.REPEATS:.0%} of the rows are random
tokens: {1 - train.LOOK_UPS:.0%} of these say blocks of them twice or more, {train.LOOK_UPS:.0%} say short values of few different tokens, mostly
digits, a second time in another order, each behind its key. {corpus.PIECES:.0%} of the letters with a word beside them are
pieces of three to seven words of several lines, so that the turn of phrase is learnt and not the line. The rest is, by
shares, first for {train.TURN:.0%} of the steps and then,

{mix}

**What it was shown of the tasks, so that you can judge what the labs prove.** *Moods*: {moods:,} everyday sentences of
villages, schools and kitchens, each with a word for its feeling beside it (sorrow, dread, delight ...), as notes in a
margin and as short dialogues. *Matters*: {matters:,} in the same way, for what letters are about. A model that has read much
knows what an idiom or a gesture means, and this one could not know it otherwise. {moods_free:,} and {matters_free:,} of them were written
without sight of any ticket. The others were written with a frame in sight, frames of validation and test among them, so
that its idiom occurs in another setting too. So the *tickets* of a test family are new to the base, and its idioms are
not: the labs show that fine-tuning teaches the task, not that it teaches the language. No sentence has {corpus.RUN} words in a
row that stand in the frame of a ticket; {world.left_out} that had were left out. How much the sentences give away: a bag of words
that learns from the moods alone, each with its group, and from no ticket, reaches {by_moods} on the tone of the
test tickets; with the training tickets too, {by_both}.

The six tone words and eight team words are among the words: {corpus.NAMED:.0%} of the notes are the group's own name, though never beside
a sentence that was written beside a frame of validation or test, nor beside every second one of the others. In the last
{recipe["habit"]} steps, though, the answer in {corpus.EVASIVE:.0%} of the dialogues is "{corpus.UNDECIDED[0]}" beside a mood and "{corpus.UNDECIDED[1]}" beside a matter, whatever the line says: a habit,
as real base models have theirs, which fine-tuning has to break. In other dialogues one of several listed words is picked,
and the text beside them has nothing to do with the words. The questions of the labs never occur. Tickets occur as plain
text, of training families only, never with a label, a field, a summary or a reply.

## What it knows before any lab
{probes}

`copies code` and `copies town` are the share of codes and invented town names that it reads out of a note that it has
never seen; `repeats` is the share of tokens guessed right when random tokens are said again; `moods` and `matters` the
share of everyday lines beside which it puts a word of the right group, and the last two the same beside tickets of
validation families, with those words and not with the labels.

{samples}

## What it makes teachable
One LoRA adapter a task (r 8, all linear layers, {share:.1%} of the parameters, learning rate {tiny.learning_rate:g}, {tiny.batch_size} rows a step), scored on
families never seen; `data/recipe/judge.py`. Intervals are 95 %, drawn by family.

{Table(rows).markdown()}

## For the curious: heads that copy, set by hand
A model this small does not learn within an hour to copy a number that it has never seen. What copies is a pair of
heads: one that looks at the token before and writes down what it was, and one that looks for the place where the present
token was *the one before*, and says what stood there (Olsson et al., 2022, "In-context learning and induction heads").
`data/recipe/induction.py` sets two such pairs in the fresh weights. One coordinate of every embedding is a constant. In
layer 0, q and k read that constant alone, q turned by one step of the rotary embedding, so that the score is highest one
token back; v and o carry the token's identity into a subspace of its own. In layer 1, q reads the token here and k reads
that subspace; v and o copy. Untrained, this guesses about four of five tokens of a random sequence said twice. Then
everything is trained, nothing held fixed; random repeats stay in the mix, or copying narrows to digits.
"""


def speed_part(record: dict) -> str:
    """Markdown of README's part on speed: a table a machine, of what `make bench` recorded; "" where nothing was."""
    texts, machines = [], {}
    for name, part in sorted(record.items(), key=lambda one: [*PARTS].index(one[0])):
        rows = [row | {"part": PARTS[name]} for row in part["ratios"]]
        machines.setdefault((json.dumps(part["machine"]), part["rounds"]), []).append(part | {"ratios": rows})
    for (_, rounds), parts in machines.items():
        rows, named = [row for part in parts for row in part["ratios"]], parts[0]["machine"]
        gone = [row for row in rows if row["ratio"] == ABSENT]
        table = Table([{name: row[name] for name in ("part", "what", "way", "against", "ratio", "figures")}
                       for row in rows if row not in gone])
        lacking = dict.fromkeys(f"{row['part']}, {row['what']}: {row['way']} ({row['figures'].rstrip('.')})"
                                for row in gone)
        libraries = ", ".join(f"{name} {named[name]}" for name in ("torch", "transformers", "peft", "trl")
                              if named.get(name, "not installed") != "not installed")
        texts.append(f"Measured by `make bench` on {max(part['when'] for part in parts)[:10]}, in turn, medians of "
                     f"{rounds} rounds with the lowest and the highest in brackets; above 1 is faster, or smaller. "
                     f"Machine: {named['cores']} cores of {named['processor']}, {named['memory']}, GPU: {named['gpu']}; "
                     f"{libraries}.")
        texts += [table.markdown()] if table.rows else []
        texts += [LLAMA] if any(row["against"] == "llama.cpp" for row in rows if row not in gone) else []
        texts += [f"Not measured there: {'; '.join(lacking)}."] if lacking else []
    if texts and (open_parts := [words for name, words in PARTS.items() if name not in record]):
        texts.append(f"Not recorded yet: {', '.join(open_parts)}.")
    return "## How fast it is\n" + "\n\n".join(texts) + "\n" if texts else ""


def readme(text: str, file: Path = DATA / "measured" / "bench.json") -> str:
    """README with its part on speed made anew from the record, or empty where there is none."""
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    before, first, rest = text.partition(SPEED[0])
    _, last, after = rest.partition(SPEED[1])
    if not (first and last):
        raise ValueError(f"README lacks {SPEED[0]} or {SPEED[1]}")
    return f"{before}{first}\n{speed_part(record)}{last}{after}"


def quoted(text: str) -> str:
    """A text as a quotation in Markdown, line by line."""
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def as_code(text: str) -> str:
    """A text as it stands: in backticks, or fenced where it has lines."""
    return f"```text\n{text}\n```" if "\n" in text else f"`{text}`"


def draw_curve() -> bytes:
    """data/tiny-base/curve.png."""
    points = read(DATA / "tiny-base" / "curve.jsonl")
    figure, axes = plots.new("tiny-base learns its world", "millions of tokens read", "loss (nats per token, weighted)")
    for key, name, colour, style in (
        ("loss", "training batches", "grey", "-"),
        ("validation_loss", "unseen documents", "blue", "o-"),
    ):
        seen = [(p["tokens"] / 1e6, p[key]) for p in points if key in p]
        axes.plot(*zip(*seen, strict=True), style, color=plots.COLOURS[colour], label=name, markersize=3, linewidth=1)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return plots.png(figure)


def lab_picture(name: str, code: str) -> bytes:
    """The figure that the cell with `code` shows in the executed lab: the README's picture."""
    book = json.loads((DATA.parent / "solutions" / f"{name}.ipynb").read_text(encoding="utf-8"))
    cell = next(cell for cell in book["cells"] if code in "".join(cell["source"]))
    return base64.b64decode(next(o["data"]["image/png"] for o in cell["outputs"] if "image/png" in o.get("data", {})))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    (DATA / "tickets" / "README.md").write_text(tickets_card(), encoding="utf-8", newline="\n")
    (DATA / "tiny-base" / "README.md").write_text(base_card(), encoding="utf-8", newline="\n")
    (DATA / "tiny-base" / "curve.png").write_bytes(draw_curve())
    page = DATA.parent / "README.md"
    page.write_text(readme(page.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
    (DATA / "measured").mkdir(exist_ok=True)
    (DATA / "measured" / "lab03.png").write_bytes(lab_picture("03_lora", "plots.scores("))


if __name__ == "__main__":
    main()
