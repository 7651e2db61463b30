"""The shipped base model is the one that its card describes, and its recipe trains."""

import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import torch

from labkit import models
from labkit.profiles import COURSE

HOME = COURSE / "data" / "tiny-base"
FACTS = json.loads((HOME / "facts.json").read_text(encoding="utf-8"))
LABELS = ("joy anger sadness fear surprise neutral "
          "delivery return payment warranty advice change stock workshop").split()


def test_the_shipped_weights_are_those_of_the_card():
    weights = (HOME / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == FACTS["sha256"]
    assert len(weights) == FACTS["bytes"] <= 12e6
    card = (HOME / "README.md").read_text(encoding="utf-8")
    assert FACTS["sha256"] in card and f"{FACTS['parameters']:,}" in card


def test_what_was_judged_is_what_is_shipped_and_every_task_was():
    judged = json.loads((HOME / "judged.json").read_text(encoding="utf-8"))
    files = [HOME / "model.safetensors", *(COURSE / "data" / "tickets").glob("*.jsonl")]
    assert judged["judged"] == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    for task in ("tone", "intent", "entities", "summary", "reply"):
        assert f"{task}, seed 0" in judged, f"python data/recipe/judge.py {task}"


def test_the_cards_say_what_was_measured():
    sys.path.insert(0, str(COURSE / "data"))
    import make_cards

    assert make_cards.tickets_card() == (COURSE / "data" / "tickets" / "README.md").read_text(encoding="utf-8")
    assert make_cards.base_card() == (HOME / "README.md").read_text(encoding="utf-8")


def test_it_has_the_size_that_the_card_names():
    model, _ = models.load("tiny")
    assert models.count_parameters(model).total == FACTS["parameters"]
    assert 1e6 <= FACTS["parameters"] <= 4e6


def test_labels_are_one_token_and_names_the_same_tokens_wherever_they_stand():
    _, tokenizer = models.load("tiny")

    def tokens(text):
        return tokenizer.tokenize(text)

    for label in LABELS:
        assert tokens(label) == [label]
        assert tokens(f"a {label}")[-1] == label
    for name in ("Klaegg", "Zwundar", "Ostravel"):
        alone = tokens(name)
        assert tokens(f'"{name}"')[1:-1] == alone
        assert tokens(f"in {name}")[-len(alone) :] == alone
    assert tokens("48213") == list("48213")


def test_text_survives_the_tokenizer_unchanged():
    _, tokenizer = models.load("tiny")
    for text in ("naïve Ærø über Łódź", "  two  spaces\n\n1. line", "🙂 and 日本語", '{"a": null}'):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_merge_is_the_most_frequent_pair_and_of_equal_ones_the_last_in_the_alphabet(monkeypatch):
    sys.path.insert(0, str(COURSE / "data" / "recipe"))
    import tokenizer

    monkeypatch.setattr(tokenizer, "LABELS", ())
    rng = random.Random(0)
    words = {"".join(rng.choices("abc", k=rng.randint(2, 7))): rng.randint(1, 9) for _ in range(60)}
    plain, merges, known = [(list(word), n) for word, n in words.items()], [], set()
    while len(merges) < 40:  # every pair counted anew, each time
        pairs = Counter()
        for parts, n in plain:
            for pair in pairwise(parts):
                pairs[pair] += n
        merges.append(max((p for p in pairs if p[0] + p[1] not in known), key=lambda p: (pairs[p], p)))
        known.add("".join(merges[-1]))
        plain = [(tokenizer.apply_merge(parts, merges[-1]), n) for parts, n in plain]
    assert tokenizer.learn_merges(Counter({tuple(word): n for word, n in words.items()}), 40) == merges


def test_a_value_that_is_looked_up_was_said_before_behind_its_key():
    sys.path.insert(0, str(COURSE / "data" / "recipe"))
    import corpus
    import train

    reader = train.Reader(models.load("tiny")[1], corpus.World(), train.parse(["--rows", "8", "--length", "64"]))
    digits = set(reader.tokenizer.convert_tokens_to_ids(list("0123456789")))
    values = []
    for seed in range(20):
        row, worth = reader._look_up(random.Random(seed), 256)
        assert len(row) == len(worth) == 256 and set(worth) == {0.0, train.LOOKED_UP}
        counted = [i for i in range(256) if worth[i]]
        for start in (i for i in counted if not worth[i - 1]):
            end = next((i for i in range(start, 256) if not worth[i]), 256)
            said, before = row[start - 1 : end], row[: start - 1]
            assert any(before[i : i + len(said)] == said for i in range(len(before))), (seed, start)
            values.append(row[start:end])
    assert 0.3 < sum(digits.issuperset(value) for value in values) / len(values) < 0.9
    assert any(len(set(value)) < len(value) for value in values)  # a token twice: one token back does not tell
    for ids, again in zip(reader.batch(3), reader.batch(3), strict=True):
        assert ids.shape == (8, 65) and torch.equal(ids, again)


def test_the_same_script_trains_a_very_small_one_and_its_loss_falls(tmp_path):
    def train(out, ship, *more):
        command = [sys.executable, str(COURSE / "data" / "recipe" / "train.py"), "--out", str(tmp_path / out), "--ship",
                   str(tmp_path / ship), "--rows", "8", "--length", "128", "--habit", "4", *more]
        ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=400)
        curve = [json.loads(line) for line in (tmp_path / ship / "curve.jsonl").open(encoding="utf-8")]
        return ran.stdout, [p["validation_loss"] for p in curve if "validation_loss" in p]  # each time the same texts

    size = ["--hidden", "96", "--layers", "2", "--heads", "2"]
    train("run", "model", *size, "--steps", "30")
    said, losses = train("run", "model", *size, "--steps", "60")  # the same command: it takes up where it stopped
    assert "going on from step 30" in said
    assert losses[-1] < losses[0] - 0.5
    model, tokenizer = models.load(tmp_path / "model")
    assert model.config.hidden_size == 96 and tokenizer.chat_template
    _, further = train("further", "longer", "--start", str(tmp_path / "model"), "--steps", "10")
    assert further[0] < losses[0] - 0.4  # it begins with those weights, after one step
    assert models.load(tmp_path / "longer")[0].config.hidden_size == 96
