"""Bare loops over events, compiled. Every check and every allocation is in `sums`, which calls them.

Compiled code reaches numba's disk cache only at module level; an index out of bounds returns garbage in silence.
"""

from __future__ import annotations

from typing import Any

from numba import njit

COMPILED: dict[str, Any] = {"cache": True, "nogil": True}

# Cycle time histogram: 32 bins an octave, by the upper bits of the float32 value, over the octaves 2^-7 to 2^25 seconds.
BIN_SHIFT = 18
FIRST_BIN = (127 - 7) << 5
BINS = 32 << 5


@njit(**COMPILED)
def count(bucket, station, result, defect, cycle_bits, results, defects, histogram):  # type: ignore[no-untyped-def]
    """Add each row to results[bucket, station, result], defects[bucket, defect] and histogram[bucket, station, bin]."""
    for i in range(bucket.size):
        b = bucket[i]
        s = station[i]
        results[b, s, result[i]] += 1
        if defect[i] >= 0:
            defects[b, defect[i]] += 1
        bin_ = (cycle_bits[i] >> BIN_SHIFT) - FIRST_BIN
        histogram[b, s, min(max(bin_, 0), BINS - 1)] += 1


@njit(**COMPILED)
def first_pass(bucket, station, unit, attempt, result, at, seq, slots, inspected, first_pass_good):  # type: ignore[no-untyped-def]
    """Count distinct units at attempt 1, and those of them whose first result is a pass, by bucket and station.

    `slots` is an open-addressing table of row numbers, -1 where free, its size a power of two above the number of rows.
    Where a unit reports its first attempt twice, the earlier report counts, whatever the order of rows: by time, then by
    sequence number, then the worse result.
    """
    mask = slots.size - 1
    for i in range(bucket.size):
        if attempt[i] != 1:
            continue
        h = unit[i] ^ ((bucket[i] * 64 + station[i] + 1) * -7046029254386353131)
        h ^= (h >> 32) & 0xFFFFFFFF
        k = (h * -4658895280553007687 >> 20) & mask
        while True:
            j = slots[k]
            if j < 0:
                slots[k] = i
                inspected[bucket[i], station[i]] += 1
                break
            if unit[j] == unit[i] and bucket[j] == bucket[i] and station[j] == station[i]:
                earlier = at[i] < at[j] or (at[i] == at[j] and (seq[i] < seq[j] or (seq[i] == seq[j] and result[i] > result[j])))
                if earlier:
                    slots[k] = i
                break
            k = (k + 1) & mask
    for k in range(slots.size):
        j = slots[k]
        if j >= 0 and result[j] == 0:
            first_pass_good[bucket[j], station[j]] += 1
