"""The package's batches, settings and sites in the terms of the independent reference."""

import torch

from raydistill.interventions.positions import in_batch_partners
from raydistill.interventions.sites import draw, load_mapping
from reference import six_pass


def as_example(batch):
    if "interchange_base" not in batch:
        return six_pass.Example(_side(batch, ""))
    base = _side(batch, "", batch["interchange_base"])
    if "partner_input_ids" in batch:
        return six_pass.Example(base, _side(batch, "partner_", batch["interchange_partner"]))
    partners = in_batch_partners(batch["row_id"].numpy(), seed=batch.seed, epoch=batch.epoch)
    width = batch["input_ids"].shape[1]
    rows, of_rows = batch["interchange_base"] // width, batch["interchange_partner"] // width
    assert of_rows.tolist() == partners[rows.numpy()].tolist()
    source = _side(batch, "", batch["interchange_partner"])
    columns = (source.ids, source.mask, source.labels, source.positions)
    return six_pass.Example(base, six_pass.Side(*(column[torch.from_numpy(partners)] for column in columns)))


def _side(batch, prefix, positions=None):
    ids = batch[prefix + "input_ids"]

    def at(index, values, fill):
        dense = torch.full((ids.numel(),), fill)
        dense[index] = values
        return dense.view(ids.shape)

    none = torch.zeros(0, dtype=torch.int64)
    has_labels = prefix + "labels" in batch
    label_index, labels = (batch[prefix + name] if has_labels else none for name in ("label_index", "labels"))
    return six_pass.Side(
        ids=ids,
        mask=batch[prefix + "attention_mask"],
        labels=at(label_index, labels, -100),
        positions=at(none if positions is None else positions, True, False),
    )


def as_setting(settings, **controls):
    return six_pass.Setting(
        settings.alphas,
        temperature=settings.temperature,
        site_offset=settings.site_offset,
        only_labelled=settings.kd_positions == "masked",
        swap_tokens=settings.data_augment,
        crossway=settings.crossway,
        **controls,
    )


def variables_of(settings, batch, teacher, student):
    """The columns of the teacher and of the student that the package draws for a batch."""
    if settings.mapping is None or "interchange_base" not in batch or settings.data_augment:
        return {}, {}
    keys = (batch.step, batch.micro_batch) if settings.site_draw == "micro_batch" else (batch.step,)
    sites = draw(load_mapping(settings.mapping), batch.seed, *keys)
    return columns_of(sites[0], teacher), columns_of(sites[1], student)


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
