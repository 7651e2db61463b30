"""Score a model on held-out rows, say how much to doubt the figure, and decide by it.

Takes examples (`prompt`, `completion`, perhaps `label`) and a model; gives answers, Scores with 95 % intervals,
whole Evaluations, comparisons on the same rows, and the verdict of a gate.
"""

from labkit.evaluation.answering import classify, generate, left_padded, padded, positions, score_labels
from labkit.evaluation.baselines import bag_of_words, majority, nearest_answer
from labkit.evaluation.scores import (
    Score,
    accuracy,
    entity_scores,
    groups_of,
    interval,
    macro_f1,
    mean_score,
    per_class,
    rouge_l,
    wilson,
)

__all__ = [
    "Score",
    "accuracy",
    "bag_of_words",
    "classify",
    "entity_scores",
    "generate",
    "groups_of",
    "interval",
    "left_padded",
    "macro_f1",
    "majority",
    "mean_score",
    "nearest_answer",
    "padded",
    "per_class",
    "positions",
    "rouge_l",
    "score_labels",
    "wilson",
]
