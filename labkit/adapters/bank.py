"""A bank: one base in memory and many adapters over it, one task each; switched, mixed, merged, and used side by side.

Over `lora`, which makes and reads single adapters; lab 05 and the serving parts work with it.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import models
from labkit.adapters import lora
from labkit.errors import LabError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

BASE = "__base__"  # peft's name for "no adapter" in a mixed batch
WAYS = ("linear", "svd", "cat", "ties", "dare_linear", "dare_ties")  # of mixing, by peft's names
SAME_RANK = {"linear", "ties", "dare_linear", "dare_ties"}  # they add A to A and B to B
THINNED = {"ties", "dare_linear", "dare_ties"}  # they drop entries: `density` is the share that stays


class Bank:
    """Named adapters over one base, which is loaded once and never changed.

    Args:
        base: the model; adapters are put on it in place.
        rank: where it is given, adapters of any other rank are refused.

    >>> bank = Bank(models.load("tiny")[0])
    >>> bank.names, bank.active
    ([], None)
    """

    def __init__(self, base: PreTrainedModel, rank: int | None = None):
        self._base, self._peft, self.rank = base, None, rank
        self.active: str | None = None
        self.identity = _identity(base)

    @property
    def names(self) -> list[str]:
        """Of the adapters, in the order in which they came."""
        return list(self._peft.peft_config) if self._peft else []

    @property
    def model(self) -> PreTrainedModel | PeftModel:
        """What answers: the base with the active adapter, or the base alone."""
        return self._peft or self._base

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def add(self, name: str, folder: str | Path) -> None:
        """Read an adapter from disk into the bank; which one is active stays as it was.

        Args:
            name: letters, digits, - and _.
            folder: an adapter's, or that of the Run which made it. A Run says which base's weights it had.

        Raises:
            LabError: the name is taken or unusable, or the adapter is of another base, of another rank than it says
                or the bank holds, or lacks weights. The bank is then as it was.
        """
        self._free(name)
        folder = lora.folder_of(folder)
        config = _read(folder / "adapter_config.json", folder)
        self._same_base(folder)
        if self.rank is not None and config.get("r") != self.rank:
            raise LabError(f"this adapter has rank {config.get('r')}", where=str(folder),
                           expected=f"rank {self.rank}, as all in this bank", todo="Train it again with that rank")
        _ranks_agree(folder, config.get("r"))
        first = self._peft is None
        try:
            self._peft = lora.load(self.model, folder, name)
        except LabError:
            if first:
                self._strip()
            elif name in self.names:
                self._peft.delete_adapter(name)
            raise
        finally:
            self.use(self.active)

    def use(self, name: str | None) -> None:
        """Switch to an adapter; None switches all off. No weight is read or copied.

        Raises:
            LabError: there is no such adapter.
        """
        if name is not None:
            self._known(name)
        if self._peft is not None:
            if name is None:
                self._peft.base_model.disable_adapter_layers()
            else:
                self._peft.base_model.enable_adapter_layers()
                self._peft.set_adapter(name, inference_mode=True)
            self._peft.eval()
        self.active = name

    @contextmanager
    def using(self, name: str | None) -> Iterator[PreTrainedModel]:
        """The model with this adapter, or with none, for the length of a `with`."""
        before = self.active
        self.use(name)
        try:
            yield self.model
        finally:
            self.use(before if before is None or before in self else None)

    @contextmanager
    def each(self, names: Sequence[str | None]) -> Iterator[list[str]]:
        """Names for a mixed batch, one a row, as `adapter_names=` of the model's forward and generate take them.

        Raises:
            LabError: there is no such adapter, there is none at all, or one is DoRA, which peft cannot mix in a batch.
        """
        if self._peft is None:
            raise LabError("the bank is empty", where="names", todo="Add an adapter first")
        for name in dict.fromkeys(n for n in names if n is not None):
            self._known(name)
        if dora := [n for n in self.names if self._peft.peft_config[n].use_dora]:
            raise LabError(f"{dora[0]} is a DoRA adapter, and peft cannot mix those in one batch", where="names",
                           todo="Answer with one adapter at a time: bank.using(name)")
        before = self.active
        self.use(before or self.names[0])  # with adapters switched off, peft passes the names over
        try:
            yield [BASE if name is None else name for name in names]
        finally:
            self.use(before)

    def bytes(self, name: str) -> int:
        """Bytes that an adapter takes in memory beside the base."""
        self._known(name)
        return sum(p.numel() * p.element_size() for key, p in self._peft.named_parameters() if f".{name}." in key)

    def remove(self, name: str) -> None:
        """Take an adapter out."""
        self._known(name)
        if len(self.names) == 1:
            self._strip()
        else:
            with models.quiet():
                self._peft.delete_adapter(name)
        self.use(None if self.active in (None, name) else self.active)

    def mix(self, name: str, weights: Mapping[str, float], how: str = "svd", *, density: float = 0.5,
            rank: int | None = None, seed: int = 0) -> None:
        """Add an adapter that is a weighted mix of others (peft's `add_weighted_adapter`).

        Args:
            name: of the new adapter. weights: by the names of those to mix.
            how: "cat" sums B A exactly, at the sum of the ranks; "svd" is the nearest to that sum at `rank`; "linear"
                sums A and B apart, so that products of one adapter's A with another's B come in; "ties"
                (Yadav et al., 2023) and "dare_..." (Yu et al., 2023) first drop entries, and ties settles signs.
            density: share of entries that stay, for ties and dare. rank: for svd; None is the largest of them.
            seed: of dare's choice.

        Raises:
            LabError: fewer than two adapters, an unknown way, another rank where the way needs one, or a density
                outside (0, 1].
        """
        import torch

        self._free(name)
        if how not in WAYS:
            raise LabError(f"there is no way of mixing {how!r}", where="how", expected=", ".join(WAYS))
        if len(weights) < 2:
            raise LabError(f"{len(weights)} adapters to mix", where="weights", expected="two or more")
        for one in weights:
            self._known(one)
        ranks = {one: self._peft.peft_config[one].r for one in weights}
        if how in SAME_RANK and len(set(ranks.values())) > 1:
            raise LabError(f"{how} adds A to A and B to B, and the ranks are "
                           + ", ".join(f"{one} {r}" for one, r in ranks.items()),
                           where="weights", expected="one rank", todo="Take how='svd' or how='cat'")
        if how in THINNED and not 0 < density <= 1:
            raise LabError(f"density {density}", where="density", expected="a share above 0, at most 1")
        before, state = self.active, torch.random.get_rng_state()
        torch.manual_seed(seed)
        try:
            with models.quiet():
                self._peft.add_weighted_adapter(list(weights), [float(w) for w in weights.values()], name, how,
                                                svd_rank=rank if how == "svd" else None,
                                                density=density if how in THINNED else None)
        except ValueError as error:
            raise LabError(f"peft cannot mix these: {error}", where="weights") from error
        finally:
            torch.random.set_rng_state(state)
        self.use(before)

    def merge(self, name: str) -> PreTrainedModel:
        """A new model with this adapter put into its weights; the bank stays as it is."""
        self._known(name)
        with self.using(name), models.quiet():
            return copy.deepcopy(self._peft).merge_and_unload(adapter_names=[name])

    def save(self, folder: str | Path) -> None:
        """Write every adapter to a folder of its own, and beside them whose base they belong to."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self._peft is not None:
            with models.quiet():
                self._peft.save_pretrained(str(folder), save_embedding_layers=False, selected_adapters=self.names)
            for name in self.names:
                if name == "default" and not (folder / name).is_dir():  # peft puts this one beside the others
                    (folder / name).mkdir()
                    for file in ("adapter_config.json", "adapter_model.safetensors"):
                        (folder / file).rename(folder / name / file)
                (folder / name / "README.md").unlink(missing_ok=True)
            (folder / "README.md").unlink(missing_ok=True)
        facts = {"base": self.identity, "adapters": self.names, "active": self.active}
        (folder / "bank.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, base: PreTrainedModel, folder: str | Path, rank: int | None = None) -> Bank:
        """A bank that was saved, over its base.

        Raises:
            LabError: there is none, it belongs to another base, or as `add`.
        """
        folder = Path(folder)
        facts = _read(folder / "bank.json", folder)
        bank = cls(base, rank)
        _refuse_other_base(facts.get("base"), bank.identity, folder)
        for name in facts.get("adapters", []):
            bank.add(name, folder / name)
        bank.use(facts.get("active"))
        return bank

    # -- what is refused ---------------------------------------------------------------------------------------------

    def _free(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name == BASE:
            raise LabError(f"{name!r} cannot be an adapter's name", where="name", expected="letters, digits, - and _")
        if name in self:
            raise LabError(f"there is an adapter {name!r} already", where="name",
                           todo="Take another name, or remove it")

    def _known(self, name: str) -> None:
        if name not in self:
            raise LabError(f"there is no adapter {name!r}", where="name",
                           expected=", ".join(self.names) or "nothing: the bank is empty")

    def _same_base(self, folder: Path) -> None:
        for file, key in ((folder.parent / "run.json", "settings"), (folder.parent / "bank.json", None)):
            if file.is_file():
                facts = _read(file, folder)
                _refuse_other_base((facts.get(key, {}) if key else facts).get("base"), self.identity, folder)

    def _strip(self) -> None:
        """The base without any adapter, as it came."""
        if self._peft is not None:
            self._base, self._peft = self._peft.unload(), None
        elif any(hasattr(module, "base_layer") for module in self._base.modules()):
            from peft.tuners.lora import LoraLayer  # the load failed half way, and left its layers behind

            for name, module in list(self._base.named_modules()):
                if isinstance(module, LoraLayer):
                    parent, _, child = name.rpartition(".")
                    setattr(self._base.get_submodule(parent), child, module.get_base_layer())
        self._base.__dict__.pop("peft_config", None)


def _identity(base: PreTrainedModel) -> str | None:
    try:
        return models.identity(base.name_or_path)
    except LabError:
        return None  # a model that was made here has no files to tell it by


def _refuse_other_base(theirs: str | None, ours: str | None, folder: Path) -> None:
    if theirs and ours and theirs != ours:
        raise LabError("this adapter was trained on another base, or on other weights of it", where=str(folder),
                       expected=f"base {ours}; it names {theirs}", todo="Train it again on this base")


def _read(file: Path, folder: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LabError(f"there is no {file.name}", where=str(folder),
                       expected="a folder that labkit or peft wrote") from error
    except ValueError as error:
        raise LabError(f"{file.name} is damaged", where=str(folder), todo="Copy it again") from error


def _ranks_agree(folder: Path, rank: int | None) -> None:
    """Refuse weights whose A has another number of rows than the config's r."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "adapter_model.safetensors", framework="numpy") as opened:
            found = {opened.get_slice(key).get_shape()[0] for key in opened.keys() if "lora_A" in key}
    except FileNotFoundError:
        return  # `lora.load` says that
    except SafetensorError:
        return  # and that
    if rank is not None and found and found != {rank}:
        raise LabError(f"its config says rank {rank}, and its weights have rank {', '.join(map(str, sorted(found)))}",
                       where=str(folder), todo="Take both files from the same training")
