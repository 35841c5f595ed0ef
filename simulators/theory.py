"""What theory says of lines, stations and queues: closed forms, each with who found it. Pure functions, no simulation.

Rates are parts per unit of time, times in that unit. A buffer counts the slots between two stations, unless a model counts the
place in a machine too, which then is said. ODF: operation-dependent failures, a machine wears only while it works; TDF:
time-dependent ones. Impossible values raise ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


# Stations


def availability(mtbf: float, mttr: float) -> float:
    """Share of its busy time that a machine works: MTBF / (MTBF + MTTR), by renewal (ISO 22400-2: 2014)."""
    _require(mtbf > 0 and mttr >= 0, f"mtbf {mtbf} must be positive, mttr {mttr} not negative")
    return mtbf / (mtbf + mttr)


def capacity(machines: int, cells: int, cycle: float, available: float = 1.0) -> float:
    """Most parts per time of `machines` alike that each give `cells` parts a cycle."""
    _require(machines > 0 and cells > 0 and cycle > 0, f"{machines} machines, {cells} cells and cycle {cycle} must be positive")
    return machines * cells / cycle * available


def takt(planned: float, target: float) -> float:
    """Time in which a part must leave so that `target` parts leave in the planned time (Womack & Jones 1996)."""
    _require(target > 0, f"target {target} must be positive")
    return planned / target


def utilisation(rate: float, servers: int, service: float) -> float:
    """Mean share of servers at work: rate x service / servers (Little 1961, of the servers alone)."""
    return rate * service / servers


def little(rate: float, time: float) -> float:
    """Mean number inside: rate x mean time inside (Little 1961)."""
    return rate * time


# Yield


def rolled_throughput_yield(first_pass: Sequence[float]) -> float:
    """Share of parts that pass every station at once: the product of the first-pass yields (Harry & Schroeder 2000)."""
    return math.prod(first_pass)


def yield_with_rework(first_pass: float, share: float, success: float, most: int) -> float:
    """Share of parts that leave a station good, when `share` of the misses is tried again, at most `most` times, each with `success`.

    A sum over the retries: the probability to reach the k-th is (1 - first_pass) share^k (1 - success)^(k-1).
    """
    return first_pass + (1 - first_pass) * sum(share**k * (1 - success) ** (k - 1) * success for k in range(1, most + 1))


def visits_with_rework(first_pass: float, share: float, success: float, most: int) -> float:
    """Mean visits of a part to its station under the rules of `yield_with_rework`."""
    return 1 + (1 - first_pass) * sum(share**k * (1 - success) ** (k - 1) for k in range(1, most + 1))


def attempts_without_end(miss: float, share: float) -> float:
    """Mean visits when a visit misses with probability `miss` and `share` of the misses is tried again: geometric, 1 / (1 - miss share)."""
    _require(miss * share < 1, f"miss {miss} x share {share} must be below 1")
    return 1 / (1 - miss * share)


# Lines without failures


def infinite_buffer_bound(rates: Sequence[float]) -> float:
    """No line is faster than its slowest station, and with infinite buffers it is as fast."""
    return min(rates)


def paced_bound(means: Sequence[float]) -> float:
    """What a line of single exponential servers makes at least, with any buffers: all move together, 1 / E[max S] (Muth 1973).

    With two stations and no buffer it is exact. E[max] by inclusion and exclusion.
    """
    rates = [1 / mean for mean in means]
    longest = sum((-1) ** (k + 1) / sum(some) for k in range(1, len(rates) + 1) for some in combinations(rates, k))
    return float(1 / longest)


def two_uniform_servers(low: float, high: float) -> float:
    """Two stations with uniform service and no buffer: 1 / E[max] = 1 / (low + 2/3 (high - low)) (Muth 1973)."""
    return 1 / (low + (high - low) * 2 / 3)


def two_exponential_servers(mean: float, buffer: int) -> float:
    """Two equal single exponential servers, the first saturated, blocking after service: (b + 2) / (b + 3) of a server's rate
    (Hillier & Boling 1967)."""
    return (buffer + 2) / (buffer + 3) / mean


def makespan(times: Sequence[Sequence[float]]) -> float:
    """When the last job of a permutation flow shop is done: job j takes times[j][i] at machine i, all in order of the list, room between
    the machines for all of them (Johnson 1954: the recursion of completion times)."""
    done = [0.0] * len(times[0])
    for job in times:
        before = 0.0
        for i, time in enumerate(job):
            done[i] = before = max(done[i], before) + time
    return done[-1]


def makespan_of_alike(times: Sequence[float], jobs: int) -> float:
    """Makespan of `jobs` alike, with any buffers: the first one's time, and the longest step for each further one."""
    return sum(times) + (jobs - 1) * max(times)


