"""Other inference engines as calls on a network, where they are installed: dense opponents.

None is a dependency. `pip install onnxruntime openvino MNN onnx onnxscript`, or any of the first
three, beside the package; what is there takes part in `benchmarks.networks`.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparse_ops as so

Call = Callable[[], Any]


def onnxruntime_call(path: Path, x: Tensor, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)[0]


def openvino_call(path: Path, x: Tensor, threads: int) -> Call:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    feed = {0: x.numpy()}
    return lambda: request.infer(feed, share_inputs=True, share_outputs=True)[0]


def mnn_call(path: Path, x: Tensor, threads: int) -> Call:
    # The converter without its command line, which installs a package that reports its use.
    import _tools
    import MNN

    converted = path.with_suffix(".mnn")
    files = ["--modelFile", str(path), "--MNNModel", str(converted)]
    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", *files, "--bizCode", "none"])
    setting = {"backend": 0, "precision": "high", "numThread": threads}
    runtime = MNN.nn.create_runtime_manager((setting,))
    net = MNN.nn.load_module_from_file(str(converted), [], [], runtime_manager=runtime)
    given = MNN.expr.const(x.numpy(), list(x.shape), MNN.expr.NCHW)
    return lambda: net.forward(given).read()


ENGINES = {"ONNX Runtime": onnxruntime_call, "OpenVINO": openvino_call, "MNN": mnn_call}


def calls(model: nn.Module, x: Tensor, threads: int) -> Iterator[tuple[str, Call]]:
    """Each engine that is installed, and a call of it on a network with one output, in float32."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        for name, make in ENGINES.items():
            try:
                if not path.exists():
                    so.export_onnx(model, x, path)
                call = make(path, x, threads)
            except ImportError as missing:
                print(f"{name} takes no part: {missing}", file=sys.stderr)
                continue
            yield name, call


def numbers(output: Any) -> Tensor:
    """What an engine's call gave, flat."""
    return torch.from_numpy(output).flatten()
