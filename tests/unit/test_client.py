"""What our client makes of the library below it, where a broker is not needed to see it."""

from __future__ import annotations

import asyncio
import socket
import ssl

import aiomqtt
import pytest
from paho.mqtt.client import DisconnectFlags
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from mes.client import TOO_LARGE, Client, code_of, reason_of


def test_a_socket_that_is_closed_before_the_loop_comes_to_it_is_no_error() -> None:
    """A broker that says no at once closes it while the connection is still being made in another thread."""
    raised: list[dict[str, object]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        client, sock = Client("127.0.0.1", 1), socket.socket()
        sock.close()
        client._on_socket_register_write(client._client, None, sock)
        await asyncio.sleep(0.01)

    asyncio.run(run())
    assert raised == []


def test_a_connection_that_ends_before_the_broker_answers_is_noticed_at_once() -> None:
    async def run(**options: object) -> str:
        client = Client("127.0.0.1", 1, **options)
        client._on_disconnect(None, None, DisconnectFlags(False), ReasonCode(PacketTypes.DISCONNECT), None)
        with pytest.raises(aiomqtt.MqttError) as why:
            await asyncio.wait_for(client._connected, 5)
        return str(why.value)

    assert asyncio.run(run()).endswith("before it answered: does this port want TLS (mqtts://)?")
    assert asyncio.run(run(tls_context=ssl.create_default_context())).endswith("before it answered")


def test_the_reason_with_which_a_broker_ends_a_connection_is_kept() -> None:
    async def run(from_server: bool) -> int:
        client = Client("127.0.0.1", 1)
        client._connected.set_result(None)
        code = ReasonCode(PacketTypes.DISCONNECT, identifier=TOO_LARGE)
        client._on_disconnect(None, None, DisconnectFlags(from_server), code, None)
        assert client.has_gone()
        return client.ended

    assert asyncio.run(run(True)) == TOO_LARGE
    assert asyncio.run(run(False)) == 0


def test_what_ended_a_connection_is_said_and_not_what_was_done_meanwhile() -> None:
    why = aiomqtt.MqttError("Disconnected during message iteration")
    assert reason_of(why) == "Disconnected during message iteration"
    why.__cause__ = aiomqtt.MqttCodeError(7)
    assert reason_of(why) == "[code:7] The connection was lost."
    assert (code_of(why), code_of(aiomqtt.MqttCodeError(7)), code_of(aiomqtt.MqttCodeError(None))) == (0, 7, 0)
