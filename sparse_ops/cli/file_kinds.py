"""What a file is, by what stands in it: its name may say anything."""

import struct
import zipfile
from pathlib import Path

TORCH = "a file of torch.save"
LEGACY = "a file of torch.save before 1.6"
SCRIPT = "a TorchScript archive"
PICKLE = "a plain pickle, not written by torch.save"

# What torch.save begins with in its old format: a pickled number.
_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_BEGINNINGS = {
    b"PK": "a damaged zip file: it ends too soon, or is not all there",
    _LEGACY: LEGACY,
    b"\x80": PICKLE,
    b"\x89HDF": "HDF5, whose name must end in .hdf5 or .h5",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"BZh": "compressed by bzip2: unpack it first",
    b"\xfd7zXZ": "compressed by xz: unpack it first",
    b"(\xb5/\xfd": "compressed by zstd: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"version https://git-lfs": "a Git LFS pointer, not the file that it stands for: git lfs pull",
    b"<": "a web page or XML, as failed downloads leave it",
}


def kind_of(path: Path) -> str:
    """One of the kinds above, or what else it is, in words.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, a file was wanted")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "empty"
    if zipfile.is_zipfile(path) and start.startswith(b"PK"):
        return _zip_kind(path)
    # Files of torch.save from before 2017, too.
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it first, or load and save it anew with torch.load and save"
    if len(start) > 8 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < size:
        return "safetensors, whose name must end in .safetensors"
    for beginning, words in _BEGINNINGS.items():
        if start.lstrip().startswith(beginning):
            return words
    if start[:40].isascii() and b"\0" not in start:
        return f"text that begins {start[:40].decode()!r}"
    return f"{size:,} bytes that begin {start[:8].hex(' ')}"


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        return f"a damaged zip file: {error}"
    # Everything in an archive of torch's is in one folder.
    inner = {name.partition("/")[2] for name in names}
    if "data.pkl" in inner:
        return SCRIPT if "constants.pkl" in inner else TORCH
    if "models/model.json" in inner:
        return "a program of torch.export, whose weights have no names of a state dict"
    if names and all(name.endswith(".npy") for name in names):
        return "arrays of NumPy, whose name must end in .npz"
    return f"a zip file of {', '.join(names[:3]) or 'nothing'}"
