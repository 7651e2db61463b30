"""The main job: one file in; a tuned model, an honest table and a report out.

Takes a file along all of the data's way: `intake` makes splits, `finetune` a Run, `evaluation` scores, `report` words.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import evaluation, guards, models, processes, profiles, training
from labkit.data.read import title
from labkit.errors import LabError
from labkit.intake import Intake, divide, plain, sample, understand
from labkit.report import JobResult, draw_curve, shorten, verdicts, write_report
from labkit.tables import Table
from labkit.teller import Teller

if TYPE_CHECKING:
    from datasets import Dataset

RUNS = Path("runs")  # where results go, below the folder that one works in
MOST_TESTED = {"label": 1000, "completion": 200, "messages": 200}  # rows; picking a label is cheaper than writing
WATCHED = 64  # validation rows whose loss is drawn
LONGEST_ANSWER = 256  # tokens that are written at most
CHUNK = 64  # rows answered between two moves of the progress bar
PACKAGES = ("labkit", "torch", "transformers", "peft", "datasets", "tokenizers", "scikit-learn")
UNCHANGED = {"columns": None, "task": None, "test": None, "group": None, "seed": 0, "model": None, "steps": None,
             "learning_rate": None, "rank": None, "batch_size": None, "max_length": None, "fp32": False,
             "skip_bad_rows": False}


class Stopped(KeyboardInterrupt):
    """Ctrl-C in the middle of a job; the text says what is kept and how to go on."""


def run_job(
    source: str | Path, *, columns: str | Sequence[str] | None = None, model: str | Path | None = None,
    out: str | Path | None = None, steps: int | None = None, learning_rate: float | None = None,
    rank: int | None = None, batch_size: int | None = None, max_length: int | None = None, seed: int = 0,
    group: str | None = None, test: str | Path | None = None, task: str | None = None, fp32: bool = False,
    skip_bad_rows: bool = False, resume: bool = False, replace: bool = False, progress: bool = True,
) -> JobResult | None:
    """Fine-tune on a file and say how good the result is, on rows that the training never saw.

    Args:
        source: a file (.json, .jsonl, .csv, .tsv, .parquet), "hub:owner/name" for a dataset of the hub, or "tickets"
            for the shipped ones.
        columns: the two columns to train on, "question,answer"; None recognises them.
        model: profile, folder or hub id; None is the current profile.
        out: the folder for the result; None takes a free name below runs/.
        steps, learning_rate, rank, batch_size, max_length: as in `finetune`; by the profile where not given.
        seed: of the split and of the training.
        group: a column whose rows must not be parted between training and test.
        test: a file in the same form to test on, in place of a tenth of `source`.
        task: of the shipped tickets, "tone" where it is not given.
        fp32: compute in float32, also where bfloat16 would be faster; several processes then come within 1e-4 of one.
        skip_bad_rows: leave bad rows out, count and name them, rather than refuse the file.
        resume: go on with what was stopped in `out`; what is not given is taken from there.
        replace: delete an earlier result in `out` first.
        progress: tell on stderr what is done.

    Returns:
        The JobResult. Its folder holds adapter/, run.json, settings.json, splits.json, curve.png and report.md. Where
        several processes train together, process 0 scores and gets it, and the others None.

    Raises:
        LabError: the file, an option, the model or the disk is not fit for it.
        Stopped: Ctrl-C; the text says where the last checkpoint is.
    """
    asked = {"columns": columns if columns is None or isinstance(columns, str) else ",".join(columns), "task": task,
             "test": test and str(test), "group": group, "seed": seed, "model": model and str(model), "steps": steps,
             "learning_rate": learning_rate, "rank": rank, "batch_size": batch_size, "max_length": max_length,
             "fp32": fp32, "skip_bad_rows": skip_bad_rows}
    processes.join()
    folder = processes.once(_folder, source, out, resume)
    before = processes.once(_before, folder, asked) if resume else None
    if before is None and not replace and processes.once(_holds_a_result, folder):
        raise LabError("there is a result here already", where=str(folder),
                       todo="Choose another folder with --out, go on with --resume, or delete it")
    try:
        return _run(source, folder, before, asked, replace, Teller(progress and processes.first()))
    except processes.Gone as error:
        raise processes.Gone(error.what, where=error.where,
                             todo=_what_is_kept(source, folder).removeprefix("Stopped. ")) from None
    except KeyboardInterrupt:
        raise Stopped(_what_is_kept(source, folder)) from None
    except OSError as error:
        raise LabError(f"cannot be written ({error.strerror or error})", where=str(error.filename or folder),
                       todo="Free some space or choose another folder with --out") from error


def _run(source, folder: Path, before: dict | None, asked: dict, replace: bool, teller: Teller) -> JobResult | None:
    started = time.monotonic()
    asked = before["asked"] if before else asked
    intake = understand(source, skip_bad_rows=asked["skip_bad_rows"],
                        **{name: asked[name] for name in ("columns", "task", "test", "group")})
    if before and before["sha256"] != intake.sha256:
        raise LabError("the file has changed since the training began", where=str(source),
                       todo="Bring the old one back, or begin anew without --resume")
    if not before:
        asked = _resolved(asked)
    if replace and processes.first() and (folder / "settings.json").is_file():  # only what this job wrote
        shutil.rmtree(folder)
    processes.once(training.writable, folder)
    for sentence in intake.said:
        teller.say(sentence)
    told = len(intake.said)
    base, tokenizer = models.load(asked["model"])
    divide(intake, tokenizer, asked["max_length"], asked["skip_bad_rows"], asked["seed"])
    learn, unused = sample(intake.parts["train"], asked["steps"] * asked["batch_size"], asked["seed"])
    tested, untested = sample(intake.parts["test"], MOST_TESTED[intake.kind], asked["seed"])
    epochs = _epochs(asked, learn, unused)
    intake.said.append(epochs)
    if len(untested):
        every = len(tested) + len(untested)
        intake.said.append(f"{len(tested):,} of the {every:,} test rows are scored, chosen at random.")
    for sentence in intake.said[told:]:
        teller.say(sentence)
    leak = guards.no_leak(map(plain, learn["prompt"]), map(plain, tested["prompt"]), "test")

    settings = {"asked": asked, "source": str(source), "sha256": intake.sha256, "model": asked["model"],
                "origin": _origin(asked["model"]), "kind": intake.kind, "labels": intake.labels, "task": intake.task,
                "group": intake.group, "template": intake.template, "epochs": epochs,
                "answer_tokens": _answer_tokens(learn), "left_out": intake.left_out, "machine": profiles.machine(),
                "versions": {name: metadata.version(name) for name in PACKAGES}}
    validation = intake.parts["validation"]
    if processes.first():
        _write_json(folder / "settings.json", settings)
        _write_json(folder / "splits.json", {
            "source": str(source), "test source": intake.test or str(source), "numbers": intake.numbered_by,
            **{name: part[intake.numbered_by][:] for name, part in (
                ("train", learn), ("validation", validation), ("test", tested), ("train, not used", unused),
                ("test, not scored", untested))},
            "left out": intake.left_out})

    said = {}
    if processes.count() == 1:  # several processes train first, or the others would wait
        said = _baselines(intake, learn, unused, tested)
        said["base"] = _answers(base, tokenizer, settings, tested, teller, "the base model")
    del base
    run = _trained(folder, before, asked, learn, validation, teller)
    if not run.finished:
        raise KeyboardInterrupt
    if not processes.first():
        return None
    if not said:
        said = _baselines(intake, learn, unused, tested)
        said["base"] = _answers(models.load(asked["model"])[0], tokenizer, settings, tested, teller, "the base model")
    run.findings.append(leak)
    said["tuned"] = _answers(run.model, run.tokenizer, settings, tested, teller, "the tuned model")
    scores, table = _scored(intake, tested, said, settings, len(learn), len(unused))
    result = JobResult(folder, run, intake, scores, table, verdicts(scores), _wrong(intake, tested, said["tuned"]),
                       settings, round(time.monotonic() - started, 1))
    write_report(result, draw_curve(run, folder / "curve.png"))
    return result


# -- where to, and with which settings -----------------------------------------------------------------------------


def _folder(source: str | Path, out: str | Path | None, resume: bool) -> Path:
    """The folder asked for; else runs/<name of the file>, or with a number behind it: a free one, or the last one."""
    if out is not None:
        return Path(out)
    stem, number = title(source) or "run", 1
    last = free = RUNS / stem
    while _holds_a_result(free):
        number += 1
        last, free = free, RUNS / f"{stem}-{number}"
    return last if resume else free


def _holds_a_result(folder: Path) -> bool:
    """Whether something would be lost: a run, or a checkpoint to go on from."""
    return (folder / "run.json").exists() or training.last_checkpoint(folder) is not None


def _before(folder: Path, asked: dict) -> dict:
    """The settings of the job that is to go on; what is asked now must not contradict them."""
    file = folder / "settings.json"
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        old = before["asked"]
        changed = [name for name, value in asked.items() if value != UNCHANGED[name] and value != old.get(name)]
    except FileNotFoundError:
        raise LabError("there is nothing to resume", where=str(folder),
                       expected="a folder in which a training was stopped", todo="Name it with "
                       "--out, or begin anew without --resume") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabError("settings.json cannot be read", where=str(file), todo="Begin anew without --resume") from error
    if "model" in changed and _absolute(asked["model"]) == old["model"]:
        changed.remove("model")
    if changed:
        name = changed[0]
        raise LabError(f"{name.replace('_', '-')} is {asked[name]} now, and was {old[name]} when the training began",
                       where="--resume", todo="Leave it out, or begin anew without --resume")
    return before


def _resolved(asked: dict) -> dict:
    """What was asked with the profile's values where nothing was; the model is looked for, not loaded."""
    name = _absolute(asked["model"]) or profiles.current().name
    profile = models.suiting(name)
    config = json.loads((models.find(name) / "config.json").read_text(encoding="utf-8"))
    limit = config.get("max_position_embeddings")
    if limit and asked["max_length"] and asked["max_length"] > limit:
        raise LabError(f"{asked['max_length']:,} tokens are more than this model takes", where="--max-length",
                       expected=f"at most {limit:,}")
    found = {"model": name, "steps": training.capped(asked["steps"] or profile.steps),
             "max_length": asked["max_length"] or min(profile.max_length, limit or profile.max_length)}
    for key in ("learning_rate", "rank", "batch_size"):
        found[key] = asked[key] or getattr(profile, key)
    return asked | found


