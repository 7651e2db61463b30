"""The exercises of lab 01, data preparation: what each answer is tried on, and what is said of the usual wrong ones."""

from __future__ import annotations

from labkit.exercises import Wrong, call, describe, exercise, expect_type

LAB = "01"


def _show(x) -> str:
    """A plain value as Python writes it, with all its blanks; of anything else a description."""
    plain = bool | str | bytes | int | float | list | tuple | dict | set | BaseException
    text = repr(x) if isinstance(x, plain) else describe(x)
    return text if len(text) <= 120 else text[:117] + "..."


def _said(got, usual) -> str:
    """The first sentence of `usual` that fits: its pairs begin with what an answer gives, or with a condition."""
    return next((s for x, s in usual if x is True or (type(x) is type(got) is not bool and x == got)), "")


def _judge(got, right, where: str, usual=()) -> None:
    """Raise `Wrong`, with what `usual` has to say of it, unless got is right."""
    if type(got) is not type(right) or got != right:
        said = _said(got, usual)
        raise Wrong(f"{where}: expected {_show(right)}, and got {_show(got)}" + (f": {said}" if said else "."))


@exercise(
    "mend_mojibake",
    lab=LAB, title="undo a wrong encoding", difficulty=2, minutes=6,
    hints=(
        "The bytes were written as UTF-8 and read as cp1252. Walk the same way back.",
        'text.encode("cp1252") gives the bytes again, .decode("utf-8") reads them. Sound text fails at one of the two, '
        "or comes through as it is.",
        'try:\n    return text.encode("cp1252").decode("utf-8")\nexcept UnicodeError:\n    return text',
    ),
    after="A sound letter beyond ASCII is hardly ever valid UTF-8 by chance: that is what makes the mend safe.",
)  # fmt: skip
def mend_mojibake(answer):
    damaged = {
        "Würden Sie es löschen?": "some letters are still broken. Mend the bytes, not one pair of signs.",
        "crème, señor, 5 °C": "a list of pairs always lacks some. Mend the bytes: encode, then decode.",
        "12 € für „Grüße“": "latin-1 is not cp1252: it has no €, no „ and no Ÿ. Which encoding was the wrong one?",
    }
    for right in (*damaged, "A plain line", "Würden", "Straße, 5 €", "Łódź and 東京"):
        text = right.encode().decode("cp1252") if right in damaged else right
        try:
            got, letters = call(answer, text), iter(right)
        except Wrong as wrong:
            if isinstance(wrong.__cause__, UnicodeError):
                raise Wrong(f"{wrong} This text is sound: catch UnicodeError, and give the text back.") from None
            raise
        said = str(got)
        lost = 0 < len(said) < len(right) and all(letter in letters for letter in said)
        usual = (
            (isinstance(got, bytes), "those are bytes, and so half of the way back. Decode them as UTF-8."),
            ("\ufffd" in said, "a mark stands where a letter was. errors='replace' hides the error: catch it instead."),
            (lost, "letters are lost. errors='ignore' drops what it cannot read: catch the error instead."),
            (text.encode().decode("cp1252", "replace"), "turned round. Encode as cp1252, then decode as UTF-8."),
            ("löschen" in right and got == text, "it comes back as it went in."),
            (True, damaged.get(right, "this text is sound. Leave it alone.")),
        )
        _judge(got, right, f"for text = {text!r}", usual)


