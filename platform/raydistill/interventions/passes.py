"""Base, source and counterfactual pass of one model, run as one.

The rows of all passes that are under way stand under each other, so that a block is called once for all of them: a
sharded model gathers its weights once, a matrix product is larger. A pass ends where nothing reads it any more.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from raydistill.interventions.interchange import read, write
from raydistill.layout import Layout

Columns = Mapping[int, tuple[slice, ...]]
"""Columns that are written, by the number of the block whose output they are in."""

BASE, SOURCE, COUNTERFACTUAL = "base", "source", "counterfactual"


class Model(Protocol):
    """What ``models.blocks`` provides and a pass needs."""

    IN_PARTS: ClassVar[bool]
    """Whether ``embed`` and ``run`` are there; if not, ``whole`` is."""

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""

    def embed(self, ids: Tensor, layout: Layout, token_types: Tensor | None = None) -> Tensor:
        """Input (R, D) of block 0 for ids (R,) and, of pairs of texts, token types (R,)."""

    def run(self, hidden: Tensor, layout: Layout, start: int, stop: int) -> Tensor:
        """Blocks ``start`` to ``stop - 1`` on states (R, D)."""

    def whole(
        self,
        ids: Tensor,
        layout: Layout,
        token_types: Tensor | None = None,
        *,
        read: Collection[int] = (),
        write: Mapping[int, Callable[[Tensor], Tensor]] | None = None,
    ) -> tuple[Any, dict[int, Tensor]]:
        """The end of a pass, and its states (R, D) after ``read`` numbers of blocks; ``write`` changes them first."""


@dataclass(frozen=True)
class Rows:
    """Input of a pass: token ids (R,) and where they stand."""

    ids: Tensor
    layout: Layout
    token_types: Tensor | None = None
    """(R,) 0 in the first text of a pair and 1 in the second; all passes have them or none."""
    kept_places: Tensor | None = None
    """Places (K,) of the states that are kept of the pass, as many in all passes that are kept."""


@dataclass(frozen=True)
class Interchange:
    """What the counterfactual pass takes over from the source pass."""

    columns: Columns
    """Written columns of each block, at least one block."""
    base_places: Tensor
    """Rows (P,) of the counterfactual pass that are written."""
    source_places: Tensor
    """Rows (P,) of the source pass that are read, in the same order."""
    site_offset: int
    """0 reads the input of the block whose output is written, 1 its output."""

    @property
    def first_write(self) -> int:
        """Number of blocks after which the first value is written; up to there nothing differs from the base."""
        return min(self.columns) + 1

    @property
    def last_read(self) -> int:
        """Number of blocks after which the last value is read."""
        return max(self.columns) + self.site_offset

    def depths(self) -> Iterator[int]:
        """Numbers of blocks after which something is read or written."""
        for layer in self.columns:
            yield layer + self.site_offset
            yield layer + 1


@dataclass(frozen=True)
class Passes:
    """Which passes are run; see ``run``."""

    base: Rows
    source: Rows | None = None
    """Input of the source pass; None where the base pass is the source, or nothing is interchanged."""
    counterfactual: Rows | None = None
    """Input of the counterfactual pass; None where there is none, or where it resumes from the base pass."""
    interchange: Interchange | None = None
    needs_base: bool = True
    """Whether the base's last states are read."""
    kept: tuple[int, ...] = ()
    """Numbers of blocks after which states of the base and of the counterfactual pass are kept, at the
    ``kept_places`` of each."""

    def spans(self, num_blocks: int) -> dict[str, tuple[int, int]]:
        """Numbers of blocks between which each pass is under way; one that nothing reads is missing."""
        swap = self.interchange
        resumes = swap is not None and self.counterfactual is None
        spans = {}
        if swap is not None and self.source is not None:
            spans[SOURCE] = (0, swap.last_read)
        if swap is not None and resumes:
            spans[COUNTERFACTUAL] = (swap.first_write, num_blocks)
        elif self.counterfactual is not None:
            spans[COUNTERFACTUAL] = (0, num_blocks)
        base_ends = [num_blocks, *self.kept] if self.needs_base else [*self.kept]
        if swap is not None and resumes:
            base_ends.append(swap.first_write)
        if swap is not None and self.source is None:
            base_ends.append(swap.last_read)
        if base_ends:
            spans[BASE] = (0, max(base_ends))
        return spans

    def rows(self, name: str) -> Rows:
        """Input of a pass that is run; the one that resumes from the base pass has its places."""
        found = {BASE: self.base, SOURCE: self.source, COUNTERFACTUAL: self.counterfactual or self.base}[name]
        assert found is not None
        return found


