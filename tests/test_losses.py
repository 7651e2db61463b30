"""Losses for the Trainer: right slopes, the same in parts, padded or packed, in bf16, and 0 where nothing counts."""

from __future__ import annotations

import copy
from functools import cache, partial

import pytest
import torch
from datasets import Dataset

from labkit import LabError, data, finetune, losses, models, similarity
from labkit.data.encode import collate, collate_packed, pack
from labkit.scratch import losses as by_hand


@cache
def base():
    return models.load("tiny")


@cache
def tiny():
    """A Llama of two layers in double precision, with random weights: small enough for gradcheck."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=13, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
                         max_position_embeddings=32, initializer_range=0.3)
    return LlamaForCausalLM(config).double().eval()


@cache
def teacher():
    """Another model of the same kind."""
    torch.manual_seed(4)
    return type(tiny())(tiny().config).double().eval()


def rows(n=16):
    """Encoded rows of different lengths with answers of different lengths, for `tiny`."""
    g = torch.Generator().manual_seed(2)
    lengths = torch.randint(6, 15, (n, 2), generator=g).tolist()
    ids = [torch.randint(4, 13, (length,), generator=g).tolist() for length, _ in lengths]
    cuts = [length - 1 - more % (length - 3) for length, more in lengths]
    return [{"input_ids": i, "labels": [-100] * cut + i[cut:]} for i, cut in zip(ids, cuts, strict=True)]


ON_TOKENS = {
    "masked": losses.masked,
    "class_weighted": partial(losses.class_weighted, weights={5: 3.0, 6: 0.5}),
    "focal": partial(losses.focal, gamma=2.0, weights={5: 3.0}),
    "focal, gamma below 1": partial(losses.focal, gamma=0.5),
    "smoothed": losses.smoothed,
    "distilled": lambda *a: losses.distilled(*a, teacher=teacher()),
    "format_penalty": partial(losses.format_penalty, allowed=(2, 5, 6, 7)),
    "length_penalty": partial(losses.length_penalty, end=2, limit=2),
}
PACKED = [name for name in ON_TOKENS if name != "length_penalty"]  # it counts places of a row
on_tokens = pytest.mark.parametrize("name", ON_TOKENS)


def slope(loss, batches, items=None, model=None):
    """Value and gradient of the last norm and the first q_proj, summed over batches."""
    model = (model or tiny()).eval()
    model.zero_grad()
    value = 0.0
    for batch in batches:
        part = loss(model, batch, items)
        part.backward()
        value += float(part.detach())
    got = [model.model.norm.weight.grad.clone(), model.model.layers[0].self_attn.q_proj.weight.grad.clone()]
    model.zero_grad()
    return value, torch.cat([g.flatten() for g in got])


def close(one, other, tolerance=1e-9):
    assert one[0] == pytest.approx(other[0], rel=tolerance, abs=tolerance)
    assert float(other[1].norm()) > 0
    assert float((one[1] - other[1]).norm()) <= 10 * tolerance * max(1.0, float(other[1].norm()))


@on_tokens
def test_four_batches_of_4_give_the_slope_of_one_of_16(name):
    encoded = rows()
    whole = collate(encoded, 0)
    items = int((whole["labels"][:, 1:] != -100).sum())
    parts = [collate(encoded[i : i + 4], 0) for i in range(0, 16, 4)]
    close(slope(ON_TOKENS[name], parts, items), slope(ON_TOKENS[name], [whole]))


@on_tokens
def test_padding_changes_nothing(name):
    batch = collate(rows(4), 0)
    wider = {k: torch.nn.functional.pad(v, (0, 9), value={"labels": -100}.get(k, 0)) for k, v in batch.items()}
    close(slope(ON_TOKENS[name], [wider]), slope(ON_TOKENS[name], [batch]))


@pytest.mark.parametrize("name", PACKED)
def test_packed_rows_have_the_loss_of_padded_ones(name):
    packs = pack(Dataset.from_list(rows(6)), 30)
    assert len(packs) < 6
    packed = collate_packed(packs.to_list(), 0)
    close(slope(ON_TOKENS[name], [packed]), slope(ON_TOKENS[name], [collate(rows(6), 0)]))


@on_tokens
def test_where_no_label_counts_the_loss_and_its_slope_are_0(name):
    batch = collate(rows(2), 0)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    value, gradient = slope(ON_TOKENS[name], [batch])
    assert value == 0 and not gradient.any()


@on_tokens
def test_bf16_is_close_to_fp32_and_finite(name):
    model = copy.deepcopy(tiny()).float()
    batch = collate(rows(8), 0)
    loss = ON_TOKENS[name]
    if name == "distilled":
        loss = partial(losses.distilled, teacher=copy.deepcopy(teacher()).float())
    want = slope(loss, [batch], model=model)
    with torch.autocast("cpu", torch.bfloat16):
        got = slope(loss, [batch], model=model)
    assert got[0] == pytest.approx(want[0], rel=0.05)
    assert torch.nn.functional.cosine_similarity(got[1], want[1], dim=0) > 0.97


def checked(loss, batch):
    """gradcheck of a loss over the norm's weight of a double-precision model."""
    model = tiny()
    weight = model.model.norm.weight

    def f(values):
        return loss(lambda **given: torch.func.functional_call(
            model, {"model.norm.weight": values}, kwargs=given), batch)

    return torch.autograd.gradcheck(f, (weight.detach().clone().requires_grad_(),))


