"""The program as a plant has it: built, installed, far from any checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".mes", "dist", "__pycache__", ".*_cache", ".hypothesis")


def committed(into: Path) -> Path:
    """The checkout as it lies here, as one commit of a repository of its own."""
    shutil.copytree(ROOT, into, ignore=_NOT_COPIED)
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    for at in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{at}_NAME": "mes", f"GIT_{at}_EMAIL": "mes@localhost", f"GIT_{at}_DATE": "2026-11-25T12:00:00+08:00"}
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "as it lies here"]):
        subprocess.run(["git", *command], cwd=into, env=env, check=True)
    return into


def wheel(into: Path) -> Path:
    """The wheel of the checkout as it lies here."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", into], cwd=ROOT, check=True, capture_output=True)
    return next(into.glob("*.whl"))


def install(built: Path, venv: Path) -> Path:
    """A virtual environment that holds the wheel, and borrows from this one what the wheel needs; returns its `bin`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-compile",
        str(built),
    ]
    subprocess.run([*pip, "--disable-pip-version-check"], check=True)
    packages = Path(subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True).strip())
    # A folder on the path, not a site: the editable install among its .pth files stays unread.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin"


def bare_environment(**more: str) -> dict[str, str]:
    """What a service gets from systemd: nothing of ours."""
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **more}
