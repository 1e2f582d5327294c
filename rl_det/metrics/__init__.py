"""Figures for reports: COCO's twelve by pycocotools, operating points, LRP, calibration, oracles, and all of them at once."""
