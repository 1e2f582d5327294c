"""The small set transformer of the context policy: it improves each candidate's logit by looking at all candidates.

A detector's head scores every candidate alone. But a candidate's right place in the ranking also depends on its
neighbours: a duplicate is worthless beside a better one, and the best localised of several is worth the most. The
module sees each candidate's embedding, box, class and logit. It also sees the IoU, class, order and geometry between
each two candidates, as a bias on the attention. (Hu et al. 2018, "Relation networks", put such relations into the
weights; we add them to the logits of ordinary attention.) The module depends only on torch, so it can be exported and
called on a plain detector's candidates.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rl_det.boxes import area, iou
from rl_det.candidates.votes import LOGIT_RANGE
from rl_det.policies.recalibrated_module import RecalibratedModule

NUM_ATTENDED = 96
"""The number of best candidates that attend to each other; the candidates after them keep their logits."""
NUM_RELATIONS = 8


class ContextModule(RecalibratedModule):
    """Add a residual to the logits [B, N] of candidates that are sorted best first; at the start the residual is exactly 0."""

    def __init__(
        self, *, num_classes: int, embedding_size: int, width: int = 96, num_heads: int = 4, num_layers: int = 3
    ) -> None:
        super().__init__(num_classes)
        self.num_heads = num_heads
        self.embedding = nn.Linear(embedding_size, width)
        self.label = nn.Embedding(num_classes + 1, width)
        self.numbers = nn.Sequential(nn.Linear(5, width), nn.GELU(), nn.Linear(width, width))
        self.relations = nn.Sequential(nn.Linear(NUM_RELATIONS, 16), nn.GELU(), nn.Linear(16, num_heads * num_layers))
        self.layers = nn.ModuleList([ContextLayer(width, num_heads) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(width)
        self.residual = nn.Linear(width, 1)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)

    def forward(
        self,
        boxes: Float[Tensor, "B N 4"],
        labels: Int[Tensor, "B N"],
        logits: Float[Tensor, "B N"],
        mask: Bool[Tensor, "B N"],
        embeddings: Float[Tensor, "B N D"],
    ) -> Float[Tensor, "B N"]:
        """The improved logits; boxes are relative to the image, in [0, 1].

        No gradient flows through the logits that the residual takes as input.
        """
        behind = max(0, boxes.shape[1] - NUM_ATTENDED)
        ahead = slice(None), slice(NUM_ATTENDED)
        residual = self._residual(boxes[ahead], labels[ahead], logits.detach()[ahead], mask[ahead], embeddings[ahead])
        return self.recalibrated(logits + F.pad(residual, (0, behind)) * mask, labels - 1)

    def _residual(self, boxes: Tensor, labels: Tensor, logits: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
        seen = logits.clamp(-LOGIT_RANGE, LOGIT_RANGE)
        corner, size = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
        numbers = torch.cat([corner, size, seen[..., None] / 4], -1)
        tokens = self.embedding(embeddings) + self.label(labels) + self.numbers(numbers)
        bias = self.relations(pairwise_relations(boxes, labels, seen)).permute(0, 3, 1, 2)
        bias = bias.masked_fill(~mask[:, None, None, :], -1e4)
        for layer, own_bias in zip(self.layers, bias.split(self.num_heads, 1), strict=True):
            tokens = layer(tokens, own_bias)
        residual: Tensor = self.residual(self.norm(tokens))
        return residual[..., 0]


class ContextLayer(nn.Module):
    """Attention with a given bias, and a feed-forward net, each with a skip connection."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projections, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Float[Tensor, "B N D"], bias: Float[Tensor, "B H N N"]) -> Float[Tensor, "B N D"]:
        projected = self.projections(self.norm_attention(tokens)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        tokens = tokens + self.output(attended.transpose(1, 2).flatten(2))
        forwarded: Tensor = self.feed_forward(self.norm_forward(tokens))
        return tokens + forwarded


def pairwise_relations(
    boxes: Float[Tensor, "B N 4"], labels: Int[Tensor, "B N"], logits: Float[Tensor, "B N"]
) -> Float[Tensor, "B N N R"]:
    """The relations of candidate j to candidate i; boxes are relative to the image.

    In this order: IoU; 1 if the classes are equal; the product of both; 1 if j has the higher logit; that times the
    product; the difference of the logits (squashed by tanh); the distance of the centres; the difference of the log
    areas (squashed).
    """
    overlap = iou(boxes[:, :, None], boxes[:, None])
    same = (labels[:, :, None] == labels[:, None]).to(boxes.dtype)
    gap = logits[:, None] - logits[:, :, None]
    above = (gap > 0).to(boxes.dtype)
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    distance = (centre[:, :, None] - centre[:, None]).square().sum(-1).add(1e-12).sqrt()
    log_area = area(boxes).clamp(min=1e-9).log()
    size = torch.tanh(log_area[:, None] - log_area[:, :, None])
    both = overlap * same
    return torch.stack([overlap, same, both, above, above * both, torch.tanh(gap / 4), distance, size], -1)
