"""The views of the schema `report`, counted plainly from a list of events: no code of the rollup, no SQL."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from tests.told import Facts, Near, Single, Told, is_ahead, near, real

Row = dict[str, Any]
HOUR = dt.timedelta(hours=1)


def ratio(part: float, whole: float | None) -> float | None:
    """NULL where there is nothing to divide by."""
    return part / whole if whole else None


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that so large a part of the sorted values does not exceed."""
    return values[max(0, math.ceil(q * len(values)) - 1)]


class Truth(Facts):
    """Rows of each view by its name, without the columns that depend on the moment at which one asks."""

    def daily_throughput(self) -> list[Row]:
        rows = []
        gaps = self.gaps()
        for line, day in self.days:
            events, route = self.by_day.get((line, day), []), self.plant.lines[line].station
            product, target = self.plant.products[self.plant.lines[line].product], self.target(line, day)
            cells = target.cells_per_day if target else None
            begin, end = self.bounds(line, day)
            good, scrap = len(self.passed(line, day, route[-1].code)), [t for t in events if t.event.result == "scrap"]
            booked = [t for t in self.events if t.line == line and t.unscrapped and self.day_of(line, t.unscrapped) == day]
            missing = sum(last - first + 1 for at, _, _, first, last, on in gaps if (at, on) == (line, day))
            kept = [p for p in self.poison if p.line == line and begin <= p.seen_at < end and (p.identity or p.machine is None)]
            rows.append({
                "line": line, "production_day": day, "product": product.code, "good": good, "target": cells,
                "attainment": ratio(good, cells), "gap": good - cells if target else None,
                "scrap": len(scrap) - len(booked), "scrap_restated": sum(t.unscrapped is None for t in scrap),
                "started": len(self.inspected(line, day, route[0].code)), "events": len(events),
                "energy_mwh": good * product.energy_wh / 1e6,
                "run_rate_gwh": good * product.energy_wh * target.days_per_year / 1e9 if target else None,
                "run_rate_days_per_year": target.days_per_year if target else None,
                "scheduled_h": (end - begin) / HOUR, "starts_at": begin, "ends_at": end,
                "last_event_at": max((t.at for t in events), default=None), "missing": missing, "quarantined": len(kept),
                "late": sum(t.received_at >= end for t in events), "clock_ahead": sum(map(is_ahead, events)),
                "completeness": ratio(len(events), len(events) + missing + len(kept)),
            })  # fmt: skip
        return rows

    def daily_yield(self) -> list[Row]:
        rows = []
        for line, day in self.days:
            route = self.plant.lines[line].station
            good = len(self.passed(line, day, route[-1].code))
            scrap = sum(t.event.result == "scrap" and t.unscrapped is None for t in self.by_day.get((line, day), []))
            first_pass = [
                ratio(sum(t.event.result == "pass" for t in seen), len(seen)) for seen in (self.inspected(line, day, s.code) for s in route)
            ]
            silent = first_pass.count(None)
            rows.append({
                "line": line, "production_day": day, "good": good, "scrap": scrap, "output_yield": ratio(good, good + scrap),
                "rolled_throughput_yield": None if silent else math.prod(y for y in first_pass if y is not None),
                "first_pass_yield": first_pass[-1], "stations_without_inspection": silent,
            })  # fmt: skip
        return rows

    def station_yield(self) -> list[Row]:
        rows = []
        for (line, day), events in self.by_day.items():
            route = self.plant.lines[line].station
            produced_first = sum(t.station == route[0].code for t in events)
            for station in route:
                results = Counter(t.event.result for t in events if t.station == station.code)
                seen, passed = self.inspected(line, day, station.code), len(self.passed(line, day, station.code))
                produced, good = results.total(), sum(t.event.result == "pass" for t in seen)
                chains = [chain for (at, _), chain in self.chains(line, day).items() if at == station.code]
                cycles = sorted(real(t.event.cycle_s) for t in events if t.station == station.code)
                if produced:
                    rows.append({
                        "line": line, "production_day": day, "station": station.code, "station_seq": station.seq,
                        "section": station.section, "station_name": station.name, "inspected": len(seen), "first_pass_good": good,
                        "first_pass_yield": ratio(good, len(seen)), "good": results["pass"], "rework": results["rework"],
                        "scrap": results["scrap"], "passed": passed,
                        "retests": sum(before.event.result != "rework" for c in chains for before in c[:-1]),
                        "quality_ratio": ratio(results["pass"], produced), "rework_ratio": ratio(results["rework"], produced),
                        "scrap_ratio": ratio(results["scrap"], produced), "fall_off_ratio": ratio(results["scrap"], produced_first),
                        "final_yield": ratio(passed, passed + results["scrap"]),
                        "cycle_p50_s": Near(quantile(cycles, 0.5), 1 / 32), "cycle_p95_s": Near(quantile(cycles, 0.95), 1 / 32),
                    })  # fmt: skip
        return rows

    def cycle_time(self) -> list[Row]:
        """By bins of a thirty-second of their octave, the shortest and the longest times in the outermost."""
        rows = []
        for (line, day), events in self.by_day.items():
            bins: dict[str, Counter[tuple[float, float]]] = defaultdict(Counter)
            for told in events:
                seconds = min(max(real(told.event.cycle_s), 2.0**-7), 2.0**25 * (1 - 2.0**-24))
                width = 2.0 ** (math.frexp(seconds)[1] - 1) / 32
                bins[told.station][seconds // width * width, seconds // width * width + width] += 1
            for station, counts in bins.items():
                for (low, high), n in counts.items():
                    rows.append({
                        "line": line, "production_day": day, "station": station, "from_s": low, "below_s": high, "count": n,
                        "share": n / counts.total(),
                    })  # fmt: skip
        return rows

    def hourly_machine(self) -> list[Row]:
        rows = []
        for (line, day), events in self.by_day.items():
            begin, _ = self.bounds(line, day)
            for (machine, hour), n in Counter((told.machine, (told.at - begin) // HOUR) for told in events).items():
                station, _, code = machine.partition("/")
                rows.append({
                    "line": line, "production_day": day, "station": station, "machine": code, "hour_starts_at": begin + hour * HOUR,
                    "hour_of_day": hour, "events": n,
                })  # fmt: skip
        return rows

    def shift_throughput(self) -> list[Row]:
        rows = []
        for line, day in self.days:
            begin, end = self.bounds(line, day)
            out = self.passed(line, day, self.plant.lines[line].station[-1].code)
            for position, (name, starts, ends) in enumerate(self.shifts(line, day)):
                inside = [t for t in self.by_day.get((line, day), []) if starts <= t.at < ends]
                target = self.target(line, day)
                cells = target.cells_per_day * ((ends - starts) / (end - begin)) if target else None
                good = sum(starts <= at < ends for at in out)
                rows.append({
                    "line": line, "production_day": day, "shift": name, "shift_of_day": position, "starts_at": starts, "ends_at": ends,
                    "good": good, "scrap": sum(t.event.result == "scrap" for t in inside), "events": len(inside),
                    "target": near(cells), "attainment": near(ratio(good, cells)), "gap": near(None if cells is None else good - cells),
                    "scheduled_h": (ends - starts) / HOUR, "last_event_at": max((t.at for t in inside), default=None),
                })  # fmt: skip
        return rows

    def hourly_throughput(self) -> list[Row]:
        rows = []
        for line, day in self.days:
            begin, end = self.bounds(line, day)
            out = self.passed(line, day, self.plant.lines[line].station[-1].code)
            target = self.target(line, day)
            for hour in range(math.ceil((end - begin) / HOUR)):
                starts, ends = begin + hour * HOUR, min(begin + (hour + 1) * HOUR, end)
                scrap = sum(t.event.result == "scrap" and starts <= t.at < ends for t in self.by_day.get((line, day), []))
                rows.append({
                    "line": line, "production_day": day, "hour_starts_at": starts, "hour_of_day": hour,
                    "good": sum(starts <= at < ends for at in out), "scrap": scrap,
                    "target": near(target.cells_per_day * ((ends - starts) / (end - begin)) if target else None),
                })  # fmt: skip
        return rows

    def defect_pareto(self) -> list[Row]:
        rows = []
        for (line, day), events in self.by_day.items():
            stations = {s.code: s for s in self.plant.lines[line].station}
            counts = Counter((t.station, t.event.defect) for t in events if t.event.result != "pass")
            upto = 0
            ranked = sorted(counts.items(), key=lambda x: (-x[1], stations[x[0][0]].seq, x[0][1]))
            for rank, ((station, code), n) in enumerate(ranked, 1):
                upto += n
                rows.append({
                    "line": line, "production_day": day, "station": station, "defect": code,
                    "defect_name": next(d.name for d in stations[station].defect if d.code == code), "count": n,
                    "share": n / counts.total(), "cumulative_share": upto / counts.total(), "rank": rank,
                })  # fmt: skip
        return rows

    def daily_characteristic(self) -> list[Row]:
        rows = []
        for (line, day), events in self.by_day.items():
            for station in self.plant.lines[line].station:
                for c in station.characteristic:
                    x = [real(t.event.meas[c.name]) for t in events if t.station == station.code and c.name in t.event.meas]
                    if not x:
                        continue
                    mean = math.fsum(x) / len(x)
                    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in x) / (len(x) - 1)) if len(x) > 1 else None
                    close = 1e-6 * (sd or c.sigma)
                    rows.append({
                        "line": line, "production_day": day, "station": station.code, "characteristic": c.name, "unit": c.unit, "n": len(x),
                        "mean": Near(mean, 0, close), "sd": None if sd is None else Near(sd, 0, close), "lowest": Single(min(x)),
                        "highest": Single(max(x)), "nominal": c.nominal, "lsl": c.lsl, "usl": c.usl, "implausible": 0,
                    })  # fmt: skip
        return rows

    def completeness(self) -> list[Row]:
        missing: dict[tuple[str, str, dt.date | None], list[Row]] = defaultdict(list)
        for line, machine, boot, first, last, day in sorted(self.gaps(), key=lambda g: g[:4]):
            missing[line, machine, day].append({"boot": boot, "first": first, "last": last})
        again = Counter((t.line, t.machine, self.day_of(t.line, t.at)) for t in self.repeats)
        rows = []
        for line, day in self.days:
            begin, end = self.bounds(line, day)
            came: dict[str, list[Told]] = defaultdict(list)
            for told in self.by_day.get((line, day), []):
                came[told.machine].append(told)
            for station in self.plant.lines[line].station:
                for code in station.machine_codes:
                    machine = f"{station.code}/{code}"
                    received, ranges = came[machine], missing[line, machine, day]
                    lacking = sum(r["last"] - r["first"] + 1 for r in ranges)
                    kept = [p for p in self.poison if (p.line, p.machine) == (line, machine) and begin <= p.seen_at < end]
                    counted = sum(p.identity is not None for p in kept)
                    rows.append({
                        "line": line, "production_day": day, "station": station.code, "machine": code,
                        "expected": len(received) + lacking + counted, "received": len(received),
                        "duplicates": again[line, machine, day], "late": sum(t.received_at >= end for t in received),
                        "clock_ahead": sum(map(is_ahead, received)), "quarantined": len(kept), "missing": lacking,
                        "missing_ranges": ranges or None,
                        "completeness": ratio(len(received), len(received) + lacking + counted),
                    })  # fmt: skip
        return rows

    def site_capacity(self) -> list[Row]:
        rows = []
        lines: dict[tuple[str, dt.date], list[str]] = defaultdict(list)
        for line, day in self.days:
            lines[self.plant.lines[line].site, day].append(line)
        for (site, day), paths in lines.items():
            phases = sorted((c for c in self.plant.capacities if c.site == site and c.from_ <= day), key=lambda c: (c.from_, c.phase))
            planned = sum(c.gwh_per_year for c in phases) if phases else None
            energy, rate = 0.0, 0.0
            for line in paths:
                good = len(self.passed(line, day, self.plant.lines[line].station[-1].code))
                wh = good * self.plant.products[self.plant.lines[line].product].energy_wh
                target = self.target(line, day)
                energy, rate = energy + wh / 1e6, rate + (wh * target.days_per_year / 1e9 if target else 0.0)
            rows.append({
                "site": site, "production_day": day, "planned_gwh": near(planned), "phases": ", ".join(c.phase for c in phases) or None,
                "run_rate_gwh": near(rate), "attainment": near(ratio(rate, planned)), "energy_mwh": near(energy),
            })  # fmt: skip
        return rows

    def line_now(self) -> list[Row]:
        """Where it does not depend on the second at which one asks: what is on the line, as far as its events tell."""
        days = {(row["line"], row["production_day"]): row for row in self.daily_throughput()}
        rows = []
        for line in self.plant.lines:
            begun = [row for (path, _), row in days.items() if path == line and row["starts_at"] <= self.now]
            today = days.get((line, self.day_of(line, self.now)), {})
            level = lowest = 0
            for row in sorted(begun, key=lambda row: row["production_day"]):
                level += row["started"] - row["good"] - row["scrap_restated"]
                lowest = min(level, lowest)
            rows.append({
                "line": line, **{name: today.get(name) for name in ("production_day", "good", "target", "completeness")},
                "scrap": today.get("scrap_restated"),
                "wip": level - lowest if begun else None,
                "last_event_at": max((row["last_event_at"] for row in begun if row["last_event_at"]), default=None),
            })  # fmt: skip
        return rows

    # -- cell by cell

    def unit_history(self, unit: str) -> list[Row]:
        rows = []
        for told in sorted((t for t in self.events if t.event.unit == unit), key=lambda t: (t.at, t.station, t.event.attempt)):
            e, day = told.event, self.day_of(told.line, told.at)
            station = next(s for s in self.plant.lines[told.line].station if s.code == told.station)
            defect = next((d for d in station.defect if d.code == e.defect), None)
            rows.append({
                "unit": unit, "line": told.line, "station": station.code, "station_name": station.name,
                "machine": told.machine.partition("/")[2],
                "channel": None if e.channel is UNSET else e.channel, "at": told.at, "production_day": day,
                "attempt": e.attempt, "result": e.result, "defect": defect and defect.code, "defect_name": defect and defect.name,
                "cycle_s": Single(e.cycle_s), "readings": {name: Single(value) for name, value in e.meas.items()} or None,
                "lots": e.lots or None, "boot": e.boot, "seq": e.seq, "received_at": told.received_at,
                "is_late": told.received_at >= self.bounds(told.line, day)[1], "is_clock_ahead": is_ahead(told),
            })  # fmt: skip
        return rows

    def cohort_yield(self, line: str, day: dt.date) -> Row | None:
        """What became of the cells that the line started on a day; None where it started none."""
        route = self.plant.lines[line].station
        units = {t.event.unit for t in self.by_day.get((line, day), []) if t.station == route[0].code and t.event.attempt == 1}
        mine = [t for t in self.events if t.line == line and t.event.unit in units]
        good = {t.event.unit for t in mine if t.station == route[-1].code and t.event.result == "pass"}
        scrap = {t.event.unit for t in mine if t.event.result == "scrap" and t.unscrapped is None} - good
        left = len(units - good - scrap)
        return {
            "line": line, "production_day": day, "started": len(units), "good": len(good), "scrap": len(scrap), "open": left,
            "final_yield": ratio(len(good), len(units)), "is_open": left > 0,
        } if units else None  # fmt: skip
