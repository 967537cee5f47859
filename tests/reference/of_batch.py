"""The package's batches and sites in the terms of the independent reference."""

import torch

from reference import six_pass


def as_example(batch):
    def at(index, shape, values=True, fill=False):
        dense = torch.full(shape, fill).flatten()
        dense[index] = values
        return dense.view(shape)

    base, source = batch["input_ids"], batch["partner_input_ids"]
    return six_pass.Example(
        ids=base,
        mask=batch["attention_mask"],
        labels=at(batch["label_index"], base.shape, batch["labels"], -100),
        positions=at(batch["interchange_base"], base.shape),
        source_ids=source,
        source_mask=batch["partner_attention_mask"],
        source_positions=at(batch["interchange_partner"], source.shape),
    )


def columns_of(sites, model):
    head_size = model.config.hidden_size // model.config.num_attention_heads
    columns = {}
    for site in sites:
        if site.head is None:
            found = range(model.config.hidden_size)
        else:
            found = range(site.head * head_size + site.start, site.head * head_size + site.stop)
        columns.setdefault(site.layer, []).extend(found)
    return columns
