"""Uncaptured: what a trace leaves out, so that a model is no graph."""

from torch import fx, nn


class Uncaptured(Exception):
    """A model is no graph; says why."""


def keep_constants_(model: nn.Module, traced: fx.Graph, runnable: fx.GraphModule) -> None:
    """Hangs on the model the tensors that its code makes of numbers, as torch.fx calls them."""
    for node in traced.nodes:
        if (
            node.op == "get_attr"
            and "." not in str(node.target)
            and not hasattr(model, node.target)
        ):
            setattr(model, node.target, getattr(runnable, node.target))


def check_arguments(traced: fx.Graph) -> None:
    """Raises Uncaptured if the graph reads arguments that may be any number."""
    for node in traced.nodes:
        if node.op == "placeholder" and str(node.target).startswith("*") and node.users:
            raise Uncaptured(f"its forward takes {node.target}, of which a trace knows one only")


def check_hooks(model: nn.Module, traced: fx.Graph) -> None:
    """Raises Uncaptured if a module has hooks and is no node, so that nothing would call them."""
    called = [str(node.target) for node in traced.nodes if node.op == "call_module"]
    for name, module in model.named_modules():
        inside = any(f"{name}.".startswith(f"{each}.") for each in called)
        if name and is_hooked(module) and not inside:
            raise Uncaptured(
                f"{name} has hooks, which nothing but the model's own forward calls: for more "
                "speed remove them, plan, and register them on what apply() gives"
            )


def is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
