"""One inference engine on one network, in a process and an environment of its own.

python engine_process.py ENGINE model.onnx x.npy THREADS

Writes what it gives for x to x.npy.out.npy and then, for each line with a number that it reads, the
seconds that so many calls took: on the clock, and of the CPU. Needs numpy and the engine only; see
`benchmarks.engines`.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], Any]


def onnxruntime(path: str, x: Any, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)[0]


def openvino(path: str, x: Any, threads: int) -> Call:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda: request.infer({0: x}, share_inputs=True, share_outputs=True)[0]


def mnn(path: str, x: Any, threads: int) -> Call:
    # The converter without its command line, which installs a package that reports its use.
    import _tools
    import MNN

    converted = str(Path(path).with_suffix(".mnn"))
    files = ["--modelFile", path, "--MNNModel", converted]
    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", *files, "--bizCode", "none"])
    setting = {"backend": 0, "precision": "high", "numThread": threads}
    runtime = MNN.nn.create_runtime_manager((setting,))
    net = MNN.nn.load_module_from_file(converted, [], [], runtime_manager=runtime)
    given = MNN.expr.const(x, list(x.shape), MNN.expr.NCHW)
    return lambda: net.forward(given).read()


def deepsparse(path: str, x: Any, threads: int) -> Call:
    from deepsparse import compile_model

    engine = compile_model(path, batch_size=len(x), num_cores=threads)
    return lambda: engine.run([x])[0]


ENGINES = {each.__name__: each for each in (onnxruntime, openvino, mnn, deepsparse)}


def main(engine: str, path: str, given: str, threads: str) -> None:
    # Engines print what they like, also past Python: only this pipe has what is told.
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    call = ENGINES[engine](path, np.load(given), int(threads))
    np.save(given + ".out.npy", np.asarray(call()))
    print("ready", file=told, flush=True)
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(int(line)):
            call()
        took = time.perf_counter() - wall, time.process_time() - cpu
        print(*took, file=told, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
