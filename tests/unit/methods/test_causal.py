import pytest
import torch

from raydistill.batch import labels_first
from raydistill.methods.causal import Config, Method
from reference.comparison import ALPHAS, config, make_batch, mapping, models, of_package, weights
from toys.families import toy_gpt2, toy_llama
from toys.models import toy_batch, toy_bert, toy_distilbert


def test_defaults_are_the_published_ones():
    published = {"ce": 0.25, "mlm": 0.25, "clm": 0.0, "mse": 0.0, "cos": 0.25, "causal_ce": 0.25, "causal_cos": 0.0}
    settings = Config(mapping="middle_6")
    assert settings.alphas == published
    assert (settings.temperature, settings.interchange_proportion, settings.max_tokens) == (2.0, 0.3, None)
    assert (settings.kd_positions, settings.site_offset, settings.interchange_mode) == ("all", 0, "consecutive")
    assert (settings.pairing, settings.data_augment, settings.crossway) == ("corpus", False, False)
    assert not settings.share_student_prefix


def test_gradient_reaches_the_student_through_its_source_pass():
    student, teacher = toy_distilbert(3), toy_bert(4)
    settings = config(**weights(causal_ce=1.0))
    batch = make_batch(settings)
    only_in_source = sorted(set(batch["partner_input_ids"].tolist()[0]) - set(batch["input_ids"].flatten().tolist()))
    assert only_in_source
    # Apart from the embeddings the head's weight would have a gradient for every token.
    student.vocab_projector.weight = torch.nn.Parameter(student.vocab_projector.weight.detach().clone())
    gradients = of_package(settings, student, teacher, batch).gradients
    assert gradients["distilbert.embeddings.word_embeddings.weight"][only_in_source].abs().max() > 1e-6


def test_a_subset_of_terms_has_the_values_it_has_among_all():
    every = of_package(config(), *models(), make_batch(config())).terms
    assert every.keys() == ALPHAS.keys()
    for names in (("mlm",), ("mlm", "cos"), ("ce", "causal_cos"), ("mse", "mlm"), ("causal_ce",)):
        settings = config(**weights(**dict.fromkeys(names, 0.5)))
        found = of_package(settings, *models(), make_batch(settings))
        assert set(found.terms) == set(names)
        assert all(abs(found.terms[name] - every[name]) < 1e-12 for name in names)
        assert abs(found.loss - sum(0.5 * every[name] for name in names)) < 1e-12


def test_labels_first_puts_labelled_tokens_before_the_others_and_keeps_all():
    batch = toy_batch()
    index = labels_first(batch)
    assert index[: batch["labels"].shape[0]].tolist() == batch["label_index"].tolist()
    assert sorted(index.tolist()) == batch["token_index"].tolist()


def test_without_interchanged_positions_the_counterfactual_pass_is_the_base_pass():
    settings = config(interchange_proportion=0.01)
    terms = of_package(settings, *models(), make_batch(settings)).terms
    assert abs(terms["causal_ce"] - terms["ce"]) < 1e-12
    assert abs(terms["causal_cos"] - terms["cos"]) < 1e-12


def test_partners_of_the_corpus_are_asked_for_where_they_are_read():
    assert Method.requirements(config()).partners
    assert Method.requirements(config(data_augment=True, mapping=None)).partners
    assert not Method.requirements(config(pairing="in_batch")).partners
    assert not Method.requirements(config(alpha_causal_ce=0.0, alpha_causal_cos=0.0)).partners
    assert Method.requirements(config()).execution.partner_width == "bucket"
    assert Method.requirements(config(partner_width="batch")).execution.partner_width == "batch"


