"""Reading a plant from a folder of TOML files: everything is checked before anything is used.

    DIR/sites/*.toml      one site each: zone, start of the production day, shift plans, holidays, planned stops, areas
    DIR/lines/*.toml      one line each: product, and its stations in route order
    DIR/products.toml     what is made
    DIR/targets.toml      what is planned, from which date on, and who said so
    DIR/alerts.toml       when somebody is to be told, if not by the defaults; may be left out

`load_plant(DIR)` refuses with the file, the key, the value and the cure.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
import tomllib
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, TypeVar
from zoneinfo import available_timezones

import msgspec
from msgspec import Meta

from mes.contract import level
from mes.errors import ConfigError
from mes.plant import EVER, AlertRule, Break, Line, Plant, Product, Seed, Shift, Site, SiteCapacity, Station, Target

BUCKET_MINUTES = 5
_DAY_MINUTES = 24 * 60


class _SiteFile(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    site: Site


class _LineFile(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    line: Line
    station: Annotated[list[Station], Meta(min_length=1)]


class _ProductsFile(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    product: list[Product]


class _TargetsFile(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    target: list[Target] = msgspec.field(default_factory=list)
    site_capacity: list[SiteCapacity] = msgspec.field(default_factory=list)


class _AlertsFile(Seed, frozen=True, forbid_unknown_fields=True, kw_only=True):
    alert: list[AlertRule]


_F = TypeVar("_F", bound=Seed)


def load_plant(folder: Path) -> Plant:
    """Read and check a seeds folder; raises ConfigError with file, key, value and what would be allowed."""
    sites: dict[str, Site] = {}
    lines: dict[str, Line] = {}
    site_files: dict[str, Path] = {}
    for path in _toml(folder / "sites"):
        site = read(path, _SiteFile).site
        _check_site(path, site)
        _once(path, "site.code", _code(path, "site.code", site.code), sites)
        sites[site.code] = site
        site_files[site.code] = path
    products_file = folder / "products.toml"
    products: dict[str, Product] = {}
    for product in read(products_file, _ProductsFile).product:
        _once(products_file, "product.code", _code(products_file, "product.code", product.code), products)
        products[product.code] = product
    for path in _toml(folder / "lines"):
        file = read(path, _LineFile)
        if file.line.station:
            raise ConfigError(f"{path}: line.station: write the route as [[station]] tables beside [line]")
        line = msgspec.structs.replace(file.line, station=file.station)
        _check_line(path, line, sites, products)
        _once(path, "line.code", line.path, lines)
        if any((o.site, o.code) == (line.site, line.code) for o in lines.values()):
            raise ConfigError(f"{path}: line.code {line.code!r} stands twice at site {line.site!r}: choose another code")
        lines[line.path] = line
    for code, path in site_files.items():
        _check_stops(path, sites[code], [line.path for line in lines.values() if line.site == code])
    targets_file = folder / "targets.toml"
    plans = read(targets_file, _TargetsFile)
    _check_targets(targets_file, plans, sites, lines)
    alerts_file = folder / "alerts.toml"
    rules = read(alerts_file, _AlertsFile).alert if alerts_file.exists() else []
    _check_alerts(alerts_file, rules, sites, lines)
    return Plant(sites, products, lines, plans.target, plans.site_capacity, rules)


def _toml(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.toml"))
    if not files:
        raise ConfigError(f"{folder}: no *.toml file there; point --seeds at a folder with sites/, lines/, products.toml and targets.toml")
    return files


def read(path: Path, into: type[_F]) -> _F:
    """One TOML file as a struct; ConfigError names file, key, value and what would be allowed."""
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
    if isinstance(here, dict | list):
        return ""
    return f", found {here!r}" if isinstance(here, str) else f", found {here}"


def _allowed_at(into: type[Seed], key: str) -> str:
    """What may stand where the path leads to, the keys of a table or the values of a choice, as ": use ..."."""
    inspect = msgspec.inspect
    here: list[Any] = [inspect.type_info(into)]
    for step in filter(None, re.split(r"[.\[\]]+", key)):
        if any(isinstance(t, inspect.StructType) and t.tag_field == step for t in here):
            return f": use one of {', '.join(str(t.tag) for t in here if isinstance(t, inspect.StructType))}"
        inner = [t.item_type for t in here if isinstance(t, inspect.ListType)]
        here = inner or [f.type for t in here if isinstance(t, inspect.StructType) for f in t.fields if f.encode_name == step]
        here = [t for one in here for t in (one.types if isinstance(one, inspect.UnionType) else [one])]
    tables = [t for t in here if isinstance(t, inspect.StructType)]
    if len(tables) == 1:
        return f": use {', '.join(f.encode_name for f in tables[0].fields)}"
    values = [v for t in here if isinstance(t, inspect.LiteralType) for v in t.values]
    return f": use one of {', '.join(map(str, values))}" if values else ""


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
    _check_boundary(path, "site.day_start", site.day_start)
    for n, area in enumerate(site.area):
        _code(path, f"site.area[{n}].code", area.code)
    if not site.shift:
        raise ConfigError(f"{path}: site.shift is empty: give at least one shift")
    for since, _ in site.plans:
        _check_plan(path, site, since)
    if site.plans[0][0] != EVER:
        raise ConfigError(f"{path}: site.shift.from {site.plans[0][0]}: no plan holds before; leave out `from` of the first plan")
    days: set[dt.date] = set()
    for n, holiday in enumerate(site.holiday):
        if holiday.day in days:
            raise ConfigError(f"{path}: site.holiday[{n}].day {holiday.day} stands twice: name a holiday once")
        days.add(holiday.day)


def _check_boundary(path: Path, key: str, local: dt.time) -> None:
    if local.minute % BUCKET_MINUTES or local.second or local.microsecond:
        raise ConfigError(f"{path}: {key} {local} must be a local time at a multiple of {BUCKET_MINUTES} minutes")


def _check_plan(path: Path, site: Site, since: dt.date) -> None:
    """Shifts of one plan follow one another once around the day, and breaks lie in them."""
    plan = "" if since == EVER else f" of the plan from {since}"
    at, minutes = site.day_start, 0
    names: set[str] = set()
    last = ""
    for n, shift in enumerate(site.shift):
        if shift.from_ != since:
            continue
        last = f"site.shift[{n}]"
        if shift.name in names:
            raise ConfigError(f"{path}: {last}.name {shift.name!r} stands twice{plan}: choose another")
        names.add(shift.name)
        if shift.start != at:
            raise ConfigError(f"{path}: {last}.start is {shift.start}{plan}, must be {at}: shifts leave no hole and do not overlap")
        _check_boundary(path, f"{last}.end", shift.end)
        begin, end = _minutes(site, shift)
        minutes += end - begin if end > begin else _DAY_MINUTES
        if minutes > _DAY_MINUTES:
            raise ConfigError(f"{path}: {last}.end {shift.end}{plan} is beyond site.day_start {site.day_start}: a plan is one day")
        _check_breaks(path, last, site, shift)
        at = shift.end
    if at != site.day_start:
        raise ConfigError(f"{path}: {last}.end {at}{plan}: the last shift must end at site.day_start {site.day_start}")


def _check_breaks(path: Path, key: str, site: Site, shift: Shift) -> None:
    begin, end = _minutes(site, shift)
    seen: list[tuple[int, int]] = []
    for n, pause in enumerate(shift.breaks):
        what = f"{path}: {key}.breaks[{n}] {pause.start} to {pause.end}"
        if any(local.second or local.microsecond for local in (pause.start, pause.end)):
            raise ConfigError(f"{what}: write whole minutes")
        first, last = _minutes(site, pause)
        if not begin <= first < last <= end:
            raise ConfigError(f"{what} is not within shift {shift.name!r}, {shift.start} to {shift.end}: a break lies in its shift")
        if any(first < other_last and other_first < last for other_first, other_last in seen):
            raise ConfigError(f"{what} overlaps another break of shift {shift.name!r}: make one of them")
        seen.append((first, last))


def _minutes(site: Site, part: Shift | Break) -> tuple[int, int]:
    """Start and end of a part of the day, by the clock, in minutes since the day began."""
    start, end, day = (local.hour * 60 + local.minute for local in (part.start, part.end, site.day_start))
    return (start - day) % _DAY_MINUTES, (end - day) % _DAY_MINUTES or _DAY_MINUTES


def _check_stops(path: Path, site: Site, lines: list[str]) -> None:
    for n, stop in enumerate(site.planned_stop):
        key = f"{path}: site.planned_stop[{n}]"
        if not all(2000 <= local.year < 2100 for local in (stop.from_, stop.to)):
            raise ConfigError(f"{key} {stop.from_} to {stop.to}: events are of the years 2000 to 2099")
        begin, end = stop.span(site.tz)
        if begin >= end:
            raise ConfigError(f"{key}.to {stop.to} is not after from {stop.from_}: a stop ends after it begins")
        if any(local.second or local.microsecond for local in (stop.from_, stop.to)):
            raise ConfigError(f"{key} {stop.from_} to {stop.to}: write whole minutes")
        if stop.line is not None and stop.line not in lines:
            known = f"use one of {', '.join(sorted(lines))}, or none for the whole site" if lines else "it has none: leave it out"
            raise ConfigError(f"{key}.line {stop.line!r} is not a line of site {site.code!r}: {known}")


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
            for side, limit, defect in (("below", "lsl", c.below), ("above", "usl", c.above)):
                if defect is None:
                    continue
                where, allowed = f"{at}.characteristic[{m}].{side}", [d.code for d in station.defect]
                if getattr(c, limit) is None:
                    raise refuse(where, f"{defect!r} needs {limit}: a limit to be {side}")
                if c.sampling < 1:
                    raise refuse(where, f"{defect!r} needs sampling = 1, found {c.sampling}: what is sampled judges no cell")
                if defect not in allowed:
                    raise refuse(
                        where, f"{defect!r} is not a defect of the station: use one of {', '.join(allowed) or 'those you add to it'}"
                    )
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
    phases: set[tuple[str, str]] = set()
    for n, capacity in enumerate(plans.site_capacity):
        if capacity.site not in sites:
            raise ConfigError(f"{path}: site_capacity[{n}].site {capacity.site!r} is unknown: use one of {', '.join(sites)}")
        if (capacity.site, capacity.phase) in phases:
            raise ConfigError(f"{path}: site_capacity[{n}].phase {capacity.phase!r} stands twice at site {capacity.site!r}: choose another")
        phases.add((capacity.site, capacity.phase))


def _check_alerts(path: Path, rules: list[AlertRule], sites: dict[str, Site], lines: dict[str, Line]) -> None:
    seen: set[tuple[str, str | None, str | None]] = set()
    for n, rule in enumerate(rules):
        at = f"{path}: alert[{n}]"
        for key, known in (("line", lines), ("site", sites)):
            value = getattr(rule, key)
            if value is not None and value not in known:
                raise ConfigError(f"{at}.{key} {value!r} is unknown: use one of {', '.join(sorted(known))}")
        if rule.line and rule.site:
            raise ConfigError(f"{at}.site {rule.site!r} beside line {rule.line!r}: a rule is for one line, or for one site")
        if (rule.name, rule.line, rule.site) in seen:
            raise ConfigError(f"{at}.name {rule.name!r} stands twice for {rule.line or rule.site or 'every line'}: one rule each")
        seen.add((rule.name, rule.line, rule.site))
        if rule.name != "line_silent" and max(rule.raise_at, rule.clear_at) > 1:
            raise ConfigError(f"{at}.raise {rule.raise_at}, clear {rule.clear_at}: {rule.name} is a part of one, from 0 to 1")
        if (rule.raise_at < rule.clear_at) == rule.is_upper and rule.raise_at != rule.clear_at:
            side = "below" if rule.is_upper else "above"
            raise ConfigError(
                f"{at}.clear {rule.clear_at} must be {side} raise {rule.raise_at}: else {rule.name} is raised and cleared at once"
            )
