"""The exercises of lab 10, ONNX export and serving: what each answer is tried on, and what is said of wrong ones."""

from __future__ import annotations

from labkit.exercises import Wrong, call, describe, exercise, expect_close, expect_number, expect_shape, expect_type
from labkit.scratch import export as by_hand

LAB = "10"


@exercise(
    "greedy",
    lab=LAB,
    title="the loop that writes",
    difficulty=2,
    minutes=8,
    hints=(
        "Keep a list of what was said. In each round ask `step` for the scores behind prompt + said.",
        "The next token is the place of the largest score. If it is `end`, stop and leave it out.",
        "said = []\nwhile len(said) < most:\n    scores = step(prompt + said)\n"
        "    token = max(range(len(scores)), key=lambda i: scores[i])\n    if token == end:\n        break\n"
        "    said.append(token)\nreturn said",
    ),
    after="Every runtime has this loop. What differs is how little of `prompt + said` is computed anew.",
)
def greedy(answer):
    seen: list[list[int]] = []

    def model(path, size=8):
        """Scores that lead along a path, whatever came before it; all below zero, as log-likelihoods are."""

        def step(ids):
            seen.append(list(ids))
            if len(seen) > 60:
                raise Wrong("the loop does not end: it asked 60 times for an answer of at most 6 tokens.")
            at = len(ids) - 2  # the prompt has two tokens
            want = path[at] if 0 <= at < len(path) else 7
            return [-1.0 if i == want else -2.0 - i for i in range(size)]

        return step

    cases = (([3, 1, 4, 2, 6], 2, 6), ([3, 1, 4], 2, 3), ([2, 5, 5], 2, 6), ([5, 5, 1, 2], 2, 6))
    for path, end, most in cases:
        seen.clear()
        prompt = [9, 8]
        got = call(answer, model(path), prompt, end, most, copies=False)
        where = f"for a model that says {path}, end = {end}, most = {most}"
        if prompt != [9, 8]:
            raise Wrong(f"{where}: your function changes the prompt that it was given; the caller still needs it.")
        want = path[: path.index(end)] if end in path else path
        want = want[:most]
        if got is None:
            raise Wrong(f"{where}: your function gave None. Is there a `return`?")
        if not isinstance(got, list | tuple):
            raise Wrong(f"{where}: expected a list of token ids, and got {describe(got)}.")
        got = list(got)
        if got == want:
            continue
        if got == [9, 8, *want]:
            raise Wrong(f"{where}: the prompt stands in front of the answer. Give what is new.")
        if got == [*want, end]:
            raise Wrong(f"{where}: the token that ends is among the answer; it is a signal, not text. Leave it out.")
        if len(got) > len(want) and end in got:
            raise Wrong(f"{where}: it went on behind the token that ends. Stop there.")
        if len(got) > most:
            raise Wrong(f"{where}: {len(got)} tokens, and at most {most} were asked for.")
        if want and got == want[:-1]:
            raise Wrong(f"{where}: one token short, {got} in place of {want}.")
        if len(set(map(len, seen))) == 1 and len(seen) > 1:
            raise Wrong(f"{where}: `step` was given {len(seen[0])} tokens every time. It must see what was said, too.")
        if got and set(got) == {7}:
            raise Wrong(f"{where}: those are the least likely tokens. Take the largest score.")
        raise Wrong(f"{where}: expected {want}, and got {got}.")


