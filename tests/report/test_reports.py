import json

import pytest
import torch
from torch import nn

from sparse_ops.convert import Comparison, to_dense
from sparse_ops.nn import CSRLinear
from sparse_ops.ops import _native
from sparse_ops.report import count_macs, forms_of, machine
from sparse_ops.report import table as tables
from sparse_ops.report.plot import plot
from sparse_ops.report.results import Network, Results, Row, write_json
from sparse_ops.report.versus import dense_against_packed
from tests.processes import python


def row(batch, measured):
    return Row(batch, 2, "float32", "eager", {"eager": 2.0}, "eager", {}, {}, 3, 4.5, measured)


def results():
    rows = (row(1, Comparison(2.0, 1.0, 2.0, 1.8, 2.2, 40)), row(64, None))
    network = Network(
        "a net", "a method", 0.9, 0.88, 0.88, 0.95, 266_610, 4_850, 25_400_000, 8_190_000, rows
    )
    return Results("sparse-ops demo", "0", machine(), "images", 1.0, (network,))


def test_multiplications_are_counted_by_hand():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 25, 3))
    with torch.no_grad():
        model[0].weight[1:] = 0
    conv, linear = count_macs(model, torch.randn(7, 2, 5, 5))
    assert (conv.dense, conv.kept) == (7 * 25 * 4 * 2 * 9, 7 * 25 * 1 * 2 * 9)
    assert (linear.dense, linear.kept) == (7 * 300, 7 * 300)


def test_multiplications_of_a_grouped_convolution_count_its_groups():
    (conv,) = count_macs(nn.Conv2d(8, 8, 3, groups=4), torch.randn(1, 8, 5, 5))
    assert conv.dense == 9 * 8 * 2 * 9


def test_a_sparse_layer_counts_the_weights_it_keeps():
    layer = CSRLinear.from_dense(nn.Linear(6, 6), torch.eye(6).bool())
    (counted,) = count_macs(layer, torch.randn(5, 6))
    assert (counted.dense, counted.kept, counted.nnz) == (5 * 36, 5 * 6, 6)


def test_the_machine_names_each_instruction_set_or_why_not():
    here = machine()
    assert here.threads >= 1 and here.cores >= 1
    assert here.isa is not None or set(here.refused) == set(_native.ISAS)


def test_the_fastest_dense_form_is_chosen_and_the_left_out_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    x = torch.randn(1, 3, 8, 8)
    forms = forms_of(model, (x,), compile_s=0, seconds=0.01)
    assert set(forms.calls) == {"eager", "channels_last"}
    assert forms.fastest in forms.calls and "torch.compile" in forms.skipped
    for call in forms.calls.values():
        torch.testing.assert_close(call(), model(x), rtol=1e-4, atol=1e-5)
    assert isinstance(model[1], nn.BatchNorm2d)


def test_a_packed_model_is_measured_against_its_dense_form():
    dense = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval()
    packed = nn.Sequential(CSRLinear.from_dense(dense[0], torch.eye(8).bool(), activation="relu"))
    x = torch.randn(4, 8)
    unpacked = to_dense(packed)
    torch.testing.assert_close(unpacked(x), packed(x))
    assert isinstance(packed[0], CSRLinear)

    def measure(one, other, seconds):
        torch.testing.assert_close(one(), other())
        return Comparison(2.0, 1.0, 2.0, 2.0, 2.0, 20)

    measured = dense_against_packed(unpacked, packed, (x,), compile_s=0, measure=measure)
    assert measured.batch == 4 and measured.packed_layers == 1 and measured.ideal == 8.0
    alike = dense_against_packed(dense, dense, (x,), compile_s=0, measure=measure)
    assert alike.measured is None


def test_tables_show_every_batch_and_what_stays_dense():
    from rich.console import Console

    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables.network_table(results().networks))
    console.print(tables.bench_table("x", results().networks[0].rows))
    text = console.export_text()
    for word in ("90.0%", "→ 88.0%", "95.0%", "267k", "→ 4.85k", "2.00×", "stays dense", "4.50×"):
        assert word in text


def test_large_numbers_are_short():
    assert [tables.count(n) for n in (7, 4850, 25.4e6, 3e9)] == ["7", "4.85k", "25.4M", "3G"]


def test_results_are_written_whole_as_json(tmp_path):
    write_json(results(), tmp_path / "results.json")
    data = json.loads((tmp_path / "results.json").read_text())
    assert data["networks"][0]["rows"][0]["measured"]["speedup"] == 2.0
    with pytest.raises(OSError, match="no folder"):
        write_json(results(), tmp_path / "missing" / "results.json")


def test_the_picture_is_a_png(tmp_path):
    pytest.importorskip("matplotlib")
    plot(results(), tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_freed_memory_is_kept_where_the_c_library_can_be_told():
    import ctypes
    import resource

    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has no mallopt")
    code = """
import resource, torch
from sparse_ops.report import keep_freed_memory
assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    torch.ones(8 << 20)
before = faults()
for _ in range(100):
    torch.ones(8 << 20)
print(faults() - before)
"""
    faults = int(python(code))
    # Without it, blocks of 32 MiB are given back each time: their pages, a hundred times over. With
    # it the heap may grow by some blocks until one fits, and then no more.
    assert faults < 10 * (32 << 20) // resource.getpagesize()
