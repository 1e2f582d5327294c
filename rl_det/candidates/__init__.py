"""A detector's candidates, which are (proposal, class) pairs: selection, observation, and suppression of duplicates."""

from rl_det.candidates.nms import nms
from rl_det.candidates.observation import SHIFT_OF_ONE, Observation, clipped, observe
from rl_det.candidates.selection import column_of, gather_boxes, gather_logits, proposal_of, select_candidates

__all__ = [
    "SHIFT_OF_ONE",
    "Observation",
    "clipped",
    "column_of",
    "gather_boxes",
    "gather_logits",
    "nms",
    "observe",
    "proposal_of",
    "select_candidates",
]
