"""What is asked of every notebook."""

import json
import re

import nbformat
from execute import FOLDER, execute

SMALL_ENOUGH = 700_000
PROGRESS = re.compile("rl_det: compiling what has not been used|encode the data set:")
"""What a slow machine, or a first use, prints."""
A_PATH = re.compile(r"/(home|root|tmp|work|Users|opt|usr)/")


def check_runs(name: str, parameters: str) -> None:
    """From top to bottom, with a budget of its own; a cell that fails raises, and stderr has nothing but progress."""
    notebook = execute(FOLDER / f"{name}.ipynb", parameters)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = [output.text for output in outputs if output.get("name") == "stderr"]
    complaints = [line for text in printed for line in re.split("[\r\n]+", text) if line and not PROGRESS.match(line)]
    assert not complaints, complaints
    assert any("image/png" in output.get("data", {}) for output in outputs)


def check_committed(name: str) -> None:
    """All code cells have run, in order; with pictures, without an error, and without this machine's paths."""
    file = FOLDER / f"{name}.ipynb"
    assert file.stat().st_size < SMALL_ENOUGH
    notebook = nbformat.read(file, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    told = json.dumps([notebook.metadata, [{**output, "data": _texts(output)} for output in outputs]])
    assert not A_PATH.search(told)


def _texts(output: dict) -> dict:  # type: ignore[type-arg]
    """Of an output, all but its pictures."""
    return {kind: data for kind, data in output.get("data", {}).items() if kind != "image/png"}
