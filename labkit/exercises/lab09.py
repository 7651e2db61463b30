"""The exercises of lab 09, hyperparameter search: what answers are tried on, and what the usual wrong ones are told."""

from __future__ import annotations

import math

from labkit.exercises import Wrong, call, describe, exercise, expect_number, expect_type

LAB = "09"


def _number(got, where: str) -> float:
    expect_type(got, (int, float), where)
    return float(got)


@exercise(
    "log_uniform",
    lab=LAB,
    title="draw by factors",
    difficulty=1,
    minutes=5,
    hints=(
        "Half way between 1e-6 and 1e-2 is, by factors, 1e-4: half way between the logarithms.",
        "Go from log(low) to log(high) in even steps, then undo the logarithm.",
        "return low * (high / low) ** u",
    ),
    after="Each decade gets the same share of the draws, and optuna's log=True does the same.",
)
def log_uniform(answer):
    for low, high in ((1e-6, 1e-2), (8.0, 64.0), (2e-4, 5e-2)):
        for u in (0.25, 0.5, 0.0, 1.0, 0.9):
            where = f"for u = {u:g} between {low:g} and {high:g}"
            got = _number(call(answer, u, low, high), where)
            right = low * (high / low) ** u
            if math.isclose(got, right, rel_tol=1e-6):
                continue
            exponent = math.log10(low) + u * (math.log10(high) - math.log10(low))
            usual = (
                (low + u * (high - low), "that is even by difference, not by factor: nearly all draws would lie in "
                                         "the highest decade."),
                (high * (low / high) ** u, "turned round: u = 0 should give low, and yours gives high."),
                (exponent, "that is the logarithm (base 10) of the answer. Undo it."),
                (exponent * math.log(10), "that is the logarithm of the answer. Undo it with exp."),
                (math.exp(exponent), "the logarithm is of base 10 and it is undone with exp: use one base for both."),
                (10 ** (exponent * math.log(10)), "the natural logarithm is undone with 10 **: use one base for both."),
                (low * u * (high / low), "the ratio is multiplied by u: it is raised to the power of u."),
                ((high / low) ** u, "low is missing: the power tells by how much to multiply it."),
                (low**u * high, "low to the power of u, times high: the bounds need powers that add up to 1."),
                (math.exp(u * (math.log(high) - math.log(low))), "low is missing in the sum of logarithms."),
            )
            for value, sentence in usual:
                if math.isclose(got, value, rel_tol=1e-6, abs_tol=1e-12):
                    raise Wrong(f"{where}: expected {right:.3g}, and got {got:.3g}: {sentence}")
            expect_number(got, right, 1e-6, where)


