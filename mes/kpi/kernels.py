"""Bare loops over events, compiled. Every check and every allocation is in `sums`, which calls them.

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

BLOCK = 1024
TO_WHOLE = 1.5 * 2.0**52  # added and taken away again it rounds a float64 below 2^51 to a whole number, halves to even
PLAUSIBLE = 2.0**31  # steps; from here on a reading is counted apart
ENTRY = 1  # words of a table's entry before the bits: the unit


@njit(**COMPILED)
def place(unit, table, stride):  # type: ignore[no-untyped-def]
    """Where the entry of a unit begins in an open-addressing table, or where it is to be put.

    An entry is the unit and the bits of the stations that reported it; bit 0 says that the entry is taken.
    """
    mask = table.size // stride - 1
    h = unit * -7046029254386353131
    k = (h >> 32 ^ h) & mask
    while table[k * stride + 1] & 1 and table[k * stride] != unit:
        k = (k + 1) & mask
    return k * stride


@njit(**COMPILED)
def move(old, new, stride):  # type: ignore[no-untyped-def]
    """Put every entry of a table into an empty one."""
    for e in range(0, old.size, stride):
        if old[e + 1] & 1:
            f = place(old[e], new, stride)
            for w in range(stride):
                new[f + w] = old[e + w]


@njit(**COMPILED)
def witness(unit, station_id, lowest, station_of, table, stride):  # type: ignore[no-untyped-def]
    """Set the bits of reports that are counted elsewhere. False where a station is unknown."""
    for i in range(unit.size):
        s = np.int64(station_id[i]) - lowest
        if s < 0 or s >= station_of.size or station_of[s] < 0:
            return False
        e = place(unit[i], table, stride)
        bit = station_of[s] + 1
        table[e] = unit[i]
        table[e + 1] |= 1
        table[e + 1 + (bit >> 6)] |= 1 << (bit & 63)
    return True


@njit(**COMPILED)
def tally(  # type: ignore[no-untyped-def]
    begin, first_us, end_us, bucket_us, at, unit, station_id, attempt, result, defect_id, cycle_bits, meas,
    lowest, station_of, defect_of, origin, inverse, table, stride, used,
    codes, defects, histogram, last_at, n, implausible, total, squares, low, high, slow, slows, cells, bins,
):  # fmt: skip
    """Add rows from `begin` on, as far as the table of units has room. Returns (row reached, units in the table, slow rows).

    Of each row: codes[cell, result], + 3 where it is the first report of its chain that is met and has attempt 1. All
    other rows are slow: their numbers are put into `slow`. The row reached is -1 where a row has no place.
    """
    stations, slots, most = origin.shape[0], origin.shape[1], table.size // stride // 2
    per_us = 1.0 / bucket_us
    while begin < at.size and used + BLOCK <= most:
        m = min(BLOCK, at.size - begin)
        wrong = False
        for i in range(m):
            r = begin + i
            wrong |= (at[r] < first_us) | (at[r] >= end_us)
            s = np.int64(station_id[r]) - lowest
            t = min(max(s, 0), station_of.size - 1)
            wrong |= (s != t) | (station_of[t] < 0)
            bucket = np.int64((np.float64(at[r] - first_us) + 0.5) * per_us)
            cells[i] = bucket * stations + station_of[t]
            wrong |= (result[r] < 0) | (result[r] > 2)
            d = min(max(np.int64(defect_id[r]), 0), defect_of.size - 1)
            wrong |= (d != defect_id[r]) | (defect_of[d] < -1)
            bins[i] = min(max((cycle_bits[r] >> BIN_SHIFT) - FIRST_BIN, 0), BINS - 1)
        if wrong:
            return -1, used, slows
        for i in range(m):
            r = begin + i
            c = np.int64(cells[i])
            s = c % stations
            e = place(unit[r], table, stride)
            used += 1 - (table[e + 1] & 1)
            bit = s + 1
            word = e + 1 + (bit >> 6)
            table[e] = unit[r]
            table[e + 1] |= 1
            fresh = (attempt[r] == 1) & ~(table[word] >> (bit & 63)) & 1
            table[word] |= 1 << (bit & 63)
            codes[c, result[r] + 3 * fresh] += 1
            slow[slows] = r
            slows += 1 - fresh
            histogram[c, bins[i]] += 1
            last_at[c] = max(last_at[c], at[r])
            d = defect_of[defect_id[r]]
            if d >= 0:
                defects[c // stations, d] += 1
            for k in range(slots):
                x = meas[r, k]
                q = ((np.float64(x) - origin[s, k]) * inverse[s, k] + TO_WHOLE) - TO_WHOLE
                if abs(q) < PLAUSIBLE:
                    n[c, k] += 1
                    total[c, k] += np.int64(q)
                    squares[c, k] += np.int64(q) * np.int64(q)
                    low[c, k] = min(low[c, k], x)
                    high[c, k] = max(high[c, k], x)
                elif x == x:
                    implausible[c, k] += 1
        begin += m
    return begin, used, slows


# --- chains ------------------------------------------------------------------------------------------------------------


@njit(**COMPILED)
def mixed(unit, station_id):  # type: ignore[no-untyped-def]
    h = unit * -7046029254386353131 + np.int64(station_id) * -4658895280553007687
    h = (h ^ (h >> 32)) * -7046029254386353131
    return h ^ (h >> 29)


@njit(**COMPILED)
def number(slow, unit, station_id, key_unit, key_station, key_chain, sieve):  # type: ignore[no-untyped-def]
    """Give the chains of the slow rows numbers, in a table of keys (-1 where free) and a sieve of bits; returns how many."""
    mask, sieve_mask, chains = key_unit.size - 1, 64 * sieve.size - 1, 0
    for r in slow:
        h = mixed(unit[r], station_id[r])
        b = (h >> 20) & sieve_mask
        sieve[b >> 6] |= 1 << (b & 63)
        k = h & mask
        while key_chain[k] >= 0 and (key_unit[k] != unit[r] or key_station[k] != station_id[r]):
            k = (k + 1) & mask
        if key_chain[k] < 0:
            key_unit[k], key_station[k], key_chain[k] = unit[r], station_id[r], chains
            chains += 1
    return chains


@njit(**COMPILED)
def gather(unit, station_id, key_unit, key_station, key_chain, sieve, rows, chain):  # type: ignore[no-untyped-def]
    """List the rows of numbered chains, and their chains; returns how many."""
    mask, sieve_mask, m = key_unit.size - 1, 64 * sieve.size - 1, 0
    for r in range(unit.size):
        h = mixed(unit[r], station_id[r])
        b = (h >> 20) & sieve_mask
        if sieve[b >> 6] >> (b & 63) & 1:
            k = h & mask
            while key_chain[k] >= 0 and (key_unit[k] != unit[r] or key_station[k] != station_id[r]):
                k = (k + 1) & mask
            if key_chain[k] >= 0:
                rows[m], chain[m] = r, key_chain[k]
                m += 1
    return m


@njit(**COMPILED)
def walk(chain, cell, at, seq, result, attempt, order, begins, inspected, first_pass_good, passed, retests):  # type: ignore[no-untyped-def]
    """Replace what `tally` has counted of these chains by what they are, walked in order of time, number and worse result.

    The reports of a chain come in the order in which they were counted, witnesses (cell -1) last. `begins` is zero, one
    longer than there are chains.
    """
    for i in range(chain.size):
        begins[chain[i] + 1] += 1
    for c in range(begins.size - 1):
        begins[c + 1] += begins[c]
    for i in range(chain.size):  # each begin moves to the end of its chain
        order[begins[chain[i]]] = i
        begins[chain[i]] += 1
    for c in range(begins.size - 1):
        begin, end = (begins[c - 1] if c else 0), begins[c]
        i = order[begin]
        if attempt[i] == 1 and cell[order[end - 1]] >= 0:
            inspected[cell[i]] -= 1
            first_pass_good[cell[i]] -= result[i] == 0
            passed[cell[i]] -= result[i] == 0
        gap = 1
        while gap < (end - begin) // 3:
            gap = 3 * gap + 1
        while gap > 0:
            for j in range(begin + gap, end):
                i = order[j]
                while j >= begin + gap:
                    o = order[j - gap]
                    if at[o] < at[i] or (at[o] == at[i] and (seq[o] < seq[i] or (seq[o] == seq[i] and result[o] >= result[i]))):
                        break
                    order[j] = o
                    j -= gap
                order[j] = i
            gap //= 3
        first = good = False
        for j in range(begin, end):
            i = order[j]
            counted = cell[i] >= 0
            if attempt[i] == 1 and not first:
                first = True
                if counted:
                    inspected[cell[i]] += 1
                    first_pass_good[cell[i]] += result[i] == 0
            if result[i] == 0 and not good:
                good = True
                if counted:
                    passed[cell[i]] += 1
            if j > begin and counted and result[order[j - 1]] != 1:
                retests[cell[i]] += 1


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
