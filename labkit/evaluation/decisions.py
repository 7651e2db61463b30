"""From scores to decisions: how far confidence can be trusted, and what a threshold saves in money.

Takes confidences and which answers were right; gives calibration figures, and the threshold that costs least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labkit import plots
from labkit.errors import LabError
from labkit.scratch.metrics import calibration_bins, calibration_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def temperature(log_likelihoods, truth: Sequence[int], grid: Sequence[float] | None = None) -> float:
    """The number to divide log-likelihoods by so that confidence fits (Guo et al., 2017); answers stay the same.

    Args:
        log_likelihoods: (rows, labels), of validation rows, never of the test rows that will be reported.
        truth: the right column of each row.
    """
    x, rows = np.asarray(log_likelihoods, float), np.arange(len(truth))
    grid = np.geomspace(0.1, 20, 200) if grid is None else grid

    def loss(t: float) -> float:
        scaled = x / t
        shifted = scaled - scaled.max(-1, keepdims=True)
        return float((np.log(np.exp(shifted).sum(-1)) - shifted[rows, truth]).mean())

    return float(min(grid, key=loss))


def reliability(confidence: Sequence[float], right: Sequence[bool], title: str = "", bins: int = 10) -> Figure:
    """Accuracy over confidence, a dot a bin, as large as the bin has rows; the diagonal is a model that is as sure as
    it is right."""
    each = calibration_bins(confidence, right, bins)
    error = calibration_error(confidence, right, bins)
    over = float(np.mean(confidence)) - float(np.mean(right))
    more = "surer than right" if over > 0 else "righter than sure"
    title = f"{title}: {100 * abs(over):.0f} points {more} on average (ECE {error:.3f})".removeprefix(": ")
    figure, axes = plots.new(title, "confidence (%)", "accuracy in the bin (%)", width=5.6, height=4.2)
    axes.plot([0, 100], [0, 100], "--", color=plots.COLOURS["grey"], label="as sure as right")
    sizes = [20 + 300 * b["rows"] / len(right) for b in each]
    axes.scatter([100 * b["confidence"] for b in each], [100 * b["accuracy"] for b in each], s=sizes,
                 color=plots.COLOURS["blue"], label="answers by confidence", zorder=3, clip_on=False)
    axes.set_xlim(0, 103)
    axes.set_ylim(0, 105)
    axes.legend(frameon=False, loc="upper left")
    return figure


def cost_matrix(labels: Sequence[str], wrong: float, special: Mapping[tuple[str, str], float] | None = None):
    """(labels, labels) money for a ticket of the row's team that was sent to the column's; right ones cost nothing.

    Args:
        wrong: what a misrouted ticket costs, mostly.
        special: (true, said) to another price.

    Raises:
        LabError: a label in `special` that is not there, or a negative price.
    """
    costs = np.full((len(labels), len(labels)), float(wrong))
    np.fill_diagonal(costs, 0.0)
    for (true, said), price in (special or {}).items():
        missing = [name for name in (true, said) if name not in labels]
        if missing or price < 0:
            raise LabError(f"{missing[0]!r} is no label" if missing else f"a price of {price}",
                           where=f"special[{true!r}, {said!r}]", expected="two of the labels and a price from 0 on")
        costs[list(labels).index(true), list(labels).index(said)] = price
    return costs


@dataclass(frozen=True)
class Plan:
    """What routing costs: money a ticket and a week, and the share of tickets that goes to a person first."""

    threshold: float
    a_ticket: float
    a_week: float
    by_hand: float


def money(truth: Sequence[int], probabilities, costs, by_hand: float, a_week: int, thresholds=None) -> list[Plan]:
    """What each threshold costs: below it a person reads the ticket, from it on the model's answer is taken.

    Args:
        truth: the right column of each row.
        probabilities: (rows, labels).
        costs: of `cost_matrix`.
        by_hand: what a person's look costs, a ticket; they are taken to be right.
        a_week: tickets a week.
        thresholds: on the confidence; None is 0 (the model alone), then each hundredth, then above 1 (people alone).
    """
    p, rows = np.asarray(probabilities, float), np.arange(len(truth))
    said, sure = p.argmax(-1), p.max(-1)
    price = np.asarray(costs, float)[np.asarray(truth), said]
    thresholds = [*np.arange(0, 1.0001, 0.01), 1.01] if thresholds is None else thresholds
    plans = []
    for threshold in thresholds:
        asks = sure[rows] < threshold
        each = float(np.where(asks, by_hand, price).mean())
        plans.append(Plan(round(float(threshold), 4), each, each * a_week, float(asks.mean())))
    return plans


def cheapest(plans: Sequence[Plan]) -> Plan:
    """The plan that costs least; of several, the one with the lowest threshold."""
    return min(plans, key=lambda plan: (plan.a_ticket, plan.threshold))
