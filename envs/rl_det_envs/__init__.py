"""Register rl_det's environments with Gymnasium, on import: actions on a detector's candidates, rewards by a metric."""

from gymnasium.envs.registration import register

for name, module in {
    "AdjustDetections": "adjust_detections",
    "RefineBoxes": "refine_boxes",
    "RescoreDetections": "rescore_detections",
    "SelectDetections": "select_detections",
    "TunePostprocessing": "tune_postprocessing",
}.items():
    register(
        id=f"rl_det/{name}-v0",
        entry_point=f"rl_det_envs.{module}:{name}",
        vector_entry_point=f"rl_det_envs.{module}:{name}Vector",
    )
