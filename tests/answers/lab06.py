"""Right and wrong answers to lab 06's exercises."""

import torch
from torch.nn.functional import cross_entropy, kl_div, normalize

from labkit.scratch import losses

REFERENCES = {
    name: getattr(losses, name)
    for name in ("safe_distance", "contrastive_loss", "info_nce_loss", "masked_cross_entropy", "focal_loss",
                 "distillation_loss")
}


def contrast(pull=lambda d, m: d**2, push=lambda d, m: (m - d).clamp(min=0) ** 2, turned=False, end=torch.mean,
             distance=losses.safe_distance):
    """A contrastive loss with one thing wrong with it."""

    def answer(a, b, y, margin):
        d = distance(a, b)
        y = 1 - y if turned else y
        return end((1 - y) * pull(d, margin) + y * push(d, margin))

    return answer


def nce(scale=lambda s, t: s / t, unit=True, end="mean", sign=1):
    def answer(a, b, temperature):
        a, b = (normalize(a, dim=-1), normalize(b, dim=-1)) if unit else (a, b)
        return sign * cross_entropy(scale(a @ b.T, temperature), torch.arange(len(a)), reduction=end)

    return answer


def flat(logits, labels, reduction="mean"):
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction=reduction)


def focus(factor=lambda p, g: (1 - p) ** g, end=torch.mean, sign=1):
    def answer(logits, targets, gamma):
        nll = cross_entropy(logits, targets, reduction="none")
        return sign * end(factor((-nll).exp(), gamma) * nll)

    return answer


def distil(before=lambda x, t: x / t, after=lambda t: t**2, turned=False, end=lambda kl: kl.sum(-1).mean(), stop=True):
    def answer(student, teacher, temperature):
        teacher = teacher.detach() if stop else teacher
        log_p, log_q = (before(x, temperature).log_softmax(-1) for x in (teacher, student))
        if turned:
            log_p, log_q = log_q, log_p
        return after(temperature) * end(log_p.exp() * (log_p - log_q))

    return answer


WRONG = {
    "safe_distance": [
        lambda a, b: (a - b).pow(2).sum(-1).sqrt(),
        lambda a, b: (a - b).pow(2).sum(-1),
        lambda a, b: (a - b).abs().sum(-1),
        lambda a, b: ((a - b).pow(2).mean(-1) + 1e-12).sqrt(),
        lambda a, b: ((a - b).pow(2).sum(-1) + 0.01).sqrt(),
        lambda a, b: ((a - b).pow(2).sum() + 1e-12).sqrt(),
        lambda a, b: ((a - b).detach().pow(2).sum(-1) + 1e-12).sqrt() + 0 * a.sum().detach(),
        lambda a, b: None,
    ],
    "contrastive_loss": [
        contrast(turned=True),
        contrast(push=lambda d, m: (m - d) ** 2),
        contrast(end=torch.sum),
        contrast(end=lambda terms: terms),
        contrast(push=lambda d, m: (m - d).clamp(min=0)),
        contrast(pull=lambda d, m: d),
        contrast(push=lambda d, m: (m - d**2).clamp(min=0) ** 2),
        contrast(push=lambda d, m: 0 * d),
        contrast(push=lambda d, m: (d - m).clamp(min=0) ** 2),
        contrast(end=lambda terms: terms.mean() / 2),
        contrast(distance=lambda a, b: (a - b).pow(2).sum(-1).sqrt()),
        lambda a, b, y, margin: None,
    ],
    "info_nce_loss": [
        nce(scale=lambda s, t: s * t),
        nce(scale=lambda s, t: s),
        nce(unit=False),
        nce(scale=lambda s, t: s.T / t),
        nce(end="sum"),
        nce(end="none"),
        nce(sign=-1),
        nce(scale=lambda s, t: -s / t),
        lambda a, b, t: -(normalize(a, dim=-1) * normalize(b, dim=-1)).sum(-1).mean() / t,
        lambda a, b, t: None,
    ],
    "masked_cross_entropy": [
        flat,
        lambda x, y: flat(x[:, :-1], y[:, 1:]),
        lambda x, y: flat(x[:, 1:], y[:, :-1]),
        lambda x, y: flat(x[:, :-1], y[:, 1:], "sum"),
        lambda x, y: flat(x[:, :-1], y[:, 1:], "sum") / y[:, 1:].numel(),
        lambda x, y: flat(x[:, :-1], y[:, 1:], "sum") / len(x),
        lambda x, y: torch.stack([cross_entropy(a[:-1], b[1:]) for a, b in zip(x, y, strict=True)]).mean(),
        lambda x, y: flat(x[:, :-1], y[:, 1:].clamp(min=0)),
        lambda x, y: -flat(x[:, :-1], y[:, 1:]),
        lambda x, y: None,
    ],
    "focal_loss": [
        focus(factor=lambda p, g: 1.0),
        focus(factor=lambda p, g: p**g),
        focus(factor=lambda p, g: g * (1 - p)),
        focus(factor=lambda p, g: (1 - p) ** (g - 1)),
        focus(end=torch.sum),
        focus(end=lambda terms: terms),
        focus(sign=-1),
        lambda x, y, g: (1 - (-cross_entropy(x, y)).exp()) ** g * cross_entropy(x, y),
        lambda x, y, g: ((1 - x.softmax(-1).max(-1).values) ** g * cross_entropy(x, y, reduction="none")).mean(),
        lambda x, y, g: None,
    ],
    "distillation_loss": [
        distil(after=lambda t: 1.0),
        distil(after=lambda t: t),
        distil(turned=True),
        distil(before=lambda x, t: x),
        distil(before=lambda x, t: x * t),
        distil(end=lambda kl: kl.mean()),
        distil(end=lambda kl: kl.sum()),
        distil(stop=False),
        lambda s, t, T: T**2 * -((t / T).softmax(-1) * (s / T).log_softmax(-1)).sum(-1).mean(),
        lambda s, t, T: T**2 * kl_div((s / T).log_softmax(-1), t.softmax(-1), reduction="batchmean"),
        lambda s, t, T: None,
    ],
}
