"""A cache of each test's own, a small data set in a folder, and a comparison of few scenes."""

import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import SCENES, compared
from torchvision.transforms.functional import to_pil_image

from rl_det.data.digit_scenes import DigitScenes
from rl_det.finetuning import comparison, job, pages, request
from rl_det.finetuning.job import JobFile
from rl_det.finetuning.processes import JOB, Processes, written

NUM_IMAGES = {"train": 6, "val": 4, "test": 4}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where warm starts are kept."""
    monkeypatch.setenv("RL_DET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Few digit scenes as a COCO-format folder, of two categories with ids of their own."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    for split, count in NUM_IMAGES.items():
        scenes = DigitScenes("train", num_scenes=count, seed=len(split))
        document: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 3, "name": "low"}, {"id": 7, "name": "high"}],
        }
        for index in range(count):
            sample = scenes[index]
            name = f"{split}{index}.png"
            to_pil_image(sample.image).save(root / "images" / name)
            document["images"].append({"id": index, "file_name": name, "width": 128, "height": 128})
            for box, label in zip(sample.target.boxes.tolist(), sample.target.labels.tolist(), strict=True):
                document["annotations"].append(
                    {
                        "id": len(document["annotations"]),
                        "image_id": index,
                        "category_id": 3 if label <= 5 else 7,
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    }
                )
        (root / f"{split}.json").write_text(json.dumps(document))
    return root


@pytest.fixture
def few_scenes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Few scenes, few draws and no pages of the jobs, here and in the processes that are started."""
    monkeypatch.setitem(request.NUM_SCENES, "smoke", SCENES)
    monkeypatch.setattr(comparison, "NUM_DRAWS", 20)
    monkeypatch.setattr(pages, "PAGES", {})
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'rl_det.finetuning.job' in sys.orig_argv:\n"
        "    from rl_det.finetuning import pages, request\n"
        f"    request.NUM_SCENES['smoke'], pages.PAGES = {SCENES}, {{}}\n"
    )
    paths = [str(site), str(Path(__file__).parents[1]), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.fixture
def jobs_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run here by their files, one at a time, as to start a process takes half of a small job's time."""
    one_at_a_time = threading.Lock()

    def run(self: Processes, given: JobFile) -> None:
        written(given)
        with one_at_a_time:
            threads = torch.get_num_threads()
            torch.set_num_threads(int(self.threads))
            try:
                job.run(JobFile.read(given.out / JOB))
            finally:
                torch.set_num_threads(threads)

    monkeypatch.setattr(Processes, "run", run)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that has ended; tests work on copies."""
    return tmp_path_factory.mktemp("compared") / "out"


@pytest.fixture
def out(few_scenes: None, done: Path, tmp_path: Path) -> Path:
    """A copy of a comparison that has ended."""
    if not done.exists():
        compared(done)
    return Path(shutil.copytree(done, tmp_path / "out"))
