"""A line of the log is an object where JSON is asked for, and says nothing that was sent to us or that is secret."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import msgspec
import psycopg
import pytest
from psycopg import errors as pg

from mes import logs
from mes.contract import CellEvent
from mes.errors import ConfigError, Refused, Rejected, Unavailable
from mes.store.connection import connect, translated
from tests.pipeline import ROOT

SERIAL = "NJ1-26K22-0001234"


@pytest.fixture(params=["text", "json"])
def said(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a program that has called `configure` at level debug writes to stderr, in either format."""
    out, own, root = io.StringIO(), logging.getLogger("mes"), logging.getLogger()
    before = own.level, root.level, root.handlers[:], sys.excepthook, threading.excepthook
    for name in ("MES_LOG_FORMAT", "MES_LOG_LEVEL"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "stderr", out)
    root.handlers[:] = []
    logs.configure("debug", request.param, "ingest")
    yield out
    own.setLevel(before[0])
    root.setLevel(before[1])
    root.handlers[:] = before[2]
    sys.excepthook, threading.excepthook = before[3:]


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_text_is_for_people_and_json_has_fields(said: io.StringIO) -> None:
    log = logging.getLogger("mes.ingest")
    log.info("line %s: held", "nanjing/cells/32140-1", extra={"line": "nanjing/cells/32140-1", "retry_s": 0.5})
    if not logs.is_json():
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO    mes\.ingest: line nanjing/cells/32140-1: held\n", said.getvalue()
        )
        return
    [line] = lines(said)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line.pop("timestamp")))
    assert re.fullmatch(rf".+-{os.getpid()}", str(line.pop("worker")))
    assert line == {
        "level": "info", "logger": "mes.ingest", "message": "line nanjing/cells/32140-1: held", "command": "ingest",
        "line": "nanjing/cells/32140-1", "retry_s": 0.5,
    }  # fmt: skip


def test_whatever_is_logged_is_one_object_a_line(said: io.StringIO) -> None:
    log = logging.getLogger("mes.x")
    log.warning("two\nlines", extra={"odd": {1: object()}, "nan": float("nan"), "at": ROOT})
    try:
        raise ConfigError("first\nsecond")
    except ConfigError:
        log.exception("broken")
    if logs.is_json():
        first, second = lines(said)
        assert first["message"] == "two\nlines"
        assert first["at"] == str(ROOT)
        assert str(second["exception"]).endswith("mes.errors.ConfigError: first second")


def test_what_is_no_text_is_written_all_the_same(said: io.StringIO) -> None:
    """Not logged here: pytest keeps what is, and its workers could not hand that on."""
    record = logging.makeLogRecord({"msg": "half %s", "args": ("\ud800",), "name": "mes.x"})
    text = next(handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler).format(record)
    assert not logs.is_json() or json.loads(text)["message"] == "half \\ud800"


def server_error(kind: type[psycopg.Error], primary: str, sqlstate: str) -> psycopg.Error:
    why = kind(f"{primary}\nDETAIL:  Failing row contains ({SERIAL}).\nCONTEXT:  COPY cell_event, line 1")
    why.sqlstate = sqlstate
    why.__dict__["_info"] = None
    why.__class__ = type(kind.__name__, (kind,), {"diag": SimpleNamespace(message_primary=primary)})
    return why


def errors() -> list[BaseException]:
    """Each holds the serial somewhere."""
    found: list[BaseException] = [
        server_error(pg.CheckViolation, 'new row for relation "cell_event" violates check constraint "x"', "23514"),
        server_error(pg.InvalidTextRepresentation, f'invalid input syntax for type integer: "{SERIAL}"', "22P02"),
        Rejected("invalid", f"unit {SERIAL!r} is none"),
        KeyError(SERIAL),
        ValueError(f"could not convert string to float: '{SERIAL}'"),
        RuntimeWarning(SERIAL),
    ]
    for payload in (f'{{"result":"{SERIAL}"}}', f'["{SERIAL}"'):
        try:
            msgspec.json.decode(payload.encode(), type=CellEvent)
        except (msgspec.DecodeError, UnicodeError) as why:
            found.append(why)
    behind = Unavailable("the database is away")
    behind.__cause__ = found[0]
    group = ExceptionGroup("several", [ValueError(SERIAL), KeyError(SERIAL)])
    return [*found, behind, group]


