"""Heads and neurons scored by actors over a corpus, against gradients of plain transformers with masks."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, softmax
from transformers import AutoModelForSequenceClassification, GPT2Config

from raydistill.config.errors import error_lines
from raydistill.config.named import TaskSpec
from raydistill.config.sections import ScalingConfig
from raydistill.data import unit_scoring
from raydistill.data.corpus import Corpus
from raydistill.data.unit_scores import COMBINED, TENSORS, read_facts, read_scores
from raydistill.data.unit_scoring import ScoringProgress
from raydistill.models.classes import with_classes
from raydistill.models.importance import EXPRESSIVENESS, FRIENDLINESS, Scores
from raydistill.models.kept_units import KeptUnits, set_kept
from raydistill.models.load import load_config
from raydistill.stages import _models, score
from raydistill.stages._base import CorpusFacts, Input, ModelFacts, ScoresFacts
from toys.capture import KEY, context_of, save_teacher, write_labelled
from toys.classifiers import CLASSES
from toys.tracker import MemoryTracker

ROWS = 20
TEMPERATURE = 3.0
Loss = Callable[[torch.Tensor, int], torch.Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("score")
    write_labelled(found)
    save_teacher(found / "trial", seed=7, num_layers=1)
    return found


def stage(folder: Path, **changes: Any) -> score.Stage:
    config = {
        "kind": "score",
        "corpus": str(folder / "corpus"),
        "model": str(folder / "teacher"),
        "batch_size": 8,
        **changes,
    }
    return score.Stage("scores", score.Config.model_validate(config))


def masked_gradients(folder: Path, part: str, loss: Loss) -> list[Scores]:
    """The gradient of each row's loss by masks over the units, one padless pass of plain transformers a row.

    ``loss``: of logits in the order of the corpus's classes and the row's number.
    """
    model = AutoModelForSequenceClassification.from_pretrained(folder / "teacher").double().eval()
    config = model.config
    heads = torch.ones(config.num_hidden_layers, config.num_attention_heads, dtype=torch.float64, requires_grad=True)
    neurons = torch.ones(config.num_hidden_layers, config.intermediate_size, dtype=torch.float64, requires_grad=True)
    for number, block in enumerate(model.bert.encoder.layer):
        block.attention.output.dense.register_forward_pre_hook(
            lambda _, args, number=number: (args[0] * heads[number].repeat_interleave(config.hidden_size // 2),)
        )
        block.output.dense.register_forward_pre_hook(lambda _, args, number=number: (args[0] * neurons[number],))
    order = [config.label2id[name] for name in CLASSES]
    corpus = Corpus.open(str(folder / "corpus" / part))
    found = []
    for row, text in enumerate(corpus.read_rows(range(len(corpus)))):
        logits = model(input_ids=torch.from_numpy(text.astype("int64"))[None]).logits[0, order]
        found.append(Scores(*torch.autograd.grad(loss(logits, row), [heads, neurons])))
    return found


def labels(folder: Path, part: str) -> list[int]:
    corpus = Corpus.open(str(folder / "corpus" / part))
    return [int(value) for value in corpus.read_columns(range(len(corpus)))["label"].to_pylist()]


def label_losses(folder: Path, part: str = "validation") -> Loss:
    known = labels(folder, part)
    return lambda logits, row: cross_entropy(logits[None], torch.tensor([known[row]]))


def summed(gradients: list[Scores], *, group: int = 1) -> Scores:
    """Sum over groups of rows of |mean gradient|."""
    groups = [gradients[start : start + group] for start in range(0, len(gradients), group)]
    heads, neurons = (
        sum(torch.stack([getattr(one, what) for one in rows]).mean(0).abs() for rows in groups)
        for what in ("heads", "neurons")
    )
    assert isinstance(heads, torch.Tensor)
    assert isinstance(neurons, torch.Tensor)
    return Scores(heads, neurons)


def normalized(scores: torch.Tensor) -> torch.Tensor:
    return scores / (scores.square().sum(-1, keepdim=True).sqrt() + 1e-7)


def assert_close(found: Scores, expected: Scores) -> None:
    for what in ("heads", "neurons"):
        torch.testing.assert_close(getattr(found, what), getattr(expected, what), rtol=2e-4, atol=1e-6)


def sums_here(run: unit_scoring.ScoringRun, blocks: Any, **_: Any) -> Iterator[Any]:
    """What stands in for the actors, in this process."""
    scorer = unit_scoring.UnitScorer(run)
    for block in blocks:
        yield scorer.sums(*block)


@pytest.fixture(autouse=True)
def _no_actors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of six rows, in this process but for a test that asks for a cluster."""
    monkeypatch.setattr(unit_scoring, "BLOCK_ROWS", 6)
    if "ray_cluster" not in request.fixturenames:
        monkeypatch.setattr(unit_scoring, "_block_sums", sums_here)


