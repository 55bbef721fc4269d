"""The query decoder: torch's own decoder layer, with attention maps that say where it looked."""

import torch
from torch import nn

from medslip.model.query_decoder import QueryDecoder


def decoder(layers=2):
    torch.manual_seed(0)
    return QueryDecoder(width=16, layers=layers, heads=4, feed_forward=24, dropout=0.1).eval()


def test_it_computes_what_torchs_pre_norm_decoder_computes():
    """Published weights are those of torch's layer; any other order of operations would not fit them."""
    ours = decoder()
    layer = nn.TransformerDecoderLayer(16, 4, 24, 0.1, batch_first=True, norm_first=True)
    torchs = nn.TransformerDecoder(layer, 2).eval()
    torchs.load_state_dict(ours.state_dict())
    queries, patches = torch.randn(3, 5, 16), torch.randn(3, 9, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(queries, patches)[0], torchs(queries, patches), rtol=1e-5, atol=1e-5)


def test_maps_have_every_layer_and_head_and_each_row_sums_to_one():
    with torch.inference_mode():
        queries, patches = torch.randn(3, 5, 16), torch.randn(3, 9, 16)
        found, maps = decoder()(queries, patches, with_attention=True)
        silent, none = decoder()(queries, patches)
    assert maps.shape == (3, 2, 4, 5, 9)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 2, 4, 5))
    assert none is None
    torch.testing.assert_close(found, silent, rtol=1e-5, atol=1e-5)


def test_a_blocked_query_is_not_seen():
    """The vocabulary must not notice a free-text query."""
    blocked = torch.tensor([[False, True], [False, False]])
    queries, patches = torch.randn(1, 2, 16), torch.randn(1, 9, 16)
    other = queries.clone()
    other[:, 1] += 1
    with torch.inference_mode():
        first, second = decoder()(queries, patches, blocked)[0], decoder()(other, patches, blocked)[0]
    torch.testing.assert_close(first[:, 0], second[:, 0])
    assert (first[:, 1] - second[:, 1]).abs().max() > 0.01
