import pytest
import torch

from raydistill.models.classes import class_order, reorder_classes, with_classes
from raydistill.models.load import load_model
from raydistill.models.predictions import predict
from toy_classifiers import CLASSES, CLASSIFIERS, toy_labelled_batch

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
        (("red", "blue"), (), "has the classes red, green, blue, the corpus red, blue"),
        (CLASSES, ("red", "blue"), "names 2 classes, the checkpoint has 3"),
        ((), (), "has 3 classes, the corpus scores"),
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
