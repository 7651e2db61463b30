"""Right and wrong answers to lab 00's exercise."""

REFERENCES = {"accuracy": lambda said, truth: sum(s == t for s, t in zip(said, truth, strict=True)) / len(truth)}

WRONG = {
    "accuracy": [
        lambda said, truth: sum(s == t for s, t in zip(said, truth, strict=True)),
        lambda said, truth: 100 * sum(s == t for s, t in zip(said, truth, strict=True)) / len(truth),
        lambda said, truth: sum(s != t for s, t in zip(said, truth, strict=True)) / len(truth),
        lambda said, truth: sum(s == t for s, t in zip(said, truth, strict=True)) // len(truth),
        lambda said, truth: said == truth,
        lambda said, truth: None,
        lambda said, truth: "3 of 4",
        lambda said: 1.0,
    ]
}
