"""Answers that learners give, a file a lab: REFERENCES has the right one of each exercise, WRONG some wrong ones."""