@exercise(
    "too_narrow",
    lab=LAB,
    title="see that a range is too narrow",
    difficulty=2,
    minutes=7,
    hints=(
        "Where does the best value stand between low and high, from 0 to 1, on the scale it was drawn on?",
        "Without log it is (value - low) / (high - low). With log, the same of the logarithms.",
        'spot = (log(value) - log(low)) / (log(high) - log(low))\n'
        'return "lower" if spot < margin else "higher" if spot > 1 - margin else "fits"',
    ),
    after="A best value near the end of its range may not be the optimum: it says where the range should go on.",
)
def too_narrow(answer):
    cases = (
        (9.2e-4, 1e-6, 1e-3, True, "higher"),
        (5e-4, 1e-6, 1e-3, True, "fits"),
        (1.1e-6, 1e-6, 1e-3, True, "lower"),
        (1e-5, 1e-6, 1e-3, True, "fits"),
        (9.0, 8.0, 64.0, False, "lower"),
        (63.0, 8.0, 64.0, False, "higher"),
        (32.0, 8.0, 64.0, False, "fits"),
        (0.15, 0.0, 0.2, False, "fits"),
        (12.5, 8.0, 64.0, False, "fits"),
        (62.0, 8.0, 64.0, False, "higher"),
    )
    said = []
    for value, low, high, log, _ in cases:
        got = call(answer, value, low, high, log, 0.05)
        if not isinstance(got, str):
            raise Wrong(f'expected "lower", "higher" or "fits", and got {describe(got)}.')
        said.append(got)
    right = [case[-1] for case in cases]
    if strange := sorted(set(said) - {"lower", "higher", "fits"}):
        raise Wrong(f'expected "lower", "higher" or "fits", and got {strange[0]!r}.')
    if said == right:
        return

    def by(spot, margin=0.05):
        return ["lower" if s < margin else "higher" if s > 1 - margin else "fits" for s in spot]

    even = [(v - low) / (high - low) for v, low, high, *_ in cases]
    scaled = [math.log(v / low) / math.log(high / low) if low > 0 else (v - low) / (high - low)
              for v, low, high, *_ in cases]
    mixed = [b if log else a for a, b, (*_, log, _) in zip(even, scaled, cases, strict=True)]
    swap = {"lower": "higher", "higher": "lower", "fits": "fits"}
    if said == [swap[word] for word in right]:
        raise Wrong('"lower" and "higher" are turned round: near high, the range should be higher.')
    if said == by(even):
        raise Wrong(f"for {cases[3][0]:g} between {cases[3][1]:g} and {cases[3][2]:g} on a log scale: expected fits, "
                    "and got lower. You took the place by difference: on a log scale compare logarithms.")
    if said == by(scaled):
        raise Wrong("for 9 between 8 and 64 without log: expected lower. You take logarithms everywhere: only where "
                    "log is true.")
    if said == by([abs(s) for s in mixed], 0.0) or set(said) == {"fits"}:
        raise Wrong("every value fits, also one that has reached the end nearly. Is the margin used?")
    if said == by(mixed, 0.10):
        raise Wrong("the margin is twice as wide as asked: it holds on each side.")
    if said == by(mixed, 0.025):
        raise Wrong("the margin is half as wide as asked: margin = 0.05 means the outer 5 % on each side.")
    if "lower" not in said:
        raise Wrong("a value near low is never noticed: the range may have to go on at either end.")
    if "higher" not in said:
        raise Wrong("a value near high is never noticed: the range may have to go on at either end.")
    at = next(i for i, (a, b) in enumerate(zip(said, right, strict=True)) if a != b)
    value, low, high, log, want = cases[at]
    raise Wrong(f"for {value:g} between {low:g} and {high:g}, log = {log}, margin 0.05: expected {want}, and got "
                f"{said[at]}.")


