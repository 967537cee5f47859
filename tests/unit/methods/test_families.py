"""Methods on models that run whole, which must learn the same as packed, and on pairs of two different families."""

import pytest
import torch

from raydistill import discovery
from raydistill.models.blocks import _find, blocks_of
from raydistill.models.layer_plan import plan_of
from raydistill.plugins import METHODS
from raydistill.testing import method_case
from raydistill.testing.contract import prepared_batch
from toys.classifiers import toy_labelled_batch
from toys.models import largest_difference, parameter_gradients, toy_batch
from toys.zoo import toy
from unit.methods.test_contract import CASES

FIRST = [(name, *cases[0][:1], cases[0][1][0]) for name, cases in CASES.items()]
"""The first configuration of each method on its first family."""
MORE = [
    *(("causal", options, families[0]) for options, families in CASES["causal"][1:]),
    *(("causal_task", options, families[-1]) for options, families in CASES["causal_task"]),
    *(("kd", {}, kind) for kind in ("bert_tokens", "bert_spans", "gpt2_classes")),
    ("patient_kd", CASES["patient_kd"][1][0], "gpt2_classes"),
    ("dynamic_objective", {}, "gpt2_classes"),
    ("finetune", {}, "llama"),
]
PAIRS = [
    ("kd", {}, "deberta-v2", "electra"),
    ("kd", {}, "t5", "mpnet"),
    ("vkd", {}, "mpnet", "albert"),
    ("muki", {"margin_reweighting": False}, "opt", "xlm-roberta"),
    ("patient_kd", {"student_layers": (0, 1), "teacher_layers": (1, 2)}, "modernbert", "albert"),
    ("patient_kd", {"student_layers": (0, 1), "teacher_layers": (1, 2)}, "qwen3", "rembert"),
    ("causal", {"mapping": "SITES"}, "mpnet", "electra"),
    ("causal", {"mapping": "SITES"}, "megatron-bert", "deberta-v2"),
    ("causal", {"mapping": "SITES", "alpha_mlm": 0.0, "alpha_clm": 0.25}, "gemma2", "stablelm"),
]
"""A method, its options, and the model types of a teacher and a student."""
OPTIONS = {
    "t5": {"d_kv": 8, "d_ff": 24, "num_decoder_layers": 3, "decoder_start_token_id": 0},
    "stablelm": {"num_key_value_heads": 1},
}
END = 3
SITES = {
    "interchange_variable_mappings": [{"teacher_variable_names": ["$L:1"], "student_variable_names": ["$L:[0:2]"]}]
}


@pytest.mark.parametrize(("name", "options", "family"), [*FIRST, *MORE])
def test_a_loss_and_its_gradients_are_the_same_of_models_that_run_whole(name, options, family, monkeypatch):
    method = method_case(name, options, family).build()
    assert plan_of(method.student.config) is None
    batch, found = prepared_batch(method), []
    for families in (_find.packed_families(), {}):
        monkeypatch.setattr(_find, "packed_families", lambda families=families: families)
        assert bool(families) == blocks_of(method.student).IN_PARTS
        loss, terms = method(batch)
        found.append((loss, terms, parameter_gradients(loss, method.student)))
    (loss, terms, gradients), (whole, same_terms, same_gradients) = found
    torch.testing.assert_close(whole, loss, rtol=1e-9, atol=1e-9)
    assert terms.keys() == same_terms.keys()
    assert all((terms[term] - same_terms[term]).abs() < 1e-9 for term in terms)
    assert largest_difference(gradients, same_gradients) < 1e-7
    assert max(gradient.abs().max() for gradient in gradients.values()) > 1e-6


@pytest.mark.parametrize(("name", "options", "teacher", "student"), PAIRS)
def test_a_step_lowers_the_loss_of_a_student_of_another_family_than_its_teacher(name, options, teacher, student):
    module, is_language = discovery.load(METHODS, name), name == "causal"
    head = None if not is_language else ("causal_lm" if student == "stablelm" else "masked_lm")
    models = [
        toy(one, head=head or "sequence_classification", seed=seed, **OPTIONS.get(one, {}))
        for seed, one in enumerate((teacher, student))
    ]
    config = module.Config(**{key: SITES if value == "SITES" else value for key, value in options.items()})
    module.Method.check(config, models[1].config, [models[0].config])
    method = module.Method(config, models[1].train(), models[:1])
    batch = toy_batch() if is_language else toy_labelled_batch("classes")
    # Every row needs an end of text, where T5 reads what it pools.
    batch = batch.with_columns(input_ids=batch["input_ids"].index_fill(1, torch.tensor([0]), END))
    batch = method.prepare_batch(config, batch)
    loss, _ = method(batch)
    gradients = torch.autograd.grad(loss, list(method.parameters()), allow_unused=True, materialize_grads=True)
    # A step as small as this follows the gradient.
    size = sum(gradient.square().sum() for gradient in gradients)
    with torch.no_grad():
        for parameter, gradient in zip(method.parameters(), gradients, strict=True):
            parameter -= 1e-4 / size * gradient
    lowered = loss - method(batch)[0]
    torch.testing.assert_close(lowered, torch.full_like(lowered, 1e-4), rtol=0.1, atol=0)


def test_the_pairs_name_families_that_run_whole_too():
    whole = {one for pair in PAIRS for one in pair[2:]} - {*_find.packed_families()}
    assert whole == {"t5", "rembert", "megatron-bert", "stablelm"}
