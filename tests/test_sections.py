import nbformat
from sections import begin_anywhere, sections


def test_a_learner_may_begin_lab_00_at_any_section_and_run_each_cell_twice():
    assert [str(stop) for stop in begin_anywhere("00_start_here")] == []


def test_sections_are_cut_at_second_level_headings():
    book = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell("1"), nbformat.v4.new_markdown_cell("text\n\n## One\n\n### Exercise"),
        nbformat.v4.new_code_cell("2"), nbformat.v4.new_code_cell("3"), nbformat.v4.new_markdown_cell("## Two"),
        nbformat.v4.new_code_cell("4")])
    assert [(head, [cell.source for cell in cells]) for head, cells in sections(book)] == [
        ("the beginning", ["1"]), ("One", ["2", "3"]), ("Two", ["4"])]
