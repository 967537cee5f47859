"""What a training's models are told and refused, from configurations alone."""

from types import SimpleNamespace

import pytest
from transformers import BertConfig, GPT2Config, RobertaConfig, T5Config

from raydistill.config.named import MethodSpec
from raydistill.config.sections import ScalingConfig, StudentConfig
from raydistill.config.training import TrainingConfig
from raydistill.stages import _loop, _models, _student, _training_plan
from raydistill.stages._base import CorpusFacts


def lines(num_blocks: int, **student) -> list[str]:
    return _student._layer_lines(StudentConfig(**student), [BertConfig(num_hidden_layers=num_blocks)])


@pytest.mark.parametrize(("num_layers", "named"), [(2, "0, 2"), (3, "0, 2, 4"), (4, "0, 2, 4, 7")])
def test_a_published_list_that_is_not_spread_over_the_teacher_is_pointed_out(num_layers, named):
    [line] = lines(12, num_layers=num_layers)
    assert f"teacher blocks {named} of 12, not spread" in line


@pytest.mark.parametrize("num_layers", [1, 5, 6, 8, 9])
def test_a_published_list_that_is_spread_over_the_teacher_is_not_pointed_out(num_layers):
    assert lines(12, num_layers=num_layers) == []


def test_six_published_blocks_are_spread_over_12_blocks_and_not_over_24():
    assert "0, 2, 4, 7, 9, 11 of 24" in lines(24, num_layers=6)[0]


def test_layers_that_the_user_chose_and_fresh_students_are_not_pointed_out():
    assert lines(12, layers=[0, 2, 4]) == []
    assert lines(12, num_layers=3, init="random") == []


def test_the_positions_that_a_robertas_rows_cannot_use_are_not_counted():
    corpus = CorpusFacts("mlm", 50, 513)
    student = RobertaConfig(vocab_size=60, max_position_embeddings=514)
    with pytest.raises(ValueError, match=r"student has 512 positions, .*encoding\.max_length=512"):
        _models.check_size("student", student, corpus)


def test_a_gpt2s_positions_are_found_under_their_own_name():
    corpus = CorpusFacts("mlm", 50, 513)
    _models.check_size("student", GPT2Config(vocab_size=60, n_positions=513), corpus)
    with pytest.raises(ValueError, match=r"teachers\.0 has 512 positions"):
        _models.check_size("teachers.0", GPT2Config(vocab_size=60, n_positions=512), corpus)


@pytest.mark.parametrize(("pairing", "is_refused"), [("in_batch", True), ("corpus", False)])
def test_rows_that_are_each_others_partners_need_two_to_a_micro_batch(pairing, is_refused):
    method = MethodSpec.parse({"name": "causal", "mapping": "middle_6", "pairing": pairing})
    training = TrainingConfig(batch_size=7, micro_batch_size=2)
    config = SimpleNamespace(method=method, training=training)
    corpus = SimpleNamespace(rows=700)
    if not is_refused:
        _loop.check_batches(config, ScalingConfig(num_workers=1), corpus)
        return
    with pytest.raises(ValueError, match=r"has 4 micro-batches, and some steps only 7 rows, at least 2 for each with"):
        _loop.check_batches(config, ScalingConfig(num_workers=1), corpus)


@pytest.mark.parametrize(
    ("fewest", "refused"),
    [
        (None, None),
        (4, None),
        # Batches have 5 rows: a micro-batch each for 4 or 5 workers, but 3 workers have 2 micro-batches each.
        (3, "with 3 workers an optimizer step has 6 micro-batches, and some steps only 5 rows"),
    ],
)
def test_a_batch_has_to_be_divisible_among_every_number_of_workers(fewest, refused):
    method = MethodSpec.parse("finetune")
    config = SimpleNamespace(method=method, training=TrainingConfig(batch_size=7, micro_batch_size=2))
    scaling = ScalingConfig(num_workers=5, min_workers=fewest)
    if refused is None:
        _loop.check_batches(config, scaling, SimpleNamespace(rows=10))
        return
    with pytest.raises(ValueError, match=refused):
        _loop.check_batches(config, scaling, SimpleNamespace(rows=10))


def test_a_model_of_which_a_method_cannot_have_what_it_needs_is_refused_by_name():
    t5 = T5Config(num_layers=2, d_model=8, d_kv=4, d_ff=8, num_heads=2, decoder_start_token_id=0)
    specs = MethodSpec.parse
    task = SimpleNamespace(head="sequence_classification")
    teachers = [SimpleNamespace(config=t5)]
    patient = specs({"name": "patient_kd", "student_layers": [0], "teacher_layers": [1]})
    with pytest.raises(ValueError, match=r"teachers\.0 is a t5, of which method patient_kd .* cannot have pooled, the"):
        _training_plan._check_needs(
            SimpleNamespace(method=patient, task=task, student=StudentConfig(layers=[0])), BertConfig(), teachers
        )
    _training_plan._check_needs(
        SimpleNamespace(method=specs({"name": "kd"}), task=task, student=StudentConfig(layers=[0])),
        BertConfig(),
        teachers,
    )
