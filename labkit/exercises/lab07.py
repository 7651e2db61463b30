"""The exercises of lab 07, evaluation: what each answer is tried on, and what is said of the usual wrong ones."""

from __future__ import annotations

import math

from labkit.exercises import Wrong, call, describe, exercise, expect_number, expect_shape, expect_type

LAB = "07"


def _tell(got, right: float, usual: list[tuple[float, str]], where: str, tol: float = 1e-9) -> None:
    """Raise the sentence of the usual wrong value that `got` is; then compare with the right one."""
    if isinstance(got, int | float) and not math.isclose(got, right, rel_tol=tol, abs_tol=tol):
        for value, sentence in usual:
            if math.isclose(got, value, rel_tol=1e-9, abs_tol=1e-9):
                raise Wrong(f"{where}: expected {right:.4g}, and got {got:.4g}: {sentence}")
    expect_number(got, right, tol, where)


@exercise(
    "class_f1",
    lab=LAB,
    title="F1 of one class",
    difficulty=1,
    minutes=6,
    hints=(
        "Three counts: how often the label was right and said, how often it was said, how often it was right.",
        "precision = hits / said, recall = hits / right, F1 = 2 p r / (p + r). Which division can be by zero?",
        "F1 = 2 hits / (times said + times right): one division, 0 where nothing was said and nothing was right.",
        "hits = sum(a == b == label for a, b in zip(truth, said))\n"
        "both = list(truth).count(label) + list(said).count(label)\nreturn 2 * hits / both if both else 0.0",
    ),
    after="A class that is never said has F1 = 0, not an error: that is also scikit-learn's `zero_division=0`.",
)
def class_f1(answer):
    truth, said = list("aaaabbbbcc"), list("aaabbcacac")
    cases = [(truth, said, "a"), (truth, said, "b"), (truth, list("aaaaaaaaaa"), "b"), (truth, said, "z")]
    for t, s, label in cases:
        where = f"for truth {''.join(t)}, said {''.join(s)}, label {label!r}"
        got = call(answer, t, s, label)
        hits = sum(x == y == label for x, y in zip(t, s, strict=True))
        asked, answered = t.count(label), s.count(label)
        right = 2 * hits / (asked + answered) if asked + answered else 0.0
        p, r = hits / answered if answered else 0.0, hits / asked if asked else 0.0
        agree = sum(x == y for x, y in zip(t, s, strict=True)) / len(t)
        usual = [
            (p, "that is precision alone. F1 needs the recall too."),
            (r, "that is recall alone. F1 needs the precision too."),
            ((p + r) / 2, "that is the plain mean of precision and recall. F1 is the harmonic one: 2 p r / (p + r)."),
            (p * r, "that is precision times recall. F1 is 2 p r / (p + r)."),
            (right / 2, "half of it: the 2 in 2 p r / (p + r) is missing."),
            (agree, "that is the accuracy over all classes. Only rows with this label, said or right, count here."),
        ]
        if label == "z" and isinstance(got, float) and math.isnan(got):
            raise Wrong(f"{where}: got nan. A label that never occurs has F1 = 0 here.")
        _tell(got, right, usual, where)


