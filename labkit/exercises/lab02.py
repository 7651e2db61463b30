"""The exercises of lab 02, full fine-tuning: what each answer is tried on, and what is said of the usual wrong ones."""

from __future__ import annotations

import math

from labkit.exercises import Wrong, call, describe, exercise, expect_close, expect_number, expect_shape

LAB = "02"
TOLERANCE = 1e-5  # share of the largest number expected; torch's own 1e-6 under the clipped norm stays below it


def _few(x, digits: int = 4) -> str:
    """A tensor's entries, or a number, rounded."""
    if isinstance(x, list | tuple):
        return f"[{', '.join(_few(part, digits) for part in x)}]"
    return _few(x.tolist(), digits) if hasattr(x, "tolist") else f"{x:.{digits}g}"


def _judge_tensor(got, right, where: str, usual) -> None:
    """Raise `Wrong` unless got is the tensor `right`; `usual` pairs wrong tensors of that shape with sentences."""
    import torch

    if not isinstance(got, torch.Tensor):
        raise Wrong(f"{where}: expected a tensor, and got {describe(got)}.")
    expect_shape(got, tuple(right.shape), where)
    if not _equal([got], [right]):
        for value, sentence in usual:
            if _equal([got], [value]) and not _equal([value], [right]):
                raise Wrong(f"{where}: expected {_few(right)}, and got {_few(got)}: {sentence}")
    expect_close(got, right, TOLERANCE, where)


def _judge_numbers(got: list, right: list[float], where: list[str], usual) -> None:
    """Raise `Wrong` with the number that is furthest off, if any is.

    Args:
        got: what the answer gave for each input, and `right` what it should have. where: those inputs, as phrases.
        usual: pairs of a list and a sentence, which is said where the list fits every number of `got`.
    """
    got = [x.item() if getattr(x, "shape", None) in ((), (1,)) else x for x in got]
    for x, place in zip(got, where, strict=True):
        if isinstance(x, bool) or not isinstance(x, int | float):
            expect_number(x, 0.0, 0, place)  # says what it is in place of a number
    if _equal(got, right):
        return
    far = [abs(x - y) if math.isfinite(x) else math.inf for x, y in zip(got, right, strict=True)]
    i = far.index(max(far))
    for values, sentence in usual:
        if _equal(got, values) and not _equal(values, right):
            digits = 4 if _few(got[i]) != _few(right[i]) else 8
            shown = f"expected {_few(right[i], digits)}, and got {_few(got[i], digits)}"
            raise Wrong(f"{where[i]}: {shown}: {sentence}")
    expect_number(got[i], right[i], 0, where[i])


def _by_sentence(tables: list) -> list:
    """For each sentence the list of its numbers, from one table of (number, sentence) for each input."""
    return [([value for value, _ in same], same[0][1]) for same in zip(*tables, strict=True)]


def _equal(a: list, b: list) -> bool:
    """Whether numbers or tensors are equal, within the tolerance times the largest of b."""
    import torch

    a, b = (torch.stack([torch.as_tensor(x, dtype=torch.float64).detach() for x in many]) for many in (a, b))
    scale = float(b.nan_to_num(0, 0, 0).abs().max()) or 1.0
    return torch.allclose(a, b, rtol=0, atol=TOLERANCE * scale, equal_nan=True)


@exercise(
    "next_token_loss",
    lab=LAB, title="the loss of a batch", difficulty=2, minutes=8,
    hints=(
        "The logits at place i are a guess at token i + 1. Which place has nothing to guess, and which label no guess?",
        "Drop the last place of the logits and the first of the labels: logits[:, :-1] and labels[:, 1:].",
        "return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())  # it skips -100 by itself",
    ),
    after="transformers shifts in the same way inside the model: give it labels that are not shifted.",
)  # fmt: skip
def next_token_loss(answer):
    import torch
    from torch.nn.functional import cross_entropy

    several = torch.tensor([[3, -100, 4, 1, 6], [2, 5, -100, -100, 0]])
    other = torch.tensor([[-100, 1, 2, 0], [1, -100, -100, 3], [-100, -100, 2, 2]])
    g = torch.Generator().manual_seed(2)
    for labels, vocab, size in ((several, 7, 2), (other, 5, 2), (several, 7, 200)):
        logits = size * torch.randn(*labels.shape, vocab, generator=g)
        where = f"for logits {tuple(logits.shape)} and labels {labels.tolist()}"
        where += f" and logits up to {logits.abs().max():.0f}" if size == 200 else ""
        right = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        got = _loss_of(answer, logits, labels, where, large=size == 200)
        usual = _usual_losses(logits, labels) if size == 2 else ()
        _judge_numbers([got], [right.item()], [where], usual)
    logits = torch.randn(*several.shape, 7, generator=g).requires_grad_()
    got = call(answer, logits, several, copies=False)
    if not isinstance(got, torch.Tensor) or not got.requires_grad:
        raise Wrong(
            "the right number, but loss.backward() can't start from it: it has lost its link to the logits. Give the "
            "tensor itself: no .item(), no .detach(), no float()."
        )


