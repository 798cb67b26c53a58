"""Adapters for tests."""

import torch

from ddit_ext.coarse import Adapter


def trained_adapter(transformer, rank=2):
    """An adapter whose additions are not zero."""
    adapter = Adapter.create(transformer, rank=rank)
    generator = torch.Generator().manual_seed(5)
    for size in adapter.sizes.values():
        for low_rank in size.lora.values():
            torch.nn.init.normal_(low_rank.b, std=0.3, generator=generator)
    return adapter.eval()