@exercise(
    "clipped_precision",
    lab=LAB,
    title="the precision of BLEU",
    difficulty=2,
    minutes=8,
    hints=(
        "List the runs of n words of both texts; collections.Counter counts them.",
        "A run that the answer repeats counts at most as often as the reference has it: min of the two counts.",
        "Divide by the number of runs in the answer, repeats included; an answer shorter than n words has none.",
        "a, b = (Counter(zip(*(t[i:] for i in range(n)))) for t in (reference, answer))\n"
        "return sum((a & b).values()) / max(1, b.total())",
    ),
    after="Without the clip, an answer of nothing but `the` would have a precision of 1.",
)
def clipped_precision(answer):
    from labkit.scratch.metrics import ngrams, overlap

    cases = [("the cat is on the mat", "the the the the dog", 1), ("the cat is on the mat", "the cat is is on", 2),
             ("a b c d e", "a b c", 3), ("the rope is new", "rope", 2), ("the rope is new", "", 1)]
    for reference, said, n in cases:
        a, b = reference.split(), said.split()
        where = f"for reference {reference!r}, answer {said!r}, n = {n}"
        got = call(answer, a, b, n)
        A, B = ngrams(a, n), ngrams(b, n)
        hits = overlap(A, B)
        right = hits / B.total() if B else 0.0
        usual = [
            (sum(c for g, c in B.items() if g in A) / B.total() if B else 0.0,
             "every run of the answer counts as often as the answer repeats it. Clip: at most as often as the "
             "reference has it."),
            (len(set(A) & set(B)) / len(B) if B else 0.0,
             "both sides are counted as sets. A repeated run counts each time in the divisor."),
            (hits / A.total() if A else 0.0, "divided by the runs of the reference: that is recall, as ROUGE has it."),
            (len(set(A) & set(B)) / B.total() if B else 0.0,
             "each different run counts once on top: clip by the reference's count, not at 1."),
            (hits / len(b) if b else 0.0, "divided by the words of the answer. It has len - n + 1 runs of n words."),
            (float(hits), "that is the number of hits. A precision is a share of the answer's runs."),
            (100 * right, "that is a percentage. A share between 0 and 1 is asked."),
        ]
        _tell(got, right, usual, where)


@exercise(
    "byte_perplexity",
    lab=LAB,
    title="perplexity a byte",
    difficulty=1,
    minutes=4,
    hints=(
        "The total loss of a text is minus the sum of its tokens' log-likelihoods, in nats.",
        "Spread it over the bytes of the text, not over the tokens: len(text.encode()). Then take exp.",
        "return math.exp(-sum(log_likelihoods) / len(text.encode()))",
    ),
    after="Two models with different tokenizers can be compared by this figure, and not by perplexity a token.",
)
def byte_perplexity(answer):
    for values, text in (([-2.0, -1.0, -3.0], "the new rope"), ([-4.0, -0.5], "žluť"), ([-1.5] * 6, "雪が降る")):
        where = f"for log-likelihoods {values} of the text {text!r}"
        got = call(answer, values, text)
        total, size = -sum(values), len(text.encode())
        expect_type(got, (int, float), where)
        usual = [
            (math.exp(total / len(values)), "that is perplexity a token: the divisor is the number of bytes."),
            (math.exp(total / len(text)), "divided by characters. A character may have several bytes: text.encode()."),
            (math.exp(-total / size), "below 1, so the sign is turned: the loss is *minus* the log-likelihood."),
            (total / size, "that is the loss a byte, in nats. Perplexity is exp of it."),
            (2 ** (total / size), "2 to the power of nats: log-likelihoods are in nats, so take exp."),
            (total / size / math.log(2), "that is bits a byte, the logarithm of what is asked."),
            (math.exp(total), "exp of the whole loss: divide by the number of bytes first."),
        ]
        _tell(got, math.exp(total / size), usual, where)


