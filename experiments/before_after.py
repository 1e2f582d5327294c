"""Question: what does a tuned detector see in test scenes that the shipped one does not?

Command: python experiments/before_after.py --before WARM/warm_start --after RUN/ppo --out experiments/before_after.png
Minutes: less than one. RUN is the folder of `make demo`; WARM that of `rl_det.finetune` with the strategy
`rl_det.strategies.hand_set.WarmStart()`, `baselines=False` and the same budget. The README's picture was made so, from seed 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import rl_det
from rl_det.program import ProgramFlags, program
from rl_det.report.figures import save
from rl_det.report.pictures import draw_boxes, draw_image, shown
from rl_det.storage.files import write_with
from rl_det.types import Detections, Sample


@dataclass(frozen=True, kw_only=True)
class Arguments(ProgramFlags):
    """What is drawn, and where to."""

    before: Path
    """A folder that a run has exported: the detector before."""
    after: Path
    """The same: the detector after."""
    out: Path
    """The picture to write, a PNG."""
    indices: tuple[int, ...] = (0, 1, 2)
    """Test scenes, by position."""
    threshold: float = 0.5
    """Detections from this score on are drawn."""


def main(arguments: Arguments) -> None:
    """Two rows: before and after."""
    test = rl_det.digit_scenes(train=1, val=1, test=max(arguments.indices) + 1).test
    samples = [test[index] for index in arguments.indices]
    figure = Figure(figsize=(4 * len(samples), 8.4), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(2, len(samples), squeeze=False)
    for row, (title, folder) in enumerate((("before", arguments.before), ("after", arguments.after))):
        tuned = rl_det.load_tuned(folder)
        found = tuned.detect([sample.image for sample in samples])
        for axes, sample, own in zip(places[row], samples, found, strict=True):
            draw(axes, sample, own, tuned.classes, arguments.threshold, title)
    write_with(arguments.out, lambda file: save(figure, file, form="png", dpi=55))


def draw(axes: Axes, sample: Sample, found: Detections, classes: Sequence[str], threshold: float, title: str) -> None:
    """Draw detections of at least `threshold`: correct ones green, wrong ones red, missed objects white (COCO, IoU 0.5)."""
    kept, right, missed = outcome = shown(sample.target, found, len(classes), threshold)
    draw_image(axes, sample.image, f"{title}: {outcome.counts}")
    draw_boxes(axes, sample.target.boxes[missed], "white")
    for chosen, colour in ((right, "lime"), (~right, "red")):
        names = [classes[label - 1] for label in kept["labels"][chosen].tolist()]
        draw_boxes(axes, kept["boxes"][chosen], colour, texts=names, width=1.8)


if __name__ == "__main__":
    with program(again=""):
        main(tyro.cli(Arguments))
