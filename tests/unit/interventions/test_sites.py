import json
from collections import Counter

import pytest
import torch

from raydistill.interventions.passes import Interchange, Passes, Rows, run
from raydistill.interventions.sites import (
    PRESETS,
    Site,
    check_variables,
    columns_by_layer,
    draw,
    full_mapping,
    load_mapping,
    parse_variable,
)
from raydistill.layout import Layout
from raydistill.models.blocks import blocks_of
from toys.models import toy_batch, toy_bert

# Groups of the eight published files (spec 3.5), written independently of the presets.
PUBLISHED = {
    "middle_3": [("6", "1")],
    "middle_6": [("6", "3")],
    "middle_9": [("6", "4")],
    "late_3": [("9", "0"), ("10", "1")],
    "late_6": [("9", "3"), ("10", "4")],
    "full_3": [("[0:4]", "0"), ("[4:8]", "1"), ("[8:12]", "2")],
    "full_6": [("[0:2]", "0"), ("[2:4]", "1"), ("[4:6]", "2"), ("[6:8]", "3"), ("[8:10]", "4"), ("[10:12]", "5")],
    "full_9": [
        ("[0:2]", "0"), ("[2:4]", "1"), ("[4:6]", "2"), ("[6:7]", "3"), ("[7:8]", "4"), ("[8:9]", "5"),
        ("[9:10]", "6"), ("[10:11]", "7"), ("[11:12]", "8"),
    ],
}  # fmt: skip


def nm(*groups):
    keys = ("teacher_variable_names", "student_variable_names")
    return {"interchange_variable_mappings": [dict(zip(keys, group, strict=True)) for group in groups]}


def published_file(name):
    return nm(*(([f"$L:{t}$H:[0:12]$[0:64]"], [f"$L:{s}$H:[0:12]$[0:64]"]) for t, s in PUBLISHED[name]))


def written(mapping):
    sizes = {"num_heads": 12, "hidden_size": 768}
    return [
        [columns_by_layer(alternative, **sizes) for side in (group.teacher, group.student) for alternative in side]
        for group in mapping.groups
    ]


def test_a_variable_expands_layer_major_then_head():
    expanded = parse_variable("$L:[0:2]$H:[0:4]$[0:8]")
    assert expanded == tuple(Site(layer, head, 0, 8) for layer in (0, 1) for head in (0, 1, 2, 3))
    assert parse_variable("$L:3$H:2$[4:8]") == (Site(3, 2, 4, 8),)


def test_presets_are_the_published_files():
    assert set(PRESETS) == set(PUBLISHED)
    for name in PRESETS:
        assert written(load_mapping(name)) == written(load_mapping(published_file(name))), name


def test_published_mappings_have_their_numbers_of_groups():
    counts = {name: len(load_mapping(published_file(name)).groups) for name in PUBLISHED}
    assert counts == {
        "middle_3": 1, "middle_6": 1, "middle_9": 1, "late_3": 2, "late_6": 2, "full_3": 3, "full_6": 6, "full_9": 9,
    }  # fmt: skip


def test_a_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "single_middle_layer_6.nm"
    path.write_text(json.dumps(published_file("middle_6")))
    assert load_mapping(str(path)) == load_mapping(published_file("middle_6"))


def test_a_slice_covers_stop_minus_start_dimensions_of_its_head():
    assert columns_by_layer(parse_variable("$L:1$H:1$[2:4]"), num_heads=2, hidden_size=16) == {1: (slice(10, 12),)}
    assert columns_by_layer(parse_variable("$L:1$H:[0:2]$[5:8]"), num_heads=2, hidden_size=16) == {
        1: (slice(5, 8), slice(13, 16))
    }


def test_touching_and_overlapping_slices_merge():
    assert columns_by_layer(parse_variable("$L:0$H:[0:4]$[0:4]"), num_heads=4, hidden_size=16) == {0: (slice(0, 16),)}
    overlapping = (Site(0, 0, 0, 3), Site(0, 0, 1, 2), Site(0, 0, 2, 4))
    assert columns_by_layer(overlapping, num_heads=4, hidden_size=16) == {0: (slice(0, 4),)}


