from itertools import product

import numpy as np
import pytest

from raydistill.tasks._spans import best_span


def every_span(first, last, in_context, *, n_best, max_length):
    """The published double loop over the likeliest tokens."""
    firsts = np.argsort(first)[-1 : -n_best - 1 : -1].tolist()
    lasts = np.argsort(last)[-1 : -n_best - 1 : -1].tolist()
    for start, end in product(firsts, lasts):
        if in_context[start] and in_context[end] and start <= end and end - start + 1 <= max_length:
            yield first[start] + last[end], start, end


@pytest.mark.parametrize("n_best", [1, 2, 5, 20])
@pytest.mark.parametrize("max_length", [1, 3, 30])
def test_the_best_span_is_that_of_the_published_search(n_best, max_length):
    generator = np.random.default_rng(n_best)
    num_found = 0
    for size in (4, 7, 16, 40):
        for _ in range(20):
            first, last = generator.normal(size=(2, size))
            in_context = np.arange(size) >= size // 3
            in_context[-1] = False
            options = {"n_best": n_best, "max_length": max_length}
            found = best_span(first, last, in_context, **options)
            expected = max(every_span(first, last, in_context, **options), default=None)
            assert (found is None) == (expected is None)
            if found is not None and expected is not None:
                assert (found.score, found.first, found.last) == expected
                num_found += 1
    assert num_found > 3
    assert num_found < 80 or n_best == 20
