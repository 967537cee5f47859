"""Models of one tokenizer whose heads are padded to different sizes, against the same models with trimmed heads."""

import copy

import numpy as np
import pytest
import torch

import raydistill as rd
from raydistill.config.sections import ScalingConfig
from raydistill.data.corpus import Corpus
from raydistill.data.teacher_inference import TeacherOutputs
from raydistill.losses.divergences import NAMES
from raydistill.methods import causal, kd
from raydistill.models.load import load_model, save_model
from raydistill.models.vocabulary import limit_ids
from raydistill.tasks import clm
from raydistill.tasks._base import Encoding
from raydistill.training import assembly
from toys.capture import capture_stage, context_of, run_of, train_stage, write_texts
from toys.families import toy_gpt2, toy_llama, toy_qwen2
from toys.models import VOCABULARY, parameter_gradients, toy_batch, toy_bert, toy_distilbert
from toys.words import make_tokenizer
from toys.zoo import toy

PAIRS = {
    "tied": (toy_gpt2, toy_qwen2),
    "its own head": (toy_llama, toy_llama),
    "a bias": (toy_bert, toy_distilbert),
}
SIZES = (72, 64)
"""Rows of the teacher's and of the student's head."""


def padded(model, size):
    """A copy with rows beyond the tokenizer's, large enough to be the likeliest of all."""
    made = copy.deepcopy(model)
    made.resize_token_embeddings(size)
    with torch.no_grad():
        head = made.get_output_embeddings()
        for tensor in (made.get_input_embeddings().weight, head.weight, *([] if head.bias is None else [head.bias])):
            tensor[VOCABULARY:] = 3 * torch.randn(tensor[VOCABULARY:].shape, dtype=tensor.dtype)
    return made


def models_of(pair):
    """Trimmed and padded teacher and student; losses of the padded ones are limited."""
    torch.manual_seed(0)
    trimmed = [make(3 - number) for number, make in enumerate(PAIRS[pair])]
    large = [padded(model, size) for model, size in zip(trimmed, SIZES, strict=True)]
    for model in large:
        limit_ids(model, VOCABULARY)
    return trimmed, large


def batch_of(pair):
    batch = toy_batch()
    if pair == "a bias":
        return batch
    return clm.Task(clm.Config(), Encoding(VOCABULARY, {}, (), 40)).prepare_batch(batch)


def compare(method, config, pair, batch):
    """Loss, terms and gradients of padded models are those of trimmed ones, and padding has no gradient."""
    (teacher, student), (large_teacher, large_student) = models_of(pair)
    expected, expected_terms = method(config, student, [teacher])(batch)
    found, terms = method(config, large_student, [large_teacher])(batch)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    assert terms.keys() == expected_terms.keys()
    for name, value in terms.items():
        assert value.item() == pytest.approx(expected_terms[name].item(), rel=1e-12)
    gradients = parameter_gradients(expected, student)
    for name, gradient in parameter_gradients(found, large_student).items():
        rows = gradients[name].shape[0]
        torch.testing.assert_close(gradient[:rows], gradients[name], rtol=1e-9, atol=1e-14)
        assert not gradient[rows:].any()


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("divergence", [*NAMES, "mse"])
def test_padded_heads_have_the_losses_and_gradients_of_trimmed_ones(pair, divergence):
    config = kd.Config(divergence=divergence, temperature=2.0, alpha=0.6)
    compare(kd.Method, config, pair, batch_of(pair))


@pytest.mark.parametrize("pair", PAIRS)
def test_so_have_those_of_causal_distillation(pair):
    options = {"alpha_ce": 0.3, "alpha_mse": 0.2, "alpha_cos": 0.1, "alpha_causal_ce": 0, "temperature": 2.0}
    labels = "alpha_mlm" if pair == "a bias" else "alpha_clm"
    config = causal.Config(**{"alpha_mlm": 0, labels: 0.4, **options})
    compare(causal.Method, config, pair, batch_of(pair))


def test_without_the_limit_padding_counts():
    (teacher, student), (large_teacher, large_student) = models_of("tied")
    batch = batch_of("tied")
    for model in (large_teacher, large_student):
        # Of the teacher's rows eight are left out still: heads of other sizes could not be compared.
        limit_ids(model, SIZES[1])
    expected, _ = kd.Method(kd.Config(), student, [teacher])(batch)
    found, _ = kd.Method(kd.Config(), large_student, [large_teacher])(batch)
    assert abs(found.item() - expected.item()) > 0.1


