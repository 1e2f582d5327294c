"""transformers' query detectors as `Detector`s; the library is an optional extra, imported at first use."""
