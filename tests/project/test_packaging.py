"""What a machine without a checkout installs holds the whole program, and nothing else."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import ROOT

PACKAGES = ("keys", "protocol", "node")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


@pytest.mark.slow
@pytest.mark.integration
def test_a_wheel_runs_without_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    modules = {
        str(path.relative_to(source)) for name in PACKAGES for path in (source / name).rglob("*.py")
    }
    build = [*PIP, "wheel", "-qq", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True)
    (wheel,) = tmp_path.glob("radmesh-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == modules
    installed = tmp_path / "installed"
    subprocess.run(
        [*PIP, "install", "-qq", "--no-deps", "--no-index", "--target", str(installed), str(wheel)],
        check=True,
    )
    for command, words in (("radmesh", "radmesh "), ("radmesh-verify", "usage: radmesh-verify")):
        done = subprocess.run(
            [str(installed / "bin" / command), "--version" if command == "radmesh" else "--help"],
            env={**os.environ, "PYTHONPATH": str(installed)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith(words)
        assert not done.stderr
