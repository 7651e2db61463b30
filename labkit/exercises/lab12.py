"""The exercises of lab 12, scaling out: what each answer is tried on, and what is said of the usual wrong ones."""

from __future__ import annotations

import math

from labkit.exercises import Wrong, call, describe, exercise, expect_number, expect_type
from labkit.scratch import parallel

LAB = "12"


def _told(got: float, right: float, usual: dict[str, float], where: str) -> None:
    """Raise the sentence of the usual wrong answer that `got` is, if it is one and not the right one."""
    if math.isclose(got, right, rel_tol=1e-6, abs_tol=1e-12):
        return
    for sentence, value in usual.items():
        if math.isclose(got, value, rel_tol=1e-5):
            raise Wrong(f"{where}: expected {right:.6g}, and got {got:.6g}: {sentence}")


def _number(got, where: str) -> float:
    """A number as a float; tensors and arrays of one element too."""
    if hasattr(got, "item") and getattr(got, "numel", lambda: getattr(got, "size", 1))() == 1:
        got = got.item()
    expect_type(got, (int, float), where)
    return float(got)


@exercise(
    "step_loss",
    lab=LAB,
    title="one step, several parts",
    difficulty=1,
    minutes=5,
    hints=(
        "It is the mean over all tokens of the step. Parts with few tokens must not weigh as much as those with many.",
        "Add up all losses of all parts, and count all tokens of all parts. Divide once, at the end.",
        "return sum(part.sum() for part in parts) / sum(len(part) for part in parts)",
    ),
    after="One division by the tokens of the whole step. That number is all that the parts must agree on beforehand.",
)
def step_loss(answer):
    import torch

    g = torch.Generator().manual_seed(12)
    for sizes in ((6, 2), (5, 1, 3), (4,), (2, 2)):
        parts = [torch.rand(n, generator=g) * 3 for n in sizes]
        where = f"for parts of {', '.join(map(str, sizes))} tokens"
        got = _number(call(answer, parts), where)
        right = float(parallel.step_loss(parts))
        means, sums, n = [float(p.mean()) for p in parts], [float(p.sum()) for p in parts], len(parts)
        _told(got, right, {
            "that is the mean of the parts' means, in which a token of a short part weighs more than one of a long "
            "part. Divide once, by all tokens.": sum(means) / n,
            "that is the sum of the parts' means: it grows with the number of parts.": sum(means),
            "that is the sum over the tokens; divide it by their number.": sum(sums),
            "that is the sum divided by the number of parts; divide it by the number of tokens.": sum(sums) / n,
            "that is the last part alone.": means[-1],
            "that is the first part alone.": means[0],
            "that divides by the tokens of the longest part times the parts, as if all were padded and the padding "
            "counted.": sum(sums) / (n * max(sizes)),
        }, where)
        expect_number(got, right, 1e-5, where)


@exercise(
    "rows_of",
    lab=LAB,
    title="who takes which rows",
    difficulty=2,
    minutes=8,
    hints=(
        "First write down what one process takes in this step: order[step * batch : (step + 1) * batch].",
        "Cut that batch into as many equal pieces as there are processes, and give piece number `rank`.",
        "share = batch // processes\nbegin = step * batch + rank * share\nreturn order[begin : begin + share]",
    ),
    after="The batch is cut, not the data: so a step sees the same rows whatever the number of processes.",
)
def rows_of(answer):
    order = [11, 4, 19, 0, 7, 23, 15, 2, 9, 20, 13, 6, 17, 1, 22, 5, 10, 18, 3, 14, 21, 8, 16, 12]
    for batch, processes, step in ((6, 2, 0), (6, 3, 1), (4, 1, 2), (6, 2, 2)):
        where = f"for step {step}, batch {batch}, {processes} processes"
        shares = []
        for rank in range(processes):
            got = call(answer, order, step, batch, processes, rank)
            if isinstance(got, str | dict) or not hasattr(got, "__iter__"):
                raise Wrong(f"{where}: expected a list of row numbers, and got {describe(got)}.")
            shares.append([int(row) for row in got])
        together = [row for share in shares for row in share]
        want = order[step * batch : (step + 1) * batch]
        if sorted(together) == sorted(want) and len({len(share) for share in shares}) == 1:
            continue
        after = order[(step + 1) * batch : (step + 2) * batch]
        if processes > 1 and len({tuple(share) for share in shares}) == 1:
            raise Wrong(f"{where}: every process gets {shares[0]}, so the same work is done {processes} times. Where "
                        "does `rank` come in?")
        if len(together) == processes * batch:
            raise Wrong(f"{where}: each process gets {batch} rows, so a step has {processes * batch}. `batch` is what "
                        "all take together: each gets batch / processes of it.")
        if len(together) != batch:
            raise Wrong(f"{where}: the processes get {len(together)} rows together, and a step has {batch}.")
        if set(together) == set(range(step * batch, (step + 1) * batch)):
            raise Wrong(f"{where}: these are places, not rows. Row numbers stand in `order`, which is shuffled.")
        if len(set(together)) < len(together):
            raise Wrong(f"{where}: row {next(r for r in together if together.count(r) > 1)} is given to two processes.")
        if sorted(together) == sorted(want):
            raise Wrong(f"{where}: the right rows, but not the same number for each process: "
                        f"{', '.join(str(len(share)) for share in shares)}.")
        if sorted(together) == sorted(after):
            raise Wrong(f"{where}: these are the rows of the step after. Steps count from 0.")
        raise Wrong(f"{where}: one process would take {want}, and yours take {together} together. Cut the batch "
                    "of this step into shares, not the whole data.")


