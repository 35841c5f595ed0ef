"""The wire contract: topics and payloads, parsed once into immutable values.

    topic   = "umh/v1/cbak/" site "/" area "/" line [ "/" station "/" machine ] "/" schema "/" name
    schema  = "_cell_v1" | "_state_v1" | "_ledger_v1" | "_kpi_v1" | "_alert_v1"
    level   = 1*40( "a".."z" / "0".."9" / "-" )

    valid     umh/v1/cbak/nanjing/cells/32140-1/wnd/03/_cell_v1/completed
    valid     umh/v1/cbak/nanjing/cells/32140-1/_kpi_v1/throughput_day
    invalid   umh/v1/cbak/Nanjing/cells/32140-1/wnd/03/_cell_v1/completed     (capital letter)
    invalid   umh/v1/cbak/nanjing/cells/32140-1/wnd/_cell_v1/completed        (no machine)

A message on `_cell_v1/completed` is one event (a JSON object) or a backlog (an array of up to
`MAX_BACKLOG` events of that machine, in order, at most `MAX_MESSAGE_BYTES`); so is one on `_state_v1/changed` (mes.states).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mes.errors import ConfigError, Rejected

ROOT: Final = "umh/v1/cbak"
MAX_EVENT_BYTES: Final = 4 * 1024
MAX_MESSAGE_BYTES: Final = 64 * 1024
MAX_BACKLOG: Final = 256

# Instants outside these years are a broken clock, not a production time.
EARLIEST_MS: Final = 946_684_800_000  # 2000-01-01T00:00:00Z
LATEST_MS: Final = 4_102_444_800_000  # 2100-01-01T00:00:00Z

_SEQ_MAX: Final = 2**63 - 2  # the range that holds it ends behind it, and still has to be a bigint
_INT32_MAX: Final = 2**31 - 1
_FLOAT32_MAX: Final = 3.4028234e38

_LEVEL = re.compile(r"[a-z0-9-]{1,40}")
_NAME = re.compile(r"[a-z0-9_]{1,40}")
_MACHINE_SCHEMAS = frozenset({"_cell_v1", "_state_v1", "_ledger_v1"})
_LINE_SCHEMAS = frozenset({"_kpi_v1", "_alert_v1"})
_HOLDER = ("_ledger_v1", "holder")  # the one word of a line's ledger; all others are of machines


@dataclass(frozen=True, slots=True)
class Topic:
    """An ISA-95 path under `ROOT` with what is said about it. Line topics have no station and machine."""

    site: str
    area: str
    line: str
    station: str | None
    machine: str | None
    schema: str
    name: str

    def __str__(self) -> str:
        equipment = [self.site, self.area, self.line]
        if self.station is not None and self.machine is not None:
            equipment += [self.station, self.machine]
        return "/".join([ROOT, *equipment, self.schema, self.name])

    @classmethod
    def parse(cls, text: str) -> Topic:
        """Read a topic; `Rejected("topic")` says which level is wrong."""
        if not text.startswith(ROOT + "/"):
            raise Rejected("topic", f"topic {text[:200]!r} does not begin with {ROOT}/")
        levels = text[len(ROOT) + 1 :].split("/")
        if len(levels) not in (5, 7):
            raise Rejected("topic", f"topic {text[:200]!r} has {len(levels)} levels under {ROOT}, not 5 (line) or 7 (machine)")
        *equipment, schema, name = levels
        for level in equipment:
            if not _LEVEL.fullmatch(level):
                raise Rejected("topic", f"topic level {level[:80]!r} is not 1 to 40 of a-z, 0-9 and -")
        allowed = _MACHINE_SCHEMAS if len(levels) == 7 else _LINE_SCHEMAS
        known = schema in allowed or (len(levels) == 5 and (schema, name) == _HOLDER)
        if not known or not _NAME.fullmatch(name):
            raise Rejected("topic", f"topic ends in {schema[:40]}/{name[:40]}, not in one of {', '.join(sorted(allowed))} and a name")
        site, area, line, *rest = equipment
        station, machine = rest or (None, None)
        return cls(site, area, line, station, machine, schema, name)


def level(text: str) -> str:
    """Return `text` if it can stand as a topic level, else raise ConfigError."""
    if not isinstance(text, str) or not _LEVEL.fullmatch(text):
        raise ConfigError(f"code {text!r} cannot be a topic level: use 1 to 40 of a-z, 0-9 and -")
    return text


def machine_topic(site: str, area: str, line: str, station: str, machine: str, kind: Literal["cell", "state", "ledger"]) -> str:
    """The topic on which a machine reports cells or states, or is told what is committed."""
    schema, name = {"cell": ("_cell_v1", "completed"), "state": ("_state_v1", "changed"), "ledger": ("_ledger_v1", "committed")}[kind]
    return str(Topic(site, area, line, station, machine, schema, name))


def kpi_topic(site: str, area: str, line: str, name: str) -> str:
    """The retained topic of one figure of a line."""
    return str(Topic(site, area, line, None, None, "_kpi_v1", name))


def holder_topic(site: str, area: str, line: str) -> str:
    """The retained topic on which the backend that holds a line's session says so."""
    return str(Topic(site, area, line, None, None, "_ledger_v1", "holder"))


