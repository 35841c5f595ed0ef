"""Loading a plant: every refusal names file, key, value and cure; a new line is files and nothing else."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mes.contract import Topic, machine_topic
from mes.errors import ConfigError
from mes.plant import DEFAULT_RULES, EVER
from mes.seeds import load_plant

SEEDS = Path(__file__).resolve().parents[2] / "seeds"
NANJING = "lines/nanjing-32140-1.toml"
DALIAN = "lines/dalian-26650-1.toml"
SITE = "sites/nanjing.toml"

Edit = Callable[[Path], None]


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """A copy of the repository's seeds."""
    shutil.copytree(SEEDS, tmp_path / "seeds")
    return tmp_path / "seeds"


def put(old: str, new: str) -> Edit:
    """Replace the first `old` of a file."""

    def edit(path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return edit


def end_with(text: str) -> Edit:
    return lambda path: path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


TARGET = '\n[[target]]\nline = "{}"\nfrom = {}\ncells_per_day = 1\ngwh_per_year = 1.0\ndays_per_year = 300\nsource = "test"\n'

SHIFT = '\n[[site.shift]]\nname = "{}"\nfrom = {}\nstart = {}\nend = {}\n'
HOLIDAY = '\n[[site.holiday]]\nday = 2026-02-17\nname = "Spring Festival"\n'
STOP = '\n[[site.planned_stop]]\nfrom = {}\nto = {}\nreason = "overhaul"\n'


def breaks(*times: str) -> Edit:
    """Breaks of the night shift of Nanjing, from 20:00 to 08:00."""
    tables = ", ".join("{{ start = {}, end = {} }}".format(*time.split("-")) for time in times)
    return put("end = 08:00:00", f"end = 08:00:00\nbreaks = [{tables}]")


# what is wrong: (file, edit, what the message must hold: key, value, cure)
REFUSALS: dict[str, tuple[str, Edit, list[str]]] = {
    "unknown key": (NANJING, put("machines = 6", "machine = 6"), ["station[0]", "`machine`", "use code, seq", "machines"]),
    "unknown key of rework": (NANJING, put("max = 1", "most = 1"), ["station[1].rework", "`most`", "use max, share, success"]),
    "unknown table": (NANJING, end_with("\n[[stations]]\n"), ["`stations`", "use line, station"]),
    "missing key": (SITE, put('zone = "Asia/Shanghai"', ""), ["site", "`zone`", "missing required"]),
    "wrong type": (NANJING, put("machines = 6", 'machines = "6"'), ["station[0].machines", "found '6'", "`int`"]),
    "bool as number": (NANJING, put("machines = 6", "machines = true"), ["station[0].machines", "found True", "`int`"]),
    "negative mean": (NANJING, put("cycle_s = 7", "cycle_s = -7"), ["station[0].cycle_s", "found -7", "> 0"]),
    "mean of zero": (NANJING, put("cycle_s = 7", "cycle_s = 0"), ["station[0].cycle_s", "found 0", "> 0"]),
    "infinite mean": (NANJING, put("cycle_s = 7", "cycle_s = inf"), ["station[0].cycle_s", "inf", "finite"]),
    "limit not a number": (NANJING, put("lsl = 10.6", "lsl = nan"), ["station[0].characteristic[0].lsl", "nan", "finite"]),
    "no machines": (NANJING, put("machines = 6", "machines = 0"), ["station[0].machines", "found 0", ">= 1"]),
    "too many machines": (NANJING, put("machines = 6", "machines = 6_000_000_000"), ["station[0].machines", "found 6000000000", "<= "]),
    "no sigma": (NANJING, put("sigma = 0.3", "sigma = 0.0"), ["station[0].characteristic[0].sigma", "found 0.0", "> 0"]),
    "limits crossed": (NANJING, put("lsl = 10.6", "lsl = 13.5"), ["station[0].characteristic[0].lsl", "13.5", "below usl 13.4"]),
    "limits equal": (NANJING, put("lsl = 10.6", "lsl = 13.4"), ["station[0].characteristic[0].lsl", "13.4", "below usl 13.4"]),
    "unknown distribution": (
        NANJING,
        put('distribution = "normal"', 'distribution = "weibull"'),
        ["station[0].characteristic[0].distribution", "found 'weibull'", "use one of lognormal, normal"],
    ),
    "median below zero": (
        NANJING,
        put("nominal = 1200", "nominal = -1200"),
        ["station[2].characteristic[0].nominal", "-1200", "must be positive"],
    ),
    "unknown kind": (
        NANJING,
        put('kind = "discrete"', 'kind = "robot"'),
        ["station[0].kind", "found 'robot'", "use one of batch, discrete, dwell"],
    ),
    "success above one": (NANJING, put("success = 0.8", "success = 1.8"), ["station[1].rework.success", "found 1.8", "<= 1"]),
    "sampling of zero": (NANJING, put("sampling = 1,", "sampling = 0,"), ["station[0].characteristic[0].sampling", "found 0", "> 0"]),
    "more ppm than cells": (NANJING, put("ppm = 2600", "ppm = 1e6"), ["station[0].defect", "ppm", "1,000,000"]),
    "negative ppm": (NANJING, put("ppm = 2600", "ppm = -1"), ["station[0].defect[0].ppm", "found -1", ">= 0"]),
    "characteristic twice": (
        NANJING,
        put('"anode_cathode_overlap"', '"electrode_tension"'),
        ["station[0].characteristic", "'electrode_tension'", "twice"],
    ),
    "characteristic of odd letters": (
        NANJING,
        put('"electrode_tension"', '"électrode"'),
        ["station[0].characteristic[0].name", "'électrode'", "regex"],
    ),
    "defect twice": (NANJING, put('"W02"', '"W01"'), ["station[0].defect", "'W01'", "twice"]),
    "station twice": (NANJING, put('code = "flt"', 'code = "wnd"'), ["station[1].code", "'wnd'", "twice"]),
    "station in capitals": (NANJING, put('code = "flt"', 'code = "FLT"'), ["station[1].code", "'FLT'", "use 1 to 40 of a-z, 0-9 and -"]),
    "station out of order": (NANJING, put("seq = 20", "seq = 10"), ["station[1].seq", "10", "greater than 10"]),
    "positions of a discrete station": (
        NANJING,
        put("machines = 6", "machines = 6\npositions = 2"),
        ["station[0].positions", "2", "only for kind 'dwell'"],
    ),
    "cells together that dwell": (
        DALIAN,
        put("positions = 4000", "cells_per_cycle = 2"),
        ["station[11].cells_per_cycle", "2", "say positions"],
    ),
    "no stations": (
        NANJING,
        lambda path: path.write_text(path.read_text(encoding="utf-8").partition("[[station]]")[0]),
        ["`station`", "missing"],
    ),
    "stations inside of the line": (NANJING, put("[line]\n", '[line]\nstation = [{code = "x"}]\n'), ["line.station[0]", "missing"]),
    "unknown site": (NANJING, put('site = "nanjing"', 'site = "beijing"'), ["line.site", "'beijing'", "use one of dalian, nanjing"]),
    "unknown area": (NANJING, put('area = "cells"', 'area = "packs"'), ["line.area", "'packs'", "use one of cells"]),
    "unknown product": (NANJING, put('product = "32140"', 'product = "4680"'), ["line.product", "'4680'", "use one of 26650, 32140"]),
    "line in capitals": (NANJING, put('code = "32140-1"', 'code = "L1"'), ["line.code", "'L1'", "use 1 to 40"]),
    "line with a slash": (NANJING, put('code = "32140-1"', 'code = "32140/1"'), ["line.code", "'32140/1'", "use 1 to 40"]),
    "line twice": (
        "lines/zz.toml",
        lambda path: path.write_bytes((SEEDS / NANJING).read_bytes()),
        ["line.code", "'nanjing/cells/32140-1'", "choose another"],
    ),
    "serial prefix": (NANJING, put('"NJ1"', '"nj-1"'), ["line.serial_prefix", "'nj-1'", "regex"]),
    "site twice": (
        "sites/zz.toml",
        lambda path: path.write_bytes((SEEDS / SITE).read_bytes()),
        ["site.code", "'nanjing'", "choose another"],
    ),
    "site in capitals": (SITE, put('code = "nanjing"', 'code = "Nanjing"'), ["site.code", "'Nanjing'", "use 1 to 40"]),
    "area in capitals": (SITE, put('code = "cells"', 'code = "Cells"'), ["site.area[0].code", "'Cells'", "use 1 to 40"]),
    "unknown zone": (SITE, put('"Asia/Shanghai"', '"Asia/Nanjing"'), ["site.zone", "'Asia/Nanjing'", "write one such as"]),
    "zone of whatever machine": (SITE, put('"Asia/Shanghai"', '"localtime"'), ["site.zone", "'localtime'", "write one such as"]),
    "day between buckets": (
        SITE,
        put("day_start = 08:00:00", "day_start = 08:03:00"),
        ["site.day_start", "08:03:00", "multiple of 5 minutes"],
    ),
    "day between minutes": (
        SITE,
        put("day_start = 08:00:00", "day_start = 08:00:30"),
        ["site.day_start", "08:00:30", "multiple of 5 minutes"],
    ),
    "hole between shifts": (SITE, put("start = 20:00:00", "start = 21:00:00"), ["site.shift[1].start", "21:00:00", "must be 20:00:00"]),
    "shifts overlap": (SITE, put("start = 20:00:00", "start = 19:00:00"), ["site.shift[1].start", "19:00:00", "must be 20:00:00"]),
    "last shift too short": (
        SITE,
        put("end = 08:00:00", "end = 07:00:00"),
        ["last shift", "07:00:00", "must end at site.day_start 08:00:00"],
    ),
    "first shift late": (SITE, put('"day"\nstart = 08', '"day"\nstart = 09'), ["site.shift[0].start", "09:00:00", "must be 08:00:00"]),
    "shifts twice around the day": (
        SITE,
        put("start = 20:00:00\nend = 08:00:00", "start = 20:00:00\nend = 20:00:00"),
        ["site.shift[1].end", "20:00:00", "beyond site.day_start 08:00:00"],
    ),
    "shift between buckets": (
        SITE,
        lambda path: (put("end = 20:00:00", "end = 20:02:00")(path), put("start = 20:00:00", "start = 20:02:00")(path), None)[-1],
        ["site.shift[0].end", "20:02:00", "multiple of 5 minutes"],
    ),
    "shift twice": (SITE, put('name = "night"', 'name = "day"'), ["site.shift[1].name", "'day'", "stands twice", "choose another"]),
    "hole in a later plan": (
        SITE,
        end_with(SHIFT.format("a", "2026-01-01", "08:00:00", "20:00:00") + SHIFT.format("b", "2026-01-01", "21:00:00", "08:00:00")),
        ["site.shift[3].start", "21:00:00", "of the plan from 2026-01-01", "must be 20:00:00"],
    ),
    "later plan too short": (
        SITE,
        end_with(SHIFT.format("a", "2026-01-01", "08:00:00", "20:00:00")),
        ["site.shift[2].end", "20:00:00", "of the plan from 2026-01-01", "must end at site.day_start 08:00:00"],
    ),
    "no plan before the first": (
        SITE,
        lambda path: path.write_text(path.read_text().replace("\nstart =", "\nfrom = 2026-01-01\nstart =")),
        ["site.shift.from", "2026-01-01", "leave out `from`"],
    ),
    "shift in a zone": (SITE, put("end = 20:00:00", 'end = "20:00:00Z"'), ["site.shift[0].end", "found '20:00:00Z'", "timezone"]),
    "break outside of its shift": (
        SITE,
        breaks("19:45:00-20:15:00"),
        ["site.shift[1].breaks[0]", "19:45:00 to 20:15:00", "not within shift 'night', 20:00:00 to 08:00:00"],
    ),
    "break beyond its shift": (SITE, breaks("07:45:00-08:15:00"), ["site.shift[1].breaks[0]", "07:45:00 to 08:15:00", "not within"]),
    "break without length": (SITE, breaks("23:00:00-23:00:00"), ["site.shift[1].breaks[0]", "23:00:00 to 23:00:00", "not within"]),
    "break over a break": (
        SITE,
        breaks("23:45:00-00:15:00", "00:00:00-00:30:00"),
        ["site.shift[1].breaks[1]", "00:00:00 to 00:30:00", "overlaps another break of shift 'night'"],
    ),
    "break of seconds": (SITE, breaks("23:00:00-23:00:30"), ["site.shift[1].breaks[0]", "23:00:30", "whole minutes"]),
    "holiday twice": (SITE, end_with(HOLIDAY + HOLIDAY), ["site.holiday[1].day", "2026-02-17", "stands twice", "once"]),
    "holiday at a time": (
        SITE,
        end_with(HOLIDAY.replace("02-17", "02-17T08:00:00")),
        ["site.holiday[0].day", "found 2026-02-17 08:00:00", "Expected `date`"],
    ),
    "stop that ends before it begins": (
        SITE,
        end_with(STOP.format("2026-03-02T08:00:00", "2026-03-01T20:00:00")),
        ["site.planned_stop[0].to", "2026-03-01 20:00:00", "not after from 2026-03-02 08:00:00"],
    ),
    "stop of a zone": (
        SITE,
        end_with(STOP.format("2026-03-01T08:00:00Z", "2026-03-02T20:00:00")),
        ["site.planned_stop[0].from", "found 2026-03-01 08:00:00+00:00", "no timezone"],
    ),
    "stop of a whole day": (
        SITE,
        end_with(STOP.format("2026-03-01", "2026-03-02")),
        ["site.planned_stop[0].from", "found 2026-03-01", "Expected `datetime`"],
    ),
    "stop of seconds": (
        SITE,
        end_with(STOP.format("2026-03-01T08:00:00", "2026-03-02T20:00:01")),
        ["site.planned_stop[0]", "20:00:01", "whole minutes"],
    ),
    "stop in the year one": (
        SITE,
        end_with(STOP.format("0001-01-01T00:00:00", "2026-03-02T20:00:00")),
        ["site.planned_stop[0]", "0001-01-01 00:00:00", "years 2000 to 2099"],
    ),
    "stop of another site's line": (
        SITE,
        end_with(STOP.format("2026-03-01T08:00:00", "2026-03-02T20:00:00") + 'line = "dalian/cells/26650-1"\n'),
        ["site.planned_stop[0].line", "'dalian/cells/26650-1'", "not a line of site 'nanjing'", "use one of nanjing/cells/32140-1"],
    ),
    "no shifts": (SITE, lambda path: put(path.read_text().partition("[[site.shift]]")[2], "")(path), ["site.shift[0]", "missing"]),
    "product twice": ("products.toml", put('code = "26650"', 'code = "32140"'), ["product.code", "'32140'", "choose another"]),
    "product without energy": ("products.toml", put("energy_wh = 48.0", "energy_wh = 0"), ["product[1].energy_wh", "found 0", "> 0"]),
    "target of an unknown line": (
        "targets.toml",
        end_with(TARGET.format("ohio/cells/1", "2026-01-01")),
        ["target[2].line", "'ohio/cells/1'", "use one of dalian/cells/26650-1, nanjing/cells/32140-1"],
    ),
    "target twice for one date": (
        "targets.toml",
        end_with(TARGET.format("nanjing/cells/32140-1", "2021-02-03")),
        ["target[2].from", "2021-02-03", "'nanjing/cells/32140-1'", "one target a line and date"],
    ),
    "negative target": (
        "targets.toml",
        put("cells_per_day = 50000", "cells_per_day = -1"),
        ["target[0].cells_per_day", "found -1", ">= 0"],
    ),
    "a year of 400 days": (
        "targets.toml",
        put("days_per_year = 312.5", "days_per_year = 400"),
        ["target[1].days_per_year", "found 400", "<= 366"],
    ),
    "target from no date": ("targets.toml", put("from = 2021-02-03", 'from = "soon"'), ["target[0].from", "found 'soon'"]),
    "capacity of an unknown site": (
        "targets.toml",
        put('site = "nanjing"', 'site = "ohio"'),
        ["site_capacity[0].site", "'ohio'", "use one of dalian, nanjing"],
    ),
    "phase twice": ("targets.toml", put('phase = "II"', 'phase = "I"'), ["site_capacity[1].phase", "'I'", "'nanjing'", "choose another"]),
    "alert of an unknown kind": (
        "alerts.toml",
        put('"line_silent"', '"noisy"'),
        ["alert[1].name", "found 'noisy'", "use one of", "yield_low"],
    ),
    "alert of an unknown line": (
        "alerts.toml",
        put("line = ", 'line = "ohio/cells/1" #'),
        ["alert[3].line", "'ohio/cells/1'", "use one of dalian"],
    ),
    "alert of a line and a site": (
        "alerts.toml",
        put("line = ", 'site = "nanjing"\nline = '),
        ["alert[3].site", "'nanjing'", "'nanjing/cells/32140-1'", "for one line, or for one site"],
    ),
    "alert twice": (
        "alerts.toml",
        put('"line_silent"', '"behind_target"'),
        ["alert[1].name", "stands twice for every line", "one rule each"],
    ),
    "alert that is raised when it is cleared": (
        "alerts.toml",
        put("clear = 0.02", "clear = 0.05"),
        ["alert[0].clear", "0.05", "below raise 0.04"],
    ),
    "alert of a yield likewise": ("alerts.toml", put("clear = 0.96", "clear = 0.9"), ["alert[3].clear", "0.9", "above raise 0.955"]),
    "alert in percent": ("alerts.toml", put("raise = 0.04", "raise = 4"), ["alert[0].raise", "4.0", "from 0 to 1"]),
    "not TOML": (NANJING, put("[line]", "[line"), ["not TOML", "line 4"]),
    "key twice": (NANJING, put("machines = 6", "machines = 6\nmachines = 7"), ["not TOML", "line 21"]),
    "not UTF-8": (NANJING, lambda path: path.write_bytes(b'x = "\xff"'), ["cannot be read", "0xff", "utf-8"]),
    "no lines": ("lines", remove, ["no *.toml file", "point --seeds at"]),
    "no sites": ("sites", remove, ["no *.toml file", "point --seeds at"]),
    "no products": ("products.toml", remove, ["cannot be read", "No such file"]),
    "no targets": ("targets.toml", remove, ["cannot be read", "No such file"]),
}


@pytest.mark.parametrize(("file", "edit", "parts"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_names_file_key_value_and_cure(seeds: Path, file: str, edit: Edit, parts: list[str]) -> None:
    edit(seeds / file)
    with pytest.raises(ConfigError) as why:
        load_plant(seeds)
    text = str(why.value)
    assert text.startswith(f"{seeds / file}: ")
    assert [part for part in parts if part not in text] == []
    assert "\n" not in text


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/sites: no \*.toml file there; point --seeds at a folder with sites/"):
        load_plant(tmp_path / "nowhere")


OHIO_SITE = """
[site]
code = "ohio"
name = "Ohio cell plant"
zone = "America/New_York"
day_start = 00:00:00
source = "test"

[[site.area]]
code = "pilot"
name = "Pilot hall"

[[site.shift]]
name = "night"
start = 00:00:00
end = 08:00:00

[[site.shift]]
name = "day"
start = 08:00:00
end = 16:00:00

[[site.shift]]
name = "evening"
start = 16:00:00
end = 00:00:00
"""

OHIO_LINE = """
[line]
site = "ohio"
area = "pilot"
code = "26650-9"
name = "a short line"
product = "26650"
serial_prefix = "OH9"
source = "test"

[[station]]
code = "wnd"
seq = 10
name = "Winding"
section = "winding"
kind = "discrete"
cycle_s = 3.0
machines = 2
buffer_after = 10
plan_oee = 0.8
mtbf_min = 60
mttr_min = 5
basis = "J"

[[station]]
code = "frm"
seq = 20
name = "Formation"
section = "finishing"
kind = "dwell"
cycle_s = 3600
machines = 120
positions = 512
buffer_after = 0
plan_oee = 0.9
mtbf_min = 9999
mttr_min = 60
basis = "J"

[[station.characteristic]]
name = "capacity"
unit = "Ah"
nominal = 4
sigma = 0.1
distribution = "normal"
sampling = 1
sampling_basis = "100%"
basis = "J"
"""


def test_a_third_line_is_two_files(seeds: Path) -> None:
    before = load_plant(seeds)
    (seeds / "sites" / "ohio.toml").write_text(OHIO_SITE, encoding="utf-8")
    (seeds / "lines" / "ohio-26650-9.toml").write_text(OHIO_LINE, encoding="utf-8")
    after = load_plant(seeds)
    assert set(after.lines) == {*before.lines, "ohio/pilot/26650-9"}
    assert {path: after.lines[path] for path in before.lines} == before.lines
    line = after.line("ohio")
    assert line.path == "ohio/pilot/26650-9"
    assert [station.code for station in line.station] == ["wnd", "frm"]
    assert line.station[0].machine_codes == ["01", "02"]
    assert (line.station[1].machine_codes[0], line.station[1].machine_codes[-1]) == ("001", "120")
    assert str(after.sites["ohio"].tz) == "America/New_York"
    assert not [target for target in after.targets if target.line == line.path]
    for station in line.station:
        for machine in station.machine_codes:
            topic = Topic.parse(machine_topic(line.site, line.area, line.code, station.code, machine, "cell"))
            assert (topic.station, topic.machine) == (station.code, machine)


def test_a_later_target_of_the_same_line_is_fine(seeds: Path) -> None:
    end_with(TARGET.format("nanjing/cells/32140-1", "2026-01-01"))(seeds / "targets.toml")
    assert [t.from_ for t in load_plant(seeds).targets if t.line == "nanjing/cells/32140-1"] == [dt.date(2021, 2, 3), dt.date(2026, 1, 1)]


def test_the_nearest_rule_of_an_alert_is_in_force(seeds: Path) -> None:
    rule = '\n[[alert]]\nname = "yield_low"\nraise = {}\nclear = 0.99\nhold_s = 1\nsource = "test"\n{}'
    own = ["line = 'nanjing/cells/32140-1'\n", "site = 'nanjing'\n", ""]

    def in_force(*rules: str) -> list[float]:
        (seeds / "alerts.toml").write_text("".join(rules) or "alert = []", encoding="utf-8")
        plant = load_plant(seeds)
        assert [[r.name for r in plant.rules(line)] for line in plant.lines.values()] == [[r.name for r in DEFAULT_RULES]] * 2
        return [next(r.raise_at for r in plant.rules(line) if r.name == "yield_low") for _, line in sorted(plant.lines.items())]

    default = next(r.raise_at for r in DEFAULT_RULES if r.name == "yield_low")
    assert in_force(*(rule.format(n / 10, scope) for n, scope in enumerate(own, 1))) == [0.3, 0.1]
    assert in_force(*(rule.format(n / 10, scope) for n, scope in enumerate(own[1:], 1))) == [0.2, 0.1]
    assert in_force(rule.format(0.1, own[0])) == [default, 0.1]
    assert in_force() == [default, default]
    (seeds / "alerts.toml").unlink()
    assert load_plant(seeds).alerts == []


@pytest.mark.parametrize("name", ["nanjing/cells/32140-1", "32140-1", "nanjing", "nanjing-32140-1"])
def test_a_line_is_found_by_any_name_that_is_its_own(name: str) -> None:
    assert load_plant(SEEDS).line(name).path == "nanjing/cells/32140-1"


def test_a_name_of_no_line_or_of_two_is_refused(seeds: Path) -> None:
    with pytest.raises(ConfigError, match="line '32140-7' is unknown: use one of dalian/cells/26650-1, nanjing/cells/32140-1"):
        load_plant(seeds).line("32140-7")
    (seeds / "lines" / "two.toml").write_text(
        (seeds / NANJING).read_text(encoding="utf-8").replace('"32140-1"', '"32140-2"'), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="line 'nanjing' is not unique: use one of"):
        load_plant(seeds).line("nanjing")


def test_every_machine_of_the_seeds_has_a_topic_of_its_own() -> None:
    topics = [
        machine_topic(line.site, line.area, line.code, station.code, machine, "cell")
        for line in load_plant(SEEDS).lines.values()
        for station in line.station
        for machine in station.machine_codes
    ]
    assert len(set(topics)) == len(topics) == sum(station.machines for line in load_plant(SEEDS).lines.values() for station in line.station)
    assert all(str(Topic.parse(topic)) == topic for topic in topics)


def test_a_site_says_its_calendar(seeds: Path) -> None:
    breaks("23:45:00-00:15:00", "07:45:00-08:00:00")(seeds / SITE)
    end_with(
        SHIFT.format("a", "2026-01-01", "08:00:00", "16:00:00")
        + SHIFT.format("b", "2026-01-01", "16:00:00", "08:00:00")
        + HOLIDAY
        + STOP.format("2026-03-01T08:00:00", "2026-03-02T20:00:00")
        + STOP.format("2026-04-01T08:00:00", "2026-04-02T20:00:00")
        + 'line = "nanjing/cells/32140-1"\n'
    )(seeds / SITE)
    site = load_plant(seeds).sites["nanjing"]
    assert [(since, [shift.name for shift in plan]) for since, plan in site.plans] == [
        (EVER, ["day", "night"]),
        (dt.date(2026, 1, 1), ["a", "b"]),
    ]
    assert [(b.start, b.end) for b in site.shift[1].breaks] == [(dt.time(23, 45), dt.time(0, 15)), (dt.time(7, 45), dt.time(8))]
    assert [holiday.day for holiday in site.holiday] == [dt.date(2026, 2, 17)]
    assert [stop.line for stop in site.planned_stop] == [None, "nanjing/cells/32140-1"]
    assert site.planned_stop[0].span(site.tz) == (
        dt.datetime(2026, 3, 1, 0, tzinfo=dt.UTC),
        dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC),
    )
