"""Models pruned by scores that are written by hand; no cluster is needed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from raydistill.config.errors import error_lines
from raydistill.config.sections import ScalingConfig
from raydistill.data.unit_scores import COMBINED, ScoreFacts, write_scores
from raydistill.models.importance import Scores
from raydistill.models.kept_units import kept_of
from raydistill.models.load import load_config, load_model, save_model, stored_head
from raydistill.models.predictions import predict
from raydistill.registry.card import model_card
from raydistill.stages import _models, prune
from raydistill.stages._base import Input, ModelFacts, Run, ScoresFacts, StageContext
from raydistill.stages.register import Config, Stage
from toys.capture import KEY, context_of, save_teacher, train_stage, write_labelled
from toys.classifiers import CLASSIFIERS, toy_labelled_batch
from toys.stark import head_and_neuron_masks, published_folder
from toys.tracker import MemoryTracker
from toys.words import make_tokenizer

HEAD = "sequence_classification"
HEADS = torch.tensor([[5.0, 1.0], [6.0, 2.0], [4.0, 3.0]])
NEURONS = torch.arange(72.0).reshape(3, 24)
"""Of three blocks of 2 heads and 24 neurons, whose first neurons matter least."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("prune")
    write_labelled(found)
    write_own_scores(found, found / "teacher", Scores(HEADS.double(), NEURONS.double()))
    return found


def write_own_scores(folder: Path, model: Path, scores: Scores) -> None:
    """What a score stage leaves in ``scores``."""
    (folder / "scores").mkdir()
    facts = ScoreFacts(
        model="teacher",
        model_folder=str(model),
        model_hash=_models.content_of(model),
        lam=1.0,
        temperature=2.0,
        corpus_hash="c",
        part="validation",
        rows=20,
        task="classification",
    )
    write_scores(folder / "scores", facts, {COMBINED: scores})


def stage(folder: Path, **changes: Any) -> prune.Stage:
    config = {"kind": "prune", "scores": str(folder / "scores"), "sparsity": 50, **changes}
    return prune.Stage("sparse", prune.Config.model_validate(config))


def pruned(folder: Path, output: Path, **changes: Any) -> tuple[dict[str, Any], StageContext]:
    one = stage(folder, **changes)
    context = context_of(one, output)
    return one.run(context), context


def logits(model: Any) -> torch.Tensor:
    return predict(model, toy_labelled_batch("classes"), head=HEAD).logits


def test_the_units_with_the_lowest_scores_of_all_blocks_go_and_the_model_is_smaller(
    folder: Path, tmp_path: Path
) -> None:
    summary, context = pruned(folder, tmp_path)
    kept = kept_of(load_config(tmp_path / "student"))
    assert kept is not None
    assert kept.heads == ((0,), (0,), (0,))
    assert [len(block) for block in kept.neurons] == [0, 12, 24]
    before = sum(one.numel() for one in load_model(folder / "teacher", head=HEAD).parameters())
    model = load_model(tmp_path / "student", head=HEAD)
    # A head of 8 has three times 8 rows of 16 with biases and 8 columns; a neuron a row of 16, a bias and a column.
    # The first block's second layer is gone with its output's bias.
    gone = 3 * (3 * 8 * 17 + 8 * 16) + 36 * 33 + 16
    assert sum(one.numel() for one in model.parameters()) == before - gone == summary["parameters"]
    assert (summary["heads"], summary["neurons"]) == (3, 36)
    assert isinstance(context.tracker, MemoryTracker)
    assert context.tracker.runs[KEY].metrics["parameters"] == [(0, float(before - gone))]
    assert context.tracker.runs[KEY].metrics["sparsity"] == [(0, 50)]


def test_a_pruned_model_says_what_the_full_one_says_with_its_units_masked(folder: Path, tmp_path: Path) -> None:
    # No block loses all: with masks the biases of outputs stay.
    pruned(folder, tmp_path, sparsity=20)
    kept = kept_of(load_config(tmp_path / "student"))
    assert kept is not None
    heads, neurons = torch.zeros(3, 2), torch.zeros(3, 24)
    for number in range(3):
        heads[number, list(kept.heads[number])] = 1
        neurons[number, list(kept.neurons[number])] = 1
    assert 0 < heads.sum() < 6
    teacher = load_model(folder / "teacher", head=HEAD)
    with head_and_neuron_masks(teacher, heads=heads, neurons=neurons):
        expected = logits(teacher)
    found = logits(load_model(tmp_path / "student", head=HEAD))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, logits(teacher), atol=1e-3)


