"""A gate: rules that a candidate must pass before it takes the baseline's place, for a notebook and for CI alike.

Takes two Evaluations of the same rows and rules; gives a Verdict that says which rule failed, and why.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.errors import LabError
from labkit.evaluation.doubt import holm
from labkit.evaluation.runner import TASKS, Evaluation, difference
from labkit.tables import Table

LIMITS = ("at_least", "at_most", "no_drop", "no_proven_drop")
LOWER_IS_BETTER = ("perplexity", "byte perplexity", "bits per byte", "latency")
RULES = (  # where nothing else is asked for
    {"metric": "main", "no_drop": 0.03},
    {"metric": "main", "slice": "label", "no_proven_drop": 0.0},
    {"metric": "latency", "at_most": 2.0},
)


@dataclass(frozen=True)
class Rule:
    """One demand. `metric` is a name in `Evaluation.metrics`, "main", or "latency" (times the baseline's).

    Exactly one limit: `at_least` and `at_most` look at the candidate's figure alone. `no_drop` asks the candidate for
    proof: the 95 % interval of the difference, row by row, must end above minus this much. `no_proven_drop` asks the
    gate for proof: it stops what is worse by more than this much beyond doubt, which is what small slices allow.
    `slice` is a column: the rule then holds for each of its values, and p is made good for their number (Holm).
    """

    metric: str
    limit: str
    amount: float
    slice: str | None = None

    def __str__(self) -> str:
        amount = f"{self.amount:g}"
        said = {"at_least": f"at least {amount}", "at_most": f"at most {amount}",
                "no_drop": f"shown not to drop by more than {amount}",
                "no_proven_drop": f"not shown to drop by more than {amount}"}[self.limit]
        if self.metric == "latency" and self.limit == "at_most":
            said = f"at most {amount} times the baseline's"
        return f"{self.metric}{f' for each {self.slice}' if self.slice else ''}: {said}"


@dataclass(frozen=True)
class Checked:
    """One rule and how it went."""

    rule: Rule
    passed: bool
    saw: str


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate may pass, and what each rule saw. True in an `if` where it may."""

    checked: list[Checked]

    @property
    def passed(self) -> bool:
        return all(c.passed for c in self.checked)

    @property
    def failures(self) -> list[Checked]:
        """The rules that failed."""
        return [c for c in self.checked if not c.passed]

    def table(self) -> Table:
        return Table([{"rule": str(c.rule), "": "passes" if c.passed else "FAILS", "saw": c.saw}
                      for c in self.checked], "The gate is open." if self.passed else "The gate is shut.")

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return str(self.table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def gate(candidate: Evaluation, baseline: Evaluation, rules: Sequence[Mapping[str, Any]] | None = None) -> Verdict:
    """Hold a candidate against a baseline.

    Args:
        candidate, baseline: of the same rows, in the same order.
        rules: dicts such as {"metric": "accuracy", "no_drop": 0.02} or {"metric": "accuracy", "slice": "label",
            "no_proven_drop": 0}; see Rule. None is RULES.

    Raises:
        LabError: a rule that cannot be read, or evaluations of different rows.
    """
    read = [_rule(i, rule) for i, rule in enumerate(RULES if rules is None else rules, 1)]
    if not read:
        raise LabError("no rule", where="rules", expected="at least one: a gate without rules lets everything pass")
    difference(baseline, candidate)  # refuses evaluations of different rows, whatever the rules ask
    if rules is None and "label" not in candidate.columns:
        read = [rule for rule in read if rule.slice is None]
    return Verdict([_check(rule, candidate, baseline) for rule in read])


def read_rules(file: str | Path) -> list[dict]:
    """Rules from a YAML or JSON file: a list of them.

    Raises:
        LabError: there is no such file, or it holds something else.
    """
    import yaml

    try:
        found = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LabError("there is no such file", where=str(file)) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LabError(f"cannot be read ({str(error).splitlines()[0]})", where=str(file),
                       expected="YAML or JSON") from error
    if not isinstance(found, list) or not all(isinstance(rule, dict) for rule in found):
        raise LabError("this is no list of rules", where=str(file),
                       expected=f"one or more, such as {json.dumps([RULES[0]])}")
    for i, rule in enumerate(found, 1):
        _rule(i, rule, str(file))
    return found


def _rule(number: int, rule: Mapping[str, Any], file: str = "rules") -> Rule:
    where = f"{file}, rule {number}"
    limits = [name for name in LIMITS if name in rule]
    if strange := sorted(set(rule) - {"metric", "slice", *LIMITS}):
        raise LabError(f"{strange[0]!r} is not known", where=where, expected=f"metric, slice, {', '.join(LIMITS)}")
    if len(limits) != 1:
        raise LabError(f"{len(limits)} limits", where=where, expected=f"exactly one of {', '.join(LIMITS)}")
    amount = rule[limits[0]]
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not math.isfinite(amount) or amount < 0:
        raise LabError(f"{limits[0]} is {amount!r}", where=where, expected="a number from 0 on")
    made = Rule(str(rule.get("metric", "main")), limits[0], float(amount), rule.get("slice"))
    if made.metric == "latency" and (made.limit != "at_most" or made.slice):
        raise LabError("latency can only be limited by at_most, times the baseline's", where=where)
    return made


def _check(rule: Rule, candidate: Evaluation, baseline: Evaluation) -> Checked:
    if rule.metric == "latency":
        times = candidate.latency / baseline.latency
        return Checked(rule, times <= rule.amount,
                       f"{1000 * candidate.latency:.1f} ms a row, {times:.2f} times {1000 * baseline.latency:.1f}")
    main = TASKS[candidate.task]
    metric = main if rule.metric == "main" else rule.metric
    if metric not in candidate.metrics:
        raise LabError(f"there is no metric {metric!r}", where="rules", expected=", ".join(candidate.metrics))
    if rule.limit in ("no_drop", "no_proven_drop") or rule.slice:
        if metric != main:
            raise LabError(f"{metric} is not known row by row", where="rules", expected=f"{main}, or at_least, at_most",
                           todo="Compare the main figure, or limit this one by at_least or at_most")
        return _sliced(rule, candidate, baseline) if rule.slice else _paired(rule, candidate, baseline)
    value = candidate.metrics[metric].value
    passed = value >= rule.amount if rule.limit == "at_least" else value <= rule.amount
    return Checked(rule, passed, str(candidate.metrics[metric]))


def _paired(rule: Rule, candidate: Evaluation, baseline: Evaluation) -> Checked:
    d = difference(baseline, candidate)
    passed = d.low >= -rule.amount if rule.limit == "no_drop" else d.high >= -rule.amount
    return Checked(rule, passed, str(d))


def _sliced(rule: Rule, candidate: Evaluation, baseline: Evaluation) -> Checked:
    found = candidate.slices(rule.slice)  # the worst first
    if rule.limit in ("at_least", "at_most"):
        bad = [f"{value}: {score}" for value, score in found.items()
               if (score.value < rule.amount if rule.limit == "at_least" else score.value > rule.amount)]
        worst = next(iter(found.items()))
        return Checked(rule, not bad, "; ".join(bad) or f"the lowest is {worst[0]}: {worst[1]}")
    # Looking at k slices finds a drop by chance k times as often: the intervals are as wide as Holm's first step asks.
    level = 1 - 0.05 / len(found)
    apart = {value: difference(baseline, candidate, rule.slice, value, level) for value in found}
    p = holm({value: d.p for value, d in apart.items()})
    if rule.limit == "no_drop":
        bad = {value: d for value, d in apart.items() if d.low < -rule.amount}
    else:
        bad = {value: d for value, d in apart.items()
               if d.high < -rule.amount or (rule.amount == 0 and d.value < 0 and p[value] < 0.05)}
    lowest = min(apart, key=lambda value: apart[value].value)
    shown = bad or {lowest: apart[lowest]}
    text = "; ".join(f"{value} {d}" for value, d in sorted(shown.items(), key=lambda item: item[1].value))
    return Checked(rule, not bad, text if bad else f"the largest drop: {text}")
