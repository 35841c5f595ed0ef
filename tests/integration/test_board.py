"""The board shows what the views hold, soon after they change, and says so when it cannot."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from mes.board import figures, reader
from mes.board.feed import Feed
from mes.embedded import process
from mes.seeds import load_plant
from mes.store.migrate import migrate
from mes.store.seed import seed
from tests.databases import Database

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "mes" / "board" / "page"
NANJING, DALIAN = "nanjing/cells/32140-1", "dalian/cells/26650-1"
TODAY = dt.date(2026, 3, 11)
PATIENCE_S = 30


def wait_for(happened: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (result := happened()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for: {what}"
        time.sleep(0.05)
    return result


# -- a database with figures -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    settings = {"log_statement": "all", "log_line_prefix": "%a|"}
    with Database(tmp_path_factory.mktemp("home"), process.free_port(), settings=settings) as started:
        migrate(started.url)
        seed(started.url, load_plant(ROOT / "seeds"))
        yield started


@pytest.fixture
def database(server: Database) -> str:
    """Two production days of the Nanjing line, none of the Dalian line."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DELETE FROM kpi.station_sum; DELETE FROM kpi.line_day")  # a TRUNCATE would meet the board in a deadlock
    add_day(server.url, NANJING, TODAY - dt.timedelta(days=1), good=49_999, scrap=1)
    add_day(server.url, NANJING, TODAY, good=12_000, scrap=240)
    with psycopg.connect(server.url) as connection:
        connection.execute("SELECT pg_notify('mes_figures', path) FROM mes.line")
    return server.url


