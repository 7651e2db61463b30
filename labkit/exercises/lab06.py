"""The exercises of lab 06, custom losses: what each answer is tried on, and what is said of the usual wrong ones."""

from __future__ import annotations

from labkit.exercises import Wrong, call, describe, exercise, expect_close, expect_shape
from labkit.scratch import losses

LAB = "06"


def _pairs(n: int = 6, width: int = 4):
    """Seeded a and b (n, width) of length 1, and y (n,) with three ones."""
    import torch

    g = torch.Generator().manual_seed(6)
    a, b = (torch.nn.functional.normalize(torch.randn(n, width, generator=g), dim=-1) for _ in "ab")
    return a, b, torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0][:n])


def _tensor(got, where: str):
    import torch

    if not isinstance(got, torch.Tensor):
        raise Wrong(f"{where}: expected a tensor, and got {describe(got)}. Is there a `return`?"
                    if got is None else f"{where}: expected a tensor, and got {describe(got)}.")


def _judge(got, right, usual: dict[str, object], where: str) -> None:
    """Compare with the right value, and name the usual mistake that gives this very number."""
    import torch

    _tensor(got, where)
    expect_shape(got, tuple(right.shape), where)
    if not torch.isfinite(got).all():
        raise Wrong(f"{where}: expected {_say(right)}, and got {_say(got)}.")
    if torch.allclose(got, right, atol=1e-5, rtol=1e-4):
        return
    for sentence, value in usual.items():
        if torch.allclose(got, torch.as_tensor(value, dtype=right.dtype), atol=1e-5, rtol=1e-4):
            raise Wrong(f"{where}: expected {_say(right)}, and got {_say(got)}: {sentence}")
    expect_close(got, right, 1e-5, where)


def _say(value) -> str:
    return f"{float(value.detach()):.4f}" if value.numel() == 1 else str([round(v, 4) for v in value.tolist()])


@exercise(
    "safe_distance",
    lab=LAB,
    title="a distance that can be zero",
    difficulty=2,
    minutes=6,
    hints=(
        "The slope of a square root at 0 is infinite, and infinite times 0 is NaN.",
        "Keep what stands under the root away from 0, by something far smaller than any distance that matters.",
        "return (((a - b) ** 2).sum(-1) + 1e-12).sqrt()",
    ),
    after="A clamp under the root would do too. A clamp behind it would not: the NaN is made by the root.",
)
def safe_distance(answer):
    import torch

    a, b, _ = _pairs()
    got = call(answer, a, b)
    where = "for a and b of shape (6, 4)"
    _tensor(got, where)
    squared = ((a - b) ** 2).sum(-1)
    if got.numel() == 1 and got.dim() == 0:
        raise Wrong(f"{where}: expected six distances, one a pair, and got one number. Sum over the last axis only.")
    _judge(got, squared.sqrt(), {
        "that is the squared distance. The root is missing.": squared,
        "that is the sum of absolute differences. Euclid's squares them first.": (a - b).abs().sum(-1),
        "that is the mean of the squares under the root. It is their sum.": (squared / 4).sqrt(),
        "that is too much under the root: it must be far smaller than a distance that matters.": (squared + 0.01
                                                                                                    ).sqrt(),
    } if got.shape == squared.shape else {}, where)
    x = a.clone().requires_grad_()
    call(answer, x, a, copies=False).sum().backward()
    if x.grad is None:
        raise Wrong("no gradient comes back to a: detach, numpy or torch.no_grad stands in the way.")
    if not torch.isfinite(x.grad).all():
        raise Wrong("right distances, but where a equals b the gradient is NaN. The root's slope at 0 is infinite; "
                    "what stands under it must not be 0.")
    x = a.clone().requires_grad_()
    call(answer, x, b, copies=False).sum().backward()
    expect_close(x.grad, (a - b) / squared.sqrt()[:, None], 1e-4, "for the gradient of the distances at a")


