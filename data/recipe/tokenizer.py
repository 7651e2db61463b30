"""tiny-base's tokenizer: byte-level BPE with 2,048 tokens, learnt from the same documents that the model reads.

Two things are not left to chance. A name is the same tokens after a space and after a quote (no merge ever joins a
space to a capital letter), and each label word is one token wherever it stands (its merges come first, and none
joins it to a space). At run time it is an ordinary tokenizer: digits one by one, then the GPT-2 pattern, then BPE.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from itertools import pairwise

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
LABELS = (
    "joy anger sadness fear surprise neutral delivery return payment warranty advice change stock workshop"
).split()
PIECE = re.compile(r"'(?:s|t|re|ve|m|ll|d)\b|[0-9]| ?[A-Za-z]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")  # corpus is ASCII

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train(texts: Iterable[str], vocabulary: int = 2048) -> PreTrainedTokenizerFast:
    """Learn the merges from texts and wrap them as a transformers tokenizer with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(count_pieces(texts), vocabulary - len(SPECIAL) - len(alphabet))
    tokens = [*SPECIAL, *alphabet, *(a + b for a, b in merges)]
    bpe = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[3],
        unk_token=SPECIAL[0],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[SPECIAL[1]],
    )


def count_pieces(texts: Iterable[str]) -> Counter[tuple[str, ...]]:
    """How often each piece occurs, as a tuple of byte characters; a space before a capital stands alone."""
    counts: Counter[str] = Counter()
    for text in texts:
        for piece in PIECE.findall(text):
            if piece[0] == " " and piece[1:2].isupper():
                counts[" "] += 1
                piece = piece[1:]
            counts[piece] += 1
    to_byte = {" ": "Ġ", "\n": "Ċ"}
    return Counter({tuple(to_byte.get(c, c) for c in piece): n for piece, n in counts.items()})


def learn_merges(pieces: Counter[tuple[str, ...]], number: int) -> list[tuple[str, str]]:
    """The label words' own merges first, then the most frequent pair again and again (Sennrich et al., 2016)."""
    merges: list[tuple[str, str]] = []
    for label in LABELS:
        parts = list(label)
        for merge in merges:
            parts = apply_merge(parts, merge)
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = apply_merge(parts, merges[-1])
    words = [(list(piece), n) for piece, n in pieces.items()]
    pairs: Counter[tuple[str, str]] = Counter()
    holders: dict[tuple[str, str], set[int]] = {}
    for i, (parts, n) in enumerate(words):
        for pair in pairwise(parts):
            pairs[pair] += n
            holders.setdefault(pair, set()).add(i)

    def join(merge: tuple[str, str]) -> set[tuple[str, str]]:
        """Do it in the words that hold the pair, and in no other; the pairs whose count has changed."""
        touched = set()
        for i in list(holders.get(merge, ())):
            parts, n = words[i]
            for pair in pairwise(parts):
                pairs[pair] -= n
                holders[pair].discard(i)
                touched.add(pair)
            parts = apply_merge(parts, merge)
            words[i] = (parts, n)
            for pair in pairwise(parts):
                pairs[pair] += n
                holders.setdefault(pair, set()).add(i)
                touched.add(pair)
        return touched

    for merge in merges:
        join(merge)
    known = {a + b for a, b in merges}
    forbidden = {("Ġ", label) for label in LABELS}
    queue = [(-n, downwards(pair), pair) for pair, n in pairs.items() if n > 0]
    heapify(queue)
    while len(merges) < number:
        n, _, best = heappop(queue)
        if -n != pairs[best] or best in forbidden or best[0] + best[1] in known:  # counted anew since, or never wanted
            continue
        merges.append(best)
        known.add(best[0] + best[1])
        for pair in join(best):
            if pairs[pair] > 0:
                heappush(queue, (-pairs[pair], downwards(pair), pair))
    return merges


def downwards(pair: tuple[str, str]) -> tuple[tuple[int, ...], ...]:
    """A key that sorts pairs from the last in the alphabet to the first: of pairs as frequent, the last is taken."""
    return tuple((*(-ord(c) for c in part), 1) for part in pair)


def apply_merge(parts: list[str], merge: tuple[str, str]) -> list[str]:
    """Join each neighbouring pair that equals `merge`, from left to right."""
    joined, i = [], 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == merge:
            joined.append(parts[i] + parts[i + 1])
            i += 2
        else:
            joined.append(parts[i])
            i += 1
    return joined
