"""What is wrong inside one text: broken encoding, left-over HTML, personal data, another language; and how to mend it.

`inspect` counts these, `clean` mends and masks them.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+(?:['’][^\W_]+)*")  # Chinese and Japanese have no spaces
CONFIDENT, LETTERS, LOOKED_AT = 0.9, 20, 400  # a language is named from this probability, this many letters on
ENOUGH = 20  # texts of one language that say what most are in; of fewer texts, half of them
SAMPLE = 2000  # texts whose language is told at once; of more, the rest are asked only where their words are unusual
USUAL, OFTEN = 0.35, 0.02  # a text is not asked about if so many of its words are in so many texts of the sample

_TAGS = (
    "a abbr b blockquote body br center code dd div dl dt em font form h1 h2 h3 h4 h5 h6 head hr html i img input li "
    "link meta ol p pre s script small span strong style sub sup table tbody td th thead title tr u ul"
)
_ATTRIBUTES = r"(?:\s+[\w:-]+\s*=[^<>]*|\s*/?)"  # "<b and c>" is a sum, <b class="x"> a tag
_TAG = re.compile(rf"</?(?P<name>{'|'.join(_TAGS.split())}){_ATTRIBUTES}>|<!--[^<>]*-->", re.IGNORECASE)
_INLINE = {"a", "abbr", "b", "code", "em", "font", "i", "s", "small", "span", "strong", "sub", "sup", "u"}
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,4}[^\W\d_]{2,24}(?![\w-])")
_IBAN = re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?(?!\w)")
_PHONE = re.compile(
    r"(?<![\w+.,/-])(?:\+\d{1,15}|0\d{1,11}|\(\+?\d{1,5}\)|[2-9]\d\d(?=[-.]\d{3}[-.]\d{4}(?!\w)))"
    r"(?:(?: ?\(0\) ?|[ .\-/]|(?<=\)))\(?\d{1,8}\)?){0,6}(?!\w)"
)
_DATE = re.compile(r"\d{1,2}([./-])\d{1,2}\1\d{2,4}(?!\d)")


@dataclass(frozen=True)
class Personal:
    """Something that tells who somebody is: "email", "phone", "iban" or "name", where it stands, and what it says."""

    start: int
    end: int
    kind: str
    value: str


def mend_encoding(text: str) -> str:
    """The text as it was before it was read in the wrong encoding, once or more often: "d’accord" for "dâ€™accord"."""
    if text.isascii():
        return text
    import ftfy

    return ftfy.fix_encoding(text)


def has_html(text: str) -> bool:
    """Whether tags or character entities of HTML are left in a text. "3 < 5", "R&D" and <me@shop.org> are none."""
    return ("<" in text and _TAG.search(text) is not None) or ("&" in text and _entity(text))


def strip_html(text: str) -> str:
    """The text without tags, its entities read; where a tag began a line or a block there is a space."""
    for _ in range(3):  # &amp;lt;br&amp;gt;: what was escaped more than once is read more than once
        if not has_html(text):
            break
        text = _TAG.sub(lambda tag: "" if (tag["name"] or "").lower() in _INLINE else " ", text)
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text).replace("\xa0", " ")
        text = re.sub(r" {2,}", " ", re.sub(r" ?\n ?", "\n", text)).strip()
    return text


def mend(text: str) -> str:
    """Encoding and HTML put right; a text without such faults comes back as it is."""
    return strip_html(mend_encoding(text))


def personal(text: str, names: Names | None = None) -> list[Personal]:
    """Personal data in the order of the text; spans do not overlap.

    E-mail addresses; IBANs whose check digits and country's form are right; telephone numbers that begin with +, 00,
    0 or a bracket, or are written 202-555-0143; and names from the caller's list. A number of another form could be
    anything, an order say, and is left alone.
    """
    found: list[Personal] = []
    if "@" in text:
        found += [Personal(*match.span(), "email", match[0]) for match in _EMAIL.finditer(text)]
    if re.search(r"\d\d", text):
        ibans, codes = _ibans(text)
        found += ibans
        found += _free(_phones(text), found + codes)
    if names:
        found += _free(names.find(text), found)
    return sorted(found, key=lambda one: one.start)


def mask(text: str, found: Iterable[Personal], holder: str = "[{kind}]") -> str:
    """The text with each span replaced by what `holder` makes of its kind, such as [email]."""
    pieces, at = [], 0
    for one in sorted(found, key=lambda one: one.start):
        pieces += [text[at : one.start], holder.format(kind=one.kind)]
        at = one.end
    return "".join([*pieces, text[at:]])


class Names:
    """Names to look for, found by their first word, so that a long list costs no more than a short one.

    Args:
        names: as they are written, "Marta Nyberg"; capitals count, since "will" is a word and "Will" a name.
    """

    def __init__(self, names: Iterable[str]):
        self.names = sorted({name.strip() for name in names if WORD.search(name)}, key=lambda name: (-len(name), name))
        self.by_first: dict[str, list[str]] = {}
        for name in self.names:
            self.by_first.setdefault(WORD.search(name)[0], []).append(name)

    def __bool__(self) -> bool:
        return bool(self.names)

    def find(self, text: str) -> list[Personal]:
        found, done = [], 0
        for word in WORD.finditer(text):
            for name in self.by_first.get(word[0].removesuffix("'s").removesuffix("’s"), ()):
                start = word.start() - name.index(WORD.search(name)[0])
                end = start + len(name)
                if start >= done and text.startswith(name, start) and not re.match(r"\w", text[end : end + 1]):
                    found.append(Personal(start, done := end, "name", name))
                    break
        return found


def odd_languages(texts: Sequence[str]) -> tuple[str, dict[int, tuple[str, float]]]:
    """The language that most texts are in, and the texts that are surely in another: row to language and probability.

    Languages are ISO 639-1 codes, told from the first 400 characters; a text with less than 20 letters is in none.
    Where most texts are too short to tell, the few that are not cannot speak for the others: then it is ("", {}).
    """
    step = -(-len(texts) // SAMPLE) or 1
    told = {row: _language(texts[row]) for row in range(0, len(texts), step)}
    counts = Counter(code for code, sure in told.values() if sure >= CONFIDENT)
    most = min(counts, key=lambda code: (-counts[code], code), default="")
    written = sum(WORD.search(texts[row]) is not None for row in told)
    if not most or counts[most] < min(ENOUGH, written / 2):
        return "", {}
    if step > 1:
        alike = [_words(texts[row]) for row, (code, _) in told.items() if code == most]
        counts = Counter(word for words in alike for word in set(words))
        usual = {word for word, count in counts.items() if count >= OFTEN * len(alike)}
        for row, text in enumerate(texts):
            if row not in told:
                words = _words(text)
                if sum(word in usual for word in words) < USUAL * len(words):
                    told[row] = _language(text)
    return most, {row: told[row] for row in sorted(told) if told[row][0] != most and told[row][1] >= CONFIDENT}


def _words(text: str) -> list[str]:
    return WORD.findall(text[:LOOKED_AT].lower())


def _entity(text: str) -> bool:
    return any(html.unescape(match[0]) != match[0] for match in _ENTITY.finditer(text))


def _free(candidates: Iterable[Personal], taken: Sequence[Personal]) -> list[Personal]:
    """Those that overlap with none of `taken`."""
    covered = {place for one in taken for place in range(one.start, one.end)}
    return [one for one in candidates if covered.isdisjoint(range(one.start, one.end))]


def _ibans(text: str) -> tuple[list[Personal], list[Personal]]:
    """Account numbers, and what is written like one and is none: a voucher, say, with no telephone number inside."""
    found, codes, at = [], [], 0
    while match := _IBAN.search(text, at):
        value = match[0]
        while value and not _is_iban(value):  # a word in capitals may follow: try without its last piece
            value = value.rpartition(" ")[0]
        if value:
            found.append(Personal(match.start(), match.start() + len(value), "iban", value))
        else:
            codes.append(Personal(*match.span(), "code", match[0]))
        at = match.start() + len(value) if value else match.start() + 4
    return found, codes


def _is_iban(value: str) -> bool:
    plain = re.sub(r"[ -]", "", value)
    if not plain.isascii() or int("".join(str(int(sign, 36)) for sign in plain[4:] + plain[:4])) % 97 != 1:
        return False  # ISO 13616's check digits: most candidates end here
    from stdnum import iban

    return iban.is_valid(plain)


def _phones(text: str) -> list[Personal]:
    found = []
    for match in _PHONE.finditer(text):
        value = match[0]
        if value.count(")") > value.count("("):  # "(by phone: 07700 900123)": the bracket closes the sentence's
            value = value[:-1]
        while value and not _is_phone(value):
            value = value[: max(value.rfind(mark) for mark in " .-/")] if re.search(r"[ .\-/]", value) else ""
        if value:
            found.append(Personal(match.start(), match.start() + len(value), "phone", value))
    return found


def _is_phone(value: str) -> bool:
    digits = re.sub(r"\D", "", value)
    if _DATE.match(value):
        return False
    if value.startswith(("+", "(+", "00")):
        return 9 <= len(digits.removeprefix("00")) <= 15
    if value.startswith(("0", "(0")):
        return 10 <= len(digits) <= 11
    return len(digits) == 10


@lru_cache(maxsize=1)
def _identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _language(text: str) -> tuple[str, float]:
    text = text[:LOOKED_AT]
    if sum(map(str.isalpha, text)) < LETTERS:
        return "", 0.0
    return _identifier().classify(text)
