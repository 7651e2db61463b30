"""Makes data/messy_tickets/: an export from the shop's old system, every fault planted in it, and each one recorded.

export.csv is what one would train on, test.csv what one would test on, key.json names every fault by row, kind and what
stood there before. Letters are those of data/tickets; the same seed gives the same bytes. Run: python data/make_messy.py
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import yaml

from labkit.data import LABELS

DATA = Path(__file__).resolve().parent
SEED = 20261125
TONES = LABELS["tone"]
COLUMNS = ("ticket", "received", "channel", "text", "label")
LETTERS = {"train": 640, "test": 160}  # taken from tickets, before any copy is made
MAX_TOKENS = 256  # of the tiny model's tokens; an over-long letter has more, any other less
CHANNELS = ("web form", "mail", "mail", "shop")
PLANTED = {  # how many letters get which fault; copies come on top of the letters that are copied
    "exact duplicate": 30, "conflicting labels": 6, "near duplicate": 40, "leaked": 20, "missing label": 25,
    "unknown label": 30, "mojibake": 30, "HTML": 30, "empty text": 6, "very short text": 5, "other language": 12,
    "over-long text": 5, "contact": 50, "iban": 10, "name": 15, "harmless": 32, "twice": 8,
}  # fmt: skip
TYPING = {"joy": ("jjoy", "joi"), "anger": ("angre", "angr"), "sadness": ("sadnes", "sandess"),
          "fear": ("faer", "feear"), "surprise": ("suprise", "surprize"), "neutral": ("nuetral", "neutrall")}
NOTHING = ("", "", "", " ", "n/a", "NULL", "-")
Row = dict  # text, label, time, channel, faults: a list of dicts with kind, how, original


def load(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / "tickets" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def clean_letters(split: str, rng: random.Random) -> list[Row]:
    """Letters of all families in turn, no two of one family about the same brand.

    Two letters of one family are one form filled in twice. They are no duplicates as long as a name or number tells
    them apart, so that is made sure here: a family whose letters differ in nothing but "tent" for "tarp" would be a
    fault that nobody planted.
    """
    families: dict[str, dict[str, dict]] = {}  # family: brand: ticket
    tickets = load(split)
    for ticket in rng.sample(tickets, len(tickets)):
        brand = (ticket["entities"]["product"] or "").partition(" ")[0]
        families.setdefault(ticket["family"], {}).setdefault(brand, ticket)
    taken: list[dict] = []
    for turn in range(max(map(len, families.values()))):
        for brands in families.values():
            taken += list(brands.values())[turn : turn + 1]
    return [new_row(ticket["text"], ticket["tone"], rng) for ticket in taken[: LETTERS[split]]]


def new_row(text: str, label: str, rng: random.Random) -> Row:
    time = datetime(2026, 1, 7, 7) + timedelta(minutes=rng.randrange(150 * 24 * 60))
    return {"text": text, "label": label, "time": time, "channel": rng.choice(CHANNELS), "faults": []}


def plant(row: Row, kind: str, how: str, original: object) -> None:
    row["faults"].append({"kind": kind, "how": how, "original": original})


def copy_of(row: Row, rng: random.Random) -> Row:
    """The same letter, received later; what is wrong with its text is wrong with the copy as well."""
    later = row["time"] + timedelta(minutes=rng.randrange(5, 60 * 72))
    return {**row, "time": later, "faults": [dict(fault) for fault in row["faults"]]}


def said_again(text: str, world: dict, rng: random.Random) -> str:
    """A letter typed a second time: one or two words differ, or a greeting came on top; numbers and names are kept."""
    words = text.split(" ")
    how = rng.sample(("greeting", "ending", "swap", "drop", "typo"), 1 if len(words) < 32 else 2)
    for kind in sorted(how, key=("swap", "drop", "typo", "greeting", "ending").index):
        if kind == "greeting":
            words[0] = rng.choice(world["greetings"]) + words[0]
        elif kind == "ending":
            words[-1] += rng.choice(world["endings"])
        else:
            fitting = {"swap": world["swaps"], "drop": world["droppable"]}.get(kind)
            places = [i for i, word in enumerate(words) if i and (
                word in fitting if fitting else len(word) > 5 and word.isalpha() and word.islower())]
            if not places:
                words[-1] += rng.choice(world["endings"])
                continue
            place = rng.choice(places)
            if kind == "drop":
                del words[place]
            else:
                words[place] = world["swaps"][words[place]] if kind == "swap" else mistyped(words[place], rng)
    return " ".join(words)


def mistyped(word: str, rng: random.Random) -> str:
    """Two neighbours inside the word have changed places."""
    places = [i for i in range(1, len(word) - 2) if word[i] != word[i + 1]]
    i = rng.choice(places)
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]


def garbled(text: str, times: int) -> str:
    """UTF-8 read as Windows-1252, as browsers do it: the five bytes that it lacks are taken as they are."""
    for _ in range(times):
        text = "".join(bytes([byte]).decode("latin-1" if byte in b"\x81\x8d\x8f\x90\x9d" else "cp1252")
                       for byte in text.encode("utf-8"))  # fmt: skip
    return text


def with_accents(text: str, world: dict, rng: random.Random) -> str:
    """With typographic apostrophes; a letter that has none gets a sentence with other signs beyond ASCII."""
    curly = text.replace("'", "’")
    return curly if curly != text else text + rng.choice(world["accents"])


def in_html(text: str, rng: random.Random) -> tuple[str, str]:
    """The letter as a web form kept it, and what is HTML about it."""
    how = rng.choice(("paragraph", "breaks", "entities", "div", "bold", "spaces", "comment"))
    if how == "paragraph":
        return f"<p>{text}</p>", how
    if how == "breaks":
        return text.replace(". ", ".<br/>").replace("? ", "?<br>") + "<br>", how
    if how == "entities":
        return text.replace("'", "&#39;").replace("&", "&amp;").replace("&amp;#39;", "&#39;") + "&nbsp;", how
    if how == "div":
        return f'<div class="msg"><span style="font-size:12px">{text}</span></div>', how
    words = text.split(" ")
    place = rng.randrange(1, len(words) - 1)
    if how == "bold":
        words[place] = f"<strong>{words[place]}</strong>"
        return " ".join(words), how
    if how == "spaces":
        return f"{' '.join(words[:place])}&nbsp;{' '.join(words[place:])}", how
    return f"{text}<!-- web form 2.1 -->", how


def contact(row: Row, kinds: str, world: dict, names: list[str], rng: random.Random) -> None:
    """A sentence at the end by which the writer can be told: "email", "phone", "both", "iban" or "name"."""
    person = rng.choice(names)
    phone = rng.choice(world["phones"])
    while "{d}" in phone or "{dd}" in phone:
        phone = phone.replace("{d}", f"{rng.randrange(1000):03}", 1).replace("{dd}", f"{rng.randrange(100):02}", 1)
    iban = rng.choice(world["ibans"])
    values = {"email": person.lower().replace(" ", rng.choice("._")) + "@" + rng.choice(world["domains"]),
              "phone": phone, "iban": iban if rng.random() < 0.7 else iban.replace(" ", ""), "name": person}
    found = {"both": ("email", "phone")}.get(kinds, (kinds,))
    plant(row, "personal data", " and ".join(found), {kind: values[kind] for kind in found})
    row["text"] += rng.choice(world["contact"][kinds]).format(**values)


def make(seed: int = SEED) -> tuple[list[Row], list[Row], dict]:
    """The rows of export and test in their order, each with its ticket number; and the key."""
    rng = random.Random(seed)
    world = yaml.safe_load((DATA / "world" / "messy.yml").read_text(encoding="utf-8"))
    persons = yaml.safe_load((DATA / "world" / "names.yml").read_text(encoding="utf-8"))["persons"]
    names = sorted(f"{person} {rng.choice(world['surnames'])}" for person in rng.sample(persons, 30))
    export, test = clean_letters("train", rng), clean_letters("test", rng)
    untouched = rng.sample(export, len(export))  # each letter is taken from here once, so faults do not pile up

    def take(what: str, number: int = 0) -> list[Row]:
        return [untouched.pop() for _ in range(number or PLANTED[what])]

    for number, row in enumerate(take("contact")):
        contact(row, ("both", "both", "email", "phone")[number % 4], world, names, rng)
    reached = [row for row in export if row["faults"]]
    for row in take("iban"):
        contact(row, "iban", world, names, rng)
    for row in take("name"):
        contact(row, "name", world, names, rng)
    harmless = take("harmless")
    for number, row in enumerate(harmless):
        row["text"] += " " + world["harmless"][number % len(world["harmless"])]

    twice = PLANTED["twice"] // 2  # so many copies are garbled as well, and so many letters with an address are HTML

    def add_copy(row: Row, kind: str, how: str, text: str | None = None) -> Row:
        copy = copy_of(row, rng)
        if text is not None:
            copy["text"] = text
        plant(copy, kind, how, row)
        export.append(copy)
        return copy

    for number, row in enumerate(take("exact duplicate", PLANTED["exact duplicate"] - 4) + rng.sample(reached[twice:], 4)):
        if number < 3:
            add_copy(row, "exact duplicate", "in capitals", row["text"].upper())
        elif number < 8:
            add_copy(row, "exact duplicate", "other spaces", row["text"].replace(". ", ".  ") + "\n")
        else:
            add_copy(row, "exact duplicate", "sent twice")
    for row in take("conflicting labels"):
        copy = add_copy(row, "conflicting labels", "the same letter with another label")
        copy["label"] = rng.choice([label for label in TONES if label != row["label"]])
        plant(row, "conflicting labels", "the same letter with another label", copy)
    again = [add_copy(row, "near duplicate", "typed again", said_again(row["text"], world, rng))
             for row in take("near duplicate")]
    leaks = rng.sample(test, PLANTED["leaked"])
    for number, row in enumerate(leaks):
        leak = new_row(row["text"] if number % 2 else said_again(row["text"], world, rng), row["label"], rng)
        plant(leak, "leaked", "as it is" if number % 2 else "typed again", row)
        export.append(leak)
    for row in take("missing label"):
        plant(row, "missing label", "nothing there", row["label"])
        row["label"] = rng.choice(NOTHING)
    for number, row in enumerate(take("unknown label")):
        right = row["label"]
        wrong = rng.choice(([right.upper(), right.title()], [f" {right}", f"{right} "], TYPING[right])[number % 3])
        plant(row, "unknown label", ("case", "spaces", "typing")[number % 3], right)
        row["label"] = wrong
    for row in take("HTML") + reached[:twice]:
        before = row["text"]
        row["text"], how = in_html(before, rng)
        plant(row, "HTML", how, before)
    for number, row in enumerate(take("mojibake") + [row for row in again if "'" in row["text"]][:twice]):
        before = with_accents(row["text"], world, rng)
        times = 2 if number % 3 == 2 else 1
        row["text"] = garbled(before, times)
        plant(row, "mojibake", f"UTF-8 read as Windows-1252, {('once', 'twice')[times - 1]}", before)
    export += odd_letters(world, rng)

    for rows, letter in ((export, "M"), (test, "X")):
        rows.sort(key=lambda row: row["time"])
        for number, row in enumerate(rows, 1):
            row["ticket"], row["row"] = f"{letter}{number:04}", number - 1
    return export, test, key_of(seed, export, names, harmless)


def odd_letters(world: dict, rng: random.Random) -> list[Row]:
    """Letters that are nothing but their fault: empty, a word or two, in another language, a whole thread."""
    rows = []
    for number in range(PLANTED["empty text"]):
        row = new_row(("", " ", "<p></p>", "\t", "", "&nbsp;")[number % 6], rng.choice(TONES), rng)
        plant(row, "empty text", "nothing was written", "")
        if row["text"].strip():
            plant(row, "HTML", "nothing else", "")
        rows.append(row)
    for text in rng.sample(world["short"], PLANTED["very short text"]):
        rows.append(row := new_row(text, rng.choice(TONES), rng))
        plant(row, "very short text", "a word or two", text)
    for letter in rng.sample(world["foreign"], PLANTED["other language"]):
        rows.append(row := new_row(letter["text"], letter["label"], rng))
        plant(row, "other language", letter["language"], letter["language"])
    quoted = load("validation")
    for _ in range(PLANTED["over-long text"]):
        thread = rng.sample(quoted, rng.randint(7, 12))
        text = "\n".join([thread[0]["text"], *(f"> {ticket['text']}" for ticket in thread[1:])])
        rows.append(row := new_row(text, thread[0]["tone"], rng))
        plant(row, "over-long text", "a whole thread", thread[0]["text"])
    return rows


def key_of(seed: int, export: list[Row], names: list[str], harmless: list[Row]) -> dict:
    faults = []
    for row in export:
        for fault in row["faults"]:
            original = fault["original"]
            if isinstance(original, dict) and "ticket" in original:  # another letter
                original = original["ticket"]
            faults.append({"row": row["row"], "ticket": row["ticket"], **fault, "original": original})
    counts = Counter(fault["kind"] for fault in faults)
    return {"seed": seed, "labels": TONES, "names": names, "max_tokens": MAX_TOKENS,
            "counts": dict(sorted(counts.items())), "harmless": sorted(row["row"] for row in harmless), "faults": faults}


def card(export: list[Row], test: list[Row], key: dict) -> str:
    """Markdown of the data card, its figures counted."""
    kinds = "\n".join(f"| {kind} | {count} |" for kind, count in key["counts"].items())
    faulty = len({fault["row"] for fault in key["faults"]})
    told = Counter(kind for f in key["faults"] if f["kind"] == "personal data" for kind in f["original"])
    others = sum(row["label"] not in TONES for row in export)
    shares = "\n".join(f"| {label} | {sum(row['label'] == label for row in export)} | "
                       f"{sum(row['label'] == label for row in test)} |" for label in sorted(TONES)) + f"\n| misspelt or missing | {others} | 0 |"
    return f"""# Messy tickets: the export from the old system

