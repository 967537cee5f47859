import copy
import dataclasses
from functools import cache

import pytest
import torch

from raydistill.interventions.positions import in_batch_partners
from raydistill.interventions.sites import draw
from raydistill.methods.causal_task import Config, Method
from raydistill.models.layer_plan import make_plan, set_plan
from reference import six_pass_task
from toys.classifiers import CLASSES, CLASSIFIERS, toy_labelled_batch
from toys.models import LENGTHS, parameter_gradients
from toys.representatives import few_of

TEACHER_BLOCKS, STUDENT_BLOCKS = 6, 3
ONE_SITE = {
    "interchange_variable_mappings": [{"teacher_variable_names": ["$L:[1:3]"], "student_variable_names": ["$L:1"]}]
}


@cache
def models(*, dropout=0.0, family="bert_classes"):
    """Student and teacher, the same objects for equal arguments, so change none of them."""
    make = CLASSIFIERS[family]
    return make(STUDENT_BLOCKS, seed=1, dropout=dropout), make(TEACHER_BLOCKS, seed=10)


def make_batch(settings, *, kind="classes", pairs=True, rows=range(6), step=0):
    batch = toy_labelled_batch(kind, rows=rows, step=step)
    if pairs:
        position = batch["token_index"] % batch["input_ids"].shape[1]
        batch = batch.with_columns(token_types=(position >= 5).long())
    return Method.prepare_batch(settings, batch)


def of_package(settings, student, teacher, batch):
    method = Method(settings, student, [teacher])
    loss, terms = method(batch, method.denominators(batch))
    return loss, terms, parameter_gradients(loss, student)


def dense(batch, index):
    flags = torch.zeros(batch["input_ids"].numel(), dtype=torch.bool)
    flags[index] = True
    return flags.view(batch["input_ids"].shape)


def reference_rows(settings, batch):
    """Base and source of the reference, whose positions are as the package drew them."""
    none = torch.zeros(0, dtype=torch.int64)
    base_index, partner_index = (batch.get(f"interchange_{side}") for side in ("base", "partner"))
    segments = torch.zeros(batch["input_ids"].numel(), dtype=torch.int64)
    if "token_types" in batch:
        segments[batch["token_index"]] = batch["token_types"]
    base = six_pass_task.Rows(
        ids=batch["input_ids"],
        mask=batch["attention_mask"],
        segments=segments.view(batch["input_ids"].shape),
        positions=dense(batch, none if base_index is None else base_index),
        labels=batch["labels"],
    )
    order = torch.from_numpy(in_batch_partners(batch["row_id"].numpy(), seed=batch.seed, epoch=batch.epoch))
    source = base.permuted(order, dense(batch, none if partner_index is None else partner_index)[order])
    return base, source


def of_reference(settings, student, teacher, batch, **controls):
    step = draw(Method(settings, student, [teacher]).mapping, batch.seed, batch.step) if settings.swaps_states else ()
    blocks = tuple([site.layer for site in variable] for variable in step)
    mode = "pair" if settings.data_pair else "augment" if settings.data_augment else "diito"
    setting = six_pass_task.Setting(
        alpha=settings.alpha,
        gamma=settings.gamma,
        beta=settings.beta,
        temperature=settings.temperature,
        per_class=settings.reduction == "mean",
        read_depth=settings.site_offset,
        compared=(settings.patience_layers or (1, 3), range(STUDENT_BLOCKS - 1)),
        normalizes=settings.normalize_patience,
        mode=mode,
    )
    setting = dataclasses.replace(setting, **controls)
    base, source = reference_rows(settings, batch)
    loss, terms = six_pass_task.causal_task_loss(student, teacher, base, source, blocks, setting)
    return loss, terms, parameter_gradients(loss, student)


def differences(found, expected):
    """Largest difference of loss and terms, and of any entry of any gradient."""
    assert found[1].keys() == expected[1].keys()
    assert found[2].keys() == expected[2].keys()
    of_terms = max(abs(found[1][name].item() - expected[1][name].item()) for name in found[1])
    of_gradients = max((found[2][name] - expected[2][name]).abs().max().item() for name in found[2])
    return max(of_terms, abs(found[0].item() - expected[0].item())), of_gradients


STRONG = {"alpha": 0.6, "temperature": 2.0}
PATIENT = {"beta": 0.3, **STRONG}
STEPS = (0, 2)
"""Steps that draw different blocks."""

