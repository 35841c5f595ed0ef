"""The plant as data: sites, lines with their routes, products and targets, read from a folder of TOML files.

    DIR/sites/*.toml      one site each: zone, start of the production day, shifts, areas
    DIR/lines/*.toml      one line each: product, and its stations in route order
    DIR/products.toml     what is made
    DIR/targets.toml      what is planned, from which date on, and who said so

`load(DIR)` checks everything before anything is used, and refuses with the file, the key, the value and the cure.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
import tomllib
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from zoneinfo import ZoneInfo, available_timezones

import msgspec
from msgspec import Meta

from mes.contract import level
from mes.errors import ConfigError

Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, Meta(gt=0.0)]
NotNegative = Annotated[float, Meta(ge=0.0)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Code = Annotated[str, Meta(min_length=1, max_length=40)]

BUCKET_MINUTES = 5


class _Seed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a seeds file: unknown keys are errors."""


class Shift(_Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A shift by its local start and end; one that ends at or before its start ends on the next calendar day."""

    name: str
    start: dt.time
    end: dt.time


class Area(_Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    code: Code
    name: str


class Site(_Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A plant: an IANA zone, the local time at which its production day begins, and its shifts."""

    code: Code
    name: str
    zone: str
    day_start: dt.time
    area: list[Area]
    shift: list[Shift]
    source: str

    @property
    def tz(self) -> ZoneInfo:
        return ZoneInfo(self.zone)


class Product(_Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A cell type. `energy_wh` is nominal voltage times rated capacity, per cell."""

    code: Code
    name: str
    chemistry: str
    nominal_voltage_v: Positive
    capacity_ah: Positive
    energy_wh: Positive
    source: str


class Defect(_Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Why a cell misses the requirements of a station; `ppm` of first attempts in a mature line."""

    code: Annotated[str, Meta(min_length=1, max_length=16)]
    name: str
    ppm: NotNegative


class Rework(_Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Trying again at the same station: `share` of the misses may, at most `max` times, each with `success`."""

    max: Count
    share: Fraction
    success: Fraction


class Characteristic(_Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A quantity that a station measures.

    distribution   "normal": `nominal` is the mean, `sigma` in `unit`;
                   "lognormal": `nominal` is the median, `sigma` that of the logarithm
    sampling       share of the cells that are measured, above 0 and at most 1; `sampling_basis` says it in words
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


class Station(_Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
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


class Line(_Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
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


class Target(_Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a line shall make, in force from the production day `from` until the next target of that line.

    `gwh_per_year` goes with `days_per_year`, the production days that make the two figures one.
    """

    line: str
    from_: dt.date = msgspec.field(name="from")
    cells_per_day: Annotated[int, Meta(ge=0)]
    gwh_per_year: NotNegative
    days_per_year: Annotated[float, Meta(gt=0.0, le=366.0)]
    source: str


class SiteCapacity(_Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A phase of a site's capacity programme, in GWh a year."""

    site: Code
    phase: str
    from_: dt.date = msgspec.field(name="from")
    gwh_per_year: Positive
    source: str


class Plant(msgspec.Struct, frozen=True):
    """All of it, checked."""

    sites: dict[str, Site]
    products: dict[str, Product]
    lines: dict[str, Line]
    targets: list[Target]
    capacities: list[SiteCapacity]

    def line(self, name: str) -> Line:
        """The line with this path or, where it is the only one, this code or this site."""
        found = [line for line in self.lines.values() if name in (line.path, line.code, line.site, f"{line.site}-{line.code}")]
        if len(found) != 1:
            raise ConfigError(f"line {name!r} is {'not unique' if found else 'unknown'}: use one of {', '.join(sorted(self.lines))}")
        return found[0]


class _SiteFile(_Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    site: Site


class _LineFile(_Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    line: Line
    station: Annotated[list[Station], Meta(min_length=1)]


class _ProductsFile(_Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    product: list[Product]


class _TargetsFile(_Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    target: list[Target] = []
    site_capacity: list[SiteCapacity] = []


_F = TypeVar("_F", bound=_Seed)


def load(folder: Path) -> Plant:
    """Read and check a seeds folder; raises ConfigError with file, key, value and what would be allowed."""
    sites: dict[str, Site] = {}
    lines: dict[str, Line] = {}
    origin: dict[str, Path] = {}
    for path in _toml(folder / "sites"):
        site = _read(path, _SiteFile).site
        _check_site(path, site)
        _once(path, "site.code", _code(path, "site.code", site.code), sites)
        sites[site.code] = site
    products_file = folder / "products.toml"
    products: dict[str, Product] = {}
    for product in _read(products_file, _ProductsFile).product:
        _once(products_file, "product.code", _code(products_file, "product.code", product.code), products)
        products[product.code] = product
    for path in _toml(folder / "lines"):
        file = _read(path, _LineFile)
        if file.line.station:
            raise ConfigError(f"{path}: line.station: write the route as [[station]] tables beside [line]")
        line = msgspec.structs.replace(file.line, station=file.station)
        _check_line(path, line, sites, products)
        _once(path, "line.code", line.path, lines)
        if any((o.site, o.code) == (line.site, line.code) for o in lines.values()):
            raise ConfigError(f"{path}: line.code {line.code!r} stands twice at site {line.site!r}: choose another code")
        lines[line.path] = line
        origin[line.path] = path
    targets_file = folder / "targets.toml"
    plans = _read(targets_file, _TargetsFile)
    _check_targets(targets_file, plans, sites, lines)
    return Plant(sites, products, lines, plans.target, plans.site_capacity)


def _toml(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.toml"))
    if not files:
        raise ConfigError(f"{folder}: no *.toml file there; point --seeds at a folder with sites/, lines/, products.toml and targets.toml")
    return files


def _read(path: Path, into: type[_F]) -> _F:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as why:
        raise ConfigError(f"{path}: cannot be read: {why}") from why
    try:
        tables: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as why:
        raise ConfigError(f"{path}: not TOML: {why}") from why
    _check_finite(path, "", tables)
    try:
        return msgspec.convert(tables, into)
    except msgspec.ValidationError as why:
        detail = str(why)
        key = detail.rpartition("`$.")[2].rstrip("`") if "`$." in detail else ""
        raise ConfigError(f"{path}: {detail}{_value_at(tables, key)}{_allowed_at(into, key)}") from why


def _check_finite(path: Path, key: str, value: Any) -> None:
    """TOML knows nan and inf, a plant does not."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check_finite(path, f"{key}.{name}" if key else name, item)
    elif isinstance(value, list):
        for n, item in enumerate(value):
            _check_finite(path, f"{key}[{n}]", item)
    elif isinstance(value, float) and not isfinite(value):
        raise ConfigError(f"{path}: {key} {value} is not a finite number: write one")


def _value_at(tables: Any, key: str) -> str:
    """The offending value as ", found X", where the path leads to one."""
    here = tables
    for step in key.replace("[", ".[").split("."):
        try:
            here = here[int(step[1:-1])] if step.startswith("[") else here[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return ""
    return "" if isinstance(here, dict | list) else f", found {here!r}"


def _allowed_at(into: type[_Seed], key: str) -> str:
    """What may stand where the path leads to, the keys of a table or the values of a choice, as ": use ..."."""
    here: Any = msgspec.inspect.type_info(into)
    for step in filter(None, re.split(r"[.\[\]]+", key)):
        here = here.item_type if isinstance(here, msgspec.inspect.ListType) else next(f.type for f in here.fields if f.encode_name == step)
        if isinstance(here, msgspec.inspect.UnionType):
            here = next(t for t in here.types if not isinstance(t, msgspec.inspect.NoneType))
    if isinstance(here, msgspec.inspect.StructType):
        return f": use {', '.join(f.encode_name for f in here.fields)}"
    return f": use one of {', '.join(map(str, here.values))}" if isinstance(here, msgspec.inspect.LiteralType) else ""


def _once(path: Path, key: str, value: str, seen: dict[str, Any]) -> None:
    if value in seen:
        raise ConfigError(f"{path}: {key} {value!r} stands twice: choose another")


def _code(path: Path, key: str, value: str) -> str:
    """The value, if it can stand in a topic."""
    try:
        return level(value)
    except ConfigError as why:
        raise ConfigError(f"{path}: {key}: {why}") from why


@functools.cache
def _zones() -> frozenset[str]:
    """IANA zones; looking for them takes a while, and two names found among them are none."""
    return frozenset(available_timezones() - {"localtime", "Factory"})


def _check_site(path: Path, site: Site) -> None:
    if site.zone not in _zones():
        raise ConfigError(f"{path}: site.zone {site.zone!r} is not an IANA zone: write one such as 'Asia/Shanghai'")
    if site.day_start.minute % BUCKET_MINUTES or site.day_start.second or site.day_start.microsecond or site.day_start.tzinfo:
        raise ConfigError(f"{path}: site.day_start {site.day_start} must be a local time at a multiple of {BUCKET_MINUTES} minutes")
    for n, area in enumerate(site.area):
        _code(path, f"site.area[{n}].code", area.code)
    if not site.shift:
        raise ConfigError(f"{path}: site.shift is empty: give at least one shift")
    at = site.day_start
    for n, shift in enumerate(site.shift):
        if shift.start != at:
            raise ConfigError(
                f"{path}: site.shift[{n}].start is {shift.start}, must be {at}: shifts follow one another without hole or overlap"
            )
        at = shift.end
    if at != site.day_start:
        raise ConfigError(f"{path}: the last shift ends at {at}, must end at site.day_start {site.day_start}")


def _check_line(path: Path, line: Line, sites: dict[str, Site], products: dict[str, Product]) -> None:
    def refuse(key: str, problem: str) -> ConfigError:
        return ConfigError(f"{path}: {key} {problem}")

    _code(path, "line.code", line.code)
    if line.site not in sites:
        raise refuse("line.site", f"{line.site!r} is unknown: use one of {', '.join(sites)}")
    if line.area not in {area.code for area in sites[line.site].area}:
        raise refuse(
            "line.area",
            f"{line.area!r} is not an area of site {line.site!r}: use one of {', '.join(a.code for a in sites[line.site].area)}",
        )
    if line.product not in products:
        raise refuse("line.product", f"{line.product!r} is unknown: use one of {', '.join(products)}")
    codes: set[str] = set()
    seq = 0
    for n, station in enumerate(line.station):
        at = f"station[{n}]"
        if _code(path, f"{at}.code", station.code) in codes:
            raise refuse(f"{at}.code", f"{station.code!r} stands twice on this line")
        codes.add(station.code)
        if station.seq <= seq:
            raise refuse(f"{at}.seq", f"{station.seq} must be greater than {seq}, the one before it: stations stand in route order")
        seq = station.seq
        if station.kind == "dwell" and station.cells_per_cycle != 1:
            raise refuse(f"{at}.cells_per_cycle", f"{station.cells_per_cycle} must be 1 for kind 'dwell': say positions")
        if station.kind != "dwell" and station.positions != 1:
            raise refuse(f"{at}.positions", f"{station.positions} is only for kind 'dwell', not {station.kind!r}")
        if sum(d.ppm for d in station.defect) > 1e6:
            raise refuse(f"{at}.defect", "ppm add up to more than 1,000,000")
        for kind, names in (("defect", [d.code for d in station.defect]), ("characteristic", [c.name for c in station.characteristic])):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise refuse(f"{at}.{kind}", f"{min(twice)!r} stands twice")
        for m, c in enumerate(station.characteristic):
            if c.lsl is not None and c.usl is not None and c.lsl >= c.usl:
                raise refuse(f"{at}.characteristic[{m}].lsl", f"{c.lsl} must be below usl {c.usl}")
            if c.distribution == "lognormal" and c.nominal <= 0:
                raise refuse(f"{at}.characteristic[{m}].nominal", f"{c.nominal} must be positive: it is the median of a lognormal")


def _check_targets(path: Path, plans: _TargetsFile, sites: dict[str, Site], lines: dict[str, Line]) -> None:
    seen: set[tuple[str, dt.date]] = set()
    for n, target in enumerate(plans.target):
        if target.line not in lines:
            raise ConfigError(f"{path}: target[{n}].line {target.line!r} is unknown: use one of {', '.join(sorted(lines))}")
        if (target.line, target.from_) in seen:
            raise ConfigError(f"{path}: target[{n}].from {target.from_} stands twice for line {target.line!r}: one target a line and date")
        seen.add((target.line, target.from_))
    for n, capacity in enumerate(plans.site_capacity):
        if capacity.site not in sites:
            raise ConfigError(f"{path}: site_capacity[{n}].site {capacity.site!r} is unknown: use one of {', '.join(sites)}")
