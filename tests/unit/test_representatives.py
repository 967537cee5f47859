from itertools import product

from toys.representatives import pairs, representatives


def test_representatives_have_every_part_and_none_is_superfluous_where_cases_share_nothing():
    assert representatives({"a": [1, 2], "b": [3], "c": [1]}) == {"a", "b"}


def test_few_cases_of_a_product_have_every_pair_of_values():
    cases = {str(case): pairs(a=case[0], b=case[1], c=case[2]) for case in product(range(4), range(2), range(2))}
    chosen = representatives(cases)
    assert len(chosen) <= 10
    assert {pair for name in chosen for pair in cases[name]} == {pair for parts in cases.values() for pair in parts}
