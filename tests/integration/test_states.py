"""States of machines, from the topic to the view: each once, in the ledger of their machine's cells."""

from __future__ import annotations

from typing import Any

from mes.contract import encode
from mes.states import StateEvent
from mes.store import quarantine
from mes.store.quarantine import Selection
from tests.pipeline import AT_MS, WND, Gateway, event, rows, service, sessions_held, value
from tests.servers import wait_for

Parts = tuple[str, str]
STATES = WND.replace("/_cell_v1/completed", "/_state_v1/changed")


def changed(seq: int, state: str, **changes: Any) -> StateEvent:
    return StateEvent(**{"boot": 1, "seq": seq, "timestamp_ms": AT_MS + 1000 * seq, "state": state, **changes})


def test_states_become_rows_among_the_cells_of_their_machine(parts: Parts) -> None:
    database, broker = parts
    held = changed(2, "held", reason="separator reel is empty")
    with Gateway(broker) as gateway:
        with service("ingest", database, broker):
            sessions_held(database)
            gateway.cells(WND, [event(1), event(4)])
            gateway.send([(STATES, encode(held)), (STATES, encode([changed(3, "execute"), held])), (STATES, encode(changed(5, "busy")))])
            gateway.send([(STATES, encode(changed(6, "aborted", timestamp_ms=AT_MS + 3500)))])
            wait_for(lambda: value(database, "SELECT min(received::text) FROM mes.machine_ledger") == "{[1,7)}", 30, "all of it received")
        assert rows(database, "SELECT reason, boot, seq FROM mes.quarantine") == [("invalid", 1, 5)]
        rows(database, "DELETE FROM mes.machine_ledger RETURNING 1")
        with service("ingest", database, broker):  # the key is the second line
            gateway.send([(STATES, encode([held, changed(7, "execute")])), (WND, encode([event(1), event(8)]))])
            wait_for(lambda: value(database, "SELECT count(*) FROM mes.cell_event") == 3, 30, "the last cell")
            wait_for(lambda: value(database, "SELECT sum(duplicates) FROM mes.machine_ledger") == 2, 30, "duplicates")
    assert rows(
        database,
        "SELECT machine, state, reason, extract(epoch FROM ended_at - began_at)::float FROM report.machine_state ORDER BY began_at",
    ) == [
        ("01", "held", "separator reel is empty", 1.0),
        ("01", "execute", None, 0.5),
        ("01", "aborted", None, 3.5),
        ("01", "execute", None, None),
    ]


def test_a_state_that_was_not_understood_is_replayed_after_a_fix(database: str, embedded_broker: str) -> None:
    broken = encode(changed(1, "held"))
    with service("ingest", database, embedded_broker), Gateway(embedded_broker) as gateway:
        sessions_held(database)
        gateway.send([(STATES.replace("/01/", "/77/"), broken)])
        wait_for(lambda: value(database, "SELECT count(*) FROM mes.quarantine") == 1, 30, "quarantined")
    rows(
        database,
        "INSERT INTO mes.machine (station_id, code) SELECT station_id, '77' FROM mes.station JOIN mes.line USING (line_id)"
        " WHERE path = 'nanjing/cells/32140-1' AND station.code = 'wnd' RETURNING 1",
    )
    outcome = quarantine.replay(database, Selection())
    assert (outcome.understood, outcome.stored, outcome.stays) == (1, 1, {})
    assert rows(database, "SELECT machine, state FROM report.machine_state") == [("77", "held")]
