"""Methods on padded batches of transformers: the losses of the platform on the packed batch, and what they refuse."""

from functools import partial

import pytest
import torch

import raydistill as rd
from raydistill.config.named import MethodSpec, TaskSpec
from toys.classifiers import CLASSIFIERS, toy_labelled_batch
from toys.families import toy_gpt2
from toys.models import toy_batch, toy_bert, toy_distilbert
from toys.padded import moved_left, padded

SITES = {
    "interchange_variable_mappings": [
        {"teacher_variable_names": ["$L:1$H:[0:2]$[0:8]"], "student_variable_names": ["$L:0$H:[0:2]$[0:8]"]}
    ]
}
KINDS = {
    "bert_classes": "sequence_classification",
    "bert_scores": "sequence_classification",
    "gpt2_classes": "sequence_classification",
    "bert_tokens": "token_classification",
    "bert_spans": "question_answering",
}
CASES = {
    "finetune": ("bert_classes", {}, 0),
    "kd": ("bert_classes", {"alpha": 0.5, "temperature": 2.0}, 1),
    "kd of scores": ("bert_scores", {}, 1),
    "kd of decoders": ("gpt2_classes", {}, 1),
    "kd of tokens": ("bert_tokens", {}, 1),
    "kd of spans": ("bert_spans", {}, 1),
    "patient_kd": ("bert_classes", {"student_layers": [0], "teacher_layers": [1]}, 1),
    "causal_task": ("bert_classes", {}, 1),
    "muki": ("bert_classes", {}, 2),
    "muki of dropout": ("bert_classes", {"scores": "dropout", "teacher_dropout": 0.1}, 2),
    "vkd": ("bert_classes", {}, 2),
    "uhc": ("bert_classes", {}, 2),
    "dfa": ("bert_classes", {}, 2),
    "dfa with padding": ("bert_classes", {"mask_padding": False}, 2),
    "cfl": ("bert_classes", {}, 2),
    "dynamic_teacher": ("bert_classes", {}, 2),
    "dynamic_data": ("bert_classes", {"selection": "random"}, 1),
    "dynamic_objective": ("bert_classes", {}, 1),
}
CAUSAL = {
    "partners of the corpus": {},
    "partners in the batch": {"pairing": "in_batch"},
    "masked places": {"interchange_mode": "masked"},
    "crossway": {"crossway": True},
}
KEYS = {"seed": 3, "epoch": 0, "step": 0}


def models_of(make, num_teachers):
    return make(1), [make(depth, seed=depth) for depth in range(2, 2 + num_teachers)]


def platform(name, options, student, teachers, batch):
    """Loss, terms and gradients of a method as a job builds and calls it, on the packed batch."""
    spec = MethodSpec.parse({"name": name, **options})
    spec.check(student.config, [teacher.config for teacher in teachers])
    distiller = spec.build(student, teachers)
    prepared = spec.method.prepare_batch(spec.config, batch)
    return with_gradients(student, *distiller(prepared, distiller.denominators(prepared)))


def with_gradients(student, loss, terms):
    student.zero_grad()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    return loss.detach(), terms, gradients


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9, check_dtype=False)


def public(name):
    """The public class of a method's name."""
    return next(found for found in map(rd.__getattr__, rd.__all__) if getattr(found, "name", None) == name)


def of_padded(name, options, student, teachers, batch):
    built = public(name)(**options).build(student, teachers)
    return with_gradients(student, *built(built.prepare(batch, **KEYS)))


@pytest.mark.parametrize("case", CASES)
def test_losses_terms_and_gradients_are_those_of_a_job_on_the_packed_batch(case):
    kind, options, num_teachers = CASES[case]
    name = case.partition(" ")[0]
    batch = toy_labelled_batch(kind.partition("_")[2])
    student, teachers = models_of(CLASSIFIERS[kind], num_teachers)
    expected = platform(name, options, student, teachers, batch)
    assert_same(of_padded(name, options, student, teachers, padded(batch, KINDS[kind])), expected)
    assert expected[0].item() > 0


@pytest.mark.parametrize("case", CAUSAL)
@pytest.mark.parametrize("student_of", [toy_distilbert, toy_bert])
def test_causal_losses_of_masked_models_are_those_of_a_job(case, student_of):
    options, student, teachers = {"mapping": SITES, **CAUSAL[case]}, student_of(1), [toy_bert(2)]
    expected = platform("causal", options, student, teachers, toy_batch())
    assert_same(of_padded("causal", options, student, teachers, padded(toy_batch(), "masked_lm")), expected)