{len(export):,} letters to train on (`export.csv`) and {len(test):,} to test on (`test.csv`), with a tone each, as they came out of the
system that Tatra Trail had before. {faulty:,} of the letters in the export have something wrong with them, and `key.json`
says what: {len(key["faults"]):,} faults in all, each planted on purpose. `test.csv` has none.

Columns: `ticket` (a number of its own), `received`, `channel`, `text`, `label`. The rows stand in the order in which
the letters came.

| fault | rows of export.csv |
| --- | --: |
{kinds}

Personal data: {told["email"]} e-mail addresses and {told["phone"]} telephone numbers, about one of each in {round(len(export) / told["email"])} rows; {told["iban"]} account
numbers and {told["name"]} names of known customers.

| label, as it stands there | export | test |
| --- | --: | --: |
{shares}

## How it was made
`data/make_messy.py` takes letters from `data/tickets` (training families into the export, test families into the test)
and plants the faults, seeded; the same seed gives the same bytes, another seed other letters and other faults. What is
not taken from tickets stands in `data/world/messy.yml`: letters in other languages, contact sentences, and the
sentences that look like a fault and are none, which {len(key["harmless"])} rows end with (`harmless` in the key).

**What counts as a near duplicate.** Two letters of one family are one form filled in twice, and share up to nine tenths
of their word pairs; yet they are two customers with two orders. A letter that is sent again keeps order, product, place
and date and differs in a word or a greeting. So a near duplicate here shares most word pairs *and* every number and
name. No family has two letters about one brand in this export, so none comes near that by chance.

