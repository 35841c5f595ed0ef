"""Faults: each one alone, all of them together, and that what heals is the perfect stream again."""

from __future__ import annotations

import datetime as dt
import json
from base64 import b64decode
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from mes.contract import Station as Decoder
from mes.errors import ConfigError
from simulators import conditions
from simulators.conditions import FORMS, Fault
from simulators.faults import Faults, malformed
from simulators.scenario import TICKS, Scenario, load
from simulators.stream import Slice, Stream
from tests.plants import small_lines

DAY = dt.date(2026, 11, 20)
HOUR = 3600 * TICKS
HOURS = 30
SEED = 3


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return load(small_lines(tmp_path_factory.mktemp("plant") / "seeds", 60.0), "nanjing-32140-1")


def fault(**words: Any) -> Fault:
    return msgspec.convert(words, Fault)


def delivered(scenario: Scenario, *faults: Fault, step: float = 1.0) -> tuple[list[Any], Any, Faults, int]:
    """Lines of the file in order, the facts, the faults, and the end of the time in which cells were made."""
    stream = Stream(scenario, SEED, DAY, None)
    wrapped = Faults(scenario, list(faults), SEED)
    lines: list[Any] = []
    facts = []

    def take(part: Slice) -> None:
        lines.extend(json.loads(text) for text in stream.lines(part).splitlines())

    end = stream.begin + HOURS * HOUR
    while stream.until < end:
        fact, part = wrapped.wrap(stream.advance(min(end, stream.until + int(step * HOUR))))
        facts.append(fact)
        take(part)
    take(wrapped.rest())
    return lines, np.concatenate(facts), wrapped, end


def perfect(scenario: Scenario) -> list[Any]:
    return delivered(scenario)[0]


def key(line: Any) -> tuple[str, int, int]:
    return line["topic"], line["event"]["boot"], line["event"]["seq"]


def at_ms(line: Any) -> int:
    return int(line.get("at_ms", line.get("event", {}).get("timestamp_ms")))


def machine(line: Any) -> str:
    return "/".join(line["topic"].split("/")[6:8])


def test_without_faults_it_is_the_perfect_stream(scenario: Scenario) -> None:
    stream = Stream(scenario, SEED, DAY, None)
    lines = []
    while stream.until < stream.begin + HOURS * HOUR:
        lines += [json.loads(text) for text in stream.lines(stream.advance(stream.begin + HOURS * HOUR)).splitlines()]
    assert perfect(scenario) == lines
    assert all("at_ms" not in line for line in lines)


