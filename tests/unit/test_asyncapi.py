"""The AsyncAPI document: committed as it is made, valid by the standard's own schema, and its payload schemas judge as the decoders do."""

from __future__ import annotations

import copy
import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from click.testing import CliRunner

from mes import asyncapi, contract, figures, states
from mes.cli import main
from mes.contract import Topic
from mes.publish import figures_of
from tests.unit.test_publish import Database

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
DOCUMENT: dict[str, Any] = json.loads(asyncapi.text())
META = json.loads((ROOT / "tests/oracles/asyncapi-3.0.0.json").read_text(encoding="utf-8"))

# Numbers that are whole, however they are written, are integers to JSON Schema.
BEYOND_A_SCHEMA = {"invalid-seq-exponent", "invalid-boot-float", "invalid-channel-float"}


def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"components": DOCUMENT["components"], **schema})


def message(channel: str) -> jsonschema.Draft202012Validator:
    """Judges what may be published on a channel."""
    return validator({"anyOf": [one["payload"] for one in DOCUMENT["channels"][channel]["messages"].values()]})


def test_the_document_is_the_one_that_is_committed() -> None:
    assert (ROOT / "docs/asyncapi.json").read_text(encoding="utf-8") == asyncapi.text(), "mes asyncapi > docs/asyncapi.json"
    assert CliRunner().invoke(main, ["asyncapi"]).output == asyncapi.text()


def test_the_standard_finds_it_valid() -> None:
    assert [error.message for error in jsonschema.Draft7Validator(META).iter_errors(DOCUMENT)] == []


@pytest.mark.parametrize(
    "path",
    [("asyncapi",), ("operations", "cell", "action"), ("channels", "cell", "address"), ("operations", "wip", "bindings", "mqtt", "qos"),
     ("components", "schemas", "CellEvent", "properties"), ("info", "title"), ("servers", "broker", "protocol")],
)  # fmt: skip
def test_the_standard_would_find_what_is_wrong(path: tuple[str, ...]) -> None:
    broken = copy.deepcopy(DOCUMENT)
    here = broken
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = 7
    assert list(jsonschema.Draft7Validator(META).iter_errors(broken))


def test_every_reference_leads_somewhere() -> None:
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', asyncapi.text()):
        here: Any = DOCUMENT
        for step in reference.split("/"):
            here = here[step]


def test_every_topic_of_the_contract_is_there() -> None:
    """Each address, with the examples of its parameters, is a topic; and what the code makes is among them."""
    examples = {name: parameter["examples"][0] for name, parameter in DOCUMENT["components"]["parameters"].items()}
    addresses = {channel["address"].format(**examples): name for name, channel in DOCUMENT["channels"].items()}
    assert {str(Topic.parse(address)) for address in addresses} == set(addresses)
    line, machine = ("nanjing", "cells", "32140-1"), ("wnd", "03")
    made = {
        contract.machine_topic(*line, *machine, "cell"),
        contract.machine_topic(*line, *machine, "ledger"),
        contract.holder_topic(*line),
    }
    made |= {figure.topic(*line) for figure in figures.FIGURES} | {figures.Alert.topic(*line, name) for name in figures.ALERTS}
    assert made <= addresses.keys()
    for channel in DOCUMENT["channels"].values():
        assert set(channel["parameters"]) == set(re.findall(r"{(\w+)}", channel["address"]))
    retained = {name for name, operation in DOCUMENT["operations"].items() if operation["bindings"]["mqtt"]["retain"]}
    assert retained == DOCUMENT["channels"].keys() - {"cell", "state"}


@pytest.mark.parametrize("path", sorted((GOLDEN / "valid").iterdir()), ids=lambda path: path.stem)
def test_a_valid_message_is_valid(path: Path) -> None:
    assert [error.message for error in message("cell").iter_errors(json.loads(path.read_bytes()))] == []


@pytest.mark.parametrize("path", sorted((GOLDEN / "invalid").glob("invalid-*.json")), ids=lambda path: path.stem)
def test_an_invalid_message_is_invalid(path: Path) -> None:
    """Those that are JSON and whose types are wrong: what else is refused (repeated keys, size, unknown names) is beyond a schema."""
    found = list(message("cell").iter_errors(json.loads(path.read_bytes())))
    assert bool(found) == (path.stem not in BEYOND_A_SCHEMA)


@pytest.mark.parametrize(
    ("change", "valid"),
    [({}, True), ({"reason": "film roll empty"}, True), ({"state": "Execute"}, False), ({"state": 6}, False), ({"reason": ""}, False),
     ({"seq": 0}, False), ({"timestamp_ms": 1789000000}, False), ({"unit": "x"}, False)],
)  # fmt: skip
def test_states_are_judged_as_their_decoder_does(change: dict[str, Any], valid: bool) -> None:
    payload = {"boot": 17, "seq": 18842, "timestamp_ms": 1789000000123, "state": "held", **change}
    assert bool(states.decode(json.dumps(payload).encode())[0]) == valid
    assert message("state").is_valid(payload) == message("state").is_valid([payload]) == valid


def test_figures_and_alerts_as_they_are_published_are_valid() -> None:
    row = Database().row
    now = int(dt.datetime(2026, 11, 25, tzinfo=dt.UTC).timestamp() * 1000)
    alert = figures.Alert(timestamp_ms=now, state="raised", since_ms=now, reason="r", raise_at=1.0, clear_at=0.5, hold_s=300.0)
    told: list[tuple[str, Any]] = [(figure.name, figure) for figure in figures_of(row)] + [(name, alert) for name in figures.ALERTS]
    told += [("ledger", contract.Committed(17, 0)), ("holder", contract.Holder("d", "w", now))]
    assert {name for name, _ in told} == DOCUMENT["channels"].keys() - {"cell", "state"}
    for name, value in told:
        payload = json.loads(msgspec.json.encode(value))
        assert [error.message for error in message(name).iter_errors(payload)] == [], name
        for member in payload:
            assert list(message(name).iter_errors({k: v for k, v in payload.items() if k != member})), f"{name} without {member}"
        assert list(message(name).iter_errors(payload | {"timestamp_ms": "now", "boot": "x"})), name


def test_figures_that_nobody_can_divide_are_null() -> None:
    undefined = ["target", "attainment", "output_yield", "rolled_throughput_yield", "first_pass_yield", "pace_per_h", "projected"]
    undefined += ["remaining_per_h", "target_of_today", "wip", "completeness", "station", "station_name", "station_state", "utilisation"]
    row = Database().row | dict.fromkeys([*undefined, "last_event_at", "today", "station_day"])
    for figure in figures_of(row):
        payload = json.loads(msgspec.json.encode(figure))
        assert [error.message for error in message(figure.name).iter_errors(payload)] == []
