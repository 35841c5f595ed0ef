"""Certificates of a client are checked before they are used, and what a handshake says is said in plain words."""

from __future__ import annotations

import datetime as dt
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from mes import authority, pki, tls
from mes.embedded.broker import EmbeddedBroker
from mes.errors import ConfigError
from mes.session import Address
from mes.tls import Credentials, Overheard, is_final, meaning
from mes.up import Stack, where_to_look
from simulators.connection import BrokerUrl
from tests.pki import MACHINE, OTHER, SEEDS, credentials, environment, expired, made, outdated

AT = f"machines/{MACHINE}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made(tmp_path / "pki")


def test_certificates_that_are_in_order_make_a_context_that_shows_them(folder: Path) -> None:
    context = credentials(folder, AT).context(True)
    assert context is not None
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert [int(str(one["serialNumber"]), 16) for one in context.get_ca_certs()] == [authority.read(folder / "ca/plant.crt").serial_number]


def test_without_files_the_authorities_of_the_system_are_trusted() -> None:
    context = Credentials().context(True)
    assert context is not None
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert Credentials().context(False) is None


Change = Callable[[Path, Credentials], Credentials]


def _expire(folder: Path, one: Credentials) -> Credentials:
    expired(folder, AT)
    return one


def _early(folder: Path, one: Credentials) -> Credentials:
    now = dt.datetime.now(dt.UTC)
    outdated(folder, AT, now + dt.timedelta(days=1), now + dt.timedelta(days=2))
    return one


def _locked(_: Path, one: Credentials) -> Credentials:
    assert one.key
    key = authority.key_in(one.key)
    secret = serialization.BestAvailableEncryption(b"x")
    one.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    return one


def _empty(_: Path, one: Credentials) -> Credentials:
    assert one.ca
    one.ca.write_bytes(b"")
    return one


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f, c: c._replace(ca=f / "no"), "MES_BROKER_CA={f}/no: there is no such file: give the certificate of the authority"),
        (lambda f, c: c._replace(cert=f / "no"), "MES_BROKER_CERT={f}/no: there is no such file: give the certificate of this client"),
        (lambda f, c: c._replace(key=f / "no"), "MES_BROKER_KEY={f}/no: there is no such file: give the private key of this client"),
        (lambda f, c: c._replace(ca=f), "MES_BROKER_CA={f}: cannot be read (Is a directory): let this user read it"),
        (lambda _, c: c._replace(ca=c.key), "MES_BROKER_CA={key}: not a certificate in PEM form: give the certificate of the authority"),
        (lambda _, c: c._replace(cert=c.key), "MES_BROKER_CERT={key}: not a certificate in PEM form: give the certificate of this client"),
        (
            lambda _, c: c._replace(key=c.cert),
            "MES_BROKER_KEY={cert}: not a private key in PEM form: give the key of MES_BROKER_CERT={cert}",
        ),
        (
            lambda f, c: c._replace(key=f / f"machines/{OTHER}.key"),
            "MES_BROKER_KEY={f}/machines/" + OTHER + ".key: is not the key of MES_BROKER_CERT={cert}: give the two that belong together",
        ),
        (lambda _, c: c._replace(key=None), "MES_BROKER_CERT={cert} is set alone: set both MES_BROKER_CERT and MES_BROKER_KEY"),
        (lambda _, c: c._replace(cert=None), "MES_BROKER_KEY={key} is set alone: set both MES_BROKER_CERT and MES_BROKER_KEY"),
        (
            lambda f, _: credentials(f, "server/broker"),
            "MES_BROKER_CERT={f}/server/broker.crt: this certificate is not for clients: give the certificate of this client",
        ),
        (_expire, "MES_BROKER_CERT={cert}: expired on "),
        (_early, "MES_BROKER_CERT={cert}: valid only from "),
        (_locked, "MES_BROKER_KEY={key}: is protected by a passphrase, and nobody is here to type it: give one without"),
        (_empty, "MES_BROKER_CA={ca}: not a certificate in PEM form"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name_and_a_cure(folder: Path, change: Change, says: str) -> None:
    one = credentials(folder, AT)
    files = {"f": folder, "ca": one.ca, "cert": one.cert, "key": one.key}
    with pytest.raises(ConfigError) as why:
        change(folder, one).context(True)
    assert str(why.value).startswith(says.format(**files))
    assert "\n" not in str(why.value)
    assert "PRIVATE" not in str(why.value)


def test_a_key_that_may_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, read = credentials(folder, AT), Path.read_bytes

    def denied(path: Path) -> bytes:  # root may read everything
        if path == one.key:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ConfigError, match=r"MES_BROKER_KEY=.*: cannot be read \(Permission denied\): let this user read it"):
        one.context(True)


def test_certificates_and_no_encryption_are_a_mistake(folder: Path) -> None:
    for one in (credentials(folder, AT), credentials(folder, None)):
        with pytest.raises(ConfigError, match=r"MES_BROKER_CA=.* is set, and mqtt:// would neither encrypt nor show it: use mqtts://"):
            one.context(False)


