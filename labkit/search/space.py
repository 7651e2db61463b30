"""The space of a search: what may vary, between which bounds and on which scale; from Python or from a YAML file.

First step of a study: `study` draws settings from here, and `trials` trains them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.errors import LabError
from labkit.profiles import Profile, named

STRATEGIES = ("random", "tpe")
PRUNING = ("median", "halving", "none")
METHODS = ("lora", "rslora", "dora")  # pissa and full change the base, which all trials share
TRIALS = 20
DEFAULT_SCALE = 2  # alpha / r where nothing else is said, as in `finetune`


@dataclass(frozen=True)
class Float:
    """A number from `low` to `high`; with `log` each factor is as likely as any other, not each difference."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def __contains__(self, value) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Int:
    """A whole number from `low` to `high`, both included; `log` as in Float."""

    low: int
    high: int
    log: bool = False

    def suggest(self, trial, name: str) -> int:
        return trial.suggest_int(name, self.low, self.high, log=self.log)

    def __contains__(self, value) -> bool:
        return self.low <= value <= self.high and value == int(value)


@dataclass(frozen=True)
class Choice:
    """One of some values, without an order."""

    values: tuple

    def __init__(self, *values):
        object.__setattr__(self, "values", tuple(values))

    def suggest(self, trial, name: str):
        return trial.suggest_categorical(name, self.values)

    def __contains__(self, value) -> bool:
        return value in self.values


Dimension = Float | Int | Choice
Space = Mapping[str, Dimension]

# What may vary, and which values make sense there. `alpha_over_rank` ties alpha to the rank: alpha = value x rank.
_MAY = {
    "learning_rate": (lambda v: _number(v) and 0 < v < 1, "a number between 0 and 1"),
    "rank": (lambda v: _whole(v) and v >= 1, "a whole number from 1 on"),
    "alpha": (lambda v: _number(v) and v > 0, "a number above 0"),
    "alpha_over_rank": (lambda v: _number(v) and v > 0, "a number above 0"),
    "dropout": (lambda v: _number(v) and 0 <= v < 1, "a number from 0 on, below 1"),
    "batch_size": (lambda v: _whole(v) and v >= 1, "a whole number from 1 on"),
    "weight_decay": (lambda v: _number(v) and v >= 0, "a number from 0 on"),
    "method": (lambda v: v in METHODS, "one of " + ", ".join(METHODS)),
}
_KINDS = {"float": Float, "int": Int, "choice": Choice}


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def checked(space: Space, where: str = "space") -> dict[str, Dimension]:
    """The space itself, if every part of it can be searched.

    Raises:
        LabError: an unknown name, bounds that are not in order or make no sense, or alpha given twice.
    """
    if not isinstance(space, Mapping) or not space:
        raise LabError("nothing may vary", where=where, expected="at least one of " + ", ".join(_MAY))
    for name, dimension in space.items():
        place = f"{where}.{name}"
        if name not in _MAY:
            raise LabError(f"{name!r} cannot be searched", where=where, expected="some of " + ", ".join(_MAY))
        if not isinstance(dimension, Dimension):
            raise LabError(f"{dimension!r}", where=place, expected="a Float, an Int or a Choice")
        fits, expected = _MAY[name]
        if isinstance(dimension, Choice):
            values = dimension.values
            if not values or len(set(map(repr, values))) < len(values):
                raise LabError("a value stands there twice" if values else "no values", where=place,
                               expected="two values or more, all of them different")
        else:
            values = (dimension.low, dimension.high)
            if isinstance(dimension, Int) and not all(map(_whole, values)):
                raise LabError(f"from {values[0]} to {values[1]}", where=place, expected="whole numbers for an int")
            if not all(map(_number, values)):
                raise LabError(f"from {values[0]!r} to {values[1]!r}", where=place, expected="two numbers")
            if dimension.low >= dimension.high:
                raise LabError(f"low is {dimension.low:g} and high is {dimension.high:g}", where=place,
                               expected="low below high")
            if dimension.log and dimension.low <= 0:
                raise LabError(f"low is {dimension.low:g} on a log scale", where=place,
                               expected="a low above 0", todo="Raise low, or leave log out")
        for value in values:
            if not fits(value):
                raise LabError(f"{value!r} is no {name.replace('_', ' ')}", where=place, expected=expected)
    if {"alpha", "alpha_over_rank"} <= set(space):
        raise LabError("alpha is there twice, free and tied to the rank", where=where,
                       expected="alpha or alpha_over_rank")
    return dict(space)


def described(space: Space) -> dict[str, dict]:
    """The space as plain data, as it stands in a YAML file and in the head of a study."""
    names = {kind: name for name, kind in _KINDS.items()}
    return {
        name: {"type": names[type(d)], **({"values": list(d.values)} if isinstance(d, Choice) else
                                          {"low": d.low, "high": d.high, "log": d.log})}
        for name, d in space.items()
    }


def setting_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """What `finetune` takes, from what was drawn: alpha is made from alpha_over_rank where it is tied to the rank.

    >>> setting_of({"rank": 8, "alpha_over_rank": 2})
    {'rank': 8, 'alpha': 16}
    """
    setting = {name: value for name, value in params.items() if name != "alpha_over_rank"}
    if "alpha_over_rank" in params:
        setting["alpha"] = params["alpha_over_rank"] * params.get("rank", named(None).rank)
    return setting


