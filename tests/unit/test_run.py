"""The `run` script: what makes a .venv complete, which Python is used, and what is said when something is missing."""

from __future__ import annotations

import ast
import fcntl
import importlib.machinery
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RUN = Path(__file__).resolve().parents[2] / "run"


def load(place: Path) -> Any:
    """`run` as a module that works in `place`."""
    loader = importlib.machinery.SourceFileLoader("run_script", str(place / "run"))
    spec = importlib.util.spec_from_loader("run_script", loader)
    assert spec is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with locks but without .venv."""
    (tmp_path / "run").write_bytes(RUN.read_bytes())
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-bench.txt", "requirements-uv.txt", "pyproject.toml"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def run(checkout: Path) -> Any:
    return load(checkout)


def make_venv(checkout: Path) -> None:
    """What `python -m venv` leaves, as far as `run` looks at it."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (checkout / ".venv" / "pyvenv.cfg").write_text("version = 3.11.2\n")


def complete(run: Any, checkout: Path, *locks: str) -> None:
    make_venv(checkout)
    (checkout / ".venv" / "complete").write_text("\n".join(map(run.digest, locks)))


def execute(place: Path, *words: str, version: str = "", path: str = "/nonexistent") -> subprocess.CompletedProcess[str]:
    """Run the script in a Python that takes itself for `version`."""
    code = f"import runpy, sys; sys.argv = {['run', *words]!r}\n"
    code += f"sys.version_info = tuple({[int(n) for n in version.split('.')]!r})\n" if version else ""
    code += f"runpy.run_path({str(place / 'run')!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}, check=False
    )


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text("#!/bin/sh\n" + textwrap.dedent(text))
    path.chmod(0o755)


def test_old_pythons_can_read_the_script() -> None:
    ast.parse(RUN.read_text(), feature_version=(3, 6))


def test_unknown_commands_print_the_usage(checkout: Path) -> None:
    for words, code in (((), 2), (("dance",), 2), (("--help",), 0)):
        done = execute(checkout, *words)
        assert done.returncode == code
        assert "./run demo --once" in done.stdout


@pytest.mark.parametrize("version", ["3.6.15", "3.10.13", "3.14.0"])
def test_an_unsuitable_python_is_one_line(checkout: Path, version: str) -> None:
    done = execute(checkout, "demo", version=version)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Python 3.11 to 3.13 is needed" in done.stderr
    assert version.rpartition(".")[0] in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_suitable_python_on_path_takes_over(checkout: Path, tmp_path: Path) -> None:
    program(tmp_path / "bin" / "python3.13", "exit 127\n")  # there, but it does not run
    program(tmp_path / "bin" / "python3.12", 'if [ "$1" = -c ]; then exit 0; fi; echo took over "$@"\n')
    done = execute(checkout, "demo", "--once", version="3.9.2", path=f"{tmp_path}/bin:/usr/bin:/bin")
    assert done.stdout == f"took over {checkout}/run demo --once\n"


def test_a_complete_venv_needs_no_suitable_python(run: Any, checkout: Path) -> None:
    complete(run, checkout, "requirements.txt")
    program(checkout / ".venv" / "bin" / "python", 'echo handed "$@"\n')
    (checkout / ".venv" / "complete").write_text(run.digest("requirements.txt"))
    done = execute(checkout, "demo", "--once", version="3.9.2")
    assert done.stdout == "handed -m mes demo --once\n"


def test_stamp_names_the_locks_that_it_stands_for(run: Any, checkout: Path) -> None:
    assert not run.is_complete("requirements.txt")
    complete(run, checkout, "requirements.txt")
    assert run.is_complete("requirements.txt")
    assert not run.is_complete("requirements-dev.txt")


@pytest.mark.parametrize("changed", ["requirements.txt", "requirements-uv.txt", "pyproject.toml", ".venv/pyvenv.cfg"])
def test_stamp_goes_out_of_date(run: Any, checkout: Path, changed: str) -> None:
    complete(run, checkout, "requirements.txt")
    (checkout / changed).write_text("other")
    assert not run.is_complete("requirements.txt")


def test_another_or_no_python_behind_the_venv_is_no_complete_venv(run: Any, checkout: Path, tmp_path: Path) -> None:
    complete(run, checkout, "requirements.txt")
    link = checkout / ".venv" / "bin" / "python"
    link.unlink()
    link.symlink_to(tmp_path / "gone")
    assert not run.is_complete("requirements.txt")
    program(tmp_path / "gone", "exit 0\n")
    assert not run.is_complete("requirements.txt")


