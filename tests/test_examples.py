"""The examples run, shortened, and end as they say."""

import http.client
import threading

import pytest
import torch

import sparse_ops as so
from examples import prune_torchvision, serve, swap_conv2d
from tests.ecosystem.networks import torchvision


@pytest.fixture(autouse=True)
def _threads():
    """An example may set the number of torch's threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_convolutions_are_swapped_trained_and_packed(capsys):
    found = swap_conv2d.main(["--images", "512", "--epochs", "3", "--batch", "8", "--budget", "1"])
    text = capsys.readouterr().out
    assert "2 of 3 convolutions exchanged" in text and "it is the first convolution" in text
    assert found["agree"] == 1.0 and found["swapped top-1"] > 0.3
    # 23 of 72 of 64·32·9 and of 64·64·9 weights.
    gone = (64 * 32 + 64 * 64) * 9 * 49 // 72
    assert found["dense parameters"] - found["swapped parameters"] == gone


def test_many_threads_are_served_by_one_network(capsys):
    found = serve.main(["--requests", "40", "--clients", "4", "--epochs", "1", "--budget", "0.5"])
    assert found == {"requests": 40.0, "agree": 1.0, "clients": 4.0}
    assert "40 requests from 4 clients" in capsys.readouterr().out


def test_a_wrong_request_is_answered_and_the_server_goes_on():
    server = serve.Server(0, so.models.lenet300().eval())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    for path, body in (("/predict", b"short"), ("/other", bytes(serve.BYTES))):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("POST", path, body)
        answer = connection.getresponse()
        assert answer.status == 400 and b"784 float32" in answer.read()
        connection.close()
    assert len(serve.ask(port, torch.randn(2, 1, 28, 28))) == 2
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_torchvision_network_is_pruned_and_packed():
    torchvision()
    more = ["--side", "64", "--budget", "3"]
    found = prune_torchvision.main(["--network", "resnet18", *more])
    assert found["off"] < 1e-4 and found["sparsity"] == pytest.approx(0.9, abs=0.001)