@pytest.fixture(scope="module")
def scored(folder: Path) -> dict[str, Any]:
    """Scores with a student."""
    one = stage(folder, student=str(folder / "trial"), lam=0.3, temperature=TEMPERATURE)
    context = context_of(one, folder / "scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit_scoring, "BLOCK_ROWS", 6)
        patch.setattr(unit_scoring, "_block_sums", sums_here)
        summary = one.run(context)
    return {"output": context.output, "summary": summary, "tracker": context.tracker}


def test_expressiveness_is_the_sum_over_rows_of_the_size_of_each_ones_own_gradient(
    folder: Path, scored: dict[str, Any]
) -> None:
    expected = summed(masked_gradients(folder, "validation", label_losses(folder)))
    assert expected.heads.min() > 1e-3
    assert_close(read_scores(scored["output"])[EXPRESSIVENESS], expected)


def test_friendliness_is_that_of_the_distillation_loss_through_the_scored_models_logits(
    folder: Path, scored: dict[str, Any]
) -> None:
    student = AutoModelForSequenceClassification.from_pretrained(folder / "trial").double().eval()
    order = [student.config.label2id[name] for name in CLASSES]
    texts = Corpus.open(str(folder / "corpus" / "validation")).read_rows(range(ROWS))

    def loss(logits: torch.Tensor, row: int) -> torch.Tensor:
        with torch.no_grad():
            said = student(input_ids=torch.from_numpy(texts[row].astype("int64"))[None]).logits[0, order]
        soft = -(softmax(logits / TEMPERATURE, -1) * log_softmax(said / TEMPERATURE, -1)).sum()
        return TEMPERATURE**2 / 2 * soft

    assert_close(read_scores(scored["output"])[FRIENDLINESS], summed(masked_gradients(folder, "validation", loss)))


def test_units_are_ranked_by_the_weighted_sum_of_both_normalized_in_each_block(scored: dict[str, Any]) -> None:
    found = read_scores(scored["output"])
    for what in ("heads", "neurons"):
        expected = 0.3 * normalized(getattr(found[EXPRESSIVENESS], what))
        expected = expected + 0.7 * normalized(getattr(found[FRIENDLINESS], what))
        torch.testing.assert_close(getattr(found[COMBINED], what), expected, rtol=1e-12, atol=0)


def test_two_actors_find_what_one_finds_bit_for_bit(
    folder: Path, scored: dict[str, Any], tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score.cluster, "threads_per_worker", lambda *_, **__: 1)
    found = []
    for number, name in ((1, "one"), (2, "two")):
        one = stage(folder, student=str(folder / "trial"), lam=0.3, temperature=TEMPERATURE)
        one.run(context_of(one, tmp_path / name, num_workers=number))
        found.append((tmp_path / name / TENSORS).read_bytes())
    assert found[0] == found[1]
    here, of_actors = (read_scores(place)[COMBINED] for place in (scored["output"], tmp_path / "two"))
    assert_close(of_actors, here)


def test_what_is_wrong_with_a_corpus_ends_the_actors_scoring_with_one_line(
    folder: Path, tmp_path: Path, ray_cluster: None
) -> None:
    one = stage(folder)
    corpus = one._parts(context_of(one, tmp_path))
    model = unit_scoring.ScoredModel(str(folder / "trial" / "gone"))
    run = unit_scoring.ScoringRun(model, None, tuple(corpus), TaskSpec.parse("classification"), seed=0)
    with pytest.raises(ValueError, match=r"gone' is not a checkpoint: it has no config\.json") as error:
        unit_scoring.score_units(run, ScoringProgress(tmp_path, []))
    assert "\n" not in str(error.value)


def test_neither_blocks_nor_batches_change_the_scores(folder: Path, scored: dict[str, Any], tmp_path: Path) -> None:
    one = stage(folder, student=str(folder / "trial"), lam=0.3, temperature=TEMPERATURE, batch_size=3)
    one.run(context_of(one, tmp_path))
    before, after = read_scores(scored["output"]), read_scores(tmp_path)
    for kind in (EXPRESSIVENESS, FRIENDLINESS, COMBINED):
        assert_close(after[kind], before[kind])


def test_published_sums_are_of_the_mean_gradients_of_batches_in_the_corpuss_order(folder: Path, tmp_path: Path) -> None:
    # Groups of 7 lie across blocks of 6 rows; the last has 6.
    one = stage(folder, score_batch_size=7)
    one.run(context_of(one, tmp_path))
    found = read_scores(tmp_path)
    assert {*found} == {COMBINED, EXPRESSIVENESS}
    assert_close(found[EXPRESSIVENESS], summed(masked_gradients(folder, "validation", label_losses(folder)), group=7))


def test_rows_to_train_on_score_where_they_are_asked_and_a_sample_of_them(folder: Path, tmp_path: Path) -> None:
    one = stage(folder, part="train", max_rows=30)
    summary = one.run(context_of(one, tmp_path))
    assert summary["rows"] == 30
    gradients = masked_gradients(folder, "train", label_losses(folder, "train"))
    run = unit_scoring.ScoringRun(
        unit_scoring.ScoredModel(""),
        None,
        (unit_scoring.CorpusPart(str(folder / "corpus" / "train")),),
        TaskSpec.parse("classification"),
        seed=5,
        max_rows=30,
    )
    rows = unit_scoring.chosen_rows(run)
    assert len({*rows}) == 30
    assert list(rows) == sorted(rows)
    assert list(rows) != list(range(30))
    assert_close(read_scores(tmp_path)[EXPRESSIVENESS], summed([gradients[row] for row in rows]))


def test_facts_tell_what_the_scores_are_of(folder: Path, scored: dict[str, Any]) -> None:
    facts = read_facts(scored["output"])
    assert facts.model_hash == _models.content_of(folder / "teacher")
    assert facts.student_hash == _models.content_of(folder / "trial")
    assert facts.corpus_hash == Corpus.open(str(folder / "corpus" / "validation")).hash
    assert (facts.lam, facts.temperature, facts.rows, facts.part) == (0.3, TEMPERATURE, ROWS, "validation")
    assert scored["summary"]["model_hash"] == facts.model_hash
    assert isinstance(scored["tracker"], MemoryTracker)
    assert scored["tracker"].runs[KEY].tags["lam"] == "0.3"
    assert scored["tracker"].runs[KEY].metrics["score/rows"] == [(0, ROWS)]


def test_a_changed_file_of_scores_is_refused_with_one_line(scored: dict[str, Any], tmp_path: Path) -> None:
    for file in scored["output"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / TENSORS).write_bytes(bytes(64))
    with pytest.raises(ValueError, match=r"scores\.safetensors' is not the file that was written there; run its"):
        read_scores(tmp_path)
    data = json.loads((tmp_path / "scores.json").read_text())
    (tmp_path / "scores.json").write_text(json.dumps({**data, "format": 2}))
    with pytest.raises(ValueError, match=r"scores\.json' is damaged or of a later version; run its score stage"):
        read_scores(tmp_path)


def test_the_forecast_counts_heads_and_rows(folder: Path) -> None:
    forecast = stage(folder, student=str(folder / "trial")).plan(ScalingConfig(), {})
    assert forecast.lines == [
        "scores 6 heads of 3 blocks, and their neurons, on 20 rows",
        "scores are 0.5 expressiveness and 0.5 friendliness",
    ]
    assert isinstance(forecast.makes, ScoresFacts)
    assert forecast.makes.config.num_hidden_layers == 3


def test_how_many_rows_go_through_at_once_is_no_part_of_what_the_scores_are(folder: Path) -> None:
    same = [stage(folder, batch_size=size).identity(ScalingConfig()) for size in (4, 16)]
    assert same[0] == same[1]
    half = [stage(folder, student="trial", **lam).identity(ScalingConfig()) for lam in ({}, {"lam": 0.5})]
    assert half[0] == half[1]
    others = [stage(folder, score_batch_size=size).identity(ScalingConfig()) for size in (4, 16)]
    assert others[0] != others[1]


def pruned_config(folder: Path) -> Any:
    config = load_config(folder / "teacher")
    set_kept(config, KeptUnits(((0,),) * 3, ((0, 1),) * 3))
    return config


def other_classes(folder: Path) -> Any:
    return with_classes(load_config(folder / "trial"), ("red", "green", "black"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lam": 1.5, "student": "trial"}, "lam is 1.5; it must be between 0"),
        ({"lam": -0.1, "student": "trial"}, "lam is -0.1; it must be between 0"),
        ({"lam": 0.5}, "lam is 0.5, but there is no student to weigh; name one, or leave lam out"),
        ({"temperature": 0}, "temperature"),
        ({"part": "test"}, "part"),
        ({"score_batch_size": 0}, "score_batch_size"),
    ],
)
def test_options_that_are_wrong_are_refused_with_one_line(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        stage(folder, **changes)
    assert len(error_lines(error.value)) == 1


CORPUS = CorpusFacts("classification", 61, 40, rows=90, labels=CLASSES, validation_rows=20)


@pytest.mark.parametrize(
    ("corpus", "changes", "message"),
    [
        (replace(CORPUS, has_train=False), {"part": "train"}, "part is 'train', but corpus has only a validation part"),
        (replace(CORPUS, unlabelled=("train",)), {"part": "train"}, "part is 'train', whose rows have no labels; bin"),
        (
            replace(CORPUS, vocab_size=62),
            {},
            "model has 61 token ids, but the corpus has 62; binarize with that model's tok",
        ),
        (
            replace(CORPUS, max_length=41),
            {},
            "model has 40 positions, but the corpus has rows of up to 41 tokens; binarize",
        ),
    ],
)
def test_a_corpus_that_does_not_fit_is_refused_before_the_job(
    folder: Path, corpus: CorpusFacts, changes: dict[str, Any], message: str
) -> None:
    earlier = {"corpus": Input(corpus)}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        stage(folder, corpus="corpus", **changes).plan(ScalingConfig(), earlier)
    stage(folder, corpus="corpus").plan(ScalingConfig(), {"corpus": Input(CORPUS)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "pruned"}, "model is 'pruned': the model is already pruned; choose the checkpoint that it was"),
        ({"model": "decoder"}, "model is 'decoder': the model is a gpt2; heads and neurons can be pruned of bert"),
        ({"model": "scores"}, "model: checkpoint is 'scores', which makes no model; name a training stage"),
        ({"student": "others"}, "student: "),
        ({"student": {"checkpoint": "trial", "head": "new"}}, "student.head is 'new', which would score with"),
        ({"task": "mlm"}, "task is 'mlm'; heads and neurons are scored by labels of classification, glue, ner or qa"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_job(folder: Path, changes: dict[str, Any], message: str) -> None:
    decoder = with_classes(GPT2Config(vocab_size=200, n_layer=2, n_head=2, n_embd=8, n_positions=64), CLASSES)
    earlier = {
        "pruned": Input(ModelFacts({"": pruned_config(folder)})),
        "decoder": Input(ModelFacts({"": decoder})),
        "scores": Input(),
        "others": Input(ModelFacts({"": other_classes(folder)})),
        "trial": Input(ModelFacts({"": load_config(folder / "trial")})),
    }
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as error:
        stage(folder, **changes).plan(ScalingConfig(), earlier)
    assert "\n" not in str(error.value)
