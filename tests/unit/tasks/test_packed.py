import numpy as np
import pytest

from raydistill.tasks._packed import pack, pack_texts, unpack, unpack_texts


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 9, 17, 52])
def test_rows_come_back_after_they_were_added_to_zeros(bits):
    generator = np.random.default_rng(bits)
    rows = [generator.integers(0, 2**bits - 1, size).tolist() for size in (0, 1, 12, 13, 14, 40)]
    packed = pack(rows, width=40, bits=bits)
    assert packed.shape == (6, -(-40 // (52 // bits)))
    assert unpack(packed + np.zeros_like(packed), bits=bits) == rows


def test_the_largest_numbers_are_exact():
    rows = [[2**bits - 2] * (52 // bits) for bits in (4,)]
    assert unpack(pack(rows, width=13, bits=4), bits=4) == rows
    assert pack(rows, width=13, bits=4)[0, 0] < 2**53


def test_texts_are_cut_between_letters():
    texts = ["", "a\0b", "Z\u00fcrich", "abcdefg\u00fc", "\u6f22\u5b57\u6f22"]
    assert unpack_texts(pack_texts(texts, num_bytes=8)) == ["", "a\0b", "Z\u00fcrich", "abcdefg", "\u6f22\u5b57"]
