import nbformat
import pytest
from begin_anywhere import begin_anywhere, clear, in_any_order, interrupting
from IPython.core.ultratb import VerboseTB
from nbclient.exceptions import CellExecutionError

from labkit.errors import LabError

QUICK = "00_start_here"  # the others once a week, or by hand: make order


def test_a_learner_may_begin_lab_00_at_any_section_and_run_each_cell_twice():
    assert [str(stop) for stop in begin_anywhere(QUICK).stops] == []


def test_cells_in_any_order_some_of_them_twice_are_right_or_miss_a_name_or_say_what_is_amiss():
    walk = in_any_order(QUICK, seed=7)
    assert [str(stop) for stop in walk.stops] == []
    assert walk.counts["right"] >= 8 and walk.counts["missing a name"] >= 1


def test_a_training_that_is_interrupted_says_so_and_the_cell_run_again_is_trained_whole():
    walk = interrupting(QUICK)
    assert [str(stop) for stop in walk.stops] == []
    assert walk.counts["interrupted"] == 1


@pytest.mark.parametrize("error, kind", [
    (LabError("row 3 has no label", todo="Fill it in"), "refused"),
    (NameError("name 'run' is not defined"), "missing a name"),
    (NameError("name 'walk' is not defined"), ""),  # no cell makes it: the kit's own mistake
    (ValueError("row 3 has no label"), ""),
    (TypeError("'NoneType' object is not callable"), ""),
])
def test_a_lab_error_and_a_name_that_another_cell_makes_are_clear_and_other_errors_are_not(error, kind):
    render = getattr(error, "_render_traceback_", None)  # the kernel asks for it, too
    lines = render() if render else VerboseTB().structured_traceback(type(error), error, None)
    told = {"ename": type(error).__name__, "evalue": str(error), "traceback": lines}
    failed = CellExecutionError.from_cell_and_msg(nbformat.v4.new_code_cell("print(run.curve)"), told)
    assert clear(failed, ["from labkit import finetune\nrun = finetune(rows)"]) == kind