def test_the_short_form_is_the_whole_vector_of_any_width():
    assert columns_by_layer(parse_variable("$L:2"), num_heads=2, hidden_size=20) == {2: (slice(0, 20),)}


def test_draw_repeats_for_a_seed_and_step_and_covers_all_groups_evenly():
    mapping = load_mapping("full_6")
    assert draw(mapping, 7, 3) == draw(mapping, 7, 3)
    drawn = Counter(draw(mapping, 7, step)[1][0].layer for step in range(6000))
    assert set(drawn) == set(range(6))
    assert max(drawn.values()) < 1100
    assert all(
        teacher[0].layer == 2 * student[0].layer for teacher, student in (draw(mapping, 7, s) for s in range(50))
    )


def test_alternatives_of_teacher_and_student_are_drawn_independently():
    mapping = load_mapping(nm((["$L:0", "$L:1"], ["$L:2", "$L:3", "$L:4"])))
    pairs = {tuple(side[0].layer for side in draw(mapping, 0, step)) for step in range(200)}
    assert pairs == {(teacher, student) for teacher in (0, 1) for student in (2, 3, 4)}


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("$L:a$H:0$[0:4]", "write \\$L:<layer>"),
        ("$L:1$H:0$[4:4]", "empty slice"),
        ("$L:[3:3]$H:0$[0:4]", "empty range"),
        ("$L:1$H:0$[0:4] ", "write \\$L:<layer>"),
    ],
)
def test_a_bad_variable_is_refused(variable, message):
    with pytest.raises(ValueError, match=message):
        parse_variable(variable)


def test_an_unknown_name_offers_the_closest_preset():
    with pytest.raises(ValueError, match=r"mapping is 'midle_6'; did you mean 'middle_6'\?.*or the path of a .nm file"):
        load_mapping("midle_6")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "needs exactly interchange_variable_mappings"),
        (nm(), "at least one group"),
        (nm((["$L:0"], [])), "student_variable_names is \\[\\]"),
        (nm(("$L:0", ["$L:0"])), "teacher_variable_names is '\\$L:0'"),
        ({"interchange_variable_mappings": [{"teacher_variable_names": ["$L:0"]}]}, "a group of the neuron mapping"),
    ],
)
def test_bad_content_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        load_mapping(content)


def test_a_file_that_is_no_json_is_refused(tmp_path):
    path = tmp_path / "broken.nm"
    path.write_text("{")
    with pytest.raises(ValueError, match="is not a JSON file"):
        load_mapping(str(path))


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("$L:3$H:0$[0:4]", "names student layer 3, but it has layers 0..2"),
        ("$L:2$H:[0:3]$[0:4]", "names student head 2, but it has heads 0..1"),
        ("$L:2$H:1$[0:9]", "names student dimensions \\[0:9\\] of a head, but its heads have 8"),
    ],
)
def test_sites_that_a_model_lacks_are_refused(variable, message):
    sizes = {"num_layers": 3, "num_heads": 2, "hidden_size": 16}
    with pytest.raises(ValueError, match=message):
        check_variables([parse_variable(variable)], owner="student", **sizes)
    check_variables([parse_variable("$L:2$H:1$[0:8]"), parse_variable("$L:0")], owner="student", **sizes)


class FirstBlocks:
    """A model that ends after some blocks, so that its last states are the hidden states at that depth."""

    IN_PARTS = True

    def __init__(self, blocks, num_blocks):
        self.blocks = blocks
        self.num_blocks = num_blocks
        self.embed, self.run = blocks.embed, blocks.run