@exercise(
    "last_real_logits",
    lab=LAB,
    title="the answer of a padded prompt",
    difficulty=2,
    minutes=8,
    hints=(
        "logits[:, -1] is the last *position*. With padding on the right that is padding, not the prompt's end.",
        "The last real token of a row is the last place where its mask is 1. With padding on the right that is "
        "mask.sum(-1) - 1; with padding on the left it is the last place.",
        "Places times mask is largest at the last real one: (mask * torch.arange(mask.shape[1])).argmax(-1).",
        "ends = (mask * torch.arange(mask.shape[1])).argmax(-1)\nreturn logits[torch.arange(len(mask)), ends]",
    ),
    after="`logits[:, -1]` prints nothing when it is wrong: one reason why a model has two scores in two papers.",
)
def last_real_logits(answer):
    import torch

    g = torch.Generator().manual_seed(7)
    logits = torch.randn(3, 5, 4, generator=g)
    sides = {
        "left": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]),
        "right": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
        "either": torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]),
    }
    rows = torch.arange(3)
    for side, mask in sides.items():
        where = f"with padding on {'both sides' if side == 'either' else 'the ' + side}"
        got = call(answer, logits, mask)
        ends = (mask * torch.arange(5)).argmax(-1)
        right = logits[rows, ends]
        if hasattr(got, "shape") and tuple(got.shape) == (3, 1, 4):
            raise Wrong("one axis too many: (3, 1, 4). Index by row and place at once, logits[rows, ends].")
        if hasattr(got, "shape") and tuple(got.shape) == (3, 3, 4):
            raise Wrong("(3, 3, 4): logits[:, ends] takes every row's end from every row. Give the rows too: "
                        "logits[torch.arange(len(mask)), ends].")
        expect_shape(got, (3, 4), where)
        if torch.equal(got, right):
            continue
        lengths = mask.sum(-1)
        usual = [
            (logits[:, -1], "that is the last position of every row, which is padding where a row is shorter."),
            (logits[rows, (lengths - 1) % 5],
             "the place is counted as if all padding were on the right: mask.sum(-1) - 1 forgets padding before."),
            (logits[rows, lengths % 5],
             "one place too far: counting starts at 0, so the last of n is n - 1."),
            (logits[rows, mask.argmax(-1)], "that is the first real token of each row. Its last is asked."),
            ((logits * mask[..., None]).sum(1) / lengths[:, None],
             "that is the mean over the row. Only the last real token has read the whole prompt."),
            (logits[:, 0], "that is the first position: it has read one token."),
        ]
        for value, sentence in usual:
            if torch.allclose(got.float(), value, atol=1e-6):
                raise Wrong(f"{where}: {sentence}")
        raise Wrong(f"{where}: right shape, but these are not the logits at each row's last real token.")


@exercise(
    "family_interval",
    lab=LAB,
    title="an interval that knows families",
    difficulty=3,
    minutes=12,
    hints=(
        "A bootstrap draws as many units as there are, with replacement, takes the mean, and does so many times.",
        "The unit is the family: when one is drawn, all of its rows come along. rng.choice(names, len(names)).",
        "np.concatenate([by_family[f] for f in drawn]).mean() is one draw; np.quantile(means, [0.025, 0.975]) the end.",
        "rows = {f: values[families == f] for f in np.unique(families)}\n"
        "means = [np.concatenate([rows[f] for f in rng.choice(list(rows), len(rows))]).mean() for _ in range(draws)]\n"
        "return tuple(np.quantile(means, [0.025, 0.975]))",
    ),
    after="Six tickets of one family are little more than one ticket, and now the interval says so.",
    limit=30.0,
)
def family_interval(answer):
    import numpy as np

    made = np.random.default_rng(0)
    families = np.repeat([f"f{i}" for i in range(24)], 6)
    each = np.repeat((made.random(24) < 0.7).astype(float), 6)
    values = np.where(made.random(144) < 0.05, 1 - each, each)
    where = "for 144 rows of 24 families, mostly right or wrong as a whole"
    got = call(answer, values, families, 600, np.random.default_rng(1))
    if not isinstance(got, tuple | list | np.ndarray) or len(got) != 2:
        raise Wrong(f"expected two numbers, low and high, and got {describe(got)} {where}.")
    low, high = float(got[0]), float(got[1])
    mean = float(values.mean())
    sums = np.array([values[families == f].mean() for f in np.unique(families)])
    wide, narrow = 1.96 * sums.std() / 24**0.5, 1.96 * values.std() / 144**0.5
    half = (high - low) / 2
    if low > high:
        raise Wrong(f"low is {low:.3f} and high is {high:.3f}: turned round. The 2.5 % quantile comes first.")
    if high == low:
        raise Wrong(f"low and high are both {low:.3f}: every draw is alike. Draw with replacement, anew each time.")
    if low < 0 or high > 1.0001:
        raise Wrong(f"the interval [{low:.3f}, {high:.3f}] leaves 0 to 1: take the *mean* of the drawn rows.")
    if abs((low + high) / 2 - mean) > 0.08:
        raise Wrong(f"the interval [{low:.3f}, {high:.3f}] is not around the mean, {mean:.3f}: which rows are drawn?")
    if half < 0.25 * narrow or (half > 1.35 * narrow and half < 0.8 * wide) or half > 2.6 * wide:
        raise Wrong(f"the interval is {2 * half:.3f} wide, and {2 * wide:.3f} or so was expected: as many families "
                    "must be drawn as there are, and the quantiles are 2.5 % and 97.5 %.")
    if half < 0.8 * wide and half > 1.35 * narrow:
        raise Wrong(f"the interval is {2 * half:.3f} wide. Quantiles 0.025 and 0.975 make a 95 % interval.")
    if half <= 1.35 * narrow:
        raise Wrong(f"the interval is {2 * half:.3f} wide: that is what 144 independent rows would give. Here rows "
                    "come in families of six; draw whole families.")
    if half > 1.3 * wide:
        raise Wrong(f"the interval is {2 * half:.3f} wide, wider than 95 %: {2 * wide:.3f} or so was expected.")
    again = call(answer, values, families, 600, np.random.default_rng(1))
    if tuple(map(float, again)) != (low, high):
        raise Wrong("the same rng gives another interval each time: draw from the `rng` that you are given.")
    uneven = np.array(["a"] * 30 + ["b"] * 3 + ["c"] * 3)
    hit = np.array([1.0] * 30 + [0.0] * 6)
    _, top = call(answer, hit, uneven, 600, np.random.default_rng(2))
    if float(top) < 0.999:
        raise Wrong("right where families have one size. With sizes 30, 3 and 3, of which the first is right, some "
                    "draws hold the first alone, and their mean is 1: draw by family, each as likely as another.")


