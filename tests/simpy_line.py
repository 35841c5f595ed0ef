"""A line of single machines in SimPy, with finite buffers and blocking after service: the plain model that the flow is compared with."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import simpy


def departures(buffers: Sequence[int], work: Sequence[Callable[[int], int]], cells: int) -> list[int]:
    """Instants at which cells leave the line.

    buffers   slots in front of each station, of the first without meaning
    work      by station: how long cell n (from 0 on) keeps the machine, in whole ticks, repairs included
    """
    env = simpy.Environment()
    machines = [simpy.Resource(env, 1) for _ in work]
    slots = [simpy.Resource(env, b) if n and b else None for n, b in enumerate(buffers)]
    left: list[int] = []

    def cell(n: int) -> Generator[Any, Any, None]:
        held = machines[0].request()
        yield held
        for s, duration in enumerate(work):
            yield env.timeout(duration(n))
            if s + 1 == len(work):
                break
            slot = slots[s + 1]
            if slot is not None:
                place = slot.request()
                yield place
                machines[s].release(held)
                held = machines[s + 1].request()
                yield held
                slot.release(place)
            else:
                following = machines[s + 1].request()
                yield following
                machines[s].release(held)
                held = following
        machines[-1].release(held)
        left.append(int(env.now))

    def source() -> Generator[Any, Any, None]:
        """One cell waits before the first machine, so that it is never starved and the calendar stays short."""
        for n in range(cells):
            env.process(cell(n))
            with machines[0].request() as turn:
                yield turn

    env.process(source())
    env.run()
    return left
