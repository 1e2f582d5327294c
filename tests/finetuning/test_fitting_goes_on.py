"""A run that is killed between two fits of post-processing ends as it would have."""

from pathlib import Path
from typing import Any

import pytest
from finetuning.test_fitting import tuned

from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.finetuning import fitting
from rl_det.strategies.postprocessing import fit_postprocessing

pytestmark = pytest.mark.usefixtures("without_pages")


def test_a_run_that_is_killed_between_two_fits_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[PostProcessingSettings] = []

    def killed(*arguments: Any, **options: Any) -> Any:
        if len(fits) == 2:
            raise KeyboardInterrupt
        fits.append(arguments[2])
        return fit_postprocessing(*arguments, **options)

    whole = tuned(tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(fitting, "fit_postprocessing", killed)
        with pytest.raises(KeyboardInterrupt):
            tuned(tmp_path / "run")
    assert len(list((tmp_path / "run" / "checkpoints").glob("*_fitted.pt"))) == 2
    again = tuned(tmp_path / "run", resume=True)
    assert str(again.methods) == str(whole.methods)
    assert [row.validation_ap for row in again.rows.values()] == [row.validation_ap for row in whole.rows.values()]
