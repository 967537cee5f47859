"""Models of another tokenizer in the table beside those of the corpus's own: each is asked in its own ids."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from raydistill.data.corpus import Corpus
from raydistill.evaluation import Checkpoints, evaluate_models
from raydistill.tasks.classification import EncodeConfig
from toys.classifiers import CLASSES
from toys.encodings import LONGEST, make_letters, save_letters, save_words, toy_examples, write_encodings

NUM_ROWS = 30


def said(folder: Path, examples: list[dict[str, str]]) -> torch.Tensor:
    """Logits of plain transformers for each text in letters, classes in the corpus's order."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    order = [model.config.label2id.get(name) for name in CLASSES] if model.config.num_labels > 1 else [0]
    found = []
    for example in examples:
        ids = make_letters()(example["text"], truncation=True, max_length=LONGEST, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            found.append(model(input_ids=ids).logits[0, order])
    return torch.stack(found)


def test_a_model_of_letters_is_asked_in_letters_alone_and_in_an_ensemble(tmp_path: Path) -> None:
    examples = toy_examples(NUM_ROWS)
    corpus: Corpus = write_encodings(tmp_path / "corpus", examples)
    letters, words = str(save_letters(tmp_path / "letters", seed=3)), str(save_words(tmp_path / "words"))
    found = evaluate_models(
        {
            "letters": Checkpoints((letters,), encodings=(1,)),
            "words": words,
            "both": Checkpoints((words, letters), encodings=(0, 1)),
        },
        corpus.uri,
        task={"name": "classification"},
        seed=0,
        batch_size=7,
    )
    columns = found["letters"].predictions
    assert columns is not None
    rows = np.asarray(columns["row_id"])
    expected = said(tmp_path / "letters", examples)
    own = expected.softmax(dim=-1).numpy()[rows]
    together = found["both"].predictions
    assert together is not None
    for number, name in enumerate(CLASSES):
        np.testing.assert_allclose(columns[f"probability.{name}"], own[:, number], atol=1e-5)
        # The sums of exponentials of all entries: those of letters are a part of each.
        assert not np.allclose(together[f"probability.{name}"], own[:, number], atol=1e-3)
    labels = torch.tensor([CLASSES.index(example["label"]) for example in examples])
    loss = torch.nn.functional.cross_entropy(expected, labels).item()
    assert found["letters"].figures["loss"] == pytest.approx(loss, abs=1e-5)


def test_a_model_of_letters_that_gives_scores_is_asked_in_letters(tmp_path: Path) -> None:
    examples = [{**example, "label": str(number / 7)} for number, example in enumerate(toy_examples(NUM_ROWS))]
    corpus = write_encodings(tmp_path / "corpus", examples, encode=EncodeConfig(max_length=40))
    save_letters(tmp_path / "letters", labels=())
    found = evaluate_models(
        {"letters": Checkpoints((str(tmp_path / "letters"),), encodings=(1,))},
        corpus.uri,
        task={"name": "classification", "metrics": ["pearson"]},
        seed=0,
    )
    scores = torch.tensor([number / 7 for number in range(NUM_ROWS)])
    squared = (said(tmp_path / "letters", examples)[:, 0] - scores).square().mean().item()
    assert found["letters"].figures["loss"] == pytest.approx(squared, rel=1e-5)
