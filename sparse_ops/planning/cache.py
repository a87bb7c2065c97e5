"""Cache: what was measured on this machine, kept on disk between processes.

One JSON file for each machine, torch, build of this package and number of threads, in the
platform's folder for caches, or in that which the environment variable `SPARSE_OPS_CACHE` names;
"off" keeps nothing. A file that is damaged is ignored, and written anew.
"""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparse_ops._files import replacing
from sparse_ops.planning.environment import environment
from sparse_ops.planning.measure import FEWEST_PAIRS, Comparison

VARIABLE = "SPARSE_OPS_CACHE"
FORMAT = 1
# Some MB of JSON; the oldest entries go first.
MOST_ENTRIES = 20_000
# What was measured in a quarter of the time there is now, or with enough pairs, is sure enough.
LEAST_TIME = 0.25

# Threads of one process take turns at reading, merging and writing; of several processes, one may
# lose what it measured, never the file.
_lock = threading.Lock()


def folder() -> Path | None:
    """Where measurements are kept, or None if they are not."""
    named = os.environ.get(VARIABLE, "")
    if named.lower() in ("off", "0"):
        return None
    if named:
        return Path(named).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "sparse_ops"


def digest(what: Any) -> str:
    """A short name for plain data, the same in every process."""
    text = json.dumps(what, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Cache:
    """Measurements for the environment as it is now.

    Attributes:
        path: the file, or None where nothing is kept.
        notes: what went wrong with it, in words.
        hits: how many measurements were found in it.
    """

    def __init__(self, folder: Path | None) -> None:
        self.environment = environment()
        self.path = folder and folder / f"measured-{digest(self.environment)}.json"
        self.notes: list[str] = []
        self.hits = 0
        self._new: dict[str, Any] = {}
        self._known = self._read()

    def _read(self) -> dict[str, Any]:
        if self.path is None:
            return {}
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT or data["environment"] != self.environment:
                raise ValueError("it is for another version or machine")
            return dict(data["results"])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            self.notes.append(f"{self.path} is no cache of measurements and was ignored: {error!r}")
            return {}

    def get(self, what: Mapping[str, Any]) -> Any | None:
        """The value kept for `what`, plain data, or None."""
        return self._known.get(digest(what))

    def put(self, what: Mapping[str, Any], value: Any) -> None:
        """Keeps a value, plain data, for `what`; `write` brings it to the disk."""
        self._known[digest(what)] = self._new[digest(what)] = value

    def comparison(self, what: Mapping[str, Any], seconds: float) -> Comparison | None:
        """A comparison that was measured for `what` with about as much time, or None."""
        found = self._comparison(what, seconds)
        self.hits += found is not None
        return found

    def knows(self, what: Mapping[str, Any], seconds: float) -> bool:
        """Whether `comparison` has one."""
        return self._comparison(what, seconds) is not None

    def _comparison(self, what: Mapping[str, Any], seconds: float) -> Comparison | None:
        kept: Any = self.get(what)
        try:
            numbers = kept["comparison"]
            hurried = float(kept["seconds"]) < LEAST_TIME * seconds
            if hurried and int(numbers["pairs"]) < FEWEST_PAIRS:
                return None
            return Comparison(
                dense_ms=float(numbers["dense_ms"]),
                packed_ms=float(numbers["packed_ms"]),
                speedup=float(numbers["speedup"]),
                low=float(numbers["low"]),
                high=float(numbers["high"]),
                pairs=int(numbers["pairs"]),
                dropped=int(numbers["dropped"]),
            )
        except (ValueError, TypeError, KeyError):
            return None

    def put_comparison(self, what: Mapping[str, Any], seconds: float, measured: Comparison) -> None:
        """Keeps a comparison that was given some seconds."""
        self.put(what, {"seconds": seconds, "comparison": asdict(measured)})

    def write(self) -> None:
        """Adds what is new to the file; where that cannot be done, a note says why."""
        if self.path is None or not self._new:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _lock:
                results = self._read() | self._new
                data = {
                    "format": FORMAT,
                    "environment": self.environment,
                    "results": dict(list(results.items())[-MOST_ENTRIES:]),
                }
                with replacing(self.path) as temporary:
                    temporary.write_text(json.dumps(data), encoding="utf-8")
        except OSError as error:
            self.notes.append(f"measurements could not be kept: {error}")
        self._new = {}
