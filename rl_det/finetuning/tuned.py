"""Export a tuned policy to a folder, and load it: plain weights, modules, and `model.json`, which says how to use them.

The folder gives the same detections as those behind the table's row: the same detector at the same size, votes,
recalibration and post-processing. For the plain model, load `detector.pt` with the library alone.
"""

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rl_det
from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.data.splits import Splits
from rl_det.data.torch_dataset import upright
from rl_det.detectors import load_state
from rl_det.detectors.card import A_CARD, MODEL_CARD, check_there, read_card
from rl_det.detectors.loading import DETECTOR, Device, device_named, exported, of_model
from rl_det.detectors.protocol import Part
from rl_det.errors import UserError
from rl_det.policies.build import build_policy, check_policy, name_of
from rl_det.policies.detections import detect_images, on_host
from rl_det.policies.export import MODULE, export
from rl_det.policies.head import HeadWithModule
from rl_det.policies.onnx import export_onnx
from rl_det.policies.policy import Policy
from rl_det.settings import check_argument, described, fits
from rl_det.storage.checksums import write_sealed
from rl_det.storage.files import check_writable
from rl_det.types import Detections

CARD: dict[str, Any] = {
    "trainable": Part, "policy": str, "num_steps": int | None, "category_ids": list, "num_candidates": int, "strategy": str,
    "postprocessing": dict,
}  # fmt: skip
"""The entries of `model.json` that loading needs beside the architecture and the classes, and their types."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A detector that a strategy has tuned, with all that its detections depend on."""

    policy: Policy
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    num_candidates: int
    """The candidates of an image from which post-processing chooses."""
    strategy: str = ""
    """The name of its row in the table."""

    def detect(self, images: Iterable[Any]) -> list[Detections]:
        """The detections: boxes in pixels of each image, labels 1..C, scores, best first, on the CPU, as for the table's row.

        Images are tensors [3, H, W], uint8 or floats in [0, 1], or PIL images. There is no score threshold: keep what
        your application needs. Images go through the network 16 at a time, and an image's detections are those that it has
        alone, but for the last digits. Raises ValueError, which names the place, for anything that is not an image, and for
        a PIL image that is not upright yet.
        """
        if (isinstance(images, Tensor) and images.ndim == 3) or not isinstance(images, Iterable):
            got = "tensor [3, H, W]" if isinstance(images, Tensor) else type(images).__name__
            raise UserError(f"detect takes several images; got one {got}; give [image]")
        checked = (upright(image, f"images[{place}]") for place, image in enumerate(images))
        found = detect_images([self.policy], checked, self.num_candidates)
        return [on_host(each) for (batch,) in found for each in batch]

    @property
    def model(self) -> nn.Module:
        """The library's own model, with the tuned head."""
        return self.policy.detector.plain()

    @property
    def beside_the_weights(self) -> list[str]:
        """What the detections rest on beside the plain detector's weights and its own post-processing; often nothing."""
        detector, how = self.policy.detector, self.policy.postprocessing
        parts = {
            "module": isinstance(self.policy, HeadWithModule),
            "votes": not how.votes.is_neutral,
            "soft-NMS": not how.is_hard,
            "NMS IoU": how.nms_iou != detector.nms_iou,
            "recalibration": how.recalibrates,
        }
        return [name for name, is_there in parts.items() if is_there]

    def export(self, folder: str | Path) -> Path:
        """Write the plain detector, `model.json` and the policy's modules; return the folder, which `load_tuned` reads."""
        folder = Path(folder)
        check_writable(folder)
        export(self.policy, folder, self.num_candidates, self.classes)
        card = {
            "rl_det": rl_det.__version__,
            "torch": torch.__version__,
            "torchvision": importlib.metadata.version("torchvision"),
            "architecture": vars(self.policy.detector.architecture),
            "trainable": self.policy.detector.part,
            "classes": self.classes,
            "category_ids": self.category_ids,
            "strategy": self.strategy,
            "policy": name_of(self.policy),
            "num_steps": self.policy.environment_options.get("num_steps"),
            "num_candidates": self.num_candidates,
            "postprocessing": self.policy.postprocessing.plain(),
            "recalibration": _recalibration(self.policy),
            "beside_the_weights": self.beside_the_weights,
        }
        write_sealed(folder / MODEL_CARD, card)
        return folder

    def to_onnx(self, file: str | Path, *, image_size: tuple[int, int] | None = None) -> Path:
        """Write the detector, its module and its post-processing as one ONNX file; return the file. Needs `rl_det[onnx]`.

        From `image`, float32 RGB [3, H, W] in [0, 1] in the user's pixels, it gives `boxes` [M, 4] in pixels, `labels` [M]
        from 1 and `scores` [M], best first, as `detect` does for one image. It takes images of every size, or of one
        `image_size` (height, width), which DETR, Conditional and Deformable DETR need. Its metadata are `classes`,
        `category_ids`, `strategy`, `policy` and the versions, each as JSON.
        """
        file = Path(file)
        check_writable(file.parent)
        file.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "classes": self.classes,
            "category_ids": self.category_ids,
            "strategy": self.strategy,
            "policy": name_of(self.policy),
            "rl_det": rl_det.__version__,
            "torch": torch.__version__,
        }
        export_onnx(self.policy, file, self.num_candidates, image_size=image_size, about=about)
        return file


