"""aiomqtt's client, and what it does not look at: the broker's word on each message, on how long one may be, on who we are.

The backend's publisher and the simulators' gateway stand on it. Publishing does not wait; the answer is a call.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Callable
from typing import Any, Final

import aiomqtt

from mes.tls import Overheard, is_final

TOO_LARGE: Final = 149
"""Reason code of a broker that hangs up on a packet, or refuses a message, because of its length."""


class Client(aiomqtt.Client):
    """One connection, QoS 1.

    longest   bytes of the longest packet that the broker takes, None where it does not say (MQTT 3.1.1 cannot)
    ended     the reason code with which the broker has ended the connection, 0 where it gave none
    """

    def __init__(self, host: str, port: int, **options: Any) -> None:
        logger = logging.Logger("mqtt", logging.ERROR)  # its own, belonging to no tree: what it says, we say better
        self._overheard = Overheard()
        logger.addHandler(self._overheard)
        super().__init__(host, port, logger=logger, **options)
        self._hint = "" if options.get("tls_context") else ": does this port want TLS (mqtts://)?"
        self.longest: int | None = None
        self.ended = 0
        self._answers: dict[int, Callable[[int], None]] = {}

    def send(self, topic: str, payload: bytes, answered: Callable[[int], None], *, retain: bool = False) -> None:
        """Publish; `answered` is called with the reason code (0: taken; MQTT 3.1.1 knows no other) unless the connection ends before."""
        self._answers[self._client.publish(topic, payload, 1, retain).mid] = answered

    def has_gone(self) -> bool:
        return self._disconnected.done()

    def refusal(self, why: BaseException) -> ssl.SSLError | None:
        """What TLS says about a connection that failed, where that is a no; aiomqtt's own error has no type."""
        return next((each for each in (self._overheard.error, why.__context__) if isinstance(each, ssl.SSLError) and is_final(each)), None)

    def _on_connect(self, *what: Any) -> None:
        self.longest = getattr(what[4], "MaximumPacketSize", None)
        super()._on_connect(*what)

    def _on_publish(self, *what: Any) -> None:
        _, _, mid, code, _ = what
        answered = self._answers.pop(mid, None)
        if answered is not None:
            answered(getattr(code, "value", code))

    def _on_socket_register_write(self, client: Any, _: Any, sock: Any) -> None:
        """As aiomqtt's, but for a broker that says no at once: the socket can be closed before the loop comes to it."""

        def write() -> None:
            try:
                client.loop_write()
            except Exception as why:  # noqa: BLE001 - whatever it is, the connection is of no use any more
                if not self._disconnected.done():
                    self._disconnected.set_exception(why)

        def watch() -> None:
            with contextlib.suppress(OSError, ValueError):
                self._loop.add_writer(sock.fileno(), write)

        self._loop.call_soon_threadsafe(watch)

    def _on_disconnect(self, *what: Any) -> None:
        if what[2].is_disconnect_packet_from_server:
            self.ended = what[3].value
        if not self._connected.done():  # nobody would tell who waits for it
            self._connected.set_exception(aiomqtt.MqttError(f"the broker closed the connection before it answered{self._hint}"))
            self._connected.exception()
        elif not self._connected.cancelled():  # else nobody waits any more, and aiomqtt would stumble over that
            super()._on_disconnect(*what)
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()  # seen: asyncio would complain of it otherwise


def reason_of(why: aiomqtt.MqttError) -> str:
    """What ended a connection, where aiomqtt only says what it was doing meanwhile."""
    return str(why.__cause__ or why)


def code_of(why: aiomqtt.MqttError) -> int:
    """The broker's reason code in an error, 0 where there is none."""
    if not isinstance(why, aiomqtt.MqttCodeError) or why.rc is None:
        return 0
    return int(why.rc if isinstance(why.rc, int) else why.rc.value)
