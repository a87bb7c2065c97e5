"""What is in a cubin: instructions and resources, read without NVIDIA's tools; who makes them."""

import struct
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import pytest

from tests.kernels.on_host import nvrtc

# The low 12 bits of an instruction of 16 bytes, from sm_70 on; the same in the variants that take
# a constant or an immediate but for the highest three bits.
OPCODES = {0x236: "HMMA", 0x23C: "HMMA", 0x83B: "LDSM", 0x387: "STL", 0x983: "LDL", 0xFAE: "LDGSTS"}
# wgmma with a in registers. 0x9f0 has it in shared memory, or is nothing but an empty group.
OPCODES |= {0xDF0: "HGMMA", 0x3BA: "UBLKCP", 0x9C8: "USETMAXREG"}


@cache
def compiler(major, package):
    """An NVRTC of that version, or a skip that says what is missing."""
    for path in nvrtc.candidates(f"{major}.0"):
        try:
            found = nvrtc.NVRTC(path)
        except nvrtc.CompilerError:
            continue
        if found.version[0] == major:
            return found
    return f"NVRTC {major} is not here: pip install {package}"


def needed(major, package):
    found = compiler(major, package)
    if isinstance(found, str):
        pytest.skip(found)
    return found


class Section(NamedTuple):
    name: str
    info: int
    data: bytes


def sections(cubin: bytes) -> list[Section]:
    """Those of an ELF file of 64 bits."""
    assert cubin[:6] == b"\x7fELF\x02\x01", "no ELF file of 64 bits"
    start = struct.unpack_from("<Q", cubin, 0x28)[0]
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", cubin, start + i * size) for i in range(count)]
    offset = headers[names][4]
    found = []
    for header in headers:
        at = offset + header[0]
        name = cubin[at : cubin.index(b"\0", at)].decode()
        # Sections of no bits, such as shared memory, have a size only.
        data = b"" if header[1] == 8 else cubin[header[4] : header[4] + header[5]]
        found.append(Section(name, header[7], data))
    return found


def instructions(cubin: bytes, kernel: str) -> dict[str, int]:
    """How many of those that `OPCODES` names are in a kernel."""
    (text,) = (s.data for s in sections(cubin) if s.name == f".text.{kernel}")
    found = dict.fromkeys(OPCODES.values(), 0)
    for at in range(0, len(text), 16):
        opcode = struct.unpack_from("<H", text, at)[0] & 0xFFF
        if opcode in OPCODES:
            found[OPCODES[opcode]] += 1
    return found


def attributes(cubin: bytes, section: str = ".nv.info") -> Iterator[tuple[int, bytes]]:
    """(attribute, what it says) of a section that describes all kernels, or `.nv.info.<kernel>`."""
    (info,) = (s.data for s in sections(cubin) if s.name == section)
    at = 0
    while at < len(info):
        kind, attribute, size = struct.unpack_from("<BBH", info, at)
        # Those of another kind have no more than the two bytes of the size.
        own = info[at + 4 : at + 4 + size] if kind == 4 else info[at + 2 : at + 4]
        yield attribute, own
        at += 4 + (size if kind == 4 else 0)


def stack_bytes(cubin: bytes) -> int:
    """The most that a thread's stack takes: EIATTR_MIN_STACK_SIZE (0x12)."""
    return max(struct.unpack_from("<I", own, 4)[0] for at, own in attributes(cubin) if at == 0x12)


def registers(cubin: bytes, kernel: str) -> int:
    """Of a thread: EIATTR_REGCOUNT (0x2f), the only kernel's."""
    return next(struct.unpack_from("<I", own, 4)[0] for at, own in attributes(cubin) if at == 0x2F)


class Signature(NamedTuple):
    """What a kernel was compiled to be launched with."""

    architecture: int
    argument_bytes: int
    threads: int


def signature(cubin: bytes, kernel: str) -> Signature:
    """EIATTR_CBANK_PARAM_SIZE (0x19), MAX_THREADS (0x05)."""
    found = dict(attributes(cubin, f".nv.info.{kernel}"))
    # Before 13 it is the lowest byte, beside which the ABI's version is 7.
    architecture = cubin[0x31] if cubin[8] == 8 else cubin[0x30]
    threads = struct.unpack_from("<I", found[0x05])[0]
    return Signature(architecture, struct.unpack("<H", found[0x19])[0], threads)
