"""The unpacking of TimescaleDB's packages, with stand-ins for apt-get and dpkg-deb: all of it or nothing, once, and a clear word."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import timescaledb
from tests.pipeline import ROOT
from tests.servers import impossible, wait_for

APT = """
    echo "$*" >> {log}
    case "$*" in
        indextargets*) . /etc/os-release; echo "http://mirror.invalid/debian $VERSION_CODENAME" ;;
        *update*) {update} ;;
        *download*) for name in postgresql-17 postgresql-17-timescaledb; do echo > $name.deb; done ;;
    esac
"""
DPKG = """
    bin=$3/usr/lib/postgresql/17/bin
    mkdir -p $bin $3/usr/share/doc
    printf '#!/bin/sh\\necho "postgres (PostgreSQL) 17.9"\\n' > $bin/postgres
    cp $bin/postgres $bin/initdb
"""


class Stage:
    """A cache of its own, and programs that do as if they were apt-get and dpkg-deb."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.programs, self.log = folder / "cache" / "mes", folder / "programs", folder / "log"
        self.programs.mkdir()
        self.play("apt-get", APT.format(log=self.log, update=""))
        self.play("dpkg-deb", DPKG)
        self.environment = {**os.environ, "XDG_CACHE_HOME": str(self.cache.parent), "PATH": f"{self.programs}:{os.environ['PATH']}"}

    def play(self, name: str, script: str) -> None:
        (self.programs / name).write_text("#!/bin/sh\nset -e\n" + textwrap.dedent(script))
        (self.programs / name).chmod(0o755)

    def start(self, code: str = "print(timescaledb.programs())") -> subprocess.Popen[str]:
        code = f"import sys\nfrom tests import timescaledb\ntry:\n    {code}\nexcept timescaledb.Missing as why:\n    sys.exit(str(why))"
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env=self.environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def unpack(self, code: str = "print(timescaledb.programs())") -> tuple[str, str]:
        """(folder, reason why there is none), one of them empty."""
        out, err = self.start(code).communicate(timeout=60)
        return out.strip(), err.strip()

    def updates(self) -> int:
        return sum(" update " in line for line in self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def stage() -> Iterator[Stage]:
    """In a folder that anyone may enter, as the server's user must be able to."""
    if platform.machine() not in timescaledb.MACHINES or platform.freedesktop_os_release()["ID"] != "debian":
        impossible("TimescaleDB is unpacked on Debian only, on processors that it has packages for")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Stage(Path(folder))


def test_it_is_downloaded_once_whoever_asks(stage: Stage) -> None:
    stage.play("apt-get", APT.format(log=stage.log, update="sleep 1"))
    both = [stage.start(), stage.start()]
    said = [one.communicate(timeout=60) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert said[0] == said[1]
    assert stage.unpack() == (said[0][0].strip(), "")
    assert stage.updates() == 1
    folder = Path(said[0][0].strip())
    assert (folder / "loader/postgres").readlink().name == timescaledb.MACHINES[platform.machine()].loader
    assert not (folder.parents[2] / "share/doc").exists()
    assert sorted(path.name for path in stage.cache.iterdir()) == [folder.parents[4].name, "unpacking"]


def test_an_interrupted_unpacking_is_begun_anew(stage: Stage) -> None:
    stage.play("apt-get", APT.format(log=stage.log, update="sleep 60"))
    with stage.start() as first:
        wait_for(lambda: stage.updates() == 1, what="the download")
        os.killpg(first.pid, signal.SIGKILL)
    (left,) = stage.cache.glob("unpack-*")
    stage.play("apt-get", APT.format(log=stage.log, update=""))
    folder, reason = stage.unpack()
    assert (Path(folder) / "postgres.real").exists(), reason
    assert not left.exists()


def test_a_reason_is_given_where_it_cannot_be_had(stage: Stage) -> None:
    def without(change: str) -> str:
        folder, reason = stage.unpack(change + "; timescaledb.programs()")
        assert folder == "" and "\n" not in reason
        return reason

    assert "needs apt-get and dpkg-deb on x86_64 or aarch64" in without("timescaledb.platform.machine = lambda: 'riscv64'")
    assert "needs apt-get and dpkg-deb" in without("timescaledb.shutil.which = lambda _: None")
    stage.play("apt-get", APT.format(log=stage.log, update="echo W: Failed to fetch it >&2; echo E: Some failed >&2; exit 100"))
    assert without("pass") == "W: Failed to fetch it (is the Debian mirror reached?)"
    stage.play("apt-get", "exit 0")
    assert re.search(r"this machine's apt has none for \w+", without("pass"))
    stage.environment["XDG_CACHE_HOME"] = str(stage.log)
    stage.log.touch()
    assert re.search(r"log/mes: Not a directory: set XDG_CACHE_HOME to a folder that may be written", without("pass"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root drops to another user")
def test_a_cache_that_only_root_may_enter_is_refused(stage: Stage) -> None:
    stage.cache.parent.mkdir(mode=0o700)
    assert re.search(r"cache: only root may go in, .*: set XDG_CACHE_HOME to an open folder", stage.unpack()[1])
