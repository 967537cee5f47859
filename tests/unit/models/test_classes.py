import pytest
import torch
from transformers import BertConfig

from raydistill.models.classes import (
    class_order,
    known_labels,
    output_names,
    reorder_classes,
    with_classes,
)
from raydistill.models.load import load_model
from raydistill.models.predictions import predict
from toys.classifiers import CLASSES, CLASSIFIERS, toy_labelled_batch

HEAD = "sequence_classification"


@pytest.fixture
def classifier():
    return CLASSIFIERS["bert_classes"](2).eval()


def test_outputs_follow_the_names_of_the_corpus_not_their_places(classifier, tmp_path):
    classifier.float().save_pretrained(tmp_path)
    batch = toy_labelled_batch("classes")
    wanted = ("blue", "red", "green")
    loaded = load_model(tmp_path, head=HEAD, labels=wanted)
    expected = predict(classifier, batch, head=HEAD).logits[:, [CLASSES.index(name) for name in wanted]]
    torch.testing.assert_close(predict(loaded, batch, head=HEAD).logits, expected)
    assert loaded.config.id2label == dict(enumerate(wanted))


def test_classes_without_names_are_refused_until_they_are_named(classifier, tmp_path):
    classifier.config.id2label = {number: f"LABEL_{number}" for number in range(3)}
    classifier.float().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"calls its classes LABEL_0, LABEL_1, LABEL_2; say what they are .* labels:"):
        load_model(tmp_path, head=HEAD, labels=CLASSES)
    named = load_model(tmp_path, head=HEAD, labels=CLASSES, names=("green", "red", "blue"))
    expected = predict(classifier, toy_labelled_batch("classes"), head=HEAD).logits[:, [1, 0, 2]]
    torch.testing.assert_close(predict(named, toy_labelled_batch("classes"), head=HEAD).logits, expected)


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (("red", "blue"), (), "has the classes red, green, blue, but the corpus has red, blue"),
        (CLASSES, ("red", "blue"), "names 2 classes, the checkpoint has 3"),
        ((), (), "has 3 classes, but the corpus has scores"),
        (CLASSES, ("red", "red", "blue"), "two outputs of the checkpoint stand for the class red; give each"),
        (CLASSES, ("red", None, "blue"), "has the classes red, blue, but the corpus has red, green, blue"),
    ],
)
def test_other_classes_are_refused(classifier, labels, names, message):
    with pytest.raises(ValueError, match=message):
        class_order(classifier.config, labels, names=names)


def test_a_checkpoint_with_other_classes_gets_a_new_head_drawn_from_the_seed(classifier, tmp_path):
    classifier.float().save_pretrained(tmp_path)
    options = {"head": HEAD, "labels": ("yes", "no"), "allow_new_head": True}
    first, again, other = (load_model(tmp_path, seed=seed, **options) for seed in (1, 1, 2))
    assert first.config.num_labels == 2
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    kept = classifier.bert.encoder.layer[0].output.dense.weight
    assert torch.equal(first.bert.encoder.layer[0].output.dense.weight, kept)


def test_a_checkpoint_without_a_pooler_can_start_one(classifier, tmp_path):
    classifier.bert.pooler = None
    classifier.float().save_pretrained(tmp_path)
    assert load_model(tmp_path, head=HEAD, labels=CLASSES, allow_new_head=True).bert.pooler is not None
    with pytest.raises(ValueError, match=r"lacks bert.pooler.dense.bias; choose a checkpoint with its head"):
        load_model(tmp_path, head=HEAD, labels=CLASSES)


def test_reordering_moves_weight_and_bias(classifier):
    before = classifier.classifier.weight.clone(), classifier.classifier.bias.clone()
    reorder_classes(classifier, HEAD, [2, 0, 1])
    assert torch.equal(classifier.classifier.weight, before[0][[2, 0, 1]])
    assert torch.equal(classifier.classifier.bias, before[1][[2, 0, 1]])


def test_a_configuration_of_scores_has_one_output(classifier):
    config = with_classes(classifier.config, ())
    assert (config.num_labels, config.problem_type) == (1, "regression")
    assert class_order(config, ()) == [0]


UNION = ("pink", "blue", "red", "green")


