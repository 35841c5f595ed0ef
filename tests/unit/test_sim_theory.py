"""Closed forms against the table of oracles, and small Markov chains against both."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulators import theory
from tests import markov

with (Path(__file__).resolve().parents[1] / "oracles" / "sim_oracles.csv").open(encoding="utf-8", newline="") as file:
    ROWS = {row["name"]: (json.loads(row["parameters"]), float(row["expected"])) for row in csv.DictReader(file)}


def slotted(p: Any) -> float:
    (r1, r2), (p1, p2) = p["r"], p["p"]
    return theory.two_slotted_machines((r1, r2), (p1, p2), p["N"]).throughput


def fluid(p: Any, failures: Any) -> float:
    (a, b), (c, d) = p["MTTF"], p["MTTR"]
    return theory.two_fluid_machines((a, b), (c, d), p["fluid_N"], failures)


FORMS: dict[str, Callable[[Any], float]] = {
    **{f"HB_N2_B{b}": lambda p: theory.two_exponential_servers(1 / p["mu"][0], p["buffer"]) for b in range(5)},
    "2st_B0_uniform(0,2)": lambda _: theory.two_uniform_servers(0, 2),
    "2st_B0_exponential": lambda _: theory.paced_bound([1, 1]),
    "packaging_line_det": lambda p: theory.infinite_buffer_bound([1 / t for t in p["t"]]),
    "det_parallel_rate": lambda p: theory.infinite_buffer_bound(
        [theory.capacity(c, 1, t) for c, t in zip(p["servers"], p["t"], strict=True)]
    ),
    "makespan_det_flow": lambda p: theory.makespan_of_alike(p["t"], p["n"]),
    "Buzacott_zero_buffer_ODF": lambda p: theory.zero_buffer_line(p["p"], p["r"]),
    "isolated_availability": lambda p: theory.availability(p["MTBF"], p["MTTR"]),
    **{name: slotted for name in ROWS if name.startswith("slotted2")},
    **{name: (lambda p: fluid(p, "operation")) for name in ROWS if name.startswith("fluid2_ODF")},
    **{name: (lambda p: fluid(p, "time")) for name in ROWS if name.startswith("fluid2_TDF")},
    **{name: (lambda p: theory.two_bernoulli_machines(*p["p"], p["N"])) for name in ROWS if name.startswith("bernoulli2")},
    "MM1_L": lambda p: theory.mm1_number(p["rho"]),
    "MD1_Wq": lambda p: theory.md1_wait(p["lam"], p["t"]),
    "MM1_Wq": lambda p: theory.mm1_wait(p["lam"], 1 / p["mu"]),
    "MG1_PK_Erlang2_Wq": lambda p: theory.mg1_wait(p["lam"], p["mean"], p["scv"]),
    "MMc_Pwait_c4_a3.2": lambda p: theory.erlang_c(p["c"], p["a"]),
    "MMc_Wq_c4_a3.2": lambda p: theory.mmc_wait(p["c"], p["lam"], p["mu"]),
    "ErlangB_c10_a5": lambda p: theory.erlang_b(p["c"], p["a"]),
    "Jackson_tandem_3": lambda p: theory.tandem_number(p["lam"], p["mu"]),
    "RTY": lambda p: theory.rolled_throughput_yield(p["fpy"]),
    "rework_immediate_yield": lambda p: theory.yield_with_rework(p["first_pass"], 1.0, p["rework_success"], p["max_rework"]),
    "geometric_rework_attempts": lambda p: theory.attempts_without_end(p["fail"], p["rework_share"]),
}


@pytest.mark.parametrize("name", FORMS)
def test_closed_form(name: str) -> None:
    parameters, expected = ROWS[name]
    assert FORMS[name](parameters) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("slotted3")])
def test_decomposition_of_a_longer_line(name: str) -> None:
    p, expected = ROWS[name]
    assert theory.slotted_line(p["r"], p["p"], p["N"]) == pytest.approx(expected, rel=0.01)


def balanced(p: Any) -> float:
    return markov.exponential_line(p["mu"], [p["buffer"]] * (len(p["mu"]) - 1))


CHAINS: dict[str, Callable[[Any], float]] = {
    **{n: balanced for n in ROWS if n.startswith("HB") and n < "HB_N6"},
    "exp_4st_unbal": lambda p: markov.exponential_line(p["mu"], p["buffers"]),
    "exp_parallel_c22_B2": lambda p: markov.exponential_line(p["mu_per_server"], p["buffers"], p["servers"]),
    "exp_parallel_c444_B00": lambda p: markov.exponential_line(p["mu_per_server"], p["buffers"], p["servers"]),
    "exp3_unrel_ODF": lambda p: markov.exponential_line(p["mu"], p["buffers"], p=p["p"], r=p["r"]),
    **{n: (lambda p: markov.slotted_line(p["r"], p["p"], p["N"])) for n in ROWS if n.startswith("slotted3")},
    "bernoulli5_.9_N3": lambda p: markov.bernoulli_line(p["p"], p["N"]),
}


@pytest.mark.parametrize("name", CHAINS)
def test_exact_chain(name: str) -> None:
    """The chains that lines beyond the table can be compared with."""
    parameters, expected = ROWS[name]
    assert CHAINS[name](parameters) == pytest.approx(expected, rel=1e-8)


def test_retries_add_up() -> None:
    """Visits and yields of a limited number of retries approach those without end."""
    assert theory.visits_with_rework(0.97, 0.6, 0.97, 200) == pytest.approx(theory.attempts_without_end(0.03, 0.6))
    assert theory.yield_with_rework(0.9, 0.0, 0.5, 3) == 0.9
    assert theory.yield_with_rework(0.9, 1.0, 1.0, 1) == 1.0
    assert theory.visits_with_rework(0.9, 0.5, 0.7, 0) == 1.0


def test_makespan_of_alike_is_the_recursion() -> None:
    times = [0.8, 0.7, 0.86, 0.5]
    assert theory.makespan([times] * 50) == pytest.approx(theory.makespan_of_alike(times, 50))


@pytest.mark.parametrize(
    "impossible",
    [
        lambda: theory.availability(0, 1),
        lambda: theory.mm1_wait(1.0, 1.0),
        lambda: theory.erlang_c(2, 2.0),
        lambda: theory.two_slotted_machines((0.1, 0.1), (0.01, 0.01), 3),
        lambda: theory.takt(10, 0),
        lambda: theory.attempts_without_end(1.0, 1.0),
    ],
)
def test_impossible_values_are_refused(impossible: Callable[[], float]) -> None:
    with pytest.raises(ValueError, match="must"):
        impossible()


def test_bounds_hold_for_every_row_of_single_exponential_servers() -> None:
    for name, (p, expected) in ROWS.items():
        if name.startswith("HB"):
            rates = p["mu"]
            assert theory.paced_bound([1 / m for m in rates]) <= expected + 1e-9 < theory.infinite_buffer_bound(rates)
    assert math.isfinite(theory.zero_buffer_bound([1.0, 2.0], [100, 100], [5, 5]))
