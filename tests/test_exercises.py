"""What `check`, `hint` and `solution` say, and what they leave alone, with small exercises registered here."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch

import labkit.exercises as package
from labkit import profiles
from labkit.exercises import (
    NotAttempted,
    Wrong,
    call,
    check,
    constant_factor,
    describe,
    exercise,
    expect_close,
    expect_number,
    expect_shape,
    expect_type,
    hint,
    solution,
    verdict,
)
from labkit.exercises.registry import REGISTRY

# there is none on Windows, where an endless loop goes on until the learner stops it
needs_an_alarm = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no alarm to end a loop with")


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """A progress file of one's own, and a register that forgets the exercises of this test."""
    monkeypatch.setenv("LABKIT_PROGRESS", str(tmp_path / "progress.json"))
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


def register(test, name="double", **settings):
    exercise(name, **{"lab": "97", "title": "twice x", "hints": ("nudge", "further", "2 * x"), **settings})(test)


def test_of_double(answer):
    x = torch.tensor([[1.0, 2.0, 5.0]])
    expect_close(call(answer, x), 2 * x, where="for x of shape (1, 3)")


test_of_double.__test__ = False  # the test of an exercise, not of pytest


@pytest.fixture
def double():
    register(test_of_double)


@pytest.fixture
def said(capsys):
    """What was printed since the last call."""

    def flat():
        return " ".join(capsys.readouterr().out.split())

    return flat


# ------------------------------------------------------------------ passed, not attempted, wrong


def test_a_right_answer_passes_with_its_line_of_fact_and_returns_nothing(said):
    register(test_of_double, after="One multiplication an entry.")
    assert check("double", lambda x: 2 * x) is None
    assert said() == "passed. One multiplication an entry."


def test_a_right_answer_without_a_line_of_fact_prints_passed(double, said):
    check("double", lambda x: x + x)
    assert said() == "passed"


def empty(x): ...


def empty_with_docstring(x):
    """What it should do."""
    ...


def passing(x):
    pass


def half_empty(x):
    r = x.shape[0]  # noqa: F841
    ...


def gap_in_a_line(x):
    factor = ...
    return factor * x


def unwritten(x):
    raise NotImplementedError


class EmptyLayer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = 2

    def forward(self, x): ...


@pytest.mark.parametrize(
    "answer",
    [
        ...,
        empty,
        empty_with_docstring,
        passing,
        half_empty,
        gap_in_a_line,
        unwritten,
        lambda x: ...,
        EmptyLayer,
        EmptyLayer(),
        {"rank": 8, "alpha": ...},
        [1, ...],
    ],
    ids=lambda answer: getattr(answer, "__name__", type(answer).__name__),
)
def test_what_is_still_empty_is_not_attempted_and_counts_as_no_attempt(double, said, tmp_path, answer):
    check("double", answer)
    assert said().startswith("not attempted yet: ")
    assert not (tmp_path / "progress.json").exists()


def test_a_check_without_an_answer_is_not_attempted(double, said):
    check("double")
    assert said().startswith("not attempted yet: ")


def forgets_return(x):
    y = 2 * x  # noqa: F841


def stops(x):
    return x @ torch.zeros(4, 4)


def in_place(x):
    return x.mul_(2)


def endless(x):
    return endless(x)


def asks_itself(x):
    if x > 1:
        return 2 * x


