"""Findings as people and as programs read them: the worst first."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Final

import msgspec
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mes.doctor.finding import Finding, Level, exit_code

_MARKS: Final = {Level.PROBLEM: "✗ problem", Level.WARNING: "! warning", Level.NOTE: "- note", Level.OK: "✓ ok"}
_STYLES: Final = {Level.PROBLEM: "bold red", Level.WARNING: "yellow", Level.NOTE: "cyan", Level.OK: "green"}


def ordered(findings: Sequence[Finding]) -> list[Finding]:
    """The worst first, then by name."""
    return sorted(findings, key=lambda finding: (-finding.level, finding.name, finding.about))


def as_json(findings: Sequence[Finding]) -> str:
    """One object: status, exit_code, checked_at and the findings."""
    worst = max((finding.level for finding in findings), default=Level.OK)
    body = {
        "status": str(worst),
        "exit_code": exit_code(findings),
        "checked_at": dt.datetime.now(dt.UTC).replace(microsecond=0),
        "findings": [finding.fields for finding in ordered(findings)],
    }
    return msgspec.json.format(msgspec.json.encode(body), indent=2).decode()


def print_table(findings: Sequence[Finding], console: Console) -> None:
    """A line of counts, then what was found, and below each what to do."""
    counts = [(level, sum(finding.level is level for finding in findings)) for level in sorted(Level, reverse=True)]
    console.print(", ".join(f"{n} {level}{'' if n == 1 or level is Level.OK else 's'}" for level, n in counts if n), highlight=False)
    for level in sorted(Level, reverse=True):
        rows = [finding for finding in ordered(findings) if finding.level is level]
        if rows:
            console.print(_table(level, rows))


def _table(level: Level, rows: Sequence[Finding]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False, header_style=_STYLES[level])
    table.add_column(_MARKS[level], no_wrap=True, min_width=20)
    table.add_column("", overflow="fold")
    for finding in rows:
        cure = f"\n[dim]→[/dim] {escape(finding.cure)}" if finding.cure else ""
        table.add_row(finding.name, f"{escape(finding.found)}{cure}")
    return table
