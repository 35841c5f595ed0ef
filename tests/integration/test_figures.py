"""Figures and alerts as retained topics: the numbers of the views, whoever publishes, however late one comes."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psycopg
import pytest
from psycopg.rows import dict_row

from mes import alerts
from mes.figures import FIGURES, Alert
from mes.publish import figures_of, meant, whole_percents
from mes.seeds import load_plant
from mes.store.figures import Figures
from mes.store.seed import seed
from mes.store.sums import Rollup
from tests.conftest import SEEDS
from tests.lines import held, look_at_days, step
from tests.pipeline import event, rows, service, subscriber, value
from tests.servers import wait_for

NANJING, DALIAN = "nanjing/cells/32140-1", "dalian/cells/26650-1"
ROOT = f"umh/v1/cbak/{NANJING}"
ALERTS = ("behind_target", "data_incomplete", "line_silent", "yield_low")
MINUTE = dt.timedelta(minutes=1)


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def report(
    database: str, n: int, good: bool = True, first: int = 1, age: dt.timedelta = dt.timedelta(seconds=2), station: str = "grd/01"
) -> None:
    """Cells that pass the last station, or are scrapped there, about so long ago; summed."""
    miss = {} if good else {"result": "scrap", "defect": "R01"}
    at = int((now() - age).timestamp() * 1000)
    with held(database, NANJING) as line:
        line.put(line.topic(station), *(event(k, unit=f"U{k}", timestamp_ms=at + k, **miss) for k in range(first, first + n)))
    step(database)


@pytest.fixture
def rules(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of seeds in which alerts hold for a second, with rules and a target of one's own."""

    def make(target: int = 50_000, calendar: str = "", **of: str) -> Path:
        folder = tmp_path / f"seeds-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(SEEDS, folder)
        own = {
            "behind_target": "raise = 1.0\nclear = 0.9",
            "yield_low": "raise = 0.5\nclear = 0.6",
            "line_silent": "raise = 1e6\nclear = 1e5",
        }
        own |= {"data_incomplete": "raise = 0.9\nclear = 0.95"} | of
        text = [f'[[alert]]\nname = "{name}"\n{rule}\nhold_s = 0.5\nsource = "test"\n' for name, rule in own.items()]
        (folder / "alerts.toml").write_text("\n".join(text))
        targets = folder / "targets.toml"
        targets.write_text(targets.read_text().replace("cells_per_day = 50000", f"cells_per_day = {target}"))
        site = folder / "sites/nanjing.toml"
        site.write_text(site.read_text() + calendar)
        return folder

    return make


def states(database: str, line: str = NANJING) -> dict[str, str]:
    return dict(rows(database, "SELECT alert, state FROM report.alert_now WHERE line = %s ORDER BY alert", line))


def measured(database: str, alert: str) -> float | None:
    rollup = Rollup(database)
    try:
        return next(alerts.measure(row) for row in rollup.figures.read() if (row["line"], row["alert"]) == (NANJING, alert))
    finally:
        rollup.close()


# --- equal to the views --------------------------------------------------------------------------------------------------


