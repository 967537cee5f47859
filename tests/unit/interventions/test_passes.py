"""The stacked passes against passes that are run one after the other, on a model whose rows see each other."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from raydistill.interventions.passes import Interchange, Passes, Rows, run, run_and_keep
from raydistill.layout import Layout
from toys.representatives import few_of, pairs

NUM_BLOCKS, WIDTH, VOCABULARY = 4, 6, 9
LENGTHS, SOURCE_LENGTHS = (5, 3), (2, 7)
BASE_PLACES, SOURCE_PLACES = torch.tensor([1, 4, 6]), torch.tensor([0, 3, 8])


class ToyModel:
    """Blocks that mix a state with the mean of its row; it keeps what it was called with."""

    IN_PARTS = True
    num_blocks = NUM_BLOCKS

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn(VOCABULARY, WIDTH, dtype=torch.float64, generator=generator)
        self.weights = torch.randn(NUM_BLOCKS, WIDTH, WIDTH, dtype=torch.float64, generator=generator)
        self.calls = []

    def embed(self, ids, layout, token_types=None):
        types = 0 if token_types is None else token_types[:, None]
        return self.table[ids] + layout.position[:, None] + 2 * types

    def run(self, hidden, layout, start, stop):
        for block in range(start, stop):
            self.calls.append((block, len(hidden)))
            sums = torch.zeros(layout.num_rows, WIDTH, dtype=hidden.dtype).index_add(0, layout.row, hidden)
            counts = torch.bincount(layout.row, minlength=layout.num_rows)[:, None]
            hidden = torch.tanh((hidden + (sums / counts)[layout.row]) @ self.weights[block])
        return hidden


def rows(seed, lengths):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    layout = Layout.of(mask, mask.flatten().nonzero().squeeze(1))
    ids = torch.randint(VOCABULARY, (sum(lengths),), generator=torch.Generator().manual_seed(seed))
    return Rows(ids, layout)


BASE, SOURCE = rows(1, LENGTHS), rows(2, SOURCE_LENGTHS)


def one_by_one(swap, source):
    """Last states of the base and of the counterfactual pass, each pass run alone, one block after the other."""
    model = ToyModel()

    def alone(of_pass, depth):
        return model.run(model.embed(of_pass.ids, of_pass.layout), of_pass.layout, 0, depth)

    hidden = model.embed(BASE.ids, BASE.layout)
    for block in range(NUM_BLOCKS):
        hidden = model.run(hidden, BASE.layout, block, block + 1)
        for part in swap.columns.get(block, ()):
            hidden = hidden.clone()
            hidden[BASE_PLACES, part] = alone(source, block + swap.site_offset)[SOURCE_PLACES % len(source.ids)][
                :, part
            ]
    return alone(BASE, NUM_BLOCKS), hidden


COLUMNS = {
    "middle": {1: (slice(0, 6),)},
    "slices": {2: (slice(1, 3), slice(4, 5))},
    "embeddings": {0: (slice(0, 6),)},
    "last": {3: (slice(2, 6),)},
    "several": {0: (slice(0, 2),), 2: (slice(0, 6),)},
    "neighbours": {1: (slice(0, 6),), 2: (slice(3, 6),)},
}


def interchange(columns, site_offset, source):
    return Interchange(columns, BASE_PLACES, SOURCE_PLACES % len(source.ids), site_offset)


STACKED = {
    f"{columns}-{site_offset}-{in_batch}-{resumes}": {
        "columns": columns,
        "site_offset": site_offset,
        "in_batch": in_batch,
        "resumes": resumes,
    }
    for columns, site_offset, in_batch, resumes in product(COLUMNS, (0, 1), (False, True), (False, True))
}


@pytest.mark.parametrize("case", few_of({name: pairs(**case) for name, case in STACKED.items()}))
def test_stacked_passes_equal_passes_one_after_the_other(case):
    name, site_offset, in_batch, resumes = STACKED[case].values()
    columns = COLUMNS[name]
    source = BASE if in_batch else SOURCE
    swap = interchange(columns, site_offset, source)
    passes = Passes(
        BASE,
        source=None if in_batch else SOURCE,
        counterfactual=None if resumes else BASE,
        interchange=swap,
    )
    for found, expected in zip(run(ToyModel(), passes), one_by_one(swap, source), strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    base, counterfactual = run(ToyModel(), replace(passes, needs_base=False))
    assert base is None
    assert torch.allclose(counterfactual, one_by_one(swap, source)[1], rtol=0, atol=1e-12)


def test_only_a_base_runs_where_nothing_is_interchanged_and_nothing_where_nothing_is_needed():
    model = ToyModel()
    base, counterfactual = run(model, Passes(BASE))
    assert counterfactual is None
    assert torch.equal(base, ToyModel().run(model.embed(BASE.ids, BASE.layout), BASE.layout, 0, NUM_BLOCKS))
    idle = ToyModel()
    assert run(idle, Passes(BASE, needs_base=False)) == (None, None)
    assert idle.calls == []


def test_a_counterfactual_of_other_tokens_runs_from_the_embeddings():
    other = Rows(BASE.ids.flip(0), BASE.layout)
    _, counterfactual = run(ToyModel(), Passes(BASE, counterfactual=other))
    model = ToyModel()
    assert torch.allclose(
        counterfactual, model.run(model.embed(other.ids, other.layout), other.layout, 0, NUM_BLOCKS), rtol=0, atol=1e-12
    )


def test_each_block_runs_once_for_the_passes_under_way():
    swap = interchange({1: (slice(0, 6),)}, 0, SOURCE)
    base, source = len(BASE.ids), len(SOURCE.ids)
    shared, separate, alone = ToyModel(), ToyModel(), ToyModel()
    run(shared, Passes(BASE, source=SOURCE, interchange=swap))
    assert shared.calls == [(0, base + source), (1, base), (2, 2 * base), (3, 2 * base)]
    run(separate, Passes(BASE, source=SOURCE, counterfactual=BASE, interchange=swap))
    assert separate.calls == [(0, 2 * base + source), (1, 2 * base), (2, 2 * base), (3, 2 * base)]
    run(alone, Passes(BASE, interchange=interchange({1: (slice(0, 6),)}, 0, BASE), needs_base=False))
    assert alone.calls == [(0, base), (1, base), (2, base), (3, base)]


def test_gradient_flows_through_the_values_into_the_source():
    model = ToyModel()
    model.table.requires_grad_()
    foreign = Rows(torch.full_like(SOURCE.ids, VOCABULARY - 1), SOURCE.layout)
    base = Rows(BASE.ids.clamp(max=VOCABULARY - 2), BASE.layout)
    swap = interchange({1: (slice(0, 6),)}, 0, SOURCE)
    run(model, Passes(base, source=foreign, interchange=swap))[1].sum().backward()
    assert model.table.grad[VOCABULARY - 1].abs().sum() > 0


@pytest.mark.parametrize("needs_base", [False, True])
@pytest.mark.parametrize("resumes", [False, True])
def test_kept_states_are_those_after_a_write_and_before_the_first_write_the_bases(resumes, needs_base):
    model, places, columns = ToyModel(), torch.tensor([0, 6]), slice(0, 6)
    swap = interchange({1: (columns,)}, 0, SOURCE)
    kept_base = replace(BASE, kept_places=places)
    passes = Passes(
        kept_base,
        source=SOURCE,
        counterfactual=None if resumes else kept_base,
        interchange=swap,
        needs_base=needs_base,
        kept=(1, 2, 3),
    )
    base, counterfactual = run_and_keep(model, passes)
    before = model.run(model.embed(BASE.ids, BASE.layout), BASE.layout, 0, 1)
    plain = [before, *(model.run(before, BASE.layout, 1, depth) for depth in (2, 3))]
    # Row 6 is a written place.
    written = plain[1].index_copy(
        0, BASE_PLACES, model.run(model.embed(SOURCE.ids, SOURCE.layout), SOURCE.layout, 0, 1)[SOURCE_PLACES]
    )
    changed = [before, written, model.run(written, BASE.layout, 2, 3)]
    for found, expected in ((base, plain), (counterfactual, changed)):
        for kept, states in zip(found.kept, expected, strict=True):
            assert torch.allclose(kept, states[places], rtol=0, atol=1e-12)
    assert (base.last is None) is not needs_base
    assert (counterfactual.kept[1] - base.kept[1])[1].abs().max() > 1e-3


def test_a_base_that_only_kept_states_need_runs_as_far_as_the_last_of_them():
    model = ToyModel()
    base = replace(BASE, kept_places=torch.tensor([0]))
    run_and_keep(model, Passes(base, needs_base=False, kept=(1, 2)))
    assert model.calls == [(0, len(BASE.ids)), (1, len(BASE.ids))]


def test_states_of_a_counterfactual_of_other_tokens_are_kept_at_its_own_places():
    base = replace(BASE, kept_places=torch.tensor([4, 7]))
    other = Rows(BASE.ids.flip(0), BASE.layout, kept_places=torch.tensor([3, 6]))
    found = run_and_keep(ToyModel(), Passes(base, counterfactual=other, kept=(2,)))
    model = ToyModel()
    for of_pass, outputs in zip((base, other), found, strict=True):
        states = model.run(model.embed(of_pass.ids, of_pass.layout), of_pass.layout, 0, 2)
        assert torch.allclose(outputs.kept[0], states[of_pass.kept_places], rtol=0, atol=1e-12)


def test_token_types_reach_the_embeddings_of_every_pass():
    types = [torch.arange(len(of_pass.ids)) % 2 for of_pass in (BASE, SOURCE)]
    base, source = (replace(of_pass, token_types=one) for of_pass, one in zip((BASE, SOURCE), types, strict=True))
    swap = interchange({1: (slice(0, 6),)}, 0, SOURCE)
    found = run(ToyModel(), Passes(base, source=source, counterfactual=base, interchange=swap))
    model = ToyModel()
    values = model.run(model.embed(source.ids, source.layout, types[1]), source.layout, 0, 1)[SOURCE_PLACES]
    hidden = model.run(model.embed(base.ids, base.layout, types[0]), base.layout, 0, 2)
    expected = model.run(hidden.index_copy(0, BASE_PLACES, values), base.layout, 2, NUM_BLOCKS)
    assert torch.allclose(found[0], model.run(hidden, base.layout, 2, NUM_BLOCKS), rtol=0, atol=1e-12)
    assert torch.allclose(found[1], expected, rtol=0, atol=1e-12)
    with pytest.raises(AssertionError, match="some passes have token types"):
        run(ToyModel(), Passes(base, source=SOURCE, interchange=swap))
