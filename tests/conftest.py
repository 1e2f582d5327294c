"""One core for each of pytest's worker processes, as more threads than cores make everything slower; and compiled code that
is never older than its source."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[1] / "rl_det"

# numba compiles anew what was edited, but not what calls it from another file.
contents = [file.read_bytes() for file in sorted(LIBRARY.rglob("*.py"))]
source = hashlib.sha256(b"".join(content for content in contents if b"compiled" in content))
os.environ.setdefault("NUMBA_CACHE_DIR", str(LIBRARY / "__pycache__" / source.hexdigest()[:16]))

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def without_pages() -> Iterator[None]:
    """The runs of this module make no pages, which take a third of a small run's time and are tested in tests/report."""
    from rl_det.finetuning import pages

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pages, "PAGES", {})
        yield
