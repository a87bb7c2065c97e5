"""Operators on every backend: random geometry, by float64; arguments that lie, which may fail."""

import contextlib
import math
import random

import torch
from torch.nn import functional as F

from sparse_ops.formats import CSRWeight
from sparse_ops.ops import _native
from sparse_ops.ops import program as programs
from sparse_ops.ops._activation import function_of
from sparse_ops.ops.csr_linear import csr_linear
from tests.activations import ACTIVATION_NAMES
from tests.cases import ConvCase, random_mask
from tests.fuzz import NoCase
from tests.fuzz.torch_crashes import conv2d_dies
from tests.guarded import SIDES, guarded
from tests.ops.test_conv2d import EVERY, OPERATORS, exact, problem, terms
from tests.ops.test_out import assert_guarded, part_of, whole_for
from tests.program.hostile import MOST_BYTES, NUMBERS, changed_constants, changed_numbers
from tests.program.layers import SLOPES
from tests.program.random_programs import random_program
from tests.rounding import assert_within_rounding

ISAS = [isa for isa in _native.ISAS if _native.REFUSES[isa] is None]
# Of instruction sets those that this CPU has.
BACKENDS = {
    f"{name} {backend.name}": (name, backend)
    for name, backend in EVERY
    if backend.name in ISAS or backend.name not in _native.ISAS
}
SIMPLER = {
    "kind": [],
    "dtype": ["float32", "float16", "bfloat16"],
    "activation": [None, *ACTIVATION_NAMES],
    "layout": ["contiguous", "channels_last", "strided"],
    "out": ["new", "planar", "last"],
    "isa": ISAS[::-1],
    "guard": ["none", *SIDES],
    "operator": [],
    "backend": list(BACKENDS),
    "name": [],
    "how": [],
}
# Of a convolution, padding and stride apart; in float64 they take most of a case.
MOST_PRODUCTS = 1 << 20
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def draw(chance):
    kind = chance.choices(("conv", "linear", "lie", "program"), (3, 1, 4, 2))[0]
    case = {"kind": kind, "seed": chance.randrange(10**6), "threads": chance.choice((1, 1, 1, 2))}
    case |= {"activation": chance.choice([None, *ACTIVATION_NAMES])}
    case |= {"residual": chance.random() < 0.4}
    case |= {"dtype": chance.choices(SIMPLER["dtype"], (4, 1, 1))[0]}
    case |= {"sparsity": chance.choice((0, 50, 80, 95, 100)), "bias": chance.random() < 0.7}
    batch = chance.choice((0, 1, 1, 2, 3, 15, 16, 17, 33))
    if kind == "conv":
        return case | _draw_conv(chance, batch)
    if kind == "linear":
        sizes = {"in": chance.randint(1, 300), "features": chance.randint(1, 140)}
        return case | sizes | {"batch": batch, "isa": chance.choice(ISAS)}
    case |= {"isa": chance.choice(ISAS)}
    if kind == "lie":
        operator = chance.choice(list(ARGUMENTS))
        names = list(ARGUMENTS[operator]())
        case |= {"operator": operator, "guard": chance.choice(SIMPLER["guard"])}
        return case | {
            "changes": [
                {
                    "name": chance.choice(names),
                    "how": chance.choice(HOWS),
                    "at": chance.randrange(10**6),
                    "to": chance.choice(NUMBERS),
                }
                for _ in range(chance.choice((1, 1, 1, 2, 3)))
            ]
        }
    return case | {"program": chance.randrange(2000)}


