import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import torch
import transformers
from transformers import AutoModelForMaskedLM

from raydistill.batch import collate
from raydistill.models.load import save_model
from raydistill.models.padding import write_padding
from raydistill.models.predictions import predict
from raydistill.registry.client import Registry
from raydistill.registry.reference import ModelReference
from raydistill.tasks._pair_rows import encode_pairs
from raydistill.tracking.writer import MlflowWriter, Store
from toys.checkpoint import save_student, toy_tokenizer
from toys.classifiers import CLASSES, CLASSIFIERS
from toys.families import toy_gpt2
from toys.words import make_tokenizer

KEY = "job/register"
# Runs where importing this package fails; prints nothing, saves what both ways of loading answer.
LOAD = """
import sys
sys.modules["raydistill"] = None
import mlflow, torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
# As in the test itself: equal to the bit needs the same number of threads.
torch.set_num_threads(1)
uri, name, target = sys.argv[1:]
mlflow.set_tracking_uri(uri)
ids = torch.tensor([[2, 7, 4, 9, 3]])
pipeline = mlflow.transformers.load_model(f"models:/{name}@candidate")
folder = mlflow.artifacts.download_artifacts(f"models:/{name}@candidate") + "/model"
plain = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
with torch.no_grad():
    answers = [pipeline.model.eval()(ids.to(pipeline.model.device)).logits.cpu(), plain(ids).logits]
words = [loaded("w7 w9", add_special_tokens=False)["input_ids"] for loaded in (pipeline.tokenizer, tokenizer)]
torch.save({"logits": answers, "words": words, "best": pipeline("w7 [MASK] w9")[0]["token"]}, target)
"""


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    root = tmp_path_factory.mktemp("store")
    return Store(f"sqlite:///{root / 'mlflow.db'}", (root / "artifacts").as_uri(), "experiment")


@pytest.fixture(scope="module")
def writer(store, tmp_path_factory) -> MlflowWriter:
    writer = MlflowWriter(store, tmp_path_factory.mktemp("spool") / "runs.json")
    start(writer, KEY)
    return writer


def start(writer: MlflowWriter, key: str) -> str:
    record = {"op": "start_run", "key": key, "time": 1, "name": key, "parent": None, "tags": {}}
    return writer.deliver({**record, "resume": False, "token": key})


def register(
    writer: MlflowWriter, folder: Path, *, key: str = KEY, name: str = "student", alias: str = "candidate"
) -> int:
    record = {"op": "register_model", "key": key, "time": 5, "folder": str(folder), "name": name, "alias": alias}
    return writer.deliver({**record, "tags": {"method": "causal"}, "metrics": {"loss": 2.5}, "task": None})


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    return save_student(tmp_path_factory.mktemp("student"))


@pytest.mark.usefixtures("one_thread")
def test_a_registered_student_gives_its_logits_where_this_package_is_not_installed(writer, store, student, tmp_path):
    register(writer, student, name="exact")
    target = tmp_path / "answers.pt"
    subprocess.run([sys.executable, "-c", LOAD, store.uri, "exact", str(target)], check=True, cwd=tmp_path)
    answers = torch.load(target, weights_only=True)
    model = AutoModelForMaskedLM.from_pretrained(student).eval()
    with torch.no_grad():
        expected = model(torch.tensor([[2, 7, 4, 9, 3]])).logits
    assert [torch.equal(logits, expected) for logits in answers["logits"]] == [True, True]
    assert answers["words"] == [[7, 9], [7, 9]]


