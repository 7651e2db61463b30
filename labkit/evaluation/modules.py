"""Metrics as modules of the package `evaluate` that need no hub: made here, usable alone and in `evaluate.combine`.

`evaluate.load("accuracy")` downloads code; these are the same interface over scikit-learn, sacrebleu and rouge-score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import datasets
import evaluate

from labkit.errors import LabError

TEXTS = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}


class OfflineMetric(evaluate.Metric):
    """A metric over predictions and references that are strings, one a row; subclasses say how in `_compute`."""

    description = ""
    citation = ""

    def __init__(self, **options):
        super().__init__(**{"keep_in_memory": True, **options})  # no files in a cache that two runs would share

    def _info(self):
        return evaluate.MetricInfo(description=self.description, citation=self.citation,
                                   inputs_description="predictions, references: a string a row",
                                   features=datasets.Features(TEXTS))


class Accuracy(OfflineMetric):
    description = "Share of right answers (scikit-learn)."

    def _compute(self, predictions, references):
        from sklearn.metrics import accuracy_score

        return {"accuracy": float(accuracy_score(references, predictions))}


class ExactMatch(OfflineMetric):
    description = "Share of answers that are the reference to the last character."

    def _compute(self, predictions, references):
        from sklearn.metrics import accuracy_score

        return {"exact_match": float(accuracy_score(references, predictions))}


class PrecisionRecallF1(OfflineMetric):
    description = "Precision, recall and F1 (scikit-learn); `average` is macro, micro or weighted; never said counts 0."

    def _compute(self, predictions, references, average="macro", labels=None):
        from sklearn.metrics import precision_recall_fscore_support

        values = precision_recall_fscore_support(references, predictions, average=average, labels=labels,
                                                 zero_division=0)
        return dict(zip(("precision", "recall", "f1"), map(float, values[:3]), strict=True))


class Bleu(OfflineMetric):
    description = "Corpus BLEU, 0 to 100, one reference a row (sacrebleu)."
    citation = "Papineni et al., 2002; Post, 2018"

    def _compute(self, predictions, references):
        try:
            import sacrebleu
        except ImportError as error:
            raise LabError("BLEU needs sacrebleu", todo="Run `pip install sacrebleu`") from error
        return {"bleu": float(sacrebleu.corpus_bleu(predictions, [references]).score)}


class Rouge(OfflineMetric):
    description = "Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L (rouge-score)."
    citation = "Lin, 2004"

    def _compute(self, predictions, references):
        from rouge_score.rouge_scorer import RougeScorer

        kinds = ["rouge1", "rouge2", "rougeL"]
        scorer = RougeScorer(kinds)
        rows = [scorer.score(a, b) for a, b in zip(references, predictions, strict=True)]
        return {kind: sum(row[kind].fmeasure for row in rows) / len(rows) for kind in kinds}


class EntityF1(OfflineMetric):
    description = "F1 over the fields of JSON objects, all rows together; what is no JSON object counts as empty."

    def _compute(self, predictions, references):
        from labkit.evaluation.scores import json_object
        from labkit.scratch.metrics import entity_f1

        found, wanted = ([json_object(text) or {} for text in texts] for texts in (predictions, references))
        as_text = [[{key: str(value) for key, value in row.items() if value is not None} for row in rows]
                   for rows in (wanted, found)]
        return {"entity_f1": entity_f1(*as_text)}


MODULES: Mapping[str, Callable[..., OfflineMetric]] = {
    "accuracy": Accuracy, "exact_match": ExactMatch, "f1": PrecisionRecallF1, "bleu": Bleu, "rouge": Rouge,
    "entity_f1": EntityF1,
}


def load(name: str, **options: Any) -> OfflineMetric:
    """What `evaluate.load(name)` would give, without a download.

    Args:
        name: "accuracy", "exact_match", "f1", "bleu", "rouge" or "entity_f1".

    Raises:
        LabError: there is no such metric.
    """
    if name not in MODULES:
        raise LabError(f"there is no metric {name!r}", where="name", expected=", ".join(MODULES))
    return MODULES[name](**options)
