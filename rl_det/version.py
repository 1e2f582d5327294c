"""The library's version, which every floor may ask for; `pyproject.toml` has the same."""

__version__ = "0.1.0"
