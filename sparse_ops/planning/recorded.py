"""Recorded: a model on a GPU whose calls replay CUDA graphs, one for each shape of its inputs.

The host then launches one thing in place of one for each layer, which is most of the time of small
batches. The model keeps its class, its modules and the names of its tensors. Only those calls are
replayed of which a replay is the same: without gradients, in eval mode, with plain tensors on one
card, and as long as the model's attributes and hooks are what they were. All others run as if
nothing had been recorded. Once weights have changed, graphs are recorded anew.

Packed weights are worked out before a graph is recorded and not in it: it is recorded under
torch.inference_mode, where they do not change.
"""

import threading
import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from sparse_ops.graph.inputs import Inputs
from sparse_ops.graph.reads import reads_of
from sparse_ops.graph.running import drawing, first_run, same_outputs, tensors_in
from sparse_ops.ops._kernels import kernels
from sparse_ops.ops._transforms import is_transformed, is_watched
from sparse_ops.planning.compiled import Input
from sparse_ops.planning.context import Measure
from sparse_ops.planning.forms import Call, failure
from sparse_ops.planning.masked import example_tuple
from sparse_ops.planning.measure import Comparison
from sparse_ops.program.live import Live, hooks_of
from sparse_ops.program.model import HOOKS_OF_ALL
from sparse_ops.program.watch import Watched, watched

# Where graphs are recorded.
DEVICE = "cuda"
# Each has memory of its own for all that is between its layers.
MOST_GRAPHS = 8
# What may be in an output beside tensors: a replay gives it as it was.
_CONSTANTS = (int, float, bool, str, type(None))


class Recording:
    """One call as a CUDA graph, with inputs and outputs of its own.

    Raises:
        ValueError: a replay would not be what the call is; says why.
        RuntimeError: the call cannot be recorded.
    """

    def __init__(self, call: Callable[..., Any], args: Sequence[Tensor]) -> None:
        with torch.inference_mode(), drawing() as drawn:
            self._inputs = [x.clone() for x in args]
            expected = tree_map_only(Tensor, torch.clone, call(*self._inputs))
            if not all(map(_same_bits, self._inputs, args)):
                raise ValueError("it writes to its inputs")
            if drawn():
                raise ValueError("it draws random numbers on the CPU")
            record = kernels("graphs").record
            self._graph, self._output = record(partial(call, *self._inputs))
            for leaf in tree_leaves(self._output):
                if not isinstance(leaf, (Tensor, *_CONSTANTS)):
                    raise ValueError(f"its output holds a {type(leaf).__name__}")
            self._graph.replay()
            if not same_outputs(self._output, expected):
                raise ValueError("replayed, it gives something else")
        self._device = args[0].device
        self._done = torch.cuda.Event()
        self._done.record(torch.cuda.current_stream(self._device))

    def __call__(self, args: Sequence[Tensor]) -> Any:
        stream = torch.cuda.current_stream(self._device)
        # The call before may have been on another stream.
        stream.wait_event(self._done)
        with torch.inference_mode():
            for own, x in zip(self._inputs, args, strict=True):
                own.copy_(x)
            self._graph.replay()
        given = tree_map_only(Tensor, torch.clone, self._output)
        self._done.record(stream)
        return given


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | (a != a) & (b != b)).all())