def test_a_pruned_model_with_the_old_names_of_norms_opens_as_one_with_the_new(folder: Path, tmp_path: Path) -> None:
    # Transformers saves a checkpoint with the names that it was opened with.
    pruned(folder, tmp_path)
    expected = logits(load_model(tmp_path / "student", head=HEAD))
    (file,) = (tmp_path / "student").glob("*.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = load_file(file)
    renamed = {re.sub("LayerNorm.(weight|bias)$", lambda found: old[found[0]], name): tensors[name] for name in tensors}
    assert {*renamed} != {*tensors}
    save_file(renamed, file)
    torch.testing.assert_close(logits(load_model(tmp_path / "student", head=HEAD)), expected, atol=0, rtol=0)


def test_nothing_goes_at_0_and_the_files_are_the_models_own(folder: Path, tmp_path: Path) -> None:
    summary, _ = pruned(folder, tmp_path, sparsity=0)
    assert _models.content_of(tmp_path / "student") == _models.content_of(folder / "teacher")
    assert (summary["heads"], summary["neurons"]) == (6, 72)


def test_widths_are_rounded_where_it_is_asked(folder: Path, tmp_path: Path) -> None:
    # Of 72 neurons 25 are 18; eighths of 18, rounded, are two.
    summary, _ = pruned(folder, tmp_path, sparsity=25, multiple_of=8)
    kept = kept_of(load_config(tmp_path / "student"))
    assert kept is not None
    assert [len(block) for block in kept.neurons] == [8, 24, 24]
    assert summary["neurons"] == 56


def test_lineage_tells_what_was_pruned_and_how(folder: Path, tmp_path: Path) -> None:
    lineage = pruned(folder, tmp_path)[0]["lineage"]
    assert lineage["method"] == "prune"
    assert json.loads(lineage["method_options"]) == {"sparsity": 50, "multiple_of": 1, "lam": 1.0}
    assert lineage["teacher"] == "teacher"
    assert lineage["teacher_hash"] == _models.content_of(folder / "teacher")


def test_a_second_call_replaces_what_an_interrupted_one_left(folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".student").mkdir()
    (tmp_path / ".student" / "half").write_text("x")
    first, _ = pruned(folder, tmp_path)
    second, _ = pruned(folder, tmp_path)
    assert first == second
    assert not (tmp_path / "student" / "half").exists()


def test_a_pruned_model_is_registered_in_its_original_shape_with_equal_logits_and_the_card_says_so(
    folder: Path, tmp_path: Path
) -> None:
    summary, _ = pruned(folder, tmp_path)
    context = context_of(stage(folder), tmp_path / "register")
    runs = {"sparse": [Run("sparse", {}, tmp_path, summary)]}
    context = StageContext(**{**context.__dict__, "runs": runs})
    Stage("register", Config.model_validate({"kind": "register", "model": "sparse", "name": "small"})).run(context)
    assert isinstance(context.tracker, MemoryTracker)
    (model,) = context.tracker.models
    assert model["folder"] == str(tmp_path / "register" / "full_shape")
    assert model["tags"]["kept_units"] == "heads 1 1 1, neurons 0 12 24"
    assert int(model["tags"]["pruned_parameters"]) == summary["parameters"]
    batch = toy_labelled_batch("classes")
    plain = AutoModelForSequenceClassification.from_pretrained(model["folder"])
    said = plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"].long()).logits
    torch.testing.assert_close(said, logits(load_model(tmp_path / "student", head=HEAD)), atol=1e-5, rtol=0)
    full = load_model(folder / "teacher", head=HEAD)
    assert sum(one.numel() for one in plain.parameters()) == sum(one.numel() for one in full.parameters())
    card = model_card("small", model["tags"], Path(model["folder"]))
    assert "in its original shape with zeros in place of what was removed" in card
    assert "not smaller" in card
    assert f"{summary['parameters']:,} parameters" in card


def test_the_forecast_is_about_as_large_as_the_pruned_model(folder: Path, tmp_path: Path) -> None:
    summary, _ = pruned(folder, tmp_path, sparsity=20)
    forecast = stage(folder, sparsity=20).plan(ScalingConfig(), {})
    (line,) = forecast.lines
    told = int(re.findall(r"about ([\d,]+) of", line)[0].replace(",", ""))
    assert told == pytest.approx(summary["parameters"], rel=0.1)
    assert kept_of(forecast.makes.configs[""]) is not None
    assert kept_of(stage(folder, sparsity=0).plan(ScalingConfig(), {}).makes.configs[""]) is None


def test_scores_of_a_changed_model_are_refused(folder: Path, tmp_path: Path) -> None:
    save_teacher(tmp_path / "other", seed=3)
    one = stage(folder, model=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"scores are of 'teacher', but the model in '.*other' is another; name the"):
        one.run(context_of(one, tmp_path / "out"))


def test_scores_of_a_model_that_is_gone_are_refused_with_what_to_do(tmp_path: Path) -> None:
    save_teacher(tmp_path / "teacher", seed=3)
    write_own_scores(tmp_path, tmp_path / "teacher", Scores(HEADS.double(), NEURONS.double()))
    (tmp_path / "teacher").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"in '.*teacher', which is gone; name where it lies as model, or score it"):
        pruned(tmp_path, tmp_path / "out")
    summary, _ = pruned(tmp_path, tmp_path / "out", model=str(tmp_path / "moved"))
    assert summary["heads"] == 3


