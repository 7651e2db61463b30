"""What is shown: tables that escape, figures with words for who can't see them, and the rank explorer."""

import dataclasses
import html.parser

import pytest

from labkit import measured, plots
from labkit.errors import LabError
from labkit.tables import Table, show, table

NASTY = '<script>alert("1")</script> & | done'


def test_a_table_escapes_every_cell_its_head_and_its_caption_in_html():
    shown = Table([{"<b>": NASTY, "n": 1}], caption=NASTY)._repr_html_()
    assert "<script" not in shown and "<b>" not in shown
    assert shown.count("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; | done") == 2


def test_a_table_escapes_pipes_and_line_ends_in_markdown():
    lines = Table([{"a|b": "one|two\r\n3\n4"}]).markdown().split("\n")
    assert lines == ["| a\\|b |", "| --- |", "| one\\|two 3 4 |"]


def test_numbers_stand_to_the_right_and_what_is_missing_is_a_dash():
    shown = Table([{"model": "base", "rows": 1200}, {"model": "tuned", "loss": 0.123456}], caption="two")
    assert str(shown).split("\n") == [
        "two",
        "model   rows    loss",
        "-----  -----  ------",
        "base   1,200       -",
        "tuned      -  0.1235",
    ]
    assert shown.markdown().split("\n")[1] == "| --- | --: | --: |"
    assert 'style="text-align:right">1,200' in shown._repr_html_()


def test_keywords_make_a_table_of_one_row():
    assert table(W=36864, share=0.08).rows == [{"W": 36864, "share": 0.08}]
    assert [show(v) for v in (None, True, 1234567, 2e-9, "x")] == ["-", "yes", "1,234,567", "2e-09", "x"]
    assert [show(v) for v in (9725.4, 11_104.6, float("inf"))] == ["9725", "11,105", "inf"]


def test_a_shown_figure_carries_its_text():
    from IPython.core.formatters import DisplayFormatter

    figure = plots.curve([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "validation_loss": 1.5}], "Loss")
    data, metadata = DisplayFormatter().format(plots.show(figure, "The loss falls from 2 to 1."))
    assert data["image/png"]
    assert metadata["image/png"]["alt"] == "The loss falls from 2 to 1."


def test_the_curve_in_letters_falls_as_the_loss_does_and_is_no_wider_than_a_terminal():
    points = [{"step": step, "loss": 400 / step} for step in range(100, 500)] + [{"step": 500, "validation_loss": 9}]
    head, *bars, axis, steps = plots.text_curve(points, width=50, height=5).split("\n")
    assert head.startswith("training loss") and len(bars) == 5 and steps.strip() == "steps 100 to 499"
    lengths = [len(line.partition("|")[2]) for line in bars]
    assert lengths == sorted(lengths) and lengths[0] < 20 and lengths[-1] == 50 == axis.count("-")
    assert float(bars[0].split()[0]) == pytest.approx(400 / 104, rel=0.01)  # the mean of the first eight steps
    assert set("".join(line.partition("|")[2] for line in bars)) <= set(" ▁▂▃▄▅▆▇█")


def test_a_terminal_without_block_letters_gets_a_curve_too():
    points = [{"step": step, "loss": 5.0 - step} for step in range(4)]
    assert plots.text_curve(points, height=5, blocks=False).isascii()
    assert plots.text_curve([]).isascii() and plots.text_curve([{"step": 1, "loss": float("nan")}]).isascii()


def test_a_figure_is_the_same_bytes_each_time():
    def draw():
        return plots.png(plots.scores([("base", 0.2, 0.1, 0.3), ("tuned", 0.9, 0.8, 0.95)], "Accuracy"))

    assert draw() == draw()
    assert draw()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_curve_has_both_losses_and_names_its_axes_with_units():
    points = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "validation_loss": 1.5}]
    (axes,) = plots.curve(points, "Loss").axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[2.0, 1.0], [1.5]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss (nats per counted token)")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "validation"]


def test_scores_are_drawn_from_the_top_down_in_per_cent():
    (axes,) = plots.scores([("base", 0.2, 0.1, 0.3), ("tuned", 0.9, 0.8, 0.95)], "Accuracy").axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["tuned", "base"]  # from the bottom up
    assert list(axes.lines[0].get_xdata()) == [80, 95]
    assert [text.get_text() for text in axes.texts] == ["90%", "20%"]


