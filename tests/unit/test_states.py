"""States of machines are decoded as strictly as cells, and counted with them."""

from __future__ import annotations

from typing import Any

import pytest

from mes import contract, states
from mes.batch import Batch
from mes.contract import CellEvent, encode
from mes.equipment import Equipment, Line, Machine, Station
from mes.ledger import Ledger
from mes.states import StateEvent

GOOD = {"boot": 17, "seq": 18841, "timestamp_ms": 1789000000123, "state": "held", "reason": "separator reel is empty"}
CELLS = contract.machine_topic("nanjing", "cells", "32140-1", "wnd", "03", "cell")
STATES = contract.machine_topic("nanjing", "cells", "32140-1", "wnd", "03", "state")
EQUIPMENT = Equipment(Line(1, "nanjing", "cells", "32140-1"), [Machine(7, CELLS, Station(10, contract.Station([], []), (), {}))])


def changed(seq: int, **changes: Any) -> StateEvent:
    return StateEvent(**{"boot": 1, "seq": seq, "timestamp_ms": 1789000000000 + seq, "state": "execute", **changes})


def cell(seq: int) -> CellEvent:
    return CellEvent(boot=1, seq=seq, timestamp_ms=1789000000000 + seq, unit=f"U{seq}", attempt=1, result="pass", cycle_s=7.0)


def test_an_event_and_a_backlog_are_understood() -> None:
    event = StateEvent(17, 18841, 1789000000123, "held", "separator reel is empty")
    assert states.decode(encode(GOOD)) == ([event], [])
    assert states.decode(encode([event, changed(2)])) == ([event, changed(2)], [])
    assert states.decode(b'{"boot":1,"seq":2,"timestamp_ms":1789000000002,"state":"execute"}') == ([changed(2)], [])


@pytest.mark.parametrize("state", states.State.__args__)  # type: ignore[attr-defined]
def test_all_states_of_packml_are_known_by_name(state: str) -> None:
    assert states.decode(encode(GOOD | {"state": state}))[0][0].state == state


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (encode(GOOD | {"state": "Execute"}), "invalid"),
        (encode(GOOD | {"state": 6}), "invalid"),
        (encode(GOOD | {"reason": ""}), "invalid"),
        (encode(GOOD | {"reason": "x" * 201}), "invalid"),
        (encode(GOOD | {"unit": "NJ1"}), "invalid"),
        (encode(GOOD | {"seq": 0}), "invalid"),
        (encode(GOOD | {"seq": 2**63}), "invalid"),
        (encode(GOOD | {"timestamp_ms": 1}), "invalid"),
        (encode({k: v for k, v in GOOD.items() if k != "state"}), "invalid"),
        (encode(GOOD | {"reason": "a\0b"}), "nul"),
        (encode(GOOD).replace(b'"seq":', b'"seq":1,"seq":'), "duplicate_key"),
        (encode(GOOD)[:-1], "not_json"),
        (b"", "not_json"),
        (b" " * 5000 + encode(GOOD), "oversize"),
        (encode([GOOD] * 257), "oversize"),
        (encode([GOOD] * 256) + b" " * 65536, "oversize"),
    ],
)
def test_what_is_wrong_is_named(payload: bytes, reason: str) -> None:
    events, rejects = states.decode(payload)
    assert (list(events), [r.reason for r in rejects], [r.payload for r in rejects]) == ([], [reason], [payload])


def test_a_bad_one_takes_no_neighbour_along() -> None:
    events, rejects = states.decode(b"[" + b",".join((encode(changed(1)), encode(GOOD | {"state": "busy"}), encode(changed(3)))) + b"]")
    assert [e.seq for e in events] == [1, 3]
    assert [(r.reason, r.boot, r.seq) for r in rejects] == [("invalid", 17, 18841)]


def test_cells_and_states_of_a_machine_are_one_count() -> None:
    batch, ledger = Batch(), Ledger()
    batch.add(CELLS, encode([cell(1), cell(3)]), EQUIPMENT, ledger)
    batch.add(STATES, encode([changed(2), changed(2), changed(3)]), EQUIPMENT, ledger, times=2)
    assert [(s.machine_id, s.station_id, s.event.seq) for s in batch.states] == [(7, 10, 2)]
    assert (batch.events, batch.received[7, 1].ranges, batch.duplicates) == (2, [(1, 4)], {(7, 1): 5})
