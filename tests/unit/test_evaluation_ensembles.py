"""Ensembles of toy classifiers, and models of some classes alone, against sums over classes that are written out."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from raydistill.evaluation import COMBINATIONS, Checkpoints, ClassifierEnsemble, Evaluation, evaluate_models
from raydistill.models.predictions import predict
from raydistill.tasks import classification
from toys.classifiers import CLASSIFIERS, toy_labelled_batch
from toys.corpus import random_rows, write_corpus

HEAD = "sequence_classification"
CLASSES = 5
KNOWN = {"disjoint": ([0, 1], [4, 3, 2]), "overlapping": ([3, 0, 1], [2, 1, 4])}
"""Classes of two members' outputs in their order, which need not be ascending."""


def member(numbers: list[int], seed: int):
    names = [f"class {number}" for number in numbers]
    return CLASSIFIERS["bert_classes"](2, labels=names, seed=seed, dtype=torch.float32).eval()


def said(kind: str, combine: str, **batch) -> tuple[np.ndarray, list[np.ndarray]]:
    """Probabilities (B, 5) of the ensemble, and the logits of its members."""
    members = [member(numbers, seed) for seed, numbers in enumerate(KNOWN[kind])]
    ensemble = ClassifierEnsemble(members, KNOWN[kind], num_classes=CLASSES, combine=combine)
    rows = toy_labelled_batch("classes", **batch)
    with torch.no_grad():
        logits = [predict(one, rows, head=HEAD).logits.double().numpy() for one in members]
        return ensemble(rows).double().exp().numpy(), logits


def placed(part: np.ndarray, numbers: list[int]) -> np.ndarray:
    everything = np.zeros((len(part), CLASSES))
    everything[:, numbers] = part
    return everything


def certainties(logits: list[np.ndarray]) -> np.ndarray:
    """(B, members)"""
    found = [1 - entropy(softmax(one, axis=1), axis=1) / math.log(one.shape[1]) for one in logits]
    return np.stack(found, axis=1)


@pytest.mark.parametrize("kind", KNOWN)
def test_concatenated_is_one_softmax_over_all_entries_with_copies_added(kind):
    found, logits = said(kind, "concatenated")
    whole = softmax(np.concatenate(logits, axis=1), axis=1)
    first, second = KNOWN[kind]
    expected = placed(whole[:, : len(first)], first) + placed(whole[:, len(first) :], second)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", KNOWN)
def test_weighted_is_the_members_softmaxes_by_how_sure_they_are(kind):
    found, logits = said(kind, "weighted")
    weights = softmax(certainties(logits) / 0.2, axis=1)
    assert np.abs(weights[:, 0] - 0.5).max() > 0.05
    parts = [placed(softmax(one, axis=1), numbers) for one, numbers in zip(logits, KNOWN[kind], strict=True)]
    expected = weights[:, :1] * parts[0] + weights[:, 1:] * parts[1]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("rows", [range(6), range(1)])
def test_surest_is_of_each_row_the_softmax_of_one_member(rows):
    found, logits = said("overlapping", "surest", rows=rows)
    chosen = certainties(logits).argmax(axis=1)
    if len(rows) > 1:
        assert set(chosen) == {0, 1}
    for row, number in enumerate(chosen):
        expected = placed(softmax(logits[number], axis=1), KNOWN["overlapping"][number])[row]
        np.testing.assert_allclose(found[row], expected, atol=1e-6)


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_a_member_alone_has_its_own_distribution_and_never_another_class(combine):
    alone = member([3, 1], 0)
    batch = toy_labelled_batch("classes")
    with torch.no_grad():
        found = ClassifierEnsemble([alone], [[3, 1]], num_classes=CLASSES, combine=combine)(batch)
        expected = predict(alone, batch, head=HEAD).logits.softmax(-1)
    torch.testing.assert_close(found.exp()[:, [3, 1]], expected, check_dtype=False)
    assert torch.isneginf(found[:, [0, 2, 4]]).all()


