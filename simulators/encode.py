"""Events as JSON, written by a kernel straight into a byte buffer: the text of mes.contract.CellEvent, members in its order."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from mes.contract import RESULTS
from simulators.flow import NO_CHANNEL
from simulators.jit import Array, fixed, kernel, part
from simulators.quality import ABSENT, Quality
from simulators.scenario import Scenario, flat
from simulators.verdict import NO_DEFECT

_POW10 = 10 ** np.arange(19, dtype=np.int64)
_ZERO: Final = fixed(0)
_ONE: Final = fixed(1)
_THREE: Final = fixed(3)
_SEVEN: Final = fixed(7)
_LONGEST_NUMBER: Final = 26
_MAX_PLAIN_DECIMALS: Final = 9

# Texts between the values, in the order of the event's members.
_BOOT, _SEQ, _TIME, _UNIT, _DASH, _ATTEMPT, _RESULT, _CYCLE, _DEFECT, _QUOTE, _CHANNEL, _MEAS, _CLOSE, _END, _AT, _EVENT = range(16)
_TEXTS = (
    b'{"boot":', b',"seq":', b',"timestamp_ms":', b',"unit":"', b"-", b'","attempt":', b',"result":"', b'","cycle_s":', b',"defect":"',
    b'"', b',"channel":', b',"meas":{', b"}", b"}",
    b',"at_ms":', b',"event":',
)  # fmt: skip


class Tables(NamedTuple):
    """Texts as flat bytes with offsets: members, results, serial prefix, defects by row, characteristics by row, openings by machine.

    first_defect (S): a station's first row of defects; first, decimals: a station's characteristics and their digits after the point.
    """

    text: Array
    text_at: Array
    result: Array
    result_at: Array
    prefix: Array
    defect: Array
    defect_at: Array
    first_defect: Array
    name: Array
    name_at: Array
    first: Array
    decimals: Array
    opening: Array
    opening_at: Array
    ending: Array


def build(scenario: Scenario, quality: Quality, *, ndjson: bool = False) -> Tables:
    """What the kernel writes beside numbers. With `ndjson` each event is a line {"topic": ..., "event": ...}."""
    stations = scenario.line.station
    text, text_at = flat(list(_TEXTS))
    result, result_at = flat([r.encode() for r in RESULTS])
    defect, defect_at = flat([d.code.encode() for s in stations for d in s.defect])
    name, name_at = flat([f'"{c.name}":'.encode() for s in stations for c in s.characteristic])
    topics = scenario.topics
    opening, opening_at = flat([f'{{"topic":"{topic}"'.encode() if ndjson else b"" for topic in topics])
    counts = np.array([len(s.defect) for s in stations], np.int64)
    prefix, _ = flat([scenario.line.serial_prefix.encode() + b"-"])
    ending, _ = flat([b"}\n" if ndjson else b","])
    return Tables(
        text, text_at, result, result_at, prefix, defect, defect_at, np.cumsum(counts) - counts, name, name_at,
        quality.first, quality.characteristic["decimals"].copy(), opening, opening_at, ending,
    )  # fmt: skip


@part
def _copy(out: Any, at: int, source: Any, begin: int, end: int) -> int:
    for i in range(begin, end):
        out[at] = source[i]
        at += 1
    return at


@part
def _digits(out: Any, at: int, value: int, width: int) -> int:
    """`value` >= 0 in decimal, with zeros in front up to `width`."""
    digits = 1
    rest = value // 10
    while rest > 0:
        digits += 1
        rest //= 10
    digits = max(digits, width)
    i = at + digits
    rest = value
    while i > at:
        i -= 1
        out[i] = 48 + rest % 10
        rest //= 10
    return at + digits


@part
def _decimal(out: Any, at: int, mantissa: int, decimals: int) -> int:
    """mantissa / 10**decimals, exactly; with an exponent where that is shorter."""
    if mantissa < 0:
        out[at] = 45
        at += 1
        mantissa = -mantissa
    if decimals == 0:
        return _digits(out, at, mantissa, _ONE)
    if decimals > _MAX_PLAIN_DECIMALS:
        at = _digits(out, at, mantissa, _ONE)
        out[at] = 101
        out[at + 1] = 45
        return _digits(out, at + 2, decimals, _ONE)
    at = _digits(out, at, mantissa // _POW10[decimals], _ONE)
    out[at] = 46
    return _digits(out, at + 1, mantissa % _POW10[decimals], decimals)


@kernel
def write(
    tables: Any, events: Any, mantissas: Any, order: Any, boots: Any, told: Any, at_ms: Any, days: Any, offset: int, out: Any, ends: Any
) -> int:
    """Write the events in this order into `out`; `ends` gets the position after each. Returns the bytes written.

    boots, told   restart count and time (ticks) that each event states; at_ms: when it is delivered, or none
    days          first unit of each production day, and its code in serials
    """
    day_first, day_code = days
    at = _ZERO
    text, text_at = tables.text, tables.text_at
    for n in range(len(order)):
        i = order[n]
        event = events[i]
        s = event.station
        at = _copy(out, at, tables.opening, tables.opening_at[event.machine], tables.opening_at[event.machine + 1])
        if len(tables.ending) > 1:
            if len(at_ms) > 0 and at_ms[i] != told[i] // 1000:
                at = _digits(out, _copy(out, at, text, text_at[_AT], text_at[_AT + 1]), at_ms[i], _ONE)
            at = _copy(out, at, text, text_at[_EVENT], text_at[_EVENT + 1])
        at = _digits(out, _copy(out, at, text, text_at[_BOOT], text_at[_BOOT + 1]), boots[i], _ONE)
        at = _digits(out, _copy(out, at, text, text_at[_SEQ], text_at[_SEQ + 1]), event.seq, _ONE)
        at = _digits(out, _copy(out, at, text, text_at[_TIME], text_at[_TIME + 1]), told[i] // 1000, _ONE)
        at = _copy(out, at, text, text_at[_UNIT], text_at[_UNIT + 1])
        at = _copy(out, at, tables.prefix, _ZERO, len(tables.prefix))
        day = len(day_first) - 1
        while day > 0 and day_first[day] > event.unit:
            day -= 1
        for k in range(5):
            out[at] = day_code[day, k]
            at += 1
        number = (event.unit - day_first[day] + 1 + offset) % 10000000
        at = _digits(out, _copy(out, at, text, text_at[_DASH], text_at[_DASH + 1]), number, _SEVEN)
        at = _digits(out, _copy(out, at, text, text_at[_ATTEMPT], text_at[_ATTEMPT + 1]), event.attempt, _ONE)
        at = _copy(out, at, text, text_at[_RESULT], text_at[_RESULT + 1])
        at = _copy(out, at, tables.result, tables.result_at[event.result], tables.result_at[event.result + 1])
        at = _decimal(out, _copy(out, at, text, text_at[_CYCLE], text_at[_CYCLE + 1]), (event.cycle + 500) // 1000, _THREE)
        if event.defect != NO_DEFECT:
            at = _copy(out, at, text, text_at[_DEFECT], text_at[_DEFECT + 1])
            row = tables.first_defect[s] + event.defect
            at = _copy(out, at, tables.defect, tables.defect_at[row], tables.defect_at[row + 1])
            at = _copy(out, at, text, text_at[_QUOTE], text_at[_QUOTE + 1])
        if event.channel != NO_CHANNEL:
            at = _digits(out, _copy(out, at, text, text_at[_CHANNEL], text_at[_CHANNEL + 1]), event.channel, _ONE)
        any_reading = False
        for k in range(tables.first[s + 1] - tables.first[s]):
            if mantissas[i, k] == ABSENT:
                continue
            if any_reading:
                out[at] = 44
                at += 1
            else:
                at = _copy(out, at, text, text_at[_MEAS], text_at[_MEAS + 1])
                any_reading = True
            row = tables.first[s] + k
            at = _copy(out, at, tables.name, tables.name_at[row], tables.name_at[row + 1])
            at = _decimal(out, at, mantissas[i, k], tables.decimals[row])
        if any_reading:
            at = _copy(out, at, text, text_at[_CLOSE], text_at[_CLOSE + 1])
        at = _copy(out, at, text, text_at[_END], text_at[_END + 1])
        at = _copy(out, at, tables.ending, _ZERO, len(tables.ending))
        ends[n] = at
    return at


def bounds(scenario: Scenario, tables: Tables) -> Array:
    """The most bytes an event of each station can take, int64 (S)."""
    texts = sum(map(len, _TEXTS)) + len(tables.prefix) + len(tables.ending) + int(np.diff(tables.opening_at).max())
    common = texts + 16 + 8 * _LONGEST_NUMBER
    return np.array([
        common + max((len(d.code) for d in s.defect), default=0) + sum(len(c.name) + 4 + _LONGEST_NUMBER for c in s.characteristic)
        for s in scenario.line.station
    ])  # fmt: skip
