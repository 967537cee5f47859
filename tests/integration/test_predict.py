"""Several processes answer about files as one does: the same bytes, also after an interruption."""

import pytest

from raydistill.prediction import files
from raydistill.prediction.files import parts_of
from raydistill.prediction.run import Model, predict_files
from toys.answering import save_answering


@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_write_what_one_writes_and_go_on_where_it_stopped(tmp_path):
    model = Model(str(save_answering(tmp_path / "model", "sequence_classification")))
    texts = [f"w{5 + number % 30} w{5 + number % 7}" for number in range(12 * files.BLOCK_ROWS)]
    (tmp_path / "in.csv").write_text("\n".join(["text", *texts]))
    parts = parts_of([str(tmp_path / "in.csv")])
    predict_files(model, parts, tmp_path / "one", "csv")

    def stop(rows, seconds):
        if rows >= 3 * files.BLOCK_ROWS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_files(model, parts, tmp_path / "two", "csv", workers=2, told=stop)
    summary = predict_files(model, parts, tmp_path / "two", "csv", workers=2)
    assert (summary.rows, summary.resumed_rows) == (len(texts), 3 * files.BLOCK_ROWS)
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()
