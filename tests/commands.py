"""Commands of `mes` that run to an end, one after the other in one process: `python -m tests.commands < COMMANDS`.

Takes a JSON array of commands (arrays of words), prints a JSON array of [exit code, stderr]. A fault of ours shows as a trace.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import traceback

from click.testing import CliRunner

from tests.pipeline import ROOT, environment

END = (
    ["migrate"],
    ["seed"],
    ["rollup", "--all"],
    ["report", "daily"],
    ["report", "unit", "X"],
    ["ledger", "gaps"],
    ["ledger", "close", "nanjing/cells/32140-1/wnd/01", "1", "--boot", "1", "--why", "x"],
    ["quarantine", "list"],
    ["quarantine", "replay", "--all"],
    ["unscrap", "X", "--why", "x"],
)
"""Those that a person starts and that talk to the database."""
GO_ON = (["ingest"], ["rollup"], ["board", "--port", "0"])
"""Those that are to run for ever."""


def results(commands: list[list[str]], database: str, broker: str) -> list[tuple[int, str]]:
    """(exit code, stderr) of each command."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.commands"], input=json.dumps(commands), env=environment(database, broker), cwd=ROOT,
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    return [(code, said) for code, said in json.loads(done.stdout)]


def main() -> None:
    from mes.cli import main as mes

    logging.basicConfig(handlers=[logging.NullHandler()])
    out = []
    for command in json.load(sys.stdin):
        ran = CliRunner().invoke(mes, command)
        trace = ""
        if ran.exception and not isinstance(ran.exception, SystemExit):
            trace = "".join(traceback.format_exception(ran.exception))
        out.append((ran.exit_code, ran.stderr + trace))
    print(json.dumps(out))


if __name__ == "__main__":
    main()
