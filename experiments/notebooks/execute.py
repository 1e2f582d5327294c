"""Notebooks -> the same, run from top to bottom by this very Python, with their outputs; how long each took is printed.

Command: python experiments/notebooks/execute.py [NAME ...]     (all of them, if none is named)
"""

import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def execute(file: Path, parameters: str | None = None) -> Any:
    """The executed notebook; `parameters` takes the place of the cell that is tagged so. CellExecutionError if a cell fails."""
    notebook = nbformat.read(file, as_version=4)  # type: ignore[no-untyped-call]
    if parameters is not None:
        (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        cell.source = parameters
    here = {"metadata": {"path": str(file.parent)}}
    NotebookClient(notebook, kernel_name="python3", startup_timeout=300, timeout=None, resources=here).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the time of day, which would change with every run
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return notebook


def main(names: list[str]) -> None:
    """Run them and write them back."""
    for file in [FOLDER / f"{name}.ipynb" for name in names] or sorted(FOLDER.glob("*.ipynb")):
        started = time.perf_counter()
        notebook = execute(file)
        nbformat.write(notebook, file)  # type: ignore[no-untyped-call]
        print(f"{file.stem}: {time.perf_counter() - started:.0f} s, {file.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
