"""The backends of a card on one: every edge shape in every type."""

import pytest
import torch
from torch.nn import functional as F

import sparse_ops
import sparse_ops.ops.csr_linear
from benchmarks._gpu_packs import side_by_side
from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.functional import channel_pruned_conv2d, csr_conv2d, csr_linear, periodic_conv2d
from sparse_ops.patterns import PSD2_P8
from tests.cases import CONV, LINEAR, ConvCase, channel_mask, periodic_pattern, random_mask
from tests.convert.models import says
from tests.rounding import assert_within_rounding

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poisoned")]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def _exact_float32():
    # The older switch: with the newer one set, torch.compile may fail to ask for this one.
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def packed(name, case, dtype):
    """(the operator, a weight of the case's shape)."""
    shape = case.weight_shape
    dense = torch.randn(shape, device="cuda").to(dtype)
    if name == "periodic":
        pattern = periodic_pattern(case)
        weight = PeriodicWeight.pack(dense, pattern.mask(shape).cuda(), pattern)
        return periodic_conv2d, weight
    if name == "csr":
        return csr_conv2d, CSRWeight.pack(dense, random_mask(shape, 0.8).cuda())
    return channel_pruned_conv2d, ChannelPrunedWeight.pack(dense, channel_mask(case).cuda())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CONV, ids=str)