def test_a_half_made_venv_is_made_again_and_a_complete_one_is_kept(run: Any, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def step(what: str, command: list[str], environment: object = None) -> None:
        made.append(what)
        (checkout / ".venv" / "pyvenv.cfg").touch()

    monkeypatch.setattr(run, "step", step)
    monkeypatch.setattr(run, "install", lambda _: None)
    make_venv(checkout)
    (checkout / ".venv" / "half").touch()
    run.set_up("requirements.txt")
    assert made == ["making .venv"]
    assert not (checkout / ".venv" / "half").exists()
    assert (checkout / ".venv" / "complete").read_text() == run.digest("requirements.txt") + "\n"

    (checkout / ".venv" / "bin").mkdir()
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (checkout / ".venv" / "kept").touch()
    run.set_up("requirements-dev.txt")
    assert made == ["making .venv"], "a new lock needs no new .venv"
    assert (checkout / ".venv" / "kept").exists()
    assert run.is_complete("requirements.txt")
    assert run.is_complete("requirements-dev.txt")
    assert not run.is_complete("requirements-bench.txt")

    run.set_up("requirements-bench.txt")
    assert all(map(run.is_complete, run.HELD)), "after the bench the tests install nothing"


def packages(lock: str) -> set[str]:
    return set(re.findall(r"^\S+==\S+", (RUN.parent / lock).read_text(), re.MULTILINE))


def test_each_lock_holds_those_before_it(run: Any) -> None:
    for smaller, larger in pairwise(run.HELD):
        assert packages(smaller) < packages(larger)


def test_an_interrupted_change_leaves_no_stamp(run: Any, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(run, checkout, "requirements.txt")

    def interrupted(lock: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "install", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.set_up("requirements-dev.txt")
    assert not run.is_complete("requirements.txt")


def test_two_starts_at_once_install_once(run: Any, checkout: Path) -> None:
    place = os.open(checkout, os.O_RDONLY)
    fcntl.flock(place, fcntl.LOCK_EX)
    code = f"import runpy; runpy.run_path({str(checkout / 'run')!r})['set_up']('requirements.txt')"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as second:
        assert second.stderr is not None
        assert "waiting for another ./run" in second.stderr.readline()
        complete(run, checkout, "requirements.txt")
        os.close(place)
        assert second.wait(30) == 0, "it has found the .venv complete"


def test_missing_ensurepip_names_the_package(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(run.Stop, match=r"apt-get install -y python3\.\d+-venv"):
        run.make_venv()


def test_a_place_that_cannot_be_written_is_one_line(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(run.os, "mkdir", refuse)
    with pytest.raises(run.Stop, match=r"\.venv: not writable .*put the checkout where you may write"):
        run.set_up("requirements.txt")


def test_a_failing_step_says_why_and_what_to_do(run: Any, checkout: Path) -> None:
    make_venv(checkout)
    failures = {
        "echo 'ERROR: No matching distribution found for uv'; exit 1": "check the network, or set PIP_INDEX_URL",
        "echo 'error: Failed to fetch: x'; echo '  Caused by: dns error'; exit 2": "check the network, or set PIP_INDEX_URL",
        "echo 'SSLError: CERTIFICATE_VERIFY_FAILED'; echo 'ERROR: No matching distribution found for uv'; exit 1": "set PIP_CERT",
        "echo 'error: No space left on device'; exit 1": "the disk is full",
        "exit 3": "exit code 3",
    }
    for script, expected in failures.items():
        with pytest.raises(run.Stop) as refusal:
            run.step("installing", ["/bin/sh", "-c", script])
        assert expected in str(refusal.value)
        assert "\n" not in str(refusal.value)
    run.step("installing", ["/bin/sh", "-c", "exit 0"])


PIP_CONFIGURATION = """\
:env:.index-url='https://mirror.example/simple'
global.index-url='https://global.example/simple'
global.extra-index-url='file:///opt/more https://extra.example/simple'
global.trusted-host='mirror.example'
install.cert='/etc/own.pem'
"""


def test_pips_mirror_is_handed_to_uv_and_what_is_set_for_uv_wins(run: Any, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_venv(checkout)
    program(checkout / ".venv" / "bin" / "python", f'[ "$*" = "-m pip config list" ] && cat <<END\n{PIP_CONFIGURATION}END\n')
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_INSECURE_HOST", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert run.mirror() == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": "https://extra.example/simple",
        "UV_INSECURE_HOST": "mirror.example",
        "SSL_CERT_FILE": "/etc/own.pem",
    }
    monkeypatch.setenv("UV_INDEX_URL", "https://mine.example/simple")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/mine.pem")
    assert set(run.mirror()) == {"UV_INDEX", "UV_INSECURE_HOST"}


def test_missing_servers_are_named_and_required_in_ci(
    run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run.shutil, "which", lambda _: None)
    monkeypatch.setattr(run.os.path, "exists", lambda _: False)
    monkeypatch.setattr(run.glob, "glob", lambda _: [])
    monkeypatch.delenv("CI", raising=False)
    run.name_missing_servers()
    assert "apt-get install -y mosquitto mosquitto-clients postgresql chromium fonts-dejavu-core" in capsys.readouterr().out
    monkeypatch.setenv("CI", "true")
    with pytest.raises(run.Stop, match="mosquitto mosquitto-clients postgresql chromium fonts-dejavu-core"):
        run.name_missing_servers()
