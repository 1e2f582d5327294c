"""docs/my_agent.md: its programs run as they stand, with fewer images."""

import pytest
from documentation.conftest import RunPage


def test_an_agent_of_ones_own_trains_and_sb3_takes_all_its_steps(
    run_page: RunPage, capsys: pytest.CaptureFixture[str]
) -> None:
    variables = run_page("my_agent", most=64)
    assert variables["model"].num_timesteps >= 2048
    assert variables["before"] != variables["judged"](variables["test"])
    assert "before" in capsys.readouterr().out
