"""Importing this registers the environments of rl_det with Gymnasium: a detector's candidates come in, rewards go out."""

from gymnasium.envs.registration import register

register(
    id="rl_det/AdjustDetections-v0",
    entry_point="rl_det_envs.adjust_detections:AdjustDetections",
    vector_entry_point="rl_det_envs.adjust_detections:AdjustDetectionsVector",
)
register(
    id="rl_det/RescoreDetections-v0",
    entry_point="rl_det_envs.rescore_detections:RescoreDetections",
    vector_entry_point="rl_det_envs.rescore_detections:RescoreDetectionsVector",
)
register(
    id="rl_det/SelectDetections-v0",
    entry_point="rl_det_envs.select_detections:SelectDetections",
    vector_entry_point="rl_det_envs.select_detections:SelectDetectionsVector",
)