def _draw_conv(chance, batch):
    backend = chance.choice(list(BACKENDS))
    name, _ = BACKENDS[backend]
    kernel = [chance.randint(1, 5), chance.randint(1, 5)]
    padding = [chance.randint(0, 4), chance.randint(0, 4)]
    dilation = [chance.choice((1, 1, 2, 3)), chance.choice((1, 1, 2, 3))]
    pairs = list(zip(kernel, dilation, padding, strict=True))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in pairs]
    sizes = {
        "groups": 1 if name == "channel_pruned" else chance.choice((1, 1, 1, 2, 3)),
        "batch": batch,
        "channels": chance.choice((1, 2, 3, 5, 8, 11)),
        "filters": chance.choice((1, 2, 5, 8, 16, 31, 70)),
        "height": max(least[0], chance.randint(1, 20)),
        "width": max(least[1], chance.randint(1, 36)),
    }
    smallest = {"height": least[0], "width": least[1], "groups": 1, "channels": 1, "filters": 1}
    # One large size beside small ones shows what two large ones would.
    while math.prod(sizes.values()) * math.prod(kernel) > MOST_PRODUCTS:
        which = chance.choice([key for key, least in smallest.items() if sizes[key] > least])
        sizes[which] = max(smallest[which], sizes[which] // 2)
    groups = sizes["groups"]
    return {
        "backend": backend,
        "groups": groups,
        "batch": sizes["batch"],
        "channels": groups * sizes["channels"],
        "filters": groups * sizes["filters"],
        "size": [sizes["height"], sizes["width"]],
        "kernel": kernel,
        "stride": [chance.randint(1, 3), chance.randint(1, 3)],
        "padding": padding,
        "dilation": dilation,
        "layout": chance.choice(SIMPLER["layout"]),
        "out": chance.choice(SIMPLER["out"]),
    }


def check(case):
    # torch.manual_seed notes a stack for each kind of device, which takes longer than most cases.
    torch.default_generator.manual_seed(case["seed"])
    torch.set_num_threads(1)
    return {"conv": _conv, "linear": _linear, "lie": _lie, "program": _program}[case["kind"]](case)


@contextlib.contextmanager
def threads(case):
    """Around what is tested alone: what it is compared with needs no others."""
    torch.set_num_threads(max(1, min(4, case["threads"])))
    yield
    torch.set_num_threads(1)


def _conv(case):
    name, backend = BACKENDS[case["backend"]]
    batch, groups = case["batch"], case["groups"]
    pairs = [case[key] for key in ("size", "kernel", "stride", "padding", "dilation")]
    known = groups > 0 and case["channels"] % groups == 0 and case["filters"] % groups == 0
    if any(len(pair) != 2 for pair in pairs) or not known or case["filters"] < 1:
        raise NoCase
    size, kernel, stride, padding, dilation = map(tuple, pairs)
    room = [s + 2 * p - d * (k - 1) for s, p, d, k in zip(size, padding, dilation, kernel)]  # noqa: B905
    least = min(*size, *kernel, *stride, *dilation, case["channels"], *room)
    if least < 1 or min(*padding, batch) < 0 or (name == "channel_pruned" and groups > 1):
        raise NoCase
    dtype = getattr(torch, case["dtype"])
    if backend.name not in ISAS:
        # They call PyTorch's own convolution.
        if conv2d_dies(case["layout"], *pairs):
            raise NoCase
        # Every operation rounds there, and the bound is for one rounding.
        dtype = torch.float32
    shape = ConvCase(
        batch, case["channels"], case["filters"], size, kernel, stride, padding, dilation, groups
    )
    x, weight, bias = problem(name, shape, dtype, case["sparsity"] / 100)
    bias = bias if case["bias"] else None
    y, magnitude = exact(x, weight, bias, shape)
    activation = case["activation"]
    options = {"activation": activation, "backend": backend.name}
    count = terms(shape) + 8
    if case["residual"]:
        residual = torch.randn(y.shape).to(dtype)
        options["residual"] = residual
        y, magnitude = y + residual.double(), magnitude + residual.double().abs()
    if case["layout"] == "strided":
        wide = torch.full((*x.shape[:3], 2 * x.shape[3]), float("nan"), dtype=dtype)
        wide[..., ::2] = x
        x = wide[..., ::2]
    else:
        x = x.contiguous(memory_format=LAYOUTS[case["layout"]])
    arguments = (x, weight, bias, *shape.geometry)
    if case["out"] == "new":
        with threads(case):
            found = OPERATORS[name][0](*arguments, **options)
    else:
        whole = whole_for(tuple(y.shape), case["out"], dtype)
        found = part_of(whole)
        with threads(case):
            OPERATORS[name][0](*arguments, **options, out=found)
        assert_guarded(whole)
    assert found.dtype == dtype
    expected = function_of(activation)(y)
    assert_within_rounding(found, expected, magnitude, count, SLOPES.get(activation, 1.0))
    return "right"


def _linear(case):
    size = case["features"], case["in"]
    if min(*size, case["batch"] + 1) < 1:
        raise NoCase
    dtype = getattr(torch, case["dtype"])
    weight = CSRWeight.pack(torch.randn(size).to(dtype), random_mask(size, case["sparsity"] / 100))
    x = torch.randn(case["batch"], size[1]).to(dtype)
    bias = torch.randn(size[0]).to(dtype) if case["bias"] else None
    residual = torch.randn(case["batch"], size[0]).to(dtype) if case["residual"] else None
    options = {"activation": case["activation"], "backend": case["isa"]}
    with threads(case):
        y = csr_linear(x, weight, bias, residual=residual, **options)
    dense = weight.to_dense().double()
    exact_y = F.linear(x.double(), dense)
    magnitude = F.linear(x.double().abs(), dense.abs())
    for more in (bias, residual):
        if more is not None:
            exact_y, magnitude = exact_y + more.double(), magnitude + more.double().abs()
    expected = function_of(case["activation"])(exact_y)
    slope = SLOPES.get(case["activation"], 1.0)
    assert_within_rounding(y, expected, magnitude, size[1] + 9, slope)
    return "right"


def i32(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


GEOMETRY = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}


def _sparse(out):
    more = {"out": torch.zeros(2, 3, 5, 6)} if out else {}
    return lambda: {
        "x": torch.randn(2, 2, 5, 6), "crow": i32(0, 2, 3, 3), "col": i32(0, 17, 4),
        "values": torch.randn(3), "bias": torch.randn(3), "residual": torch.randn(2, 3, 5, 6),
        "shape": [3, 2, 3, 3], **GEOMETRY, "groups": 1, "activation": 1, **more,
    }  # fmt: skip


def _channel_pruned(out):
    more = {"out": torch.zeros(2, 3, 5, 6)} if out else {}
    return lambda: {
        "x": torch.randn(2, 2, 5, 6), "values": torch.randn(2, 1, 3, 3), "kept": i32(0, 2),
        "inputs": i32(1), "bias": torch.randn(3), "residual": torch.randn(2, 3, 5, 6),
        "shape": [3, 2, 3, 3], **GEOMETRY, "activation": 0, **more,
    }  # fmt: skip


def _rows(batch, out):
    more = {"out": torch.zeros(batch, 2)} if out else {}
    return lambda: {
        "x": torch.randn(batch, 6), "crow": i32(0, 2, 3), "col": i32(0, 5, 1),
        "values": torch.randn(3), "bias": torch.randn(2), "residual": torch.randn(batch, 2),
        "activation": 0, **more,
    }  # fmt: skip


# Operator -> arguments that are right, by which they are called, as its schema has them.
ARGUMENTS = {
    "csr_conv2d": _sparse(False),
    "csr_conv2d_out": _sparse(True),
    "periodic_conv2d": _sparse(False),
    "periodic_conv2d_out": _sparse(True),
    "sparse_conv2d_backward": lambda: {
        "dy": torch.randn(2, 3, 5, 6), "x": torch.randn(2, 2, 5, 6), "crow": i32(0, 2, 3, 3),
        "col": i32(0, 17, 4), "values": torch.randn(3), "shape": [3, 2, 3, 3], **GEOMETRY,
        "groups": 1, "need_x": True, "need_values": True,
    },
    "channel_pruned_conv2d": _channel_pruned(False),
    "channel_pruned_conv2d_out": _channel_pruned(True),
    "csr_linear": _rows(20, False),
    "csr_linear_out": _rows(3, True),
    "csr_linear_backward": lambda: {
        "dy": torch.randn(5, 2), "x": torch.randn(5, 6), "crow": i32(0, 2, 3),
        "col": i32(0, 5, 1), "values": torch.randn(3), "need_x": True, "need_values": True,
    },
    "blocked_conv2d": lambda: {
        "x": torch.randn(1, 2, 5, 6, 16), "starts": i32(0, 2, 3), "rows": i32(2, 1),
        "filters": i32(2, 0, 1), "offsets": i32(0, 16, 480, *[0] * 8), "values": torch.randn(5),
        "bias": torch.randn(3), "residual": torch.randn(1, 3, 7, 7, 16), "size": [5, 5],
        "stride": [1, 1], "out_halo": 2, "residual_halo": 1, "activation": 0,
    },
    "blocked_pool2d": lambda: {
        "x": torch.randn(1, 2, 5, 6, 16), "most": True, "kernel": [2, 2], "stride": [2, 2],
        "padding": [1, 0], "halo": 1, "out_halo": 0,
    },
    "to_blocked": lambda: {"x": torch.randn(17, 2, 5, 6), "halo": 1},
    "from_blocked": lambda: {
        "x": torch.randn(2, 2, 5, 6, 16), "halo": 1, "batch": 20, "channels_last": False,
    },
}  # fmt: skip
OPTIONAL = ("bias", "residual")
HOWS = ("number", "number", "number", "size", "dtype", "strides", "cut", "more", "none")
# Larger ones are asked for in whole programs; these would only fill the memory.
LARGEST = 1 << 22


def _lie(case):
    arguments = ARGUMENTS[case["operator"]]()
    for change in case["changes"]:
        name = change["name"]
        if name not in arguments or arguments[name] is None:
            raise NoCase
        arguments[name] = changed(arguments[name], change, name)
    sizes = [t.numel() for t in arguments.values() if isinstance(t, torch.Tensor)]
    if max(sizes) > LARGEST:
        raise NoCase
    operator = getattr(torch.ops.sparse_ops, f"{case['operator']}_{case['isa']}")
    if case["guard"] in SIDES:
        arguments = {
            name: guarded(each, case["guard"]) if isinstance(each, torch.Tensor) else each
            for name, each in arguments.items()
        }
    try:
        with threads(case):
            operator(*arguments.values())
    except RuntimeError as error:
        assert len(str(error)) > 10
        return "refused"
    return "ran"


def changed(value, change, name):
    how, chance, to = change["how"], random.Random(change["at"]), change["to"]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return to
    if isinstance(value, list):
        value = list(value)
        if how == "cut":
            return value[:-1]
        if how == "more":
            return [*value, to]
        value[chance.randrange(len(value))] = to
        return value
    if how == "none" and name in OPTIONAL:
        return None
    if how == "number" and value.numel():
        value = value.clone()
        flat = value.view(-1) if value.is_contiguous() else value.reshape(-1)
        # An int8 after another change, say.
        most = 2**31 - 1 if flat.is_floating_point() else min(2**31, torch.iinfo(flat.dtype).max)
        flat[chance.randrange(flat.numel())] = max(-most - 1, min(most, to))
        return flat.view(value.shape)
    if how == "dtype":
        return value.to(chance.choice((torch.int64, torch.float64, torch.float16, torch.int8)))
    if how == "strides":
        return chance.choice((value.flip(0), value.transpose(0, -1), value[..., ::2],
                              value.unsqueeze(0), value.expand(2, *value.shape)))  # fmt: skip
    if how in ("size", "more"):
        shape = list(value.shape)
        shape[chance.randrange(len(shape))] = max(0, min(40, to))
        return torch.zeros(shape, dtype=value.dtype)
    return value.flatten()[: chance.randrange(value.numel() + 1)]


def _program(case):
    """A program with other numbers, or other constants, in it."""
    chance = random.Random(case["seed"])
    program, inputs = random_program(case["program"])
    encoded, constants = program.encoded(), list(program.constants)
    if chance.random() < 0.75:
        encoded = changed_numbers(encoded, chance)
    else:
        constants = changed_constants(constants, chance)
    try:
        about = programs.describe(encoded, constants, [x.shape for x in inputs])
        if about.arena + sum(value.bytes for value in about.values) > MOST_BYTES:
            return "too large"
        with threads(case):
            programs.run(inputs, encoded, constants, case["isa"])
    except RuntimeError as error:
        assert len(str(error)) > 10
        return "program refused"
    finally:
        if len(encoded) > 2:
            programs.release(int(encoded[2]))
    return "program ran"