def test_a_model_that_runs_whole_is_limited_too():
    torch.manual_seed(0)
    student, teacher = toy("bloom"), toy("bloom")
    batch = batch_of("tied")
    expected, _ = kd.Method(kd.Config(), student, [teacher])(batch)
    large = [padded(model, size) for model, size in zip((student, teacher), SIZES, strict=True)]
    for model in large:
        limit_ids(model, VOCABULARY)
    assert kd.Method(kd.Config(), large[0], large[1:])(batch)[0].item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus, and the same teacher with a trimmed and with a padded head."""
    found = tmp_path_factory.mktemp("padded")
    write_texts(found, toy_gpt2, "clm")
    trimmed = load_model(found / "teacher", head="causal_lm")
    save_model(padded(trimmed, SIZES[0]), make_tokenizer(), found / "padded")
    save_model(padded(trimmed, SIZES[1]), make_tokenizer(), found / "student")
    return found


def likeliest(folder, teacher, output):
    stage = capture_stage(folder, teachers=[str(folder / teacher)], task="clm", outputs=["top_k"], top_k=8)
    return TeacherOutputs(run_of(stage, 0, context_of(stage, output))).of(0, np.arange(10))


def test_stored_likeliest_ids_are_the_tokenizers_and_so_is_the_mass_of_the_rest(folder, tmp_path):
    expected, found = (likeliest(folder, name, tmp_path / name) for name in ("teacher", "padded"))
    for name, rows in expected.items():
        for row, other in zip(rows, found[name], strict=True):
            assert np.array_equal(row, other), name


def test_more_ids_than_the_tokenizer_has_are_not_stored(folder):
    stage = capture_stage(folder, teachers=[str(folder / "padded")], task="clm", outputs=["top_k"], top_k=70)
    with pytest.raises(ValueError, match=r"top_k is 70, but teachers\.0 has 61 token ids"):
        stage.plan(ScalingConfig(), {})


def stage_of(folder, *, teacher="padded", student="student"):
    start = {"init": "checkpoint", "checkpoint": str(folder / student)}
    return train_stage(folder, task="clm", method="kd", teachers=[str(folder / teacher)], student=start)


def test_a_training_takes_heads_of_other_sizes_and_limits_both_to_the_corpus(folder, tmp_path, monkeypatch):
    assert Corpus.open(folder / "corpus" / "train").encoding.vocab_size == VOCABULARY
    stage = stage_of(folder)
    stage.plan(ScalingConfig(), {})
    built = []
    monkeypatch.setattr(assembly, "Engine", lambda distiller, config, optimizer, exact: built.append(distiller))
    monkeypatch.setattr("raydistill.stages.train.train", lambda spec, *_, **__: assembly_of(spec))

    def assembly_of(spec):
        assembly.build_engine(spec, num_workers=1, device=torch.device("cpu"))
        raise StopIteration

    with pytest.raises(StopIteration):
        stage.run(context_of(stage, tmp_path / "run"))
    batch = batch_of("tied")
    loss, _ = built[0].double()(batch)
    trimmed = [load_model(folder / "teacher", head="causal_lm", dtype=torch.float64) for _ in range(2)]
    expected, _ = kd.Method(kd.Config(), trimmed[0].train(), trimmed[1:])(batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_another_size_without_a_tokenizer_is_refused(folder, tmp_path):
    load_model(folder / "padded", head="causal_lm").save_pretrained(tmp_path / "bare")
    stage = stage_of(folder, teacher=tmp_path / "bare")
    with pytest.raises(
        ValueError, match=r"vocab_size is 64 in the student and 72 in teachers\.0, and one of them has no"
    ):
        stage.plan(ScalingConfig(), {})


def test_another_tokenizer_of_whatever_size_stays_refused(folder, tmp_path):
    other = make_tokenizer()
    other.add_tokens(["more"])
    save_model(load_model(folder / "padded", head="causal_lm"), other, tmp_path / "other")
    with pytest.raises(ValueError, match="has a different tokenizer from the corpus"):
        stage_of(folder, teacher=tmp_path / "other").plan(ScalingConfig(), {})


def test_without_a_job_other_sizes_are_refused_in_one_line():
    (_, student), (teacher, _) = models_of("tied")
    with pytest.raises(ValueError, match="vocab_size is 61 in the student and 72 in teachers"):
        rd.KD().build(student, [teacher])
