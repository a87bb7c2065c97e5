"""SplitTransformerEncoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SplitTransformerEncoder(nn.TransformerEncoder):
    """An nn.TransformerEncoder around layers whose attention is a `SplitMultiheadAttention`.

    PyTorch's, given padding in eval mode, makes nested tensors and so gives zeros where padding is.
    Split layers take no nested tensors: here they get the padding, and then the zeros are written.
    """

    @classmethod
    def from_dense_(cls, encoder: nn.TransformerEncoder) -> None:
        """Turns an encoder into this one, in place."""
        encoder.__class__ = cls

    def to_dense_(self) -> None:
        """Turns this into an nn.TransformerEncoder, in place."""
        self.__class__ = nn.TransformerEncoder  # type: ignore[assignment]

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """As nn.TransformerEncoder's.

        Raises:
            ValueError: padding is not at the ends, and mask_check=False.
        """
        if src_key_padding_mask is None or mask is not None:
            return self._plain(src, mask, src_key_padding_mask, is_causal)
        padding = src_key_padding_mask != 0
        if not self._makes_nested(src, padding):
            return self._plain(src, mask, src_key_padding_mask, is_causal)
        y = src
        for layer in self.layers:
            y = layer(y, src_key_padding_mask=padding, is_causal=is_causal is True)
        y = y.masked_fill(padding[..., None], 0)
        return y if self.norm is None else self.norm(y)

    def _plain(
        self, src: Tensor, mask: Tensor | None, padding: Tensor | None, is_causal: bool | None
    ) -> Tensor:
        """Layer by layer."""
        padding = F._canonical_mask(
            padding, "src_key_padding_mask", F._none_or_dtype(mask), "mask", src.dtype
        )
        mask = F._canonical_mask(mask, "mask", None, "", src.dtype, False)
        batch_first = self.layers[0].self_attn.batch_first
        length = nn.modules.transformer._get_seq_len(src, batch_first)
        causal = nn.modules.transformer._detect_is_causal_mask(mask, is_causal, length)
        y = src
        for layer in self.layers:
            y = layer(y, src_mask=mask, is_causal=causal, src_key_padding_mask=padding)
        return y if self.norm is None else self.norm(y)

    def _makes_nested(self, src: Tensor, padding: Tensor) -> bool:
        """Whether PyTorch's encoder would make a nested tensor of this padding."""
        first = self.layers[0]
        checked = getattr(self, "mask_check", True)
        learns = torch.is_grad_enabled() and any(
            each.requires_grad for each in (src, *first.parameters())
        )
        if (
            not torch.backends.mha.get_fastpath_enabled()
            or first.training
            or src.dim() != 3
            or (checked and torch.compiler.is_compiling())
            or torch.is_autocast_enabled()
            or learns
        ):
            return False
        at_ends = bool((padding[:, 1:] >= padding[:, :-1]).all())
        if not at_ends and not checked:
            raise ValueError("with mask_check=False, padding must be at the ends of sequences")
        return at_ends
