"""Models that the tests of export, ledger and server share: tiny-base with adapters that a seed made, exported once."""

from __future__ import annotations

from pathlib import Path

from labkit import adapters, models
from labkit.export import to_onnx


def random_adapter(folder: Path, rank: int, seed: int, quantize: str | None = None, base: str = "tiny", **options):
    """A LoRA whose B is random too, so that it says something else than the base; its folder."""
    import torch

    model, _ = models.load(base, quantize=quantize)
    tuned = adapters.attach_lora(model, rank=rank, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    adapters.save(tuned, folder)
    return folder


def with_adapters(folder: Path):
    """tiny-base with three adapters, of other ranks, one of them from over a 4-bit base."""
    made = {"one": random_adapter(folder / "one", 4, 1), "two": random_adapter(folder / "two", 8, 2),
            "three": random_adapter(folder / "three", 2, 3, quantize="nf4")}
    return made, to_onnx("tiny", "fp32", adapters=made, out=folder / "many")
