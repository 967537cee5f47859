"""What a causal step computes: which states go through which blocks, what is never made, who draws dropout."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raydistill.methods.causal import Method
from reference import six_pass
from reference.comparison import FAMILIES, config, make_batch, mapping, of_package, weights
from toys.models import VOCABULARY, toy_bert, toy_distilbert


def states_of_blocks(settings, batch=None):
    """How many states went through each block and through each head: teacher blocks, student blocks, heads."""
    student, teacher = toy_distilbert(3), toy_bert(4)
    blocks = [*six_pass.block_list(teacher), *six_pass.block_list(student)]
    watched = [*blocks, teacher.cls.predictions.transform, student.vocab_transform]
    counts = [0] * len(watched)
    for number, module in enumerate(watched):

        def count(module, args, number=number):
            counts[number] += args[0].shape[:-1].numel()

        module.register_forward_pre_hook(count)
    batch = batch or make_batch(settings)
    of_package(settings, student, teacher, batch)
    return counts[:4], counts[4:7], counts[7:]


def sizes(batch):
    """Real tokens of the base and of the partners, and labels."""
    return tuple(batch[name].shape[0] for name in ("token_index", "partner_token_index", "labels"))


def without(batch, *prefixes):
    kept = {name: column for name, column in batch.columns.items() if not name.startswith(prefixes)}
    return dataclasses.replace(batch, columns=kept)


def test_a_source_pass_ends_at_the_site_and_the_teacher_resumes_from_its_base_pass():
    base, source, _ = sizes(make_batch(config()))
    teacher, student, heads = states_of_blocks(config())
    assert teacher == [base + source, base + source, base, 2 * base]
    assert student == [2 * base + source, 2 * base, 2 * base]
    assert heads == [2 * base, 2 * base]


def test_a_source_pass_that_reads_the_output_of_a_block_runs_that_block_too():
    base, source, _ = sizes(make_batch(config()))
    teacher, student, _ = states_of_blocks(config(site_offset=1))
    assert teacher == [base + source, base + source, base + source, 2 * base]
    assert student == [2 * base + source, 2 * base + source, 2 * base]


def test_a_shared_prefix_is_computed_once():
    base, source, _ = sizes(make_batch(config()))
    assert states_of_blocks(config(share_student_prefix=True))[1] == [base + source, base, 2 * base]


def test_in_batch_the_base_pass_of_the_teacher_is_its_source_pass_and_with_a_shared_prefix_that_of_the_student_too():
    settings = config(pairing="in_batch")
    base = make_batch(settings)["token_index"].shape[0]
    teacher, student, _ = states_of_blocks(settings)
    assert teacher == [base, base, base, 2 * base]
    assert student == [3 * base, 2 * base, 2 * base]
    assert states_of_blocks(config(pairing="in_batch", share_student_prefix=True))[1] == [base, base, 2 * base]


def test_swapped_tokens_need_no_source_pass():
    settings = config(data_augment=True, mapping=None)
    base = make_batch(settings)["token_index"].shape[0]
    teacher, student, _ = states_of_blocks(settings)
    assert (teacher, student) == ([2 * base] * 4, [2 * base] * 3)


def test_without_causal_weights_there_is_no_counterfactual_pass_and_no_partner():
    settings = config(alpha_causal_ce=0.0, alpha_causal_cos=0.0, mapping=None)
    batch = make_batch(settings)
    assert not [name for name in batch.columns if name.startswith(("partner_", "interchange_"))]
    base = batch["token_index"].shape[0]
    teacher, student, heads = states_of_blocks(settings)
    assert (teacher, student, heads) == ([base] * 4, [base] * 3, [base, base])


def test_the_label_term_alone_runs_no_teacher_and_no_head_at_other_tokens():
    settings = config(**weights(mlm=1.0))
    batch = make_batch(settings)
    teacher, student, heads = states_of_blocks(settings)
    base, num_labels = batch["token_index"].shape[0], batch["labels"].shape[0]
    assert (teacher, student, heads) == ([0] * 4, [base] * 3, [0, num_labels])
    assert 0 < num_labels < base


@pytest.mark.parametrize("term", ["cos", "causal_cos"])
def test_cosine_terms_alone_run_no_vocabulary_head(term):
    assert states_of_blocks(config(**weights(**{term: 1.0})))[2] == [0, 0]


def test_causal_terms_alone_run_no_base_pass_beyond_the_teachers_prefix():
    settings = config(**weights(causal_ce=1.0))
    base, source, _ = sizes(make_batch(settings))
    teacher, student, heads = states_of_blocks(settings)
    assert teacher == [base + source, base + source, base, base]
    assert student == [base + source, base, base]
    assert heads == [base, base]


def test_masked_kd_runs_the_heads_at_labels_alone():
    settings = config(kd_positions="masked")
    base, _, num_labels = sizes(make_batch(settings))
    teacher, _, heads = states_of_blocks(settings)
    assert heads == [2 * num_labels, 2 * num_labels]
    assert teacher[3] == 2 * base


class Shapes(TorchDispatchMode):
    """Records the shape of every tensor made in its scope, in the backward pass too."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.seen.update(made.shape for made in tree_leaves(result) if isinstance(made, torch.Tensor))
        return result


