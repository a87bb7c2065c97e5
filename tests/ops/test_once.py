"""What is worked out once: by threads, on streams, and while a graph is recorded."""

import sys
import threading

import pytest
import torch

from sparse_ops.ops._once import once


class OnDevice:
    """A tensor that says it is on a GPU."""

    is_cuda = True

    def __init__(self, tensor):
        self.tensor = tensor

    def __getattr__(self, name):
        return getattr(self.tensor, name)


@pytest.fixture
def device(monkeypatch):
    """[whether a graph is being recorded, how often a stream was waited for]."""
    state = [False, 0]

    class Stream:
        def synchronize(self):
            assert not state[0], "a stream that is being recorded cannot be waited for"
            state[1] += 1

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state[0])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    return state


def test_the_same_tensor_is_worked_on_once_until_it_changes():
    x, done = torch.zeros(3), []
    for _ in range(2):
        assert once("sum", (x,), lambda: done.append(1) or len(done)) == 1
    x += 1
    assert once("sum", (x,), lambda: done.append(1) or len(done)) == 2


def test_another_stream_finds_what_is_finished(device):
    x = OnDevice(torch.zeros(3))
    assert once("a", (x,), lambda: 1) == 1 and device[1] == 1
    assert once("a", (x,), lambda: 2) == 1 and device[1] == 1


def test_what_a_graph_records_is_not_kept(device):
    x = OnDevice(torch.zeros(3))
    device[0] = True
    assert once("b", (x,), lambda: 1) == 1 and once("b", (x,), lambda: 2) == 2
    device[0] = False
    assert once("b", (x,), lambda: 3) == 3
    device[0] = True
    # Recorded after such a call, the graph has what was worked out before.
    assert once("b", (x,), lambda: 4) == 3


def test_threads_that_come_and_go_do_not_disturb_each_other():
    errors = []

    def work(own):
        try:
            for n in range(300):
                x = torch.full((2,), float(own))
                assert once(("thread", own), (x,), lambda n=n: n) == n
        except Exception as error:
            errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=work, args=(own,)) for own in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    assert errors == []
