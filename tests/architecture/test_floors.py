"""The shape of the code: what may import what, and that every file says what comes in and what goes out."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted([*ROOT.glob("rl_det/**/*.py"), *ROOT.glob("envs/**/*.py"), *ROOT.glob("experiments/**/*.py")])


def test_a_floor_imports_only_what_stands_below_it() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_opens_with_a_sentence(file: Path) -> None:
    if file.name == "__init__.py" and not file.read_text():
        pytest.skip("empty")
    docstring = ast.get_docstring(ast.parse(file.read_text()))
    assert docstring
    assert docstring.split("\n\n")[0].rstrip().endswith((".", "?", ":"))


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_is_dropped_in_silence_and_text_is_the_same_on_all_systems(file: Path) -> None:
    for call in (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)):
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "zip":
            assert given.get("strict") == "True", f"line {call.lineno}: a zip that stops at the shorter one"
        if name in ("read_text", "write_text"):
            assert "encoding" in given, f"line {call.lineno}: a text in the system's own encoding"


@pytest.mark.parametrize("folder", ["rl_det", "envs/rl_det_envs", "experiments", "tests"])
def test_a_name_that_there_is_not_is_found(folder: str) -> None:
    planted = 'def planted(boxes: Float[Tensor, "B N 4"]) -> Float[Tensor, " B"]:\n    return boxess\n'
    imports = "from jaxtyping import Float\nfrom torch import Tensor\n\n\n"
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--output-format",
        "concise",
        "--stdin-filename",
        f"{folder}/planted.py",
        "-",
    ]
    ended = subprocess.run(command, cwd=ROOT, input=imports + planted, capture_output=True, text=True, check=False)
    found = [line for line in ended.stdout.splitlines() if "planted.py:" in line]
    assert len(found) == 1, ended.stdout + ended.stderr
    assert "F821 Undefined name `boxess`" in found[0]


OF_THE_USER = ("rl_det/cli/", "rl_det/data/", "rl_det/finetuning/", "rl_det/storage/")
"""What stands here reads what the user gives."""


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_reads_a_users_input_refuses_it_as_the_users(file: Path) -> None:
    raised = [
        node.exc.func.id
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
    ]
    if str(file.relative_to(ROOT)).startswith(OF_THE_USER):
        assert not {"ValueError", "OSError", "TypeError"} & set(raised)


@pytest.mark.parametrize("place", OF_THE_USER)
def test_each_place_that_reads_a_users_input_is_there(place: str) -> None:
    assert any(str(file.relative_to(ROOT)).startswith(place) for file in MODULES)


def test_envs_is_a_folder_and_no_package() -> None:
    assert not (ROOT / "envs" / "__init__.py").exists()


def test_no_room_is_called_utils() -> None:
    rooms = {part.removesuffix(".py") for file in MODULES for part in file.relative_to(ROOT).parts}
    assert not {"utils", "common", "misc", "base", "helpers"} & rooms
