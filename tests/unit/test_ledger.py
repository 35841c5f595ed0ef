"""The ledger remembers exactly which sequence numbers came: a set of integers, kept as ranges."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mes.ledger import Ledger, Received

LARGEST = 2**63 - 1
NEAR = st.integers(1, 40)
ANY = st.one_of(NEAR, st.integers(1, LARGEST), st.integers(LARGEST - 5, LARGEST))


def ranges_of(numbers: set[int]) -> list[tuple[int, int]]:
    """Disjoint, in order, and as long as can be."""
    return [(n, next(m for m in range(n + 1, n + len(numbers) + 1) if m not in numbers)) for n in sorted(numbers) if n - 1 not in numbers]


class ReceivedIsASet(RuleBasedStateMachine):
    """Adding and extending in any order, also after a restart, equals adding to a set."""

    @initialize(numbers=st.sets(NEAR, max_size=10))
    def load(self, numbers: set[int]) -> None:
        self.numbers = set(numbers)
        self.received = Received(reversed(ranges_of(numbers)))

    @rule(seq=ANY)
    def add(self, seq: int) -> None:
        assert self.received.add(seq) == (seq not in self.numbers)
        self.numbers.add(seq)

    @rule(first=ANY, n=st.integers(1, 12))
    def extend(self, first: int, n: int) -> None:
        beyond = first > max(self.numbers, default=0)
        assert self.received.extend(first, n) == beyond
        if beyond:
            self.numbers.update(range(first, first + n))

    @rule(n=st.integers(1, 12))
    def extend_in_order(self, n: int) -> None:
        self.extend(max(self.numbers, default=0) + 1, n)

    @rule()
    def restart(self) -> None:
        self.received = Received(self.received.ranges)

    @rule(seq=ANY)
    def ask(self, seq: int) -> None:
        assert (seq in self.received) == (seq in self.numbers)

    @invariant()
    def ranges_are_disjoint_sorted_and_maximal(self) -> None:
        assert self.received.ranges == ranges_of(self.numbers)


ReceivedIsASet.TestCase.settings = settings(deadline=None, max_examples=40, stateful_step_count=30)
test_received_is_a_set = ReceivedIsASet.TestCase


@given(st.lists(st.integers(1, 30)))
@settings(deadline=None, max_examples=200)
def test_any_order_with_repeats_gives_the_same_ranges(numbers: list[int]) -> None:
    received = Received()
    new = [received.add(n) for n in numbers]
    assert new == [n not in numbers[:at] for at, n in enumerate(numbers)]
    assert received.ranges == ranges_of(set(numbers))


def test_in_order_is_one_range_and_the_last_gap_closes_it() -> None:
    received = Received()
    assert all(received.add(n) for n in (1, 2, 3, 5, 6))
    assert received.ranges == [(1, 4), (5, 7)]
    assert received.add(4)
    assert received.ranges == [(1, 7)]
    assert not any(received.add(n) for n in range(1, 7))


def test_a_row_that_lies_partly_behind_is_left_alone() -> None:
    received = Received([(1, 10)])
    assert not received.extend(9, 5)
    assert received.ranges == [(1, 10)]
    assert received.extend(12, 3)
    assert not received.extend(10, 2)
    assert received.ranges == [(1, 10), (12, 15)]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2), st.integers(1, 6), st.integers(1, 3)), max_size=40))
@settings(deadline=None, max_examples=50)
def test_machines_and_boots_are_apart(calls: list[tuple[int, int, int, int]]) -> None:
    ledger, seen = Ledger(), set[tuple[int, int, int]]()
    for machine, boot, seq, n in calls:
        if n == 1:
            assert ledger.add(machine, boot, seq) == ((machine, boot, seq) not in seen)
            seen.add((machine, boot, seq))
        elif ledger.extend(machine, boot, seq, n):
            assert not seen.intersection((machine, boot, seq + k) for k in range(n))
            seen.update((machine, boot, seq + k) for k in range(n))
    for machine, boot in {(m, b) for m, b, _, _ in calls}:
        assert ledger.of(machine, boot).ranges == ranges_of({seq for m, b, seq in seen if (m, b) == (machine, boot)})


def test_a_ledger_goes_on_from_what_is_stored() -> None:
    ledger = Ledger({(7, 1): Received([(1, 100)])})
    assert not ledger.add(7, 1, 99)
    assert ledger.add(7, 1, 100)
    assert ledger.add(7, 2, 99)
    assert ledger.extend(7, 1, 101, 10)
    assert ledger.of(7, 1).ranges == [(1, 111)]
    assert ledger.of(8, 1).ranges == []
