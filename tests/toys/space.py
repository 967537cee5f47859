"""A small job and a space over it, which the tests of searches share."""

from pathlib import Path

JOB = """\
name: toy
storage: {storage}
stages:
  corpus:
    kind: binarize
    source: {{name: text, path: texts/*.txt}}
    encoding: {{name: classification, labels: [bad, good]}}
    tokenizer: some/folder
  teacher: &train
    kind: train
    corpus: corpus
    task: {{name: classification, metrics: [accuracy]}}
    method: finetune
    student: {{init: checkpoint, checkpoint: {{checkpoint: some/folder, head: new}}}}
    training: {{max_steps: 40, eval_steps: 10}}
  distill:
    <<: *train
    method: {{name: kd, alpha: 0.5, temperature: 4}}
    teachers: [teacher]
  alone: {{<<: *train, seed: 3}}
  evaluate:
    kind: evaluate
    corpus: corpus
    task: {{name: classification, metrics: [accuracy]}}
    models: {{student: distill}}
  others: {{kind: report, trainings: alone}}
  register: {{kind: register, model: distill, name: toy-student, evaluation: evaluate, tags: {{team: a}}}}
"""
SPACE = """\
name: toy-search
job: toy.yaml
stage: distill
space:
  method.temperature: {loguniform: [1, 8]}
  method.alpha: {uniform: [0.1, 1]}
metric: accuracy
mode: max
budget: {trials: 6}
"""


def write_space(folder: Path, text: str = SPACE) -> Path:
    """Write the job and a space beside it; returns the space's file."""
    (folder / "toy.yaml").write_text(JOB.format(storage=folder / "runs"), encoding="utf-8")
    path = folder / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return path
