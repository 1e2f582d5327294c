"""A one-stage detector is tuned and exported; its folder detects what the row does."""

from pathlib import Path

import pytest
from contract.one_stage_families import ONE_STAGE_FAMILIES
from finetuning.families import assert_tuned_and_back

pytestmark = pytest.mark.usefixtures("without_pages")


@pytest.mark.parametrize("family", ONE_STAGE_FAMILIES)
def test_a_model_object_is_tuned_by_reward_and_by_surrogate_and_comes_back_from_its_folder(
    family: str, tmp_path: Path
) -> None:
    assert_tuned_and_back(family, tmp_path)