def run(model: Model, passes: Passes) -> tuple[Any, Any]:
    """The ends of the base and of the counterfactual pass, None for one that is not needed.

    See ``run_and_keep``.
    """
    base, counterfactual = run_and_keep(model, passes)
    return base.last, counterfactual.last


class Outputs(NamedTuple):
    """What is read of one pass."""

    last: Any
    """The end of the pass, which the model's heads read: in parts the last block's output (R, D). None where it is not
    needed."""
    kept: tuple[Tensor, ...]
    """States (K, D) at the pass's ``kept_places`` after each of ``kept`` numbers of blocks, in that order."""


def run_and_keep(model: Model, passes: Passes) -> tuple[Outputs, Outputs]:
    """What is read of the base and of the counterfactual pass.

    Without a counterfactual pass the states kept of it are the base's. A model that runs whole runs each pass by
    itself, with dropout of its own.

    Deviation: where the counterfactual pass resumes from the base pass, the two share their dropout up to the first
    written block; the published passes draw it independently, which giving ``counterfactual`` restores.
    """
    num_blocks, swap = model.num_blocks, passes.interchange
    spans = passes.spans(num_blocks)
    if not spans:
        return Outputs(None, ()), Outputs(None, ())
    if not model.IN_PARTS:
        return _run_whole(model, passes)
    states = _embed(model, passes, [name for name, (start, _) in spans.items() if start == 0])
    source = BASE if passes.source is None else SOURCE
    values: dict[int, Tensor] = {}
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    ends = (depth for span in spans.values() for depth in span)
    depths = {num_blocks, *ends, *passes.kept, *(swap.depths() if swap else ())}
    for depth, following in pairwise([*sorted(depths), num_blocks]):
        if swap is not None:
            values |= _read_values(states[source], swap, depth) if source in states else {}
            states = _written(states, values, swap, depth)
        if depth in passes.kept:
            kept[depth] = _kept(states, passes)
        if depth < following:
            under_way = {name: of_pass for name, of_pass in states.items() if spans[name][1] > depth}
            states = _advance(model, passes, under_way, depth, following) if under_way else {}
    of_base, of_counterfactual = (tuple(kept[depth][side] for depth in passes.kept) for side in (0, 1))
    base = states.get(BASE) if passes.needs_base else None
    return Outputs(base, of_base), Outputs(states.get(COUNTERFACTUAL), of_counterfactual)


def _run_whole(model: Model, passes: Passes) -> tuple[Outputs, Outputs]:
    """The same of a model that runs whole: a pass that is read, then one that is written."""
    swap, kept = passes.interchange, set(passes.kept)
    reads = {layer + swap.site_offset for layer in swap.columns} if swap is not None else set()
    base = passes.base
    of_base: tuple[Any, dict[int, Tensor]] = (None, {})
    if BASE in passes.spans(model.num_blocks):
        here = kept | (reads if passes.source is None else set())
        of_base = model.whole(base.ids, base.layout, base.token_types, read=here)
    first = Outputs(of_base[0] if passes.needs_base else None, _all_kept(of_base[1], passes, base))
    if swap is None and passes.counterfactual is None:
        return first, Outputs(None, first.kept)
    states, writers = of_base[1], {}
    if swap is not None:
        if passes.source is not None:
            source = passes.source
            states = model.whole(source.ids, source.layout, source.token_types, read=reads)[1]
        writers = {layer + 1: _writer(swap, layer, states[layer + swap.site_offset]) for layer in swap.columns}
    rows = passes.rows(COUNTERFACTUAL)
    end, found = model.whole(rows.ids, rows.layout, rows.token_types, read=kept, write=writers)
    return first, Outputs(end, _all_kept(found, passes, rows))


