"""The versions of Python that the package names: all its modules compile, without a warning, under each that is here."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("rl_det", "envs", "experiments")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CLASSIFIER = re.compile(r"Programming Language :: Python :: (3\.\d+)")
NAMED = [found[1] for line in PROJECT["classifiers"] if (found := CLASSIFIER.fullmatch(line))]


def interpreters() -> dict[str, str]:
    """The interpreters of the named versions: this one, those on the path, and those of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    known = [sys.executable, *(shutil.which(f"python{version}") for version in NAMED), *pyenv.glob("*/bin/python3")]
    found: dict[str, str] = {}
    for python in filter(None, known):
        asked = "import sys; print('%d.%d' % sys.version_info[:2])"
        told = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=False)
        if (version := told.stdout.strip()) in NAMED:
            found.setdefault(version, str(python))
    return found


def faults(python: str, *folders: Path, compiled: Path) -> str:
    """What an interpreter says of files that it cannot compile, or warns of; nothing is written beside them."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(compiled)}
    command = [python, "-W", "error", "-m", "compileall", "-q", "-f", *map(str, folders)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return ended.stdout + ended.stderr if ended.returncode else ""


def test_the_oldest_named_version_is_the_one_that_is_required_and_none_between_is_left_out() -> None:
    minors = [int(version.split(".")[1]) for version in NAMED]
    assert PROJECT["requires-python"] == f">={NAMED[0]}"
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert minors[-1] >= 14


@pytest.mark.parametrize(("version", "python"), sorted(interpreters().items()))
def test_every_module_compiles_under_each_version_of_this_machine(version: str, python: str, tmp_path: Path) -> None:
    told = faults(python, *(ROOT / name for name in PACKAGES), compiled=tmp_path)
    assert not told, f"{version}: {told}"
    compiled = tmp_path / ROOT.relative_to(ROOT.anchor)
    for name in PACKAGES:  # an interpreter may compile what is its own beside them
        modules = list((ROOT / name).rglob("*.py"))
        assert modules
        assert len(list((compiled / name).rglob("*.pyc"))) == len(modules)


@pytest.mark.parametrize("wrong", ["def broken(:\n", 'path = "\\d"\n'])
def test_a_module_that_does_not_compile_or_warns_is_noticed(wrong: str, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text(wrong, encoding="utf-8")
    assert "module.py" in faults(sys.executable, tmp_path / "package", compiled=tmp_path / "compiled")