@pytest.mark.parametrize("name", ["causal", "finetune"])
def test_losses_of_decoders_are_those_of_a_job(name):
    options = {"alpha_mlm": 0.0, "alpha_clm": 0.5, "mapping": SITES} if name == "causal" else {}
    batch, student = toy_batch(), toy_gpt2(1)
    # Labels of a decoder name the token after the state that predicts them.
    task = TaskSpec.parse("clm")
    batch = task.task(task.config, None).prepare_batch(batch)
    teachers = [toy_gpt2(2)] if name == "causal" else []
    expected = platform(name, options, student, teachers, batch)
    assert_same(of_padded(name, options, student, teachers, padded(batch, "causal_lm")), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_side_of_the_padding_does_not_change_the_loss(kind):
    student, teachers = models_of(CLASSIFIERS[kind], 1)
    right = padded(toy_labelled_batch(kind.partition("_")[2]), KINDS[kind])
    left = moved_left(right)
    if kind == "bert_spans":
        moved = right["input_ids"].shape[1] - right["attention_mask"].sum(1)
        left |= {name: right[name] + moved for name in ("start_positions", "end_positions")}
    assert not torch.equal(left["attention_mask"], right["attention_mask"])
    assert_same(*(of_padded("kd", {}, student, teachers, batch) for batch in (left, right)))


def test_token_types_reach_the_models():
    student, teachers = models_of(CLASSIFIERS["bert_classes"], 1)
    batch = padded(toy_labelled_batch("classes"), "sequence_classification")
    types = batch["attention_mask"] * (torch.arange(batch["input_ids"].shape[1]) > 4)
    method = rd.KD().build(student, teachers)
    plain, zeros, typed = (
        method({**batch, **more})[0].item()
        for more in ({}, {"token_type_ids": torch.zeros_like(types)}, {"token_type_ids": types})
    )
    assert plain == zeros != typed
    with torch.no_grad():
        logits = student(**{name: batch[name] for name in ("input_ids", "attention_mask")}, token_type_ids=types).logits
    own = rd.Finetune().build(student)({**batch, "token_type_ids": types})[0]
    assert own.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, batch["labels"]).item(), abs=1e-9)


def test_denominators_of_several_batches_make_their_losses_add_up_to_that_of_all_rows():
    student, teachers = models_of(CLASSIFIERS["bert_tokens"], 1)
    method = rd.KD().build(student, teachers)
    parts = [padded(toy_labelled_batch("tokens", rows), "token_classification") for rows in ((0, 1), (2, 3, 4, 5))]
    whole = padded(toy_labelled_batch("tokens"), "token_classification")
    totals = method.denominators(whole)
    assert totals["kd"] == sum(method.denominators(part)["kd"] for part in parts)
    sums = sum(method(part, denominators=totals)[0] for part in parts)
    assert sums.item() == pytest.approx(method(whole)[0].item(), abs=1e-9)


