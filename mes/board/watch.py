"""What the board knows of the broker: whether it answers, and whether somebody takes the lines' messages from it.

Both come over one connection that listens to what the holders of the lines' sessions say of themselves every five
seconds (`_ledger_v1/holder`): a few bytes, nothing is published, and no session stays behind.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import math
import os
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from mes.broker import Session
from mes.contract import ROOT, Topic
from mes.errors import Refused, Rejected, Unavailable

log = logging.getLogger(__name__)

HOLDERS: Final = f"{ROOT}/+/+/+/_ledger_v1/holder"
SILENT_S: Final = 15.0  # three times as long as a holder waits between two words
RETRY_S: Final = (0.5, 5.0)
REFUSED_S: Final = 60.0


class Broker:
    """For the event loop's thread. `told` is called when anything has changed.

    answers  None as long as nobody has looked, or where the broker says no to us: then nothing is known
    since    when it was last known to answer, if it does not
    """

    def __init__(self, told: Callable[[], None] = lambda: None) -> None:
        self.answers: bool | None = None
        self.since: dt.datetime | None = None
        self.told = told
        self._heard: dict[str, tuple[float, dt.datetime]] = {}  # line: when its holder last spoke, by two clocks
        self._connected = 0.0

    def connected(self) -> None:
        if self.answers is False:
            log.info("the broker answers again")
        self.answers, self.since, self._connected = True, None, time.monotonic()
        self.told()

    def gone(self) -> None:
        """Nothing that is published arrives. A broker that has never answered has been away since we looked."""
        if self.answers is not False:
            self.answers, self.since = False, dt.datetime.now(dt.UTC)
            self.told()

    def unknown(self) -> None:
        self.answers = self.since = None
        self._heard.clear()
        self.told()

    def holder(self, line: str, holds: bool) -> None:
        """The holder of a line's session has spoken: that it holds it, or that it has given it up."""
        at, clock = self._heard.get(line, (-math.inf, dt.datetime.now(dt.UTC)))
        self._heard[line] = (time.monotonic(), dt.datetime.now(dt.UTC)) if holds else (min(at, time.monotonic() - SILENT_S), clock)
        if not holds:
            self.told()

    def untaken(self, lines: list[str]) -> dict[str, Any]:
        """Lines whose messages wait at the broker because nobody takes them, and since when (None: not since we looked)."""
        now = time.monotonic()
        if not self.answers or now - self._connected < SILENT_S:
            return {}
        spoke = {line: self._heard.get(line, (-math.inf, None)) for line in lines}
        return {line: at for line, (clock, at) in spoke.items() if now - clock >= SILENT_S}


async def watch(url: str, broker: Broker) -> None:
    """Keep `broker` true until cancelled."""
    pause = RETRY_S[0]
    while True:
        try:
            async with Session(url, f"mes-board-{socket.gethostname()}-{os.getpid()}", [HOLDERS], clean=True) as session:
                broker.connected()
                pause = RETRY_S[0]
                await _listen(session, broker)
        except Unavailable as why:
            if broker.answers is not False:
                log.warning("%s", why)
            broker.gone()
        except Refused as why:
            log.error("the state of the broker is not known: %s", why)
            broker.unknown()
            pause = REFUSED_S
        await asyncio.sleep(pause)
        pause = min(pause * 2, RETRY_S[1])


async def _listen(session: Session, broker: Broker) -> None:
    while True:
        messages = await session.receive()
        session.ack(messages)
        for message in messages:
            try:
                topic = Topic.parse(message.topic)
            except Rejected:
                continue
            broker.holder(f"{topic.site}/{topic.area}/{topic.line}", bool(message.payload))
