"""Closed forms and Markov chains give the figures of the table (tests/oracles/sim_oracles.csv), and of each other."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators import theory
from tests import markov

ORACLES = Path(__file__).resolve().parents[1] / "oracles" / "sim_oracles.csv"
with ORACLES.open(encoding="utf-8", newline="") as file:
    ROWS = {row["name"]: (json.loads(row["parameters"]), float(row["expected"])) for row in csv.DictReader(file)}


def rates(some: dict[str, Any]) -> list[float]:
    return [c / t for c, t in zip(some.get("servers", [1] * len(some["t"])), some["t"], strict=True)]


def queue(some: dict[str, Any]) -> float:
    return theory.mg1_wait(some["lam"], some["mean"], some["scv"])


# beginning of a row's name: what the closed form gives
CLOSED: dict[str, Callable[[dict[str, Any]], float]] = {
    "HB_N2": lambda q: theory.two_exponential_servers(1 / q["mu"][0], q["buffer"]),
    "2st_B0_uniform": lambda _: theory.two_uniform_servers(0, 2),
    "2st_B0_exp": lambda _: theory.paced_bound([1.0, 1.0]),
    "packaging_line": lambda q: theory.infinite_buffer_bound(rates(q)),
    "det_parallel": lambda q: theory.infinite_buffer_bound(rates(q)),
    "makespan": lambda q: theory.makespan_of_alike(q["t"], q["n"]),
    "Buzacott": lambda q: theory.zero_buffer_line(q["p"], q["r"]),
    "isolated": lambda q: theory.availability(q["MTBF"], q["MTTR"]),
    "slotted2": lambda q: theory.two_slotted_machines(q["r"], q["p"], q["N"]).throughput,
    "fluid2_ODF": lambda q: theory.two_fluid_machines(q["MTTF"], q["MTTR"], q["fluid_N"]),
    "fluid2_TDF": lambda q: theory.two_fluid_machines(q["MTTF"], q["MTTR"], q["fluid_N"], "time"),
    "bernoulli2": lambda q: theory.two_bernoulli_machines(*q["p"], q["N"]),
    "MM1_L": lambda q: theory.mm1_number(q["rho"]),
    "MM1_Wq": lambda q: theory.mm1_wait(q["lam"], 1 / q["mu"]),
    "MD1_Wq": lambda q: theory.md1_wait(q["lam"], q["t"]),
    "MG1": queue,
    "MMc_Pwait": lambda q: theory.erlang_c(q["c"], q["a"]),
    "MMc_Wq": lambda q: theory.mmc_wait(q["c"], q["lam"], q["mu"]),
    "ErlangB": lambda q: theory.erlang_b(q["c"], q["a"]),
    "Jackson": lambda q: theory.tandem_number(q["lam"], q["mu"]),
    "RTY": lambda q: theory.rolled_throughput_yield(q["fpy"]),
    "rework": lambda q: theory.yield_with_rework(q["first_pass"], 1.0, q["rework_success"], q["max_rework"]),
    "geometric": lambda q: theory.attempts_without_end(q["fail"], q["rework_share"]),
}


def exponential(q: dict[str, Any]) -> float:
    mu = q.get("mu") or q["mu_per_server"]
    servers = q.get("servers") if "mu_per_server" in q else None
    return markov.exponential_line(mu, q.get("buffers") or [q["buffer"]] * (len(mu) - 1), servers, q.get("p"), q.get("r"))


def several(n: int | list[int]) -> list[int]:
    return [n] if isinstance(n, int) else n


CHAINS: dict[str, Callable[[dict[str, Any]], float]] = {
    "HB_": exponential,
    "SimOpt": exponential,
    "exp": exponential,
    "slotted": lambda q: markov.slotted_line(q["r"], q["p"], several(q["N"])),
    "bernoulli": lambda q: markov.bernoulli_line(q["p"], several(q["N"])),
}
WAYS = [
    pytest.param(name, way, id=f"{name}-{kind}")
    for kind, ways in (("closed", CLOSED), ("chain", CHAINS))
    for beginning, way in ways.items()
    for name in ROWS
    if name.startswith(beginning)
]


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_the_table(name: str, way: Callable[[dict[str, Any]], float]) -> None:
    parameters, expected = ROWS[name]
    assert way(parameters) == pytest.approx(expected, rel=1e-9)


def test_every_row_of_the_table_is_reckoned() -> None:
    assert len(ROWS) == 60
    assert {name for name in ROWS if not name.startswith((*CLOSED, *CHAINS))} == set()


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("slotted3")])
def test_decomposition_comes_within_a_percent_of_the_exact_chain(name: str) -> None:
    parameters, expected = ROWS[name]
    assert theory.slotted_line(parameters["r"], parameters["p"], parameters["N"]) == pytest.approx(expected, rel=0.01)


chance = st.floats(0.02, 0.6)
repair = st.floats(0.1, 0.9)
few = st.integers(0, 3)


@given(st.tuples(repair, repair), st.tuples(chance, chance), st.integers(4, 12))
@settings(deadline=None, max_examples=50)
def test_slotted_machines_are_their_chain(r: tuple[float, float], p: tuple[float, float], n: int) -> None:
    line = theory.two_slotted_machines(r, p, n)
    assert line.throughput == pytest.approx(markov.slotted_line(r, p, [n]), rel=1e-9)
    # Both make the same: a machine that is not waiting works for its availability.
    assert line.throughput == pytest.approx((1 - line.starved) * r[1] / (r[1] + p[1]), rel=1e-9)
    assert line.throughput == pytest.approx((1 - line.blocked) * r[0] / (r[0] + p[0]), rel=1e-9)


@given(st.floats(0.05, 0.99), st.floats(0.05, 0.99), st.integers(1, 8))
@settings(deadline=None, max_examples=50)
def test_bernoulli_machines_are_their_chain_and_its_reverse(p1: float, p2: float, n: int) -> None:
    throughput = theory.two_bernoulli_machines(p1, p2, n)
    assert throughput == pytest.approx(markov.bernoulli_line([p1, p2], [n]), rel=1e-7)
    assert throughput == pytest.approx(theory.two_bernoulli_machines(p2, p1, n), rel=1e-7)


@given(st.lists(st.floats(0.5, 2.0), min_size=2, max_size=4), few)
@settings(deadline=None, max_examples=30)
def test_chains_lie_between_the_bounds_and_keep_their_throughput_reversed(mu: list[float], buffer: int) -> None:
    buffers = [buffer, *[1] * (len(mu) - 2)]
    exact = markov.exponential_line(mu, buffers)
    assert theory.paced_bound([1 / m for m in mu]) - 1e-9 <= exact <= theory.infinite_buffer_bound(mu)
    assert markov.exponential_line(mu[::-1], buffers[::-1]) == pytest.approx(exact, rel=1e-9)
    assert markov.exponential_line(mu, [buffer + 1, *buffers[1:]]) >= exact


@given(st.tuples(chance, chance, chance), st.tuples(repair, repair, repair), st.integers(0, 1))
@settings(deadline=None, max_examples=20)
def test_failures_of_a_chain_cost_at_most_what_they_cost_without_buffers(
    p: tuple[float, float, float], r: tuple[float, float, float], buffer: int
) -> None:
    mu = [1.0, 1.2, 1.1]
    exact = markov.exponential_line(mu, [buffer, buffer], p=p, r=r)
    stops = sum(fail / (rate * mend) for fail, rate, mend in zip(p, mu, r, strict=True))
    assert 1 / (1 / theory.paced_bound([1 / m for m in mu]) + stops) <= exact
    assert exact <= min(m * mend / (mend + fail) for m, fail, mend in zip(mu, p, r, strict=True))


@given(st.lists(st.tuples(st.floats(0.05, 0.2), st.floats(0.005, 0.02)), min_size=3, max_size=3), st.integers(4, 7), st.integers(4, 7))
@settings(deadline=None, max_examples=15)
def test_decomposition_comes_within_a_percent_of_any_chain(machines: list[tuple[float, float]], first: int, second: int) -> None:
    r, p = zip(*machines, strict=True)
    assert theory.slotted_line(r, p, [first, second]) == pytest.approx(markov.slotted_line(r, p, [first, second]), rel=0.01)


def test_decomposition_weighs_long_and_short_stops() -> None:
    r, p, n = (0.4, 0.02, 0.4), (0.02, 0.002, 0.08), (7, 7)
    assert theory.slotted_line(r, p, n) == pytest.approx(markov.slotted_line(r, p, n), rel=0.01)


def test_decomposition_of_longer_lines() -> None:
    two = theory.two_slotted_machines((0.1, 0.1), (0.01, 0.01), 10).throughput
    assert theory.slotted_line([0.1, 0.1], [0.01, 0.01], [10]) == two
    lengths = [theory.slotted_line([0.1] * k, [0.01] * k, [10] * (k - 1)) for k in (2, 3, 5, 10, 20)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] > theory.zero_buffer_line([0.01] * 20, [0.1] * 20)
    r, p, n = [0.1, 0.2, 0.15, 0.1], [0.01, 0.03, 0.01, 0.005], [6, 9, 5]
    assert theory.slotted_line(r, p, n) == pytest.approx(theory.slotted_line(r[::-1], p[::-1], n[::-1]), rel=1e-6)


times = st.floats(50.0, 5000.0)
repairs = st.floats(5.0, 500.0)


@given(st.tuples(times, times), st.tuples(repairs, repairs), st.floats(1.0, 500.0))
def test_fluid_machines(mttf: tuple[float, float], mttr: tuple[float, float], room: float) -> None:
    worn, aged = (theory.two_fluid_machines(mttf, mttr, room, mode) for mode in ("operation", "time"))  # type: ignore[arg-type]
    alone = [theory.availability(up, down) for up, down in zip(mttf, mttr, strict=True)]
    without = theory.zero_buffer_line([1 / t for t in mttf], [1 / t for t in mttr])
    assert without <= worn * (1 + 1e-9)
    assert math.prod(alone) <= aged * (1 + 1e-9)
    assert aged <= worn * (1 + 1e-9)
    assert worn <= min(alone) * (1 + 1e-9)
    assert theory.two_fluid_machines(mttf, mttr, 1e-9) == pytest.approx(without, rel=1e-6)
    assert theory.two_fluid_machines(mttf, mttr, 1e-9, "time") == pytest.approx(math.prod(alone), rel=1e-6)
    assert theory.two_fluid_machines(mttf[::-1], mttr[::-1], room) == pytest.approx(worn, rel=1e-9)


def test_fluid_machines_that_are_alike_need_no_exponent() -> None:
    """At equal ratios of failure and repair the exponent is 0, and near them it makes no difference."""
    equal, near = (theory.two_fluid_machines((1000.0, 1000.0 + d), (50.0, 50.0), 100.0) for d in (0.0, 1e-6))
    assert equal == pytest.approx(near, rel=1e-8)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(0, 4))
def test_rework_is_what_following_each_outcome_gives(first_pass: float, share: float, success: float, most: int) -> None:
    def follow(attempt: int, good: float) -> tuple[float, float]:
        """Share good and visits from this attempt on."""
        if attempt > most:
            return good, 1.0
        later, visits = follow(attempt + 1, success)
        return good + (1 - good) * share * later, 1 + (1 - good) * share * visits

    good, visits = follow(1, first_pass)
    assert theory.yield_with_rework(first_pass, share, success, most) == pytest.approx(good, abs=1e-12)
    assert theory.visits_with_rework(first_pass, share, success, most) == pytest.approx(visits, rel=1e-12)


@given(st.lists(st.lists(st.floats(0.1, 5.0), min_size=3, max_size=3), min_size=1, max_size=6))
def test_makespan(jobs: list[list[float]]) -> None:
    whole = theory.makespan(jobs)
    assert whole >= max(sum(job) for job in jobs)
    assert whole >= max(sum(job[i] for job in jobs) for i in range(3))
    assert theory.makespan([job[::-1] for job in jobs][::-1]) == pytest.approx(whole)
    assert theory.makespan([jobs[0]] * 7) == pytest.approx(theory.makespan_of_alike(jobs[0], 7))


@given(st.integers(1, 40), st.floats(0.01, 30.0))
def test_erlang(servers: int, load: float) -> None:
    terms = [load**n / math.factorial(n) for n in range(servers + 1)]
    assert theory.erlang_b(servers, load) == pytest.approx(terms[-1] / sum(terms), rel=1e-9)
    if load < servers:
        waiting = terms[-1] * servers / (servers - load)
        assert theory.erlang_c(servers, load) == pytest.approx(waiting / (sum(terms[:-1]) + waiting), rel=1e-9)


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("HB")])
def test_bounds_hold_for_the_table(name: str) -> None:
    parameters, expected = ROWS[name]
    assert theory.paced_bound([1 / m for m in parameters["mu"]]) <= expected + 1e-9 < theory.infinite_buffer_bound(parameters["mu"])


def test_one_server_is_a_queue_of_one() -> None:
    assert theory.mmc_wait(1, 0.8, 1.0) == pytest.approx(theory.mm1_wait(0.8, 1.0))
    assert theory.little(0.8, theory.mm1_wait(0.8, 1.0) + 1.0) == pytest.approx(theory.mm1_number(0.8))


def test_zero_buffer_bound_of_machines_alike_is_the_line_of_buzacott() -> None:
    bound = theory.zero_buffer_bound([2.0] * 3, [100.0, 50.0, 200.0], [10.0, 5.0, 10.0])
    assert bound == pytest.approx(theory.zero_buffer_line([2 / 100, 2 / 50, 2 / 200], [2 / 10, 2 / 5, 2 / 10]) / 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: theory.availability(0, 1),
        lambda: theory.capacity(0, 1, 1),
        lambda: theory.takt(86400, 0),
        lambda: theory.mm1_number(1.0),
        lambda: theory.erlang_c(2, 2.0),
        lambda: theory.md1_wait(1.5, 1.0),
        lambda: theory.attempts_without_end(1.0, 1.0),
        lambda: theory.two_slotted_machines((0.1, 0.1), (0.01, 0.01), 3),
        lambda: theory.slotted_line([0.1] * 3, [0.01] * 3, [5]),
    ],
)
def test_what_has_no_answer_is_refused(call: Callable[[], float]) -> None:
    with pytest.raises(ValueError, match=r"must|need"):
        call()
