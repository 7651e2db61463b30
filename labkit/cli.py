"""The command line: `labkit doctor | fetch | inspect | finetune | evaluate | search | chat | serve | course ...`.

Top of everything: it reads options, calls one function, prints what came, and turns a LabError into its sentence.
"""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import sys
import time
from collections.abc import Callable

from labkit import __version__, processes
from labkit.errors import LabError

OK, FAILED, WRONG, STOPPED = 0, 1, 2, 130  # done; a lab, rule or finding failed, a run is ill; a LabError; Ctrl-C
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
DEMO = "runs/demo"
GRACE = 3  # seconds in which process 0 may say what is wrong, before another process that found it ends the run


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words behind `labkit`; None takes them from the process.

    Returns:
        The exit code: 0; 1 where a lab, a rule of the gate or a finding of the doctor failed, or a training is ill;
        2 where the user can mend something, which is said in a sentence on stderr; 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter shows a question mark, not a traceback
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    arguments = _parser().parse_args(argv)
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except LabError as error:
        if not processes.first():
            time.sleep(GRACE)
        print(f"labkit: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt as stopped:
        print(f"\nlabkit: {str(stopped) or 'Stopped.'}", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:  # whoever read has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        if error.errno not in DISK:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"labkit: {place}cannot be written or read ({error.strerror}). Free some space, or choose another "
              "folder.", file=sys.stderr)
        return WRONG


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="labkit", epilog="example: labkit finetune my_tickets.csv",
                                     description="Fine-tune small language models, and see what it gave.")
    parser.add_argument("--version", action="version", version=f"labkit {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable, help: str, example: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", allow_abbrev=False,
                                   epilog=f"example: {example}")
        made.set_defaults(run=run)
        return made

    command("doctor", _doctor, "say what this machine can do, and one remedy for each thing that is amiss",
            "labkit doctor").add_argument("--class", dest="room", action="store_true",
                                          help="the evening before a class: the real model, notebooks, speed as well")
    fetch = command("fetch", _fetch, "bring the real base model onto this machine (93 to 270 MB, once)",
                    "labkit fetch small")
    fetch.add_argument("profile", nargs="?", default="small", help="which one; small is the only one to fetch ahead")
    inspect = command("inspect", _inspect, "say what is wrong with a file of records, row by row; nothing is changed",
                      "labkit inspect my_tickets.csv --test my_test.csv --html report.html")
    inspect.add_argument("source", metavar="FILE", help="JSON, JSONL, CSV, TSV or Parquet, a shipped dataset, or "
                         "hub:owner/name for a dataset of the hub")
    inspect.add_argument("--test", metavar="FILE", nargs="+", default=[], help="rows to test on: which of them leaked?")
    inspect.add_argument("--columns", metavar="A,B", help="the column of texts and, if there is one, that of labels")
    inspect.add_argument("--labels", metavar="A,B,C", help="the right ones; found in the data where it is left out")
    inspect.add_argument("--names", metavar="FILE", help="names of persons to look for, one a line")
    inspect.add_argument("--html", metavar="FILE", help="write the report there too, as one page")
    _finetune_options(command("finetune", _finetune, "train on a file, and say how good the result is",
                              "labkit finetune my_tickets.csv --columns subject,team --model small"))
    _search_options(command("search", _search, "try settings, judged on validation rows, and say which was best",
                            "labkit search my_tickets.csv --space space.yml --study runs/search.log"))
    ills = command("diagnose", _diagnose, "say what ails a training, by its curves and its meter; code 1 if it is ill",
                   "labkit diagnose runs/my_tickets")
    ills.add_argument("folder", metavar="RUN", help="the folder that `labkit finetune` named")
    evaluate = command("evaluate", _evaluate, "score a model row by row, and keep it for the gate",
                       "labkit evaluate runs/new --task intent")
    evaluate.add_argument("model", metavar="RUN", help="a run's folder; or tiny, small, a model's folder, a hub id")
    evaluate.add_argument("--task", help="of the shipped tickets: tone, intent, entities, summary, reply; with --test: "
                          "classification, extraction, summarisation, generation or perplexity; where it is left out, "
                          "what the run was trained for")
    evaluate.add_argument("--test", metavar="FILE", help="rows in the form of the file that was trained on, in place "
                          "of the test tickets")
    evaluate.add_argument("--columns", metavar="A,B", help="of that file, question first; those that were trained on "
                          "where it is left out")
    evaluate.add_argument("--out", metavar="FOLDER", help="where evaluation.json goes; the run's folder by default")
    evaluate.add_argument("--batch-size", type=_count, metavar="ROWS", help="rows at once; the scores do not change")
    gate = command("gate", _gate, "let a candidate pass, or say which rule failed and end with code 1",
                   "labkit gate runs/new runs/old --rules rules.yml")
    gate.add_argument("candidate", metavar="CANDIDATE", help="a folder that `labkit evaluate` wrote to, or its file")
    gate.add_argument("baseline", metavar="BASELINE", help="the same of the model that is in use")
    gate.add_argument("--rules", metavar="FILE", help="YAML or JSON: a list such as [{metric: main, no_drop: 0.02}]")
    chat = command("chat", _chat, "talk to a model that was fine-tuned here, a line at a time; an empty line ends it",
                   'labkit chat runs/my_tickets --ask "Where is my parcel?"')
    chat.add_argument("folder", metavar="RUN", help="the folder that `labkit finetune` named")
    chat.add_argument("--ask", metavar="TEXT", help="ask this one thing, print the answer, and end")
    serve = command("serve", _serve, "answer as OpenAI's API does, from a folder that to_onnx wrote, on this machine "
                    "only", "labkit serve runs/tiny/onnx-fp32-adapters --port 8000")
    serve.add_argument("folder", metavar="FOLDER", help="an exported model; its adapters become model names")
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in; there is no password")
    serve.add_argument("--port", type=_count, default=8000, help="8000 where it is left out")
    serve.add_argument("--max-tokens", type=_count, default=512, metavar="N", help="the longest answer")
    serve.add_argument("--running", type=_count, default=2, metavar="N", help="answers that are written at once")
    serve.add_argument("--waiting", type=_count, default=16, metavar="N", help="requests that may wait; more get 429")
    serve.add_argument("--max-body", type=_count, default=256_000, metavar="BYTES", help="the largest request")
    command("demo", _demo, "fine-tune the tiny model on the shipped tickets: a table and a picture in a minute",
            "labkit demo")
    course = command("course", _course, "run the notebooks without a browser, and say which one failed where",
                     "labkit course 03")
    _labs(course)
    course.add_argument("--solutions", action="store_true", help="run the solved ones instead of the learners' copies")
    course.add_argument("--build", action="store_true", help="make the notebooks anew from solutions/*.py")
    course.add_argument("--reword", action="store_true", help="the same where text alone was changed: nothing is run")
    course.add_argument("--html", metavar="DIR", help="write the solved labs as a site with a search there")
    course.add_argument("--slides", metavar="DIR", help="write the labs as slides there, one page each")
    course.add_argument("--nbgrader", metavar="DIR", help="write the labs as a course for nbgrader there")
    course.add_argument("--repo", metavar="OWNER/NAME", help="put this address on all badges and set-up cells")
    progress = command("progress", _progress, "show how far you are with the exercises", "labkit progress 03")
    progress.add_argument("lab", nargs="?", help="the lab's number; all that you have begun where it is left out")
    progress.add_argument("--class", dest="room", metavar="FOLDER", help="of a class: NAME.json or NAME/progress.json")
    progress.add_argument("--html", metavar="FILE", help="with --class: write tables and heat map there, as one page")
    handin = command("handin", _handin, "put together what you hand in: your progress, adapters and their predictions",
                     "labkit handin maria runs/mine --to class/")
    handin.add_argument("name", metavar="NAME", help="yours; becomes the folder's name")
    handin.add_argument("runs", metavar="RUN", nargs="*", help="folders of your runs")
    handin.add_argument("--to", metavar="FOLDER", default="handin", help="where NAME/ is written; handin by default")
    handin.add_argument("--task", help="of the tickets, that the runs were trained for; found out where it is left out")
    pack = command("pack", _pack, "put everything for a room without internet into one folder, with an installer",
                   "labkit pack /media/stick/labkit --platforms linux,windows,macos --pythons 3.12,3.13")
    pack.add_argument("folder", metavar="DIR", help="new or empty")
    pack.add_argument("--platforms", metavar="A,B", help="linux, windows, macos (Apple silicon); this machine's by "
                      "default")
    pack.add_argument("--pythons", metavar="A,B", help="3.11, 3.12, 3.13; this one by default")
    pack.add_argument("--profile", default="small", help="tiny or small: which model goes along; small by default")
    pack.add_argument("--extras", default="all", help="of pyproject.toml, such as olive,serving; all by default")
    grade = command("grade", _grade, "score again what a class handed in, find copies, write CSV and a page",
                    "labkit grade class/ --out grades/")
    grade.add_argument("folder", metavar="FOLDER", help="a hand-in a learner")
    grade.add_argument("--out", metavar="FOLDER", default="grades", help="where the grades go; grades by default")
    _labs(command("real", _real, "run labs on the real model, and write what they measured to data/measured/",
                  "labkit real 03"))
    return parser