@exercise(
    "kv_cache_bytes",
    lab=LAB,
    title="what a conversation costs",
    difficulty=1,
    minutes=4,
    hints=(
        "Each layer keeps a key and a value of every token, for each of its key-value heads.",
        "A key has head_size numbers, and so has a value: that is where the 2 comes from.",
        "return 2 * layers * kv_heads * head_size * tokens * bytes_each",
    ),
    after="It grows with every token and every client. A few long prompts can cost more than the weights.",
)
def kv_cache_bytes(answer):
    for layers, heads, size, tokens, each in ((5, 3, 64, 100, 4), (30, 3, 64, 1000, 2), (24, 2, 128, 7, 4)):
        got = call(answer, layers, heads, size, tokens, each)
        where = f"for {layers} layers, {heads} heads of {size}, {tokens} tokens of {each} bytes"
        expect_type(got, (int, float), where)
        right = by_hand.kv_cache_bytes(layers, heads, size, tokens, each)
        usual = {
            right // 2: "that is the keys alone, or the values alone.",
            right // each: "those are numbers, not bytes: each takes bytes_each.",
            right // layers: "that is one layer.",
            right // heads: "that is one head.",
            right // tokens: "that is one token.",
            right * heads: "the heads are counted twice.",
            2 * layers * heads * size * tokens**2 * each: "squared in the tokens: that would be the attention scores, "
            "which nobody keeps.",
        }
        if got != right and got in usual:
            raise Wrong(f"{where}: expected {right:,}, and got {got:,}: {usual[got]}")
        expect_number(got, right, 0, where)


@exercise(
    "block_codes",
    lab=LAB,
    title="sixteen levels for a block",
    difficulty=2,
    minutes=10,
    hints=(
        "16 levels have 15 steps between them. The range to cover reaches from the smallest weight to the largest, and "
        "holds 0.",
        "low = min(0, block.min()), high = max(0, block.max()), scale = (high - low) / 15, zero = round(-low / scale).",
        "codes = np.clip(np.round(block / scale) + zero, 0, 15).astype(np.uint8)\nreturn codes, scale, zero",
    ),
    after="With a whole zero the runtime can multiply in integers. The price is that the range is moved a little.",
)
def block_codes(answer):
    import numpy as np

    rng = np.random.default_rng(4)
    cases = (("weights of both signs", rng.normal(0, 1, 32) + 0.4), ("weights above zero", rng.uniform(1, 3, 16)),
             ("weights below zero", -rng.uniform(0.5, 2, 16)))
    for name, block in cases:
        got = call(answer, block)
        where = f"for {len(block)} {name}"
        if not isinstance(got, tuple | list) or len(got) != 3:
            raise Wrong(f"{where}: expected three things, codes, scale and zero, and got {describe(got)}.")
        codes, scale, zero = got
        want_codes, want_scale, want_zero = by_hand.block_codes(block)
        expect_shape(codes, block.shape, f"of the codes {where}")
        expect_number(zero, round(float(np.asarray(zero))), 1e-9, f"{where}: the zero must be a whole number")
        spread, whole = float(block.max() - block.min()), want_scale * 15
        usual = {
            spread / 15: "its range leaves 0 out. Stretch the range until it holds 0: low = min(0, block.min()).",
            whole / 16: "16 levels have 15 steps between them, not 16.",
            float(abs(block).max()) / 7.5: "that is the symmetric grid. Here the range goes from low to high.",
            float(abs(block).max()) / 7: "that is the symmetric grid. Here the range goes from low to high.",
            whole: "that is the whole range; a step is one fifteenth of it.",
            15 / whole: "that is upside down: weights are divided by the scale.",
        }
        if abs(float(scale) - want_scale) > 1e-6 * want_scale:
            for value, sentence in usual.items():
                if abs(float(scale) - value) < 1e-6 * abs(value):
                    raise Wrong(f"{where}: the scale is {float(scale):.4g} in place of {want_scale:.4g}: {sentence}")
        expect_number(float(scale), want_scale, 1e-6, f"for the scale {where}")
        if float(zero) == -want_zero and want_zero:
            raise Wrong(f"{where}: the zero has the wrong sign: it is the code of the weight 0, from 0 to 15.")
        expect_number(zero, want_zero, 0, f"for the zero {where}")
        codes = np.asarray(codes)
        if codes.min() < 0 or codes.max() > 15:
            raise Wrong(f"{where}: codes from {codes.min()} to {codes.max()} do not fit into 4 bits. Clip them.")
        if (codes != np.round(codes)).any():
            raise Wrong(f"{where}: the codes are not whole numbers. Round them.")
        floor = np.clip(np.floor(block / want_scale) + want_zero, 0, 15)
        if (codes == floor).all() and (floor != want_codes).any():
            raise Wrong(f"{where}: the codes are rounded down. Take the nearest.")
        expect_close(codes.astype(float), want_codes.astype(float), 1e-6, f"for the codes {where}")


