"""What the page shows is what the schema `report` holds, read at the same moment."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Opener, Plant

NANJING, DALIAN = "nanjing/cells/32140-1", "dalian/cells/26650-1"
BOTH = pytest.mark.parametrize("line", [NANJING, DALIAN])


def cells(n: float | None) -> str:
    return "–" if n is None else f"{round(n):,}"


def percent(ratio: float | None) -> str:
    """Two decimals, cut: by digits here, where the program divides."""
    if ratio is None:
        return "–"
    whole, _, part = f"{ratio * 100:.9f}".partition(".")
    return f"{whole}.{part[:2]} %"


def card(page: Page, line: str) -> Locator:
    return page.locator("article.line").filter(has=page.locator(f'h2 a[href="/line/{line}"]'))


def field(root: Locator, name: str) -> str:
    return root.locator(f"[data-field={name}]").first.text_content() or ""


def day_of(plant: Plant, line: str) -> dict[str, Any]:
    return plant.rows(
        "SELECT * FROM report.daily_throughput JOIN report.daily_yield USING (line, production_day, good)"
        " WHERE line = %s AND starts_at <= now() ORDER BY production_day DESC LIMIT 1",
        line,
    )[0]


def near(text: str, number: float, by: float) -> bool:
    """Whether a figure that moves with the clock is what it was about a second ago."""
    return abs(float(re.sub(r"[^0-9.-]", "", text)) - number) <= by


@BOTH
def test_the_day_is_the_views(plant: Plant, open_page: Opener, line: str) -> None:
    root = card(open_page(), line)
    root.locator(".big").wait_for()
    day = day_of(plant, line)
    assert field(root, "good") == cells(day["good"])
    assert field(root, "target") == cells(day["target"])
    assert field(root, "attainment") == percent(day["attainment"])
    assert field(root, "output_yield") == percent(day["output_yield"])
    assert field(root, "rolled_throughput_yield") == percent(day["rolled_throughput_yield"])
    assert field(root, "completeness") == percent(day["completeness"]) == "100.00 %"
    assert field(root, "date").endswith(day["production_day"].isoformat())
    last = day["last_event_at"].astimezone(dt.timezone(dt.timedelta(hours=8)))
    assert field(root, "fresh").startswith(f"{last:%H:%M:%S}, ")


@BOTH
def test_the_pace_and_the_end_of_the_day_are_the_views(plant: Plant, open_page: Opener, line: str) -> None:
    """They move with the clock: what is shown lies within what some seconds change."""
    root = card(open_page(), line)
    root.locator(".big").wait_for()
    now = plant.row("SELECT * FROM report.line_now WHERE line = %s", line)
    a_while = now["target"] / 86400 * 30
    assert near(field(root, "due"), now["target_so_far"], a_while)
    assert near(field(root, "projected"), now["projected"], now["projected"] * 0.01 + a_while)
    assert near(field(root, "pace_per_h"), now["pace_per_h"], now["pace_per_h"] * 0.01 + 1)
    assert field(root, "wip") == cells(now["wip"])
    ahead = now["good"] - now["target_so_far"]
    assert ("ahead of" if ahead > 0 else "behind") in field(root, "pace")
    assert root.get_attribute("data-pace") == ("ahead" if ahead > 0 else "behind")
    assert ("short" if now["projected"] < now["target"] else "over") in field(root, "projected_gap")


@BOTH
def test_the_hours_are_the_views(plant: Plant, open_page: Opener, line: str) -> None:
    root = card(open_page(), line)
    root.locator(".hours summary").click()
    shown = [row.locator("td").all_text_contents() for row in root.locator(".hours tbody tr").all()]
    hours = plant.rows(
        "SELECT * FROM report.hourly_throughput WHERE line = %s AND production_day = %s ORDER BY hour_of_day",
        line, day_of(plant, line)["production_day"],
    )  # fmt: skip
    assert shown == [
        [f"{hour['hour_starts_at'] + dt.timedelta(hours=8):%H:%M}", cells(hour["good"]), cells(hour["target"]), cells(hour["scrap"])]
        for hour in hours
    ]
    assert root.locator(".hours canvas").count() == 1
    assert root.locator(".hours .chart").get_attribute("aria-label")


@BOTH
def test_the_route_is_the_views(plant: Plant, open_page: Opener, line: str) -> None:
    """Every station in order, with its rate, first pass yield, what waits before it, and its state in words."""
    root = card(open_page(), line)
    root.locator(".route li").first.wait_for()
    stations = plant.rows("SELECT * FROM report.station_now WHERE line = %s ORDER BY station_seq", line)
    assert len(stations) > 15
    items = root.locator(".route li")
    assert [item.get_attribute("data-key") for item in items.all()] == [station["station"] for station in stations]
    for item, station in zip(items.all(), stations, strict=True):
        assert near(field(item, "rate"), station["rate_per_h"], station["rate_per_h"] * 0.02 + 1), station["station"]
        assert field(item, "fpy") == percent(station["first_pass_yield"])
        assert field(item, "wip") == ("" if station["wip_before"] is None else cells(station["wip_before"]))
        assert station["state"] in field(item, "state")
        assert item.locator("use").get_attribute("href") == f"#s-{station['state']}"
    narrowest = [station["station"] for station in stations if station["is_bottleneck"]]
    assert [item.get_attribute("data-key") for item in root.locator(".narrowest").all()] == narrowest
    if narrowest:
        assert root.locator(".bottleneck .short").text_content() == narrowest[0]


@BOTH
def test_the_defects_are_the_views(plant: Plant, open_page: Opener, line: str) -> None:
    root = card(open_page(), line)
    root.locator(".defects li").first.wait_for()
    found = plant.rows(
        "SELECT * FROM report.defect_pareto WHERE line = %s AND production_day = %s ORDER BY rank LIMIT 5",
        line, day_of(plant, line)["production_day"],
    )  # fmt: skip
    for item, defect in zip(root.locator(".defects li").all(), found, strict=True):
        assert item.locator(".what").text_content() == defect["defect_name"]
        assert item.locator("b").text_content() == cells(defect["count"])
        assert item.locator(".n small").text_content() == percent(defect["share"])


def test_alerts_are_the_views(plant: Plant, open_page: Opener) -> None:
    """With the reason in words, as text."""
    page = open_page()
    root = card(page, NANJING)
    assert root.locator(".alerts").is_hidden()
    plant.rows(
        "INSERT INTO mes.alert (line_id, name, state, since, reason, said_at) SELECT line_id, 'yield_low', 'raised', now(), %s, now()"
        " FROM mes.line WHERE path = %s RETURNING 1",
        "output yield 91.20 %: <b>few</b> good", NANJING,
    )  # fmt: skip
    alert = plant.row("SELECT * FROM report.alert_now WHERE line = %s AND state = 'raised'", NANJING)
    at = f"{alert['since'] + dt.timedelta(hours=8):%H:%M}"
    expect(root.locator(".alerts li")).to_have_text(f"yield low {alert['reason']} since {at}")
    expect(card(page, DALIAN).locator(".alerts")).to_be_hidden()
    plant.rows("UPDATE mes.alert SET state = 'cleared' RETURNING 1")
    expect(root.locator(".alerts")).to_be_hidden()


def test_the_calendar_is_the_views(plant: Plant, open_page: Opener) -> None:
    page = open_page(f"/line/{NANJING}")
    page.locator(".calendar a.day").first.wait_for()
    newest = day_of(plant, NANJING)["production_day"]
    days = plant.rows(
        "SELECT * FROM report.daily_throughput WHERE line = %s AND production_day > %s AND starts_at <= now() ORDER BY production_day",
        NANJING, newest - dt.timedelta(days=30),
    )  # fmt: skip
    assert len(days) == 30
    for link, day in zip(page.locator(".calendar a.day").all(), days, strict=True):
        assert link.get_attribute("href") == f"/line/{NANJING}/{day['production_day']}"
        assert link.locator("b").text_content() == f"{int(day['attainment'] * 100)} %"
        level = "reached" if day["attainment"] >= 1 else "missed" if day["is_over"] else "open"
        assert link.get_attribute("data-level") == level
        assert f"{cells(day['good'])} good of" in (link.get_attribute("aria-label") or "")
    yesterday = [day for day in days if day["is_over"]][-1]
    assert cells(yesterday["good"]) in (page.locator(".yesterday").text_content() or "")


def test_a_day_that_has_been_is_the_views(plant: Plant, open_page: Opener) -> None:
    day = day_of(plant, NANJING)["production_day"] - dt.timedelta(days=1)
    page = open_page(f"/line/{NANJING}/{day}")
    root = page.locator("article.line")
    root.wait_for()
    found = plant.row(
        "SELECT * FROM report.daily_throughput JOIN report.daily_yield USING (line, production_day, good)"
        " WHERE line = %s AND production_day = %s",
        NANJING, day,
    )  # fmt: skip
    assert field(root, "good") == cells(found["good"])
    assert field(root, "output_yield") == percent(found["output_yield"])
    assert field(root, "rolled_throughput_yield") == percent(found["rolled_throughput_yield"])
    assert "the day is over" in (root.locator(".course").inner_text())
    yields = plant.rows("SELECT * FROM report.station_yield WHERE line = %s AND production_day = %s ORDER BY station_seq", NANJING, day)
    for item, station in zip(root.locator(".route li").all(), yields, strict=True):
        assert field(item, "rate") == cells(station["good"])
        assert field(item, "fpy") == percent(station["first_pass_yield"])
        assert field(item, "wip") == cells(station["scrap"])


def test_a_station_is_the_views(plant: Plant, open_page: Opener) -> None:
    """Its machines, its defects, its cycle times and its characteristics."""
    page = open_page(f"/line/{NANJING}/station/wnd")
    dialog = page.locator("dialog[open]")
    dialog.wait_for()
    day = day_of(plant, NANJING)["production_day"]
    where = "line = %s AND production_day = %s AND station = 'wnd'"
    machines = plant.rows(f"SELECT * FROM report.completeness WHERE {where} ORDER BY machine", NANJING, day)
    rows = dialog.locator(".machines tbody tr").all()
    assert [row.locator("th").text_content() for row in rows] == [machine["machine"] for machine in machines]
    for row, machine in zip(rows, machines, strict=True):
        assert row.locator("td").nth(2).text_content() == cells(machine["received"])
        assert row.locator("td").nth(3).text_content() == percent(machine["completeness"])
        hours = plant.rows(f"SELECT * FROM report.hourly_machine WHERE {where} AND machine = %s", NANJING, day, machine["machine"])
        assert row.locator("rect").count() == len(hours) > 0
        assert sum(hour["events"] for hour in hours) == machine["received"]
    defects = plant.rows(f"SELECT * FROM report.defect_pareto WHERE {where} ORDER BY rank", NANJING, day)
    assert dialog.locator(".defects .what").all_text_contents() == [defect["defect_name"] for defect in defects]
    assert dialog.locator(".defects b").all_text_contents() == [cells(defect["count"]) for defect in defects]
    measured = plant.rows(f"SELECT * FROM report.daily_characteristic WHERE {where} ORDER BY characteristic", NANJING, day)
    assert len(measured) >= 4
    for row, found in zip(dialog.locator(".measures tbody tr").all(), measured, strict=True):
        texts = [cell.text_content() or "" for cell in row.locator("td").all()]
        assert texts[0] == cells(found["n"])
        for text, name in zip(texts[1:5], ("mean", "sd", "lowest", "highest"), strict=True):
            assert float(text.replace(",", "")) == pytest.approx(found[name], rel=2e-3), name
        assert found["characteristic"].replace("_", " ") in (row.locator("th").text_content() or "")
    assert dialog.locator(".times canvas").count() == 1
    yields = plant.row(f"SELECT * FROM report.station_yield WHERE {where}", NANJING, day)
    figures = dict(zip(dialog.locator("dt").all_text_contents(), dialog.locator("dd").all_text_contents(), strict=True))
    assert figures["first pass yield"] == percent(yields["first_pass_yield"])
    assert figures["cycle, median"] == f"{yields['cycle_p50_s']:.2f} s"
