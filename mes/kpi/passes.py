"""The passes over events that fill sums: checks and allocations around the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mes.kpi import chain_kernels, kernels, machine_kernels
from mes.kpi.events import Events
from mes.kpi.grid import Grid
from mes.kpi.moments import Moments

if TYPE_CHECKING:
    from mes.kpi.sums import Axes, Sums

BUCKET_US = 5 * 60 * 1_000_000
AHEAD_US = 5 * 60 * 1_000_000


def count(events: Events, witnesses: Events | None, first_us: int, buckets: int, axes: Axes, sums: Sums) -> NDArray[Any]:
    """Fill all of `sums` but the machines; returns the squares, which may be wider than those of `sums`."""
    stations, slots, readings = axes.station_ids.size, axes.origin.shape[1], sums.readings
    if events.meas.shape[1] != slots:
        raise ValueError(f"events with {events.meas.shape[1]} slots of readings, axes with {slots}")
    span_us, lowest = buckets * BUCKET_US, int(axes.station_ids[0]) if stations else 0
    station_of, defect_of = _numbered(axes.station_ids, lowest), _numbered(axes.defect_ids, 0)
    # With 8 to 16 bits for each row, about one row in a hundred meets the two bits of others and is walked in vain.
    shift = 38 - max(12, min(38, (8 * (len(events) + (len(witnesses) if witnesses else 0))).bit_length()))
    seen = np.zeros(1 << 32 - shift, np.uint64)
    hashes = [np.empty(len(events), np.uint32), np.empty(len(witnesses) if witnesses else 0, np.uint32)]
    if witnesses:
        inside = (witnesses.at >= first_us) & (witnesses.at < first_us + span_us)
        if inside.any() or kernels.foresee(lowest, station_of, witnesses.unit, witnesses.station_id, shift, seen, hashes[1]):
            raise ValueError(f"witnesses inside of the {buckets} buckets from {first_us}, or of other stations than {axes.station_ids}")
    flat = buckets * stations, slots
    counts, upper = np.zeros(flat[0] * kernels.CODES, np.int64), np.zeros(flat, np.int64)
    low, high = np.full(flat, kernels.MOST, np.int32), np.full(flat, kernels.LEAST, np.int32)
    slow, block = np.empty(len(events) + 1, np.int32), np.empty((5, kernels.BLOCK), np.uint32)
    arranged = np.empty((slots, kernels.BLOCK), np.float32)
    slows = kernels.tally(
        first_us, span_us, 1.0 / BUCKET_US, events.at, events.unit, events.station_id, events.attempt, events.result,
        events.defect_id, events.cycle_s.view(np.int32), events.meas, lowest, station_of, defect_of, axes.origin, 1.0 / axes.step,
        shift, seen, hashes[0], slow, block, np.empty(stations, np.uint32), arranged, arranged.view(np.int32),
        counts, sums.histogram.reshape(-1), sums.last_at.reshape(-1), sums.defects,
        *(getattr(readings, name).reshape(flat) for name in ("n", "implausible", "total", "squares")), upper, low, high,
    )  # fmt: skip
    if slows < 0:
        raise ValueError(
            f"events outside of {buckets} buckets from {first_us}, of other stations than {axes.station_ids}, "
            f"of other defects than {axes.defect_ids}, or with unknown results"
        )
    by_code = counts.reshape(buckets, stations, kernels.CODES)
    np.add(by_code[:, :, :3], by_code[:, :, 3:6], out=sums.results)
    by_code[:, :, 3:6].sum(axis=2, out=sums.inspected)
    sums.first_pass_good[:] = sums.passed[:] = by_code[:, :, 3]
    for extreme, found in ((readings.low, low), (readings.high, high)):
        extreme[:] = kernels.ordered(found).view(np.float32).reshape(extreme.shape)
        extreme += 0.0  # -0.0 becomes 0.0
    if slows:
        slow[slows] = -1
        _chains(events, witnesses, first_us, axes, hashes, slow[: slows + 1], station_of, lowest, sums)
    return _squares(readings.n, readings.squares, upper.reshape(readings.n.shape))


def _squares(n: NDArray[np.int64], squares: NDArray[np.int64], upper: NDArray[np.int64]) -> NDArray[Any]:
    """Sums of squares, of which `squares` holds the lower 64 bits and `upper` the sums of each square without its lower 32 bits."""
    if not upper.size or int((upper + n).max()) < 2**31:
        return squares
    exact = [(u << 32) + ((s - (u << 32)) % 2**64) for s, u in zip(squares.ravel().tolist(), upper.ravel().tolist(), strict=True)]
    return np.array(exact, np.int64 if max(exact) < 2**63 else object).reshape(n.shape)


def _numbered(ids: NDArray[np.int64], lowest: int) -> NDArray[np.int32]:
    """Where an id stands on its axis, by id - lowest; -1 where it does not, and at the end."""
    out = np.full(int(ids[-1]) - lowest + 2 if ids.size else 1, -1, np.int32)
    out[ids - lowest] = np.arange(ids.size)
    return out


def _chains(
    events: Events, witnesses: Events | None, first_us: int, axes: Axes, hashes: list[NDArray[np.uint32]], slow: NDArray[np.int32],
    station_of: NDArray[np.int32], lowest: int, sums: Sums,
) -> None:  # fmt: skip
    """Count the chains of slow rows anew, walking them."""
    size = max(5, int(slow.size).bit_length())
    sieve, begins = np.zeros(1 << size, np.uint64), np.zeros((1 << size - 1) + 1, np.int32)
    chain_kernels.mark(slow[:-1], hashes[0], sieve)
    sources = [(events, hashes[0], slow)] + ([(witnesses, hashes[1], slow[-1:])] if witnesses else [])
    found = []
    for source, hashed, _ in sources:
        rows = np.empty(len(source) + 1, np.int32)
        found.append(rows[: chain_kernels.gather(hashed, sieve, rows, begins)])
    np.cumsum(begins, out=begins)
    reports = np.empty((begins[-1], 5), np.int64)
    for (source, hashed, slow_here), rows in zip(sources, found, strict=True):
        chain_kernels.collect(
            rows, slow_here, first_us, 1.0 / BUCKET_US, lowest, station_of, axes.station_ids.size, hashed, source.at, source.unit,
            source.seq, source.station_id, source.attempt, source.result, begins, reports,
        )  # fmt: skip
    outs = [a.reshape(-1) for a in (sums.inspected, sums.first_pass_good, sums.passed, sums.retests)]
    chain_kernels.walk(reports, begins[:-1], np.empty(len(reports), np.int32), *outs)


def moments(x: NDArray[np.float64], grid: Grid) -> Moments:
    """Moments of the values on a grid, NaN left out. ValueError where one is 2^52 steps or more from the origin."""
    sums = np.zeros(10, np.int64)
    kernels.exact(x, grid.origin, 1.0 / grid.step, sums)
    n, implausible, a, b, *parts = sums.tolist()
    if implausible:
        raise ValueError(f"{implausible} of {x.size} values are 2^52 steps or more from the origin of {grid}")
    aa, ab, bb = ((parts[i] << 32) + parts[i + 1] for i in (0, 2, 4))
    half = kernels.HALF
    return Moments(
        grid, n, (a << half) + b, (aa << 2 * half) + (ab << half + 1) + bb,
        *((float(np.nanmin(x)), float(np.nanmax(x))) if n else ()),
    )  # fmt: skip


def machines(events: Events, first_us: int, buckets: int, day_end_us: int) -> tuple[NDArray[np.int64], ...]:
    """The columns of `Machines`."""
    pair, table, found = np.empty(len(events), np.int32), np.full(2048, -1, np.int32), np.empty(1024, np.int64)
    reached = used = 0
    while reached < len(events):
        reached, used = machine_kernels.pairs(reached, events.machine_id, events.boot, table, found, used, pair)
        if reached < len(events):
            reached, used = 0, 0
            table, found = np.full(4 * table.size, -1, np.int32), np.empty(4 * found.size, np.int64)
    keys = found[:used]
    order = np.argsort(keys)
    rank = np.empty(used, np.int64)
    rank[order] = np.arange(used)
    out = [np.zeros((buckets, used), np.int64) for _ in range(5)]
    machine_kernels.by_machine(first_us, BUCKET_US, day_end_us, AHEAD_US, events.at, events.received_at, events.seq, pair, rank, *out)
    keys = keys[order]
    return keys >> 32, keys.astype(np.int32).astype(np.int64), *out
