"""The board knows when the broker is away, and when nobody takes a line's messages from it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mes import contract
from mes.board import watch as watching
from mes.board.feed import Feed
from mes.board.watch import Broker, watch
from tests import faults
from tests.pipeline import Gateway
from tests.servers import Mosquitto

LINE = "nanjing/cells/32140-1"
HOLDER = contract.holder_topic(*LINE.split("/"))
WORD = contract.encode(contract.Holder("a database", "a worker", 1_795_312_800_000))
PATIENCE_S = 30


@pytest.fixture(params=["mosquitto", "embedded"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[faults.Broker]:
    with faults.broker(request.param, tmp_path / "broker") as started:
        yield started


class Watched:
    """A Broker that is kept true, and a way to wait for what it says."""

    def __init__(self) -> None:
        self.broker = Broker(self._told)
        self.feed = Feed("test", self.broker)
        self._turn = asyncio.Event()
        tell = self.broker.told
        self.broker.told = lambda: (tell(), self._told())[0]

    def _told(self) -> None:
        self._turn.set()

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not happened():
                self._turn.clear()
                await self._turn.wait()


@contextlib.asynccontextmanager
async def watched(url: str) -> AsyncIterator[Watched]:
    it = Watched()
    task = asyncio.create_task(watch(url, it.broker))
    try:
        yield it
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_a_broker_that_dies_is_away_until_it_is_back(broker: faults.Broker) -> None:
    async def scene() -> None:
        before = dt.datetime.now(dt.UTC)
        async with watched(broker.url) as it:
            await it.until(lambda: it.broker.answers is True)
            assert it.broker.since is None
            it.feed.show([])
            assert it.feed.state()["state"] == "live"
            await asyncio.to_thread(broker.kill)
            await it.until(lambda: it.broker.answers is False)
            since = it.broker.since
            assert since is not None and before <= since <= dt.datetime.now(dt.UTC)
            it.feed.show([])
            assert (it.feed.state()["state"], it.feed.state()["since"]) == ("no_broker", since)
            await asyncio.to_thread(broker.start)
            await it.until(lambda: it.broker.answers is True)
            it.feed.show([])
            assert it.feed.state()["state"] == "live"

    asyncio.run(scene())


def test_holders_of_sessions_are_heard(broker: faults.Broker) -> None:
    """The retained word at once, and the one by which the holder gives the session up."""

    async def scene() -> None:
        with Gateway(broker.url) as gateway:
            gateway.retain(HOLDER, WORD)
            gateway.retain("umh/v1/cbak/nanjing/cells/32140-1/wnd/01/_ledger_v1/committed", b"{}")
            async with watched(broker.url) as it:
                async with asyncio.timeout(PATIENCE_S):
                    while LINE not in it.broker._heard:  # noqa: ASYNC110  # a word that changes nothing tells nobody
                        await asyncio.sleep(0.02)
                assert set(it.broker._heard) == {LINE}
                it.broker._connected -= watching.SILENT_S
                assert it.broker.untaken([LINE]) == {}
                gateway.retain(HOLDER, b"")
                await it.until(lambda: LINE in it.broker.untaken([LINE]))

    asyncio.run(scene())


def test_a_line_is_untaken_when_its_holder_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(watching.time, "monotonic", lambda: now[0])
    broker = Broker()
    assert broker.untaken([LINE]) == {}, "nobody has looked"
    broker.connected()
    now[0] += watching.SILENT_S - 1
    assert broker.untaken([LINE]) == {}, "whoever holds it may not have spoken yet"
    broker.holder(LINE, True)
    now[0] += watching.SILENT_S - 1
    assert broker.untaken([LINE, "a/b/c"]) == {"a/b/c": None}
    now[0] += 1
    assert list(broker.untaken([LINE])) == [LINE] and broker.untaken([LINE])[LINE] is not None
    broker.holder(LINE, True)
    assert broker.untaken([LINE]) == {}
    broker.gone()
    assert broker.untaken([LINE]) == {}, "the broker is away: that says more"


def test_a_broker_that_says_no_is_not_known_rather_than_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Figures are not grey because the board may not look."""

    async def scene(url: str) -> dict[str, Any]:
        async with watched(url) as it:
            it.feed.show([])
            async with asyncio.timeout(PATIENCE_S):
                while "not known" not in caplog.text:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            return it.feed.state()

    with Mosquitto(tmp_path / "mosquitto", anonymous=False) as started:
        state = asyncio.run(scene(started.url))
    assert state["state"] == "live"
    assert "not authorised" in caplog.text
    assert msgspec.json.encode(state)
