"""The library's version, which every floor may ask for; the package is built with it."""

__version__ = "0.1.0"
