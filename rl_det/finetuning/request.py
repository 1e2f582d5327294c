"""Open the data and the detector of a request: a folder, a detector's name, weights, a budget, a device."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_det.data.images import ImageLimits
from rl_det.data.open import digit_scenes, open_data
from rl_det.data.splits import Splits, first_of
from rl_det.detectors import Detector, load_detector
from rl_det.detectors.frozen import USUAL, FrozenPart
from rl_det.detectors.loading import Device, OtherClasses, device_named
from rl_det.detectors.protocol import Part
from rl_det.finetuning.budget import BudgetName
from rl_det.precision import WantedPrecision
from rl_det.progress import tell
from rl_det.settings import at_least, check_settings
from rl_det.strategies.strategy import Strategy
from rl_det.training.trackers import TrackerName

NUM_SCENES: dict[BudgetName, dict[str, int]] = {
    "smoke": {"train": 64, "val": 32, "test": 32},
    "short": {"train": 3000, "val": 300, "test": 500},
    "full": {"train": 4000, "val": 500, "test": 1000},
}
"""The number of digit scenes for each budget."""
SMOKE_IMAGES = {"train": 48, "val": 16, "test": 16}
"""The most images of a folder in a smoke run: at 224 px, a ResNet-50's way to a table takes three minutes with these."""


@dataclass(frozen=True, kw_only=True)
class DataFlags:
    """How a folder of images is read."""

    test_data: Path | None = None
    """Another folder, or an annotation file, with the test images; left out: the folder's own."""
    keep_difficult: bool = False
    """Count Pascal VOC's difficult objects like others, instead of ignoring them."""
    max_pixels: int = ImageLimits.max_pixels
    """The most pixels of an image; a larger one is refused."""
    max_aspect: float = ImageLimits.max_aspect
    """The longer side of an image is at most so many times the shorter one; a longer image is refused."""

    def __post_init__(self) -> None:
        check_settings(self)
        self.limits_of_images  # noqa: B018  (refuses what cannot be)

    @property
    def limits_of_images(self) -> ImageLimits:
        """The limits as one object."""
        return ImageLimits(max_pixels=self.max_pixels, max_aspect=self.max_aspect)

    def open_folder(self, path: Path) -> Splits:
        """The splits of a folder."""
        return open_data(path, test=self.test_data, limits=self.limits_of_images, keep_difficult=self.keep_difficult)


@dataclass(frozen=True, kw_only=True)
class Opening(DataFlags):
    """The data, the detector and the budget: flags that every program has."""

    data: Path | None = None
    """A folder in COCO's, YOLO's or Pascal VOC's layout, or an annotation file; left out: digit scenes."""
    detector: str = "tiny"
    """tiny, torchvision's name of a detection model, a file of weights, or a folder that a run exported."""
    weights: str | None = None
    """A file of weights, a torchvision name, or none (random weights); left out: the best weights available."""
    image_size: int | None = None
    """The shorter side to which the detector resizes images, in pixels; left out: the detector's own."""
    other_classes: OtherClasses = "refuse"
    """What is done with a detector of other classes than the data's, but as many: refuse it, or replace its predictor."""
    budget: BudgetName = "full"
    """The time on two CPU cores: within a minute (smoke), about six (short) or a quarter of an hour (full)."""
    device: Device = "auto"
    """The device of the networks."""
    track: TrackerName = "tensorboard"
    """Where metrics are shown while a run goes on: TensorBoard's files in its folder, Weights & Biases, MLflow, or nowhere;
    metrics.jsonl has them in any case."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self, image_size=at_least(1))
        device_named(self.device)

    @property
    def trained_part(self) -> Part:
        """The part of the detector that is trained, if one is."""
        return "head"

    def open(self) -> tuple[Splits, Detector]:
        """The data and the detector. Raises ValueError, with nothing trained or written, if one cannot be used.

        A smoke run takes only the first images of a folder, and says so.
        """
        splits = digit_scenes(**NUM_SCENES[self.budget]) if self.data is None else self.open_folder(self.data)
        if self.data is not None and self.budget == "smoke":
            few = first_of(splits, **SMOKE_IMAGES)
            if few != splits:
                counts = ", ".join(f"{len(few[split])} {split}" for split in ("train", "val", "test"))
                tell(f"smoke: only the first images of {splits.name} are used: {counts}")
            splits = few
        return splits, load_detector(
            self.detector,
            splits,
            weights=self.weights,
            image_size=self.image_size,
            trainable=self.trained_part,
            other_classes=self.other_classes,
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True)
class Request(Opening):
    """The flags of every program in which strategies train the detector."""

    trainable: Part = "head"
    """The part that strategies train: the predictor, the head, or all of the detector."""
    batch_size: int | None = None
    """The images of a batch, in the warm start and in every strategy; left out: by the budget and the recipe."""
    cache_memory: float | None = None
    """The most memory for the frozen part's results, in GiB; left out: a third of the machine's. Beyond it: disk."""
    cache_disk: float | None = None
    """The most disk for them, in GiB; left out: half of what is free. Beyond it, the frozen part runs in the loop."""
    precision: WantedPrecision = "auto"
    """The precision of the frozen part on the strategies' training images: mixed is float16 on CUDA and bfloat16 on a CPU;
    auto is mixed on CUDA, and else float32."""
    compile: bool = False
    """Compile the frozen part by torch.compile."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self, batch_size=at_least(1), cache_memory=at_least(0), cache_disk=at_least(0))

    @property
    def trained_part(self) -> Part:
        """The part that strategies train."""
        return self.trainable

    def keywords(self) -> dict[str, Any]:
        """The flags that `finetune` has as keywords, for whichever strategies."""
        own = ("batch_size", "cache_memory", "cache_disk", "precision", "compile", "track")
        return {name: getattr(self, name) for name in own}

    def frozen_for(self, strategy: Strategy) -> FrozenPart:
        """How the frozen part runs for one strategy of several; for one that trains the whole detector, nothing is frozen."""
        return FrozenPart(precision=self.precision, compile=self.compile) if strategy.trains == "head" else USUAL
