"""Loss, terms and every gradient of method ``causal`` against six whole forward passes, in every mode."""

import copy

import pytest
import torch

from raydistill.interventions.sites import draw, load_mapping
from reference.comparison import (
    DECODERS,
    FAMILIES,
    ONE_SITE,
    assert_equal,
    config,
    gradient_difference,
    loss_of_package,
    make_batch,
    mapping,
    models,
    of_package,
    of_reference,
    weights,
)
from toys.models import toy_bert, toy_distilbert
from toys.representatives import few_of

SITES = {
    "embeddings_are_read": (["$L:0"], ["$L:0"]),
    "last_blocks": (["$L:3"], ["$L:2"]),
    "ranges_of_blocks": (["$L:[1:4]"], ["$L:[0:2]"]),
    "every_block": (["$L:[0:4]"], ["$L:[0:3]"]),
    "one_head": (["$L:2$H:1$[0:8]"], ["$L:1$H:0$[0:8]"]),
    "slices_that_start_above_0": (["$L:1$H:[0:2]$[2:5]"], ["$L:1$H:1$[3:6]"]),
    "ranges_of_heads_and_blocks": (["$L:[0:3]$H:[0:2]$[1:7]"], ["$L:[1:3]$H:0$[4:8]"]),
    "unequal_numbers_of_columns": (["$L:2$H:1$[7:8]"], ["$L:0$H:[0:2]$[0:8]"]),
}

MODES = {
    "default": ("distilbert", {}),
    "default_bert": ("bert", {}),
    "default_roberta": ("roberta", {"temperature": 5.0}),
    "default_gpt2": ("gpt2", {}),
    "default_llama": ("llama", {}),
    "masked_kd": ("distilbert", {"kd_positions": "masked"}),
    "masked_kd_gpt2": ("gpt2", {"kd_positions": "masked", "site_offset": 1}),
    "few_tokens": ("bert", {"max_tokens": 2, "interchange_mode": "random"}),
    "whole_rows": ("distilbert", {"interchange_proportion": 1.0}),
    "consecutive_padded": ("roberta", {"positions": "padded", "site_offset": 1}),
    "masked_tokens": ("distilbert", {"interchange_mode": "masked"}),
    "masked_tokens_padded": ("roberta", {"interchange_mode": "masked", "positions": "padded"}),
    "random": ("roberta", {"interchange_mode": "random"}),
    "random_gpt2": ("gpt2", {"interchange_mode": "random", "max_tokens": 3}),
    "random_llama": ("llama", {"interchange_mode": "random", "kd_positions": "masked"}),
    "random_padded": ("distilbert", {"interchange_mode": "random", "positions": "padded"}),
    "random_padded_bert": ("bert", {"interchange_mode": "random", "positions": "padded", "site_offset": 1}),
    "shared_prefix": ("bert", {"share_student_prefix": True}),
    "shared_prefix_random_padded": (
        "distilbert",
        {"share_student_prefix": True, "interchange_mode": "random", "positions": "padded", "site_offset": 1},
    ),
    "in_batch": ("distilbert", {"pairing": "in_batch"}),
    "in_batch_random_padded": (
        "bert",
        {"pairing": "in_batch", "interchange_mode": "random", "positions": "padded"},
    ),
    "in_batch_masked_tokens": ("roberta", {"pairing": "in_batch", "interchange_mode": "masked", "site_offset": 1}),
    "in_batch_shared": ("distilbert", {"pairing": "in_batch", "share_student_prefix": True, "site_offset": 1}),
    "in_batch_shared_llama": ("llama", {"pairing": "in_batch", "share_student_prefix": True}),
    "in_batch_shared_masked_kd": (
        "roberta",
        {"pairing": "in_batch", "share_student_prefix": True, "kd_positions": "masked"},
    ),
    "tokens": ("distilbert", {"data_augment": True, "mapping": None}),
    "tokens_random_padded": (
        "roberta",
        {"data_augment": True, "mapping": None, "interchange_mode": "random", "positions": "padded"},
    ),
    "tokens_in_batch_gpt2": ("gpt2", {"data_augment": True, "mapping": None, "pairing": "in_batch"}),
    "crossway": ("distilbert", {"crossway": True}),
    "crossway_masked_kd": ("bert", {"crossway": True, "kd_positions": "masked", "share_student_prefix": True}),
    "crossway_random_padded": (
        "roberta",
        {"crossway": True, "interchange_mode": "random", "positions": "padded", "site_offset": 1},
    ),
    "crossway_llama": ("llama", {"crossway": True}),
    "crossway_tokens": ("distilbert", {"crossway": True, "data_augment": True, "mapping": None}),
    "crossway_in_batch_shared": (
        "distilbert",
        {"crossway": True, "pairing": "in_batch", "share_student_prefix": True},
    ),
    "crossway_in_batch_gpt2": ("gpt2", {"crossway": True, "pairing": "in_batch", "kd_positions": "masked"}),
}
"""Family and options; each option's values meet each other option's where both mean something."""