def _loss_of(answer, logits, labels, where: str, large: bool):
    """What the answer gives, with a word more where it stops, is not one number, or large logits are too much."""
    try:
        got = call(answer, logits, labels)
    except Wrong as wrong:
        said = str(wrong.__cause__)
        if wrong.__cause__ and "Expected target size" in said:
            more = "cross_entropy wants the vocabulary on axis 1: flatten to (batch × seq, vocab) and (batch × seq)."
        elif wrong.__cause__ and "-100" in said:
            more = "-100 is no token: those places must be left out before their logits are looked up."
        else:
            raise
        raise Wrong(f"{wrong} {more}") from None
    counted = int((labels[:, 1:] != -100).sum())
    if getattr(got, "shape", ()) not in ((), (1,)):
        said = f"{where}: expected one number, and got {describe(got)}. Take the mean over the {counted} labels"
        raise Wrong(f"{said} that count after the shift.")
    if large and not math.isfinite(got):
        said = f"{where}: got {float(got)}. exp of a large logit is infinite, and log of a tiny probability too"
        raise Wrong(f"{said}: take log_softmax, or cross_entropy on the logits themselves.")
    return got


def _usual_losses(logits, labels) -> list:
    import torch
    from torch.nn.functional import cross_entropy, nll_loss

    def ce(x, y, **options):
        return cross_entropy(x.flatten(0, -2), y.flatten(), **options)

    x, y, rows = logits[:, :-1], labels[:, 1:], len(labels)
    total, right, clamped = ce(x, y, reduction="sum"), ce(x, y), y.clamp(min=0)
    by_row = torch.stack([ce(a, b) for a, b in zip(x, y, strict=True)]).mean()
    over_positions = nll_loss(x.log_softmax(1).flatten(0, 1), y.flatten())
    every, all_labels = y.numel(), int((labels != -100).sum())
    flat = ce(logits.flatten(0, 1)[:-1], labels.flatten()[1:])
    said = (
        (ce(logits, labels), "not shifted. The logits at place i guess the label at place i + 1."),
        (ce(logits[:, 1:], labels[:, :-1]), "shifted the wrong way. Drop the last logits and the first labels."),
        (ce(logits[:, :-2], labels[:, 2:]), "shifted by two. The guess at place i is for place i + 1."),
        (ce(logits, labels.roll(-1, 1)), "roll carries the first label round to the last place. Leave it out."),
        (flat, "flattened before the shift, so the end of a row guesses the start of the next. Shift first."),
        (total, "that is the sum. Divide by how many labels count."),
        (total / every, f"divided by all {every} places. Divide by the labels that are not -100."),
        (total / labels.numel(), f"divided by all {labels.numel()} places. Divide by the labels that are not -100."),
        (total / all_labels, "the labels are counted before the shift. The first of each row is never guessed."),
        (total / rows, "divided by the number of rows. Divide by how many labels count."),
        (by_row, "the mean of each row's mean. Every label weighs the same: one sum, one division."),
        (ce(x, clamped), "-100 counts as if it were token 0. Leave those places out."),
        (ce(logits, labels.clamp(min=0)), "not shifted, and -100 counts as if it were token 0."),
        (ce(x.softmax(-1), y), "softmax twice. cross_entropy takes the logits as they are."),
        (-right, "the sign is turned. A loss is minus the log of the probability."),
        (right / math.log(2), "that is in bits. Take the natural logarithm."),
        (right.exp(), "that is its exp, the perplexity."),
        (nll_loss(x.softmax(-1).flatten(0, 1), y.flatten()), "the logarithm is missing: these are probabilities."),
        (nll_loss(x.flatten(0, 1), y.flatten()), "those are bare logits. log_softmax makes them log-probabilities."),
        (over_positions, "softmax over the places. The vocabulary is the last axis."),
        (ce(x[:, -1:], y[:, -1:]), "only the last place of each row. Every label that is not -100 counts."),
    )
    return [([float(value)], sentence) for value, sentence in said]


