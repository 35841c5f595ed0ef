"""Certificates of a trial plant: what is made, what is kept, what is taken back, and what each of them is good for."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import ssl
import stat
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from mes import authority, pki
from mes.authority import Authority
from mes.cli import main
from mes.errors import ConfigError
from mes.seeds import load_plant
from tests.pki import LINE, MACHINE, OTHER, SEEDS, expired, few, made
from tests.servers import missing


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def extension(one: x509.Certificate, kind: type[Any]) -> Any:
    return one.extensions.get_extension_for_class(kind).value


def test_every_part_of_a_plant_has_a_certificate_of_its_name() -> None:
    plant = load_plant(SEEDS)
    wanted = pki.wanted(plant, ["broker.plant"], ["dashboard", "office"])
    places = [one.place for one in wanted]
    assert places[:5] == ["server/broker", "server/postgresql", "backend", "dashboards/dashboard", "dashboards/office"]
    for path, line in plant.lines.items():
        assert f"gateways/{path}" in places
        names = {one.name for one in wanted if one.place.startswith(f"machines/{path}/")}
        assert names == {f"{path}/{station.code}/{code}" for station in line.station for code in station.machine_codes}
    assert len(set(places)) == len(places)
    assert {one.place for one in wanted if one.signer == "backend"} == {"backend"}


def test_certificates_are_limited_to_their_use(tmp_path: Path) -> None:
    folder = made(tmp_path)
    for name in ("plant", "backend"):
        one = authority.read(folder / f"ca/{name}.crt")
        assert extension(one, x509.BasicConstraints) == x509.BasicConstraints(ca=True, path_length=0)
        usage = extension(one, x509.KeyUsage)
        assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    for place in ("server/broker", "backend", f"machines/{MACHINE}", f"gateways/{LINE}", "dashboards/dashboard"):
        one = authority.read(folder / f"{place}.crt")
        assert isinstance(one.public_key(), ec.EllipticCurvePublicKey)
        assert one.public_key().curve.name == "secp256r1"
        assert not extension(one, x509.BasicConstraints).ca
        usage = extension(one, x509.KeyUsage)
        assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (False, False, True)
        server = place.startswith("server/")
        use = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        assert list(extension(one, x509.ExtendedKeyUsage)) == [use]
        assert authority.hosts_of(one) == (("localhost", "127.0.0.1") if server else ())
        assert dt.timedelta(days=29) < one.not_valid_after_utc - dt.datetime.now(dt.UTC) <= dt.timedelta(days=30)
        assert one.not_valid_before_utc < dt.datetime.now(dt.UTC)
        signer = authority.read(folder / f"ca/{'backend' if place == 'backend' else 'plant'}.crt")
        one.verify_directly_issued_by(signer)
    assert authority.name_of(authority.read(folder / f"machines/{MACHINE}.crt")) == MACHINE


def test_openssl_takes_them_at_its_strictest(tmp_path: Path) -> None:
    """Python 3.13 asks for the same (VERIFY_X509_STRICT)."""
    if not shutil.which("openssl"):
        missing("openssl", "openssl")
    folder = made(tmp_path)
    for place, signer, purpose in (
        ("server/broker", "plant", "sslserver"),
        (f"machines/{MACHINE}", "plant", "sslclient"),
        ("backend", "backend", "sslclient"),
    ):
        command = ["openssl", "verify", "-x509_strict", "-crl_check", "-purpose", purpose]
        files = ["-CRLfile", f"ca/{signer}.crl", "-CAfile", f"ca/{signer}.crt", f"{place}.crt"]
        done = subprocess.run([*command, *files], cwd=folder, capture_output=True, text=True, check=False)
        assert done.stdout == f"{place}.crt: OK\n", done.stderr
        other = "backend" if signer == "plant" else "plant"
        files[1], files[3] = f"ca/{other}.crl", f"ca/{other}.crt"
        assert subprocess.run([*command, *files], cwd=folder, capture_output=True, check=False).returncode


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = made(tmp_path)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*.key")}
    assert modes == {0o600}
    for path in (*folder.rglob("*.crt"), *folder.rglob("*.crl")):
        assert b"PRIVATE" not in path.read_bytes()


def test_running_again_changes_nothing_and_adds_what_is_new(tmp_path: Path) -> None:
    folder = made(tmp_path)
    before = snapshot(folder)
    assert {one.what for one in pki.make(folder, few(), days=30, renew_before=0)} == {"kept"}
    assert snapshot(folder) == before
    new = pki.Wanted("machines/nanjing/cells/32140-2/wnd/01", "nanjing/cells/32140-2/wnd/01")
    done = pki.make(folder, [*few(), new], days=30, renew_before=0)
    assert [one.place for one in done if one.what != "kept"] == [new.place]
    after = snapshot(folder)
    assert {name: after[name] for name in before} == before
    assert {name for name in after if not name.startswith("issued/")} - before.keys() == {f"{new.place}.crt", f"{new.place}.key"}


def test_what_ends_soon_is_renewed_with_its_key_which_may_be_elsewhere(tmp_path: Path) -> None:
    folder = made(tmp_path)
    elsewhere = folder / f"machines/{MACHINE}.key"
    elsewhere.unlink()
    before = snapshot(folder)
    assert {one.what for one in pki.make(folder, few(), days=90, renew_before=29)} == {"kept"}
    done = pki.make(folder, few(), days=90, renew_before=31)
    assert {one.what for one in done if not one.place.startswith("ca/")} == {"renewed"}
    after = snapshot(folder)
    assert not elsewhere.exists()
    for name in before:
        assert (after[name] == before[name]) is (not name.endswith(".crt") or name.startswith(("ca/", "issued/"))), name
    old, new = (x509.load_pem_x509_certificate(each[f"machines/{MACHINE}.crt"]) for each in (before, after))
    assert old.public_key() == new.public_key()
    assert old.subject == new.subject
    assert new.not_valid_after_utc - old.not_valid_after_utc >= dt.timedelta(days=59)


def test_one_that_has_expired_is_renewed(tmp_path: Path) -> None:
    folder = made(tmp_path)
    expired(folder, f"machines/{MACHINE}")
    assert [one.place for one in pki.make(folder, few(), days=30, renew_before=0) if one.what == "renewed"] == [f"machines/{MACHINE}"]


def test_another_host_is_added_to_those_that_are_there(tmp_path: Path) -> None:
    folder = made(tmp_path)
    more = pki.wanted(load_plant(SEEDS), ["broker.plant", "10.0.0.7", "::1"], [])[:2]
    assert [one.what for one in pki.make(folder, more, days=30, renew_before=0)][2:] == ["renewed", "renewed"]
    hosts = authority.hosts_of(authority.read(folder / "server/broker.crt"))
    assert hosts == ("localhost", "127.0.0.1", "broker.plant", "10.0.0.7", "::1")


def revoked(folder: Path, signer: str = "plant") -> set[int]:
    found = x509.load_pem_x509_crl((folder / f"ca/{signer}.crl").read_bytes())
    key = authority.read(folder / f"ca/{signer}.crt").public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert found.is_signature_valid(key)
    assert found.next_update_utc == authority.read(folder / f"ca/{signer}.crt").not_valid_after_utc
    return {one.serial_number for one in found}


def test_what_is_revoked_is_on_the_list_with_all_that_was_issued_for_its_key(tmp_path: Path) -> None:
    folder = made(tmp_path)
    path = folder / f"machines/{MACHINE}.crt"
    first = authority.read(path)
    pki.make(folder, few(), days=90, renew_before=31)
    second = authority.read(path)
    assert revoked(folder) == set()
    assert pki.revoke(folder, f"machines/{MACHINE}") == 2
    assert revoked(folder) == {first.serial_number, second.serial_number}
    assert not path.exists()
    assert not path.with_suffix(".key").exists()
    assert f"machines/{MACHINE}" not in {one.place for one in pki.listing(folder)}
    pki.make(folder, few(), days=30, renew_before=0)
    third = authority.read(path)
    assert third.public_key() != first.public_key()
    assert pki.revoke(folder, "backend") == 2
    assert revoked(folder) == {first.serial_number, second.serial_number}
    assert len(revoked(folder, "backend")) == 2
    assert pki.revoke(folder, f"machines/{OTHER}") == 2
    assert len(revoked(folder)) == 4
    with pytest.raises(ConfigError, match=r"machines/nowhere is no certificate in .*: name one as `mes pki list` does"):
        pki.revoke(folder, "machines/nowhere")
    for place in ("ca/plant", f"issued/{third.serial_number:x}", "../server/broker"):
        with pytest.raises(ConfigError, match="is no certificate in"):
            pki.revoke(folder, place)


def test_a_name_that_no_certificate_can_hold_is_refused_with_the_machine(tmp_path: Path) -> None:
    plant = load_plant(SEEDS)
    line = plant.lines[LINE]
    code = "a" * 40
    long = msgspec.structs.replace(line, site="b" * 13, area="cells", code=code)
    plant.lines[long.path] = long
    with pytest.raises(ConfigError) as why:
        pki.wanted(plant, ["localhost"], [])
    assert str(why.value) == (
        f"machine {'b' * 13}/cells/{code}/wnd/01: its path has 67 characters, and the name in a certificate at most 64"
        " (X.520): shorten the codes in seeds"
    )
    del plant.lines[long.path]
    fits = msgspec.structs.replace(long, site="b" * 10)
    plant.lines[fits.path] = fits
    assert pki.wanted(plant, ["localhost"], [])


@pytest.mark.parametrize(
    ("hosts", "dashboards", "says"),
    [
        (["https://broker"], [], "--host 'https://broker' is neither a host name nor an address"),
        (["a_b"], [], "--host 'a_b' is neither"),
        ([""], [], "--host '' is neither"),
        (["10.0.0.256.1 "], [], "is neither"),
        (["localhost"], ["Office"], "--dashboard 'Office': use 1 to 40 of a-z, 0-9 and -"),
        (["localhost"], ["backend"], "--dashboard 'backend': .* not 'backend'"),
        (["localhost"], ["a/b"], "--dashboard 'a/b'"),
    ],
)
def test_a_name_that_is_none_is_refused(hosts: list[str], dashboards: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        pki.wanted(load_plant(SEEDS), hosts, dashboards)


def test_files_that_are_damaged_or_missing_are_named(tmp_path: Path) -> None:
    folder = made(tmp_path)
    key = folder / "ca/plant.key"
    kept = key.read_bytes()
    key.unlink()
    new = [pki.Wanted("machines/a/b/c/d/01", "a/b/c/d/01")]
    with pytest.raises(ConfigError, match=r"ca/plant\.key is not there, and only it can sign: put it back"):
        pki.make(folder, new, days=30, renew_before=0)
    key.write_bytes(b"?")
    with pytest.raises(ConfigError, match=r"ca/plant\.key: not a private key in PEM form that can be read: move it away"):
        pki.make(folder, new, days=30, renew_before=0)
    key.write_bytes(kept)
    (folder / f"machines/{MACHINE}.crt").write_bytes(b"?")
    with pytest.raises(ConfigError, match=r"wnd/01\.crt: not a certificate in PEM form: move it away"):
        pki.make(folder, few(), days=30, renew_before=0)
    with pytest.raises(ConfigError, match="holds no certificates: make them with `mes pki --out"):
        pki.listing(tmp_path / "nothing")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="give --out a folder that can be read and written"):
        pki.make(tmp_path / "file", new, days=30, renew_before=0)


def test_an_authority_that_has_expired_signs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path)
    monkeypatch.setattr(authority, "now", lambda: dt.datetime.now(dt.UTC) + dt.timedelta(days=4000))
    with pytest.raises(ConfigError, match=r"ca/plant\.crt has expired on 20\d\d-\d\d-\d\d: begin with a new folder"):
        pki.make(folder, few(), days=30, renew_before=0)


def test_nothing_outlives_its_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path)
    monkeypatch.setattr(authority, "now", lambda: dt.datetime.now(dt.UTC) + dt.timedelta(days=3600))
    pki.make(folder, few(), days=730, renew_before=0)
    end = Authority(folder, "plant").certificate.not_valid_after_utc
    assert authority.read(folder / f"machines/{MACHINE}.crt").not_valid_after_utc == end


def test_a_machine_cannot_pose_as_the_broker(tmp_path: Path) -> None:
    """Its certificate is of the same authority, so only its use stands against it."""
    folder = made(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / f"machines/{MACHINE}.crt", folder / f"machines/{MACHINE}.key")
    client = ssl.create_default_context(cafile=folder / "ca/plant.crt")
    client.check_hostname = False
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    connecting = client.wrap_bio(theirs, ours, server_hostname="localhost")
    answering = server.wrap_bio(ours, theirs, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        connecting.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        answering.do_handshake()
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        connecting.do_handshake()


def test_the_command_makes_lists_and_revokes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pki, "machines", lambda _, line: [f"{line}/wnd/01"])
    folder = str(tmp_path / "pki")

    def run(*words: str) -> str:
        done = CliRunner().invoke(main, ["pki", *words], env={"MES_SEEDS": str(SEEDS), "MES_PKI_OUT": folder})
        assert done.exit_code == 0, done.output
        return done.output

    first = run("--acl", str(tmp_path / "acl"), "--host", "broker.plant")
    assert [line.split() for line in first.splitlines() if "nanjing" in line] == [
        [f"gateways/{LINE}", "1", "0", "0", first.split("32140-1")[1].split()[3]],
        [f"machines/{LINE}/*", "1", "0", "0", first.split("32140-1")[2].split()[4]],
    ]
    assert f"user {LINE}/wnd/01\n" in (tmp_path / "acl").read_text()
    assert [line.split()[1:4] for line in run("--host", "broker.plant").splitlines() if "/cells/" in line] == [["0", "0", "1"]] * 4
    assert any(line.split()[:2] == [f"machines/{MACHINE}", MACHINE] for line in run("list").splitlines())
    assert f"revoked 1 of machines/{MACHINE}: give the broker {folder}/ca/plant.crl" in run("revoke", f"machines/{MACHINE}")
    done = CliRunner().invoke(main, ["pki"], env={"MES_SEEDS": str(SEEDS)})
    assert (done.exit_code, done.output) == (2, "mes: --out is not given: name the folder of the certificates, or set MES_PKI_OUT\n")
