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
NUDGE = 1e-4  # what B begins with in rows of W that are all zero, under DoRA


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
    modules_to_save: list[str] | None = None,
) -> PeftModel:
    """Attach a LoRA adapter to every target matrix and freeze the base.

    Args:
        model: the base; it is changed in place.
        rank: r, columns of A and B.
        alpha: scale, the detour is multiplied by alpha / r (rsLoRA: alpha / sqrt(r)); 2 r where it is not given.
        dropout: on the input of the detour, in training only.
        targets: names of modules, or "all-linear" for every linear layer but the output head.
        variant: "lora" (Hu et al., 2021), "rslora" (Kalajdzievski, 2023), "dora" (Liu et al., 2024) or
            "pissa" (Meng et al., 2024), which moves part of W into the adapter and leaves the rest frozen.
        seed: of A's random start.
        name: of the adapter.
        modules_to_save: modules that are trained whole and saved with the adapter, as older recipes do with "wte" or
            "lm_head". Where embedding and head are one matrix, they stay one.

    Raises:
        LabError: rank is not positive, the variant is unknown, no module has such a name, or PiSSA shall split
            weights that are quantised.
    """
    import torch

    with quiet():  # peft imports bitsandbytes, which has something to say
        from peft import LoraConfig, get_peft_model

    if rank < 1 or rank != int(rank):
        raise LabError(f"rank {rank}", expected="a whole number from 1 on", where="rank")
    if variant not in VARIANTS:
        raise LabError(f"there is no variant {variant!r}", expected=", ".join(VARIANTS), where="variant")
    if variant == "pissa" and getattr(model, "is_quantized", False):
        raise LabError(
            "PiSSA splits W by its singular values, and these weights are quantised",
            where="variant",
            todo="Take another variant, or a base in full precision",
        )
    _check_targets(model, targets)
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    whole = _by_the_head(model, modules_to_save) if modules_to_save and tied else modules_to_save
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
        use_rslora=variant == "rslora",
        use_dora=variant == "dora",
        init_lora_weights="pissa" if variant == "pissa" else True,
        modules_to_save=whole,
        ensure_weight_tying=tied and bool(whole),
    )
    torch.manual_seed(seed)
    with quiet():
        tuned = get_peft_model(model, config, adapter_name=name)
    if variant == "dora":
        _start_empty_rows(tuned, name)
    return tuned


