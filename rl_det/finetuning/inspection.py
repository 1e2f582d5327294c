"""Read a data set once: list all its faults, count what it holds, and draw some of its images with their boxes."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rl_det.data.annotated import AnnotatedImages, duplicates
from rl_det.data.check import Findings
from rl_det.data.decoding import decode
from rl_det.data.folder import Opened, read_folder
from rl_det.data.images import ImageLimits
from rl_det.progress import bar
from rl_det.report.figures import form_of, save
from rl_det.report.pictures import draw_boxes, draw_image
from rl_det.storage.files import write_with
from rl_det.text import printable

MOST_NAMED = 30
"""Names are written on pictures with at most so many boxes."""
NUM_PICTURES = 4
"""The images of each split that are drawn."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found in a data set."""

    opened: Opened
    findings: Findings

    @property
    def is_sound(self) -> bool:
        """Whether there is no fault."""
        return not self.findings.faults

    def text(self, path: Path) -> str:
        """The counts, the warnings and all faults, line by line."""
        lines = [self.opened.told(path), *self.opened.notes]
        for split, images in self.opened.splits.items():
            lines += [f"{split}: {counts_of(images)}", *(f"  {name}: {n}" for name, n in images.class_counts().items())]
        lines += [f"warning: {line}" for line in self.findings.told()]
        lines += [f"fault: {fault}" for fault in self.findings.faults]
        if self.findings.num_more:
            lines.append(f"and {self.findings.num_more} more faults")
        count = len(self.findings.faults) + self.findings.num_more
        lines.append(f"{count} faults" if count else "no fault")
        return "".join(f"{printable(line)}\n" for line in lines)

    def draw(self, file: Path) -> None:
        """Draw images spread over each split, with their boxes, a colour for each class."""
        splits = {split: images for split, images in self.opened.splits.items() if len(images)}
        figure = Figure(figsize=(3 * NUM_PICTURES, 3 * max(1, len(splits))), layout="constrained")
        axes = figure.subplots(max(1, len(splits)), NUM_PICTURES, squeeze=False)
        for row, (split, images) in zip(axes[: len(splits)], splits.items(), strict=True):
            places = np.linspace(0, len(images) - 1, NUM_PICTURES).astype(int).tolist()
            for each, place in zip(row, places, strict=True):
                try:
                    sample = images[place]
                except ValueError:  # a broken image, which is listed as a fault
                    each.set_axis_off()
                    continue
                target = sample.target
                draw_image(each, sample.image, f"{split}: image {target.image_id}")
                colours = [f"C{(label - 1) % 10}" for label in target.labels.tolist()]
                crowds, named = target.iscrowd.tolist(), len(images.classes) > 1 and len(colours) <= MOST_NAMED
                texts = [
                    images.classes[label - 1] + (" (crowd)" if crowd else "")
                    for label, crowd in zip(target.labels.tolist(), crowds, strict=True)
                ]
                draw_boxes(each, target.boxes, colours, texts=texts if named else ())
        write_with(file, lambda beside: save(figure, beside, form=form_of(file)))


def inspect(
    path: Path,
    *,
    strict: bool = False,
    limits: ImageLimits | None = None,
    keep_difficult: bool = False,
    test: Path | None = None,
) -> Inspection:
    """Read all files and decode all images. Raises DataError if nothing there is of a known layout."""
    findings = Findings(strict=strict)
    opened = read_folder(path, findings, limits=limits, keep_difficult=keep_difficult, test=test)
    for split, images in opened.splits.items():
        with bar(f"check {split}", len(images)) as shown:
            decode(images, findings, on_image=shown.advance)
    return Inspection(opened=opened, findings=findings)


def counts_of(images: AnnotatedImages) -> str:
    """The number of images, their sizes, and what their boxes are."""
    sizes = Counter(map(tuple, images.sizes.tolist()))
    low, high = (min(sizes, default=(0, 0)), max(sizes, default=(0, 0)))
    per_image = np.diff(images.ends)
    return (
        f"{len(images)} images ({low[0]} x {low[1]} to {high[0]} x {high[1]} pixels), {len(images.boxes)} boxes, "
        f"{int(images.iscrowd.sum())} crowds, {int((per_image == 0).sum())} images without boxes, {duplicates(images)} boxes "
        "that repeat another"
    )
