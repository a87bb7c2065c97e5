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
    kinds = {key: kind for key, field in takes.items() if (kind := _kind(field)) is not None}
    for option in more:
        key, _, text = option.partition("=")
        if key not in kinds:
            raise UserError(
                f"{name} has no {key!r} to --set; it has {', '.join(kinds) or 'nothing'}"
            )
        options[key] = words[key] = _said(kinds[key], key, text)
    return method(**options), words


def _kind(field: Any) -> type | None:
    """Of what type an option is: a number, a word or a switch; others have an option of their own.

    By its default, or by what it is declared to be where that is None.
    """
    if isinstance(field.default, bool | int | float | str):
        return type(field.default)
    declared: dict[Any, type] = {int | None: int, float | None: float}
    return declared.get(field.type) if field.default is None else None


def _said(kind: type, key: str, text: str) -> bool | int | float | str:
    """What `text` says, in the type wanted."""
    if kind is bool:
        if text not in ("true", "false"):
            raise UserError(f"--set {key} must be true or false, got {text!r}")
        return text == "true"
    try:
        value: bool | int | float | str = kind(text)
    except ValueError:
        raise UserError(f"--set {key} must be a {kind.__name__}, got {text!r}") from None
    return value
