"""The broker: what it says of itself, who holds the lines' sessions, and, where it is asked for, what it really keeps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from mes import contract
from mes.doctor.finding import Finding, Level, some, span
from mes.marks import HOLDER_S
from mes.probe import Heard, Tried

LISTEN_S: Final = HOLDER_S + 1.5
_TOPIC_BYTES: Final = 512  # topic and header of a message, generously
_STRAGGLERS: Final = 0.99  # of the messages: fewer were dropped, the others are on their way


def said(heard: Heard) -> Iterator[Finding]:
    """What it told when it let us in, and under $SYS."""
    who = heard.version or "a broker that does not say which"
    if heard.mqtt5:
        yield Finding("broker.version", Level.OK, f"{who}, MQTT 5")
    else:
        found = f"{who}, MQTT 3.1.1 only: it cannot say why it refuses a message"
        yield Finding(
            "broker.version", Level.NOTE, found, "a message that no one may write then looks like one that was taken: test each ACL"
        )
    if heard.longest is not None:
        yield _longest(heard.longest)
    if not heard.retains:
        yield Finding(
            "broker.retained", Level.PROBLEM, "it keeps no retained messages: marks and figures need them", "allow them at the broker"
        )
    if heard.dropped:
        found = f"it has dropped {heard.dropped:,} messages since it started, because a queue was full"
        cure = "Mosquitto: max_queued_messages 0, max_inflight_messages 0; the machines send again what was not marked"
        yield Finding("broker.dropped", Level.WARNING, found, cure)
    elif heard.dropped == 0:
        yield Finding("broker.dropped", Level.OK, "it has dropped no message since it started")


def _longest(most: int) -> Finding:
    found = f"it takes packets of up to {most:,} bytes"
    if most < contract.MAX_EVENT_BYTES + _TOPIC_BYTES:
        cure = f"Mosquitto: max_packet_size {contract.MAX_EVENT_BYTES + _TOPIC_BYTES}"
        return Finding("broker.packet_size", Level.PROBLEM, f"{found}: an event of {contract.MAX_EVENT_BYTES} bytes does not pass", cure)
    if most < contract.MAX_MESSAGE_BYTES + _TOPIC_BYTES:
        return Finding("broker.packet_size", Level.OK, f"{found}: single events pass, backlogs must be no longer than that")
    return Finding("broker.packet_size", Level.OK, found)


def holders(heard: Heard, lines: set[str], database: str) -> Iterator[Finding]:
    """Who says to hold the session of each line; `lines` are those of the database, `database` its identity, both empty if unknown."""
    live = []
    for path in sorted(lines | heard.holders.keys()):
        if path not in heard.holders:
            found = f"nobody says to hold the session of {path}"
            yield Finding("broker.sessions", Level.PROBLEM, found, "start `mes ingest`, or let its user write _ledger_v1/holder", path)
            continue
        holder, _ = heard.holders[path]
        if database and holder.database != database:
            found = f"{path} is taken by another backend: worker {holder.worker}, database {holder.database}"
            yield Finding("broker.sessions", Level.PROBLEM, found, "stop one of the two, or give it a broker of its own", path)
        elif path not in heard.is_live:
            found = f"the holder of {path}, {holder.worker}, was last heard {span(max(0.0, time.time() - holder.timestamp_ms / 1000))} ago"
            yield Finding("broker.sessions", Level.WARNING, found, "see whether `mes ingest` runs (its log, /readyz)", path)
        else:
            live.append(path)
    if live:
        workers = some(sorted({heard.holders[path][0].worker for path in live}))
        yield Finding("broker.sessions", Level.OK, f"{some(live)}: session held by {workers}")
    if heard.holders:
        yield Finding("broker.retained", Level.OK, "it keeps retained messages")


def tried(result: Tried) -> Iterator[Finding]:
    """What became of messages for a session that was away."""
    if result.refusal is not None:
        yield Finding(
            "broker.queue_cap", Level.WARNING, f"not tried: {result.refusal}", "grant it for the time of the trial, and try again"
        )
        return
    found = f"of {result.acked:,} messages that were acknowledged for a session that was away, {result.arrived:,} arrived"
    if result.arrived < _STRAGGLERS * result.acked:
        cure = "its queue drops what it has acknowledged: Mosquitto: max_queued_messages 0, max_queued_bytes 0, max_inflight_messages 0"
        yield Finding("broker.queue_cap", Level.PROBLEM, found, cure)
    elif result.arrived < result.acked:
        yield Finding(
            "broker.queue_cap",
            Level.NOTE,
            f"{found} at once",
            "the others are sent again after a while (NATS: ack_wait): none, if it is so",
        )
    else:
        yield Finding("broker.queue_cap", Level.OK, found)
    if not result.is_kept:
        yield Finding(
            "broker.retained", Level.PROBLEM, "a retained message was not kept: marks and figures need that", "allow them at the broker"
        )


def not_tried() -> Finding:
    found = "whether its queues drop what it has acknowledged was not tried: MQTT does not tell"
    return Finding("broker.queue_cap", Level.NOTE, found, "`mes doctor --probe-queue`, once after each change of the broker")
