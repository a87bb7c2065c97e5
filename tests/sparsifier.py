"""A sparsifier of torch.ao.pruning, for the tests that read what such leave on models."""

import torch
from torch.ao.pruning import BaseSparsifier


class RandomSparsifier(BaseSparsifier):
    """Removes a random part of each weight. (torch 2.13's own one fails on 3×3 convolutions.)"""

    def update_mask(self, module, tensor_name, sparsity=0.5, **kwargs):
        mask = getattr(module.parametrizations, tensor_name)[0].mask
        mask.data = (torch.rand_like(mask) >= sparsity).to(mask.dtype)


def sparsify(model, names, sparsity):
    """Puts such masks on the named weights, in place, leaves them there, and gives the tool."""
    tool = RandomSparsifier({"sparsity": sparsity})
    tool.prepare(model, [{"tensor_fqn": name} for name in names])
    tool.step()
    return tool
