"""States of machines on the wire: PackML by name, decoded as strictly as cells.

A state event shares boot and seq with the cells of its machine: they are one count of one machine's messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mes.contract import Boot, Reject, Seq, Timestamp, each, refuse_hidden, typed

State = Literal[
    "stopped", "resetting", "idle", "starting", "execute", "completing", "complete", "aborting", "aborted", "stopping", "clearing",
    "suspending", "suspended", "unsuspending", "holding", "held", "unholding",
]  # fmt: skip
"""The states of ISA-TR88.00.02, by name: two numberings of them are in the field."""


class StateEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A machine has changed its state, which lasts until its next one.

    boot, seq      as of a cell (mes.contract.CellEvent), and counted together with cells
    timestamp_ms   begin of the state, milliseconds since 1970 UTC, by the machine's clock
    state          PackML state by name, lower case
    reason         why, in the machine's words
    """

    boot: Boot
    seq: Seq
    timestamp_ms: Timestamp
    state: State
    reason: Annotated[str, Meta(min_length=1, max_length=200)] | UnsetType = UNSET


_decode = msgspec.json.Decoder(StateEvent).decode


def decode(payload: bytes) -> tuple[Sequence[StateEvent], Sequence[Reject]]:
    """Split a message into state events and rejects; together they account for every byte. Never raises."""
    return each(payload, _one)


def _one(payload: bytes) -> StateEvent:
    event = typed(payload, _decode)
    refuse_hidden(payload, () if event.reason is UNSET else (event.reason,))
    return event
