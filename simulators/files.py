"""Events into a file, as NDJSON or Parquet: complete or not there."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final

from rich.progress import Progress

from mes.errors import ConfigError
from simulators.conditions import NONE, Conditions
from simulators.faults import Faults
from simulators.ledger import Ledger, write_json
from simulators.run import HOUR, yesterday
from simulators.scenario import Scenario, origin_of
from simulators.stream import Slice, Stream

Write = Callable[[Stream, Slice], None]


def generate(
    scenario: Scenario,
    start: dt.date | None,
    days: int,
    seed: int,
    out: Path,
    ledger: Path | None,
    origin: dt.date | None = None,
    conditions: Conditions = NONE,
) -> None:
    """Write `days` production days; the file appears when it is whole. The machines restart with each of them."""
    writer = _WRITERS.get(out.suffix)
    if writer is None:
        raise ConfigError(f"--out {out}: the ending {out.suffix!r} is not known: use {' or '.join(_WRITERS)}")
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    first = start or yesterday(scenario)
    truth = Ledger(scenario)
    try:
        with writer(part) as write, Progress(transient=True) as bar:
            stream = Stream(
                scenario,
                seed,
                first,
                None,
                origin=origin or origin_of(first),
                disturbances=conditions.disturbance,
                ramp_up=conditions.ramp_up,
            )
            faults = Faults(scenario, conditions.fault, seed) if conditions.fault else None
            end = scenario.day_start(first + dt.timedelta(days=days))
            task = bar.add_task(scenario.line.path, total=end - stream.begin)
            while stream.until < end:
                events = stream.advance(min(end, stream.until + HOUR))
                facts, delivered = faults.wrap(events) if faults else (events.events, events)
                write(stream, delivered)
                truth.add(facts)
                truth.end(events.ended)
                bar.update(task, completed=stream.until - stream.begin)
            if faults:
                write(stream, faults.rest())
        os.replace(part, out)
    except OSError as why:
        raise ConfigError(f"--out {out}: cannot be written ({why.strerror}): choose another place") from why
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    if ledger is not None:
        whole = truth.as_dict(seed=seed, boot=None, until_ms=stream.until // 1000, origin=stream.origin.isoformat(), **conditions.told())
        write_json(ledger, {**whole, "faults": faults.record if faults else []})


@contextmanager
def _ndjson(path: Path) -> Iterator[Write]:
    with path.open("wb") as file:
        yield lambda stream, part: _write(file.write, stream.lines(part))


def _write(write: Callable[[bytes], int], data: bytes) -> None:
    write(data)


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    try:
        from simulators import parquet
    except ImportError as why:
        raise ConfigError(f"--out {path.name}: Parquet needs pyarrow: pip install 'mes[parquet]', or write .ndjson") from why
    with parquet.writer(path) as write:
        yield lambda stream, part: write(stream.columns(part))


_WRITERS: Final[dict[str, Callable[[Path], AbstractContextManager[Write]]]] = {".ndjson": _ndjson, ".parquet": _parquet}
