"""Cross-entropy, entry by entry: the baseline for surrogates of AP, because it ranks nothing."""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rl_det.losses.listwise import graded_lists


def cross_entropy(
    scores: Float[Tensor, "*lists M"],
    relevance: Float[Tensor, "..."],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    num_positives: Float[Tensor, "..."] | float | None = None,
) -> Float[Tensor, ""]:
    """The binary cross-entropy between each score, a logit, and its relevance in [0, 1], summed and divided by |P|.

    After a one-to-one matching, this is the loss of learned NMS (Hosang et al. 2017). Without relevant entries it still
    lowers all scores. `num_positives`: see `ranked_lists.ranked_lists`. The gradient is autograd's.
    """
    lists, wanted = graded_lists(scores, relevance, mask, num_positives)
    if (wanted > 1).any():
        raise ValueError(f"relevance must not be above 1; got {float(wanted.max())}; an IoU, or 0, is usual")
    surprise = binary_cross_entropy_with_logits(lists.scores, wanted, reduction="none")
    return (lists.share[:, None] * surprise.where(lists.positive | lists.negative, 0.0)).sum()
