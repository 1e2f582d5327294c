"""docs/onnx.md: its programs run as they stand, on a detector that was exported before."""

from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from documentation.conftest import RunPage
from torchvision.transforms.functional import to_pil_image
from unchecked import unchecked

import rl_det
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.finetuning.tuned import Tuned
from rl_det.policies.build import build_policy


def test_onnxruntime_prints_what_the_tuned_detector_detects(
    run_page: RunPage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = rl_det.load_detector("tiny", rl_det.digit_scenes(train=1, val=1, test=1), device="cpu")
    ids = tuple(range(1, 1 + len(CLASSES)))
    policy = build_policy("voting", detector)
    tuned = Tuned(policy=policy, classes=CLASSES, category_ids=ids, num_candidates=200)
    tuned.export(tmp_path / "better")
    picture = to_pil_image(DigitScenes("test", num_scenes=1)[0].image)
    picture.save(tmp_path / "street.jpg", format="PNG")  # without loss, whatever its name is
    with unchecked():
        run_page("onnx")
    (found,) = tuned.detect([picture])
    shown = [CLASSES[label - 1] for label in found["labels"][found["scores"] >= 0.5].tolist()]
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed if line and not line.startswith(" ")] == shown
    assert shown
