"""An image's candidates, all together -> a better logit for each: the small set transformer of the context policy.

A detector's head scores every candidate alone. What makes a candidate worth its place in the ranking is partly its
neighbours: a duplicate is worthless beside a better one, and the best placed of several is worth the most. The module
sees each candidate's embedding, box, class and logit, and between each two their IoU, class, order and geometry, as a bias on
the attention (Hu et al. 2018, "Relation networks", put such relations into the weights; we add them to the logits of
ordinary attention). It depends on torch alone, so that it can be exported and called on a plain detector's candidates.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

LOGIT_RANGE = 12.0
NUM_ATTENDED = 96
"""The best candidates of an image see each other; those behind them keep their logits."""
NUM_RELATIONS = 8


class ContextModule(nn.Module):
    """Candidates [B, N], best first -> their logits [B, N] plus a residual; at the start the residual is exactly zero.

    `scale` and `shift` are the recalibration, by which the order does not change: identity until it is fitted.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, *, num_classes: int, embedding_size: int, width: int = 96, num_heads: int = 4, num_layers: int = 3
    ) -> None:
        super().__init__()
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
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def forward(
        self,
        boxes: Float[Tensor, "B N 4"],
        labels: Int[Tensor, "B N"],
        logits: Float[Tensor, "B N"],
        mask: Bool[Tensor, "B N"],
        embeddings: Float[Tensor, "B N D"],
    ) -> Float[Tensor, "B N"]:
        """Boxes are relative to the image, in [0, 1]; what the residual sees of the logits carries no gradient."""
        behind = max(0, boxes.shape[1] - NUM_ATTENDED)
        ahead = slice(None), slice(NUM_ATTENDED)
        residual = self._residual(boxes[ahead], labels[ahead], logits.detach()[ahead], mask[ahead], embeddings[ahead])
        better: Tensor = self.scale * (logits + F.pad(residual, (0, behind)) * mask) + self.shift
        return better

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
    """Attention with a given bias, and a feed-forward net, each beside an identity."""

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
    """What candidate j is to candidate i: IoU, same class, both; above it in order, and overlapping; logit, place, size."""
    corner, far = boxes[..., :2], boxes[..., 2:]
    area = (far - corner).clamp(min=0).prod(-1)
    sides = torch.minimum(far[:, :, None], far[:, None]) - torch.maximum(corner[:, :, None], corner[:, None])
    shared = sides.clamp(min=0).prod(-1)
    iou = shared / (area[:, :, None] + area[:, None] - shared).clamp(min=1e-9)
    same = (labels[:, :, None] == labels[:, None]).to(boxes.dtype)
    gap = logits[:, None] - logits[:, :, None]
    above = (gap > 0).to(boxes.dtype)
    centre = (corner + far) / 2
    distance = (centre[:, :, None] - centre[:, None]).square().sum(-1).add(1e-12).sqrt()
    log_area = area.clamp(min=1e-9).log()
    size = torch.tanh(log_area[:, None] - log_area[:, :, None])
    both = iou * same
    return torch.stack([iou, same, both, above, above * both, torch.tanh(gap / 4), distance, size], -1)