# -- the rank explorer -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trial():
    """A real trial of two steps."""
    from datasets import Dataset

    from labkit import profiles
    from labkit.data import read, ticket_examples
    from labkit.search import trial

    rows = read(profiles.COURSE / "data/tickets/train.jsonl").select(range(8))
    asked: Dataset = ticket_examples(rows, "tone")
    return trial(asked, asked, sorted(set(asked["label"])), steps=2, batch_size=2, rank=8, alpha=16.0)


@pytest.fixture
def explorer(trial):
    """An explorer and the list of what it measured; a rank of 32 is too much for this machine."""
    from labkit.widgets.rank import RankExplorer

    measured = []

    def measure(rank, alpha):
        if rank == 32:
            raise LabError("the memory is full", todo="Take a lower rank")
        measured.append((rank, alpha))
        return dataclasses.replace(trial, setting={"rank": rank, "alpha": alpha}, parameters=1000 * rank)

    return RankExplorer(measure), measured


class Pictures(html.parser.HTMLParser):
    """The attributes of all <img> of a page."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.found.append(dict(attrs))


def test_a_trial_tells_what_it_tried_what_it_cost_and_what_came_of_it(trial):
    row = trial.row()
    assert (row["rank"], row["alpha"]) == (8, 16.0)
    assert row["trainable"] == trial.parameters > 0
    assert row["accuracy"] == str(trial.accuracy) and trial.accuracy.rows == 8
    assert trial.loss == pytest.approx(sum(p["loss"] for p in trial.curve) / len(trial.curve))


def test_the_explorer_shows_a_widget_a_picture_and_a_text(explorer):
    data, metadata = explorer[0]._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["image/png"].startswith(b"\x89PNG")
    assert "rank 8, alpha 16" in data["text/plain"]
    assert metadata["image/png"]["alt"] == data["text/plain"]


def test_moving_a_slider_trains_once_and_keeps_what_it_found(explorer):
    explore, measured = explorer
    rank, scale, said, picture = explore.widget().children
    before = picture.value
    rank.value = 16
    assert measured == [(8, 16.0), (16, 32.0)]
    assert "rank 16, alpha 32" in said.value and picture.value != before
    rank.value = 8
    rank.value = 16
    scale.value = 0.5
    assert measured == [(8, 16.0), (16, 32.0), (16, 8.0)]
    assert [row["alpha"] for row in explore.table().rows] == [16.0, 8.0, 32.0]


def test_the_picture_in_the_widget_has_the_text_for_who_cannot_see_it(explorer):
    explore, _ = explorer
    rank, _, _, picture = explore.widget().children
    for value in (8, 16):
        rank.value = value
        (image,) = Pictures(picture.value).found
        assert image["alt"] == explore.alt() and f"rank {value}," in image["alt"]
        assert image["src"].startswith("data:image/png;base64,iVBOR")
    assert "alt" not in dir(type(picture)) and "value" in picture.keys  # the HTML is what reaches the browser


def test_a_trial_that_fails_is_told_beside_the_slider_and_the_picture_stays(explorer):
    explore, _ = explorer
    rank, _, said, picture = explore.widget().children
    before = picture.value
    rank.value = 32
    assert "the memory is full. Take a lower rank." in said.value
    assert picture.value == before and explore.chosen == (8, 2.0)


def test_without_ipywidgets_the_picture_and_the_text_are_left(explorer, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # as where it is not installed
    data, _ = explorer[0]._repr_mimebundle_()
    assert set(data) == {"text/plain", "image/png"}


def test_clouds_draw_every_point_of_every_panel_and_name_the_labels_once():
    points = [(0.0, 1.0), (1.0, 0.0), (2.0, 2.0)]
    figure = plots.clouds({"before": points, "after": points}, ["tent", "boot", "tent"], "Points")
    assert [len(axes.collections) for axes in figure.axes] == [2, 2]
    assert [sum(len(c.get_offsets()) for c in axes.collections) for axes in figure.axes] == [3, 3]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["tent", "boot"]
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)


def test_what_a_rare_script_saw_has_a_row_each_or_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    nothing = [{"what": "nothing recorded yet", "seen": "run tests/wire.py"}]
    assert measured.seen("wire", by="tests/wire.py").rows == nothing
    (tmp_path / "wire.json").write_text('{"cut": "15 s", "ended": "both"}')
    assert measured.seen("wire", by="tests/wire.py").rows == [
        {"what": "cut", "seen": "15 s"}, {"what": "ended", "seen": "both"}]
