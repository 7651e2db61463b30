"""The exercises of lab 05, adapters and many tasks: what each answer is tried on, and what is said of wrong ones."""

from __future__ import annotations

from labkit.exercises import (
    Wrong,
    call,
    describe,
    exercise,
    expect_close,
    expect_number,
    expect_shape,
    expect_type,
)

LAB = "05"


def _near(a, b) -> bool:
    import torch

    return a.shape == b.shape and torch.allclose(a, b, atol=1e-5, rtol=1e-4)


def _say(got, usual, where: str) -> None:
    """Raise the sentence of the first usual wrong result that the answer equals."""
    for value, sentence in usual:
        if _near(got, value):
            raise Wrong(f"{where}: {sentence}")


@exercise(
    "bottleneck_forward",
    lab=LAB,
    title="a narrow way round, and back",
    difficulty=1,
    minutes=6,
    hints=(
        "Two ways lead on: h as it is, and h made narrow, bent and made wide again. They are added.",
        "h carries the batch in front: h @ down.T is (batch, width). The bend is torch.nn.functional.gelu.",
        "return h + gelu(h @ down.T) @ up.T",
    ),
    after="With up = 0 it passes everything through: training starts at the base, as LoRA does.",
)
def bottleneck_forward(answer):
    import torch
    from torch.nn.functional import gelu, relu

    g = torch.Generator().manual_seed(5)
    h, down, up = (torch.randn(shape, generator=g) for shape in ((4, 6), (3, 6), (6, 3)))
    got = call(answer, h, down, up)
    where = "for h (4, 6), down (3, 6), up (6, 3)"
    expect_shape(got, (4, 6), where)
    narrow = h @ down.T
    _say(got, (
        (gelu(narrow) @ up.T, "the residual is missing: that is the detour alone. With up = 0 nothing would come out."),
        (h + narrow @ up.T, "there is no bend between down and up, so the two are one matrix of low rank: that is "
                            "LoRA's detour. gelu stands between them."),
        (h + gelu(narrow @ up.T), "gelu stands behind up. It belongs between down and up."),
        (h + gelu(h) @ down.T @ up.T, "gelu stands before down. It belongs between down and up."),
        (h + relu(narrow) @ up.T, "the bend is relu, and here it is gelu."),
        (h - gelu(narrow) @ up.T, "the detour is subtracted, and it is added to h."),
        (2 * h + gelu(narrow) @ up.T, "h is added twice."),
    ), where)
    expect_close(call(answer, h, down, torch.zeros_like(up)), h, 1e-6, "with up = 0, where h must come out as it is")
    expect_close(got, h + gelu(narrow) @ up.T, 1e-5, where)