@exercise(
    "contrastive_loss",
    lab=LAB,
    title="the contrastive loss from its formula",
    difficulty=2,
    minutes=10,
    hints=(
        "Two terms, and y chooses between them: with y = 0 only the first is left, with y = 1 only the second.",
        "d is safe_distance(a, b), one number a pair; max(0, m - d) is (margin - d).clamp(min=0).",
        "return ((1 - y) * d**2 + y * (margin - d).clamp(min=0) ** 2).mean()",
    ),
    after="Pairs that do not mean the same are pushed only as far as the margin; beyond it they cost nothing.",
)
def contrastive_loss(answer):
    import torch

    a, b, y = _pairs()
    d = losses.safe_distance(a, b)
    for margin in (1.0, 1.6):
        got = call(answer, a, b, y, margin)
        where = f"for six pairs and margin {margin:g}"
        push = (margin - d).clamp(min=0)
        right = ((1 - y) * d**2 + y * push**2).mean()
        if isinstance(got, torch.Tensor) and got.shape == d.shape:
            raise Wrong(f"{where}: expected one number, and got six. The mean over pairs is missing.")
        _judge(got, right, {
            "y is turned round: here y = 1 says that the two do *not* mean the same.": (
                y * d**2 + (1 - y) * push**2).mean(),
            "max(0, ...) is missing: pairs beyond the margin are pulled back to it.": (
                (1 - y) * d**2 + y * (margin - d) ** 2).mean(),
            "that is the sum over pairs. Divide by their number.": right * 6,
            "the second square is missing, that of max(0, m - d).": ((1 - y) * d**2 + y * push).mean(),
            "the first square is missing, that of d.": ((1 - y) * d + y * push**2).mean(),
            "the margin meets the squared distance. It is compared with d itself.": (
                (1 - y) * d**2 + y * (margin - d**2).clamp(min=0) ** 2).mean(),
            "the paper's factor 1/2 is in it; the formula here has none.": right / 2,
            "that is the pull alone. Pairs with y = 1 must be pushed apart.": ((1 - y) * d**2).mean(),
            "y does not choose: both terms count for every pair.": (d**2 + push**2).mean(),
            "max(0, d - m) is turned round: pairs that are nearer than the margin are to be pushed.": (
                (1 - y) * d**2 + y * (d - margin).clamp(min=0) ** 2).mean(),
        }, where)
    got = call(answer, a[:1], a[:1], y[:1], 1.0)
    expect_close(got, torch.tensor(0.0), 1e-5, "for a pair that is one and the same, y = 0")
    x = a.clone().requires_grad_()
    got = call(answer, x, a, y, 1.0, copies=False)
    got.backward()
    if x.grad is None or not torch.isfinite(x.grad).all():
        raise Wrong("right values, but where a equals b the gradient is NaN. Take safe_distance from above.")


@exercise(
    "info_nce_loss",
    lab=LAB,
    title="pick your partner out of the batch",
    difficulty=2,
    minutes=10,
    hints=(
        "Make both sides length 1; then a @ b.T holds all n x n cosines, and the partners stand on the diagonal.",
        "Divide by the temperature. Row i is a choice among n, and i is the right one: cross-entropy with arange(n).",
        "logits = normalize(a) @ normalize(b).T / temperature\n"
        "return cross_entropy(logits, torch.arange(len(a)))",
    ),
    after="n - 1 negatives for each pair, and nobody had to collect one.",
)
def info_nce_loss(answer):
    import torch
    from torch.nn.functional import cross_entropy

    a, b, _ = _pairs()
    a, b = a * torch.arange(1, 7)[:, None] / 2, b * 3
    for temperature in (0.5, 0.1):
        got = call(answer, a, b, temperature)
        where = f"for six pairs and temperature {temperature:g}"
        one, other = torch.nn.functional.normalize(a, dim=-1), torch.nn.functional.normalize(b, dim=-1)
        cosines, own = one @ other.T, torch.arange(6)
        right = cross_entropy(cosines / temperature, own)
        if isinstance(got, torch.Tensor) and got.shape == (6,):
            raise Wrong(f"{where}: expected one number, and got six. The mean over pairs is missing.")
        _judge(got, right, {
            "the temperature is multiplied. Cosines are divided by it.": cross_entropy(cosines * temperature, own),
            "the temperature is missing.": cross_entropy(cosines, own),
            "the vectors were not brought to length 1, so the longest win.": cross_entropy(a @ b.T / temperature, own),
            "that is b looking for its a. Here each row of a picks among the rows of b.": cross_entropy(
                cosines.T / temperature, own),
            "that is the sum over pairs. Divide by their number.": right * 6,
            "the sign is turned round: it grows when the partner is found.": -right,
            "that only pulls partners together; the others of the batch are missing from the denominator.": (
                -cosines.diagonal() / temperature).mean(),
            "the distance was taken for the closeness: near partners must score high.": cross_entropy(
                -cosines / temperature, own),
        }, where)


