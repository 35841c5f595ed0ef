"""Errors, grouped by what the caller can do about them. Each message holds the value and the cure."""

from __future__ import annotations


class MesError(Exception):
    """Base of every error that `mes` raises on purpose."""


class ConfigError(MesError):
    """Something the user wrote or set is wrong: correct it and start again (exit code 2)."""


class Refused(MesError):
    """A server answered no (credentials, permission, schema): waiting cannot help (exit code 2)."""


class Unavailable(MesError):
    """A server did not answer: waiting can help, so a service tries again with back-off."""


class Rejected(MesError):
    """One event cannot be understood: quarantine it, and go on with its neighbours.

    `reason` is a short stable code to count by; the message is the detail for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
