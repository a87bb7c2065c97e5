"""CUDA C++ compiled at run time, by the NVRTC that torch for CUDA brings along: no nvcc is wanted.

What was compiled is kept on disk, by the text, the options, the architecture and NVRTC's version,
in the folder that SPARSE_OPS_CACHE names or the platform's for caches ("off" keeps nothing). Files
are written whole or not at all, and carry a digest: a damaged one is compiled anew, and two
processes that compile the same write the same.
"""

import ctypes
import hashlib
import importlib.util
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "cuda"
# Products that wait for each other, or registers that are kept in memory.
TOO_FEW = re.compile(r"serialized|[1-9]\d* bytes spill stores")
# What a file in the cache begins with, before the digest.
MAGIC = b"sparse_ops cubin 1\n"


class CompilerError(RuntimeError):
    """There is no NVRTC, or it refuses what it was given; the message says which."""


def candidates(cuda: str | None) -> list[str]:
    """Where NVRTC may be, the likeliest first: SPARSE_OPS_NVRTC, NVIDIA's packages, the system.

    Args:
        cuda: the CUDA version of torch: its NVRTC comes before those of others.
    """
    if named := os.environ.get("SPARSE_OPS_NVRTC"):
        return [named]
    found: list[Path] = []
    try:
        spec = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        spec = None
    for folder in (spec and spec.submodule_search_locations) or ():
        for pattern in ("*/lib/libnvrtc.so.[0-9]*", "*/bin/nvrtc64_*_0.dll"):
            found += Path(folder).glob(pattern)
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(name):
            found += Path(home).glob("lib64/libnvrtc.so.[0-9]*")
    found += Path("/usr/local/cuda/lib64").glob("libnvrtc.so.[0-9]*")
    major = (cuda or "").partition(".")[0]

    def rank(path: Path) -> tuple[bool, int]:
        number = re.search(r"(?:\.so\.|64_)(\d+?)(?:\D|0_|$)", path.name)
        own = number[1] if number else ""
        return own != major, -int(own or 0)

    names = [str(path) for path in sorted(found, key=rank)]
    system = [f"libnvrtc.so.{major}"] if major else []
    return [*names, *system, "libnvrtc.so.13", "libnvrtc.so.12"]


class RegistersError(CompilerError):
    """What was compiled has too few registers for what it is to do."""


class NVRTC:
    """NVRTC, loaded.

    Attributes:
        path: where it was found.
        version: (major, minor).
        said: what it said of the last program, warnings of ptxas included.
    """

    def __init__(self, path: str) -> None:
        try:
            self._library = ctypes.CDLL(path)
            major, minor = ctypes.c_int(), ctypes.c_int()
            self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
            self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        except (OSError, AttributeError) as error:
            raise CompilerError(f"{path} is no NVRTC ({error})") from error
        self.path, self.version = path, (major.value, minor.value)
        self.said = ""

    def architectures(self) -> set[int]:
        """Those that it compiles for: 90 for sm_90."""
        count = ctypes.c_int()
        self._check(self._library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        found = (ctypes.c_int * count.value)()
        self._check(self._library.nvrtcGetSupportedArchs(found))
        return set(found)

    def _check(self, code: int, words: str = "") -> None:
        if code:
            said = self._library.nvrtcGetErrorString(code).decode()
            version = ".".join(map(str, self.version))
            raise CompilerError(f"NVRTC {version} says {said}{words}")

    def _text(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        text = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, text))
        return text.raw

    def compile(self, name: str, sources: dict[str, str], options: Sequence[str]) -> bytes:
        """The cubin of `sources[name]`, which may include the others.

        Raises:
            CompilerError: it does not compile; the message has the compiler's words.
        """
        others = [other for other in sources if other != name]
        texts = (ctypes.c_char_p * len(others))(*(sources[other].encode() for other in others))
        names = (ctypes.c_char_p * len(others))(*(other.encode() for other in others))
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        program = ctypes.c_void_p()
        text = sources[name].encode()
        create = self._library.nvrtcCreateProgram
        self._check(create(ctypes.byref(program), text, name.encode(), len(others), texts, names))
        try:
            code = self._library.nvrtcCompileProgram(program, len(options), given)
            self.said = self._text(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            self._check(code, f" of {name} with {' '.join(options)}: {self.said[:3000]}")
            return self._text(program, "CUBIN")
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))


