"""The exercises of lab 03, LoRA: what each answer is tried on, and what is said of the usual wrong ones."""

from __future__ import annotations

from labkit.exercises import Wrong, call, describe, exercise, expect_close, expect_number, expect_shape, expect_type

LAB = "03"


def _example():
    """Seeded x (4, 6), W (5, 6), A (2, 6), B (5, 2), alpha: sizes that all differ, so that a swap shows."""
    import torch

    g = torch.Generator().manual_seed(3)
    shapes = ((4, 6), (5, 6), (2, 6), (5, 2))
    return (*(torch.randn(shape, generator=g) for shape in shapes), 16.0)


@exercise(
    "detour_parameters",
    lab=LAB,
    title="count the detour",
    difficulty=1,
    minutes=3,
    hints=(
        "A has r rows, one number for each input; B has r columns, one number for each output.",
        "A is (r, d_in) and B is (d_out, r). Count the numbers in each and add.",
        "return r * d_in + d_out * r",
    ),
    after="It grows with r times (d_in + d_out); W grows with d_in times d_out. That is the whole saving.",
)
def detour_parameters(answer):
    for d_out, d_in, r in ((512, 192, 8), (192, 192, 8), (192, 512, 4)):
        got = call(answer, d_out, d_in, r)
        expect_type(got, (int, float))
        where = f"for d_out = {d_out}, d_in = {d_in}, r = {r}"
        right = r * (d_in + d_out)
        usual = {
            r * d_in: "that is A alone. B has parameters too: d_out × r of them.",
            r * d_out: "that is B alone. A has parameters too: r × d_in of them.",
            d_out * d_in: "that is W itself, which stays frozen. Count A (r, d_in) and B (d_out, r).",
            d_out * d_in + right: "that is W and the detour together. Only A and B are trained; leave W out.",
            r * d_in * d_out * r: "the counts of A and B are multiplied. They stand beside each other: add them.",
            r * d_in * d_out: "that is r matrices as large as W. A and B have one long side each.",
            2 * r * d_in: "that is right only where d_in equals d_out. B has d_out rows.",
            2 * r * d_out: "that is right only where d_in equals d_out. A has d_in columns.",
        }
        if got != right and got in usual:
            raise Wrong(f"{where}: expected {right:,}, and got {got:,}: {usual[got]}")
        expect_number(got, right, 0, where)


@exercise(
    "lora_forward",
    lab=LAB,
    title="the forward pass",
    difficulty=1,
    minutes=5,
    hints=(
        "Two ways lead from x to h: through W, and through A and then B. They are added.",
        "x carries the batch in front, so each matrix stands on the right of it, transposed: x @ W.T is "
        "(batch, d_out).",
        "r is A.shape[0]. The detour is x @ A.T @ B.T, times alpha / r.",
        "return x @ W.T + (alpha / A.shape[0]) * (x @ A.T @ B.T)",
    ),
    after="Two thin products in place of one wide one; B A itself is never built.",
)
def lora_forward(answer):
    import torch

    x, W, A, B, alpha = _example()
    got = call(answer, x, W, A, B, alpha)
    where = f"for x {tuple(x.shape)}, W {tuple(W.shape)}, A {tuple(A.shape)}, B {tuple(B.shape)}"
    expect_shape(got, (4, 5), where)
    straight, detour = x @ W.T, x @ A.T @ B.T
    zero = call(answer, x, W, A, torch.zeros_like(B), alpha)
    if not zero.any():
        raise Wrong(
            "right shape, but with B = 0 your answer is all zeros. The detour stands beside W, not in its place: "
            "what is still missing?"
        )
    expect_close(zero, straight, 1e-5, "with B = 0, where only W x is left")
    _judge_scale(got - straight, detour, alpha, A.shape[0], "in the detour")
    expect_close(got, straight + alpha / 2 * detour, 1e-5, where)
    other = call(answer, x, W, A[:1], B[:, :1], alpha)
    expect_close(
        other, straight + alpha * (x @ A[:1].T @ B[:, :1].T), 1e-5, "with r = 1 (take r from A, not from outside)"
    )


