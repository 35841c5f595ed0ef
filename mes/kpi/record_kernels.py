"""Bare loops that take the records of the database apart, compiled. `events` checks and allocates."""

from __future__ import annotations

import numpy as np
from numba import njit

from mes.kpi.compiled import COMPILED

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
