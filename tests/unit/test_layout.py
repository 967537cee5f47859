import pytest
import torch

from raydistill.layout import Layout

MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], dtype=torch.bool)
REAL = torch.tensor([0, 1, 4, 5, 6, 7, 8])


def real_tokens() -> Layout:
    return Layout.of(MASK, REAL)


def all_places() -> Layout:
    return Layout.of(MASK, torch.arange(12))


def test_states_stand_at_the_rows_and_positions_of_their_flat_places():
    layout = real_tokens()
    assert layout.row.tolist() == [0, 0, 1, 1, 1, 1, 2]
    assert layout.position.tolist() == [0, 1, 0, 1, 2, 3, 0]
    assert torch.equal(layout.index, REAL)
    assert (layout.num_rows, layout.width, layout.num_states) == (3, 4, 7)


def test_padding_is_told_from_real_tokens_where_it_is_kept():
    assert real_tokens().real.all()
    assert torch.equal(all_places().real, MASK.flatten())


@pytest.mark.parametrize("trailing", [(), (5,), (2, 3)])
def test_take_reads_the_kept_places(trailing):
    dense = torch.randn(3, 4, *trailing)
    assert torch.equal(real_tokens().take(dense), dense[MASK])
    assert torch.equal(all_places().take(dense), dense.flatten(0, 1))


def test_a_place_is_found_among_the_packed_states():
    layout = real_tokens()
    places = torch.tensor([8, 5, 0, 5])
    assert layout.places(places).tolist() == [6, 3, 0, 3]
    dense = torch.randn(3, 4, 2)
    packed = layout.take(dense)
    assert torch.equal(packed.index_select(0, layout.places(places)), dense.flatten(0, 1).index_select(0, places))
    assert torch.equal(all_places().places(places), places)


def test_a_place_that_is_not_kept_indexes_no_state():
    layout = real_tokens()
    missing = layout.places(torch.tensor([3]))
    with pytest.raises((IndexError, RuntimeError)):
        torch.zeros(layout.num_states, 2).index_select(0, missing)


@pytest.mark.parametrize("layout", [real_tokens(), all_places()])
def test_spread_puts_each_states_heads_at_its_place_and_zeros_elsewhere(layout):
    states = torch.randn(1, 2, layout.num_states, 3)
    rows = layout.spread(states)
    assert rows.shape == (3, 2, 4, 3)
    expected = torch.zeros(3, 2, 4, 3)
    for number, (row, position) in enumerate(zip(layout.row.tolist(), layout.position.tolist(), strict=True)):
        expected[row, :, position] = states[0, :, number]
    assert torch.equal(rows, expected)


@pytest.mark.parametrize("layout", [real_tokens(), all_places()])
def test_gather_undoes_spread(layout):
    states = torch.randn(1, 2, layout.num_states, 3)
    assert torch.equal(layout.gather(layout.spread(states).transpose(1, 2)), states.transpose(1, 2))


@pytest.mark.parametrize("layout", [real_tokens(), all_places()])
def test_gradients_pass_spread_and_gather(layout):
    states = torch.randn(1, 2, layout.num_states, 3, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(3, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layout.spread, states)
    assert torch.autograd.gradcheck(layout.gather, rows)


def test_stacked_rows_stand_under_each_other_at_the_widest_ones_width():
    narrow = Layout.of(torch.tensor([[True, False], [True, True]]), torch.tensor([0, 1, 2, 3]))
    stacked = Layout.stack([narrow, real_tokens(), narrow])
    assert (stacked.num_rows, stacked.width, stacked.num_states) == (7, 4, 15)
    assert stacked.row.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 4, 5, 5, 6, 6]
    assert stacked.position.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 0, 0, 1, 0, 1]
    of_narrow = torch.tensor([[True, False, False, False], [True, True, False, False]])
    assert torch.equal(stacked.mask, torch.cat([of_narrow, MASK, of_narrow]))
    assert torch.equal(stacked.real, torch.cat([narrow.real, real_tokens().real, narrow.real]))
    assert torch.equal(stacked.index, stacked.index.sort().values)


def test_a_stack_of_one_is_the_same_layout():
    stacked = Layout.stack([real_tokens()])
    assert torch.equal(stacked.index, REAL)
    assert torch.equal(stacked.mask, MASK)


def test_no_part_of_a_layout_asks_the_device_for_a_value():
    # A meta tensor has no values: whoever asks for one gets an error.
    layout = Layout.stack([Layout.of(MASK.to("meta"), REAL.to("meta")), Layout.of(MASK.to("meta"), REAL.to("meta"))])
    states = layout.spread(torch.randn(1, 2, 14, 3, device="meta"))
    assert layout.gather(states.transpose(1, 2)).shape == (1, 14, 2, 3)
    assert layout.take(torch.randn(6, 4, device="meta")).shape == layout.real.shape == (14,)
    assert layout.places(torch.zeros(5, dtype=torch.int64, device="meta")).shape == (5,)