def _labs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labs", nargs="*", metavar="LAB", help="name or number; all of them where it is left out")


def _finetune_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE", help="JSON, JSONL, CSV, TSV or Parquet with the columns text/label, "
                        "prompt/completion, input/output, or messages; hub:owner/name for a dataset of the hub; or the "
                        "word tickets for the shipped ones")
    _file_options(parser)
    parser.add_argument("--out", metavar="FOLDER", help="where the result goes; a free name below runs/ by default")
    parser.add_argument("--steps", type=_count, help="training steps")
    parser.add_argument("--learning-rate", type=_rate, metavar="RATE", help="peak of the learning rate")
    parser.add_argument("--rank", type=_count, help="rank of the adapter: how much it can learn")
    parser.add_argument("--batch-size", type=_count, metavar="ROWS", help="rows a step")
    parser.add_argument("--max-length", type=_count, metavar="TOKENS", help="longest row, question and answer together")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same splits and the same adapter")
    parser.add_argument("--fp32", action="store_true", help="compute in float32, also where bfloat16 would be faster")
    parser.add_argument("--resume", action="store_true", help="go on with a training that was stopped")
    parser.add_argument("--processes", type=_count, default=1, metavar="N", help="train in so many processes of this "
                        "machine, a GPU or a core each; the result is that of one process")
    parser.add_argument("--ray", action="store_true", help="put the processes on the machines of a Ray cluster, "
                        "the one that RAY_ADDRESS names, or this machine as one")