def test_the_environment_is_read_by_both_sides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = credentials(folder, AT)
    for name, text in environment(one).items():
        monkeypatch.setenv(name, text)
    assert Credentials.of_environment() == one
    assert BrokerUrl.parse("mqtts://broker").credentials == one
    assert Address.of("mqtts://broker").tls() is not None
    with pytest.raises(ConfigError, match="use mqtts://"):
        Address.of("mqtt://broker").tls()
    for name in environment(one):
        monkeypatch.setenv(name, "")
    assert Credentials.of_environment() == Credentials()


def test_certificates_are_for_a_broker_that_was_given_and_not_for_the_embedded_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MES_BROKER_CA", "/ca.crt")
    stack = Stack(tmp_path, SEEDS, broker_url="mqtts://broker")
    assert stack.environment["MES_BROKER_CA"] == "/ca.crt"
    stack = Stack(tmp_path, SEEDS)
    stack._broker = EmbeddedBroker(tmp_path)
    assert "MES_BROKER_CA" not in stack.environment


def test_where_to_look_is_said_with_the_files_that_it_takes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = credentials(folder, AT)
    for name, text in environment(one).items():
        monkeypatch.setenv(name, text)
    where_to_look(Stack(tmp_path, SEEDS, broker_url="mqtts://broker"))
    assert f"mosquitto_sub -h broker -p 8883 --cafile {one.ca} --cert {one.cert} --key {one.key} -t " in capsys.readouterr().out
    where_to_look(Stack(tmp_path, SEEDS, broker_url="mqtt://broker"))
    assert "mosquitto_sub -h broker -p 1883 -t " in capsys.readouterr().out


def test_an_authority_among_others_may_have_expired(folder: Path, tmp_path: Path) -> None:
    """A bundle while one authority follows another."""
    one = credentials(folder, AT)
    assert one.ca
    expired(folder, f"machines/{OTHER}")
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes((folder / f"machines/{OTHER}.crt").read_bytes() + one.ca.read_bytes())
    assert one._replace(ca=bundle).context(True)


# --- what a handshake says ---------------------------------------------------------------------------------------------------


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str = "localhost") -> ssl.SSLError:
    """The error that a client sees, which with TLS 1.3 comes when it reads."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(5):
        for side in (ours, theirs):
            try:
                side.do_handshake()
                if side is ours:
                    side.read(1)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as why:
                if side is ours:
                    return why
    raise AssertionError("they agree")


def broker_side(folder: Path, place: str = "server/broker", crl: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{place}.crt", folder / f"{place}.key")
    context.load_verify_locations(folder / "ca/plant.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    if crl:
        context.load_verify_locations(folder / "ca/plant.crl")
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_refusal_of_the_broker_in_plain_words(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: ssl.TLSVersion
) -> None:
    monkeypatch.setattr(tls, "_check", lambda *_, **__: None)
    foreign = made(tmp_path / "foreign")
    stolen = credentials(folder, f"machines/{OTHER}")
    kept = [path.read_bytes() for path in (stolen.cert, stolen.key) if path]
    pki.revoke(folder, f"machines/{OTHER}")
    for path, data in zip((stolen.cert, stolen.key), kept, strict=True):
        assert path
        path.write_bytes(data)
    expired(folder, AT)
    server = broker_side(folder, crl=True)
    server.maximum_version = version

    def says(one: Credentials) -> str:
        context = one.context(True)
        assert context
        why = handshake(context, server)
        assert is_final(why)
        return meaning(why)

    assert "it wants a certificate: set MES_BROKER_CERT and MES_BROKER_KEY" in says(credentials(folder, None))
    assert says(credentials(foreign, AT, trust=folder)).startswith("it does not know the authority that signed MES_BROKER_CERT")
    assert says(credentials(folder, AT)) == "it says that MES_BROKER_CERT has expired: renew it"
    assert says(stolen) == "it says that MES_BROKER_CERT is revoked: take another one"
    assert says(credentials(folder, "server/postgresql")) == "MES_BROKER_CERT is not for clients: take a client's"


def test_a_broker_that_is_not_to_be_trusted_in_plain_words(folder: Path, tmp_path: Path) -> None:
    context = credentials(folder, AT).context(True)
    assert context
    assert meaning(handshake(context, broker_side(made(tmp_path / "foreign")))).startswith("its certificate is not trusted (")
    why = handshake(context, broker_side(folder), "broker.plant")
    assert meaning(why).startswith("its certificate is for another host (Hostname mismatch")
    expired(folder, "server/broker")
    assert meaning(handshake(context, broker_side(folder))) == "its certificate has expired: renew it, or set the clock of this machine"


def test_a_link_that_breaks_is_no_refusal() -> None:
    assert not is_final(ssl.SSLEOFError(8, "EOF occurred in violation of protocol"))
    assert not is_final(ConnectionResetError())
    assert not is_final(None)
    assert is_final(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"))
    assert meaning(ssl.SSLError(1, "something new")).endswith("check the certificates, and that this port speaks TLS")


def test_what_a_library_only_logs_is_overheard() -> None:
    overheard, logger = Overheard(), logging.Logger("x")
    logger.addHandler(overheard)
    logger.error("failed to receive on socket: %s", ConnectionResetError())
    logger.error("nothing in particular")
    assert overheard.error is None
    why = ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED]")
    logger.error("failed to receive on socket: %s", why)
    logger.error("failed to receive on socket: %s", ConnectionResetError())
    assert overheard.error is why