@exercise(
    "pack_codes",
    lab=LAB,
    title="two codes a byte",
    difficulty=1,
    minutes=5,
    hints=(
        "codes[:, 0::2] are the first of each pair, codes[:, 1::2] the second.",
        "`<< 4` moves a code into the upper half of a byte; `|` puts two halves together.",
        "return codes[:, 0::2] | (codes[:, 1::2] << 4)",
    ),
    after="This is the very layout of MatMulNBits, the operator that every int4 file of this lab is made of.",
)
def pack_codes(answer):
    import numpy as np

    codes = np.random.default_rng(1).integers(0, 16, (3, 8), dtype=np.uint8)
    codes[0, :2] = 1, 2
    got = call(answer, codes)
    where = f"for codes {codes.shape}"
    if isinstance(got, np.ndarray) and got.shape == codes.shape:
        raise Wrong(f"{where}: as many bytes as codes, so nothing was saved. Put two into one.")
    expect_shape(got, (3, 4), where)
    got = np.asarray(got)
    low, high = codes[:, 0::2], codes[:, 1::2]
    usual = {
        "the second code of a pair is in the lower half. The first belongs there: [1, 2] becomes 0x21.":
            high | (low << 4),
        "the two codes are added, and one of them must be moved by 4 bits first.": low + high,
        "the two codes stand on the same bits. Move one of them: << 4.": low | high,
        "the first code is paired with the fourth behind it. Neighbours share a byte.":
            codes[:, :4] | (codes[:, 4:] << 4),
        "only the first of each pair is there.": low,
        "only the second of each pair is there.": high << 4,
    }
    for sentence, value in usual.items():
        if (got.astype(np.int64) == value).all():
            raise Wrong(f"{where}: {sentence}")
    if got.dtype != np.uint8:
        raise Wrong(f"{where}: {got.dtype} takes {got.dtype.itemsize} bytes for a pair. Keep to uint8.")
    expect_close(got.astype(float), by_hand.pack_codes(codes).astype(float), 1e-9, where)


@exercise(
    "mean_kl",
    lab=LAB,
    title="how far the answers moved",
    difficulty=2,
    minutes=6,
    hints=(
        "First make log-probabilities of both: torch.log_softmax(p, -1).",
        "KL(p‖q) of a row is the sum of exp(log p) × (log p - log q). Then the mean over rows.",
        "p, q = torch.log_softmax(p, -1), torch.log_softmax(q, -1)\n"
        "return float((p.exp() * (p - q)).sum(-1).mean())",
    ),
    after="Accuracy moves only when an answer flips; KL sees every nudge, so it needs far fewer texts.",
)
def mean_kl(answer):
    import torch

    g = torch.Generator().manual_seed(2)
    p, q = torch.randn(5, 7, generator=g) * 2, torch.randn(5, 7, generator=g) + 3
    got = call(answer, p, q)
    where = "for logits (5, 7)"
    if isinstance(got, torch.Tensor) and got.numel() == 5:
        raise Wrong(f"{where}: one figure a row. Take their mean.")
    if isinstance(got, torch.Tensor) and got.numel() == 1:
        got = got.item()
    expect_type(got, (int, float), where)
    lp, lq = p.log_softmax(-1), q.log_softmax(-1)
    right = by_hand.mean_kl(p, q)
    usual = {
        float((lq.exp() * (lq - lp)).sum(-1).mean()): "that is KL(q‖p). The reference p weighs the differences.",
        right * 5: "that is the sum over rows. Take the mean.",
        right / 7: "a mean over the vocabulary, too. Within a row it is a sum, since the weights add up to 1.",
        float((lp.exp() * (p - q)).sum(-1).mean()): "the logits were subtracted as they are. Only after log_softmax do "
        "both rows add up to one.",
        -right: "the sign is turned: log p - log q.",
        right / 0.6931471805599453: "that is in bits. Nats are asked for: the natural logarithm.",
        float((lp.exp() * (lp - lq)).sum(0).mean()): "summed over rows, and the mean over the vocabulary: the other "
        "way round.",
        float((-lp.exp() * lq).sum(-1).mean()): "that is the cross-entropy. Take the entropy of p away: log p - log q.",
    }
    if abs(got - right) > 1e-5:
        for value, sentence in usual.items():
            if abs(got - value) < 1e-5:
                raise Wrong(f"{where}: expected {right:.4f}, and got {got:.4f}: {sentence}")
    expect_number(got, right, 1e-5, where)