@pytest.mark.parametrize("why", errors(), ids=lambda why: type(why).__name__)
def test_an_error_says_no_values(why: BaseException, said: io.StringIO) -> None:
    log = logging.getLogger("mes.ingest")
    log.warning("it failed: %s", why)
    try:
        raise why
    except BaseException:
        log.exception("with its trace")
    text = said.getvalue()
    assert SERIAL not in text
    assert "it failed: " in text
    assert type(why).__name__ in text
    assert "test_an_error_says_no_values" in text


def test_what_speaks_of_names_is_said() -> None:
    assert logs.said(TypeError("f() takes no arguments")) == "f() takes no arguments"
    assert logs.said(Refused("run `mes migrate`")) == "run `mes migrate`"
    assert logs.said(OSError(28, "No space left on device")) == "[Errno 28] No space left on device"
    assert logs.said(Rejected("nul", SERIAL)) == "nul"
    assert logs.said(server_error(pg.CheckViolation, "a  constraint", "23514")) == "a constraint"
    assert logs.said(psycopg.OperationalError("connection refused\n")) == "connection refused"


def test_libraries_are_heard_from_warnings_on(said: io.StringIO) -> None:
    logging.getLogger("psycopg").debug("row %s", SERIAL)
    logging.getLogger("numba.core").info("bytecode")
    assert said.getvalue() == ""
    logging.getLogger("psycopg").warning("error ignored in rollback: %s", server_error(pg.CheckViolation, "a constraint", "23514"))
    assert "error ignored in rollback: a constraint" in said.getvalue()


def test_a_task_that_fails_unseen_is_logged_without_what_it_held(said: io.StringIO) -> None:
    async def fail() -> None:
        raise ValueError(SERIAL)

    async def main() -> None:
        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        del task

    asyncio.run(main())
    assert "Task exception was never retrieved" in said.getvalue()
    assert "ValueError" in said.getvalue()
    assert SERIAL not in said.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_fault_that_nobody_caught_is_logged_too(form: str) -> None:
    code = (
        f"from mes import logs; import threading\nlogs.configure('info', {form!r}, 'x')\n"
        f"def f(): raise ValueError({SERIAL!r})\n"
        "thread = threading.Thread(target=f); thread.start(); thread.join(); f()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert SERIAL not in done.stderr.replace(f"raise ValueError({SERIAL!r})", "")
    assert done.stderr.count("a fault of the program") == 2
    if form == "json":
        assert [json.loads(line)["level"] for line in done.stderr.splitlines()] == ["critical"] * 2


@pytest.mark.parametrize("password", ["s3cr%zzt", "s3cr t"])
def test_a_url_that_cannot_be_read_is_not_quoted(password: str) -> None:
    """libpq quotes the part that it stumbles over, which is the password."""
    with pytest.raises(Refused, match=r"the URL cannot be read: check MES_DATABASE_URL.*%XX") as why:
        connect(f"postgresql://mes:{password}@127.0.0.1/mes")
    assert "s3cr" not in str(why.value)


def test_what_the_server_says_is_cut_to_its_message() -> None:
    with pytest.raises(Refused) as why, translated():
        raise server_error(pg.CheckViolation, "violates a check", "23514")
    assert str(why.value) == "database: violates a check"


@pytest.mark.parametrize("form", ["text", "json"])
def test_commands_say_their_last_words_in_the_format(form: str) -> None:
    command = [sys.executable, "-m", "mes", "--log-format", form, "--database", "nonsense", "migrate"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    if form == "json":
        assert json.loads(line)["level"] == "error"
    assert logs.last_words(line).removeprefix("mes: ").startswith("MES_DATABASE_URL='nonsense' is not a URL")
