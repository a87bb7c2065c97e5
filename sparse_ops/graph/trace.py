"""Tracing: which modules follow which, as far as torch.fx can tell.

Where a forward cannot be traced, its module becomes one node, and the rest of the model is
still traced.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn

from sparse_ops.graph import optional
from sparse_ops.graph.layers import LIKE, NORMS
from sparse_ops.graph.reads import unnoticed
from sparse_ops.graph.running import kept_as_it_is
from sparse_ops.graph.spelling import runs_as
from sparse_ops.graph.stand_ins import Answers, StandIn, asked, is_of_nested
from sparse_ops.nn import SplitMultiheadAttention
from sparse_ops.nn._constant import Constant

# A model whose tracing fails in more places than this is not worth the time.
MOST_OPAQUE = 50
_TRANSFORMERS = (
    nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder, nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)  # fmt: skip


class Tracer(fx.Tracer):
    """torch.fx's, which takes BatchNorms of any package and named modules as one node each.

    Args:
        opaque: names of modules that are one node.
        leaves: kinds of modules that are.
        answers: what is known of values; None: nothing.
        live: whether buffers that code reads are read in each call.
    """

    # What `nn.SplitMultiheadAttention` asks: others take it as one node.
    enters_attention = True

    def __init__(
        self,
        opaque: Collection[str] = (),
        leaves: tuple[type[nn.Module], ...] = (),
        answers: Answers | None = None,
        live: bool = False,
    ) -> None:
        super().__init__()
        self.opaque, self.leaves, self.answers = opaque, leaves, answers
        # What is worked out of buffers follows them; where that cannot be traced it is as it was.
        self.proxy_buffer_attributes = live
        # The modules whose forwards are running, outermost first.
        self.inside: list[str] = []
        # Whether modules are what they are, and not stand-ins: answers run them.
        self.answering = False
        # Whether something runs under autocast that the caller has not turned on.
        self.casts = False
        self._cast_outside = torch.is_autocast_enabled("cpu")

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return StandIn(node, self)

    def count(self, node: fx.Node) -> int | None:
        """How many there are of what a node gives, if that is the same in all calls."""
        return None if self.answers is None else self._answer(self.answers.count, node)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        count = self.count(obj.node)
        if count is None:
            return super().iter(obj)
        pieces: Any = obj
        return iter([pieces[i] for i in range(count)])

    def to_bool(self, obj: fx.Proxy) -> bool:
        if is_of_nested(obj.node):
            # A nested tensor has no sizes, and so no graph here would take one.
            return False
        holds = None if self.answers is None else self._answer(self.answers.truth, obj.node)
        if holds is None:
            return super().to_bool(obj)
        self.create_proxy("call_function", asked, (obj,), {})
        return bool(holds)

    def _answer(self, ask: Any, node: fx.Node) -> Any:
        self.answering = True
        try:
            with unnoticed(), kept_as_it_is(self.root):
                return ask(node)
        finally:
            self.answering = False

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self.answering:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = (*NORMS, Constant, *self.leaves)
        if module_qualified_name in self.opaque or isinstance(m, whole):
            return True
        if any(runs_as(m, kind) for kind in (nn.Conv2d, nn.Linear, *LIKE)):
            return True
        if isinstance(m, _TRANSFORMERS):
            # With its projections apart, attention has no fast path, and so their code is plain.
            return not any(isinstance(each, SplitMultiheadAttention) for each in m.modules())
        return super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        self.casts |= torch.is_autocast_enabled("cpu") and not self._cast_outside
        return super().create_node(*args, **kwargs)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if self.answering:
            return forward(*args, **kwargs)
        self.inside.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        # Left as it is where tracing fails: then it tells where that was.
        self.inside.pop()
        return result


def trace(
    model: nn.Module,
    leaves: tuple[type[nn.Module], ...] = (),
    example: Sequence[Any] | None = None,
    kept: Collection[str] = (),
) -> tuple[fx.Graph | None, str | None]:
    """The graph of a model.

    Args:
        model: not changed.
        leaves: kinds of modules that are one node each, beside those of torch.nn.
        example: its positional arguments, which tell how many pieces its code goes through; None:
            what goes through pieces cannot be traced.
        kept: names of modules that are one node each.

    Returns:
        The graph and None; or the graph and which modules are one node each in it, and why; or
        None and why there is no graph.
    """
    opaque = set(kept)
    first, live = "", True

    def tracer() -> Tracer:
        answers = None if example is None else Answers(model, example)
        return Tracer(opaque, leaves, answers, live)

    while True:
        own = tracer()
        try:
            graph = own.trace(model)
            break
        except Exception as error:
            live = not live
            if not live:
                continue
            first = first or (str(error).splitlines() or [""])[0]
            if not own.inside or len(opaque) >= MOST_OPAQUE + len(kept):
                return None, f"torch.fx cannot trace the model, so nothing was folded: {first}"
            opaque.add(own.inside[-1])
    if own.casts:
        return None, "its forward turns autocast on, so nothing was folded"
    if (depends := optional.matters(model, tracer(), graph)) is not None:
        return None, f"{depends}, so nothing was folded"
    if opaque == set(kept):
        return graph, None
    names = ", ".join(sorted(opaque.difference(kept)))
    return graph, f"torch.fx cannot trace {names}, so nothing was folded inside: {first}"


def rewritten(model: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A traced model with another graph, in its mode; layers and tensors are the model's."""
    result = fx.GraphModule(model, graph, type(model).__name__)
    result.training = model.training
    return result
