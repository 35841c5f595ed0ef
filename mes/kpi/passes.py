"""The passes over events that fill sums: checks and allocations around the kernels."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mes.kpi import kernels
from mes.kpi.events import Events
from mes.kpi.grid import Grid
from mes.kpi.moments import Moments

if TYPE_CHECKING:
    from mes.kpi.sums import Axes, Sums

BUCKET_US = 5 * 60 * 1_000_000
AHEAD_US = 5 * 60 * 1_000_000
FITS = 2.0**62.9  # a bound computed in float64 that is below this is below 2^63


def count(events: Events, witnesses: Events | None, first_us: int, buckets: int, axes: Axes, sums: Sums) -> NDArray[Any]:
    """Fill all of `sums` but the machines; returns the squares, which may be wider than those of `sums`."""
    stations, readings = axes.station_ids.size, sums.readings
    end_us = first_us + buckets * BUCKET_US
    if events.meas.shape[1] != axes.origin.shape[1]:
        raise ValueError(f"events with {events.meas.shape[1]} slots of readings, axes with {axes.origin.shape[1]}")
    lowest = int(axes.station_ids[0]) if stations else 0
    station_of = _numbered(axes.station_ids, lowest, -1)
    defect_of = _numbered(axes.defect_ids, 0, -2)
    defect_of[0] = -1
    stride = 2 + (stations + 1) // 64
    wanted = len(events) + (len(witnesses) if witnesses else 0)
    table = np.zeros(stride << max(11, min(18, (2 * wanted).bit_length())), np.int64)
    used = 0
    if witnesses is not None and len(witnesses):
        while table.size < 4 * stride * len(witnesses):
            table = np.zeros(2 * table.size, np.int64)
        inside = (witnesses.at >= first_us) & (witnesses.at < end_us)
        if inside.any() or not kernels.witness(witnesses.unit, witnesses.station_id, lowest, station_of, table, stride):
            raise ValueError(f"witnesses inside of the {buckets} buckets from {first_us}, or of other stations than {axes.station_ids}")
        used = int((table[1::stride] & 1).sum())
    codes = np.zeros((buckets * stations, 6), np.int64)
    inverse = 1.0 / axes.step
    slow = np.empty(len(events) + 1, np.int32)
    cells, bins = np.empty(kernels.BLOCK, np.int32), np.empty(kernels.BLOCK, np.int32)
    flat = [getattr(readings, f.name).reshape(buckets * stations, axes.origin.shape[1]) for f in fields(readings)]
    reached = slows = 0
    while reached < len(events):
        if used + kernels.BLOCK > table.size // stride // 2:
            larger = np.zeros(4 * table.size, np.int64)
            kernels.move(table, larger, stride)
            table = larger
        reached, used, slows = kernels.tally(
            reached, first_us, end_us, BUCKET_US, events.at, events.unit, events.station_id, events.attempt, events.result,
            events.defect_id, events.cycle_s.view(np.int32), events.meas, lowest, station_of, defect_of, axes.origin, inverse,
            table, stride, used, codes, sums.defects, sums.histogram.reshape(buckets * stations, kernels.BINS), sums.last_at.reshape(-1),
            *flat, slow, slows, cells, bins,
        )  # fmt: skip
        if reached < 0:
            raise ValueError(
                f"events outside of {buckets} buckets from {first_us}, of other stations than {axes.station_ids}, "
                f"of other defects than {axes.defect_ids}, or with unknown results"
            )
    for extreme in (readings.low, readings.high):
        extreme += 0.0  # -0.0 becomes 0.0, whichever of the two came first
    by_code = codes.reshape(buckets, stations, 6)
    sums.results[:] = by_code[:, :, :3] + by_code[:, :, 3:]
    sums.inspected[:] = by_code[:, :, 3:].sum(axis=2)
    sums.first_pass_good[:] = sums.passed[:] = by_code[:, :, 3]
    if slows:
        _chains(events, witnesses, first_us, axes, slow[:slows], station_of, lowest, sums)
    return _squares(events, first_us, axes, station_of, lowest, sums)


def _numbered(ids: NDArray[np.int64], lowest: int, nothing: int) -> NDArray[np.int64]:
    """Where an id stands on its axis, by id - lowest; `nothing` where it does not. At least one long."""
    out = np.full(int(ids[-1]) - lowest + 1 if ids.size else 1, nothing, np.int64)
    out[ids - lowest] = np.arange(ids.size)
    return out


def _chains(events: Events, witnesses: Events | None, first_us: int, axes: Axes, slow: NDArray[np.int32], station_of: NDArray[np.int64],
            lowest: int, sums: Sums) -> None:  # fmt: skip
    """Count the chains of slow rows again, walking them."""
    size = 1 << int(2 * slow.size).bit_length()
    key_unit, key_station, key_chain = np.empty(size, np.int64), np.empty(size, np.int16), np.full(size, -1, np.int32)
    sieve = np.zeros(max(1, size // 8), np.int64)
    chains = kernels.number(slow, events.unit, events.station_id, key_unit, key_station, key_chain, sieve)
    parts = []
    for source in (events, witnesses):
        if source is None:
            continue
        rows, chain = np.empty(len(source), np.int32), np.empty(len(source), np.int32)
        m = kernels.gather(source.unit, source.station_id, key_unit, key_station, key_chain, sieve, rows, chain)
        rows = rows[:m]
        at = source.at[rows]
        cell = np.full(m, -1, np.int64)
        if source is events:
            cell[:] = (at - first_us) // BUCKET_US * axes.station_ids.size + station_of[source.station_id[rows].astype(np.int64) - lowest]
        parts.append((chain[:m], cell, at, source.seq[rows], source.result[rows], source.attempt[rows]))
    columns = [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
    outs = [a.reshape(-1) for a in (sums.inspected, sums.first_pass_good, sums.passed, sums.retests)]
    kernels.walk(*columns, np.empty(columns[0].size, np.int32), np.zeros(chains + 1, np.int32), *outs)


def _squares(events: Events, first_us: int, axes: Axes, station_of: NDArray[np.int64], lowest: int, sums: Sums) -> NDArray[Any]:
    """The sums of squares, summed again without a limit where they may not have fitted 63 bits."""
    r = sums.readings
    with np.errstate(invalid="ignore"):
        widest = np.maximum(abs((r.low - axes.origin) / axes.step), abs((r.high - axes.origin) / axes.step)) + 1
        suspects = np.argwhere((r.n > 0) & (r.n * widest**2 > FITS))
    if not suspects.size:
        return r.squares
    cell = (events.at - first_us) // BUCKET_US * axes.station_ids.size + station_of[events.station_id.astype(np.int64) - lowest]
    squares = r.squares.astype(object)
    for b, s, k in suspects:
        grid = Grid(float(axes.origin[s, k]), float(axes.step[s, k]))
        x = events.meas[cell == b * axes.station_ids.size + s, k].astype(np.float64)
        plausible = abs(np.rint((x - grid.origin) / grid.step)) < kernels.PLAUSIBLE
        squares[b, s, k] = moments(x[plausible], grid).squares
    return squares if max(squares[tuple(suspects.T)]) >= 2**63 else squares.astype(np.int64)


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
        reached, used = kernels.pairs(reached, events.machine_id, events.boot, table, found, used, pair)
        if reached < len(events):
            reached, used = 0, 0
            table, found = np.full(4 * table.size, -1, np.int32), np.empty(4 * found.size, np.int64)
    keys = found[:used]
    order = np.argsort(keys)
    rank = np.empty(used, np.int64)
    rank[order] = np.arange(used)
    out = [np.zeros((buckets, used), np.int64) for _ in range(5)]
    kernels.by_machine(first_us, BUCKET_US, day_end_us, AHEAD_US, events.at, events.received_at, events.seq, pair, rank, *out)
    keys = keys[order]
    return keys >> 32, keys.astype(np.int32).astype(np.int64), *out
