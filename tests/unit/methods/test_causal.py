import dataclasses
from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raydistill.interventions.sites import draw, load_mapping
from raydistill.losses.chunked_head import vocabulary_losses
from raydistill.methods.causal import Config, Method, labels_first
from reference import six_pass
from reference.of_batch import as_example, columns_of
from toy_models import (
    largest_difference,
    pad_further,
    parameter_gradients,
    toy_batch,
    toy_bert,
    toy_distilbert,
)

ALPHAS = {"ce": 0.25, "mlm": 0.3, "mse": 0.01, "cos": 0.4, "causal_ce": 0.5, "causal_cos": 0.35}


def weights(**alphas):
    return {f"alpha_{name}": alphas.get(name, 0.0) for name in ALPHAS}


def mapping(*groups):
    keys = ("teacher_variable_names", "student_variable_names")
    return {"interchange_variable_mappings": [dict(zip(keys, group, strict=True)) for group in groups]}


ONE_SITE = mapping((["$L:2"], ["$L:1"]))


def config(**options):
    return Config(**{**weights(**ALPHAS), "mapping": ONE_SITE, **options})


def method_and_batch(settings, student, teacher, **keys):
    return Method(settings, student, [teacher]), Method.prepare_batch(settings, toy_batch(**keys))


def reference_loss(settings, student, teacher, batch, **setting):
    sites = draw(load_mapping(settings.mapping), batch.seed, batch.step)
    variables = (columns_of(sites[0], teacher), columns_of(sites[1], student))
    setting = six_pass.Setting(
        settings.alphas, temperature=settings.temperature, site_offset=settings.site_offset, **setting
    )
    return six_pass.causal_loss(student, teacher, as_example(batch), variables, setting)


SITES = {
    "one_layer": mapping((["$L:2"], ["$L:1"])),
    "embeddings": mapping((["$L:0"], ["$L:0"])),
    "last_layer": mapping((["$L:3"], ["$L:2"])),
    "layer_ranges": mapping((["$L:[1:4]"], ["$L:[0:2]"])),
    "separate_layers_of_the_student": mapping((["$L:[0:4]"], ["$L:[0:3]"])),
    "one_head": mapping((["$L:2$H:1$[0:8]"], ["$L:1$H:0$[0:8]"])),
    "slice_from_the_middle_of_a_head": mapping((["$L:1$H:[0:2]$[2:5]"], ["$L:1$H:1$[3:6]"])),
    "ranges_of_heads_and_layers": mapping((["$L:[0:3]$H:[0:2]$[1:7]"], ["$L:[1:3]$H:0$[4:8]"])),
    "groups_and_alternatives": mapping((["$L:1", "$L:2"], ["$L:0", "$L:2"]), (["$L:[2:4]"], ["$L:1"])),
}


@pytest.mark.parametrize("site_offset", [0, 1])
@pytest.mark.parametrize("sites", SITES)
@pytest.mark.parametrize("student_family", [toy_distilbert, toy_bert])
def test_loss_terms_and_all_gradients_equal_the_six_pass_reference(student_family, sites, site_offset):
    settings = config(mapping=SITES[sites], site_offset=site_offset)
    assert_equal_to_reference(settings, student_family(3, seed=1), toy_bert(4), steps=range(2))


@pytest.mark.parametrize("preset", ["middle_3", "late_3", "full_3", "full_6"])
def test_presets_equal_the_six_pass_reference(preset):
    student = toy_distilbert(int(preset[-1]))
    assert_equal_to_reference(config(mapping=preset), student, toy_bert(12), steps=range(3))


@pytest.mark.parametrize("options", [{"max_tokens": 2}, {"interchange_proportion": 1.0}, {"temperature": 5.0}])
def test_options_equal_the_six_pass_reference(options):
    assert_equal_to_reference(config(**options), toy_distilbert(3), toy_bert(4), steps=range(1))