@exercise(
    "should_stop",
    lab=LAB,
    title="stop what is behind",
    difficulty=2,
    minutes=10,
    hints=(
        "Only the same look may be compared: the last one of this trial, in those of the others that have it.",
        "last = max(looks). Take other[last] of every other trial, and their median; statistics.median does it.",
        "The trial's own figure is its best so far: max(looks.values()). Fewer than `startup` others: never stop.",
        "seen = [other[last] for other in others if last in other]\n"
        "return len(others) >= startup and max(looks.values()) < median(seen)",
    ),
    after="It is optuna's MedianPruner, and the tests compare the two on hundreds of trials.",
)
def should_stop(answer):
    others = [{1: a, 2: b, 3: c} for a, b, c in
              ((0.20, 0.30, 0.50), (0.24, 0.36, 0.55), (0.30, 0.40, 0.60), (0.34, 0.46, 0.72), (0.90, 0.92, 0.99))]
    cases = (
        # looks, others, startup, right, what it shows
        ({1: 0.25}, others, 5, True, "behind at the first look"),
        ({1: 0.45}, others, 5, False, "ahead of the median at the first look, behind the others' ends"),
        ({1: 0.30}, others, 5, False, "as good as the median"),
        ({1: 0.41, 2: 0.38}, others, 5, False, "behind now, but its best so far is not"),
        ({1: 0.20, 2: 0.50}, others, 5, False, "behind at the first look, ahead at the second"),
        ({1: 0.35, 2: 0.36}, others, 5, True, "ahead at the first look, behind at the second"),
        ({1: 0.25}, others[:4], 5, False, "fewer than `startup` others"),
        ({1: 0.10}, [*others[:3], {1: 0.05}, {2: 0.9, 3: 0.95}], 5, True, "one of the others has no such look"),
        ({1: 0.35}, others, 5, False, "below the mean, above the median"),
        ({1: 0.10}, others[:2], 2, True, "startup = 2"),
    )
    said = []
    for looks, rest, startup, _, what in cases:
        got = call(answer, looks, rest, startup)
        if type(got).__name__ not in ("bool", "bool_"):  # numpy has one of its own
            raise Wrong(f"expected True or False, and got {describe(got)}: {what}.")
        said.append(bool(got))
    right = [case[3] for case in cases]
    if said == right:
        return
    if said == [not word for word in right]:
        raise Wrong("turned round: True is to mean that the trial is stopped.")
    if all(said):
        raise Wrong("every trial is stopped, also one that is ahead of all others but one.")
    if not any(said):
        raise Wrong("no trial is ever stopped.")
    usual = {
        6: "with four others, fewer than startup = 5, none may be stopped yet: the median of so few says little.",
        1: "a trial with 45 % at its first look is stopped, where the others had 30 % in the middle then. Compare with "
           "the same look of the others, not with their ends.",
        8: "a trial with 35 % at the first look is stopped: it is below the mean of the others, which one very good "
           "trial has raised, and above their median.",
        2: "a trial that is as good as the median is stopped: only what is below it is.",
        3: "a trial is judged by its last figure; take its best so far, so that one bad look does not end it.",
        4: "a trial that was behind at the first look and is ahead now is stopped. Compare at its last look.",
        0: "a trial with 25 % is let through, where the others had 30 % in the middle at that look.",
        5: "a trial with 36 % at its second look is let through, where the others had 40 % in the middle then.",
        7: "one of the others has no figure at that look: leave it out of the median, and go on.",
        9: "with startup = 2 and two others a trial behind both is to be stopped: is the 5 written into it?",
    }
    at = next(i for i in usual if said[i] != right[i])
    raise Wrong(f"{cases[at][4]}: expected {right[at]}, and got {said[at]}: {usual[at]}")


@exercise(
    "tpe_pick",
    lab=LAB,
    title="where it was good, and not bad",
    difficulty=3,
    minutes=12,
    hints=(
        "`density(x, centres, width)` is the smooth histogram of the centres at x. You need it twice a candidate.",
        "Good settings should be likely at x, and bad ones unlikely: divide the first density by the second.",
        "return max(candidates, key=lambda x: density(x, good, width) / density(x, bad, width))",
    ),
    after="This is the tree-structured Parzen estimator in one dimension; what is left is drawing the candidates.",
)
def tpe_pick(answer):
    from labkit.scratch.search import density

    cases = (
        ([-4.0, -3.0, -2.0, -1.0], [-2.2, -2.0, -1.8, -1.1], [-4.5, -3.5, -2.0, -2.1, -1.9], 0.3),
        ([0.0, 1.0, 3.0, 5.0], [0.95, 1.0, 1.05, 1.1, 3.0, 4.2], [0.0, 0.2, 0.9, 1.0, 1.1, 2.2, 4.1], 0.4),
        ([-5.0, -2.5, 0.0], [-2.5], [-5.0, 0.0, -2.4, -2.6], 0.5),
    )
    for candidates, good, bad, width in cases:
        got = call(answer, candidates, good, bad, width)
        where = f"for candidates {candidates}, good {good}, bad {bad}, width {width:g}"
        if isinstance(got, (list, tuple)):
            raise Wrong(f"{where}: expected one of the candidates, and got {describe(got)}.")
        got = _number(got, where)
        up = {x: density(x, good, width) for x in candidates}
        down = {x: density(x, bad, width) for x in candidates}
        ratio = {x: up[x] / down[x] for x in candidates}
        right = max(candidates, key=ratio.get)
        if got == right:
            continue
        if any(math.isclose(got, value, rel_tol=1e-9) for value in ratio.values()):
            raise Wrong(f"{where}: {got:.3g} is the ratio itself. Give the candidate that has it, not the ratio.")
        if got in range(len(candidates)) and got == candidates.index(right) and got not in candidates:
            raise Wrong(f"{where}: {got:.0f} is the place of the right candidate in the list. Give the candidate.")
        if got not in candidates:
            raise Wrong(f"{where}: {got:g} is none of the candidates.")
        usual = (
            (min(candidates, key=ratio.get), "that has the smallest ratio: good ones above the line, bad ones below, "
                                             "and max."),
            (max(candidates, key=lambda x: up[x] - down[x]), "that has the largest difference; TPE takes the ratio."),
            (max(candidates, key=up.get), "that is where good ones are densest, but many bad ones lie there too. "
                                          "Divide by their density."),
            (min(candidates, key=down.get), "that is where bad ones are rarest, but no good ones are either."),
            (max(candidates, key=down.get), "that is where most bad ones lie."),
        )
        for value, sentence in usual:
            if got == value:
                raise Wrong(f"{where}: expected {right:g}, and got {got:g}: {sentence}")
        raise Wrong(f"{where}: expected {right:g}, and got {got:g}. Is the width handed on?")


