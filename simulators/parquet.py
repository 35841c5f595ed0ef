"""Events as Parquet, a row each, built from columns; needs pyarrow (the extra `parquet`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mes.contract import RESULTS
from simulators.quality import ABSENT
from simulators.stream import Columns

_NAME = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema([
    ("at_ms", pa.int64()), ("site", _NAME), ("area", _NAME), ("line", _NAME), ("station", _NAME), ("machine", _NAME),
    ("boot", pa.int64()), ("seq", pa.int64()), ("timestamp_ms", pa.int64()), ("unit", pa.string()), ("attempt", pa.int16()),
    ("result", _NAME), ("defect", _NAME), ("cycle_s", pa.float64()), ("channel", pa.int32()),
    ("meas", pa.map_(pa.string(), pa.float64())), ("payload", pa.binary()),
])  # fmt: skip
"""`payload` is set where it is no event; then what is not of the topic or `at_ms` is null."""


@contextmanager
def writer(path: Path) -> Iterator[Callable[[Columns], None]]:
    """A file that rows are appended to, a row group each time."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as file:
        yield lambda columns: file.write_table(table(columns)) if len(columns.events) or columns.extra else None


def table(c: Columns) -> Any:
    """The rows of a slice, with what is no event, in order of delivery."""
    n, e = len(c.events), c.events
    stations = c.scenario.line.station
    defects = [d.code for s in stations for d in s.defect]
    first_defect = np.cumsum([0, *(len(s.defect) for s in stations)])
    missed = e["defect"] >= 0
    columns = {
        "at_ms": c.at_ms,
        **_place(c, e["machine"]),
        "boot": c.boots,
        "seq": np.ascontiguousarray(e["seq"]),
        "timestamp_ms": c.told_ms,
        "unit": _units(c),
        "attempt": e["attempt"].astype(np.int16),
        "result": _names(e["result"], list(RESULTS)),
        "defect": _names(first_defect[e["station"]] + e["defect"], defects or [""], ~missed),
        "cycle_s": (e["cycle"] + 500) // 1000 / 1000,
        "channel": pa.array(e["channel"].astype(np.int32), mask=e["channel"] < 0),
        "meas": _readings(c),
    }
    rows = _rows(columns, n)
    if not c.extra:
        return rows
    machine = np.array([one.machine for one in c.extra])
    other = {"at_ms": [one.at // 1000 for one in c.extra], **_place(c, machine), "payload": [one.payload for one in c.extra]}
    return pa.concat_tables([rows, _rows(other, len(machine))]).sort_by("at_ms")


def _rows(columns: dict[str, Any], n: int) -> Any:
    def column(field: Any) -> Any:
        found = columns.get(field.name)
        if found is None:
            return pa.nulls(n, field.type)
        return found if field.name == "meas" else pa.array(found).cast(field.type)

    return pa.Table.from_arrays([column(field) for field in SCHEMA], schema=SCHEMA)


def _names(index: Any, names: list[str], mask: Any = None) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32), mask=mask), pa.array(names))


def _place(c: Columns, machine: Any) -> dict[str, Any]:
    line, codes = c.scenario.line, c.scenario.machine_codes
    whole = np.zeros(len(machine), np.int32)
    return {
        "site": _names(whole, [line.site]),
        "area": _names(whole, [line.area]),
        "line": _names(whole, [line.code]),
        "station": _names(machine, [station for station, _ in codes]),
        "machine": _names(machine, [code for _, code in codes]),
    }


def _units(c: Columns) -> Any:
    """Serials, which are all of one length: prefix, code of the winding day, number."""
    prefix = np.frombuffer(c.scenario.line.serial_prefix.encode() + b"-", np.uint8)
    n, w = len(c.events), len(prefix) + 5 + 1 + 7
    text = np.empty((n, w), np.uint8)
    text[:, : len(prefix)] = prefix
    text[:, len(prefix) : len(prefix) + 5] = c.day_codes
    text[:, len(prefix) + 5] = ord("-")
    number = c.numbers
    for k in range(7):
        text[:, w - 1 - k] = 48 + number // 10**k % 10
    offsets = np.arange(n + 1, dtype=np.int32) * w
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets.tobytes()), pa.py_buffer(text.tobytes()))


def _readings(c: Columns) -> Any:
    rows = [x for s in c.scenario.line.station for x in s.characteristic]
    first = np.cumsum([0, *(len(s.characteristic) for s in c.scenario.line.station)])
    present = c.mantissas != ABSENT
    row, k = np.nonzero(present)
    which = first[c.events["station"][row]] + k
    scale = 10.0**c.decimals
    offsets = np.zeros(len(present) + 1, np.int32)
    offsets[1:] = np.cumsum(present.sum(axis=1))
    names = pa.array([x.name for x in rows] or [""]).take(pa.array(which))
    return pa.MapArray.from_arrays(pa.array(offsets), names, pa.array(c.mantissas[present] / scale[which]))
