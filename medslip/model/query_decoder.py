"""Text queries ask the patches: a stack of pre-norm transformer decoder layers that also tells where it looked."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class QueryDecoderLayer(nn.TransformerDecoderLayer):
    """torch's pre-norm decoder layer, with the cross-attention map as a second output."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float, null_patch: bool = False) -> None:
        super().__init__(width, heads, feed_forward, dropout, batch_first=True, norm_first=True)
        if null_patch:
            self.multihead_attn = nn.MultiheadAttention(width, heads, dropout, add_zero_attn=True, batch_first=True)

    def forward(  # type: ignore[override]
        self, queries: Tensor, patches: Tensor, blocked: Tensor | None, with_attention: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Self-attention among queries, cross-attention to patches, feed-forward.

        Args:
            queries: B x Q x D.
            patches: B x N x D.
            blocked: Q x Q, True where the query of the row must not see that of the column; None blocks nothing.
            with_attention: Whether to return the maps.

        Returns:
            queries, B x Q x D, and the cross-attention, B x heads x Q x N, without the null patch, or None.
        """
        x = queries
        x = x + self._sa_block(self.norm1(x), attn_mask=blocked, key_padding_mask=None)
        looked, attention = self.multihead_attn(
            self.norm2(x), patches, patches, need_weights=with_attention, average_attn_weights=False
        )
        if attention is not None:
            attention = attention[..., : patches.shape[1]]
        x = x + self.dropout2(looked)
        x = x + self._ff_block(self.norm3(x))
        return x, attention


class QueryDecoder(nn.Module):
    """One stream's decoder. The final LayerNorm belongs to the model: both streams share it.

    Args:
        width: D.
        layers: Number of layers.
        heads: Attention heads a layer.
        feed_forward: Hidden width of the feed-forward part.
        dropout: Probability, in attention, residuals and feed-forward.
        null_patch: Whether every layer adds a patch of zeros, key and value, to look at where there is nothing to see.
            Without it softmax makes every query look somewhere, and background patches learn to serve; with it, a
            query's map sums to 1 at most.
    """

    def __init__(
        self,
        width: int = 256,
        layers: int = 4,
        heads: int = 4,
        feed_forward: int = 1024,
        dropout: float = 0.1,
        null_patch: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            QueryDecoderLayer(width, heads, feed_forward, dropout, null_patch) for _ in range(layers)
        )

    def forward(
        self, queries: Tensor, patches: Tensor, blocked: Tensor | None = None, with_attention: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Ask the patches.

        Args:
            queries: B x Q x D.
            patches: B x N x D.
            blocked: Q x Q, True where the query of the row must not see that of the column.
            with_attention: Whether to return the maps.

        Returns:
            B x Q x D, not yet normalised, and attention B x layers x heads x Q x N, or None.
        """
        maps: list[Tensor] = []
        for layer in self.layers:
            queries, attention = layer(queries, patches, blocked, with_attention)
            if attention is not None:
                maps.append(attention)
        return queries, torch.stack(maps, dim=1) if maps else None
