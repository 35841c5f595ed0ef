"""TLS to the database, as the URL asks for it: against Debian's PostgreSQL with certificates of a CA of our own."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from mes.seeds import load_plant
from mes.store.migrate import migrate
from mes.store.seed import seed
from tests.certificates import Authority
from tests.commands import END, results
from tests.conftest import SEEDS
from tests.integration.test_bad_database import AWAY, all_refuse, trying
from tests.pipeline import GRD, Gateway, event, sessions_held, value
from tests.servers import debian_programs, given_to_server, postgres_server, wait_for


class Server:
    """A PostgreSQL that wants TLS from everybody but its superuser, and the CA that has signed its certificate."""

    def __init__(self, url: str, folder: Path, authority: Authority) -> None:
        self._url = url
        self._folder = folder
        self.authority = authority

    def url(self, mode: str, root: Path | str, host: str = "127.0.0.1") -> str:
        return f"postgresql://mes_tls:tls@{host}:{urlsplit(self._url).port}/mes?sslmode={mode}&sslrootcert={root}"

    def shows(self, certificate: tuple[Path, Path]) -> None:
        """From now on the server shows this certificate."""
        for source, name in zip(certificate, ("server.crt", "server.key"), strict=True):
            shutil.copy(source, self._folder / name)
        given_to_server(self._folder)
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
        wanted = (self._folder / "server.crt").read_text()

        def shown() -> bool:
            with contextlib.suppress(OSError):
                return _certificate(int(urlsplit(self._url).port or 0)) == wanted
            return False

        wait_for(shown, what="the new certificate")


def _certificate(port: int) -> str:
    """What a PostgreSQL shows: TLS begins after a request and its `S`."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 5) as link:
        link.sendall(bytes([0, 0, 0, 8, 4, 210, 22, 47]))
        assert link.recv(1) == b"S"
        with context.wrap_socket(link) as tls:
            der = tls.getpeercert(binary_form=True)
            assert der
            return ssl.DER_cert_to_PEM_cert(der)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    authority = Authority(tmp_path_factory.mktemp("ca"))
    folder = Path(tempfile.mkdtemp(prefix="mes-tls-", dir="/tmp"))
    try:
        for source, name in zip(authority.server("first", "127.0.0.1", "localhost"), ("server.crt", "server.key"), strict=True):
            shutil.copy(source, folder / name)
        given_to_server(folder)
        (folder / "server.key").chmod(0o600)
        settings = {"ssl": "on", "ssl_cert_file": f"{folder}/server.crt", "ssl_key_file": f"{folder}/server.key"}
        with postgres_server(debian_programs(), settings) as url:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("CREATE ROLE mes_tls LOGIN PASSWORD 'tls'")
                connection.execute("CREATE DATABASE mes OWNER mes_tls")
                rules = "('host all mes 127.0.0.1/32 trust'), ('hostssl all all 127.0.0.1/32 scram-sha-256')"
                path = connection.execute("SHOW hba_file").fetchone()
                assert path
                connection.execute(f"COPY (SELECT * FROM (VALUES {rules}) AS v) TO '{path[0]}'".encode())
                connection.execute("SELECT pg_reload_conf()")
            made = Server(url, folder, authority)
            migrate(made.url("verify-full", authority.certificate))
            seed(made.url("verify-full", authority.certificate), load_plant(SEEDS))
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_certificate_of_the_ca_is_accepted_and_the_link_is_encrypted(server: Server, embedded_broker: str, tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost"):
        url = server.url("verify-full", server.authority.certificate, host)
        assert [code for code, _ in results([["seed"], ["report", "daily"], ["ledger", "gaps"]], url, AWAY)] == [0, 0, 0]
    with trying(url, embedded_broker, tmp_path / "log", ["ingest"]), Gateway(embedded_broker) as gateway:
        sessions_held(url)
        gateway.cells(GRD, [event(i) for i in range(1, 11)])
        wait_for(lambda: value(url, "SELECT count(*) FROM mes.cell_event") == 10, 60, "stored")
        links = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name LIKE 'mes ingest %'"
        assert value(url, links) is True


def test_a_foreign_ca_is_refused(server: Server, tmp_path: Path) -> None:
    foreign = Authority(tmp_path / "foreign", "another CA")
    all_refuse(
        server.url("verify-full", foreign.certificate), r"certificate verify failed; it has expired, or no CA in sslrootcert has signed it"
    )


def test_an_expired_certificate_is_refused(server: Server) -> None:
    server.shows(server.authority.server("expired", "127.0.0.1", expired=True))
    try:
        all_refuse(server.url("verify-full", server.authority.certificate), r"certificate verify failed; it has expired, or no CA")
    finally:
        server.shows(server.authority.server("renewed", "127.0.0.1", "localhost"))
    assert results([["report", "daily"]], server.url("verify-full", server.authority.certificate), AWAY)[0][0] == 0


def test_a_certificate_by_another_name_is_refused(server: Server) -> None:
    server.shows(server.authority.server("other", "db.plant.example"))
    try:
        pattern = r"does not match host name \"127.0.0.1\"; name the server in MES_DATABASE_URL as its certificate does"
        all_refuse(server.url("verify-full", server.authority.certificate), pattern, [*END])
        assert results([["report", "daily"]], server.url("verify-ca", server.authority.certificate), AWAY)[0][0] == 0
    finally:
        server.shows(server.authority.server("renewed", "127.0.0.1", "localhost"))


def test_what_is_wrong_in_the_url_is_refused(server: Server, tmp_path: Path) -> None:
    ask = [["report", "daily"], ["ingest"]]
    all_refuse(server.url("verify-full", tmp_path / "nowhere.crt"), r"nowhere.crt\" does not exist.*; check MES_DATABASE_URL$", ask)
    all_refuse(server.url("verify", server.authority.certificate), r"invalid sslmode value: \"verify\"; check MES_DATABASE_URL$", ask)
    all_refuse(server.url("disable", ""), r"no pg_hba.conf entry for host .*no encryption; check MES_DATABASE_URL$", ask)
    (tmp_path / "empty.crt").touch()
    all_refuse(server.url("verify-full", tmp_path / "empty.crt"), r"could not read root certificate file.*; check MES_DATABASE_URL$", ask)
