"""Masks: read from anyone's zeros, checked, applied, kept in files."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sparse_ops import masks as M
from tests.sparsifier import sparsify


def model():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))


def test_prunable_are_the_weights_of_convolutions_and_linear_layers_each_once():
    net = model()
    net.append(nn.Linear(16, 3))
    net[4].weight = net[3].weight
    assert list(M.prunable(net)) == ["0.weight", "3.weight"]


def test_masks_are_read_from_plain_zeros():
    net = model()
    with torch.no_grad():
        net[0].weight[1] = 0
        net[0].weight[2, 0, 0, 0] = 1e-9
    read = M.from_zeros(net)
    assert list(read) == ["0.weight"]
    assert torch.equal(read["0.weight"], net[0].weight != 0)
    assert not M.from_zeros(net, threshold=1e-8)["0.weight"][2, 0, 0, 0]
    with pytest.raises(ValueError, match="threshold must be 0 or more, got -1"):
        M.from_zeros(net, -1)


def test_masks_are_read_from_torch_pruning_even_where_a_kept_weight_is_zero():
    net = model()
    prune.random_unstructured(net[3], "weight", amount=0.5)
    with torch.no_grad():
        net[3].weight_orig.zero_()
    net(torch.randn(1, 2, 4, 4))
    assert torch.equal(M.from_zeros(net)["3.weight"], net[3].weight_mask.bool())


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ({"9.weight": torch.ones(1).bool()}, "'9.weight', but the model has no such weight"),
        (
            {"0.weight": torch.ones(4, 2, 3, 2).bool()},
            r"must be \(4, 2, 3, 3\), got \(4, 2, 3, 2\)",
        ),
        ({"0.weight": torch.ones(4, 2, 3, 3)}, "must be bool, got torch.float32"),
    ],
)
def test_masks_that_do_not_fit_are_refused_and_change_nothing(masks, words):
    net = model()
    before = net[0].weight.clone()
    with pytest.raises(ValueError, match=words):
        M.apply_(net, masks)
    assert torch.equal(net[0].weight, before)


def test_apply_sets_zeros_also_under_torch_pruning():
    net = model()
    prune.identity(net[3], "weight")
    mask = torch.rand(3, 16) > 0.5
    M.apply_(net, {"3.weight": mask})
    net(torch.randn(1, 2, 4, 4))
    assert torch.equal(net[3].weight != 0, mask)


def test_sparsity_counts_all_masks_together():
    assert M.sparsity({"a": torch.tensor([True, False]), "b": torch.zeros(6).bool()}) == 7 / 8
    assert M.sparsity({}) == 0


def test_keep_largest_is_global_and_keeps_ties():
    scores = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([[2.0, 2.0]])}
    kept = M.keep_largest(scores, 2)
    assert kept["a"].tolist() == [True, False] and kept["b"].tolist() == [[True, True]]
    assert not any(m.any() for m in M.keep_largest(scores, 0).values())
    with pytest.raises(ValueError, match="keep must be between 0 and 4, got 5"):
        M.keep_largest(scores, 5)


def test_a_file_gives_back_what_was_saved(tmp_path):
    saved = {"a.weight": torch.rand(3, 5) > 0.5, "b": torch.zeros(0).bool()}
    M.save(saved, tmp_path / "m.safetensors")
    loaded = M.load(tmp_path / "m.safetensors")
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[n], loaded[n]) for n in saved)


def test_a_file_that_cannot_be_written_leaves_nothing_and_harms_nothing(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    M.save({"a": torch.ones(2).bool()}, path)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("sparse_ops._files.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        M.save({"a": torch.zeros(2).bool()}, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="there is no folder"):
        M.save({}, tmp_path / "missing" / "m.safetensors")
    with pytest.raises(OSError, match="it is a folder"):
        M.save({}, tmp_path)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    M.save({"a": torch.ones(100).bool()}, path)
    whole = path.read_bytes()
    for cut in (0, 5, 20, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="is not a whole safetensors file"):
            M.load(path)
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"holds plain tensors, not sparse_ops\.masks"):
        M.load(path)


EDGES = {
    "uniform": lambda g, n: torch.rand(n, generator=g),
    "products of normals": lambda g, n: (
        torch.randn(n, generator=g) * torch.randn(n, generator=g)
    ).abs(),
    "mostly zeros": lambda g, n: torch.rand(n, generator=g).sub(0.9).clamp_min(0),
    "all equal": lambda g, n: torch.full((n,), 0.3),
    "all zero": lambda g, n: torch.zeros(n),
    "many ties": lambda g, n: torch.randint(5, (n,), generator=g).float(),
    "very small and very large": lambda g, n: 10 ** (torch.rand(n, generator=g) * 80 - 42),
    "infinite": lambda g, n: 1 / torch.randint(3, (n,), generator=g),
    "negative": lambda g, n: torch.randn(n, generator=g),
    "a negative zero": lambda g, n: torch.cat([torch.tensor([-0.0]), torch.zeros(n - 1)]),
    "no numbers": lambda g, n: torch.rand(n, generator=g).where(
        torch.rand(n, generator=g) > 0.1, torch.tensor(float("nan"))
    ),
    "float64": lambda g, n: torch.rand(n, generator=g, dtype=torch.float64),
    "strided": lambda g, n: torch.rand(n, 2, generator=g)[:, 0],
}


@pytest.mark.parametrize("count", [1, 100, 1 << 16, 100_003])
@pytest.mark.parametrize("kind", EDGES)
def test_the_kth_smallest_is_that_of_torch(kind, count):
    values = EDGES[kind](torch.Generator().manual_seed(0), count)
    for k in {1, 2, count // 10, count // 2, count * 9 // 10, count - 1, count} - {0}:
        if k <= count:
            expected = values.kthvalue(k).values
            found = M.kth_smallest(values, k)
            assert torch.equal(found, expected) or bool(found.isnan() & expected.isnan())


@pytest.mark.parametrize("k", [0, 4, -1])
def test_a_place_that_is_not_there_is_refused(k):
    with pytest.raises(ValueError, match=f"k must be from 1 to 3, got {k}"):
        M.kth_smallest(torch.rand(3), k)


def sparsified():
    """A model under torch.ao.pruning, not squashed."""
    net = model()
    sparsify(net, ("0.weight", "3.weight"), 0.5)
    return net


def test_masks_are_read_from_parametrizations_of_torch_ao_pruning():
    net = sparsified()
    mask = net[3].parametrizations.weight[0].mask.bool()
    assert 0.3 < mask.float().mean() < 0.7
    with torch.no_grad():
        net[3].parametrizations.weight.original[mask.nonzero()[0].tolist()] = 0
    assert torch.equal(M.from_zeros(net)["3.weight"], mask)


def test_what_is_not_a_number_is_no_zero():
    net = nn.Linear(2, 2)
    net.weight.data = torch.tensor([[1.0, float("nan")], [0.0, 2.0]])
    assert M.from_zeros(net)["weight"].tolist() == [[True, True], [False, True]]


def test_a_threshold_removes_from_what_a_mask_keeps():
    net = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 1e-6], [0.0, 5.0]]))
    prune.custom_from_mask(net, "weight", torch.tensor([[1, 1], [1, 0]]))
    assert M.from_zeros(net)["weight"].tolist() == [[True, True], [True, False]]
    assert M.from_zeros(net, 1e-3)["weight"].tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.module."])
def test_state_dicts_of_pruning_tools_go_into_plain_models(prefix):
    source, plain = model(), model()
    prune.l1_unstructured(source[0], "weight", 0.5)
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    if prefix.endswith("module."):
        state["n_averaged"] = torch.tensor(3)
    masks = M.load_state_(plain, state)
    assert torch.equal(plain[0].weight, source[0].weight)
    assert torch.equal(masks["0.weight"], M.from_zeros(source)["0.weight"])
    x = torch.randn(2, 2, 4, 4)
    assert torch.equal(plain.eval()(x), source.eval()(x))


def test_a_plain_state_dict_gives_the_masks_of_its_zeros():
    source = model()
    with torch.no_grad():
        source[0].weight[1] = 0
    plain = model()
    assert not M.load_state_(plain, source.state_dict())["0.weight"][1].any()
    assert M.plain_state(source.state_dict())[1] == {}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("masks_in", ["state", "sparsifier"])
def test_state_dicts_of_torch_ao_pruning_go_into_plain_models(prefix, masks_in):
    source, plain = model(), model()
    tool = sparsify(source, ("0.weight", "3.weight"), 0.5)
    state = source.state_dict()
    assert "0.weight" not in state and not any("mask" in name for name in state)
    masks = None
    if masks_in == "state":
        state |= {name: b for name, b in source.named_buffers() if name.endswith("mask")}
    else:
        masks = M.sparsifier_masks(tool.state_dict())
    state = {prefix + name: tensor for name, tensor in state.items()}
    found = M.load_state_(plain, state, masks)
    for name in ("0.weight", "3.weight"):
        assert torch.equal(found[name], M.from_zeros(source)[name])
    x = torch.randn(2, 2, 4, 4)
    assert torch.equal(plain.eval()(x), source.eval()(x))


def test_state_dicts_of_pruners_of_filters_go_into_plain_models():
    from torch.ao.pruning._experimental.pruner import BaseStructuredSparsifier

    class Every2nd(BaseStructuredSparsifier):
        def update_mask(self, module, tensor_name, **kwargs):
            getattr(module.parametrizations, tensor_name)[0].mask.data[::2] = False

    source, plain = model(), model()
    pruner = Every2nd({})
    pruner.prepare(source, [{"tensor_fqn": "0.weight"}])
    pruner.step()
    x = torch.randn(2, 2, 4, 4)
    expected = source.eval()(x)
    masks = M.load_state_(plain, source.state_dict(), M.sparsifier_masks(pruner.state_dict()))
    assert not masks["0.weight"][::2].any() and masks["0.weight"][1::2].all()
    torch.testing.assert_close(plain.eval()(x), expected)


def test_a_bare_layer_is_read_too():
    source, plain = nn.Linear(4, 3), nn.Linear(4, 3)
    prune.random_unstructured(source, "weight", 0.5)
    masks = M.load_state_(plain, source.state_dict())
    assert torch.equal(plain.weight, source.weight) and masks.keys() == {"weight"}
    parametrized = {"parametrizations.weight.original": torch.ones(3, 4), "bias": torch.ones(3)}
    mask = torch.rand(3, 4) > 0.5
    state = parametrized | {"parametrizations.weight.0.mask": mask.float()}
    assert torch.equal(M.load_state_(plain, state)["weight"], mask)


def test_a_state_dict_with_a_computed_weight_is_refused():
    with pytest.raises(ValueError, match=r"its mask is not there.*after squash_mask"):
        M.load_state_(model(), sparsified().state_dict())
    with pytest.raises(ValueError, match="what that computes is not in a state dict"):
        M.load_state_(model(), nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)).state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        M.load_state_(model(), {"x": torch.ones(1)})


@pytest.mark.parametrize(
    ("mask", "match"),
    [(torch.full((3, 4), 0.5), "zeros and ones"), (torch.ones(4, 3), r"must be \(3, 4\), got \(4")],
)
def test_a_mask_that_is_none_or_does_not_fit_is_refused(mask, match):
    for original, beside in (("weight_orig", "weight_mask"), ("{0}.original", "{0}.0.mask")):
        start = "parametrizations.weight"
        state = {original.format(start): torch.ones(3, 4), beside.format(start): mask}
        with pytest.raises(ValueError, match=match):
            M.plain_state(state)


def test_a_mask_is_applied_to_a_weight_that_two_layers_share():
    net = model()
    net.append(nn.Linear(16, 3))
    net[4].weight = net[3].weight
    mask = torch.rand(3, 16) > 0.5
    M.apply_(net, {"3.weight": mask, "4.weight": mask})
    assert torch.equal(net[3].weight != 0, mask)


FILTERS = torch.tensor([True, False, True, True])
TABLES = {
    "by module": {"0": {"weight": FILTERS.reshape(4, 1, 1, 1).expand(4, 3, 3, 3), "bias": None}},
    "of floats": {"0.weight": FILTERS.float().reshape(4, 1, 1, 1).expand(4, 3, 3, 3)},
    "of arrays": {"0.weight": FILTERS.reshape(4, 1, 1, 1).expand(4, 3, 3, 3).numpy()},
    "of modules": {"0": FILTERS.reshape(4, 1, 1, 1).expand(4, 3, 3, 3)},
    "as buffers": {"0.weight_mask": FILTERS.reshape(4, 1, 1, 1).expand(4, 3, 3, 3)},
    "of filters": {"0": FILTERS},
    "that broadcast": {"0.weight": FILTERS.reshape(4, 1, 1, 1)},
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_other_pruners_are_read(kind):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 4))
    masks = M.from_table(TABLES[kind], net)
    assert masks.keys() == {"0.weight"} and masks["0.weight"].dtype == torch.bool
    assert torch.equal(masks["0.weight"], FILTERS.reshape(4, 1, 1, 1).expand(4, 3, 3, 3))
    M.check(net, masks)


def test_filters_of_transposed_convolutions_are_their_weights_second_dimension():
    net = nn.Sequential(nn.ConvTranspose2d(4, 4, 3))
    wanted = FILTERS.reshape(1, 4, 1, 1).expand(4, 4, 3, 3)
    for mask in (FILTERS, FILTERS.reshape(1, 4, 1, 1)):
        assert torch.equal(M.from_table({"0": mask}, net)["0.weight"], wanted)
    with pytest.raises(ValueError, match=r"must be \(4, 4, 3, 3\), got \(4, 1, 1, 1\)"):
        M.check(net, M.from_table({"0": FILTERS.reshape(4, 1, 1, 1)}, net))


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"0": {"weight": [1, 0, 1, 1]}}, "mask of 0.weight must be a tensor, got list"),
        ({"0.weight": torch.full((4, 3, 3, 3), 0.3)}, "mask of 0.weight must be bool"),
        ({"0.weight": torch.ones(3)}, r"mask of 0.weight must be \(4, 3, 3, 3\), got \(3,\)"),
        ({"conv": torch.ones(4)}, "mask for 'conv', but the model has no such weight"),
    ],
)
def test_tables_that_are_no_masks_are_named(table, match):
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match=match):
        M.check(net, M.from_table(table, net))
