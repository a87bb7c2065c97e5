"""Backends: the implementations of an operator, and the choice among them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparse_ops.ops._transforms import TRANSFORMED, is_transformed
from sparse_ops.ops._tuned import preferred


@dataclass(frozen=True)
class Backend:
    """One implementation of an operator.

    Attributes:
        name: what a caller writes as `backend=`.
        run: the implementation; every backend of an operator takes the same arguments.
        refuses: why these arguments cannot be run here, or None if they can. Called as `run` is.
        into: as `run`, but writes to a tensor that it is given last; None: what `run` gives is
            copied there.
        loses: why it is expected to be slower than the dense library, or None if it is not. Asked
            by "auto" alone, where nothing was measured; called as `run` is.
        backward: (dy, need_x, need_values, *arguments) -> (dx, dvalues), or None: by the reference.
    """

    name: str
    run: Callable[..., Tensor]
    refuses: Callable[..., str | None]
    backward: Callable[..., tuple[Tensor | None, Tensor | None]] | None = None
    into: Callable[..., None] | None = None
    loses: Callable[..., str | None] | None = None


def choose(backends: Sequence[Backend], name: str, *arguments: Any) -> Backend:
    """The backend called `name`, or the first that does not refuse if `name` is "auto".

    On a GPU, those come first that were measured faster there for such arguments (`tuning.tune`);
    where nothing was measured, those are passed over that are expected to be slower than dense.
    Under torch.func and forward-mode gradients only the last runs, the definition.

    Raises:
        ValueError: there is no backend of that name.
        RuntimeError: the named backend, or every backend, refuses; the message says why.
    """
    reasons = []
    transformed = is_transformed()
    ordered = preferred(backends, *arguments) if name == "auto" else backends
    predicts = name == "auto" and ordered is backends
    for backend in ordered:
        if name in ("auto", backend.name):
            reason = backend.refuses(*arguments)
            if transformed and backend is not backends[-1]:
                reason = TRANSFORMED
            if reason is None and predicts and backend.loses is not None:
                reason = backend.loses(*arguments)
            if reason is None:
                return backend
            reasons.append(f"{backend.name}: {reason}")
    if not reasons:
        raise ValueError(f"unknown backend {name!r}; have {', '.join(b.name for b in backends)}")
    raise RuntimeError(
        f"no backend for these arguments; {'; '.join(reasons)}; backend='reference' runs all that "
        "the dense layer does, and so.convert.to_dense(model) gives a dense model"
    )


def needs_gradient(*arguments: Tensor | None) -> bool:
    """Whether any of an operator's arguments wants a gradient."""
    return any(a is not None and a.requires_grad for a in arguments)


def write(backend: Backend, out: Tensor, shape: Sequence[int], *arguments: Any) -> None:
    """Runs a backend for `out`, which is seen as of `shape`, that of the backend's outputs.

    Args:
        arguments: x, weight, bias, ..., residual.

    Raises:
        RuntimeError: `out` or one of the arguments wants a gradient, or the strides of `out` are
            not those of a tensor of that shape, or none that the backend can write to.
    """
    x, weight, bias, *_, residual = arguments
    if torch.is_grad_enabled() and needs_gradient(x, weight.values, bias, residual, out):
        raise RuntimeError(
            "what is written to `out` has no gradient, but one of the arguments wants one: "
            "call this under torch.no_grad(), or leave out `out`"
        )
    if backend.into is None:
        out.copy_(backend.run(*arguments).reshape(out.shape))
        return
    try:
        target = out if out.dim() == len(shape) else out.view(shape)
    except RuntimeError as error:
        raise RuntimeError(
            f"out must be a view of {tuple(shape)}; its strides are {out.stride()}"
        ) from error
    backend.into(*arguments, target)
    # Whoever keeps `out` for a gradient has to learn that it has changed.
    if not (torch.compiler.is_compiling() or out.is_inference()):
        torch.autograd.graph.increment_version(out)
