"""The examples run, shortened, and end as they say."""

import http.client
import math
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import sparse_ops as so
from examples import pitch, prune_torchvision, serve, super_resolution, swap_conv2d
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


@pytest.fixture
def tiny_weights(tmp_path):
    """A file as ncnn writes it, of a network with two layers inside, and four photographs."""
    torch.manual_seed(0)
    model = super_resolution.Network(layers=2)
    parts = []
    for layer in model.body:
        if isinstance(layer, nn.Conv2d):
            parts.append(super_resolution.HALVES.to_bytes(4, "little"))
            halves = layer.weight.detach().numpy().astype(np.float16).tobytes()
            parts.append(halves + bytes(-len(halves) % 4))
            parts.append(layer.bias.detach().numpy().tobytes())
        elif isinstance(layer, nn.PReLU):
            parts.append(layer.weight.detach().numpy().tobytes())
    (tmp_path / "net.bin").write_bytes(b"".join(parts))
    for name in (*super_resolution.LEARNED, *super_resolution.TESTED):
        noise = np.random.default_rng(0).integers(0, 255, (112, 128, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    return model, tmp_path


def test_weights_of_ncnn_are_read_and_others_refused(tiny_weights):
    model, folder = tiny_weights
    read = super_resolution.Network(layers=2)
    super_resolution.read_ncnn_(read, folder / "net.bin")
    x = torch.rand(1, 3, 8, 8)
    # Weights of 16 bits.
    torch.testing.assert_close(read(x), model(x), rtol=1e-2, atol=1e-2)
    (folder / "other.bin").write_bytes(b"1234" + (folder / "net.bin").read_bytes()[4:])
    for layers, file, words in (
        (1, "net.bin", "bytes more than"),
        (3, "net.bin", "bytes, .* were wanted"),
        (2, "other.bin", "must have 0x1306b47 at byte 0"),
    ):
        with pytest.raises(ValueError, match=words):
            super_resolution.read_ncnn_(super_resolution.Network(layers=layers), folder / file)


def test_a_super_resolution_network_is_pruned_trained_on_and_packed(tiny_weights, capsys):
    _, folder = tiny_weights
    files = ["--weights", str(folder / "net.bin"), "--photographs", str(folder), "--layers", "2"]
    short = [
        "--sparsity",
        "0.9",
        "--rounds",
        "4",
        "--steps",
        "4",
        "--side",
        "64",
        "--budget",
        "0.5",
    ]
    out = folder / "picture.png"
    found = super_resolution.main([*files, *short, "--out", str(out)])
    assert found["sparsity"] == pytest.approx(0.9, abs=0.001)
    # Learning on brings back what cutting cost, and packing changes nothing.
    whole, cut, learned = (abs(found[k] - found["dense"]) for k in ("dense", "cut", "trained on"))
    assert whole <= learned < cut
    assert found["packed"] == pytest.approx(found["trained on"], abs=1e-3)
    with Image.open(out) as picture:
        assert picture.size == (3 * 64, 64)


@pytest.mark.slow
def test_a_pitch_tracker_is_pruned_trained_on_and_packed(tmp_path, capsys):
    torch.manual_seed(0)
    model = pitch.Crepe("tiny")
    torch.save(model.state_dict(), tmp_path / "tiny.pth")
    short = ["--steps", "2", "--tones", "12", "--batch", "2", "--budget", "0.5"]
    found = pitch.main(["--weights", str(tmp_path / "tiny.pth"), *short])
    assert found["sparsity"] == pytest.approx(0.9, abs=0.001)
    assert found["packed"] == found["trained on"]
    assert "of 12 tones within half a semitone" in capsys.readouterr().out


def test_tones_have_the_pitch_that_they_are_made_with():
    pitches = torch.tensor([100.0, 441.0, 1234.0])
    sound = pitch.tones(pitches, torch.Generator().manual_seed(0))
    # The strongest line of each spectrum, to half of what lies between two lines.
    lines = torch.fft.rfft(sound * torch.hann_window(pitch.FRAME)).abs().argmax(1)
    assert bool(((lines * pitch.RATE / pitch.FRAME - pitches).abs() < 0.6 * 15.625).all())
    assert sound.std(1).tolist() == pytest.approx([1, 1, 1], abs=1e-4)


def test_a_tracker_that_knows_every_pitch_is_always_right():
    class Oracle(torch.nn.Module):
        def forward(self, x):
            pitches = torch.exp(torch.linspace(math.log(60), math.log(1500), len(x)))
            bins = ((1200 * torch.log2(pitches / 10) - pitch.FIRST) / pitch.CENTS).round().long()
            return torch.nn.functional.one_hot(bins.clamp(0), pitch.BINS)

    assert pitch.right(Oracle(), 20) == 1.0
    assert pitch.right(pitch.Crepe("tiny").eval(), 20) < 0.5
