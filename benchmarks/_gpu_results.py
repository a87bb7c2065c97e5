"""What gpu_run.py leaves: four files, written anew after each stage.

gpu.json    every row of every stage: of this run, and of earlier ones of this commit and card
tuned.json  what tuning found
logs.tgz    the words of each stage
ncu.csv     what ncu measured, as it wrote it; its rows are in gpu.json, too
"""

import csv
import io
import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Of a log only the end is kept.
MOST_LOG_BYTES = 1 << 20
# What a row is about; the rest of it was measured.
ABOUT = (
    "what",
    "network",
    "layer",
    "operator",
    "precision",
    "batch",
    "removed",
    "backend",
    "fused",
)
# Of what ncu measures: time, tensor cores, L2, bank conflicts, why warps wait, registers.
METRICS = re.compile(
    r"gpu__time_duration|tensor|lts__t_(bytes|sectors)\.|lts__throughput|bank_conflict"
    r"|issue_stalled.*_per_warp_active|registers_per_thread|dram__bytes\.sum\.per_second"
)


def commit() -> str | None:
    """Of this checkout; SPARSE_OPS_COMMIT where there is no git, or None."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10)
        said = done.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    return said or os.environ.get("SPARSE_OPS_COMMIT") or None


def rows_of(stages: dict, name: str) -> list[dict]:
    return (stages.get(name, {}).get("figures") or {}).get("rows", [])


def card_of(stages: dict) -> str | None:
    """The card that a run's first stage named."""
    for row in rows_of(stages, "env"):
        return row.get("device")
    return None


def about(row: dict) -> tuple:
    return tuple((name, row[name]) for name in ABOUT if name in row)


def merged(old: list[dict], new: list[dict]) -> list[dict]:
    """The rows of both; of two about the same, the newer."""
    found = {about(row): row for row in old}
    return list((found | {about(row): row for row in new}).values())


def add(whole: dict, name: str, row: dict) -> None:
    """Puts a stage's outcome into a run: each of its rows where it belongs."""
    figures = row["figures"]
    parts: dict[str, list[dict]] = {}
    for each in figures["rows"] if figures else ():
        own = dict(each)
        parts.setdefault(own.pop("stage", name), []).append(own)
    stages = whole["stages"]
    for part, rows in parts.items():
        kept = rows_of(stages, part)
        state = {"state": row["state"], "seconds": row["seconds"]} if part != name else {}
        stages[part] = stages.get(part, {}) | state | {"figures": {"rows": merged(kept, rows)}}
    own_figures = stages.get(name, {}).get("figures")
    stages[name] = {k: row[k] for k in ("state", "seconds")} | {"figures": own_figures}


def joined(old: dict | None, new: dict) -> dict:
    """A run with the rows of an earlier one, if that was on the same card."""
    cards = {card_of(run["stages"]) or run.get("card") for run in (old, new) if run}
    rows = [row for name in new["stages"] for row in rows_of(new["stages"], name)]
    cards |= {row["card"] for row in rows if "card" in row}
    if old is None or len(cards - {None}) > 1:
        return new
    stages = dict(old["stages"])
    for name, row in new["stages"].items():
        kept, found = rows_of(old["stages"], name), rows_of(new["stages"], name)
        both = {"rows": merged(kept, found)} if kept or found else row["figures"]
        stages[name] = row | {"figures": both}
    return new | {"stages": stages}


def earlier(out: Path, of: str | None, gpu: bool) -> dict | None:
    """The gpu.json that is there, if it is of this commit and, by its own word, of a card."""
    try:
        found = json.loads((out / "gpu.json").read_text())
        same = gpu and found["gpu"] and of is not None and found["commit"] == of
        return found if same and card_of(found["stages"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def from_ncu(text: str) -> list[dict]:
    """A row for each kernel of ncu's raw CSV: its name, the range it ran in, and the metrics."""
    at = text.find('"ID"')
    if at < 0:
        return []
    table = list(csv.reader(io.StringIO(text[at:])))
    head, units = table[0], table[1] if len(table) > 1 else []
    found = []
    for line in table[2:]:
        if len(line) != len(head):
            continue
        row: dict[str, object] = {}
        for name, unit, value in zip(head, units, line, strict=True):
            if name == "Kernel Name":
                row["what"] = value
            elif METRICS.search(name) and value:
                number = value.replace(",", "")
                try:
                    row[f"{name} {unit}".strip()] = float(number)
                except ValueError:
                    continue
        found.append({"what": row.pop("what", "?"), "launch": len(found)} | row)
    return found


def error_of_ncu(text: str) -> str:
    """Why ncu measured nothing, in its own words: most often that it may not."""
    words = re.findall(r"==ERROR== *(.*)", text)
    return words[0] if words else "it does not say why"


def now_file(result: Path) -> Path:
    """Where a stage says which row it is at."""
    return result.with_name(result.name + ".now")


def broken_by(result: Path) -> str | None:
    """The backend at whose row a stage ended; None if it ended otherwise."""
    try:
        row = json.loads(now_file(result).read_text())
    except (OSError, ValueError):
        return None
    return row.get("backend") if isinstance(row, dict) else None


def publish(whole: dict, work: Path, out: Path) -> None:
    """Writes the four files; each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)

    def put(name: str, data: bytes) -> None:
        partial = work / f"{name}.partial"
        partial.write_bytes(data)
        # Renaming works on one file system only: beside its target it is renamed.
        beside = out / f".{name}"
        beside.write_bytes(partial.read_bytes())
        beside.replace(out / name)
        partial.unlink()

    put("gpu.json", (json.dumps(whole, indent=1) + "\n").encode())
    for name in ("tuned.json", "ncu.csv"):
        if (work / name).exists():
            put(name, (work / name).read_bytes())
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for log in sorted(work.glob("*.log")):
            data = log.read_bytes()[-MOST_LOG_BYTES:]
            entry = tarfile.TarInfo(log.name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    put("logs.tgz", packed.getvalue())
