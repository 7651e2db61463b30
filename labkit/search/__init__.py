"""Hyperparameter studies through Optuna: a space, trials that share one base, a study in a file, several workers.

Takes a task (its training and validation rows) and gives a Study, whose test rows can be opened once.
"""

from labkit.search.space import Choice, Float, Int, Plan, defaults, read_plan, setting_of, usual_space
from labkit.search.study import Study, Tried, replay, study, trials_in
from labkit.search.trials import Bench, Trial, quick_trial, trial

__all__ = [
    "Bench",
    "Choice",
    "defaults",
    "Float",
    "Int",
    "Plan",
    "quick_trial",
    "read_plan",
    "replay",
    "setting_of",
    "Study",
    "study",
    "Trial",
    "trial",
    "trials_in",
    "Tried",
    "usual_space",
]
