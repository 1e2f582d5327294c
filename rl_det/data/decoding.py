"""Decode the images of a split once, on all cores, without keeping them: which are broken, and how bright are they?"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from rl_det.data.annotated import AnnotatedImages
from rl_det.data.check import DataError, Findings
from rl_det.data.images import brightest_pixel

DARK = 0.1
"""A split whose brightest pixel is below this share of the range is warned of."""
DECODED_AT_ONCE = 64


def decode(
    images: AnnotatedImages, findings: Findings, *, places: Iterable[int] | None = None, on_image: Callable[[], None]
) -> None:
    """Decode the images at these places, by default all; add broken ones, and a range that is hardly used, to the findings."""
    chosen = list(range(len(images)) if places is None else places)
    brightest, num_broken = 0.0, 0

    def one(place: int) -> float | DataError:
        own, (width, height) = images.images[place], images.sizes[place].tolist()
        try:
            return brightest_pixel(own.file, own.entry, (width, height), images.limits)
        except DataError as fault:
            return fault
        finally:
            on_image()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(chosen), DECODED_AT_ONCE):
            for found in pool.map(one, chosen[start : start + DECODED_AT_ONCE]):
                if isinstance(found, DataError):
                    findings.add(found)
                    num_broken += 1
                else:
                    brightest = max(brightest, found)
    if chosen and brightest < DARK and not num_broken:
        findings.warn(
            f"{images.path}: the brightest pixel of {len(chosen)} images is at {100 * brightest:.0f} % of the range: are they "
            "of fewer bits than their files? a detector sees them nearly black"
        )