def test_every_published_value_is_that_of_the_views(database: str) -> None:
    """In one transaction, so at one moment: exactly, but for the digits that time alone changes."""
    report(database, 40)
    report(database, 3, good=False, first=41)
    report(database, 50, station="wnd/01")
    report(database, 7, first=60, station="wnd/01")
    look_at_days(database)
    with psycopg.connect(database, row_factory=dict_row) as connection:

        def view(name: str, more: str = "") -> dict[str, Any]:
            query = f"SELECT * FROM report.{name} WHERE line = %s {more} LIMIT 1".encode()
            return connection.execute(query, [NANJING]).fetchone() or {}

        row = next(r for r in Figures(database, connection).read() if r["line"] == NANJING)
        day, yields, at = (
            view("daily_throughput", "ORDER BY production_day DESC"),
            view("daily_yield", "ORDER BY production_day DESC"),
            view("line_now"),
        )
        station = view("station_now", "AND is_bottleneck")
    told = {figure.name: msgspec.to_builtins(figure) for figure in figures_of(row)}
    assert [type(figure) for figure in figures_of(row)] == list(FIGURES)
    counted = {"timestamp_ms": round(day["last_event_at"].timestamp() * 1000), "production_day": f"{day['production_day']}"}
    read = {"timestamp_ms": round(row["now"].timestamp() * 1000), "production_day": f"{at['production_day']}"}
    assert day["production_day"] == station["production_day"] == at["production_day"]
    rolled = yields["rolled_throughput_yield"]
    assert told == {
        "throughput_day": counted | {name: day[name] for name in ("target", "attainment", "scrap")}
        | {"value": day["good"], "output_yield": yields["output_yield"], "rolled_throughput_yield": rolled},
        "yield_day": counted | {name: yields[name] for name in ("good", "scrap", "first_pass_yield")}
        | {"value": yields["output_yield"], "rolled_throughput_yield": rolled},
        "pace": read | {"value": meant(at["pace_per_h"]), "target": at["target"]}
        | {name: meant(at[name]) for name in ("projected", "remaining_per_h")},
        "wip": read | {"value": at["wip"]},
        "completeness": counted | {"value": day["completeness"], "missing": day["missing"], "quarantined": day["quarantined"]},
        "bottleneck": read | {"value": station["station"], "station_name": station["station_name"], "state": station["state"],
                              "utilisation": whole_percents(station["utilisation"])},
    }  # fmt: skip
    assert told["throughput_day"]["value"] == 40
    assert told["yield_day"]["value"] == 40 / 43
    assert told["wip"]["value"] == 14
    assert told["completeness"]["missing"] == 9
    assert told["bottleneck"]["value"] == "grd", "43 of 2,219 an hour, beside 57 of 3,086"


# --- on the wire ---------------------------------------------------------------------------------------------------------


def mosquitto_sub(broker: str, pattern: str, n: int, within_s: int = 30) -> dict[str, Any]:
    """What Debian's client is given, having come late."""
    at = urlsplit(broker)
    words = [
        "mosquitto_sub",
        "-h",
        at.hostname or "",
        "-p",
        f"{at.port}",
        "-q",
        "1",
        "-t",
        pattern,
        "-C",
        f"{n}",
        "-W",
        f"{within_s}",
        "-F",
        "%r %q %t %p",
    ]
    seen = {}
    for text in subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines():
        retained, _, topic, payload = text.split(" ", 3)
        assert retained == "1", f"{topic} is not retained"
        seen[topic] = json.loads(payload)
    return seen


def test_who_comes_late_is_given_every_figure_and_every_alert(parts: tuple[str, str], rules: Callable[..., Path]) -> None:
    database, broker = parts
    assert seed(database, load_plant(rules()))
    report(database, 90)
    figures = {f"{ROOT}/_kpi_v1/{figure.name}": figure for figure in FIGURES}
    states = {f"{ROOT}/_alert_v1/{name}": Alert for name in ALERTS}
    with service("rollup", database, broker), subscriber(broker, f"{ROOT}/#") as topics:
        wait_for(lambda: topics.get(f"{ROOT}/_kpi_v1/throughput_day", {}).get("value") == 90, what="the figure of now")
        wait_for(lambda: (figures | states).keys() <= topics.keys(), what="all topics")
        seen = mosquitto_sub(broker, f"{ROOT}/_kpi_v1/+", 6) | mosquitto_sub(broker, f"{ROOT}/_alert_v1/+", 4)
    assert seen.keys() == (figures | states).keys()
    assert seen[f"{ROOT}/_kpi_v1/throughput_day"]["value"] == 90
    for topic, kind in (figures | states).items():
        msgspec.convert(seen[topic], kind)
    assert {seen[topic]["state"] for topic in states} == {"cleared"}
    after = mosquitto_sub(broker, f"{ROOT}/_kpi_v1/+", 6)
    assert after[f"{ROOT}/_kpi_v1/throughput_day"] == seen[f"{ROOT}/_kpi_v1/throughput_day"], "it stays when rollup has ended"