WRONG = {
    "None": (None, "your answer is `None`"),
    "a number": (3, "expected a function, and got 3"),
    "forgotten return": (forgets_return, "gave `None` for x of shape (1, 3). Is there a `return`?"),
    "explicit None": (lambda x: None, "gave `None` for x of shape (1, 3)"),
    "shapes": (stops, "your code stops at `return x @ torch.zeros(4, 4)`: shapes (1, 3) and (4, 4) don't meet"),
    "in place": (in_place, "changes its input x in place"),
    "recursion": (endless, "RecursionError: maximum recursion depth exceeded. Your function calls itself"),
    "ambiguous": (asks_itself, "An `if` or `and` needs one True or False"),
    "too few parameters": (lambda: 1, "your function takes (), but is called with 1 input."),
    "misspelt name": (lambda x: 2 * y, "name 'y' is not defined. Is it misspelt"),  # noqa: F821
    "exit": (lambda x: sys.exit(1), "ends the program (exit)"),
    "dtype": (lambda x: x @ torch.zeros(3, 3).double(), "Two tensors of different dtype"),
    "list": (lambda x: [2, 4, 10], "expected a float32 tensor of shape (1, 3) for x of shape (1, 3), and got the list"),
    "array": (lambda x: 2 * x.numpy(), "and got a float32 array of shape (1, 3)"),
    "shape": (lambda x: (2 * x)[0], "expected shape (1, 3) for x of shape (1, 3), and got (3,). The number of axes"),
    "transposed": (lambda x: 2 * x.T, "and got (3, 1). The right sizes in another order"),
    "nan": (lambda x: x / 0 - x / 0, "right shape, but 3 of 3 entries are nan, first at [0, 0]"),
    "zeros": (lambda x: 0 * x, "your answer is all zeros for x of shape (1, 3). Expected, for instance, 10 at [0, 2]"),
    "factor": (lambda x: 16 * x, "right shape, but everywhere 8 times too large for x of shape (1, 3)"),
    "factor below": (lambda x: x / 2, "right shape, but everywhere 4 times too small"),
    "sign": (lambda x: -2 * x, "the sign is turned everywhere"),
    "sign and factor": (lambda x: -4 * x, "everywhere of the wrong sign and 2 times too large"),
    "shift": (lambda x: 2 * x + 3, "right shape, but everywhere 3 too large"),
    "order": (lambda x: (2 * x).flip(1), "the right numbers, but in another order"),
    "squares": (lambda x: x**2, "2 of 3 entries are off for x of shape (1, 3). The largest difference is 15 at [0, 2]: "
                                "expected 10, and got 25."),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_answer_is_told_what_is_wrong_with_it(double, said, case):
    answer, sentence = WRONG[case]
    check("double", answer)
    text = said()
    assert sentence in text
    assert "passed" not in text and "not attempted" not in text


def test_wrong_answers_of_different_kinds_get_different_sentences(double):
    kinds = [answer for kind, (answer, _) in WRONG.items() if kind != "explicit None"]  # a forgotten return, too
    sentences = [verdict("double", answer).sentence for answer in kinds]
    assert len(set(sentences)) == len(sentences)


def test_the_same_answer_gets_the_same_sentence_whatever_the_random_state(double):
    def test(answer):
        x = torch.randn(3)
        expect_close(call(answer, x), 2 * x)

    register(test, "random_double")
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        found.append(verdict("random_double", lambda x: x**2).sentence)
    assert len(set(found)) == 1 and "largest difference" in found[0]


def test_a_sentence_that_the_test_returns_is_printed(said):
    register(lambda answer: None if answer == 4 else f"{answer} is not 4.", "four")
    check("four", 5)
    assert said() == "5 is not 4."


def test_lines_are_short(double, capsys):
    check("double", stops)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 88


def test_what_the_answer_prints_is_shown_only_where_it_is_wrong_and_never_whole(double, said):
    def loud(x):
        for _ in range(100_000):
            print("shape", tuple(x.shape))
        return 3 * x

    check("double", loud)
    text = said()
    assert "everywhere 1.5 times too large" in text and "(It printed: shape (1, 3) shape" in text
    assert len(text) < 500
    check("double", lambda x: print("noise") or 2 * x)
    assert said() == "passed"


# ------------------------------------------------------------------ it never raises


class Broken:
    def __repr__(self):
        raise RuntimeError("no repr")

    __str__ = __eq__ = __bool__ = __len__ = __iter__ = __deepcopy__ = __getattr__ = __repr__
    __hash__ = None


class Nameless(Exception):
    def __str__(self):
        raise RuntimeError("no str")


def raising(error):
    def answer(x):
        raise error

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        Broken(),
        lambda x: Broken(),
        raising(Nameless()),
        raising(GeneratorExit()),
        raising(BaseException("odd")),
        lambda x: 10**5000,
        lambda x: "word " * 10**6,
        lambda x: list(range(10**6)),
        lambda x: torch.zeros(1, 1).expand(10**6, 10**6),
        lambda x: (i for i in range(3)),
        "a" * 10**6,
        10**5000,
        float("nan"),
        b"\x00\xff",
        "\ud800",
        Broken,
        type,
        print,
        np.linalg.norm,
        (i for i in range(3)),
        torch.ones(3, requires_grad=True) * 2,
    ],
    ids=range(21),
)
def test_odd_answers_end_in_one_short_sentence(double, said, answer):
    check("double", answer)
    text = said()
    assert text[-1] in ".)" and 10 < len(text) < 600