@exercise(
    "masked_cross_entropy",
    lab=LAB,
    title="the loss that the library computes",
    difficulty=2,
    minutes=10,
    hints=(
        "Two things before any logarithm: the logits at place t speak of token t + 1, and -100 does not count.",
        "Cut: logits[:, :-1] and labels[:, 1:]. Sum -log p where labels != -100, and divide by how many those are.",
        "counts = labels != -100\nlog_p = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])"
        ".squeeze(-1)\nreturn -(log_p * counts).sum() / counts.sum().clamp(min=1)",
    ),
    after="The clamp at the end decides what a batch without any label gives: 0, where a plain mean gives NaN.",
)
def masked_cross_entropy(answer):
    import torch
    from torch.nn.functional import cross_entropy

    g = torch.Generator().manual_seed(9)
    logits, labels = torch.randn(3, 7, 11, generator=g), torch.randint(0, 11, (3, 7), generator=g)
    labels[0, :4] = labels[1, :5] = labels[1, 6:] = labels[2, :2] = -100

    def loss(values, wanted, reduction="mean"):
        return cross_entropy(values.flatten(0, 1), wanted.flatten(), reduction=reduction)

    got = call(answer, logits, labels)
    where = "for logits (3, 7, 11) and 9 labels that count"
    cut, wanted = logits[:, :-1], labels[:, 1:]
    right = loss(cut, wanted)
    rows = torch.stack([cross_entropy(cut[i], wanted[i]) for i in range(3)])
    clamped = -cut.log_softmax(-1).gather(-1, wanted.clamp(min=0)[..., None]).squeeze(-1)
    _judge(got, right, {
        "logits and labels stand side by side. Place t speaks of token t + 1: shift one of them.": loss(logits, labels),
        "shifted the wrong way: logits[:, :-1] meet labels[:, 1:].": loss(logits[:, 1:], labels[:, :-1]),
        "divided by all places. Only those that count are many.": loss(cut, wanted, "sum") / wanted.numel(),
        "that is the sum. Divide by the number of labels that count.": loss(cut, wanted, "sum"),
        "that is the mean of the rows' means, in which a short answer's tokens weigh more than a long one's.":
            rows.mean(),
        "the masked places count, as if their label were token 0.": clamped.mean(),
        "divided by the number of rows, not of labels.": loss(cut, wanted, "sum") / 3,
        "the sign is turned round: -log p is never negative.": -right,
    }, where)
    nothing = call(answer, logits, torch.full_like(labels, -100))
    _tensor(nothing, "where all labels are masked")
    if not torch.isfinite(nothing).all():
        raise Wrong("right, but where all labels are masked it is NaN: 0 divided by 0. Divide by at least 1.")
    expect_close(nothing, torch.tensor(0.0), 1e-6, "where all labels are masked")


