"""Files of events: NDJSON and Parquet hold the same, whole or not at all, and days come out alike however they are made."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from mes.errors import ConfigError
from simulators import files, replay
from simulators.conditions import NONE, Conditions
from simulators.scenario import Scenario, load
from tests.plants import small_lines

DAY = dt.date(2026, 11, 20)
FAULTY = msgspec.convert(
    {
        "fault": [
            {"kind": "duplicate", "rate": 0.05},
            {"kind": "late", "rate": 0.05, "hours": 3},
            {"kind": "restart", "rate": 0.002},
            {"kind": "malformed", "rate": 0.01},
        ]
    },
    Conditions,
)


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return load(small_lines(tmp_path_factory.mktemp("plant") / "seeds", 60.0), "nanjing-32140-1")


def made(scenario: Scenario, out: Path, start: dt.date = DAY, days: int = 1, so: Conditions = NONE) -> Path:
    files.generate(scenario, start, days, 5, out, out.with_suffix(".json"), None, so)
    return out


def test_the_third_day_alone_is_the_third_of_five(scenario: Scenario, tmp_path: Path) -> None:
    five = made(scenario, tmp_path / "five.ndjson", days=5).read_bytes().splitlines()
    third = made(scenario, tmp_path / "third.ndjson", DAY + dt.timedelta(days=2)).read_bytes().splitlines()
    boot = b'"boot":%d,' % json.loads(third[0])["event"]["boot"]
    assert [line for line in five if boot in line] == third
    assert made(scenario, tmp_path / "again.ndjson", days=5).read_bytes().splitlines() == five
    ledgers = [json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))["days"] for name in ("five", "third")]
    day = (DAY + dt.timedelta(days=2)).isoformat()
    assert ledgers[0][day] == ledgers[1][day]
    assert set(ledgers[1]) == {day}


@pytest.mark.parametrize("so", [NONE, FAULTY], ids=["perfect", "faulty"])
def test_parquet_holds_what_ndjson_holds(scenario: Scenario, tmp_path: Path, so: Conditions) -> None:
    lines, rows = (made(scenario, tmp_path / f"f.{ending}", so=so) for ending in ("ndjson", "parquet"))

    def plain(item: replay.Item) -> Any:
        return item.topic, item.at_ms, item.boot, item.seq, json.loads(item.payload) if item.boot else item.payload

    by_time = lambda item: (item[1], item[0], item[2], item[3], str(item[4]))  # noqa: E731  ties may come in any order
    text, table = (sorted(map(plain, replay.items(file)), key=by_time) for file in (lines, rows))
    assert text == table
    found = pq.read_table(rows)
    assert found.num_rows == len(text)
    assert [at.as_py() for at in found["at_ms"]] == sorted(at for _, at, *_ in text)


def test_a_file_is_whole_or_not_there(scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for ending in ("ndjson", "parquet"):
        with monkeypatch.context() as patch:
            patch.setattr(files.Ledger, "end", fails)
            with pytest.raises(ConfigError, match="No space left on device"):
                made(scenario, tmp_path / f"f.{ending}")
    assert list(tmp_path.iterdir()) == []


def test_an_ending_that_is_not_known_is_refused(scenario: Scenario, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'.csv' is not known: use .ndjson or .parquet"):
        made(scenario, tmp_path / "f.csv")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "the ending '.csv' is not known: use .ndjson or .parquet"),
        ("a.ndjson", b'{"topic":"t","event":{"boot":1,"seq":1,"timestamp_ms":5}}\n{"topic":5}\n', "line 2 is not one of linesim generate"),
        ("a.ndjson", b'{"topic":"t","payload_base64":"**"}\n', "line 1 is not one of linesim generate"),
        ("a.parquet", b"no parquet", "not a Parquet file of linesim generate"),
        ("missing.ndjson", None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_cannot_be_replayed_is_refused(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        list(replay.items(path))
    assert str(path) in str(refused.value)
    assert says in str(refused.value)