@pytest.mark.parametrize("answer", ["abc", 3, True, [Broken()]], ids=range(4))
def test_an_answer_that_the_test_cannot_use_is_described(said, answer):
    register(lambda answer: None if answer.shape == (2,) and answer.sum() == 1 else "no", "pair")
    check("pair", answer)
    assert said().startswith(f"your answer is {describe(answer)}, and the check can do nothing with that (")


@needs_an_alarm
def test_an_endless_loop_is_stopped_and_named_with_its_input(said):
    register(test_of_double, limit=0.3)

    def loop(x):
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass

    start = time.monotonic()
    check("double", loop)
    assert time.monotonic() - start < 2
    assert said() == "still running after 0.3 seconds for x of shape (1, 3). Is there a loop that doesn't end?"


@needs_an_alarm
def test_an_endless_repr_is_stopped_too(said):
    class Slow(list):
        def __iter__(self):
            while True:
                time.sleep(0.01)

    register(test_of_double, limit=0.3)
    check("double", Slow([1]))
    assert "still running" in said() or "expected a function" in said()


@needs_an_alarm
def test_the_time_limit_leaves_an_earlier_alarm_in_place(double):
    rung = []
    earlier = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.4)
        check("double", lambda x: 2 * x)
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < left <= 0.4 and not rung
        time.sleep(0.6)
        assert len(rung) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


def test_a_check_works_outside_the_main_thread(double, said):
    thread = threading.Thread(target=check, args=("double", lambda x: 2 * x))
    thread.start()
    thread.join()
    assert said() == "passed"


def test_ctrl_c_passes_through(double):
    with pytest.raises(KeyboardInterrupt):
        check("double", raising(KeyboardInterrupt()))


def test_a_mistake_in_the_test_itself_is_a_sentence(said):
    register(lambda answer: 1 / 0, "broken_test")
    check("broken_test", 5)
    assert "ZeroDivisionError" in said()
    register(lambda answer: True, "gives_true")
    check("gives_true", 5)
    assert "not a sentence or None" in said()


def test_a_terminal_without_the_characters_still_gets_the_sentence():
    code = """
        from labkit.exercises import check, exercise
        exercise("x", lab="97", title="t")(lambda answer: "α is 2 × too large")
        check("x", 3)
    """
    run = python(code, PYTHONIOENCODING="ascii")
    assert run.stdout.strip() == "? is 2 ? too large"


def python(code, **env):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, check=True, cwd=profiles.COURSE, env={**os.environ, **env},
    )  # fmt: skip


# ------------------------------------------------------------------ it changes nothing around it


def test_random_states_stay_as_they_are(double):
    def draws(x):
        random.random(), np.random.rand(), torch.rand(1)
        torch.manual_seed(3), np.random.seed(3), random.seed(3)
        return 2 * x

    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    check("double", draws)
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.equal(torch.get_rng_state(), before[2])


def test_switches_of_torch_and_the_folder_stay_as_they_are(double, tmp_path, said):
    def turns_everything(x):
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        os.chdir(tmp_path)
        return 2 * x

    before = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(), os.getcwd()
    check("double", turns_everything)
    assert said() == "passed"
    assert (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(), os.getcwd()) == before


