"""`./run bench kpi`: the key figures of days beside DuckDB, Polars, pandas and PostgreSQL: the same rows, the same figures, compared equal.

The figures: reports by result, inspected and first-pass good units, defects, cycle time histogram, and of every reading the
count, sum of steps, sum of squared steps, smallest and largest; by line, day, bucket and station. Everybody gets a line's day
at a time, in memory in the form that suits them best, and is timed from there to finished arrays.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from mes.embedded.postgres import EmbeddedPostgres
from mes.kpi import passes
from mes.kpi.events import Events
from mes.kpi.grid import Grid
from mes.kpi.sums import BUCKET_US, Axes, Sums, summarise
from mes.seeds import load_plant
from tests.benchmarks.processes import say

ROOT = Path(__file__).resolve().parents[2]
CELLS = {"dalian/cells/26650-1": 100_000, "nanjing/cells/32140-1": 50_000}  # a day
BUCKETS, SLOTS, DEFECTS = 288, 4, 40
DAY_US = BUCKETS * BUCKET_US
FIRST_US = 848_534_400_000_000
ROW_BYTES = 28 + 4 * SLOTS  # what the kernels read of an event
MANY = 60_000_000

Day = tuple[Events, Axes]
Figures = dict[str, np.ndarray]


def day(line: Any, cells: int, seed: int) -> Day:
    """A line's day in order of time: cells pass the stations in turn, some wait between them for a night, one in fifty is reworked."""
    rng = np.random.default_rng(seed)
    stations = len(line.station)
    origin, step = np.full((2, stations, SLOTS), np.nan)
    parts = []
    for s, station in enumerate(line.station):
        for k, c in enumerate(station.characteristic):
            grid = Grid.of(c.nominal, c.sigma, c.distribution == "lognormal", c.lsl, c.usl)
            origin[s, k], step[s, k] = grid.origin, grid.step
        unit = np.arange(cells) + cells * (10 * seed + 20) - int(0.15 * s * cells)
        at = (np.arange(cells) * (DAY_US / cells)).astype(np.int64) // 1000 * 1000
        again = np.flatnonzero(rng.random(cells) < 0.02)
        later = np.minimum(at[again] + 60_000_000 * rng.integers(1, 10, again.size) + 1000, DAY_US - 1000)
        reading = np.full((cells + again.size, SLOTS), np.nan, np.float32)
        for k, c in enumerate(station.characteristic):
            z = rng.standard_normal(len(reading))
            reading[:, k] = c.nominal * np.exp(c.sigma * z) if c.distribution == "lognormal" else c.nominal + c.sigma * z
        cycle = station.cycle_s * (1 + 0.02 * rng.standard_normal(len(reading)))
        attempt = np.repeat([1, 2], [cells, again.size])
        parts.append(
            (np.concatenate([at, later]), np.concatenate([unit, unit[again]]), np.full(len(reading), s + 1), attempt, cycle, reading)
        )
    at, unit, station_id, attempt, cycle, meas = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(at, kind="stable")
    n = order.size
    result = np.searchsorted([0.975, 0.995], rng.random(n)).astype(np.int16)
    nothing, moment = np.zeros(n, np.int32), FIRST_US + at[order]
    serial = unit[order] * -7046029254386353131
    events = Events(
        at=moment, received_at=moment, unit=(serial ^ serial >> 31) * -4658895280553007687, seq=np.arange(n),
        machine_id=nothing, boot=nothing, cycle_s=cycle[order].astype(np.float32), station_id=station_id[order].astype(np.int16),
        attempt=attempt[order].astype(np.int16), result=result,
        defect_id=np.where(result > 0, rng.integers(1, DEFECTS + 1, n), 0).astype(np.int16), meas=meas[order],
    )  # fmt: skip
    return events, Axes(np.arange(1, stations + 1), np.arange(1, DEFECTS + 1), origin, step)


def days(most: int) -> list[Day]:
    lines, found, n = load_plant(ROOT / "seeds").lines, [], 0
    while n < most:
        for path, cells in CELLS.items():
            found.append(day(lines[path], cells, len(found)))
            n += len(found[-1][0])
    return found


