"""Bottleneck adapters by hand: put on a model, saved, loaded, and taken off again with the base as it was.

One stands behind the feed-forward part of every layer (Pfeiffer et al., 2021: half of Houlsby et al.'s, 2019).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from labkit.errors import LabError
from labkit.scratch.bottleneck import Bottleneck

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS, CONFIG = "bottleneck.safetensors", "bottleneck.json"


class Behind(nn.Module):
    """A feed-forward part with a bottleneck behind it, in the place of the part alone."""

    def __init__(self, inner: nn.Module, bottleneck: Bottleneck):
        super().__init__()
        self.inner, self.bottleneck = inner, bottleneck

    def forward(self, *args, **kwargs):
        return self.bottleneck(self.inner(*args, **kwargs))


def attach_bottleneck(model: PreTrainedModel, width: int = 16, seed: int = 0) -> PreTrainedModel:
    """Put a bottleneck behind every feed-forward part and freeze the base; the model is changed in place.

    Args:
        model: a decoder whose layers each have a part called `mlp`, as Llama, Qwen, Phi, Gemma, Mistral, GPT-2.
        width: of the narrow middle.
        seed: of the random start of its first matrix; the second starts at zero.

    Raises:
        LabError: width is no positive whole number, no layer has an `mlp`, or bottlenecks are there already.
    """
    import torch

    if width != int(width) or width < 1:
        raise LabError(f"width {width}", where="width", expected="a whole number from 1 on")
    if _placed(model):
        raise LabError("this model has bottlenecks already", where="model",
                       todo="Take them off first: detach_bottleneck")
    places = [name for name, _ in model.named_modules() if name.endswith(".mlp")]
    if not places:
        raise LabError("no layer of this model has a part called mlp", where=type(model).__name__)
    model.requires_grad_(False)
    torch.manual_seed(seed)
    for name in places:
        inner = model.get_submodule(name)
        like = next(inner.parameters())
        made = Bottleneck(model.config.get_text_config().hidden_size, int(width)).to(like.device, like.dtype)
        _put(model, name, Behind(inner, made))
    return model


def detach_bottleneck(model: PreTrainedModel) -> PreTrainedModel:
    """Take the bottlenecks off; what is left are the base's own modules, bit for bit. Its weights stay frozen.

    Raises:
        LabError: there is none.
    """
    placed = _placed(model)
    if not placed:
        raise LabError("this model has no bottlenecks", where="model")
    for name, behind in placed.items():
        _put(model, name, behind.inner)
    return model


def save_bottleneck(model: PreTrainedModel, folder: str | Path) -> None:
    """Write the bottlenecks alone, and their width, to a folder.

    Raises:
        LabError: there is none.
    """
    from safetensors.torch import save_file

    placed = _placed(model)
    if not placed:
        raise LabError("this model has no bottlenecks", where="model")
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(_weights(model), Path(folder) / WEIGHTS)
    width = next(iter(placed.values())).bottleneck.down.out_features
    (Path(folder) / CONFIG).write_text(json.dumps({"width": width}) + "\n", encoding="utf-8")


def load_bottleneck(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """Put saved bottlenecks on their base, which is changed in place.

    Raises:
        LabError: nothing is saved there, it is damaged, or it is of another base; the model is left as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        width = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["width"]
        saved = load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise LabError("no bottlenecks here", where=str(folder), expected=f"{CONFIG} and {WEIGHTS}") from error
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise LabError("the bottlenecks are damaged", where=str(folder), todo="Copy or train them again") from error
    asked = {name: p.requires_grad for name, p in model.named_parameters()}
    attach_bottleneck(model, width)
    wanted = _weights(model)
    wrong = sorted(n for n in wanted.keys() | saved.keys()
                   if n not in wanted or n not in saved or wanted[n].shape != saved[n].shape)
    if wrong:
        detach_bottleneck(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(asked[name])
        raise LabError(f"{len(wrong)} of the weights are missing, unknown or of another shape, first {wrong[0]}",
                       where=str(folder), todo="Load the base that they were trained on")
    for name, parameter in model.named_parameters():
        if name in saved:
            parameter.data.copy_(saved[name])
    return model


def _placed(model: nn.Module) -> dict[str, Behind]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Behind)}


def _weights(model: nn.Module) -> dict:
    return {name: p.detach().contiguous() for name, p in model.named_parameters() if ".bottleneck." in name}


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