def defaults(space: Space, profile: str | Profile | None = None) -> dict[str, Any]:
    """What the profile would take for everything that may vary in this space.

    Args:
        space: as `study` takes it.
        profile: None is the current one.
    """
    p = named(profile)
    usual = {"learning_rate": p.learning_rate, "rank": p.rank, "alpha": DEFAULT_SCALE * p.rank,
             "alpha_over_rank": DEFAULT_SCALE, "dropout": 0.0, "batch_size": p.batch_size, "weight_decay": 0.0,
             "method": "lora"}
    return {name: usual[name] for name in checked(space)}


def usual_space(low: float | None = None, high: float | None = None,
                profile: str | Profile | None = None) -> dict[str, Dimension]:
    """What is usually searched for LoRA, with alpha tied to the rank.

    Args:
        low, high: of the learning rate; None is a twentieth of the profile's own, and twenty times it.
        profile: None is the current one.
    """
    rate = named(profile).learning_rate
    return {
        "learning_rate": Float(rate / 20 if low is None else low, rate * 20 if high is None else high, log=True),
        "rank": Int(8, 64, log=True),
        "alpha_over_rank": Choice(1, 2, 4),
        "batch_size": Choice(8, 16, 32),
        "dropout": Float(0.0, 0.2),
    }


@dataclass(frozen=True)
class Plan:
    """A search as a file has it: the space, how it is walked through, in how many trials, and what ends one early."""

    space: dict[str, Dimension]
    strategy: str = "tpe"
    trials: int = TRIALS
    pruning: str = "median"


def read_plan(file: str | Path) -> Plan:
    """A Plan from a YAML file with `search_space` and, where wanted, `search_strategy`.

    Raises:
        LabError: no such file, no YAML, or something in it that cannot be searched; the sentence names the place.
    """
    import yaml

    name = Path(file).name
    try:
        found = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LabError("there is no such file", where=str(file)) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}, line {mark.line + 1}" if mark else str(file)
        raise LabError(f"cannot be read ({str(getattr(error, 'problem', None) or error).splitlines()[0]})",
                       where=where, expected="YAML") from error
    if not isinstance(found, dict) or not isinstance(found.get("search_space"), dict):
        raise LabError("there is no search_space", where=name, expected="search_space with a name, a type and bounds "
                       "for each thing that may vary")
    if strange := sorted(map(str, set(found) - {"search_space", "search_strategy"})):
        raise LabError(f"{strange[0]!r} is not known", where=name, expected="search_space and search_strategy")
    space = {str(key): _dimension(entry, f"{name}, search_space.{key}")
             for key, entry in found["search_space"].items()}
    return Plan(checked(space, f"{name}, search_space"),
                **_strategy(found.get("search_strategy") or {}, f"{name}, search_strategy"))


def _dimension(entry, where: str) -> Dimension:
    if not isinstance(entry, dict):
        raise LabError(f"{entry!r}", where=where, expected="type, and low and high, or values")
    kind = entry.get("type")
    if kind not in _KINDS:
        raise LabError(f"the type is {kind!r}" if "type" in entry else "there is no type", where=where,
                       expected="float, int or choice")
    takes = ("values",) if kind == "choice" else ("low", "high", "log")
    if strange := sorted(map(str, set(entry) - {"type", *takes})):
        raise LabError(f"{strange[0]!r} is not known for a {kind}", where=where, expected=", ".join(takes))
    if missing := [key for key in takes if key not in entry and key != "log"]:
        raise LabError(f"{missing[0]} is missing", where=where, expected=f"{', '.join(takes)} for a {kind}")
    if kind == "choice":
        if not isinstance(entry["values"], list):
            raise LabError(f"values is {entry['values']!r}", where=where, expected="a list, such as [8, 16, 32]")
        return Choice(*map(_plain, entry["values"]))
    log = entry.get("log", False)
    if not isinstance(log, bool):
        raise LabError(f"log is {log!r}", where=where, expected="true or false")
    low, high = (_bound(entry[key], key, where) for key in ("low", "high"))
    if kind == "float":
        return Float(float(low), float(high), log)
    return Int(low, high, log)


def _plain(value):
    """YAML reads 1e-4 as a word, for its numbers need a point: here it is the number that was meant."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _bound(value, key: str, where: str):
    value = _plain(value)
    if not _number(value):
        raise LabError(f"{key} is {value!r}", where=where, expected="a number")
    return value


def _strategy(entry, where: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise LabError(f"{entry!r}", where=where, expected="type, num_trials, pruning")
    if strange := sorted(map(str, set(entry) - {"type", "num_trials", "pruning"})):
        raise LabError(f"{strange[0]!r} is not known", where=where, expected="type, num_trials, pruning")
    said = {}
    for key, known, name in (("type", STRATEGIES, "strategy"), ("pruning", PRUNING, "pruning")):
        if key in entry:
            if entry[key] not in known:
                raise LabError(f"{key} is {entry[key]!r}", where=where, expected=" or ".join(known))
            said[name] = entry[key]
    if "num_trials" in entry:
        if not _whole(entry["num_trials"]) or entry["num_trials"] < 1:
            raise LabError(f"num_trials is {entry['num_trials']!r}", where=where, expected="a whole number from 1 on")
        said["trials"] = entry["num_trials"]
    return said
