"""How long a cycle takes: distributions of the queueing literature, drawn from the station's own numbers by cell and attempt."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from simulators.draws import SERVICE, normal_quantile, triangle, uniform
from simulators.jit import fixed, part

# name          a              b                            ticks
# deterministic mean                                        a
# triangular    mean           coefficient of variation     symmetric about the mean, the spread of a machine in its stride
# uniform       low            high
# exponential   mean
# erlang        mean           k                            sum of k exponentials
# lognormal     median         sigma of the logarithm
# slotted       p, and b: r    cycle: ticks of a slot       1 + Bernoulli(p) x Geometric(r) slots, Geometric from 1 on
SERVICES: Final = ("deterministic", "triangular", "uniform", "exponential", "erlang", "lognormal", "slotted")
DETERMINISTIC, TRIANGULAR, UNIFORM, EXPONENTIAL, ERLANG, LOGNORMAL, SLOTTED = (fixed(n) for n in range(7))
_ROOT_6: Final = math.sqrt(6.0)
_ODD = np.uint64(0xD1342543DE82EF95)
_LEAST = 2.0**-54  # below the grid of the uniform numbers, so that none has an infinite logarithm


@part
def duration(station: Any, unit: int, attempt: int) -> int:
    """Ticks of the cycle in which this cell is worked, at least 1."""
    kind = station.service
    if kind == TRIANGULAR:
        ticks = station.a * (1.0 + station.b * _ROOT_6 * triangle(station.key, unit, attempt, SERVICE))
    elif kind == DETERMINISTIC:
        ticks = station.a
    else:
        u = uniform(station.key, unit, attempt, SERVICE)
        if kind == EXPONENTIAL:
            ticks = -math.log(1.0 - u) * station.a
        elif kind == UNIFORM:
            ticks = station.a + u * (station.b - station.a)
        elif kind == ERLANG:
            total = math.log(1.0 - u)
            for k in range(1, int(station.b)):
                total += math.log(1.0 - uniform(station.key + np.uint64(k) * _ODD, unit, attempt, SERVICE))
            ticks = -total * station.a / station.b
        elif kind == LOGNORMAL:
            ticks = station.a * math.exp(station.b * normal_quantile(u + _LEAST))
        else:
            slots = 1.0
            if u < station.a:
                slots += 1.0 if station.b >= 1.0 else math.floor(math.log((station.a - u) / station.a) / math.log(1.0 - station.b)) + 1.0
            ticks = slots * np.float64(station.cycle)
    return max(1, int(ticks + 0.5))