def test_the_classes_that_a_checkpoint_knows_of_a_union_are_in_the_unions_order(classifier):
    assert known_labels(classifier.config, UNION) == ("blue", "red", "green")
    assert known_labels(classifier.config, UNION, names=("pink", "red", None)) == ("pink", "red")
    assert class_order(classifier.config, ("pink", "red"), names=(None, "red", "pink")) == [2, 1]


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (
            ("a", "b"),
            (),
            "has the classes red, green, blue, but the corpus has a, b, with none in common; choose another",
        ),
        (("red", "green"), (), r"classes blue, which the corpus lacks; .*, such as labels: \{blue: null\}"),
        (UNION, ("red", None, None), "has the class red only, whose probability is always 1; choose one of two"),
        (UNION, (None, None, None), "has the classes none, but the corpus has pink"),
        (UNION, ("red", "green", "red"), "two outputs of the checkpoint stand for the class red"),
        ((), (), "has 3 classes, but the corpus has scores"),
    ],
)
def test_a_checkpoint_that_is_no_part_of_a_union_is_refused_in_one_line(classifier, labels, names, message):
    with pytest.raises(ValueError, match=message) as error:
        known_labels(classifier.config, labels, names=names)
    assert "\n" not in str(error.value)


def test_classes_without_names_are_no_part_until_they_are_named(classifier):
    classifier.config.id2label = {number: f"LABEL_{number}" for number in range(3)}
    with pytest.raises(ValueError, match="calls its classes LABEL_0, LABEL_1, LABEL_2; say what they are"):
        known_labels(classifier.config, UNION)
    said = {"LABEL_0": "green", "LABEL_1": "pink", "LABEL_2": None}
    assert known_labels(classifier.config, UNION, names=output_names(classifier.config, said)) == ("pink", "green")


def test_a_map_renames_outputs_and_leaves_the_others_their_names(classifier):
    assert output_names(classifier.config, {"green": "pink", "red": None}) == (None, "pink", "blue")
    assert output_names(classifier.config, ["x", "y", "z"]) == ("x", "y", "z")
    assert output_names(classifier.config, {}) == output_names(classifier.config, []) == ()
    with pytest.raises(
        ValueError, match="labels maps 'grey', which is not a class of the checkpoint; it has red, green"
    ):
        output_names(classifier.config, {"grey": "pink"})


@pytest.mark.parametrize("kind", ["bert_classes", "roberta_classes", "distilbert_classes", "gpt2_classes"])
def test_an_output_that_is_left_out_changes_no_other(tmp_path, kind):
    whole = CLASSIFIERS[kind](2).eval().float()
    whole.save_pretrained(tmp_path)
    batch = toy_labelled_batch("classes")
    loaded = load_model(tmp_path, head=HEAD, labels=("blue", "pink"), names=("pink", None, "blue"))
    expected = predict(whole, batch, head=HEAD).logits[:, [2, 0]]
    torch.testing.assert_close(predict(loaded, batch, head=HEAD).logits, expected)
    assert loaded.config.id2label == {0: "blue", 1: "pink"}
    assert loaded.num_labels == loaded.config.num_labels == 2
    loaded.save_pretrained(tmp_path / "again")
    again = load_model(tmp_path / "again", head=HEAD, labels=("blue", "pink"))
    torch.testing.assert_close(predict(again, batch, head=HEAD).logits, expected)


CONTRADICTIONS = [
    (
        {"id2label": {0: "red", 1: "green", 3: "blue"}},
        "id2label has the ids 0, 1, 3, not 0 to 2; correct its config.json",
    ),
    (
        {"id2label": {0: "red", 1: "green", 2: "blue"}, "label2id": {"red": 1, "green": 0, "blue": 2}},
        "id2label says that red is output 0, its label2id says 1; correct its config.json",
    ),
    (
        {"id2label": {0: "red", 1: "green", 2: "blue"}, "problem_type": "multi_label_classification"},
        "problem_type is multi_label_classification, but the corpus has one class for each row; choose",
    ),
]


@pytest.mark.parametrize(("said", "message"), CONTRADICTIONS)
def test_a_checkpoint_whose_configuration_contradicts_itself_or_has_many_labels_is_refused(said, message):
    config = BertConfig(**said)
    for ask in (class_order, known_labels):
        with pytest.raises(ValueError, match=message):
            ask(config, ["green", "red", "blue"])


@pytest.mark.parametrize("said", [said for said, _ in CONTRADICTIONS[:2]])
def test_names_in_the_order_of_the_outputs_settle_what_a_configuration_contradicts(said):
    assert class_order(BertConfig(**said), ["green", "red", "blue"], names=["red", "green", "blue"]) == [1, 0, 2]


def test_label2id_may_have_names_that_transformers_made_up():
    config = BertConfig(id2label={0: "red", 1: "green"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
    assert class_order(config, ["green", "red"]) == [1, 0]
