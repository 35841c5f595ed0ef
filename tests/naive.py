"""Slow, obvious twins of the program's fast parts. They share no code with it, and nothing here is meant to be quick."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
import struct
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

# --- the wire contract -------------------------------------------------------------------------------------------------

EVENT_BYTES = 4096
MESSAGE_BYTES = 65536
BACKLOG = 256
FLOAT32_MAX = 3.4028234e38
BLANK = b" \t\r\n"

REQUIRED = {"boot", "seq", "timestamp_ms", "unit", "attempt", "result", "cycle_s"}
OPTIONAL = {"defect", "channel", "lots", "meas"}
WHOLE_NUMBERS = {
    "boot": (0, 2**31 - 1),
    "seq": (1, 2**63 - 2),
    "timestamp_ms": (946_684_800_000, 4_102_444_800_000 - 1),
    "attempt": (1, 32767),
    "channel": (0, 2**31 - 1),
}

Part = tuple[bytes, dict[str, Any] | None]
"""What a message holds: the bytes of an event, and the event, or None where it has to be quarantined."""


def decode(payload: bytes, characteristics: Collection[str], defects: Collection[str]) -> list[Part]:
    """What `mes.contract.Station.decode` must make of a message, part by part."""
    if len(payload) > MESSAGE_BYTES:
        return [(payload, None)]
    if not payload.strip(BLANK).startswith(b"["):
        return [(payload, event(payload, characteristics, defects))]
    parts = elements(payload.strip(BLANK))
    if parts is None or len(parts) > BACKLOG:
        return [(payload, None)]
    return [(part, event(part, characteristics, defects)) for part in parts]


def elements(array: bytes) -> list[bytes] | None:
    """The elements of a JSON array whose own text may be no JSON: whatever stands between its commas."""
    depth = 0
    in_string = escaped = False
    begin = 1
    parts: list[bytes] = []
    for n in range(len(array)):
        character = array[n : n + 1]
        if in_string:
            in_string = escaped or character != b'"'
            escaped = character == b"\\" and not escaped
        elif depth == 1 and character in (b",", b"]"):
            parts.append(array[begin:n].strip(BLANK))
            begin = n + 1
            if character == b"]":
                if begin < len(array):
                    return None
                return [] if parts == [b""] else parts if all(parts) else None
        else:
            in_string = character == b'"'
            depth += (character in (b"[", b"{")) - (character in (b"]", b"}"))
            if depth == 0:
                return None
    return None


def event(part: bytes, characteristics: Collection[str], defects: Collection[str]) -> dict[str, Any] | None:
    """The event that these bytes are, or None."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    if len(part) > EVENT_BYTES:
        return None
    try:
        found = json.loads(part.decode("utf-8"), object_pairs_hook=members, parse_constant=constant)
    except (ValueError, RecursionError):
        return None
    if type(found) is not dict or not found.keys() >= REQUIRED or not found.keys() <= REQUIRED | OPTIONAL:
        return None
    fine = all(type(found[name]) is int and low <= found[name] <= high for name, (low, high) in WHOLE_NUMBERS.items() if name in found)
    fine = fine and is_serial(found["unit"]) and is_number(found["cycle_s"]) and found["cycle_s"] >= 0
    fine = fine and found["result"] in ("pass", "rework", "scrap")
    if "lots" in found:
        fine = fine and type(found["lots"]) is dict and all(is_serial(text) for pair in found["lots"].items() for text in pair)
    if "meas" in found:
        fine = fine and type(found["meas"]) is dict and all(name in characteristics and is_number(x) for name, x in found["meas"].items())
    if found["result"] == "pass":
        fine = fine and "defect" not in found
    else:
        fine = fine and type(found.get("defect")) is str and found["defect"] in defects
    return found if fine else None


def is_serial(text: object) -> bool:
    if type(text) is not str or not 1 <= len(text) <= 64 or "\0" in text:
        return False
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in text)


def is_number(x: object) -> bool:
    return (type(x) is int or (type(x) is float and math.isfinite(x))) and -FLOAT32_MAX <= x <= FLOAT32_MAX


# --- the sums ----------------------------------------------------------------------------------------------------------

BUCKET_US = 300_000_000
BINS = 1024