@exercise(
    "jaccard",
    lab=LAB, title="how much two texts share", difficulty=1, minutes=5,
    hints=(
        "Cut each text into words, put every n that follow each other into a set, and take A & B and A | B.",
        "A gram is tuple(words[i : i + n]), for i up to len(words) - n. Of too few words make one gram.",
        "words = text.lower().split()\ngrams = {tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, 1))}",
    ),
    after="MinHash, which labkit.data.inspect uses, estimates this without comparing every text with every other.",
)  # fmt: skip
def jaccard(answer):
    long, short = "the train was late again today after noon", "so the train was late"
    a, b = (set(zip(text, text[1:], strict=False)) for text in (long, short))
    first = (
        (3 / 4, "divided by the smaller set. Divide by all the grams of both: len(A | B)."),
        (3 / 7, "divided by the grams of a alone. Divide by all the grams of both: len(A | B)."),
        (6 / 11, "that is Dice, 2 × shared / (a + b). Jaccard divides what is shared by what is in either."),
        (3 / 11, "both lengths are added, so what is shared counts twice below the line: take len(A | B)."),
        (5 / 8, "that is the distance, 1 minus the share."), (300 / 8, "per cent. Give a share from 0 to 1."),
        (3, "that is how many they share. Divide by how many there are in all."),
        (4 / 9, "that is for single words. n = 2 asks for two words that follow each other."),
        (3 / 10, "the last gram of each text has one word only. Stop at range(len(words) - n + 1)."),
        (0, "none shared? Grams overlap: a new one begins at every word, not at every n-th."),
        (len(a & b) / len(a | b), "that is for letters. Split the text into words."),
    )  # fmt: skip
    brief = "a text of fewer than n words is one gram, all that it has; equal texts share all."
    for a, b, n, right, said in (
        (long, short, 2, 3 / 8, ""),
        ("The Train was late again", "the train was late", 2, 3 / 4, "'The' and 'the' are one word here."),
        ("no no no no refund", "no no no thanks", 2, 1 / 3, "a gram that is there twice counts once: take sets."),
        ("we want the money back", "we want the money now", 3, 1 / 2, "are your grams of two words? Use the n given."),
        ("Thanks", "thanks", 2, 1.0, brief),
        ("hello", "thanks", 2, 0.0, "two short texts that differ share nothing."),
    ):
        got, where = call(answer, a, b, n), f"for a = {a!r}, b = {b!r}, n = {n}"
        expect_type(got, (int, float), where)
        usual = [(abs(got - value) < 1e-9, sentence) for value, sentence in first if a == long]
        if abs(got - right) > 1e-9:
            _judge(round(float(got), 4), round(right, 6), where, [*usual, (True, said)])


@exercise(
    "leaked",
    lab=LAB, title="test texts that stand in train", difficulty=1, minutes=4,
    hints=(
        "Bring every text into one form first, in which case and spacing are gone. Then compare.",
        'key = " ".join(text.lower().split()) is such a form. Put those of train into a set; enumerate numbers test.',
        "seen = {key(text) for text in train}\nreturn [i for i, text in enumerate(test) if key(text) in seen]",
    ),
    after="Equal but for case and spaces is the easy kind of leak; near duplicates are harder to find.",
)  # fmt: skip
def leaked(answer):
    train = ["Too late again.", "Where is it?", "Money back.", "Thank you!", "Where is it?"]
    test = ["Too late", "Where is it?", "THANK you!", " Thank you!  ", "Money  back.", " where is IT? ", "Money\nback."]
    test += ["Cancel it.", "Where is it?"]
    got = call(answer, list(train), list(test))
    got = list(got) if isinstance(got, tuple) else got
    kinds = {type(x) for x in got} if isinstance(got, list) else {type(got), None}
    usual = (
        ([1, 8], f"only equal spelling is found. {test[2]!r} stands in train too, when case does not count."),
        ([1, 2, 8], f"case is dealt with, spacing not: {test[3]!r} and {test[4]!r} stand in train too."),
        ([1, 3, 8], f"strip is not all: {test[2]!r} (case) and {test[4]!r} (blanks within) stand in train too."),
        ([1, 3, 4, 6, 8], f"spacing is dealt with, case not: {test[2]!r} stands in train too."),
        ([1, 2, 3, 5, 8], f"strip mends the ends only: {test[4]!r} has two blanks within, and stands in train too."),
        ([1, 2, 3, 4, 5, 8], f"{test[6]!r} is missing: a line break is spacing too. split() takes every kind."),
        ([0, 1, 2, 3, 4, 5, 6, 8], f"{test[0]!r} is only a part of a text in train. Compare whole texts."),
        ([1, 2, 3, 4], "those are positions in train. Number the texts of test."),
        ([], "nothing found. Is one side brought into the common form, and the other not?"),
        ([0, 7], "those are the texts that do not stand in train: turned round."),
        (kinds == {bool}, "that is a True or False for every text. Give the positions of the True ones."),
        (kinds == {str}, "those are the texts. Give their positions in test: enumerate counts them."),
        (type(got) is int, "that is how many. Say which: a list of positions in test."),
        (kinds == {int} and len(set(got)) < len(got), "a position stands there twice: index finds only the first."),
    )
    _judge(got, [1, 2, 3, 4, 5, 6, 8], f"for train = {train} and test = {test}", usual)