@cache
def nvrtc(cuda: str | None) -> NVRTC:
    """The first NVRTC that can be loaded.

    Raises:
        CompilerError: there is none; the message says what was tried.
    """
    tried = []
    for path in candidates(cuda):
        try:
            return NVRTC(path)
        except CompilerError as error:
            tried.append(str(error))
    raise CompilerError("NVRTC is not here: " + "; ".join(tried))


def sources() -> dict[str, str]:
    """The texts of our kernels, by file name."""
    return {path.name: path.read_text() for path in sorted(FOLDER.glob("*.cuh"))}


def cache_folder() -> Path | None:
    """Where cubins are kept, or None if they are not."""
    named = os.environ.get("SPARSE_OPS_CACHE", "")
    if named.lower() in ("off", "0"):
        return None
    if named:
        return Path(named).expanduser() / "cubin"
    # Unlike Path.home, this is no error for a user without a home.
    home = os.path.expanduser("~")
    own = Path(home) if os.path.isabs(home) else Path(tempfile.gettempdir())
    bases = {"win32": own / "AppData" / "Local", "darwin": own / "Library" / "Caches"}
    base = bases.get(sys.platform, Path(os.environ.get("XDG_CACHE_HOME") or own / ".cache"))
    return base / "sparse_ops" / "cubin"


def read(file: Path) -> bytes | None:
    """The cubin in a file, or None if there is no whole one."""
    try:
        kept = file.read_bytes()
    except OSError:
        return None
    start = len(MAGIC) + 32
    whole = kept[:start] == MAGIC + hashlib.sha256(kept[start:]).digest()
    return kept[start:] if whole else None


def write(file: Path, cubin: bytes) -> None:
    """Keeps a cubin; where that cannot be, says so once and goes on."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as temporary:
                temporary.write(MAGIC + hashlib.sha256(cubin).digest() + cubin)
            os.replace(name, file)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        warnings.warn(
            f"compiled kernels are not kept, each process compiles them anew: {error}", stacklevel=2
        )


def macros_of(defines: dict[str, int]) -> list[str]:
    return [f"-DSPARSE_OPS_{macro}={number}" for macro, number in sorted(defines.items())]


def cubin(
    compiler: NVRTC,
    name: str,
    architecture: str,
    defines: dict[str, int],
    folder: Path | None,
    more: dict[str, str] | None = None,
) -> bytes:
    """A file of `cuda/` compiled for an architecture, from `folder` if it is there.

    Args:
        name: of the file.
        architecture: "sm_90", say.
        defines: macros, without their SPARSE_OPS_.
        more: file name -> text, of what it includes beside those in `cuda/`.

    Raises:
        CompilerError: it does not compile.
        RegistersError: it does, but with too few registers.
    """
    options = [f"--gpu-architecture={architecture}", "-std=c++17", "-default-device"]
    options += ["--ptxas-options=-v", *macros_of(defines)]
    texts = sources() | (more or {})
    key = hashlib.sha256(repr((compiler.version, name, options, texts)).encode()).hexdigest()
    file = folder and folder / f"{name.partition('.')[0]}-{architecture}-{key[:32]}"
    made = None if file is None else read(file)
    if made is None:
        made = compiler.compile(name, texts, options)
        # Of wgmma: slow and, seen once with both, wrong.
        if architecture.endswith("a") and TOO_FEW.search(compiler.said):
            made = b""
        if file is not None:
            write(file, made)
    if not made:
        raise RegistersError(f"there are too few registers for {' '.join([name, *options])}")
    return made
