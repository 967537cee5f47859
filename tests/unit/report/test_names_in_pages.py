"""Names of users in cards, tables and terminals, where they are text and nothing else; of pages see test_page.py."""

import json
from pathlib import Path

from raydistill import names
from raydistill.job.load import load_job
from raydistill.job.run import JobResult
from raydistill.job.summary import summary_lines
from raydistill.registry.card import model_card
from raydistill.registry.student import FiguresRow
from raydistill.report.tables import Entry, group, markdown

SCRIPT = "<script>alert(1)</script>"
NAMES = [SCRIPT, "a\nb", "a|b", "a`b", "[x](http://y)", "R&D"]
ESCAPED = ["&lt;script&gt;alert(1)&lt;/script&gt;", "a b", r"a\|b", r"a\`b", r"[x\](http://y)", "R&amp;D"]


def test_a_table_has_a_row_for_each_name_and_the_name_is_no_markup():
    text = markdown(group([Entry(name, {}, {"loss": 1.0}) for name in NAMES]))
    lines = text.splitlines()
    assert lines[2:] == [f"| {name} | 1.0000 |" for name in ESCAPED]


def test_a_card_holds_no_tag_and_no_line_of_a_name(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["BertForSequenceClassification"], "id2label": {"0": SCRIPT, "1": "a\n# b"}})
    )
    tags = {"method": SCRIPT, "teacher": "a\n# b", "license": f"{SCRIPT}\n# c", "figures_note": SCRIPT}
    text = model_card("it's `x`", tags, tmp_path, rows=[FiguresRow("student", SCRIPT, {"accuracy": 0.5})])
    body = text.partition("\n---\n")[2]
    assert "<script" not in body
    assert "| student (&lt;script&gt;alert(1)&lt;/script&gt;) |" in body
    assert [line for line in body.splitlines() if line.startswith("# ")] == [r"# it's \`x\`"]
    assert "`` raydistill models pull 'it'\"'\"'s `x`' FOLDER ``" in body


def test_a_terminal_shows_names_with_brackets_as_they_are():
    source = {"name": "text", "path": "a"}
    stages = {"corpus": {"kind": "binarize", "source": source, "tokenizer": "t"}}
    job = load_job({"name": "toy", "stages": stages})
    entries = [{"model": name, "assignment": {}, "figures": {"loss": 1.0}} for name in ("[red]", "[/x]", "a[b]")]
    lines = summary_lines(job, JobResult(Path("runs/toy").absolute(), {}, {"compare": {"entries": entries}}))
    assert all(any(name in line for line in lines) for name in ("[red]", "[/x]", "a[b]"))


def test_code_holds_what_its_ticks_cannot_end():
    assert names.code("a``b") == "``` a``b ```"
    assert names.code("a\nb|c") == r"`a b\|c`"
