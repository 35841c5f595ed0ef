"""The embedded MQTT broker: `nats-server` with JetStream as a child of ours, MQTT 3.1.1 on 127.0.0.1.

What it keeps for offline sessions lies in HOME/nats and outlives a kill -9 of the broker; a lost machine can still
cost messages that were acked, which is why machines keep theirs until ingest says "committed" (law 4).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mes.embedded import process
from mes.errors import ConfigError

STANDARD_PORT: Final = 1883

# What a session may hold unacked. 512 messages of at most 64 KiB are 32 MiB: below the 64 MB at which NATS cuts a
# client off as a slow consumer (2,048 did that), and 131,000 events, which ingest commits well within `ack_wait`,
# after which NATS sends again, to a worker that has taken over as well. (Above 32,767 NATS refuses wildcard subscriptions.)
MAX_ACK_PENDING: Final = 512

_CONNECT: Final = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x05\x00\x00"  # MQTT 3.1.1, clean session, no client id
_CONFIGURATION: Final = """\
server_name: "mes"
host: "127.0.0.1"
port: -1                      # NATS' own protocol cannot be switched off: a random port, on which no user may log in
authorization {{ users: [ {{ user: "machine", password: "machine", allowed_connection_types: ["MQTT"] }} ] }}
max_payload: 1MB
jetstream {{ store_dir: "store", max_memory_store: 64MB, max_file_store: {room} }}
mqtt {{ host: "127.0.0.1", port: {port}, no_auth_user: "machine", ack_wait: "8s", max_ack_pending: {pending} }}
"""


class EmbeddedBroker:
    """A broker under `home`/nats for the length of a `with`; messages stay for the next time.

    port   None takes 1883 when it is free, else any free port; a given port that is taken raises ConfigError
    say    where messages for the person at the terminal go
    """

    def __init__(self, home: Path, port: int | None = None, *, say: process.Say = print) -> None:
        self.folder = home.absolute() / "nats"
        self.log = home.absolute() / "logs" / "broker.log"
        self.port = port or 0
        self._say = say
        self._given = port is not None
        self._child: subprocess.Popen[bytes] | None = None
        self._lock: process.Lock | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def __enter__(self) -> Self:
        self._lock = process.Lock(self.folder / "lock", "the embedded broker")
        try:
            process.clear(self.folder, "nats-server", signal.SIGTERM, self._say)
            if not self._given:
                self.port = process.free_port(STANDARD_PORT)
            self.start()
        except BaseException:
            self.stop(0.5)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers MQTT."""
        if not process.is_free(self.port):
            raise ConfigError(f"port {self.port} is taken by {process.listener(self.port)}: stop that, or give the broker another port")
        self._write_configuration()
        begin = self.log.stat().st_size if self.log.exists() else 0
        environment = {**os.environ, "GOMEMLIMIT": "256MiB"}
        command = [process.program("nats-server", "MES_BROKER_URL"), "-c", "nats.conf"]
        self._child = process.spawn(command, self.log, cwd=self.folder, env=environment)
        deadline = time.monotonic() + 60.0
        while not self._answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                said = process.tail(self.log, 40, since=begin)
                problem = next((line for line in said if "[FTL]" in line or "[ERR]" in line), (said or ["no message"])[-1])
                raise ConfigError(f"the embedded broker did not start: {problem} (log: {self.log})")
            time.sleep(0.01)

    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def ask_stop(self) -> None:
        if self._child:
            process.ask(self._child, signal.SIGTERM)

    def stop(self, within: float = 5.0) -> None:
        """Stop the server: politely for `within` seconds, then for good."""
        deadline = time.monotonic() + within
        self.ask_stop()
        if self._child and not process.ended(self._child, deadline):
            self._child.kill()
            self._child.wait()
        self._child = None
        if self._lock:
            self._lock.release()
            self._lock = None

    def _write_configuration(self) -> None:
        # Relative to the working directory, so that no path needs quoting; the limit covers what is there already.
        used = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        room = max((shutil.disk_usage(self.folder).free + used) * 3 // 4, 64 * 1024 * 1024)
        text = _CONFIGURATION.format(room=room, port=self.port, pending=MAX_ACK_PENDING)
        try:
            (self.folder / "nats.conf").write_text(text, encoding="utf-8")
        except OSError as why:
            raise process.unwritable(self.folder / "nats.conf", why) from why

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as link:
                link.sendall(_CONNECT)
                return link.recv(4)[:2] == b"\x20\x02"
        except OSError:
            return False