def save_published(folder: Path) -> None:
    """A classifier as StarK's authors published it, whose configuration names a class of theirs."""
    published_folder(folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "architectures": ["BertKD"]}))
    make_tokenizer().save_pretrained(folder)


def save_tokens(folder: Path) -> None:
    """A classifier of tokens."""
    save_model(CLASSIFIERS["bert_tokens"](3).float(), make_tokenizer(), folder)


@pytest.mark.parametrize(("save", "head"), [(save_published, HEAD), (save_tokens, "token_classification")])
def test_a_pruned_model_has_the_head_that_the_model_was_saved_with(
    tmp_path: Path, save: Callable[[Path], None], head: str
) -> None:
    save(tmp_path / "teacher")
    config = load_config(tmp_path / "teacher")
    sizes = [(config.num_hidden_layers, size) for size in (config.num_attention_heads, config.intermediate_size)]
    write_own_scores(tmp_path, tmp_path / "teacher", Scores(*(torch.rand(size).double() for size in sizes)))
    assert kept_of(stage(tmp_path).plan(ScalingConfig(), {}).makes.configs[""]) is not None
    summary, _ = pruned(tmp_path, tmp_path / "out")
    assert stored_head(load_config(tmp_path / "out" / "student")) == head
    model = load_model(tmp_path / "out" / "student", head=head)
    assert sum(one.numel() for one in model.parameters()) == summary["parameters"]


@pytest.mark.parametrize("sparsity", [-1, 100, 250, "many"])
def test_a_level_that_is_no_share_is_refused_with_one_line(folder: Path, sparsity: Any) -> None:
    with pytest.raises(ValueError, match="sparsity") as error:
        stage(folder, sparsity=sparsity)
    assert len(error_lines(error.value)) == 1


def forecasts(folder: Path, tmp_path: Path) -> dict[str, Input]:
    config = load_config(folder / "teacher")
    pruned(folder, tmp_path)
    save_teacher(tmp_path / "short", seed=3, num_layers=2)
    return {
        "scores": Input(ScoresFacts("teacher", config, HEAD, "t")),
        "sparse": Input(ModelFacts({"": load_config(tmp_path / "student")})),
        "short": Input(ModelFacts({"": load_config(tmp_path / "short")})),
        "teacher": Input(ModelFacts({"": config})),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": "teacher"}, "scores is 'teacher', which scores no model; name a score stage"),
        ({"scores": "nowhere"}, "scores: 'nowhere' has no scores.json; name an earlier score stage"),
        ({"scores": "scores", "model": "sparse"}, "the model is already pruned; choose the checkpoint that it was"),
        ({"scores": "scores", "model": "short"}, "model is 'short', but 'scores' has scores of 'teacher', which has"),
        ({"scores": "scores", "multiple_of": 16}, "multiple_of is 16, but heads of 'teacher' are 8 wide, and one"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_job(
    folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        stage(folder, **changes).plan(ScalingConfig(), forecasts(folder, tmp_path))
    assert "\n" not in str(error.value)


def test_a_forecast_of_scores_gives_the_models_tokenizer_on(folder: Path, tmp_path: Path) -> None:
    found = stage(folder, scores="scores", model="teacher").plan(ScalingConfig(), forecasts(folder, tmp_path))
    assert found.makes.tokenizer_hash == "t"


def test_a_pruned_model_teaches_and_starts_students_as_a_whole_but_gives_none_its_layers(
    folder: Path, tmp_path: Path
) -> None:
    pruned(folder, tmp_path)
    sparse, full = str(tmp_path / "student"), str(folder / "teacher")
    of_layers = {"architecture": "bert", "layers": [0, 2]}
    found = train_stage(folder, teachers=[sparse], student={**of_layers, "checkpoint": full})
    assert kept_of(found.plan(ScalingConfig(), {}).makes.configs[""]) is None
    found = train_stage(folder, teachers=[full], student={"init": "checkpoint", "checkpoint": sparse})
    assert kept_of(found.plan(ScalingConfig(), {}).makes.configs[""]) == kept_of(load_config(tmp_path / "student"))
    refused = train_stage(folder, teachers=[sparse], student=of_layers)
    with pytest.raises(
        ValueError, match=r"student\.init is 'layers', but the model that it starts from is pruned; name"
    ):
        refused.plan(ScalingConfig(), {})
