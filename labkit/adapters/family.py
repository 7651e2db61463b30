"""The family of adapters by one name each: what is trained beside a frozen base, attached, saved and loaded alike.

Over `lora` and `bottleneck`; IA3, prompt tuning and prefix tuning come from peft. Lab 05 sets them side by side.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from labkit.adapters import lora
from labkit.errors import LabError
from labkit.models import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KINDS = ("bottleneck", "ia3", "prompt", "prefix", *lora.VARIANTS)


def attach(model: PreTrainedModel, kind: str, *, rank: int = 8, width: int = 16, virtual: int = 16,
           seed: int = 0) -> PreTrainedModel:
    """Put an untrained adapter of one kind on a base, which is changed in place and frozen.

    Args:
        model: the base.
        kind: "bottleneck" (Houlsby et al., 2019), "ia3" (Liu et al., 2022), "prompt" (Lester et al., 2021), "prefix"
            (Li and Liang, 2021), or one of `lora.VARIANTS`.
        rank: of the low-rank kinds. width: of the bottleneck's middle. virtual: tokens that prompt and prefix add.
        seed: of whatever starts at random.

    Raises:
        LabError: there is no such kind, or peft does not know where it goes in this architecture.
    """
    import torch

    if kind not in KINDS:
        raise LabError(f"there is no adapter of the kind {kind!r}", where="kind", expected=", ".join(KINDS))
    if kind in lora.VARIANTS:
        return lora.attach_lora(model, rank, variant=kind, seed=seed)
    if kind == "bottleneck":
        from labkit.adapters.bottleneck import attach_bottleneck

        return attach_bottleneck(model, width, seed)
    with quiet():
        from peft import IA3Config, PrefixTuningConfig, PromptTuningConfig, get_peft_model

        made = {
            "ia3": lambda: IA3Config(task_type="CAUSAL_LM"),
            # Rows of the base's own embedding: drawn from a normal distribution they would be many times as long.
            "prompt": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=virtual,
                                                 prompt_tuning_init="SAMPLE_VOCAB"),
            "prefix": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=virtual),
        }
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, made[kind]())
        except ValueError as error:
            raise LabError(f"peft cannot put {kind} on this model: {error}", where=type(model).__name__,
                           todo="Take another kind") from error


def save(model: PreTrainedModel, folder: str | Path) -> int:
    """Write an adapter of any kind to a folder of its own, and give the bytes that it takes there."""
    if hasattr(model, "peft_config"):
        lora.save(model, folder)
    else:
        from labkit.adapters.bottleneck import save_bottleneck

        save_bottleneck(model, folder)
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def load(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """Put what `save` wrote on its base.

    Raises:
        LabError: as the loaders of the kinds.
    """
    if (Path(folder) / "bottleneck.json").is_file():
        from labkit.adapters.bottleneck import load_bottleneck

        return load_bottleneck(model, folder).eval()
    return lora.load(model, folder)
