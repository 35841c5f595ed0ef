"""The wire contract as an AsyncAPI 3 document: every topic and payload, made from the types that decode and encode them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from mes import contract, figures, states

VERSION: Final = "1.0.0"  # of the contract: its schemas end in _v1

_REF: Final = "#/components/schemas/"
_LINE: Final = f"{contract.ROOT}/{{site}}/{{area}}/{{line}}"
_MACHINE: Final = f"{_LINE}/{{station}}/{{machine}}"
_PARAMETERS: Final = {
    "site": ("code of the site", "nanjing"),
    "area": ("code of the area", "cells"),
    "line": ("code of the line", "32140-1"),
    "station": ("code of the station", "wnd"),
    "machine": ("code of the machine at its station", "03"),
}


@dataclass(frozen=True, slots=True)
class Channel:
    """A topic: who says what on it. The backend receives what machines report, and sends, retained, all the rest."""

    name: str
    address: str
    action: Literal["receive", "send"]
    payload: type[msgspec.Struct]
    backlog: bool = False  # whether a message may also be an array of payloads
    what: str = ""  # where the payload's own words do not say it


CHANNELS: Final = (
    Channel("cell", f"{_MACHINE}/_cell_v1/completed", "receive", contract.CellEvent, backlog=True),
    Channel("state", f"{_MACHINE}/_state_v1/changed", "receive", states.StateEvent, backlog=True),
    Channel("ledger", f"{_MACHINE}/_ledger_v1/committed", "send", contract.Committed),
    Channel("holder", f"{_LINE}/_ledger_v1/holder", "send", contract.Holder),
    *(Channel(figure.name, f"{_LINE}/_kpi_v1/{figure.name}", "send", figure) for figure in figures.FIGURES),
    *(Channel(name, f"{_LINE}/_alert_v1/{name}", "send", figures.Alert, what=what) for name, what in figures.ALERTS.items()),
)


def document() -> dict[str, Any]:
    """The whole document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "mes: battery cells counted against their targets",
            "version": VERSION,
            "description": "Topics and payloads between machines, the backend and whoever listens. All messages are JSON, QoS 1."
            " What machines report is not retained; what the backend says is. Levels of topics are 1 to 40 of a-z, 0-9 and -.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"broker": {"host": "127.0.0.1:1883", "protocol": "mqtt", "description": "any broker of MQTT 3.1.1 or 5"}},
        "channels": {channel.name: _channel(channel) for channel in CHANNELS},
        "operations": {channel.name: _operation(channel) for channel in CHANNELS},
        "components": {
            "parameters": {name: {"description": what, "examples": [example]} for name, (what, example) in _PARAMETERS.items()},
            "schemas": _schemas(),
        },
    }


def text() -> str:
    """The document as it is committed and printed."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=2).decode() + "\n"


def _channel(channel: Channel) -> dict[str, Any]:
    schema = {"$ref": _REF + channel.payload.__name__}
    messages = {"one": {"name": channel.payload.__name__, "payload": schema}}
    if channel.backlog:
        array = {"type": "array", "items": schema, "maxItems": contract.MAX_BACKLOG}
        messages["backlog"] = {
            "name": f"{channel.payload.__name__}s, in order, at most {contract.MAX_MESSAGE_BYTES} bytes",
            "payload": array,
        }
    return {
        "address": channel.address,
        "description": _summary(channel),
        "parameters": {name: {"$ref": f"#/components/parameters/{name}"} for name in _PARAMETERS if f"{{{name}}}" in channel.address},
        "messages": messages,
    }


def _operation(channel: Channel) -> dict[str, Any]:
    return {
        "action": channel.action,
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "summary": _summary(channel),
        "bindings": {"mqtt": {"qos": 1, "retain": channel.action == "send", "bindingVersion": "0.2.0"}},
    }


def _summary(channel: Channel) -> str:
    return channel.what or " ".join((inspect.getdoc(channel.payload) or "").partition("\n\n")[0].split())


def _schemas() -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components({channel.payload for channel in CHANNELS}, ref_template=_REF + "{name}")
    schemas["CellEvent"] |= {  # what its decoder checks beside the types
        "if": {"properties": {"result": {"const": "pass"}}},
        "then": {"not": {"required": ["defect"]}},
        "else": {"required": ["defect"]},
    }
    return dict(sorted(schemas.items()))
