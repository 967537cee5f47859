"""Into which micro-batches a global batch is cut: it changes no gradient, except in modes that say so."""

from itertools import pairwise

import pytest

from raydistill.methods.causal import Method
from raydistill.tasks import clm, mlm
from reference.comparison import FAMILIES, config, loss_of_package, make_batch, mapping, models, of_package, task_of
from toys.models import largest_difference, parameter_gradients

NUM_ROWS = 6
MODES = {
    "spans": {},
    "single_positions_and_masked_kd": {"interchange_mode": "random", "kd_positions": "masked"},
    "crossway_with_shared_prefix": {"crossway": True, "share_student_prefix": True, "site_offset": 1},
    "tokens": {"data_augment": True, "mapping": None},
}
CUTS = {"spans": (1, 2, 3), "single_positions_and_masked_kd": (3, 3), "crossway_with_shared_prefix": (4, 2)}
MOST_CUTS = (1,) * NUM_ROWS
"""For each mode the rows of each micro-batch."""

GROUPS = mapping((["$L:1"], ["$L:0"]), (["$L:2"], ["$L:1"]), (["$L:3"], ["$L:2"]))

ROW_COUPLED = {
    "in_batch": {"pairing": "in_batch"},
    "in_batch_shared": {"pairing": "in_batch", "share_student_prefix": True},
    "padded": {"positions": "padded", "interchange_mode": "random"},
    "partner_width_batch": {"partner_width": "batch"},
    "site_draw_micro_batch": {"site_draw": "micro_batch"},
}


def of_the_cut(settings, family, sizes, *, task=None):
    """Result of the whole, and the parts' terms and gradients added up under the whole's denominators."""
    student, teacher = models(family)
    method = Method(settings, student, [teacher])
    whole = make_batch(settings, family, task=task)
    totals = method.denominators(whole)
    bounds = [sum(sizes[:part]) for part in range(len(sizes) + 1)]
    parts = [
        make_batch(settings, family, rows=range(*bound), micro_batch=number, task=task)
        for number, bound in enumerate(pairwise(bounds))
    ]
    counts = [method.denominators(part) for part in parts]
    assert {name: sum(count[name] for count in counts) for name in totals} == totals
    results = [method(part, totals) for part in parts]
    terms = {name: sum(found[name].item() for _, found in results) for name in results[0][1]}
    gradients = parameter_gradients(sum(loss for loss, _ in results), student)
    return of_package(settings, student, teacher, whole), terms, gradients


@pytest.mark.parametrize(
    ("family", "mode"),
    [
        *((family, "spans") for family in FAMILIES),
        ("roberta", "single_positions_and_masked_kd"),
        ("gpt2", "single_positions_and_masked_kd"),
        ("distilbert", "crossway_with_shared_prefix"),
        ("llama", "crossway_with_shared_prefix"),
        ("bert", "tokens"),
    ],
)
def test_the_gradient_of_a_global_batch_does_not_depend_on_its_micro_batches(family, mode):
    settings = config(family, **MODES[mode])
    assert not Method.requirements(settings).execution.batch_dependent
    whole, terms, gradients = of_the_cut(settings, family, CUTS.get(mode, MOST_CUTS))
    assert all(abs(terms[name] - value.item()) < 1e-10 for name, value in whole.terms.items())
    assert largest_difference(gradients, whole.gradients) < 1e-10
    assert whole.largest > 1e-2


@pytest.mark.parametrize("mode", ROW_COUPLED)
def test_a_mode_whose_rows_depend_on_their_micro_batch_says_so(mode):
    options = ROW_COUPLED[mode]
    assert Method.requirements(config(**options)).execution.batch_dependent
    without = {**options, "alpha_causal_ce": 0.0, "alpha_causal_cos": 0.0}
    assert not Method.requirements(config(**without)).execution.batch_dependent


@pytest.mark.parametrize("mode", sorted(set(ROW_COUPLED) - {"partner_width_batch"}))
def test_the_cut_changes_the_gradient_of_a_mode_that_says_so(mode):
    settings = config(**ROW_COUPLED[mode], mapping=GROUPS)
    whole, _, gradients = of_the_cut(settings, "distilbert", (1, 1, 1, 3))
    assert largest_difference(gradients, whole.gradients) > 1e-3 * whole.largest


def test_padded_spans_are_not_coupled_because_spans_never_reach_padding():
    assert not Method.requirements(config(positions="padded")).execution.batch_dependent


def test_masks_drawn_over_a_micro_batch_couple_its_rows_and_those_of_rows_do_not():
    assert mlm.Task.batch_dependent(mlm.Config(sampling="batch"))
    assert not mlm.Task.batch_dependent(mlm.Config())
    assert not clm.Task.batch_dependent(clm.Config())
    whole, _, gradients = of_the_cut(config(), "distilbert", (3, 3), task=task_of("distilbert", sampling="batch"))
    assert largest_difference(gradients, whole.gradients) > 1e-3 * whole.largest


def drawn_group(settings, **keys):
    """Number of the group that the method interchanges: the loss with that group alone is its loss."""
    groups = settings.mapping["interchange_variable_mappings"]
    loss = loss_of_package(settings, *models(), make_batch(settings, **keys))
    alone = [config(mapping={"interchange_variable_mappings": [group]}) for group in groups]
    losses = [loss_of_package(one, *models(), make_batch(one, **keys)) for one in alone]
    (number,) = [number for number, found in enumerate(losses) if abs(found - loss) < 1e-12]
    return number


def test_one_group_is_drawn_for_all_micro_batches_of_a_step_and_depends_on_seed_and_step():
    settings = config(mapping=GROUPS)
    found = {
        (seed, step): {drawn_group(settings, seed=seed, step=step, rows=rows, micro_batch=number)
        for number, rows in enumerate(([0, 1], [3]))}
        for seed in (3, 4) for step in range(3)
    }  # fmt: skip
    assert all(len(groups) == 1 for groups in found.values())
    of_seeds = [[found[seed, step] for step in range(3)] for seed in (3, 4)]
    assert of_seeds[0] != of_seeds[1]
    assert len(set.union(*found.values())) == 3


def test_with_site_draw_micro_batch_a_group_is_drawn_for_each_and_equal_for_equal_numbers():
    settings = config(mapping=GROUPS, site_draw="micro_batch")
    first, second = (
        [drawn_group(settings, rows=rows, micro_batch=number) for number in range(6)] for rows in ([0], [2])
    )
    assert first == second
    assert len(set(first)) > 1
