"""The page of a day in a browser: on a phone, on a desk, in the dark and on paper, with nothing from elsewhere and no complaint."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser, sync_playwright

from mes.cli import main
from tests.lines import held, look_at_days, step
from tests.pipeline import event
from tests.servers import missing

DAY_MS = 1_795_305_600_000  # 2026-11-22 08:00 in Nanjing
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        missing("Chromium", "chromium fonts-dejavu-core")
    with sync_playwright() as playwright:
        there = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield there
        there.close()


@pytest.fixture
def file(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page of a day of both lines."""
    for path, defect in (("nanjing/cells/32140-1", "W01"), ("dalian/cells/26650-1", "W01")):
        with held(database, path) as line:
            for machine, n in (("wnd/01", 400), ("hpt/01", 300), ("grd/01", 200)):
                line.put(line.topic(machine), *(event(k, unit=f"{machine}{k}", timestamp_ms=DAY_MS + k * 199_000) for k in range(1, n)))
            line.put(line.topic("wnd/02"), *(event(k, result="scrap", defect=defect, timestamp_ms=DAY_MS + k * 1000) for k in (1, 2, 9)))
    step(database)
    look_at_days(database)
    monkeypatch.setenv("MES_DATABASE_URL", database)
    written = tmp_path / "day.html"
    assert CliRunner().invoke(main, ["report", "day", "--day", "2026-11-22", "--html", str(written)]).exit_code == 0
    return written


@pytest.mark.parametrize("width", [360, 768, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_at_every_width(browser: Browser, file: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert page.locator("[data-figure=good]").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert _lightness(paper) - _lightness(ink) > 150 if scheme == "light" else _lightness(ink) - _lightness(paper) > 150
    bars = page.locator(".plot rect")
    assert bars.count() == 48
    box = bars.first.bounding_box()
    assert box
    assert box["width"] > 4, "columns can be told apart"
    size = page.evaluate("parseFloat(getComputedStyle(document.querySelector('.plot text')).fontSize)")
    assert size == 12, "letters of a plot do not shrink with it"
    assert said == []
    assert asked == [file.as_uri()]


def test_it_prints_on_a_few_sheets(browser: Browser, file: Path) -> None:
    page = browser.new_page()
    page.goto(file.as_uri())
    sheets = page.pdf(format="A4")
    assert 2 <= sheets.count(b"/Type /Page\n") <= 4


def _lightness(rgb: str) -> float:
    return sum(map(float, rgb.removeprefix("rgb(").removesuffix(")").split(","))) / 3
