"""The exercises of lab 08, watching and mending: what each answer is tried on, and what is said of usual wrong ones."""

from __future__ import annotations

from labkit.exercises import Wrong, call, describe, exercise, expect_number, expect_type

LAB = "08"
BETTER = 0.9  # of what a blind guess among the labels costs: below it by more than a wobble
SOON = 0.95  # the same for the last third of a short run


@exercise(
    "throughput",
    lab=LAB,
    title="tokens a second, and seconds to go",
    difficulty=1,
    minutes=6,
    hints=(
        "The first step makes threads and caches; leave it out of both answers: seconds[1:], tokens[1:].",
        "Speed is the sum of the tokens by the sum of the seconds. The time to go is the mean of a step times the "
        "steps that are left, steps - len(seconds).",
        "a_step = sum(seconds[1:]) / len(seconds[1:])\n"
        "return sum(tokens[1:]) / sum(seconds[1:]), a_step * (steps - len(seconds))",
    ),
    after="A speed without its first step is one that you can multiply.",
)
def throughput(answer):
    for seconds, tokens, steps in (([9.0, 2.0, 3.0], [100, 90, 60], 10), ([5.0, 1.0, 1.5, 1.5], [64, 64, 30, 50], 40)):
        got = call(answer, list(seconds), list(tokens), steps)
        where = f"for seconds = {seconds}, tokens = {tokens}, steps = {steps}"
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong(f"{where}: expected two numbers, tokens a second and seconds to go, and got {describe(got)}.")
        speed, left = got
        for value, name in ((speed, "tokens a second"), (left, "seconds to go")):
            expect_type(value, (int, float), f"for the {name}")
        rest, n = seconds[1:], len(seconds)
        if abs(speed - sum(tokens) / sum(seconds)) < 1e-9:
            raise Wrong(f"{where}: {speed:.3g} tokens a second has the first step in it, which warms up. Leave it out.")
        means = sum(t / s for t, s in zip(tokens[1:], rest, strict=True)) / len(rest)
        if abs(speed - means) < 1e-9:
            raise Wrong(f"{where}: {speed:.4g} is the mean of the steps' speeds. A short step then weighs as much as a "
                        "long one: divide the sum of the tokens by the sum of the seconds.")
        if abs(speed - sum(rest) / sum(tokens[1:])) < 1e-9:
            raise Wrong(f"{where}: that is seconds a token, upside down.")
        expect_number(speed, sum(tokens[1:]) / sum(rest), 1e-9, f"tokens a second {where}")
        a_step = sum(rest) / len(rest)
        usual = {
            a_step * steps: "that is the whole training. Steps that are done are not to go.",
            sum(seconds) / n * (steps - n): "the first step is in that mean, and it is no measure for the others.",
            a_step * (steps - n + 1): "one step too many: the first is done too, though it counts in no speed.",
            a_step * (steps - n) / 60: "that is minutes.",
        }
        for value, sentence in usual.items():
            if abs(left - value) < 1e-9:
                raise Wrong(f"{where}: {left:.4g} seconds to go: {sentence}")
        expect_number(left, a_step * (steps - n), 1e-9, f"seconds to go {where}")


def _run(answer, name: str):
    """The Run that `clinic.treat` gave, and the settings of the sick one."""
    from labkit import clinic
    from labkit.training import Run

    if isinstance(answer, dict):
        raise Wrong("that is the dict of settings. Train with it: clinic.treat gives a Run, and that is looked at.")
    if not isinstance(answer, Run):
        raise Wrong(f"expected the Run that clinic.treat({name!r}, ...) gives, and got {describe(answer)}.")
    sick = clinic.sick(name)
    if all(answer.settings.get(key) == value for key, value in sick.items()):
        raise Wrong("these are the settings of the sick run: nothing was changed.")
    return answer, sick


