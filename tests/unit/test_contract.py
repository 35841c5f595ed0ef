"""The wire contract: what is an event, what is quarantined, and that nothing of a message is ever lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from mes import contract
from mes.contract import CellEvent, Reject, Station, Topic, encode
from mes.errors import ConfigError, Rejected
from mes.seeds import load_plant
from tests import naive

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
WINDING = next(s for s in load_plant(ROOT / "seeds").line("nanjing/cells/32140-1").station if s.code == "wnd")
CHARACTERISTICS = [c.name for c in WINDING.characteristic]
DEFECTS = [d.code for d in WINDING.defect]
STATION = Station(CHARACTERISTICS, DEFECTS)

GOOD = {
    "boot": 17, "seq": 18841, "timestamp_ms": 1789000000123, "unit": "NJ1-26K22-0001234", "attempt": 1, "result": "pass",
    "cycle_s": 6.98, "meas": {"electrode_tension": 12.03, "jellyroll_diameter": 31.79},
}  # fmt: skip


def message(**changes: Any) -> bytes:
    """A good event, compact, with members changed or added."""
    return json.dumps({**GOOD, **changes}, separators=(",", ":")).encode()


def literal(**changes: str) -> bytes:
    """A good event with the text of members changed or added as it stands, JSON or not."""
    members = {name: json.dumps(value) for name, value in GOOD.items()} | changes
    return ("{" + ",".join(f'"{name}":{text}' for name, text in members.items()) + "}").encode()


def files(folder: str) -> list[Any]:
    found = sorted((GOLDEN / folder).iterdir())
    assert found, f"no golden payloads in {folder}"
    return [pytest.param(path, id=path.stem) for path in found]


def assert_like_the_twin(payload: bytes) -> tuple[Sequence[CellEvent], Sequence[Reject]]:
    """The decoder and its twin find the same events and the same rejects, byte for byte, in the same order."""
    events, rejects = STATION.decode(payload)
    expected = naive.decode(payload, CHARACTERISTICS, DEFECTS)
    assert [as_members(e) for e in events] == [with_floats(e) for _, e in expected if e is not None]
    assert [r.payload for r in rejects] == [part for part, e in expected if e is None]
    return events, rejects


def as_members(event: CellEvent) -> dict[str, Any]:
    names = ("boot", "seq", "timestamp_ms", "unit", "attempt", "result", "cycle_s", "defect", "channel", "lots", "meas")
    return {name: value for name in names if (value := getattr(event, name)) is not UNSET}


def with_floats(event: dict[str, Any]) -> dict[str, Any]:
    return event | {"cycle_s": float(event["cycle_s"]), "meas": {name: float(x) for name, x in event.get("meas", {}).items()}}


# --- golden payloads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", files("valid"))
def test_golden_valid(path: Path) -> None:
    payload = path.read_bytes()
    events, rejects = assert_like_the_twin(payload)
    assert not rejects
    found, rejects = STATION.decode(encode(list(events)))
    assert (list(found), list(rejects)) == (list(events), [])


@pytest.mark.parametrize("path", files("invalid"))
def test_golden_invalid(path: Path) -> None:
    payload = path.read_bytes()
    events, rejects = assert_like_the_twin(payload)
    assert not events
    assert [r.reason for r in rejects] == [path.stem.partition("-")[0]]
    assert rejects[0].detail
    assert rejects[0].payload in (payload, payload.strip()[1:-1])


def test_golden_payloads_cover_every_reason() -> None:
    shown = {path.stem.partition("-")[0] for path in (GOLDEN / "invalid").iterdir()}
    assert shown == {"not_json", "invalid", "oversize", "duplicate_key", "nul", "unknown_defect", "unknown_characteristic"}


# --- topics ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", (GOLDEN / "topics" / "valid.txt").read_text(encoding="utf-8").splitlines())
def test_topic_valid(text: str) -> None:
    topic = Topic.parse(text)
    assert str(topic) == text
    assert (topic.station is None) == (topic.machine is None) == (topic.schema in ("_kpi_v1", "_alert_v1") or topic.name == "holder")


@pytest.mark.parametrize("text", (GOLDEN / "topics" / "invalid.txt").read_text(encoding="utf-8").split("\n")[:-1])
def test_topic_invalid(text: str) -> None:
    with pytest.raises(Rejected) as why:
        Topic.parse(text)
    assert why.value.reason == "topic"


@given(st.text())
@settings(deadline=None, max_examples=50)
def test_topic_of_any_text_is_read_back_or_rejected(text: str) -> None:
    for topic in (text, f"{contract.ROOT}/{text}", f"{contract.ROOT}/nanjing/cells/32140-1/{text}"):
        try:
            assert str(Topic.parse(topic)) == topic
        except Rejected as why:
            assert why.reason == "topic"


def test_topics_that_are_made_can_be_read() -> None:
    cell = contract.machine_topic("nanjing", "cells", "32140-1", "wnd", "03", "cell")
    assert cell == "umh/v1/cbak/nanjing/cells/32140-1/wnd/03/_cell_v1/completed"
    assert Topic.parse(cell) == Topic("nanjing", "cells", "32140-1", "wnd", "03", "_cell_v1", "completed")
    state = contract.machine_topic("nanjing", "cells", "32140-1", "wnd", "03", "state")
    ledger = contract.machine_topic("nanjing", "cells", "32140-1", "wnd", "03", "ledger")
    assert (Topic.parse(state).name, Topic.parse(ledger).name) == ("changed", "committed")
    kpi = contract.kpi_topic("nanjing", "cells", "32140-1", "throughput_day")
    assert Topic.parse(kpi) == Topic("nanjing", "cells", "32140-1", None, None, "_kpi_v1", "throughput_day")


def test_a_session_gets_the_cells_and_states_of_its_line_and_no_more() -> None:
    patterns = contract.line_filters("nanjing", "cells", "32140-1")

    def matches(topic: str) -> bool:
        levels = topic.split("/")
        return any(
            len(levels) == len(wanted) and all(want in ("+", level) for want, level in zip(wanted, levels, strict=True))
            for wanted in (pattern.split("/") for pattern in patterns)
        )

    assert matches(contract.machine_topic("nanjing", "cells", "32140-1", "wnd", "03", "cell"))
    assert matches(contract.machine_topic("nanjing", "cells", "32140-1", "wnd", "03", "state"))
    assert not matches(contract.machine_topic("nanjing", "cells", "32140-1", "wnd", "03", "ledger"))
    assert not matches(contract.machine_topic("nanjing", "cells", "32140-2", "wnd", "03", "cell"))
    assert contract.session_id("nanjing", "32140-1") == "mes-ingest-nanjing-32140-1"


@pytest.mark.parametrize("text", ["", "A", "a/b", "a_b", "a+", "é", "a" * 41, "a\n", None, 7])
def test_level_names_what_cannot_be_one(text: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be a topic level: use"):
        contract.level(text)


# --- any bytes ---------------------------------------------------------------------------------------------------------

SERIALS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=64)
READINGS = st.floats(-3.4e38, 3.4e38)


@st.composite
def good_events(draw: st.DrawFn) -> CellEvent:
    result = draw(st.sampled_from(contract.RESULTS))
    return CellEvent(
        boot=draw(st.integers(0, 2**31 - 1)),
        seq=draw(st.integers(1, 2**63 - 2)),
        timestamp_ms=draw(st.integers(contract.EARLIEST_MS, contract.LATEST_MS - 1)),
        unit=draw(SERIALS),
        attempt=draw(st.integers(1, 32767)),
        result=result,
        cycle_s=draw(st.floats(0, 3.4e38)),
        defect=UNSET if result == "pass" else draw(st.sampled_from(DEFECTS)),
        channel=draw(st.one_of(st.just(UNSET), st.integers(0, 2**31 - 1))),
        lots=draw(st.one_of(st.just(UNSET), st.dictionaries(SERIALS, SERIALS, max_size=3))),
        meas=draw(st.dictionaries(st.sampled_from(CHARACTERISTICS), READINGS)),
    )


@given(good_events())
@settings(deadline=None, max_examples=50)
def test_a_good_event_survives_encoding(event: CellEvent) -> None:
    assert STATION.decode(encode(event)) == ([event], [])


@given(st.lists(good_events(), max_size=6))
@settings(deadline=None, max_examples=50)
def test_a_backlog_of_good_events_survives_encoding(events: list[CellEvent]) -> None:
    found, rejects = STATION.decode(encode(events))
    assert (list(found), list(rejects)) == (events, [])


@given(st.one_of(st.binary(), st.text('[]{},:"\\ 019.eE+-abtnulrfs\x00é\n', max_size=60).map(str.encode)))
@settings(deadline=None, max_examples=100)
def test_any_bytes_are_accounted_for(payload: bytes) -> None:
    assert_like_the_twin(payload)
    assert_like_the_twin(b"[" + payload + b"]")
    assert_like_the_twin(b"[" + message() + b"," + payload + b"," + message() + b"]")


NAMES = [*GOOD, "defect", "channel", "lots", "operator"]
TEXTS = [
    "0", "-0", "1", "-1", "01", "1.0", "1e0", "1e999", "-1e999", "1e-400", "NaN", "Infinity", "-Infinity", "true", "false", "null", "None",
    "2147483647", "2147483648", "9223372036854775806", "9223372036854775807", "9223372036854775808",
    "18446744073709551617", "1" + "0" * 30, "1" + "0" * 400,
    "946684799999", "946684800000", "4102444799999", "4102444800000", "1789000000", "3.4028234e38", "3.4028236e38", "-3.4028234e38",
    '""', '"x"', '"pass"', '"rework"', '"scrap"', '"W01"', '"X99"', '"' + "u" * 64 + '"',
    '"' + "u" * 65 + '"', '"' + "\U0001f50b" * 64 + '"',
    r'"\u0000"', r'"a\u0041"', r'"\ud800"', r'"\ud83d\udd0b"', r'"\x"', '"\x01"', '"}],[{"', '"},{\\"boot\\":"',
    "[]", "{}", "[[[[]]]]", '{"a":{}}', '{"unheard":1}', '{"electrode_tension":1}', '{"electrode_tension":1,"electrode_tension":1}',
    r'{"electrode_tension":1,"electrode\u005ftension":2}', '{"electrode_tension":NaN}', '{"electrode_tension":1e999}',
    '{"electrode_tension":true}', '{"electrode_tension":null}', '{"cathode":"R1"}', '{"cathode":"R1","cathode":"R2"}',
    r'{"cathode":"R1","c\u0061thode":"R2"}', r'{"cathode":"\u0000"}', '{"":"R1"}', '{"cathode":""}', '{"cathode":"' + "R" * 64 + '"}',
]  # fmt: skip


@st.composite
def odd_events(draw: st.DrawFn) -> bytes:
    """An event as text: good, or with members changed, repeated, left out, misspelt, in any order and with any blanks."""
    members = [(f'"{name}"', json.dumps(value)) for name, value in GOOD.items()]
    if draw(st.booleans()):
        members += [('"result"', '"scrap"'), ('"defect"', '"W01"')]
        del members[list(GOOD).index("result")]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(members) - 1))
        match draw(st.integers(0, 5)):
            case 0:
                members[at] = (members[at][0], draw(st.sampled_from(TEXTS)))
            case 1:
                members.append((f'"{draw(st.sampled_from(NAMES))}"', draw(st.sampled_from(TEXTS))))
            case 2:
                members.append(members[at])
            case 3:
                del members[at]
            case 4:
                members[at] = (members[at][0].replace("s", draw(st.sampled_from([r"\u0073", "S", "s"]))), members[at][1])
            case _:
                members = draw(st.permutations(members))
    blank = draw(st.sampled_from(["", "", " ", "\n\t "]))
    return ("{" + ",".join(f"{blank}{name}{blank}:{text}{blank}" for name, text in members) + "}").encode()


@given(odd_events())
@settings(deadline=None, max_examples=200)
def test_an_odd_event_is_judged_as_the_twin_does(event: bytes) -> None:
    assert_like_the_twin(event)


@given(st.lists(odd_events(), min_size=1, max_size=5), st.sampled_from([b",", b", ", b" ,\n"]))
@settings(deadline=None, max_examples=100)
def test_an_event_in_a_backlog_has_the_same_fate_as_alone(parts: list[bytes], comma: bytes) -> None:
    events, rejects = assert_like_the_twin(b"[" + comma.join(parts) + b"]")
    alone = [STATION.decode(part) for part in parts]
    assert list(events) == [event for found, _ in alone for event in found]
    assert list(rejects) == [reject for _, found in alone for reject in found]


DAMAGE = st.one_of(st.binary(max_size=2), st.sampled_from([bytes([c]) for c in b'[]{},:"\\ ']))


@given(st.lists(odd_events(), min_size=1, max_size=4), st.data())
@settings(deadline=None, max_examples=100)
def test_a_damaged_message_is_judged_as_the_twin_does(parts: list[bytes], data: st.DataObject) -> None:
    payload = b"[" + b",".join(parts) + b"]" if len(parts) > 1 else parts[0]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload)))
        until = at + data.draw(st.integers(0, 3))
        payload = payload[:at] + data.draw(DAMAGE) + payload[until:]
    assert_like_the_twin(payload)


# --- neighbours --------------------------------------------------------------------------------------------------------

BAD = {
    "nan": (literal(meas='{"electrode_tension":NaN}'), "not_json"),
    "leading zero": (literal(attempt="01"), "not_json"),
    "lone surrogate": (literal(unit=r'"\ud800"'), "not_json"),
    "not UTF-8": (literal(unit='"@"').replace(b"@", b"\xff"), "not_json"),
    "truncated UTF-8": (literal(unit='"@"').replace(b"@", b"\xe8\x8a"), "not_json"),
    "raw NUL": (literal(unit='"\0"'), "not_json"),
    "no JSON at all": (b"hello", "not_json"),
    "number": (b"7", "invalid"),
    "empty": (b"{}", "invalid"),
    "array": (b"[" + message() + b"]", "invalid"),
    "beyond int64": (literal(seq="9223372036854775808"), "invalid"),
    "1e999": (literal(cycle_s="1e999"), "invalid"),
    "nested": (literal(operator="[" * 1500 + "]" * 1500), "invalid"),
    "duplicate key": (message()[:-1] + b',"seq":5}', "duplicate_key"),
    "duplicate reading": (literal(meas='{"electrode_tension":1,"electrode_tension":1}'), "duplicate_key"),
    "duplicate lot": (literal(lots='{"cathode":"A","cathode":"A"}'), "duplicate_key"),
    "NUL": (literal(unit=r'"\u0000"'), "nul"),
    "defect": (message(result="scrap", defect="X99"), "unknown_defect"),
    "characteristic": (message(meas={"weld_resistance": 1}), "unknown_characteristic"),
    "4097 bytes": (message()[:-1] + b" " * (4097 - len(message())) + b"}", "oversize"),
}


@pytest.mark.parametrize(("bad", "reason"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("length", [1, 3, 150])
def test_a_bad_event_takes_no_neighbour_along(bad: bytes, reason: str, length: int) -> None:
    good = [message(seq=n + 1, meas={}) for n in range(length)]
    middle = length // 2
    events, rejects = assert_like_the_twin(b"[" + b",".join([*good[:middle], bad, *good[middle:]]) + b"]")
    assert [e.seq for e in events] == list(range(1, length + 1))
    assert [(r.reason, r.payload) for r in rejects] == [(reason, bad)]


def test_several_bad_events_keep_their_order() -> None:
    bad = [bad for bad, _ in BAD.values() if len(bad) < 1000]
    parts = [part for pair in zip(bad, [message(seq=n + 1) for n in range(len(bad))], strict=True) for part in pair]
    events, rejects = assert_like_the_twin(b"[" + b",".join(parts) + b"]")
    assert [e.seq for e in events] == list(range(1, len(bad) + 1))
    assert [r.payload for r in rejects] == bad


# --- sizes -------------------------------------------------------------------------------------------------------------


def padded(size: int, where: str = "inside") -> bytes:
    event = message()
    blanks = b" " * (size - len(event))
    return event[:-1] + blanks + b"}" if where == "inside" else event + blanks


@pytest.mark.parametrize("where", ["inside", "behind"])
@pytest.mark.parametrize("size", [4095, 4096, 4097, 5000, 65536, 65537])
def test_an_event_has_at_most_4096_bytes(size: int, where: str) -> None:
    events, rejects = assert_like_the_twin(padded(size, where))
    assert (len(events), [r.reason for r in rejects]) == ((1, []) if size <= 4096 else (0, ["oversize"]))


@pytest.mark.parametrize("comma", [b",", b" , "])
@pytest.mark.parametrize("size", [4095, 4096, 4097, 6000, 8192, 20000])
@pytest.mark.parametrize("place", [0, 1, 60, 120])
def test_an_event_of_a_backlog_has_at_most_4096_bytes(place: int, size: int, comma: bytes) -> None:
    parts = [message(seq=n + 1) for n in range(120)]
    parts.insert(place, padded(size))
    events, rejects = assert_like_the_twin(b"[" + comma.join(parts) + b"]")
    assert (len(events), [r.reason for r in rejects]) == ((121, []) if size <= 4096 else (120, ["oversize"]))


def test_a_string_that_looks_like_a_boundary_hides_no_oversize_event() -> None:
    for text in ("},{", '},{"', '},{"boot":'):
        lots = {f"{n:02d}{text}": text * (60 // len(text)) for n in range(120)}
        _, rejects = assert_like_the_twin(b"[" + message(lots=lots) + b"," + message() + b"]")
        assert [r.reason for r in rejects] == ["oversize"]


@pytest.mark.parametrize(("events", "stored"), [(255, 255), (256, 256), (257, 0), (300, 0)])
@pytest.mark.parametrize("comma", [b",", b", "])
def test_a_backlog_has_at_most_256_events(events: int, stored: int, comma: bytes) -> None:
    payload = b"[" + comma.join(literal(meas="{}")[:-1].replace(b'"meas":{}', b'"channel":%d' % n) + b"}" for n in range(events)) + b"]"
    found, rejects = assert_like_the_twin(payload)
    assert (len(found), [r.reason for r in rejects]) == (stored, [] if stored else ["oversize"])


@pytest.mark.parametrize(("size", "reasons"), [(65535, []), (65536, []), (65537, ["oversize"]), (1_000_000, ["oversize"])])
def test_a_message_has_at_most_65536_bytes(size: int, reasons: list[str]) -> None:
    events = b"[" + b",".join([message()] * 100)
    found, rejects = assert_like_the_twin(events + b" " * (size - len(events) - 1) + b"]")
    assert (len(found), [r.reason for r in rejects]) == (0 if reasons else 100, reasons)


# --- identities of what is quarantined ---------------------------------------------------------------------------------

IDENTITIES = {
    "wrong result": (message(result="ok"), (17, 18841)),
    "nan": (literal(cycle_s="NaN"), (17, 18841)),
    "not UTF-8": (literal(unit='"@"').replace(b"@", b"\xff"), (17, 18841)),
    "lone surrogate": (literal(unit=r'"\ud800"'), (17, 18841)),
    "oversize": (message()[:-1] + b" " * 5000 + b"}", (17, 18841)),
    "another member twice": (message()[:-1] + b',"unit":"A"}', (17, 18841)),
    "escaped": (message(attempt=0).replace(b'"boot"', rb'"\u0062oot"'), (17, 18841)),
    "words in values": (message(attempt=0, unit="boot", lots={"seq": "boot", "boot": "7"}), (17, 18841)),
    "in meas alone": (json.dumps({"meas": {"boot": 17, "seq": 18841}}).encode(), None),
    "twice": (message()[:-1] + b',"seq":18842}', None),
    "twice, escaped": (message()[:-1] + rb',"\u0073eq":18842}', None),
    "boot missing": (message().replace(b'"boot":17,', b""), None),
    "text": (message(seq="18841"), None),
    "bool": (message(boot=True), None),
    "float": (literal(seq="18841.0"), None),
    "negative": (message(boot=-1), None),
    "zero": (message(seq=0), None),
    "beyond int32": (message(boot=2**31), None),
    "end of int64": (message(seq=2**63 - 1), None),
    "beyond int64": (message(seq=2**63), None),
    "largest": (message(seq=2**63 - 2, attempt=0), (17, 2**63 - 2)),
    "5000 digits": (literal(seq="9" * 5000), None),
    "truncated": (message()[:-1], None),
    "array": (b"[[" + message() + b"]]", None),
    "nested": (b"[" * 5000, None),
}


@pytest.mark.parametrize(("payload", "identity"), IDENTITIES.values(), ids=IDENTITIES.keys())
def test_a_reject_keeps_the_identity_where_it_can_be_told(payload: bytes, identity: tuple[int, int] | None) -> None:
    events, (reject,) = STATION.decode(payload)
    assert not events
    assert (reject.boot, reject.seq) == (identity or (None, None))


def test_a_detail_names_the_place_and_the_value() -> None:
    details = {name: STATION.decode(b"[" + bad + b"]")[1][0].detail for name, (bad, _) in BAD.items()}
    assert "$.seq" in details["beyond int64"]
    assert "'seq'" in details["duplicate key"]
    assert "'X99'" in details["defect"]
    assert ", ".join(DEFECTS) in details["defect"]
    assert "'weld_resistance'" in details["characteristic"]
    assert "4097 bytes, at most 4096" in details["4097 bytes"]