@exercise(
    "mask_emails",
    lab=LAB, title="mask e-mail addresses", difficulty=2, minutes=7,
    hints=(
        "An address is: signs of a name, one @, and at least two words with a full stop between them.",
        r"Before the @: [\w.+-]+. Behind it [\w-]+, then (\.[\w-]+)+, where a full stop counts only before a word.",
        'return re.sub(r"[\\w.+-]+@[\\w-]+(\\.[\\w-]+)+", "[email]", text)',
    ),
    after="What a model has never seen it cannot repeat. Masking comes before training, not after.",
)  # fmt: skip
def mask_emails(answer):
    two, done = "Ask lea@post.com or tom@post.com again.", "Ask [email] or [email] again."
    none = "Call me @ noon, or ask @lea or @lea.shop."
    for text, right, usual in (
        (two, done, (("Ask [email] or tom@post.com again.", "only the first is masked: leave count out."),
                     (two, "it comes back as it went in. re.sub makes a new text: return that."),
                     ("[email]", "the whole line is gone. A . stands for a blank too: let the pattern take none."))),
        ("Ask lea@post.de or tom@mail.example.org again.", done,
         (("Ask [email] or [email].org again.", r"behind the @ there may be more than one full stop: (\.[\w-]+)+."),
          (True, "not every address ends in .com."))),
        ("From lea.berg@post.com and tom-lee+shop@post.com to us.", "From [email] and [email] to us.",
         ((True, r"full stops, hyphens and a plus may stand in the name before the @: [\w.+-]+."),)),
        ("From LEA_99@post24.com to us.", "From [email] to us.", ((True, r"capitals, digits and _ count too: \w."),)),
        ("Lea (lea@my-post.com), hello.", "Lea ([email]), hello.",
         (("Lea (lea@my-post.com), hello.", r"a hyphen may stand behind the @ too: [\w-]+."),
          (True, r"eaten too much or too little. \S takes all but blanks: name the signs that may stand."))),
        ("Ask lea@post.com.", "Ask [email].", ((True, r"that full stop ends a sentence: \. before \w only."),)),
        (none, none, ((True, "with nothing before the @ or behind it, it is no address. Take +, not *."),)),
    ):  # fmt: skip
        got = call(answer, text)
        gone = isinstance(got, str) and text != right and "@" not in got and "[email]" not in got
        usual = ((isinstance(got, list | tuple), "give the whole text. re.sub masks in it, findall takes out of it."),
                 (gone, "the address is gone, but [email] doesn't stand in its place."), *usual)  # fmt: skip
        _judge(got, right, f"for text = {text!r}", usual)


@exercise(
    "fill_template",
    lab=LAB, title="fill a template", difficulty=1, minutes=6,
    hints=(
        "Walk over the template once. What has been put in must not be looked at again.",
        "str.format_map walks once, leaves braces in values alone, and raises a KeyError with the field's name.",
        "return template.format_map(record)",
    ),
    after="A field that is left out silently is a prompt with a hole, a thousand times over. Better one KeyError.",
)  # fmt: skip
def fill_template(answer):
    shown = "{text} -> {tone}"
    for template, record, right, usual in (
        (shown, {"text": "Where is it?", "tone": "calm", "row": 7}, "Where is it? -> calm",
         ((shown, "it comes back as it went in. A text is never changed in place: return the new one."),
          ("Where is it? -> {tone}", "only the first field is filled."),
          ("{Where is it?} -> {calm}", "the braces around the fields are still there."))),
        ("{name}, {n} of {name}", {"name": "lamp", "n": 3}, "lamp, 3 of lamp",
         (("lamp, 3 of {name}", "a field may stand there twice."), (True, "fields may have any name."))),
        ("{a} and {b}", {"a": "use {b}", "b": "{x} or {a}"}, "use {b} and {x} or {a}",
         (("use b and x or a", "braces in a value stay as they are."),
          (True, "a value that holds braces was looked at again. Walk over the template once."))),
    ):  # fmt: skip
        got = call(answer, template, record)
        whole = (str(record) in str(got), "the whole record stands in it. A field takes its own value: record[field].")
        _judge(got, right, f"for template = {template!r}, record = {record}", (whole, *usual))
    try:
        got = str(call(answer, shown, {"text": "Hi"}, copies=False))
    except Wrong as wrong:
        got = wrong.__cause__
    usual = (
        ("Hi -> ", "the hole is silent, and so is every prompt after it. A missing field has no default."),
        ("Hi -> {tone}", "the model would be trained on the name of the field. Don't leave it standing."),
        ("Hi -> None", "the model would be trained on the word None. record[field] raises, record.get(field) doesn't."),
        (isinstance(got, KeyError), "the error has to name the field that is missing."),
        (isinstance(got, Exception), "that is another kind of error. record[field] raises the right one by itself."),
    )
    if not isinstance(got, KeyError) or "tone" not in str(got):
        _judge(got, KeyError("tone"), f"for template = {shown!r}, record = {{'text': 'Hi'}}", usual)


