"""docs/my_policy.md adds a policy by one file and a few lines: they are applied as they stand, and the policy is tuned."""

import os
import subprocess
import sys
from pathlib import Path

from documentation.reading import ROOT, blocks

BUILD = ROOT / "rl_det" / "policies" / "build.py"
PROGRAM = """
import sys
from pathlib import Path

import rl_det.policies

rl_det.policies.__path__.insert(0, sys.argv[1])  # here lie the new policy and the edited build.py

from rl_det.data import open as opening
from rl_det.finetuning.budget import BUDGETS
from small_runs import SMALL

drawn = opening.digit_scenes
opening.digit_scenes = lambda train, val, test: drawn(8, 8, 8)
BUDGETS["smoke"] = SMALL
exec(compile(Path(sys.argv[2]).read_text(), "docs/my_policy.md", "exec"))
"""


def edited(source: str, diff: str) -> str:
    """The source with one change: lines of the diff begin with a space, - or +."""
    lines = diff.splitlines()
    before, after = ("\n".join(line[1:] for line in lines if line[0] in " " + sign) for sign in "-+")
    assert source.count(before) == 1, before
    return source.replace(before, after)


def test_the_policy_of_the_page_is_added_tuned_exported_and_loaded(tmp_path: Path) -> None:
    new, use = blocks("my_policy")
    name = new.splitlines()[0].removeprefix("# ")
    assert Path(name).parent == BUILD.parent.relative_to(ROOT)
    source = BUILD.read_text()
    for diff in blocks("my_policy", "diff"):
        source = edited(source, diff)
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "build.py").write_text(source)
    (policies / Path(name).name).write_text(new)
    (tmp_path / "use.py").write_text(use)
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(policies), "use.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'envs'}:{ROOT / 'tests'}"},
    )
    assert ended.returncode == 0, ended.stderr
    assert "ppo" in ended.stdout
    assert "tensor(" in ended.stdout
