"""Some images of a batch, against a loop over its fields."""

import numpy as np
import pytest
from ap.hostile import NUM_CLASSES, hostile

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.matching import Matches, match, match_ranges

ROWS = [np.array([3, 0, 3]), np.array([], dtype=np.int64), slice(1, 4), slice(0, 0)]


def same(batch: DetectionBatch | TruthBatch | Matches, expected: DetectionBatch | TruthBatch | Matches) -> None:
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(batch, name), values, err_msg=name)
        assert getattr(batch, name).dtype == values.dtype


@pytest.mark.parametrize("rows", ROWS)
def test_rows_of_a_batch_are_rows_of_each_of_its_fields(rows: np.ndarray | slice) -> None:
    for batch in hostile(0):
        images = np.arange(len(batch))[rows]
        assert len(batch[rows]) == len(images)
        for name, values in vars(batch).items():
            slow = [values[image] for image in images]
            np.testing.assert_array_equal(getattr(batch[rows], name), np.array(slow).reshape(-1, *values.shape[1:]))


@pytest.mark.parametrize("rows", ROWS)
def test_the_matches_of_some_images_are_the_rows_of_all_matches(rows: np.ndarray | slice) -> None:
    detections, truths = hostile(1)
    ranges = [(0.0, 1e10), (100.0, 1000.0)]
    every = match_ranges(detections, truths, ranges, num_classes=NUM_CLASSES)
    same(every[rows], match_ranges(detections[rows], truths[rows], ranges, num_classes=NUM_CLASSES))
    alone = match(detections, truths, num_classes=NUM_CLASSES)[rows]
    same(alone, match(detections[rows], truths[rows], num_classes=NUM_CLASSES))
