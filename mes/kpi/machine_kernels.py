"""Bare loops that sum events by machine, compiled. `passes` checks and allocates."""

from __future__ import annotations

import numpy as np
from numba import njit

from mes.kpi.compiled import COMPILED


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