# --- ours --------------------------------------------------------------------------------------------------------------


def ours(one: Day) -> Sums:
    """All figures of `summarise` but those of machines."""
    events, axes = one
    sums = Sums.none(BUCKETS, axes)
    assert passes.count(events, None, FIRST_US, BUCKETS, axes, sums) is sums.readings.squares
    return sums


def figures(sums: Sums) -> Figures:
    r = sums.readings
    return {
        "results": sums.results, "first": np.stack([sums.inspected, sums.first_pass_good], axis=2), "defects": sums.defects,
        "histogram": sums.histogram, "readings": np.stack([r.n, r.total, r.squares], axis=3), "extremes": np.stack([r.low, r.high], axis=3),
    }  # fmt: skip


# --- peers -------------------------------------------------------------------------------------------------------------


def columns(one: Day) -> Figures:
    """What a peer gets: a column a slot, and the bin of the cycle time, which is worked out for it, untimed."""
    events, _ = one
    names = ("unit", "station_id", "attempt", "result", "defect_id")
    bins = np.clip((events.cycle_s.view(np.int32) >> 18) - (120 << 5), 0, 1023).astype(np.int16)
    found = {"t": events.at, "bin": bins}
    found |= {name: getattr(events, name) for name in names}
    return found | {f"m{k}": np.ascontiguousarray(events.meas[:, k]) for k in range(SLOTS)}


def grids(axes: Axes) -> Figures:
    sides = {f"o{k}": axes.origin[:, k].copy() for k in range(SLOTS)} | {f"i{k}": 1 / axes.step[:, k] for k in range(SLOTS)}
    return {"station_id": axes.station_ids.astype(np.int16)} | sides


def dense(rows: list[Figures], axes: Axes) -> Figures:
    """What a peer found as rows (key columns first) as our arrays."""
    stations = axes.station_ids.size
    shapes = {"results": (BUCKETS, stations, 3), "first": (BUCKETS, stations, 2), "defects": (BUCKETS, DEFECTS)}
    out: Figures = {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}
    out |= {"histogram": np.zeros((BUCKETS, stations, 1024), np.int64), "readings": np.zeros((BUCKETS, stations, SLOTS, 3), np.int64)}
    out["extremes"] = np.tile(np.array([np.inf, -np.inf], np.float32), (BUCKETS, stations, SLOTS, 1))
    by = [[np.asarray(column) for column in found.values()] for found in rows]
    results, first, defects, histogram, readings = by
    out["results"][results[0], results[1] - 1] = np.stack(results[2:], axis=1)
    out["first"][first[0], first[1] - 1] = np.stack(first[2:], axis=1)
    out["defects"][defects[0], defects[1] - 1] = defects[2]
    out["histogram"][histogram[0], histogram[1] - 1, histogram[2]] = histogram[3]
    for k in range(SLOTS):
        n, total, squares, low, high = (np.nan_to_num(np.ma.filled(c, 0)) for c in readings[2 + 5 * k : 7 + 5 * k])
        some = np.asarray(n) > 0
        where = readings[0][some], readings[1][some] - 1, k
        out["readings"][where] = np.stack([c[some].astype(np.int64) for c in (n, total, squares)], axis=1)
        out["extremes"][where] = np.stack([low[some], high[some]], axis=1)
    return out


def check(found: Figures, expected: Figures, who: str) -> None:
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=f"{who}: {name}")


STEPS = "round_even((m{k}::DOUBLE - o{k}) * i{k}, 0)"


