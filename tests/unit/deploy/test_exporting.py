"""Exports answer as the model does, int8 ones nearly, and are smaller; what cannot be exported is refused."""

import json

import pytest
import torch

from raydistill.deploy import exporting
from raydistill.deploy.exported import ExportedModel, export_files, is_exported
from raydistill.deploy.exporting import CALIBRATED, export_model
from raydistill.deploy.predictor import Predictor
from raydistill.models.kept_units import KeptUnits
from raydistill.models.load import load_model, load_tokenizer, save_model
from raydistill.models.predictions import at_labels, predict
from raydistill.models.pruning import pruned
from raydistill.user_error import UserError
from toys.answering import save_answering
from toys.checkpoint import save_student
from toys.words import make_tokenizer
from toys.zoo import PACKED, toy

HEADS = (
    "sequence_classification",
    *(
        pytest.param(head, marks=pytest.mark.slow)
        for head in ("token_classification", "question_answering", "masked_lm")
    ),
)
TEXTS = ["w5 w6 w7 [MASK]", "w8", "w9 w10 w11 w12 w13"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


def batch_of(model, lengths):
    return exporting._sample(model, make_tokenizer(), lengths)


def logits(model, head, batch):
    with torch.no_grad():
        if head in ("masked_lm", "causal_lm"):
            states, (weight, bias) = at_labels(model, batch)
            return states if weight is None else torch.nn.functional.linear(states, weight, bias)
        return predict(model, batch, head=head).logits


@pytest.mark.parametrize("head", HEADS)
def test_a_float32_export_has_the_logits_of_the_model_at_any_number_and_length_of_rows(folder, head):
    source = save_answering(folder / head, head)
    export_model(source, folder / f"{head}-onnx", "onnx")
    model, exported = load_model(source, head=head), ExportedModel(folder / f"{head}-onnx", head=head)
    for lengths in ((2,), (40, 3), (7, 7, 7, 1)):
        batch = batch_of(model, lengths)
        expected, found = logits(model, head, batch), exported.logits(batch)
        assert found.shape == expected.shape
        assert float((found - expected)[expected > -1e29].abs().max()) < 1e-4


def test_an_export_predicts_as_the_model_does(folder):
    head = "sequence_classification"
    source, target = save_answering(folder / "classes", head), folder / "classes-onnx"
    export_model(source, target, "onnx")
    pair = {"text": "w5 w6", "text_pair": "w7 w8"}
    expected, found = (Predictor(one).predict([*TEXTS, pair]) for one in (source, target))
    assert found["prediction"] == expected["prediction"]
    for name in expected:
        if name != "prediction":
            assert found[name] == pytest.approx(expected[name], abs=1e-5)


def test_the_export_of_a_student_like_the_demos_fills_masks_as_it_does(folder):
    source, target = save_student(folder / "student"), folder / "student-onnx"
    export_model(source, target, "onnx")
    expected, found = (Predictor(one).predict(TEXTS) for one in (source, target))
    assert found["prediction"] == expected["prediction"]
    assert [len(one) for one in found["prediction"]] == [1, 0, 0]
    assert found["probability"][0] == pytest.approx(expected["probability"][0], abs=1e-5)


@pytest.mark.slow
def test_an_openvino_export_is_near_the_model_and_smaller(folder):
    for package in ("openvino", "nncf"):
        pytest.importorskip(package, reason=f"{package} is not installed; pip install 'raydistill[export,openvino]'")
    head = "sequence_classification"
    source = save_answering(folder / "openvino-source", head)
    model = load_model(source, head=head)
    target = folder / "openvino"
    export_model(source, target, "openvino-int8", rows=[batch_of(model, (5, 9, 12)), batch_of(model, (30, 4))])
    assert is_exported(target)
    assert [file.suffix for file in export_files(target)] == [".bin", ".xml"]
    assert not list(target.glob("*.onnx"))
    batch = batch_of(model, (11, 6, 3))
    expected, found = logits(model, head, batch), ExportedModel(target, head=head).logits(batch)
    assert 0 < float((found - expected).abs().max()) < 0.1 * float(expected.abs().max())
    assert Predictor(target).predict(TEXTS)["prediction"] == Predictor(source).predict(TEXTS)["prediction"]
    (weights,) = target.glob("*.bin")
    assert weights.stat().st_size < (source / "model.safetensors").stat().st_size


@pytest.mark.parametrize("to", ["onnx-int8", pytest.param("onnx-int8-static", marks=pytest.mark.slow)])
def test_an_int8_export_is_near_the_model_and_its_matrices_are_int8(folder, to):
    head = "sequence_classification"
    source = save_answering(folder / f"quantized-{to}-source", head)
    model = load_model(source, head=head)
    rows = [batch_of(model, (5, 9, 12)), batch_of(model, (30, 4))]
    export_model(source, folder / f"quantized-{to}", to, rows=rows if to in CALIBRATED else ())
    exported = ExportedModel(folder / f"quantized-{to}", head=head)
    batch = batch_of(model, (11, 6, 3))
    expected, found = logits(model, head, batch), exported.logits(batch)
    assert 0 < float((found - expected).abs().max()) < 0.1 * float(expected.abs().max())
    import onnx

    (graph,) = (onnx.load(str(file)).graph for file in export_files(folder / f"quantized-{to}"))
    kinds = {tuple(one.dims): one.data_type for one in graph.initializer}
    assert onnx.TensorProto.INT8 in {kind for dims, kind in kinds.items() if dims[-1:] == (24,) or dims[:1] == (24,)}


@pytest.mark.slow
def test_a_pruned_model_is_exported_with_its_logits(folder):
    head = "sequence_classification"
    source = save_answering(folder / "full", head)
    kept = KeptUnits(heads=((0,), (0, 1)), neurons=(tuple(range(24)), tuple(range(5))))
    save_model(pruned(load_model(source, head=head), kept), load_tokenizer(source), folder / "pruned")
    export_model(folder / "pruned", folder / "pruned-onnx", "onnx")
    expected, found = (Predictor(folder / name).predict(TEXTS) for name in ("pruned", "pruned-onnx"))
    assert found["probability.bad"] == pytest.approx(expected["probability.bad"], abs=1e-5)


def test_the_order_of_classes_that_is_asked_for_is_that_of_the_logits(folder):
    head = "sequence_classification"
    target = folder / "classes-onnx"
    if not is_exported(target):
        export_model(save_answering(folder / "ordered", head), target, "onnx")
    batch = batch_of(load_model(save_answering(folder / "ordered", head), head=head), (4, 3))
    plain, turned = (ExportedModel(target, head=head, order=order).logits(batch) for order in ((), (2, 0, 1)))
    assert torch.equal(turned, plain[:, [2, 0, 1]])


def test_a_graph_that_differs_from_the_model_is_refused(folder, monkeypatch, tmp_path):
    source = save_answering(folder / "differing", "sequence_classification")
    monkeypatch.setattr(ExportedModel, "logits", lambda self, batch: torch.zeros(batch.num_rows, 3))
    with pytest.raises(UserError, match=r"the exported graph's logits differ from the model's by .*; this bert cannot"):
        export_model(source, tmp_path / "new", "onnx")


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("onnx-int4", "format is 'onnx-int4'"),
        ("onnx-int8-static", "format is 'onnx-int8-static', which needs calibration rows; name a corpus, or take"),
    ],
)
def test_a_format_that_cannot_be_made_is_refused_before_anything_is_loaded(tmp_path, to, message):
    with pytest.raises(UserError, match=message):
        export_model(tmp_path / "none", tmp_path / "new", to)
    assert not (tmp_path / "new").exists()


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch, tmp_path):
    from raydistill.deploy import exported

    monkeypatch.setattr(exported, "find_spec", lambda name: None)
    with pytest.raises(UserError) as raised:
        export_model(tmp_path, tmp_path / "new", "onnx")
    assert str(raised.value) == (
        "format is 'onnx', which needs onnx, onnxscript, onnxruntime; pip install 'raydistill[export]'"
    )


def test_a_damaged_graph_is_told_in_one_line(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"model.onnx' cannot be opened \(.*\); export the model again"):
        ExportedModel(tmp_path, head="sequence_classification")


@pytest.mark.slow
@pytest.mark.parametrize("family", PACKED)
def test_every_packed_family_is_exported_with_its_logits(family, tmp_path):
    # Their blocks are those of transformers, so one head each tells; export_model compares the logits.
    model = toy(family).float()
    save_model(model, make_tokenizer(), tmp_path / "model")
    export_model(tmp_path / "model", tmp_path / "new", "onnx")
    assert json.loads((tmp_path / "new" / "config.json").read_text())["model_type"] == model.config.model_type
