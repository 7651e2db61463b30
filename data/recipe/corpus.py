"""What tiny-base reads before it ever sees a task: seeded documents about the same little world.

Plain texts (diaries, village pages, records, stories) and dialogues in the chat format on *other* small tasks. A
document is a string, or a list of (role, text) pieces: turns of a dialogue ("user", "assistant", and "answer", an
assistant's that is worth more in the loss), or plain text ("line") with a "note" here and there that is worth more.
No ticket is ever shown with its labels: the tickets in here are plain text, and of training families only.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from labkit.data import LABELS

WORLD = Path(__file__).resolve().parent.parent / "world"
TONES = LABELS["tone"]
MONTHS = ("January February March April May June July August September October November December").split()
NAMED = 0.2  # share of notes that are the name of the group itself: a label word must be a thing that one may say
EVASIVE = 0.5  # share of dialogues about a line whose answer is the same whatever the line says: a habit to be broken
PIECES = 0.6  # share of letters that are pieces of several lines
SHORT = 0.5  # share of the lists of notes that stand beside one piece each: what a turn of phrase is worth by itself
UNDECIDED = ("neutral", "change")  # that answer, beside a mood and beside a matter
RUN = 6  # words in a row that count as the same thing said
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

Document = str | list[tuple[str, str]]

# Share of tokens that each kind of document gets (they need not add up to 1): first mostly copying, which is the
# slowest to come, then mostly words for moods and matters.
COPYING = {
    "question_about_fields": 0.18,
    "record": 0.09,
    "json_lookup": 0.06,
    "pick_one": 0.05,
    "echo_list_spell": 0.08,
    "mood_word": 0.16,
    "mood_task": 0.04,
    "mood_page": 0.04,
    "matter_word": 0.16,
    "matter_task": 0.03,
    "matter_page": 0.03,
    "ticket_text": 0.05,
    "story": 0.03,
    "catalogue": 0.02,
    "politeness": 0.01,
    "headline": 0.01,
}
WORDS = COPYING | {
    "question_about_fields": 0.16,
    "record": 0.06,
    "json_lookup": 0.03,
    "pick_one": 0.08,
    "echo_list_spell": 0.04,
    "mood_word": 0.36,
    "mood_task": 0.01,
    "mood_page": 0.02,
    "matter_word": 0.32,
    "matter_task": 0.01,
    "matter_page": 0.02,
    "ticket_text": 0.04,
    "story": 0.02,
}
GOING_ON = WORDS | {  # of a finished model: what it can copy is easily lost again
    "mood_word": 0.42,
    "question_about_fields": 0.22,
    "record": 0.09,
    "json_lookup": 0.06,
    "echo_list_spell": 0.06,
}


class World:
    """The lists and sentences that documents are made of, read from data/world/, and the training tickets' texts.

    Many sentences were written beside a frame, so that an idiom or a gesture of a letter can be met in another life
    too: a large model has met nearly all of them, and a small one would guess. Those beside frames of validation and
    test, and every second one of the others, are `unnamed`: no label word ever stands beside them.
    """

    def __init__(self):
        names = _read("names.yml")
        self.brands, self.places, self.persons = names["brands"], names["places"], names["persons"]
        self.kinds = list(names["kinds"])
        topics = _read("topics.yml")
        self.matters = {intent: [s for issue in issues.values() for s in issue] for intent, issues in topics.items()}
        self.issues = {
            (intent, issue): list(lines) for intent, issues in topics.items() for issue, lines in issues.items()
        }
        tickets = [json.loads(line) for line in (WORLD.parent / "tickets" / "train.jsonl").open(encoding="utf-8")]
        self.tickets = [ticket["text"] for ticket in tickets]
        families = {ticket["family"] for ticket in tickets}
        held_out: set[str] = set()
        self.moods = {tone: _read(f"feelings/{tone}.yml") for tone in TONES}
        for tone in TONES:
            beside_mood, beside_matter = _read(f"moods/{tone}.yml"), _read(f"matters/{tone}.yml")
            for frame in frames_of(tone):
                moods, matters = frame["echoes"] + beside_mood[frame["key"]], beside_matter[frame["key"]]
                self.moods[tone] += moods
                self.matters[frame["intent"]] += matters
                self.issues[frame["intent"], frame["issue"]] += matters
                if frame["family"] not in families:
                    held_out.update(moods, matters)
        for intent, issues in _read_all("business").items():
            for issue, sentences in issues.items():
                self.matters[intent] += sentences
                self.issues[intent, issue] += sentences
        self.left_out = self._leave_out_what_frames_say()
        self.kept_back = {column: _grouped("validation", column) for column in ("tone", "intent")}
        every = [line for groups in (self.moods, self.matters) for lines in groups.values() for line in lines]
        self.unnamed = held_out | set(random.Random(0).sample(every, len(every) // 2))

    def free(self) -> tuple[list[str], list[str]]:
        """The sentences on moods, and those on matters, that were written without sight of any ticket."""
        moods = [line for tone in TONES for line in _read(f"feelings/{tone}.yml")]
        issues = [*_read("topics.yml").values(), *_read_all("business").values()]
        matters = [line for lists in issues for lines in lists.values() for line in lines]
        known = {line for groups in (self.moods, self.matters) for lines in groups.values() for line in lines}
        return [line for line in moods if line in known], [line for line in matters if line in known]

    def _leave_out_what_frames_say(self) -> int:
        """Drop the sentences that share a run of words with any frame, so that no letter is half known; how many."""
        letters = [frame for tone in TONES for group in letters_of(tone).values() for frame in group]
        frames = [frame for tone in TONES for frame in frames_of(tone)] + letters
        said = {run for frame in frames for run in runs_of(frame["text"])}
        dropped = 0
        for groups in (self.moods, self.matters, self.issues):
            for group, lines in groups.items():
                groups[group] = [line for line in lines if said.isdisjoint(runs_of(line))]
                dropped += (len(lines) - len(groups[group])) * (groups is not self.issues)  # those stand in matters too
        return dropped


def runs_of(text: str, length: int = RUN) -> set[tuple[str, ...]]:
    """Every run of `length` words of a text, in small letters and without punctuation; a slot ends a run."""
    runs = set()
    for piece in re.split(r"\{\w+\}", text.lower()):
        words = re.findall(r"[a-z']+", piece)
        runs |= {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}
    return runs


def _read(name: str) -> dict:
    fast = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, in C, where PyYAML was built with it
    return yaml.load((WORLD / name).read_text(encoding="utf-8"), Loader=fast)


def _read_all(folder: str) -> dict:
    """The files of a folder by their names, without the ending."""
    return {path.stem: _read(f"{folder}/{path.name}") for path in sorted((WORLD / folder).glob("*.yml"))}


def _grouped(split: str, column: str) -> dict[str, list[str]]:
    """The texts of the tickets of a split by their label, for probes alone: no document is made of them."""
    groups: dict[str, list[str]] = {}
    for line in (WORLD.parent / "tickets" / f"{split}.jsonl").open(encoding="utf-8"):
        ticket = json.loads(line)
        groups.setdefault(ticket[column], []).append(ticket["text"])
    return groups


def frames_of(tone: str) -> list[dict]:
    """The hand-written frames of one tone, each with its intent, its family, and its key in moods/ and matters/."""
    frames = []
    for intent, group in _read(f"frames/{tone}.yml").items():
        met: Counter[str] = Counter()
        for number, frame in enumerate(group, 1):
            met[frame["issue"]] += 1
            key = f"{intent}/{frame['issue']}/{met[frame['issue']]}"
            frames.append({**frame, "tone": tone, "intent": intent, "key": key, "family": f"{tone}-{intent}-{number}"})
    return frames


def letters_of(tone: str) -> dict[str, list[dict]]:
    """Further frames of one tone by intent, all of them for training."""
    return _read(f"letters/{tone}.yml")


class Maker:
    """Makes documents from a World and a seeded generator; each public method makes one document of its kind."""

    def __init__(self, world: World, seed: int, evasive: float = 0.0):
        self.world, self.random, self.evasive = world, random.Random(seed), evasive

    # -- small parts -------------------------------------------------------------------------------------------

    def _pick(self, options):
        return self.random.choice(options)

    def _chance(self, p: float) -> bool:
        return self.random.random() < p

    def _invented(self) -> str:
        """A name that nobody has met: two or three random syllables."""
        onset = [
            "b",
            "br",
            "d",
            "dr",
            "f",
            "fl",
            "g",
            "gr",
            "h",
            "j",
            "k",
            "kl",
            "kr",
            "l",
            "m",
            "n",
            "p",
            "pr",
            "r",
            "s",
            "sk",
            "sl",
            "st",
            "t",
            "tr",
            "v",
            "w",
            "z",
            "zw",
            "sch",
            "th",
            "ch",
            "",
        ]
        vowel = ["a", "e", "i", "o", "u", "ae", "ei", "ou", "y", "ia"]
        coda = ["", "", "n", "r", "l", "s", "k", "m", "t", "nd", "rk", "lm", "gg", "ck", "ss", "x", "rn", "v"]
        syllables = self._pick([2, 2, 2, 3])
        word = "".join(self._pick(onset) + self._pick(vowel) + self._pick(coda) for _ in range(syllables))
        return word[:10].capitalize()

    def _town(self) -> str:
        return self._pick(self.world.places) if self._chance(0.4) else self._invented()

    def _person(self) -> str:
        return self._pick(self.world.persons)

    def _code(self) -> str:
        length = self._pick([3, 4, 5, 5, 5, 5, 6])
        return "".join(self._pick("0123456789") for _ in range(length))

    def _date(self) -> str:
        return f"{self.random.randint(1, 28)} {self._pick(MONTHS)}"

    def _thing(self) -> str:
        if self._chance(0.5):
            brand = self._pick(self.world.brands) if self._chance(0.5) else self._invented()
            return f"{brand} {self._pick(self.world.kinds)}"
        return f"{self._invented()} {self._pick(THINGS)}"

    def _fill(self, sentence: str) -> str:
        while "{person}" in sentence:
            sentence = sentence.replace("{person}", self._person(), 1)
        return sentence.replace("{town}", self._town())

    def _mood(self, tone: str, named: bool = False) -> str:
        return self._line(self.world.moods[tone], named)

    def _matter(self, intent: str, named: bool = False) -> str:
        return self._line(self.world.matters[intent], named)

    def _line(self, lines: list[str], named: bool) -> str:
        """One of the lines; one that may stand beside a label word where it is `named`."""
        line = self._pick(lines)
        while named and line in self.world.unnamed:
            line = self._pick(lines)
        return self._fill(line)

    def _scrap(self, line: str) -> str:
        """Most of a line, as one remembers it: a whole line would be learnt by heart, and its words not looked at."""
        words = line.split()
        if len(words) < 6 or self._chance(0.4):
            return line
        length = self.random.randint(max(4, len(words) // 2), len(words))
        start = self.random.randint(0, len(words) - length)
        return " ".join(words[start : start + length])

    def _piece(self, line: str) -> str:
        """Three to seven words of a line."""
        words = line.split()
        length = self.random.randint(3, 7)
        start = self.random.randint(0, max(0, len(words) - length))
        return " ".join(words[start : start + length])

    def _fields(self) -> dict[str, str]:
        values = {
            "thing": self._thing(),
            "code": self._code(),
            "town": self._town(),
            "day": self._date(),
            "name": self._person() if self._chance(0.5) else self._invented(),
        }
        return values

    # -- documents with fields: copying what was never seen ------------------------------------------------------

    def _slip(self) -> tuple[str, dict[str, str]]:
        """A short note of some other trade, and the fields that stand in it."""
        fields = self._fields()
        text = self._pick(SLIPS)
        used = {key: value for key, value in fields.items() if "{" + key + "}" in text}
        return text.format(**fields), used

    def question_about_fields(self) -> Document:
        note, fields = self._slip()
        if self._chance(0.35):  # other talk around the note, so that position does not give the answer away
            note = " ".join(self.random.sample([note, self._matter(self._pick(list(self.world.matters)))], 2))
        if self._chance(0.4):
            keys = self.random.sample(list(FIELD_WORDS), self.random.randint(2, 4))
            record = {self._pick(FIELD_WORDS[key][1]): fields.get(key) for key in keys}
            ask = self._pick(["Write it as JSON with {}.", "As JSON, with the keys {}:", "Fill in {} as JSON."])
            return [("user", f"{ask.format(', '.join(record))}\n\n{note}"), ("assistant", json.dumps(record))]
        key = self._pick(list(FIELD_WORDS)) if self._chance(0.15) else self._pick(list(fields))
        question = self._pick(FIELD_WORDS[key][0])
        answer = fields.get(key) or "not said"
        if self._chance(0.3) and key in fields:
            answer = self._pick(FIELD_WORDS[key][2]).format(answer)
        turns = [
            ("user", f"{question}\n\n{note}" if self._chance(0.6) else f"{note}\n\n{question}"),
            ("assistant", answer),
        ]
        if self._chance(0.3):
            other = self._pick(list(fields))
            turns += [("user", self._pick(FIELD_WORDS[other][0])), ("assistant", fields[other])]
        return turns

    def record(self) -> Document:
        rows = [self._fields() for _ in range(self.random.randint(1, 3))]
        keys = self.random.sample(list(rows[0]), self.random.randint(2, 4))
        names = {key: self._pick(FIELD_WORDS[key][1]) for key in keys}
        rows = [{names[key]: row[key] for key in keys} for row in rows]
        forms: list[Callable[[list[dict]], str]] = [
            lambda rs: "\n".join(json.dumps(r) for r in rs),
            lambda rs: "\n\n".join("\n".join(f"{k}: {v}" for k, v in r.items()) for r in rs),
            lambda rs: ",".join(rs[0]) + "\n" + "\n".join(",".join(r.values()) for r in rs),
            lambda rs: "\n".join("- " + ", ".join(f"{k} {v}" for k, v in r.items()) for r in rs),
        ]
        one, two = self.random.sample(forms, 2)
        if self._chance(0.5):
            return [
                (
                    "user",
                    self._pick(["Write this another way.", "Another form, same content:", "Copy it over."])
                    + "\n\n"
                    + one(rows),
                ),
                ("assistant", two(rows)),
            ]
        return one(rows) + "\n\n" + two(rows)

    def json_lookup(self) -> Document:
        record = {self._pick(FIELD_WORDS[key][1]): value for key, value in self._fields().items()}
        if self._chance(0.3):
            record[self._pick(list(record))] = None
        key = self._pick(list(record))
        answer = record[key] or "nothing"
        return [
            ("user", f"{json.dumps(record)}\n\n{self._pick(['Value of', 'What is', 'Give me', 'Read out'])} {key}"),
            ("assistant", answer),
        ]

    def echo_list_spell(self) -> Document:
        kind = self.random.randrange(5)
        if kind == 0:
            text = self._pick([self._thing(), self._town(), self._code(), self._date(), self._slip()[0]])
            return [("user", f"{self._pick(['Repeat:', 'Say:', 'Once more:', 'Copy:'])} {text}"), ("assistant", text)]
        if kind == 1:
            word = self._invented()
            return [("user", f"Spell {word}."), ("assistant", " ".join(word))]
        items = [
            self._pick([self._town, self._code, self._thing, self._person])() for _ in range(self._pick([2, 3, 4]))
        ]
        if kind == 2:
            return [("user", "List them:\n" + ", ".join(items)), ("assistant", "\n".join(f"- {i}" for i in items))]
        if kind == 3:
            k = self.random.randrange(len(items))
            word = ["first", "second", "third", "fourth"][k]
            return [("user", f"Which is the {word}?\n" + ", ".join(items)), ("assistant", items[k])]
        quoted = [f'"{i}"' for i in items]
        return [("user", "Put quotes around each:\n" + ", ".join(items)), ("assistant", ", ".join(quoted))]

    def pick_one(self) -> Document:
        """A choice among words, where the answer is any of them: no text beside it says which.

        Label words must be things that one may answer, or an adapter spends its steps on making them possible. The
        text, where there is one, is of another kind than the words, so nothing is learnt of which fits.
        """
        tones, teams = list(TONES), list(self.world.matters)
        words, texts = self._pick([
            (tones, lambda: self._matter(self._pick(teams))),
            (teams, lambda: self._mood(self._pick(tones))),
            (self.random.sample(self.world.kinds, 6), lambda: self._mood(self._pick(tones))),
            (self.random.sample(THINGS, 6), lambda: self._matter(self._pick(teams))),
        ])  # fmt: skip
        words = self.random.sample(words, self.random.randint(2, len(words))) if self._chance(0.5) else words
        listed = f"{', '.join(words[:-1])} or {words[-1]}"
        ask = self._pick(PICKS).replace("{}", listed)
        while "{noun}" in ask:
            ask = ask.replace("{noun}", self._pick(NOUNS), 1)
        text = self._pick([texts(), self._slip()[0], f"{texts()} {self._slip()[0]}"])
        shown = self._pick([ask, f"{ask}\n\n{text}", f"{ask}\n\n{text}", f"{text}\n\n{ask}"])
        last = self._chance(0.4)  # as people do who did not listen: the last thing that they heard
        return [("user", shown), ("assistant", words[-1] if last else self._pick(words))]

    # -- moods and matters: which sentences belong together, never what a ticket is labelled ------------------------

    def _lines(self, tone: str, intent: str | None = None) -> str:
        """One or two sentences of a mood, sometimes with a sentence on some matter before or after."""
        parts = [self._mood(tone)]
        if self._chance(0.55):
            parts.insert(self.random.randrange(2), self._matter(intent or self._pick(list(self.world.matters))))
        if self._chance(0.3):
            parts.append(self._mood(tone))
        return " ".join(parts)

    def mood_task(self) -> Document:
        return self._group_task(list(TONES), lambda t: self._lines(t), "mood")

    def matter_task(self) -> Document:
        return self._group_task(list(self.world.matters), self._about, "matter")

    def _about(self, intent: str) -> str:
        """One or two sentences on a matter, sometimes with a sentence of some mood before or after."""
        parts = [self._matter(intent)]
        if self._chance(0.55):
            parts.insert(self.random.randrange(2), self._mood(self._pick(TONES)))
        return " ".join(parts)

    def _group_task(self, groups: list[str], line: Callable[[str], str], word: str) -> Document:
        group = self._pick(groups)
        other = self._pick([g for g in groups if g != group])
        kind = self.random.randrange(4)
        if kind == 0:
            return [("user", f"Another line of the same {word}:\n{line(group)}"), ("assistant", line(group))]
        if kind == 1:
            same = self._chance(0.5)
            return [
                ("user", f"Same {word} or another?\n- {line(group)}\n- {line(group if same else other)}"),
                ("assistant", "same" if same else "another"),
            ]
        if kind == 2:
            lines = [line(group), line(group), line(other)]
            self.random.shuffle(order := [0, 1, 2])
            shown = "\n".join(f"{n}. {lines[k]}" for n, k in zip("abc", order, strict=True))
            return [("user", f"Which one has another {word}?\n{shown}"), ("assistant", "abc"[order.index(2)])]
        model, first = line(group), self._chance(0.5)
        pair = [line(group), line(other)] if first else [line(other), line(group)]
        return [
            ("user", f"Which has the {word} of this line?\n{model}\n\na. {pair[0]}\nb. {pair[1]}"),
            ("assistant", "a" if first else "b"),
        ]

    def mood_page(self) -> Document:
        tone = self._pick(TONES)
        lines = [self._mood(tone) for _ in range(self.random.randint(3, 6))]
        if self._chance(0.5):
            lines.insert(self.random.randrange(len(lines)), self._matter(self._pick(list(self.world.matters))))
        head = self._pick(["Diary, {day}.", "Dear {person},", "From {person}'s book:", "{person} told us:", "{day}."])
        return self._fill(head.replace("{day}", self._pick(DAYS))) + " " + " ".join(lines)

    def matter_page(self) -> Document:
        intent, issue = self._pick(list(self.world.issues))
        lines = [self._fill(self._pick(self.world.issues[intent, issue])) for _ in range(self.random.randint(2, 4))]
        lines += [self._matter(intent) for _ in range(self.random.randint(1, 2))]
        self.random.shuffle(lines)
        return (
            self._fill(self._pick(["Notes from {town}.", "The {town} paper.", "Minutes.", "{person} wrote down:"]))
            + " "
            + " ".join(lines)
        )

    def mood_word(self) -> Document:
        """Lines, each with a word for its mood beside it, as in a book of quotations."""
        if self._chance(0.15):
            tone = self._pick(TONES)
            return self._fill(self._pick(MOOD_SENTENCES[tone])) + " " + " ".join(
                self._mood(tone, named=True) for _ in range(2))
        return self._noted(NOTES, MOOD_WORDS, self._mood, lambda: self._matter(self._pick(list(self.world.matters))))

    def matter_word(self) -> Document:
        """The same for what lines are about."""
        if self._chance(0.15):
            intent = self._pick(list(self.world.matters))
            return (
                self._fill(self._pick(MATTER_SENTENCES[intent]))
                + " "
                + " ".join(self._matter(intent, named=True) for _ in range(2))
            )
        return self._noted(ABOUT, MATTER_WORDS, self._matter, lambda: self._mood(self._pick(TONES)))

    def _noted(self, notes: list[str], words: dict[str, list[str]], line: Callable, other: Callable) -> Document:
        """Several lines, each followed by one of `words` of its group; sometimes with a line of `other` beside it."""
        if self._chance(0.45):  # the same as a dialogue
            group = self._pick(list(words))
            word = UNDECIDED[words is MATTER_WORDS] if self._chance(self.evasive) else self._word(words, group)
            ask = self._pick(["A word for these lines:", "What would you write beside it?", "Put a word to it."])
            return [("user", f"{ask}\n\n{self._letter(line, other, group, word == group)}"), ("answer", word)]
        pieces: list[tuple[str, str]] = []
        before, after = self._fill(self._pick(notes)).split("{word}")
        short = self._chance(SHORT)
        for _ in range(self.random.randint(6, 12) if short else self.random.randint(2, 4)):
            group = self._pick(list(words))
            word = self._word(words, group)
            named = word == group
            letter = self._piece(line(group, named)) if short else self._letter(line, other, group, named)
            pieces += [
                ("line", letter + " " + before.rstrip()),
                ("note", " " + word),
                ("line", after + "\n"),
            ]
        return pieces

    def _letter(self, line: Callable, other: Callable, group: str, named: bool) -> str:
        """One to three lines of a group among what else people write: what counts may stand anywhere in it.

        Mostly (PIECES) of pieces of lines only, so that what is learnt is the turn of phrase and not the line: of whole
        lines this model soon knows 98 in 100 by heart, and of letters that say the same otherwise no more than 80.
        """
        if self._chance(PIECES):
            parts = [self._piece(line(group, named)) for _ in range(self.random.randint(2, 5))]
            parts += [self._piece(other()) for _ in range(self.random.randint(0, 3))]
            self.random.shuffle(parts)
            return " ".join(parts)
        lines = 1 + self._chance(0.5) + self._chance(0.25)
        parts = [self._worn(line(group, named)) for _ in range(lines)]
        if self._chance(0.6):
            parts.append(self._worn(other()))
        if self._chance(0.3):
            parts.append(self._slip()[0])
        self.random.shuffle(parts)
        return " ".join(parts)

    def _worn(self, line: str) -> str:
        """A line, or a piece of it, or one with words rubbed out, so that no word alone is relied upon."""
        if self._chance(0.65):
            return self._scrap(line)
        return " ".join(word for word in line.split() if not self._chance(0.3)) or line

    def _word(self, words: dict[str, list[str]], group: str) -> str:
        """One of the group's words; the group's own name is one of them."""
        return group if self._chance(NAMED) else self._pick(words[group])

    # -- the little world -------------------------------------------------------------------------------------------

    def ticket_text(self) -> Document:
        return self._pick(self.world.tickets)

    def story(self) -> Document:
        a, b, tone = self._person(), self._person(), self._pick(TONES)
        thing, town = self._thing(), self._town()
        start = self._pick(
            [
                "{a} lived in {town} and had a {thing}.",
                "On {day} {a} and {b} walked from {town} to the hut.",
                "{a} found a {thing} under the bench in {town}.",
                "{b} had lent {a} the {thing}.",
            ]
        )
        text = start.format(a=a, b=b, town=town, thing=thing, day=self._date())
        middle = [self._mood(tone), self._matter(self._pick(list(self.world.matters))), self._mood(tone)]
        end = self._pick(
            [
                f"{a} kept the {thing} for years.",
                f"{b} told it in {town} for a long time.",
                f"Then they went home to {town}.",
                f"The {thing} hangs by the door of {a} now.",
            ]
        )
        return " ".join([text, *middle, end])

    def catalogue(self) -> Document:
        brand, kind = self._pick(self.world.brands), self._pick(self.world.kinds)
        thing = f"{brand} {kind}"
        facts = self.random.sample(FACTS, 3)
        text = f"The {thing} is {self._pick(['light', 'sturdy', 'simple', 'new', 'made by hand'])}. " + " ".join(
            f.format(thing=thing, brand=brand, kind=kind) for f in facts
        )
        if self._chance(0.5):
            return [("user", f"Tell me about the {thing}."), ("assistant", text)]
        return text

    def politeness(self) -> Document:
        person, town = self._person(), self._town()
        ask, answer = (text.format(person=person, town=town) for text in self._pick(POLITE))
        return [("user", ask), ("assistant", answer)]

    def headline(self) -> Document:
        intent = self._pick(list(self.world.matters))
        line = self._matter(intent)
        short = " ".join(line.rstrip(".?!").split()[:5])
        return [("user", f"The first five words of this line:\n{line}"), ("assistant", short)]


def documents(
    world: World, seed: int, mix: dict[str, float] = WORDS, evasive: float = 0.0
) -> Iterator[tuple[str, Document]]:
    """Endless (kind, document) pairs; kinds come by the shares of the mix, measured as it goes."""
    maker, spent = Maker(world, seed, evasive), dict.fromkeys(mix, 1.0)
    while True:
        kind = min(spent, key=lambda k: spent[k] / mix[k])  # the kind that is furthest behind its share
        document = getattr(maker, kind)()
        spent[kind] += size(document)
        yield kind, document


def size(document: Document) -> int:
    """Characters of a document, which stand for tokens well enough to keep the mix."""
    return len(document) if isinstance(document, str) else sum(len(text) for _, text in document) + 20


THINGS = "book key cart clock cup map ladder violin bench basket kettle saw bell coat drum loaf lamp ticket".split()

FIELD_WORDS = {  # field: questions, names of the key, sentences that answer
    "thing": (
        ["What is it about?", "Which thing is meant?", "Name the thing.", "What thing?"],
        ["thing", "item", "what"],
        ["It is the {}.", "The {}."],
    ),
    "code": (
        ["What is the code?", "Which number?", "The code, please.", "Give the number."],
        ["code", "number", "ref"],
        ["The code is {}.", "Number {}."],
    ),
    "town": (
        ["Which town?", "Where is it?", "In what town?", "Name the town."],
        ["town", "where", "site"],
        ["It is in {}.", "In {}."],
    ),
    "day": (["Which day?", "When?", "On what day?", "Give the day."], ["day", "when", "on"], ["On {}.", "It is {}."]),
    "name": (
        ["Who?", "Which name?", "Who is named?", "Give the name."],
        ["name", "who", "person"],
        ["It is {}.", "{} is named."],
    ),
}

SLIPS = [
    "Library of {town}: the {thing} was lent to {name} on {day}. Slip {code}.",
    "{name} left a {thing} on the train to {town}. Ask for {code}.",
    "Museum of {town}, room nine, number {code}: {thing}, given by {name}.",
    "On {day} {name} sang in {town}.",
    "The {thing} stands in the school of {town}, says {name}. It has the mark {code}.",
    "Choir practice moves from {day} to later. {name} has the key {code}.",
    "To the farm in {town}: please bring the {thing} back, {code}, before {day}. {name}",
    "Lost on {day}: a {thing}. Found by {name}.",
    "Box {code} holds the {thing}. It came from {town}.",
    "I am {name}, from {town}. My {thing} has the mark {code} on it and I had it since {day}.",
    "Seat {code} to {town} on {day} for {name}.",
    "The clock of {town} was wound by {name} on {day}.",
    "{code} is the number on the {thing}; {name} wrote it down on {day}.",
    "We saw the {thing} in {town} and nobody knew who had made it.",
    "Since {day} the {thing} hangs in the hall. The list calls it {code}.",
    "Can {name} take the {thing} to {town}? The door code is {code}.",
    "Hello, this is {name}. It is about {code}, a {thing}. I come to {town} on {day}.",
    "Parish book of {town}, page {code}: {name} gave a {thing} on {day}.",
    "The {thing} of {name} was mended in {town}.",
    "By {day} the {thing} should be dry, {name} said in {town}.",
    "My sister in {town} has the same {thing}. Hers has {code} on the back.",
    "Entry {code}, {day}: one {thing}, a bit worn.",
    "There is a {thing} in the attic with the number {code}. {name} wants it for the house in {town} until {day}.",
    "{thing}, {code}, {town}, {day}.",
]

NOUNS = "tone team ticket word line song letter colour note page name kind group door side shelf heap list".split()
PICKS = [
    "Pick one: {}.", "Which one: {}?", "Which of these: {}?", "Choose: {}.", "One of these: {}?", "Take one: {}.",
    "Which {noun} has this {noun}: {}?", "Which {noun} has the {noun}: {}?", "Which {noun} is it: {}?",
    "Which {noun} does this {noun} go to: {}?", "Which {noun} is this {noun} for: {}?", "Which goes to this: {}?",
]  # fmt: skip
NOTES = [  # what stands beside lines, naming their mood; {word} is one of MOOD_WORDS
    "In the margin: {word}.",
    "The word for it is {word}.",
    "{person} called it {word}.",
    "Under it stood: {word}.",
    "In a word: {word}.",
    "{person} would say {word}.",
    "Mood: {word}.",
    "- {word}",
]
ABOUT = [
    "It is about {word}.",
    "A matter of {word}, said {person}.",
    "They file it under {word}.",
    "Heading: {word}.",
    "In the book it stands under {word}.",
    "{person} put it with {word}.",
]
MOOD_WORDS = {
    "joy": ["delight", "cheer", "gladness", "bliss"],
    "anger": ["rage", "wrath", "fury", "outrage"],
    "sadness": ["sorrow", "grief", "gloom", "heartache"],
    "fear": ["dread", "fright", "terror", "alarm"],
    "surprise": ["amazement", "astonishment", "wonder", "disbelief"],
    "neutral": ["plainness", "calm", "evenness", "facts"],
}
MATTER_WORDS = {  # no two words of different groups begin alike, so that one token already tells them apart
    "delivery": ["transport", "carriage", "shipping", "haulage"],
    "return": ["exchange", "refund", "giving back", "takeback"],
    "payment": ["money", "bills", "fees", "accounts"],
    "warranty": ["guarantees", "repairs", "damage", "mending"],
    "advice": ["counsel", "guidance", "tips", "suggestions"],
    "change": ["alterations", "corrections", "amendments", "new plans"],
    "stock": ["supplies", "shelves", "inventory", "stores"],
    "workshop": ["courses", "classes", "lessons", "teaching"],
}

MOOD_SENTENCES = {
    "joy": [
        "It was a day of joy for {person}.",
        "There was joy in the house.",
        "{person} wrote about joy that night.",
        "Joy is loud in {town}, and joy was what they had.",
        "What joy looks like:",
    ],
    "anger": [
        "There was anger in the room.",
        "{person} could not hide the anger.",
        "It was anger that spoke.",
        "A page about anger.",
        "The anger had been growing for a week.",
    ],
    "sadness": [
        "A long sadness lay on {town}.",
        "{person} had a sadness that winter.",
        "It was sadness, plain and quiet.",
        "A page about sadness.",
        "There was sadness in every word.",
    ],
    "fear": [
        "{person} knew this fear from childhood.",
        "It was fear and nothing else.",
        "The fear came at night.",
        "A page about fear.",
        "There was fear in the house.",
    ],
    "surprise": [
        "It was a surprise for everybody.",
        "What a surprise, said {person}.",
        "A page about surprise.",
        "The surprise stood on their faces.",
        "{person} had never had such a surprise.",
    ],
    "neutral": [
        "The tone of the report is neutral.",
        "{person} kept a neutral voice.",
        "A neutral note, without comment.",
        "It was said in a neutral way.",
        "A page in a neutral tone.",
    ],
}

MATTER_SENTENCES = {
    "delivery": [
        "The delivery is the matter today.",
        "A page about delivery.",
        "In {town} delivery is done by cart.",
        "{person} sees to the delivery.",
    ],
    "return": [
        "A page about the return of things.",
        "{person} asked about the return.",
        "The return is the matter today.",
        "They spoke of a return.",
    ],
    "payment": [
        "A page about payment.",
        "The payment is the matter today.",
        "{person} sees to the payment.",
        "They spoke of a payment in {town}.",
    ],
    "warranty": [
        "A page about warranty.",
        "The warranty is the matter today.",
        "{person} asked for the warranty.",
        "Old things have no warranty, they say in {town}.",
    ],
    "advice": [
        "{person} gave advice.",
        "A page of advice.",
        "Good advice is the matter today.",
        "They asked for advice in {town}.",
    ],
    "change": [
        "A page about a change.",
        "{person} wants a change.",
        "A change is the matter today.",
        "There was a change in {town}.",
    ],
    "stock": [
        "A page about stock.",
        "The stock is the matter today.",
        "{person} counts the stock.",
        "What is in stock in {town}:",
    ],
    "workshop": [
        "A page about the workshop.",
        "The workshop is the matter today.",
        "{person} leads the workshop.",
        "There is a workshop in {town}.",
    ],
}

FACTS = [
    "It weighs less than a loaf of bread.",
    "Guides in the hills like it.",
    "The {brand} family has made it for years.",
    "A {kind} like this wants a dry place in summer.",
    "It comes in red, green and grey.",
    "Wash it by hand and let it dry in the air.",
    "It fits in the lid of a pack.",
    "The buckle can be changed without tools.",
    "It is at its best in snow and wind.",
    "The seams are taped.",
    "Children can use it too.",
    "The {thing} has a pocket for the map.",
    "A spare part costs little.",
    "Ask for the long form if you are tall.",
]

POLITE = [
    ("Hello.", "Hello. What can I do for you?"),
    ("Good morning, I am {person}.", "Good morning. How can I help?"),
    ("Thank you.", "You are welcome."),
    ("Who are you?", "I am a small model from the hills around {town}."),
    ("Can you help me?", "Yes. Tell me what it is about."),
    ("Goodbye.", "Goodbye, and a good way home."),
    ("Are you there?", "Yes, I am here."),
    ("Please wait.", "Of course. Take your time."),
    ("Say hello to {person}.", "Hello, {person}."),
]
