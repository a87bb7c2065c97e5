"""csr_linear on real layers, pruned at random, against the fastest dense form or torch CSR."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks._device import for_card
from benchmarks.layers import LINEARS
from sparse_ops.formats import CSRWeight
from sparse_ops.ops.csr_linear import BACKENDS, csr_linear

SHOWN = [
    (layer, sparsity, batch, BACKENDS[0])
    for layer in LINEARS
    for sparsity in (0.9, 0.983)
    for batch in (1, 16, 128)
]
FULL = [
    (layer, sparsity, batch, backend)
    for layer in LINEARS
    for sparsity in (0.8, 0.9, 0.95, 0.983, 0.99)
    for batch in (1, 4, 16, 64, 128, 256)
    for backend in BACKENDS[:-1]
    if (layer, sparsity, batch, backend) not in SHOWN
]
CARD = [
    (layer, sparsity, batch, backend)
    for layer in LINEARS
    for sparsity in (0.9, 0.95, 0.99)
    for batch in (1, 8, 16)
    for backend in for_card(BACKENDS, ["triton"])
]


@pytest.mark.parametrize("against", ["dense", "torch.sparse_csr"])
@pytest.mark.parametrize(
    ("layer", "sparsity", "batch", "backend"),
    SHOWN
    + [pytest.param(*case, marks=pytest.mark.full) for case in FULL]
    + [pytest.param(*case, marks=pytest.mark.on_card) for case in CARD],
)
def bench_csr_linear(race, layer, sparsity, batch, backend, against):
    place, generator = race.place, torch.Generator().manual_seed(1)
    layer, batch = place.small(layer, batch)
    shape = (layer.out_features, layer.in_features)
    mask = torch.rand(shape, generator=generator) >= sparsity
    weight = place.put(torch.randn(shape, generator=generator) * mask)
    x = place.put(torch.randn(batch, layer.in_features, generator=generator))
    bias = place.put(torch.randn(layer.out_features, generator=generator))
    packed = CSRWeight.pack(weight, mask.to(weight.device))
    if reason := backend.refuses(x, packed, bias, None, None):
        pytest.skip(reason)
    forms = place.linear_forms(x, weight, bias)
    if against != "dense" and place.device == "cuda":
        pytest.skip("on a card, cuBLAS is what there is to beat")
    if against != "dense":
        torch_csr = weight.to_sparse_csr()

        # torch cannot multiply its own CSR tensors in inference mode.
        def torch_linear() -> torch.Tensor:
            with torch.inference_mode(False), torch.no_grad():
                return F.linear(x, torch_csr, bias)

        forms = {against: torch_linear}
    row = {
        "operator": "linear",
        "network": layer.network,
        "layer": layer.label,
        "what": f"{sparsity:.1%}",
        "backend": backend.name,
        "batch": batch,
        "kept": packed.nnz / mask.numel(),
        "ideal": mask.numel() / packed.nnz,
    }
    race(
        row,
        forms,
        {"contiguous": lambda: csr_linear(x, packed, bias, backend=backend.name)},
        F.linear(x.double(), weight.double(), bias.double()),
        packed.nnz * batch,
        place.itemsize * (x.numel() + batch * layer.out_features + packed.nnz) + 4 * packed.nnz,
    )