@pytest.mark.parametrize("name", ["periodic", "csr", "channel_pruned"])
def test_convolutions_are_exact_up_to_rounding(name, case, dtype):
    if name == "channel_pruned" and case.groups > 1:
        pytest.skip("groups are refused")
    run, weight = packed(name, case, dtype)
    shape = case.weight_shape
    x = torch.randn(case.batch, case.channels, *case.size).to(dtype)
    bias = torch.randn(case.filters).to(dtype)
    kept = weight.to_dense().cpu().double()
    exact = F.conv2d(x.double(), kept, bias.double(), *case.geometry)
    magnitude = F.conv2d(x.double().abs(), kept.abs(), bias.double().abs(), *case.geometry)
    terms = shape[1] * shape[2] * shape[3] + 1
    residual = torch.randn(exact.shape).to(dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = x.cuda().contiguous(memory_format=layout)
        more = {"residual": residual.cuda(), "backend": "triton"}
        y = run(given, weight, bias.cuda(), *case.geometry, **more).cpu()
        wide = residual.double()
        assert_within_rounding(y, exact + wide, magnitude + wide.abs(), terms + 1)


# For the CUDA kernel, which wants channels in eights; sorted and as they come.
CUDA = [
    ConvCase(2, 64, 64, (13, 11)),
    ConvCase(70, 64, 128, (1, 1)),
    ConvCase(3, 128, 256, (7, 7)),
    ConvCase(2, 256, 512, (9, 5), stride=(2, 2)),
    ConvCase(1, 128, 136, (14, 14), dilation=(2, 2), padding=(2, 2)),
    ConvCase(33, 512, 512, (7, 7)),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sort", [False, True], ids=["as it comes", "sorted"])
@pytest.mark.parametrize("case", CUDA, ids=str)
@pytest.mark.parametrize("backend", ["cuda", "wgmma"])
def test_the_cuda_kernel_is_exact_up_to_rounding(backend, case, sort, dtype):
    if backend == "wgmma" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("wgmma is of 9.0 alone")
    if backend == "wgmma" and not (sort and case.filters % 64 == 0):
        pytest.skip("eight neighbouring filters are not alike")
    if dtype == torch.bfloat16 and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("bfloat16 wants 8.0")
    mask = PSD2_P8.mask(case.weight_shape)
    mask = side_by_side(mask, 8) if sort else mask
    dense = torch.randn(case.weight_shape).to(dtype) * mask
    kind, run = (CSRWeight, csr_conv2d) if sort else (PeriodicWeight, periodic_conv2d)
    weight = kind.pack(dense.cuda(), mask.cuda())
    x = torch.randn(case.batch, case.channels, *case.size).to(dtype)
    bias = torch.randn(case.filters).to(dtype)
    exact = F.conv2d(x.double(), dense.double(), bias.double(), *case.geometry)
    magnitude = F.conv2d(
        x.double().abs(), dense.double().abs(), bias.double().abs(), *case.geometry
    )
    residual = torch.randn(exact.shape).to(dtype)
    last = x.cuda().contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for _ in range(2):
            y = run(
                *(last, weight, bias.cuda(), *case.geometry),
                residual=residual.cuda(),
                backend=backend,
            )
            wide = residual.double()
            assert_within_rounding(
                y.cpu(), exact + wide, magnitude + wide.abs(), 9 * case.channels + 2
            )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CONV[:20], ids=str)
@pytest.mark.parametrize("name", ["periodic", "csr", "channel_pruned"])
def test_gradients_are_those_of_the_dense_convolution(name, case, dtype):
    if name == "channel_pruned" and case.groups > 1:
        pytest.skip("groups are refused")
    run, weight = packed(name, case, dtype)
    x = torch.randn(case.batch, case.channels, *case.size, dtype=dtype, device="cuda")
    x.requires_grad_()
    values = weight.values.clone().requires_grad_()
    y = run(x, weight.with_values(values), None, *case.geometry, backend="triton")
    dy = torch.randn_like(y)
    dx, dvalues = torch.autograd.grad(y, (x, values), dy)

    def gradients(dy, x, dense):
        x, dense = x.detach().requires_grad_(), dense.requires_grad_()
        return torch.autograd.grad(F.conv2d(x, dense, None, *case.geometry), (x, dense), dy)

    wide = [t.detach().cpu().double() for t in (dy, x, weight.to_dense())]
    exact, magnitude = gradients(*wide), gradients(*(t.abs() for t in wide))
    taps = case.kernel[0] * case.kernel[1]
    assert_within_rounding(dx.cpu(), exact[0], magnitude[0], case.filters * taps + 1)
    pixels = y.shape[0] * y.shape[2] * y.shape[3] + 1
    gathered = (weight.gather(g.cuda()).cpu() for g in (exact[1], magnitude[1]))
    assert_within_rounding(dvalues.cpu(), *gathered, pixels)


# Runs of 8, 16 and 32 channels: as many as the class of each has.
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [128, 256, 264])
def test_channels_that_stand_class_by_class(channels, dtype):
    mask = side_by_side(PSD2_P8.mask((128, channels, 3, 3)), 8)
    weight = CSRWeight.pack(torch.randn(mask.shape, device="cuda").to(dtype), mask.cuda())
    x, residual = torch.randn(3, channels, 7, 6).to(dtype), torch.randn(3, 128, 7, 6).to(dtype)
    kept = weight.to_dense().cpu().double()
    exact = F.conv2d(x.double(), kept, padding=1) + residual.double()
    magnitude = F.conv2d(x.double().abs(), kept.abs(), padding=1) + residual.double().abs()
    for layout in (torch.contiguous_format, torch.channels_last):
        given, more = (t.cuda().contiguous(memory_format=layout) for t in (x, residual))
        y = csr_conv2d(given, weight, padding=1, residual=more, backend="triton")
        assert_within_rounding(y.cpu(), exact, magnitude, 9 * channels + 1)


