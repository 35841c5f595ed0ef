"""`mes demo`: the backend beside two simulated lines, for a person to watch or, with `once`, to check a whole day.

The simulators are programs of their own that publish what real stations would: they are started by command line, what
they print is read, and nothing else is known of them here.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Final

from mes import settings
from mes.up import BOARD_PORT, announce, stack_of, stopping_by_signal

SPEED: Final = 60.0


def demo(
    *,
    once: bool = False,
    day: dt.date | None = None,
    seed: int = 1,
    speed: float = SPEED,
    home: Path | None = None,
    seeds: Path | None = None,
    database_url: str | None = None,
    broker_url: str | None = None,
    board_port: int = BOARD_PORT,
) -> int:
    """Run both lines end to end; returns the exit code.

    once     one production day of every line as fast as it goes, in HOME/once made anew, then the report: 0 if it equals
             what was simulated, 1 if not or if nothing moves any more
    day      with `once`: the production day; None for the last one that is over everywhere
    seed     of the random numbers; the same seed and day give the same events
    speed    without `once`: simulated seconds a second, until the present is reached
    Else until SIGINT or SIGTERM: 0. Raises ConfigError, Refused or Unavailable with nothing left running.
    """
    from mes.demo.live import watch
    from mes.demo.once import run_once

    try:
        with stopping_by_signal():
            if once:
                return run_once(day, seed, (home or settings.home()).absolute(), seeds, database_url, broker_url)
            watch(stack_of(home, seeds, database_url, broker_url, board_port), speed, seed)
    except KeyboardInterrupt:
        announce("stopped" if once else "stopped; data stays, the next start goes on")
    return 130 if once else 0
