"""Sums of a stretch of events: integers that merge by adding, from which every ratio is divided where it is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BUCKET_US = 5 * 60 * 1_000_000

EVENT_DTYPE = np.dtype(
    [
        ("at", ">i8"),
        ("unit", ">i8"),
        ("seq", ">i8"),
        ("cycle_s", ">f4"),
        ("station_id", ">i2"),
        ("attempt", ">i2"),
        ("result", ">i2"),
        ("defect_id", ">i2"),
    ]
)
"""An event as the database hands it over, big-endian: `at` in microseconds, `unit` a 64-bit hash of the serial."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums by bucket (first axis) and station or defect (second axis), all int64.

    results          [bucket, station, 3]: attempts by result: pass, rework, scrap
    inspected        [bucket, station]: distinct units at attempt 1
    first_pass_good  [bucket, station]: of these, passed
    defects          [bucket, defect]
    histogram        [bucket, station, bin]: cycle times
    last_at          [bucket, station]: latest event, microseconds; meaningless where there is none
    """

    results: NDArray[np.int64]
    inspected: NDArray[np.int64]
    first_pass_good: NDArray[np.int64]
    defects: NDArray[np.int64]
    histogram: NDArray[np.int64]
    last_at: NDArray[np.int64]


def summarise(events: NDArray[np.void], first_us: int, buckets: int, station_ids: NDArray[np.int64], defect_ids: NDArray[np.int64]) -> Sums:
    """Sum events (EVENT_DTYPE, any order) of `buckets` buckets from `first_us` on.

    `station_ids` and `defect_ids` are sorted; the axes of the result follow them. Raises ValueError on an event outside
    of the buckets, or with a station, result or defect that is none of them.
    """
    from mes.kpi import kernels

    bucket = (events["at"].astype(np.int64) - first_us) // BUCKET_US
    station = np.searchsorted(station_ids, events["station_id"])
    result = events["result"].astype(np.int64)
    defect_id = events["defect_id"].astype(np.int64)
    defect = np.where(defect_id == 0, -1, np.searchsorted(defect_ids, defect_id))
    if events.size:
        known = station_ids.size and (station_ids[np.minimum(station, station_ids.size - 1)] == events["station_id"]).all()
        if bucket.min() < 0 or bucket.max() >= buckets or not known or result.min() < 0 or result.max() > 2:
            raise ValueError(
                f"events outside of {buckets} buckets from {first_us}, of other stations than {station_ids}, or with unknown results"
            )
        if defect.max(initial=-1) >= defect_ids.size or (defect_ids[defect[defect >= 0]] != defect_id[defect >= 0]).any():
            raise ValueError(f"events with other defects than {defect_ids}")
    shape = (buckets, station_ids.size)
    sums = Sums(
        np.zeros((*shape, 3), np.int64),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.int64),
        np.zeros((buckets, max(1, defect_ids.size)), np.int64),
        np.zeros((*shape, kernels.BINS), np.int64),
        np.full(shape, np.iinfo(np.int64).min, np.int64),
    )
    at = events["at"].astype(np.int64)
    attempt = events["attempt"].astype(np.int64)
    cycle_bits = events["cycle_s"].astype(np.float32).view(np.int32)
    kernels.count(bucket, station, result, defect, cycle_bits, sums.results, sums.defects, sums.histogram)
    slots = np.full(1 << int(2 * events.size + 1).bit_length(), -1, np.int64)
    kernels.first_pass(
        bucket,
        station,
        events["unit"].astype(np.int64),
        attempt,
        result,
        at,
        events["seq"].astype(np.int64),
        slots,
        sums.inspected,
        sums.first_pass_good,
    )
    np.maximum.at(sums.last_at, (bucket, station), at)
    return sums


def warm_up() -> None:
    """Load the compiled kernels, or compile them, before there is work: the first time it takes seconds."""
    ids = np.ones(1, np.int64)
    event = np.zeros(1, EVENT_DTYPE)
    event["station_id"] = 1
    summarise(event, 0, 1, ids, ids)