@exercise(
    "bottleneck_parameters",
    lab=LAB,
    title="what a bottleneck costs",
    difficulty=1,
    minutes=4,
    hints=(
        "down is (width, d) with a bias for each of its outputs; up is (d, width) with a bias for each of its own.",
        "One layer: 2 · d · width for the matrices, width + d for the biases.",
        "return layers * (2 * d * width + width + d)",
    ),
    after="It cannot be merged into the base, since a bend stands in it: it costs a little at every answer.",
)
def bottleneck_parameters(answer):
    for d, width, layers in ((192, 16, 6), (64, 8, 1)):
        got = call(answer, d, width, layers)
        where = f"for d = {d}, width = {width}, layers = {layers}"
        expect_type(got, (int, float), where)
        right = layers * (2 * d * width + width + d)
        usual = {
            layers * 2 * d * width: "the biases are left out: width of them on the way down, d on the way up.",
            layers * (d * width + width): "that is the way down alone. The way up has d × width and d biases more.",
            layers * (d * width + d): "that is the way up alone. The way down has d × width and width biases more.",
            layers * (2 * d * width + 2 * d): "both biases are counted with d. down has `width` outputs, so as many.",
            layers * (2 * d * width + 2 * width): "both biases are counted with width. up has d outputs, so as many.",
            layers * (2 * d * width + d): "the bias of down is left out: it has `width` outputs.",
            layers * (2 * d * width + width): "the bias of up is left out: it has d outputs.",
            2 * right: "twice too many: here there is one bottleneck a layer, not two.",
            layers * d * d: "that is a square matrix a layer. A bottleneck has two thin ones.",
        }
        if layers > 1:
            usual[right // layers] = "that is one layer. Every layer has its own."
        if got != right and got in usual:
            raise Wrong(f"{where}: expected {right:,}, and got {got:,}: {usual[got]}")
        expect_number(got, right, 0, where)


@exercise(
    "ia3_forward",
    lab=LAB,
    title="one number an output",
    difficulty=1,
    minutes=4,
    hints=(
        "IA3 learns no matrix: each output of W x is multiplied by a number of its own.",
        "x @ W.T is (batch, d_out), and scale is (d_out,): the shapes meet as they are.",
        "return (x @ W.T) * scale",
    ),
    after="d_out numbers in place of r × (d_in + d_out): fewer than a LoRA of rank 1 trains.",
)
def ia3_forward(answer):
    import torch

    g = torch.Generator().manual_seed(6)
    for d in (5, 6):  # at 6 the matrix is square, so that a scale on the wrong side has no wrong shape
        x, W, scale = torch.randn(4, 6, generator=g), torch.randn(d, 6, generator=g), torch.rand(d, generator=g) + 0.5
        got = call(answer, x, W, scale)
        where = f"for x (4, 6), W ({d}, 6), scale ({d},)"
        expect_shape(got, (4, d), where)
        plain = x @ W.T
        usual = [
            (plain, "that is W x alone: scale is not used."),
            (plain + scale, "scale is added. It multiplies, so that ones, not zeros, change nothing."),
            (plain + plain * scale, "W x is there twice: with scale = 1 the answer must be W x."),
            (plain * (1 + scale), "1 + scale would start at zero; here scale starts at one."),
            (plain / scale, "the outputs are divided by scale, and they are multiplied."),
            (plain * scale.mean(), "one number multiplies all outputs. Each has its own."),
            (plain * scale**2, "scale is applied twice."),
        ]
        if d == 6:
            usual += [((x * scale) @ W.T, "scale multiplies the inputs. That is right for another place of IA3; here "
                                          "it is the outputs."), (x @ W * scale, "W is transposed: x @ W.T.")]
        _say(got, usual, where)
        expect_close(got, plain * scale, 1e-5, where)


@exercise(
    "mixed_batch",
    lab=LAB,
    title="every row its own adapter",
    difficulty=3,
    minutes=15,
    hints=(
        "Everything goes through W once, as one batch. Then each adapter adds its detour to its own rows.",
        "For each name: rows = torch.tensor([n == name for n in names]); x[rows] are its inputs. None adds nothing.",
        "h = x @ W.T\nfor name in set(names) - {None}:\n    A, B = adapters[name]\n"
        "    rows = torch.tensor([n == name for n in names])\n"
        "    h[rows] += alpha / A.shape[0] * (x[rows] @ A.T @ B.T)\nreturn h",
    ),
    after="The large product is made once for everybody. That is how one server answers for a hundred customers.",
)
def mixed_batch(answer):
    import torch

    g = torch.Generator().manual_seed(7)

    def some(*shape):
        return torch.randn(*shape, generator=g)

    x, W, alpha = some(5, 6), some(4, 6), 8.0
    adapters = {"tone": (some(2, 6), some(4, 2)), "reply": (some(2, 6), some(4, 2))}
    names = ["reply", None, "tone", "reply", "tone"]
    got = call(answer, x, W, adapters, names, alpha)
    where = "for names " + ", ".join(map(str, names))
    expect_shape(got, (5, 4), where)
    plain = x @ W.T
    by = {name: alpha / 2 * (x @ A.T @ B.T) for name, (A, B) in adapters.items()}
    zero = torch.zeros_like(plain)
    right = plain + torch.stack([by[n][i] if n else zero[i] for i, n in enumerate(names)])
    other = {"tone": "reply", "reply": "tone"}
    spread = torch.zeros_like(plain)
    for name in adapters:
        spread += by[name]
    _say(got, (
        (plain, "that is the base for every row: no adapter is used."),
        (right - plain, "that is the detours alone. W x is missing, and the row of None is all zeros."),
        (plain + spread, "every adapter is added to every row. Add each to its own rows only."),
        (plain + by["reply"], "every row is answered by the adapter of the first row."),
        (plain + by["tone"], "every row is answered by one adapter, tone."),
        (plain + torch.stack([by[n or "reply"][i] for i, n in enumerate(names)]),
         "the row whose name is None has a detour. None is the base alone."),
        (plain + torch.stack([by[n or "tone"][i] for i, n in enumerate(names)]),
         "the row whose name is None has the detour of tone. None is the base alone."),
        (plain + torch.stack([by[other[n]][i] if n else zero[i] for i, n in enumerate(names)]),
         "the two adapters are exchanged."),
        (plain + 2 * (right - plain), "the detours are twice too large: the factor is alpha / r, and r is 2. Is a row "
                                      "whose name comes twice added twice, or is r left out?"),
        (plain + 2 / alpha * (right - plain), "alpha / r is missing before the detours."),
        (plain + (right - plain) / alpha, "alpha is missing: the factor is alpha / r."),
    ), where)
    order = sorted(range(5), key=lambda i: str(names[i]))
    if _near(got, right[order]) and not _near(got, right):
        raise Wrong(f"{where}: the right rows in another order: give them back in the order in which they came.")
    expect_close(got, right, 1e-4, where)
    wide = {"tone": adapters["tone"], "reply": (some(4, 6), some(4, 4))}
    A, B = wide["reply"]
    expect_close(call(answer, x[:1], W, wide, ["reply"], alpha), plain[:1] + alpha / 4 * (x[:1] @ A.T @ B.T), 1e-4,
                 "where reply has r = 4 (each adapter has a rank of its own: take it from A)")


@exercise(
    "mixed_detour",
    lab=LAB,
    title="a weighted mix of two adapters",
    difficulty=2,
    minutes=8,
    hints=(
        "What an adapter adds to W is B A. A mix adds a weighted sum of those.",
        "Sum the products, not the factors: (w1 B1 + w2 B2)(w1 A1 + w2 A2) has B1 A2 and B2 A1 in it too.",
        "return sum(w * (B @ A) for w, (A, B) in zip(weights, pairs))",
    ),
    after="Its rank is up to the sum of the ranks: a mix of the same rank is an approximation (svd), or another thing.",
)
def mixed_detour(answer):
    import torch

    g = torch.Generator().manual_seed(8)
    pairs = [(torch.randn(2, 6, generator=g), torch.randn(5, 2, generator=g)) for _ in range(2)]
    for weights in ([0.7, 0.4], [1.0, -0.5]):
        got = call(answer, pairs, weights)
        where = f"for two adapters (A (2, 6), B (5, 2)) and weights {weights[0]:g}, {weights[1]:g}"
        expect_shape(got, (5, 6), where)
        (A1, B1), (A2, B2) = pairs
        v, w = weights
        right = v * B1 @ A1 + w * B2 @ A2
        apart = (v * B1 + w * B2) @ (v * A1 + w * A2)
        root = [(abs(u) ** 0.5) * (1 if u > 0 else -1) for u in weights]
        peft = (abs(v) ** 0.5 * B1 + abs(w) ** 0.5 * B2) @ (root[0] * A1 + root[1] * A2)
        _say(got, (
            (apart, "A and B are summed apart, so that B of one meets A of the other, and the weights are squared. "
                    "Sum the products B A."),
            (peft, "roots of the weights on A and B are peft's `linear`: B of one still meets A of the other. Sum the "
                   "products B A."),
            (B1 @ A1 + B2 @ A2, "the weights are not used."),
            (v * B1 @ A1, "only the first adapter is there."),
            (w * B2 @ A2, "only the last adapter is there. Is the sum begun anew in each turn of the loop?"),
            (w * B1 @ A1 + v * B2 @ A2, "the weights are exchanged."),
            (right / 2, "half of the sum: it is no mean, the weights say it all."),
            (right / sum(weights), "the sum is divided by the sum of the weights; they are taken as they are."),
            (v**2 * B1 @ A1 + w**2 * B2 @ A2, "the weights are squared: one on A or on B is enough."),
        ), where)
        expect_close(got, right, 1e-4, where)


@exercise(
    "route",
    lab=LAB,
    title="send a ticket to its adapter, or to nobody",
    difficulty=2,
    minutes=7,
    hints=(
        "Three questions: which intent is likeliest, is it likely enough, and is there an adapter for it?",
        "intent = max(shares, key=shares.get) is the likeliest; routes.get(intent) is None where there is no route.",
        "intent = max(shares, key=shares.get)\nreturn routes.get(intent) if shares[intent] >= least else None",
    ),
    after="None is an answer too: a person reads what the router is not sure of.",
)
def route(answer):
    routes = {"refund": "reply", "delivery": "entities", "thanks": "summary"}
    cases = (
        ({"thanks": 0.2, "refund": 0.7, "delivery": 0.1}, 0.5, "reply"),
        ({"refund": 0.1, "thanks": 0.1, "delivery": 0.8}, 0.8, "entities"),
        ({"refund": 0.4, "delivery": 0.35, "thanks": 0.25}, 0.5, None),
        ({"complaint": 0.9, "refund": 0.1}, 0.05, None),
    )
    for shares, least, right in cases:
        got = answer(dict(shares), dict(routes), least)  # None may be right, so `call` would refuse too much
        if got is Ellipsis:
            from labkit.exercises import NotAttempted

            raise NotAttempted
        where = (f"for {', '.join(f'{k} {v:g}' for k, v in shares.items())} and least = {least:g}")
        best = max(shares, key=shares.get)
        if got == right and (got is None or isinstance(got, str)):
            continue
        if got is None:
            if shares[best] == least:
                raise Wrong(f"{where}: {best} is exactly as likely as asked, and `least` is allowed: >=, not >.")
            raise Wrong(f"{where}: expected {right!r}, and got None. Does every way through your function return?")
        if isinstance(got, str) and got in shares:
            raise Wrong(f"{where}: {got!r} is the intent. What is asked is its adapter: routes[intent].")
        if not isinstance(got, str):
            raise Wrong(f"{where}: expected an adapter's name or None, and got {describe(got)}.")
        if right is None and best not in routes:
            raise Wrong(f"{where}: there is no adapter for complaint, and {got!r} is none for it: give None.")
        if right is None:
            raise Wrong(f"{where}: the likeliest intent has {shares[best]:g}, less than `least`: give None.")
        if got == routes.get(min(shares, key=shares.get)):
            raise Wrong(f"{where}: {got!r} is the adapter of the least likely intent.")
        if got == routes.get(next(iter(shares))):
            raise Wrong(f"{where}: {got!r} is the adapter of the first intent, whatever its share.")
        raise Wrong(f"{where}: expected {right!r}, and got {got!r}.")


@exercise(
    "constrained_choice",
    lab=LAB,
    title="choose only what a grammar allows",
    difficulty=2,
    minutes=7,
    hints=(
        "Of all tokens, look only at the allowed ones, and give the id of the likeliest of those.",
        "logits[allowed].argmax() counts within `allowed`: look the id up there.",
        "ids = torch.tensor(list(allowed))\nreturn int(ids[logits[ids].argmax()])",
    ),
    after="Applied at every step it makes every answer parse. Whether what stands in it is true, it cannot say.",
)
def constrained_choice(answer):
    import torch

    logits = torch.tensor([2.0, -3.0, 5.0, -1.0, -0.5, 4.0, -2.0])
    for allowed in ([5, 0, 1], [3, 6, 1], [6, 4]):
        got = call(answer, logits, allowed)
        if isinstance(got, torch.Tensor) and got.numel() == 1:
            got = got.item()
        where = f"for logits {', '.join(f'{v:g}' for v in logits.tolist())} and allowed = {allowed}"
        expect_type(got, (int, float), where)
        values = [float(logits[i]) for i in allowed]
        right = allowed[values.index(max(values))]
        if got == right and isinstance(got, int):
            continue
        place = values.index(max(values))
        zeroed = torch.zeros_like(logits)
        zeroed[allowed] = logits[allowed]
        if got == int(logits.argmax()):
            raise Wrong(f"{where}: {got} is the likeliest of all tokens, and it is not allowed here.")
        if got == allowed[values.index(min(values))]:
            raise Wrong(f"{where}: {got} is the least likely of the allowed tokens.")
        if isinstance(got, float) and got in values:
            raise Wrong(f"{where}: {got:g} is a logit. Give the id of its token.")
        if got == int(zeroed.argmax()):
            raise Wrong(f"{where}: {got} is not allowed. Logits of forbidden tokens that are set to 0 can still win, "
                        "since allowed ones may be negative: set them to minus infinity.")
        if got == place:
            raise Wrong(f"{where}: {got} is the place within `allowed`. Give the token's id, {right}.")
        if got == allowed[0]:
            raise Wrong(f"{where}: {got} is the first of `allowed`, whatever its logit.")
        expect_number(got, right, 0, where)