@exercise(
    "mcnemar_p",
    lab=LAB,
    title="two models on the same rows",
    difficulty=2,
    minutes=8,
    hints=(
        "Rows that both have right, or both wrong, say nothing about which model is better. Count the others.",
        "If the models are equally good, such a row is a fair coin. How unlikely is a split at least this uneven?",
        "scipy.stats.binomtest(only_a, only_a + only_b, 0.5).pvalue; where no row differs, p is 1.",
        "only_a = sum(x and not y for x, y in zip(a, b)); only_b = sum(y and not x for x, y in zip(a, b))\n"
        "return binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0",
    ),
    after="A hundred rows on which two models agree add nothing; ten on which they differ may settle it.",
)
def mcnemar_p(answer):
    from scipy.stats import binomtest, chi2, norm

    cases = [(30, 9, 2, 5), (50, 6, 6, 0), (20, 0, 8, 2), (40, 0, 0, 3)]
    for both, only_a, only_b, none in cases:
        a = [True] * (both + only_a) + [False] * (only_b + none)
        b = [True] * both + [False] * only_a + [True] * only_b + [False] * none
        n, rows = only_a + only_b, len(a)
        where = f"where {both} rows are right by both, {only_a} by a alone, {only_b} by b alone, {none} by neither"
        got = call(answer, a, b)
        if isinstance(got, tuple | list):
            raise Wrong(f"expected one number, p, and got {describe(got)} {where}.")
        if type(got).__name__ == "BinomTestResult":
            raise Wrong("that is the whole result of the test. Its p is in `.pvalue`.")
        got = float(got) if hasattr(got, "item") else got
        right = float(binomtest(only_a, n, 0.5).pvalue) if n else 1.0
        one = float(binomtest(only_a, n, 0.5, alternative="greater").pvalue) if n else 1.0
        pooled = (2 * both + n) / (2 * rows)
        z = (only_a - only_b) / rows / max(1e-12, (2 * pooled * (1 - pooled) / rows) ** 0.5)
        usual = [
            (one, "that asks in one direction only. Either model may turn out better: two-sided."),
            (float(binomtest(only_a, n, 0.5, alternative="less").pvalue) if n else 1.0,
             "that asks whether a is worse, one direction only. Two-sided is asked."),
            (float(binomtest(both + only_a, rows, 0.5).pvalue),
             "that compares a's accuracy with one half. The coin is tossed only for rows on which they differ."),
            (float(chi2.sf((only_a - only_b) ** 2 / n, 1)) if n else 1.0,
             "that is the chi-square form, good for many rows. With so few take the exact one, the binomial."),
            (float(2 * norm.sf(abs(z))), "that treats the two as if they had answered different rows: pairs are lost."),
            (float(binomtest(only_a, rows, 0.5).pvalue),
             "rows on which both agree are among the coin tosses. Leave them out."),
            (1 - right, "that is 1 - p."),
        ]
        if n == 0 and got != 1:
            raise Wrong(f"{where}: no row differs, so nothing was seen: p is 1, and got {describe(got)}.")
        _tell(got, right, usual, where, 1e-6)


