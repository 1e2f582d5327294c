"""Report the contents of a data set as text."""

from collections import Counter

from rl_det.data import Split
from rl_det.data.splits import Splits
from rl_det.progress import bar

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def check(data: Splits) -> str:
    """Decode every image, and count images, boxes, crowds and classes. ValueError names the first broken file."""
    lines = [f"{data.name}: {len(data.classes)} classes\n"]
    for split in SPLITS:
        dataset = data[split]
        boxes: Counter[str] = Counter()
        sizes: Counter[tuple[int, int]] = Counter()
        empty = crowds = 0
        with bar(f"check {split}", len(dataset)) as shown:
            for index in range(len(dataset)):
                sample = dataset[index]
                boxes.update(data.classes[label - 1] for label in sample.target.labels.tolist())
                crowds += int(sample.target.iscrowd.sum())
                empty += not len(sample.target.labels)
                height, width = sample.image.shape[-2:]
                sizes[width, height] += 1
                shown.advance()
        (low, _), (high, _) = min(sizes.items()), max(sizes.items())
        lines.append(
            f"{split}: {len(dataset)} images ({low[0]} x {low[1]} to {high[0]} x {high[1]} pixels), {boxes.total()} boxes, "
            f"{crowds} crowds, {empty} images without boxes\n"
        )
        lines.extend(f"  {name}: {boxes[name]} boxes\n" for name in data.classes)
    return "".join(lines)
