"""Tickets as points: pairs into batches, and how often the nearest ticket means the same."""

from __future__ import annotations

import numpy as np
import pytest

from labkit import LabError, data, models, similarity


@pytest.fixture(scope="module")
def base():
    return models.load("tiny")


def test_retrieval_counts_the_nearest_ticket_of_another_family():
    vectors = np.array([[1, 0], [0.9, 0.44], [0, 1], [0.1, 0.99], [1, 0.01]])
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    matter, family = ["m", "m", "n", "n", "n"], ["m1", "m2", "n1", "n2", "m1"]
    found = similarity.retrieval(vectors, matter, family)
    # 0 -> 1 (its own family is left out); 1 -> 4, wrong, then 0; 2 -> 3; 3 -> 2; 4 -> 1, wrong, then 3
    assert found["recall@1"].value == pytest.approx(3 / 5)
    assert found["recall@5"].value == 1
    assert found["MRR"].value == pytest.approx((3 + 1 / 2 + 1 / 2) / 5)


def test_tickets_without_a_partner_are_not_asked():
    found = similarity.retrieval(np.eye(3), ["m", "m", "alone"], ["a", "b", "c"])
    assert found["recall@1"].rows == 2
    with pytest.raises(LabError, match="no two families"):
        similarity.retrieval(np.eye(2), ["m", "m"], ["a", "a"])


def test_an_embedding_does_not_depend_on_its_batch(base):
    texts = data.read("pairs/test")["a"][:9]
    one, other = (similarity.embed(*base, texts, batch_size=n) for n in (1, 9))
    assert np.allclose(one, other, atol=1e-4)
    assert np.allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5)


def test_a_pair_without_y_or_with_a_strange_one_is_refused(base):
    pairs = data.read("pairs/validation")
    with pytest.raises(LabError, match="no column y"):
        similarity.encode_pairs(pairs.remove_columns("y"), base[1])
    strange = pairs.map(lambda row: {"y": 2})
    with pytest.raises(LabError, match="y is 2"):
        similarity.encode_pairs(strange, base[1])


def test_a_batch_of_pairs_holds_all_a_then_all_b_and_one_label_a_pair(base):
    rows = similarity.encode_pairs(data.read("pairs/train").select(range(3)), base[1]).to_list()
    batch = similarity.PairCollator(base[1])(rows)
    assert batch["input_ids"].shape == batch["attention_mask"].shape and len(batch["input_ids"]) == 6
    for n, row in enumerate(rows):
        for side, place in (("input_ids", n), ("other_ids", n + 3)):
            assert batch["input_ids"][place][batch["attention_mask"][place].bool()].tolist() == row[side]
    assert int((batch["labels"] != -100).sum()) == int((batch["labels"][:, 1:] != -100).sum()) == 3


def test_two_components_keep_the_distances_of_points_in_a_plane():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(20, 2)) @ np.linalg.qr(rng.normal(size=(6, 2)))[0].T
    flat = similarity.flat(plane)
    before, after = (np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (plane, flat))
    assert np.allclose(before, after)