@pytest.fixture
def mixed(database: str, mosquitto: str) -> tuple[str, str]:
    """The embedded database, Debian's Mosquitto."""
    return database, mosquitto


class Heard:
    """Every message of an alert, in order."""

    def __init__(self, broker: str, tmp_path: Path) -> None:
        at = urlsplit(broker)
        self.path = tmp_path / "heard.ndjson"
        words = ["mosquitto_sub", "-h", at.hostname or "", "-p", f"{at.port}", "-q", "1", "-t", f"{ROOT}/_alert_v1/+", "-F", "%t %p"]
        with self.path.open("w") as out:
            self.process = subprocess.Popen(words, stdout=out)

    def states(self, alert: str) -> list[str]:
        """Its states, without repetitions."""
        found: list[str] = []
        for text in self.path.read_text().splitlines():
            topic, _, payload = text.partition(" ")
            if topic.endswith(f"/{alert}") and payload.endswith("}"):
                state = json.loads(payload)["state"]
                if found[-1:] != [state]:
                    found.append(state)
        return found


@pytest.fixture
def heard(mixed: tuple[str, str], tmp_path: Path) -> Iterator[Heard]:
    it = Heard(mixed[1], tmp_path)
    yield it
    it.process.kill()
    it.process.wait()


def is_(database: str, alert: str, state: str) -> None:
    wait_for(lambda: states(database).get(alert) == state, 30, f"{alert} {state}")


def test_alerts_are_raised_and_cleared_and_remembered(mixed: tuple[str, str], rules: Callable[..., Path], heard: Heard) -> None:
    """Behind an absurd target, then behind none; a yield of nothing, then of nearly everything."""
    database, broker = mixed
    seed(
        database,
        load_plant(
            rules(target=1_000_000_000, behind_target="raise = 1e-9\nclear = 1e-12", yield_low="raise = 0.5\nclear = 0.6\nleast = 5")
        ),
    )
    report(database, 9, good=False)
    with service("rollup", database, broker):
        is_(database, "behind_target", "raised")
        is_(database, "yield_low", "raised")
        seed(database, load_plant(rules(target=1)))
        report(database, 90, first=10)
        is_(database, "behind_target", "cleared")
        is_(database, "yield_low", "cleared")
        for alert in ("behind_target", "yield_low"):
            wait_for(lambda alert=alert: heard.states(alert) == ["cleared", "raised", "cleared"], what=alert)
        with subscriber(broker, f"{ROOT}/_alert_v1/#") as topics:
            wait_for(lambda: topics.get(f"{ROOT}/_alert_v1/yield_low", {}).get("state") == "cleared", what="the retained state")
    history = rows(
        database, "SELECT alert, reason, clear_reason, is_raised, cleared_at > raised_at, lasted_min > 0 FROM report.alert ORDER BY alert"
    )
    assert [(alert, *rest) for alert, _, _, *rest in history] == [("behind_target", False, True, True), ("yield_low", False, True, True)]
    assert history[0][1].startswith("0 good of ")
    assert history[1][1:3] == ("output yield 0.00 %: 0 good, 9 scrapped", "output yield 90.90 %: 90 good, 9 scrapped")
    assert topics[f"{ROOT}/_alert_v1/yield_low"]["reason"] == history[1][2]


def test_a_restart_changes_no_alert(mixed: tuple[str, str], rules: Callable[..., Path], heard: Heard) -> None:
    database, broker = mixed
    seed(database, load_plant(rules(data_incomplete="raise = 0.9\nclear = 0.95")))
    report(database, 9, first=100)
    for _ in range(2):
        with service("rollup", database, broker) as rollup:
            is_(database, "data_incomplete", "raised")
            since = value(database, "SELECT since FROM report.alert_now WHERE alert = 'data_incomplete' AND state = 'raised'")
            wait_for(lambda: heard.states("data_incomplete")[-1:] == ["raised"], what="said")
            rollup.kill()
    with service("rollup", database, broker), subscriber(broker, f"{ROOT}/_kpi_v1/#") as topics:
        report(database, 1, first=200)
        wait_for(lambda: topics.get(f"{ROOT}/_kpi_v1/throughput_day", {}).get("value") == 10, what="the third at work")
    assert heard.states("data_incomplete") in (["cleared", "raised"], ["raised"])
    assert rows(database, "SELECT raised_at, is_raised FROM report.alert") == [(since, True)]


