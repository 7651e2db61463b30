"""Metrics by hand: accuracy, F1, confusion, perplexity, BLEU, ROUGE, exact match, entity F1, kappa, ECE.

Only the standard library is used. Lab 07 compares each with scikit-learn, sacrebleu or rouge-score, and its
exercises are checked against them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence

# -- classes -------------------------------------------------------------------------------------------------------


def accuracy(truth: Sequence, said: Sequence) -> float:
    """Share of rows whose answer is the right one; 0 where there is no row."""
    return sum(a == b for a, b in zip(truth, said, strict=True)) / len(truth) if len(truth) else 0.0


def exact_match(truth: Sequence[str], said: Sequence[str]) -> float:
    """Share of texts that are the reference to the last character."""
    return accuracy(truth, said)


def confusion(truth: Sequence, said: Sequence, labels: Sequence | None = None) -> list[list[int]]:
    """How often each class was called what: a row for each true class, a column for each that was said.

    Args:
        labels: the order of rows and columns; None is all that occur, sorted. Others are left out.

    >>> confusion(["a", "a", "b"], ["a", "b", "b"])
    [[1, 1], [0, 1]]
    """
    labels = sorted({*truth, *said}) if labels is None else list(labels)
    seen = Counter(zip(truth, said, strict=True))
    return [[seen[a, b] for b in labels] for a in labels]


def f1(precision: float, recall: float) -> float:
    """The harmonic mean of the two; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def per_class(truth: Sequence, said: Sequence, labels: Sequence | None = None) -> dict[Hashable, dict[str, float]]:
    """Precision, recall, F1 and rows of each class; what was never said, or never asked, counts 0.

    Args:
        labels: the classes to count; None is all that occur in either, as scikit-learn has it.
    """
    labels = sorted({*truth, *said}) if labels is None else list(labels)
    asked, answered = Counter(truth), Counter(said)
    hits = Counter(a for a, b in zip(truth, said, strict=True) if a == b)
    found = {}
    for label in labels:
        precision, recall = _ratio(hits[label], answered[label]), _ratio(hits[label], asked[label])
        found[label] = {"precision": precision, "recall": recall, "f1": f1(precision, recall), "rows": asked[label]}
    return found


def macro(truth: Sequence, said: Sequence, labels: Sequence | None = None) -> dict[str, float]:
    """The plain mean over classes of precision, recall and F1: a rare class counts as much as a common one."""
    each = per_class(truth, said, labels).values()
    return {name: _ratio(sum(row[name] for row in each), len(each)) for name in ("precision", "recall", "f1")}


def micro(truth: Sequence, said: Sequence, labels: Sequence | None = None) -> dict[str, float]:
    """Precision, recall and F1 from the counts of all classes together: a common class counts for more.

    With one answer a row and all classes counted, all three are the accuracy.
    """
    kept = set(truth) | set(said) if labels is None else set(labels)
    hits = sum(a == b and a in kept for a, b in zip(truth, said, strict=True))
    precision, recall = _ratio(hits, sum(b in kept for b in said)), _ratio(hits, sum(a in kept for a in truth))
    return {"precision": precision, "recall": recall, "f1": f1(precision, recall)}


def entity_f1(truth: Sequence[Mapping], said: Sequence[Mapping], average: str = "micro") -> float:
    """F1 over the fields of extracted records; a field that is None is not there, a wrong value costs twice.

    Args:
        average: "micro" counts over all rows together; "rows" is the mean of one F1 a row, where a row that has
            nothing and of which nothing is said is right.
    """
    pairs = [({(k, v) for k, v in a.items() if v is not None}, {(k, v) for k, v in b.items() if v is not None})
             for a, b in zip(truth, said, strict=True)]
    if average == "rows":
        each = [2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0 for a, b in pairs]
        return _ratio(sum(each), len(each))
    return _ratio(2 * sum(len(a & b) for a, b in pairs), sum(len(a) + len(b) for a, b in pairs))


# -- likelihood ----------------------------------------------------------------------------------------------------


def perplexity(log_likelihoods: Sequence[float]) -> float:
    """exp of the mean loss a token: among how many equally likely tokens the model hesitates.

    Args:
        log_likelihoods: of each token that counts, in nats.
    """
    return math.exp(-math.fsum(log_likelihoods) / len(log_likelihoods))


def byte_perplexity(log_likelihoods: Sequence[float], text: str) -> float:
    """The same loss spread over the bytes of the text (UTF-8): comparable between tokenizers."""
    return math.exp(-math.fsum(log_likelihoods) / len(text.encode()))


def bits_per_byte(log_likelihoods: Sequence[float], text: str) -> float:
    """The size that the text would have if the model compressed it: log2 of the byte perplexity."""
    return -math.fsum(log_likelihoods) / math.log(2) / len(text.encode())