**The key.** An entry a fault: `row` (its position in export.csv, from 0), `ticket`, `kind`, `how`, and `original`, which
is the text or label as it was, the personal data that was added, or the ticket that is repeated (X...: one of the test).
Rows that repeat come after what they repeat; of conflicting labels both rows are named. `labels`, `names` (of known
customers) and `max_tokens` are what `labkit.data.inspect` has to be told; tokens are those of tiny-base.

Licence: CC0-1.0, all of it written for this course. No person, shop or place in it exists. Mail addresses end in domains
that are reserved for examples, telephone numbers are of ranges kept free for fiction, account numbers are the examples
of the IBAN registry.

## Known biases
Those of `data/tickets`, and: real faults come in clusters (one bad form, one bad week), these are strewn evenly; real
personal data is also in the middle of sentences; a real label is also plainly wrong, which no look at one row can tell.
"""


def as_text(key: dict) -> str:
    """The key as JSON with a fault a line, so that a change can be seen."""
    parts = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in key.items() if name != "faults"]
    faults = ",\n  ".join(json.dumps(fault, ensure_ascii=False) for fault in key["faults"])
    return "{\n " + ",\n ".join(parts) + f',\n "faults": [\n  {faults}\n ]\n}}\n'


def write(folder: Path = DATA / "messy_tickets", seed: int = SEED) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    export, test, key = make(seed)
    for name, rows in (("export", export), ("test", test)):
        cells = [{**row, "received": f"{row['time']:%Y-%m-%d %H:%M}"} for row in rows]
        file = io.StringIO()
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(cells)
        (folder / f"{name}.csv").write_text(file.getvalue(), encoding="utf-8", newline="\n")
    (folder / "key.json").write_text(as_text(key), encoding="utf-8", newline="\n")
    (folder / "README.md").write_text(card(export, test, key), encoding="utf-8", newline="\n")
    print(f"export: {len(export)} letters, {len(key['faults'])} faults; test: {len(test)} letters")


if __name__ == "__main__":
    write()