@pytest.mark.parametrize("kind", ["duplicate", "reorder", "late", "silence"])
def test_what_is_only_delivered_otherwise_heals(scenario: Scenario, kind: str) -> None:
    words = {"silence": {"hours": 2.0, "rate": 0.1}, "late": {"hours": 10.0, "rate": 0.02}}.get(kind, {"rate": 0.05})
    lines, facts, wrapped, _ = delivered(scenario, fault(kind=kind, **words))
    expected = perfect(scenario)
    count = wrapped.record[0]["count"]
    assert count > 100
    found = {key(line): line["event"] for line in lines}
    assert found == {key(line): line["event"] for line in expected}
    assert len(lines) == len(expected) + (count if kind == "duplicate" else 0)
    assert len(facts) == len(expected)
    times = [at_ms(line) for line in lines]
    assert times == sorted(times)
    assert sum("at_ms" in line for line in lines) >= 0.95 * count
    if kind == "duplicate":
        twice = Counter(map(key, lines))
        hits = {(h[0], h[1], h[2]) for h in wrapped.record[0]["hits"]}
        assert {("/".join(k[0].split("/")[6:8]), k[1], k[2]) for k, n in twice.items() if n == 2} == hits
    else:
        assert [key(line) for line in lines] != [key(line) for line in expected]
        longest = {"reorder": 30, "late": 36_000, "silence": 7_200}[kind] * 1000
        assert max(at_ms(line) - line["event"]["timestamp_ms"] for line in lines) in range(longest // 2, longest + 1)


def test_a_silent_hour_comes_at_its_end(scenario: Scenario) -> None:
    lines, _, wrapped, _ = delivered(scenario, fault(kind="silence", hours=1.0, **{"from": dt.datetime.fromisoformat("2026-11-20T20:00")}))
    begin = scenario.day_start(DAY) // 1000 + 12 * 3_600_000
    assert not [line for line in lines if begin <= at_ms(line) < begin + 3_600_000]
    backlog = [line for line in lines if at_ms(line) == begin + 3_600_000]
    assert len(backlog) >= wrapped.record[0]["count"] > 100
    assert {h[0] for h in wrapped.record[0]["hits"]} == {machine(line) for line in backlog}


def test_a_clock_that_is_off_changes_what_its_machine_states(scenario: Scenario) -> None:
    window = {"from": dt.datetime.fromisoformat("2026-11-20T10:00"), "to": dt.datetime.fromisoformat("2026-11-20T14:00")}
    lines, facts, wrapped, _ = delivered(scenario, fault(kind="skew", seconds=-90.0, station="asm", machine="02", **window))
    expected = {key(line): line["event"] for line in perfect(scenario)}
    begin = scenario.day_start(DAY) // 1000 + 2 * 3_600_000
    off = 0
    for line in lines:
        true = expected[key(line)]
        hit = machine(line) == "asm/02" and begin <= true["timestamp_ms"] < begin + 4 * 3_600_000
        off += hit
        assert line["event"] == {**true, "timestamp_ms": true["timestamp_ms"] - (90_000 if hit else 0)}
        assert at_ms(line) == true["timestamp_ms"]
    assert off == wrapped.record[0]["count"] > 100
    assert sorted(facts["t"] // 1000) == sorted(line["event"]["timestamp_ms"] for line in lines)


def test_machines_that_restart_count_anew(scenario: Scenario) -> None:
    lines, facts, wrapped, _ = delivered(scenario, fault(kind="restart", rate=0.004))
    expected = perfect(scenario)
    assert len(lines) == len(expected)
    seen: dict[str, tuple[int, int]] = {}
    restarts = 0
    for line, true in zip(lines, expected, strict=True):
        boot, seq = line["event"]["boot"], line["event"]["seq"]
        before = seen.get(line["topic"], (0, 0))
        assert (boot, seq) == (before[0], before[1] + 1) or (boot > before[0] and seq == 1)
        restarts += bool(boot == before[0] + 1)
        assert boot // 1000 == true["event"]["boot"] // 1000
        seen[line["topic"]] = boot, seq
        assert {**line["event"], "boot": 0, "seq": 0} == {**true["event"], "boot": 0, "seq": 0}
    assert restarts == wrapped.record[0]["count"] > 20
    assert sorted(facts["seq"].tolist()) == sorted(line["event"]["seq"] for line in lines)


def test_malformed_payloads_come_in_addition_and_none_can_be_understood(scenario: Scenario) -> None:
    lines, facts, wrapped, _ = delivered(scenario, fault(kind="malformed", rate=0.02))
    expected = perfect(scenario)
    other = [line for line in lines if "event" not in line]
    assert [line for line in lines if "event" in line] == expected
    assert len(facts) == len(expected)
    assert len(other) == wrapped.record[0]["count"] == len(wrapped.record[0]["hits"])
    assert {form for _, form, _ in wrapped.record[0]["hits"]} == set(FORMS)
    decode = {
        f"{s.code}/{m}": Decoder((c.name for c in s.characteristic), (d.code for d in s.defect))
        for s in scenario.line.station
        for m in s.machine_codes
    }
    for line in other:
        events, rejects = decode[machine(line)].decode(b64decode(line["payload_base64"]))
        assert not events
        assert len(rejects) == 1
    assert [at_ms(line) for line in lines] == sorted(at_ms(line) for line in lines)


def test_each_form_of_nonsense_is_another(scenario: Scenario) -> None:
    assert len(FORMS) == 10
    assert len({malformed(form, 1, 1_795_132_800_000) for form in FORMS}) == 10
    decode = Decoder((), ())
    assert decode.decode(malformed("none of them", 1, 1_795_132_800_000))[0]


ALL = (
    fault(kind="duplicate", rate=0.03),
    fault(kind="reorder", rate=0.03),
    fault(kind="late", rate=0.01, hours=20.0),
    fault(kind="skew", rate=0.3, seconds=40.0),
    fault(kind="restart", rate=0.002),
    fault(kind="malformed", rate=0.01),
    fault(kind="silence", rate=0.05, hours=1.0),
    fault(kind="restart", rate=0.002, station="pck"),
)


def test_how_it_is_sliced_changes_nothing(scenario: Scenario) -> None:
    def sorted_lines(step: float) -> tuple[list[str], bytes, Any]:
        lines, facts, wrapped, _ = delivered(scenario, *ALL, step=step)
        facts.sort(order=["machine", "t", "seq"])
        hits = [(r["kind"], r["count"]) for r in wrapped.record]
        return sorted(json.dumps(line) for line in lines), facts.tobytes(), hits

    whole = sorted_lines(5.0)
    assert whole == sorted_lines(0.4)
    assert all(count > 5 for _, count in whole[2])


def test_another_fault_leaves_the_others_and_the_stream_alone(scenario: Scenario) -> None:
    alone, both = (delivered(scenario, *faults)[2].record[0] for faults in (ALL[:1], ALL[:3]))
    assert [h[:3] for h in alone["hits"]] == [h[:3] for h in both["hits"]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[fault]]\nkind = "dupe"\nrate = 0.1', "use one of duplicate, late, malformed, reorder, restart, silence, skew"),
        ('[[fault]]\nkind = "late"\nrate = 1.5', "fault[0].rate`, found 1.5"),
        ('[[fault]]\nkind = "late"', "fault[0] has neither rate nor from nor to: say how often or when"),
        ('[[fault]]\nkind = "late"\nrate = 0.1\nhours = 72', "fault[0].hours 72.0: use a number above 0 and up to 48"),
        ('[[fault]]\nkind = "skew"\nrate = 0.1', "fault[0].seconds is missing: kind 'skew' needs it"),
        ('[[fault]]\nkind = "restart"\nrate = 0.1\nseconds = 3', "fault[0].seconds 3.0 does not go with kind 'restart': leave it out"),
        ('[[fault]]\nkind = "restart"\nrate = 0.1\nstation = "xyz"', "fault[0].station 'xyz' is not on line nanjing/cells/32140-1: use"),
        ('[[fault]]\nkind = "restart"\nrate = 0.1\nmachine = "01"', "fault[0].machine '01' needs a station"),
        ('[[fault]]\nkind = "restart"\nrate = 0.1\nstation = "wnd"\nmachine = "77"', "fault[0].machine '77' is not at 'wnd': use 01 to 04"),
        ('[[fault]]\nkind = "malformed"\nrate = 0.1\nforms = ["odd"]', "use one of duplicate_key, huge_integer"),
        ('[[fault]]\nkind = "late"\nfrom = 2026-11-20T10:00:00\nto = 2026-11-20T09:00:00', "is not after from 2026-11-20 10:00:00"),
        ("ramp_up = 2", "ramp_up`, found 2"),
        ("speed = 2", "use ramp_up, disturbance, fault"),
    ],
)  # fmt: skip
def test_a_scenario_file_that_cannot_be_is_refused(scenario: Scenario, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        conditions.load(path, scenario)
    assert str(refused.value).startswith(str(path))
    assert says in str(refused.value)
