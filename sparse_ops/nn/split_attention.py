"""SplitMultiheadAttention."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sparse_ops.nn._layer import SparseLayer

PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class SplitMultiheadAttention(nn.Module):
    """An nn.MultiheadAttention whose projections are modules, so that each may be a sparse layer.

    Takes what nn.MultiheadAttention's forward takes, and gives the same; trainable. It has none of
    PyTorch's fast path, which reads weights instead of calling modules, and nn.TransformerEncoder
    and its layers see that. It loads nn.MultiheadAttention's checkpoints too.

    Attributes:
        q_proj, k_proj, v_proj, out_proj: an nn.Linear or a sparse layer each.
    """

    # What nn.TransformerEncoderLayer asks before it reads weights itself.
    _qkv_same_embed_dim = False
    in_proj_weight = None
    in_proj_bias = None

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    out_proj: nn.Module

    def __init__(self, dense: nn.MultiheadAttention) -> None:
        """
        Args:
            dense: `refuses` has nothing against it. Its tensors are shared, not copied.
        """
        super().__init__()
        self.embed_dim, self.num_heads = dense.embed_dim, dense.num_heads
        self.kdim, self.vdim, self.head_dim = dense.kdim, dense.vdim, dense.head_dim
        self.dropout, self.batch_first = dense.dropout, dense.batch_first
        self.add_zero_attn = dense.add_zero_attn
        whole = dense.in_proj_bias
        weight = dense.in_proj_weight if dense._qkv_same_embed_dim else dense.q_proj_weight
        learns = weight.requires_grad, whole is not None and whole.requires_grad
        for name, part, bias in _parts(dense):
            self.add_module(name, _linear(part, bias, learns))
        self.out_proj = dense.out_proj
        self.bias_k, self.bias_v = dense.bias_k, dense.bias_v
        for module in (self, self.q_proj, self.k_proj, self.v_proj):
            module.training = dense.training

    @classmethod
    def refuses(cls, dense: nn.Module) -> str | None:
        """Why a module cannot become this one; None if it can."""
        if type(dense) is not nn.MultiheadAttention:
            return f"{type(dense).__name__} is not MultiheadAttention"
        if "forward" in vars(dense):
            return "its forward was exchanged on this very module"
        hooks = (
            dense._forward_hooks,
            dense._forward_pre_hooks,
            dense._backward_hooks,
            dense._backward_pre_hooks,
        )
        if any(hooks):
            return "it has hooks, which another module would lose"
        names: tuple[str, ...] = ("in_proj_weight",)
        if not dense._qkv_same_embed_dim:
            names = tuple(f"{name}_weight" for name in PROJECTIONS)
        for name in names:
            if not isinstance(dense._parameters.get(name), Tensor):
                return f"its {name} is no parameter"
        return None

    def to_dense(self) -> nn.MultiheadAttention:
        """The nn.MultiheadAttention of the same outputs.

        Raises:
            ValueError: a projection applies an activation, too.
        """
        parts = [self._dense_of(name) for name in (*PROJECTIONS, "out_proj")]
        weight = parts[-1].weight
        dense = nn.MultiheadAttention(
            self.embed_dim,
            self.num_heads,
            self.dropout,
            parts[-1].bias is not None,
            self.bias_k is not None,
            self.add_zero_attn,
            self.kdim,
            self.vdim,
            self.batch_first,
            weight.device,
            weight.dtype,
        )
        with torch.no_grad():
            for (_, own, bias), part in zip(_parts(dense), parts, strict=False):
                own.copy_(part.weight)
                if bias is not None:
                    bias.copy_(part.bias)
            dense.out_proj.weight.copy_(weight)
            if dense.out_proj.bias is not None:
                dense.out_proj.bias.copy_(parts[-1].bias)
            for mine, theirs in ((self.bias_k, dense.bias_k), (self.bias_v, dense.bias_v)):
                if mine is not None and theirs is not None:
                    theirs.copy_(mine)
        return dense.train(self.training)

    def _dense_of(self, name: str) -> Any:
        layer: Any = self.get_submodule(name)
        if isinstance(layer, SparseLayer):
            if layer.activation is not None:
                raise ValueError(f"{name} applies {layer.activation}, which attention does not")
            return layer.to_dense()  # type: ignore[operator]
        return layer

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention's.

        Raises:
            ValueError: it is given nested tensors, which nn.TransformerEncoder makes of padded
                batches, or masks of another kind or shape, or the hint is_causal without the mask.
        """
        if is_causal and attn_mask is None:
            raise ValueError("is_causal is a hint about attn_mask, which is not given")
        if isinstance(query, fx.Proxy):
            tracer: Any = query.tracer
            if not getattr(tracer, "enters_attention", False):
                options = (key_padding_mask, need_weights, attn_mask, average_attn_weights)
                given = (query, key, value, *options, is_causal)
                path = tracer.path_of_module(self)
                return tracer.create_proxy("call_module", path, given, {})
        else:
            self._check(query, key, attn_mask, key_padding_mask)
        batched = query.dim() == 3
        if not batched:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        # Each by its head: (N, heads, L, E / heads).
        q = self._heads(self.q_proj(query), batched)
        k = self._heads(self.k_proj(key), batched)
        v = self._heads(self.v_proj(value), batched)
        # The hint is only about a mask that nothing is added to.
        by_hint = is_causal and key_padding_mask is None and not need_weights
        mask = None if by_hint else self._mask(attn_mask, key_padding_mask, q)
        k, v, mask = self._more_keys(k, v, mask)
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            weights = torch.matmul(q * math.sqrt(1.0 / self.head_dim), k.transpose(-2, -1))
            weights = torch.softmax(weights if mask is None else weights + mask, -1)
            weights = F.dropout(weights, dropout) if dropout else weights
            y = torch.matmul(weights, v)
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=by_hint)
        y = y.transpose(1, 2)
        # What is flattened is in memory as the projection's output is wanted.
        if batched and not self.batch_first:
            y = y.transpose(0, 1)
        y = self.out_proj(y.flatten(2))
        if batched:
            return y, weights
        return y[0], None if weights is None else weights[0]

    def _check(
        self, query: Tensor, key: Tensor, attn_mask: Tensor | None, padding: Tensor | None
    ) -> None:
        if query.is_nested:
            raise ValueError(
                "nested tensors go through PyTorch's fast path only, which sparse layers have "
                "not: give nn.TransformerEncoder enable_nested_tensor=False"
            )
        if query.dim() not in (2, 3) or query.dim() != key.dim():
            got = f"{tuple(query.shape)} and {tuple(key.shape)}"
            raise ValueError(f"query and key must both have 2 or 3 dimensions, got {got}")
        place = -2 if self.batch_first or query.dim() == 2 else 0
        batch = [] if query.dim() == 2 else [query.shape[1 if place == 0 else 0]]
        rows, columns = query.shape[place], key.shape[place]
        heads = self.num_heads * (batch[0] if batch else 1)
        allowed = {"attn_mask": [(rows, columns), (heads, rows, columns)]}
        allowed["key_padding_mask"] = [(*batch, columns)]
        for name, mask in (("attn_mask", attn_mask), ("key_padding_mask", padding)):
            if mask is not None and tuple(mask.shape) not in allowed[name]:
                wanted = " or ".join(map(str, allowed[name]))
                raise ValueError(f"{name} must be {wanted}, got {tuple(mask.shape)}")

    def _heads(self, projected: Tensor, batched: bool) -> Tensor:
        """(N, L, E), or (L, N, E) as it is given, as (N, heads, L, E / heads)."""
        apart = projected.unflatten(-1, (self.num_heads, self.head_dim))
        if batched and not self.batch_first:
            return apart.permute(1, 2, 0, 3)
        return apart.transpose(1, 2)

    def _mask(
        self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor
    ) -> Tensor | None:
        """What is added to the products of queries and keys; None: nothing."""
        mask = _added("attn_mask", attn_mask, q)
        if mask is not None and mask.dim() == 3:
            mask = mask.unflatten(0, (-1, self.num_heads))
        padding = _added("key_padding_mask", key_padding_mask, q)
        if padding is None:
            return mask
        padding = padding[:, None, None]
        return padding if mask is None else mask + padding

    def _more_keys(
        self, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values with those that are learned, and those of zeros."""
        more: list[tuple[Tensor, Tensor]] = []
        if self.bias_k is not None and self.bias_v is not None:
            more.append((self._learned(self.bias_k, k), self._learned(self.bias_v, v)))
        if self.add_zero_attn:
            more.append((torch.zeros_like(k[:, :, :1]), torch.zeros_like(v[:, :, :1])))
        if not more:
            return k, v, mask
        k = torch.cat([k, *(each[0] for each in more)], 2)
        v = torch.cat([v, *(each[1] for each in more)], 2)
        return k, v, None if mask is None else F.pad(mask, (0, len(more)))

    def _learned(self, bias: Tensor, like: Tensor) -> Tensor:
        """(1, 1, E) as a key of each of the batch."""
        apart = bias.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        return apart.expand(like.shape[0], -1, -1, -1)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *others: Any
    ) -> None:
        """Also reads the checkpoint of the nn.MultiheadAttention."""
        own = split_state(state_dict, prefix)
        # Its children read the same table.
        if isinstance(state_dict, dict):
            state_dict.clear()
            state_dict.update(own)
        super()._load_from_state_dict(state_dict, prefix, *others)


def split_state(state: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A state dict, or a table by its names, as that of a split module, where it has a whole one's.

    Args:
        prefix: of the module's names.
    """
    plain = dict(state)
    for ending, last in (("in_proj_weight", "weight"), ("in_proj_bias", "bias")):
        whole = plain.pop(f"{prefix}{ending}", None)
        if isinstance(whole, Tensor):
            for name, part in zip(PROJECTIONS, whole.chunk(3), strict=True):
                plain[f"{prefix}{name}.{last}"] = part
    for name in PROJECTIONS:
        if (weight := plain.pop(f"{prefix}{name}_weight", None)) is not None:
            plain[f"{prefix}{name}.weight"] = weight
    return plain


def _parts(dense: nn.MultiheadAttention) -> list[tuple[str, Tensor, Tensor | None]]:
    """The name, the weight and the bias of each projection of what comes in."""
    if dense._qkv_same_embed_dim:
        weights = [*dense.in_proj_weight.detach().chunk(3)]
    else:
        weights = [getattr(dense, f"{name}_weight") for name in PROJECTIONS]
    whole = dense.in_proj_bias
    biases = [None] * 3 if whole is None else [*whole.detach().chunk(3)]
    return [*zip(PROJECTIONS, weights, biases, strict=True)]


def _linear(weight: Tensor, bias: Tensor | None, learns: tuple[bool, bool]) -> nn.Linear:
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), learns[0])
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), learns[1])
    return layer


def _added(name: str, mask: Tensor | None, like: Tensor) -> Tensor | None:
    """A mask as numbers to add: bool ones have minus infinity where they are True."""
    if mask is None or mask.is_floating_point():
        return mask
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} must be bool or floating point, got {mask.dtype}")
    zeros = torch.zeros_like(mask, dtype=like.dtype)
    return zeros.masked_fill(mask, float("-inf"))
