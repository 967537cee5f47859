"""A student narrower than its teacher, 8 wide of 16: each method trains it, or refuses it before anything runs."""

import pytest

from raydistill import discovery
from raydistill.config.named import MethodSpec
from raydistill.plugins import METHODS
from raydistill.testing import contract, method_case
from toys.zoo import toy

PAIRS = {"student_layers": (0, 1), "teacher_layers": (1, 2)}
BLOCK = {"interchange_variable_mappings": [{"teacher_variable_names": ["$L:1"], "student_variable_names": ["$L:1"]}]}
NARROW, NARROW_LM = "bert_narrow", "distilbert_narrow"
TRAINS = [
    ("finetune", {}, NARROW),
    ("kd", {}, NARROW),
    ("kd", {}, NARROW_LM),
    ("vkd", {}, NARROW),
    ("uhc", {}, NARROW),
    ("muki", {"margin_reweighting": False}, NARROW),
    ("dynamic_teacher", {}, NARROW),
    ("dynamic_data", {}, NARROW),
    # Logits alone are compared.
    ("dynamic_objective", {"rep_alpha": 0.0}, NARROW),
    ("causal", {"alpha_cos": 0.0, "mapping": BLOCK}, NARROW_LM),
    ("causal_task", {"alpha": 0.3}, NARROW),
    # States go through trained maps.
    ("patient_kd", {**PAIRS, "projection": True}, NARROW),
    ("dfa", {"num_aligned_layers": 2}, NARROW),
    ("cfl", {"num_aligned_layers": 2}, NARROW),
]
REFUSES = [
    (
        "patient_kd",
        PAIRS,
        NARROW,
        r"method\.projection is false, but the student's hidden_size is 8 .* 16; set it to true",
    ),
    ("dynamic_objective", {}, NARROW, r"hidden_size is 8 in the student and 16 .* or set method\.rep_alpha to 0"),
    (
        "causal",
        {"alpha_causal_ce": 0.0},
        NARROW_LM,
        r"hidden_size is 8 in the student and 16 .*set method\.alpha_cos to 0",
    ),
    ("causal_task", {"beta": 0.5}, NARROW, r"hidden_size is 8 in the student and 16 .*set method\.beta to 0"),
]


def check(name, options, family):
    """What a plan asks a method of its models' configurations."""
    spec = MethodSpec.parse({"name": name, **options})
    make_teacher, make_student = contract.MODELS[family]
    spec.check(make_student(3).config, [make_teacher(4).config] * spec.requirements.min_teachers)


def test_every_method_is_asked():
    assert sorted({name for name, *_ in TRAINS}) == discovery.names(METHODS)


@pytest.mark.parametrize(("name", "options", "family"), TRAINS)
def test_a_narrower_student_learns(name, options, family):
    check(name, options, family)
    case = method_case(name, options, family)
    contract.gradient_reaches_every_student_parameter_and_no_teacher(case)
    contract.ten_steps_on_one_batch_lower_the_loss(case)


@pytest.mark.parametrize(("name", "options", "family", "message"), REFUSES)
def test_states_of_another_width_are_refused_where_a_method_has_no_map_for_them(name, options, family, message):
    with pytest.raises(ValueError, match=message):
        check(name, options, family)


@pytest.mark.parametrize(
    ("name", "options"),
    [("dfa", {"num_aligned_layers": 2}), ("cfl", {"num_aligned_layers": 2}), ("dynamic_objective", {})],
)
def test_an_opt_whose_last_states_have_another_width_than_its_layers_is_refused_where_these_are_compared(name, options):
    opt = toy("opt", head="sequence_classification").config
    bert = contract.MODELS["bert_classes"][1](3).config
    assert (opt.word_embed_proj_dim, opt.hidden_size) == (12, 16)
    with pytest.raises(
        ValueError, match="the last states of the opt are 12 wide, its others 16, so that states of its"
    ):
        MethodSpec.parse({"name": name, **options}).check(bert, [opt])


def test_last_states_of_an_opt_and_of_another_decoder_are_refused_by_a_cosine_where_their_widths_differ():
    spec = MethodSpec.parse({"name": "causal", "alpha_causal_ce": 0.0, "alpha_mlm": 0.0, "alpha_clm": 0.25})
    with pytest.raises(
        ValueError, match=r"last states are 16 wide in the student and 12 in the teacher; set method\.alpha_cos"
    ):
        spec.check(toy("gpt2").config, [toy("opt").config])
