"""The average LRP loss: one number for the precision and the localisation of all positives."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl_det.losses.ranked_lists import (
    MAX_PAIRS,
    check_delta,
    check_finite,
    check_shape,
    every_entry,
    ranked_lists,
    rows,
    step,
    with_gradient,
)


def alrp_loss(
    scores: Float[Tensor, "*lists M"],
    positive: Bool[Tensor, "..."],
    localisation_error: Float[Tensor, "..."],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    delta: float = 1.0,
    num_positives: Float[Tensor, "..."] | float | None = None,
    max_pairs: int = MAX_PAIRS,
) -> Float[Tensor, ""]:
    """The aLRP loss (Oksuz et al. 2020), for each list by itself.

    Let E be a positive's localisation error, such as (1 - IoU) / (1 - 0.5), and H the step of `ranked_lists.step`:

        l_i = (FP_i + E_i + sum over k in P, k != i, of H(x_ik) E_k) / rank_i     target E_i / rank_i     loss = mean of l_i

    The update raises the score s_i by the difference between l_i and its target, and lowers the negatives above it by
    their shares of that difference in H. If there are no negatives above it, the error remains and moves no score. E
    gets the derivative of the loss at these ranks: high-ranked positives weigh most, so boxes and scores learn
    together. Without positives the loss is 0 with a graph. `num_positives`: see `ranked_lists.ranked_lists`.
    """
    check_delta(delta)
    check_shape("localisation_error", localisation_error, scores)
    lists = ranked_lists(scores, positive, mask, num_positives)
    given = localisation_error.to(lists.scores.dtype).reshape(lists.scores.shape).where(lists.positive, 0.0)
    check_finite("localisation_error", given)
    columns, error = every_entry(lists), given.detach()
    value, raised = lists.scores.new_zeros(()), torch.zeros_like(lists.scores)
    lowered, of_error = torch.zeros_like(lists.scores), torch.zeros_like(lists.scores)
    for chunk in rows(lists, lists.scores.shape[1], max_pairs):
        above = step(chunk.per_list(columns.scores) - chunk.scores, delta)
        own = error[chunk.of_list, chunk.entry]
        true, num_false = above * chunk.per_list(columns.positive), (above * chunk.per_list(columns.negative)).sum(1)
        rank = num_false + true.sum(1) + 0.5  # itself counts 1, and has H = 1/2
        others = (true * chunk.per_list(error)).sum(1) - 0.5 * own
        weight = chunk.share / rank
        value += (weight * (num_false + own + others)).sum()
        excess = (weight * (num_false + others)).where(num_false > 0, 0.0)
        raised[chunk.of_list, chunk.entry] = excess
        blame = excess / num_false.clamp(min=torch.finfo(above.dtype).tiny)
        lowered += chunk.summed(above * blame[:, None], len(lists.scores))
        of_error += chunk.summed(true * weight[:, None], len(lists.scores))
        of_error[chunk.of_list, chunk.entry] += 0.5 * weight
    return with_gradient(value, (lists.scores, lowered * lists.negative - raised), (given, of_error))