CASES = {
    "published": {},
    "strong": STRONG,
    "consecutive": {"interchange_mode": "consecutive", "interchange_proportion": 0.5, **STRONG},
    "max_tokens": {"max_tokens": 2, "reduction": "batchmean", **STRONG},
    "one_site": {"mapping": ONE_SITE, "gamma": 0.4, **STRONG},
    "site_offset_0": {"site_offset": 0, **STRONG},
    "patience": PATIENT,
    "patience_normalized": {**PATIENT, "normalize_patience": True, "patience_layers": (0, 4)},
    "data_augment": {"data_augment": True, **PATIENT},
    "data_pair": {"data_pair": True, **PATIENT},
    "alpha_0": {"alpha": 0.0, "temperature": 2.0},
    "alpha_1": {"alpha": 1.0, "temperature": 2.0},
    "gamma_0": {**PATIENT, "gamma": 0.0},
    "shared": {"share_student_prefix": True, **PATIENT},
}


IN_STEPS = {f"{case}-{step}": (case, step) for step in STEPS for case in CASES}


@pytest.mark.parametrize("case_in_step", few_of(IN_STEPS))
def test_loss_terms_and_every_gradient_are_those_of_six_whole_passes(case_in_step):
    case, step = IN_STEPS[case_in_step]
    settings = Config(**CASES[case])
    student, teacher = models()
    batch = make_batch(settings, step=step)
    found = of_package(settings, student, teacher, batch)
    expected = of_reference(settings, student, teacher, batch)
    if not settings.alpha:
        expected[1].pop("kd", None)
    of_terms, of_gradients = differences(found, expected)
    assert of_terms < 1e-9
    assert of_gradients < 1e-9
    assert max(gradient.abs().max() for gradient in found[2].values()) > 1e-3


def test_a_group_of_the_full_mapping_is_drawn_for_each_step():
    student, teacher = models()
    mapping = Method(Config(), student, [teacher]).mapping
    drawn = [draw(mapping, 3, step)[1][0].layer for step in range(300)]
    assert drawn[STEPS[0]] != drawn[STEPS[1]]
    # Each is drawn 100 times, with a standard deviation of 8.2.
    assert all(67 <= drawn.count(layer) <= 133 for layer in range(3))


@pytest.mark.parametrize("controls", [{"read_depth": 2}, {"read_depth": 0}, {"write_shift": 1}])
def test_a_site_one_block_off_gives_other_gradients(controls):
    settings = Config(mapping=ONE_SITE, **STRONG)
    student, teacher = models()
    batch = make_batch(settings)
    found = of_package(settings, student, teacher, batch)
    _, of_gradients = differences(found, of_reference(settings, student, teacher, batch, **controls))
    assert of_gradients > 1e-4


def test_token_types_reach_every_pass():
    settings = Config(mapping=ONE_SITE, **STRONG)
    student, teacher = models()
    batches = [make_batch(settings, pairs=pairs) for pairs in (True, False)]
    with_types, without = (of_package(settings, student, teacher, batch) for batch in batches)
    assert abs(with_types[1]["causal_kd"] - without[1]["causal_kd"]) > 1e-4
    assert max(differences(without, of_reference(settings, student, teacher, batches[1]))) < 1e-9


def test_gradient_reaches_the_student_through_its_source_pass():
    settings = Config(alpha=1.0, mapping=ONE_SITE, temperature=2.0)
    student, teacher = models()
    batch = make_batch(settings)
    gradients = []
    for blocked in (False, True):
        original = six_pass_task.under_intervention
        with pytest.MonkeyPatch.context() as patch:
            if blocked:
                patch.setattr(six_pass_task, "under_intervention", _without_source_gradient(original))
            gradients.append(of_reference(settings, student, teacher, batch)[2])
    found = of_package(settings, student, teacher, batch)[2]
    name = "bert.encoder.layer.0.output.dense.weight"
    assert (found[name] - gradients[0][name]).abs().max() < 1e-9
    assert (found[name] - gradients[1][name]).abs().max() > 1e-4


def _without_source_gradient(original):
    def under(model, base, source, *where):
        run = six_pass_task.run
        with pytest.MonkeyPatch.context() as patch:

            def of_source_detached(model, rows, writes):
                found = run(model, rows, writes)
                if writes:
                    return found
                return six_pass_task.Outputs(found.logits, tuple(states.detach() for states in found.hidden_states))

            patch.setattr(six_pass_task, "run", of_source_detached)
            return original(model, base, source, *where)

    return under


@pytest.mark.parametrize("family", ["bert_scores", "distilbert_classes", "roberta_classes", "gpt2_classes"])
def test_without_a_position_the_counterfactual_pass_says_what_the_base_pass_says(family):
    settings = Config(interchange_proportion=0.01, **PATIENT)
    student, teacher = models(family=family)
    kind = "scores" if family == "bert_scores" else "classes"
    _, terms, _ = of_package(settings, student, teacher, make_batch(settings, kind=kind, pairs=False))
    assert abs(terms["causal_kd"] - terms["kd"]) < 1e-12
    assert abs(terms["causal_pkd"] - terms["pkd"]) < 1e-12
    assert ("causal_agreement" in terms) is (kind == "classes")