@on_tokens
def test_the_slope_passes_gradcheck_in_double_precision(name):
    torch.manual_seed(3)
    ids = torch.randint(0, 13, (2, 9))
    labels = ids.clone()
    labels[:, :3] = -100
    assert checked(ON_TOKENS[name], {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)})


ON_PAIRS = {"contrastive": partial(losses.contrastive, margin=1.5), "info_nce": losses.info_nce,
            "contrastive, last token": partial(losses.contrastive, margin=1.5, how="last")}


@pytest.mark.parametrize("name", ON_PAIRS)
def test_losses_on_pairs_pass_gradcheck_in_double_precision(name):
    torch.manual_seed(5)
    ids, mask = torch.randint(0, 13, (8, 7)), torch.ones(8, 7, dtype=torch.long)
    mask[1, 4:] = mask[6, 2:] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "y": torch.tensor([0, 1, 0, 0])}
    assert checked(ON_PAIRS[name], batch)


def pairs(n=16, same=False):
    """Encoded pairs for `tiny`."""
    a, b = rows(2 * n)[:n], rows(2 * n)[n:]
    return [{**one, "other_ids": one["input_ids"] if same else other["input_ids"], "y": i % 2}
            for i, (one, other) in enumerate(zip(a, b, strict=True))]


def collated(encoded):
    collator = similarity.PairCollator(base()[1])
    collator.pad_id = 0
    return collator(encoded)


def test_contrastive_loss_of_four_batches_of_4_pairs_is_that_of_one_of_16():
    encoded = pairs()
    parts = [collated(encoded[i : i + 4]) for i in range(0, 16, 4)]
    close(slope(losses.contrastive, parts, 16), slope(losses.contrastive, [collated(encoded)]))


def test_info_nce_of_parts_is_smaller_than_of_the_whole_because_there_are_fewer_negatives():
    encoded = [{**row, "y": 0} for row in pairs()]
    parts = [collated(encoded[i : i + 4]) for i in range(0, 16, 4)]
    assert slope(losses.info_nce, parts, 16)[0] < slope(losses.info_nce, [collated(encoded)])[0] - 0.5


@pytest.mark.parametrize("name", ON_PAIRS)
def test_a_pair_of_one_ticket_with_itself_has_a_finite_slope(name):
    value, gradient = slope(ON_PAIRS[name], [collated(pairs(4, same=True))])
    assert torch.isfinite(gradient).all() and value == value


@pytest.mark.parametrize("name", ON_PAIRS)
def test_losses_on_pairs_are_close_in_bf16(name):
    model, batch = copy.deepcopy(tiny()).float(), collated(pairs(8))
    want = slope(ON_PAIRS[name], [batch], model=model)
    with torch.autocast("cpu", torch.bfloat16):
        got = slope(ON_PAIRS[name], [batch], model=model)
    assert got[0] == pytest.approx(want[0], rel=0.05) and torch.isfinite(got[1]).all()


def test_info_nce_without_a_pair_that_means_the_same_is_0():
    value, gradient = slope(losses.info_nce, [collated([{**row, "y": 1} for row in pairs(4)])])
    assert value == 0 and not gradient.any()


def test_partners_of_one_group_are_no_negatives_of_each_other():
    torch.manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(4, 3), dim=-1) for _ in "ab")
    alone = losses.info_nce_terms(a, b, 0.5, torch.tensor([0, 0, 0, 0]))
    assert alone.abs().max() < 1e-6
    assert (losses.info_nce_terms(a, b, 0.5, torch.arange(4)) - losses.info_nce_terms(a, b, 0.5)).abs().max() == 0


