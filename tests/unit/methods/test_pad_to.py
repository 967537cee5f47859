"""Rows that are padded to one width, so that published averages over padding can be repeated."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import mse_loss, normalize

import raydistill as rd
from raydistill.config.named import MethodSpec
from raydistill.config.sections import ScalingConfig
from raydistill.data.corpus import Corpus
from raydistill.data.stream import BatchBuilder, FeedSpec
from toys.capture import train_stage, write_labelled
from toys.classifiers import CLASSIFIERS, toy_labelled_batch
from toys.padded import padded

WIDTH = 40
PADDED = {
    "dynamic_objective": {"positions": "padded", "strategy": "static"},
    "dfa": {"mask_padding": False},
    "cfl": {"mask_padding": False},
}


def spec_of(name: str, **options: Any) -> MethodSpec:
    return MethodSpec.parse({"name": name, **PADDED[name], **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("labelled")
    write_labelled(made)
    return made


def builder_of(folder: Path, method: MethodSpec) -> BatchBuilder:
    return BatchBuilder(FeedSpec.make(str(folder / "corpus" / "train"), "classification", method, seed=1))


def test_the_loss_of_states_is_the_published_mean_over_all_places_of_each_row(folder: Path) -> None:
    """The published formula, written out: means over (S, H) of the states of rows that are 40 places wide."""
    builder = builder_of(folder, spec_of("dynamic_objective", pad_to=WIDTH))
    student, teacher = CLASSIFIERS["bert_classes"](2), CLASSIFIERS["bert_classes"](4, seed=4)
    batch = builder.batch(np.array([3, 7, 20]), epoch=0, step=0)
    method = spec_of("dynamic_objective", pad_to=WIDTH).build(student, [teacher])
    _, terms = method(batch, method.denominators(batch))
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"].long()}
    own, others = (model.eval()(**inputs, output_hidden_states=True).hidden_states for model in (student, teacher))
    assert own[0].shape[:2] == (3, WIDTH)
    assert int(batch["lengths"].max()) < WIDTH
    expected = sum(
        mse_loss(normalize(one, dim=-1), normalize(others[2 * number], dim=-1)) for number, one in enumerate(own)
    )
    assert terms["rep"].item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("name", PADDED)
def test_every_row_is_as_wide_as_asked_and_its_padding_is_the_tokenizers(folder: Path, name: str) -> None:
    narrow, wide = (builder_of(folder, spec_of(name, **more)) for more in ({}, {"pad_to": WIDTH}))
    rows = np.arange(5)
    before, batch = (builder.batch(rows, epoch=0, step=0) for builder in (narrow, wide))
    assert batch["input_ids"].shape == (5, WIDTH)
    assert before["input_ids"].shape[1] < WIDTH
    pad_id = Corpus.open(str(folder / "corpus" / "train")).pad_id
    assert set(batch["input_ids"][~batch["attention_mask"]].tolist()) == {pad_id}
    assert torch.equal(batch["input_ids"][batch["attention_mask"]], before["input_ids"][before["attention_mask"]])


@pytest.mark.parametrize("name", ["dynamic_objective", "dfa"])
def test_rows_of_one_width_are_coupled_no_more(name: str) -> None:
    found = [spec_of(name, **more).requirements.execution.batch_dependent for more in ({}, {"pad_to": WIDTH})]
    assert found == [True, False]


@pytest.mark.parametrize("name", PADDED)
def test_a_method_without_a_width_is_written_as_before(name: str) -> None:
    assert "pad_to" not in spec_of(name).dump()
    assert spec_of(name, pad_to=WIDTH).dump()["pad_to"] == WIDTH


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dfa", {"mask_padding": True}, "no padding is compared; write mask_padding: false"),
        ("dynamic_objective", {"positions": "valid"}, "no padding is compared; write positions: padded"),
        ("dynamic_objective", {"rep_alpha": 0.0}, "no padding is compared"),
        ("cfl", {"pad_to": 0}, "pad_to is 0; it must be at least 1"),
    ],
)
def test_a_width_that_does_nothing_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_of(name, **{"pad_to": WIDTH, **options})


@pytest.mark.parametrize(("pad_to", "is_refused"), [(39, True), (40, False), (41, True)])
def test_the_width_is_between_the_longest_row_and_the_models_places(
    folder: Path, pad_to: int, is_refused: bool
) -> None:
    stage = train_stage(folder, method=spec_of("dynamic_objective", pad_to=pad_to).dump())
    if is_refused:
        message = f"method.pad_to is {pad_to}; the corpus has rows of up to 40 tokens, and the models have 40 positions"
        with pytest.raises(ValueError, match=message):
            stage.plan(ScalingConfig(num_workers=1), {})
    else:
        stage.plan(ScalingConfig(num_workers=1), {})


def test_padded_batches_of_another_width_are_refused_outside_of_jobs() -> None:
    student, teacher = CLASSIFIERS["bert_classes"](1), CLASSIFIERS["bert_classes"](2)
    batch = toy_labelled_batch("classes")
    width = batch["input_ids"].shape[1]
    for pad_to in (width, width + 1):
        made = rd.DynamicObjective(positions="padded", pad_to=pad_to).build(student, [teacher])
        if pad_to == width:
            assert math.isfinite(made(padded(batch, made.distiller.head))[0].item())
        else:
            with pytest.raises(ValueError, match=f"pad_to is {pad_to}, but rows have {width} places"):
                made(padded(batch, made.distiller.head))