@exercise(
    "luck",
    lab=LAB,
    title="how much is luck",
    difficulty=2,
    minutes=8,
    hints=(
        "First the standard deviation of the figures, with n - 1: they are a sample.",
        "A difference of two runs has two lucks in it. Variances add, so its standard deviation is sqrt(2) times one.",
        "return 2 * sqrt(2) * stdev(figures), with stdev of the module statistics",
    ),
    after="A lead below this is what two seeds of one setting give, too.",
)
def luck(answer):
    import statistics

    for figures in ([0.62, 0.67, 0.58, 0.65, 0.64], [0.71, 0.70, 0.74], [0.5, 0.9, 0.3, 0.4, 0.45, 0.6]):
        where = f"for {', '.join(f'{v:g}' for v in figures)}"
        got = _number(call(answer, figures), where)
        sd, n = statistics.stdev(figures), len(figures)
        right, biased = 2 * math.sqrt(2) * sd, statistics.pstdev(figures)
        if math.isclose(got, right, rel_tol=1e-6):
            continue
        usual = (
            (2 * math.sqrt(2) * biased, "the standard deviation divides by n; of a sample it divides by n - 1."),
            (2 * sd, "that is for one run against its mean. Two runs differ by two lucks: sqrt(2) times as much."),
            (math.sqrt(2) * sd, "that is one standard deviation of a difference, which chance exceeds every third "
                                "time. Take two."),
            (sd, "that is the standard deviation of one run. The question is of a difference, and of what is exceeded "
                 "once in twenty times."),
            (biased, "that is the standard deviation with n of one run; the question is of a difference of two."),
            (2 * sd / math.sqrt(n), "that is for the mean of all runs, which is known better. A trial is one run."),
            (2 * math.sqrt(2) * sd / math.sqrt(n), "that is for the difference of two means of so many runs each. A "
                                                   "trial is a single run."),
            (2 * math.sqrt(2) * sd**2, "that is the variance: its root is missing."),
            (max(figures) - min(figures), "that is the range, which grows with the number of seeds."),
            (4 * sd, "that is twice 2 standard deviations: variances add, not standard deviations."),
            (statistics.mean(figures), "that is the mean."),
        )
        for value, sentence in usual:
            if math.isclose(got, value, rel_tol=1e-6):
                raise Wrong(f"{where}: expected {right:.4f}, and got {got:.4f}: {sentence}")
        expect_number(got, right, 1e-6, where)
