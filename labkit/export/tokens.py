"""Whether two tokenizers see the same text: fifty strings that are known to part them, and the comparison.

Used by `build`, which lets an exported model speak through onnxruntime-genai's tokenizer only where the two agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

STRINGS = (
    "Hello", " Hello", "Hello ", "  two  spaces  ", "\ttab", "line\nbreak", "two\n\nbreaks", "\n\n1", "ends with \n",
    "\r\nwindows", "1", "12", "1234567890", "3.14159", "1,000,000", "2026-11-28", "TT-48213", "order TT-00017.",
    "v1.2.3-rc4", "50 %", "$12.99", "12°C", "don't", "it's We'LL they'Re", "\"quoted\"", "«guillemets»", "a—b – c-d",
    "…", "e-mail@example.org", "https://example.org/a?b=c&d=%20", "snake_case and camelCase", "def f(x):\n    return x",
    "{\"product\": \"tent\", \"order\": null}", "<b>bold</b>", "<|im_end|>", "<|im_start|>user\nHi<|im_end|>\n",
    "<|endoftext|>", "<s>[INST]", "Größe", "naïve café", "e\u0301", "Łódź", "Привет", "Ελληνικά", "你好，世界",
    "こんにちは", "مرحبا", "नमस्ते", "👍🏽 👨‍👩‍👧", "\u200bzero\u00a0width",
)


def gaps(one: Callable[[str], Sequence[int]], other: Callable[[str], Sequence[int]],
         strings: Sequence[str] = STRINGS) -> list[tuple[str, list[int], list[int]]]:
    """Each string that the two give other ids for, with both."""
    found = []
    for text in strings:
        a, b = list(map(int, one(text))), list(map(int, other(text)))
        if a != b:
            found.append((text, a, b))
    return found
