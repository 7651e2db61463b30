"""Ways of doing one job, measured in turn: A B C, A B C, ..., so that a machine that slows down slows all of them.

Below every part of the bench: a part makes Jobs, `in_turn` gives a Result, `report` shows it.
"""

from __future__ import annotations

import cProfile
import io
import pstats
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from labkit.errors import LabError

TOP = 20  # functions of a profile that are kept; with its head and the way's name these are 25 lines


class NotHere(LabError):
    """Something that cannot be measured on this machine; the text says why."""


@dataclass(frozen=True)
class Way:
    """One way of doing a job. `run` does it once and gives figures by name, numbers or words.

    `profile` gives the text of a profile, where `run` only starts another process.
    """

    name: str
    run: Callable[[], dict[str, float | str]]
    profile: Callable[[], str] | None = None


@dataclass(frozen=True)
class Job:
    """What is done in several ways.

    `figure` is what the ways are compared by, with its unit; `more` says whether more of it is better. `pairs` are the
    comparisons that the table shows: (way, against which other). `limits` are (way, figure, the most it may be).
    `rounds` is how often it is done at most, where once takes half an hour; None is as often as the rest. `beside` is a
    further figure, with its unit, without which the first would say too little.
    """

    part: str
    what: str
    figure: str
    ways: Sequence[Way]
    pairs: Sequence[tuple[str, str]] = ()
    more: bool = True
    limits: Sequence[tuple[str, str, float]] = ()
    rounds: int | None = None
    beside: str = ""


@dataclass(frozen=True)
class Result:
    """What a job's ways gave: `laps` has a list a way with the figures of each round, `absent` why a way has none."""

    part: str
    what: str
    figure: str
    more: bool
    pairs: list[tuple[str, str]]
    limits: list[tuple[str, str, float]]
    laps: dict[str, list[dict[str, float | str]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    beside: str = ""

    def facts(self) -> dict:
        """For JSON; `Result(**facts)` is the same again."""
        return asdict(self)

    def values(self, way: str, figure: str | None = None) -> list[float]:
        """A figure of each round."""
        return [lap[figure or self.figure] for lap in self.laps.get(way, [])]

    def ratios(self, way: str, against: str) -> list[float]:
        """How many times as good a way is as another, for each round: above 1 it is faster, or smaller."""
        pairs = zip(self.values(way), self.values(against), strict=True)
        return [a / b if self.more else b / a for a, b in pairs]

    def broken(self) -> list[tuple[str, str, float]]:
        """The limits whose figure's median is above what it may be; one without a measurement counts as broken."""
        return [(way, figure, most) for way, figure, most in self.limits
                if not self.laps.get(way) or statistics.median(self.values(way, figure)) > most]


@dataclass(frozen=True)
class Middle:
    """The median of some numbers and how far they spread."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Middle:
        """
        >>> Middle.of([3, 1, 2])
        Middle(median=2, low=1, high=3)
        """
        return cls(statistics.median(values), min(values), max(values))


def absent(part: str, what: str, why: str) -> Job:
    """A job that stands in the table with the reason why it cannot be done here."""
    return Job(part, what, "", [Way("all ways", refuse(why))], [("all ways", "")])


def refuse(why: str) -> Callable[[], dict]:
    """A way's `run` that only says why it cannot."""

    def run() -> dict:
        raise NotHere(why)

    return run


def in_turn(job: Job, rounds: int, tell: Callable[[str], None] | None = None) -> Result:
    """Measure all ways of a job, each once a round, one after the other.

    A way that raises NotHere is asked no more, and the reason is kept; any other error ends the bench, since a way
    that breaks off says nothing about speed.

    Args:
        rounds: from 1 on.
        tell: called with a word before each measurement.

    Raises:
        LabError: there are no rounds, two ways have one name, or a pair names a way that is none.
    """
    names = [way.name for way in job.ways]
    if rounds < 1:
        raise LabError(f"{rounds}", where="rounds", expected="a whole number from 1 on")
    if len(set(names)) < len(names):
        raise LabError("two ways have one name", where=f"{job.part}, {job.what}")
    if unknown := {name for pair in job.pairs for name in pair} - {*names, ""}:
        raise LabError(f"no way is called {', '.join(sorted(unknown))}", where=f"{job.part}, {job.what}")
    result = Result(job.part, job.what, job.figure, job.more, list(job.pairs), list(job.limits),
                    beside=job.beside)
    rounds = min(rounds, job.rounds or rounds)
    for turn in range(rounds):
        for way in job.ways:
            if way.name in result.absent:
                continue
            if tell:
                tell(f"{job.part}, {job.what}: {way.name}, round {turn + 1} of {rounds}")
            try:
                lap = way.run()
            except NotHere as why:
                result.absent[way.name] = str(why)
                result.laps.pop(way.name, None)  # with rounds of different ways no ratio can be taken
                continue
            result.laps.setdefault(way.name, []).append(lap)
    return result


def profile(job: Job) -> str:
    """Each way of a job once more under cProfile: the functions that take the most time of their own, as text."""
    return "\n".join(f"{job.what}: {way.name}\n{_profiled(way)}" for way in job.ways)


def _profiled(way: Way) -> str:
    try:
        return way.profile() if way.profile else own_time(way.run)
    except NotHere as why:
        return f"not measured here: {why}\n"


def own_time(work: Callable[[], object]) -> str:
    """Work under cProfile: the TOP functions by the time that they take themselves."""
    watched = cProfile.Profile()
    watched.runcall(work)
    return top(watched)


def top(source: cProfile.Profile | str) -> str:
    """The TOP functions by their own time, of a profile or of a file that cProfile wrote."""
    text = io.StringIO()
    pstats.Stats(source, stream=text).strip_dirs().sort_stats("tottime").print_stats(TOP)
    lines = [line for line in text.getvalue().splitlines() if line.strip()]
    return "".join(f"{line}\n" for line in (lines[1:] if isinstance(source, str) else lines))  # 0: day and file
