"""Packed rows: which places of padded rows a sequence of states stands for.

A model runs on the states of real tokens alone, one under another, so that padding costs nothing outside the
attention. There, and only there, states are spread over rows of equal width. Nothing here asks the device for a value.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, eq=False)
class Layout:
    """Where R packed states stand in B rows padded on the right to T places.

    Places are flat, ``row * T + position``, and ascend along the states. All real tokens must be among them: one that
    is left out would be seen by the others as a state of zeros.
    """

    row: Tensor
    """(R,) int64: the row of each state."""
    position: Tensor
    """(R,) int64: the place of each state in its row, from 0."""
    mask: Tensor
    """(B, T) bool: True at real tokens."""
    stacks_padding: bool = False
    """Whether it is a stack of layouts of which one may have places of padding."""

    @classmethod
    def of(cls, mask: Tensor, index: Tensor) -> "Layout":
        """The layout of rows with bool mask (B, T) that keeps the flat places ``index`` (R,), ascending.

        With ``index`` the real tokens' places padding is left out; with all ``B * T`` places it is computed too.
        """
        width = mask.shape[1]
        row = index.div(width, rounding_mode="floor")
        return cls(row=row, position=index - row * width, mask=mask)

    @staticmethod
    def stack(layouts: Sequence["Layout"]) -> "Layout":
        """Several layouts' rows under each other as one, for their states concatenated in the same order.

        The widest sets the width; what the others lack is padding that is left out.
        """
        width = max(layout.width for layout in layouts)
        rows, above = [], 0
        for layout in layouts:
            rows.append(layout.row + above)
            above += layout.num_rows
        return Layout(
            row=torch.cat(rows),
            position=torch.cat([layout.position for layout in layouts]),
            mask=torch.cat([pad(layout.mask, (0, width - layout.width)) for layout in layouts]),
            stacks_padding=any(layout.has_padding for layout in layouts),
        )

    @property
    def num_rows(self) -> int:
        """Number of rows, B."""
        return self.mask.shape[0]

    @property
    def width(self) -> int:
        """Places of a row, T."""
        return self.mask.shape[1]

    @property
    def num_states(self) -> int:
        """Number of packed states, R."""
        return self.row.shape[0]

    @property
    def has_padding(self) -> bool:
        """Whether states may stand for padding, as far as their number tells: where there is one for each place."""
        return self.stacks_padding or self.num_states == self.num_rows * self.width

    @cached_property
    def starts(self) -> Tensor:
        """(B + 1,) int32: number of the first state of each row, and of all, where no state stands for padding."""
        return pad(self.mask.sum(dim=1).cumsum(dim=0), (1, 0)).to(torch.int32)

    @cached_property
    def index(self) -> Tensor:
        """(R,) int64: the flat place of each state."""
        return self.row * self.width + self.position

    @cached_property
    def real(self) -> Tensor:
        """(R,) bool: whether a state is of a real token."""
        return self.mask.flatten().index_select(0, self.index)

    @cached_property
    def _place_of(self) -> Tensor:
        """(B * T,) int64: number of the state at each flat place, R where there is none."""
        table = self.index.new_full((self.num_rows * self.width,), self.num_states)
        return table.index_copy(0, self.index, torch.arange(self.num_states, device=table.device))

    def take(self, dense: Tensor) -> Tensor:
        """The packed entries (R, ...) of padded rows (B, T, ...)."""
        return dense.flatten(0, 1).index_select(0, self.index)

    def dense(self, packed: Tensor, fill: int) -> Tensor:
        """Packed entries (R, ...) in padded rows (B, T, ...), ``fill`` where there is none."""
        flat = packed.new_full((self.num_rows * self.width, *packed.shape[1:]), fill)
        return flat.index_copy(0, self.index, packed).unflatten(0, (self.num_rows, self.width))

    def put(self, dense: Tensor, packed: Tensor) -> Tensor:
        """A copy of padded rows (B, T, ...) with these packed entries (R, ...) in their places."""
        return dense.flatten(0, 1).index_copy(0, self.index, packed).unflatten(0, (self.num_rows, self.width))

    def places(self, index: Tensor) -> Tensor:
        """Numbers (P,) of the packed states at flat places (P,).

        A place without a state gets R, which no indexing of the states accepts.
        """
        return self._place_of.index_select(0, index)

    def spread(self, states: Tensor) -> Tensor:
        """States of attention heads (1, H, R, d) to padded rows (B, H, T, d), zeros where there is none."""
        _, num_heads, num_states, size = states.shape
        flat = states.squeeze(0).transpose(0, 1)
        if num_states < self.num_rows * self.width:
            flat = flat.new_zeros(self.num_rows * self.width, num_heads, size).index_copy(0, self.index, flat)
        return flat.reshape(self.num_rows, self.width, num_heads, size).transpose(1, 2)

    def gather(self, rows: Tensor) -> Tensor:
        """Padded rows of attention heads (B, T, H, d) to packed states (1, R, H, d)."""
        flat = rows.flatten(0, 1)
        if self.num_states < flat.shape[0]:
            flat = flat.index_select(0, self.index)
        return flat.unsqueeze(0)
