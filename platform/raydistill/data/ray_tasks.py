"""Ray Data tasks: items in, Arrow tables out in the order of the items, made by functions or by actors with state.

A ValueError, which the user can mend, travels as data: it arrives with its message alone, without Ray's traceback.
"""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from raydistill.user_error import UserError

Task = Callable[[Mapping[str, Any]], Iterable[pa.Table]]
"""Makes of an item, numbers and texts by name, tables of one schema."""
_ERROR = "error"


def run_tasks(
    task: Task,
    items: Sequence[Mapping[str, Any]],
    schema: pa.Schema,
    *,
    num_tasks: int | None = None,
    cpus: float = 1,
    piece_bytes: int,
    ahead_bytes: int | None = None,
    max_calls: int | None = None,
) -> Generator[pa.Table, None, None]:
    """What a task makes of the items, in tables of ``schema`` that are cut and joined freely; needs a running Ray.

    ``num_tasks`` run at once, None for as many as the cluster has logical CPUs for, ``cpus`` for each. Tables leave a
    task when they reach ``piece_bytes``; ``ahead_bytes`` of them may wait for the consumer. ``max_calls``: into how
    many calls the items are divided at most. Closing the iterator ends the tasks. Raises a ValueError of a task.
    """
    import ray.data

    context = _context()
    context.target_max_block_size = piece_bytes
    if ahead_bytes is not None:
        limits = ray.data.ExecutionResources(cpu=num_tasks, object_store_memory=ahead_bytes)
        context.execution_options.resource_limits = limits
    num_calls = min(len(items), max_calls or len(items))
    # Ray warns of tasks that would never have a call.
    compute = None if num_tasks is None else ray.data.TaskPoolStrategy(size=max(1, min(num_tasks, num_calls)))
    function, options = partial(_tables, task=task, schema=schema), {"compute": compute, "num_cpus": cpus}
    return _run(function, options, items, context, num_blocks=num_calls, ahead=2)


def run_here(task: Task, items: Sequence[Mapping[str, Any]]) -> Generator[pa.Table, None, None]:
    """What ``run_tasks`` gives, made by this process while it is iterated over; raises what a task raises."""
    for item in items:
        yield from task(item)


def run_actors(
    make_task: Callable[[], Task],
    items: Sequence[Mapping[str, Any]],
    schema: pa.Schema,
    *,
    num_actors: int,
    cpus: float = 1,
    use_gpu: bool = False,
) -> Generator[pa.Table, None, None]:
    """As ``run_tasks``, by actors that each make a task once, at their first item, and then call it item by item."""
    import ray.data

    options = {
        "fn_constructor_kwargs": {"make_task": make_task, "schema": schema},
        "compute": ray.data.ActorPoolStrategy(size=max(1, min(num_actors, len(items)))),
        "num_cpus": cpus,
        "num_gpus": 1 if use_gpu else None,
    }
    return _run(_Actor, options, items, _context(), num_blocks=len(items), ahead=1)


def _context() -> Any:
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    return context


def _run(
    function: Any, options: Mapping[str, Any], items: Sequence[Any], context: Any, *, num_blocks: int, ahead: int
) -> Generator[pa.Table, None, None]:
    import ray.data

    if not items:
        return
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    with ray.data.DataContext.current(context):
        dataset = ray.data.from_items(list(items), override_num_blocks=num_blocks)
        dataset = dataset.map_batches(function, batch_size=None, batch_format="pyarrow", **options)
        tables = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=ahead))
    try:
        for table in tables:
            errors = table.column(_ERROR).to_pylist()
            first = next((row for row, error in enumerate(errors) if error), None)
            yield table.slice(0, first)
            if first is not None:
                raise UserError(errors[first])
    finally:
        tables.close()


def _tables(table: pa.Table, *, task: Task, schema: pa.Schema) -> Iterator[pa.Table]:
    """What Ray Data calls with some of the items."""
    try:
        for item in table.to_pylist():
            for made in task(item):
                yield made.append_column(_ERROR, pa.array([""] * len(made), type=pa.string()))
    except UserError as error:
        nothing = {field.name: pa.nulls(1, field.type) for field in schema}
        yield pa.table({**nothing, _ERROR: [str(error)]})


class _Actor:
    def __init__(self, make_task: Callable[[], Task], schema: pa.Schema) -> None:
        self._make, self._schema = make_task, schema
        self._task: Task | None = None

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        yield from _tables(table, task=self._call, schema=self._schema)

    def _call(self, item: Mapping[str, Any]) -> Iterable[pa.Table]:
        if self._task is None:
            self._task = self._make()
        return self._task(item)


def cell_type(of: pa.DataType) -> pa.DataType:
    """The type of cells, of which each holds a whole array."""
    return pa.large_list(of)


def as_cell(array: pa.Array) -> pa.Array:
    """A column of one row that holds a whole array, whose buffers are shared."""
    return pa.LargeListArray.from_arrays(pa.array([0, len(array)], type=pa.int64()), array)


def cell(table: pa.Table, name: str, row: int) -> pa.Array:
    """The array that a cell holds, without a copy."""
    return table.column(name)[row].values
