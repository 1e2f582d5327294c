"""How long does onnxruntime take for one image, beside torch?

    python experiments/benchmarks/onnx_speed.py --json

`tiny` and fasterrcnn_mobilenet_v3_large_320_fpn with the voting module, random weights but for tiny's, one image of 480 x 640
pixels. Both run on one thread, interleaved; the numbers are medians of CPU time. A minute. What it printed last, and where,
is in experiments/benchmarks/README.md. Needs `rl_det[onnx]`.
"""

from one_thread import insist_on_one_thread

insist_on_one_thread()

from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from statistics import median  # noqa: E402
from tempfile import TemporaryDirectory  # noqa: E402
from time import process_time  # noqa: E402

import onnxruntime  # noqa: E402
import torch  # noqa: E402
import tyro  # noqa: E402
from rich import print_json  # noqa: E402

import rl_det  # noqa: E402
from rl_det.detectors.loading import build_detector  # noqa: E402
from rl_det.finetuning.tuned import Tuned  # noqa: E402
from rl_det.policies.build import build_policy  # noqa: E402

DETECTORS = ("tiny", "fasterrcnn_mobilenet_v3_large_320_fpn")
NUM_CANDIDATES, HEIGHT, WIDTH = 1000, 480, 640


@dataclass(frozen=True, kw_only=True)
class Config:
    json: bool = False
    """Print plain JSON."""
    repeats: int = 20
    """How often each is timed."""


def tuned(name: str) -> Tuned:
    """The detector with its voting module."""
    data = rl_det.digit_scenes(train=1, val=1, test=1)
    classes = data.classes
    detector = (
        rl_det.load_detector("tiny", data, device="cpu")
        if name == "tiny"
        else build_detector(name, num_classes=len(classes))
    )
    policy = build_policy("voting", detector)
    return Tuned(policy=policy, classes=classes, category_ids=data.category_ids, num_candidates=NUM_CANDIDATES)


def times(name: str, repeats: int) -> dict[str, float]:
    """Milliseconds of an image, and seconds of writing the file."""
    torch.manual_seed(0)
    own, image = tuned(name), torch.rand(3, HEIGHT, WIDTH)
    with TemporaryDirectory() as folder:
        began = process_time()
        file = own.to_onnx(Path(folder) / "tuned.onnx")
        written = process_time() - began
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    given = {"image": image.numpy()}
    ways: dict[str, Callable[[], object]] = {
        "torch": lambda: own.detect([image]),
        "onnxruntime": lambda: session.run(None, given),
    }
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(1 + repeats):  # the first warms up
        for way, detect in ways.items():
            began = process_time()
            detect()
            spent[way].append(process_time() - began)
    found = {f"{way}_ms": round(1000 * median(each[1:]), 2) for way, each in spent.items()}
    return {
        **found,
        "onnxruntime_over_torch": round(found["onnxruntime_ms"] / found["torch_ms"], 3),
        "export_s": round(written, 1),
    }


def main(config: Config) -> None:
    """Print the times of each detector."""
    torch.set_num_threads(1)
    print_json(data={name: times(name, config.repeats) for name in DETECTORS}, indent=None if config.json else 2)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
