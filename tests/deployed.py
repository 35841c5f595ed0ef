"""Debian's Mosquitto as a plant has it: with the very files of deploy/mosquitto, but for folders and ports."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiomqtt

from mes.acl import access_list
from mes.client import Client
from mes.seeds import load_plant
from tests import pki
from tests.servers import Mosquitto, accepts, free_port, wait_for

CONFIGURATION = Path(__file__).resolve().parent.parent / "deploy/mosquitto/mosquitto.conf"


class Deployed(Mosquitto):
    """The broker with certificates for the plant of `seeds` (see tests.pki) in folder/pki. Machines are let in at `url`, the
    backend at `backend_url`.

    changes   (text, replacement) in the configuration, for tests of what it would be without
    """

    def __init__(self, folder: Path, seeds: Path = pki.SEEDS, changes: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(folder)
        self.backend_port = free_port()
        self.pki = folder / "pki"
        plant = load_plant(seeds)
        pki.made(self.pki, plant)
        (self.pki / "acl").write_text(access_list(plant, ["dashboard"]))
        user = "root" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        text = CONFIGURATION.read_text(encoding="utf-8")
        for old, new in (
            ("/etc/mosquitto/mes/", f"{self.pki}/"),
            ("/var/lib/mosquitto/", f"{folder}/"),
            ("listener 8883\n", f"listener {self.port} 127.0.0.1\n"),
            ("listener 8884\n", f"listener {self.backend_port} 127.0.0.1\n"),
            ("log_dest stderr\n", f"log_dest stderr\nuser {user}\n"),
            *changes,
        ):
            assert old in text, old
            text = text.replace(old, new)
        (folder / "mosquitto.conf").write_text(text)

    @property
    def url(self) -> str:
        return f"mqtts://127.0.0.1:{self.port}"

    @property
    def backend_url(self) -> str:
        return f"mqtts://127.0.0.1:{self.backend_port}"

    def backend(self) -> dict[str, str]:
        """Environment of the backend's processes."""
        return {"MES_BROKER_URL": self.backend_url, **pki.environment(pki.credentials(self.pki, "backend"))}

    def start(self) -> None:
        super().start()
        wait_for(lambda: accepts(self.backend_port), what="the backend's door")

    def stop(self) -> None:
        """As an administrator stops it."""
        assert self.process
        self.process.terminate()
        self.process.wait(20)

    def count(self, text: str) -> int:
        """Lines of its log that hold a text."""
        return sum(text in line for line in (self.folder / "log").read_text().splitlines())


def run(words: list[str], environment: dict[str, str], seconds: float = 60) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MES_")}
    return subprocess.run(words, env={**clean, **environment}, capture_output=True, text=True, timeout=seconds, check=False)


class Peer(Client):
    """A client with the certificate at `place`: what the broker answers to it, and what it hears."""

    def __init__(self, broker: Deployed, place: str, version: aiomqtt.ProtocolVersion = aiomqtt.ProtocolVersion.V5, **options: Any) -> None:
        port = broker.backend_port if place == "backend" else broker.port
        context = pki.credentials(broker.pki, place).context(True)
        super().__init__("127.0.0.1", port, tls_context=context, protocol=version, **options)

    async def publish_to(self, topic: str, payload: bytes, retain: bool = False) -> int:
        """The reason code of the broker; -1 where it ends the connection instead."""
        answer = asyncio.get_running_loop().create_future()
        self.send(topic, payload, answer.set_result, retain=retain)
        await asyncio.wait((answer, self._disconnected), timeout=30, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else -1
