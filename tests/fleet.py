"""All machines of a plant as a process of its own, which reports what it has done: `python -m tests.fleet FOLDER BROKER ...`.

What a machine sends is a function of its topic, boot and sequence number, so that the account needs no copy of it.
FOLDER/status.json says how far it is; the process ends when everything is committed.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import paho.mqtt.client as paho

from mes import contract
from mes.contract import CellEvent
from mes.plant import Plant

START_MS = 1_795_304_400_000  # 2026-11-21T23:40:00Z: a production day of both plants ends 20 minutes later
STEP_MS = 7_000
STALL_S = 3.0
AHEAD = 5_000  # events on their way from a machine
MESSAGE = 100  # events


def topics(plant: Plant) -> list[str]:
    """Where each machine reports."""
    return [
        contract.machine_topic(line.site, line.area, line.code, station.code, f"{n:02}", "cell")
        for line in plant.lines.values()
        for station in line.station
        for n in range(1, station.machines + 1)
    ]


def cell(topic: str, boot: int, seq: int, jumps: bool = False) -> CellEvent:
    """The event that the machine reports as its `seq`-th of this boot.

    jumps  whether the machine's clock jumps: about every 40th event it is up to six days off, forward or back
    """
    draw = zlib.crc32(f"{topic} {boot} {seq}".encode())
    station = topic.split("/")[6]
    result = {0: "scrap", 1: "rework"}.get(draw % 50, "pass")
    values: dict[str, Any] = {"defect": f"{station}1"} if result != "pass" else {}
    at = START_MS + STEP_MS * seq + 1000 * boot
    if jumps:
        at += (zlib.crc32(f"{topic} {boot} {seq // 40}".encode()) % 13 - 6) * 86_400_000
    attempt = 2 if draw % 23 == 0 else 1
    return CellEvent(
        boot, seq, at, f"{boot}-{zlib.crc32(topic.encode())}-{seq}", attempt, result, 5.0 + draw % 100 / 50, meas={"force": 10.0}, **values
    )


class Machine:
    """What it has made of this boot, up to where that is committed, and what it will send next."""

    def __init__(self, topic: str, boot: int) -> None:
        self.topic, self.boot = topic, boot
        self.made = self.committed = 0
        self.acked: set[int] = set()
        self.next = 1
        self.moved = time.monotonic()

    def mark(self, mark: contract.Committed) -> None:
        if mark.boot == self.boot and mark.seq > self.committed:
            self.committed, self.moved = mark.seq, time.monotonic()
            self.next = max(self.next, mark.seq + 1)

    def messages(self, jumps: bool) -> Iterable[tuple[int, bytes]]:
        if self.committed < self.made and time.monotonic() - self.moved > STALL_S:
            self.next, self.moved = self.committed + 1, time.monotonic()
        last = min(self.made, self.committed + AHEAD)
        while self.next <= last:
            n = min(MESSAGE, last + 1 - self.next)
            events = [cell(self.topic, self.boot, seq, jumps) for seq in range(self.next, self.next + n)]
            yield n, contract.encode(events[0] if n == 1 else events)
            self.next += n


def run(folder: Path, broker: str, names: list[str], boot: int, events: int, rate: float, jumps: bool) -> None:
    machines = {topic.replace("_cell_v1/completed", "_ledger_v1/committed"): Machine(topic, boot) for topic in names}
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    sizes: dict[int, tuple[Machine, range]] = {}
    sent = 0
    parts = urlsplit(broker)
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=f"fleet-{os.getpid()}")
    client.max_inflight_messages_set(500)
    client.reconnect_delay_set(1, 2)
    client.on_connect = lambda *_: heard.put("connected")
    client.on_message = lambda _c, _u, message: heard.put((message.topic, message.payload))
    client.on_publish = lambda _c, _u, mid, *_: heard.put(mid)
    client.connect_async(parts.hostname or "127.0.0.1", parts.port or 1883, keepalive=10)
    client.loop_start()
    began = told = time.monotonic()
    total = events * len(machines)
    while sum(machine.committed for machine in machines.values()) < total:
        made = min(events, int((time.monotonic() - began) * rate / len(machines)) + 1) if rate else events
        while not heard.empty():
            match heard.get():
                case "connected":
                    client.subscribe([(topic, 1) for topic in machines])
                    for machine in machines.values():
                        machine.next = machine.committed + 1
                case (topic, payload):
                    machines[topic].mark(contract.decode_committed(payload))
                case mid:
                    if mid in sizes:
                        machine, seqs = sizes.pop(mid)
                        machine.acked.update(seqs)
        for machine in machines.values():
            machine.made = made
            if client.is_connected():
                for n, payload in machine.messages(jumps):
                    sizes[client.publish(machine.topic, payload, qos=1).mid] = (machine, range(machine.next, machine.next + n))
                    sent += n
        if time.monotonic() - told > 0.1:
            told = time.monotonic()
            tell(folder, machines.values(), sent)
        time.sleep(0.02)
    tell(folder, machines.values(), sent)
    client.disconnect()
    client.loop_stop()


def tell(folder: Path, machines: Iterable[Machine], sent: int) -> None:
    status = {"published": sum(m.made for m in machines), "acked": sum(len(m.acked) for m in machines), "sent": sent}
    status |= {"committed": sum(m.committed for m in machines), "waiting": max(m.made - m.committed for m in machines)}
    (folder / "status.new").write_text(json.dumps(status))
    (folder / "status.new").replace(folder / "status.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("broker")
    parser.add_argument("--topics", type=Path)
    parser.add_argument("--boot", type=int)
    parser.add_argument("--events", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--jumps", action="store_true")
    given = parser.parse_args()
    run(given.folder, given.broker, msgspec.json.decode(given.topics.read_bytes()), given.boot, given.events, given.rate, given.jumps)
