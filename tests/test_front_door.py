"""`import rl_det`: what it names, how little it loads, and that a type checker sees through it."""

import subprocess
import sys
from pathlib import Path

import pytest
import rl_det_envs

import rl_det


def run(program: str, *flags: str) -> str:
    """What a fresh interpreter prints."""
    ended = subprocess.run([sys.executable, *flags, "-c", program], capture_output=True, text=True, check=False)
    assert not ended.returncode, ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.parametrize("module", ["rl_det", "rl_det.ap", "rl_det.finetuning.job_process"])
def test_an_import_loads_no_torch(module: str) -> None:
    assert run(f"import sys, {module}; print('torch' in sys.modules)") == "False\n"


def test_what_trains_loads_nothing_that_only_draws_or_that_few_use() -> None:
    everything = "import sys, rl_det, rl_det.cli; [getattr(rl_det, name) for name in rl_det.__all__]"
    slow = {
        "matplotlib",
        "stable_baselines3",
        "sklearn",
        "scipy.optimize",
        "tensorboard",
        "cmaes",
        "onnx",
        "ray",
        "transformers",
    }
    assert run(f"{everything}; print(sorted({slow} & sys.modules.keys()))") == "[]\n"


def test_the_import_itself_takes_less_than_a_second() -> None:
    last = run("import rl_det", "-X", "importtime").splitlines()[-1]
    _, microseconds, name = last.split("|")
    assert name.strip() == "rl_det"
    assert int(microseconds) < 1_000_000


def test_dir_shows_the_names_and_each_of_them_is_there() -> None:
    assert dir(rl_det) == sorted(rl_det.__all__)
    assert {"PPO", "Results", "finetune", "load_detector", "load_tuned", "open_data"} <= set(dir(rl_det))
    for name in rl_det.__all__:
        assert getattr(rl_det, name) is not None
    assert rl_det.PPO.__module__ == "rl_det.strategies.ppo"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'rl_det' has no attribute 'finetun'"):
        rl_det.finetun  # type: ignore[attr-defined]  # noqa: B018


def test_both_packages_say_that_they_are_typed() -> None:
    for package in (rl_det, rl_det_envs):
        assert package.__file__ is not None
        assert (Path(package.__file__).parent / "py.typed").is_file()


CONSUMER = """
import rl_det

data = rl_det.open_data("path/to/folder")
detector = rl_det.load_detector("tiny", data, weights="mine.pt")
result = rl_det.finetune(detector, data, rl_det.PPO(policy="voting"), budget="short", seed=0, out="runs/first")
text: str = result.table()
reveal_type(result)
reveal_type(result.best)
reveal_type(rl_det.load_tuned("better/").detect([data.test[0].image]))
rl_det.PPO(clip="wide")
rl_det.finetune(detector, data, rl_det.PPO)
"""


CONFIGURATION = """
[mypy]
strict = true
follow_imports = silent

[mypy-torch.*,torchvision.*,matplotlib.*,gymnasium.*,sklearn.*,rich.*]
follow_imports = skip
"""
"""The libraries beneath are left out, as they cost a minute."""


def test_a_consumers_type_checker_finds_the_types_and_the_mistakes(tmp_path: Path) -> None:
    (tmp_path / "consumer.py").write_text(CONSUMER)
    paths = [str(Path(package.__path__[0]).parent) for package in (rl_det, rl_det_envs)]
    (tmp_path / "mypy.ini").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini"]
    ended = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache"), "consumer.py"],
        cwd=tmp_path,
        env={"MYPYPATH": ":".join(paths), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    *lines, _ = [line.removeprefix("consumer.py:") for line in ended.stdout.splitlines()]
    assert ended.stdout.count(": error:") == 2, ended.stdout
    told = "\n".join(lines)
    assert 'Revealed type is "rl_det.finetuning.results.Results"' in told
    assert 'Revealed type is "rl_det.finetuning.results.Row"' in told
    assert "list[" in told
    assert "Detections" in told
    assert 'Argument "clip" to "PPO" has incompatible type "str"; expected "float"' in told
    assert 'Argument 3 to "finetune" has incompatible type "type[PPO]"; expected "Strategy"' in told
