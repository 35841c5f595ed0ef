"""The conditions under which a line runs: a scenario file with `ramp_up`, `[[disturbance]]` and `[[fault]]`, all of them optional."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta

from mes.errors import ConfigError
from mes.plant import Fraction, LocalInstant, Seed
from mes.seeds import read
from simulators import disturbance
from simulators.disturbance import Disturbance
from simulators.scenario import Scenario

Kind = Literal["duplicate", "reorder", "late", "skew", "restart", "malformed", "silence"]
Form = Literal[
    "not_json", "truncated", "wrong_type", "missing_field", "unknown_characteristic", "nan", "huge_integer", "nul", "duplicate_key",
    "oversize",
]  # fmt: skip
FORMS: Final[tuple[str, ...]] = get_args(Form)
MOST_LATE_H: Final = 48.0
_NEEDS: Final = {"skew": ("seconds",), "silence": ("hours",)}
_ALLOWS: Final = {"duplicate": ("seconds",), "reorder": ("seconds",), "late": ("hours",), "malformed": ("forms",)}
_DELAY_S: Final = {"duplicate": 60.0, "reorder": 30.0}
Share = Annotated[float, Meta(gt=0.0, le=1.0)]


class Fault(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A `[[fault]]`: by `rate`, by schedule, or by rate within a schedule. Times are local, as the clock at the site shows them.

    kind         duplicate: an event comes once more, up to `seconds` later (60)
                 reorder:   an event comes up to `seconds` later (30), and so behind others
                 late:      an event comes up to `hours` later (48)
                 skew:      a machine's clock is `seconds` off; `rate`: share of the machines
                 restart:   a machine restarts before an event: the boot is one higher, seq begins at 1
                 malformed: a payload that cannot be understood comes beside an event, in one of `forms`
                 silence:   nothing comes from a machine for `hours`, then the backlog; `rate`: share of such spans of each machine
    rate         share of the events, if not said otherwise; within a schedule all of them, without one it must be given
    from, to     the schedule: production at the station between these, open on either side
    station, machine   codes of the one station, and of its one machine, that it happens to
    """

    kind: Kind
    rate: Share | None = None
    from_: LocalInstant | None = msgspec.field(name="from", default=None)
    to: LocalInstant | None = None
    station: str | None = None
    machine: str | None = None
    seconds: float | None = None
    hours: float | None = None
    forms: Annotated[list[Form], Meta(min_length=1)] | None = None

    @property
    def span_s(self) -> float:
        """How much later, how far off or how long, in seconds."""
        if self.hours is not None or self.kind == "late":
            return 3600 * (self.hours if self.hours is not None else MOST_LATE_H)
        return self.seconds if self.seconds is not None else _DELAY_S.get(self.kind, 0.0)


class Conditions(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A scenario file. ramp_up: see scenario.ramp."""

    ramp_up: Fraction = 0.0
    disturbance: list[Disturbance] = msgspec.field(default_factory=list)
    fault: list[Fault] = msgspec.field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Changes whenever something in it does; empty for none."""
        return "" if self == NONE else hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:8]

    def told(self) -> dict[str, Any]:
        """Ramp-up and disturbances, as a ledger tells them."""
        return {"ramp_up": self.ramp_up, "disturbances": msgspec.to_builtins(self.disturbance)}


NONE: Final = Conditions()


def load(path: Path, scenario: Scenario) -> Conditions:
    """Read and check a scenario file for this line; ConfigError names file, key, value and what would be allowed."""
    conditions = read(path, Conditions)
    disturbance.check(str(path), scenario, conditions.disturbance)
    stations = {s.code: s for s in scenario.line.station}
    for n, f in enumerate(conditions.fault):
        at = f"{path}: fault[{n}]"
        if f.station is not None and f.station not in stations:
            raise ConfigError(f"{at}.station {f.station!r} is not on line {scenario.line.path}: use one of {', '.join(stations)}")
        if f.machine is not None:
            if f.station is None:
                raise ConfigError(f"{at}.machine {f.machine!r} needs a station: say which one's machine it is")
            codes = stations[f.station].machine_codes
            if f.machine not in codes:
                raise ConfigError(f"{at}.machine {f.machine!r} is not at {f.station!r}: use {codes[0]} to {codes[-1]}")
        _check_keys(at, f)
    return conditions


def _check_keys(at: str, f: Fault) -> None:
    needs, allows = _NEEDS.get(f.kind, ()), _ALLOWS.get(f.kind, ())
    for key in ("seconds", "hours", "forms"):
        given = getattr(f, key)
        if given is None and key in needs:
            raise ConfigError(f"{at}.{key} is missing: kind {f.kind!r} needs it")
        if given is not None and key not in (*needs, *allows):
            raise ConfigError(f"{at}.{key} {given} does not go with kind {f.kind!r}: leave it out")
    if f.rate is None and f.from_ is None and f.to is None:
        raise ConfigError(f"{at} has neither rate nor from nor to: say how often or when")
    if f.from_ is not None and f.to is not None and f.to <= f.from_:
        raise ConfigError(f"{at}.to {f.to} is not after from {f.from_}: it ends after it begins")
    if f.hours is not None and not 0 < f.hours <= MOST_LATE_H:
        raise ConfigError(f"{at}.hours {f.hours}: use a number above 0 and up to {MOST_LATE_H:.0f}")
    if f.seconds is not None and not (0 < abs(f.seconds) <= 86_400 and (f.kind == "skew" or f.seconds > 0)):
        raise ConfigError(f"{at}.seconds {f.seconds}: use a number up to 86400, above 0 (for kind 'skew' also below)")
