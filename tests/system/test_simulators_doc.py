"""What docs/simulators.md shows can be typed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import broker

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "simulators.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
ROUTES = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)
LINE, HARD = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One of its own: whole days of the real lines go there, and other tests' sessions would get them."""
    with broker("embedded", tmp_path_factory.mktemp("broker")) as there:
        yield there.url


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    (folder / "line.toml").write_text(LINE, encoding="utf-8")
    (folder / "hard.toml").write_text(HARD, encoding="utf-8")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_document_runs(command: str, desk: Path, own_broker: str) -> None:
    name, *words = shlex.split(command)
    assert name == "linesim"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MES_")}
    environment |= {"MES_SEEDS": str(ROOT / "seeds"), "MES_BROKER_URL": own_broker, "MES_MARKS": "false", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "simulators", *words], cwd=desk, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("line", "shown"), list(zip(("nanjing", "dalian"), ROUTES, strict=True)))
def test_the_route_that_is_shown_is_that_of_the_seeds(line: str, shown: str) -> None:
    words = [sys.executable, "-m", "simulators", "describe", line]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split() for line in shown.splitlines()] == [line.split() for line in told.splitlines() if line.strip()]