@exercise(
    "mask_prompt",
    lab=LAB, title="which tokens count", difficulty=1, minutes=5,
    hints=(
        "Both lists have one entry for every token of prompt + answer + end.",
        "The loss skips the label -100. So there is one -100 for every token of the prompt, then the ids themselves.",
        "return prompt_ids + answer_ids + [end], [-100] * len(prompt_ids) + answer_ids + [end]",
    ),
    after="Not shifted: the model does that itself. And the end counts, or it would never learn to stop.",
)  # fmt: skip
def mask_prompt(answer):
    for prompt, reply, end in (([5, 6, 7], [8, 9], 2), ([4, 7], [7, 2, 4, 3], 2)):
        where = f"for prompt_ids = {prompt}, answer_ids = {reply}, end = {end}"
        got = call(answer, list(prompt), list(reply), end)
        if not isinstance(got, list | tuple) or [type(x) for x in got] != [list, list]:
            raise Wrong(f"{where}: expected two lists, (input_ids, labels), and got {_show(got)}.")
        hidden, ids = [-100] * len(prompt), [*prompt, *reply, end]
        usual = (
            (got[1] == ids and got[0] == [*hidden, *reply, end], "the two are swapped. input_ids come first."),
            ([*prompt, *reply], "the end is missing. It follows the answer."),
            ([*reply, *prompt, end], "the answer stands before the prompt."),
            ([*hidden, *reply, end], "-100 is for labels. The model has to read the prompt."),
            ([*hidden, *reply, -100], "the end is masked, so the model never learns to stop."),
            ([*hidden, *reply], "the end is missing: one label for every id."),
            ([*hidden[1:], *reply, end, -100], "shifted by one. The model shifts by itself."),
            ([*hidden[1:], *reply, end], "the first label is missing. One for every id: the model shifts by itself."),
            ([0] * len(prompt) + [*reply, end], "0 is a token like any other. The loss skips -100 only."),
            (ids, "the prompt counts too. Put -100 in its place."),
            ([*reply, end], "labels are shorter than input_ids. Put one -100 for every id of the prompt."),
            (prompt + [-100] * (len(reply) + 1), "turned round: the prompt counts, and the answer doesn't."),
            ([*hidden[1:], prompt[-1], *reply, end], "the prompt's last token counts. Mask it too."),
            (7 in reply, "an id of the answer counts, even one that the prompt has too: mask by place, not by id."),
        )
        _judge(got[0], ids, f"{where}, in input_ids", usual)
        _judge(got[1], [*hidden, *reply, end], f"{where}, in labels", usual)


