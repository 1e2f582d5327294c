"""Jobs of a comparison on Ray: the same results as in local processes, and what is killed is started again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from comparing import QUICK

pytestmark = pytest.mark.usefixtures("few_scenes")


ON_RAY = """
import pathlib, sys

from comparing import compared, few_scenes
from rl_det.finetuning import comparison

few_scenes()
comparison.NUM_DRAWS = 20
compared(pathlib.Path(sys.argv[1]), on="ray")
"""


KILLED = """
if 'rl_det.finetuning.job' in sys.orig_argv:
    import os, pathlib, signal
    for number, victim in enumerate((os.getpid(), os.getppid())):  # first the job, at the next start the worker
        mark = pathlib.Path(__file__).with_name(f'killed{number}')
        if not mark.exists():
            mark.touch()
            os.kill(victim, signal.SIGKILL)
            os._exit(1)
"""


def test_on_ray_the_results_are_the_same_and_a_killed_job_and_a_killed_worker_are_started_again(
    tmp_path: Path, out: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'rl_det[ray]'")
    site = tmp_path / "site" / "sitecustomize.py"
    site.write_text(site.read_text() + KILLED)
    done = subprocess.run([sys.executable, "-c", ON_RAY, str(tmp_path / "ray")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(site.with_name(f"killed{number}").exists() for number in (0, 1))
    here, there = (json.loads((folder / "comparison.json").read_text()) for folder in (out, tmp_path / "ray"))
    assert list(there["methods"]) == list(QUICK)
    for name, method in here["methods"].items():
        assert {**there["methods"][name], "seconds": []} == {**method, "seconds": []}
