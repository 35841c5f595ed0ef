"""Debian's Chromium, a plant with a month of figures, and the board over it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright
from psycopg.rows import dict_row

from mes.embedded.postgres import EmbeddedPostgres
from mes.seeds import load_plant
from mes.store.migrate import migrate
from mes.store.seed import seed
from tests.pipeline import ROOT, environment
from tests.servers import Mosquitto, accepts, free_port, missing, stopped_at_the_end, wait_for
from tests.sums import month

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SHOTS = Path(__file__).parent / "shots"
PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser with a profile of its own, which is empty. Not for longer than a module: while it lives its loop is in the way
    of tests that have one of their own."""
    program = next((found for name in ("/usr/bin/chromium", "chromium", "google-chrome") if (found := shutil.which(name))), None)
    if program is None:
        missing("Chromium", "chromium fonts-dejavu-core")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@dataclasses.dataclass
class Plant:
    """A database server and a broker, both of which may be stopped and started, and a board."""

    server: EmbeddedPostgres
    broker: Mosquitto
    port: int

    @property
    def database(self) -> str:
        return self.server.url

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.database, row_factory=dict_row, autocommit=True, options="-c timezone=UTC") as connection:
            return connection.execute(query.encode(), values or None).fetchall()

    def row(self, query: str, *values: Any) -> dict[str, Any]:
        (only,) = self.rows(query, *values)
        return only

    def stop_database(self) -> None:
        self.server.ask_stop()
        wait_for(lambda: not self.server.alive(), 60, "PostgreSQL to end")


@contextlib.contextmanager
def board(database: str, broker: str | None, port: int | None = None) -> Iterator[int]:
    """`mes board`; yields its port."""
    port = port or free_port()
    variables = environment(database, broker or "")
    command = [sys.executable, "-m", "mes", "board", "--port", str(port)]
    with stopped_at_the_end(subprocess.Popen(command, env=variables, cwd=ROOT, start_new_session=True)):
        wait_for(lambda: accepts(port), 60, "the board")
        yield port


def _beginning(today: dt.datetime, folder: Path) -> Path:
    """The seeds with production days that begin at that hour, so that the tests meet the middle of a day whenever they run."""
    shutil.copytree(ROOT / "seeds", folder)
    day, night = (f"{today + dt.timedelta(hours=8 + later):%H}:00:00" for later in (0, 12))  # the plants are eight hours ahead
    for path in (folder / "sites").glob("*.toml"):
        text = path.read_text(encoding="utf-8").replace("20:00:00", "NIGHT").replace("08:00:00", day).replace("NIGHT", night)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def plant(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """Both lines of the seeds with a month of sums, without a pipeline. A module has its own: it may stop the servers."""
    home = tmp_path_factory.mktemp("plant")
    now = dt.datetime.now(dt.UTC)
    today = now.replace(minute=0, second=0, microsecond=0) - dt.timedelta(hours=14)
    settings = {"fsync": "off", "track_commit_timestamp": "on"}
    with EmbeddedPostgres(home, settings=settings, say=lambda _: None) as server, Mosquitto(home / "broker") as broker:
        migrate(server.url)
        seed(server.url, load_plant(_beginning(today, home / "seeds")))
        month(server.url, today, now)
        with board(server.url, broker.url) as port:
            yield Plant(server, broker, port)


class Watched:
    """What a page must not do: complain, ask in vain, ask anybody else."""

    def __init__(self, page: Page, host: str) -> None:
        self.complaints: list[str] = []
        self.failures: list[str] = []
        self.elsewhere: list[str] = []
        self._host = host
        page.on("console", self._console)
        page.on("pageerror", lambda why: self.complaints.append(str(why)))
        page.on("requestfailed", self._failed)
        page.on("request", self._asked)
        page.on("response", lambda r: self.failures.append(f"{r.status} {r.url}") if r.status >= 400 else None)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _failed(self, request: Request) -> None:
        # a stream ends with its page, and whatever was on its way when somebody went to the next one is given up
        if "/events" not in request.url and request.failure != "net::ERR_ABORTED":
            self.failures.append(f"{request.failure} {request.url}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self._host, "data:")):
            self.elsewhere.append(request.url)

    def check(self) -> None:
        assert self.complaints == []
        assert self.failures == []
        assert self.elsewhere == []


Opener = Callable[..., Page]


@pytest.fixture
def open_page(chromium: Browser, plant: Plant) -> Iterator[Opener]:
    """Opens pages of the board; what they complain of at the end fails the test, unless `unchecked`."""
    with contextlib.ExitStack() as stack:
        pages: list[Watched] = []

        def opened(
            path: str = "/", width: int = 1440, height: int = 900, *, scheme: Any = "light", unchecked: bool = False, live: bool = True,
            port: int | None = None, **options: Any,
        ) -> Page:  # fmt: skip
            context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
            stack.callback(context.close)
            context.set_default_timeout(PATIENCE_MS)
            page = context.new_page()
            host = f"http://127.0.0.1:{port or plant.port}"
            watched = Watched(page, host)
            if not unchecked:
                pages.append(watched)
            page.goto(host + path)
            if live:
                page.wait_for_selector("html[data-state=live]")
            return page

        yield opened
        for watched in pages:
            watched.check()


def shot(page: Page, name: str, **options: Any) -> Path:
    """Keeps a picture of the page in a folder that git ignores."""
    SHOTS.mkdir(exist_ok=True)
    path = SHOTS / f"{name}.png"
    page.screenshot(path=path, **options)
    return path
