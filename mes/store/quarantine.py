"""The quarantine, for people: what waits in it, decoding it anew after a fix, throwing it away on the record."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg.rows import dict_row

from mes import contract
from mes.batch import Batch
from mes.errors import ConfigError
from mes.ledger import Ledger
from mes.store import report
from mes.store.connection import Connection, Cursor, connect, queries, translated
from mes.store.events import Writer, active_lines, storable

_AT_ONCE = 200  # entries in a transaction of a replay: at most 13 MB of payloads


@dataclass(frozen=True, slots=True)
class Selection:
    """Entries that satisfy all that is given: their numbers, the line (path) that their topic names, their reason."""

    ids: Sequence[int] | None = None
    line: str | None = None
    reason: str | None = None

    @property
    def values(self) -> dict[str, Any]:
        prefix = f"{contract.ROOT}/{self.line}/" if self.line else None
        return {"ids": None if self.ids is None else list(self.ids), "line": prefix, "reason": self.reason}


@dataclass(slots=True)
class Outcome:
    """What a replay came to.

    understood    entries that left the quarantine
    stored        events of theirs that are new
    duplicates    events of theirs that were there already, each time they were seen
    stays         entries that are still not understood, by reason: how many, and the detail of one
    """

    understood: int = 0
    stored: int = 0
    duplicates: int = 0
    stays: dict[str, tuple[int, str]] = field(default_factory=dict)

    def stay(self, reason: str, detail: str, n: int = 1) -> None:
        self.stays[reason] = (self.stays.get(reason, (0, ""))[0] + n, detail)


def entries(
    connection: Connection, selection: Selection, since: dt.datetime | None, most: int, *, discarded: bool = False
) -> list[dict[str, Any]]:
    """What waits, newest first, or what was discarded, latest first."""
    _check_line(connection, selection.line)
    query = queries()["discarded"] if discarded else queries()["quarantined"]
    with translated(connection), connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, {**selection.values, "since": since, "most": most}).fetchall()


def entry(connection: Connection, number: int) -> dict[str, Any]:
    """All of one entry, with its bytes as `payload`; ConfigError where there is none."""
    with translated(connection), connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(queries()["quarantined_entry"], [number]).fetchone()
    if row is None:
        raise _none_such([number])
    return row


def select(connection: Connection, selection: Selection) -> list[int]:
    """Numbers of the selected entries in order of arrival; ConfigError where one that is named, or the line, is not there."""
    _check_line(connection, selection.line)
    found = _ids(connection, selection)
    if missing := sorted(set(selection.ids or ()) - set(found)):
        raise _none_such(missing)
    return found


def discard(connection: Connection, ids: Sequence[int], why: str) -> int:
    """Throw away the bytes of entries and keep the rest in mes.quarantine_discarded; how many there were."""
    with translated(connection):
        return connection.execute(queries()["discard_quarantined"], {"ids": list(ids), "why": why}).rowcount


def replay(url: str, selection: Selection) -> Outcome:
    """Decode entries with today's plant: what is understood now is stored and leaves the quarantine in one transaction.

    An ingest worker may store the same events meanwhile: the unique key keeps them single, the ledger unites.
    """
    outcome = Outcome()
    lines = active_lines(url)[1]
    with connect(url, application="mes quarantine replay") as connection:
        left = set(select(connection, selection))
        for line in lines:
            ids = [number for number in _ids(connection, Selection(None, line.path, selection.reason)) if number in left]
            left.difference_update(ids)
            if ids:
                replaying = _Replay(Writer(connection, line, url))
                for start in range(0, len(ids), _AT_ONCE):
                    replaying.take(ids[start : start + _AT_ONCE], outcome)
    if left:
        outcome.stay("no_line", "the topic names no active line", len(left))
    return outcome


class _Changed(Exception):
    """An entry was seen again or closed by somebody else, or its time was dropped, while it was being replayed."""


class _Replay:
    """Entries of one line, decoded anew."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._equipment = writer.equipment()

    def take(self, ids: list[int], outcome: Outcome) -> None:
        """Replay so many entries in one transaction."""
        while True:
            with contextlib.suppress(_Changed):
                return self._transact(ids, outcome)

    def _transact(self, ids: list[int], outcome: Outcome) -> None:
        batch, ledger, horizon = Batch(), _Owing(self._writer.ledger()), self._writer.horizon()
        understood: list[tuple[int, int]] = []
        stays: list[tuple[str, str]] = []
        verdicts: list[tuple[Any, ...]] = []
        for number, times, reason, detail, topic, machine_id, boot, seq, counted, seen_us, payload in self._writer.quarantined(ids):
            if payload is None:
                stays.append((reason, detail))
                continue
            ledger.owed = (machine_id, boot, seq) if counted else None
            before = len(batch.quarantined)
            batch.add(topic, payload, self._equipment, ledger, times=times, received_us=seen_us, horizon=horizon)
            if [q.reject.payload for q in batch.quarantined[before:]] != [payload]:
                understood.append((number, times))  # what is still bad in an array is now an entry by itself
                continue
            again = batch.quarantined.pop()
            verdict = (again.reject.reason, storable(again.reject.detail), again.machine_id, again.reject.boot, again.reject.seq)
            stays.append(verdict[:2])
            if verdict != (reason, detail, machine_id, boot, seq):
                verdicts.append((number, *verdict, counted or again.counted))

        rejects = len(batch.quarantined)

        def close(cursor: Cursor) -> None:
            if len(batch.quarantined) != rejects:  # the horizon has moved meanwhile
                raise _Changed
            if understood and cursor.execute(queries()["close_quarantined"], _columns(understood)).rowcount != len(understood):
                raise _Changed
            if verdicts:
                cursor.execute(queries()["judge_quarantined"], _columns(verdicts))

        outcome.stored += self._writer.commit(batch, close)
        outcome.duplicates += sum(batch.duplicates.values())
        outcome.understood += len(understood)
        for reason, detail in stays:
            outcome.stay(reason, detail)


class _Owing(Ledger):
    """The ledger as it stands, but for an identity that it learnt from the very entry that is being replayed: that one
    has been received, and no event with it has been stored."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.owed: tuple[int, int, int] | None = None

    def add(self, machine_id: int, boot: int, seq: int) -> bool:
        new = self._ledger.add(machine_id, boot, seq)
        if (machine_id, boot, seq) == self.owed:
            self.owed = None
            return True
        return new

    def extend(self, machine_id: int, boot: int, first: int, n: int) -> bool:  # noqa: ARG002 - one by one, each may be the one
        return False


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return list(map(list, zip(*rows, strict=True)))


def _ids(connection: Connection, selection: Selection) -> list[int]:
    with translated(connection):
        return [number for (number,) in connection.execute(queries()["quarantined_ids"], selection.values)]


def _check_line(connection: Connection, line: str | None) -> None:
    if line is not None and line not in (known := report.lines(connection)):
        raise ConfigError(f"line {line!r} is unknown: use one of {', '.join(known)}")


def _none_such(numbers: Sequence[int]) -> ConfigError:
    return ConfigError(f"quarantine entry {', '.join(map(str, numbers))} is not there: `mes quarantine list` shows what is")