def assert_equal_to_reference(settings, family="distilbert", *, of_models=None, tolerance=1e-9, **keys):
    student, teacher = of_models or models(family)
    batch = make_batch(settings, family, **keys)
    found = of_package(settings, student, teacher, batch)
    assert_equal(found, of_reference(settings, student, teacher, batch), tolerance=tolerance)
    return batch


@pytest.mark.parametrize(
    "mode", few_of({mode: [family, *options.items()] for mode, (family, options) in MODES.items()})
)
def test_every_mode_equals_the_six_pass_reference(mode):
    family, options = MODES[mode]
    batch = assert_equal_to_reference(config(family, **options), family)
    assert batch["interchange_base"].numel() > 0


def test_every_mode_has_a_loss_of_its_own():
    losses = {}
    for mode, (family, options) in MODES.items():
        if options.get("share_student_prefix") and not options.get("crossway"):
            # Without dropout sharing a prefix changes nothing.
            continue
        settings = config(family, **options)
        losses[mode] = round(loss_of_package(settings, *models(family), make_batch(settings, family)), 9)
    assert len(set(losses.values())) == len(losses)


@pytest.mark.parametrize("mode", [mode for mode, (_, options) in MODES.items() if "padded" in options.values()])
def test_padded_positions_of_both_sides_are_interchanged_only_in_modes_that_draw_single_ones(mode):
    family, options = MODES[mode]
    batch = make_batch(config(family, **options), family)
    side = "" if options.get("pairing") == "in_batch" else "partner_"
    hits = [
        int((~batch[prefix + "attention_mask"].flatten()[batch[column]]).sum())
        for prefix, column in (("", "interchange_base"), (side, "interchange_partner"))
    ]
    single = options.get("interchange_mode", "consecutive")
    assert (hits[0] > 0, hits[1] > 0) == (single == "random", single != "consecutive")


@pytest.mark.parametrize(
    ("term", "family", "kd_positions"),
    [
        ("ce", "distilbert", "all"),
        ("ce", "llama", "masked"),
        ("mlm", "roberta", "all"),
        ("clm", "gpt2", "all"),
        ("clm", "llama", "masked"),
        ("mse", "gpt2", "all"),
        ("mse", "bert", "masked"),
        ("cos", "gpt2", "all"),
        ("cos", "roberta", "masked"),
        ("causal_ce", "gpt2", "masked"),
        ("causal_ce", "roberta", "all"),
        ("causal_cos", "llama", "all"),
        ("causal_cos", "distilbert", "masked"),
    ],
)
def test_each_term_alone_equals_the_six_pass_reference(term, family, kd_positions):
    settings = config(family, **weights(**{term: 0.7}), kd_positions=kd_positions)
    assert_equal_to_reference(settings, family)


@pytest.mark.parametrize("terms", [("ce", "mlm", "cos"), ("mlm", "causal_cos"), ("causal_ce", "causal_cos", "mse")])
def test_some_of_the_terms_equal_the_six_pass_reference(terms):
    settings = config(**weights(**dict.fromkeys(terms, 0.5)), interchange_mode="random")
    assert_equal_to_reference(settings)


@pytest.mark.parametrize(
    ("sites", "family", "site_offset"),
    [
        *((sites, list(FAMILIES)[number % len(FAMILIES)], number % 2) for number, sites in enumerate(SITES)),
        ("embeddings_are_read", "gpt2", 1),
        ("last_blocks", "llama", 0),
    ],
)
def test_sites_equal_the_six_pass_reference(sites, family, site_offset):
    settings = config(family, mapping=mapping(SITES[sites]), site_offset=site_offset)
    assert_equal_to_reference(settings, family)