def _file_options(parser: argparse.ArgumentParser) -> None:
    """What is told of the file, for a training and for a search."""
    parser.add_argument("--columns", metavar="A,B", help="the two columns to train on, question first")
    parser.add_argument("--model", help="tiny, small, full, a folder with a model, or a hub id such as owner/name")
    parser.add_argument("--group", metavar="COLUMN", help="rows with the same value there are not parted by the split")
    parser.add_argument("--test", metavar="FILE", help="rows to test on, in place of a tenth of the first file")
    parser.add_argument("--task", help="of the shipped tickets: tone, intent, entities, summary or reply")
    parser.add_argument("--skip-bad-rows", action="store_true", help="leave bad rows out, counted and named")


def _search_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE", help="as for finetune; or the word tickets for the shipped ones")
    _file_options(parser)
    parser.add_argument("--space", metavar="FILE", required=True, help="YAML: search_space and search_strategy")
    parser.add_argument("--study", metavar="PLACE", default="runs/search.log", help="a file, or the address of a "
                        "PostgreSQL database, that keeps the study; named again, it is gone on with, or joined")
    parser.add_argument("--name", default="study", help="of the study in a database")
    parser.add_argument("--trials", type=_count, help="in all, in place of num_trials")
    parser.add_argument("--workers", type=_count, default=1, metavar="N", help="processes on this machine")
    parser.add_argument("--ray", action="store_true", help="put the workers on the machines of a Ray cluster; the "
                        "study must then be a database, or a file that all of them reach")
    parser.add_argument("--rows", type=_count, help="rows that each trial learns from")
    parser.add_argument("--seed", type=int, default=0, help="of the split, of what is drawn and of every training")
    parser.add_argument("--open-test", action="store_true", help="train the best setting and the profile's own, and "
                        "score both on the test rows: once, and the study is closed")


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return value