def _enough_steps(run, sick) -> None:
    if run.settings["steps"] > 2 * sick["steps"]:
        raise Wrong(f"{run.settings['steps']} steps are more than twice the {sick['steps']} of the sick run. A mend "
                    "is not to cost more than the illness.")


@exercise(
    "mend_overfitting",
    lab=LAB,
    title="a run that learns by heart",
    difficulty=2,
    minutes=10,
    hints=(
        "Look where validation is lowest in the sick run, and what the run does afterwards.",
        "Three kinds of mend: end it there (patience), give it less room (rank, alpha, dropout, weight_decay, "
        "learning_rate), or more to read (rows). The first keeps the lowest point, the others move it.",
        'mend = {"rows": 400, "rank": 8, "alpha": 16}',
    ),
    after="Validation ends close to its lowest, and low enough.",
)
def mend_overfitting(answer):
    from labkit import clinic

    run, sick = _run(answer, "overfitting")
    held = [point["validation_loss"] for point in run.curve if "validation_loss" in point]
    if not held:
        raise Wrong("this run never looked at validation, so nobody can say whether it is well. Let "
                    "clinic.treat train it.")
    _enough_steps(run, sick)
    best, end = min(held), held[-1]
    if run.settings.get("patience"):
        end = best  # its weights are the best ones
    if end - best > max(0.1, 0.15 * best):
        fewer = "Fewer steps alone end it earlier." if run.settings["steps"] < sick["steps"] else ""
        raise Wrong(f"it still learns by heart: validation was {best:.2f} at its lowest, and ends at {end:.2f}. {fewer}"
                    .strip())
    most = BETTER * clinic.blind()
    if end > most:
        what = "Stopping in time keeps the best of a poor run; what" if run.settings.get("patience") else "What"
        raise Wrong(f"it no longer turns, but it has hardly learnt: validation ends at {end:.2f} nats, where "
                    f"at most {most:.2f} is asked. {what} would lower the lowest point itself?")


