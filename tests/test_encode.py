"""Examples become token ids: what counts in the loss, what is padded, and what is refused."""

import random

import pytest
import torch
from datasets import Dataset

from labkit import data, finetune, models
from labkit.data.encode import (
    IGNORED,
    collate,
    collate_packed,
    encode,
    encode_completion,
    encode_prompt,
    pack,
    pad_id,
    token_efficiency,
    token_shares,
)
from labkit.errors import LabError
from labkit.trainer import sparse_loss

ROWS = [
    {"prompt": "Which tone has this ticket?\n\nWhere is my parcel?", "completion": "anger", "line": 2},
    {"prompt": "Which tone has this ticket?\n\nAll well, thank you so much.", "completion": "joy", "line": 5},
]
CHAT = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Good day"},
    {"role": "user", "content": "Where is my parcel?"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return models.load("tiny")[1]


def test_the_prompt_is_masked_and_the_completion_and_its_end_of_turn_count(tokenizer):
    for row, was in zip(encode(Dataset.from_list(ROWS), tokenizer), ROWS, strict=True):
        asked = [label == IGNORED for label in row["labels"]].index(False)
        assert row["labels"][:asked] == [IGNORED] * asked
        assert row["labels"][asked:] == row["input_ids"][asked:]
        assert tokenizer.decode(row["labels"][asked:-1]) == was["completion"]
        assert row["labels"][-1] == models.end_of_turn(tokenizer)


def test_training_ids_are_the_serving_prompt_and_the_completion_one_behind_the_other(tokenizer):
    dataset = Dataset.from_list([{"prompt": CHAT, "completion": "It comes tomorrow."}])
    (row,) = encode(dataset, tokenizer)
    assert row["input_ids"] == encode_prompt(tokenizer, CHAT) + encode_completion(tokenizer, "It comes tomorrow.")


def test_a_prompt_has_one_beginning_of_text_where_the_tokenizer_would_add_a_second(tokenizer):
    from tokenizers.processors import TemplateProcessing

    greedy = models.load("tiny")[1]  # a tokenizer that adds a BOS by itself, as many do
    greedy.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{greedy.bos_token} $A", special_tokens=[(greedy.bos_token, greedy.bos_token_id)]
    )
    assert greedy("Hello")["input_ids"][0] == greedy.bos_token_id  # else this test shows nothing
    assert encode_prompt(greedy, "Hello") == encode_prompt(tokenizer, "Hello")


@pytest.mark.parametrize("text", ["x", "é", "שלום, המגפיים נרטבו", "مرحبا، وصلت الخيمة", "🏔️👩‍🚒 fine", "a\u200bb \t c"])
def test_texts_of_any_script_and_of_one_character_come_back_from_their_tokens(tokenizer, text):
    ((ids, labels),) = ((row["input_ids"], row["labels"]) for row in encode(
        Dataset.from_list([{"prompt": text, "completion": text}]), tokenizer))
    assert text in tokenizer.decode(ids[: labels.count(IGNORED)])
    assert tokenizer.decode([label for label in labels if label != IGNORED][:-1]) == text


def test_the_other_columns_stay(tokenizer):
    assert encode(Dataset.from_list(ROWS), tokenizer)["line"][:] == [2, 5]


@pytest.mark.parametrize(
    "columns, place", [(["prompt", "completion", "line"], "line 2"), (ROWS[0].keys() - {"line"}, "row 0")]
)
def test_a_row_that_is_too_long_is_refused_with_its_place_and_not_cut(tokenizer, columns, place):
    dataset = Dataset.from_list(ROWS).select_columns(list(columns))
    longest = [len(row) for row in encode(dataset, tokenizer)["input_ids"]]
    with pytest.raises(LabError, match=rf"^{place}: .* {longest[0]} tokens.*at most 5 \(2 of 2"):
        encode(dataset, tokenizer, max_length=5)
    assert len(encode(dataset, tokenizer, max_length=max(longest))) == 2


def test_padding_is_hidden_by_length_even_where_pad_is_the_end_of_turn(tokenizer):
    rows = encode(Dataset.from_list(ROWS), tokenizer).to_list()
    end = models.end_of_turn(tokenizer)
    batch = collate(rows, pad_id=end)
    lengths = [len(row["input_ids"]) for row in rows]
    assert len(set(lengths)) == 2
    assert batch["attention_mask"].sum(1).tolist() == lengths
    for row, length in enumerate(lengths):
        assert batch["labels"][row, length - 1] == end  # the end of turn itself still counts
        assert (batch["labels"][row, length:] == IGNORED).all()
        assert (batch["input_ids"][row, length:] == end).all()


