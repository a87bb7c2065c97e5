"""Training methods, as a command line names them and their options."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparse_ops.cli.errors import UserError


def make_method(
    name: str,
    sparsity: float | None,
    pattern: str | None,
    masks: Path | None,
    more: Sequence[str],
) -> tuple[Any, dict[str, Any]]:
    """The training method, and its options as words."""
    import dataclasses

    from sparse_ops import masks as masks_
    from sparse_ops.training import METHODS
    from sparse_ops.training.recipes import pattern_named

    if name not in METHODS:
        raise UserError(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    method: Any = METHODS[name]
    takes = {field.name: field for field in dataclasses.fields(method) if field.init}
    options: dict[str, Any] = {}
    words: dict[str, Any] = {}
    if sparsity is not None:
        options["sparsity"] = words["sparsity"] = sparsity
    if pattern is not None:
        options["pattern"], words["pattern"] = pattern_named(pattern), pattern
    if masks is not None:
        options["masks"], words["masks"] = masks_.load(masks), str(masks)
    for option in options:
        if option not in takes:
            raise UserError(f"{name} takes no --{option}")
    for option in more:
        key, _, text = option.partition("=")
        # Numbers, words and switches; what else there is has an option of its own.
        default = takes[key].default if key in takes else None
        if not isinstance(default, bool | int | float | str):
            able = [n for n, f in takes.items() if isinstance(f.default, bool | int | float | str)]
            raise UserError(
                f"{name} has no {key!r} to --set; it has {', '.join(able) or 'nothing'}"
            )
        options[key] = words[key] = _like(default, key, text)
    return method(**options), words


def _like(default: bool | int | float | str, key: str, text: str) -> bool | int | float | str:
    """What `text` says, in the type of `default`."""
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise UserError(f"--set {key} must be true or false, got {text!r}")
        return text == "true"
    try:
        return type(default)(text)
    except ValueError:
        raise UserError(f"--set {key} must be a {type(default).__name__}, got {text!r}") from None