def _doctor(arguments: argparse.Namespace) -> int:
    from labkit.doctor import examine, examine_class, show

    findings = examine_class() if arguments.room else examine()
    print(show(findings))
    return OK if all(finding.ok for finding in findings) else FAILED


def _fetch(arguments: argparse.Namespace) -> int:
    from labkit.fetch import fetch, origin

    folder = fetch(arguments.profile, progress=sys.stderr.isatty())
    print(f"{folder}\nfrom: {origin(folder)['origin']}")
    return OK


def _inspect(arguments: argparse.Namespace) -> int:
    from labkit.data.inspection import inspect_files

    print(inspect_files(**{name: value for name, value in vars(arguments).items() if name != "run"}))
    return OK


def _finetune(arguments: argparse.Namespace) -> int:
    from labkit.job import run_job

    options = {name: value for name, value in vars(arguments).items() if name not in ("run", "processes", "ray")}
    if arguments.ray:
        from labkit import cluster

        cluster.train(run_job, options, arguments.processes, _show)
        return OK
    if arguments.processes > 1 and processes.count() == 1:
        from labkit import launch

        return launch.torchrun(["finetune", *launch.words(options)], arguments.processes)
    if result := run_job(**options):
        _show(result)
    return OK


def _search(arguments: argparse.Namespace) -> int:
    from labkit.search.job import run_search

    run_search(**{name: value for name, value in vars(arguments).items() if name != "run"})
    return OK


def _demo(arguments: argparse.Namespace) -> int:
    from labkit.job import run_job
    from labkit.viewer import open_picture

    result = run_job("tickets", task="tone", model="tiny", out=DEMO, replace=True)
    _show(result)
    picture = result.folder / "curve.png"
    print(f"The picture {'opens in your viewer' if open_picture(picture) else 'of the training'}: {picture}")
    return OK


def _show(result) -> None:
    """The table, what may be said of it, the curve, three rows that are still wrong, and where everything lies."""
    from labkit.plots import text_curve
    from labkit.tables import Table

    print(result.table, *result.verdicts, sep="\n", end="\n\n")
    print(text_curve(result.run.curve, blocks=_has("▁█")), end="\n\n")
    if result.wrong:
        print("Still wrong, for example:")
        for row in result.wrong:
            print(f"  {row['text']}\n    right would be: {row['truth']}\n    it answers:     {row['answer']}")
        print()
    lies = [{"in": str(result.folder / name), "is": what} for name, what in (
        ("report.md", "the report"), ("curve.png", "the picture of the training"), ("adapter", "the adapter"))]
    print(Table(lies))
    print(f"\nIt took {result.seconds:.0f} s. Talk to it: labkit chat {result.folder}")


def _has(letters: str) -> bool:
    """Whether the terminal has these letters."""
    try:
        letters.encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _diagnose(arguments: argparse.Namespace) -> int:
    from labkit.monitoring import diagnose
    from labkit.training import Run

    found = diagnose(Run.read(arguments.folder))
    print(found)
    return OK if found.healthy else FAILED


