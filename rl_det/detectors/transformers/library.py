"""The transformers library, an optional extra, which is imported at first use."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rl_det.errors import UserError


def library() -> Any:
    """The transformers library. Raises ValueError, in one sentence, if it is not installed."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(
            "detectors of transformers need the transformers library, which cannot be imported "
            f"({error}); install it by pip install 'rl_det[transformers]'"
        ) from error


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """The library loads and saves without its own progress bars."""
    logging = library().utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