@exercise(
    "pad_batch",
    lab=LAB, title="rows of one length", difficulty=2, minutes=8,
    hints=(
        "How long is the longest row? Every row lacks so many places: gap = width - len(ids).",
        "The mask comes from lengths, [1] * len(ids) + [0] * gap. Ids can't tell: a real token may equal pad.",
        "ids + [pad] * gap, [1] * len(ids) + [0] * gap, labels + [-100] * gap  # one row of each of the three lists",
    ),
    after="Where pad is also the end-of-turn token, a mask made from ids hides the end, and nobody notices.",
)  # fmt: skip
def pad_batch(answer):
    several = [([5, 6, 7], [-100, 6, 7]), ([8, 9, 2], [-100, 9, 2]), ([4, 2, 2, 9, 1], [-100, -100, 2, 9, 1])]
    for rows, pad, width in ((several, 2, 5), (several[:1], 0, 3)):
        where, got = f"for rows = {rows}, pad = {pad}", call(answer, rows, pad)
        if not hasattr(got, "keys") or sorted(got.keys()) != ["attention_mask", "input_ids", "labels"]:
            raise Wrong(f"{where}: expected a dict with input_ids, attention_mask and labels, and got {_show(got)}.")
        for name in ("input_ids", "attention_mask", "labels"):
            many = got[name].tolist() if hasattr(got[name], "tolist") else got[name]
            if not isinstance(many, list | tuple) or [type(row) for row in many] != [list] * len(rows):
                raise Wrong(f"{where}, {name}: expected {len(rows)} lists in a list, and got {_show(many)}.")
            usual = (([3, 3, 3], "the first row is not the longest."), ([3, 3, 5], "they are not padded."),
                     (True, "make every row as long as the longest, and no longer."))  # fmt: skip
            _judge([len(row) for row in many], [width] * len(rows), f"{where}, lengths in {name}", usual)
            for number, (ids, labels) in enumerate(rows):
                gap, ones, row = width - len(ids), [1] * len(ids), [int(x) for x in many[number]]
                own, fill = {"input_ids": (ids, pad), "attention_mask": (ones, 0), "labels": (labels, -100)}[name]
                masked = [-100 if i == pad else x for i, x in zip(ids, labels, strict=True)]
                usual = (
                    ([fill] * gap + own, "padded on the left. Put it on the right."),
                    ([1] * width, "all ones. Padding has a 0."),
                    ([0] * len(ids) + [1] * gap, "turned round: 1 is for real tokens."),
                    ([int(i != pad) for i in ids] + [0] * gap, "a real token equals pad. Count places, not ids."),
                    (masked + [-100] * gap, "a real token equals pad, and its label counts. Count places, not ids."),
                    (ids + [-100] * gap if name == "labels" else None, "the prompt counts. Keep the labels that came."),
                    (own + [-100] * gap, "-100 is for labels only."),
                    (own + [pad] * gap, "padded with pad, and the model would learn to write it. The loss skips -100."),
                    (own + [0] * gap, "padded with 0, and 0 is a token like any other."),
                )
                _judge(row, own + [fill] * gap, f"{where}, {name}, row {number}", usual)


@exercise(
    "split_by_group",
    lab=LAB, title="a test part of whole groups", difficulty=2, minutes=8,
    hints=(
        "Draw groups, not rows; but count rows, since groups differ in size.",
        "Shuffle sorted(set(groups)) with random.Random(seed): a set alone has another order in every session.",
        "for name in names:\n    if len(test) < share * len(groups):\n        test += rows_of[name]\ntest.sort()",
    ),
    after="One family on both sides of the split is a leak that flatters. Whole groups are the cure.",
)  # fmt: skip
def split_by_group(answer):
    even, uneven = [f"g{i % 20:02}" for i in range(100)], ["big"] * 40 + [f"g{i % 20:02}" for i in range(60)]
    for groups, sizes, largest in ((even, "20 groups of 5 rows", 5), (uneven, "a group of 40 rows and 20 of 3", 40)):
        drawn = []
        for seed in (0, 1, 2, 3, 4, 5, 0):
            rows = call(answer, list(groups), 0.2, seed)
            rows = rows.tolist() if hasattr(rows, "tolist") else rows
            expect_type(rows, (list, tuple), f"for {sizes}, share = 0.2, seed = {seed}")
            drawn.append([x.item() if getattr(x, "shape", 0) == () else x for x in rows])
        for seed, rows in enumerate(drawn[:6]):
            if said := _split_fault(rows, groups, largest, {len(rows) for rows in drawn}):
                raise Wrong(f"for {sizes}, share = 0.2, seed = {seed}: got {len(rows)} entries, {_show(rows)}: {said}")
        if drawn[0] != drawn[6]:
            raise Wrong(f"for {sizes}: two calls with seed = 0 give different rows. Draw with random.Random(seed).")
        if all(rows == drawn[0] for rows in drawn):
            first = sorted({groups[i] for i in rows}) == sorted(set(groups))[: len({groups[i] for i in rows})]
            said = "always the first groups. Shuffle them" if first else "the seed is not used. Shuffle"
            raise Wrong(f"for {sizes}: the same rows for each of the seeds 0 to 5: {said} with random.Random(seed).")


