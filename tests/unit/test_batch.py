import numpy as np
import pytest
import torch

from raydistill.batch import add_partners, collate, encoded_as, pad_rows

ROWS = [np.array([2, 9, 3], dtype=np.uint16), np.array([2, 7, 8, 6, 3], dtype=np.uint16), np.array([5], dtype=np.int32)]


def make():
    return collate(ROWS, [10, 11, 12], pad_id=1, seed=4, epoch=2, step=7, micro_batch=3)


def test_rows_are_padded_on_the_right_to_the_longest():
    assert make()["input_ids"].tolist() == [[2, 9, 3, 1, 1], [2, 7, 8, 6, 3], [5, 1, 1, 1, 1]]


def test_mask_lengths_and_token_index_agree():
    batch = make()
    assert batch["lengths"].tolist() == [3, 5, 1]
    assert batch["attention_mask"].sum(dim=1).tolist() == [3, 5, 1]
    assert batch["token_index"].tolist() == batch["attention_mask"].flatten().nonzero().flatten().tolist()


def test_the_mask_comes_from_lengths_and_not_from_ids():
    batch = collate([np.array([2, 0, 3]), np.array([2])], [0, 1], pad_id=0)
    assert batch["attention_mask"].tolist() == [[True, True, True], [True, False, False]]


def test_columns_have_the_stated_dtypes():
    dtypes = {name: column.dtype for name, column in make().columns.items()}
    assert dtypes.pop("attention_mask") == torch.bool
    assert set(dtypes.values()) == {torch.int64}


def test_ids_above_the_range_of_signed_short_survive():
    assert collate([np.array([65535], dtype=np.uint16)], [0], pad_id=0)["input_ids"].item() == 65535


def test_keys_of_the_draws_are_kept():
    batch = make()
    assert (batch.seed, batch.epoch, batch.step, batch.micro_batch, batch.num_rows) == (4, 2, 7, 3, 3)
    assert batch["row_id"].tolist() == [10, 11, 12]
    assert batch.to("meta").first_row == 10


def test_partners_have_their_own_width_and_leave_the_base_alone():
    batch = make()
    paired = add_partners(batch, [np.array([7, 7])] * 3, np.array([1, 2, 3]), pad_id=1)
    assert paired["partner_input_ids"].shape == (3, 2)
    assert paired["partner_row_id"].tolist() == [1, 2, 3]
    assert paired["partner_token_index"].tolist() == list(range(6))
    assert all(paired[name] is column for name, column in batch.columns.items())
    assert "partner_input_ids" not in batch


def test_adding_a_column_makes_a_new_batch():
    batch = make()
    changed = batch.with_columns(lengths=torch.zeros(3))
    assert changed["lengths"].tolist() == [0, 0, 0]
    assert batch["lengths"].tolist() == [3, 5, 1]
    assert (changed.seed, changed.epoch, changed.step, changed.micro_batch) == (4, 2, 7, 3)


def test_a_batch_is_the_first_of_its_step_unless_told_otherwise():
    assert collate(ROWS, [0, 1, 2], pad_id=1).micro_batch == 0


def test_moving_a_batch_moves_every_column():
    moved = make().to("meta")
    assert {column.device.type for column in moved.columns.values()} == {"meta"}


def test_a_prefix_names_all_columns():
    assert all(name.startswith("teacher_") for name in pad_rows(ROWS, pad_id=0, prefix="teacher_"))


def test_no_row_is_an_error():
    with pytest.raises(ValueError, match="zero-size"):
        pad_rows([], pad_id=0)


def encoded_twice():
    further = pad_rows([np.array([4]), np.array([6, 5]), np.array([8, 8])], pad_id=9, prefix="encoding_1_")
    batch = make().with_columns(labels=torch.tensor([2, 0, 1]), token_types=torch.zeros(9), **further)
    return batch.with_columns(label_index=torch.tensor([1]))


def test_the_view_of_an_encoding_has_its_tokens_and_the_rows_labels_and_keys():
    batch = encoded_twice()
    view = encoded_as(batch, 1)
    assert view["input_ids"].tolist() == [[4, 9], [6, 5], [8, 8]]
    assert view["lengths"].tolist() == [1, 2, 2]
    assert view["token_index"].tolist() == [0, 2, 3, 4, 5]
    assert view["attention_mask"].tolist() == [[True, False], [True, True], [True, True]]
    assert view["row_id"] is batch["row_id"]
    assert view["labels"] is batch["labels"]
    assert (view.seed, view.epoch, view.step, view.micro_batch) == (4, 2, 7, 3)
    assert batch["input_ids"].shape == (3, 5)


def test_the_view_of_an_encoding_tells_nothing_of_the_other_tokenizers_tokens():
    view = encoded_as(encoded_twice(), 1)
    assert "token_types" not in view
    assert "label_index" not in view
    types = torch.ones(5)
    assert encoded_as(encoded_twice().with_columns(encoding_1_token_types=types), 1)["token_types"] is types


def test_encoding_0_is_the_batch_itself_and_a_missing_one_is_a_fault_of_the_program():
    batch = encoded_twice()
    assert encoded_as(batch, 0) is batch
    with pytest.raises(AssertionError, match="built without encoding 2"):
        encoded_as(batch, 2)


def test_the_view_of_an_encoding_asks_no_device_for_a_value():
    # Tensors of the meta device have none.
    batch = encoded_twice().to("meta")
    assert encoded_as(batch, 1)["input_ids"] is batch["encoding_1_input_ids"]
