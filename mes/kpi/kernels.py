"""Bare loops that sum events by station, compiled. Every check and every allocation is in `passes` and `events`, which call them.

Compiled code reaches numba's disk cache only at module level; an index out of bounds returns garbage in silence.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mes.kpi.compiled import COMPILED

# Cycle time histogram: 32 bins an octave, by the upper bits of the float32 value, over the octaves 2^-7 to 2^25 seconds.
BIN_SHIFT = 18
FIRST_BIN = (127 - 7) << 5
BINS = 32 << 5

# Rows are taken in blocks that stay in the processor's cache, and each loop over a block does one thing: loops over a
# slice with unsigned positions are those that LLVM turns into vector instructions. Positions that depend on data are
# unsigned throughout, because numba looks for negative ones otherwise.

BLOCK = 4096
TO_WHOLE = 1.5 * 2.0**52  # added and taken away again it rounds a float64 below 2^51 to a whole number, halves to even
PLAUSIBLE = 2.0**31  # steps; from here on a reading is counted apart
CODES = 8  # a cell's counters by result, and by result of reports that are the first of their chain; two are unused
LEAST, MOST = -0x7F800001, 0x7F800000  # -inf and inf as `ordered` sees them


@njit(**COMPILED)
def ordered(bits):  # type: ignore[no-untyped-def]
    """Bits of a float32 as an int32 of the same order, and back."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@njit(**COMPILED)
def hashed(unit, station_id):  # type: ignore[no-untyped-def]
    """32 bits of a unit at a station."""
    return np.uint32((unit + (np.int64(station_id) << 32)) * -7046029254386353131 >> 32)


@njit(**COMPILED)
def look(first_us, span_us, per_us, lowest, station_of, stations, at, unit, station_id, result, cycle_bits, cells, marks, bins, hashes):  # type: ignore[no-untyped-def]
    """Cell, station, bin and hash of (unit, station) of each row. True where a row has no place."""
    wrong, far = np.int32(0), np.int64(0)
    for i in range(at.size):
        us = at[i] - first_us
        far |= us | (span_us - 1 - us)
        cells[i] = np.uint32(np.int32((np.float64(us) + 0.5) * per_us) * np.int32(stations))
    for i in range(at.size):
        # what is beyond either end of the table reads its last entry, which is no station
        station = station_of[min(np.uint32(np.int32(station_id[i]) - np.int32(lowest)), np.uint32(station_of.size - 1))]
        wrong |= station | np.int32(result[i]) | (np.int32(2) - np.int32(result[i]))
        cells[i] += np.uint32(station)
        marks[i] = np.uint32(station)
        bins[i] = np.uint32(min(max((cycle_bits[i] >> np.int32(BIN_SHIFT)) - np.int32(FIRST_BIN), np.int32(0)), np.int32(BINS - 1)))
    for i in range(at.size):
        hashes[i] = hashed(unit[i], station_id[i])
    return far < 0 or wrong < 0


@njit(**COMPILED)
def two_bits(hash_):  # type: ignore[no-untyped-def]
    """The bits that a hash sets in its word of the filter."""
    return np.uint64(1) << np.uint64(hash_ & np.uint32(63)) | np.uint64(1) << np.uint64(hash_ >> np.uint32(6) & np.uint32(63))


@njit(**COMPILED)
def foresee(lowest, station_of, unit, station_id, shift, seen, hashes):  # type: ignore[no-untyped-def]
    """Put witnesses into the filter. True where a station is unknown."""
    for i in range(unit.size):
        s = np.int64(station_id[i]) - lowest
        if s < 0 or s >= station_of.size or station_of[s] < 0:
            return True
        hashes[i] = hashed(unit[i], station_id[i])
        seen[np.uint64(hashes[i]) >> np.uint64(shift)] |= two_bits(hashes[i])
    return False


@njit(**COMPILED)
def sift(begin, hashes, shift, seen, attempt, result, codes, slow, slows):  # type: ignore[no-untyped-def]
    """Code of each row: its result, + 3 where it has attempt 1 and is the first of its hash in the filter `seen`.

    All others are slow: their numbers are put into `slow`; returns how many it holds now.
    """
    for i in range(hashes.size):
        place, bits = np.uint64(hashes[i]) >> np.uint64(shift), two_bits(hashes[i])
        word = seen[place]
        codes[i] = np.uint32(bits & ~word != 0)
        seen[place] = word | bits
    for i in range(hashes.size):
        codes[i] = np.uint32(result[i]) + np.uint32(3) * (codes[i] & np.uint32(attempt[i] == 1))
    end = np.uint64(slows)
    for i in range(hashes.size):
        slow[end] = begin + i
        end += np.uint64(codes[i] < np.uint32(3))
    return np.int64(end)


