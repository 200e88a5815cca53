"""What a model allows, taken from its own mask creation before any tensor is made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers.masking_utils import sdpa_mask

from regard.caches.padding import leading
from regard.hf.translate import HfMask, translate
from regard.hf.written import Written
from regard.masks import Mask


@dataclass(frozen=True, eq=False)
class AllowedPairs:
    """A mask function with the sizes it was asked for; passed through the model instead of a 4-axis tensor.

    Code that treats it as a tensor gets the [B, 1, N, M] that the model's own implementation would have made.

    Shapes: `real` boolean [B, tokens] by token number, False for padding; None: all real.
    """

    function: HfMask
    batch: int
    N: int
    M: int
    q_offset: int
    kv_offset: int
    real: Tensor | None
    by_index: bool
    device: torch.device
    make: Callable[..., Tensor | None]
    dtype: torch.dtype

    @cached_property
    def lead(self) -> Tensor | None:
        """Padding before each row's first real token, [B]; None where no row begins with padding."""
        if self.real is None:
            return None
        lead = leading(self.real)
        return lead if bool(lead.any()) else None

    @cached_property
    def ends_together(self) -> bool:
        """Whether the queries are the last tokens of the keys, as in self-attention."""
        return self.q_offset + self.N == self.kv_offset + self.M

    def where(self, q_lead: Tensor | None, k_lead: Tensor | None) -> Mask:
        """The mask on positions, for rows that began with so much padding; the same one for the same rows."""
        key = (id(q_lead), id(k_lead))
        if key not in self.known:
            self.known[key] = (q_lead, k_lead, self._where(q_lead, k_lead))
        return self.known[key][2]

    @cached_property
    def known(self) -> dict[tuple[int, int], tuple[Tensor | None, Tensor | None, Mask]]:
        """Masks made so far, by the tensors that they were made for."""
        return {}

    def _where(self, q_lead: Tensor | None, k_lead: Tensor | None) -> Mask:
        if self.by_index:
            last = (self.q_offset + self.N - 1, self.kv_offset + self.M - 1)
            return translate(self.function, q_lead, k_lead, last)
        table = self._made(sdpa_mask, None)
        q_start = self.q_offset if q_lead is None else self.q_offset - q_lead
        k_start = self.kv_offset if k_lead is None else self.kv_offset - k_lead
        return Written(table, q_start, k_start)

    def q_positions(self, lead: Tensor | None, *, padded: bool) -> Tensor:
        """Positions of the queries [B|1, N]; with `padded`, -1 for those that are padding themselves."""
        return self._positions(self.q_offset, self.N, lead, self.real if padded else None)

    def k_positions(self, lead: Tensor | None) -> Tensor:
        """Positions of the keys [B|1, M], -1 for padding."""
        return self._positions(self.kv_offset, self.M, lead, self.real)

    def real_tokens(self, start: int, length: int) -> Tensor | None:
        """Which of some tokens are no padding, [B, length]; None: all."""
        if self.real is None or self.real.shape[1] < start + length:
            return None
        return self.real[:, start : start + length]

    def _positions(self, start: int, length: int, lead: Tensor | None, real: Tensor | None) -> Tensor:
        tokens = torch.arange(start, start + length, device=self.device)[None]
        place = tokens if lead is None else tokens - lead[:, None]
        return place if real is None else torch.where(real[:, start : start + length], place, -1)

    def _made(self, make: Callable[..., Tensor | None], real: Tensor | None) -> Tensor:
        table = make(
            batch_size=self.batch,
            q_length=self.N,
            kv_length=self.M,
            q_offset=self.q_offset,
            kv_offset=self.kv_offset,
            mask_function=self.function,
            attention_mask=real,
            allow_is_causal_skip=False,
            use_vmap=not self.by_index,
            dtype=self.dtype,
            device=self.device,
        )
        assert table is not None
        return table

    @cached_property
    def dense(self) -> Tensor:
        """The tensor that the model's own implementation would have got."""
        return self._made(self.make, self.real)

    @property
    def shape(self) -> torch.Size:
        """The shape of `dense`."""
        return torch.Size((self.batch, 1, self.N, self.M))

    ndim = 4

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dense, name)

    __hash__ = object.__hash__

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., object], types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        return function(*(_as_tensor(a) for a in args), **{k: _as_tensor(v) for k, v in (kwargs or {}).items()})


def _operator(name: str) -> Callable[..., object]:
    def operate(self: AllowedPairs, *others: object) -> object:
        return getattr(self.dense, name)(*(_as_tensor(other) for other in others))

    return operate


_OPERATORS = "getitem invert neg and or add radd sub rsub mul rmul eq ne lt gt"
for _name in _OPERATORS.split():
    setattr(AllowedPairs, f"__{_name}__", _operator(f"__{_name}__"))


def _as_tensor(value: object) -> object:
    if isinstance(value, AllowedPairs):
        return value.dense
    if isinstance(value, list | tuple):
        return type(value)(_as_tensor(v) for v in value)
    return value


def allowed_pairs(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int | Tensor = 0,
    mask_function: HfMask | None = None,
    attention_mask: Tensor | AllowedPairs | None = None,
    use_vmap: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    make: Callable[..., Tensor | None] = sdpa_mask,
    **unused: object,
) -> AllowedPairs:
    """Note what a mask was asked for; `make` is the mask function that it was asked from."""
    if isinstance(attention_mask, AllowedPairs):
        return attention_mask
    assert mask_function is not None
    real, end = None, int(kv_offset) + kv_length
    if attention_mask is not None and (attention_mask.shape[1] < end or not bool(attention_mask.all())):
        real = torch.nn.functional.pad(attention_mask.bool(), (0, max(0, end - attention_mask.shape[1])))
    return AllowedPairs(
        mask_function,
        batch_size,
        q_length,
        kv_length,
        int(q_offset),
        int(kv_offset),
        real,
        not use_vmap,
        torch.device(device),
        make,
        dtype,
    )
