import json

import pytest

from raydistill.tracking import spool as spool_module
from raydistill.tracking.spool import DELIVERED, REJECTED, Spool


def lines(folder) -> list[str]:
    return [line for path in sorted(folder.glob("records-*.jsonl")) for line in path.read_text().splitlines()]


def last_segment(folder):
    return sorted(folder.glob("records-*.jsonl"))[-1]


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
    (line,) = lines(tmp_path)
    assert json.loads(line)["text"] == "ä\nb"


def test_a_line_that_a_crash_left_unfinished_is_dropped(tmp_path):
    spool = Spool(tmp_path)
    spool.append({"number": 1})
    spool.close()
    with last_segment(tmp_path).open("a") as file:
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


def test_delivered_records_are_removed_and_numbers_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "_SEGMENT_BYTES", 200)
    spool = Spool(tmp_path)
    largest = 0
    for number in range(100):
        entry = spool.append({"number": number})
        assert entry.sequence == number + 1
        if number % 3 == 2:
            spool.mark_delivered(entry)
        largest = max(largest, len(lines(tmp_path)))
    assert largest < 30
    assert [json.loads(line)["number"] for line in lines(tmp_path)][-1] == 99
    spool.close()
    again = Spool(tmp_path)
    assert [entry.record["number"] for entry in again.undelivered] == [99]
    assert again.append({}).sequence == 101


def test_a_closed_spool_keeps_nothing_that_was_delivered(tmp_path):
    spool = Spool(tmp_path)
    spool.mark_delivered([spool.append({"number": number}) for number in range(5)][-1])
    spool.close()
    assert lines(tmp_path) == []
    assert Spool(tmp_path).append({}).sequence == 6


def test_records_behind_waiting_ones_are_never_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "_SEGMENT_BYTES", 50)
    spool = Spool(tmp_path)
    entries = [spool.append({"number": number}) for number in range(40)]
    spool.mark_delivered(entries[17])
    spool.close()
    assert [entry.record["number"] for entry in Spool(tmp_path).undelivered] == list(range(18, 40))


@pytest.mark.parametrize("step", ["note", "start", "remove"])
def test_a_crash_at_any_step_of_trimming_loses_and_repeats_nothing(tmp_path, monkeypatch, step):
    monkeypatch.setattr(spool_module, "_SEGMENT_BYTES", 50)
    spool = Spool(tmp_path)
    entries = [spool.append({"number": number}) for number in range(12)]

    def crash(*arguments, **options):
        raise KeyboardInterrupt

    if step == "note":
        monkeypatch.setattr(spool_module, "write_json", crash)
    else:
        monkeypatch.setattr(Spool, "_start_segment" if step == "start" else "_remove_delivered", crash)
    with pytest.raises(KeyboardInterrupt):
        spool.mark_delivered(entries[-1])
    monkeypatch.undo()
    spool._lock.release()
    again = Spool(tmp_path)
    assert [entry.sequence for entry in again.undelivered] == (list(range(1, 13)) if step == "note" else [])
    assert again.append({"number": 12}).sequence == 13
    again.close()
    assert Spool(tmp_path).undelivered[-1].record == {"number": 12}


def test_records_of_a_full_disk_follow_when_there_is_room_again(tmp_path, caplog):
    spool = Spool(tmp_path)
    spool.append({"number": 0})
    file = spool._file

    class FullDisk:
        """Takes three bytes more, then none."""

        room = 3

        def write(self, content):
            if not self.room:
                raise OSError(28, "No space left on device")
            taken, self.room = file.write(content[: self.room]), 0
            return taken

    spool._file = FullDisk()
    assert [spool.append({"number": number}).sequence for number in (1, 2)] == [2, 3]
    assert [entry.name for entry in caplog.records].count("raydistill.tracking.spool") == 1
    spool._file = file
    spool.append({"number": 3})
    spool._lock.release()
    assert [entry.record["number"] for entry in Spool(tmp_path).undelivered] == [0, 1, 2, 3]


def test_records_delivered_from_memory_shift_no_number(tmp_path):
    spool = Spool(tmp_path)
    spool.mark_delivered(spool.append({"number": 0}))
    # As after a crash while the disk was full: two more were delivered, but neither is in a segment.
    (tmp_path / DELIVERED).write_text(json.dumps({"sequence": 3, "answers": {}}))
    spool._lock.release()
    again = Spool(tmp_path)
    assert again.append({"number": 3}).sequence == 4
    again._lock.release()
    assert [(entry.sequence, entry.record["number"]) for entry in Spool(tmp_path).undelivered] == [(4, 3)]
