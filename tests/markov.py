"""Lines as Markov chains, solved exactly: what any simulation of them must come near. Dense, so for some thousand states at most."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np

Moves = Callable[[Any], Iterable[tuple[Any, float, float]]]
"""Of a state: (state after, rate or probability, parts that leave the line)."""


def _explore(first: Hashable, moves: Moves) -> tuple[Any, Any]:
    """The chain's matrix, row by state before, and the parts that leave from each state, in states reached from `first`."""
    number = {first: 0}
    states, entries = [first], []
    for state in states:
        for after, weight, parts in moves(state):
            if after not in number:
                number[after] = len(states)
                states.append(after)
            entries.append((number[state], number[after], weight, weight * parts))
    matrix, leaving = np.zeros((len(states), len(states))), np.zeros(len(states))
    for before, after, weight, parts in entries:
        matrix[before, after] += weight
        leaving[before] += parts
    return matrix, leaving


def _stationary(generator: Any) -> Any:
    system = generator.T.copy()
    system[-1] = 1.0
    return np.linalg.solve(system, np.eye(len(system))[-1])


def exponential_line(
    mu: Sequence[float],
    buffers: Sequence[int],
    servers: Sequence[int] | None = None,
    p: Sequence[float] | None = None,
    r: Sequence[float] | None = None,
) -> float:
    """Throughput of stations with exponential servers of rate mu each, blocking after service, the first saturated, the last never blocked.

    buffers   slots between stations
    p, r      with single servers: failure rate of a machine that works, and its repair rate
    """
    count = len(mu)
    c = list(servers or [1] * count)
    fails = list(p or [0.0] * count)

    def settle(busy: list[int], blocked: list[int], queue: list[int]) -> None:
        """Move what can move, from the last station up; the first starts anew whenever a server of it is free."""
        moved = True
        while moved:
            moved = False
            for i in range(count - 1, -1, -1):
                while busy[i] + blocked[i] < c[i] and (i == 0 or queue[i] > 0):
                    busy[i] += 1
                    queue[i] -= 1 if i else 0
                    moved = True
                # Who is blocked finds a slot, or a free server beyond it.
                while i and blocked[i - 1] and queue[i] + busy[i] + blocked[i] < buffers[i - 1] + c[i]:
                    blocked[i - 1] -= 1
                    queue[i] += 1
                    moved = True

    def moves(state: Any) -> Iterable[tuple[Any, float, float]]:
        for i in range(count):
            busy, blocked, queue, up = (list(part) for part in state)
            if not up[i]:
                up[i] = True
                yield (tuple(busy), tuple(blocked), tuple(queue), tuple(up)), r[i] if r else 0.0, 0.0
            elif busy[i]:
                if fails[i]:
                    down = (*up[:i], False, *up[i + 1 :])
                    yield (tuple(busy), tuple(blocked), tuple(queue), down), fails[i], 0.0
                rate = busy[i] * mu[i]
                busy[i] -= 1
                if i + 1 < count:
                    blocked[i] += 1
                settle(busy, blocked, queue)
                yield (tuple(busy), tuple(blocked), tuple(queue), tuple(up)), rate, float(i + 1 == count)

    busy, blocked, queue = [0] * count, [0] * count, [0] * count
    settle(busy, blocked, queue)
    rates, leaving = _explore((tuple(busy), tuple(blocked), tuple(queue), (True,) * count), moves)
    share = _stationary(rates - np.diag(rates.sum(axis=1)))
    return float(share @ leaving)


def slotted_line(r: Sequence[float], p: Sequence[float], n: Sequence[int]) -> float:
    """Parts a cycle of Gershwin's deterministic line (1994, chapter 3): machines first break or are repaired, then all that are up, not
    starved and not blocked by the levels before work; n counts the places of a buffer and of the machines at its ends."""
    count = len(r)

    def moves(state: Any) -> Iterable[tuple[Any, float, float]]:
        level, up = state
        can = [(i == 0 or level[i - 1] > 0) and (i + 1 == count or level[i] < n[i]) for i in range(count)]
        chance = [(r[i] if not up[i] else 1 - p[i] if can[i] else 1.0) for i in range(count)]
        for now in product((False, True), repeat=count):
            weight = float(np.prod([chance[i] if now[i] else 1 - chance[i] for i in range(count)]))
            if weight:
                works = [now[i] and can[i] for i in range(count)]
                after = tuple(level[i] + works[i] - works[i + 1] for i in range(count - 1))
                yield (after, now), weight, float(works[-1])

    return _per_cycle((tuple(1 for _ in n), (True,) * count), moves)


def bernoulli_line(p: Sequence[float], n: Sequence[int]) -> float:
    """Parts a cycle of a Bernoulli line (Li & Meerkov 2009): machine i works with p[i], if it has a part and, by the end of the cycle,
    room; n counts the place in the machine after the buffer."""
    count = len(p)

    def moves(level: Any) -> Iterable[tuple[Any, float, float]]:
        for on in product((False, True), repeat=count):
            weight = float(np.prod([p[i] if on[i] else 1 - p[i] for i in range(count)]))
            works = [False] * count
            for i in range(count - 1, -1, -1):
                room = i + 1 == count or level[i] < n[i] or works[i + 1]
                works[i] = on[i] and room and (i == 0 or level[i - 1] > 0)
            yield tuple(level[i] + works[i] - works[i + 1] for i in range(count - 1)), weight, float(works[-1])

    return _per_cycle(tuple(0 for _ in n), moves)


def _per_cycle(first: Hashable, moves: Moves) -> float:
    matrix, leaving = _explore(first, moves)
    return float(_stationary(matrix - np.eye(len(matrix))) @ leaving)
