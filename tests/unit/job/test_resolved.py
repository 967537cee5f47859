"""The resolved job that is written beside a job's outputs."""

import hashlib

import yaml

from raydistill.config import yaml_text
from raydistill.job.load import load_job
from raydistill.job.record import job_folder
from raydistill.job.run import _write_resolved


def test_words_that_look_like_numbers_are_read_as_words_again_by_both_versions_of_yaml(tmp_path):
    train = {"kind": "train", "corpus": "1e5", "method": "finetune"}
    student = {"init": "checkpoint", "checkpoint": "on"}
    raw = {
        "name": "1e5",
        "description": "0x1f",
        "storage": str(tmp_path),
        "stages": {"adapt": {**train, "student": student}},
    }
    job = load_job(raw)
    job_folder(job).mkdir(parents=True)
    path = _write_resolved(job, job_folder(job))
    text = path.read_text(encoding="utf-8")
    assert yaml_text.parse(text, source="resolved.yaml") == yaml.safe_load(text) == job.dump()
    assert (job.dump()["name"], job.dump()["description"]) == ("1e5", "0x1f")
    assert path.name == f"resolved-{hashlib.sha256(text.encode()).hexdigest()[:8]}.yaml"
    assert (path.parent / "resolved.yaml").read_text(encoding="utf-8") == text
