"""Which layers spred takes apart."""

from collections.abc import Collection

from torch import nn

from sparse_ops.masks import prunable

# Parts of the names that residual networks give to their projections.
_SHORTCUTS = {"shortcut", "downsample", "projection"}


def chosen_layers(
    model: nn.Module, exempt: Collection[str] | None, *, linear: bool, grouped: bool
) -> list[str]:
    """The names of the layers that take part, in order of definition.

    Args:
        model: whose Conv2d take part.
        exempt: which do not; None: the first convolution, the 1×1 projections of residual networks
            (by their stride or name), the last Linear.
        linear: whether Linear layers do too.
        grouped: whether grouped convolutions do.

    Raises:
        ValueError: `exempt` names no layer of the model, or no layer is left.
    """
    owners = {name.rpartition(".")[0]: weight for name, weight in prunable(model).items()}
    modules = {name: model.get_submodule(name) for name in owners}
    left_alone = usually_exempt(modules) if exempt is None else list(exempt)
    known = dict(model.named_modules())
    if unknown := sorted(name for name in left_alone if name not in known):
        raise ValueError(f"exempt names layers that the model does not have: {unknown}")
    chosen = []
    for name, module in modules.items():
        takes_part = linear
        if isinstance(module, nn.Conv2d):
            takes_part = grouped or module.groups == 1
        if takes_part and name not in left_alone and owners[name].requires_grad:
            chosen.append(name)
    if not chosen:
        kinds = "Conv2d or Linear" if linear else "Conv2d"
        raise ValueError(f"the model has no {kinds} to take part, apart from {left_alone}")
    return chosen


def usually_exempt(modules: dict[str, nn.Module]) -> list[str]:
    """The first convolution, 1×1 projections, the last Linear, of Conv2d and Linear by name."""
    convolutions = {n: m for n, m in modules.items() if isinstance(m, nn.Conv2d)}
    linears = [name for name in modules if name not in convolutions]
    projections = [
        name
        for name, module in convolutions.items()
        if module.kernel_size == (1, 1)
        and (module.stride != (1, 1) or _SHORTCUTS & set(name.split(".")))
    ]
    return list(dict.fromkeys([*list(convolutions)[:1], *projections, *linears[-1:]]))
