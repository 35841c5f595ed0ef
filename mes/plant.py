"""The plant as data: sites with their calendars, lines with their routes, products and targets. `mes.seeds` reads them."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from mes.errors import ConfigError

Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, Meta(gt=0.0)]
NotNegative = Annotated[float, Meta(ge=0.0)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Code = Annotated[str, Meta(min_length=1, max_length=40)]

LocalTime = Annotated[dt.time, Meta(tz=False)]
LocalInstant = Annotated[dt.datetime, Meta(tz=False)]

EVER = dt.date.min
"""From this production day on is what says no date."""


class Seed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a seeds file: unknown keys are errors."""


class Break(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Time within a shift in which nothing is planned."""

    start: LocalTime
    end: LocalTime


class Shift(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A shift by its local start and end; one that ends at or before its start ends on the next calendar day.

    Shifts with the same `from` are one plan, in force from that production day until the next plan.
    """

    name: Code
    from_: dt.date = msgspec.field(name="from", default=EVER)
    start: LocalTime
    end: LocalTime
    breaks: list[Break] = []


class Holiday(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A production day on which nothing is planned."""

    day: dt.date
    name: str


class PlannedStop(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Local time in which a line, or the whole site, is planned not to work."""

    from_: LocalInstant = msgspec.field(name="from")
    to: LocalInstant
    reason: str
    line: str | None = None

    def span(self, zone: ZoneInfo) -> tuple[dt.datetime, dt.datetime]:
        """[begin, end) in UTC; of a local time that comes twice the first is meant."""
        return self.from_.replace(tzinfo=zone).astimezone(dt.UTC), self.to.replace(tzinfo=zone).astimezone(dt.UTC)


class Area(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    code: Code
    name: str


class Site(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A plant: an IANA zone, the local time at which its production day begins, its shifts, holidays and planned stops."""

    code: Code
    name: str
    zone: str
    day_start: LocalTime
    area: list[Area]
    shift: list[Shift]
    holiday: list[Holiday] = []
    planned_stop: list[PlannedStop] = []
    source: str

    @property
    def tz(self) -> ZoneInfo:
        return ZoneInfo(self.zone)

    @property
    def plans(self) -> list[tuple[dt.date, list[Shift]]]:
        """Shift plans in order of the production day from which each is in force."""
        days = sorted({shift.from_ for shift in self.shift})
        return [(day, [shift for shift in self.shift if shift.from_ == day]) for day in days]


class Product(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A cell type. `energy_wh` is nominal voltage times rated capacity, per cell."""

    code: Code
    name: str
    chemistry: str
    nominal_voltage_v: Positive
    capacity_ah: Positive
    energy_wh: Positive
    source: str


class Defect(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Why a cell misses the requirements of a station; `ppm` of first attempts in a mature line."""

    code: Annotated[str, Meta(min_length=1, max_length=16)]
    name: str
    ppm: NotNegative


class Rework(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Trying again at the same station: `share` of the misses may, at most `max` times, each with `success`."""

    max: Count
    share: Fraction
    success: Fraction


class Characteristic(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A quantity that a station measures.

    distribution   "normal": `nominal` is the mean, `sigma` in `unit`;
                   "lognormal": `nominal` is the median, `sigma` that of the logarithm
    sampling       share of the cells that are measured, above 0 and at most 1; `sampling_basis` says it in words
    below, above   code of the station's defect that a reading below `lsl`, above `usl` is, where every cell is measured
                   (sampling = 1); without it the station's first defect
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_.]{0,39}$")]
    unit: str
    nominal: float
    sigma: Positive
    distribution: Literal["normal", "lognormal"]
    sampling: Annotated[float, Meta(gt=0.0, le=1.0)]
    sampling_basis: str
    basis: str
    lsl: float | None = None
    usl: float | None = None
    below: str | None = None
    above: str | None = None


class Station(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A step of the route, done by `machines` alike.

    kind             discrete: `cells_per_cycle` cells leave every `cycle_s`
                     batch: up to `cells_per_cycle` cells enter together and leave together after `cycle_s`
                     dwell: each cell stays `cycle_s` in one of the `positions` of a machine (chamber, cabinet)
    buffer_after     slots between this station and the next
    plan_oee         what the number of machines was planned with
    mtbf_min, mttr_min   mean busy time between failures of a machine, mean repair time, minutes
    """

    code: Code
    seq: Count
    name: str
    section: Code
    kind: Literal["discrete", "batch", "dwell"]
    cycle_s: Positive
    machines: Count
    cells_per_cycle: Count = 1
    positions: Count = 1
    buffer_after: Annotated[int, Meta(ge=0)]
    plan_oee: Annotated[float, Meta(gt=0.0, le=1.0)]
    mtbf_min: Positive
    mttr_min: NotNegative
    basis: str
    rework: Rework | None = None
    defect: list[Defect] = []
    characteristic: list[Characteristic] = []

    @property
    def machine_codes(self) -> list[str]:
        """Codes of the machines: "01", "02", ..., as wide as the largest needs."""
        width = max(2, len(str(self.machines)))
        return [f"{n:0{width}d}" for n in range(1, self.machines + 1)]


class Line(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A line: its place, its product and its route. Good cells count at the last station."""

    site: Code
    area: Code
    code: Code
    name: str
    product: Code
    serial_prefix: Annotated[str, Meta(pattern=r"^[A-Z0-9]{1,8}$")]
    source: str
    station: list[Station] = []

    @property
    def path(self) -> str:
        """ISA-95 path below the enterprise, e.g. "nanjing/cells/32140-1": the name of a line everywhere."""
        return f"{self.site}/{self.area}/{self.code}"


class Target(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a line shall make, in force from the production day `from` until the next target of that line.

    `gwh_per_year` goes with `days_per_year`, the production days that make the two figures one.
    """

    line: str
    from_: dt.date = msgspec.field(name="from")
    cells_per_day: Annotated[int, Meta(ge=0)]
    gwh_per_year: NotNegative
    days_per_year: Annotated[float, Meta(gt=0.0, le=366.0)]
    source: str


class SiteCapacity(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A phase of a site's capacity programme, in GWh a year."""

    site: Code
    phase: str
    from_: dt.date = msgspec.field(name="from")
    gwh_per_year: Positive
    source: str


class AlertRule(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When an alert of a line is raised and cleared again: `raise` and `clear` are thresholds, each to be passed for `hold_s`.

    behind_target    part of the day's target that is lacking of what was due by now
    yield_low        output yield of the day, once it has `least` cells
    line_silent      seconds of scheduled time without a cell
    data_incomplete  completeness of the day

    A rule holds for its `line`, else for the lines of its `site`, without both for every line.
    """

    name: Literal["behind_target", "yield_low", "line_silent", "data_incomplete"]
    raise_at: NotNegative = msgspec.field(name="raise")
    clear_at: NotNegative = msgspec.field(name="clear")
    hold_s: NotNegative
    least: Annotated[int, Meta(ge=0)] = 0
    line: str | None = None
    site: str | None = None
    source: str

    @property
    def is_upper(self) -> bool:
        """Whether the alert is raised above its threshold, not below."""
        return self.name in ("behind_target", "line_silent")


_JUDGED = "judgement: the default of mes"
DEFAULT_RULES = (
    AlertRule(name="behind_target", raise_at=0.04, clear_at=0.02, hold_s=300, source=_JUDGED),
    AlertRule(name="yield_low", raise_at=0.90, clear_at=0.92, hold_s=300, least=500, source=_JUDGED),
    AlertRule(name="line_silent", raise_at=300, clear_at=60, hold_s=0, source=_JUDGED),
    AlertRule(name="data_incomplete", raise_at=0.999, clear_at=0.9995, hold_s=300, source=_JUDGED),
)
"""In force where the seeds say nothing else."""


class Plant(msgspec.Struct, frozen=True):
    """All of it, checked."""

    sites: dict[str, Site]
    products: dict[str, Product]
    lines: dict[str, Line]
    targets: list[Target]
    capacities: list[SiteCapacity]
    alerts: list[AlertRule] = []

    def rules(self, line: Line) -> list[AlertRule]:
        """The rule in force of each alert of a line: its own, its site's, that for every line, the default."""
        scopes = ((line.path, None), (None, line.site), (None, None))
        own = [rule for scope in scopes for rule in self.alerts if (rule.line, rule.site) == scope]
        return [next(rule for rule in (*own, *DEFAULT_RULES) if rule.name == default.name) for default in DEFAULT_RULES]

    def line(self, name: str) -> Line:
        """The line with this path or, where it is the only one, this code or this site."""
        found = [line for line in self.lines.values() if name in (line.path, line.code, line.site, f"{line.site}-{line.code}")]
        if len(found) != 1:
            raise ConfigError(f"line {name!r} is {'not unique' if found else 'unknown'}: use one of {', '.join(sorted(self.lines))}")
        return found[0]
