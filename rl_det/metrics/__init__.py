"""Detections and true boxes -> what they are worth: COCO's figures, the exact change of mAP, calibration, operating points."""
