"""Sums of a stretch of events: integers that merge by adding, from which every ratio is divided where it is read."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mes.kpi.events import Events, decode

Ints = NDArray[np.int64]

BUCKET_US = 5 * 60 * 1_000_000
NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class Axes:
    """What the sums of a line are by: its stations and defects (sorted ids), and the grid of each station's readings.

    origin, step  [station, slot]: see `mes.kpi.grid`; NaN where the station has no such slot
    """

    station_ids: Ints
    defect_ids: Ints
    origin: NDArray[np.float64]
    step: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Readings:
    """Sums of readings in steps of their grid, [bucket, station, slot]. What was not measured is in none of them.

    n            plausible readings: less than 2^31 steps from the origin
    implausible  the others; those of a slot that its station does not have are among them
    total        sum of the plausible
    squares      sum of their squares: int64, or Python integers (dtype object) where one does not fit
    low, high    float32, in the unit of the characteristic; +inf and -inf where n is 0
    """

    n: Ints
    implausible: Ints
    total: Ints
    squares: NDArray[Any]
    low: NDArray[np.float32]
    high: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Machines:
    """Sums by bucket and pair of machine and boot: [pair] the sorted pairs that occur, all others [bucket, pair].

    late   received when the production day was over
    ahead  timed more than five minutes after they were received: a clock is wrong
    """

    machine_id: Ints
    boot: Ints
    received: Ints
    late: Ints
    ahead: Ints
    first_seq: Ints
    last_seq: Ints


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums by bucket (first axis) and station or defect (second axis), int64 unless said.

    `readings` and `machines` hold further arrays (`sums.readings.n`, `sums.machines.late`).
    A chain is all reports of a unit at a station in the production day, in order of time, number and worse result.

    results          [bucket, station, 3]: reports by result: pass, rework, scrap
    inspected        [bucket, station]: chains whose first report at attempt 1 lies here
    first_pass_good  [bucket, station]: of these, the reports that are a pass
    passed           [bucket, station]: chains whose first pass lies here
    retests          [bucket, station]: reports that follow one of their chain which did not call for rework
    defects          [bucket, defect]
    histogram        [bucket, station, bin], int32: cycle times
    last_at          [bucket, station]: latest event, microseconds; meaningless where there is none
    """

    results: Ints
    inspected: Ints
    first_pass_good: Ints
    passed: Ints
    retests: Ints
    defects: Ints
    histogram: NDArray[np.int32]
    last_at: Ints
    readings: Readings
    machines: Machines

    @classmethod
    def none(cls, buckets: int, axes: Axes) -> Sums:
        """The sums of no events, which change nothing when they are merged."""
        from mes.kpi import kernels

        shape, slots = (buckets, axes.station_ids.size), axes.origin.shape[1]
        return cls(
            results=np.zeros((*shape, 3), np.int64),
            inspected=np.zeros(shape, np.int64),
            first_pass_good=np.zeros(shape, np.int64),
            passed=np.zeros(shape, np.int64),
            retests=np.zeros(shape, np.int64),
            defects=np.zeros((buckets, axes.defect_ids.size), np.int64),
            histogram=np.zeros((*shape, kernels.BINS), np.int32),
            last_at=np.full(shape, NEVER),
            readings=Readings(
                n=np.zeros((*shape, slots), np.int64),
                implausible=np.zeros((*shape, slots), np.int64),
                total=np.zeros((*shape, slots), np.int64),
                squares=np.zeros((*shape, slots), np.int64),
                low=np.full((*shape, slots), np.inf, np.float32),
                high=np.full((*shape, slots), -np.inf, np.float32),
            ),
            machines=Machines(*(np.zeros(0, np.int64) for _ in range(2)), *(np.zeros((buckets, 0), np.int64) for _ in range(5))),
        )

    def merge(self, other: Sums) -> Sums:
        """The sums of both parts, whose chains must not cross; buckets and axes are the same. ValueError where they are not."""
        if self.histogram.shape != other.histogram.shape or self.readings.n.shape != other.readings.n.shape:
            raise ValueError(f"sums of {self.readings.n.shape} and of {other.readings.n.shape} buckets, stations, slots cannot be merged")
        added = (field.name for field in fields(Sums) if field.name not in ("last_at", "readings", "machines"))
        a, b = self.readings, other.readings
        return Sums(
            **{name: getattr(self, name) + getattr(other, name) for name in added},
            last_at=np.maximum(self.last_at, other.last_at),
            readings=Readings(
                a.n + b.n,
                a.implausible + b.implausible,
                a.total + b.total,
                _added(a.squares, b.squares),
                np.minimum(a.low, b.low),
                np.maximum(a.high, b.high),
            ),
            machines=_merged(self.machines, other.machines),
        )


def summarise(events: Events, first_us: int, buckets: int, axes: Axes, *, day_end_us: int, witnesses: Events | None = None) -> Sums:
    """Sum events of a line, of any order, that lie in one production day and in `buckets` buckets from `first_us` on.

    `witnesses` are other events of that day, outside of the buckets: they belong to chains and count nowhere. Whoever sums
    only a part of a day gives at least those that share unit and station with an event of the part. The day ends at
    `day_end_us`. Raises ValueError on an event outside of the buckets, a witness inside, and a station, result or defect
    that is none of them.
    """
    from mes.kpi import passes

    sums = Sums.none(buckets, axes)
    squares = passes.count(events, witnesses, first_us, buckets, axes, sums)
    return replace(
        sums, readings=replace(sums.readings, squares=squares), machines=Machines(*passes.machines(events, first_us, buckets, day_end_us))
    )


def _added(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """a + b, neither negative, in Python integers where int64 does not hold it."""
    total: NDArray[Any] = a + b
    if total.dtype != object and (total < 0).any():
        total = a.astype(object) + b
    return total


def _merged(a: Machines, b: Machines) -> Machines:
    keys = [m.machine_id << 32 | m.boot & 0xFFFFFFFF for m in (a, b)]
    union = np.unique(np.concatenate(keys))
    places = [np.searchsorted(union, k) for k in keys]
    out = Machines(
        union >> 32, union.astype(np.int32).astype(np.int64), *(np.zeros((a.received.shape[0], union.size), np.int64) for _ in range(5))
    )
    for part, place in zip((a, b), places, strict=True):
        had, has = out.received[:, place] > 0, part.received > 0
        for name, earlier in (("first_seq", np.minimum), ("last_seq", np.maximum)):
            was, now = getattr(out, name)[:, place], getattr(part, name)
            getattr(out, name)[:, place] = np.where(had & has, earlier(was, now), np.where(has, now, was))
        for name in ("received", "late", "ahead"):
            getattr(out, name)[:, place] += getattr(part, name)
    return out


def warm_up() -> None:
    """Load the compiled kernels, or compile them, before there is work: the first time it takes seconds."""
    ids, grid = np.ones(1, np.int64), np.ones((1, 1))
    # Attempt 2 of a unit that a witness has seen: chains are walked as well. One reading, of 1.0.
    record = bytes(44) + bytes.fromhex("00010002 00000000 00000001 00000000 000002bc 00000001 00000001 00000004 3f800000")
    events = decode(record, 1)
    witnesses = replace(events, at=events.at - 1)
    summarise(events, 0, 1, Axes(ids, ids, grid, grid), day_end_us=0, witnesses=witnesses)
