"""A small router: what a ticket wants decides which adapter answers it.

A bag of words tells the intent in a millisecond; `Bank.each` then takes the routes of a whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labkit.errors import LabError

MANY = 1000


class Router:
    """Sends each text to the adapter of its intent; None, the base or a person, where it is not sure.

    Args:
        texts: to learn from. intents: one a text.
        routes: the adapter of each intent.
        least: probability under which no route is taken.

    Raises:
        LabError: nothing to learn from, or an intent without a route.
    """

    def __init__(self, texts: Sequence[str], intents: Sequence[str], routes: Mapping[str, str], least: float = 0.0):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        if len(texts) != len(intents) or len(set(intents)) < 2:
            raise LabError(f"{len(texts)} texts with {len(set(intents))} intents", where="texts",
                           expected="one intent a text, and at least two of them")
        if lost := sorted(set(intents) - set(routes)):
            raise LabError(f"no route for {', '.join(lost)}", where="routes", expected="an adapter for every intent")
        self.routes, self.least = dict(routes), least
        # What stands in one of many texts alone is of little use to others, and fitting it takes half of the time.
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(texts) > MANY else 1)
        self._model = make_pipeline(words, LogisticRegression(C=10, max_iter=1000)).fit(list(texts), list(intents))

    def intents(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The likeliest intent of each text and its probability."""
        shares = self._model.predict_proba(list(texts))
        return [(str(self._model.classes_[row.argmax()]), float(row.max())) for row in shares]

    def __call__(self, texts: Sequence[str]) -> list[str | None]:
        """The adapter for each text, or None."""
        return [self.routes[intent] if sure >= self.least else None for intent, sure in self.intents(texts)]