def _split_fault(rows: list, groups: list, largest: int, many: set[int]) -> str:
    """What is wrong with rows as a fifth of 100, in whole groups; `many` has how many there are for other seeds."""
    kinds = {type(x) for x in rows}
    usual = (
        (str in kinds, "those are names of groups. Give the numbers of their rows."),
        (bool in kinds, "that is a True or False for every row. Give the numbers of the True ones."),
        (bool(kinds - {int}), "give one list of whole numbers, the rows of the test part."),
    )
    if kinds - {int} or not set(rows) <= set(range(100)) or len(set(rows)) < len(rows):
        return _said(rows, usual) or "row numbers go from 0 to 99, and each stands there once."
    for i, j in ((i, j) for i in rows for j in range(100) if groups[i] == groups[j] and j not in rows):
        return f"group {groups[i]!r} is torn: row {i} is in the test part, row {j} is not. Draw groups, not rows."
    few, count = len(rows) < 20, len({groups[i] for i in rows})
    usual = (
        (not rows, "no row at all."),
        (len(rows) == 100, "nothing is left for training. Stop once share is reached."),
        (rows != sorted(rows), "they are not sorted."),
        (len(rows) > max(50, 19 + largest), "that is the part for training. Give the other one."),
        (few and 18 not in many, f"too few. {count} groups are a share of the groups, not of the rows: count rows."),
        (few, "too few. The last group was left out because it goes over: take it, then stop."),
        (len(rows) >= 20 + largest, "one group more than needed. Stop at >= share, not later."),
    )
    return _said(rows, usual)


@exercise(
    "first_fit",
    lab=LAB, title="pack rows together", difficulty=3, minutes=10,
    hints=(
        "Sort the row numbers by length, longest first. sorted(..., reverse=True) keeps equals in their order.",
        "For each row look at the packs from the first on; put it where it fits, and stop. Else open a new one.",
        "for pack in packs:\n    if sum(lengths[j] for j in pack) + lengths[i] <= room:\n        pack.append(i)\n"
        "        break\nelse:\n    packs.append([i])",
    ),
    after="First-fit decreasing never needs more than 11/9 of the fewest packs possible, plus one.",
)  # fmt: skip
def first_fit(answer):
    lengths, room, rows = [25, 40, 75, 40, 20, 60, 35, 25, 70], 100, range(9)
    where = f"for lengths = {lengths}, room = {room}"

    def load(pack) -> int:
        return sum(lengths[i] for i in pack)

    def packed(order, choose=lambda fits, last: fits[:1], space=100) -> list:
        packs = []
        for i in order:
            taken = choose([pack for pack in packs if load(pack) + lengths[i] <= space], packs[-1:])
            packs = packs if taken else [*packs, []]
            (taken or packs[-1:])[0].append(i)
        return sorted(map(sorted, packs))

    got = call(answer, list(lengths), room)
    if not isinstance(got, list | tuple) or not all(isinstance(pack, list | tuple) for pack in got):
        raise Wrong(f"{where}: expected a list of packs, each a list of row numbers, and got {_show(got)}.")
    down, flat = sorted(rows, key=lambda i: -lengths[i]), [i for pack in got for i in pack]
    lost, double = [i for i in rows if i not in flat], [i for i in flat if flat.count(i) > 1]
    full = [pack for pack in got if set(pack) <= set(rows) and load(pack) > room]
    usual = (
        (sorted(flat) == sorted(lengths), "those are the lengths. Put the numbers of the rows into the packs, 0 to 8."),
        (not set(flat) <= set(rows), "rows are numbered from 0 to 8."),
        (bool(double), f"row {min(double, default='')} is in two places. Stop looking once a pack has taken it."),
        (bool(lost), f"row {min(lost, default='')} is in no pack."),
        (bool(full), f"{min(full, default='')} is over its room. Add the new row's length before you compare."),
        (packed(rows), "packed in the order of the rows. Take the longest first."),
        (packed(sorted(rows, key=lambda i: lengths[i])), "the shortest first. Turn the order round."),
        (packed(down, lambda fits, last: [p for p in fits if p is last[0]]), "only the last pack is looked at."),
        (packed(down, lambda fits, last: sorted(fits, key=load)[-1:]), "into the fullest (best-fit), not the first."),
        (packed(down, lambda fits, last: sorted(fits, key=load)[:1]), "into the emptiest. Take the first that fits."),
        (packed(down, space=99), "a pack may be full to the last place: <=, not <."),
        (packed(sorted(rows, key=lambda i: (-lengths[i], -i))), "of equal lengths the later row came first."),
        (packed(down, lambda fits, last: []), "a pack for every row. Look for room first."),
    )
    _judge(sorted(map(sorted, got)), packed(down), where, usual)