LABELS = tuple("abcde")


def evaluated(tmp_path: Path, *parts: str, combine: str = "concatenated", first_seed: int = 0, **options) -> Evaluation:
    """What is found of classifiers of the letters of each part, as one model, on 30 rows of the classes a to e."""
    config = classification.EncodeConfig(labels=LABELS)
    corpus = write_corpus(
        tmp_path / "corpus",
        random_rows(30),
        encoding={"name": "classification", "labels": list(LABELS)},
        columns=classification.columns(config),
        values=[{"label": number % 5, "second": 40} for number in range(30)],
    )
    for seed, part in enumerate(parts, start=first_seed):
        model = CLASSIFIERS["bert_classes"](2, labels=tuple(part), seed=seed, dtype=torch.float32)
        model.save_pretrained(tmp_path / part)
    one = Checkpoints(tuple(str(tmp_path / part) for part in parts), combine=combine)
    task = {"name": "classification", "metrics": ["accuracy", "macro_f1"]}
    return evaluate_models({"model": one}, corpus.uri, task=task, seed=5, batch_size=7, **options)["model"]


def test_a_model_of_some_classes_predicts_no_other_and_is_wrong_about_their_rows(tmp_path):
    found = evaluated(tmp_path, "db", first_seed=6)
    assert found.classes == ("b", "d")
    assert "loss" not in found.figures
    columns = found.predictions
    assert set(columns["prediction"]) == {"b", "d"}
    assert not any(columns[f"probability.{name}"].any() for name in "ace")
    np.testing.assert_allclose(columns["probability.b"] + columns["probability.d"], 1, atol=1e-6)
    right = [said == meant for said, meant in zip(columns["prediction"], columns["label"], strict=True)]
    assert 0 < found.figures["accuracy"] == sum(right) / 30 < 12 / 30


def test_names_that_a_user_gives_say_which_classes_a_model_knows(tmp_path):
    own = evaluated(tmp_path, "db").predictions["probability.b"]
    named = Checkpoints((str(tmp_path / "db"),), names=(("e", "a"),))
    task = {"name": "classification"}
    found = evaluate_models({"model": named}, str(tmp_path / "corpus"), task=task, seed=5, batch_size=7)["model"]
    assert found.classes == ("a", "e")
    np.testing.assert_allclose(found.predictions["probability.a"], own, atol=1e-6)


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_an_ensemble_has_the_figures_of_what_its_members_say_together(tmp_path, combine):
    found = evaluated(tmp_path, "dbe", "ac", combine=combine)
    assert found.classes == ()
    columns = found.predictions
    probabilities = np.stack([columns[f"probability.{name}"] for name in LABELS], axis=1)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    true = np.array([LABELS.index(name) for name in columns["label"]])
    assert found.figures["accuracy"] == (probabilities.argmax(axis=1) == true).mean()
    if combine == "surest":
        # Where the surest member does not know the true class.
        assert "loss" not in found.figures
    else:
        of_true = probabilities[np.arange(30), true]
        assert found.figures["loss"] == pytest.approx(-np.log(of_true).mean(), abs=1e-6)
    assert (probabilities == 0).any() == (combine == "surest")


def test_an_ensemble_is_as_large_and_as_slow_as_all_its_members(tmp_path):
    both = evaluated(tmp_path, "dbe", "ac", latency_repeats=2).figures
    members = [evaluated(tmp_path, part).figures for part in ("dbe", "ac")]
    for figure in ("parameters", "size_mb"):
        assert both[figure] == pytest.approx(sum(one[figure] for one in members))
    assert both["latency_ms"] > 0
    assert both["batch_latency_ms"] > 0


def test_classes_that_the_corpus_lacks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the checkpoint has the classes x, which the corpus lacks"):
        evaluated(tmp_path, "abx")
