"""Training methods, as a command line names them and their options."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparse_ops.cli.errors import UserError


def method_options(
    name: str,
    sparsity: float | None,
    pattern: str | None,
    masks: Path | None,
    more: Sequence[str],
) -> dict[str, Any]:
    """The options of a training method, as a recipe says them: patterns and masks by their names.

    Raises:
        UserError: there is no such method, or it has no such option.
        ValueError: an option is out of its range.
        OSError: the masks cannot be read.
    """
    import dataclasses

    from sparse_ops.training import METHODS
    from sparse_ops.training.recipes import Phase

    if name not in METHODS:
        raise UserError(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    method: Any = METHODS[name]
    takes = {field.name: field for field in dataclasses.fields(method) if field.init}
    given = {
        "sparsity": sparsity,
        "pattern": pattern,
        "masks": None if masks is None else str(masks),
    }
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    for option in options:
        if option not in takes:
            raise UserError(f"{name} takes no --{option}")
    if "masks" in takes and masks is None:
        raise UserError(f"{name} needs --masks, a file of at least one mask")
    kinds = {key: kind for key, field in takes.items() if (kind := _kind(field)) is not None}
    for option in more:
        key, _, text = option.partition("=")
        if key not in kinds:
            raise UserError(
                f"{name} has no {key!r} to --set; it has {', '.join(kinds) or 'nothing'}"
            )
        options[key] = _said(kinds[key], key, text)
    # What cannot be made is found now, and not after the dense training.
    Phase(name, name, 0, options).make_method({})
    return options


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
