"""IDX files: whole ones are read back, damaged ones are refused without taking memory."""

import gzip
import tracemalloc

import pytest
import torch

from sparse_ops.data.idx import read_idx, write_idx


def header(*shape: int, kind: int = 8, dims: int | None = None) -> bytes:
    count = len(shape) if dims is None else dims
    return bytes([0, 0, kind, count]) + b"".join(size.to_bytes(4, "big") for size in shape)


@pytest.mark.parametrize("name", ["items", "items.gz"])
@pytest.mark.parametrize("shape", [(5,), (1,), (3, 4, 2), (0, 28, 28)])
def test_what_was_written_is_read_back(tmp_path, name, shape):
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    write_idx(tmp_path / name, items)
    read = read_idx(tmp_path / name, dims=len(shape))
    assert read.dtype == torch.uint8
    assert torch.equal(read, items)


def test_the_bytes_are_those_of_the_format(tmp_path):
    write_idx(tmp_path / "items", torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.uint8))
    assert (tmp_path / "items").read_bytes() == header(2, 3) + bytes([1, 2, 3, 4, 5, 6])


def test_equal_items_give_equal_files(tmp_path):
    items = torch.arange(200, dtype=torch.uint8)
    for name in ("a.gz", "b.gz"):
        write_idx(tmp_path / name, items)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an IDX file: it begins with nothing"),
        (b"\0\0", "not an IDX file"),
        (b"PNG and more", "not an IDX file"),
        (header(3, kind=13) + b"abc", r"unsigned bytes \(type 8\), got type 13"),
        (header(3, 1, 1) + b"abc", "must have 1 dimensions, got 3"),
        (header(3)[:6], "ends within its header"),
        (header(3) + b"ab", "but ends after 2"),
        (header(3) + b"abcd", "but goes on after them"),
        (header(2**32 - 1) + b"abc", "which cannot be in that file"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, content, words, zipped):
    path = tmp_path / ("broken.gz" if zipped else "broken")
    path.write_bytes(gzip.compress(content) if zipped else content)
    if words == "but ends after 2" and not zipped:
        words = "but ends after 2|which cannot be"
    with pytest.raises(ValueError, match=words) as caught:
        read_idx(path, dims=1)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not gzip"])
def test_a_damaged_gzip_file_is_a_value_error(tmp_path, damage):
    path = tmp_path / "broken.gz"
    write_idx(path, torch.arange(250, dtype=torch.uint8))
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[-30:]
    elif damage == "flipped":
        content[-5] ^= 0xFF
    else:
        content = bytearray(b"plain")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.gz"):
        read_idx(path, dims=1)


@pytest.mark.parametrize("name", ["items", "items.gz"])
def test_a_header_that_claims_too_much_takes_no_memory(tmp_path, name):
    content = header(2**31, 2**31, 2**31) + bytes(1000)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    tracemalloc.start()
    with pytest.raises(ValueError, match="cannot be in that file"):
        read_idx(tmp_path / name, dims=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_what_is_not_bytes_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"items must be uint8 .* got torch\.float32 with 1"):
        write_idx(tmp_path / "items", torch.zeros(3))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "nothing", dims=1)
