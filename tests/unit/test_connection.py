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
REFUSED = 'connection failed: connection to server at "10.0.0.7", port 5432 failed: '
PASSES_AT_THE_DOOR = {
    REFUSED + "Connection refused": "",
    REFUSED + "No route to host": "can be reached from here",
    REFUSED + "Network is unreachable": "can be reached from here",
    "connection timeout expired": "can be reached from here",
    "connection failed: FATAL:  the database system is starting up": "",
    "connection failed: FATAL:  the database system is shutting down": "",
    "connection failed: FATAL:  the database system is in recovery mode": "",
    "connection failed: FATAL:  sorry, too many clients already": "raise max_connections",
    'connection failed: FATAL:  too many connections for role "mes_dashboard"': "raise max_connections",
    "connection failed: FATAL:  remaining connection slots are reserved for non-replication superuser connections": "raise max_connections",
    "connection failed: session is read-only": "name the primary",
    'could not translate host name "bd" to address: Name or service not known': "if its name comes with it",
    'could not translate host name "db" to address: Temporary failure in name resolution': "if its name comes with it",
    "failed to resolve host 'bd': [Errno -2] Name or service not known": "if its name comes with it",
    "connection failed: SSL SYSCALL error: EOF detected": "",
    "consuming input failed: server closed the connection unexpectedly": "",
    "consuming input failed: could not receive data from server: Connection timed out": "can be reached from here",
}
STAYS_AT_THE_DOOR = {
    'connection failed: FATAL:  password authentication failed for user "mes"': "",
    "connection failed: fe_sendauth: no password supplied": "",
    'connection failed: FATAL:  database "mse" does not exist': "",
    'connection failed: FATAL:  role "mse" does not exist': "",
    'connection failed: FATAL:  role "mes_operator" is not permitted to log in': "",
    'connection failed: FATAL:  permission denied for database "mes" DETAIL:  User does not have CONNECT privilege.': "",
    'connection failed: FATAL:  no pg_hba.conf entry for host "10.0.0.7"': "",
    'connection failed: FATAL:  pg_hba.conf rejects connection for host "10.0.0.7"': "",
    "connection failed: server does not support SSL, but SSL was required": "",
    'connection failed: root certificate file "/etc/mes/ca.crt" does not exist': "",
    'connection failed: could not read root certificate file "/etc/mes/ca.crt": no certificate or crl found': "",
    'invalid sslmode value: "verify"': "",
    'invalid port number: "x"': "",
    "connection failed: SSL error: certificate verify failed": "sslrootcert",
    'connection failed: server certificate for "db.plant" does not match host name "10.0.0.7"': "as its certificate does",
    "connection failed: SSL error: tlsv13 alert certificate required": "sslcert and sslkey",
    "connection failed: FATAL:  connection requires a valid client certificate": "sslcert and sslkey",
}


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


@pytest.mark.parametrize(("text", "hint"), PASSES_AT_THE_DOOR.items())
def test_a_connection_that_waiting_may_bring(text: str, hint: str) -> None:
    why = becomes(psycopg.OperationalError(text))
    assert type(why) is Unavailable
    assert hint in str(why)


@pytest.mark.parametrize(("text", "hint"), STAYS_AT_THE_DOOR.items())
def test_a_connection_that_waiting_will_not_bring(text: str, hint: str) -> None:
    why = becomes(psycopg.OperationalError(text))
    assert type(why) is Refused
    assert str(why).endswith("; check MES_DATABASE_URL") if not hint else hint in str(why)


def test_the_words_of_a_statement_that_failed_do_not_decide() -> None:
    assert type(becomes(pg.DiskFull('could not extend file "base/1/2": the segment before it does not exist'))) is Unavailable


def test_a_connection_that_is_closed_is_unavailable() -> None:
    assert type(becomes(psycopg.InterfaceError("the connection is closed"))) is Unavailable


def test_each_refusal_says_what_to_do_where_that_is_known() -> None:
    assert str(becomes(pg.UndefinedTable("no mes.line"))).endswith("; run `mes migrate`")
    assert str(becomes(pg.InsufficientPrivilege("permission denied for table site"))) == (
        "database postgresql://mes@db/mes: role mes: permission denied for table site;"
        " use a role that may (deploy/database/README.md), or renew the grants: `mes migrate` as mes_owner"
    )
    assert str(becomes(pg.NumericValueOutOfRange("too large"))) == "database postgresql://mes@db/mes: too large"


def test_what_passes_says_what_would_help_where_that_is_known() -> None:
    assert str(becomes(pg.DiskFull("could not extend file"))).endswith("; make room on the database's disk")
    assert str(becomes(pg.ReadOnlySqlTransaction("no"))).endswith("wait, or name the primary in MES_DATABASE_URL")
    assert str(becomes(pg.TooManyConnections("no"))).endswith("or raise max_connections")


def test_the_role_is_known_without_a_url_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGUSER", "wang")
    with pytest.raises(Refused, match="database postgresql:///mes: role wang: permission denied"), translated("postgresql:///mes"):
        raise pg.InsufficientPrivilege("permission denied")