def test_open_figures_and_matplotlib_settings_stay_as_they_are(double, said):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    mine = plt.figure()
    mine.add_subplot().plot([1, 2])

    def draws(x):
        plt.plot([1, 2, 3])
        plt.rcParams["lines.linewidth"] = 77
        plt.figure()
        plt.close("all")
        plt.figure()
        return 2 * x

    before = plt.rcParams["lines.linewidth"]
    check("double", draws)
    assert said() == "passed"
    assert plt.get_fignums() == [mine.number] and plt.gcf() is mine and len(mine.axes[0].lines) == 1
    assert plt.rcParams["lines.linewidth"] == before
    plt.close(mine)


def test_the_learners_objects_stay_as_they_are_even_where_a_test_changes_its_answer(said):
    def test(answer):
        for part in answer:
            part.clear() if isinstance(part, list) else part.zero_() if torch.is_tensor(part) else part.eval()
        with torch.no_grad():
            answer[2].weight.zero_()
        return None

    register(test, "three")
    layer = torch.nn.Linear(2, 2)
    numbers, tensor, weight = [1, 2], torch.ones(2), layer.weight.detach().clone()
    check("three", (numbers, tensor, layer))
    assert said() == "passed"
    assert numbers == [1, 2] and tensor.tolist() == [1, 1]
    assert layer.training and torch.equal(layer.weight, weight)


def test_stdout_and_warnings_are_back_in_place_after_an_error(double):
    before = sys.stdout, sys.stderr
    check("double", raising(ValueError("x")))
    assert (sys.stdout, sys.stderr) == before


def test_a_check_needs_less_than_20_ms_besides_the_answer(double):
    check("double", lambda x: 2 * x)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        check("double", lambda x: 3 * x)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02  # the others also measure what else the machine does


def test_the_package_loads_neither_torch_nor_numpy_nor_jupyter():
    heavy = "{'torch', 'numpy', 'matplotlib', 'transformers', 'IPython'}"
    run = python(f"import sys, labkit.exercises as e; e.hint('no such'); print({heavy} & set(sys.modules))")
    assert run.stdout.strip().endswith("set()")


# ------------------------------------------------------------------ names and files of labs


