"""Right and wrong answers to lab 12's exercises."""

from labkit.scratch import parallel

REFERENCES = {
    "step_loss": parallel.step_loss,
    "rows_of": parallel.rows_of,
    "ring_seconds": parallel.ring_seconds,
    "training_cost": parallel.training_cost,
}


def cost(hours=lambda h, g, u, f: h, money=lambda h, g, p: h * g * p, swap=False):
    """A bill with one thing wrong with it."""

    def answer(parameters, tokens, factor, flops, utilisation, gpus, price):
        right = factor * parameters * tokens / (gpus * utilisation * flops) / 3600
        mine = hours(right, gpus, utilisation, factor), money(right, gpus, price)
        return mine[::-1] if swap else mine

    return answer


WRONG = {
    "step_loss": [
        lambda parts: sum(p.mean() for p in parts) / len(parts),
        lambda parts: sum(p.mean() for p in parts),
        lambda parts: sum(p.sum() for p in parts),
        lambda parts: sum(p.sum() for p in parts) / len(parts),
        lambda parts: parts[-1].mean(),
        lambda parts: parts[0].mean(),
        lambda parts: sum(p.sum() for p in parts) / (len(parts) * max(map(len, parts))),
        lambda parts: [p.mean() for p in parts],
        lambda parts: None,
    ],
    "rows_of": [
        lambda order, step, batch, p, rank: order[step * batch : (step + 1) * batch],
        lambda order, step, batch, p, rank: order[(step * p + rank) * batch : (step * p + rank + 1) * batch],
        lambda order, step, batch, p, rank: order[rank * len(order) // p :][step * batch // p :][: batch // p],
        lambda order, step, batch, p, rank: [step * batch + rank * batch // p + i for i in range(batch // p)],
        lambda order, step, batch, p, rank: order[step * batch :][: batch // p],
        lambda order, step, batch, p, rank: order[(step + 1) * batch + rank * batch // p :][: batch // p],
        lambda order, step, batch, p, rank: order[step * batch + rank * batch // p :][: batch // p - 1],
        lambda order, step, batch, p, rank: order[step * batch + rank :][: batch // p],
        lambda order, step, batch, p, rank: order[step * batch :][:batch][slice(1) if not rank else slice(1, None)],
        lambda order, step, batch, p, rank: None,
        lambda order, step, batch, p, rank: 7,
    ],
    "ring_seconds": [
        lambda n, size, p, b: (p - 1) / p * n * size / b,
        lambda n, size, p, b: 2 * n * size / b,
        lambda n, size, p, b: n * size / b,
        lambda n, size, p, b: 2 * (p - 1) * n * size / b,
        lambda n, size, p, b: (p - 1) * n * size / b,
        lambda n, size, p, b: 2 * (p - 1) / p * n / b,
        lambda n, size, p, b: 8 * 2 * (p - 1) / p * n * size / b,
        lambda n, size, p, b: 2 * p / max(p - 1, 1) * n * size / b,
        lambda n, size, p, b: "long",
        lambda n, size, p, b: None,
    ],
    "training_cost": [
        cost(hours=lambda h, g, u, f: h * g),
        cost(hours=lambda h, g, u, f: h * 3600),
        cost(hours=lambda h, g, u, f: h * u),
        cost(hours=lambda h, g, u, f: h * u * u),
        cost(hours=lambda h, g, u, f: h / f),
        cost(hours=lambda h, g, u, f: h / g),
        cost(money=lambda h, g, p: h * p),
        cost(money=lambda h, g, p: h * g),
        cost(money=lambda h, g, p: h * p / g),
        cost(money=lambda h, g, p: h * g / p),
        cost(swap=True),
        lambda *case: cost()(*case)[0],
        lambda *case: None,
    ],
}
