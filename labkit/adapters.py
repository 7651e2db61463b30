"""Low-rank adapters through peft: attach, describe, save, load and merge.

Stands between `models` (which gives a base) and `training` (which moves what is attached here).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.errors import LabError
from labkit.models import quiet

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

VARIANTS = ("lora", "rslora", "dora", "pissa")


def attach_lora(
    model: PreTrainedModel,
    rank: int = 8,
    alpha: float | None = None,
    *,
    dropout: float = 0.0,
    targets: str | list[str] = "all-linear",
    variant: str = "lora",
    seed: int = 0,
    name: str = "default",
) -> PeftModel:
    """Attach a LoRA adapter to every target matrix and freeze the base.

    Args:
        model: the base; it is changed in place.
        rank: r, columns of A and B.
        alpha: scale, the detour is multiplied by alpha / r (rsLoRA: alpha / sqrt(r)); 2 r where it is not given.
        dropout: on the input of the detour, in training only.
        targets: names of modules, or "all-linear" for every linear layer but the output head.
        variant: "lora" (Hu et al., 2021), "rslora" (Kalajdzievski, 2023), "dora" (Liu et al., 2024) or
            "pissa" (Meng et al., 2024), which moves part of W into the adapter.
        seed: of A's random start.
        name: of the adapter.

    Raises:
        LabError: rank is not positive, the variant is unknown, or no module has such a name.
    """
    import torch

    with quiet():  # peft imports bitsandbytes, which has something to say
        from peft import LoraConfig, get_peft_model

    if rank < 1:
        raise LabError(f"rank {rank}", expected="a whole number from 1 on", where="rank")
    if variant not in VARIANTS:
        raise LabError(f"there is no variant {variant!r}", expected=", ".join(VARIANTS), where="variant")
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
        use_rslora=variant == "rslora",
        use_dora=variant == "dora",
        init_lora_weights="pissa" if variant == "pissa" else True,
    )
    torch.manual_seed(seed)
    try:
        with quiet():
            return get_peft_model(model, config, adapter_name=name)
    except ValueError as error:
        known = sorted({n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        raise LabError(
            f"no module of this model is called {targets}", expected=f"some of {', '.join(known)}", where="targets"
        ) from error


def load(model: PreTrainedModel, folder: str | Path) -> PeftModel:
    """Put a saved adapter on its base.

    Raises:
        LabError: the folder holds no adapter, or one with other shapes than this base has.
    """
    with quiet():
        from peft import PeftModel

    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        raise LabError(
            "no adapter here", where=str(folder), expected="adapter_config.json and adapter_model.safetensors"
        )
    try:
        with quiet():
            return PeftModel.from_pretrained(model, str(folder), is_trainable=False).eval()
    except (RuntimeError, ValueError) as error:
        raise LabError(
            "this adapter does not fit this base model",
            where=str(folder),
            todo="Load the base that adapter_config.json names",
        ) from error


def merge(model: PeftModel) -> PreTrainedModel:
    """A new model with W + (alpha / r) B A in place of W; the one given stays as it is.

    Merge in full precision: added to a 4-bit W, the detour is rounded away with it.
    """
    return copy.deepcopy(model).merge_and_unload()


def matrices(model: PeftModel) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """For each adapted module its A (r, d_in) and B (d_out, r), by the module's name."""
    found = {}
    for name, module in model.named_modules():
        if getattr(module, "lora_A", None):
            for key in module.lora_A:
                label = name.removeprefix("base_model.model.")
                found[label] = (module.lora_A[key].weight.detach(), module.lora_B[key].weight.detach())
    return found