def _absolute(model: str | None) -> str | None:
    """A model's folder by its full path, so that the result is found from anywhere; other names as they are."""
    if model and model not in profiles.PROFILES and Path(model).expanduser().is_dir():
        return str(Path(model).expanduser().resolve())
    return model


def _origin(model: str) -> str:
    from labkit.fetch import origin

    folder = models.find(model)
    if (folder / "origin.json").is_file():
        record = origin(folder)
        return f"{record['origin']}, SHA-256 of the weights {record['model_sha256']}"
    if model == "tiny":
        weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        return f"the repository, SHA-256 of the weights {weights}"
    profile = profiles.PROFILES.get(model)
    return f"{profile.origin}, revision {profile.revision}" if profile else model


def _epochs(asked: dict, learn: Dataset, unused: Dataset) -> str:
    times = asked["steps"] * asked["batch_size"] / len(learn)
    seen = f"{asked['steps']:,} steps of {asked['batch_size']} rows"
    if len(unused):
        more = -(-(len(learn) + len(unused)) // asked["batch_size"])
        return (f"{seen} see {len(learn):,} of the {len(learn) + len(unused):,} rows to learn from, each once; "
                f"--steps {more} would see all.")
    return f"{seen} go through the {len(learn):,} rows to learn from {times:.1f} times."


def _write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _what_is_kept(source: str | Path, folder: Path) -> str:
    again = f"`labkit finetune {shlex.quote(str(source))} --out {shlex.quote(str(folder))} --resume`"
    if (folder / "run.json").is_file() and training.Run.read(folder).finished:
        return f"Stopped. The training is done and kept in {folder}; {again} goes on with the scores."
    if last := training.last_checkpoint(folder):
        return f"Stopped. The last checkpoint is {last}; {again} goes on from there."
    return "Stopped before the first checkpoint: nothing was kept, and the same command begins anew."


# -- training and scoring ------------------------------------------------------------------------------------------


def _trained(folder: Path, before: dict | None, asked: dict, learn, validation, teller: Teller) -> training.Run:
    if before and (folder / "run.json").is_file() and (run := training.Run.read(folder)).finished:
        return run  # stopped after the training: only the scores are missing
    watched, _ = sample(validation, WATCHED, asked["seed"])
    with teller.training(asked["steps"]) as callback:
        return training.finetune(
            learn, watched, evaluate_every=max(1, asked["steps"] // 4), out=folder, resume=before is not None,
            callbacks=[callback], bf16=False if asked.get("fp32") else None, group_by_length=True,
            **{name: asked[name] for name in ("model", "steps", "learning_rate", "rank", "batch_size", "max_length",
                                              "seed")})


def _baselines(intake: Intake, learn: Dataset, unused: Dataset, tested: Dataset) -> dict[str, list[str]]:
    """Answers that cost nothing, from the rows that the model learns from, and from all rows where it sees but some."""
    asked = [plain(prompt) for prompt in tested["prompt"]]
    name, guess = (("bag of words", evaluation.bag_of_words) if intake.kind == "label" else
                   ("nearest answer", evaluation.nearest_answer))
    texts, answers = [plain(prompt) for prompt in learn["prompt"]], learn["completion"][:]
    common = "majority class" if intake.kind == "label" else "commonest answer"
    said = {common: evaluation.majority(answers, len(asked)), name: guess(texts, answers, asked)}
    if len(unused):
        texts, answers = texts + [plain(prompt) for prompt in unused["prompt"]], answers + unused["completion"][:]
        said[f"{name}, all rows"] = guess(texts, answers, asked)
    return said


def _answers(model, tokenizer, settings: dict, rows: Dataset, teller: Teller, who: str) -> list[str]:
    prompts, said = rows["prompt"][:], []
    with teller.bar(f"{who} answers {len(prompts):,} test rows", len(prompts)) as move:
        for start in range(0, len(prompts), CHUNK):
            said += answer(model, tokenizer, settings, prompts[start : start + CHUNK])
            move(len(prompts[start : start + CHUNK]))
    return said


def answer(model, tokenizer, settings: dict, prompts: list) -> list[str]:
    """What a model says: the likeliest of the labels where there are labels, else what it writes."""
    if settings["kind"] == "label":
        return evaluation.classify(model, tokenizer, prompts, settings["labels"])
    return evaluation.generate(model, tokenizer, prompts, settings["answer_tokens"])


def _answer_tokens(learn: Dataset) -> int:
    """Room for the longest answer of the training rows and a quarter more."""
    longest = max(sum(label >= 0 for label in labels) for labels in learn["labels"])
    return min(LONGEST_ANSWER, longest + longest // 4)


def _scored(intake: Intake, tested: Dataset, said: dict, settings: dict, used: int, unused: int) -> tuple[dict, Table]:
    truth = tested["completion"][:]
    groups = [str(value) for value in tested[intake.group]] if intake.group else None
    measure: Callable = evaluation.accuracy if intake.kind == "label" else evaluation.rouge_l
    scores = {name: measure(truth, answers, groups) for name, answers in said.items()}
    rows = []
    for name, answers in said.items():
        learnt = None if name == "base" else used + unused if name.endswith("all rows") else used
        shown = f"base ({shorten(Path(settings['model']).name, 40)})" if name == "base" else name
        row = {"answers by": shown, "learnt from": learnt, scores[name].metric: str(scores[name])}
        if intake.kind == "label":
            row["macro-F1"] = str(evaluation.macro_f1(truth, answers, groups))
        rows.append(row)
    return scores, Table(rows, f"{len(truth):,} test rows; in brackets the 95 % interval")


def _wrong(intake: Intake, tested: Dataset, said: list[str]) -> list[dict[str, str]]:
    """Three test rows that are answered wrongly; of free text, those that share the fewest words with the right one."""
    prompts, truth = [plain(prompt) for prompt in tested["prompt"]], tested["completion"][:]
    missed = [i for i in range(len(truth)) if truth[i] != said[i]]
    if intake.kind != "label":
        missed.sort(key=lambda i: evaluation.rouge_l([truth[i]], [said[i]]).value)
    opening = intake.template.partition("{text}")[0]
    return [{"text": shorten(prompts[i].removeprefix(opening)), "truth": shorten(truth[i]), "answer": shorten(said[i])}
            for i in missed[:3]]
