"""Settings and errors: what is wrong is said in one line with name, value and cure, and no password is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from mes import errors, settings
from mes.errors import ConfigError, MesError, Refused, Rejected, Unavailable

DATABASE = ("postgresql", "postgres")
BROKER = ("mqtt", "mqtts")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://mes:secret@db.example:5433/mes?sslmode=require",
        "postgresql://db/mes",
        "postgres://db",
        "postgresql:///mes",  # through the local socket
        "postgresql:///mes?host=/run/postgresql",
        "postgresql://[::1]:5432/mes",
        "postgresql://mes:secret@db1:5432,db2:5433/mes?target_session_attrs=read-write",
        "postgresql://db1,db2/mes",
    ],
)
def test_a_database_url_is_taken_as_it_is(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MES_DATABASE_URL", url)
    assert settings.database_url() == url


@pytest.mark.parametrize(
    "url", ["mqtt://broker", "mqtt://user:secret@broker:1883", "mqtts://broker:8883", "mqtt://[::1]:1883", "mqtt://10.0.0.7"]
)
def test_a_broker_url_is_taken_as_it_is(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MES_BROKER_URL", url)
    assert settings.broker_url() == url


@pytest.mark.parametrize(
    "url",
    [
        "http://broker",
        "broker:1883",
        "mqtt://",
        "mqtt:broker",
        "mqtt://broker:99999",
        "mqtt://broker:port",
        "mqtt://[::1",
        "postgresql://db",
    ],
)
def test_a_broker_url_that_is_none_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MES_BROKER_URL", url)
    with pytest.raises(ConfigError) as why:
        settings.broker_url()
    assert str(why.value) == f"MES_BROKER_URL={url!r} is not a URL such as mqtt://user:password@host"


@pytest.mark.parametrize(
    "url", ["mysql://db", "host=db dbname=mes", "postgresql://db:port", "postgresql://db:1,db:port", "/run/postgresql", "mqtt://broker"]
)
def test_a_database_url_that_is_none_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MES_DATABASE_URL", url)
    with pytest.raises(ConfigError, match=r"MES_DATABASE_URL=.* is not a URL such as postgresql://user:password@host"):
        settings.database_url()


@pytest.mark.parametrize("value", [None, ""])
def test_a_url_that_is_not_set_is_asked_for(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, ask, example in (
        ("MES_DATABASE_URL", settings.database_url, "postgresql://user:password@host"),
        ("MES_BROKER_URL", settings.broker_url, "mqtt://user:password@host"),
    ):
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
        with pytest.raises(ConfigError) as why:
            ask()
        assert str(why.value) == f"{name} is not set: export {name}={example}, or start everything with `mes up`"


SECRETS = [
    "postgresql://mes:{}@db:5432/mes",
    "postgresql://mes:{}@db:port/mes",
    "postgresql://mes:{}@[::1/mes",
    "mqtt://mes:{}@broker",
    "http://mes:{}@broker",
    "mes:{}@broker",
    "postgresql:///mes?host=db&password={}&sslmode=require",
    "postgresql://db/mes?PASSWORD={}",
    "postgresql://db/mes?sslpassword={}",
    "host=db user=mes password={} dbname=mes",
    "host=db password='{} {}' dbname=mes",
]
PASSWORDS = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters=":/@?#%!$"), min_size=4).map(
    lambda text: f"geheim{text}"
)


@pytest.mark.parametrize("form", SECRETS)
def test_a_url_is_printed_without_its_password(form: str) -> None:
    secret = "s3cr3t-w0rd"
    printed = settings.without_password(form.format(secret, secret))
    assert secret not in printed
    for schemes in (DATABASE, BROKER):
        try:
            settings.check_url("MES_URL", form.format(secret, secret), schemes)
        except ConfigError as why:
            assert secret not in str(why)


@pytest.mark.parametrize("form", SECRETS[:6])
@given(PASSWORDS)
@example_settings(deadline=None, max_examples=50)
def test_no_password_between_colon_and_at_is_printed_whatever_it_is(form: str, secret: str) -> None:
    printed = settings.without_password(form.format(secret))
    assert "geheim" not in printed
    assert printed == form.replace(":{}@", "@")


@pytest.mark.parametrize("url", ["postgresql://mes@db:5432/mes?sslmode=require", "mqtt://broker:1883", "postgresql:///mes", "", "nonsense"])
def test_a_url_without_password_is_printed_whole(url: str) -> None:
    assert settings.without_password(url) == url


def test_folders_are_beside_the_code_unless_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    for name, ask, default in (("MES_HOME", settings.home, ".mes"), ("MES_SEEDS", settings.seeds, "seeds")):
        monkeypatch.delenv(name, raising=False)
        assert ask() == root / default
        monkeypatch.setenv(name, "")
        assert ask() == root / default
        monkeypatch.setenv(name, str(tmp_path / "there"))
        assert ask() == tmp_path / "there"
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv(name, "here")
        assert ask() == tmp_path / "here"


def test_the_mode_of_timescaledb_is_one_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MES_TIMESCALEDB", raising=False)
    assert settings.timescaledb() == "auto"
    for mode in ("auto", "require", "off"):
        monkeypatch.setenv("MES_TIMESCALEDB", mode)
        assert settings.timescaledb() == mode
    monkeypatch.setenv("MES_TIMESCALEDB", "on")
    with pytest.raises(ConfigError, match=r"^MES_TIMESCALEDB='on': set it to auto, require or off$"):
        settings.timescaledb()


def test_an_installed_program_has_its_seeds_beside_it_and_its_data_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data in site-packages, and the trial plant that came with the wheel."""
    monkeypatch.setattr(settings, "CHECKOUT", tmp_path / "lib/python3/site-packages")
    monkeypatch.setattr(settings, "INSTALLED", tmp_path / "share/mes")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for name in ("MES_HOME", "MES_SEEDS"):
        monkeypatch.delenv(name, raising=False)
    assert settings.seeds() == tmp_path / "share/mes/seeds"
    assert settings.home() == tmp_path / "me/.mes"


