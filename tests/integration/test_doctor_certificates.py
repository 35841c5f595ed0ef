"""`mes doctor` on certificates of real servers: valid, soon to end, ended, not yet valid; and on connections without."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mes.doctor import certificates
from mes.doctor.finding import Finding, Level
from tests.diagnosis import certificate, one
from tests.servers import Mosquitto, debian_postgres, free_port

OK, PROBLEM, WARNING = Level.OK, Level.PROBLEM, Level.WARNING

LIFE = [
    (400, OK, "is valid for 400 days"),
    (29, WARNING, "is valid for 29 days"),
    (6, PROBLEM, "is valid for 6 days"),
    (-1, PROBLEM, "expired on 20"),
]


@pytest.mark.parametrize(("days", "level", "said"), LIFE)
def test_the_brokers_certificate(days: float, level: Level, said: str, tmp_path: Path) -> None:
    crt, key = certificate(tmp_path / "pki", "broker", days + 0.01)
    listener = free_port()
    extra = f"listener {listener} 127.0.0.1\ncertfile {crt}\nkeyfile {key}\n"
    with Mosquitto(tmp_path / "mosquitto", extra):
        found = one(list(certificates.of_broker(f"mqtts://127.0.0.1:{listener}")), "tls.broker", level)
    assert said in found.found


def test_a_broker_that_wants_a_certificate_of_us_shows_its_own_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crt, key = certificate(tmp_path / "pki", "broker", 20)
    listener = free_port()
    extra = f"listener {listener} 127.0.0.1\ncafile {crt}\ncertfile {crt}\nkeyfile {key}\nrequire_certificate true\n"
    with Mosquitto(tmp_path / "mosquitto", extra):
        one(list(certificates.of_broker(f"mqtts://127.0.0.1:{listener}")), "tls.broker", WARNING)


def test_a_port_that_speaks_no_tls(mosquitto: str) -> None:
    found = one(list(certificates.of_broker(mosquitto.replace("mqtt:", "mqtts:"))), "tls.broker", PROBLEM)
    assert "shows no certificate" in found.found


def test_open_connections_are_well_here_and_a_warning_elsewhere(mosquitto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one(list(certificates.of_broker(mosquitto)), "tls.broker", OK)
    assert "can be read and changed" in one(list(certificates.of_broker("mqtt://broker.example")), "tls.broker", WARNING).found


@pytest.fixture
def postgres_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder into which the server's user can look, which root's temporary folders are not."""
    folder = Path("/tmp") / f"mes-pki-{os.getpid()}-{tmp_path.name}"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


def with_tls(folder: Path, days: float) -> dict[str, str]:
    """Settings of a server with such a certificate; its key belongs to the server's user."""
    crt, key = certificate(folder, "postgresql", days)
    key.chmod(0o600)
    if os.getuid() == 0:
        owner = next(pwd.getpwnam(name) for name in ("postgres", "nobody") if _exists(name))
        os.chown(key, owner.pw_uid, owner.pw_gid)
    return {"ssl": "on", "ssl_cert_file": str(crt), "ssl_key_file": str(key)}


def _exists(name: str) -> bool:
    return name in {entry.pw_name for entry in pwd.getpwall()}


def of_database(url: str) -> list[Finding]:
    parts = urlsplit(url)
    return list(certificates.of_database(url, str(parts.hostname), int(parts.port or 5432)))


@pytest.mark.parametrize(("days", "level", "said"), [LIFE[0], LIFE[2], LIFE[3]])
def test_the_databases_certificate(days: float, level: Level, said: str, postgres_folder: Path) -> None:
    with debian_postgres(with_tls(postgres_folder, days + 0.01)) as url:
        assert said in one(of_database(url), "tls.database", level).found


def test_a_database_without_tls_or_one_that_could_be_anybody(postgres_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with debian_postgres() as url:
        one(of_database(url), "tls.database", OK)
        monkeypatch.setattr(certificates, "is_here", lambda _: False)  # as if it were another machine
        assert "ssl = on at the server" in one(of_database(url), "tls.database", WARNING).cure
    with debian_postgres(with_tls(postgres_folder, 100)) as url:
        found = of_database(f"{url}?sslmode=require")
        assert "anybody between here and 127.0.0.1 could be the database" in one(found, "tls.database", WARNING).found
        one(of_database(f"{url}?sslmode=verify-full"), "tls.database", OK)
    assert "does not leave this machine" in next(certificates.of_database("postgresql:///mes", "/run/postgresql", 5432)).found


def test_files_that_we_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own certificate and the authorities that we trust, for broker and database, each for itself."""
    soon, _ = certificate(tmp_path, "soon", 10)
    fine, _ = certificate(tmp_path, "fine", 100)
    gone, _ = certificate(tmp_path, "gone", -3)
    early, _ = certificate(tmp_path, "early", 100, begins=2)
    both = tmp_path / "both.crt"
    both.write_bytes(fine.read_bytes() + gone.read_bytes())
    (tmp_path / "nonsense.crt").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")

    def found(database: str = "postgresql:///mes", broker: str = "mqtts://broker") -> dict[tuple[str, str], list[Level]]:
        out: dict[tuple[str, str], list[Level]] = {}
        for finding in certificates.of_files(database, broker):
            out.setdefault((finding.name, finding.about), []).append(finding.level)
        return out

    monkeypatch.setenv("MES_BROKER_CA", str(both))
    monkeypatch.setenv("MES_BROKER_CERT", str(soon))
    assert found() == {("tls.authority", "MES_BROKER_CA"): [OK, PROBLEM], ("tls.client", "MES_BROKER_CERT"): [WARNING]}
    assert found(broker="mqtt://broker") == {}
    monkeypatch.setenv("MES_BROKER_CA", str(tmp_path / "nothing.crt"))
    monkeypatch.setenv("MES_BROKER_CERT", str(early))
    assert found() == {("tls.authority", "MES_BROKER_CA"): [PROBLEM], ("tls.client", "MES_BROKER_CERT"): [PROBLEM]}
    monkeypatch.delenv("MES_BROKER_CA")
    monkeypatch.setenv("MES_BROKER_CERT", str(tmp_path / "nonsense.crt"))
    assert found() == {("tls.client", "MES_BROKER_CERT"): [PROBLEM]}
    monkeypatch.delenv("MES_BROKER_CERT")
    url = f"postgresql://db/mes?sslmode=verify-full&sslrootcert={fine}&sslcert={gone}"
    assert found(url) == {("tls.authority", "sslrootcert"): [OK], ("tls.client", "sslcert"): [PROBLEM]}
