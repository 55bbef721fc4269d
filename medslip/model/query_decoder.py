"""Text queries attend to patches: a stack of pre-norm transformer decoder layers that can return their attention maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class QueryDecoderLayer(nn.TransformerDecoderLayer):
    """torch's pre-norm decoder layer, with the cross-attention map as a second output."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float, add_zero_attn: bool = False) -> None:
        super().__init__(width, heads, feed_forward, dropout, batch_first=True, norm_first=True)
        if add_zero_attn:
            self.multihead_attn = nn.MultiheadAttention(width, heads, dropout, add_zero_attn=True, batch_first=True)

    def forward(  # type: ignore[override]
        self, queries: Tensor, patches: Tensor, blocked: Tensor | None, with_attention: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Self-attention among queries, cross-attention to patches, feed-forward.

        Args:
            queries: B x Q x D.
            patches: B x N x D.
            blocked: Q x Q, True where the query of the row must not see that of the column; None blocks nothing.
            with_attention: Whether to return the map.

        Returns:
            queries, B x Q x D, and the cross-attention to the patches, B x heads x Q x N, or None.
        """
        x = queries + self._sa_block(self.norm1(queries), attn_mask=blocked, key_padding_mask=None)
        attended, attention = self.multihead_attn(
            self.norm2(x), patches, patches, need_weights=with_attention, average_attn_weights=False
        )
        x = x + self.dropout2(attended)
        x = x + self._ff_block(self.norm3(x))
        return x, None if attention is None else attention[..., : patches.shape[1]]


class QueryDecoder(nn.Module):
    """The decoder of one stream. The final LayerNorm belongs to the model, because both streams share it.

    Args:
        width: D.
        layers: Number of layers.
        heads: Attention heads per layer.
        feed_forward: Hidden width of the feed-forward part.
        dropout: Probability, in attention, residuals and feed-forward.
        add_zero_attn: Whether queries can also attend to a zero key and value, as in torch.nn.MultiheadAttention. Without it
            the softmax makes every query attend to some patch, and background patches learn to serve as "nothing here";
            with it, a query's map over the patches sums to at most 1.
    """

    def __init__(
        self,
        width: int = 256,
        layers: int = 4,
        heads: int = 4,
        feed_forward: int = 1024,
        dropout: float = 0.1,
        add_zero_attn: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            QueryDecoderLayer(width, heads, feed_forward, dropout, add_zero_attn) for _ in range(layers)
        )

    def forward(
        self, queries: Tensor, patches: Tensor, blocked: Tensor | None = None, with_attention: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Run all layers.

        Args:
            queries: B x Q x D.
            patches: B x N x D.
            blocked: Q x Q, True where the query of the row must not see that of the column.
            with_attention: Whether to return the maps.

        Returns:
            B x Q x D, not yet normalised, and the cross-attention maps B x layers x heads x Q x N, or None.
        """
        maps: list[Tensor] = []
        for layer in self.layers:
            queries, attention = layer(queries, patches, blocked, with_attention)
            if attention is not None:
                maps.append(attention)
        return queries, torch.stack(maps, dim=1) if maps else None
