"""What a user waits for: the import, and the compilation on the first call, which later processes find on disk."""

import os
import subprocess
import sys
from pathlib import Path

IMPORT = """
import time
start = time.perf_counter()
import rl_det.ap
seconds = time.perf_counter() - start
import sys
assert not {"torch", "sklearn", "pycocotools", "PIL"} & set(sys.modules), "heavy imports"
print(seconds)
"""

FIRST_CALL = """
import numpy as np
from rl_det.ap import DetectionBatch, TruthBatch, coco_figures, matching
box, one, true = np.array([[[0, 0, 10, 10]]], dtype=np.float32), np.ones((1, 1), dtype=np.int64), np.ones((1, 1), dtype=bool)
found = DetectionBatch(boxes=box, labels=one, scores=one.astype(float), mask=true)
truths = TruthBatch(boxes=box, labels=one, area=one.astype(float), iscrowd=~true, mask=true)
assert matching.match(found, truths, num_classes=1).hits.tolist() == [[[1023]]]
stats = matching._match.stats
print(len(stats.cache_hits), len(stats.cache_misses))
"""


def run(program: str, **environment: str) -> str:
    return run_with_stderr(program, **environment)[0]


def run_with_stderr(program: str, **environment: str) -> tuple[str, str]:
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, ended.stderr


def test_the_engine_imports_within_a_second_and_without_torch() -> None:
    assert min(float(run(IMPORT)) for _ in range(3)) < 1.0


def test_the_second_process_finds_what_the_first_compiled(tmp_path: Path) -> None:
    cold, told = run_with_stderr(FIRST_CALL, NUMBA_CACHE_DIR=str(tmp_path))
    assert cold.split() == ["0", "1"]
    assert list(tmp_path.rglob("matching._match-*.nbc"))
    warm, silence = run_with_stderr(FIRST_CALL, NUMBA_CACHE_DIR=str(tmp_path))
    assert warm.split() == ["1", "0"]
    (line,) = told.splitlines()  # although several functions were compiled
    assert line.startswith(
        "rl_det: compiling what has not been used on this machine before of the AP engine, all of it in about "
    )
    assert str(tmp_path) in line
    assert silence == ""


def test_what_a_user_compiles_is_not_announced() -> None:
    assert run_with_stderr("import numba, rl_det.ap; print(numba.njit(lambda x: x + 1)(1))") == ("2\n", "")
