"""The README is short, and what it shows runs."""

import re

import torch

from raydistill.discovery import names
from raydistill.job.load import load_job
from toys.classifiers import CLASSIFIERS
from toys.pages import ROOT, blocks, fragments

README = ROOT / "README.md"


def block(kind):
    (found,) = [one for one in blocks(README) if one.kind == kind]
    return found


def test_it_has_at_most_150_lines():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_its_twelve_lines_of_yaml_are_a_job_from_texts_to_a_registered_student():
    assert len(block("yaml").text.splitlines()) == 12
    stages = load_job(fragments(block("yaml"))).config.stages
    assert [stage.kind for stage in stages.values()] == ["binarize", "train", "train", "evaluate", "register"]


def test_its_ten_lines_of_python_train_a_student(tmp_path):
    assert len(block("python").text.strip().splitlines()) == 10
    CLASSIFIERS["bert_classes"](9, dtype=torch.float32).save_pretrained(tmp_path)
    rows = {"input_ids": torch.full((4, 6), 5), "attention_mask": torch.ones(4, 6), "labels": torch.arange(4) % 3}
    given = {"torch": torch, "folder": tmp_path, "loader": [rows] * 2}
    exec(block("python").text, given)
    assert sorted(given["terms"]) == ["ce", "kd"]
    assert given["loss"] > 0


def test_it_leads_to_the_page_of_every_method():
    linked = set(re.findall(r"docs/methods/(\w+)\.md", README.read_text(encoding="utf-8")))
    assert {*names("raydistill.methods"), "sparse_teachers"} <= linked