@exercise(
    "leaked_rows",
    lab=LAB,
    title="find the test rows that training has seen",
    difficulty=2,
    minutes=10,
    hints=(
        "Make the set of all runs of n words of the training texts, lower case. zip(*(w[i:] for i in range(n))) helps.",
        "For a test text: which share of its own runs is in that set? From `share` on it counts as leaked.",
        "A text shorter than n words has no run; it cannot be judged, so do not name it.",
        "runs = lambda t: set(zip(*(t.lower().split()[i:] for i in range(n))))\n"
        "seen = set().union(*map(runs, train))\n"
        "return [i for i, t in enumerate(test) if (r := runs(t)) and len(r & seen) / len(r) >= share]",
    ),
    after="Exact duplicates are found by a hash; this finds the row whose order number was changed.",
)
def leaked_rows(answer):
    train = ["My parcel with the blue rope has not come and I am waiting since the second of May",
             "Where is the catalogue for winter", "The stove that you sent me leaks gas at the valve"]
    test = ["my parcel with the BLUE rope has not come and I am waiting since the third of June",  # 0, reworded
            "The tent is too small for the four of us",  # 1, clean
            "Where is the catalogue for summer and for children please",  # 2: 2 of its 7 runs of 4
            "Leaks gas",  # 3: too short
            "The stove that you sent me leaks gas at the valve",  # 4: word for word
            "the valve at gas leaks me sent you that stove the"]  # 5: the same words, turned round
    n, share = 4, 0.6
    got = call(answer, train, test, n, share)
    where = f"for n = {n}, share = {share}"
    if not isinstance(got, list | tuple | set):
        raise Wrong(f"expected a list of row numbers, and got {describe(got)} {where}.")
    if got and all(isinstance(x, bool) for x in got):
        raise Wrong("that is yes or no for every row. The numbers of the leaked rows are asked.")
    if got and all(isinstance(x, str) for x in got):
        raise Wrong("those are texts. The row numbers are asked, as enumerate counts them.")
    if got and all(isinstance(x, float) for x in got):
        raise Wrong("those are shares. Give the numbers of the rows whose share is at least `share`.")
    said = set(got)
    if said == {0, 4}:
        if set(call(answer, train, test, n, 0.25)) != {0, 2, 4}:
            raise Wrong("right for share = 0.6, but with 0.25 another row belongs to them too. Use the `share` and `n` "
                        "that you are given.")
        return
    if said == {4}:
        raise Wrong("row 4 alone: that finds what is the same to the letter. Row 0 was reworded at its end, and BLUE "
                    "is upper case: compare runs of words, in lower case.")
    if said == {1, 2, 3, 5} or said == {1, 2, 5}:
        raise Wrong("these are the clean rows: the answer is turned round.")
    if 5 in said:
        raise Wrong("row 5 is named, but it only has the same words in another order. Compare runs of n words.")
    if 3 in said:
        raise Wrong("row 3 is named, but it is shorter than n words: it has no run to compare.")
    if 2 in said:
        raise Wrong("row 2 is named, but only part of its runs stands in the training. Any run in common is not "
                    f"enough: the share of its own runs must reach {share}.")
    if said == {0}:
        raise Wrong("row 4 is missing, which is in the training word for word: its share is 1.")
    if not said:
        raise Wrong("no row is named, and rows 0 and 4 are in the training. Are both made into runs the same way?")
    raise Wrong(f"expected rows 0 and 4, and got {sorted(said)} {where}.")


