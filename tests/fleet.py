"""All machines of a plant as a process of its own, on one gateway: `python -m tests.fleet FOLDER BROKER ...`.

What a machine sends is a function of its topic, boot and sequence number, so that the account needs no copy of it, and a
fleet that was killed goes on by the same command. FOLDER/status.json says how far it is; the process ends when everything
is committed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import time
import zlib
from pathlib import Path
from typing import Any

import msgspec

from mes import contract
from mes.contract import CellEvent
from mes.plant import Plant
from simulators.connection import BrokerUrl
from simulators.gateway import Gateway
from simulators.journal import Journal, JournalFull
from simulators.machine import Machine

START_MS = 1_795_304_400_000  # 2026-11-21T23:40:00Z: a production day of both plants ends 20 minutes later
STEP_MS = 7_000


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


async def run(folder: Path, broker: str, names: list[str], boot: int, events: int, rate: float, jumps: bool, ahead: int) -> None:
    machines = [
        Machine(topic, Journal(folder / "journals" / topic.replace("/", "-"), boot, "never"), stall=2.0, longest=10.0, ahead=ahead)
        for topic in names
    ]
    gateway = Gateway(BrokerUrl.parse(broker), f"fleet-{os.getpid()}", machines)
    serving = asyncio.create_task(gateway.serve())
    made = dict.fromkeys(machines, 0)
    full = 0
    began = time.monotonic()
    while gateway.uncommitted or min(made.values()) < events:
        due = min(events, int((time.monotonic() - began) * rate / len(machines)) + 1)
        for machine, n in made.items():
            if n < due:
                lines = b"".join(contract.encode(cell(machine.topic, boot, seq, jumps)) + b"\n" for seq in range(n + 1, due + 1))
                try:
                    gateway.append(machine, lines, n + 1, due - n)
                    made[machine] = due
                except JournalFull:
                    full += 1
        tell(folder, published=sum(made.values()), acked=gateway.acked, uncommitted=gateway.uncommitted, full=full)
        if serving.done():
            serving.result()
        await asyncio.sleep(0.05)
    tell(folder, published=sum(made.values()), acked=gateway.acked, uncommitted=0, full=full)
    serving.cancel()


def tell(folder: Path, **status: int) -> None:
    with contextlib.suppress(OSError):
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
    parser.add_argument("--ahead", type=int, default=8192)
    given = parser.parse_args()
    names = msgspec.json.decode(given.topics.read_bytes())
    asyncio.run(run(given.folder, given.broker, names, given.boot, given.events, given.rate, given.jumps, given.ahead))