def test_one_of_two_rollups_speaks_and_the_other_takes_over(mixed: tuple[str, str], rules: Callable[..., Path], heard: Heard) -> None:
    database, broker = mixed
    seed(database, load_plant(rules(yield_low="raise = 0.5\nclear = 0.6\nleast = 5")))
    report(database, 9, good=False)
    lock = (
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 1835365222 AND granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    assert 1835365222 == 0x6D657366
    with service("rollup", database, broker) as first:
        wait_for(lambda: rows(database, lock), what="who speaks")
        with service("rollup", database, broker):
            wait_for(
                lambda: (
                    value(
                        database,
                        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mes rollup' AND datname = current_database()",
                    )
                    == 2
                ),
                what="both",
            )
            is_(database, "yield_low", "raised")
            (before,) = rows(database, lock)
            first.kill()
            first.wait()
            after = wait_for(lambda: [pid for pid in rows(database, lock) if pid != before], what="the other")
            assert len(after) == 1
            report(database, 90, first=10)
            is_(database, "yield_low", "cleared")
            wait_for(lambda: heard.states("yield_low")[-1:] == ["cleared"], what="said by the other")
            with subscriber(broker, f"{ROOT}/_kpi_v1/#") as topics:
                wait_for(lambda: topics.get(f"{ROOT}/_kpi_v1/throughput_day", {}).get("value") == 90, what="the figure of the other")
    assert value(database, "SELECT count(*) FROM report.alert") == 1


def test_two_who_judge_at_once_change_a_state_once(database: str, rules: Callable[..., Path]) -> None:
    """Each has read that it is cleared: the second one's word is not taken."""
    seed(database, load_plant(rules()))
    report(database, 9)
    one, other = Rollup(database), Rollup(database)
    try:
        for state in ("raised", "cleared", "raised"):
            both = [next(r for r in rollup.figures.read() if r["alert"] == "yield_low" and r["line"] == NANJING) for rollup in (one, other)]
            for rollup, row in zip((one, other), both, strict=True):
                new = {"state": state, "since": row["now"], "pending_since": None, "reason": "so", "said_at": row["now"]}
                rollup.figures.change([(row, new)])
        assert rows(database, "SELECT cleared_at IS NULL FROM report.alert ORDER BY raised_at") == [(False,), (True,)]
        assert [one.figures.lead(), other.figures.lead(), one.figures.lead()] == [True, False, True]
    finally:
        one.close()
        assert wait_for(other.figures.lead, what="the other to lead")
        other.close()


# --- silence -------------------------------------------------------------------------------------------------------------


def quiet_for(database: str, age: dt.timedelta) -> None:
    """Nothing has come from the line for so long."""
    report(database, 1, age=age)
    rows(database, "UPDATE mes.day_report SET changed_at = now() - %s RETURNING 1", age)


def test_a_line_of_which_nothing_comes_is_silent(database: str) -> None:
    quiet_for(database, 12 * MINUTE)
    look_at_days(database)
    assert measured(database, "line_silent") == pytest.approx(720, abs=60)


def test_a_line_that_is_behind_with_its_events_is_not_silent(database: str) -> None:
    """They are old, but they come."""
    report(database, 1, age=12 * MINUTE)
    assert (measured(database, "line_silent") or 0) < 60
    assert measured(database, "behind_target") is None, "nor behind its target, as far as one can tell"
    report(database, 1, first=2, age=dt.timedelta(seconds=1))
    assert (measured(database, "behind_target") or 0) > 0


def test_a_line_that_is_silent_stays_so_when_a_day_begins(database: str) -> None:
    """The new day has no row until it has an event, or nothing has come for ten minutes."""
    quiet_for(database, 12 * MINUTE)
    rows(database, "DELETE FROM kpi.line_day WHERE ends_at > now() RETURNING 1")
    day = now() - dt.timedelta(hours=24, minutes=2)
    rows(
        database,
        "INSERT INTO kpi.line_day (line_id, production_day, starts_at, ends_at, regular_s, scheduled_s, scheduled, events, started, good,"
        " scrap, unscrapped, unscrapped_booked, late, ahead, last_event_at) SELECT line_id, %s, %s, %s, 86400, 86400,"
        " tstzmultirange(tstzrange(%s, %s)), 1, 0, 0, 0, 0, 0, 0, 0, %s FROM mes.line WHERE path = %s"
        " ON CONFLICT (line_id, production_day) DO UPDATE SET starts_at = EXCLUDED.starts_at, ends_at = EXCLUDED.ends_at,"
        " scheduled = EXCLUDED.scheduled, last_event_at = EXCLUDED.last_event_at RETURNING 1",
        day.date(), day, day + dt.timedelta(days=1), day, day + dt.timedelta(days=1), now() - 12 * MINUTE, NANJING,
    )  # fmt: skip
    assert measured(database, "line_silent") == pytest.approx(600, abs=60), "ten minutes of the day before"


def local(at: dt.datetime) -> str:
    return (at + dt.timedelta(hours=8)).replace(second=0, microsecond=0, tzinfo=None).isoformat()


@pytest.mark.parametrize(
    ("begins", "ends", "silent"),
    [(-40, 60, None), (-40, -10, 1800), (-70, -65, 3600)],
    ids=["in a stop", "after it", "before the silence"],
)
def test_a_planned_stop_is_no_silence(database: str, rules: Callable[..., Path], begins: int, ends: int, silent: float | None) -> None:
    """An hour of silence, of which a stop takes its part, and none is counted while it lasts."""
    stop = f'\n[[site.planned_stop]]\nfrom = {local(now() + begins * MINUTE)}\nto = {local(now() + ends * MINUTE)}\nreason = "r"\n'
    seed(database, load_plant(rules(calendar=stop)))
    report(database, 1, age=dt.timedelta(days=1), first=500)  # so that yesterday, too, is known to have been planned
    quiet_for(database, 60 * MINUTE)
    look_at_days(database)
    rows(database, "UPDATE mes.day_report SET changed_at = now() - interval '1 hour' RETURNING 1")
    found = measured(database, "line_silent")
    assert found is None if silent is None else found == pytest.approx(silent, abs=130)


def test_a_holiday_is_no_silence(database: str, rules: Callable[..., Path]) -> None:
    today = now().date()  # Nanjing's day begins at 00:00 UTC
    seed(database, load_plant(rules(calendar=f'\n[[site.holiday]]\nday = {today}\nname = "h"\n')))
    report(database, 1, age=dt.timedelta(days=1), first=500)
    quiet_for(database, 12 * MINUTE)
    look_at_days(database)
    assert measured(database, "line_silent") is None


def test_a_line_that_never_worked_is_not_silent(database: str) -> None:
    assert measured(database, "line_silent") is None


def test_silence_is_raised_and_ends_with_the_next_event(mixed: tuple[str, str], rules: Callable[..., Path], heard: Heard) -> None:
    database, broker = mixed
    seed(database, load_plant(rules(line_silent="raise = 2\nclear = 1")))
    report(database, 5, age=dt.timedelta(seconds=1))
    with service("rollup", database, broker):
        is_(database, "line_silent", "raised")
        while states(database)["line_silent"] == "raised":
            report(database, 1, first=1 + value(database, "SELECT max(seq) FROM mes.cell_event"), age=dt.timedelta())
        wait_for(lambda: heard.states("line_silent")[:3] == ["cleared", "raised", "cleared"], what="said")
    assert "no cell for " in value(database, "SELECT reason FROM report.alert ORDER BY raised_at LIMIT 1")