@exercise(
    "detour_inputs",
    lab=LAB,
    title="an adapter as inputs of a graph",
    difficulty=2,
    minutes=8,
    hints=(
        "The graph computes x @ a @ b, with a (d_in, rank) and b (rank, d_out): transposes of what peft keeps.",
        "The scale alpha / r goes into b. r is A.shape[0], the rank that was trained, not the one filled up to.",
        "r = A.shape[0]\na, b = torch.zeros(A.shape[1], rank), torch.zeros(rank, B.shape[0])\n"
        "a[:, :r], b[:r] = A.T, B.T * (alpha / r)\nreturn a, b",
    ),
    after="Zeros add nothing to a product, so adapters of any rank fit one graph.",
)
def detour_inputs(answer):
    import torch

    g = torch.Generator().manual_seed(6)
    A, B, x = (torch.randn(shape, generator=g) for shape in ((2, 6), (5, 2), (4, 6)))
    for alpha, rank in ((16.0, 4), (6.0, 2)):
        got = call(answer, A, B, alpha, rank)
        where = f"for A {tuple(A.shape)}, B {tuple(B.shape)}, alpha = {alpha:g}, rank = {rank}"
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong(f"{where}: expected two tensors, and got {describe(got)}.")
        a, b = got
        if getattr(a, "shape", None) == (rank, 6) and rank != 6:
            raise Wrong(f"{where}: the first is (rank, d_in), as peft has it. The graph wants (d_in, rank).")
        if getattr(a, "shape", None) == (6, 2) and rank != 2:
            raise Wrong(f"{where}: rank 2, and the graph was given {rank}. Fill up with zeros.")
        expect_shape(a, (6, rank), f"of the first tensor {where}")
        expect_shape(b, (rank, 5), f"of the second tensor {where}")
        product, want = x @ a @ b, x @ A.T @ B.T
        usual = {
            1.0: "the scale is missing: alpha / r.",
            alpha: "times alpha, and not divided by r.",
            alpha / rank if rank != 2 else 0.0: "divided by the filled-up rank. The scale is of the rank that was "
            "trained, A.shape[0].",
            (alpha / 2) ** 2: "the scale is in both tensors. Put it into one.",
            2 / alpha: "upside down: the scale is alpha / r.",
        }
        for factor, sentence in usual.items():
            if factor and abs(factor - alpha / 2) > 1e-6 and torch.allclose(product, factor * want, atol=1e-4):
                raise Wrong(f"{where}: {sentence}")
        if rank > 2 and (a[:, 2:].any() or b[2:].any()):
            raise Wrong(f"{where}: what is filled up is not zero, so it adds something.")
        expect_close(product, alpha / 2 * want, 1e-5, f"in x @ a @ b {where}")