def _judge_scale(got, detour, alpha: float, r: int, where: str) -> None:
    """Say which wrong scale stands before the detour, if a usual one does."""
    import torch

    usual = {
        alpha: f"{r}.0 times too large {where}: the factor is alpha / r, and r is `A.shape[0]`.",
        1.0: f"{alpha / r:g} times too small {where}: alpha / r is missing.",
        1.0 / r: f"alpha is missing {where}: the factor is alpha / r, and yours is 1 / r.",
        r / alpha: f"upside down {where}: the factor is alpha / r, and yours is r / alpha.",
        alpha / r**0.5: f"alpha / sqrt(r) {where}: that is rsLoRA's rule. Here the factor is alpha / r.",
        -alpha / r: f"subtracted {where}: the detour is added to W x.",
        alpha * r: f"alpha × r {where}: divide by r.",
    }
    for factor, sentence in usual.items():
        if abs(factor - alpha / r) > 1e-9 and torch.allclose(got, factor * detour, atol=1e-4, rtol=1e-4):
            raise Wrong(f"right shape, but {sentence}")


@exercise(
    "lora_linear",
    lab=LAB,
    title="a layer that can stand in for nn.Linear",
    difficulty=2,
    minutes=12,
    hints=(
        "Three things are decided in __init__: what is frozen, how A starts, how B starts.",
        "linear.requires_grad_(False) freezes weight and bias. A and B are nn.Parameter, A random and B zero.",
        "forward is the layer's own answer plus the detour: self.linear(x) + self.scale * (x @ self.A.T @ self.B.T).",
        "self.A = nn.Parameter(torch.randn(r, linear.in_features) / linear.in_features ** 0.5)\n"
        "self.B = nn.Parameter(torch.zeros(linear.out_features, r))\nself.scale = alpha / r",
    ),
    after="At the first step the model is exactly the base: training starts from there and from nowhere else.",
)
def lora_linear(answer):
    import torch

    torch.manual_seed(0)
    linear, x = torch.nn.Linear(6, 5), torch.randn(4, 6)
    want = linear(x).detach()
    layer = call(answer, linear, 2, 16.0, copies=False)
    if not isinstance(layer, torch.nn.Module):
        raise Wrong(f"expected a class derived from nn.Module, and got {describe(layer)}.")
    parameters = dict(layer.named_parameters())
    named = {name: p for name, p in parameters.items() if name.split(".")[-1] in ("A", "B")}
    if sorted(n.split(".")[-1] for n in named) != ["A", "B"]:
        raise Wrong(
            "the layer has no parameters called A and B. Wrap both in nn.Parameter and keep them as self.A and "
            f"self.B; what it has is {', '.join(parameters) or 'nothing'}."
        )
    A, B = (next(p for n, p in named.items() if n.split(".")[-1] == letter) for letter in "AB")
    expect_shape(A, (2, 6), "for A with r = 2, d_in = 6")
    expect_shape(B, (5, 2), "for B with d_out = 5, r = 2")
    if A.any() and B.any():
        raise Wrong(
            "A and B both start at random, so the layer answers otherwise than W before the first step. "
            "One of them, B, starts at zero."
        )
    if not A.any() and not B.any():
        raise Wrong(
            "A and B both start at zero, so neither ever gets a gradient and the layer never learns. "
            "A starts at random."
        )
    if B.any():
        raise Wrong(
            "A starts at zero and B at random. It would learn too, but peft and the paper have it the other way: "
            "A random, B zero."
        )
    moving = [n for n, p in parameters.items() if p.requires_grad and p is not A and p is not B]
    if moving:
        raise Wrong(
            f"{', '.join(moving)} would be trained too. Freeze the layer you were given: linear.requires_grad_(False)."
        )
    if not (A.requires_grad and B.requires_grad):
        raise Wrong(
            f"{'A' if not A.requires_grad else 'B'} is frozen: freeze only the layer that you were given, then make "
            "A and B."
        )
    expect_close(
        call(layer, x, copies=False), want, 1e-5, "before training, where it must equal the given layer, bias included"
    )
    with torch.no_grad():
        B.copy_(torch.randn(5, 2))
    got = call(layer, x, copies=False)
    detour = x @ A.T @ B.T
    _judge_scale(got.detach() - want, detour.detach(), 16.0, 2, "in the detour")
    expect_close(got, (want + 8 * detour).detach(), 1e-4, "with B no longer zero")


