"""Which checkpoints an evaluation scores, and what it leaves, with toy models on a toy corpus."""

from pathlib import Path

import pytest
import torch

from raydistill.config.sections import ScalingConfig
from raydistill.evaluation import evaluate_models
from raydistill.stages import evaluate
from raydistill.stages._base import CorpusForecast, Forecast, Run, StageContext
from raydistill.tracking.tracker import MemoryTracker
from toy_corpus import VOCABULARY, random_rows, write_corpus
from toy_models import toy_bert, toy_distilbert

KEY = "toy/evaluate"
MODELS = {"student": "distill", "student before": "distill@initial", "again": "distill@initial"}


def stage(**models: str) -> evaluate.Stage:
    config = evaluate.Config(kind="evaluate", corpus="corpus", models={**models, **MODELS}, max_rows=20, batch_size=8)
    return evaluate.Stage("evaluate", config)


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    write_corpus(tmp_path / "corpus" / "held_out", random_rows(30))
    toy_bert(2, dtype=torch.float32).save_pretrained(tmp_path / "teacher")
    runs = []
    for seed in (1, 2):
        output = tmp_path / f"distill-{seed}"
        for part, model_seed in {"initial": 7, "student": seed}.items():
            toy_distilbert(1, seed=model_seed, dtype=torch.float32).save_pretrained(output / part)
        runs.append(Run(f"distill[seed={seed}]", {"seed": seed}, output, {}))
    tracker = MemoryTracker()
    tracker.start_run(KEY)
    (tmp_path / "out").mkdir()
    corpus = Run("corpus", {}, tmp_path / "corpus", {})
    return StageContext(
        job_name="toy",
        seed=5,
        scaling=ScalingConfig(),
        output=tmp_path / "out",
        outputs={"corpus": corpus.output},
        summaries={},
        tracker=tracker,
        run_key=KEY,
        runs={"corpus": [corpus], "distill": runs},
    )


def test_every_run_of_a_stage_is_an_entry_with_its_own_figures(
    ray_cluster: None, context: StageContext, tmp_path: Path
) -> None:
    teacher = str(tmp_path / "teacher")
    entries = stage(teacher=teacher).run(context)["entries"]
    assert [(entry["model"], entry["assignment"], entry["reference"]) for entry in entries] == [
        ("teacher", {}, teacher),
        *(("student", {"seed": seed}, "distill") for seed in (1, 2)),
        *(("student before", {"seed": seed}, "distill@initial") for seed in (1, 2)),
        *(("again", {"seed": seed}, "distill@initial") for seed in (1, 2)),
    ]
    folders = {"teacher": teacher} | {str(seed): str(tmp_path / f"distill-{seed}" / "student") for seed in (1, 2)}
    expected = evaluate_models(
        folders, str(tmp_path / "corpus" / "held_out"), task={"name": "mlm"}, seed=5, max_rows=20, batch_size=8
    )
    assert [entry["figures"]["loss"] for entry in entries[:3]] == pytest.approx(
        [figures["loss"] for figures in expected.values()], abs=1e-5
    )
    assert entries[3]["figures"] == entries[5]["figures"] == entries[4]["figures"]
    assert "| student | 2 |" in (context.output / "comparison.md").read_text()
    assert isinstance(context.tracker, MemoryTracker)
    tracked = context.tracker.runs[KEY].metrics
    losses = [entry["figures"]["loss"] for entry in entries if entry["model"] == "student"]
    assert tracked["student/loss"] == [(0, pytest.approx(sum(losses) / 2))]
    assert tracked["student/loss_spread"][0][1] > 0
    assert "teacher/loss_spread" not in tracked


def test_tracked_names_have_only_signs_that_the_store_takes() -> None:
    groups = evaluate.group([evaluate.Entry("student", {"a.temperature": 2, "b.layers": "0-2"}, {"loss": 1.0})])
    assert evaluate._tracked(groups) == {"student temperature:2 layers:0-2/loss": 1.0}


def corpus_forecast(num_runs: int) -> dict[str, Forecast]:
    corpus = CorpusForecast("mlm", VOCABULARY, 40)
    config = toy_distilbert(1).config
    return {
        "corpus": Forecast(corpus=corpus, num_runs=num_runs),
        "distill": Forecast(models={"": config, "@initial": config}),
    }


def test_the_forecast_names_models_and_metrics() -> None:
    forecast = stage().check(ScalingConfig(), corpus_forecast(1))
    assert forecast.compared == tuple(MODELS)
    assert forecast.metrics == ("loss", "perplexity", "accuracy")


def test_a_corpus_with_several_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="corpus is 'corpus', which has 2 runs; name one of them"):
        stage().check(ScalingConfig(), corpus_forecast(2))
