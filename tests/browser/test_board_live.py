"""The board beside a real pipeline: figures move, outages are seen and pass, and how long a figure takes to the screen."""

from __future__ import annotations

import datetime as dt
import itertools
import random
import re
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Opener, Plant, board, shot
from tests.pipeline import Gateway, event, service, sessions_held
from tests.servers import wait_for

NANJING = "nanjing/cells/32140-1"
GRD = f"umh/v1/cbak/{NANJING}/grd/01/_cell_v1/completed"

_numbers = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def pipeline(plant: Plant) -> Iterator[None]:
    with service("ingest", plant.database, plant.broker.url), service("rollup", plant.database, plant.broker.url):
        sessions_held(plant.database)
        report(plant, 1)
        wait_for(lambda: plant.rows("SELECT 1 FROM mes.cell_event") and counted(plant), 60, "the first cell")
        yield


def report(plant: Plant, cells: int, **changes: Any) -> list[int]:
    """Cells that have passed the count point just now; their numbers."""
    numbers = [next(_numbers) for _ in range(cells)]
    at = int(time.time() * 1000)
    with Gateway(plant.broker.url) as gateway:
        gateway.cells(GRD, [event(n, timestamp_ms=at, unit=f"NJ1-LIVE-{n}", **changes) for n in numbers])
    return numbers


def counted(plant: Plant) -> bool:
    """Whether everything that is stored is in the sums."""
    return not plant.rows("SELECT 1 FROM mes.dirty_bucket LIMIT 1")


def good(plant: Plant) -> int:
    query = "SELECT good FROM report.daily_throughput WHERE line = %s AND starts_at <= now() ORDER BY production_day DESC LIMIT 1"
    return int(plant.row(query, NANJING)["good"])


def big(page: Page) -> Locator:
    return page.locator("article.line").filter(has=page.locator(f'h2 a[href^="/line/{NANJING}"]')).locator(".big")


def shown(page: Page) -> int:
    return int((big(page).text_content() or "0").replace(",", ""))


def test_figures_move_while_the_line_runs(plant: Plant, open_page: Opener) -> None:
    page, wall = open_page(), open_page("/?wall", 1920, 1080)
    big(page).wait_for()
    before = good(plant)
    expect(big(page)).to_have_text(f"{before:,}")
    report(plant, 7)
    for one in (page, wall):
        expect(big(one)).to_have_text(f"{before + 7:,}")
    assert good(plant) == before + 7
    report(plant, 3, result="scrap", defect="R01")
    wait_for(lambda: counted(plant), 60, "the scrap in the sums")
    scrap = plant.rows("SELECT scrap FROM report.daily_throughput WHERE line = %s ORDER BY production_day DESC", NANJING)[0]["scrap"]
    expect(page.locator("article.line").last.locator("[data-field=scrap]")).to_have_text(f"{scrap:,}")
    assert shown(page) == before + 7


