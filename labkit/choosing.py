"""Choosing a base model: what each was trained for, what it takes to train it, and what its licence allows.

Beside `models`, which loads what was chosen; the facts stand in data/base_models.yml, each with its source.
"""

from __future__ import annotations

from dataclasses import dataclass

from labkit import profiles
from labkit.errors import LabError
from labkit.scratch.quantize import bits_per_weight, qlora_bytes

FACTS = profiles.COURSE / "data" / "base_models.yml"
GB = 10**9
ROOM = 0.75  # share of a machine's memory that weights, gradients and optimizer may take; activations need the rest
ADAPTER = 0.02  # of the parameters, about what LoRA at r = 16 trains on models of these sizes


@dataclass(frozen=True)
class BaseModel:
    """A base model as its page describes it. `context` is in tokens; `gated` asks for an account and a consent."""

    model: str
    profile: str
    parameters: int
    trained_for: str
    context: int
    licence: str
    allows: str
    gated: bool
    source: str

    def gigabytes(self, method: str) -> float:
        """GB for weights, gradients and Adam's two means, before activations.

        Args:
            method: "full" (all in 32 bits), "lora" (a frozen base in 16 bits) or "qlora" (in 4 bits
                and its part of the scales).
        """
        bits = {"full": 32, "lora": 16, "qlora": bits_per_weight()}
        if method not in bits:
            raise LabError(f"there is no method {method!r}", where="method", expected=", ".join(bits))
        if method == "full":
            return sum(qlora_bytes(0, self.parameters, 32).values()) / GB
        return sum(qlora_bytes(self.parameters, round(ADAPTER * self.parameters), bits[method]).values()) / GB

    def methods_within(self, memory: float) -> list[str]:
        """The methods whose weights, gradients and optimizer leave room for activations in so many GB."""
        return [method for method in ("full", "lora", "qlora") if self.gigabytes(method) <= ROOM * memory]


def base_models() -> list[BaseModel]:
    """The base models that the course names, smallest first.

    Raises:
        LabError: the file of facts is missing or damaged.
    """
    import yaml

    try:
        rows = yaml.safe_load(FACTS.read_text(encoding="utf-8"))
        return sorted((BaseModel(**row) for row in rows), key=lambda base: base.parameters)
    except (OSError, TypeError, yaml.YAMLError) as error:
        raise LabError("the facts about base models cannot be read", where="data/base_models.yml",
                       todo="Bring the file back from the repository") from error
