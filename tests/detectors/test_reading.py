"""Samples in batches, from worker processes."""

import subprocess
import sys

import torch
from parallel.launching import environment

from rl_det.data.digit_scenes import DigitScenes
from rl_det.detectors.reading import batches

KEPT = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
from rl_det.data.digit_scenes import DigitScenes
from rl_det.detectors import reading
reading.WORKERS = 1
kept = [sample.target for samples in reading.batches(DigitScenes("train", num_scenes=60), range(60), 8) for sample in samples]
print(len(kept))
"""


def test_the_targets_of_many_images_may_be_kept_where_few_files_may_be_open() -> None:
    ended = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, env=environment())
    assert ended.stdout.strip() == "60", ended.stderr


def test_worker_processes_give_what_this_process_gives() -> None:
    scenes, indices = DigitScenes("train", num_scenes=12), [7, 3, 11, 0, 5, 2, 9, 1, 10, 4]
    found = [sample for samples in batches(scenes, indices, 2) for sample in samples]
    assert len(indices) > 4 * 2
    assert len(found) == len(indices)
    for sample, index in zip(found, indices, strict=True):
        assert torch.equal(sample.image, scenes[index].image)
        for name, part in vars(scenes[index].target).items():
            own = getattr(sample.target, name)
            assert own == part if name == "image_id" else torch.equal(own, part), name
