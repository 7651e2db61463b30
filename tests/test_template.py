"""Templates: tickets and anybody's records become prompt and completion, and one function renders what a model sees."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from labkit.data import LABELS, PROMPTS, examples, fill, read, recognise, render, ticket_examples, turns
from labkit.errors import LabError

CHAT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer(chat_template: str | None) -> PreTrainedTokenizerFast:
    """A real byte-level BPE tokenizer, trained in a moment."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(["where is my order"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", chat_template=chat_template)


def test_each_ticket_task_gives_its_prompt_and_its_answer():
    tickets = read("tickets/validation")
    for task in PROMPTS:
        made = ticket_examples(tickets, task)
        own = ["label"] if task in LABELS else []
        assert made.column_names == ["prompt", "completion", *own, "text", "family", "id"]
        assert made.num_rows == tickets.num_rows
        for ticket, row in zip(tickets, made, strict=True):
            assert row["prompt"] == PROMPTS[task].replace("{text}", ticket["text"])
            answer = json.loads(row["completion"]) if task == "entities" else row["completion"]
            assert answer == ticket[task]
            assert (row["family"], row["id"]) == (ticket["family"], ticket["id"])
            assert task not in LABELS or row["label"] == row["completion"] in LABELS[task]


def test_each_label_task_names_all_its_labels_in_the_prompt():
    for task, labels in LABELS.items():
        assert all(label in PROMPTS[task] for label in labels)
        assert set(labels) == set(read("tickets")[task][:])


def test_entities_keep_one_order_of_keys_and_letters_beyond_ascii():
    entities = {"place": "Štrba", "date": None, "order": "1", "product": "Mlyn stove"}
    tickets = Dataset.from_list([{"text": "t", "entities": entities, "family": "f", "id": "T1"}])
    expected = '{"product": "Mlyn stove", "order": "1", "place": "Štrba", "date": null}'
    assert ticket_examples(tickets, "entities")["completion"][0] == expected


def test_a_ticket_with_braces_in_its_text_is_left_as_it_is():
    tickets = Dataset.from_list([{"text": "what is {order}?", "tone": "joy", "family": "f", "id": "T1"}])
    assert ticket_examples(tickets, "tone")["prompt"][0].endswith("\n\nwhat is {order}?")


def test_an_unknown_task_a_missing_column_and_an_unknown_label_are_named():
    tickets = Dataset.from_list([{"text": "t", "tone": "glee", "family": "f", "id": "T1"}])
    with pytest.raises(LabError, match="no task 'tones'.*mean 'tone'"):
        ticket_examples(tickets, "tones")
    with pytest.raises(LabError, match="no column 'reply'"):
        ticket_examples(tickets, "reply")
    with pytest.raises(LabError, match="ticket T1: 'glee' is no tone"):
        ticket_examples(tickets, "tone")


def records(*rows: dict) -> Dataset:
    return Dataset.from_list(list(rows))


def test_labelled_texts_become_a_question_that_names_the_labels():
    texts = records(*({"text": f"{{t}} {i}", "label": "cab"[i % 3], "family": i} for i in range(6)))
    made = examples(texts, recognise(texts))
    assert made.column_names == ["prompt", "completion", "label", "family"]
    first = {"prompt": "Which label fits: a, b or c?\n\n{t} 0", "completion": "c", "label": "c", "family": 0}
    assert made[0] == first


def test_whole_numbers_as_labels_become_text():
    texts = records(*({"text": f"t{i}", "label": i % 2} for i in range(4)))
    assert examples(texts, recognise(texts))["label"][:] == ["0", "1", "0", "1"]


def test_pairs_of_any_name_keep_their_texts_and_the_other_columns():
    pairs = records(*({"question": f"q{i}", "answer": f"a{i}", "group": i, "label": "x"} for i in range(3)))
    made = examples(pairs, recognise(pairs))
    assert made.to_list()[1] == {"prompt": "q1", "completion": "a1", "group": 1}
    turned = records(*({"completion": f"q{i}", "prompt": f"a{i}"} for i in range(3)))
    assert examples(turned, recognise(turned, "completion,prompt"))[2] == {"prompt": "q2", "completion": "a2"}


def test_messages_give_the_turns_before_the_last_as_prompt():
    rows = []
    for i in range(2):
        talk = [("system", "Be kind"), ("user", f"q{i}"), ("assistant", "?"), ("user", "this"), ("assistant", "ok")]
        rows.append({"messages": [{"role": role, "content": content} for role, content in talk]})
    made = examples(records(*rows), recognise(records(*rows)))
    assert made["completion"][:] == ["ok", "ok"]
    assert made[1]["prompt"] == rows[1]["messages"][:-1] == turns(made[1]["prompt"])
    with pytest.raises(LabError, match="no prompt template"):
        examples(records(*rows), recognise(records(*rows)), "{text}")


def test_a_template_of_ones_own_takes_any_column(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label,shop\na,x,1\nb,y,2\nc,x,3\nd,y,4\n", encoding="utf-8")
    texts = read(path)
    made = examples(texts, recognise(texts), "Shop {shop}: {text}")
    assert made.column_names == ["prompt", "completion", "label", "shop", "line"]
    assert made[1] == {"prompt": "Shop 2: b", "completion": "y", "label": "y", "shop": "2", "line": 3}
    with pytest.raises(LabError, match="line 2: the template has {shopp}.*'shop'"):
        examples(texts, recognise(texts), "{shopp}")


def test_fill_puts_texts_and_numbers_in_place_and_keeps_doubled_braces():
    assert fill("{a}-{b}{{c}}", {"a": "x{b}", "b": 3, "c": "no"}) == "x{b}-3{c}"


@pytest.mark.parametrize(
    ("template", "part"),
    [
        ("Ticket {txet}", "there is no such column.*mean 'text'"),
        ("{text", "brace without its pair"),
        ("text}", "brace without its pair"),
        ("{}", "alone between braces"),
        ("{text!r}", r"\{text!r\}.*alone between braces"),
        ("{text:>10}", "alone between braces"),
        ("{text.upper}", "no such column"),
        ('{"product": 1}', "alone between braces"),
        ("{nothing}", "nothing is empty"),
        ("{inner}", "inner holds a dict, not text"),
    ],
)
def test_a_template_that_cannot_be_filled_says_why(template, part):
    with pytest.raises(LabError, match=part):
        fill(template, {"text": "a", "nothing": None, "inner": {"a": 1}}, "a.csv, line 2")


def test_render_ends_where_the_answer_begins_and_takes_text_or_turns():
    tok = tokenizer(CHAT)
    assert render(tok, "where?") == "<s><user>where?</user><assistant>"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert render(tok, talk) == "<s><user>a</user><assistant>b</assistant><user>c</user><assistant>"


def test_a_tokenizer_without_chat_template_is_named_with_what_to_do():
    with pytest.raises(LabError, match="no chat template.*Instruct"):
        render(tokenizer(None), "where?")


def test_turns_that_the_chat_template_refuses_are_named():
    with pytest.raises(LabError, match="refuses turns of system, user .no system role"):
        render(tokenizer(CHAT), [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