@exercise(
    "calibration_error",
    lab=LAB,
    title="how far confidence is from accuracy",
    difficulty=2,
    minutes=10,
    hints=(
        "Put each row into one of `bins` bins of equal width by its confidence; 1.0 belongs into the last one.",
        "In each bin: |mean confidence - share right|. An empty bin has neither: skip it.",
        "Weigh each gap by the rows in its bin, and divide by all rows.",
        "place = np.minimum((confidence * bins).astype(int), bins - 1)\n"
        "gaps = [abs((confidence - right)[place == k].mean()) * (place == k).mean() for k in np.unique(place)]\n"
        "return sum(gaps)",
    ),
    after="Small ECE says that confidence can be read as a share of right answers.",
)
def calibration_error(answer):
    import numpy as np

    g = np.random.default_rng(4)
    cases = [(np.array([0.95, 0.91, 0.93, 0.55, 0.52, 1.0]), np.array([1.0, 0.0, 0.0, 1.0, 1.0, 1.0]), 10),
             (g.uniform(0.3, 0.999, 200), (g.random(200) < 0.6).astype(float), 10),
             (np.array([0.41, 0.45, 0.55, 0.58, 0.81, 0.97]), np.array([1.0, 1.0, 0.0, 0.0, 1.0, 0.0]), 5)]
    for confidence, right, bins in cases:
        where = f"for {len(right)} rows in {bins} bins"
        got = call(answer, confidence, right, bins)
        if isinstance(got, np.ndarray) and got.size > 1:
            raise Wrong(f"expected one number, and got {describe(got)} {where}.")
        got = float(got) if hasattr(got, "item") else got
        if isinstance(got, float) and math.isnan(got):
            raise Wrong(f"nan {where}: the mean of an empty bin. Skip bins without rows.")
        place = np.minimum((confidence * bins).astype(int), bins - 1)
        used = np.unique(place)
        gaps = [(confidence - right)[place == k].mean() for k in used]
        weights = [(place == k).mean() for k in used]
        want = float(sum(abs(x) * w for x, w in zip(gaps, weights, strict=True)))
        ten = np.minimum((confidence * 10).astype(int), 9)
        usual = [
            (float(np.mean(np.abs(gaps))), "each bin counts alike. Weigh its gap by the rows in it."),
            (float(sum(abs(x) * w for x, w in zip(gaps, weights, strict=True)) * len(right)),
             "the gaps are weighed by counts; divide by the number of all rows."),
            (float(abs(confidence.mean() - right.mean())),
             "that is the gap of the two overall means: too sure here and too shy there cancel out."),
            (float(np.abs(confidence - right).mean()),
             "that is the mean gap of single rows, which are right or wrong and never 70 %. Take means in bins first."),
            (float(sum(x * w for x, w in zip(gaps, weights, strict=True))),
             "gaps of different signs cancel out. Take the absolute value in each bin."),
            (float(max(map(abs, gaps))), "that is the largest gap (MCE). The mean over rows is asked."),
            (float(sum(x * x * w for x, w in zip(gaps, weights, strict=True))),
             "the gaps are squared. Their absolute value is asked."),
            (float(sum(abs(x) for x in gaps) / bins), "each bin counts alike, the empty ones too. Weigh by rows."),
            (float(((confidence - right) ** 2).mean()), "that is the Brier score, another useful figure."),
            (float(sum(abs((confidence - right)[ten == k].mean()) * (ten == k).mean() for k in np.unique(ten))),
             "that has ten bins whatever is asked. Use `bins`."),
        ]
        _tell(got, want, usual, where)


