"""The module of the voting policy: the proposals around each candidate vote for a better box and logit.

Several proposals lie on every object, and the head refines each of them alone. The mean of their boxes is more precise
than the best box ("box voting", Gidaris and Komodakis 2015). Their agreement tells how precise the box is, and the mean
of their logits how certain the class is. This module learns the votes' weights, the step towards the mean, and the
effect of agreement. It sees only a few numbers and no embedding, so it can hardly memorise images. What is exported
depends only on torch.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rl_det.boxes import iou
from rl_det.candidates.neighbours import is_traced, neighbours
from rl_det.candidates.selection import column_of
from rl_det.candidates.votes import LOGIT_RANGE, SHARPNESS, SOFTNESS
from rl_det.policies.recalibrated_module import RecalibratedModule

NUM_PAIR_NUMBERS, NUM_NUMBERS = 5, 12


class VotingModule(RecalibratedModule):
    """The boxes and logits of candidates [B, N] after the vote; at the start both are unchanged."""

    def __init__(self, num_classes: int, *, width: int = 32) -> None:
        super().__init__(num_classes)
        weight, self.verdict = nn.Linear(16, 1), nn.Linear(width, 2)
        self.weight = nn.Sequential(nn.Linear(NUM_PAIR_NUMBERS, 16), nn.GELU(), weight)
        self.trust = nn.Sequential(nn.Linear(NUM_NUMBERS, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.mean_share = nn.Parameter(torch.zeros(()))
        for last in (weight, self.verdict):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def opinion(self, seen: Float[Tensor, "5 pairs"]) -> Float[Tensor, " pairs"]:
        """What the pairs' weights have in their logarithms beside the overlap and the worth.

        It is `self.weight` with the pairs along the rows: its products, and those of its gradient, take a quarter of the time.
        """
        values = seen
        for layer in self.weight:
            own = layer if isinstance(layer, nn.Linear) else None
            values = layer(values) if own is None else torch.addmm(own.bias[:, None], own.weight, values)
        return values[0]

    @torch.no_grad()
    def vote_plainly(self, step: float, mean_share: float) -> None:
        """Set hand-set votes: move every box by `step` towards its neighbours' mean, and every logit by `mean_share`."""
        self.verdict.bias.copy_(self.verdict.bias.new_tensor([0.0, step]))
        self.mean_share.fill_(mean_share)

    def forward(
        self,
        boxes: Float[Tensor, "B N 4"],
        logits: Float[Tensor, "B N"],
        index: Int[Tensor, "B N"],
        all_boxes: Float[Tensor, "B P C 4"],
        all_logits: Float[Tensor, "B P C"],
    ) -> tuple[Float[Tensor, "B N 4"], Float[Tensor, "B N"]]:
        """The boxes and logits after the vote, with gradient to the head through both; all boxes are relative to the image."""
        num_proposals, num_classes = all_logits.shape[1:]
        row, proposal = neighbours(boxes, index, all_boxes)
        first = torch.arange(index.shape[0], device=index.device)[:, None] * num_proposals * num_classes
        pair = (first + column_of(index, num_classes)).flatten().index_select(0, row) + proposal * num_classes
        seat = row
        if not is_traced():
            seat, row, pair = rounded_up(row, pair, index.numel())

        def of_own(values: Tensor) -> Tensor:
            """The values of each pair's candidate, from those of all candidates."""
            return values.index_select(0, row)

        def of_voter(values: Tensor) -> Tensor:
            """The values of each pair's proposal in the candidate's class, from those of all [B, P, C, ...]."""
            return values.flatten(0, 2).index_select(0, pair)

        def total(values: Tensor) -> Tensor:
            """The sum over each candidate's neighbours."""
            if seat is row:
                return values.new_zeros(index.numel(), *values.shape[1:]).index_add(0, row, values)
            return values.new_zeros(index.numel() + 1, *values.shape[1:]).index_add(0, seat, values)[:-1]

        own_boxes, own_logits = boxes.flatten(0, 1), logits.flatten()
        own_places, voters, votes = of_own(own_boxes), of_voter(all_boxes), of_voter(all_logits)
        with torch.no_grad():
            seen = all_logits.clamp(-LOGIT_RANGE, LOGIT_RANGE)
            rivals = rival_logits(seen)
            vote, rival, worth = of_voter(seen), of_voter(rivals), of_voter(nn.functional.logsigmoid(seen))
            own, own_rival = seen.flatten(1).gather(1, index).flatten(), rivals.flatten(1).gather(1, index).flatten()
            own_vote = of_own(own)
            overlap = iou(voters, own_places)
            start = (overlap - 1) / SHARPNESS + 0.5 * worth
            seen_of_pair = torch.stack(
                [4 * overlap - 3, vote / 4, (vote - own_vote) / 4, (rival - vote) / 4, own_vote / 4]
            )
            near = ((overlap - 1) / SHARPNESS).exp()
            support = total(near)
            near = near / of_own(support)
            side = (own_boxes[:, 2:] - own_boxes[:, :2]).repeat(1, 2).clamp(min=1 / 64)
            offset = (voters - own_places) / of_own(side)
            mean_offset = total(near[:, None] * offset)
            spread = (total(near[:, None] * offset.square()) - mean_offset.square()).clamp(min=1e-6).sqrt()
            best = torch.full_like(own, -LOGIT_RANGE).scatter_reduce(0, row, vote, "amax")
            numbers = torch.stack(
                [
                    own / 4, total(near * vote) / 4, (best - own) / 4, own_rival / 4, total(near * rival) / 4,
                    support.log() - 1, spread.mean(-1).log() + 3, spread.amax(-1).log() + 2.5,
                    10 * mean_offset.abs().mean(-1), side[:, :2].prod(-1).log() / 2 + 1.5,
                    (side[:, 0] / side[:, 1]).log(), 4 * total(overlap) / total(torch.ones_like(overlap)) - 3,
                ],
                -1,
            )  # fmt: skip
            soft = ((overlap - 1) / SOFTNESS).exp()
            soft = soft / of_own(total(soft))
        weight = (start + self.opinion(seen_of_pair)).clamp(max=20.0).exp()
        weight = weight / of_own(total(weight))
        change, step = self.verdict(self.trust(numbers)).unbind(-1)
        voted = own_boxes + step[:, None] * total(weight[:, None] * (voters - own_places))
        agreed = own_logits + change + self.mean_share * (total(soft * votes) - own_logits)
        near_corner, far_corner = voted.split(2, -1)  # a step beyond the mean can turn a thin box inside out
        voted = torch.cat([near_corner.minimum(far_corner), near_corner.maximum(far_corner)], -1)
        return voted.view_as(boxes), self.recalibrated(agreed.view_as(logits), column_of(index, num_classes))


def rounded_up(
    row: Int[Tensor, " pairs"], pair: Int[Tensor, " pairs"], num_candidates: int
) -> tuple[Int[Tensor, " more"], Int[Tensor, " more"], Int[Tensor, " more"]]:
    """The pairs, with copies of the last one up to a number of three binary digits.

    Each update has another number of pairs, and memory that was freed at one size seldom fits the next one; so a run's
    memory would grow. The first result is the row that a pair's values are summed in: for copies, the one behind all rows.
    """
    more = -len(row) % (1 << max(0, len(row).bit_length() - 3))
    if not more:
        return row, row, pair
    seat = torch.cat([row, row.new_full((more,), num_candidates)])
    row, pair = (torch.cat([values, values[-1:].expand(more)]) for values in (row, pair))
    return seat, row, pair


def rival_logits(logits: Float[Tensor, "B P C"]) -> Float[Tensor, "B P C"]:
    """For each class, the proposal's best logit of another class; with one class, the logit of the class itself."""
    best, second = logits.topk(min(2, logits.shape[-1]), -1).values[..., [0, -1]].split(1, -1)
    return torch.where(logits == best, second, best)
