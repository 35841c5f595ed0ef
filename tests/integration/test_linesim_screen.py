"""`linesim run` in a terminal: its table, and Ctrl-C."""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from simulators.journal import Journal
from simulators.ledger import Ledger
from simulators.run import State
from simulators.scenario import load
from simulators.stream import Stream
from tests.faults import broker
from tests.plants import small_lines

ROOT = Path(__file__).resolve().parents[2]
START = dt.date(2026, 11, 20)
DEADLINE_S = 120.0


class Terminal:
    """A program in a terminal of so many rows and columns; `text` is what it has written."""

    def __init__(self, master: int, child: subprocess.Popen[bytes]) -> None:
        self.master = master
        self.child = child
        self.text = ""

    def until(self, *words: str) -> None:
        """Read until all of the words stand in what came."""
        deadline = time.monotonic() + DEADLINE_S
        while not all(word in self.text for word in words):
            assert time.monotonic() < deadline, self.text
            if select.select([self.master], [], [], 0.1)[0] and not self._read():
                raise AssertionError(self.text)

    def end(self) -> int:
        """Read to the end; returns the exit code."""
        while self._read():
            pass
        return self.child.wait(DEADLINE_S)

    def _read(self) -> bool:
        try:
            part = os.read(self.master, 65536)
        except OSError:  # Linux says so when the other side is closed
            return False
        self.text += part.decode()
        return bool(part)


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One of its own: days of lines go there, and other tests' sessions would get them."""
    with broker("embedded", tmp_path_factory.mktemp("broker")) as there:
        yield there.url


@contextmanager
def terminal(rows: int, columns: int, *words: str | Path) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MES_", "COLUMNS", "LINES", "NO_COLOR"))} | {"TERM": "xterm"}

    def own_it() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal to it

    child = subprocess.Popen(
        [sys.executable, "-m", "simulators", *map(str, words)],
        cwd=ROOT, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=own_it,
    )  # fmt: skip
    os.close(slave)
    try:
        yield Terminal(master, child)
    finally:
        child.kill()
        child.wait()
        os.close(master)


@pytest.mark.parametrize(("rows", "table"), [(40, True), (8, False)])
def test_ctrl_c_leaves_the_table_and_a_state_that_goes_on(tmp_path: Path, own_broker: str, rows: int, table: bool) -> None:
    seeds, state = small_lines(tmp_path / "seeds", 20.0), tmp_path / "state"
    line = ("--line", "nanjing", "--seeds", seeds, "--start", f"{START}", "--days", "2", "--speed", "3600")
    with terminal(rows, 100, "run", *line, "--broker", own_broker, "--no-marks", "--state", state) as running:
        running.until("production day 2026-11-20", " so far (", "asm", "first pass %" if table else "passed   wnd")
        os.write(running.master, b"\x03")
        assert running.end() == 0
    assert "Traceback" not in running.text
    last = running.text[running.text.rindex("nanjing/cells/32140-1   ") :]
    assert all(code in last for code in ("wnd", "asm", "pck"))
    assert ("machines" in last) == table
    assert running.text.rstrip().endswith("\x1b[?25h")  # the cursor is back, and nothing was cleared after the last table
    scenario = load(seeds, "nanjing")
    found = State.read(state / "linesim-nanjing-32140-1.json")
    assert found is not None
    assert scenario.day_start(START) < found.journaled_until < scenario.day_start(START + dt.timedelta(days=2))
    truth = Ledger(scenario)
    stream = Stream(scenario, found.seed, START, found.boot, origin=found.origin)
    truth.add(stream.advance(found.journaled_until).events)
    made = {name: m["last_seq"] for day in truth.days.values() for name, m in day["machines"].items()}
    # The journals end where the state says; with what was written down, no more and no less.
    journals = state / "journals" / "nanjing-32140-1"
    assert {name: Journal(journals / name.replace("/", "-"), found.boot, "never").following - 1 for name in made} == made


def test_what_json_says_of_the_stations_is_the_ledger(tmp_path: Path, own_broker: str) -> None:
    seeds, ledger = small_lines(tmp_path / "seeds", 100.0), tmp_path / "truth.json"
    words = ("--line", "nanjing", "--seeds", str(seeds), "--start", f"{START}", "--speed", "max", "--broker", own_broker)
    done = subprocess.run(
        [sys.executable, "-m", "simulators", "run", *words, "--no-marks", "--progress", "json", "--ledger", str(ledger)],
        cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.keys() >= {
        "line", "simulated_until", "fraction", "generated", "published", "acked", "committed", "good", "events_per_s",
    }  # fmt: skip
    truth = json.loads(ledger.read_text(encoding="utf-8"))["days"][START.isoformat()]
    assert (told["fraction"], told["day"], told["good_today"], told["scrap_today"]) == (1.0, f"{START}", truth["good"], truth["scrap"])
    assert (told["target"], told["target_so_far"], told["speed_asked"]) == (50_000, 50_000, None)
    for said, (code, counted) in zip(told["stations"], truth["stations"].items(), strict=True):
        assert (said["station"], said["machines"], said["wip"]) == (code, 4, counted["wip_end"])
        assert all(said[key] == counted[key] for key in ("inspected", "first_pass_good", "pass", "rework", "scrap"))
    assert told["wip"] == sum(s["wip"] for s in told["stations"])
