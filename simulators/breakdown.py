"""When machines fail and how long their repairs take: exponential, by busy time or by the clock.

A failure by busy time (operation-dependent) needs `mtbf` ticks of work on average, one by the clock (time-dependent) as much
time whatever the machine does. Each machine draws from its own numbers: another machine or station does not shift them.
"""

from __future__ import annotations

from typing import Any, Final

from simulators.draws import REPAIR, TIME_TO_FAILURE, exponential
from simulators.jit import part

HEALTHY_FOR_EVER: Final = 1 << 62


@part
def fail(station: Any, machine: Any, place: int, now: int) -> None:
    """The machine at this place of its station fails at `now`: when it will be up, and when it fails next."""
    machine.up = now + int(exponential(station.key, machine.failures, place, REPAIR, station.mttr))
    machine.failures += 1
    machine.healthy = 1 + int(exponential(station.key, machine.failures, place, TIME_TO_FAILURE, station.mtbf))
    if station.by_clock != 0:
        machine.healthy += machine.up


@part
def is_up_from(station: Any, machine: Any, place: int, now: int) -> int:
    """From when on a machine that does not work is up: `now`, or the end of its repair. What failed and was repaired before is past."""
    if station.by_clock != 0:
        while machine.healthy <= now:
            fail(station, machine, place, machine.healthy)
    return max(now, machine.up)  # type: ignore[no-any-return]