def _check_targets(model: PreTrainedModel, targets: str | list[str]) -> None:
    """Refuse a name that no module has; peft passes over it where another name of the list is found."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer, whose W is (d_in, d_out)

    if targets == "all-linear":
        return
    wanted = [targets] if isinstance(targets, str) else list(targets)
    linear = [name for name, module in model.named_modules() if isinstance(module, Linear | Conv1D)]
    unknown = [w for w in wanted if not any(name == w or name.endswith("." + w) for name in linear)]
    if unknown or not wanted:
        known = sorted({name.split(".")[-1] for name in linear})
        raise LabError(
            f"no linear layer of this model is called {', '.join(unknown)}" if unknown else "no module is named",
            where="targets",
            expected=f"all-linear, or some of {', '.join(known)}",
        )


def _by_the_head(model: PreTrainedModel, modules_to_save: list[str]) -> list[str]:
    """The same modules, with the head's name for an embedding that is one matrix with it.

    peft 0.21 knows such an embedding by the names embed_tokens and lm_head alone. GPT-2's is called wte: trained under
    that name it moves away from the head, and a merged model that is saved as tied loses the difference.
    """
    names = {id(module): name for name, module in model.named_modules()}
    embedding, head = (names[id(m)] for m in (model.get_input_embeddings(), model.get_output_embeddings()))
    return [head if embedding == name or embedding.endswith(f".{name}") else name for name in modules_to_save]


def _start_empty_rows(model: PeftModel, name: str) -> None:
    """Start B a little off zero where a row of W is all zero.

    DoRA divides by the norm of each row of W + (alpha / r) B A. An empty row has none, and 0 / 0 is not a number;
    tiny-base has such rows, in the heads that were set by hand.
    """
    import torch

    for module in model.modules():
        if name not in getattr(module, "lora_magnitude_vector", ()):
            continue
        norm, a, b = module.lora_magnitude_vector[name].weight, module.lora_A[name].weight, module.lora_B[name].weight
        empty = norm == 0
        with torch.no_grad():
            b[empty] = NUDGE
            norm[empty] = torch.linalg.norm(module.scaling[name] * b[empty] @ a, dim=1)


def save(model: PeftModel, folder: str | Path, start: str | Path | None = None) -> None:
    """Write the adapter to a folder, so that it fits the base as it was before anything was attached.

    Args:
        start: the adapter as it was attached, saved before training. PiSSA has taken part of W away: what is saved is
            then B A - B0 A0, a LoRA of rank 2 r over the whole W (peft's own conversion).
    """
    with quiet():
        model.save_pretrained(
            str(folder),
            save_embedding_layers=False,
            path_initial_model_for_weight_conversion=str(start) if start else None,
        )
    (Path(folder) / "README.md").unlink(missing_ok=True)  # a blank card; ours is written from scores


def folder_of(folder: str | Path) -> Path:
    """Where an adapter lies: the folder itself, or in that of the Run which made it."""
    folder = Path(folder)
    return folder / "adapter" if (folder / "adapter").is_dir() else folder


def load(model: PreTrainedModel | PeftModel, folder: str | Path, name: str = "default") -> PeftModel:
    """Put a saved adapter on its base, or beside the adapters that are on it.

    Raises:
        LabError: the folder holds no adapter, a damaged one, one that lacks weights, or one with other shapes than
            this base has.
    """
    with quiet():
        from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    file = folder / "adapter_model.safetensors"
    if not (folder / "adapter_config.json").is_file() or not file.is_file():
        raise LabError(
            "no adapter here", where=str(folder), expected="adapter_config.json and adapter_model.safetensors"
        )
    try:
        with safe_open(file, framework="numpy") as opened:
            saved = set(opened.keys())
        with quiet():
            if isinstance(model, PeftModel):
                model.load_adapter(str(folder), name, is_trainable=False)
                tuned = model.eval()
            else:
                tuned = PeftModel.from_pretrained(model, str(folder), name, is_trainable=False).eval()
            wanted = set(get_peft_model_state_dict(tuned, adapter_name=name, save_embedding_layers=False))
    except SafetensorError as error:
        raise LabError("the adapter's weights are damaged", where=str(file), todo="Copy or train it again") from error
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise LabError(
            "this adapter does not fit this base model",
            where=str(folder),
            todo="Load the base that adapter_config.json names",
        ) from error
    if missing := sorted(wanted - saved):  # peft only warns, and the model then answers as its base
        raise LabError(
            f"the adapter lacks {len(missing)} of its {len(wanted)} weights, first {missing[0]}",
            where=str(file),
            todo="Train it again, or see whether something renamed them",
        )
    return tuned


def merge(model: PeftModel, requantise: bool = False) -> PreTrainedModel:
    """A new model with W + (alpha / r) B A in place of W; the one given stays as it is.

    Over a 4-bit base it is merged in full precision: the codes are brought back to the numbers that the adapter was
    trained beside. The merged model is then as large as any of its size.

    Args:
        requantise: round the sum to 4 bits again, as peft's `merge_and_unload` does; a detour that is smaller than
            half a level is rounded away.
    """
    copied = copy.deepcopy(model)
    if requantise or not getattr(model.get_base_model(), "is_loaded_in_4bit", False):
        with quiet():  # peft warns of the rounding
            return copied.merge_and_unload()
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    name = model.active_adapter
    with quiet():
        whole = copied.unload().dequantize()
        for module in whole.modules():  # a bias stays in the 16 bits that its layer computed in; W does not
            if getattr(module, "bias", None) is not None:
                module.bias.data = module.bias.data.to(module.weight.dtype)
        full = PeftModel(whole, copy.deepcopy(model.peft_config[name]), name)
        set_peft_model_state_dict(full, get_peft_model_state_dict(model, adapter_name=name,
                                                                  save_embedding_layers=False), name)
        return full.merge_and_unload()


def matrices(model: PeftModel) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """For each adapted module its A (r, d_in) and B (d_out, r), by the module's name."""
    found = {}
    for name, module in model.named_modules():
        if getattr(module, "lora_A", None):
            for key in module.lora_A:
                label = name.removeprefix("base_model.model.")
                found[label] = (module.lora_A[key].weight.detach(), module.lora_B[key].weight.detach())
    return found
