"""What moves a characteristic away from its nominal: drift, tool wear, a bad lot, a step. Process engineers try SPC on it.

A disturbance shifts the mean, by sigmas of the characteristic, as a function of the time and the machine alone. It needs no
state, so a stream stays the same however it is sliced. It moves the readings and, with them, the share beyond the limits.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np

from mes.errors import ConfigError
from mes.plant import LocalInstant, Positive, Seed
from simulators.jit import part

if TYPE_CHECKING:
    from simulators.jit import Array
    from simulators.scenario import Scenario

_EVER: Final = 1 << 62
_TICKS: Final = 1_000_000
_DAY: Final = 86_400 * _TICKS
_MOST_SIGMAS: Final = 30.0
_NEEDS: Final = {
    "drift": {"sigma_per_day", "from_"},
    "wear": {"sigma", "hours"},
    "lot": {"sigma", "from_", "to"},
    "step": {"sigma", "from_"},
}
_ALLOWS: Final = {"drift": {"to"}, "wear": {"from_", "to"}, "lot": set[str](), "step": {"to"}}

# begin, end: ticks; step: sigmas while it lasts; slope: sigmas a tick; period: ticks of a sawtooth up to `step`, 0: none;
# machine: index within the station, -1: all; machines: of the station
DISTURBANCE = np.dtype([
    ("begin", np.int64), ("end", np.int64), ("step", np.float64), ("slope", np.float64), ("period", np.int64),
    ("machine", np.int64), ("machines", np.int64),
])  # fmt: skip


class Disturbance(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A `[[disturbance]]` of a scenario file. Times are local, as the clock at the site shows them.

    kind      drift: the mean moves `sigma_per_day` sigmas a day, from `from` on
              wear:  the mean moves `sigma` sigmas within `hours`, then the tool is changed; the machines change in turn
              lot:   cells worked from `from` to `to` are of a bad lot: they read `sigma` sigmas off
              step:  from `from` on cells read `sigma` sigmas off
    to        when it ends; without it never
    machine   code of the one machine that it happens to; without it all of the station
    """

    station: str
    characteristic: str
    kind: Literal["drift", "wear", "lot", "step"]
    from_: LocalInstant | None = msgspec.field(name="from", default=None)
    to: LocalInstant | None = None
    sigma: float | None = None
    sigma_per_day: float | None = None
    hours: Positive | None = None
    machine: str | None = None


class Disturbances(NamedTuple):
    """first (C + 1): where the rows of a characteristic (of the line, in route order) begin in `row`."""

    first: Array
    row: Array


def check(where: str, scenario: Scenario, disturbances: Sequence[Disturbance]) -> None:
    """Refuse what this line cannot have; ConfigError begins with `where` (the file)."""
    stations = {s.code: s for s in scenario.line.station}
    for n, d in enumerate(disturbances):
        at = f"{where}: disturbance[{n}]"
        if d.station not in stations:
            raise ConfigError(f"{at}.station {d.station!r} is not on line {scenario.line.path}: use one of {', '.join(stations)}")
        station = stations[d.station]
        names = [c.name for c in station.characteristic]
        if d.characteristic not in names:
            known = f"use one of {', '.join(names)}" if names else "it measures nothing"
            raise ConfigError(f"{at}.characteristic {d.characteristic!r} is not measured at {d.station!r}: {known}")
        if d.machine is not None and d.machine not in station.machine_codes:
            raise ConfigError(
                f"{at}.machine {d.machine!r} is not at {d.station!r}: use {station.machine_codes[0]} to {station.machine_codes[-1]}"
            )
        given = {key for key in ("from_", "to", "sigma", "sigma_per_day", "hours") if getattr(d, key) is not None}
        for key in sorted(_NEEDS[d.kind] - given):
            raise ConfigError(f"{at}.{key.rstrip('_')} is missing: kind {d.kind!r} needs it")
        for key in sorted(given - _NEEDS[d.kind] - _ALLOWS[d.kind]):
            raise ConfigError(f"{at}.{key.rstrip('_')} {getattr(d, key)} does not go with kind {d.kind!r}: leave it out")
        for key in ("sigma", "sigma_per_day"):
            value = getattr(d, key)
            if value is not None and not 0 < abs(value) <= _MOST_SIGMAS:
                raise ConfigError(f"{at}.{key} {value}: write a number of sigmas up to {_MOST_SIGMAS:.0f}, up or (negative) down, not 0")
        if d.from_ is not None and d.to is not None and d.to <= d.from_:
            raise ConfigError(f"{at}.to {d.to} is not after from {d.from_}: it ends after it begins")


def build(scenario: Scenario, disturbances: Iterable[Disturbance] = ()) -> Disturbances:
    """The rows of all characteristics of the line, in route order."""
    listed: list[tuple[Any, ...]] = []
    first = [0]
    for s in scenario.line.station:
        for c in s.characteristic:
            for d in disturbances:
                if (d.station, d.characteristic) != (s.code, c.name):
                    continue
                begin = 0 if d.from_ is None else _ticks(scenario, d.from_)
                end = _EVER if d.to is None else _ticks(scenario, d.to)
                slope = (d.sigma_per_day or 0.0) / _DAY
                period = int((d.hours or 0.0) * 3600 * _TICKS)
                machine = -1 if d.machine is None else s.machine_codes.index(d.machine)
                listed.append((begin, end, d.sigma or 0.0, slope, period, machine, s.machines))
            first.append(len(listed))
    return Disturbances(np.array(first, np.int64), np.array([*listed, (0, 0, 0.0, 0.0, 0, -1, 1)], DISTURBANCE))


def _ticks(scenario: Scenario, local: dt.datetime) -> int:
    return int(local.replace(tzinfo=scenario.site.tz).timestamp() * _TICKS)


@part
def shift(table: Any, characteristic: int, machine: int, now: int) -> float:
    """By how many sigmas the mean of a characteristic is off at `now` (ticks) on a machine (index within its station)."""
    total = 0.0
    for i in range(table.first[characteristic], table.first[characteristic + 1]):
        row = table.row[i]
        if now < row.begin or now >= row.end or (row.machine >= 0 and row.machine != machine):
            continue
        if row.period > 0:
            turn = (now - row.begin + machine * (row.period // row.machines)) % row.period
            total += row.step * np.float64(turn) / np.float64(row.period)
        else:
            total += row.step + row.slope * np.float64(now - row.begin)
    return total
