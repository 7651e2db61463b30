"""What several processes have to agree on, by hand: the loss of a step, the rows of each, the traffic, the bill.

Each is what lab 12 has the learner write; `labkit.processes` and `labkit.scaling` are what the course runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def step_loss(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The loss of a step whose batch came in parts: the mean over all tokens that count, not over the parts.

    Args:
        parts: the losses of the tokens that count, (n_i,) for part i, in nats; no n_i need equal another.
    """
    return sum(part.sum() for part in parts) / sum(len(part) for part in parts)


def rows_of(order: Sequence[int], step: int, batch: int, processes: int, rank: int) -> list[int]:
    """The rows that process `rank` takes in a step, where all together take what one process would.

    Args:
        order: row numbers as they were shuffled. step: from 0 on.
        batch: rows of a step over all processes; `processes` divides it.

    >>> [rows_of([5, 0, 3, 1, 4, 2], 1, 2, 2, rank) for rank in range(2)]
    [[3], [1]]
    """
    share = batch // processes
    begin = step * batch + rank * share
    return list(order[begin : begin + share])


def ring_seconds(parameters: int, size: int, processes: int, bandwidth: float) -> float:
    """Seconds in which a ring of processes sums its gradients: 2 (p - 1) / p x parameters x size / bandwidth.

    Each process sends (p - 1) of p pieces to its neighbour while they are summed up, and as many again to hand the
    sums round (Patarasuk and Yuan, 2009).

    Args:
        parameters: that are trained. size: bytes of one gradient. bandwidth: bytes a second to the neighbour.
    """
    return 2 * (processes - 1) / processes * parameters * size / bandwidth


def training_cost(parameters: float, tokens: float, factor: int, flops: float, utilisation: float, gpus: int,
                  price: float) -> tuple[float, float]:
    """Hours by the clock, and money: factor N D / (gpus x utilisation x FLOP/s), and hours x gpus x price.

    Args:
        factor: FLOPs for each parameter and token, 6 or 4. flops: of one GPU at its peak, a second.
        utilisation: share of the peak that is reached, 0 to 1. price: of a GPU for an hour.
    """
    hours = factor * parameters * tokens / (gpus * utilisation * flops) / 3600
    return hours, hours * gpus * price