@exercise(
    "mend_memory",
    lab=LAB,
    title="a run that does not fit",
    difficulty=2,
    minutes=8,
    hints=(
        "Two things make room without changing what is learnt: fewer rows at once with more parts, and checkpointing.",
        "batch_size × accumulation must stay 16. clinic.wants(**mend) says in bytes what it would take, "
        "clinic.budget() what there is.",
        "Checkpointing on, and the largest of 16, 8, 4, 2, 1 rows that then fits: print clinic.wants for each.",
    ),
    after="The same sixteen rows a step, the same gradient, and it fits: fewer rows at once, fewer activations kept.",
)
def mend_memory(answer):
    from labkit import clinic

    if not isinstance(answer, dict):
        raise Wrong(f"expected a dict of settings, and got {describe(answer)}.")
    sick = clinic.sick("memory")
    if unknown := sorted(set(answer) - set(sick)):
        raise Wrong(f"there is no setting {', '.join(map(str, unknown))}. There are {', '.join(sick)}.")
    told = sick | answer
    for name in ("batch_size", "accumulation"):
        if type(told[name]) is not int or told[name] < 1:
            raise Wrong(f"{name} is {describe(told[name])}; expected a whole number from 1 on.")
    if told["method"] != "full":
        raise Wrong("that trains other weights. Here all weights are to be trained; LoRA and QLoRA come after this.")
    rows = told["batch_size"] * told["accumulation"]
    if rows != clinic.ROWS:
        raise Wrong(f"batch_size × accumulation is {rows}: with another number of rows a step it is another training. "
                    f"Keep it at {clinic.ROWS}.")
    needs, has = clinic.wants(**told), clinic.budget()
    if needs > has:
        raise Wrong(f"it would hold {needs / 1e6:.0f} MB at its worst moment, and there are {has / 1e6:.0f}. "
                    + ("Both remedies together go further." if not told["checkpointing"] or told["accumulation"] == 1
                       else "Fewer rows at once go further."))
    if not told["checkpointing"]:
        raise Wrong(f"it fits, but {told['accumulation']} passes with {told['batch_size']} row each use a machine "
                    "badly. Checkpointing lets more rows through at once.")
    twice = told | {"batch_size": 2 * told["batch_size"], "accumulation": told["accumulation"] // 2}
    if told["accumulation"] > 1 and clinic.wants(**twice) <= has:
        raise Wrong(f"it fits, and {twice['batch_size']} rows at once would fit as well: fewer, larger parts are "
                    "faster.")


@exercise(
    "mend_batches",
    lab=LAB,
    title="batches with little padding",
    difficulty=2,
    minutes=8,
    hints=(
        "A batch is as wide as its longest row. Which rows should be together?",
        "Sort the row numbers by their length: sorted(range(len(lengths)), key=lambda row: lengths[row]).",
        "order = sorted(range(len(lengths)), key=lambda row: lengths[row])\n"
        "return [order[start : start + size] for start in range(0, len(order), size)]",
    ),
    after="Same rows, hardly any padding. In a training, shuffle the batches afterwards: short rows first is a "
          "curriculum that nobody asked for.",
)
def mend_batches(answer):
    import random

    draw = random.Random(8)
    for lengths, size in (([9, 2, 8, 1, 5, 7], 2), ([draw.randint(5, 200) for _ in range(50)], 8), ([4, 4, 4], 4)):
        got = call(answer, list(lengths), size)
        where = f"for {len(lengths)} rows in batches of {size}"
        expect_type(got, (list, tuple), where)
        if not all(isinstance(batch, list | tuple) for batch in got):
            raise Wrong(f"{where}: expected a list of batches, each a list of row numbers, and got {describe(got)}.")
        rows = [row for batch in got for row in batch]
        if any(isinstance(row, bool) or not isinstance(row, int) for row in rows):
            raise Wrong(f"{where}: a batch holds row numbers, whole numbers from 0 on.")
        if sorted(rows) == sorted(lengths) and sorted(rows) != list(range(len(lengths))):
            raise Wrong(f"{where}: these are the lengths themselves. A batch holds the numbers of the rows.")
        if missing := sorted(set(range(len(lengths))) - set(rows)):
            raise Wrong(f"{where}: row {missing[0]} is in no batch ({len(missing)} are missing). Nothing may be lost, "
                        "also in a last batch that is not full.")
        if len(rows) != len(set(rows)):
            raise Wrong(f"{where}: a row is in two batches.")
        if set(rows) - set(range(len(lengths))):
            raise Wrong(f"{where}: there is no row {max(rows)}; they are counted from 0 to {len(lengths) - 1}.")
        if any(len(batch) > size for batch in got):
            raise Wrong(f"{where}: a batch has {max(map(len, got))} rows, more than {size}.")
        if len(got) != -(-len(lengths) // size):
            raise Wrong(f"{where}: {len(got)} batches, where {-(-len(lengths) // size)} would do.")
        wide = sum(len(batch) * max(lengths[row] for row in batch) for batch in got)
        order = sorted(range(len(lengths)), key=lambda row: lengths[row])
        least = min(sum(len(b) * max(lengths[r] for r in b) for b in cut)
                    for cut in ([order[i:i + size] for i in range(0, len(order), size)],))
        down = order[::-1]
        least = min(least, sum(len(b) * max(lengths[r] for r in b)
                               for b in [down[i:i + size] for i in range(0, len(down), size)]))
        if wide > 1.1 * least:
            pads = 1 - sum(lengths) / wide
            came = rows == list(range(len(lengths)))
            hint = "they are as they came" if came else "rows of like length are not together"
            raise Wrong(f"{where}: {pads:.0%} of the tokens are padding: {hint}. It can be "
                        f"{1 - sum(lengths) / least:.0%}.")


@exercise(
    "mend_format",
    lab=LAB,
    title="a row as serving will ask it",
    difficulty=2,
    minutes=10,
    hints=(
        "Ask the tokenizer for the prompt as serving does: apply_chat_template([{'role': 'user', 'content': prompt}], "
        "add_generation_prompt=True, tokenize=False), then its ids with add_special_tokens=False.",
        "The answer's ids have tokenizer.eos_token_id behind them. Labels are -100 over the prompt, and the answer's "
        "ids over the answer and its end.",
        "return {'input_ids': asked + answer, 'labels': [-100] * len(asked) + answer}",
    ),
    after="Template, mask and end of turn: the three tripwires for data have nothing to say against it.",
)
def mend_format(answer):
    from labkit import models
    from labkit.scratch.watching import to_row

    _, tokenizer = models.load("tiny")
    pairs = (("Which tone has this ticket?\n\nWhere is my stove?", "anger"), ("Say it back.", "I do."))
    for prompt, completion in pairs:
        got = call(answer, tokenizer, prompt, completion, copies=False)
        where = f"for the answer {completion!r}"
        if got is None:
            raise Wrong(f"your function gave `None` {where}. Is there a `return`?")
        if not isinstance(got, dict) or not {"input_ids", "labels"} <= set(got):
            raise Wrong(f"{where}: expected a dict with input_ids and labels, and got {describe(got)}.")
        ids, labels = list(got["input_ids"]), list(got["labels"])
        if len(ids) != len(labels):
            raise Wrong(f"{where}: {len(ids)} input_ids and {len(labels)} labels. Each token has one label.")
        right = to_row(tokenizer, prompt, completion)
        counted = [label for label in labels if label != -100]
        if ids != right["input_ids"]:
            end = tokenizer.eos_token_id
            if ids == right["input_ids"][:-1]:
                raise Wrong(f"{where}: the end of turn (id {end}) is missing behind the answer: the model would never "
                            "stop.")
            if ids[1:] == right["input_ids"]:
                raise Wrong(f"{where}: there is one more token in front. The template writes the start itself: "
                            "add_special_tokens=False.")
            asked = right["labels"].count(-100)
            at = next((i for i, (a, b) in enumerate(zip(ids, right["input_ids"], strict=False)) if a != b),
                      min(len(ids), len(right["input_ids"])))
            place = "the prompt" if at < asked else "the answer"
            raise Wrong(f"{where}: training and serving part at token {at}, in {place}: "
                        f"{tokenizer.decode(ids[at:at + 3])!r} in yours, "
                        f"{tokenizer.decode(right['input_ids'][at:at + 3])!r} in serving.")
        if labels == ids:
            raise Wrong(f"{where}: all tokens count in the loss, the prompt too. Set its labels to -100.")
        if not counted:
            raise Wrong(f"{where}: no token counts in the loss, so the row teaches nothing.")
        if labels == right["labels"]:
            continue
        if labels[:-1] == right["labels"][:-1]:
            raise Wrong(f"{where}: the end of turn does not count in the loss, so the model does not learn to stop.")
        if labels[:-1] == right["labels"][1:] or labels[1:] == right["labels"][:-1]:
            raise Wrong(f"{where}: labels are shifted by one. The model shifts them itself: a label stands under its "
                        "own token.")
        raise Wrong(f"{where}: {len(counted)} labels count, and they are not those of the answer with its end, "
                    f"{len([x for x in right['labels'] if x != -100])}.")


@exercise(
    "update_ratio",
    lab=LAB,
    title="how far a step moves the weights",
    difficulty=1,
    minutes=6,
    hints=(
        "Take all tensors as one long vector: what is the length of the change, what of the vector before?",
        "Sum the squares over all tensors first, then take the roots, then divide.",
        "moved = sum((a - b).square().sum() for a, b in zip(after, before))\n"
        "size = sum(b.square().sum() for b in before)\nreturn float((moved / size) ** 0.5)",
    ),
    after="Under Adam it is about the learning rate divided by a weight's size, whatever the gradient.",
)
def update_ratio(answer):
    import torch

    g = torch.Generator().manual_seed(8)
    for shapes, rate in ((((4, 3), (5,)), 0.01), (((2, 2), (7, 3), (3,)), 0.5)):
        before = [torch.randn(shape, generator=g) * (i + 1) for i, shape in enumerate(shapes)]
        after = [b + rate * (i + 1) * torch.randn(b.shape, generator=g) for i, b in enumerate(before)]
        got = call(answer, before, after)
        moved = sum(float((a - b).square().sum()) for a, b in zip(after, before, strict=True))
        size = sum(float(b.square().sum()) for b in before)
        right = (moved / size) ** 0.5
        where = f"for {len(shapes)} tensors"
        ratios = [float((a - b).norm() / b.norm()) for a, b in zip(after, before, strict=True)]
        usual = {
            moved / size: "the squares are still there: take the root of both lengths.",
            (size / moved) ** 0.5: "upside down: the change is divided by the weights.",
            moved**0.5: "that is the length of the change alone. A share needs the length of the weights below it.",
            (moved / sum(float(a.square().sum()) for a in after)) ** 0.5: "divided by the weights *after* the step.",
            sum(ratios) / len(ratios): "the mean of the tensors' ratios. Take all as one vector: sum squares first.",
            ratios[0]: "that is the first tensor alone.",
            max(ratios): "that is the tensor that moved most. Take all of them as one vector.",
            abs(sum(float(a.norm()) ** 2 for a in after) ** 0.5 - size**0.5) / size**0.5:
                "that is the change of the length. Weights can move far and stay as long: take the length of the "
                "change.",
        }
        value = float(got) if hasattr(got, "item") and getattr(got, "numel", lambda: 1)() == 1 else got
        expect_type(value, (int, float), where)
        if abs(value - right) > 1e-5 * right:
            for wrong, sentence in usual.items():
                if abs(value - wrong) < 1e-5 * max(1e-9, abs(wrong)):
                    raise Wrong(f"{where}: expected {right:.4g}, and got {value:.4g}: {sentence}")
        expect_number(value, right, 1e-4, where)


@exercise(
    "mend_rate",
    lab=LAB,
    title="a run whose steps are too long",
    difficulty=1,
    minutes=5,
    hints=(
        "A step moves the weights by about the rate divided by a weight's size. How many times too far does it go?",
        "Divide the rate by what the ratio is above one to ten per cent.",
        'mend = {"learning_rate": 3e-3}',
    ),
    after="The same rows, the same steps, another rate.",
)
def mend_rate(answer):
    from labkit import clinic

    run, sick = _run(answer, "rate")
    changed = [name for name in ("rows", "steps", "batch_size", "rank") if run.settings.get(name) != sick[name]]
    if changed:
        raise Wrong(f"{', '.join(changed)} changed too. To know what mended it, change the rate alone.")
    rate = run.settings["learning_rate"]
    losses = [point["loss"] for point in run.curve if "loss" in point]
    end = sum(losses[-len(losses) // 3:]) / max(1, len(losses[-len(losses) // 3:]))
    most = SOON * clinic.blind()
    if end > most:
        if rate > sick["learning_rate"]:
            raise Wrong(f"{rate:g} is still larger than {sick['learning_rate']:g}. The steps were too long already.")
        move = run.meter.get("move", 0)
        if move > 0.3:
            raise Wrong(f"with {rate:g} a step still moves the weights by {move:.0%} of their size, and the loss ends "
                        f"at {end:.2f}. Go further down.")
        if move < 5e-3:
            raise Wrong(f"with {rate:g} a step moves the weights by {move:.2%} of their size: now hardly anything "
                        f"happens, and the loss ends at {end:.2f}. You went too far down.")
        raise Wrong(f"the loss ends at {end:.2f} nats with {rate:g}, and at most {most:.2f} is asked.")
