"""Events into a file: complete or not there."""

from __future__ import annotations

import datetime as dt
import os
from contextlib import suppress
from pathlib import Path

from rich.progress import Progress

from mes.errors import ConfigError
from simulators.ledger import Ledger, write_json
from simulators.run import HOUR, yesterday
from simulators.scenario import Scenario, origin_of
from simulators.stream import Stream


def generate(
    scenario: Scenario,
    start: dt.date | None,
    days: int,
    seed: int,
    out: Path,
    ledger: Path | None,
    origin: dt.date | None = None,
    ramp_up: float = 0.0,
) -> None:
    """Write `days` production days as NDJSON; the file appears when it is whole. The machines restart with each of them."""
    if out.suffix != ".ndjson":
        raise ConfigError(f"--out {out}: the ending {out.suffix!r} is not known: use .ndjson")
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    first = start or yesterday(scenario)
    truth = Ledger(scenario)
    try:
        with part.open("wb") as file, Progress(transient=True) as bar:
            stream = Stream(scenario, seed, first, None, origin=origin or origin_of(first), ramp_up=ramp_up)
            end = scenario.day_start(first + dt.timedelta(days=days))
            task = bar.add_task(scenario.line.path, total=end - stream.begin)
            while stream.until < end:
                events = stream.advance(min(end, stream.until + HOUR))
                file.write(stream.lines(events))
                truth.add(events.events)
                truth.end(events.ended)
                bar.update(task, completed=stream.until - stream.begin)
        os.replace(part, out)
    except OSError as why:
        raise ConfigError(f"--out {out}: cannot be written ({why.strerror}): choose another place") from why
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    if ledger is not None:
        write_json(
            ledger, truth.as_dict(seed=seed, boot=None, until_ms=stream.until // 1000, origin=stream.origin.isoformat(), ramp_up=ramp_up)
        )
