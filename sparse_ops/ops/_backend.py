"""Backends: the implementations of an operator, and the choice among them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

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
        backward: (dy, need_x, need_values, *arguments) -> (dx, dvalues), or None: by the reference.
    """

    name: str
    run: Callable[..., Tensor]
    refuses: Callable[..., str | None]
    backward: Callable[..., tuple[Tensor | None, Tensor | None]] | None = None
    into: Callable[..., None] | None = None


def choose(backends: Sequence[Backend], name: str, *arguments: Any) -> Backend:
    """The backend called `name`, or the first that does not refuse if `name` is "auto".

    On a GPU, those come first that were measured faster there for such arguments (`tuning.tune`).

    Raises:
        ValueError: there is no backend of that name.
        RuntimeError: the named backend, or every backend, refuses; the message says why.
    """
    reasons = []
    for backend in preferred(backends, *arguments) if name == "auto" else backends:
        if name in ("auto", backend.name):
            reason = backend.refuses(*arguments)
            if reason is None:
                return backend
            reasons.append(f"{backend.name}: {reason}")
    if not reasons:
        raise ValueError(f"unknown backend {name!r}; have {', '.join(b.name for b in backends)}")
    raise RuntimeError("no backend for these arguments; " + "; ".join(reasons))


def needs_gradient(*arguments: Tensor | None) -> bool:
    """Whether any of an operator's arguments wants a gradient."""
    return any(a is not None and a.requires_grad for a in arguments)
