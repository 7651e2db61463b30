"""What costs nothing: the majority class, a bag of words, the nearest answer. Fine-tuning has to beat these.

Takes texts and answers of training rows and texts to answer; gives answers, to be scored as a model's are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np


def majority(train: Sequence[str], rows: int) -> list[str]:
    """The commonest answer of the training rows, said every time."""
    return [Counter(train).most_common(1)[0][0]] * rows


def bag_of_words(train_texts: Sequence[str], train_labels: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Words and pairs of words, weighted by TF-IDF, into a logistic regression (scikit-learn)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    model = make_pipeline(words, LogisticRegression(C=10, max_iter=1000))
    return model.fit(list(train_texts), list(train_labels)).predict(list(texts)).tolist()


def nearest_answer(train_texts: Sequence[str], train_answers: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The answer of the training row with the most similar words: a bag of words for tasks without classes."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    known, asked = words.fit_transform(list(train_texts)), words.transform(list(texts))
    return [train_answers[i] for i in np.asarray((asked @ known.T).argmax(axis=1)).ravel()]