# --- passwords from files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "password"), [("s3cret", "s3cret"), ("s3cret\n", "s3cret"), ("s3:c@r/e t'ü\r\n", "s3:c@r/e t'ü")])
def test_a_password_is_the_line_of_its_file(content: str, password: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(content.encode())
    monkeypatch.setenv("MES_DATABASE_PASSWORD_FILE", str(tmp_path / "password"))
    assert settings.database_password() == password


@pytest.mark.parametrize("value", [None, ""])
def test_no_file_is_no_password(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "MES_DATABASE_PASSWORD_FILE"
    monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
    assert settings.database_password() is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read: No such file or directory: let this user read it"),
        (b"", "does not hold a password: write it there, in one line, and nothing else"),
        (b"\n", "does not hold a password"),
        (b"s3cret\nand more\n", "does not hold a password"),
        (b"s3cret\0", "does not hold a password"),
        (b"s3cret\xff", "does not hold a password"),
    ],
)
def test_a_file_that_holds_no_password_is_refused_without_showing_it(
    content: bytes | None, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("MES_DATABASE_PASSWORD_FILE", str(file))
    with pytest.raises(ConfigError) as why:
        settings.database_password()
    assert str(why.value).startswith(f"MES_DATABASE_PASSWORD_FILE='{file}' {says}")
    assert "s3cret" not in str(why.value)


# --- errors ------------------------------------------------------------------------------------------------------------


def test_errors_are_apart_by_what_can_be_done() -> None:
    kinds = [ConfigError, Refused, Unavailable, Rejected]
    assert all(issubclass(kind, MesError) for kind in kinds)
    assert not [(a, b) for a in kinds for b in kinds if a is not b and issubclass(a, b)]
    ours = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MesError)]
    assert set(ours) == {MesError, *kinds}


def test_a_rejection_carries_a_code_to_count_by_and_a_detail_to_read() -> None:
    why = Rejected("invalid", "result 'ok' is none")
    assert (why.reason, why.detail, str(why)) == ("invalid", "result 'ok' is none", "result 'ok' is none")