def test_a_plan_sorts_channels_and_gives_what_the_model_gave():
    from tests.convert.test_sort import Block, X

    model, x = Block(128).eval().cuda(), torch.randn(X).cuda()
    plan = sparse_ops.plan(model, x, measure=says(2.0), progress=False)
    assert plan.sorts and {layer.backend for layer in plan.packed} <= {"cuda", "triton"}
    torch.testing.assert_close(plan.apply(model)(x), model(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["periodic", "csr", "channel_pruned"])
def test_a_weight_laid_out_on_one_stream_is_there_for_another(name):
    run, weight = packed(name, ConvCase(2, 64, 128, (6, 5)), torch.float16)
    x = torch.randn(2, 64, 6, 5, dtype=torch.float16, device="cuda")
    torch.cuda.synchronize()
    one, two = torch.cuda.Stream(), torch.cuda.Stream()
    with torch.no_grad():
        with torch.cuda.stream(one):
            torch.cuda._sleep(10**8)
            run(x, weight, None, 1, 1, backend="triton")
        with torch.cuda.stream(two):
            y = run(x, weight, None, 1, 1, backend="triton")
        torch.cuda.synchronize()
        torch.testing.assert_close(y, run(x, weight, None, 1, 1, backend="triton"))


@pytest.mark.parametrize("name", ["periodic", "csr", "channel_pruned"])
def test_a_recorded_graph_sees_a_new_weight(name):
    case = ConvCase(2, 64, 128, (6, 5))
    run, weight = packed(name, case, torch.float16)
    x = torch.randn(2, 64, 6, 5, dtype=torch.float16, device="cuda")
    with torch.no_grad():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            run(x, weight, None, *case.geometry, backend="triton")
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = run(x, weight, None, *case.geometry, backend="triton")
        graph.replay()
        before = y.clone()
        weight.values.mul_(2)
        graph.replay()
        torch.testing.assert_close(y, 2 * before)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_under_inference_mode_a_recorded_graph_keeps_the_packed_weight(backend):
    run, weight = packed("periodic", ConvCase(2, 64, 128, (6, 5)), torch.float16)
    x = torch.randn(2, 64, 6, 5, dtype=torch.float16, device="cuda")
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            expected = run(x, weight, None, 1, 1, backend=backend)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = run(x, weight, None, 1, 1, backend=backend)
        graph.replay()
        torch.testing.assert_close(y, expected)
        weight.values.mul_(2)
        graph.replay()
        torch.testing.assert_close(y, expected)


def test_a_converted_model_replays_graphs_and_sees_new_weights():
    from tests.convert.test_recorded import X, pruned

    model = pruned().cuda()
    plan = sparse_ops.plan(model, X.cuda(), measure=says(2.0), progress=False)
    fast = plan.apply(model)
    assert fast._compiled_call_impl is not None
    for x in (X.cuda(), 2 * X.cuda(), torch.randn(5, 8, 9, 7, device="cuda")):
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        fast[-1].bias.add_(1)
        torch.testing.assert_close(fast(x), model(x) + 1, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["periodic", "csr", "channel_pruned"])
def test_compiled_whole(name):
    case = ConvCase(2, 16, 32, (6, 5))
    run, weight = packed(name, case, torch.float32)
    x = torch.randn(2, 16, 6, 5, device="cuda")
    call = torch.compile(lambda x: run(x, weight, backend="triton"), fullgraph=True)
    torch.testing.assert_close(call(x), run(x, weight, backend="triton"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LINEAR, ids=str)
def test_linear_is_exact_up_to_rounding(monkeypatch, case, dtype):
    # Right beyond the batch up to which it is preferred, too.
    monkeypatch.setattr(sparse_ops.ops.csr_linear, "MOST_BATCH", 1 << 30)
    shape = (case.out_features, case.in_features)
    mask = random_mask(shape, case.sparsity)
    weight = CSRWeight.pack(torch.randn(shape).to(dtype).cuda(), mask.cuda())
    x = torch.randn(case.batch, case.in_features).to(dtype)
    bias = torch.randn(case.out_features).to(dtype)
    y = csr_linear(x.cuda(), weight, bias.cuda(), backend="triton").cpu()
    dense = weight.to_dense().cpu().double()
    exact = F.linear(x.double(), dense, bias.double())
    magnitude = F.linear(x.double().abs(), dense.abs(), bias.double().abs())
    assert_within_rounding(y, exact, magnitude, case.in_features + 1)