def test_agreement_is_the_share_of_rows_with_the_teachers_class_and_enters_no_loss():
    settings = Config(**STRONG)
    student, teacher = models()
    values = set()
    for step in range(6):
        batch = make_batch(settings, step=step)
        loss, terms, _ = of_package(settings, student, teacher, batch)
        weighted = 0.4 * terms["ce"] + 0.6 * terms["kd"] + terms["causal_kd"]
        assert abs(loss - weighted) < 1e-12
        values.add(round(6 * terms["causal_agreement"].item(), 9))
    assert values <= set(range(7))
    assert len(values) > 1 or values & {1, 2, 3, 4, 5}
    same = Method(settings, copy.deepcopy(teacher), [teacher])
    terms = same(batch, same.denominators(batch))[1]
    assert terms["causal_agreement"] == 1


def test_mean_reduction_is_batchmean_by_the_number_of_classes():
    student, teacher = models()
    found = {}
    for reduction in ("mean", "batchmean"):
        settings = Config(reduction=reduction, **STRONG)
        found[reduction] = of_package(settings, student, teacher, make_batch(settings))[1]
    for term in ("kd", "causal_kd"):
        assert found["batchmean"][term].item() == pytest.approx(len(CLASSES) * found["mean"][term].item(), rel=1e-12)


def states_of_blocks(settings, *, training=True):
    """How many states went through each block of the teacher and of the student."""
    student, teacher = copy.deepcopy(models())
    blocks = [*teacher.bert.encoder.layer, *student.bert.encoder.layer]
    counts = [0] * len(blocks)
    for number, block in enumerate(blocks):

        def count(module, args, number=number):
            counts[number] += args[0].shape[:-1].numel()

        block.register_forward_pre_hook(count)
    batch = make_batch(settings)
    method = Method(settings, student, [teacher] if Method.requirements(settings).max_teachers else [])
    method.train(training)
    method(batch, method.denominators(batch))
    return [count / sum(LENGTHS) for count in counts[:TEACHER_BLOCKS]], [
        count / sum(LENGTHS) for count in counts[TEACHER_BLOCKS:]
    ]


@pytest.mark.parametrize(
    ("options", "teacher", "student"),
    [
        # The teacher's base pass is its source pass, and its counterfactual pass begins after block 1, the first
        # written one; the student's source pass ends after block 1.
        ({}, [1, 1, 2, 2, 2, 2], [3, 3, 2]),
        ({"share_student_prefix": True}, [1, 1, 2, 2, 2, 2], [1, 1, 2]),
        ({"alpha": 0.0}, [1, 1, 2, 1, 1, 1], [3, 3, 2]),
        ({"alpha": 0.0, "beta": 1.0, "patience_layers": (0, 3)}, [1, 1, 2, 2, 1, 1], [3, 3, 2]),
        ({"gamma": 0.0}, [1] * 6, [1, 1, 1]),
        ({"gamma": 0.0, "alpha": 0.0}, [0] * 6, [1, 1, 1]),
        ({"gamma": 0.0, "alpha": 0.0, "beta": 1.0, "patience_layers": (0, 2)}, [1, 1, 1, 0, 0, 0], [1, 1, 1]),
        ({"data_augment": True}, [2] * 6, [2, 2, 2]),
        ({"data_pair": True}, [1] * 6, [2, 2, 2]),
    ],
)
def test_no_block_runs_for_what_nobody_reads(options, teacher, student):
    assert states_of_blocks(Config(mapping=ONE_SITE, **options)) == (teacher, student)


def test_in_evaluations_the_student_shares_its_passes_too():
    assert states_of_blocks(Config(mapping=ONE_SITE), training=False)[1] == [1, 1, 2]
    assert states_of_blocks(Config(data_pair=True), training=False)[1] == [1, 1, 1]


def test_a_pair_is_two_passes_of_the_rows_with_dropout_of_their_own():
    settings = Config(data_pair=True, **PATIENT)
    student, teacher = copy.deepcopy(models(dropout=0.3))
    method = Method(settings, student, [teacher])
    batch = make_batch(settings)
    torch.manual_seed(0)
    _, terms = method.train()(batch, method.denominators(batch))
    assert all(abs(terms[f"pair_{name}"] - terms[name]) > 1e-6 for name in ("ce", "kd", "pkd"))
    _, terms = method.eval()(batch, method.denominators(batch))
    assert all(terms[f"pair_{name}"] == terms[name] for name in ("ce", "kd", "pkd"))
    assert not Method.requirements(settings).execution.batch_dependent


