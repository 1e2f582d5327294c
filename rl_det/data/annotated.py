"""A split of a data set on disk: its listing, checked against the headers of its images, as samples."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from rl_det.data.check import HAIR, LARGEST_AREA, DataError, Findings, Repair, brief
from rl_det.data.files import digests
from rl_det.data.images import ImageLimits, read_header, read_image
from rl_det.data.listing import ListedBoxes, ListedImage, Listing
from rl_det.data.splits import digest
from rl_det.progress import SHORT_WORK, bar
from rl_det.types import Sample, Target


class AnnotatedImages:
    """One split, by rising image id, as pycocotools ranks; an image is decoded when it is asked for.

    Label k means `category_ids[k - 1]`, named `classes[k - 1]`. Opening checks everything except the pixels and adds what
    it finds to the findings; an entry with a fault is left out. Boxes are clipped to their image, and dropped if nothing
    is left or if they have no size. Crowds and areas are the files' own; without an area, it is the clipped box's.
    """

    def __init__(
        self, listing: Listing, categories: Mapping[int, str], findings: Findings, limits: ImageLimits | None = None
    ) -> None:
        self.path, self.root, self.limits = listing.path, listing.root, limits or ImageLimits()
        self.category_ids, self.classes = tuple(categories), tuple(categories.values())
        self.num_turned = 0
        sizes, rank = self._open_images(listing, findings)
        self._open_boxes(listing, findings, sizes, rank)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        own, (width, height) = self.images[index], self.sizes[index].tolist()
        image = read_image(own.file, own.entry, self.limits)
        if image.shape != (3, height, width):
            raise DataError(
                own.file, own.entry, f"its header says {width} x {height}, its pixels are {tuple(image.shape)}"
            )
        return Sample(image=image, target=self.target(index))

    def target(self, index: int) -> Target:
        """The true boxes of one image, without decoding it."""
        rows = slice(self.ends[index], self.ends[index + 1])
        return Target(
            boxes=torch.from_numpy(self.boxes[rows]).float(),
            labels=torch.from_numpy(self.labels[rows]),
            area=torch.from_numpy(self.area[rows]).float(),
            iscrowd=torch.from_numpy(self.iscrowd[rows]),
            image_id=self.images[index].image_id,
        )

    def file_of(self, index: int) -> Path:
        """The image's file."""
        return self.images[index].file

    def fingerprint(self, num_images: int | None = None) -> str:
        """A hash of all boxes and classes, and of each image's id, path in the data set and bytes: a copy has the same.

        The first call reads all files, or those of the first `num_images`, which a bar shows; later ones, of large data
        sets in later processes too, read what has changed.
        """
        columns = [column.tobytes() for column in (self.boxes, self.labels, self.area, self.iscrowd, self.ends)]
        contents = digests([own.file for own in self.images[:num_images]])
        named = [(relative(own.file, self.root), own.image_id) for own in self.images]
        return digest([self.classes, self.category_ids, columns, named, contents])

    def class_counts(self) -> dict[str, int]:
        """The number of boxes of each class, crowds included."""
        counts = np.bincount(self.labels, minlength=len(self.classes) + 1)[1:]
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def _open_images(
        self, listing: Listing, findings: Findings
    ) -> tuple[Int64[np.ndarray, "I 2"], Int64[np.ndarray, " I"]]:
        """Read the headers; the size of every listed image, and its place among those that can be used, or -1."""
        sizes = np.zeros((len(listing.images), 2), np.int64)
        usable = []
        with bar(f"headers of {listing.path.name}", len(listing.images), delay=SHORT_WORK) as shown:
            for position, image in enumerate(listing.images):
                shown.advance()
                try:
                    width, height = self._checked_size(image)
                except DataError as fault:
                    findings.add(fault)
                    continue
                sizes[position] = width, height
                usable.append(position)
        usable.sort(key=lambda position: listing.images[position].image_id)
        self.images = [listing.images[position] for position in usable]
        self.sizes = sizes[usable].reshape(-1, 2)
        rank = np.full(len(listing.images), -1)
        rank[usable] = np.arange(len(usable))
        return sizes, rank

    def _checked_size(self, image: ListedImage) -> tuple[int, int]:
        header = read_header(image.file, image.entry, self.limits)
        size = header.width, header.height
        if image.size is not None and image.size != size:
            upright = "upright it" if header.is_turned else "it"
            message = f"{self.path.name} gives its size as {brief(image.size)}, {upright} is {size} (width, height)"
            raise DataError(image.file, image.entry, message)
        self.num_turned += header.is_turned
        return size

    def _open_boxes(
        self, listing: Listing, findings: Findings, sizes: Int64[np.ndarray, "I 2"], rank: Int64[np.ndarray, " I"]
    ) -> None:
        """Check, clip and sort the boxes by image."""
        own = listing.boxes
        corners = np.array(own.corners, np.float64).reshape(-1, 4)
        image, area = np.array(own.image, np.int64), np.array(own.area, np.float64)
        known = np.isin(np.array(own.category_id, np.int64), self.category_ids)  # a category with a fault has no label
        fair = self._without_faults(own, corners, area, findings) & (rank[image] >= 0) & known
        sides = np.concatenate([sizes, sizes], 1)[image]
        with np.errstate(over="ignore", invalid="ignore"):
            inside = corners.clip(0, sides)
            empty = fair & ((corners[:, 2:] - corners[:, :2]).min(1, initial=np.inf) < HAIR)
            outside = fair & ~empty & ((inside[:, 2:] - inside[:, :2]).min(1, initial=np.inf) < HAIR)
            kept = fair & ~empty & ~outside
            clipped = kept & (np.abs(inside - corners).max(1, initial=0) > HAIR)
        repaired: dict[Repair, Bool[np.ndarray, " K"]] = {"clipped": clipped, "outside": outside, "empty": empty}
        for kind, rows in repaired.items():
            self._repair(own, findings, kind, rows)
        self._suspect(corners, sides, fair, outside | clipped, findings)
        order = np.flatnonzero(kept)
        order = order[np.argsort(rank[image[order]], kind="stable")]
        label_of = {category_id: label for label, category_id in enumerate(self.category_ids, start=1)}
        category = np.array(own.category_id, np.int64)[order]
        self.boxes = inside[order]
        self.labels = np.array([label_of[each] for each in category.tolist()], np.int64)
        self.area = np.where(np.isnan(area[order]), np.prod(self.boxes[:, 2:] - self.boxes[:, :2], axis=1), area[order])
        self.iscrowd = np.array(own.iscrowd, np.int64)[order].astype(bool)
        counts = np.bincount(rank[image[order]], minlength=len(self.images))
        self.ends = np.concatenate([[0], counts.cumsum()]).astype(np.int64)

    def _without_faults(
        self, own: ListedBoxes, corners: Float64[np.ndarray, "K 4"], area: Float64[np.ndarray, " K"], findings: Findings
    ) -> Bool[np.ndarray, " K"]:
        """Which boxes have neither a negative side nor an impossible area; the others are faults."""
        with np.errstate(invalid="ignore"):
            negative = (corners[:, 2:] - corners[:, :2]).min(1, initial=0) < 0
            wrong = (area < 0) | (area > LARGEST_AREA)
        for row in np.flatnonzero(negative | wrong).tolist():
            left, top, right, bottom = corners[row].tolist()
            message = (
                f"bbox [x, y, width, height] must not have a negative size; got {[left, top, right - left, bottom - top]}"
                if negative[row]
                else f"area must be a finite number, not negative; got {area[row]:g}"
            )
            findings.fault(self.path, own.named(own.number[row]), message)
        fair: Bool[np.ndarray, " K"] = ~(negative | wrong)
        return fair

    def _repair(self, own: ListedBoxes, findings: Findings, kind: Repair, rows: Bool[np.ndarray, " K"]) -> None:
        findings.repair(self.path, kind, [own.named(own.number[row]) for row in np.flatnonzero(rows).tolist()])

    def _suspect(
        self,
        corners: Float64[np.ndarray, "K 4"],
        sides: Int64[np.ndarray, "K 4"],
        fair: Bool[np.ndarray, " K"],
        leaving: Bool[np.ndarray, " K"],
        findings: Findings,
    ) -> None:
        """Find boxes in another form than the files' layout has."""
        count, out = int(fair.sum()), int(leaving.sum())
        if not count:
            return
        if corners[fair].max() <= 1 and (corners[fair] % 1 > 0).any():
            findings.fault(
                self.path,
                "annotations",
                f"all {count} boxes lie within the first pixel: are these shares of the image?",
            )
        elif 2 * out > count or out >= max(3, 0.3 * count):
            as_corners = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)[fair]
            fit = bool(((as_corners[:, 2:] > as_corners[:, :2]) & (as_corners[:, 2:] <= sides[fair][:, 2:] + 1)).all())
            cause = "they are x1, y1, x2, y2 by all appearance" if fit else "are they of images of another size?"
            findings.warn(f"{self.path}: {out} of {count} boxes leave their image; {cause}")


def relative(file: Path, folder: Path) -> str:
    """The file's path from a folder if it lies inside, else the whole path."""
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file)


def duplicates(images: AnnotatedImages) -> int:
    """The number of boxes that repeat another box of the same image and class."""
    rows: Counter[bytes] = Counter()
    owner = np.repeat(np.arange(len(images)), np.diff(images.ends))
    keys = np.concatenate([images.boxes, owner[:, None], images.labels[:, None]], 1)
    rows.update(key.tobytes() for key in keys)
    return sum(rows.values()) - len(rows)