@pytest.mark.parametrize("family", FAMILIES)
def test_no_tensor_of_all_tokens_by_vocabulary_is_made(family):
    make_teacher, make_student = FAMILIES[family]
    settings = config(family)
    method = Method(settings, make_student(3), [make_teacher(4)])
    # More tokens than a chunk of the head has rows.
    batch = make_batch(settings, family, rows=range(96))
    with Shapes() as shapes:
        method(batch, method.denominators(batch))[0].backward()
    num_tokens = batch["token_index"].numel()
    rows = [shape.numel() // VOCABULARY for shape in shapes.seen if VOCABULARY in shape]
    assert 64 <= max(rows) <= num_tokens // 2
    forbidden = {num_tokens * VOCABULARY, batch["input_ids"].numel() * VOCABULARY}
    assert not forbidden & {shape.numel() for shape in shapes.seen}


def unchanged_terms(settings, *, is_training=True, itself=False):
    """Base and counterfactual cosine terms under dropout, with no position interchanged or each with itself."""
    method = Method(settings, toy_distilbert(3, dropout=0.3), [toy_bert(4)]).train(is_training)
    batch = make_batch(settings)
    index = batch["token_index"] if itself else torch.zeros(0, dtype=torch.int64)
    batch = batch.with_columns(interchange_base=index, interchange_partner=index)
    torch.manual_seed(0)
    _, terms = method(batch, method.denominators(batch))
    return terms["cos"].item(), terms["causal_cos"].item()


COSINES = weights(cos=1.0, causal_cos=1.0)
LAST_BLOCKS = mapping((["$L:3"], ["$L:2"]))


def test_base_and_counterfactual_pass_of_the_student_draw_their_dropout_independently():
    settings = config(**COSINES, mapping=LAST_BLOCKS)
    base, counterfactual = unchanged_terms(settings)
    assert abs(base - counterfactual) > 1e-4
    base, counterfactual = unchanged_terms(settings, is_training=False)
    assert abs(base - counterfactual) < 1e-12


def test_a_shared_prefix_has_one_dropout_up_to_the_first_written_block_and_none_is_shared_after_it():
    shared = {**COSINES, "share_student_prefix": True}
    base, counterfactual = unchanged_terms(config(**shared, mapping=LAST_BLOCKS))
    assert base == pytest.approx(counterfactual, abs=1e-12)
    base, counterfactual = unchanged_terms(config(**shared, mapping=mapping((["$L:1"], ["$L:0"]))))
    assert abs(base - counterfactual) > 1e-4


def test_in_batch_the_source_pass_draws_its_own_dropout_unless_the_prefix_is_shared():
    # Where each row receives all its own states of the last block, the counterfactual pass ends as the source pass.
    options = {**COSINES, "pairing": "in_batch", "site_offset": 1, "mapping": LAST_BLOCKS}
    base, counterfactual = unchanged_terms(config(**options), itself=True)
    assert abs(base - counterfactual) > 1e-4
    base, counterfactual = unchanged_terms(config(**options, share_student_prefix=True), itself=True)
    assert base == pytest.approx(counterfactual, abs=1e-12)
