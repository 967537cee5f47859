import torch

from raydistill.interventions.interchange import read, write

COLUMNS = (slice(1, 3), slice(5, 6))
SOURCE_POSITIONS = torch.tensor([4, 5, 13])
POSITIONS = torch.tensor([0, 1, 8])


def hidden_states(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_kth_position_receives_the_kth_position_of_the_source():
    source, base = hidden_states(0, 14, 6), hidden_states(1, 10, 6)
    written = write(base, POSITIONS, COLUMNS, read(source, SOURCE_POSITIONS, COLUMNS))
    expected = base.clone()
    for target, origin in zip((0, 1, 8), (4, 5, 13), strict=True):
        for column in (1, 2, 5):
            expected[target, column] = source[origin, column]
    assert torch.equal(written, expected)


def test_inputs_stay_as_they_are():
    source, base = hidden_states(0, 14, 6), hidden_states(1, 10, 6)
    write(base, POSITIONS, COLUMNS, read(source, SOURCE_POSITIONS, COLUMNS))
    assert torch.equal(source, hidden_states(0, 14, 6))
    assert torch.equal(base, hidden_states(1, 10, 6))


def test_gradient_flows_into_the_source_and_not_into_overwritten_values():
    source = hidden_states(0, 14, 6).requires_grad_()
    base = hidden_states(1, 10, 6).requires_grad_()
    write(base, POSITIONS, COLUMNS, read(source, SOURCE_POSITIONS, COLUMNS)).sum().backward()
    overwritten = torch.zeros(10, 6, dtype=torch.bool)
    overwritten[POSITIONS[:, None], torch.tensor([1, 2, 5])] = True
    assert torch.equal(base.grad, (~overwritten).double())
    taken = torch.zeros(14, 6, dtype=torch.bool)
    taken[SOURCE_POSITIONS[:, None], torch.tensor([1, 2, 5])] = True
    assert torch.equal(source.grad, taken.double())


def test_no_positions_change_nothing():
    base, none = hidden_states(1, 10, 6), torch.zeros(0, dtype=torch.int64)
    assert torch.equal(write(base, none, COLUMNS, read(hidden_states(0, 14, 6), none, COLUMNS)), base)