def _writer(swap: Interchange, layer: int, source: Tensor) -> Callable[[Tensor], Tensor]:
    columns = swap.columns[layer]
    values = read(source, swap.source_places, columns)
    return lambda states: write(states, swap.base_places, columns, values)


def _all_kept(states: Mapping[int, Tensor], passes: Passes, rows: Rows) -> tuple[Tensor, ...]:
    return tuple(_at_kept_places(states[depth], rows) for depth in passes.kept)


def _embed(model: Model, passes: Passes, names: Sequence[str]) -> dict[str, Tensor]:
    rows = [passes.rows(name) for name in names]
    token_types = [of_pass.token_types for of_pass in rows if of_pass.token_types is not None]
    assert len(token_types) in (0, len(rows)), "some passes have token types, others none"
    more = [torch.cat(token_types)] if token_types else []
    hidden = model.embed(torch.cat([of_pass.ids for of_pass in rows]), _stack(passes, names), *more)
    return dict(zip(names, hidden.split([len(of_pass.ids) for of_pass in rows]), strict=True))


def _advance(model: Model, passes: Passes, states: dict[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
    """States of all passes under way, from the input of block ``start`` to the input of block ``stop``."""
    if len(states) == 1:
        ((name, hidden),) = states.items()
        return {name: model.run(hidden, passes.rows(name).layout, start, stop)}
    hidden = model.run(torch.cat(list(states.values())), _stack(passes, list(states)), start, stop)
    parts = hidden.split([len(of_pass) for of_pass in states.values()])
    return dict(zip(states, parts, strict=True))


def _stack(passes: Passes, names: Sequence[str]) -> Layout:
    return Layout.stack([passes.rows(name).layout for name in names])


def _kept(states: Mapping[str, Tensor], passes: Passes) -> tuple[Tensor, Tensor]:
    """The kept states (K, D) of the base and of the counterfactual pass, which is the base until it begins."""
    base = _at_kept_places(states[BASE], passes.base)
    if COUNTERFACTUAL not in states:
        return base, base
    return base, _at_kept_places(states[COUNTERFACTUAL], passes.rows(COUNTERFACTUAL))


def _at_kept_places(states: Tensor, rows: Rows) -> Tensor:
    assert rows.kept_places is not None, "kept needs kept_places"
    return states.index_select(0, rows.kept_places)


def _read_values(source: Tensor, swap: Interchange, depth: int) -> dict[int, Tensor]:
    """Values (P, C) that are read after ``depth`` blocks, by the block whose output they replace."""
    layers = (layer for layer in swap.columns if layer + swap.site_offset == depth)
    return {layer: read(source, swap.source_places, swap.columns[layer]) for layer in layers}


def _written(
    states: Mapping[str, Tensor], values: Mapping[int, Tensor], swap: Interchange, depth: int
) -> dict[str, Tensor]:
    """The states with what is written after ``depth`` blocks; there the counterfactual pass may begin."""
    if depth < swap.first_write:
        return dict(states)
    counterfactual = states[COUNTERFACTUAL] if COUNTERFACTUAL in states else states[BASE]
    for layer, columns in swap.columns.items():
        if layer + 1 == depth:
            counterfactual = write(counterfactual, swap.base_places, columns, values[layer])
    return {**states, COUNTERFACTUAL: counterfactual}
