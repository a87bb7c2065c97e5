"""Lottery tickets: the first weights of a network, under the mask that its training has led to."""

from collections.abc import Mapping

from torch import Tensor, nn

from sparse_ops.masks import Masks, check
from sparse_ops.training.fixed import Fixed


def lottery_ticket(model: nn.Module, initial_state: Mapping[str, Tensor], masks: Masks) -> Fixed:
    """Puts `model` back to its first state, masked; gives the method to train it with again.

        masks = cut_(trained, 1 - 1 / 60)                            # a magnitude ticket, or
        masks = fit(trained, data, GSM(sparsity=1 - 1 / 60), ...)    # a GSM ticket
        fit(model, data, lottery_ticket(model, initial_state, masks), ...)

    Args:
        model: takes on `initial_state`; what is not kept becomes zero.
        initial_state: a copy of `model.state_dict()` from before its training.
        masks: by parameter name, True = kept.

    Raises:
        ValueError: the state is not of this model, or a mask does not fit; the model is then as it
            was.

    Source: Frankle and Carbin, ICLR 2019, arXiv:1803.03635; with the masks of GSM, Ding et al.,
    NeurIPS 2019, arXiv:1909.12778. All weights are of one cut over the whole model, as in the
    latter, and the network is pruned once, not by and by.
    """
    method = Fixed(masks)
    check(model, masks)
    own = model.state_dict()
    wrong = own.keys() ^ initial_state.keys()
    wrong |= {
        n for n in own.keys() & initial_state.keys() if own[n].shape != initial_state[n].shape
    }
    if wrong:
        raise ValueError(f"initial_state is not of this model; see {', '.join(sorted(wrong)[:5])}")
    model.load_state_dict(dict(initial_state))
    method.prepare(model)
    return method