class Intervened:
    """Hidden states (R, D) by depth of a toy BERT: of the base, of the source, and of the base under intervention."""

    def __init__(self, variable, *, site_offset=0):
        self.blocks = blocks_of(toy_bert(4).eval())
        self.columns = columns_by_layer(parse_variable(variable), num_heads=2, hidden_size=16)
        self.site_offset = site_offset
        batch = toy_batch()
        self.base, self.source = (rows_of(batch, prefix) for prefix in ("", "partner_"))
        self.to, self.origin = torch.tensor([1, 2, 3, 11, 40]), torch.tensor([4, 5, 6, 20, 33])

    @torch.no_grad()
    def plain(self, rows, depth):
        return self.blocks.run(self.blocks.embed(rows.ids, rows.layout), rows.layout, 0, depth)

    def read(self, depth):
        return self.plain(self.source, depth)[self.origin]

    @torch.no_grad()
    def counterfactual(self, depth):
        written = {layer: columns for layer, columns in self.columns.items() if layer < depth}
        swap = Interchange(written, self.to, self.origin, self.site_offset) if written else None
        passes = Passes(self.base, source=self.source, counterfactual=self.base, interchange=swap, needs_base=False)
        return run(FirstBlocks(self.blocks, depth), passes)[1]

    def expected(self, base, values, *columns):
        """``base`` with some columns of ``values`` where the intervention writes."""
        found = base.clone()
        for column in columns or range(16):
            found[self.to, column] = values[:, column]
        return found


def rows_of(batch, prefix):
    layout = Layout.of(batch[prefix + "attention_mask"], batch[prefix + "token_index"])
    return Rows(layout.take(batch[prefix + "input_ids"]), layout)


def assert_close(found, expected):
    assert (found - expected).abs().max() < 1e-12


@pytest.mark.parametrize("site_offset", [0, 1])
def test_the_output_of_a_block_becomes_the_input_or_output_of_the_sources_block_at_the_positions_and_nothing_else(
    site_offset,
):
    case = Intervened("$L:2", site_offset=site_offset)
    for depth in (1, 2):
        assert_close(case.counterfactual(depth), case.plain(case.base, depth))
    after = case.expected(case.plain(case.base, 3), case.read(2 + site_offset))
    assert_close(case.counterfactual(3), after)
    assert (after - case.plain(case.base, 3)).abs().max() > 0.1
    # What follows is the model's own continuation from there.
    with torch.no_grad():
        assert_close(case.counterfactual(4), case.blocks.run(after, case.base.layout, 3, 4))


def test_each_block_of_a_range_receives_the_sources_states_of_its_own_depth():
    case = Intervened("$L:[1:4]")
    previous = case.plain(case.base, 1)
    for depth in (2, 3, 4):
        with torch.no_grad():
            previous = case.expected(
                case.blocks.run(previous, case.base.layout, depth - 1, depth), case.read(depth - 1)
            )
        assert_close(case.counterfactual(depth), previous)


@pytest.mark.parametrize(
    ("variable", "columns"),
    [
        ("$L:1$H:1$[0:4]", [8, 9, 10, 11]),
        ("$L:1$H:1$[2:4]", [10, 11]),
        ("$L:1$H:[0:2]$[5:8]", [5, 6, 7, 13, 14, 15]),
        ("$L:1$H:0$[7:8]", [7]),
    ],
)
def test_a_slice_of_a_head_changes_its_own_dimensions_only(variable, columns):
    case = Intervened(variable)
    base = case.plain(case.base, 2)
    assert_close(case.counterfactual(2), case.expected(base, case.read(1), *columns))
    changed = (case.counterfactual(2) - base).abs().amax(dim=0) > 1e-9
    assert changed.nonzero().flatten().tolist() == columns


@pytest.mark.parametrize("student_layers", [3, 6])
def test_the_full_mapping_of_twelve_blocks_is_the_published_one(student_layers):
    assert full_mapping(teacher_layers=12, student_layers=student_layers) == load_mapping(f"full_{student_layers}")


def test_the_full_mapping_of_other_depths_leaves_the_rest_of_the_teacher_out():
    groups = full_mapping(teacher_layers=8, student_layers=3).groups
    assert [[site.layer for site in group.teacher[0]] for group in groups] == [[0, 1], [2, 3], [4, 5]]
    assert [group.student for group in groups] == [((Site(0),),), ((Site(1),),), ((Site(2),),)]
    with pytest.raises(ValueError, match="mapping is full, but the student has 4 blocks and the teacher 3"):
        full_mapping(teacher_layers=3, student_layers=4)