def windows(length: int, width: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Windows over a long text as (begin, end, first that counts): each token counts once, with context before it.

    >>> list(windows(10, width=6, stride=3))
    [(0, 6, 0), (3, 9, 6), (4, 10, 9)]
    """
    done = 0
    end = min(width, length)
    while done < length:
        yield max(0, end - width), end, done
        done, end = end, min(end + stride, length)


# -- texts ---------------------------------------------------------------------------------------------------------


def ngrams(tokens: Sequence[str], n: int) -> Counter:
    """How often each run of n tokens occurs."""
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def overlap(a: Counter, b: Counter) -> int:
    """How many runs two texts share, each at most as often as in the poorer of the two ("clipped")."""
    return sum(min(count, b[run]) for run, count in a.items())


_MARKS = (  # the tokenizer "13a" of mteval-v13a.pl, which sacrebleu uses
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def bleu_words(text: str) -> list[str]:
    """Words as BLEU counts them: punctuation stands alone, except within numbers."""
    line = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for name, mark in (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")):
        line = line.replace(name, mark)
    line = f" {line} "
    for pattern, wide in _MARKS:
        line = pattern.sub(wide, line)
    return line.split()


def bleu_counts(reference: str, answer: str, order: int = 4) -> list[int]:
    """What BLEU adds up over rows: for n = 1..order the clipped hits, then the tries, then words of both texts."""
    a, b = bleu_words(reference), bleu_words(answer)
    hits = [overlap(ngrams(b, n), ngrams(a, n)) for n in range(1, order + 1)]
    return [*hits, *(max(0, len(b) - n + 1) for n in range(1, order + 1)), len(a), len(b)]


def bleu_of(counts: Sequence[float]) -> float:
    """BLEU, 0 to 100, from the summed `bleu_counts` of all rows.

    The geometric mean of the shares of hits, times a penalty where the answers are shorter than the references. An
    order that nothing matches counts as half of what one match would, the next as a quarter (smoothing "exp").
    """
    order = (len(counts) - 2) // 2
    hits, tries, (true_length, said_length) = counts[:order], counts[order : 2 * order], counts[2 * order :]
    if not any(hits) or not all(tries):
        return 0.0
    logs, smooth = [], 1
    for hit, tried in zip(hits, tries, strict=True):
        smooth = smooth if hit else 2 * smooth
        logs.append(math.log(100 * hit / tried if hit else 100 / (smooth * tried)))
    brief = min(0.0, 1 - true_length / said_length)
    return math.exp(brief) * math.exp(sum(logs) / order)


def bleu(truth: Sequence[str], said: Sequence[str], order: int = 4) -> float:
    """Corpus BLEU, 0 to 100 (Papineni et al., 2002; tokenizer "13a" and smoothing "exp", as sacrebleu 2 has them)."""
    each = [bleu_counts(a, b, order) for a, b in zip(truth, said, strict=True)]
    return bleu_of([sum(column) for column in zip(*each, strict=True)])


def rouge_words(text: str) -> list[str]:
    """Words as ROUGE counts them: lower case, letters a to z and digits only (the package rouge-score)."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).split()


def rouge_n(truth: str, said: str, n: int) -> float:
    """ROUGE-n F1 of one answer (Lin, 2004): the clipped overlap of runs of n words."""
    a, b = ngrams(rouge_words(truth), n), ngrams(rouge_words(said), n)
    shared = overlap(a, b)
    return f1(_ratio(shared, b.total()), _ratio(shared, a.total()))


def longest_common(a: Sequence, b: Sequence) -> int:
    """Length of the longest sequence that is in both in this order, gaps allowed.

    >>> longest_common("the cat sat down".split(), "the dog sat".split())
    2
    """
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], diagonal + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def rouge_l(truth: str, said: str) -> float:
    """ROUGE-L F1 of one answer (Lin, 2004): the longest shared order of words."""
    a, b = rouge_words(truth), rouge_words(said)
    shared = longest_common(a, b)
    return f1(_ratio(shared, len(b)), _ratio(shared, len(a)))


# -- people, and confidence ----------------------------------------------------------------------------------------


def kappa(first: Sequence, second: Sequence) -> float:
    """Cohen's kappa of two raters (Cohen, 1960): agreement beyond what their habits alone would give.

    1 where both always say the same one thing, as no disagreement was seen (scikit-learn gives nan there).
    """
    rows = len(first)
    seen = accuracy(first, second)
    one, two = Counter(first), Counter(second)
    by_chance = sum(one[label] * two[label] for label in one) / rows**2
    return (seen - by_chance) / (1 - by_chance) if by_chance < 1 else 1.0


def calibration_bins(confidence: Sequence[float], right: Sequence[bool], bins: int = 10) -> list[dict[str, float]]:
    """Rows by their confidence, in bins of equal width; empty bins are left out.

    Args:
        confidence: 0 to 1; a value on an edge belongs below it, so that 1 is in the last bin.

    Returns:
        Dicts with `confidence` and `accuracy` (means over the bin) and `rows`.
    """
    member: dict[int, list[int]] = {}
    for i, c in enumerate(confidence):
        member.setdefault(min(bins - 1, max(0, math.ceil(c * bins) - 1)), []).append(i)
    return [{"confidence": sum(confidence[i] for i in rows) / len(rows),
             "accuracy": sum(bool(right[i]) for i in rows) / len(rows), "rows": len(rows)}
            for _, rows in sorted(member.items())]


def calibration_error(confidence: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """ECE (Guo et al., 2017): how far confidence is from accuracy, averaged over rows."""
    each = calibration_bins(confidence, right, bins)
    return sum(b["rows"] * abs(b["confidence"] - b["accuracy"]) for b in each) / len(confidence)