@pytest.mark.parametrize("how", ["mean", "last"])
def test_pooling_sees_no_padding(how):
    torch.manual_seed(0)
    hidden, mask = torch.randn(2, 5, 3), torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    other = hidden.clone()
    other[0, 2:] = 99
    assert torch.equal(losses.pool(hidden, mask, how), losses.pool(other, mask, how))
    with pytest.raises(LabError, match="no pooling"):
        losses.pool(hidden, mask, "max")


def test_by_hand_losses_are_those_of_torch():
    from torch.nn import functional as F

    torch.manual_seed(0)
    x, t = torch.randn(9, 5, dtype=torch.double), torch.randint(0, 5, (9,))
    z = torch.randn(9, 5, dtype=torch.double)
    a, b = x[:, :4], z[:, :4]
    logits, labels = torch.randn(2, 6, 5, dtype=torch.double), torch.randint(0, 5, (2, 6))
    labels[0, :3] = -100
    y = torch.tensor([0, 1] * 4 + [0])
    d = F.pairwise_distance(a, b, eps=0)
    same = {
        "safe_distance": (by_hand.safe_distance(a, b), d),
        "contrastive": (by_hand.contrastive_loss(a, b, y, 3.0), torch.where(y == 0, d**2, F.relu(3 - d) ** 2).mean()),
        "info_nce": (by_hand.info_nce_loss(a, b, 0.3),
                     F.cross_entropy(F.cosine_similarity(a[:, None], b[None], dim=-1) / 0.3, torch.arange(9))),
        "masked": (by_hand.masked_cross_entropy(logits, labels),
                   F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())),
        "focal at gamma 0": (by_hand.focal_loss(x, t, 0.0), F.cross_entropy(x, t)),
        "smoothed": (by_hand.smoothed_loss(x, t, 0.2), F.cross_entropy(x, t, label_smoothing=0.2)),
        "distilled": (by_hand.distillation_loss(x, z, 2.0),
                      4 * F.kl_div((x / 2).log_softmax(-1), (z / 2).log_softmax(-1), reduction="batchmean",
                                   log_target=True)),
    }
    for name, (mine, theirs) in same.items():
        assert torch.allclose(mine, theirs, atol=1e-9), name


def test_losses_agree_with_those_by_hand_on_the_base():
    model, batch = tiny(), collate(rows(3), 0)
    with torch.no_grad():
        logits = model(**batch).logits
        keep = batch["labels"][:, 1:] != -100
        x, t = logits[:, :-1][keep], batch["labels"][:, 1:][keep]
        assert float(losses.masked(model, batch)) == pytest.approx(
            float(by_hand.masked_cross_entropy(logits, batch["labels"])), rel=1e-5)
        assert float(losses.focal(model, batch)) == pytest.approx(float(by_hand.focal_loss(x, t, 2.0)), rel=1e-4)
        assert float(losses.smoothed(model, batch)) == pytest.approx(float(by_hand.smoothed_loss(x, t, 0.1)), rel=1e-4)


def test_label_weights_give_every_class_the_same_total():
    labels = ["joy"] * 30 + ["fear"] * 10
    weights = losses.label_weights(base()[1], labels)
    assert sorted(round(w * n, 6) for w, n in zip(weights.values(), (30, 10), strict=True)) == [20, 20]
    with pytest.raises(LabError, match="same token"):
        losses.label_weights(base()[1], ["joy", "joy joy"])


def test_a_teacher_with_another_vocabulary_is_refused():
    ids = torch.randint(0, 13, (1, 6))
    batch = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    with pytest.raises(LabError, match="vocabulary"):
        losses.distilled(tiny(), batch, teacher=base()[0])


def test_the_trainer_takes_a_loss_on_pairs_and_counts_pairs_over_accumulated_batches(tmp_path):
    seen = []

    def watched(model, batch, items):
        seen.append((len(batch["y"]), None if items is None else int(items)))
        return losses.contrastive(model, batch, items)

    encoded = similarity.encode_pairs(data.read("pairs/train").select(range(16)), base()[1])
    finetune(encoded, model="tiny", loss=watched, collator=similarity.PairCollator(base()[1]), steps=2, batch_size=2,
             skip=("loss_mask", "end_of_turn"), arguments={"gradient_accumulation_steps": 4}, out=tmp_path)
    assert seen == [(2, 8)] * 8
