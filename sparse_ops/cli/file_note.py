"""What a packed file says of the network that it was made of, so that nobody has to say it again.

It stands in the metadata of the safetensors file, beside what the library has there, as JSON.
"""

import json
import struct
from pathlib import Path
from typing import Any

from sparse_ops._files import replacing

KEY = "network"
# The least and most that a header's length may say: safetensors allows no more.
MOST = 100_000_000


def note(path: Path, network: dict[str, Any]) -> None:
    """Adds a network to the metadata of a safetensors file; its tensors stay where they are.

    Raises:
        ValueError: it is no safetensors file.
        OSError: the file cannot be read or written.
    """
    content = path.read_bytes()
    header, begin = _header(content)
    metadata = {**header.get("__metadata__", {}), KEY: json.dumps(network)}
    written = json.dumps({**header, "__metadata__": metadata}).encode()
    # Tensors begin at a multiple of eight bytes.
    written += b" " * (-len(written) % 8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(written)) + written)
        file.write(memoryview(content)[begin:])


def noted(path: Path) -> dict[str, Any]:
    """What `note` has written; nothing where it has not, or the file is another."""
    try:
        header, _ = _header(path.read_bytes())
        network = json.loads(header.get("__metadata__", {}).get(KEY, "{}"))
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
    return network if isinstance(network, dict) else {}


def _header(content: bytes) -> tuple[dict[str, Any], int]:
    if len(content) < 8:
        raise ValueError("it is too short for a safetensors file")
    (size,) = struct.unpack("<Q", content[:8])
    if not 2 <= size <= min(MOST, len(content) - 8):
        raise ValueError(f"a safetensors header of {size} bytes cannot be in this file")
    header = json.loads(content[8 : 8 + size])
    if not isinstance(header, dict):
        raise ValueError("it has no safetensors header")
    return header, 8 + size
