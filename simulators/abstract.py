"""Abstract lines, as queueing theory knows them: SCENARIO.toml, a `[[station]]` each. The time unit is the reader's own.

[[station]]
name = "m1"
machines = 2
buffer = 4                  # slots in front, or "infinite"; the first station is never starved, the last never blocked
service = { dist = "erlang", k = 2, mean = 1.0 }
failures = { mode = "operation", mtbf = 100, mttr = 10 }
quality = { miss = 0.02, rework_max = 1, rework_share = 0.5, rework_success = 0.8 }
batch = 6                   # so many begin together and leave together
blocking = "after"          # "repeat": what finds no room is worked again; "lose": it leaves the line
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from mes.errors import ConfigError
from mes.plant import Code, Count, Fraction, NotNegative, Positive, Seed
from mes.seeds import read
from simulators import verdict
from simulators.draws import key_of
from simulators.flow import Line
from simulators.start import Layout, assemble

INFINITE: Final = "infinite"
_BLOCKING: Final = ("after", "repeat", "lose")
_LEAST_TICKS: Final = 6  # decimal digits of the smallest time, so that no distribution is coarse
Share = Annotated[float, Meta(gt=0.0, le=1.0)]


class _Service(Seed, frozen=True, forbid_unknown_fields=True, tag_field="dist"):
    """How long a cycle takes."""


class Deterministic(_Service, frozen=True, forbid_unknown_fields=True, tag="deterministic"):
    mean: Positive


class Uniform(_Service, frozen=True, forbid_unknown_fields=True, tag="uniform"):
    low: NotNegative
    high: Positive


class Exponential(_Service, frozen=True, forbid_unknown_fields=True, tag="exponential"):
    mean: Positive


class Erlang(_Service, frozen=True, forbid_unknown_fields=True, tag="erlang"):
    """The sum of k exponentials."""

    k: Annotated[int, Meta(ge=1, le=1000)]
    mean: Positive


class Lognormal(_Service, frozen=True, forbid_unknown_fields=True, tag="lognormal"):
    """By its own mean and coefficient of variation."""

    mean: Positive
    cv: Positive


class Slotted(_Service, frozen=True, forbid_unknown_fields=True, tag="slotted"):
    """One slot (a time unit), and with probability p as many more as a geometric number with mean 1/r."""

    p: Fraction
    r: Share


Service = Deterministic | Uniform | Exponential | Erlang | Lognormal | Slotted


class Failures(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Exponential breakdowns and repairs. mode: by busy time (operation-dependent) or by the clock (time-dependent)."""

    mode: Literal["operation", "time"]
    mtbf: Positive
    mttr: NotNegative


class Quality(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Share of first attempts that miss, of misses that are tried again (at most `rework_max` times), of these that pass."""

    miss: Fraction
    rework_max: Annotated[int, Meta(ge=0, le=100)] = 0
    rework_share: Fraction = 1.0
    rework_success: Fraction = 0.0


class Station(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A station of an abstract line; `buffer` counts the slots in front of it."""

    name: Code
    machines: Count = 1
    buffer: Annotated[int, Meta(ge=0, le=1_000_000_000)] | Literal["infinite"] = 0
    service: Service
    failures: Failures | None = None
    quality: Quality | None = None
    batch: Annotated[int, Meta(ge=1, le=100_000)] = 1
    blocking: Literal["after", "repeat", "lose"] = "after"


class Scenario(Seed, frozen=True, forbid_unknown_fields=True):
    """The stations of a line in route order."""

    station: Annotated[list[Station], Meta(min_length=1, max_length=200)]


def load(path: Path) -> Scenario:
    """Read and check a scenario; ConfigError names file, key, value and what would be allowed."""
    scenario = read(path, Scenario)
    seen: set[str] = set()
    for n, s in enumerate(scenario.station):
        at = f"{path}: station[{n}]"
        if s.name in seen:
            raise ConfigError(f"{at}.name {s.name!r} stands twice: give each station its own, its random numbers come from it")
        seen.add(s.name)
        if isinstance(s.service, Uniform) and s.service.low >= s.service.high:
            raise ConfigError(f"{at}.service.low {s.service.low} must be below high {s.service.high}")
        if n > 0 and s.batch > 1 and s.buffer != INFINITE and s.buffer < s.batch:
            raise ConfigError(f"{at}.buffer {s.buffer} can never fill a batch of {s.batch}: use {s.batch} or more")
        if n > 0 and s.batch > 1 and scenario.station[n - 1].blocking != "after":
            raise ConfigError(f'{at}.batch {s.batch} does not go with blocking {scenario.station[n - 1].blocking!r} before it: use "after"')
        if s.blocking == "repeat" and (s.batch > 1 or s.quality):
            raise ConfigError(f"{at}.blocking 'repeat' works single cells again, without batch and quality: leave these out")
    return scenario


def mean(service: Service) -> float:
    """The mean of a cycle, in time units."""
    if isinstance(service, Uniform):
        return (service.low + service.high) / 2
    if isinstance(service, Slotted):
        return 1 + service.p / service.r
    return service.mean


def ticks_per_unit(scenario: Scenario) -> int:
    """Ticks of a time unit: a power of ten of which the shortest mean has a million or more, so that decimal times are exact."""
    times = [mean(s.service) for s in scenario.station] + [s.failures.mtbf for s in scenario.station if s.failures]
    return int(10 ** max(3, _LEAST_TICKS - math.floor(math.log10(min(times)))))


def build(scenario: Scenario, seed: int, parts: int) -> Line:
    """The line, empty and at rest at instant 0. An infinite buffer holds `parts`, which is all that can ever be in it."""
    unit = ticks_per_unit(scenario)
    layouts = [_layout(s, seed, unit, parts) for s in scenario.station]
    return assemble(layouts, verdict.plain([s.quality.miss if s.quality else 0.0 for s in scenario.station]))


def _layout(s: Station, seed: int, unit: int, parts: int) -> Layout:
    service, rework = s.service, s.quality or Quality(miss=0.0)
    a, b, cycle = mean(service) * unit, 0.0, 0
    if isinstance(service, Uniform):
        a, b = service.low * unit, service.high * unit
    elif isinstance(service, Erlang):
        b = float(service.k)
    elif isinstance(service, Lognormal):
        b = math.sqrt(math.log1p(service.cv**2))
        a *= math.exp(-b * b / 2)
    elif isinstance(service, Slotted):
        a, b, cycle = service.p, service.r, unit
    elif isinstance(service, Deterministic):
        a = float(round(a))
    return Layout(
        key_of(seed, s.name),
        s.machines,
        parts if isinstance(s.buffer, str) else min(s.buffer, parts),
        str(type(service).__struct_config__.tag),
        a,
        b,
        cycle,
        "batch" if s.batch > 1 else "discrete",
        s.batch,
        by_clock=s.failures is not None and s.failures.mode == "time",
        mtbf=s.failures.mtbf * unit if s.failures else 0.0,
        mttr=s.failures.mttr * unit if s.failures else 0.0,
        rework_max=rework.rework_max,
        share=rework.rework_share,
        success=rework.rework_success,
        blocking=_BLOCKING.index(s.blocking),
    )
