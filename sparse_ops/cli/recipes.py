"""`sparse-ops recipes`: the published experiments that can be run, and their published figures."""

from typing import Annotated

import typer


def recipes(
    word: Annotated[str, typer.Argument(help="Only those with this in their name.")] = "",
) -> None:
    """Lists the published experiments, with their published figures."""
    from sparse_ops.cli.errors import UserError
    from sparse_ops.training.recipes import names, read

    found = [name for name in names() if word in name]
    if not found:
        raise UserError(f"no recipe has {word!r} in its name; there are {len(names())} others")
    for name in found:
        recipe = read(name)
        figures = ", ".join(f"{key} {value:g}" for key, value in recipe.published.items())
        typer.echo(f"{name}\n    {recipe.title}\n    published: {figures}")
