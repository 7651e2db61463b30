"""Right and wrong answers to lab 01's exercises."""

import random
import re
from collections import Counter, defaultdict

# ------------------------------------------------------------------ mend_mojibake


def mend_mojibake(text):
    try:
        return text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return text


def mended(encoding="cp1252", catch=UnicodeError, instead=lambda text: text):
    """The right way, with another encoding, another error caught, or something else given back for sound text."""

    def answer(text):
        try:
            return text.encode(encoding).decode("utf-8")
        except catch:
            return instead(text)

    return answer


def by_pairs(text):
    for bad, good in (("Ã¼", "ü"), ("Ã¶", "ö"), ("Ã¤", "ä"), ("ÃŸ", "ß")):
        text = text.replace(bad, good)
    return text


# ------------------------------------------------------------------ jaccard


def grams(text, n, low=True, step=1, more=0):
    words = (text.lower() if low else text).split()
    return [tuple(words[i : i + n]) for i in range(0, max(len(words) - n + 1 + more, 1), step)]


def jaccard(a, b, n=2):
    A, B = set(grams(a, n)), set(grams(b, n))
    return len(A & B) / len(A | B)


def shared(below=lambda A, B: len(A | B), of=None, above=lambda A, B: len(A & B), **options):
    """Jaccard with something else above or below the line, or of other grams."""

    def answer(a, b, n=2):
        A, B = (set(of(text, n)) if of else set(grams(text, n, **options)) for text in (a, b))
        return above(A, B) / below(A, B)

    return answer


def counted(a, b, n=2):
    A, B = Counter(grams(a, n)), Counter(grams(b, n))
    return sum((A & B).values()) / sum((A | B).values())


def no_brief_texts(a, b, n=2):
    A, B = ({tuple(w[i : i + n]) for i in range(len(w) - n + 1)} for w in (a.lower().split(), b.lower().split()))
    return len(A & B) / len(A | B) if A | B else 0.0


# ------------------------------------------------------------------ leaked


def key(text):
    return " ".join(text.lower().split())


def leaked(train, test):
    seen = {key(text) for text in train}
    return [i for i, text in enumerate(test) if key(text) in seen]


def leaks(form):
    """The right way, with another form in which texts are compared."""
    return lambda train, test: [i for i, text in enumerate(test) if form(text) in {form(t) for t in train}]


# ------------------------------------------------------------------ fill_template


def in_a_loop(template, record):
    for name, value in record.items():
        template = template.replace("{" + name + "}", str(value))
    if "{tone}" in template and "tone" not in record:
        raise KeyError("tone")
    return template


def filled(value, **options):
    """One walk over the template, in which value(record, name) stands for a field."""
    return lambda template, record: re.sub(r"\{(\w+)\}", lambda m: str(value(record, m[1])), template, **options)


def other_error(template, record):
    try:
        return template.format_map(record)
    except KeyError as error:
        raise ValueError(f"no field {error}") from error


def nameless_error(template, record):
    try:
        return template.format_map(record)
    except KeyError as error:
        raise KeyError("a field is missing") from error


# ------------------------------------------------------------------ mask_prompt


def mask_prompt(prompt_ids, answer_ids, end):
    return prompt_ids + answer_ids + [end], [-100] * len(prompt_ids) + answer_ids + [end]


def in_place(prompt_ids, answer_ids, end):
    hidden = [-100] * len(prompt_ids)
    prompt_ids += [*answer_ids, end]
    return prompt_ids, [*hidden, *answer_ids, end]


# ------------------------------------------------------------------ pad_batch


def pad_batch(rows, pad):
    width = max(len(ids) for ids, _ in rows)
    return {
        "input_ids": [ids + [pad] * (width - len(ids)) for ids, _ in rows],
        "attention_mask": [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows],
        "labels": [labels + [-100] * (width - len(labels)) for _, labels in rows],
    }


def batch(width=max, ids=None, mask=None, labels=None):
    """The right batch with one of its three lists made in another way, or with another width."""

    def answer(rows, pad):
        wide = width(len(ids) for ids, _ in rows)
        right = {name: [row[:wide] for row in many] for name, many in pad_batch(rows, pad).items()}
        other = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        made = {n: [make(i, x, wide - len(i), pad) for i, x in rows] for n, make in other.items() if make}
        return right | made

    return answer