def test_models_of_different_widths_equal_the_six_pass_reference():
    settings = config(alpha_cos=0.0, alpha_causal_cos=0.0)
    teacher = toy_bert(4, hidden_size=24)
    student = toy_distilbert(3)
    loss, terms, batch = evaluate(settings, student, teacher, step=0)
    sites = draw(load_mapping(settings.mapping), batch.seed, batch.step)
    with torch.no_grad():
        teacher_base, teacher_swapped = six_pass.three_passes(
            teacher, as_example(batch), columns_of(sites[0], teacher), 0
        )
    base, swapped = six_pass.three_passes(student, as_example(batch), columns_of(sites[1], student), 0)
    tokens = batch["attention_mask"]
    for name, (ours, theirs) in {"ce": (base, teacher_base), "causal_ce": (swapped, teacher_swapped)}.items():
        expected = six_pass.tempered_kl(ours.logits[tokens], theirs.logits[tokens], 2.0).mean()
        assert abs(terms[name].item() - expected.item()) < 1e-9
    assert torch.isfinite(loss)


def evaluate(settings, student, teacher, **keys):
    method, batch = method_and_batch(settings, student, teacher, **keys)
    loss, terms = method(batch, method.denominators(batch))
    return loss, terms, batch


def assert_equal_to_reference(settings, student, teacher, steps):
    for step in steps:
        loss, terms, batch = evaluate(settings, student, teacher, step=step)
        assert batch["interchange_base"].numel() > 0
        expected, expected_terms = reference_loss(settings, student, teacher, batch)
        assert abs(loss.item() - expected.item()) < 1e-9
        assert terms.keys() == expected_terms.keys()
        assert max(abs(terms[name].item() - expected_terms[name].item()) for name in terms) < 1e-9
        gradients = parameter_gradients(loss, student)
        assert largest_difference(gradients, parameter_gradients(expected, student)) < 1e-9
        assert max(gradient.abs().max().item() for gradient in gradients.values()) > 1e-2


@pytest.mark.parametrize(
    ("sites", "site_offset", "shift"), [("one_layer", 0, 1), ("one_layer", 1, -1), ("last_layer", 0, -1)]
)
def test_a_student_that_reads_one_block_off_has_other_gradients(sites, site_offset, shift):
    settings, student, teacher = config(mapping=SITES[sites], site_offset=site_offset), toy_distilbert(3), toy_bert(4)
    loss, _, batch = evaluate(settings, student, teacher)
    shifted, _ = reference_loss(settings, student, teacher, batch, read_shift=shift)
    difference = largest_difference(parameter_gradients(loss, student), parameter_gradients(shifted, student))
    assert difference > 1e-3


def test_site_offset_changes_the_loss():
    losses = {evaluate(config(site_offset=offset), toy_distilbert(3), toy_bert(4))[0].item() for offset in (0, 1)}
    assert len(losses) == 2


def test_gradient_reaches_the_student_through_its_source_pass():
    settings, student, teacher = config(**weights(causal_ce=1.0)), toy_distilbert(3), toy_bert(4)
    loss, _, batch = evaluate(settings, student, teacher)
    only_in_source = sorted(set(batch["partner_input_ids"].tolist()[0]) - set(batch["input_ids"].flatten().tolist()))
    assert only_in_source
    name = "distilbert.embeddings.word_embeddings.weight"
    student.vocab_projector.weight = torch.nn.Parameter(student.vocab_projector.weight.detach().clone())
    loss, _, _ = evaluate(settings, student, teacher)
    assert parameter_gradients(loss, student)[name][only_in_source].abs().max() > 1e-6


@pytest.mark.parametrize("sizes", [(3, 3), (1, 2, 3), (1, 1, 1, 1, 1, 1)])
def test_micro_batches_add_up_to_the_global_batch(sizes):
    settings, student, teacher = config(), toy_distilbert(3), toy_bert(4)
    method, whole = method_and_batch(settings, student, teacher)
    totals = method.denominators(whole)
    loss, terms = method(whole, totals)
    expected = parameter_gradients(loss, student)
    bounds = [sum(sizes[:part]) for part in range(len(sizes) + 1)]
    parts = [Method.prepare_batch(settings, toy_batch(range(start, stop))) for start, stop in pairwise(bounds)]
    counts = [method.denominators(part) for part in parts]
    assert {name: sum(count[name] for count in counts) for name in totals} == totals
    results = [method(part, totals) for part in parts]
    for name, term in terms.items():
        assert abs(sum(found[name] for _, found in results).item() - term.item()) < 1e-10
    gradients = parameter_gradients(sum(found for found, _ in results), student)
    assert largest_difference(gradients, expected) < 1e-10