# Lines with failures


def zero_buffer_line(p: Sequence[float], r: Sequence[float]) -> float:
    """Share of its rate that a line of equal machines makes without buffers, ODF: 1 / (1 + sum p/r) (Buzacott 1967).

    p, r   failure and repair rates of each machine
    """
    return 1 / (1 + sum(fail / repair for fail, repair in zip(p, r, strict=True)))


def zero_buffer_bound(cycles: Sequence[float], mtbf: Sequence[float], mttr: Sequence[float]) -> float:
    """What a line of single machines with fixed cycles makes at least, with any buffers, ODF: any stop stops all. Buzacott 1967, where
    each machine wears for its own cycle only."""
    return 1 / (max(cycles) + sum(t * down / up for t, up, down in zip(cycles, mtbf, mttr, strict=True)))


class TwoMachines(NamedTuple):
    """A two-machine line in the long run: parts per cycle; share of time that the second starves and that the first is blocked."""

    throughput: float
    starved: float
    blocked: float


def two_slotted_machines(r: tuple[float, float], p: tuple[float, float], n: int) -> TwoMachines:
    """Two machines in step, each cycle a working one fails with p, a failed one is repaired with r, ODF; `n` (4 or more) counts the
    places in both machines: slots between them + 2. The closed form of Gershwin 1994, chapter 3 (Buzacott 1967, Gershwin & Schick 1980):
    geometric inside, with eight states at the borders.
    """
    _require(n >= 4, f"n {n} must be 4 or more: it counts two places in the machines")
    (r1, r2), (p1, p2) = r, p
    up1, up2 = r1 + r2 - r1 * r2 - r1 * p2, r1 + r2 - r1 * r2 - r2 * p1
    down1, down2 = p1 + p2 - p1 * p2 - r2 * p1, p1 + p2 - p1 * p2 - r1 * p2
    y1, y2 = up1 / down1, up2 / down2
    x = y2 / y1
    inside = sum(x**k for k in range(2, n - 1))
    last = x ** (n - 1)
    empty, both_low = x * up1 / (r1 * p2), x * up1 / (p2 * down2)
    full, both_high = last * up2 / (r2 * p1), last * up2 / (p1 * down1)
    low, high = x * (1 + y2) + both_low, last * (1 + y1) + both_high
    total = empty + low + inside * (1 + y1) * (1 + y2) + high + full
    # The second works where it is up and not starved.
    works = x * y2 + both_low + inside * (1 + y1) * y2 + both_high
    return TwoMachines(works / total, empty / total, full / total)


def two_fluid_machines(
    mttf: tuple[float, float], mttr: tuple[float, float], room: float, failures: Literal["operation", "time"] = "operation"
) -> float:
    """Two machines of speed 1 with a tank of `room` between them, exponential times to failure and repair; a discrete line of cycle 1 with
    room - 1 slots comes near. Zimmern 1956, Gershwin & Schick 1980 (ODF); for TDF the same inside, other masses at the borders.

    Inside the density is C exp(k x) Y^(machines up): net flow through each level is zero, so that there is one exponent only.
    """
    p1, p2 = (1 / t for t in mttf)
    r1, r2 = (1 / t for t in mttr)
    y = (r1 + r2) / (p1 + p2)
    k = (r1 * p2 - p1 * r2) * (1 / (p1 + p2) + 1 / (r1 + r2))
    inside = math.expm1(k * room) / k if abs(k * room) > 1e-12 else room
    top = math.exp(k * room)
    works, total = inside * y * (1 + y), inside * (1 + y) ** 2
    # At a border one machine waits for the other: (its repair, failure of the one that waits, height of the density).
    for repair, waits, height in ((r1, p2, 1.0), (r2, p1, top)):
        if failures == "operation":
            waiting = height * (r1 + r2) / (repair * waits)
            both_down = 0.0
        else:
            waiting = height * y / (repair * waits * (1 / (p1 + p2) + 1 / (r1 + r2)))
            both_down = waiting * waits / (r1 + r2)
        both_up = repair * waiting / (p1 + p2)
        works += both_up
        total += both_up + waiting + both_down
    return works / total