def test_padding_does_not_change_the_loss_of_a_row(tokenizer):
    model = models.load("tiny")[0]
    rows = encode(Dataset.from_list(ROWS), tokenizer).to_list()
    with torch.no_grad():
        alone = [model(**collate([row], pad_id(tokenizer))).loss * labels(row) for row in rows]
        together = model(**collate(rows, pad_id(tokenizer))).loss
    assert together.item() == pytest.approx(sum(alone).item() / sum(map(labels, rows)), rel=1e-5)


def labels(row) -> int:
    return sum(label != IGNORED for label in row["labels"])


def test_a_tokenizer_without_a_pad_token_gets_another_that_the_mask_hides(tokenizer):
    bare = models.load("tiny")[1]
    assert pad_id(bare) == bare.pad_token_id
    bare.pad_token = None
    assert pad_id(bare) == bare.eos_token_id


def test_the_share_of_tokens_that_count_is_told_row_by_row():
    rows = [{"labels": [IGNORED, 5, 6, 7]}, {"labels": [IGNORED]}, {"labels": [4]}, {"labels": []}]
    assert token_shares(rows) == [0.75, 0, 1, 0]


def test_packs_hold_every_row_once_and_are_nearly_full(tokenizer):
    rows = encode(data.ticket_examples(data.read("tickets/train").select(range(200)), "tone"), tokenizer)
    packs = pack(rows, 256)
    assert max(map(len, packs["input_ids"])) <= 256
    counted = [sum(label != IGNORED for row in part["labels"] for label in row) for part in (rows, packs)]
    assert counted[0] == counted[1]
    begun = sorted(tuple(row["input_ids"][i:i + 12]) for row in packs.to_list()
                   for i, place in enumerate(row["position_ids"]) if place == 0)
    assert begun == sorted(tuple(ids[:12]) for ids in rows["input_ids"])
    assert token_efficiency(rows, 8) < 0.9 < 0.95 <= token_efficiency(packs, 8)


def test_a_packed_batch_has_the_loss_of_its_rows_and_no_row_sees_its_neighbours(tokenizer):
    model = models.load("tiny")[0]
    rows = encode(data.ticket_examples(data.read("tickets/train").select(range(12)), "tone"), tokenizer)
    padded, packed = collate(rows.to_list(), pad_id(tokenizer)), collate_packed(pack(rows, 300).to_list(), 0)
    assert packed["input_ids"].shape[0] < 12
    with torch.no_grad():
        one, other = (sparse_loss(model, batch) for batch in (padded, packed))
        packed["attention_mask"] = packed["attention_mask"].new_ones(packed["input_ids"].shape).long()
        mixed = sparse_loss(model, packed)
    assert other.item() == pytest.approx(one.item(), rel=1e-5)
    assert mixed.item() != pytest.approx(one.item(), rel=1e-3)


def test_each_row_goes_into_the_first_pack_that_has_room_the_longest_rows_first():
    draw = random.Random(0)
    lengths = [draw.randint(1, 40) for _ in range(300)]
    rows = Dataset.from_list([{"input_ids": [i] * n, "labels": [i] * n} for i, n in enumerate(lengths)])
    expected: list[list[int]] = []  # by a search through all packs
    for row in sorted(range(300), key=lambda i: -lengths[i]):
        fitting = [members for members in expected if sum(lengths[i] for i in members) + lengths[row] <= 48]
        if not fitting:
            expected.append([])
        (fitting or expected[-1:])[0].append(row)
    packs = pack(rows, 48)
    assert packs["input_ids"][:] == [[i for i in members for _ in range(lengths[i])] for members in expected]
    assert packs["position_ids"][:] == [[p for i in members for p in range(lengths[i])] for members in expected]
    mixed = rows.select([7, 3, 5])  # in an order of their own, longest first again in the pack
    assert set(pack(mixed, 120)["input_ids"][0]) == {3, 5, 7} and len(pack(rows.select([]), 48)) == 0


def test_a_row_longer_than_a_pack_is_refused(tokenizer):
    with pytest.raises(LabError, match="tokens"):
        pack(encode(Dataset.from_list(ROWS), tokenizer), 5)


def test_finetune_takes_packs_with_every_tripwire_on(tokenizer, tmp_path):
    rows = encode(data.ticket_examples(data.read("tickets/train").select(range(200)), "tone"), tokenizer)
    run = finetune(pack(rows, 256), steps=12, batch_size=4, out=tmp_path)
    assert {"loss_mask", "end_of_turn", "adapter_moved", "reload_agrees"} <= {f.guard for f in run.findings}
    assert run.curve[-1]["loss"] < run.curve[0]["loss"]
