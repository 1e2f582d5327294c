"""A data set and a run for the tests of the command, and a cache of their own."""

from pathlib import Path
from typing import Any

import pytest
from cli.asking import finetune
from finetuning.small import write_folder

from rl_det import cli


@pytest.fixture(scope="module", autouse=True)
def quiet_folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RL_DET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, which tiny knows."""
    return write_folder(tmp_path_factory.mktemp("cli") / "data")


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    """A run that has ended."""
    out = data.parent / "run"
    cli.main([*finetune(data, out), "--ppo.samples-per-image", "2", "--strategies", "ppo"])
    return out
