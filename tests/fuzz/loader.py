"""The loader under atheris, which looks for files that reach new code: pip install ".[fuzz]".

    python -m tests.fuzz.loader SECONDS [FOLDER]

FOLDER, by default build/loader, keeps the files that reached something new, and crash-* for what is
found. The code whose branches are counted is what reads: sparse_ops' files, programs and metadata.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sparse_ops.planning", "sparse_ops.program"]):
    import sparse_ops.planning.checkpoint
    import sparse_ops.program.file  # noqa: F401

from tests.fuzz import campaign, files

# Header included, the largest that are begun with have some ten thousand bytes.
MOST_BYTES = 1 << 17


def check(data):
    """A file is refused in words, or it loads and runs; with a model and without."""
    with files.scratch() as folder:
        path = Path(folder) / "any.safetensors"
        path.write_bytes(data)
        _, model, x = files.whole("layers")
        files.read(path, model, x)
        files.read(path, None, x)


def main(seconds, folder="build/loader"):
    campaign.prepare(["files"])
    seeds = Path(folder)
    seeds.mkdir(parents=True, exist_ok=True)
    for file in files.FILES:
        (seeds / file.replace(" ", "-")).write_bytes(files.whole(file)[0])
    options = [f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={folder}/", str(seeds)], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