def steps_of_groups(name):
    """For each pair of variables that can be drawn a step that draws it, by the first blocks of the two."""
    loaded = load_mapping(name)
    steps = {}
    for step in range(200):
        sites = draw(loaded, 3, step)
        steps.setdefault((sites[0][0].layer, sites[1][0].layer), step)
    assert len(steps) == sum(len(group.teacher) * len(group.student) for group in loaded.groups)
    return [steps[layers] for layers in sorted(steps)]


@pytest.mark.parametrize(
    "preset", ["middle_3", "middle_6", "middle_9", "late_3", "late_6", "full_3", "full_6", "full_9"]
)
def test_the_first_and_the_last_group_of_a_preset_equal_the_six_pass_reference(preset):
    of_models = models(student_blocks=int(preset[-1]), teacher_blocks=12, hidden_size=8)
    steps = steps_of_groups(preset)
    for step in {steps[0], steps[-1]}:
        assert_equal_to_reference(config(mapping=preset), of_models=of_models, rows=range(2), step=step)


def test_groups_and_their_alternatives_equal_the_six_pass_reference():
    groups = mapping((["$L:1", "$L:2"], ["$L:0", "$L:2"]), (["$L:[0:2]$H:0$[3:8]"], ["$L:1"]))
    for step in steps_of_groups(groups):
        assert_equal_to_reference(config("roberta", mapping=groups), "roberta", step=step)


def test_sites_drawn_for_each_micro_batch_equal_the_six_pass_reference():
    groups = mapping((["$L:1"], ["$L:0"]), (["$L:2"], ["$L:1"]), (["$L:3"], ["$L:2"]))
    settings = config(mapping=groups, site_draw="micro_batch")
    losses = set()
    for micro_batch in (0, 1, 2, 3):
        batch = assert_equal_to_reference(settings, micro_batch=micro_batch)
        losses.add(round(loss_of_package(settings, *models(), batch), 9))
    assert len(losses) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_in_float32_every_gradient_equals_the_reference_of_float64(family):
    settings = config(family, crossway=True)
    student, teacher = models(family)
    batch = make_batch(settings, family)
    expected = of_reference(settings, student, teacher, batch)
    found = of_package(settings, copy.deepcopy(student).float(), copy.deepcopy(teacher).float(), batch)
    assert found.loss.dtype == torch.float32
    assert abs(found.loss.item() - expected.loss.item()) < 1e-5 * expected.loss.item()
    assert gradient_difference(found, expected) < 1e-5 * expected.largest


@pytest.mark.parametrize(
    ("family", "site_offset"), [("bert", 0), ("distilbert", 1), ("roberta", 1), ("gpt2", 0), ("llama", 0)]
)
def test_a_site_that_is_one_block_off_has_clearly_other_gradients(family, site_offset):
    settings = config(family, site_offset=site_offset)
    student, teacher = models(family)
    batch = make_batch(settings, family)
    found = of_package(settings, student, teacher, batch)
    for control in ({"read_shift": 1}, {"read_shift": -1}, {"write_shift": 1}):
        shifted = of_reference(settings, student, teacher, batch, **control)
        assert gradient_difference(found, shifted) > 1e-2 * found.largest


def test_models_of_different_widths_equal_the_six_pass_reference():
    settings = config(alpha_cos=0.0, alpha_causal_cos=0.0, mapping=mapping((["$L:2$H:1$[0:12]"], ["$L:1"])))
    assert_equal_to_reference(settings, of_models=(toy_distilbert(3), toy_bert(4, hidden_size=24)))


@pytest.mark.parametrize("family", DECODERS)
def test_without_interventions_a_decoder_equals_the_reference(family):
    settings = config(family, alpha_causal_ce=0.0, alpha_causal_cos=0.0, mapping=None)
    batch = assert_equal_to_reference(settings, family)
    assert "interchange_base" not in batch


def test_a_batch_without_interchanged_positions_equals_the_reference():
    settings = config(interchange_proportion=0.01, mapping=ONE_SITE)
    batch = assert_equal_to_reference(settings)
    assert batch["interchange_base"].numel() == 0