@exercise(
    "best_threshold",
    lab=LAB,
    title="the threshold that costs least",
    difficulty=2,
    minutes=10,
    hints=(
        "For one threshold: rows with less confidence cost `by_hand`, the others cost what their answer costs.",
        "np.where(confidence < threshold, by_hand, price).mean() is the cost a ticket.",
        "Try them all and keep the one with the least; min(thresholds, key=cost).",
        "return min(thresholds, key=lambda t: np.where(confidence < t, by_hand, price).mean())",
    ),
    after="The threshold follows from the prices and from the model's mistakes, not from a habit.",
)
def best_threshold(answer):
    import numpy as np

    confidence = np.array([0.35, 0.45, 0.55, 0.62, 0.7, 0.78, 0.85, 0.9, 0.95, 0.99])
    price = np.array([20.0, 0.0, 20.0, 9.0, 0.0, 20.0, 0.0, 9.0, 0.0, 0.0])
    thresholds = [0.0, 0.3, 0.5, 0.6, 0.65, 0.8, 0.9, 0.95]
    people = (2.0, 8.0, 20.0)

    def each(cost, pick=np.argmin) -> list[float]:
        return [thresholds[int(pick([cost(t, h) for t in thresholds]))] for h in people]

    def cost(t, h):
        return float(np.where(confidence < t, h, price).mean())

    got = []
    for by_hand in people:
        value = call(answer, confidence, price, by_hand, thresholds)
        value = value.item() if hasattr(value, "item") else value
        expect_type(value, (int, float), f"for 10 rows, where a person costs {by_hand:g}")
        got.append(float(value))
    right = each(cost)
    where = f"where a person costs {people[0]:g}, {people[1]:g} and {people[2]:g}"
    usual = [
        (each(cost, np.argmax), "these cost *most*. Is the comparison turned round? A person reads what is below it."),
        (each(lambda t, h: price[confidence >= t].mean()),
         "a look by a person seems to be free: rows below the threshold cost `by_hand`, and count in the mean."),
        (each(lambda t, h: np.where(confidence < t, 1.0, price > 0).mean()),
         "errors are counted, not priced: a wrong answer costs its own price, a look costs `by_hand`."),
        ([0.5] * 3, "0.5 is nobody's price. Compute the cost at each threshold."),
        ([min(cost(t, h) for t in thresholds) for h in people],
         "that is the least cost itself. The threshold that has it is asked."),
        ([float(thresholds.index(t)) for t in right], "that is the place in the list. The threshold itself is asked."),
    ]
    for values, sentence in usual:
        if got != right and np.allclose(got, values):
            raise Wrong(f"expected {_list(right)} {where}, and got {_list(got)}: {sentence}")
    if got != right:
        raise Wrong(f"expected {_list(right)} {where}, and got {_list(got)}.")


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


@exercise(
    "cohens_kappa",
    lab=LAB,
    title="agreement beyond chance",
    difficulty=2,
    minutes=7,
    hints=(
        "Two things: the share of rows on which they agree, and the share on which they would by habit alone.",
        "By habit: for each choice, how often the first says it times how often the second does, as shares; add up.",
        "kappa = (seen - chance) / (1 - chance).",
        "chance = sum(first.count(c) * second.count(c) for c in set(first)) / len(first) ** 2\n"
        "return (seen - chance) / (1 - chance)",
    ),
    after="Two raters who say *left* nine times in ten agree on 82 % without reading. Kappa calls that 0.",
)
def cohens_kappa(answer):
    from labkit.scratch.metrics import kappa

    cases = [(list(a), list(b)) for a, b in (("LLLRRTLR", "LLRRRTLT"), ("LLLLLLLLLR", "LLLLLLLLRL"), ("LRLT",) * 2)]
    for first, second in cases:
        n = len(first)
        where = f"for raters {''.join(first)} and {''.join(second)}"
        got = call(answer, first, second)
        seen = sum(a == b for a, b in zip(first, second, strict=True)) / n
        chance = sum(first.count(c) * second.count(c) for c in set(first)) / n**2
        half = sum(((first.count(c) + second.count(c)) / (2 * n)) ** 2 for c in {*first, *second})
        kinds = len({*first, *second})
        usual = [
            (seen, "that is the plain agreement. Two careless raters with the same habit have much of it."),
            (chance, "that is the agreement by chance alone."),
            (seen - chance, "divide by 1 - chance, so that full agreement is 1."),
            ((seen - chance) / chance if chance else 0.0, "divided by the chance; the divisor is 1 - chance."),
            ((seen - 1 / kinds) / (1 - 1 / kinds),
             "that takes all choices for equally likely. Count how often each rater really makes each."),
            ((seen - half) / (1 - half), "that pools the two raters' habits (Scott's pi). Cohen multiplies them."),
            ((seen - chance) / (1 + chance), "the divisor is 1 - chance, and yours is 1 + chance."),
        ]
        _tell(got, kappa(first, second), usual, where)
