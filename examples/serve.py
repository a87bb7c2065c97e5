"""Serves one packed network to many threads over HTTP.

    python examples/serve.py --port 8000           # then POST 784 float32 numbers to /predict
    python examples/serve.py --requests 400        # starts, asks itself from 8 threads, and stops

The network is made once; every thread of the server calls the same one. Nothing has to be locked:
a converted model keeps no state between calls. One thread of torch for each call: many small calls
at once go better over cores than inside of them.
"""

import argparse
import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from torch import nn

import sparse_ops as so

SIDE = 28
BYTES = 4 * SIDE * SIDE


def packed_network(epochs: int, budget_s: float) -> tuple[nn.Module, nn.Module]:
    """A small network that has learned clothes, with a fiftieth of its weights, and packed."""
    data = so.data.load("fashion-mnist-subset")
    torch.manual_seed(0)
    model = so.models.lenet300()
    method = so.training.Magnitude(0.98, begin=0, end=max(1, epochs - 1))
    masks = so.training.fit(model, data, method, epochs=epochs, progress=False)
    print(f"top-1 {so.training.evaluate(model, data.test).top1:.2%} on images it has not seen")
    example = data.test.images[:1]  # as requests come: one by one
    return model, so.sparsify(model, example, masks, budget_s=budget_s, progress=False)


class Server(ThreadingHTTPServer):
    """A server with a network; `model` is called by all of its threads."""

    daemon_threads = True

    def __init__(self, port: int, model: nn.Module) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.model = model


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if self.path != "/predict" or length != BYTES:
            self.close_connection = True
            self._answer(400, {"error": f"POST {BYTES} bytes, 784 float32 numbers, to /predict"})
            return
        image = torch.frombuffer(bytearray(self.rfile.read(length)), dtype=torch.float32)
        assert isinstance(self.server, Server)
        with torch.inference_mode():
            scores = self.server.model(image.reshape(1, 1, SIDE, SIDE)).softmax(1)[0]
        confidence, label = scores.max(0)
        self._answer(200, {"label": int(label), "confidence": round(float(confidence), 4)})

    def _answer(self, status: int, content: dict[str, object]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def ask(port: int, images: torch.Tensor) -> list[int]:
    """The labels that the server gives to images (N, 1, 28, 28), over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    labels = []
    for image in images:
        connection.request("POST", "/predict", image.contiguous().numpy().tobytes())
        answer = connection.getresponse()
        content = json.loads(answer.read())
        assert answer.status == 200, content
        labels.append(content["label"])
    connection.close()
    return labels


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--requests", type=int, default=0, help="ask so many, and stop; 0: serve")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for the plan")
    given = parser.parse_args(arguments)

    torch.set_num_threads(1)
    model, fast = packed_network(given.epochs, given.budget)
    server = Server(given.port, fast)
    port = server.server_address[1]
    print(f"serving on http://127.0.0.1:{port}/predict", flush=True)
    if not given.requests:
        server.serve_forever()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    images = so.data.load("fashion-mnist-subset").test.images[: given.requests]
    with torch.inference_mode():
        expected = model(images).argmax(1)
    parts = images.chunk(given.clients)
    begin = time.perf_counter()
    with ThreadPoolExecutor(len(parts)) as pool:
        answers = list(pool.map(lambda part: ask(port, part), parts))
    seconds = time.perf_counter() - begin
    server.shutdown()
    server.server_close()
    labels = [label for answer in answers for label in answer]
    right = float((torch.tensor(labels) == expected).float().mean())
    print(
        f"{len(labels)} requests from {len(parts)} clients in {seconds:.2f} s, HTTP and all; "
        f"{right:.1%} of the labels are those of the masked dense network"
    )
    return {"requests": float(len(labels)), "agree": right, "clients": float(len(parts))}


if __name__ == "__main__":
    main()