def test_crossway_counts_both_directions_and_keeps_the_terms_names():
    settings = config(crossway=True, kd_positions="masked")
    student, teacher = models()
    batch = make_batch(settings)
    method = Method(settings, student, [teacher])
    denominators = method.denominators(batch)
    assert denominators.keys() == ALPHAS.keys() | {f"crossway_{name}" for name in ALPHAS}
    assert denominators["mlm"] == denominators["ce"] == batch["labels"].shape[0]
    assert denominators["crossway_mlm"] == denominators["crossway_ce"] == batch["partner_labels"].shape[0]
    assert denominators["cos"] == batch["token_index"].shape[0]
    assert denominators["crossway_cos"] == batch["partner_token_index"].shape[0]
    assert of_package(settings, student, teacher, batch).terms.keys() == ALPHAS.keys()


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
        ({"alpha_clm": 0.1}, "alpha_mlm and alpha_clm are positive; set alpha_clm to 0, or alpha_mlm for decoders"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"interchange_proportion": 1.5}, "interchange_proportion is 1.5"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"site_offset": 2}, "site_offset is 2; choices: 0, 1"),
        ({"site_draw": "epoch"}, "site_draw is 'epoch'; choices: step, micro_batch"),
        ({"kd_positions": "labels"}, "kd_positions is 'labels'; choices: all, masked"),
        ({"interchange_mode": "span"}, "interchange_mode is 'span'; choices: consecutive, "),
        ({"positions": "all"}, "positions is 'all'; choices: valid, padded"),
        ({"pairing": "batch"}, "pairing is 'batch'; choices: corpus, in_batch"),
        ({"partner_width": "row"}, "partner_width is 'row'; choices: bucket, batch"),
        (
            {"crossway": True, "alpha_causal_ce": 0.0, "alpha_causal_cos": 0.0},
            "crossway is true, but no causal weight is positive; set it to false",
        ),
        ({"temperature": float("inf")}, "temperature is inf"),
        (
            {"data_augment": True, "share_student_prefix": True},
            "share_student_prefix is true, but with data_augment the passes share no prefix; set it to false",
        ),
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
    check(config(mapping=mapping((["$L:[0:3]$H:[0:2]$[1:7]"], ["$L:[1:3]$H:0$[4:8]"]))))


def test_another_width_is_refused_only_where_a_cosine_compares_it():
    wide = toy_bert(4, hidden_size=24).config
    message = "hidden_size is 16 in the student and 24 in the teacher; set method.alpha_causal_cos to 0"
    with pytest.raises(ValueError, match=message):
        check(config(), teacher=wide)
    check(config(alpha_cos=0.0, alpha_causal_cos=0.0), teacher=wide)


def test_mapped_sites_that_a_model_lacks_are_refused():
    with pytest.raises(ValueError, match=r"mapping names teacher layer 6, but it has layers 0\.\.3"):
        check(config(mapping="middle_6"))
    with pytest.raises(ValueError, match=r"mapping names student layer 3, but it has layers 0\.\.2"):
        check(config(mapping=mapping((["$L:1"], ["$L:1", "$L:3"]))))
    with pytest.raises(ValueError, match="mapping names teacher head 11"):
        check(config(mapping=mapping((["$L:1$H:11$[0:4]"], ["$L:1"]))))
    check(config(mapping="middle_6", alpha_causal_ce=0.0, alpha_causal_cos=0.0))


def test_the_label_term_must_fit_the_models_head():
    decoders = toy_gpt2(3).config, toy_gpt2(4).config
    with pytest.raises(
        ValueError, match=r"alpha_mlm is 0\.3, but gpt2 is a causal_lm model; set it to 0 and method\.alpha_clm"
    ):
        check(config(), *decoders)
    check(config("gpt2"), *decoders)
    with pytest.raises(ValueError, match=r"alpha_clm is 0\.3, but distilbert is a masked_lm model"):
        check(config("gpt2"))


def test_teacher_and_student_must_have_one_kind_of_head():
    with pytest.raises(ValueError, match="the student is a causal_lm model and the teacher a masked_lm model"):
        check(config(), student=toy_llama(3).config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interchange_mode": "masked"}, "interchange_mode is 'masked', but llama masks no token"),
        ({"interchange_mode": "random", "positions": "padded"}, "positions is 'padded', which only masked models take"),
    ],
)
def test_options_that_only_masked_models_have_are_refused_for_decoders(options, message):
    with pytest.raises(ValueError, match=message):
        check(config("llama", **options), toy_llama(3).config, toy_llama(4).config)
    check(config(**options))