def _evaluate(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from labkit import data, evaluation, wording
    from labkit.training import Run

    is_run = (Path(arguments.model) / "run.json").is_file()
    if not is_run and not arguments.out:
        raise LabError("where should the scores go", where="--out", expected="a folder: this is a model, not a run",
                       todo="Name it with --out")
    run = Run.read(arguments.model) if is_run else None
    task, labels = arguments.task, None
    if arguments.test and task == "perplexity":
        rows = data.read(arguments.test, columns=())
    elif arguments.test:
        rows, kind, labels = wording.rows_to_score(arguments.test, run, arguments.columns)
        task = task or kind
    else:
        task = task or (wording.ticket_task_of(run) if run else "")
        if not task:
            raise LabError("which rows", where="--test", expected="a file with rows to score on, or one of the "
                           "tickets' tasks with --task")
        rows = data.ticket_task(task)
    scored = evaluation.evaluate_model(run or arguments.model, rows, task, labels=labels,
                                       batch_size=arguments.batch_size)
    print(scored.table())
    if "label" in scored.columns:
        print(f"\n{scored.slice_table()}")
    print(f"\nkept in {scored.save(arguments.out or arguments.model)}")
    return OK


def _gate(arguments: argparse.Namespace) -> int:
    from labkit import evaluation

    rules = evaluation.read_rules(arguments.rules) if arguments.rules else None
    candidate, baseline = map(evaluation.Evaluation.read, (arguments.candidate, arguments.baseline))
    verdict = evaluation.gate(candidate, baseline, rules)
    print(verdict)
    return OK if verdict.passed else FAILED


def _chat(arguments: argparse.Namespace) -> int:
    from labkit.chat import Chat

    chat = Chat(arguments.folder)
    if not chat.run.finished:
        print("labkit: this training was stopped before its end, and the answers show it.", file=sys.stderr)
    if arguments.ask is not None:
        print(chat.ask(arguments.ask))
        return OK
    ask = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            text = input(ask).strip()
        except EOFError:
            return OK
        if not text:
            return OK
        print(chat.ask(text), flush=True)


def _serve(arguments: argparse.Namespace) -> int:
    from labkit.serving import Limits, serve

    limits = Limits(arguments.max_body, arguments.max_tokens, arguments.running, arguments.waiting)
    serve(arguments.folder, arguments.host, arguments.port, limits)
    return OK


def _course(arguments: argparse.Namespace) -> int:
    from labkit import course

    bars = sys.stdout.isatty()
    if arguments.repo:
        for file in course.restamp(arguments.repo):
            print(f"wrote {file}")
        return OK
    if arguments.html:
        from labkit.site import write_site

        print(write_site(arguments.html))
        return OK
    if arguments.slides:
        from labkit.classroom.slides import write_slides

        for file in write_slides(arguments.slides, arguments.labs):
            print(f"wrote {file}")
        return OK
    if arguments.nbgrader:
        from labkit.classroom.nbgrader import write_course

        for file in write_course(arguments.nbgrader, arguments.labs):
            print(f"wrote {file}")
        return OK
    if arguments.build or arguments.reword:
        for file in (course.build(arguments.labs, progress=bars) if arguments.build else course.reword(arguments.labs)):
            print(f"wrote {file}")
        return OK
    return _say(course.run(arguments.labs, folder="solutions" if arguments.solutions else "notebooks", progress=bars))


def _real(arguments: argparse.Namespace) -> int:
    from labkit import course

    return _say(course.real(arguments.labs))


def _say(results: list) -> int:
    for result in results:
        print(result)
    return OK if all(result.ok for result in results) else FAILED


def _handin(arguments: argparse.Namespace) -> int:
    from labkit.classroom import handin

    print(handin(arguments.name, arguments.runs, arguments.to, arguments.task))
    return OK


def _pack(arguments: argparse.Namespace) -> int:
    from labkit.classroom.packing import pack

    lists = [text.split(",") if text else None for text in (arguments.platforms, arguments.pythons)]
    made = pack(arguments.folder, *lists, arguments.profile, arguments.extras,
                say=lambda line: print(line, flush=True))
    print(f"{made['bytes'] / 1e9:.1f} GB in {arguments.folder}; on each laptop: "
          f"python3 {shlex.quote(f'{arguments.folder}/install.py')} (on Windows install.bat)")
    return OK


def _grade(arguments: argparse.Namespace) -> int:
    from labkit.classroom import grade

    graded = grade(arguments.folder, progress=sys.stderr.isatty())
    print(graded.table(), *graded.write(arguments.out), sep="\n")
    return OK


def _progress(arguments: argparse.Namespace) -> int:
    from labkit.exercises import progress

    if arguments.room:
        from labkit.classroom import read_roster

        roster = read_roster(arguments.room)
        print(roster.table(), "", roster.people(), sep="\n")
        for name, why in roster.skipped.items():
            print(f"not read: {name}: {why}")
        if arguments.html:
            print(roster.page(arguments.html))
        return OK

    progress(arguments.lab)
    return OK


if __name__ == "__main__":
    sys.exit(main())
