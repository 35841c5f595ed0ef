"""Finding one's way on the board: addresses, keys, serials, and what is not there."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Opener, Plant
from tests.lines import held
from tests.pipeline import event

NANJING, DALIAN = "nanjing/cells/32140-1", "dalian/cells/26650-1"
STATION = f"/line/{NANJING}/station/wnd"
MARKUP = "<img src=x onerror=\"document.title='broken in'\">"
ODD = "?a&b=c#d/../é 100%"


# The part of the page where the focus is, on what, whether it shows, and whether there is anything to see.
FOCUSED = """() => {
    const e = document.activeElement;
    const style = getComputedStyle(e);
    const part = e.closest('.route, .calendar, .defects, .hours, .top, footer, .head')?.className ?? '';
    const seen = e.matches(':focus-visible') && parseFloat(style.outlineWidth) >= 2 && style.outlineStyle !== 'none';
    return [part, e.id || e.dataset.key || e.className, seen, e.getBoundingClientRect().width > 0].join('|');
}"""
# What can be used, or is a picture, and has no name for who does not see it.
NAMELESS = """() => [...document.querySelectorAll('a, button, input, summary, [role=img], canvas, img, dialog')]
    .filter((e) => e.getClientRects().length && !e.closest('[aria-hidden=true]'))
    .filter((e) => !(e.tagName === 'CANVAS' && e.closest('[role=img]')))
    .filter((e) => !['aria-label', 'aria-labelledby', 'alt'].some((name) => e.hasAttribute(name)))
    .filter((e) => !e.textContent.trim() && !e.labels?.length)
    .map((e) => e.outerHTML)"""


@pytest.fixture(scope="module", autouse=True)
def events(plant: Plant) -> Iterator[None]:
    """Some cells, with serials as they may come over the wire."""
    at = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=30)
    with held(plant.database, NANJING) as line:
        for n, unit in enumerate(("NJ1-TEST-1", MARKUP, ODD)):
            ms = int(at.timestamp() * 1000) + n
            values: dict[str, Any] = {"unit": unit, "meas": {"electrode_tension": 12.03}}
            line.put(line.topic("wnd/01"), event(2 * n + 1, timestamp_ms=ms, result="scrap", defect="W01", **values))
            line.put(line.topic("wnd/02"), event(2 * n + 1, timestamp_ms=ms + 60_000, attempt=2, lots={"cathode": "<b>CAT</b>"}, **values))
    with psycopg.connect(plant.database, autocommit=True) as connection:
        for ago, state, reason in ((20, "execute", None), (10, "held", "<i>reel</i> is empty")):
            connection.execute(
                "INSERT INTO mes.state_event (at, received_at, seq, machine_id, boot, line_id, station_id, state, reason)"
                " SELECT now() - %s * interval '1 minute', now(), %s, m.machine_id, 1, s.line_id, s.station_id, %s, %s"
                " FROM mes.machine m JOIN mes.station s USING (station_id) JOIN mes.line l USING (line_id)"
                " WHERE l.path = %s AND s.code = 'wnd' AND m.code = '01'",
                [ago, 100 - ago, state, reason, NANJING],
            )
        connection.execute("DELETE FROM mes.dirty_bucket")  # the sums are made up: what these add to them is not the matter here
    yield


def path(page: Page) -> str:
    return str(page.evaluate("location.pathname + location.search"))


def search(page: Page, serial: str) -> None:
    page.get_by_label("Serial of a cell").fill(serial)
    page.keyboard.press("Enter")


# -- addresses ---------------------------------------------------------------------------------------------------------


def test_each_thing_has_an_address_and_back_leads_where_one_came_from(open_page: Opener) -> None:
    page = open_page()
    page.get_by_role("link", name="32140 tab-less LFP line").click()
    expect(page.locator("article.line.alone")).to_have_count(1)
    assert path(page) == f"/line/{NANJING}"
    page.locator(".route li[data-key=wnd] a").click()
    dialog = page.get_by_role("dialog", name="Winding")
    expect(dialog).to_be_visible()
    assert path(page) == STATION
    page.go_back()
    expect(dialog).to_be_hidden()
    page.locator(".calendar a.day[data-level=missed], .calendar a.day[data-level=reached]").last.click()
    expect(page.get_by_text("the day is over")).to_be_visible()
    day = path(page).rpartition("/")[2]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", day)
    page.locator(".route li[data-key=wnd] a").click()
    expect(dialog).to_contain_text(day)
    assert path(page) == f"/line/{NANJING}/{day}/station/wnd"
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    search(page, "NJ1-TEST-1")
    expect(page.get_by_role("heading", name="NJ1-TEST-1")).to_be_visible()
    assert path(page) == "/unit?serial=NJ1-TEST-1"
    page.go_back()
    expect(page.get_by_text("the day is over")).to_be_visible()
    page.get_by_role("link", name="to now").click()
    expect(page.locator(".pace")).to_be_visible()
    page.get_by_role("link", name="Good cells against target").click()
    expect(page.locator("article.line")).to_have_count(2)
    assert path(page) == "/"


@pytest.mark.parametrize("address", ["/", f"/line/{NANJING}", STATION, "/unit?serial=NJ1-TEST-1"])
def test_a_page_that_is_loaded_anew_shows_the_same(open_page: Opener, address: str) -> None:
    page = open_page(address)
    page.locator("article").first.wait_for()
    title = page.title()
    page.reload()
    page.wait_for_selector("html[data-state=live]")
    page.locator("article").first.wait_for()
    assert (path(page), page.title()) == (address, title)
    assert page.get_by_role("dialog").is_visible() == ("station" in address)


def test_the_day_that_runs_is_live_at_its_own_address_too(plant: Plant, open_page: Opener) -> None:
    day = plant.row("SELECT max(production_day) AS day FROM report.line_now")["day"]
    page = open_page(f"/line/{NANJING}/{day}")
    expect(page.locator(".pace")).to_be_visible()
    expect(page.locator("article.line")).to_have_count(1)


# -- keys --------------------------------------------------------------------------------------------------------------


def test_everything_is_reached_and_left_by_keys(open_page: Opener) -> None:
    page = open_page(f"/line/{NANJING}")
    page.locator(".route li").first.wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "to the figures"
    seen: list[str] = []
    for _ in range(90):
        page.keyboard.press("Tab")
        name = page.evaluate(FOCUSED)
        if name.startswith("|"):
            break
        assert name.endswith("|true|true"), f"focus is not seen on {name}"
        seen.append(name)
    order = [name.partition("|")[0] for name in seen]
    assert [part for i, part in enumerate(order) if i == 0 or order[i - 1] != part] == [
        "top", "head", "hours", "route", "defects", "calendar", *(["footer"] if "footer" in order else []),
    ]  # fmt: skip
    assert order.count("route") == 21 and order.count("calendar") == 31
    page.locator(".route li[data-key=grd] a").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Capacity grading")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    for _ in range(30):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || document.activeElement.closest('dialog') !== null")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert path(page) == f"/line/{NANJING}"
    expect(page.locator(".route li[data-key=grd] a")).to_be_focused()


def test_a_dialog_that_was_opened_by_its_address_closes_to_its_line(open_page: Opener) -> None:
    page = open_page(STATION)
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert path(page) == f"/line/{NANJING}"


def test_everything_that_can_be_used_has_a_name(open_page: Opener) -> None:
    for address in ("/", f"/line/{NANJING}", STATION, "/unit?serial=NJ1-TEST-1"):
        page = open_page(address)
        page.locator("article").first.wait_for()
        assert page.evaluate(NAMELESS) == []
        assert page.evaluate("document.documentElement.lang") == "en"


# -- serials -----------------------------------------------------------------------------------------------------------


def test_a_serial_shows_the_life_of_its_cell(plant: Plant, open_page: Opener) -> None:
    page = open_page()
    search(page, " NJ1-TEST-1 ")
    page.get_by_role("heading", name="NJ1-TEST-1").wait_for()
    rows = [[cell.inner_text() for cell in row.locator("td").all()] for row in page.locator("tbody tr").all()]
    visits = plant.rows("SELECT * FROM report.unit_history('NJ1-TEST-1')")
    assert len(rows) == len(visits) == 2
    for row, visit in zip(rows, visits, strict=True):
        assert row[0] == f"{visit['at'] + dt.timedelta(hours=8):%Y-%m-%d %H:%M:%S}"
        assert row[1].startswith(f"{visit['station']} ")
        assert (row[2], row[3]) == (visit["machine"], str(visit["attempt"]))
        assert visit["result"] in row[4] and (visit["defect"] or "") in row[4]
        assert "electrode tension 12.03" in row[6]
    page.get_by_role("link", name="wnd").first.click()
    expect(page.get_by_role("dialog", name="Winding")).to_be_visible()


@pytest.mark.parametrize("serial", [MARKUP, ODD])
def test_what_came_over_the_wire_shows_as_text(open_page: Opener, serial: str) -> None:
    page = open_page()
    search(page, serial)
    heading = page.locator("article.unit h2")
    expect(heading).to_have_text(serial)
    assert page.locator("article.unit tbody tr").count() == 2
    assert page.locator("article.unit img, article.unit b b").count() == 0
    assert page.get_by_text("<b>CAT</b>").count() == 1
    assert "broken in" not in (page.evaluate("document.title") or "").partition(" · ")[2]
    page.reload()
    expect(heading).to_have_text(serial)
    page.goto(page.url.partition("/unit")[0] + STATION)
    expect(page.get_by_role("dialog").get_by_role("link", name=serial)).to_be_visible()
    assert page.title() != "broken in"


def test_machines_that_tell_their_state_are_believed(open_page: Opener) -> None:
    """The newest word of each, as text; a station whose machines say nothing has no such column."""
    dialog = open_page(STATION).get_by_role("dialog")
    expect(dialog.locator(".machines tbody tr").nth(0).locator(".state")).to_have_text("held, <i>reel</i> is empty")
    expect(dialog.locator(".machines tbody tr").nth(1).locator(".state")).to_have_text("–")
    assert dialog.locator(".state i").count() == 0
    silent = open_page(f"/line/{NANJING}/station/grd").get_by_role("dialog")
    silent.locator(".machines tbody tr").first.wait_for()
    assert silent.locator(".machines .state").first.is_hidden()


# -- what is not there -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("/nothing", "There is no such page here"),
        ("/line/nanjing/cells/nothing", "There is no such line"),
        (f"/line/{NANJING}/2001-01-01", "No such production day of this line is known"),
        (f"/line/{NANJING}/station/nothing", "This line has no such station"),
        ("/unit?serial=NJ1-NOBODY", "No cell with this serial has been reported"),
    ],
)
def test_what_is_not_there_is_said_kindly(open_page: Opener, address: str, said: str) -> None:
    page = open_page(address, live=False, unchecked=True)  # the browser itself complains of an answer 404
    expect(page.get_by_role("heading")).to_have_text(said)
    page.get_by_role("link", name="Go to the board").click()
    expect(page.locator("article.line")).to_have_count(2)


def test_a_serial_that_nobody_knows_is_said_kindly_on_the_page(open_page: Opener) -> None:
    page = open_page(unchecked=True)
    search(page, "NJ1-NOBODY")
    expect(page.get_by_role("heading", name="No cell with this serial")).to_be_visible()
    page.go_back()
    expect(page.locator("article.line")).to_have_count(2)
