"""Under torch.func, forward-mode gradients and modes: the function of the dense model, as ever."""

import copy
import warnings

import pytest
import torch
from torch import func, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import sparse_ops as so
from sparse_ops.nn import ChannelPrunedConv2d, CSRConv2d, CSRLinear, PeriodicConv2d
from tests.convert.planning import planned

X, T = torch.randn(2, 2, 8, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.a(x))
        x = F.silu(self.norm(self.b(x)) + x)
        return self.fc(F.silu(self.c(x)).mean((2, 3)))


def layered(model):
    """The same, of one packed layer of each kind."""
    fast = copy.deepcopy(model)
    kinds = {"a": CSRConv2d, "b": PeriodicConv2d, "c": ChannelPrunedConv2d, "fc": CSRLinear}
    for name, kind in kinds.items():
        dense = getattr(model, name)
        setattr(fast, name, kind.from_dense(dense, dense.weight != 0))
    return fast


def by_layers(model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparse_ops.planning.network.refuses", lambda *_: "not now")
        return planned(model, example=X).apply(model)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """form -> a model of it, and the dense one."""
    torch.manual_seed(0)
    model = Net().eval()
    with torch.no_grad():
        model.norm.running_mean.normal_()
        model.a.weight.mul_(torch.rand_like(model.a.weight) > 0.5)
        model.b.weight.mul_(so.patterns.PSD2_P8.mask(tuple(model.b.weight.shape)))
        model.c.weight[1] = 0
        model.fc.weight.mul_(torch.rand_like(model.fc.weight) > 0.3)
    fast = planned(model, example=X).apply(model)
    file = tmp_path_factory.mktemp("file") / "fast"
    so.save(fast, file)
    return {
        "dense": model,
        "layers": layered(model),
        "one by one": by_layers(model),
        "programs": fast,
        "one program": so.load(file),
    }


def dual(f):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(X, T))).tangent


def last_of(f):
    """The last layer's tensors: others may be folded into one another."""
    return {name: p.detach() for name, p in f.named_parameters() if name.startswith("fc.")}


def of_weights(f):
    held = last_of(f)
    run = lambda held: func.functional_call(f, held, (X,))  # noqa: E731
    return func.jvp(run, (held,), ({n: p.clone() for n, p in held.items()},))[1]


def ensemble(f):
    held = {name: torch.stack([p, 1.5 * p]) for name, p in last_of(f).items()}
    return func.vmap(lambda own: func.functional_call(f, own, (X,)))(held)


CASES = {
    "jvp": lambda f: func.jvp(f, (X,), (T,))[1],
    "dual": dual,
    "along weights": of_weights,
    "vmap": lambda f: func.vmap(f)(torch.stack([X, T])),
    "ensemble": ensemble,
    "grad": lambda f: func.grad(lambda x: f(x).square().sum())(X),
    "jacrev": lambda f: func.jacrev(f)(X[:1]),
    "jacfwd": lambda f: func.jacfwd(f)(X[:1]),
    "over": lambda f: func.jvp(func.grad(lambda x: f(x).square().sum()), (X,), (T,))[1],
    "backwards twice": lambda f: torch.autograd.functional.jvp(f, X, T)[1],
}


@pytest.mark.parametrize("form", ["layers", "one by one", "programs", "one program"])
@pytest.mark.parametrize("case", CASES)
def test_transforms_are_those_of_the_dense_model(models, case, form):
    for mode, wants in ((torch.no_grad, True), (torch.enable_grad, False)):
        with mode(), warnings.catch_warnings():
            # Of vmap, which does some operations one by one.
            warnings.simplefilter("ignore")
            expected = CASES[case](models["dense"])
            actual = CASES[case](models[form].requires_grad_(wants))
        torch.testing.assert_close(actual.detach(), expected.detach(), rtol=1e-4, atol=1e-6)


class Triples(TorchFunctionMode):
    def __torch_function__(self, f, types, args=(), kwargs=None):
        y = f(*args, **(kwargs or {}))
        return 3 * y if f is F.relu else y


class TriplesBelow(TorchDispatchMode):
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        y = f(*args, **(kwargs or {}))
        return 3 * y if f is torch.ops.aten.mean.dim else y


@pytest.mark.parametrize("mode", [Triples, TriplesBelow])
def test_modes_see_the_operations_of_programs(models, mode):
    with torch.no_grad():
        before = models["dense"](X)
        with mode():
            expected, actual = models["dense"](X), models["programs"](X)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    assert (before - expected).abs().max() > 1e-3


class Doubled(torch.Tensor):
    """A tensor that is twice what it says."""

    @classmethod
    def __torch_function__(cls, f, types, args=(), kwargs=None):
        plain = torch.Tensor
        args = [2 * a.as_subclass(plain) if isinstance(a, cls) else a for a in args]
        return f(*args, **(kwargs or {}))


def test_weights_of_another_class_are_asked(models):
    dense, fast = models["dense"], models["programs"]
    held = {name: p.detach().as_subclass(Doubled) for name, p in dense.fc.named_parameters()}
    held = {f"fc.{name}": p for name, p in held.items()}
    if isinstance(fast.fc, CSRLinear):
        fast = copy.deepcopy(fast)
        fast.fc = copy.deepcopy(dense.fc)
    with torch.no_grad():
        expected = func.functional_call(dense, held, (X,))
        torch.testing.assert_close(func.functional_call(fast, held, (X,)), expected)
        torch.testing.assert_close(fast(X), dense(X))


@pytest.mark.parametrize("form", ["layers", "one by one", "programs"])
def test_the_gradient_of_a_gradient(models, form):
    """As gradient penalties take it, beside another loss, so that nothing missing would raise."""
    found = []
    for model in (models["dense"], models[form].requires_grad_(True)):
        x = X.clone().requires_grad_()
        y = model(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        loss = y.square().sum() + 100 * slope.square().sum()
        found.append(torch.autograd.grad(loss, [x, model.fc.bias, model.a.bias]))
    for actual, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)


def test_a_named_backend_refuses_in_words(models):
    x, weight = X[:, :, 0, 0], models["layers"].fc.weight
    run = lambda x: so.functional.csr_linear(x, weight, backend="scalar")  # noqa: E731
    with pytest.raises(RuntimeError, match="go through the definition alone"):
        func.jvp(run, (x,), (x,))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["jvp", "vmap", "grad"])
@pytest.mark.parametrize("form", ["one by one", "programs"])
def test_transforms_inside_of_compiled_code(models, form, case):
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(lambda: CASES[case](models[form]), backend="eager")
        torch.testing.assert_close(compiled(), CASES[case](models["dense"]), rtol=1e-4, atol=1e-6)
