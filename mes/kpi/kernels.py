"""Bare loops over events, compiled. Every check and every allocation is in `passes` and `events`, which call them.

Compiled code reaches numba's disk cache only at module level; an index out of bounds returns garbage in silence.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

COMPILED: dict[str, Any] = {"cache": True, "nogil": True}

# Cycle time histogram: 32 bins an octave, by the upper bits of the float32 value, over the octaves 2^-7 to 2^25 seconds.
BIN_SHIFT = 18
FIRST_BIN = (127 - 7) << 5
BINS = 32 << 5



# --- records of the database -------------------------------------------------------------------------------------------

FIXED_WORDS = 16  # 32-bit words of a record, up to and with the element type of its array
FLOAT4 = 700
NAN_BITS = 0x7FC00000


@njit(**COMPILED)
def swapped(word):  # type: ignore[no-untyped-def]
    """A big-endian 32-bit word as the signed number that it says."""
    w = np.int64(word)
    w = (w & 0xFF) << 24 | (w & 0xFF00) << 8 | (w >> 8) & 0xFF00 | w >> 24
    return w - ((w & 0x80000000) << 1)


@njit(**COMPILED)
def records(words, slots):  # type: ignore[no-untyped-def]
    """How many whole records there are one behind the other, and the word at which that ends."""
    n = at = 0
    while at + FIXED_WORDS <= words.size:
        dimensions = swapped(words[at + 13])
        if dimensions < 0 or dimensions > 1 or words[at + 14] != 0 or swapped(words[at + 15]) != FLOAT4:
            break
        end = at + FIXED_WORDS
        if dimensions == 1:
            if end + 2 > words.size:
                break
            readings = swapped(words[end])
            if readings < 1 or readings > slots or swapped(words[end + 1]) != 1 or end + 2 + 2 * readings > words.size:
                break
            end += 2
            strange = 0
            for k in range(readings):
                strange |= swapped(words[end + 2 * k]) ^ 4
            if strange != 0:
                break
            end += 2 * readings
        n += 1
        at = end
    return n, at


@njit(**COMPILED)
def columns(words, at, received_at, unit, seq, machine, boot, cycle_bits, station, attempt, result, defect, meas_bits):  # type: ignore[no-untyped-def]
    """Take records apart that `records` has found whole."""
    w = 0
    for i in range(at.size):
        at[i] = swapped(words[w]) << 32 | swapped(words[w + 1]) & 0xFFFFFFFF
        received_at[i] = swapped(words[w + 2]) << 32 | swapped(words[w + 3]) & 0xFFFFFFFF
        unit[i] = swapped(words[w + 4]) << 32 | swapped(words[w + 5]) & 0xFFFFFFFF
        seq[i] = swapped(words[w + 6]) << 32 | swapped(words[w + 7]) & 0xFFFFFFFF
        machine[i] = swapped(words[w + 8])
        boot[i] = swapped(words[w + 9])
        cycle_bits[i] = swapped(words[w + 10])
        two = swapped(words[w + 11])
        station[i] = two >> 16
        attempt[i] = ((two & 0xFFFF) ^ 0x8000) - 0x8000
        two = swapped(words[w + 12])
        result[i] = two >> 16
        defect[i] = ((two & 0xFFFF) ^ 0x8000) - 0x8000
        readings = 0
        if words[w + 13] != 0:
            readings = swapped(words[w + 16])
            w += 2
        w += FIXED_WORDS
        for k in range(meas_bits.shape[1]):
            meas_bits[i, k] = swapped(words[w + 2 * k + 1]) if k < readings else NAN_BITS
        w += 2 * readings


# --- sums of stations --------------------------------------------------------------------------------------------------
#
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
def look(first_us, span_us, per_us, lowest, station_of, stations, at, unit, station_id, result, cycle_bits, cells, marks, bins, hashes):  # type: ignore[no-untyped-def]
    """Cell, station, bin and hash of (unit, station) of each row. True where a row has no place."""
    wrong, far = np.int32(0), np.int64(0)
    for i in range(at.size):
        us = at[i] - first_us
        far |= us | (span_us - 1 - us)
        cells[i] = np.uint32(np.int32((np.float64(us) + 0.5) * per_us) * np.int32(stations))
    for i in range(at.size):
        s = np.int32(station_id[i]) - np.int32(lowest)
        known = min(max(s, np.int32(0)), np.int32(station_of.size - 1))
        station = station_of[np.uint32(known)]
        wrong |= -(s ^ known) | (s ^ known) | station | np.int32(result[i]) | (np.int32(2) - np.int32(result[i]))
        cells[i] += np.uint32(station)
        marks[i] = np.uint32(station)
        bins[i] = np.uint32(min(max((cycle_bits[i] >> np.int32(BIN_SHIFT)) - np.int32(FIRST_BIN), np.int32(0)), np.int32(BINS - 1)))
    for i in range(at.size):
        hashes[i] = np.uint32((unit[i] + (np.int64(station_id[i]) << 32)) * -7046029254386353131 >> 32)
    return far < 0 or wrong < 0


@njit(**COMPILED)
def two_bits(hash_):  # type: ignore[no-untyped-def]
    """The bits that a hash sets in its word of the filter."""
    return np.uint64(1) << np.uint64(hash_ & np.uint32(63)) | np.uint64(1) << np.uint64(hash_ >> np.uint32(6) & np.uint32(63))


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
def reduce(stations, by_station, readings, bits, origin, inverse, n, implausible, total, squares, upper, low, high):  # type: ignore[no-untyped-def]
    """Add arranged readings to the sums of their cells, a run of one cell at a time; `low` and `high` are `ordered`."""
    begin = 0
    while begin < by_station.size:
        c, end = by_station[begin], begin + 1
        while end < by_station.size and by_station[end] == c:
            end += 1
        c = np.int64(c)
        for k in range(origin.shape[1]):
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


# --- chains ------------------------------------------------------------------------------------------------------------


@njit(**COMPILED)
def foresee(lowest, station_of, unit, station_id, shift, seen, hashes):  # type: ignore[no-untyped-def]
    """Put witnesses into the filter. True where a station is unknown."""
    for i in range(unit.size):
        s = np.int64(station_id[i]) - lowest
        if s < 0 or s >= station_of.size or station_of[s] < 0:
            return True
        hashes[i] = np.uint32((unit[i] + (np.int64(station_id[i]) << 32)) * -7046029254386353131 >> 32)
        seen[np.uint64(hashes[i]) >> np.uint64(shift)] |= two_bits(hashes[i])
    return False


@njit(**COMPILED)
def mark(slow, hashes, sieve):  # type: ignore[no-untyped-def]
    """Set the bits of the hashes of slow rows."""
    mask = np.uint32(32 * sieve.size - 1)
    for i in range(slow.size):
        bit = hashes[np.uint32(slow[i])] & mask
        sieve[bit >> np.uint32(5)] |= np.uint32(1) << (bit & np.uint32(31))


@njit(**COMPILED)
def gather(hashes, sieve, rows, begins):  # type: ignore[no-untyped-def]
    """List the rows whose bit is set, and count them by group, which is a hash without its upper bits; returns how many."""
    mask, groups = np.uint32(32 * sieve.size - 1), np.uint32(begins.size - 2)
    end = np.uint64(0)
    for r in range(hashes.size):
        bit = hashes[r] & mask
        rows[end] = r
        end += np.uint64(sieve[bit >> np.uint32(5)] >> (bit & np.uint32(31)) & np.uint32(1))
    for i in range(np.int64(end)):
        begins[(hashes[np.uint32(rows[i])] & groups) + np.uint32(1)] += 1
    return np.int64(end)


@njit(**COMPILED)
def collect(  # type: ignore[no-untyped-def]
    rows, slow, first_us, per_us, lowest, station_of, stations, hashes, at, unit, seq, station_id, attempt, result, begins, reports,
):  # fmt: skip
    """Put reports where their groups begin, and move these on: (unit, station, time, number, rank and what they count as).

    The last is 2 - result, attempt 1 and, in 32 bits, cell + 1. Without `slow` these are witnesses and have no cell.
    """
    groups, next_slow = np.uint32(begins.size - 2), 0
    for i in range(rows.size):
        r = np.uint32(rows[i])
        group = hashes[r] & groups
        place = np.uint32(begins[group])
        begins[group] += 1
        while next_slow < slow.size and slow[next_slow] < rows[i]:
            next_slow += 1
        was_slow = next_slow < slow.size and slow[next_slow] == rows[i]
        cell = np.int64(-1)
        if slow.size:
            bucket = np.int64((np.float64(at[r] - first_us) + 0.5) * per_us)
            cell = bucket * stations + station_of[np.int64(station_id[r]) - lowest]
        fast = slow.size > 0 and not was_slow
        reports[place, 0] = unit[r]
        reports[place, 1] = station_id[r]
        reports[place, 2] = at[r]
        reports[place, 3] = seq[r]
        reports[place, 4] = (2 - np.int64(result[r])) << 34 | np.int64(fast) << 33 | np.int64(attempt[r] == 1) << 32 | (cell + 1)


@njit(**COMPILED)
def before(reports, a, b):  # type: ignore[no-untyped-def]
    """Whether report a comes before b in the order of units, stations, and reports of a chain."""
    for k in range(5):
        if reports[a, k] != reports[b, k]:
            return reports[a, k] < reports[b, k]
    return False


@njit(**COMPILED)
def walk(reports, ends, order, inspected, first_pass_good, passed, retests):  # type: ignore[no-untyped-def]
    """Count the chains of these groups of reports anew, walking each in order; what `sift` has counted of them is taken back.

    `ends` holds the end of each group.
    """
    begin = 0
    for end in ends:
        for i in range(begin, end):
            order[i] = i
        gap = 1
        while gap < (end - begin) // 3:
            gap = 3 * gap + 1
        while gap > 0:  # Shell's sort: by insertion where there are few, and never quadratic
            for j in range(begin + gap, end):
                i = order[j]
                while j >= begin + gap and before(reports, i, order[j - gap]):
                    order[j] = order[j - gap]
                    j -= gap
                order[j] = i
            gap //= 3
        first = good = False
        for j in range(begin, end):
            i = order[j]
            what = reports[i, 4]
            cell, starts, fast, is_pass = (what & 0xFFFFFFFF) - 1, what >> 32 & 1, what >> 33 & 1, what >> 34 == 2
            follows = j > begin and reports[i, 0] == reports[order[j - 1], 0] and reports[i, 1] == reports[order[j - 1], 1]
            if not follows:
                first = good = False
            if cell >= 0:
                inspecting = np.int64(starts != 0 and not first) - fast
                inspected[cell] += inspecting
                first_pass_good[cell] += inspecting * is_pass
                passed[cell] += np.int64(is_pass and not good) - fast * is_pass
                retests[cell] += follows and reports[order[j - 1], 4] >> 34 != 1
            first |= starts != 0
            good |= is_pass
        begin = end


# --- machines ----------------------------------------------------------------------------------------------------------


@njit(**COMPILED)
def pairs(begin, machine, boot, table, found, used, pair):  # type: ignore[no-untyped-def]
    """Number the pairs of machine and boot from row `begin` on, as they come; returns (row reached, pairs found).

    `table` holds numbers, -1 where free; found[number] is machine << 32 | boot. Stops where the table is half full.
    """
    mask, last, number_ = table.size - 1, np.int64(0), np.int64(-1)
    for i in range(begin, machine.size):
        key = np.int64(machine[i]) << 32 | np.int64(boot[i]) & 0xFFFFFFFF
        if number_ < 0 or key != last:
            k = (key * -7046029254386353131 >> 40) & mask
            while table[k] >= 0 and found[table[k]] != key:
                k = (k + 1) & mask
            if table[k] < 0:
                if 2 * used >= table.size:
                    return i, used
                table[k], found[used] = used, key
                used += 1
            last, number_ = key, table[k]
        pair[i] = number_
    return machine.size, used


@njit(**COMPILED)
def by_machine(first_us, bucket_us, day_end_us, ahead_us, at, received_at, seq, pair, rank, received, late, ahead, first_seq, last_seq):  # type: ignore[no-untyped-def]
    """Add each row to the sums of its bucket and its pair of machine and boot."""
    for i in range(at.size):
        b, m = (at[i] - first_us) // bucket_us, rank[pair[i]]
        if received[b, m] == 0 or seq[i] < first_seq[b, m]:
            first_seq[b, m] = seq[i]
        if received[b, m] == 0 or seq[i] > last_seq[b, m]:
            last_seq[b, m] = seq[i]
        received[b, m] += 1
        late[b, m] += received_at[i] >= day_end_us
        ahead[b, m] += at[i] - received_at[i] > ahead_us


# --- readings without a limit ------------------------------------------------------------------------------------------

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
