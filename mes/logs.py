"""What services and commands say of themselves, on stderr: as text for people or as JSON, one object a line.

No payload and no secret is in any line, at any level. Errors quote what they stumbled over (a server's DETAIL holds the
row, a decoder's message the value), so of an error only what speaks of names and types is said. Libraries are heard from
warnings on: at lower levels they tell what they carry.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import socket
import sys
import threading
import traceback
from types import TracebackType
from typing import Any, Final, Literal

import msgspec

from mes.errors import MesError, Rejected

Form = Literal["text", "json"]

_TEXT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_ORDINARY: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# These say what is wrong in words of the program or of the system; all others may quote a value.
_SPEAKS_PLAINLY: Final = (
    MesError, OSError, AssertionError, AttributeError, ImportError, MemoryError, NameError, RuntimeError, TypeError, KeyboardInterrupt,
)  # fmt: skip

log = logging.getLogger(__name__)


def configure(level: str, form: Form, command: str) -> None:
    """Log to stderr from now on, and let errors that nobody caught be logged too.

    level      of the program's own messages: debug, info, warning, error
    form       text, or json: timestamp, level, logger, message, command, worker, what the message is about (line, topic, ...),
               and exception where there is one
    command    which command this process runs
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_without_values)
    handler.setFormatter(_Json(command) if form == "json" else _Text(_TEXT))
    own, root = logging.getLogger("mes"), logging.getLogger()
    logging.basicConfig(handlers=[handler])
    own.setLevel(level.upper())
    root.setLevel(max(logging.WARNING, own.level))
    os.environ.update({"MES_LOG_FORMAT": form, "MES_LOG_LEVEL": level})  # for the processes that this one starts
    sys.excepthook = _uncaught
    threading.excepthook = lambda fault: _uncaught(fault.exc_type, fault.exc_value, fault.exc_traceback)


def is_json() -> bool:
    """Whether whoever reads stderr expects JSON."""
    return os.environ.get("MES_LOG_FORMAT") == "json"


def last_words(line: str) -> str:
    """What a line of a log says, in either format, without what stands around the message."""
    try:
        return str(msgspec.json.decode(line, type=dict[str, Any])["message"])
    except (msgspec.DecodeError, KeyError):
        return line


def said(why: BaseException) -> str:
    """What an error says, without values that it may have stumbled over."""
    primary = getattr(getattr(why, "diag", None), "message_primary", None)
    if primary is not None:  # the server's: without DETAIL, CONTEXT and the like, which hold rows
        state = str(getattr(why, "sqlstate", ""))
        return f"{type(why).__name__} ({state}): the server's log has it" if state.startswith("22") else " ".join(primary.split())
    if isinstance(why, Rejected):
        return why.reason
    if hasattr(why, "sqlstate") or isinstance(why, _SPEAKS_PLAINLY):
        return " ".join(str(why).split()) or type(why).__name__
    return type(why).__name__


def trace(why: BaseException) -> str:
    """The traceback of an error and of those behind it."""
    behind = why.__cause__ or (None if why.__suppress_context__ else why.__context__)
    lines = [trace(behind), "which led to:", ""] if behind else []
    lines += ["Traceback (most recent call last):", "".join(traceback.format_tb(why.__traceback__)).rstrip()]
    lines.append(f"{type(why).__module__}.{type(why).__qualname__}: {said(why)}")
    for part in why.exceptions if isinstance(why, BaseExceptionGroup) else ():
        lines += ["", "one of them:", trace(part)]
    return "\n".join(lines)


def _uncaught(kind: type[BaseException], why: BaseException | None, place: TracebackType | None) -> None:
    if why is None or issubclass(kind, SystemExit):
        return
    log.critical("a fault of the program", exc_info=(kind, why, place))


def _without_values(record: logging.LogRecord) -> bool:
    """Errors among the arguments say only what may be said; asyncio, which writes out whole tasks, only its first line."""
    if isinstance(record.args, tuple):
        record.args = tuple(said(value) if isinstance(value, BaseException) else value for value in record.args)
    if record.name == "asyncio":
        record.msg, record.args = record.getMessage().partition("\n")[0], ()
    return True


class _Text(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802
        return trace(ei[1])


class _Json(logging.Formatter):
    def __init__(self, command: str) -> None:
        super().__init__()
        self._always = {"command": command, "worker": f"{socket.gethostname()}-{os.getpid()}"}

    def format(self, record: logging.LogRecord) -> str:
        at = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields = {"timestamp": at, "level": record.levelname.lower(), "logger": record.name, "message": _text(record.getMessage())}
        about = {name: value for name, value in vars(record).items() if name not in _ORDINARY}
        if record.exc_info and record.exc_info[1]:
            about["exception"] = _text(trace(record.exc_info[1]))
        return msgspec.json.encode({**fields, **self._always, **about}, enc_hook=str).decode()


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