@dataclass(frozen=True)
class Report:
    """An event as `mes.kpi` sees it: a unit reported by a station."""

    at: int
    received_at: int
    unit: int
    seq: int
    machine_id: int
    boot: int
    cycle_s: float
    station_id: int
    attempt: int
    result: int
    defect_id: int
    meas: tuple[float, ...]


def bin_of(cycle_s: float) -> int:
    """Bin of a cycle time: 32 equal steps in each octave from 2^-7 s on, the ends take what lies beyond."""
    cycle_s = struct.unpack("f", struct.pack("f", cycle_s))[0]
    if cycle_s < 2.0**-7:
        return 0
    mantissa, exponent = math.frexp(cycle_s)  # mantissa in [1/2, 1)
    return min(BINS - 1, 32 * (exponent - 1 + 7) + math.floor((2 * mantissa - 1) * 32))


def bin_edge(n: int) -> float:
    """Lower edge of a bin, seconds."""
    return float(2.0 ** (n // 32 - 7) * (1 + n % 32 / 32))


Cells = dict[Any, Any]
"""Values by (bucket, id, ...); what is zero is not in it."""


def day_sums(
    reports: Iterable[Report],
    witnesses: Iterable[Report],
    first_us: int,
    day_end_us: int,
    grids: Mapping[tuple[int, int], tuple[float, float]],
) -> dict[str, Cells]:
    """What `mes.kpi` must make of a line's reports, by the names of its arrays. `grids`: (origin, step) by (station, slot)."""
    reports, witnesses = list(reports), list(witnesses)
    out: dict[str, Cells] = defaultdict(Counter)
    lists: dict[str, Cells] = defaultdict(lambda: defaultdict(list))
    chains: dict[tuple[int, int], list[tuple[Report, bool]]] = defaultdict(list)
    for r, counted in [(r, True) for r in reports] + [(r, False) for r in witnesses]:
        chains[r.unit, r.station_id].append((r, counted))

    for r in reports:
        bucket = (r.at - first_us) // BUCKET_US
        where = bucket, r.station_id
        out["results"][*where, r.result] += 1
        out["histogram"][*where, bin_of(r.cycle_s)] += 1
        if r.defect_id != 0:
            out["defects"][bucket, r.defect_id] += 1
        lists["last_at"][where].append(r.at)
        for slot, x in enumerate(r.meas):
            if math.isnan(x):
                continue
            origin, step = grids.get((r.station_id, slot), (math.nan, math.nan))
            if math.isinf(x) or math.isnan(step) or abs(q := round((Fraction(x) - Fraction(origin)) / Fraction(step))) >= 2**31:
                out["implausible"][*where, slot] += 1
                continue
            out["n"][*where, slot] += 1
            out["total"][*where, slot] += q
            out["squares"][*where, slot] += q * q
            lists["low"][*where, slot].append(x)
            lists["high"][*where, slot].append(x)
        machine = bucket, r.machine_id, r.boot
        out["received"][machine] += 1
        out["late"][machine] += r.received_at >= day_end_us
        out["ahead"][machine] += r.at > r.received_at + 300_000_000
        lists["first_seq"][machine].append(r.seq)
        lists["last_seq"][machine].append(r.seq)

    for chain in chains.values():
        chain.sort(key=lambda pair: (pair[0].at, pair[0].seq, -pair[0].result))
        for name, chosen in {
            "inspected": [(r, counted) for r, counted in chain if r.attempt == 1][:1],
            "first_pass_good": [(r, counted and r.result == 0) for r, counted in chain if r.attempt == 1][:1],
            "passed": [(r, counted) for r, counted in chain if r.result == 0][:1],
            "retests": [pair for before, pair in itertools.pairwise(chain) if before[0].result != 1],
        }.items():
            for r, counted in chosen:
                if counted:
                    out[name][(r.at - first_us) // BUCKET_US, r.station_id] += 1

    for name, cells in lists.items():
        choose = min if name in ("low", "first_seq") else max
        out[name] = {where: choose(values) for where, values in cells.items()}
    return out


def record(report: Report) -> bytes:
    """A report as the query `read_events` hands it over: big-endian, the readings as PostgreSQL's array_send writes them."""
    r = report
    head = struct.pack("!qqqqiif", r.at, r.received_at, r.unit, r.seq, r.machine_id, r.boot, r.cycle_s)
    head += struct.pack("!hhhh", r.station_id, r.attempt, r.result, r.defect_id)
    if not r.meas:
        return head + struct.pack("!iii", 0, 0, 700)
    return head + struct.pack("!iiiii", 1, 0, 700, len(r.meas), 1) + b"".join(struct.pack("!if", 4, x) for x in r.meas)


# --- PostgreSQL's binary COPY ------------------------------------------------------------------------------------------


def copied(data: bytes) -> list[list[bytes | None]]:
    """The fields of each row of a binary COPY stream, as PostgreSQL's manual lays it out."""
    if not data.startswith(b"PGCOPY\n\xff\r\n\0"):
        raise ValueError("no signature")
    flags, extension = struct.unpack_from("!ii", data, 11)
    if flags != 0:
        raise ValueError(f"flags {flags}")
    at = 19 + extension
    rows: list[list[bytes | None]] = []
    while True:
        (count,) = struct.unpack_from("!h", data, at)
        at += 2
        if count == -1:
            if at != len(data):
                raise ValueError(f"{len(data) - at} bytes behind the trailer")
            return rows
        row: list[bytes | None] = []
        for _ in range(count):
            (length,) = struct.unpack_from("!i", data, at)
            at += 4
            row.append(None if length == -1 else data[at : at + length])
            at += max(length, 0)
        rows.append(row)


def float4_array(field: bytes) -> list[float]:
    """A value of type real[] without NULLs, as PostgreSQL sends and takes it."""
    dimensions, has_null, element = struct.unpack_from("!iii", field, 0)
    if has_null or element != 700:
        raise ValueError(f"flags {has_null}, element type {element}")
    if dimensions == 0:
        if len(field) != 12:
            raise ValueError("an empty array with a tail")
        return []
    if dimensions != 1:
        raise ValueError(f"{dimensions} dimensions")
    count, lower = struct.unpack_from("!ii", field, 12)
    if lower != 1 or len(field) != 20 + 8 * count:
        raise ValueError(f"lower bound {lower}, {count} elements in {len(field)} bytes")
    values = []
    for n in range(count):
        length, value = struct.unpack_from("!if", field, 20 + 8 * n)
        if length != 4:
            raise ValueError(f"element {n} has {length} bytes")
        values.append(value)
    return values


# --- the calendar ------------------------------------------------------------------------------------------------------

MINUTE = dt.timedelta(minutes=1)


class Clock:
    """What the clock on a plant's wall shows around a date, minute by minute of UTC."""

    def __init__(self, zone: str, date: dt.date) -> None:
        begin = dt.datetime.combine(date, dt.time(), dt.UTC) - 2 * 1440 * MINUTE
        self.minutes = [begin + n * MINUTE for n in range(6 * 1440)]
        self.shown = [minute.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for minute in self.minutes]

    def instant(self, local: dt.datetime) -> dt.datetime:
        """When the clock first shows `local`; where it never does, it jumps over it, and `local` moves with the jump."""
        for n, (minute, shown) in enumerate(zip(self.minutes, self.shown, strict=True)):
            if shown == local:
                return minute
            if shown > local:
                return self.instant(local + (shown - self.shown[n - 1] - MINUTE))
        raise ValueError(local)


def planned_minutes(
    zone: str,
    date: dt.date,
    day_start: dt.time,
    breaks: Iterable[tuple[int, int]] = (),
    holidays: Collection[dt.date] = (),
    stops: Iterable[tuple[dt.datetime, dt.datetime]] = (),
) -> int:
    """Minutes in which a production day is planned to work: each is looked at. Breaks are minutes of the clock since `day_start`."""
    if date in holidays:
        return 0
    clock = Clock(zone, date)
    start = dt.datetime.combine(date, day_start)
    begin, end = clock.instant(start), clock.instant(start + 1440 * MINUTE)
    pauses = [(clock.instant(start + first * MINUTE), clock.instant(start + last * MINUTE)) for first, last in breaks]
    return sum(
        begin <= minute < end and not any(a <= minute < b for a, b in pauses) and not any(a <= minute < b for a, b in stops)
        for minute in clock.minutes
    )
