"""Part 2, training on a GPU: Qwen2.5-0.5B and Llama-3.2-1B with random weights, LoRA and QLoRA, rows of 2,048 tokens.

The way of `train` with rows that are full, so every token that is read counts. What a random model learns means
nothing; how fast it does so does not depend on its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import train
from bench.options import Options
from bench.turns import Job, Way, absent
from labkit import models, profiles, scaling

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig

PART = "gpu"
FIGURE = "read tokens/s"
LENGTH, BATCH, STEPS, RANK = 2048, 4, 4, 16
ARCHITECTURES: dict[str, dict[str, Any]] = {  # as the config.json of each says; embedding and head are one matrix
    "Qwen2.5-0.5B": dict(kind="qwen2", hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
                         num_attention_heads=14, num_key_value_heads=2, vocab_size=151_936, rope_theta=1e6),
    "Llama-3.2-1B": dict(kind="llama", hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                         num_attention_heads=32, num_key_value_heads=8, vocab_size=128_256, rope_theta=5e5),
}


def config(name: str, **smaller) -> PretrainedConfig:
    """An architecture's config; `smaller` puts other sizes over it."""
    from transformers import AutoConfig

    sizes = ARCHITECTURES[name] | smaller
    theta = sizes.pop("rope_theta")
    return AutoConfig.for_model(sizes.pop("kind"), tie_word_embeddings=True, max_position_embeddings=2 * LENGTH,
                                rope_parameters={"rope_type": "default", "rope_theta": theta}, **sizes)


def written(name: str, folder: Path, **smaller) -> Path:
    """A folder with a model of this architecture, its weights random, with tiny-base's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(name, **smaller), dtype=torch.bfloat16)
    with models.quiet():
        model.save_pretrained(folder)
        models.tokenizer("tiny").save_pretrained(folder)
    return folder


def random_rows(rows: int, length: int, vocabulary: int) -> Dataset:
    """Encoded rows of random tokens, all of which count."""
    import torch
    from datasets import Dataset

    ids = torch.randint(vocabulary, (rows, length), generator=torch.Generator().manual_seed(0)).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def lesson(folder: Path, quantize: str | None, scratch: Path, length: int = LENGTH, batch: int = BATCH,
           steps: int = STEPS) -> train.Lesson:
    """Steps over full rows, for a model in a folder; `quantize` as in `models.load`."""
    _, tokenizer = models.load(folder, dtype="bfloat16")
    rows = random_rows(batch * steps, length, len(tokenizer))
    return train.Lesson(lambda: models.load(folder, quantize=quantize, dtype="bfloat16")[0], tokenizer, rows,
                        rows.select(range(1)), steps, batch, length, 2e-4, RANK, scratch, guard=False)


def ways(lesson: train.Lesson) -> dict[str, Callable[[], dict[str, float]]]:
    """finetune, the plain recipe in the dtype that the machine does well, TRL with its own defaults and its packing."""
    bf16 = profiles.bf16()
    found = {"finetune": partial(train.ours, lesson), "plain Trainer": partial(train.plain, lesson, bf16=bf16),
             "TRL": partial(train.trl, lesson), "TRL, packing": partial(train.trl, lesson, packing=True)}
    return {name: partial(weighed, lesson, partial(way, name)) for name, way in found.items()}


def weighed(lesson: train.Lesson, way: Callable[[], dict[str, float]]) -> dict[str, float | str]:
    """A way's figures with the peak of the GPU's memory, and the share of its arithmetic that was put to use.

    FLOPs are reckoned as 4 N a token: 2 forward and 2 for the gradients of activations, N the base's parameters.
    """
    import torch

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    found = way()
    if not gpu:
        return found
    size = lesson.once("parameters", lambda: models.count_parameters(lesson.fresh()).total)
    name = torch.cuda.get_device_name(0)
    peak = next((flops for known, flops in scaling.PEAK.items() if known in name), None)
    used = f"{scaling.FLOPS['lora'] * size * found[FIGURE] / peak:.1%}" if peak else f"the peak of {name} is not known"
    return found | {"peak memory, GB": torch.cuda.max_memory_allocated() / 1e9, "FLOPs used": used}


def jobs(options: Options) -> Iterator[Job]:
    """Each architecture by LoRA and by QLoRA."""
    from datasets.utils import disable_progress_bars

    if profiles.device() != "cuda":
        yield absent(PART, ", ".join(ARCHITECTURES), "PyTorch sees no GPU")
        return
    disable_progress_bars()
    for name in ARCHITECTURES:
        folder = written(name, options.scratch / name)
        for method, quantize in (("LoRA", None), ("QLoRA", "nf4")):
            others = ways(lesson(folder, quantize, options.scratch / method))
            yield Job(PART, f"{name}, {method}", FIGURE, [Way(*pair) for pair in others.items()],
                      [("finetune", other) for other in others if other != "finetune"])
        yield absent(PART, f"{name}, Unsloth", "this bench has no way for it yet")
