"""Score a model on held-out rows, say how much to doubt the figure, and decide by it.

Takes examples (`prompt`, `completion`, perhaps `label`) and a model; gives answers, Scores with 95 % intervals,
whole Evaluations, comparisons on the same rows, and the verdict of a gate.
"""

from labkit.evaluation.answering import classify, generate, left_padded, padded, positions, score_labels
from labkit.evaluation.baselines import bag_of_words, majority, nearest_answer
from labkit.evaluation.card import model_card
from labkit.evaluation.constrained import JsonObject, OneOf
from labkit.evaluation.contamination import ngram_overlap
from labkit.evaluation.decisions import cheapest, cost_matrix, money, reliability, temperature
from labkit.evaluation.doubt import Difference, holm, mcnemar, paired_bootstrap, rows_needed
from labkit.evaluation.gate import RULES, Verdict, gate, read_rules
from labkit.evaluation.perplexity import perplexity_scores, token_log_likelihoods
from labkit.evaluation.runner import Evaluation, compare, difference, evaluate_model
from labkit.evaluation.scores import (
    Score,
    accuracy,
    bleu,
    class_f1,
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
    "accuracy",
    "bag_of_words",
    "bleu",
    "cheapest",
    "class_f1",
    "classify",
    "compare",
    "cost_matrix",
    "Difference",
    "difference",
    "entity_scores",
    "evaluate_model",
    "Evaluation",
    "gate",
    "generate",
    "groups_of",
    "holm",
    "interval",
    "JsonObject",
    "left_padded",
    "macro_f1",
    "majority",
    "mcnemar",
    "mean_score",
    "model_card",
    "money",
    "nearest_answer",
    "ngram_overlap",
    "OneOf",
    "padded",
    "paired_bootstrap",
    "per_class",
    "perplexity_scores",
    "positions",
    "read_rules",
    "reliability",
    "rouge_l",
    "rows_needed",
    "RULES",
    "Score",
    "score_labels",
    "temperature",
    "token_log_likelihoods",
    "Verdict",
    "wilson",
]
