"""Heads that copy, set by hand before training: a previous-token head and a match-and-copy head, each twice.

Copying a number that was never seen needs a pair of heads that a model this small does not find by itself in an
hour. In layer 0 a head looks at the token before and writes down what it was; in layer 1 a head asks "where did my
present token stand as the one before?", looks there, and copies what it finds (Olsson et al., 2022, "In-context
learning and induction heads"). Training then goes on from here, with nothing held fixed.
"""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM

CONSTANT = 0.25  # value of the one embedding coordinate that is the same for every token
PAIRS = 2  # how many heads of each kind
NOISE = 0.1  # of the drawn weights, what is left of them: a row of zeros would stay zero in all training
WRITE, COPY = 0.09, 0.5  # of the size of an embedding (std 0.06), so that neither drowns the token itself


@torch.no_grad()
def set_copying_heads(model: LlamaForCausalLM, seed: int = 0) -> None:
    """Overwrite the first heads of layers 0 and 1. The model must have freshly drawn weights and tied embeddings.

    Shapes: hidden states (d,), a head's q, k, v (h,); rows of W_q, W_k, W_v are a head's, columns of W_o are.
    """
    config = model.config
    d, h = config.hidden_size, config.hidden_size // config.num_attention_heads
    half = h // 2  # rotary pairs are (i, i + half); pair 0 turns fastest, by one radian a token
    base = (config.rope_parameters or {}).get("rope_theta", 10000.0)
    frequency = base ** (-torch.arange(half) * 2 / h)
    fast = torch.arange(half) < half * 3 // 8

    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(d - 1, d - 1, generator=generator))
    basis = torch.cat([torch.zeros(d - 1, 1), basis], dim=1)  # rows orthonormal, none touches coordinate 0
    model.model.embed_tokens.weight[:, 0] = CONSTANT
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    width = min(h, (d - 1) // (2 * PAIRS))  # each pair of heads has a subspace to read and one to write
    for head in range(PAIRS):
        rows = slice(head * h, head * h + width)
        head_rows = slice(head * h, (head + 1) * h)
        token = basis[(head * width) : (head + 1) * width]  # Q: reads a token's identity
        before = basis[(PAIRS + head) * width : (PAIRS + head + 1) * width]  # S: where layer 0 writes it down
        for attention in (first, second):
            for weight in (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight):
                weight[head_rows] *= NOISE
            attention.o_proj.weight[:, head_rows] *= NOISE

        # Layer 0: the score depends on distance alone and is highest one token back.
        amplitude = 1.7
        for pair in torch.where(fast)[0].tolist():
            q, k = first.q_proj.weight, first.k_proj.weight
            k[head * h + pair, 0] = amplitude
            q[head * h + pair, 0] = amplitude * torch.cos(frequency[pair])
            q[head * h + pair + half, 0] = -amplitude * torch.sin(frequency[pair])
        first.v_proj.weight[rows] = token
        first.o_proj.weight[:, rows] = WRITE * before.T

        # Layer 1: q reads the token here, k reads what layer 0 wrote there, both on slow pairs; v and o copy.
        slow = torch.where(~fast)[0]
        slots = torch.cat([slow, slow + half])[:width] + head * h
        second.q_proj.weight[slots] = 2.2 * token[: len(slots)]
        second.k_proj.weight[slots] = 2.2 * before[: len(slots)]
        second.v_proj.weight[rows] = token
        second.o_proj.weight[:, rows] = COPY * token.T


@torch.no_grad()
def repeat_accuracy(model: LlamaForCausalLM, rows: int = 32, length: int = 24, seed: int = 1) -> float:
    """Share of tokens guessed right in the second half of random sequences that are said twice."""
    generator = torch.Generator().manual_seed(seed)
    once = torch.randint(10, model.config.vocab_size, (rows, length), generator=generator)
    ids = torch.cat([once, once], dim=1).to(model.device)
    guesses = model(input_ids=ids).logits[:, length:-1].argmax(-1)
    return (guesses == ids[:, length + 1 :]).float().mean().item()