def test_dropout_of_the_three_student_passes_is_independent():
    settings = config(**weights(cos=1.0, causal_cos=1.0), max_tokens=1)
    student, teacher = toy_distilbert(3, dropout=0.3), toy_bert(4)
    method, batch = method_and_batch(settings, student, teacher)
    none = torch.zeros(0, dtype=torch.int64)
    batch = batch.with_columns(interchange_base=none, interchange_partner=none)
    _, terms = method(batch, method.denominators(batch))
    assert abs(terms["cos"] - terms["causal_cos"]) > 1e-6
    method.eval()
    _, terms = method(batch, method.denominators(batch))
    assert abs(terms["cos"] - terms["causal_cos"]) < 1e-12


def calls_of_blocks(settings, batch_columns_removed=()):
    """How often each block and each vocabulary head ran: teacher blocks, student blocks, heads."""
    student, teacher = toy_distilbert(3), toy_bert(4)
    watched = [
        *six_pass.block_list(teacher),
        *six_pass.block_list(student),
        teacher.cls.predictions.transform,
        student.vocab_transform,
    ]
    calls = [0] * len(watched)
    for number, module in enumerate(watched):

        def count(*_, number=number):
            calls[number] += 1

        module.register_forward_hook(count)
    method, batch = method_and_batch(settings, student, teacher)
    columns = {name: column for name, column in batch.columns.items() if not name.startswith(batch_columns_removed)}
    batch = dataclasses.replace(batch, columns=columns)
    method(batch, method.denominators(batch))
    return calls[:4], calls[4:7], calls[7:]


def test_source_pass_ends_at_the_site_and_the_teacher_reuses_its_prefix():
    teacher, student, _ = calls_of_blocks(config())
    assert teacher == [2, 2, 1, 2]
    assert student == [3, 2, 2]


def test_without_causal_weights_there_are_no_counterfactual_passes_and_no_partners():
    settings = config(alpha_causal_ce=0.0, alpha_causal_cos=0.0, mapping=None)
    teacher, student, heads = calls_of_blocks(settings, ("partner_", "interchange_"))
    assert (teacher, student, heads) == ([1] * 4, [1] * 3, [1, 1])
    assert not Method.requirements(settings).partners
    assert "interchange_base" not in Method.prepare_batch(settings, toy_batch())


@pytest.mark.parametrize("term", ["cos", "causal_cos"])
def test_cosine_terms_alone_run_no_vocabulary_head(term):
    assert calls_of_blocks(config(**weights(**{term: 1.0})))[2] == [0, 0]


def test_the_masked_lm_term_alone_runs_no_teacher():
    teacher, student, heads = calls_of_blocks(config(**weights(mlm=1.0)))
    assert (teacher, student, heads) == ([0] * 4, [1] * 3, [0, 1])


def test_causal_terms_alone_run_no_base_pass_beyond_the_teachers_prefix():
    teacher, student, heads = calls_of_blocks(config(**weights(causal_ce=1.0)))
    assert (teacher, student, heads) == ([2, 2, 1, 1], [2, 1, 1], [1, 1])


def test_a_subset_of_terms_has_the_values_it_has_among_all():
    student, teacher = toy_distilbert(3), toy_bert(4)
    _, every, _ = evaluate(config(), student, teacher)
    for names in (("mlm",), ("mlm", "cos"), ("ce", "causal_cos"), ("mse", "mlm"), ("causal_ce",)):
        loss, terms, _ = evaluate(config(**weights(**dict.fromkeys(names, 0.5))), student, teacher)
        assert set(terms) == set(names)
        for name in names:
            assert abs(terms[name] - every[name]) < 1e-12
        assert abs(loss - sum(0.5 * every[name] for name in names)) < 1e-12


def test_labels_first_puts_labelled_tokens_before_the_others_and_keeps_all():
    batch = toy_batch()
    index = labels_first(batch)
    assert index[: batch["labels"].shape[0]].tolist() == batch["label_index"].tolist()
    assert sorted(index.tolist()) == batch["token_index"].tolist()


