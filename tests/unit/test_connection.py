"""What a driver's error is to a service: something that passes, or something that a person must correct."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors as pg

from mes.errors import MesError, Refused, Unavailable
from mes.store.connection import translated

URL = "postgresql://mes:secret@db/mes"

PASSES = {
    "08006": "connection failure",
    "25006": "read-only transaction: a standby that has not taken over yet, or a provider who saves a full disk",
    "25P03": "idle in transaction timeout",
    "40001": "serialization failure",
    "40P01": "deadlock detected",
    "53100": "disk full",
    "53200": "out of memory",
    "53300": "too many connections",
    "53400": "a limit of temporary files",
    "55006": "object in use",
    "55P03": "lock not available",
    "57014": "query cancelled",
    "57P01": "shut down by the administrator",
    "57P02": "crash of another backend",
    "57P03": "starting up, or shutting down",
    "57P05": "idle session timeout",
    "58030": "I/O error",
}
STAYS = {
    "22003": "a value out of range",
    "23503": "foreign key",
    "28000": "no such role",
    "28P01": "wrong password",
    "3D000": "no such database",
    "3F000": "no such schema",
    "42501": "no permission",
    "42703": "no such column",
    "42883": "no such function",
    "42P01": "no such table",
    "54000": "a program limit",
    "57P04": "database dropped",
    "XX001": "damaged data",
}
PASSES_AT_THE_DOOR = [
    'connection failed: connection to server at "127.0.0.1", port 1 failed: Connection refused',
    "connection failed: FATAL:  the database system is starting up",
    "connection failed: FATAL:  the database system is in recovery mode",
    "connection failed: FATAL:  sorry, too many clients already",
    "consuming input failed: server closed the connection unexpectedly",
    "consuming input failed: could not receive data from server: Connection timed out",
]
STAYS_AT_THE_DOOR = [
    'connection failed: FATAL:  password authentication failed for user "mes"',
    "connection failed: fe_sendauth: no password supplied",
    'connection failed: FATAL:  database "mse" does not exist',
    'connection failed: FATAL:  no pg_hba.conf entry for host "10.0.0.7"',
    'could not translate host name "bd" to address: Name or service not known',
    "connection failed: SSL error: certificate verify failed",
    "connection failed: server does not support SSL, but SSL was required",
]


def becomes(error: psycopg.Error) -> MesError:
    with pytest.raises(MesError) as caught, translated(URL):
        raise error
    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("state", PASSES)
def test_what_passes_is_unavailable(state: str) -> None:
    assert type(becomes(pg.lookup(state)(PASSES[state]))) is Unavailable


@pytest.mark.parametrize("state", STAYS)
def test_what_a_person_must_correct_is_refused(state: str) -> None:
    assert type(becomes(pg.lookup(state)(STAYS[state]))) is Refused


@pytest.mark.parametrize("text", PASSES_AT_THE_DOOR)
def test_a_connection_that_waiting_may_bring(text: str) -> None:
    assert type(becomes(psycopg.OperationalError(text))) is Unavailable


@pytest.mark.parametrize("text", STAYS_AT_THE_DOOR)
def test_a_connection_that_waiting_will_not_bring(text: str) -> None:
    why = becomes(psycopg.OperationalError(text))
    assert type(why) is Refused
    assert str(why).endswith("; check MES_DATABASE_URL")


def test_the_words_of_a_statement_that_failed_do_not_decide() -> None:
    assert type(becomes(pg.DiskFull('could not extend file "base/1/2": the segment before it does not exist'))) is Unavailable


def test_a_connection_that_is_closed_is_unavailable() -> None:
    assert type(becomes(psycopg.InterfaceError("the connection is closed"))) is Unavailable


def test_each_refusal_says_what_to_do_where_that_is_known() -> None:
    assert str(becomes(pg.UndefinedTable("no mes.line"))).endswith("; run `mes migrate`")
    assert str(becomes(pg.InsufficientPrivilege("permission denied"))).endswith("; grant the role what it needs")
    assert str(becomes(pg.NumericValueOutOfRange("too large"))) == "database postgresql://mes@db/mes: too large"