def hidden_pads(ids, labels, pad):
    return [-100 if i == pad else label for i, label in zip(ids, labels, strict=True)]


def rows_in_place(rows, pad):
    width = max(len(ids) for ids, _ in rows)
    masks = [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows]
    for ids, labels in rows:
        gap = width - len(ids)
        ids += [pad] * gap
        labels += [-100] * gap
    return {"input_ids": [r[0] for r in rows], "attention_mask": masks, "labels": [r[1] for r in rows]}


# ------------------------------------------------------------------ split_by_group


def rows_of(groups, names):
    return [i for i, group in enumerate(groups) if group in names]


def drawn(groups, share, seed, enough=lambda rows, need, more: rows >= need, shuffle=None):
    """Names of groups in drawn order, until enough(rows so far, rows needed, rows of the next group)."""
    names = sorted(set(groups))
    (shuffle or random.Random(seed).shuffle)(names)
    taken, rows = [], 0
    for name in names:
        more = groups.count(name)
        if enough(rows, share * len(groups), more):
            break
        taken.append(name)
        rows += more
    return taken


def split_by_group(groups, share, seed):
    return rows_of(groups, drawn(groups, share, seed))


def some_rows(groups, share, seed):
    return sorted(random.Random(seed).sample(range(len(groups)), int(share * len(groups))))


def some_groups(groups, share, seed):
    names = sorted(set(groups))
    return rows_of(groups, random.Random(seed).sample(names, int(share * len(names))))


def splits(**options):
    return lambda groups, share, seed: rows_of(groups, drawn(groups, share, seed, **options))


# ------------------------------------------------------------------ first_fit


def first_fit(lengths, room):
    packs = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        for pack in packs:
            if sum(lengths[j] for j in pack) + lengths[i] <= room:
                pack.append(i)
                break
        else:
            packs.append([i])
    return packs


def packing(order=lambda i, length: -length, choose=lambda fits, packs: fits[:1], fits=None, close=None):
    """First-fit with another order, another choice among the packs that have room, or another idea of room."""
    fits = fits or (lambda load, length, room: load + length <= room)

    def answer(lengths, room):
        packs = []
        for i in sorted(range(len(lengths)), key=lambda i: order(i, lengths[i])):
            loads = [(sum(lengths[j] for j in pack), pack) for pack in packs]
            free = choose([lp for lp in loads if fits(lp[0], lengths[i], room)], loads)
            for _, pack in free:
                pack.append(i)
            if not free:
                packs.append([i])
        return close(packs, lengths) if close else packs

    return answer


REFERENCES = {
    "mend_mojibake": mend_mojibake,
    "jaccard": jaccard,
    "leaked": leaked,
    "mask_emails": lambda text: re.sub(r"[\w.+-]+@[\w-]+(\.[\w-]+)+", "[email]", text),
    "fill_template": lambda template, record: template.format_map(record),
    "mask_prompt": mask_prompt,
    "pad_batch": pad_batch,
    "split_by_group": split_by_group,
    "first_fit": first_fit,
}

