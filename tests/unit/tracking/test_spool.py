import json

import pytest

from raydistill.tracking.spool import REJECTED, Spool


def test_records_that_were_not_delivered_are_there_after_reopening(tmp_path):
    spool = Spool(tmp_path)
    entries = [spool.append({"number": number}) for number in range(5)]
    spool.mark_delivered(entries[1])
    spool.close()
    again = Spool(tmp_path)
    assert [entry.record["number"] for entry in again.undelivered] == [2, 3, 4]
    assert [entry.sequence for entry in again.undelivered] == [3, 4, 5]


def test_sequence_numbers_go_on_after_reopening(tmp_path):
    spool = Spool(tmp_path)
    spool.mark_delivered(spool.append({}))
    spool.append({})
    spool.close()
    assert Spool(tmp_path).append({}).sequence == 3


def test_a_record_is_on_disk_when_append_returns(tmp_path):
    Spool(tmp_path).append({"text": "ä\nb", "value": float("nan")})
    (line,) = (tmp_path / "records.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == "ä\nb"


def test_a_line_that_a_crash_left_unfinished_is_dropped(tmp_path):
    spool = Spool(tmp_path)
    spool.append({"number": 1})
    spool.close()
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"number": 2')
    again = Spool(tmp_path)
    again.append({"number": 3})
    again.close()
    assert [entry.record["number"] for entry in Spool(tmp_path).undelivered] == [1, 3]


def test_a_second_process_is_told_that_the_spool_is_in_use(tmp_path):
    spool = Spool(tmp_path)
    with pytest.raises(TimeoutError, match="another run of this job"):
        Spool(tmp_path, lock_timeout_s=0.0)
    spool.close()
    Spool(tmp_path, lock_timeout_s=0.0)


def test_a_rejected_record_is_kept_with_its_reason(tmp_path):
    spool = Spool(tmp_path)
    spool.reject(spool.append({"number": 1}), "no such run")
    kept = json.loads((tmp_path / REJECTED).read_text())
    assert kept == {"sequence": 1, "reason": "no such run", "record": {"number": 1}}
