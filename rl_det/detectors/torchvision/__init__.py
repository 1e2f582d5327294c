"""torchvision's detectors as `Detector`s: two-stage and one-stage families, and the shipped `tiny`."""
