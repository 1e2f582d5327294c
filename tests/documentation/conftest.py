"""What the tests of programs in pages share: an empty folder, few images, a budget of seconds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from documentation.reading import blocks
from small_runs import SMALL

from rl_det.data import open as opening
from rl_det.data.splits import Splits
from rl_det.finetuning.budget import BUDGETS

RunPage = Callable[..., dict[str, Any]]


@pytest.fixture
def run_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunPage:
    """Run the blocks of docs/PAGE.md one after the other, with at most `most` images in a split.

    They begin with the variables `given`; returns all of theirs.
    """
    drawn = opening.digit_scenes
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RL_DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(BUDGETS, "smoke", replace(SMALL, fit_evaluations=0))

    def run(page: str, most: int = 8, **given: Any) -> dict[str, Any]:
        def few(train: int, val: int, test: int) -> Splits:
            return drawn(*(min(count, most) for count in (train, val, test)))

        monkeypatch.setattr(opening, "digit_scenes", few)
        variables: dict[str, Any] = {"__name__": page, **given}
        for block in blocks(page):
            exec(compile(block, f"docs/{page}.md", "exec"), variables)
        return variables

    return run