@exercise(
    "ring_seconds",
    lab=LAB,
    title="the price of agreeing",
    difficulty=2,
    minutes=6,
    hints=(
        "How many bytes are the gradients? parameters × size. Each process sends them nearly twice.",
        "They are cut into p pieces. Summing sends p - 1 of them to the neighbour, handing round as many more.",
        "return 2 * (processes - 1) / processes * parameters * size / bandwidth",
    ),
    after="With many processes it comes to twice the gradients, whatever their number: that is why the ring is used.",
)
def ring_seconds(answer):
    for parameters, size, processes, bandwidth in ((7_000_000, 4, 5, 1e9), (135_000_000, 2, 2, 12.5e9),
                                                   (1_000_000, 4, 1, 1e9)):
        where = f"for {parameters:,} gradients of {size} bytes, {processes} processes, {bandwidth:.3g} bytes/s"
        got = _number(call(answer, parameters, size, processes, bandwidth), where)
        right, all_of = parallel.ring_seconds(parameters, size, processes, bandwidth), parameters * size / bandwidth
        p = processes
        _told(got, right, {
            "that is half of it: the sums must be handed round, too.": right / 2,
            "each process sends all gradients once in yours. It sends (p - 1) / p of them, twice.":
                all_of if p != 2 else math.nan,
            "that is the limit for many processes. With p of them, a process keeps one of its p pieces.": 2 * all_of,
            "that would be one process that collects from p - 1 others and answers each. In a ring all send at the "
            "same time.": 2 * (p - 1) * all_of,
            "the gradients go to all others at once in yours. In a ring each piece goes to one neighbour at a time.":
                (p - 1) * all_of if p != 2 else math.nan,
            "the bytes of a gradient are missing: multiply with `size`.": right / size,
            "bandwidth is in bytes here, not in bits.": right * 8,
            "(p - 1) / p is upside down.": 2 * p / max(p - 1, 1) * all_of,
        }, where)
        expect_number(got, right, 1e-6, where)


@exercise(
    "training_cost",
    lab=LAB,
    title="hours and money",
    difficulty=2,
    minutes=8,
    hints=(
        "All FLOPs are factor × parameters × tokens. What do your GPUs really do in a second?",
        "A second brings gpus × utilisation × flops. An hour has 3,600 of them. You pay for each GPU.",
        "hours = factor * parameters * tokens / (gpus * utilisation * flops) / 3600\n"
        "return hours, hours * gpus * price",
    ),
    after="The number of GPUs has gone from the money: twice as many cost twice as much for half as long, at best.",
)
def training_cost(answer):
    for case in ((1e9, 50e6, 4, 65e12, 0.35, 3, 0.6), (7e9, 1e9, 6, 312e12, 0.45, 8, 2.4)):
        parameters, tokens, factor, flops, utilisation, gpus, price = case
        where = (f"for {parameters:.0e} parameters, {tokens:.0e} tokens, factor {factor}, {gpus} GPUs of {flops:.3g} "
                 f"FLOP/s at {utilisation:.0%}, {price} an hour")
        got = call(answer, *case)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong(f"{where}: expected two numbers, hours and money, and got {describe(got)}.")
        hours, money = _number(got[0], where), _number(got[1], where)
        right, bill = parallel.training_cost(*case)
        if math.isclose(hours, bill, rel_tol=1e-6) and math.isclose(money, right, rel_tol=1e-6):
            raise Wrong(f"{where}: both are right, the other way round: hours first, then money.")
        _told(hours, right, {
            "those are GPU-hours. By the clock the GPUs work at the same time: divide by their number.": right * gpus,
            "those are seconds: an hour has 3,600.": right * 3600,
            "those are minutes.": right * 60,
            "as if the GPUs reached their peak: divide by the utilisation too.": right * utilisation,
            "multiplied with the utilisation, where it divides: a lazy GPU takes longer.": right * utilisation**2,
            "the factor is missing: a parameter costs several FLOPs for each token.": right / factor,
            "divided by the number of GPUs twice.": right / gpus,
        }, f"hours {where}")
        expect_number(hours, right, 1e-6, f"of hours {where}")
        _told(money, bill, {
            "each GPU is paid for: multiply with their number.": right * price,
            "that is the price of an hour times the GPUs squared.": right * price * gpus**2,
            "that is hours times GPUs; the price is missing.": right * gpus,
            "divided by the number of GPUs, where each is paid for.": right * price / gpus,
            "divided by the price.": right * gpus / price,
        }, f"money {where}")
        expect_number(money, bill, 1e-6, f"of money {where}")
