"""Bare loops over the few chains that have to be walked, compiled. `passes` checks and allocates."""

from __future__ import annotations

import numpy as np
from numba import njit

from mes.kpi.compiled import COMPILED


@njit(**COMPILED)
def sieve_bits(hash_):  # type: ignore[no-untyped-def]
    """The bits that a hash sets in its word of the sieve."""
    return np.uint64(1) << np.uint64(hash_ >> np.uint32(12) & np.uint32(63)) | np.uint64(1) << np.uint64(
        hash_ >> np.uint32(18) & np.uint32(63)
    )


@njit(**COMPILED)
def mark(slow, hashes, sieve):  # type: ignore[no-untyped-def]
    """Set the bits of the hashes of slow rows."""
    mask = np.uint32(sieve.size - 1)
    for i in range(slow.size):
        h = hashes[np.uint32(slow[i])]
        sieve[h & mask] |= sieve_bits(h)


@njit(**COMPILED)
def gather(hashes, sieve, rows, begins):  # type: ignore[no-untyped-def]
    """List the rows whose bits are set, and count them by group, which is a hash without its upper bits; returns how many."""
    mask, groups = np.uint32(sieve.size - 1), np.uint32(begins.size - 2)
    end = np.uint64(0)
    for r in range(hashes.size):
        h = hashes[r]
        rows[end] = r
        end += np.uint64(sieve_bits(h) & ~sieve[h & mask] == 0)
    for i in range(np.int64(end)):
        begins[(hashes[np.uint32(rows[i])] & groups) + np.uint32(1)] += 1
    return np.int64(end)


@njit(**COMPILED)
def collect(  # type: ignore[no-untyped-def]
    rows, slow, first_us, per_us, lowest, station_of, stations, hashes, at, unit, seq, station_id, attempt, result, begins, reports,
):  # fmt: skip
    """Put reports where their groups begin, and move these on: (unit, station, time, number, rank and what they count as).

    The last is 2 - result, whether `sift` counted it as first of its chain, attempt 1 and, in 32 bits, cell + 1. `slow`
    ends with -1; where it holds nothing else, these are witnesses and have no cell.
    """
    groups, next_slow, counted = np.uint32(begins.size - 2), np.uint64(0), slow.size > 1
    for i in range(rows.size):
        r = np.uint32(rows[i])
        group = hashes[r] & groups
        place = np.uint32(begins[group])
        begins[group] += 1
        was_slow = slow[next_slow] == rows[i]  # every slow row is among the rows
        next_slow += np.uint64(was_slow)
        cell = np.int64(-1)
        if counted:
            bucket = np.int64((np.float64(at[r] - first_us) + 0.5) * per_us)
            cell = bucket * stations + station_of[np.int64(station_id[r]) - lowest]
        fast = counted and not was_slow
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