def test_swapped_tokens_change_the_second_pass():
    settings = Config(data_augment=True, **STRONG)
    terms = of_package(settings, *models(), make_batch(settings))[1]
    assert abs(terms["causal_kd"] - terms["kd"]) > 1e-4


@pytest.mark.parametrize("mode", ["random", "consecutive"])
def test_positions_lie_inside_the_true_lengths_of_a_row_and_of_another_row(mode):
    settings = Config(interchange_mode=mode, interchange_proportion=1.0)
    batch = make_batch(settings)
    width = batch["input_ids"].shape[1]
    base, partner = batch["interchange_base"], batch["interchange_partner"]
    real = batch["attention_mask"].flatten()
    assert bool(real[base].all() & real[partner].all())
    assert bool((base // width != partner // width).all())
    partners = in_batch_partners(batch["row_id"].numpy(), seed=batch.seed, epoch=batch.epoch)
    counts = torch.bincount(base // width, minlength=6).tolist()
    assert counts == [min(LENGTHS[row], LENGTHS[partners[row]]) for row in range(6)]


def test_requirements_follow_the_weights():
    needs = Method.requirements(Config())
    assert (needs.min_teachers, needs.min_rows, needs.execution.batch_dependent, needs.stored) == (1, 2, True, ())
    assert needs.heads == ("sequence_classification",)
    plain = Method.requirements(Config(gamma=0.0))
    assert (plain.min_teachers, plain.min_rows, plain.execution.batch_dependent) == (1, 1, False)
    assert Method.requirements(Config(gamma=0.0, alpha=0.0)).max_teachers == 0
    assert Method.requirements(Config(gamma=0.0, alpha=0.0, beta=1.0)).min_teachers == 1
    assert Method.requirements(Config(data_augment=True)).execution.batch_dependent


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha is 1.5; it must be between 0 and 1"),
        ({"gamma": -1.0}, "gamma is -1.0"),
        ({"beta": float("inf")}, "beta is inf"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"reduction": "sum"}, "reduction is 'sum'; choices: mean, batchmean"),
        ({"mapping": "ful"}, "mapping is 'ful'; did you mean 'full'"),
        ({"mapping": {"groups": []}}, "neuron mapping has keys"),
        ({"site_offset": 2}, "site_offset is 2; choices: 1, 0"),
        ({"interchange_mode": "masked"}, "interchange_mode is 'masked'; choices: random, consecutive"),
        ({"interchange_proportion": 0.0}, r"interchange_proportion is 0\.0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"data_augment": True, "data_pair": True}, "data_augment and data_pair are true"),
        ({"data_pair": True, "share_student_prefix": True}, "with data_pair no pass resumes; set it to false"),
    ],
)
def test_a_bad_option_is_refused_by_key_value_and_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mapping": "full_6"}, r"mapping names student layer 3, but it has layers 0\.\.2"),
        ({"beta": 1.0, "patience_layers": (1, 3, 5)}, "patience_layers names 3 blocks; give 2, one for each"),
        ({"beta": 1.0, "patience_layers": (1, 6)}, "patience_layers has 6; there are blocks 0 to 5"),
    ],
)
def test_models_that_do_not_fit_are_refused(options, message):
    student, teacher = models()
    with pytest.raises(ValueError, match=message):
        Method.check(Config(**options), student.config, [teacher.config])
    Method.check(Config(beta=1.0), student.config, [teacher.config])


def test_depths_and_widths_that_do_not_fit_are_refused():
    make = CLASSIFIERS["bert_classes"]
    deep, wide = make(7).config, make(6, hidden_size=24).config
    student, teacher = (model.config for model in models())
    with pytest.raises(ValueError, match="mapping is full, but the student has 7 blocks and the teacher 6"):
        Method.check(Config(), deep, [teacher])
    with pytest.raises(ValueError, match=r"hidden_size is 16 in the student and 24 in the teacher; set method\.beta"):
        Method.check(Config(beta=1.0), student, [wide])
    Method.check(Config(), student, [wide])
    with pytest.raises(ValueError, match=r"method\.beta is 1\.0, but the student has 1 blocks and the teacher 6"):
        Method.check(Config(beta=1.0), make(1).config, [teacher])
    Method.check(Config(gamma=0.0, alpha=0.0), student, [])


def test_a_plan_that_is_drawn_is_drawn_here_too():
    student = CLASSIFIERS["bert_classes"](2)
    set_plan(student.config, make_plan("stochastic", 2))
    settings = Config(gamma=0.0, alpha=0.7)
    method = Method(settings, student, [CLASSIFIERS["bert_classes"](4, seed=5)]).train()
    losses = []
    for step in range(2):
        batch = make_batch(settings, step=step)
        losses.append(method(batch, method.denominators(batch))[0].item())
    assert losses[0] != losses[1]