def sql(steps: str, floats: bool) -> list[str]:
    """The questions; `floats` asks for mean and variance as floats in place of the sums of steps: easier, and not the same."""
    each = []
    for k in range(SLOTS):
        q = f"CAST({steps.format(k=k)} AS BIGINT)"
        total, squares = f"CAST(sum({q}) AS BIGINT)", f"CAST(sum({q} * {q}) AS BIGINT)"
        moments = f"avg(m{k}), var_samp(m{k})" if floats else f"{total} AS t{k}, {squares} AS s{k}"
        each.append(f"count(m{k}) AS n{k}, {moments}, min(m{k}) AS l{k}, max(m{k}) AS h{k}")
    bucket = f"(t - {FIRST_US}) / {BUCKET_US} AS b"
    results = ", ".join(f"count(*) FILTER (WHERE result = {r}) AS r{r}" for r in range(3))
    # the first report decides, of two at once the worse: one number says both
    first = "(SELECT station_id, min(t * 4 + 2 - result) AS t4 FROM ev WHERE attempt = 1 GROUP BY unit, station_id) f"
    tried = f"(t4 / 4 - {FIRST_US}) / {BUCKET_US} AS b, station_id, count(*) AS i, count(*) FILTER (WHERE t4 % 4 = 2) AS g"
    return [
        f"SELECT {bucket}, station_id, {results} FROM ev GROUP BY 1, 2",
        f"SELECT {tried} FROM {first} GROUP BY 1, 2",
        f"SELECT {bucket}, defect_id, count(*) AS n FROM ev WHERE defect_id <> 0 GROUP BY 1, 2",
        f"SELECT {bucket}, station_id, bin, count(*) AS n FROM ev GROUP BY 1, 2, 3",
        f"SELECT {bucket}, station_id, {', '.join(each)} FROM {'ev' if floats else 'ev JOIN grid USING (station_id)'} GROUP BY 1, 2",
    ]


def duckdb_way(threads: int) -> Callable[[Day, bool], tuple[float, Figures | None]]:
    import duckdb

    def way(one: Day, floats: bool) -> tuple[float, Figures | None]:
        rows_, grid_ = columns(one), grids(one[1])  # noqa: F841  DuckDB finds them by name
        with duckdb.connect() as connection:
            connection.execute(f"SET threads = {threads}")
            missing = ", ".join(f"nullif(m{k}, 'nan'::FLOAT) AS m{k}" for k in range(SLOTS))
            connection.execute(f"CREATE TABLE ev AS SELECT * REPLACE ({missing}) FROM rows_")
            connection.execute("CREATE TABLE grid AS SELECT * FROM grid_")
            questions = [q.replace(" / ", " // ") for q in sql(STEPS, floats)]
            took, rows = timed(lambda: [connection.execute(q).fetchnumpy() for q in questions])
            return took, None if floats else dense(rows, one[1])

    return way


