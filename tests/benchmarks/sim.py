"""`./run bench sim`: how fast the simulators are, beside SimPy and beside themselves."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np

from simulators import abstract, quality
from simulators.scenario import load
from simulators.service import duration
from simulators.stream import Stream
from simulators.throughput import departures, measure
from tests import simpy_line
from tests.benchmarks.processes import say

ROOT = Path(__file__).resolve().parents[2]
LINES = ("dalian-26650-1", "nanjing-32140-1")
DAY = dt.date(2026, 11, 2)
MEANS = (0.8, 0.7, 0.86, 0.5, 0.6, 0.85, 0.4, 0.3, 0.8, 0.2, 0.84, 0.1)
BUFFER = 5


def sim() -> None:
    """All of it, in one run."""
    columns()
    lines()
    simpy()
    memory()


def day_of_columns(stream: Stream) -> int:
    """The events of the next production day with their readings, as columns."""
    events = stream.advance(stream.until + 24 * 3600 * 1_000_000).events
    quality.readings(stream._quality, events)
    return len(events)


def columns() -> None:
    streams = [Stream(load(ROOT / "seeds", name), 1, DAY) for name in LINES]
    for stream in streams:
        day_of_columns(stream)
    best = {}
    for threads in (1, 2):
        for _ in range(3):
            began = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                events = sum(pool.map(day_of_columns, streams))
            seconds = time.perf_counter() - began
            best[threads] = min(best.get(threads, (seconds, events)), (seconds, events))
    for threads, (seconds, events) in best.items():
        rate = events / seconds / 1e6
        say(f"sim: columns of a day of both lines, {threads} thread(s): {seconds:.2f} s, {rate:.1f} M events/s")
    say(f"sim: two threads are {best[1][0] / best[2][0]:.2f} x one")


def lines() -> None:
    stream = Stream(load(ROOT / "seeds", LINES[0]), 1, DAY)
    part = stream.advance(stream.until + 6 * 3600 * 1_000_000)
    stream.lines(part)
    began = time.perf_counter()
    text = stream.lines(part)
    seconds = time.perf_counter() - began
    say(f"sim: NDJSON in memory: {len(part.events) / seconds:,.0f} events/s, {len(text) / seconds / 1e6:,.0f} MB/s")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("f.ndjson", "f.parquet"):
            began = time.perf_counter()
            generate(Path(folder) / name, 1)
            seconds = time.perf_counter() - began
            size = (Path(folder) / name).stat().st_size / 1e6
            say(f"sim: linesim generate --days 1 --out {name}, from command to exit: {seconds:.1f} s, {size:,.0f} MB")


def generate(out: Path, days: int) -> str:
    words = ["generate", "--line", LINES[0], "--start", str(DAY), "--origin", str(DAY), "--days", str(days), "--out", str(out)]
    tell = "import sys; from simulators.cli import cli; cli(sys.argv[1:], standalone_mode=False);"
    tell += "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    return subprocess.run([sys.executable, "-c", tell, *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def simpy() -> None:
    """Twelve single machines, exponential service, buffers of five, blocking after service; both engines draw the same numbers."""
    services = [{"dist": "exponential", "mean": mean} for mean in MEANS]
    stations = [{"name": f"m{n}", "buffer": BUFFER, "service": one} for n, one in enumerate(services)]
    scenario = msgspec.convert({"station": stations}, abstract.Scenario)
    few, many = 20_000, 2_000_000
    line = abstract.build(scenario, 1, few)
    work = [[int(duration(line.station[n], cell, 1)) for cell in range(few)] for n in range(len(MEANS))]
    began = time.perf_counter()
    theirs = simpy_line.departures([BUFFER] * len(MEANS), [times.__getitem__ for times in work], few)
    simpy_rate = few / (time.perf_counter() - began)
    assert theirs == departures(line, np.arange(few)).tolist(), "the two engines differ"
    began = time.perf_counter()
    found = measure(scenario, many, 1)
    rate = many / (time.perf_counter() - began)
    visits = len(MEANS)
    say(
        f"sim: 12 stations, SimPy {simpy_rate:,.0f} cells/s ({simpy_rate * visits:,.0f} visits/s, its draws made before),"
        f" linesim throughput {rate:,.0f} ({rate * visits / 1e6:.1f} M visits/s): {rate / simpy_rate:,.0f} x;"
        f" departures equal to the tick; {json.dumps({'throughput': round(found.throughput, 5), 'half_width': round(found.half_width, 5)})}"
    )


def memory() -> None:
    with tempfile.TemporaryDirectory() as folder:
        peaks = {days: int(generate(Path(folder) / "m.ndjson", days).split()[-1]) / 1024 for days in (1, 5)}
    one, five = peaks[1], peaks[5]
    say(f"sim: memory of linesim generate at most: {one:.0f} MiB for a day, {five:.0f} for five ({five / one:.2f} x)")