def test_a_generator_repeats_the_draws_of_spans():
    method = rd.Causal(mapping=SITES, pairing="in_batch").build(toy_distilbert(1), [toy_bert(2)])
    batch = padded(toy_batch(), "masked_lm")
    losses = [method(batch, generator=torch.Generator().manual_seed(seed))[0].item() for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    torch.manual_seed(5)
    first = method.prepare(batch)["interchange_base"]
    torch.manual_seed(5)
    assert torch.equal(method.prepare(batch)["interchange_base"], first)


def test_stored_outputs_in_the_batch_stand_for_the_teacher():
    student, (teacher,) = models_of(CLASSIFIERS["bert_classes"], 1)
    batch = padded(toy_labelled_batch("classes"), "sequence_classification")
    live = rd.KD().build(student, [teacher])(batch)
    with torch.no_grad():
        logits = teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    stored = rd.KD().build(student)({**batch, "teacher_0_logits": logits})
    assert_same(stored, live)


def test_teachers_follow_the_module_and_never_learn():
    student, teachers = models_of(CLASSIFIERS["bert_classes"], 1)
    method = rd.KD().build(student.eval(), teachers).to(torch.float32)
    assert student.training
    assert {parameter.dtype for parameter in teachers[0].parameters()} == {torch.float32}
    method(padded(toy_labelled_batch("classes"), "sequence_classification"))[0].backward()
    assert {id(parameter) for parameter in method.parameters()} == {id(parameter) for parameter in student.parameters()}
    assert all(parameter.grad is None for parameter in teachers[0].parameters())
    assert not teachers[0].train(False).training
    method.train()
    assert not teachers[0].training


@pytest.mark.parametrize(
    ("name", "make", "options", "number", "batch"),
    [
        ("kd", CLASSIFIERS["bert_classes"], {}, 1, padded(toy_labelled_batch("classes"), "sequence_classification")),
        ("dfa", CLASSIFIERS["bert_classes"], {}, 2, padded(toy_labelled_batch("classes"), "sequence_classification")),
        ("causal", toy_bert, {"mapping": SITES}, 1, padded(toy_batch(), "masked_lm")),
    ],
)
def test_mixed_precision_stays_near_full_precision(name, make, options, number, batch):
    student, teachers = models_of(partial(make, dtype=torch.float32), number)
    full = of_padded(name, options, student, teachers, batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = of_padded(name, options, student, teachers, batch)
    assert mixed[0].dtype == torch.float32
    assert mixed[0].item() != full[0].item()
    assert mixed[0].item() == pytest.approx(full[0].item(), rel=0.05)


def plain_batch(**changes):
    batch = padded(toy_labelled_batch("classes"), "sequence_classification")
    return {name: column for name, column in {**batch, **changes}.items() if column is not None}


@pytest.mark.parametrize(
    ("method", "changes", "says"),
    [
        (rd.KD(), {"labels": None}, "method kd with these options reads labels, which the batch lacks; add them"),
        (rd.KD(), {"input_ids": None}, "the batch has no input_ids"),
        (rd.KD(), {"inputs_embeds": torch.zeros(1)}, "the batch has inputs_embeds, which methods do not read"),
        (rd.KD(), {"labels": torch.zeros(6)}, "labels are numbers with a fraction, but the student has classes"),
        (rd.KD(), {"labels": torch.zeros(4)}, r"labels has shape \(4,\); it must have one class or score for each row"),
        (rd.KD(), {"row_id": torch.arange(5)}, "row_id is of 5 rows, input_ids of 6; give one for each row"),
        (rd.KD(), {"attention_mask": torch.zeros(6, 17)}, "row 0 of input_ids has no token; leave it out"),
        (rd.KD(), {"attention_mask": torch.ones(6, 3)}, r"attention_mask has shape \(6, 3\), input_ids \(6, 17\)"),
    ],
)
def test_a_batch_that_lacks_something_is_refused_in_one_line(method, changes, says):
    built = method.build(*models_of(CLASSIFIERS["bert_classes"], 1))
    with pytest.raises(ValueError, match=says) as error:
        built(plain_batch(**changes))
    assert len(str(error.value).splitlines()) == 1


def test_methods_that_couple_rows_or_need_partners_say_what_they_need():
    models = toy_distilbert(1), [toy_bert(2)]
    batch = {name: column for name, column in padded(toy_batch(), "masked_lm").items() if "partner" not in name}
    with pytest.raises(ValueError, match="needs a partner of each row; give partner_input_ids and partner_attention"):
        rd.Causal(mapping=SITES).build(*models)(batch)
    with pytest.raises(ValueError, match="needs 2 rows in a batch, this one has 1; make it larger"):
        rd.Causal(mapping=SITES, pairing="in_batch").build(*models)({name: of[:1] for name, of in batch.items()})
    with pytest.raises(ValueError, match="there is no teacher to run; give build one, or teacher_0_logits in each"):
        rd.KD().build(CLASSIFIERS["bert_classes"](1))(plain_batch())


def in_half(depth):
    return CLASSIFIERS["bert_classes"](depth, dtype=torch.bfloat16)


def other_classes():
    return CLASSIFIERS["bert_classes"](2, labels=("blue", "green", "red"))


@pytest.mark.parametrize(
    ("method", "student", "teachers", "says"),
    [
        (rd.KD(), CLASSIFIERS["bert_classes"], [CLASSIFIERS["bert_classes"]] * 2, "teachers has 2; method kd with"),
        (rd.Muki(), CLASSIFIERS["bert_classes"], [CLASSIFIERS["bert_classes"]], "compares two teachers"),
        (rd.DynamicObjective(), CLASSIFIERS["bert_classes"], [], "teachers has 0; method dynamic_objective"),
        (rd.DynamicData(), toy_bert, [toy_bert], "the student has a masked_lm head; method dynamic_data with these"),
        (rd.Causal(mapping=SITES), CLASSIFIERS["bert_classes"], [toy_bert], "works with masked_lm, causal_lm"),
        (rd.KD(), CLASSIFIERS["bert_classes"], [CLASSIFIERS["bert_tokens"]], "teachers.0 has a token_classification"),
        (rd.KD(), CLASSIFIERS["bert_classes"], [lambda depth: other_classes()], "same id2label in the same order"),
        (rd.DFA(), CLASSIFIERS["bert_classes"], [in_half], "teachers.0 is torch.bfloat16, the student torch.float64"),
    ],
)
def test_models_that_do_not_fit_are_refused_before_a_batch(method, student, teachers, says):
    with pytest.raises(ValueError, match=says) as error:
        method.build(student(1), [teacher(2) for teacher in teachers])
    assert len(str(error.value).splitlines()) == 1


def test_a_teacher_in_half_precision_teaches_classes():
    student = CLASSIFIERS["bert_classes"](1, dtype=torch.float32)
    full, half = (
        rd.KD().build(student, [CLASSIFIERS["bert_classes"](2, dtype=dtype)])(plain_batch())[0].item()
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half == pytest.approx(full, rel=0.05)
    assert half != full
