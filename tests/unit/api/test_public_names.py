"""What ``import raydistill as rd`` offers, what it imports, and what its docstrings say and show."""

import doctest
import inspect
import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import raydistill as rd
from raydistill import discovery
from toys.classifiers import CLASSIFIERS, toy_labelled_batch
from toys.models import toy_batch, toy_bert, toy_distilbert
from toys.padded import padded

ROOT = Path(__file__).parents[3]
RUNTIME = {"ray", "mlflow", "deepspeed", "datasets", "pyarrow", "pandas", "scipy", "scikit-learn"}
LIGHT = {"raydistill", "torch", "transformers", "tokenizers", "safetensors", "numpy"}
SITES = {
    "interchange_variable_mappings": [
        {"teacher_variable_names": ["$L:0$H:[0:2]$[0:8]"], "student_variable_names": ["$L:0$H:[0:2]$[0:8]"]}
    ]
}
METHODS = [discovery.class_name(name) for name in discovery.names("raydistill.methods")]
MODULES = ("losses", "hf", "tasks", "sources", "sections")
PUBLIC = [*rd.__all__, *(f"{module}.{name}" for module in MODULES for name in getattr(rd, module).__all__)]

SETTING = """
import sys, time
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments
before, start = set(sys.modules), time.process_time()
import raydistill as rd
names = rd.losses, rd.KD, rd.student_from_layers, rd.losses.kl_divergence
seconds, new = time.process_time() - start, sorted({name.partition(".")[0] for name in set(sys.modules) - before})

from toys.trainer import arguments, rows_of
from toys.words import make_tokenizer

torch.manual_seed(0)
folder = sys.argv[1]
loader = [{"input_ids": torch.full((4, 6), 5), "attention_mask": torch.ones(4, 6), "labels": torch.arange(4) % 3}] * 2
s, t = torch.zeros(2, 3), torch.ones(2, 3)
train = validation = rows_of("sequence_classification")
tokenizer, args = make_tokenizer(), arguments(folder)
"""
REPORT = """
import json
print(json.dumps({"seconds": seconds, "new": new, "loss": loss.item(), "terms": sorted(terms)}))
"""


def light_installation(folder):
    """A folder with links to what `pip install raydistill` brings, and with nothing else."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    waiting, found = [Requirement(text).name for text in declared], set()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        distribution = metadata.distribution(name)
        needs = [Requirement(text) for text in distribution.requires or ()]
        waiting += [one.name for one in needs if one.marker is None or one.marker.evaluate({"extra": ""})]
        for part in {file.parts[0] for file in distribution.files or ()} - {".."}:
            if not (folder / part).exists():
                (folder / part).symlink_to(distribution.locate_file(part))
    return found


def documented():
    """The first block of code of the page about methods in Python."""
    page = (ROOT / "docs" / "guides" / "python.md").read_text(encoding="utf-8")
    return page.partition("```python\n")[2].partition("```")[0]


def public(name):
    found = rd
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.fixture
def shown():
    """What the examples in docstrings may use."""
    student, teacher, other_teacher = (CLASSIFIERS["bert_classes"](depth) for depth in (1, 2, 3))
    return {
        "rd": rd,
        "torch": torch,
        "student": student,
        "teacher": teacher,
        "other_teacher": other_teacher,
        "batch": padded(toy_labelled_batch("classes"), "sequence_classification"),
        "masked_student": toy_distilbert(1),
        "masked_teacher": toy_bert(2),
        "masked_batch": padded(toy_batch(), "masked_lm"),
        "sites": SITES,
    }


def test_every_method_has_a_public_class():
    assert set(METHODS) <= set(rd.__all__)
    assert {"KD", "PatientKD", "CausalTask", "Muki", "VKD", "UHC", "DFA", "CFL", "DynamicTeacher"} <= set(METHODS)


def test_all_names_can_be_imported_and_listed():
    assert set(rd.__all__) <= set(dir(rd))
    everything = {}
    exec("from raydistill import *", everything)
    assert set(rd.__all__) <= set(everything)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_docstrings_with_shapes_errors_source_and_an_example(name):
    documentation = public(name).__doc__
    for word in ("hape", "Raises", "ource", ">>>"):
        assert word in documentation, word
    assert any(unit in documentation for unit in ("nats", "unit", "robabilit", "eights"))


@pytest.mark.parametrize("name", PUBLIC)
def test_the_examples_of_docstrings_run(name, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Or DeepSpeed, which accelerate imports where it is installed, tells which device it found.
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    example = doctest.DocTestParser().get_doctest(public(name).__doc__, shown, name, None, 0)
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL)
    assert example.examples
    assert runner.run(example, out=report.append).failed == 0, "".join(report)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_the_options_of_its_configuration_and_no_others(name):
    method = public(name)
    config = discovery.load("raydistill.methods", method.name).Config
    assert list(inspect.signature(method).parameters) == list(inspect.signature(config).parameters)
    with pytest.raises(ValueError, match=r"^option is 'no_such'; "):
        method(no_such=1)


def test_the_documentation_of_a_method_has_its_options_with_their_meaning():
    documentation = rd.PatientKD.__doc__
    for words in (
        "Source: Sun et al. 2019",
        "beta: float = 100.0",
        "The weight of the distance of CLS states",
        "alpha: ",
    ):
        assert words in documentation


def test_lists_are_taken_for_tuples():
    assert rd.PatientKD(student_layers=[0], teacher_layers=[1]).config.student_layers == (0,)
    assert repr(rd.VKD(temperature=2.0)) == "VKD(kd_alpha=1.0, temperature=2.0)"


def test_the_documented_block_runs_in_the_light_installation_and_is_imported_in_under_a_second(tmp_path):
    packages, model = tmp_path / "packages", tmp_path / "model"
    packages.mkdir()
    assert not light_installation(packages) & RUNTIME
    CLASSIFIERS["bert_classes"](9, dtype=torch.float32).save_pretrained(model)
    # Without the site packages of this environment.
    done = subprocess.run(
        [sys.executable, "-S", "-c", "\n".join((SETTING, documented(), REPORT)), str(model)],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT / 'tests'}:{packages}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["new"]) - sys.stdlib_module_names <= LIGHT
    assert found["terms"] == ["ce", "kd"]
    assert found["loss"] > 0
    # Of this process on a core, which other processes of the machine do not lengthen.
    assert found["seconds"] < 1