def committed_filter(site: str, area: str, line: str) -> str:
    """The subscription to what the machines of a line have been told is committed."""
    return f"{ROOT}/{site}/{area}/{line}/+/+/_ledger_v1/committed"


def line_filters(site: str, area: str, line: str) -> tuple[str, ...]:
    """The subscriptions of a line's ingest session: its cells and states, from every machine of every station."""
    return tuple(f"{ROOT}/{site}/{area}/{line}/+/+/{what}" for what in ("_cell_v1/completed", "_state_v1/changed"))


def session_id(site: str, line: str) -> str:
    """The MQTT client id of a line's one persistent session."""
    return f"mes-ingest-{site}-{line}"


E = TypeVar("E")

Result = Literal["pass", "rework", "scrap"]
RESULTS: Final[tuple[Result, ...]] = ("pass", "rework", "scrap")

Boot = Annotated[int, Meta(ge=0, le=_INT32_MAX)]
Seq = Annotated[int, Meta(ge=1, le=_SEQ_MAX)]
Timestamp = Annotated[int, Meta(ge=EARLIEST_MS, lt=LATEST_MS)]
_Reading = Annotated[float, Meta(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)]
_Serial = Annotated[str, Meta(min_length=1, max_length=64)]


class CellEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One cell has finished at one machine.

    boot, seq      the machine's restart count and its message number within that boot, from 1, without gaps:
                   with the machine they are the identity of the event
    timestamp_ms   completion, milliseconds since 1970 UTC, by the machine's clock; the same on every redelivery
    unit           the cell's serial
    attempt        1 for the first visit of this cell to this station
    result         pass, rework (missed, may be tried again) or scrap
    cycle_s        seconds the cell was in work
    defect         code of what was wrong; required unless pass, forbidden with it
    channel        slot within a cabinet, oven or chamber
    lots           consumed lots by material
    meas           readings by characteristic, in the unit of the plant's seeds
    """

    boot: Boot
    seq: Seq
    timestamp_ms: Timestamp
    unit: _Serial
    attempt: Annotated[int, Meta(ge=1, le=32767)]
    result: Result
    cycle_s: Annotated[float, Meta(ge=0.0, le=_FLOAT32_MAX)]
    defect: Annotated[str, Meta(min_length=1, max_length=16)] | UnsetType = UNSET
    channel: Annotated[int, Meta(ge=0, le=_INT32_MAX)] | UnsetType = UNSET
    lots: dict[_Serial, _Serial] | UnsetType = UNSET
    meas: dict[str, _Reading] = {}


class Committed(msgspec.Struct, frozen=True):
    """How far a machine's events are committed: all of `boot` up to and with `seq`. Retained on `_ledger_v1/committed`.

    seq      0 when nothing of this boot is complete from its first event on
    """

    boot: Boot
    seq: Annotated[int, Meta(ge=0, le=_SEQ_MAX)]


class Holder(msgspec.Struct, frozen=True):
    """Which backend holds a line's session; said anew every few seconds, retained on the line's `_ledger_v1/holder`.

    database      the database that it commits to; workers that share one also share the lines. The marks of the line's
                  machines are of this one
    worker        host and process; empty when nobody holds the session any more
    timestamp_ms  when it was said
    """

    database: str
    worker: str
    timestamp_ms: int


decode_committed = msgspec.json.Decoder(Committed).decode
decode_holder = msgspec.json.Decoder(Holder).decode
_decode_one = msgspec.json.Decoder(CellEvent).decode
_decode_many = msgspec.json.Decoder(list[CellEvent]).decode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode
encode = msgspec.json.Encoder().encode

_BLANK: Final = b" \t\r\n"

# Members that are strings, or have a string for a name, in an event without options: 7 names and 2 values.
_PLAIN_STRINGS: Final = 9


@dataclass(frozen=True, slots=True)
class Reject:
    """A part of a payload that was not understood, with the identity as far as it could be read."""

    reason: str
    detail: str
    payload: bytes
    boot: int | None = None
    seq: int | None = None


class Station:
    """What events of a station may hold: its characteristics and its defect codes.

    `decode` is strict where JSON libraries are lenient: duplicate keys, integers beyond int64, NUL in
    strings, NaN, absurd times and oversize are refused, each event by itself.
    """

    __slots__ = ("characteristics", "defects")

    def __init__(self, characteristics: Iterable[str], defects: Iterable[str]) -> None:
        self.characteristics = frozenset(characteristics)
        self.defects = frozenset(defects)

    def decode(self, payload: bytes) -> tuple[Sequence[CellEvent], Sequence[Reject]]:
        """Split a message into events and rejects; together they account for every byte. Never raises."""
        if payload[:1] == b"[" and len(payload) <= MAX_MESSAGE_BYTES:
            try:
                events = _decode_many(payload)
                if len(events) <= MAX_BACKLOG and _none_oversize(payload) and self._sound(events, payload):
                    return events, ()
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
        return each(payload, self._one)

    def _one(self, payload: bytes) -> CellEvent:
        event = typed(payload, _decode_one)
        if not self._sound((event,), payload):
            self._refuse(event, payload)
        return event

    def _sound(self, events: Sequence[CellEvent], payload: bytes) -> bool:
        """Whether nothing is wrong that the decoder lets through.

        A repeated key leaves no trace in the decoded event, but its quotes stand in the payload: without
        escapes there are exactly two for each string of the event, and never fewer, so one count finds any
        repetition. Whatever else makes the count differ (an empty "meas") is cleared on the slow way.
        """
        strings = _PLAIN_STRINGS * len(events)
        known, defects = self.characteristics, self.defects
        for e in events:
            if e.meas:
                if not e.meas.keys() <= known:
                    return False
                strings += len(e.meas) + 1
            if e.result != "pass":
                if e.defect not in defects:
                    return False
                strings += 2
            elif e.defect is not UNSET:
                return False
            if e.channel is not UNSET:
                strings += 1
            if e.lots is not UNSET:
                strings += 2 * len(e.lots) + 1
        return payload.count(b'"') == 2 * strings and b"\\" not in payload

    def _refuse(self, event: CellEvent, payload: bytes) -> None:
        """Name what `_sound` doubted, or find the doubt unfounded and return."""
        if event.result == "pass":
            if event.defect is not UNSET:
                raise Rejected("invalid", f"defect {event.defect!r} with result 'pass': leave it out")
        elif event.defect is UNSET:
            raise Rejected("invalid", f"result {event.result!r} without a defect")
        elif event.defect not in self.defects:
            raise Rejected(
                "unknown_defect", f"defect {event.defect!r} is not known at this station: {', '.join(sorted(self.defects)) or 'none is'}"
            )
        unknown = event.meas.keys() - self.characteristics
        if unknown:
            raise Rejected("unknown_characteristic", f"characteristic {min(unknown)!r} is not known at this station")

        lots = event.lots if event.lots is not UNSET else {}
        refuse_hidden(payload, (event.unit, *lots.keys(), *lots.values()))


def each(payload: bytes, one: Callable[[bytes], E]) -> tuple[Sequence[E], Sequence[Reject]]:
    """Split a message into events, which `one` makes or refuses (Rejected), and rejects: event by event, so that a bad one
    takes no neighbour along. Never raises."""
    if len(payload) > MAX_MESSAGE_BYTES:
        return (), (Reject("oversize", f"message of {len(payload)} bytes, at most {MAX_MESSAGE_BYTES}", payload),)
    parts = [payload]
    if payload.lstrip(_BLANK).startswith(b"["):
        try:
            parts = list(map(bytes, _split(payload)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as why:
            parts = _cut(payload)
            if not parts:
                return (), (Reject("not_json", str(why), payload),)
    if len(parts) > MAX_BACKLOG:
        return (), (Reject("oversize", f"array of {len(parts)} events, at most {MAX_BACKLOG}", payload),)
    events: list[E] = []
    rejects: list[Reject] = []
    for part in parts:
        try:
            events.append(one(part))
        except Rejected as why:
            rejects.append(_reject(why, part))
    return events, rejects


def typed(payload: bytes, decode: Callable[[bytes], E]) -> E:
    """One event as its type says, or Rejected."""
    if len(payload) > MAX_EVENT_BYTES:
        raise Rejected("oversize", f"event of {len(payload)} bytes, at most {MAX_EVENT_BYTES}")
    try:
        return decode(payload)
    except msgspec.ValidationError as why:
        raise Rejected("invalid", str(why)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as why:
        raise Rejected("not_json", str(why)) from None


def refuse_hidden(payload: bytes, texts: Iterable[str]) -> None:
    """Rejected where a decoded event does not show it: a key that stands twice in one object, a NUL in one of its texts."""

    def once(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        if len(names) != len(set(names)):
            raise Rejected("duplicate_key", f"key {next(n for n in names if names.count(n) > 1)!r} stands twice in one object")

    json.loads(payload, object_pairs_hook=once)
    for text in texts:
        if "\0" in text:
            raise Rejected("nul", f"NUL in {text!r}")


def _none_oversize(payload: bytes) -> bool:
    """Whether no event of a well-formed array is longer than it may be.

    Where a boundary stands in every stretch of half that length, none is, and to see that costs a tenth of splitting. A
    string without escapes cannot hold a boundary: the quote in it would end the string, and no letter follows there.
    """
    half = MAX_EVENT_BYTES // 2
    if all(payload.find(b'},{"boot"', at, at + half) >= 0 for at in range(0, len(payload) - half, half)):
        return True
    return max(map(len, _split(payload)), default=0) <= MAX_EVENT_BYTES


_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{},]', re.DOTALL)


def _cut(payload: bytes) -> list[bytes]:
    """The elements of an array by its quotes, brackets and commas alone, so that one which is not JSON (a NaN, a broken
    character) is found among its neighbours; none where these do not match."""
    parts: list[bytes] = []
    depth = start = 0
    for mark in _MARKS.finditer(payload):
        match mark[0]:
            case b"[" | b"{":
                depth += 1
                start = start if depth > 1 else mark.end()
            case b"," | b"]" if depth == 1:
                parts.append(payload[start : mark.start()].strip(_BLANK))
                start = mark.end()
                if mark[0] == b"]":
                    return parts if all(parts) and not payload[start:].strip(_BLANK) else []
            case b"]" | b"}":
                depth -= 1
                if depth == 0:
                    break
    return []


def _reject(why: Rejected, payload: bytes) -> Reject:
    """The reject with boot and seq, if each stands once in the event and is what it should be."""
    try:
        event = json.loads(payload.decode("utf-8", "replace"), object_pairs_hook=_Members)
    except (ValueError, RecursionError):
        event = None
    numbers = [[n for key, n in event if key == name] for name in ("boot", "seq")] if isinstance(event, _Members) else []
    match numbers:
        case [[int(boot)], [int(seq)]] if bool not in map(type, (boot, seq)) and 0 <= boot <= _INT32_MAX and 1 <= seq <= _SEQ_MAX:
            return Reject(why.reason, why.detail, payload, boot, seq)
    return Reject(why.reason, why.detail, payload)


class _Members(list[tuple[str, Any]]):
    """The members of a JSON object as they stand, repeated ones too."""
