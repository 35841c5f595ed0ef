"""Where things are: each setting has a flag and an environment twin (MES_...), and a default for a trial."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from mes.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parent.parent


def database_url() -> str:
    """MES_DATABASE_URL, checked."""
    return check_url("MES_DATABASE_URL", os.environ.get("MES_DATABASE_URL", ""), ("postgresql", "postgres"))


def broker_url() -> str:
    """MES_BROKER_URL, checked."""
    return check_url("MES_BROKER_URL", os.environ.get("MES_BROKER_URL", ""), ("mqtt", "mqtts"))


def home() -> Path:
    """MES_HOME: where the embedded parts keep their data; `.mes` beside the code unless set."""
    return Path(os.environ.get("MES_HOME") or CHECKOUT / ".mes").absolute()


def seeds() -> Path:
    """MES_SEEDS: the folder that describes the plants; `seeds` beside the code unless set."""
    return Path(os.environ.get("MES_SEEDS") or CHECKOUT / "seeds").absolute()


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
