"""The cache folder, and the names of what it holds; everything in it can be computed again."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """The folder $RL_DET_CACHE, or rl_det in the user's cache folder."""
    own = os.environ.get("RL_DET_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl_det"


def fingerprint(config: dict[str, Any]) -> str:
    """16 hex digits, which two configurations share only if they are equal."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]