SIZES = {"desktop": (1440, 900), "wall": (1920, 1080), "phone": (390, 844)}
PICTURES = {
    "board": "/", "line": f"/line/{NANJING}", "station": f"/line/{NANJING}/station/wnd", "day": f"/line/{NANJING}/YESTERDAY",
    "unit": "/unit?serial=NJ1-LIVE-1",
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_pictures(plant: Plant, open_page: Opener, size: str, scheme: str) -> None:
    """Kept for people to look at: would you hang this in a plant?"""
    today = plant.row("SELECT max(production_day) AS day FROM report.line_now")["day"]
    for name, address in PICTURES.items():
        if size == "wall" and name not in ("board", "line"):
            continue
        address = address.replace("YESTERDAY", str(today - dt.timedelta(days=1)))
        page = open_page(address + ("?wall" if size == "wall" else ""), *SIZES[size], scheme=scheme, reduced_motion="reduce")
        page.locator("article").first.wait_for()
        if name not in ("unit", "station") and size != "wall":
            page.locator(".calendar a.day").last.wait_for()
        if name == "station":
            page.locator("dialog .times canvas").wait_for()
        picture = shot(page, f"{name}-{size}-{scheme}", full_page=size != "wall" and name != "station")
        assert picture.stat().st_size > 10_000


def test_an_open_station_follows(plant: Plant, open_page: Opener) -> None:
    page = open_page(f"/line/{NANJING}/station/grd")
    received = page.locator("dialog .machines tbody tr").first.locator("td").nth(2)
    received.wait_for()
    before = int((received.text_content() or "").replace(",", ""))
    report(plant, 5)
    expect(received).to_have_text(f"{before + 5:,}")
    unit = f"NJ1-LIVE-{report(plant, 1, result='scrap', defect='R01')[0]}"
    page.get_by_role("dialog").get_by_role("link", name=unit).click()
    expect(page.get_by_role("heading", name=unit)).to_be_visible()


def outage(page: Page, cause: str, since: dt.datetime) -> None:
    """The page is grey, says why and since when, and still shows what it knew."""
    expect(page.locator("html")).to_have_attribute("data-state", "stale")
    said = page.locator("#state-text").text_content() or ""
    assert re.fullmatch(rf"{cause} since (\d\d:\d\d:\d\d)", said), said
    at = dt.datetime.combine(since.date(), dt.time.fromisoformat(said[-8:]))
    assert abs((at - since.replace(tzinfo=None)).total_seconds()) < 30
    expect(page.locator("main")).to_have_css("filter", "grayscale(1)")
    assert page.locator("#state use").get_attribute("href") == "#s-warn"


def back(plant: Plant, page: Page, before: int) -> None:
    """The page is in colour again, and counts on."""
    expect(page.locator("html")).to_have_attribute("data-state", "live")
    expect(page.locator("main")).to_have_css("filter", "none")
    report(plant, 2)
    expect(big(page)).to_have_text(f"{before + 2:,}")
    assert good(plant) == before + 2


def test_the_database_goes_and_comes_back(plant: Plant, open_page: Opener) -> None:
    page = open_page()
    big(page).wait_for()
    before = shown(page)
    since = dt.datetime.now()  # noqa: DTZ005  # the page tells it by the clock of who looks
    plant.stop_database()
    try:
        outage(page, "no database", since)
        assert shown(page) == before
        shot(page, "no-database")
    finally:
        plant.server.start()
    back(plant, page, before)


def test_the_broker_goes_and_comes_back(plant: Plant, open_page: Opener) -> None:
    page = open_page()
    big(page).wait_for()
    before = shown(page)
    since = dt.datetime.now()  # noqa: DTZ005
    plant.broker.kill()
    try:
        outage(page, "no broker", since)
        assert shown(page) == before
    finally:
        started = plant.row("SELECT now()")["now"]
        plant.broker.start()
    held = "SELECT 1 FROM mes.line_session WHERE established_at > %s"  # what is published before that is nobody's
    wait_for(lambda: len(plant.rows(held, started)) == 2, 60, "sessions on the new broker")
    back(plant, page, before)


def test_the_board_itself_goes_and_comes_back(plant: Plant, open_page: Opener) -> None:
    """A page that hangs on a wall needs nobody to load it again."""
    with board(plant.database, plant.broker.url) as port:
        page = open_page("/?wall", 1920, 1080, port=port, unchecked=True)
        big(page).wait_for()
        since = dt.datetime.now()  # noqa: DTZ005
    outage(page, "no answer from the board", since)
    shot(page, "no-board-wall")
    age = page.locator("article.line [data-field=fresh]").first
    was = age.text_content() or ""
    expect(age).not_to_have_text(was)  # figures grow older, though nobody says so
    before = shown(page)
    with board(plant.database, plant.broker.url, port):
        back(plant, page, before)


def test_a_page_that_is_opened_while_the_database_is_away_waits(plant: Plant, open_page: Opener) -> None:
    plant.stop_database()
    try:
        with board(plant.database, None) as port:
            page = open_page("/", port=port, live=False)
            expect(page.locator("#state-text")).to_have_text("no database yet")
            plant.server.start()
            expect(page.locator("html")).to_have_attribute("data-state", "live")
            expect(page.locator("article.line")).to_have_count(2)
            page.close()
    finally:
        if not plant.server.alive():
            plant.server.start()


# Notes when each figure was drawn first.
OBSERVE = """(line) => {
    const link = document.querySelector(`h2 a[href="/line/${line}"]`);
    const figure = link.closest('article').querySelector('.big');
    window.seen = {};
    const note = () => requestAnimationFrame(() => { window.seen[figure.textContent] ??= Date.now(); });
    new MutationObserver(note).observe(figure, {childList: true});
}"""


def test_how_long_a_figure_takes_to_the_screen(plant: Plant, open_page: Opener, tell: Callable[[object], None]) -> None:
    """From the commit of the event (the database's own instant of it) to the frame that shows it; told, not judged."""
    page = open_page()
    big(page).wait_for()
    page.evaluate(OBSERVE, NANJING)
    draw = random.Random(1)
    before, at = good(plant), {}
    for i in range(1, 21):
        (number,) = report(plant, 1)
        expect(big(page)).to_have_text(f"{before + i:,}")
        at[number] = f"{before + i:,}"
        time.sleep(draw.uniform(0.2, 1.5))
    seen = page.evaluate("window.seen")
    with psycopg.connect(plant.database) as connection:
        commits = dict(connection.execute(
            "SELECT seq, extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000 FROM mes.cell_event WHERE unit LIKE 'NJ1-LIVE-%%'"
        ).fetchall())  # fmt: skip
    took = sorted(seen[text] - float(commits[number]) for number, text in at.items())
    assert len(took) == 20 and took[0] > 0
    tell(f"commit of an event to the screen, ms: median {statistics.median(took):.0f}, 95 % {took[18]:.0f}, most {took[-1]:.0f}")