class Recorded:
    """Takes the calls of a model: those that can be replayed to what was recorded.

    Attributes:
        model: the model.
        live: what a recording takes for granted of its modules.
    """

    def __init__(self, model: nn.Module, live: Live) -> None:
        self.model, self.live = model, live
        self._own_hooks = tuple(map(len, hooks_of(model)))
        # Input -> its graph, or why there is none.
        self._recordings: dict[Hashable, Recording | str] = {}
        self._tensors: list[Watched] = []
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs and self._may_replay(args):
            with self._lock:
                recording = self.recording(args)
                if isinstance(recording, Recording):
                    return recording(args)
        return self.model._call_impl(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies and pickles of a model are not recorded.
        return _nothing, ()

    def recording(self, args: Sequence[Tensor]) -> Recording | str:
        """The graph for such inputs, or why there is none; recorded now if it is not yet."""
        if any([tensor.has_changed() for tensor in self._tensors]):
            self._recordings.clear()
        if not self._recordings:
            self._tensors = watched(self.model.modules())
        key = (args[0].device, *map(Input.of, args))
        found = self._recordings.get(key)
        if found is not None:
            return found
        if len(self._recordings) >= MOST_GRAPHS:
            return f"there are graphs for {MOST_GRAPHS} other shapes"
        try:
            with torch.cuda.device(args[0].device):
                found = Recording(self.model._call_impl, args)
        except Exception as error:
            # Somebody's model may raise anything; it runs as it did before.
            found = failure(error)
            warnings.warn(f"the model runs unrecorded: {found}", stacklevel=3)
        self._recordings[key] = found
        return found

    def _may_replay(self, args: tuple[Any, ...]) -> bool:
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or self.model.training:
            return False
        if torch.jit.is_tracing() or torch.is_autocast_enabled(DEVICE):
            return False
        if is_transformed() or is_watched():
            return False
        if cannot_record(args) is not None or torch.cuda.is_current_stream_capturing():
            return False
        if tuple(map(len, hooks_of(self.model))) != self._own_hooks or any(HOOKS_OF_ALL):
            return False
        if not self.live.holds(self.model):
            return False
        return all([len(hooks) == count for hooks, count in self.live.counted])


def _nothing() -> None:
    return None


def cannot_record(inputs: Sequence[Any]) -> str | None:
    """Why there is no recording for such inputs, or None if there may be one."""
    if isinstance(inputs, Inputs) and inputs.names:
        return "its inputs are given by keyword"
    if not inputs or not all(type(x) in (Tensor, nn.Parameter) for x in inputs):
        return "its inputs are not all tensors"
    devices = {x.device for x in inputs}
    if len(devices) > 1 or inputs[0].device.type != DEVICE:
        return f"its inputs are on {', '.join(sorted(map(str, devices)))}, not on one {DEVICE}"
    return None


def record_(model: nn.Module, example: Any) -> nn.Module:
    """Has a model's calls replay CUDA graphs, in place: one for each shape of its inputs.

    Calls without gradients and in eval mode are recorded when they come for the first time, this
    one now; up to 8 shapes. So are they again once weights have changed; changes through `.data`
    are not seen. Copies and pickles of the model are not recorded.

    Args:
        model: any module in eval mode, on a GPU.
        example: its input: a tensor, or a tuple of tensors.

    Returns:
        The model.

    Raises:
        ValueError: the example is empty, or not what the model takes.
        RuntimeError: it cannot be recorded, or a replay would not give the same; says why.
    """
    inputs = example_tuple(example, None, model)
    if (reason := cannot_record(inputs)) is None and any(m.training for m in model.modules()):
        reason = "it is in training mode"
    if reason is None:
        model._compiled_call_impl = None
        with reads_of(model) as reads:
            kept = first_run(model, inputs).kept
        if kept:
            reason = f"its forward keeps something in {kept[0]}"
    if reason is not None:
        raise RuntimeError(f"the model cannot be recorded: {reason}")
    recorded = Recorded(model, Live.of(model, reads))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        found = recorded.recording(inputs)
    if not isinstance(found, Recording):
        raise RuntimeError(f"the model cannot be recorded: {found}")
    model._compiled_call_impl = recorded
    return model


def is_on_card(inputs: Sequence[Any]) -> bool:
    """Whether any input of a model is on a GPU."""
    return any(x.device.type == DEVICE for x in tensors_in(tuple(inputs)))


def by_graphs(measure: Measure) -> Measure:
    """The same measure of the two calls as CUDA graphs, so that neither pays for its launches.

    What cannot be recorded is timed as it is; if that is dense, both are.
    """

    def graph_against_graph(dense: Call, packed: Call, seconds: float) -> Comparison:
        with torch.inference_mode():
            ours, theirs = _replay(packed), _replay(dense)
        if theirs is None:
            return measure(dense, packed, seconds)
        return measure(theirs, ours or packed, seconds)

    return graph_against_graph


def _replay(call: Call) -> Call | None:
    """What replays a call; None if it cannot be recorded."""
    # What torch.compile recorded itself cannot be recorded again, and needs not.
    if getattr(call, "records_itself", False):
        return call
    try:
        graph, _ = kernels("graphs").record(call)
    except Exception:
        # Whatever stands against it: it is timed as it is.
        return None
    return graph.replay