def add_day(url: str, line: str, day: dt.date, good: int, scrap: int) -> None:
    """Sums of a day in which every station inspects all cells and all scrap falls at the last one, in two hours."""
    begin = dt.datetime.combine(day, dt.time(0), dt.UTC)  # 08:00 at the site
    with psycopg.connect(url, autocommit=True) as connection:
        stations = connection.execute(
            "SELECT line_id, station_id, is_count_point FROM mes.station JOIN mes.line USING (line_id) WHERE path = %s", [line]
        ).fetchall()
        for line_id, station_id, is_last in stations:
            lost = scrap if is_last else 0
            for hour, (passed, missed) in enumerate([(good // 3, lost), (good - good // 3, 0)]):
                at, until = begin + dt.timedelta(hours=hour), begin + dt.timedelta(hours=hour, minutes=59)
                values = [line_id, "hour", at, station_id, passed, 0, missed, passed + missed, passed, passed, 0, [4000], [passed], until]
                connection.execute(_STATION_SUM, values)
            values = [
                line_id,
                "day",
                begin,
                station_id,
                good,
                0,
                lost,
                good + lost,
                good,
                good,
                0,
                [4000],
                [good],
                begin + dt.timedelta(minutes=119),
            ]
            connection.execute(_STATION_SUM, values)
        connection.execute(
            "INSERT INTO kpi.line_day VALUES (%(line)s, %(day)s, %(begin)s, %(end)s, 86400, 86400,"
            " tstzmultirange(tstzrange(%(begin)s, %(end)s)), %(events)s, 0, %(good)s, %(scrap)s, 0, 0, 0, 0, 0, 0, %(last)s)",
            {"line": line_id, "day": day, "begin": begin, "end": begin + dt.timedelta(days=1), "events": good + scrap, "good": good,
             "scrap": scrap, "last": begin + dt.timedelta(minutes=119)},
        )  # fmt: skip


_STATION_SUM = b"INSERT INTO kpi.station_sum VALUES (" + b", ".join([b"%s"] * 14) + b")"


def set_good(url: str, good: int) -> None:
    """Change a figure and tell of it, in one transaction, as the rollup does."""
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE kpi.line_day SET good = %s, events = events + 1 WHERE production_day = %s", [good, TODAY])
        connection.execute("SELECT pg_notify('mes_figures', %s)", [NANJING])


# -- a board -----------------------------------------------------------------------------------------------------------


class Board:
    """A running `mes board`."""

    def __init__(self, child: subprocess.Popen[str], port: int) -> None:
        self.child = child
        self.port = port

    def ask(self, path: str, method: str = "GET") -> tuple[HTTPResponse, bytes]:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)) as link:
            link.request(method, path)
            answer = link.getresponse()
            return answer, answer.read()

    def now(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.ask("/api/now")[1])
        return answer

    @contextmanager
    def events(self) -> Iterator[Iterator[tuple[str, Any]]]:
        """(name, data) of the server-sent events of a page; ends when the board ends the stream."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)) as link:
            link.request("GET", "/events")
            answer = link.getresponse()
            assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream")
            yield self._parsed(answer)

    @staticmethod
    def _parsed(answer: HTTPResponse) -> Iterator[tuple[str, Any]]:
        name = ""
        while line := answer.readline().decode():
            field, _, value = line.rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)

    def next(self, events: Iterator[tuple[str, Any]], name: str, wanted: Callable[[Any], bool] = lambda _: True) -> Any:
        """The data of the next event of that name that is wanted."""
        deadline = time.monotonic() + PATIENCE_S
        for came, data in events:
            if came == name and wanted(data):
                return data
            assert time.monotonic() < deadline, f"no such {name} event within {PATIENCE_S} s"
        return pytest.fail(f"the stream ended before such a {name} event")


def command(port: int) -> list[str]:
    return [sys.executable, "-m", "mes", "board", "--port", str(port)]


@contextmanager
def board_over(url: str) -> Iterator[Board]:
    port = process.free_port()
    with subprocess.Popen(command(port), env={**os.environ, "MES_DATABASE_URL": url}, stderr=subprocess.PIPE, text=True, cwd=ROOT) as child:
        board = Board(child, port)
        try:
            wait_for(lambda: child.poll() is not None or not process.is_free(port), "the board to listen")
            assert child.poll() is None, child.communicate()[1]
            yield board
        finally:
            child.kill()


@pytest.fixture(scope="module")
def standing(server: Database) -> Iterator[Board]:
    """One board for many tests, as in a plant."""
    with board_over(server.url) as started:
        yield started


@pytest.fixture
def board(database: str, standing: Board) -> Board:
    """The board, showing the figures of `database`."""

    def shown() -> bool:
        now = standing.now()
        days = [line["day"] for line in now["lines"]]
        return now["state"] == "live" and len(days) == 2 and days[0] is None and days[1] is not None and days[1]["good"] == 12_000

    wait_for(shown, "the board to show the figures")
    return standing


# -- figures -----------------------------------------------------------------------------------------------------------


def views(url: str, query: str) -> list[dict[str, Any]]:
    """Rows as they look after a way through JSON."""
    with psycopg.connect(url, row_factory=dict_row, options="-c timezone=UTC") as connection:
        rows = connection.execute(query).fetchall()
    return [{name: instant(value) for name, value in row.items()} for row in rows]


def instant(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, dt.date) else value


def test_now_equals_the_views(database: str, board: Board) -> None:
    dalian, nanjing = board.now()["lines"]
    days = views(database, "SELECT * FROM report.daily_throughput JOIN report.daily_yield USING (line, production_day) ORDER BY 2")
    assert [day["production_day"] for day in days] == ["2026-03-10", "2026-03-11"]
    answer, body = board.ask(f"/api/line/{NANJING}/2026-03-10")
    assert answer.status == 200
    for shown, day in zip((json.loads(body)["day"], nanjing["day"]), days, strict=True):
        for name in ("production_day", "good", "target", "attainment", "gap", "scrap", "last_event_at", "is_over", "completeness"):
            assert shown[name] == day[name], name
        assert shown["output_yield"] == day["output_yield"]
        assert shown["rolled_throughput_yield"] == pytest.approx(day["good"] / (day["good"] + day["scrap"]))
    hours = views(database, f"SELECT * FROM report.hourly_throughput WHERE production_day = '{TODAY}' ORDER BY hour_of_day")
    assert len(hours) == 24 and sum(hour["good"] for hour in hours) == 12_000
    for shown, hour in zip(nanjing["day"]["hours"], hours, strict=True):
        for name in ("hour_of_day", "good", "scrap", "target"):
            assert shown[name] == hour[name], name
        assert shown["hour_starts_at"].replace("+00:00", "Z") == hour["hour_starts_at"]
    assert (dalian["line"], dalian["product"], dalian["day"]) == (DALIAN, "26650", None)


def test_times_are_those_of_the_site(board: Board) -> None:
    day = board.now()["lines"][1]["day"]
    assert (day["text"]["last_event_time"], day["text"]["date"]) == ("09:59:00", "Wed 2026-03-11")
    assert [hour["text"]["hour"] for hour in day["hours"][:2]] == ["08:00", "09:00"]


def test_a_ratio_below_one_never_reads_100_percent(board: Board) -> None:
    """49,999 of 50,000 is rounded down, and what is not defined is a dash."""
    day = json.loads(board.ask(f"/api/line/{NANJING}/2026-03-10")[1])["day"]
    assert day["output_yield"] == 49_999 / 50_000
    assert day["text"]["output_yield"] == "99.99 %"
    assert day["text"]["attainment"] == "99.99 %"
    assert day["text"]["gap"] == "1 short"
    assert figures.whole_percent(0.99999) == "99 %"


def test_undefined_figures_are_dashes() -> None:
    row: dict[str, Any] = dict.fromkeys(("hours", "stations", "yields", "defects", "alerts", *figures._OF_DAY))
    row |= {"line": "a/b/c", "name": "C", "site_name": "A", "zone": "America/Detroit", "product": "P", "production_day": TODAY}
    hour = {"hour_starts_at": "2026-03-08T07:00:00+00:00", "hour_of_day": 2, "good": 0, "scrap": 0, "target": None}
    day = figures.line(row | {"hours": [hour]})["day"]
    named = (
        "target",
        "attainment",
        "output_yield",
        "rolled_throughput_yield",
        "last_event_time",
        "due",
        "pace",
        "projected",
        "left",
        "wip",
    )
    assert {day["text"][name] for name in named} == {"–"}
    assert day["text"]["gap"] == "no target set"
    assert day["hours"][0]["text"] == {"hour": "03:00", "good": "0", "scrap": "0", "target": "–"}, "the clock has gone forward"


def test_figures_are_written_with_the_digits_that_count() -> None:
    assert [figures.plain(x) for x in (None, 0.0, 0.9901, 12.2, 1361.2, 12345.6, 4.15e-8, -3.21)] == [
        "–", "0.000", "0.9901", "12.20", "1,361", "12,346", "4.150e-08", "-3.210",
    ]  # fmt: skip
    assert [figures.seconds(x) for x in (6.98, 599.0, 3600.0, 43500.0)] == ["6.98 s", "599 s", "1 h 0 min", "12 h 5 min"]


@pytest.mark.parametrize(
    ("name", "short"),
    [("Winding (feed, wind, cut)", "Winding"), ("Cathode (Al) collector-disc weld", "Cathode collector-disc weld"),
     ("Wash, dry, visual", "Wash"), ("Sleeve", "Sleeve"), ("(all)", "(all)"), ("OCV1/OCV2, ACIR", "OCV1/OCV2")],
)  # fmt: skip
def test_stations_have_short_names(name: str, short: str) -> None:
    assert figures.short(name) == short


def test_a_day_that_has_not_begun_is_not_the_newest(database: str, board: Board) -> None:
    """A machine whose clock is a year ahead does not take the line off the board."""
    add_day(database, NANJING, dt.datetime.now(dt.UTC).date() + dt.timedelta(days=365), good=1, scrap=0)
    set_good(database, 12_001)
    shown = wait_for(lambda: next((x for x in board.now()["lines"] if x["day"] and x["day"]["good"] == 12_001), None), "the change")
    assert shown["day"]["production_day"] == "2026-03-11"


def test_the_board_needs_no_more_than_the_schema_report(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP OWNED BY viewer; DROP ROLE viewer" if _has_role(connection) else "SELECT 1")
        connection.execute("CREATE ROLE viewer LOGIN PASSWORD 'viewer'")
        connection.execute("GRANT USAGE ON SCHEMA report TO viewer; GRANT SELECT ON ALL TABLES IN SCHEMA report TO viewer")
    with board_over(re.sub(r"//[^@]*@", "//viewer:viewer@", database)) as started:
        wait_for(lambda: started.now()["state"] == "live", "the first reading")
        assert started.now()["lines"][1]["day"]["good"] == 12_000


def _has_role(connection: psycopg.Connection[Any]) -> bool:
    return connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'viewer'").fetchone() is not None


# -- events ------------------------------------------------------------------------------------------------------------


def of_nanjing(good: int) -> Callable[[Any], bool]:
    return lambda line: line["line"] == NANJING and line["day"]["good"] == good


def test_every_page_hears_of_a_change(database: str, board: Board) -> None:
    with board.events() as one, board.events() as other:
        assert board.next(one, "lines") == [DALIAN, NANJING]
        assert board.next(one, "line", of_nanjing(12_000))
        assert board.next(one, "state")["state"] == "live"
        set_good(database, 12_345)
        first = board.next(one, "line", of_nanjing(12_345))
        assert first["day"]["text"]["good"] == "12,345"
        assert board.next(other, "line", lambda line: line == first)
        assert first in board.now()["lines"]


def test_days_that_have_been_are_sent_once(database: str, board: Board) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        today = connection.execute("SELECT (now() AT TIME ZONE 'Asia/Shanghai')::date - 3").fetchone()[0]  # type: ignore[index]
    add_day(database, NANJING, today, good=50_000, scrap=7)
    with board.events() as events:
        days = board.next(events, "days", lambda days: days["line"] == NANJING)["days"]
    assert [(day["production_day"], day["good"], day["text"]["whole_percent"]) for day in days] == [(today.isoformat(), 50_000, "100 %")]


def test_a_line_that_stands_still_is_known(board: Board) -> None:
    with board.events() as events:
        assert board.next(events, "state", lambda state: state["quiet"][NANJING] > 1)


def test_what_the_rollup_tells_of_is_read_at_once(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And that line only: nothing else is read before the next reading of everything, which is an hour away here."""
    monkeypatch.setattr(reader, "POLL_S", 3600.0)
    shown: list[tuple[set[str], bool]] = []

    class Noted(Feed):
        def show(self, lines: Iterable[Mapping[str, Any]], everything: bool = True) -> None:
            lines = list(lines)
            shown.append(({line["line"] for line in lines}, everything))
            super().show(lines, everything)
            for line in lines:
                if line["line"] == NANJING and (event := seen.get(line["day"]["good"])):
                    event.set()

    seen = {12_000: asyncio.Event(), 12_021: asyncio.Event()}

    async def follow() -> None:
        reading = reader.Reader(database, Noted("test"), lambda _: None)
        reading.start()
        async with asyncio.timeout(PATIENCE_S):
            await seen[12_000].wait()
            await asyncio.to_thread(set_good, database, 12_021)
            await seen[12_021].wait()
        reading.stop()
        await asyncio.to_thread(reading.join)

    asyncio.run(follow())
    assert shown == [({DALIAN, NANJING}, True), ({NANJING}, False)]


def test_fifty_boards_cost_one_query(server: Database, database: str, board: Board) -> None:
    """Counted by the server, which logs what it is asked."""
    with ExitStack() as stack:
        pages = [stack.enter_context(socket.create_connection(("127.0.0.1", board.port), PATIENCE_S)) for _ in range(50)]
        for page in pages:
            page.sendall(b"GET /events HTTP/1.1\r\nhost: board\r\n\r\n")
        received = [b"" for _ in pages]

        def all_have(text: bytes) -> None:
            for i, page in enumerate(pages):
                while text not in received[i]:
                    received[i] = received[i][-100_000:] + page.recv(1 << 20)

        all_have(b'"good":12000')
        began, skip = time.monotonic(), server.log.stat().st_size
        for good in range(12_100, 12_110):
            set_good(database, good)
            all_have(b'"good":%d' % good)
        log = server.log.read_bytes()[skip:].decode()
        polls = int((time.monotonic() - began) / reader.POLL_S) + 1
    asked = re.findall(r"^mes board\|.*(?:statement|execute \S+): (.*)", log, re.MULTILINE)
    assert 10 <= len(asked) <= 10 + 2 * polls, asked
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mes board'").fetchone() == (1,)


def test_the_database_goes_and_comes_back(server: Database, database: str, board: Board) -> None:
    with board.events() as events:
        board.next(events, "state", lambda state: state["state"] == "live")
        server.ask_stop()
        try:
            state = board.next(events, "state", lambda state: state["state"] == "no_database")
            assert state["since"] is not None
            answer, body = board.ask("/api/now")
            assert answer.status == 503, "old figures shall not pass for new ones"
            assert json.loads(body)["lines"][1]["day"]["good"] == 12_000
            assert board.ask("/healthz")[0].status == 503
            assert board.ask("/")[0].status == 200
            wait_for(lambda: not server.alive(), "PostgreSQL to end")
        finally:
            server.start()
        board.next(events, "state", lambda state: state["state"] == "live")
        set_good(database, 13_000)
        assert board.next(events, "line", of_nanjing(13_000))
    assert board.child.poll() is None
    assert board.ask("/healthz")[0].status == 200


def test_a_database_that_answers_no_more_is_away_too(server: Database, database: str, board: Board) -> None:
    """Not an error on the connection: silence."""
    with psycopg.connect(database) as blocker, board.events() as events:
        board.next(events, "state", lambda state: state["state"] == "live")
        blocker.execute("LOCK TABLE kpi.line_day IN ACCESS EXCLUSIVE MODE")
        board.next(events, "state", lambda state: state["state"] == "no_database")
        blocker.rollback()
        board.next(events, "state", lambda state: state["state"] == "live")


def test_a_board_started_before_its_database_waits_for_it() -> None:
    with board_over(f"postgresql://mes:mes@127.0.0.1:{process.free_port()}/mes") as started, started.events() as events:
        state = started.next(events, "state")
        assert (state["state"], state["since"]) == ("no_database", None)
        assert started.now()["lines"] == []
        assert started.child.poll() is None


# -- the server --------------------------------------------------------------------------------------------------------


def test_every_answer_is_under_a_strict_policy(board: Board) -> None:
    unit = "/unit?serial=nobody"
    files = (
        "/js/main.js",
        "/css/base.css",
        "/vendor/uplot/uPlot.iife.min.js",
        "/vendor/uplot/LICENSE",
        "/vendor/inter/LICENSE",
        "/favicon.ico",
    )
    for path in ("/", *files, "/api/now", "/healthz", "/nothing", "/api/nothing", f"/line/{NANJING}", unit, f"/api{unit}"):
        headers = board.ask(path)[0].headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'", path
        assert {policy[kind] for kind in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_the_page_needs_nothing_from_elsewhere_and_is_all_there(board: Board) -> None:
    for page in ("/", "/nothing"):
        text = board.ask(page)[1].decode()
        links = re.findall(r'(?:src|href)="([^"]*)"', text)
        assert len(links) >= 2
        for link in links:
            if link.startswith("#"):
                continue
            assert link.startswith("/") and not link.startswith("//")
            assert link.startswith("/unit") or board.ask(link.partition("?")[0])[0].status == 200, link
        assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", text), "nothing inline: the policy would stop it"


def test_what_comes_from_the_database_is_only_ever_text() -> None:
    scripts = [path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.js")]
    assert len(scripts) > 10
    for script in scripts:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function", script)


def test_modules_fit_a_few_screens() -> None:
    for path in [*FOLDER.glob("js/*.js"), *FOLDER.glob("css/*.css"), *FOLDER.parent.glob("*.py")]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/lines/%3Cscript%3Ealert(1)%3C/script%3E", "no such page"),
        ("/line/nanjing/cells/nothing", "no such line"),
        ("/line/nanjing/cells/%3Cb%3E", "no such line"),
        (f"/line/{NANJING}/2026-03-09", "no such production day"),
        (f"/line/{NANJING}/2026-02-30", "no such production day"),
        (f"/line/{NANJING}/yesterday", "no such production day"),
        (f"/line/{NANJING}/9999-12-31", "no such production day"),
        (f"/line/{NANJING}/station/nothing", "no such station"),
        (f"/line/{NANJING}/2026-03-10/station/' OR true --", "no such station"),
        (f"/line/{NANJING}/2026-03-09/station/wnd", "no such station"),
        ("/unit?serial=NJ1-0", "no cell with this serial"),
        ("/unit?serial=" + "x" * 65, "no cell with this serial"),
        ("/unit?serial=a%00b", "no cell with this serial"),
        ("/unit?serial=%27%20OR%20true%20--", "no cell with this serial"),
        ("/unit", "no cell with this serial"),
    ],
)
def test_what_nobody_knows_is_a_friendly_404(board: Board, path: str, said: str) -> None:
    path = path.replace(" ", "%20")
    answer, body = board.ask(path)
    assert answer.status == 404 and answer.headers["content-type"].startswith("text/html")
    assert said in body.decode().lower()
    assert b'<a href="/">' in body and b"alert" not in body and b"Traceback" not in body
    if not path.startswith("/lines"):
        answer, body = board.ask(f"/api{path}")
        assert answer.status == 404 and "/api/now" in json.loads(body)["error"]


def test_other_methods_are_refused(board: Board) -> None:
    for path in ("/", "/api/now", f"/line/{NANJING}", f"/api/line/{NANJING}/2026-03-10"):
        assert board.ask(path, "POST")[0].status == 405
    assert board.ask("/events", "HEAD")[0].status == 200


def test_who_asks_the_same_at_once_is_answered_by_one_query(server: Database, board: Board) -> None:
    path = f"/api/line/{NANJING}/2026-03-10/station/wnd"
    board.ask(path)
    skip = server.log.stat().st_size
    with ExitStack() as stack:
        pages = [stack.enter_context(socket.create_connection(("127.0.0.1", board.port), PATIENCE_S)) for _ in range(30)]
        for page in pages:
            page.sendall(f"GET {path} HTTP/1.1\r\nhost: board\r\nconnection: close\r\n\r\n".encode())
        answers = [b"".join(iter(lambda page=page: page.recv(1 << 16), b"")).partition(b"\r\n\r\n")[2] for page in pages]
    assert len(set(answers)) <= 3 and b'"station":"wnd"' in answers[0]
    log = server.log.read_bytes()[skip:].decode()
    assert len(re.findall(r"^mes board: details\|.*(?:statement|execute \S+): ", log, re.MULTILINE)) <= 3


def test_details_are_not_had_while_the_database_is_away(server: Database, database: str, board: Board) -> None:
    server.ask_stop()
    try:
        wait_for(lambda: not server.alive(), "PostgreSQL to end")
        answer, body = board.ask("/api/unit?serial=NJ1-away")
        assert answer.status == 503 and "try again" in json.loads(body)["error"]
        assert board.ask("/unit?serial=NJ1-away")[0].status == 200, "nobody knows whether there is such a cell: the page waits"
    finally:
        server.start()
    wait_for(lambda: board.ask("/api/unit?serial=NJ1-away")[0].status == 404, "the database to answer")


def test_sigterm_ends_open_streams_and_the_board(database: str) -> None:
    with board_over(database) as board, board.events() as events:
        board.next(events, "state")
        board.child.send_signal(signal.SIGTERM)
        rest: list[Any] = []
        draining = threading.Thread(target=lambda: rest.extend(events))
        draining.start()
        said = board.child.communicate(timeout=PATIENCE_S)[1]
        draining.join(PATIENCE_S)
        assert not draining.is_alive()
        assert board.child.returncode == 0
        assert "Traceback" not in said and "ERROR" not in said


def run(port: int, url: str) -> tuple[int, list[str]]:
    environment = {**os.environ, "MES_DATABASE_URL": url}
    done = subprocess.run(command(port), env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=ROOT)
    return done.returncode, [line for line in done.stderr.splitlines() if " INFO " not in line]


def test_a_taken_port_is_one_line() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        code, said = run(port, "postgresql://mes@127.0.0.1:1/mes")
    assert code == 2
    assert len(said) == 1 and str(port) in said[0] and "--port" in said[0] and str(os.getpid()) in said[0]


def test_a_database_without_our_schema_is_one_line(server: Database) -> None:
    code, said = run(process.free_port(), server.url.rpartition("/")[0] + "/postgres")
    assert code == 2
    assert len(said) == 1 and "mes migrate" in said[0]