def two_bernoulli_machines(p1: float, p2: float, n: int) -> float:
    """Two machines that make a part in each cycle with probability p1 and p2, a buffer of `n` before the second one that counts its own
    place; blocked before service (Li & Meerkov 2009, chapter 4)."""
    if p1 == p2:
        empty = (1 - p1) / (n + 1 - p1)
    else:
        a = p1 * (1 - p2) / (p2 * (1 - p1))
        empty = (1 - p1) * (1 - a) / (1 - p1 / p2 * a**n)
    return p2 * (1 - empty)


def slotted_line(r: Sequence[float], p: Sequence[float], n: Sequence[int], rounds: int = 1000) -> float:
    """A longer line of the kind of `two_slotted_machines`, approximately: each buffer seen as a line of two machines whose failures
    include starving and blocking from further away. The algorithm of Dallery, David & Xie 1988.

    Against exact three-machine chains it errs by less than 1 % where repairs are alike, by up to 2 % where they differ twentyfold.
    """
    lines = len(n)
    _require(lines == len(r) - 1 == len(p) - 1, f"{len(r)} machines need {len(r) - 1} buffers, got {lines}")
    up, down = list(zip(r, p, strict=True))[:-1], list(zip(r, p, strict=True))[1:]

    def two(i: int) -> TwoMachines:
        return two_slotted_machines((up[i][0], down[i][0]), (up[i][1], down[i][1]), n[i])

    def seen(
        machine: int, other: TwoMachines, other_side: tuple[float, float], far: tuple[float, float], waits: float
    ) -> tuple[float, float]:
        """(r, p) of a machine together with what lies beyond the line `other`: of its stops, `waits` are of the far side."""
        idle = 1 / other.throughput + p[machine] / r[machine] - other_side[1] / other_side[0] - 1
        share = waits / (idle * other.throughput)
        repair = share * far[0] + (1 - share) * r[machine]
        return repair, idle * repair

    before = 0.0
    for _ in range(rounds):
        for i in range(1, lines):
            line = two(i - 1)
            up[i] = seen(i, line, down[i - 1], up[i - 1], line.starved)
        for i in range(lines - 2, -1, -1):
            line = two(i + 1)
            down[i] = seen(i + 1, line, up[i + 1], down[i + 1], line.blocked)
        now = two(0).throughput
        if abs(now - before) < 1e-12:
            break
        before = now
    return now


# Queues


def _stable(rho: float) -> None:
    _require(0 <= rho < 1, f"utilisation {rho} must be below 1: the queue grows without end")


def mg1_wait(rate: float, mean: float, scv: float) -> float:
    """Mean wait before service in M/G/1, `scv`: squared coefficient of variation of the service (Pollaczek 1930, Khinchine 1932)."""
    rho = rate * mean
    _stable(rho)
    return rho * mean * (1 + scv) / (2 * (1 - rho))


def md1_wait(rate: float, time: float) -> float:
    """Mean wait before a fixed service: rho t / (2 (1 - rho)) (Erlang 1909)."""
    return mg1_wait(rate, time, 0.0)


def mm1_wait(rate: float, mean: float) -> float:
    """Mean wait before an exponential service: rho / (mu (1 - rho)) (Erlang 1917)."""
    return mg1_wait(rate, mean, 1.0)


def mm1_number(rho: float) -> float:
    """Mean number in M/M/1: rho / (1 - rho) (Erlang 1917)."""
    _stable(rho)
    return rho / (1 - rho)


def erlang_b(servers: int, load: float) -> float:
    """Share of arrivals that find all servers busy and leave, `load` = rate x service (Erlang 1917), by recursion over the servers."""
    lost = 1.0
    for n in range(1, servers + 1):
        lost = load * lost / (n + load * lost)
    return lost


def erlang_c(servers: int, load: float) -> float:
    """Share of arrivals of M/M/c that must wait (Erlang 1917), from Erlang B."""
    rho = load / servers
    _stable(rho)
    lost = erlang_b(servers, load)
    return lost / (1 - rho * (1 - lost))


def mmc_wait(servers: int, rate: float, mu: float) -> float:
    """Mean wait before service in M/M/c: Erlang C / (c mu - rate)."""
    return erlang_c(servers, rate / mu) / (servers * mu - rate)


def tandem_number(rate: float, mu: Sequence[float]) -> float:
    """Mean number in single exponential servers in series with Poisson arrivals: each as if alone, sum rho / (1 - rho) (Jackson 1957)."""
    return sum(mm1_number(rate / m) for m in mu)