def test_a_registered_decoder_generates(writer, tmp_path):
    model = toy_gpt2(2, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    toy_tokenizer().save_pretrained(tmp_path)
    number = register(writer, tmp_path, name="decoder")
    source = writer._client.get_model_version("decoder", str(number)).source
    logged = writer._client.get_logged_model(source.removeprefix("models:/"))
    pipeline = mlflow.transformers.load_model(logged.artifact_location)
    ids = torch.tensor([[7, 9]])
    with torch.no_grad():
        expected = model.eval()(ids).logits
        assert torch.equal(pipeline.model.eval()(ids.to(pipeline.model.device)).logits.cpu(), expected)
    assert pipeline("w7 w9", max_new_tokens=1, do_sample=False, return_full_text=False)


def test_a_registered_decoder_classifies_padded_rows_that_end_with_the_padding_token_as_it_does_here(writer, tmp_path):
    model, tokenizer = CLASSIFIERS["gpt2_classes"](2, dtype=torch.float32).eval(), make_tokenizer()
    tokenizer.pad_token = "[SEP]"
    write_padding(model.config, tokenizer, head="sequence_classification")
    save_model(model, tokenizer, tmp_path)
    number = register(writer, tmp_path, name="padded")
    source = writer._client.get_model_version("padded", str(number)).source
    location = writer._client.get_logged_model(source.removeprefix("models:/")).artifact_location
    texts = ["w7 w9 w11 w30", "w8", "w12 w13 [SEP]", ""]
    classify = mlflow.transformers.load_model(location)
    answers = classify(texts, batch_size=4, top_k=None)
    found = [[{one["label"]: one["score"] for one in answer}[name] for name in CLASSES] for answer in answers]
    rows = [row.ids for row in encode_pairs([{"text": text} for text in texts], tokenizer, max_length=None)]
    batch = collate(rows, range(len(rows)), pad_id=0)
    with torch.no_grad():
        expected = predict(model, batch, head="sequence_classification").logits.softmax(-1)
    torch.testing.assert_close(torch.tensor(found), expected, atol=1e-6, rtol=0)


# Like LOAD, of any head: the answer of the pipeline's model and of the plain one, and what the pipeline says.
LOAD_ANY = """
import sys
sys.modules["raydistill"] = None
import mlflow, torch, transformers
torch.set_num_threads(1)
uri, name, auto, target = sys.argv[1:]
mlflow.set_tracking_uri(uri)
ids = torch.tensor([[2, 7, 4, 9, 3]])
pipeline = mlflow.transformers.load_model(f"models:/{name}@candidate")
folder = mlflow.artifacts.download_artifacts(f"models:/{name}@candidate") + "/model"
plain = getattr(transformers, auto).from_pretrained(folder, local_files_only=True).eval()
with torch.no_grad():
    outputs = [pipeline.model.eval()(ids.to(pipeline.model.device)), plain(ids)]
answers = [[value.cpu() for value in output.to_tuple()] for output in outputs]
said = pipeline("w7 w9") if "Question" not in auto else None
torch.save({"answers": answers, "names": plain.config.id2label, "said": str(said)}, target)
"""


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("kind", "auto"),
    [
        ("distilbert_classes", "AutoModelForSequenceClassification"),
        ("bert_tokens", "AutoModelForTokenClassification"),
        ("bert_spans", "AutoModelForQuestionAnswering"),
    ],
)
def test_a_registered_classifier_keeps_its_classes_where_this_package_is_not_installed(
    writer, store, tmp_path, kind, auto
):
    model = CLASSIFIERS[kind](2, dtype=torch.float32).eval()
    model.save_pretrained(tmp_path / "student")
    toy_tokenizer().save_pretrained(tmp_path / "student")
    register(writer, tmp_path / "student", name=kind)
    target = tmp_path / "answers.pt"
    subprocess.run([sys.executable, "-c", LOAD_ANY, store.uri, kind, auto, str(target)], check=True, cwd=tmp_path)
    found = torch.load(target, weights_only=True)
    # Opened alike: weights that are mapped from a file may lie where a processor adds up in another order.
    opened = getattr(transformers, auto).from_pretrained(tmp_path / "student").eval()
    with torch.no_grad():
        expected = opened(torch.tensor([[2, 7, 4, 9, 3]])).to_tuple()
    assert [list(map(torch.equal, answer, expected)) for answer in found["answers"]] == [[True] * len(expected)] * 2
    if kind != "bert_spans":
        assert found["names"] == dict(enumerate(CLASSES))
        assert any(name in found["said"] for name in CLASSES)


def test_a_version_carries_its_tags_run_and_metrics(writer, store, student):
    number = register(writer, student, name="tagged")
    client = writer._client
    version = client.get_model_version("tagged", str(number))
    assert version.tags["method"] == "causal"
    assert version.run_id == writer._runs[KEY]
    logged = client.get_logged_model(version.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in logged.metrics} == {"loss": 2.5}


@pytest.mark.parametrize("name", ["once", 'it\'s "once"'])
def test_the_same_student_of_a_run_is_registered_once(writer, store, student, name):
    assert register(writer, student, name=name) == 1
    assert register(writer, student, name=name, alias="champion") == 1
    assert int(writer._client.get_model_version_by_alias(name, "champion").version) == 1
    assert Registry(store.uri).find(ModelReference(name)).number == 1


@pytest.mark.parametrize("step", ["log_model_artifacts", "create_model_version"])
def test_an_interrupted_registration_goes_on_with_the_model_it_logged(writer, student, monkeypatch, step):
    key = f"job/{step}"
    run_id = start(writer, key)

    def interrupt(*arguments, **options):
        raise ConnectionError("the server is away")

    with monkeypatch.context() as patch:
        patch.setattr(writer._client, step, interrupt)
        with pytest.raises(ConnectionError):
            register(writer, student, key=key, name=step)
    assert register(writer, student, key=key, name=step) == 1
    experiment = writer._client.get_run(run_id).info.experiment_id
    (model,) = writer._client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'")
    assert model.status == "READY"
    assert len(writer._client.get_metric_history(run_id, "loss")) == 1


def test_other_content_or_another_run_makes_a_new_version(writer, student, tmp_path):
    start(writer, "job/again")
    assert register(writer, student, name="many") == 1
    assert register(writer, student, name="many", key="job/again") == 2
    assert register(writer, save_student(tmp_path, seed=7), name="many") == 3
    assert int(writer._client.get_model_version_by_alias("many", "candidate").version) == 3


def test_a_folder_without_a_tokenizer_is_refused(writer, student, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no tokenizer_config\.json"):
        register(writer, tmp_path)


def test_registering_asks_no_host(writer, student, monkeypatch):
    asked = []

    def refuse(*arguments, **options):
        # Recorded, because MLflow goes on when its questions to the hub fail.
        asked.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)
    assert register(writer, student, name="offline") == 1
    assert asked == []


def test_no_license_file_points_at_a_hub_page(writer, student):
    version = writer._client.get_model_version("student", str(register(writer, student)))
    logged = writer._client.get_logged_model(version.source.removeprefix("models:/"))
    folder = Path(logged.artifact_location.removeprefix("file://"))
    assert (folder / "MLmodel").is_file()
    assert not (folder / "LICENSE.txt").exists()