@exercise(
    "adamw_step",
    lab=LAB, title="one step of AdamW", difficulty=3, minutes=15,
    hints=(
        "Three things in order: the running means m of g and v of g squared, their correction, the step. The decay "
        "goes straight to w, past m and v.",
        "m = beta1 * m + (1 - beta1) * g, v the same with beta2 and g**2. Started at 0 they are too small: divide by "
        "1 - beta1**t and 1 - beta2**t, for the step only.",
        "w = w - lr * weight_decay * w - lr * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)\n"
        "return w, m, v",
    ),
    after="m and v are two more numbers for every weight that is trained: that is where the memory goes.",
)  # fmt: skip
def adamw_step(answer):
    import torch

    first = [[0.5, -1.0, 2.0], [0.3, -0.2, 0.05], [0.1, 0.2, -0.3], [0.04, 0.01, 0.09]]
    second = [[[0.5, -1.0], [2.0, 0.1]], [[0.3, -0.2], [0.0, 4.0]], [[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2]
    odd = {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "eps": 0.05, "weight_decay": 0.5}
    plain = {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}
    for tensors, t, known, given in ((first, 3, odd, list(odd.values())), (second, 1, plain, [0.01])):
        w, g, m, v = map(torch.tensor, tensors)
        got = call(answer, w, g, m, v, t, *given)
        if not isinstance(got, list | tuple) or len(got) != 3:
            raise Wrong(f"expected three tensors, (w, m, v), and got {describe(got)}.")
        b1, b2, defaults = known["beta1"], known["beta2"], "" if len(given) > 1 else ", the others as they are"
        new_m, new_v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        where = f"in m, for m = {_few(m)}, g = {_few(g)}, beta1 = {b1}{defaults}"
        _judge_tensor(got[1], new_m, where, _usual_m(w, g, m, new_v, t, **known))
        where = f"in v, for v = {_few(v)}, g = {_few(g)}, beta2 = {b2}{defaults}"
        _judge_tensor(got[2], new_v, where, _usual_v(w, g, v, new_m, t, **known))
        settings = ", ".join(f"{name} = {value:g}" for name, value in known.items())
        where = f"in w, for w = {_few(w)}, g = {_few(g)}, m = {_few(m)}, v = {_few(v)}, t = {t}, {settings}"
        right, usual = _usual_w(w, g, m, v, new_m, new_v, t, **known)
        _judge_tensor(got[0], right, where, usual)


def _usual_m(w, g, m, new_v, t, lr, beta1, beta2, eps, weight_decay) -> list:
    b, new = beta1, beta1 * m + (1 - beta1) * g
    return [
        (b * m + (1 - b) * (g + weight_decay * w), "the decay went into the gradient (L2, that is Adam). AdamW takes "
         "it from w itself."),
        (new / (1 - b**t), "that is m with its correction. Correct it for the step, but give back m itself: the next "
         "step goes on from it."),
        (new_v, "that is v. The order is (w, m, v)."),
        ((1 - b) * m + b * g, "the two weights are swapped: beta1 belongs to the old m, 1 - beta1 to g."),
        (b * m + g, "g has no weight: it counts 1 - beta1."),
        (m + (1 - b) * g, "the old m has no weight: it counts beta1."),
        (b * m - (1 - b) * g, "g is subtracted. The minus comes later, in the step."),
        (beta2 * m + (1 - beta2) * g, "that is with beta2. m takes beta1."),
        (0.9 * m + 0.1 * g, "that is with 0.9. Use the beta1 that is given."),
        (g, "that is g alone. m remembers: beta1 of the old m stays in it."),
        (m, "that is the m that came in."),
    ]  # fmt: skip


def _usual_v(w, g, v, new_m, t, lr, beta1, beta2, eps, weight_decay) -> list:
    b, new = beta2, beta2 * v + (1 - beta2) * g**2
    return [
        (b * v + (1 - b) * (g + weight_decay * w) ** 2, "the decay went into the gradient. AdamW takes it from w "
         "itself."),
        (b * v + (1 - b) * g, "the square is missing: v is the mean of g squared."),
        (b * v + (1 - b) * g.abs(), "the sizes of g, not their squares: v is the mean of g squared."),
        ((b * v + (1 - b) * g) ** 2, "squared too late. Square g first, then take the mean with v."),
        (b * v + ((1 - b) * g) ** 2, "1 - beta2 is squared too. Square g alone."),
        (b * v + (1 - b) * new_m**2, "that is m squared. v takes g squared."),
        (new / (1 - b**t), "that is v with its correction. Correct it for the step, but give back v itself."),
        (new.sqrt(), "that is the root. It belongs to the step: give back v itself."),
        ((1 - b) * v + b * g**2, "the two weights are swapped: beta2 belongs to the old v, 1 - beta2 to g squared."),
        (b * v + g**2, "g squared has no weight: it counts 1 - beta2."),
        (v + (1 - b) * g**2, "the old v has no weight: it counts beta2."),
        (beta1 * v + (1 - beta1) * g**2, "that is with beta1. v takes beta2."),
        (0.999 * v + 0.001 * g**2, "that is with 0.999. Use the beta2 that is given."),
        (g**2, "that is g squared alone. v remembers: beta2 of the old v stays in it."),
        (v, "that is the v that came in."),
        (new_m, "that is m. The order is (w, m, v)."),
    ]  # fmt: skip


def _usual_w(w, g, m, v, new_m, new_v, t, lr, beta1, beta2, eps, weight_decay) -> tuple:
    """The right w, and usual wrong ones that come from the right m and v."""
    c1, c2, kept = 1 - beta1**t, 1 - beta2**t, w * (1 - lr * weight_decay)
    mh, root = new_m / c1, (new_v / c2).sqrt()
    step, early, late = mh / (root + eps), max(t - 1, 1), t + 1
    right = kept - lr * step

    def counted(t):
        return kept - lr * new_m / (1 - beta1**t) / ((new_v / (1 - beta2**t)).sqrt() + eps)

    return right, [
        (kept - lr * new_m / (new_v.sqrt() + eps), "the bias correction is missing. Started at 0, m and v are too "
         "small: divide by 1 - beta**t."),
        (kept - lr * mh / (new_v.sqrt() + eps), "only m is corrected. v is too small as well: divide by 1 - beta2**t."),
        (kept - lr * new_m / (root + eps), "only v is corrected. m is too small as well: divide by 1 - beta1**t."),
        (counted(early), "the correction counts one step too few. t begins at 1 already: no t - 1."),
        (counted(late), "the correction counts one step too many. t begins at 1 already: no t + 1."),
        (counted(1), "the power t is missing in the correction: 1 - beta**t."),
        (kept - lr * new_m * c1 / ((new_v * c2).sqrt() + eps), "multiplied by the corrections. Divide by them."),
        (w - lr * step, "the weight decay is missing: w also shrinks by lr × weight_decay × w."),
        (w * (1 - weight_decay) - lr * step, "the decay lacks its lr: w shrinks by lr × weight_decay × w."),
        (w * (1 + lr * weight_decay) - lr * step, "the decay makes w larger. Subtract it."),
        (w - lr * weight_decay - lr * step, "the decay lacks its w: it is lr × weight_decay × w."),
        (w - lr * (mh + weight_decay * w) / (root + eps), "the decay is divided by the root as well. It goes straight "
         "to w, past m and v."),
        ((w - lr * step) * (1 - lr * weight_decay), "the decay is taken from the new w. Take it from the w that came "
         "in."),
        (kept + lr * step, "uphill. Subtract the step."),
        (kept - step, "lr is missing before the step."),
        (kept - lr * mh / (new_v / c2 + eps).sqrt(), "eps stands inside the root. Add it after the root."),
        (kept - lr * new_m / c1 * c2**0.5 / (new_v.sqrt() + eps), "eps is added before v is corrected. Correct v, "
         "take the root, then add eps."),
        (kept - lr * mh / (new_v / c2 + eps), "the root is missing: divide by the root of v."),
        (kept - lr * mh / root, "eps is missing, or is not the one that is given."),
        (kept - lr * g / (root + eps), "that is a step along g. Step along m."),
        (kept - lr * m / c1 / (root + eps), "that is with the m that came in. Use the new one."),
        (kept - lr * mh / ((v / c2).sqrt() + eps), "that is with the v that came in. Use the new one."),
        (kept - lr * mh, "not divided by the root of v."),
        (lr * weight_decay * w + lr * step, "that is the step. Subtract it from w."),
        (w, "that is the w that came in."),
        (new_m, "that is m. The order is (w, m, v)."),
    ]  # fmt: skip


@exercise(
    "clip_by_norm",
    lab=LAB, title="clip the gradients together", difficulty=2, minutes=7,
    hints=(
        "There is one norm, as if all tensors were one long vector, and one factor for all of them.",
        "norm = sqrt of the sum of all squares. The factor is max_norm / norm where norm is larger, else 1.",
        "norm = torch.sqrt(sum((g**2).sum() for g in grads))\n"
        "factor = max_norm / norm if norm > max_norm else 1.0\nreturn [g * factor for g in grads], norm",
    ),
    after="The direction stays and only the length changes. Clipping each tensor alone would turn the direction.",
)  # fmt: skip
def clip_by_norm(answer):
    import torch

    grads = [torch.tensor([3.0, 0.0]), torch.tensor([[0.0, -4.0], [12.0, 0.0]])]
    zeros = [torch.zeros_like(g) for g in grads]
    for given, norm, max_norm in ((grads, 13.0, 6.5), (grads, 13.0, 20.0), (zeros, 0.0, 1.0)):
        where = f"for grads = {_few(given)}, max_norm = {max_norm:g}"
        try:
            got = call(answer, given, max_norm)
        except Wrong as wrong:
            if isinstance(wrong.__cause__, ZeroDivisionError):
                raise Wrong(f"{wrong} All gradients are 0 there, and so is their norm.") from None
            raise
        new, before = _two_of(got, where)
        right = min(1.0, max_norm / norm) if norm else 1.0
        flat, sizes = torch.cat([g.flatten() for g in given]), [float(g.norm()) for g in given]
        if isinstance(before, list | tuple) or getattr(before, "shape", ()) not in ((), (1,)):
            raise Wrong(f"{where}, the norm: expected one number, {norm:g}, and got {describe(before)}: all tensors "
                        "together have one norm.")  # fmt: skip
        after = float(torch.cat([g.flatten() for g in new]).norm())
        norms = (
            (norm**2, "the root is missing."),
            (norm / len(flat) ** 0.5, "that is the root of the mean of squares. The norm has their sum."),
            (norm**2 / len(flat), "that is the mean of squares. The norm is the root of their sum."),
            (sum(sizes), "the norms of the tensors are added. Add the squares of all, then take one root."),
            (sum(sizes) / len(sizes), "that is the mean of the tensors' norms. Add the squares, then take one root."),
            (max(sizes), "that is the norm of one tensor. All of them count together."),
            (sizes[0], "that is the norm of the first tensor. All of them count together."),
            (float(flat.abs().sum()), "the sizes are added. Add the squares, and take the root."),
            (float(flat.sum()), "the entries are added. Add their squares, and take the root."),
            (float(flat.abs().max()), "that is the largest entry. Add the squares of all, and take the root."),
            (right, "that is the factor. Give the norm."),
            (after, "that is the norm after clipping. Give the one before: it is what one wants to see."),
        )
        _judge_numbers([before], [norm], [f"{where}, the norm"], [([value], said) for value, said in norms])
        for i, (g, x) in enumerate(zip(given, new, strict=True)):
            expect_shape(x, tuple(g.shape), f"for tensor {i} of the new gradients")
        alone = torch.cat([g * max_norm / (g.norm() + 1e-12) for g in map(torch.flatten, given)])
        each = torch.cat([g * min(1.0, max_norm / (g.norm() + 1e-12)) for g in map(torch.flatten, given)])
        scale = norm or 1.0
        usual = (
            (flat, "nothing is scaled, and the norm is above max_norm."),
            (each, "each tensor is clipped by its own norm. One norm and one factor for all."),
            (alone, "each tensor is scaled by its own norm. One norm and one factor for all."),
            (flat.clamp(-max_norm, max_norm), "each value is clipped. Scale all of them by one factor."),
            (flat.clamp(max=max_norm), "each value is clipped. Scale all of them by one factor."),
            (flat * max_norm / scale, "small gradients are made larger. The norm is below max_norm: leave them."),
            (flat / scale, "divided by the norm, and now of length 1. Multiply by max_norm, where the norm is larger."),
            (flat * scale / max_norm, "upside down. The factor is max_norm / norm."),
            (flat / max_norm, "divided by max_norm. The factor is max_norm / norm."),
            (flat * max_norm, "multiplied by max_norm. The factor is max_norm / norm."),
            (flat * max_norm / scale**2, "divided by the norm squared. The factor is max_norm / norm."),
            (flat * (max_norm / scale) ** 0.5, "the root of the factor. It is max_norm / norm."),
            (flat * 0, "they are gone. The factor is max_norm / norm."),
            (-flat * right, "the sign is turned."),
        )
        said = f"{where}, the new gradients" if norm else f"{where} (nothing to scale), the new gradients"
        _judge_tensor(torch.cat([x.flatten() for x in new]), flat * right, said, usual)


def _two_of(got, where: str) -> tuple:
    """The new gradients and the norm, in that order."""
    import torch

    def tensors(x) -> bool:
        return isinstance(x, list | tuple) and len(x) == 2 and all(isinstance(g, torch.Tensor) for g in x)

    if isinstance(got, list | tuple) and len(got) == 2:
        if tensors(got[0]):
            return list(got[0]), got[1]
        if tensors(got[1]):
            raise Wrong(f"{where}: the two are swapped. The new gradients come first, then the norm.")
        if tensors(got) and got[1].numel() > 1:
            raise Wrong(f"{where}: got the new gradients alone. Give the norm as well: (new gradients, norm).")
    raise Wrong(f"{where}: expected (list of 2 tensors, norm), and got {describe(got)}.")


@exercise(
    "learning_rate_at",
    lab=LAB, title="warm-up, then a cosine", difficulty=2, minutes=7,
    hints=(
        "Two pieces with an `if` between them: a straight line up to step `warmup`, and a cosine from there on.",
        "From `warmup` on, progress goes from 0 to 1: (step - warmup) / (steps - warmup). The cosine goes from 1 to -1 "
        "while its angle goes from 0 to pi; lift it and halve it.",
        "if step < warmup:\n    return peak * step / warmup\n"
        "return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))",
    ),
    after="AdamW's v is a poor guess in the first steps: the warm-up keeps them small until it is a better one.",
)  # fmt: skip
def learning_rate_at(answer):
    for steps, warmup, peak in ((100, 20, 0.004), (30, 6, 2e-4)):
        climb = [0, 1, warmup // 2, warmup - 1]
        quarter = (steps - warmup) // 4
        fall = [warmup, warmup + 1, warmup + quarter, warmup + 2 * quarter, steps - 1, steps]
        for at, usual in ((climb, _usual_climb), (fall, _usual_fall)):
            _judge_curve(answer, at, steps, warmup, peak, _by_sentence([usual(s, steps, warmup, peak) for s in at]))
    try:
        _judge_curve(answer, [0, 5, 10], 10, 0, 0.004, ())
    except Wrong as wrong:
        raise Wrong(f"{wrong} With warmup = 0 there is no climb: step 0 has the peak already.") from None


def _judge_curve(answer, at: list[int], steps: int, warmup: int, peak: float, usual) -> None:
    got = [call(answer, step, steps, warmup, peak) for step in at]
    where = [f"for step = {step}, steps = {steps}, warmup = {warmup}, peak = {peak:g}" for step in at]
    right = [peak * (s / warmup if s < warmup else _half_cosine((s - warmup) / (steps - warmup))) for s in at]
    _judge_numbers(got, right, where, usual)


def _half_cosine(progress: float) -> float:
    """From 1 down to 0 while progress goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def _usual_climb(s: int, steps: int, warmup: int, peak: float) -> list:
    share, late = s / warmup, _half_cosine(s / steps)
    return [
        (peak * (s + 1) / warmup, "one step ahead. Step 0 has a rate of 0."),
        (peak * (s + 1) / (warmup + 1), "counted from 1. Step 0 has a rate of 0."),
        (peak * s / (warmup - 1), "the peak comes a step early. It is reached at step `warmup`."),
        (peak, "there is no warm-up: the rate starts at its peak."),
        (share, "that is a share of the peak. Multiply by peak."),
        (peak * s / steps, "the line is too flat: it has to reach the peak at step `warmup`."),
        (peak * (1 - share), "the line falls. It climbs from 0."),
        (peak * s, "divide by warmup: the peak is reached at step `warmup`."),
        (peak * (1 - _half_cosine(share)), "a cosine climb. The warm-up is a straight line."),
        (peak * late, "there is no warm-up: the cosine starts at step 0."),
        (peak * share * late, "line times cosine. Up to step `warmup` there is the line alone, then the cosine alone."),
        (peak * _half_cosine((s - warmup) / (steps - warmup)), "the cosine, where the line belongs."),
        (0.0, "always 0 in the warm-up. Give peak × step / warmup."),
    ]


def _usual_fall(s: int, steps: int, warmup: int, peak: float) -> list:
    gone, left, cos, pi = s - warmup, steps - warmup, math.cos, math.pi
    x = gone / left
    return [
        (peak * _half_cosine(s / steps), "the cosine starts at step 0. It starts at step `warmup`, from the peak."),
        (peak * _half_cosine(gone / steps), "it does not come down to 0 by the last step: divide by steps - warmup."),
        (peak * _half_cosine(s / left), "the cosine is ahead: count from `warmup` on, step - warmup."),
        (peak * _half_cosine(gone / (left - 1)), "0 is reached a step too early. It is reached at step `steps`."),
        (peak * _half_cosine((gone + 1) / left), "the cosine is one step ahead."),
        (peak * 0.5 * (1 + cos(x)), "pi is missing: the angle goes from 0 to pi."),
        (peak * 0.5 * (1 + cos(180 * x)), "cos takes radians: the angle goes from 0 to pi."),
        (peak * _half_cosine(2 * x), "a whole turn, which comes up again. Half a turn is pi."),
        (peak * (1 - _half_cosine(x)), "upside down: it climbs. 1 + cos falls."),
        (peak * cos(pi * x), "a bare cosine goes down to -1. Lift it by 1 and halve it."),
        (peak * cos(pi / 2 * x), "a quarter of a turn. Here it is half a turn, lifted by 1 and halved."),
        (peak * 2 * _half_cosine(x), "1 + cos goes up to 2: halve it."),
        (peak * 0.5 * cos(pi * x), "lift the cosine by 1 before it is halved."),
        (peak * (0.1 + 0.9 * _half_cosine(x)), "it ends at a tenth of the peak. Here it ends at 0."),
        (_half_cosine(x), "that is a share of the peak. Multiply by peak."),
        (peak * (1 - x), "a straight line down. Here it is a cosine."),
        (peak * s / warmup, "it goes on climbing after the warm-up."),
        (peak, "the rate stays at its peak. From there it falls to 0."),
    ]


@exercise(
    "accumulated_loss",
    lab=LAB, title="one loss from several micro-batches", difficulty=2, minutes=5,
    hints=(
        "In the large batch every label weighs the same. How much does a micro-batch of 60 labels weigh?",
        "Mean × count gives the sum back. Add the sums, and divide by all the labels. Leave out a count of 0.",
        "return sum(x * n for x, n in zip(losses, counts) if n) / sum(counts)",
    ),
    after="Trainers took the mean of means for years, and hardly anybody saw it: the curve looks fine.",
)  # fmt: skip
def accumulated_loss(answer):
    cases = ([2.0, 4.0, 1.0], [10, 60, 30]), ([1.5], [7]), ([0.5, 3.0], [8, 24])
    got = [call(answer, *case) for case in cases]
    where = [f"for losses = {losses}, counts = {counts}" for losses, counts in cases]
    _judge_numbers(got, [2.9, 1.5, 2.375], where, _by_sentence([_usual_means(*case) for case in cases]))
    got = call(answer, [2.0, math.nan, 1.0], [8, 0, 24])
    usual = (
        ([math.nan], "the second counts no label, and nan × 0 is nan. Leave out micro-batches whose count is 0."),
        ([40 / 33], "the empty micro-batch counts as one label. It counts as none."),
    )
    _judge_numbers([got], [1.25], ["for losses = [2.0, nan, 1.0], counts = [8, 0, 24]"], usual)


def _usual_means(losses: list, counts: list) -> list:
    many, labels = len(losses), sum(counts)
    total = sum(x * n for x, n in zip(losses, counts, strict=True))
    divided = sum(x / n for x, n in zip(losses, counts, strict=True))
    return [
        (sum(losses) / many, "that is the mean of means. A micro-batch weighs as much as it has labels."),
        (sum(losses), "that is the sum of means. Weigh each by its count, and divide by all counts."),
        (total, "that is the sum over all labels. Divide by how many there are."),
        (total / many, "divided by the number of micro-batches. Divide by the number of labels."),
        (total / sum(losses), "divided by the losses. Divide by the number of labels."),
        (total / max(counts), "divided by the largest count. Divide by all counts together."),
        (sum(losses) / labels, "the counts are missing above the line: mean × count gives each sum back."),
        (divided, "divided by the counts. The losses are means already: multiply."),
        (divided / sum(1 / n for n in counts), "turned round: the micro-batch with more labels weighs less."),
        (losses[-1], "that is the last loss alone."),
        (losses[0], "that is the first loss alone."),
        (max(losses), "that is the largest loss."),
        (math.exp(total / labels), "that is its exp, the perplexity. The loss itself is asked."),
    ]


@exercise(
    "early_stopping",
    lab=LAB, title="stop while it is good", difficulty=2, minutes=10,
    hints=(
        "Walk over the losses once, and remember one thing: the index of the best so far. What is i - best?",
        "losses[i] < losses[best] - min_delta makes i the best. Else, once i - best reaches patience, stop there.",
        "best = 0\nfor i, loss in enumerate(losses):\n    if loss < losses[best] - min_delta:\n        best = i\n"
        "    elif i - best >= patience:\n        return best, i\nreturn best, len(losses) - 1",
    ),
    after="transformers' EarlyStoppingCallback counts in this way too; only its best moves with every gain, "
    "however small.",
)  # fmt: skip
def early_stopping(answer):
    for losses, patience, min_delta, right, usual in (
        ([3.0, 2.0, 1.5, 1.75, 2.0, 1.75, 1.25], 2, 0.0, (2, 4), (
            ((6, 6), "it never stops. Indices 3 and 4 are no better than index 2, and patience is 2."),
            ((6, 4), "index 6 has the lowest loss of the list, but it is never seen: training stops before it."),
            ((2, 5), "one too late. Indices 3 and 4 are no better, and that makes two."),
            ((2, 3), "one too early. Index 3 is the first that is no better, and patience is 2."),
            ((2, 2), "that is the best twice. Give where training stops as well: patience later."),
            ((4, 2), "the two are swapped. The best comes first."),
            ((3, 5), "counted from 1. Give indices, which begin at 0."),
            ((0, 2), "the largest loss is taken for the best. The lowest is."),
            ((1.5, 4), "that is the best loss. Give its index."),
            ((4, 4), "where it stops is not where it was best."),
        )),
        ([3.0, 2.0, 2.5, 1.5, 2.0, 1.0], 2, 0.0, (5, 5), (
            ((3, 4), "indices 2 and 4 are no better, but not in a row. A new best sets the count back to 0."),
            ((5, 6), "one beyond the end. Where it never stops, give the last index, len(losses) - 1."),
            ((5, -1), "give the last index as a number from 0 on, len(losses) - 1."),
            ((5, None), "where it never stops, give the last index, len(losses) - 1."),
        )),
        ([1.0, 3.0, 2.0, 1.5, 0.5], 2, 0.0, (0, 2), (
            ((4, 4), "index 2 is better than the one before it, but not than the best. Compare with the best."),
            ((0, 4), "index 2 is better than the one before it, but not than the best. Compare with the best."),
        )),
        ([2.0, 1.0, 1.0, 1.0, 0.5], 2, 0.0, (1, 3), (
            ((4, 4), "an equal loss is no improvement. Ask for <, not <=."),
            ((3, 3), "of equal losses the earliest is the best."),
            ((2, 3), "of equal losses the earliest is the best."),
        )),
        ([2.0, 1.0, 1.5, 0.5], 1, 0.0, (1, 2), (
            ((3, 3), "it does not stop. With patience = 1, the first that is no better ends it."),
        )),
        ([4.0, 3.0, 2.75, 2.75, 2.75, 0.0], 2, 0.5, (1, 3), (
            ((2, 4), "min_delta is not used: a gain of 0.25 is too small to count."),
            ((2, 3), "index 2 gains only 0.25, so it does not become the best. The best is the last that counted."),
            ((5, 5), "min_delta has the wrong sign: a loss must lie below the best by more than it."),
        )),
        ([4.0, 3.0, 2.5, 2.5, 1.0], 2, 0.5, (1, 3), (
            ((4, 4), "a gain of exactly min_delta does not count. It must be more."),
        )),
        ([4.0, 3.0, 2.75, 2.25, 2.0, 1.5], 3, 0.5, (5, 5), (
            ((1, 4), "small gains add up: index 3 lies 0.75 below the best, index 1. Measure from the best that "
                     "counted."),
            ((4, 4), "small gains add up: index 3 lies 0.75 below index 1, the last that counted. Measure from there."),
        )),
        ([1.0], 3, 0.0, (0, 0), ()),
    ):  # fmt: skip
        where = f"for losses = {losses}, patience = {patience}, min_delta = {min_delta:g}"
        got = call(answer, list(losses), patience, min_delta)
        got = tuple(got.tolist()) if hasattr(got, "tolist") and getattr(got, "shape", ()) == (2,) else got
        if not isinstance(got, list | tuple) or len(got) != 2:
            raise Wrong(f"{where}: expected two indices, (best, stop), and got {describe(got)}.")
        got = tuple(x.item() if hasattr(x, "item") else x for x in got)
        if got != right:
            said = next((sentence for value, sentence in usual if got == value), "")
            raise Wrong(f"{where}: expected {right}, and got {got}" + (f": {said}" if said else "."))


@exercise(
    "perplexity",
    lab=LAB, title="from loss to perplexity", difficulty=1, minutes=4,
    hints=(
        "Perplexity is exp of one mean, over all labels. First find that mean.",
        "The mean over all labels is sum(loss × count) / sum(counts); the losses are in nats, so the base is e.",
        "mean = sum(x * n for x, n in zip(losses, counts)) / sum(counts)\nreturn math.exp(mean)",
    ),
    after="As unsure as between so many equally likely tokens. Compare it only where the tokenizer is the same.",
)  # fmt: skip
def perplexity(answer):
    cases = ([2.0, 1.0, 3.0], [10, 30, 60]), ([0.0, 0.0], [5, 3]), ([0.5, 4.0], [90, 10])
    got = [call(answer, *case) for case in cases]
    where = [f"for losses = {losses}, counts = {counts}" for losses, counts in cases]
    right = [math.exp(2.3), 1.0, math.exp(0.85)]
    _judge_numbers(got, right, where, _by_sentence([_usual_perplexities(*case) for case in cases]))


def _usual_perplexities(losses: list, counts: list) -> list:
    many, labels, exp = len(losses), sum(counts), math.exp
    total = sum(x * n for x, n in zip(losses, counts, strict=True))
    mean = total / labels

    def mean_of(f) -> float:
        return sum(f(x) * n for x, n in zip(losses, counts, strict=True)) / labels

    return [
        (exp(sum(losses) / many), "that is exp of the mean of means. Weigh each loss by its count."),
        (mean_of(exp), "that is the mean of exps. Take the mean first, then exp once."),
        (sum(map(exp, losses)) / many, "that is the mean of exps, and the counts are left out."),
        (2**mean, "2 to the power of the mean. The losses are in nats: the base is e."),
        (10**mean, "10 to the power of the mean. The losses are in nats: the base is e."),
        (mean_of(lambda x: 2**x), "the mean of powers of 2. Take the mean first, then exp once."),
        (mean, "that is the mean loss. exp is missing."),
        (sum(losses) / many, "that is the mean of means, and exp is missing."),
        (exp(-mean), "exp of minus the mean: that is a probability. The losses have their minus already."),
        (mean / math.log(2), "that is the mean in bits. Perplexity is exp of the mean in nats."),
        (exp(mean) - 1, "1 less than exp: is that expm1?"),
        (exp(sum(losses)), "exp of the sum of the losses. Take their mean, weighed by the counts."),
        (exp(total), "exp of the sum over all labels. Divide by how many there are first."),
        (exp(total / many), "divided by the number of batches. Divide by the number of labels."),
        (exp(sum(losses) / labels), "the counts are missing above the line: loss × count gives each sum back."),
    ]
