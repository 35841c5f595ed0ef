"""Where things are: each setting has a flag and an environment twin (MES_...), and a default for a trial."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

from mes.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parent.parent
INSTALLED = Path(sys.prefix) / "share" / "mes"
"""Where the wheel puts what is no code."""


def database_url() -> str:
    """MES_DATABASE_URL, checked."""
    return check_url("MES_DATABASE_URL", os.environ.get("MES_DATABASE_URL", ""), ("postgresql", "postgres"))


def broker_url() -> str:
    """MES_BROKER_URL, checked."""
    return check_url("MES_BROKER_URL", os.environ.get("MES_BROKER_URL", ""), ("mqtt", "mqtts"))


def database_password() -> str | None:
    """What the file MES_DATABASE_PASSWORD_FILE holds, for a URL without a password; None where it is not set.

    A file is handed to one process by the container engine or by systemd; the environment is inherited, inspected, logged.
    It is read at each connection, so a password can be changed under a running service.
    """
    if not (name := os.environ.get("MES_DATABASE_PASSWORD_FILE")):
        return None
    try:
        password = Path(name).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as why:
        raise ConfigError(f"MES_DATABASE_PASSWORD_FILE={name!r} cannot be read: {why.strerror}: let this user read it") from why
    except UnicodeDecodeError:
        password = ""
    if not password or not password.isprintable():
        raise ConfigError(f"MES_DATABASE_PASSWORD_FILE={name!r} does not hold a password: write it there, in one line, and nothing else")
    return password


def home() -> Path:
    """MES_HOME: where the embedded parts keep their data; unless set `.mes` beside the code, or at home where that is installed."""
    return Path(os.environ.get("MES_HOME") or (CHECKOUT if _is_checkout() else Path.home()) / ".mes").absolute()


def seeds() -> Path:
    """MES_SEEDS: the folder that describes the plants; unless set `seeds` beside the code, or the one that was installed with it."""
    return Path(os.environ.get("MES_SEEDS") or (CHECKOUT if _is_checkout() else INSTALLED) / "seeds").absolute()


def _is_checkout() -> bool:
    return (CHECKOUT / "pyproject.toml").exists()


def timescaledb() -> str:
    """MES_TIMESCALEDB: auto, require or off."""
    mode = os.environ.get("MES_TIMESCALEDB") or "auto"
    if mode not in ("auto", "require", "off"):
        raise ConfigError(f"MES_TIMESCALEDB={mode!r}: set it to auto, require or off")
    return mode


def check_url(name: str, url: str, schemes: tuple[str, ...]) -> str:
    """Return `url` if it has one of the schemes and a readable host and port, else raise ConfigError."""
    example = f"{schemes[0]}://user:password@host"
    if not url:
        raise ConfigError(f"{name} is not set: export {name}={example}, or start everything with `mes up`")
    try:
        parts = urlsplit(url)
        valid = parts.scheme in schemes and (bool(parts.hostname) or schemes[0] == "postgresql")
        for host in (
            parts.netloc.rpartition("@")[2].split(",") if schemes[0] == "postgresql" else [parts.netloc]
        ):  # a primary and its standbys
            _ = urlsplit(f"//{host}").port
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"{name}={without_password(url)!r} is not a URL such as {example}")
    return url


def without_password(url: str) -> str:
    """The URL as it may be printed, also where it is none."""
    url = re.sub(r"(password=)(?:'[^']*'|[^&\s]*)", r"\1...", url, flags=re.IGNORECASE)
    head, at, tail = url.rpartition("@")
    scheme, sep, userinfo = head.partition("://") if "://" in head else ("", "", head)
    return f"{scheme}{sep}{userinfo.partition(':')[0]}{at}{tail}" if at else url