@njit(**COMPILED)
def scatter(stations, cells, codes, bins, at, defect_id, defect_of, counts, histogram, last_at, defects):  # type: ignore[no-untyped-def]
    """Add each row to the counters of its cell, and to its defect. True where a defect is unknown."""
    for i in range(cells.size):
        c = np.uint64(cells[i])
        counts[np.uint64(CODES) * c + np.uint64(codes[i])] += 1
        histogram[np.uint64(BINS) * c + np.uint64(bins[i])] += 1
        last_at[c] = max(last_at[c], at[i])
    for i in range(cells.size):
        d = np.int64(defect_id[i])
        if d != 0:
            if d < 0 or d >= defect_of.size or defect_of[d] < 0:
                return True
            defects[np.int64(cells[i]) // stations, defect_of[d]] += 1
    return False


@njit(**COMPILED)
def arrange(cells, marks, meas, begins, by_station, readings):  # type: ignore[no-untyped-def]
    """Cells and readings[slot, ...] in order of stations, and of rows inside; `marks` become the places in that order."""
    begins[:] = 0
    for i in range(cells.size):
        begins[marks[i]] += np.uint32(1)
    total = np.uint32(0)
    for s in range(begins.size):
        total, begins[s] = total + begins[s], total
    for i in range(cells.size):
        place = begins[marks[i]]
        begins[marks[i]] = place + np.uint32(1)
        by_station[place] = cells[i]
        marks[i] = place
    for k in range(meas.shape[1]):
        column = readings[k]
        for i in range(cells.size):
            column[marks[i]] = meas[i, k]


@njit(**COMPILED)
def measure(x, bits, origin, inverse):  # type: ignore[no-untyped-def]
    """Readings that are there, and of the plausible ones: n, sum of steps, of squares, of squares >> 32; extremes, `ordered`."""
    there, n = np.int32(0), np.int32(0)
    total, squares, upper = np.int64(0), np.int64(0), np.int64(0)
    low, high = np.int32(MOST), np.int32(LEAST)
    for i in range(x.size):
        steps = ((np.float64(x[i]) - origin) * inverse + TO_WHOLE) - TO_WHOLE
        plausible = abs(steps) < PLAUSIBLE
        q = np.int64(np.int32(steps if plausible else 0.0))
        there += np.int32(x[i] == x[i])
        n += np.int32(plausible)
        total += q
        squares += q * q
        upper += (q * q) >> 32
        low = min(low, ordered(bits[i]) if plausible else np.int32(MOST))
        high = max(high, ordered(bits[i]) if plausible else np.int32(LEAST))
    return there, n, total, squares, upper, low, high


@njit(**COMPILED)
def there(x):  # type: ignore[no-untyped-def]
    """How many readings there are."""
    n = np.int32(0)
    for i in range(x.size):
        n += np.int32(x[i] == x[i])
    return n


@njit(**COMPILED)
def reduce(stations, by_station, readings, bits, origin, inverse, n, implausible, total, squares, upper, low, high):  # type: ignore[no-untyped-def]
    """Add arranged readings to the sums of their cells, a run of one cell at a time; `low` and `high` are `ordered`."""
    begin = 0
    while begin < by_station.size:
        c, end = by_station[begin], begin + 1
        while end < by_station.size and by_station[end] == c:
            end += 1
        c = np.int64(c)
        for k in range(origin.shape[1]):
            if np.isnan(inverse[c % stations, k]):
                implausible[c, k] += there(readings[k, begin:end])
                continue
            found = measure(readings[k, begin:end], bits[k, begin:end], origin[c % stations, k], inverse[c % stations, k])
            implausible[c, k] += found[0] - found[1]
            n[c, k] += found[1]
            total[c, k] += found[2]
            squares[c, k] += found[3]
            upper[c, k] += found[4]
            low[c, k] = min(low[c, k], found[5])
            high[c, k] = max(high[c, k], found[6])
        begin = end


@njit(**COMPILED)
def tally(  # type: ignore[no-untyped-def]
    first_us, span_us, per_us, at, unit, station_id, attempt, result, defect_id, cycle_bits, meas,
    lowest, station_of, defect_of, origin, inverse, shift, seen, hashes, slow, block, begins, readings, bits,
    counts, histogram, last_at, defects, n, implausible, total, squares, upper, low, high,
):  # fmt: skip
    """Add all rows; returns how many are slow (see `sift`), or -1 where one has no place."""
    stations, slows = origin.shape[0], 0
    for begin in range(0, at.size, BLOCK):
        end = min(begin + BLOCK, at.size)
        cells, marks, bins, codes, by_station = (
            block[0, : end - begin],
            block[1, : end - begin],
            block[2],
            block[3],
            block[4, : end - begin],
        )
        here = hashes[begin:end]
        if look(first_us, span_us, per_us, lowest, station_of, stations, at[begin:end], unit[begin:end], station_id[begin:end],
                result[begin:end], cycle_bits[begin:end], cells, marks, bins, here):  # fmt: skip
            return -1
        slows = sift(begin, here, shift, seen, attempt[begin:end], result[begin:end], codes, slow, slows)
        if scatter(stations, cells, codes, bins, at[begin:end], defect_id[begin:end], defect_of, counts, histogram, last_at, defects):
            return -1
        arrange(cells, marks, meas[begin:end], begins, by_station, readings)
        reduce(stations, by_station, readings, bits, origin, inverse, n, implausible, total, squares, upper, low, high)
    return slows


HALF = 26
WIDEST = 2.0**52


@njit(**COMPILED)
def exact(x, origin, inverse, sums):  # type: ignore[no-untyped-def]
    """Count and sum q = a * 2^26 + b, 0 <= b < 2^26, below 2^52 steps; NaN is left out.

    sums: n, implausible, a, b, then a*a, a*b and b*b, each as an upper part in steps of 2^32 and a lower part.
    """
    for begin in range(0, x.size, 512):  # so few products fit into 63 bits
        aa = ab = bb = np.int64(0)
        for i in range(begin, min(begin + 512, x.size)):
            v = (np.float64(x[i]) - origin) * inverse
            q = np.rint(v)
            if abs(q) < WIDEST:
                a, b = np.int64(q) >> HALF, np.int64(q) & ((1 << HALF) - 1)
                sums[0] += 1
                sums[2] += a
                sums[3] += b
                aa += a * a
                ab += a * b
                bb += b * b
            elif v == v:
                sums[1] += 1
        for k, s in enumerate((aa, ab, bb)):
            sums[4 + 2 * k] += s >> 32
            sums[5 + 2 * k] += s & 0xFFFFFFFF