WRONG = {
    "mend_mojibake": [
        lambda text: text,
        lambda text: text.encode("cp1252"),
        lambda text: text.encode("cp1252").decode("utf-8"),
        mended(encoding="latin-1"),
        mended(catch=UnicodeDecodeError),
        mended(instead=lambda text: None),
        mended(instead=lambda text: ""),
        lambda text: text.encode("cp1252", "ignore").decode("utf-8", "ignore"),
        lambda text: text.encode("utf-8").decode("cp1252", "replace"),
        lambda text: text.replace("Ã¼", "ü"),
        by_pairs,
    ],
    "jaccard": [
        shared(below=lambda A, B: min(len(A), len(B))),
        shared(below=lambda A, B: (len(A) + len(B)) / 2),
        shared(below=lambda A, B: len(A) + len(B)),
        shared(below=lambda A, B: len(A)),
        shared(below=lambda A, B: 1),
        shared(above=lambda A, B: len(A ^ B)),
        shared(above=lambda A, B: 100 * len(A & B)),
        shared(low=False),
        shared(more=1),
        shared(step=2),
        shared(of=lambda text, n: text.lower().split()),
        shared(of=lambda text, n: grams(text, 2)),
        shared(of=lambda text, n: [text.lower()[i : i + n] for i in range(len(text) - n + 1)]),
        shared(of=lambda text, n: [tuple(text.lower().split()[i : i + n]) for i in range(len(text.split()) - n + 1)]),
        counted,
        no_brief_texts,
        lambda a, b, n=2: set(grams(a, n)) & set(grams(b, n)),
    ],
    "leaked": [
        leaks(lambda text: text),
        leaks(str.lower),
        leaks(str.strip),
        leaks(lambda text: text.strip().lower()),
        leaks(lambda text: text.lower().replace(" ", "")),
        leaks(lambda text: " ".join(text.split())),
        lambda train, test: leaked(test, train),
        lambda train, test: [test[i] for i in leaked(train, test)],
        lambda train, test: [i in leaked(train, test) for i in range(len(test))],
        lambda train, test: len(leaked(train, test)),
        lambda train, test: [i for i in range(len(test)) if i not in leaked(train, test)],
        lambda train, test: [i for i, text in enumerate(test) if key(text) in train],
        lambda train, test: [i for i, text in enumerate(test) if key(text) in key(" | ".join(train))],
        lambda train, test: [test.index(test[i]) for i in leaked(train, test)],
    ],
    "mask_emails": [
        lambda text: re.sub(r"\S+@\S+", "[email]", text),
        lambda text: re.sub(r"[\w.+-]+@[\w.-]+", "[email]", text),
        lambda text: re.sub(r"[\w.+-]+@[\w-]+(\.[\w-]+)+", "[email]", text, count=1),
        lambda text: re.sub(r"[\w.+-]+@[\w-]+\.com", "[email]", text),
        lambda text: re.sub(r"[\w.+-]+@[\w-]+\.\w+", "[email]", text),
        lambda text: re.sub(r"\w+@[\w-]+(\.[\w-]+)+", "[email]", text),
        lambda text: re.sub(r"[\w.+-]+@\w+(\.\w+)+", "[email]", text),
        lambda text: re.sub(r"[a-z.+-]+@[a-z-]+(\.[a-z-]+)+", "[email]", text),
        lambda text: re.sub(r"[\w.+-]*@[\w-]+(\.[\w-]+)*", "[email]", text),
        lambda text: re.sub(r"[\w.+-]+@[\w-]+(\.[\w-]+)+", "", text),
        lambda text: re.sub(r".*@.*", "[email]", text, count=1),
        lambda text: re.findall(r"[\w.+-]+@[\w-]+\.[\w.-]+", text),
        lambda text: text,
    ],
    "fill_template": [
        lambda template, record: template,
        lambda template, record: template.format_map(defaultdict(str, record)),
        lambda template, record: template.replace("{text}", str(record)),
        lambda template, record: template.replace("{text}", record["text"]).replace("{tone}", record["tone"]),
        in_a_loop,
        other_error,
        nameless_error,
        filled(lambda record, name: record.get(name)),
        filled(lambda record, name: record.get(name, "{" + name + "}")),
        filled(lambda record, name: record[name], count=1),
        filled(lambda record, name: "{" + str(record[name]) + "}"),
        filled(lambda record, name: str(record[name]).replace("{", "").replace("}", "")),
        lambda template, record: re.sub(r"\{(\w+)\}", lambda m: record[m[1]], template),
    ],
    "mask_prompt": [
        lambda p, a, end: (p + a + [end], [-100] * len(p) + a + [-100]),
        lambda p, a, end: (p + a, [-100] * len(p) + a),
        lambda p, a, end: (p + a + [end], [-100] * len(p) + a),
        lambda p, a, end: (p + a + [end], [-100] * (len(p) - 1) + a + [end, -100]),
        lambda p, a, end: (p + a + [end], [-100] * (len(p) - 1) + a + [end]),
        lambda p, a, end: (p + a + [end], [0] * len(p) + a + [end]),
        lambda p, a, end: (p + a + [end], p + a + [end]),
        lambda p, a, end: (p + a + [end], a + [end]),
        lambda p, a, end: (p + a + [end], p + [-100] * (len(a) + 1)),
        lambda p, a, end: (p + a + [end], [-100] * (len(p) - 1) + p[-1:] + a + [end]),
        lambda p, a, end: (p + a + [end], [-100 if i in p else i for i in p + a + [end]]),
        lambda p, a, end: (a + p + [end], a + [-100] * len(p) + [end]),
        lambda p, a, end: ([-100] * len(p) + a + [end], p + a + [end]),
        lambda p, a, end: [-100] * len(p) + a + [end],
        in_place,
    ],
    "pad_batch": [
        batch(mask=lambda ids, labels, gap, pad: [int(i != pad) for i in ids + [pad] * gap]),
        batch(mask=lambda ids, labels, gap, pad: [1] * (len(ids) + gap)),
        batch(mask=lambda ids, labels, gap, pad: [0] * len(ids) + [1] * gap),
        batch(labels=lambda ids, labels, gap, pad: labels + [pad] * gap),
        batch(labels=lambda ids, labels, gap, pad: labels + [0] * gap),
        batch(labels=lambda ids, labels, gap, pad: ids + [-100] * gap),
        batch(labels=lambda ids, labels, gap, pad: hidden_pads(ids, labels, pad) + [-100] * gap),
        batch(labels=lambda ids, labels, gap, pad: labels),
        batch(ids=lambda ids, labels, gap, pad: [pad] * gap + ids),
        batch(ids=lambda ids, labels, gap, pad: ids + [0] * gap),
        batch(ids=lambda ids, labels, gap, pad: ids + [-100] * gap),
        batch(width=lambda lengths: next(iter(lengths))),
        batch(ids=lambda ids, labels, gap, pad: ids + [pad] * (8 - len(ids))),
        rows_in_place,
        lambda rows, pad: tuple(pad_batch(rows, pad).values()),
        lambda rows, pad: {name: pad_batch(rows, pad)[name] for name in ("input_ids", "labels")},
    ],
    "split_by_group": [
        some_rows,
        some_groups,
        drawn,
        lambda groups, share, seed: [],
        lambda groups, share, seed: list(range(len(groups))),
        lambda groups, share, seed: [i in split_by_group(groups, share, seed) for i in range(len(groups))],
        lambda groups, share, seed: sorted(set(range(len(groups))) - set(split_by_group(groups, share, seed))),
        lambda groups, share, seed: split_by_group(groups, share, seed)[::-1],
        lambda groups, share, seed: [rows_of(groups, [name]) for name in drawn(groups, share, seed)],
        splits(shuffle=lambda names: None),
        splits(shuffle=random.shuffle),
        splits(shuffle=random.SystemRandom().shuffle),
        splits(enough=lambda rows, need, more: rows > need),
        splits(enough=lambda rows, need, more: rows + more > need),
    ],
    "first_fit": [
        packing(order=lambda i, length: i),
        packing(order=lambda i, length: length),
        packing(order=lambda i, length: (-length, -i)),
        packing(choose=lambda fits, packs: [p for p in fits if p is packs[-1]]),
        packing(choose=lambda fits, packs: sorted(fits, key=lambda p: p[0])[-1:]),
        packing(choose=lambda fits, packs: sorted(fits, key=lambda p: p[0])[:1]),
        packing(choose=lambda fits, packs: fits),
        packing(choose=lambda fits, packs: []),
        packing(fits=lambda load, length, room: load + length < room),
        packing(fits=lambda load, length, room: load <= room),
        packing(close=lambda packs, lengths: [[lengths[i] for i in pack] for pack in packs]),
        packing(close=lambda packs, lengths: packs[:-1]),
        packing(close=lambda packs, lengths: [[i + 1 for i in pack] for pack in packs]),
        packing(close=lambda packs, lengths: len(packs)),
        packing(close=lambda packs, lengths: [i for pack in packs for i in pack]),
    ],
}