@exercise(
    "focal_loss",
    lab=LAB,
    title="count less what is known already",
    difficulty=2,
    minutes=8,
    hints=(
        "p is the probability of the right class, one a row: softmax, then gather.",
        "Multiply each row's -log p by (1 - p)^gamma, then take the mean over rows.",
        "log_p = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)\n"
        "return ((1 - log_p.exp()) ** gamma * -log_p).mean()",
    ),
    after="At gamma 2 a row that is right with 90 % counts a hundredth; one at 10 % counts four fifths.",
)
def focal_loss(answer):
    import torch
    from torch.nn.functional import cross_entropy

    g = torch.Generator().manual_seed(4)
    logits, targets = 2 * torch.randn(8, 5, generator=g), torch.randint(0, 5, (8,), generator=g)
    nll = cross_entropy(logits, targets, reduction="none")
    p = (-nll).exp()
    for gamma in (2.0, 0.0, 0.5):
        got = call(answer, logits, targets, gamma)
        where = f"for eight rows and gamma {gamma:g}"
        right = ((1 - p) ** gamma * nll).mean()
        if isinstance(got, torch.Tensor) and got.shape == (8,):
            raise Wrong(f"{where}: expected one number, and got eight. The mean over rows is missing.")
        _judge(got, right, {
            "that is plain cross-entropy: the factor (1 - p)^gamma is missing.": nll.mean(),
            "the factor is p^gamma: it counts *more* what is known already.": (p**gamma * nll).mean(),
            "the factor is taken of the mean loss. Each row has a p of its own.": (1 - (-nll.mean()).exp()) ** gamma
            * nll.mean(),
            "gamma multiplies. It is an exponent.": (gamma * (1 - p) * nll).mean(),
            "the exponent is gamma - 1.": ((1 - p) ** (gamma - 1) * nll).mean(),
            "the sign is turned round: -log p is never negative.": -right,
            "that is the sum over rows. Divide by their number.": right * 8,
            "divided by the sum of the factors. Then easy rows do not count less in all.": right * 8 / (
                (1 - p) ** gamma).sum(),
            "the factor's p is the largest of the row. It is that of the right class.": (
                (1 - logits.softmax(-1).max(-1).values) ** gamma * nll).mean(),
        }, where)


@exercise(
    "distillation_loss",
    lab=LAB,
    title="learn from the teacher's doubt",
    difficulty=3,
    minutes=12,
    hints=(
        "Divide both sides' logits by T before the softmax. KL(teacher || student) is the sum of p (log p - log q).",
        "Mean over rows, times T squared. The teacher is detached.",
        "log_p, log_q = (teacher.detach() / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)\n"
        "return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()",
    ),
    after="Without T squared the gradient would shrink as 1 / T squared, and T would be a learning rate in disguise.",
)
def distillation_loss(answer):
    import torch

    g = torch.Generator().manual_seed(8)
    student, teacher = 2 * torch.randn(6, 5, generator=g), 2 * torch.randn(6, 5, generator=g)
    for T in (2.0, 1.0, 4.0):
        got = call(answer, student, teacher, T)
        where = f"for six rows of five classes and T = {T:g}"
        log_p, log_q = (teacher / T).log_softmax(-1), (student / T).log_softmax(-1)
        kl = (log_p.exp() * (log_p - log_q)).sum(-1)
        right = T**2 * kl.mean()
        plain_p, plain_q = teacher.log_softmax(-1), student.log_softmax(-1)
        _judge(got, right, {
            "the factor T squared is missing.": kl.mean(),
            "the factor is T. The gradient shrinks with the square of T.": T * kl.mean(),
            "turned round: that is KL(student || teacher).": T**2 * (log_q.exp() * (log_q - log_p)).sum(-1).mean(),
            "the logits were not divided by T.": T**2 * (plain_p.exp() * (plain_p - plain_q)).sum(-1).mean(),
            "the logits were multiplied by T: that sharpens. Divide.": T**2 * (
                (teacher * T).softmax(-1) * ((teacher * T).log_softmax(-1) - (student * T).log_softmax(-1))
            ).sum(-1).mean(),
            "the mean was taken over classes too. Sum over classes, then mean over rows (kl_div calls it batchmean).":
                right / 5,
            "that is the sum over rows. Divide by their number.": right * 6,
            "that is the cross-entropy with the teacher: its own entropy is still in it, so it never gets to 0.":
                T**2 * -(log_p.exp() * log_q).sum(-1).mean(),
            "only the student was softened; the teacher's logits are divided by T too.": T**2 * (
                plain_p.exp() * (plain_p - log_q)).sum(-1).mean(),
        }, where)
    one, other = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    call(answer, one, other, 2.0, copies=False).backward()
    if one.grad is None:
        raise Wrong("no gradient comes back to the student. Only the teacher is detached.")
    if other.grad is not None and other.grad.any():
        raise Wrong("the right value, but the teacher gets a gradient too, and would move towards the student. "
                    "Detach it.")