@exercise(
    "rank_for_budget",
    lab=LAB,
    title="the largest rank that a budget allows",
    difficulty=2,
    minutes=8,
    hints=(
        "Every target matrix costs r × (d_in + d_out). Add up what one unit of rank costs over all of them.",
        "cost = sum(d_out + d_in for d_out, d_in in shapes); the budget is share × total parameters.",
        "return int(share * total // sum(d_out + d_in for d_out, d_in in shapes))",
    ),
    after="The cost is linear in r, so a budget gives the rank by one division.",
)
def rank_for_budget(answer):
    shapes = [(192, 192)] * 4 + [(512, 192)] * 2 + [(192, 512)]
    total, unit = 2_000_000, 4 * 384 + 3 * 704
    for share in (0.06, 0.011, 0.0001):
        got = call(answer, shapes, total, share)
        where = f"for {len(shapes)} matrices, {total:,} parameters and a budget of {share:.2%}"
        expect_type(got, (int, float), where)
        right = int(share * total // unit)
        if got != right:
            exact = share * total / unit
            one_matrix = int(share * total // 384)
            usual = {
                right + 1: f"rank {right + 1} costs {(right + 1) * unit:,} and the budget is {share * total:,.0f}: "
                "round down, not up.",
                one_matrix: "that counts one matrix only: the adapter sits on all of them. Sum the cost over shapes.",
                0: "the budget is share × total, and one unit of rank costs d_out + d_in for each matrix, not "
                "d_out × d_in. Which of the two is otherwise in yours?",
                int(share * 100 * total // unit): "100 times the budget: share is between 0 and 1 already.",
            }
            if isinstance(got, float) and abs(got - exact) < 1e-6:
                raise Wrong(f"{where}: {got:.2f} is the right quotient, but a rank is a whole number: round it down.")
            if got in usual:
                raise Wrong(f"{where}: expected {right}, and got {got}: {usual[got]}")
        expect_number(got, right, 0, where)


@exercise(
    "merged_weight",
    lab=LAB,
    title="put the detour into W",
    difficulty=1,
    minutes=5,
    hints=(
        "The forward pass is linear in x, so the two ways can be one matrix.",
        "B is (d_out, r) and A is (r, d_in): only B @ A has the shape of W.",
        "return W + (alpha / A.shape[0]) * (B @ A)",
    ),
    after="Merged, the adapter costs nothing at serving time, and cannot be switched off any more.",
)
def merged_weight(answer):
    import torch

    x, W, A, B, alpha = _example()
    got = call(answer, W, A, B, alpha)
    where = f"for W {tuple(W.shape)}, A {tuple(A.shape)}, B {tuple(B.shape)}"
    expect_shape(got, (5, 6), where)
    zero = call(answer, W, A, torch.zeros_like(B), alpha)
    if not zero.any():
        raise Wrong("with B = 0 your matrix is all zeros: W itself is missing. The detour is added to it.")
    expect_close(zero, W, 1e-6, "with B = 0, where W must come out as it went in")
    _judge_scale(got - W, B @ A, alpha, A.shape[0], "in the detour")
    if got.dtype != W.dtype:
        raise Wrong(f"the right kind of matrix, but its dtype is {got.dtype} where W has {W.dtype}.")
    expect_close(got, W + alpha / 2 * (B @ A), 1e-5, where)
    expect_close(x @ got.T, x @ W.T + alpha / 2 * (x @ A.T @ B.T), 1e-5, "on a batch of x")


@exercise(
    "effective_rank",
    lab=LAB,
    title="how much of the rank is used",
    difficulty=2,
    minutes=10,
    hints=(
        "The matrix to look at is B @ A, not A or B alone. torch.linalg.svdvals gives its singular values, "
        "largest first.",
        "Square them, make them shares of their sum, and add up from the largest on until `share` is reached.",
        "energy = torch.linalg.svdvals(B @ A) ** 2\nreturn int((energy.cumsum(0) / energy.sum() < share).sum()) + 1",
    ),
    after="B A has at most r singular values above 0: that is all that training could use.",
)
def effective_rank(answer):
    import torch

    def pair(values: list[float], split: list[float], d_out: int = 9, d_in: int = 7):
        """A and B whose product has these singular values; A alone has those of `split`."""
        g = torch.Generator().manual_seed(5)
        u = torch.linalg.qr(torch.randn(d_out, len(values), generator=g))[0]
        v = torch.linalg.qr(torch.randn(d_in, len(values), generator=g))[0]
        return (v * torch.tensor(split)).T.contiguous(), u * (torch.tensor(values) / torch.tensor(split))

    cases = (
        ([3.0, 2.0, 1.0, 0.5], [1.0, 1.0, 10.0, 5.0], 0.9),
        ([1.0] * 4, [8.0, 1.0, 1.0, 0.5], 0.7),
        ([5.0, 0.1, 0.1, 0.1], [1.0] * 4, 0.9),
    )
    for values, split, share in cases:
        A, B = pair(values, split)
        got = call(answer, A, B, share)
        where = f"where B @ A has singular values {', '.join(f'{v:g}' for v in values)} and share = {share}"
        if isinstance(got, torch.Tensor) and got.numel() == 1:
            got = got.item()
        expect_type(got, (int, float), where)

        def count(energy, share=share):
            energy = energy.sort(descending=True).values
            return int((energy.cumsum(0) / energy.sum() < share - 1e-6).sum()) + 1

        s = torch.tensor(values)
        right = count(s**2)
        usual = {
            right - 1: f"the first {right - 1} hold less than {share:.0%}; one more is needed. Is the count one short?",
            count(s): "you added the singular values themselves. Energy is their square.",
            len(
                values
            ): f"that is r, or the number of values that are not zero. Ask how many hold {share:.0%} of the energy.",
            count(torch.linalg.svdvals(A) ** 2): "that is A alone. What the layer adds is B @ A.",
            count(torch.linalg.svdvals(B) ** 2): "that is B alone. What the layer adds is B @ A.",
            min(A.shape[1], B.shape[0]): "that counts all singular values, the zeros too.",
        }
        if got != right and got in usual:
            raise Wrong(f"{where}: expected {right}, and got {got:g}: {usual[got]}")
        expect_number(got, right, 0, where)


@exercise(
    "alpha_for",
    lab=LAB,
    title="change the rank, keep the scale",
    difficulty=2,
    minutes=6,
    hints=(
        "LoRA multiplies the detour by alpha / r. Which alpha keeps that quotient when r changes?",
        "alpha_new / r_new = alpha / r. For rsLoRA the quotient is alpha / sqrt(r).",
        "ratio = new_r / r\nreturn alpha * ratio if rule == 'lora' else alpha * ratio ** 0.5",
    ),
    after="Whether the *scale* is what should stay is another question: see the quiz, and try both in the explorer.",
)
def alpha_for(answer):
    for new_r, r, alpha in ((32, 8, 10.0), (2, 8, 16.0), (8, 8, 10.0)):
        for rule in ("lora", "rslora"):
            got = call(answer, new_r, r, alpha, rule)
            where = f"for r {r} -> {new_r}, alpha {alpha:g}, rule {rule!r}"
            expect_type(got, (int, float), where)
            ratio = new_r / r
            right = alpha * (ratio if rule == "lora" else ratio**0.5)
            usual = {
                alpha: "alpha did not change, so the detour's scale does.",
                alpha / ratio: "turned round: more rank divides by more, so alpha must grow with it.",
                2.0 * new_r: "twice the new rank is a common recipe, but it ignores the alpha that you were given.",
                alpha * ratio**0.5: "that is rsLoRA's rule, alpha / sqrt(r). LoRA divides by r itself.",
                alpha * ratio: "that is LoRA's rule, alpha / r. rsLoRA divides by sqrt(r).",
                alpha / ratio**0.5: "turned round: alpha grows with the root of the rank, and yours shrinks.",
                ratio: "that is the ratio of the ranks. Multiply it with the alpha you were given.",
            }
            if abs(got - right) > 1e-9:
                for value, sentence in usual.items():
                    if abs(got - value) < 1e-9:
                        raise Wrong(f"{where}: expected {right:g}, and got {got:g}: {sentence}")
            expect_number(got, right, 1e-9, where)


@exercise(
    "silent_modules",
    lab=LAB,
    title="find the adapter that does nothing",
    difficulty=2,
    minutes=6,
    hints=(
        "An adapter does nothing when its detour is zero whatever comes in. When is that so?",
        "B @ A is zero if B is zero, and also if A is.",
        "return [name for name, (A, B) in pairs.items() if not (B @ A).any()]",
    ),
    after="Two lines, and the commonest silent failure has a name. labkit looks after every training, too.",
)
def silent_modules(answer):
    import torch

    g = torch.Generator().manual_seed(4)

    def some(*shape):
        return torch.randn(*shape, generator=g)

    pairs = {
        "layers.0.q_proj": (some(2, 6), some(5, 2)),
        "layers.0.v_proj": (some(2, 6), torch.zeros(5, 2)),
        "layers.1.q_proj": (torch.zeros(2, 6), some(5, 2)),
        "layers.1.v_proj": (some(2, 6) * 1e-3, some(5, 2) * 1e-3),
        "layers.2.q_proj": (some(2, 6), torch.tensor([[1.0, -1.0]] * 5)),
    }
    got = call(answer, pairs)
    if isinstance(got, (str, dict)) or not hasattr(got, "__iter__"):
        raise Wrong(f"expected a list of names, and got {describe(got)}.")
    got = list(got)
    strange = [name for name in got if name not in pairs]
    if strange:
        raise Wrong(f"expected names of modules such as 'layers.0.v_proj', and got {describe(strange[0])} among them.")
    said = set(got)
    if len(said) != len(got):
        raise Wrong("a module is named twice.")
    if said == set(pairs):
        raise Wrong("all five modules are named, and three of them do something. Is the condition always true?")
    if said == {"layers.0.q_proj", "layers.1.v_proj", "layers.2.q_proj"}:
        raise Wrong("these are the modules that do something: the answer is turned round.")
    if "layers.1.v_proj" in said:
        raise Wrong(
            "layers.1.v_proj is named, but its detour is small, not zero: small adapters work. Compare with zero."
        )
    if "layers.2.q_proj" in said:
        raise Wrong(
            "layers.2.q_proj is named, but its B is not zero: its columns add up to zero, and the detour does not. "
            "Ask whether any entry differs from zero, rather than for the sum."
        )
    if "layers.0.v_proj" not in said:
        raise Wrong("layers.0.v_proj is missing: its B is all zeros, as before the first step.")
    if "layers.1.q_proj" not in said:
        raise Wrong("layers.1.q_proj is missing: its B is not zero, but its A is, so B A x is zero all the same.")
    if said != {"layers.0.v_proj", "layers.1.q_proj"}:
        raise Wrong(f"expected layers.0.v_proj and layers.1.q_proj, and got {', '.join(sorted(said))}.")