class Shapes(TorchDispatchMode):
    """Records the shape of every tensor made in its scope."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.seen.extend(made.shape for made in tree_leaves(result) if isinstance(made, torch.Tensor))
        return result


def test_no_tensor_of_all_positions_by_vocabulary_is_made(monkeypatch):
    monkeypatch.setitem(vocabulary_losses.__kwdefaults__, "chunk_rows", 8)
    settings, student, teacher = config(), toy_distilbert(3), toy_bert(4)
    method, batch = method_and_batch(settings, student, teacher)
    with Shapes() as shapes:
        method(batch, method.denominators(batch))[0].backward()
    vocabulary, width = student.config.vocab_size, student.config.hidden_size
    rows = {shape[:-1].numel() for shape in shapes.seen if len(shape) > 1 and shape[-1] == vocabulary}
    # The transposed weight of the head has the vocabulary last, and the model's width before it.
    assert max(rows - {width}) == 8
    assert batch["token_index"].numel() > 64


def test_padding_changes_no_gradient():
    settings, student, teacher = config(), toy_distilbert(3), toy_bert(4)
    method, batch = method_and_batch(settings, student, teacher)
    loss, _ = method(batch, method.denominators(batch))
    padded = pad_further(batch, 7)
    padded_loss, _ = method(padded, method.denominators(padded))
    gradients = parameter_gradients(loss, student), parameter_gradients(padded_loss, student)
    assert largest_difference(*gradients) < 1e-10


def test_a_batch_without_interchanged_positions_still_has_a_loss():
    settings = config(interchange_proportion=0.01)
    loss, terms, batch = evaluate(settings, toy_distilbert(3), toy_bert(4))
    assert batch["interchange_base"].numel() == 0
    assert abs(terms["causal_ce"] - terms["ce"]) < 1e-12
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mapping": None},
            r"mapping is missing while alpha_causal_ce or alpha_causal_cos is positive; give a preset \(full_3",
        ),
        ({"mapping": "midle_6"}, "mapping is 'midle_6'; did you mean 'middle_6'"),
        ({"alpha_ce": -1.0}, "alpha_ce is -1.0"),
        (weights(), "all alphas are 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"interchange_proportion": 1.5}, "interchange_proportion is 1.5"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"site_offset": 2}, r"site_offset is 2; choices: 0 \(published\), 1 \(aligned\)"),
    ],
)
def test_a_bad_option_is_refused_by_key_value_and_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


def check(settings, student=None, teacher=None):
    student = student or toy_distilbert(3).config
    Method.check(settings, student, [teacher or toy_bert(4).config])


def test_models_with_all_mapped_sites_pass_the_check():
    check(config())
    check(config(mapping=SITES["ranges_of_heads_and_layers"]))


def test_another_width_is_refused_only_where_a_cosine_compares_it():
    wide = toy_bert(4, hidden_size=24).config
    message = "hidden_size is 16 in the student and 24 in the teacher; set method.alpha_causal_cos to 0"
    with pytest.raises(ValueError, match=message):
        check(config(), teacher=wide)
    check(config(alpha_cos=0.0, alpha_causal_cos=0.0), teacher=wide)


def test_another_vocabulary_is_refused():
    other = toy_bert(4).config
    other.vocab_size = 99
    with pytest.raises(ValueError, match="vocab_size is 61 in the student and 99 in the teacher"):
        check(config(), teacher=other)


def test_mapped_sites_that_a_model_lacks_are_refused():
    with pytest.raises(ValueError, match=r"mapping names teacher layer 6, but it has layers 0\.\.3"):
        check(config(mapping="middle_6"))
    with pytest.raises(ValueError, match=r"mapping names student layer 3, but it has layers 0\.\.2"):
        check(config(mapping=mapping((["$L:1"], ["$L:1", "$L:3"]))))
    with pytest.raises(ValueError, match="mapping names teacher head 11"):
        check(config(mapping=mapping((["$L:1$H:11$[0:4]"], ["$L:1"]))))
    check(config(mapping="middle_6", alpha_causal_ce=0.0, alpha_causal_cos=0.0))