def load_tuned(folder: str | Path, model: nn.Module | None = None, *, device: Device = "auto") -> Tuned:
    """Load what `Tuned.export` wrote, ready to detect.

    A detector that the user's own code built needs `model`, an object of the same architecture, whose weights are
    replaced. Raises ValueError, which names the file, if the folder holds anything else.
    """
    check_argument("folder", folder, str | Path)
    folder = Path(folder)
    card, architecture = read_card(folder / MODEL_CARD)
    how = _checked(card, folder / MODEL_CARD)
    if architecture.library == "own":
        if model is None:
            raise UserError(
                f"{folder}: the detector is a {architecture.name} of your own code; give load_tuned such a model: "
                "load_tuned(folder, model)"
            )
        detector = of_model(model, part=card["trainable"])
        if detector.num_classes != architecture.num_classes:
            raise UserError(
                f"{folder}: the model must know {architecture.num_classes} classes; it knows {detector.num_classes}"
            )
        load_state(detector.plain(), folder / DETECTOR)
    else:
        detector = exported(folder, architecture, part=card["trainable"])
    detector.plain().to(device_named(device))
    check_policy(card["policy"])
    with torch.random.fork_rng(devices=[]):
        policy = build_policy(card["policy"], detector, num_steps=card["num_steps"])
    if (module := getattr(policy, "module", None)) is not None:
        load_state(module, folder / MODULE)
    policy.postprocessing = how
    return Tuned(
        policy=policy,
        classes=tuple(card["classes"]),
        category_ids=tuple(card["category_ids"]),
        num_candidates=card["num_candidates"],
        strategy=card["strategy"],
    )


def _checked(card: Mapping[str, Any], file: Path) -> PostProcessingSettings:
    """The post-processing of a card; UserError, which names the file, if it or another entry is not as `export` writes it."""
    check_there(file, card, CARD)
    for name, hint in CARD.items():
        if not fits(card[name], hint):
            raise UserError(f"{file}: must be {A_CARD}; its entry {name} must be {described(hint)}; got {card[name]!r}")
    ids, wanted = card["category_ids"], len(card["classes"])
    if not all(type(one) is int for one in ids) or len(ids) != wanted or card["num_candidates"] < 1:
        raise UserError(
            f"{file}: must be {A_CARD}; its category_ids must be {wanted} whole numbers, one for each class, and "
            f"num_candidates at least 1; got {ids} and {card['num_candidates']}"
        )
    try:
        how = PostProcessingSettings.of(card["postprocessing"])
        for name, values in (("scale", how.scale), ("shift", how.shift)):
            if len(values) not in (1, len(card["classes"])):
                raise UserError(f"{name} must have one number, or one for each class; got {len(values)}")
    except (TypeError, UserError) as error:
        told = " ".join(str(error).split())
        raise UserError(f"{file}: must be {A_CARD}; its post-processing cannot be used: {told}") from error
    return how


def tuned(policy: Policy, data: Splits, num_candidates: int, strategy: str) -> Tuned:
    """A policy together with the data's facts (classes, category ids) that its detections need."""
    return Tuned(
        policy=policy,
        classes=data.classes,
        category_ids=data.category_ids,
        num_candidates=num_candidates,
        strategy=strategy,
    )


def _recalibration(policy: Policy) -> dict[str, object]:
    """The recalibration: in the module's last scales and shifts, one a class, or in the head's own weights."""
    module = getattr(policy, "module", None)
    if module is None:
        return {"in": "detector"}
    return {"in": "module", **{name: module.get_buffer(name).tolist() for name in ("scale", "shift")}}
