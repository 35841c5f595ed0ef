"""A file is the machines' journal: what the backend does not say to be committed is sent again."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from simulators import replay
from simulators.connection import BrokerUrl

PLACE = "umh/v1/cbak/hill/cells/r-1/wnd/01"
EVENTS = 50


class Backend:
    """Hears events and says what it has committed: at first twenty of them, all when the others have come a second time."""

    def __init__(self, url: str) -> None:
        self.seen: Counter[int] = Counter()
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="replay-backend", protocol=mqtt.MQTTv311)
        self._client.on_connect = lambda *_: self._client.subscribe(f"{PLACE}/_cell_v1/completed", qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._hear
        host, port = url.removeprefix("mqtt://").split(":")
        self._client.connect(host, int(port))
        self._client.loop_start()
        assert self._ready.wait(10)

    def _hear(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        found = json.loads(message.payload)
        self.seen.update(event["seq"] for event in (found if isinstance(found, list) else [found]))
        if all(self.seen[seq] for seq in range(1, EVENTS + 1)):
            again = all(self.seen[seq] > 1 for seq in range(21, EVENTS + 1))
            mark = json.dumps({"boot": 7, "seq": EVENTS if again else 20})
            self._client.publish(f"{PLACE}/_ledger_v1/committed", mark, qos=1, retain=True)

    def close(self) -> None:
        self._client.publish(f"{PLACE}/_ledger_v1/committed", b"", qos=1, retain=True).wait_for_publish(5)
        self._client.disconnect()
        self._client.loop_stop()


def test_what_is_not_marked_is_sent_again_and_only_that(embedded_broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_STALL_S", 1.0)
    file = tmp_path / "f.ndjson"
    events = [{"boot": 7, "seq": n, "timestamp_ms": 1_795_132_800_000 + n} for n in range(1, EVENTS + 1)]
    file.write_text("".join(json.dumps({"topic": f"{PLACE}/_cell_v1/completed", "event": e}) + "\n" for e in events), encoding="utf-8")
    backend = Backend(embedded_broker)
    try:
        one = replay.Replay(file, BrokerUrl.parse(embedded_broker), None, 200, True, print)
        assert asyncio.run(one.run(lambda _: None))
    finally:
        backend.close()
    assert one.figures.committed
    assert all(backend.seen[seq] == 1 for seq in range(1, 21))
    assert all(backend.seen[seq] >= 2 for seq in range(21, EVENTS + 1))
