import collections
import contextlib
import os
import pickle
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from raydistill.config.named import SourceSpec
from raydistill.data.sources import legacy_pickle
from raydistill.data.sources._base import Item

ROWS = [np.array([101, number, 7, 102]) for number in range(5)]
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def write(path, value, protocol: int = 4) -> str:
    path.write_bytes(pickle.dumps(value, protocol))
    return str(path)


def read_all(path, **options) -> list[np.ndarray]:
    source = SourceSpec.parse({"name": "legacy_pickle", "path": str(path), **options})
    items = source.items()
    return [example["input_ids"] for item in items for example in source.read(item)]


def rows_of(path) -> Iterator[np.ndarray]:
    config = legacy_pickle.Config(path=str(path))
    return (example["input_ids"] for example in legacy_pickle.read(config, Item(str(path), "")))


class Calls:
    """Pickled as a call."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["uint16", "int32", ">i4", "int64", "uint8"])
def test_the_rows_of_a_pickled_list_are_read_in_order(tmp_path, protocol, dtype):
    rows = [row.astype(dtype) for row in ROWS]
    found = read_all(write(tmp_path / "a.pickle", rows, protocol))
    assert [(row.tolist(), row.dtype.str[1:]) for row in found] == [
        (row.tolist(), rows[0].dtype.str[1:]) for row in rows
    ]


def test_files_that_older_numpy_wrote_are_read(tmp_path):
    content = pickle.dumps([row.astype(np.uint16) for row in ROWS], 2)
    assert b"numpy._core" in content or b"numpy.core" in content
    (tmp_path / "old.pickle").write_bytes(content.replace(b"numpy._core.", b"numpy.core."))
    assert [row.tolist() for row in read_all(tmp_path / "old.pickle")] == [row.tolist() for row in ROWS]


def test_a_list_longer_than_a_batch_of_the_pickle_is_read_in_flat_memory(tmp_path):
    path = write(tmp_path / "a.pickle", [np.arange(200, dtype=np.uint16) for _ in range(10_000)])
    total = 0
    tracemalloc.start()
    try:
        for row in rows_of(path):
            total += int(row.sum())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 10_000 * 199 * 100
    assert peak < 2_500_000


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(tmp_path, protocol):
    mark = tmp_path / "executed"
    command = f"import pathlib; pathlib.Path({str(mark)!r}).touch()"
    programs = [
        b"cos\nsystem\n(V" + f"touch {mark}".encode() + b"\ntR.",
        b"cposix\nsystem\n(V" + f"touch {mark}".encode() + b"\ntR.",
        b"cbuiltins\nexec\n(V" + command.encode() + b"\ntR.",
        # As the type and the dtype of an array, and as what an array is filled by.
        b"(lcnumpy.core.multiarray\n_reconstruct\n(cbuiltins\nexec\n(V" + command.encode() + b"\ntRI0\nNtRa.",
        b"(lcnumpy\ndtype\n(cbuiltins\nexec\n(V" + command.encode() + b"\ntRtRa.",
        b"(lcnumpy\ndtype\n(Vu2\ntR(Ncbuiltins\nexec\n(V" + command.encode() + b"\ntRtba.",
        b"(S'x'\niexec\n.",
        b"(ibuiltins\nexec\n.",
        b"(cbuiltins\nexec\nV" + command.encode() + b"\no.",
        b"cnumpy\nndarray\n)\x81.",
        b"Ppersistent\n.",
        b"\x82\x01.",
        b"c_codecs\nencode\n(Va\nVrot13\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(VO8\ntRVx\ntR.",
        pickle.dumps([Calls(os.mkdir, str(mark))], protocol),
        pickle.dumps([ROWS[0], Calls(getattr, np.ndarray, "tofile")], protocol),
        pickle.dumps([np.array([Calls(os.mkdir, str(mark))], dtype=object)], protocol),
    ]
    for program in programs:
        (tmp_path / "a.pickle").write_bytes(program)
        with pytest.raises(ValueError, match=r"a\.pickle"):
            read_all(tmp_path / "a.pickle")
        assert not mark.exists(), program


def test_the_dangerous_programs_of_the_test_are_dangerous(tmp_path):
    mark = tmp_path / "executed"
    command = f"import pathlib; pathlib.Path({str(mark)!r}).touch()"
    pickle.loads(b"cbuiltins\nexec\n(V" + command.encode() + b"\ntR.")
    assert mark.exists()
    pickle.loads(pickle.dumps([Calls(os.mkdir, str(tmp_path / "folder"))]))
    assert (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([np.array(["a", None], dtype=object)], "holds an array of type 'O8'"),
        ([np.array([0.5])], "holds an array of type 'f8'"),
        ([np.array(["a"])], "holds an array of type 'U1'"),
        ([np.zeros((2, 2), np.int32)], r"holds an array of shape \(2, 2\)"),
        ([[101, 102]], r"holds '\[101, 102\]' in place 0, which is not an array"),
        ([ROWS[0], 5], "holds '5' in place 1, which is not an array"),
        (ROWS[0], "holds something other than a list"),
        ({"a": ROWS}, "the instruction EMPTY_DICT makes"),
        ([0.5], "the instruction BINFLOAT makes"),
        ([collections.OrderedDict()], r"names 'collections\.OrderedDict'"),
        ([ROWS[0], ROWS[0]], "holds the same object twice"),
    ],
)
def test_what_is_no_list_of_rows_is_refused_by_what_was_found(tmp_path, value, message):
    with pytest.raises(ValueError, match=rf"a\.pickle:? .*{message}"):
        read_all(write(tmp_path / "a.pickle", value))


@pytest.mark.parametrize("protocol", [0, 4, 5])
def test_a_pickle_that_is_cut_off_or_damaged_is_refused_by_name(tmp_path, protocol):
    content = pickle.dumps([row.astype(np.uint16) for row in ROWS], protocol)
    path = tmp_path / "a.pickle"
    for length in range(0, len(content), 2):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"a\.pickle: "):
            list(rows_of(path))
    generator = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(content)
        damaged[generator.integers(len(content))] = generator.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            assert all(row.dtype.kind in "iu" and row.ndim == 1 for row in rows_of(path))


@pytest.mark.parametrize("protocol", [0, 4, 5])
@pytest.mark.parametrize("as_numpy", [False, True])
def test_token_counts_that_agree_are_accepted(tmp_path, protocol, as_numpy):
    counts = np.bincount(np.concatenate(ROWS), minlength=200)
    numbers = list(counts) if as_numpy else counts.tolist()
    path = write(tmp_path / "counts.pickle", numbers, protocol)
    assert len(read_all(write(tmp_path / "a.pickle", ROWS), token_counts=path)) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda counts: [*counts[:7], 6, *counts[8:]], r"a\.pickle holds id 7 5 times and not 6"),
        (lambda counts: counts[:102], r"a\.pickle holds id 102 and the counts end at 101"),
        (lambda counts: [*counts, 1], "holds id 103 0 times and not 1"),
        (lambda counts: [*counts[:7], -5, *counts[8:]], "holds something other than counts"),
    ],
)
def test_token_counts_that_differ_are_refused(tmp_path, change, message):
    rows = [row.copy() for row in ROWS]
    rows[0][1], rows[1][1], rows[2][1], rows[3][1], rows[4][1] = range(10, 15)
    counts = np.bincount(np.concatenate(rows)).tolist()
    path = write(tmp_path / "counts.pkl", change(counts))
    with pytest.raises(ValueError, match=rf"token_counts is .*counts\.pkl', .*{message}"):
        read_all(write(tmp_path / "a.pickle", rows), token_counts=path)


def test_token_counts_belong_to_one_file_and_must_exist(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.pickle", ROWS)
    with pytest.raises(ValueError, match="token_counts belongs to one pickle, but 2 files match"):
        read_all(f"{tmp_path}/*.pickle", token_counts="counts")
    with pytest.raises(ValueError, match="matches no file"):
        read_all(f"{tmp_path}/a.pickle", token_counts=f"{tmp_path}/counts")