@pytest.fixture
def two_labs(tmp_path, monkeypatch):
    """Files of exercises for labs 91 and 92, found beside those of the course."""
    folder = tmp_path / "labs"
    folder.mkdir()
    for lab in ("91", "92"):
        (folder / f"lab{lab}.py").write_text(
            "from labkit.exercises import exercise\n\n\n"
            f'@exercise(\n    "count_{lab}", lab="{lab}", title="count", hints=("think",)\n)\n'
            f"def count(answer):\n    return None if answer == {lab} else 'no, {lab}'\n",
            encoding="utf-8",
        )
    (folder / "lab93.py").write_text('@exercise("bad_93")\ndef bad(answer): ...\n', encoding="utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield folder
    for lab in ("91", "92", "93"):
        sys.modules.pop(f"labkit.exercises.lab{lab}", None)
        if hasattr(package, f"lab{lab}"):
            delattr(package, f"lab{lab}")


def test_a_check_imports_the_file_of_its_own_lab_and_no_other(two_labs, said):
    check("count_91", 91)
    assert said() == "passed"
    assert "labkit.exercises.lab91" in sys.modules and "labkit.exercises.lab92" not in sys.modules


def test_a_lab_file_that_cannot_be_imported_is_named(two_labs, said):
    check("bad_93", 1)
    assert said().startswith("lab93.py: the exercises cannot be loaded (NameError")


def test_an_unknown_name_is_answered_with_the_names_near_it(two_labs, said):
    check("count_19", 1)
    assert said().startswith("no exercise is called 'count_19'. Names near it: count_9")
    hint("zzz")
    assert said() == "no exercise is called 'zzz'."


def test_swapped_arguments_are_named(double, said):
    check(lambda x: 2 * x, "double")
    assert said() == 'the name of the exercise comes first, in quotes: check("name", answer).'


def test_two_exercises_of_one_name_are_refused(double):
    with pytest.raises(ValueError, match="two exercises are called 'double', in lab 97 and in lab 96"):
        register(lambda answer: None, lab="96")


# ------------------------------------------------------------------ hint and solution


def test_hints_go_from_nudge_to_near_solution_and_the_last_one_repeats(double, said):
    for expected in ("hint 1 of 3: nudge", "hint 2 of 3: further", "hint 3 of 3: 2 * x", "hint 3 of 3: 2 * x"):
        hint("double")
        assert said() == expected


def test_an_exercise_without_hints_says_so(said):
    register(test_of_double, hints=())
    hint("double")
    assert said() == "double has no hints."


SOLVED = '''
# %% [markdown]
# ## Two

# %%
import torch

# %%
def before(x):
    ### BEGIN SOLUTION
    return "another exercise"
    ### END SOLUTION

check("before", before)

# %%
def helper(x):
    return x


@torch.no_grad()
def double(
    x,
):
    """Twice x."""
    ### BEGIN SOLUTION
    two = 2
    ### END SOLUTION
    y = two * x
    ### BEGIN SOLUTION
    return y
    ### END SOLUTION

# %% [markdown]
# Now look: check("double", ...) comes in the next cell.

# %%
check("double", double)

# %%
### BEGIN SOLUTION
share = 16 / 192
### END SOLUTION

check("share", share)
'''


@pytest.fixture
def solved(tmp_path, monkeypatch):
    (tmp_path / "solutions").mkdir()
    path = tmp_path / "solutions" / "97_two.py"
    path.write_text(SOLVED, encoding="utf-8")
    monkeypatch.setattr(profiles, "COURSE", tmp_path)
    return path


def test_solution_shows_the_whole_function_of_the_solved_lab(double, solved, capsys):
    solution("double")
    assert capsys.readouterr().out == (
        '@torch.no_grad()\ndef double(\n    x,\n):\n    """Twice x."""\n    two = 2\n    y = two * x\n    return y\n'
    )


def test_solution_shows_a_line_that_stands_in_no_function(solved, capsys):
    register(test_of_double, "share")
    solution("share")
    assert capsys.readouterr().out == "share = 16 / 192\n"


def test_solution_works_beside_a_magic_command(double, solved, capsys):
    solved.write_text(SOLVED.replace("import torch", "%matplotlib inline"), encoding="utf-8")
    solution("double")
    assert "return y" in capsys.readouterr().out


def test_solution_names_what_is_missing(double, solved, said):
    solved.write_text(SOLVED.replace('check("double"', 'check("triple"'), encoding="utf-8")
    solution("double")
    assert said() == '97_two.py: there is no check("double", ...).'
    solved.write_text('check("double", 1)\n', encoding="utf-8")
    solution("double")
    assert said() == '97_two.py: there is no solution block before check("double", ...).'
    solved.unlink()
    solution("double")
    assert "the solved lab 97 is not there; expected a file 97_NAME.py" in said()


# ------------------------------------------------------------------ the authors' helpers


def test_call_leaves_the_inputs_alone_and_can_hand_over_the_objects_themselves():
    x = torch.ones(2)
    assert call(lambda x: x + 1, x).tolist() == [2, 2]
    assert call(in_place, x, copies=False).tolist() == [2, 2] and x.tolist() == [2, 2]
    with pytest.raises(Wrong, match="changes its input values in place"):
        call(lambda values: values.append(3) or 1, [1, 2])


def test_call_of_a_layer_notices_changed_weights():
    def training_step(layer):
        with torch.no_grad():
            layer.weight.add_(1)
        return 1

    with pytest.raises(Wrong, match="changes its input layer in place"):
        call(training_step, torch.nn.Linear(2, 2))


def test_expect_number_names_usual_factors_and_takes_scalars_of_all_houses():
    for right in (0.25, np.float32(0.25), torch.tensor(0.25), np.array([0.25])):
        expect_number(right, 0.25)
    for wrong, words in {
        25: "a percentage", -0.25: "Only the sign", 0.5: "twice too large", True: "expected a number, and got True",
        "0.25": "expected a number, and got '0.25'", 10**400: "bits", float("nan"): "and got nan",
        0.3: "expected 0.25 here, and got 0.3.",
    }.items():  # fmt: skip
        with pytest.raises(Wrong) as caught:
            expect_number(wrong, 0.25, where="here")
        assert words.replace("a number,", "a number here,") in str(caught.value)
    with pytest.raises(NotAttempted):
        expect_number(..., 1)


def test_expect_close_measures_small_numbers_by_their_own_size():
    scales = torch.tensor([1e-6, 2e-6])
    expect_close(scales * (1 + 1e-7), scales)
    with pytest.raises(Wrong, match="all zeros"):
        expect_close(torch.zeros(2), scales)


def test_expect_close_knows_a_transpose_of_a_square_and_takes_bf16_nan_and_infinity():
    square = torch.arange(9.0).reshape(3, 3)
    with pytest.raises(Wrong, match="but transposed"):
        expect_close(square.T, square)
    expect_close(square.bfloat16(), square)
    odd = torch.tensor([float("nan"), float("-inf"), 1.0])
    expect_close(odd.clone(), odd)
    with pytest.raises(Wrong, match="1 of 3 entries are off"):
        expect_close(torch.tensor([float("nan"), 0.0, 1.0]), odd)


def test_constant_factor_is_none_where_there_is_no_single_one():
    assert constant_factor(torch.tensor([3.0, 6.0]), torch.tensor([1.0, 2.0])) == pytest.approx(3)
    assert constant_factor([3.0, 5.0], [1.0, 2.0]) is None
    assert constant_factor([1.0], [0.0]) is None


def test_expect_type_and_expect_shape_say_what_came():
    expect_type(3, (int, float))
    with pytest.raises(Wrong, match="expected int or float, and got True"):
        expect_type(True, (int, float))
    with pytest.raises(Wrong, match=r"expected shape \(2,\), and got the list \[1, 2\], which has no shape"):
        expect_shape([1, 2], (2,))


def test_descriptions_are_short_and_name_shapes_inside_containers():
    assert describe(torch.zeros(4, 192)) == "a float32 tensor of shape (4, 192)"
    assert describe(torch.tensor(2.5)) == "2.5 (a float32 tensor)"
    assert describe([np.zeros(3)]) == "the list [a float64 array of shape (3,)]"
    assert describe(test_of_double) == "the function `test_of_double`"
    assert len(describe({i: "x" * 1000 for i in range(1000)})) < 120
    loop = []
    loop.append(loop)
    assert len(describe(loop)) < 120


# ------------------------------------------------------------------ in a real notebook


@needs_an_alarm
def test_a_notebook_is_told_about_its_own_line_and_its_endless_loop(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    set_up = """
        import sys; sys.path.insert(0, COURSE)
        from labkit.exercises import call, check, exercise
        @exercise("twice", lab="97", title="t", limit=0.5)
        def test(answer):
            return None if call(answer, 3) == 6 else "no"
        """
    cells = [
        textwrap.dedent(set_up).replace("COURSE", repr(str(profiles.COURSE))),
        'def twice(x):\n    """Twice x."""\n    y = x\n    ...\n\ncheck("twice", twice)',
        'def twice(x):\n    y = x\n    return y.T\n\ncheck("twice", twice)',
        'def twice(x):\n    while True: pass\n\ncheck("twice", twice)',
        'def twice(x):\n    return 2 * x\n\ncheck("twice", twice)',
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    NotebookClient(book, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    texts = [" ".join("".join(out.get("text", "") for out in cell.outputs).split()) for cell in book.cells[1:]]
    assert texts[0].startswith("not attempted yet")
    assert texts[1].startswith("your code stops at `return y.T` with AttributeError: 'int' object has no attribute 'T'")
    assert texts[2] == "still running after 0.5 seconds for x = 3. Is there a loop that doesn't end?"
    assert texts[3] == "passed"
    kept = json.loads((tmp_path / "progress.json").read_text(encoding="utf-8"))
    assert kept["exercises"]["twice"]["attempts"] == 3