def polars_way() -> Callable[[Day, bool], tuple[float, Figures | None]]:
    import polars as pl

    def way(one: Day, floats: bool) -> tuple[float, Figures | None]:
        ev = pl.DataFrame(columns(one)).with_columns(pl.col("^m[0-9]$").fill_nan(None))
        raw, by = ev.lazy(), ["b", "station_id"]
        lazy = raw.with_columns(b=(pl.col("t") - FIRST_US) // BUCKET_US)
        each = []
        for k in range(SLOTS):
            m = pl.col(f"m{k}")
            q = ((m.cast(pl.Float64) - pl.col(f"o{k}")) * pl.col(f"i{k}")).round(0).cast(pl.Int64)
            each += [m.count().alias(f"n{k}")]
            each += [m.mean().alias(f"t{k}"), m.var().alias(f"s{k}")] if floats else [q.sum().alias(f"t{k}"), (q * q).sum().alias(f"s{k}")]
            each += [m.min().alias(f"l{k}"), m.max().alias(f"h{k}")]
        first = pl.col("t") * 4 + (2 - pl.col("result"))
        tried = raw.filter(pl.col("attempt") == 1).group_by("unit", "station_id").agg(t4=first.min())
        tried = tried.with_columns(b=(pl.col("t4") // 4 - FIRST_US) // BUCKET_US)
        measured = lazy if floats else lazy.join(pl.LazyFrame(grids(one[1])), on="station_id")
        questions = [
            lazy.group_by(by).agg(*((pl.col("result") == r).sum().alias(str(r)) for r in range(3))),
            tried.group_by(by).agg(pl.len().alias("i"), (pl.col("t4") % 4 == 2).sum().alias("g")),
            lazy.filter(pl.col("defect_id") != 0).group_by("b", "defect_id").agg(pl.len()),
            lazy.group_by("b", "station_id", "bin").agg(pl.len()),
            measured.group_by(by).agg(*each),
        ]
        took, rows = timed(lambda: [{c.name: c.to_numpy() for c in q.collect(engine="streaming")} for q in questions])
        return took, None if floats else dense(rows, one[1])

    return way


def pandas_way(one: Day) -> tuple[float, Figures]:
    import pandas as pd

    held, grid, by = pd.DataFrame(columns(one)), pd.DataFrame(grids(one[1])).set_index("station_id"), ["b", "station_id"]

    def work() -> list[Figures]:
        ev = held.assign(b=(held.t - FIRST_US) // BUCKET_US)
        results = ev.groupby([*by, "result"]).size().unstack(fill_value=0)
        tried = ev[ev.attempt == 1]
        tried = (
            tried.assign(first=tried.t * 4 + (2 - tried.result)).groupby(["unit", "station_id"]).agg(first=("first", "min"), b=("b", "min"))
        )
        first = tried.assign(good=tried["first"] % 4 == 2).groupby(by).good.agg(["size", "sum"])
        place, found = grid.loc[ev.station_id], {}
        steps = ev[by].copy()
        for k in range(SLOTS):
            q = np.round((ev[f"m{k}"].to_numpy(np.float64) - place[f"o{k}"].to_numpy()) * place[f"i{k}"].to_numpy())
            whole = np.nan_to_num(q).astype(np.int64)
            steps[f"q{k}"], steps[f"s{k}"], steps[f"m{k}"] = whole, whole * whole, ev[f"m{k}"]
        grouped = steps.groupby(by)
        for k in range(SLOTS):
            m = grouped[f"m{k}"].agg(["count", "min", "max"])
            found |= {
                (k, 0): m["count"],
                (k, 1): grouped[f"q{k}"].sum(),
                (k, 2): grouped[f"s{k}"].sum(),
                (k, 3): m["min"],
                (k, 4): m["max"],
            }
        readings = pd.DataFrame(found)
        counts = [ev[ev.defect_id != 0].groupby(["b", "defect_id"]).size(), ev.groupby([*by, "bin"]).size()]
        frames = [results, first, *(c.to_frame() for c in counts), readings]
        return [{str(i): c.to_numpy() for i, (_, c) in enumerate(f.reset_index().items())} for f in frames]

    took, rows = timed(work)
    return took, dense(rows, one[1])


def postgres_way(one: Day) -> tuple[float, Figures]:
    """Plain GROUP BY on an embedded PostgreSQL, everything in its cache, two parallel workers where it wants them."""
    found = columns(one)
    kinds = {"int64": ("int8", ">i8"), "int16": ("int2", ">i2"), "float32": ("float4", ">f4")}
    layout: list[tuple[str, str]] = [("fields", ">i2")]
    for name, c in found.items():
        layout += [(f"{name}_len", ">i4"), (name, kinds[c.dtype.name][1])]
    block = np.zeros(len(one[0]), layout)
    block["fields"] = len(found)
    for name, c in found.items():
        block[f"{name}_len"], block[name] = c.dtype.itemsize, c
    with (
        tempfile.TemporaryDirectory() as home,
        EmbeddedPostgres(Path(home)) as server,
        psycopg.connect(server.url, autocommit=True) as connection,
    ):
        connection.execute(f"CREATE UNLOGGED TABLE raw ({', '.join(f'{name} {kinds[c.dtype.name][0]}' for name, c in found.items())})")
        with connection.cursor() as cursor, cursor.copy("COPY raw FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + block.tobytes() + b"\xff\xff")
        missing = [f"nullif({name}, 'NaN') AS {name}" if name[0] == "m" else name for name in found]
        connection.execute(f"CREATE UNLOGGED TABLE ev AS SELECT {', '.join(missing)} FROM raw")
        grid = grids(one[1])
        connection.execute(f"CREATE TABLE grid (station_id int2, {', '.join(f'{name} float8' for name in list(grid)[1:])})")
        with connection.cursor() as cursor:
            marks = ", ".join(["%s"] * len(grid))
            cursor.executemany(f"INSERT INTO grid VALUES ({marks})", list(zip(*(c.tolist() for c in grid.values()), strict=True)))
        connection.execute("VACUUM ANALYZE")
        questions = sql("round((m{k}::float8 - o{k}) * i{k})", floats=False)

        def work() -> list[Figures]:
            out = []
            with connection.cursor(binary=True) as cursor:
                for q in questions:
                    table = list(zip(*cursor.execute(q).fetchall(), strict=True))
                    names = [c.name for c in cursor.description or ()]
                    out.append(
                        {
                            name: np.array([0 if x is None else float(x) if name[0] in "lh" else int(x) for x in c])
                            for name, c in zip(names, table, strict=True)
                        }
                    )
            return out

        took, rows = timed(work)
    return took, dense(rows, one[1])


# --- runs --------------------------------------------------------------------------------------------------------------


def timed(work: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """Best of so many, and what came of it."""
    took, found = np.inf, None
    for _ in range(times):
        began = time.perf_counter()
        found = work()
        took = min(took, time.perf_counter() - began)
    return took, found


def bandwidth(threads: int) -> float:
    """Bytes a second that so many threads read from memory, each its own array."""
    arrays = [np.ones(1 << 26, np.int64) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        took, _ = timed(lambda: list(pool.map(np.sum, arrays)), 5)
    return threads * arrays[0].nbytes / took


def measure(threads: int, most: int, slow_peers: bool) -> None:
    """Everybody at so many threads, on all days of at least so many events."""
    all_days = days(most)
    n = sum(len(events) for events, _ in all_days)
    ours(all_days[0])
    with ThreadPoolExecutor(threads) as pool:
        took, results = timed(lambda: list(pool.map(lambda one: ours(one) and None, all_days)), 5 if n < 10**7 else 3)
    del results
    say(f"\nkey figures of {n:,} events, {len(all_days)} days of a line, {threads} thread{'s' * (threads > 1)}")
    say(f"  {'mes.kpi':<44} {n / took / 1e6:>9.1f} M/s")
    share = n / took * ROW_BYTES / bandwidth(threads)
    say(f"  {'of the memory bandwidth that was measured':<44} {share:>9.1%}   {ROW_BYTES} bytes an event")
    peers: dict[str, Callable[[Day], tuple[float, Figures | None]]] = {}
    for name, way in {"DuckDB": duckdb_way(threads), "Polars": polars_way()}.items():
        peers[name] = lambda one, way=way: way(one, False)
        peers[f"{name}, floats: an easier question"] = lambda one, way=way: way(one, True)
    if slow_peers:
        peers |= {"pandas": pandas_way, "PostgreSQL, GROUP BY": postgres_way}
    for name, peer in peers.items():
        spent = 0.0
        for one in all_days:
            seconds, found = peer(one)
            spent += seconds
            if found is not None:
                check(found, figures(ours(one)), name)
        say(f"  {name:<44} {n / spent / 1e6:>9.1f} M/s   {spent / took:>6.1f} x")


def live() -> None:
    """A batch of 5,000 events of one bucket, warm."""
    events, axes = days(1)[0]
    some = events.take(np.arange(5000))
    end = FIRST_US + DAY_US

    def median(work: Callable[[], Any]) -> float:
        spent = []
        for _ in range(300):
            began = time.perf_counter()
            work()
            spent.append(time.perf_counter() - began)
        return float(np.median(spent)) * 1e6

    say("\na live batch of 5,000 events, warm")
    say(f"  {'summarise, machines and all':<44} {median(lambda: summarise(some, FIRST_US, 2, axes, day_end_us=end)):>9.0f} us")
    sums = Sums.none(2, axes)
    say(f"  {'into sums that are there':<44} {median(lambda: passes.count(some, None, FIRST_US, 2, axes, sums)):>9.0f} us")


def kpi() -> None:
    """Polars takes its number of threads when it is imported, so each number has a process of its own."""
    live()
    for most in (1, MANY):
        for threads in (1, 2):
            subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.kpi", str(threads), str(most)],
                cwd=ROOT, env={**os.environ, "POLARS_MAX_THREADS": str(threads)}, check=True,
            )  # fmt: skip


if __name__ == "__main__":
    measure(int(sys.argv[1]), int(sys.argv[2]), slow_peers=sys.argv[1:] == ["1", "1"])
