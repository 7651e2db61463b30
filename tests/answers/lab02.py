"""Right and wrong answers to lab 02's exercises."""

import functools
import math

import torch
import torch.nn.functional as F
from transformers.loss.loss_utils import ForCausalLMLoss  # up here: its import takes seconds, and checks are timed
from transformers.optimization import get_cosine_schedule_with_warmup


def agreeing(by_hand, library):
    """Answers as `by_hand` does, and stops wherever the library that the field uses gives something else."""

    @functools.wraps(by_hand)
    def answer(*args):
        torch.testing.assert_close(by_hand(*args), library(*args), rtol=1e-5, atol=1e-6)
        return by_hand(*args)

    return answer


# ------------------------------------------------------------------ next_token_loss


def next_token_loss(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def transformers_loss(logits, labels):
    return ForCausalLMLoss(logits, labels, vocab_size=logits.shape[-1])


def loss(shift=lambda x, y: (x[:, :-1], y[:, 1:]), logits=lambda x: x, labels=lambda y: y, mean=None, skip=-100):
    """The right way with another shift, changed logits or labels, or another mean over the sum of the losses."""

    def answer(x, y):
        x, y = shift(x, y)
        x, y = logits(x), labels(y)
        if mean is None:
            return F.cross_entropy(x.flatten(0, -2), y.flatten(), ignore_index=skip)
        return mean(F.cross_entropy(x.flatten(0, -2), y.flatten(), reduction="none").view(y.shape), y != -100)

    return answer


def gathered(x, y, log=lambda x: x.log_softmax(-1), skip=True):
    """By hand: the log-probability of each label, looked up."""
    x, y = x[:, :-1], y[:, 1:]
    keep = y != -100
    found = log(x).gather(-1, (y.where(keep, 0) if skip else y)[..., None])[..., 0]
    return -found[keep].mean()


def labels_in_place(x, y):
    y[y == -100] = 0
    return next_token_loss(x, y)


# ------------------------------------------------------------------ adamw_step


def adamw_step(w, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    step = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
    return w - lr * weight_decay * w - lr * step, m, v


def torch_adamw(w, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    w = torch.nn.Parameter(w.clone())
    optimizer = torch.optim.AdamW([w], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)
    w.grad = g.clone()
    optimizer.state[w] = {"step": torch.tensor(float(t - 1)), "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
    optimizer.step()
    state = optimizer.state[w]
    return w.detach(), state["exp_avg"], state["exp_avg_sq"]


def adamw(
    grad=lambda g, w, d: g,
    mean=lambda m, g, b: b * m + (1 - b) * g,
    square=lambda v, g, b: b * v + (1 - b) * g**2,
    m_hat=lambda m, b, t: m / (1 - b**t),
    v_hat=lambda v, b, t: v / (1 - b**t),
    below=lambda v, eps: v.sqrt() + eps,
    new=lambda w, step, lr, d: w - lr * d * w - lr * step,
    give=lambda w, m, v: (w, m, v),
    kept=lambda m, m_hat: m,
):
    """A step of AdamW with one thing done in another way."""

    def answer(w, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
        g = grad(g, w, weight_decay)
        m, v = mean(m, g, beta1), square(v, g, beta2)
        mh, vh = m_hat(m, beta1, t), v_hat(v, beta2, t)
        return give(new(w, mh / below(vh, eps), lr, weight_decay), kept(m, mh), kept(v, vh))

    return answer


def corrected(power):
    """Both corrections, with another power in place of t."""
    return {name: lambda x, b, t: x / (1 - b ** power(t)) for name in ("m_hat", "v_hat")}


def bare(x, b, t):
    return x


def adamw_in_place(w, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    step = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
    return w * (1 - lr * weight_decay) - lr * step, m, v


def w_in_place(w, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    w *= 1 - lr * weight_decay
    new, m, v = adamw_step(w, g, m, v, t, lr, beta1, beta2, eps, 0.0)
    return new, m, v


def eps_too_early(w, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    rate = lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
    return w * (1 - lr * weight_decay) - rate * m / (v.sqrt() + eps), m, v


def decay_in_step(w, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    return w - lr * (m / (1 - beta1**t) + weight_decay * w) / ((v / (1 - beta2**t)).sqrt() + eps), m, v


# ------------------------------------------------------------------ learning_rate_at


def learning_rate_at(step, steps, warmup, peak):
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / (steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def transformers_rate(step, steps, warmup, peak):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    return peak * get_cosine_schedule_with_warmup(optimizer, warmup, steps).lr_lambdas[0](step)


def rate(
    climb=lambda step, warmup: step / warmup,
    progress=lambda step, steps, warmup: (step - warmup) / (steps - warmup),
    curve=lambda x: 0.5 * (1 + math.cos(math.pi * x)),
    times=lambda share, peak: share * peak,
    before=lambda step, warmup: step < warmup,
):
    """The right curve with one piece of it made in another way."""

    def answer(step, steps, warmup, peak):
        up = before(step, warmup)
        return times(climb(step, warmup) if up else curve(progress(step, steps, warmup)), peak)

    return answer


# ------------------------------------------------------------------ clip_by_norm


def clip_by_norm(grads, max_norm):
    norm = torch.sqrt(sum((g**2).sum() for g in grads))
    factor = max_norm / norm if norm > max_norm else 1.0
    return [g * factor for g in grads], norm


def torch_clip(grads, max_norm):
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in grads]
    for parameter, g in zip(parameters, grads, strict=True):
        parameter.grad = g.clone()
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return [parameter.grad for parameter in parameters], norm


def clip(
    norm=lambda flat, grads: flat.norm(),
    factor=lambda norm, most: min(1.0, most / float(norm)) if norm else 1.0,
    scale=lambda g, factor, most: g * factor,
    give=lambda new, norm, factor: (new, norm),
):
    """The right way with another norm, factor, scaling, or other things given back."""

    def answer(grads, max_norm):
        size = norm(torch.cat([g.flatten() for g in grads]), grads)
        share = factor(size, max_norm)
        return give([scale(g, share, max_norm) for g in grads], size, share)

    return answer


def clip_in_place(grads, max_norm):
    norm = torch.sqrt(sum((g**2).sum() for g in grads))
    for g in grads:
        g.mul_(min(1.0, max_norm / float(norm)))
    return grads, norm


def each_alone(always):
    def answer(grads, max_norm):
        factors = [max_norm / g.norm() if always or g.norm() > max_norm else 1.0 for g in grads]
        return [g * factor for g, factor in zip(grads, factors, strict=True)], clip_by_norm(grads, max_norm)[1]

    return answer


# ------------------------------------------------------------------ accumulated_loss, perplexity


def weighed(losses, counts):
    return sum(x * n for x, n in zip(losses, counts, strict=True))


def accumulated_loss(losses, counts):
    return sum(x * n for x, n in zip(losses, counts, strict=True) if n) / sum(counts)


def perplexity(losses, counts):
    return math.exp(weighed(losses, counts) / sum(counts))


# ------------------------------------------------------------------ early_stopping


def early_stopping(losses, patience, min_delta=0.0):
    best = 0
    for i, loss in enumerate(losses):
        if loss < losses[best] - min_delta:
            best = i
        elif i - best >= patience:
            return best, i
    return best, len(losses) - 1


def stopping(
    better=lambda loss, best, delta: loss < best - delta,
    enough=lambda bad, patience: bad >= patience,
    reset=True,
    last=lambda losses: len(losses) - 1,
    previous=False,
    every_gain=(),
    give=lambda best, stop, losses: (best, stop),
):
    """The right way, with another idea of better, of enough, or of what to compare with or to give back.

    Args:
        every_gain: what moves with any gain, however small: "best", the lowest loss ("mark") that gains are measured
            from, or both.
    """

    def answer(losses, patience, min_delta=0.0):
        best, mark, bad = 0, losses[0], 0
        for i, loss in enumerate(losses[1:], 1):
            if better(loss, losses[i - 1] if previous else mark, min_delta):
                best, mark, bad = i, loss, bad * (not reset)
                continue
            bad += 1
            best = i if "best" in every_gain and loss < losses[best] else best
            mark = min(mark, loss) if "mark" in every_gain else mark
            if enough(bad, patience):
                return give(best, i, losses)
        return give(best, last(losses), losses)

    return answer


REFERENCES = {
    "next_token_loss": agreeing(next_token_loss, transformers_loss),
    "adamw_step": agreeing(adamw_step, torch_adamw),
    "learning_rate_at": agreeing(learning_rate_at, transformers_rate),
    "clip_by_norm": agreeing(clip_by_norm, torch_clip),
    "accumulated_loss": accumulated_loss,
    "perplexity": perplexity,
    "early_stopping": early_stopping,
}

WRONG = {
    "next_token_loss": [
        loss(shift=lambda x, y: (x, y)),
        loss(shift=lambda x, y: (x[:, 1:], y[:, :-1])),
        loss(shift=lambda x, y: (x[:, :-2], y[:, 2:])),
        loss(shift=lambda x, y: (x, y.roll(-1, 1))),
        loss(shift=lambda x, y: (x.flatten(0, 1)[:-1], y.flatten()[1:])),
        loss(shift=lambda x, y: (x[:, -2:-1], y[:, -1:])),
        loss(labels=lambda y: y.clamp(min=0)),
        loss(shift=lambda x, y: (x, y.clamp(min=0))),
        loss(logits=lambda x: x.softmax(-1)),
        loss(mean=lambda each, keep: each.sum()),
        loss(mean=lambda each, keep: each.mean()),
        loss(mean=lambda each, keep: each.sum() / (each.numel() + len(each))),
        loss(mean=lambda each, keep: each.sum() / len(each)),
        loss(mean=lambda each, keep: (each.sum(1) / keep.sum(1)).mean()),
        loss(mean=lambda each, keep: each[keep]),
        loss(mean=lambda each, keep: -each[keep].mean()),
        loss(mean=lambda each, keep: each[keep].mean() / math.log(2)),
        loss(mean=lambda each, keep: each[keep].mean().exp()),
        loss(mean=lambda each, keep: each[keep].mean().detach()),
        lambda x, y: loss(mean=lambda each, keep: each.sum())(x, y) / (y != -100).sum(),
        lambda x, y: gathered(x, y, log=lambda x: x.softmax(-1)),
        lambda x, y: gathered(x, y, log=lambda x: x),
        lambda x, y: gathered(x, y, log=lambda x: x.log_softmax(1)),
        lambda x, y: gathered(x, y, log=lambda x: (x.exp() / x.exp().sum(-1, keepdim=True)).log()),
        lambda x, y: gathered(x, y, skip=False),
        lambda x, y: F.cross_entropy(x[:, :-1], y[:, 1:]),
        lambda x, y: F.cross_entropy(x[:, :-1].view(-1, x.shape[-1]), y[:, 1:].reshape(-1)),
        lambda x, y: None,
        labels_in_place,
    ],
    "adamw_step": [
        adamw(m_hat=bare, v_hat=bare),
        adamw(m_hat=bare),
        adamw(v_hat=bare),
        adamw(**corrected(lambda t: t - 1)),
        adamw(**corrected(lambda t: t + 1)),
        adamw(**corrected(lambda t: 1)),
        adamw(m_hat=lambda m, b, t: m * (1 - b**t), v_hat=lambda v, b, t: v * (1 - b**t)),
        adamw(grad=lambda g, w, d: g + d * w, new=lambda w, step, lr, d: w - lr * step),
        adamw(new=lambda w, step, lr, d: w - lr * step),
        adamw(new=lambda w, step, lr, d: w - d * w - lr * step),
        adamw(new=lambda w, step, lr, d: w + lr * d * w - lr * step),
        adamw(new=lambda w, step, lr, d: w - lr * d - lr * step),
        adamw(new=lambda w, step, lr, d: (w - lr * step) * (1 - lr * d)),
        adamw(new=lambda w, step, lr, d: w - lr * d * w + lr * step),
        adamw(new=lambda w, step, lr, d: w - lr * d * w - step),
        adamw(new=lambda w, step, lr, d: lr * d * w + lr * step),
        adamw(below=lambda v, eps: (v + eps).sqrt()),
        adamw(below=lambda v, eps: v + eps),
        adamw(below=lambda v, eps: v.sqrt()),
        adamw(mean=lambda m, g, b: (1 - b) * m + b * g),
        adamw(mean=lambda m, g, b: b * m + g),
        adamw(mean=lambda m, g, b: m + (1 - b) * g),
        adamw(mean=lambda m, g, b: 0.9 * m + 0.1 * g),
        adamw(mean=lambda m, g, b: g),
        adamw(square=lambda v, g, b: b * v + (1 - b) * g),
        adamw(square=lambda v, g, b: b * v + (1 - b) * g.abs()),
        adamw(square=lambda v, g, b: (b * v + (1 - b) * g) ** 2),
        adamw(square=lambda v, g, b: (1 - b) * v + b * g**2),
        adamw(square=lambda v, g, b: 0.999 * v + 0.001 * g**2),
        adamw(square=lambda v, g, b: g**2),
        adamw(kept=lambda x, x_hat: x_hat),
        adamw(give=lambda w, m, v: w),
        adamw(give=lambda w, m, v: (w, v, m)),
        adamw_in_place,
        w_in_place,
        eps_too_early,
        decay_in_step,
        lambda w, g, m, v, t, lr, b1=0.9, b2=0.9, eps=1e-8, d=0.01: adamw_step(w, g, m, v, t, lr, b1, b2, eps, d),
        lambda w, g, m, v, t, lr: adamw_step(w, g, m, v, t, lr),
    ],
    "learning_rate_at": [
        rate(climb=lambda step, warmup: (step + 1) / warmup),
        rate(climb=lambda step, warmup: (step + 1) / (warmup + 1)),
        rate(climb=lambda step, warmup: step / (warmup - 1)),
        rate(climb=lambda step, warmup: 1.0),
        rate(climb=lambda step, warmup: 1 - step / warmup),
        rate(climb=lambda step, warmup: step),
        rate(climb=lambda step, warmup: 0.5 * (1 - math.cos(math.pi * step / warmup))),
        rate(before=lambda step, warmup: step <= warmup),
        rate(before=lambda step, warmup: False),
        rate(before=lambda step, warmup: False, progress=lambda step, steps, warmup: step / steps),
        rate(before=lambda step, warmup: warmup > 0),
        rate(progress=lambda step, steps, warmup: step / steps),
        rate(progress=lambda step, steps, warmup: (step - warmup) / steps),
        rate(progress=lambda step, steps, warmup: step / (steps - warmup)),
        rate(progress=lambda step, steps, warmup: (step - warmup) / (steps - 1 - warmup)),
        rate(progress=lambda step, steps, warmup: (step + 1 - warmup) / (steps - warmup)),
        rate(curve=lambda x: 1 - x),
        rate(curve=lambda x: 1.0),
        rate(curve=lambda x: math.cos(math.pi * x)),
        rate(curve=lambda x: math.cos(math.pi * x / 2)),
        rate(curve=lambda x: 1 + math.cos(math.pi * x)),
        rate(curve=lambda x: 0.5 * (1 + math.cos(x))),
        rate(curve=lambda x: 0.5 * (1 + math.cos(180 * x))),
        rate(curve=lambda x: 0.5 * (1 + math.cos(2 * math.pi * x))),
        rate(curve=lambda x: 0.5 * (1 - math.cos(math.pi * x))),
        rate(curve=lambda x: 0.5 * math.cos(math.pi * x)),
        rate(curve=lambda x: 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * x))),
        rate(times=lambda share, peak: share),
        rate(times=lambda share, peak: None),
        rate(times=lambda share, peak: [share * peak]),
    ],
    "clip_by_norm": [
        each_alone(always=False),
        each_alone(always=True),
        clip(scale=lambda g, factor, most: g.clamp(-most, most)),
        clip(scale=lambda g, factor, most: g),
        clip(scale=lambda g, factor, most: 0 * g if factor < 1 else g),
        clip(factor=lambda norm, most: most / norm if norm else 1.0),
        clip(factor=lambda norm, most: 1 / norm if norm else 1.0),
        clip(factor=lambda norm, most: norm / most if norm > most else 1.0),
        clip(factor=lambda norm, most: 1 / most if norm > most else 1.0),
        clip(factor=lambda norm, most: most if norm > most else 1.0),
        clip(factor=lambda norm, most: min(1.0, most / float(norm))),
        clip(norm=lambda flat, grads: (flat**2).sum()),
        clip(norm=lambda flat, grads: (flat**2).mean().sqrt()),
        clip(norm=lambda flat, grads: (flat**2).mean()),
        clip(norm=lambda flat, grads: sum(g.norm() for g in grads)),
        clip(norm=lambda flat, grads: max(g.norm() for g in grads)),
        clip(norm=lambda flat, grads: grads[0].norm()),
        clip(norm=lambda flat, grads: flat.abs().sum()),
        clip(norm=lambda flat, grads: flat.sum()),
        clip(norm=lambda flat, grads: flat.abs().max()),
        clip(give=lambda new, norm, factor: (new, torch.cat([g.flatten() for g in new]).norm())),
        clip(give=lambda new, norm, factor: (new, factor)),
        clip(give=lambda new, norm, factor: (new, [g.norm() for g in new])),
        clip(give=lambda new, norm, factor: (norm, new)),
        clip(give=lambda new, norm, factor: new),
        clip(give=lambda new, norm, factor: norm),
        clip(give=lambda new, norm, factor: (torch.cat([g.flatten() for g in new]), norm)),
        lambda grads, most: clip_by_norm(grads, most)[0].clear(),
        clip_in_place,
    ],
    "accumulated_loss": [
        lambda x, n: sum(x) / len(x),
        lambda x, n: sum(x),
        weighed,
        lambda x, n: weighed(x, n) / sum(n),
        lambda x, n: weighed(x, n) / len(x),
        lambda x, n: weighed(x, n) / sum(x),
        lambda x, n: weighed(x, n) / max(n),
        lambda x, n: sum(x) / sum(n),
        lambda x, n: sum(a / b for a, b in zip(x, n, strict=True)),
        lambda x, n: accumulated_loss(x, [1 / b for b in n]),
        lambda x, n: accumulated_loss([0.0 if b == 0 else a for a, b in zip(x, n, strict=True)], [b or 1 for b in n]),
        lambda x, n: x[-1],
        lambda x, n: math.exp(accumulated_loss(x, n)),
        lambda x, n: [a * b / sum(n) for a, b in zip(x, n, strict=True)],
        lambda x, n: None,
    ],
    "perplexity": [
        lambda x, n: math.exp(sum(x) / len(x)),
        lambda x, n: accumulated_loss([math.exp(a) for a in x], n),
        lambda x, n: accumulated_loss([2**a for a in x], n),
        lambda x, n: sum(math.exp(a) for a in x) / len(x),
        lambda x, n: 2 ** accumulated_loss(x, n),
        lambda x, n: 10 ** accumulated_loss(x, n),
        accumulated_loss,
        lambda x, n: sum(x) / len(x),
        lambda x, n: math.exp(-accumulated_loss(x, n)),
        lambda x, n: math.expm1(accumulated_loss(x, n)),
        lambda x, n: math.log2(perplexity(x, n)),
        lambda x, n: math.exp(sum(x)),
        lambda x, n: math.exp(weighed(x, n)),
        lambda x, n: math.exp(weighed(x, n) / len(x)),
        lambda x, n: math.exp(sum(x) / sum(n)),
        lambda x, n: [math.exp(a) for a in x],
        lambda x, n: "low",
    ],
    "early_stopping": [
        lambda losses, patience, min_delta=0.0: (losses.index(min(losses)), len(losses) - 1),
        lambda losses, patience, min_delta=0.0: (losses.index(min(losses)), early_stopping(losses, patience)[1]),
        lambda losses, patience, min_delta=0.0: early_stopping(losses, patience),
        lambda losses, patience, min_delta=0.0: early_stopping(losses, patience, -min_delta),
        lambda losses, patience, min_delta=0.0: early_stopping(losses, 2, min_delta),
        stopping(enough=lambda bad, patience: bad > patience),
        stopping(enough=lambda bad, patience: bad >= patience - 1),
        stopping(better=lambda loss, best, delta: loss <= best - delta),
        stopping(better=lambda loss, best, delta: loss < best if not delta else loss <= best - delta),
        stopping(better=lambda loss, best, delta: loss > best + delta),
        stopping(reset=False),
        stopping(previous=True),
        stopping(every_gain=("best", "mark")),
        stopping(every_gain=("mark",)),
        stopping(last=len),
        stopping(last=lambda losses: -1),
        stopping(last=lambda losses: None),
        stopping(give=lambda best, stop, losses: (stop, best)),
        stopping(give=lambda best, stop, losses: (best + 1, stop + 1)),
        stopping(give=lambda best, stop, losses: (losses[best], stop)),
        stopping(give=lambda best, stop, losses: (stop, stop)),
        stopping(give=lambda best, stop, losses: (best, best)),
        stopping(give=lambda best, stop, losses: stop),
        stopping(give=lambda best, stop, losses: None),
    ],
}
