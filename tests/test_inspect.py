"""`inspect` and `clean` on small tables: every kind of finding, every kind of bad input, the command, and anything."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from labkit.cli import main
from labkit.data import clean, inspect, read
from labkit.data.inspection import KINDS
from labkit.data.inspection import texts as in_texts
from labkit.errors import LabError
from labkit.profiles import COURSE

LETTERS = [
    "The left boot came unglued on the second day, and I had to walk home in my socks.",
    "Your parcel reached the hut before I did, which made all of us laugh at breakfast.",
    "Please tell me whether the small tent is back in the shop before the holidays begin.",
    "I am afraid to use this rope again, since one strand is broken close to the middle.",
    "Nobody has answered my last three letters, and the bill is still twice what it was.",
    "We were given a lamp instead of a stove, wrapped as a present and with a kind note.",
]


def table(texts: list, labels: list | None = None, **columns: list) -> Dataset:
    return Dataset.from_dict({"text": texts, **({"label": labels} if labels is not None else {}), **columns})


def counts(data, **options) -> dict[str, int]:
    return inspect(data, **options).counts


def said(act, *parts: str) -> str:
    """The LabError's text, which must hold all `parts` and be one or two plain sentences."""
    with pytest.raises(LabError) as caught:
        act()
    text = str(caught.value)
    for part in parts:
        assert part in text, text
    assert "\n" not in text and "Traceback" not in text and len(text) < 500, text
    return text


# Every kind of finding


def test_a_clean_table_has_no_findings_and_comes_back_as_it_was():
    rows = table(LETTERS, ["joy", "anger"] * 3)
    report = inspect(rows)
    assert report.findings == () and "Nothing was found." in str(report)
    cleaned, log = clean(rows, report)
    assert cleaned.to_list() == rows.to_list() and log.changes == () and log.sizes == {"train": (6, 6)}


def test_missing_labels_are_none_empty_and_what_exports_write_for_nothing():
    labels = ["joy", None, "", " ", "N/A", "null", "-", "joy"]
    report = inspect(table([*LETTERS, "One more letter, about nothing at all.", "And the last."], labels))
    assert report.rows("missing label") == [1, 2, 3, 4, 5, 6]


def test_none_is_a_label_where_it_is_said_to_be_one():
    assert counts(table(LETTERS, ["null", "joy"] * 3), labels=["null", "joy"]) == {}


@pytest.mark.parametrize("wrong", ["Joy", " joy", "joy\t", "JOY", "jjoy", "joi", "oJy"])
def test_a_label_with_another_case_space_or_one_slip_is_written_as_it_is_meant(wrong):
    rows = table(LETTERS * 4, ["joy", "anger"] * 12)
    rows = Dataset.from_dict({"text": [f"{text} ({i})" for i, text in enumerate(rows["text"])],
                              "label": [wrong, *rows["label"][1:]]})
    for labels in (None, ["joy", "anger"]):
        report = inspect(rows, labels=labels)
        assert report.rows("unknown label") == [0] and report.findings[0].notes[0]["meant"] == "joy"
        assert clean(rows, report)[0]["label"][0] == "joy"


def test_a_label_like_none_or_like_two_is_dropped_and_not_guessed():
    rows = table(LETTERS, ["bat", "cat", "rat", "rope", "cat", "bat"])
    report = inspect(rows, labels=["bat", "cat"])
    assert [note["meant"] for note in report.finding("unknown label").notes] == [None, None]
    cleaned, log = clean(rows, report)
    assert log.dropped() == [2, 3] and cleaned["label"][:] == ["bat", "cat", "cat", "bat"]


def test_labels_that_differ_in_a_number_are_two_labels():
    texts = [f"{text} {i}" for i, text in enumerate(LETTERS * 4)]
    assert "unknown label" not in counts(table(texts, ["level 1"] * 20 + ["level 2"] * 4))


def test_class_labels_and_truth_values_become_text_where_one_is_written_anew():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["Joy", "anger"])})
    rows = Dataset.from_dict({"text": LETTERS, "label": [0, 1] * 3}, features=features)
    cleaned, _ = clean(rows, inspect(rows, labels=["joy", "anger"]))
    assert cleaned["label"][:] == ["joy", "anger"] * 3
    rows = table(LETTERS, [True, False] * 3)
    assert clean(rows, inspect(rows, labels=["true", "false"]))[0]["label"][:] == ["true", "false"] * 3
    assert clean(rows, inspect(rows))[0].features == rows.features


def test_a_rare_label_and_one_that_no_row_has_are_said():
    texts = [f"{text} ({i})" for i, text in enumerate(LETTERS * 10)]
    report = inspect(table(texts, ["joy"] * 30 + ["anger"] * 29 + ["fear"]), labels=["joy", "anger", "fear", "grief"])
    assert report.rows("rare label") == [59] and "No row of train has the label 'grief'." in report.remarks


def test_the_same_text_with_two_labels_is_a_conflict_and_goes_altogether():
    rows = table([*LETTERS, LETTERS[2].upper()], ["joy", "anger"] * 3 + ["anger"])
    report = inspect(rows)
    assert report.counts == {"conflicting labels": 2}
    assert report.finding("conflicting labels").notes[1] == {"labels": ["joy", "anger"], "like": 2}
    assert clean(rows, report)[1].dropped() == [2, 6]


def test_a_repeated_text_keeps_the_first_row_that_has_a_label():
    rows = table([LETTERS[0], *LETTERS, LETTERS[0] + " "], [None, *["joy", "anger"] * 3, "joy"])
    report = inspect(rows)
    assert report.rows("exact duplicate") == [0, 7] and report.finding("exact duplicate").notes[0] == {"like": 1}


def test_empty_texts_are_those_in_which_nothing_can_be_seen():
    texts = [*LETTERS, "", "  \n", "<p>&nbsp;</p>", "\u200b\ufeff", None]
    assert inspect(table(texts)).rows("empty text") == [6, 7, 8, 9, 10]


def test_very_short_texts_are_counted_by_words_and_characters():
    assert inspect(table([*LETTERS, "ok", "??", "x", "是", "Unbelievably incomprehensible"])).rows(
        "very short text") == [6, 7, 8, 9]


AGAIN = "The left boot came unglued on the second day, and I had to walk back in my socks."


def test_a_text_typed_again_is_nearly_the_same_and_one_with_another_number_or_name_is_not():
    assert inspect(table([*LETTERS, AGAIN, "Hello, " + LETTERS[1]])).rows("near duplicate") == [6, 7]
    form = "My {} with the order number {} has been on its way to Ulm for three weeks, and nobody can say where it is."
    brands = ["Pelgar stove", "Kirrin stove"]
    assert counts(table([*LETTERS, *(form.format(brand, 65495) for brand in brands)])) == {}
    assert counts(table([*LETTERS, *(form.format(brands[0], order) for order in (65495, 65496))])) == {}


def test_texts_without_words_are_never_nearly_the_same_and_never_too_many():
    signs = ["🏔️", "💯", "?!", "...", "€ €"] + ["!" * n for n in range(2, 60)]
    assert counts(table(signs)) == {"very short text": len([s for s in signs if len(s) < 15])}


def test_of_a_chain_of_near_duplicates_one_is_kept_and_what_is_dropped_is_like_a_kept_one():
    words = [f"word{chr(97 + i)}" for i in range(26)]
    chain = [" ".join(words[:20]).replace("wordt", f"other{i * 'x'}") + " end" for i in range(5)]
    report = inspect(table(chain))
    kept = {0, 1, 2, 3, 4} - set(report.rows("near duplicate"))
    assert kept == {0} and {note["like"] for note in report.finding("near duplicate").notes} == {0}


def test_many_texts_go_through_the_index_with_the_same_result(monkeypatch):
    texts = [f"{a} {b}" for i, a in enumerate(LETTERS) for b in LETTERS[:i]] + [AGAIN + " " + LETTERS[1]]
    few = inspect(table(texts)).rows("near duplicate")
    monkeypatch.setattr("labkit.data.inspection.duplicates.FEW", 1)
    assert inspect(table(texts)).rows("near duplicate") == few == [len(texts) - 1]


def test_rows_that_are_in_a_later_split_again_leaked_word_for_word_or_nearly():
    splits = {"test": table([LETTERS[0].upper(), LETTERS[3]]), "train": table([*LETTERS[:3], AGAIN]),
              "validation": table([LETTERS[4], LETTERS[1]])}
    report = inspect(splits)
    assert list(report.sizes) == ["train", "validation", "test"]
    notes = dict(zip(report.rows("leaked", "train"), report.finding("leaked", "train").notes, strict=True))
    assert notes[0] == {"in": "test", "like": 0, "share": 1.0} and notes[1]["in"] == "validation"
    assert notes[3]["in"] == "test" and notes[3]["share"] < 1
    cleaned, log = clean(splits, report)
    assert log.dropped("train") == [0, 1, 3] and len(cleaned["test"]) == 2 == len(cleaned["validation"])
    assert list(cleaned) == ["train", "validation", "test"]


PERSONAL = {
    "Write to jo.berg+shop@mail.example.org.": "Write to [email].",
    "<lea@example.com>, please": "<[email]>, please",
    "Ring +44 7700 900123 or (0161) 496 0460!": "Ring [phone] or [phone]!",
    "0049 30 23125 000, or 202-555-0143": "[phone], or [phone]",
    "(by mail: jo@example.com, by phone: 07700 900123)": "(by mail: [email], by phone: [phone])",
    "IBAN DE89 3704 0044 0532 0130 00 PLEASE": "IBAN [iban] PLEASE",
    "GB29NWBK60161331926819": "[iban]",
    "Greetings from Marta Nyberg's sister": "Greetings from [name]'s sister",
}


@pytest.mark.parametrize("text", PERSONAL)
def test_personal_data_is_found_and_masked_by_its_kind(text):
    rows = table([*LETTERS, text])
    report = inspect(rows, names=["Marta Nyberg"])
    assert report.rows("personal data") == [6]
    cleaned, log = clean(rows, report)
    assert cleaned["text"][6] == PERSONAL[text] and log.counts == {"personal data masked": 1}
    assert clean(rows, report, holder="#")[0]["text"][6].count("#") == PERSONAL[text].count("[")


@pytest.mark.parametrize("text", [
    "Order 65495 of 2026-11-05, 12:30 to 13:45, pages 12-14", "DE89 3704 0044 0532 0130 01 is the voucher",
    "3 < 5 and 7 > 2, R&D; Q&A, AT&T;", "I am @ home, or @lea", "From -5 to +30, 1.000.000 times, 05/11/2026",
    "<b or c>, a<b, <3 and <me>", "The café of Zoë: “naïve”… – 5 €", "SN 2201 4410 9987 A"])  # fmt: skip
def test_what_looks_like_a_fault_and_is_none_is_left_alone(text):
    assert counts(table([*LETTERS, f"{text}, that is all there is to say."])) == {}


@pytest.mark.parametrize("times", [1, 2])
def test_broken_encodings_are_mended_and_sound_ones_left_alone(times):
    right = garbled = "Würden Sie die Jacke für „später“ zurücklegen? Straße 5, 12 €"
    for _ in range(times):
        garbled = garbled.encode("utf-8").decode("cp1252")
    rows = table([*LETTERS, garbled, right])
    report = inspect(rows)
    assert report.rows("mojibake") == [6]
    assert clean(rows, report, drop=())[0]["text"][6:] == [right, right]


@pytest.mark.parametrize("text, right", [
    ("<p>A rope.</p><p>Two, really.</p>", "A rope. Two, really."), ("It<b>'s</b> late<br/>again", "It's late again"),
    ("Q&amp;A is &lt;late&gt;, &#39;again&#39;", "Q&A is <late>, 'again'"),
    ("one&nbsp;&nbsp;two three four", "one two three four"),
    ('<a href="?a=1&copy=2">see there, please</a>', "see there, please"),
    ("five is &amp;lt; six, I say", "five is < six, I say"),
    ("one two three &copy=4 <i>five</i>", "one two three &copy=4 five")])  # fmt: skip
def test_html_is_taken_out_and_its_entities_are_read(text, right):
    rows = table([*LETTERS, text])
    report = inspect(rows)
    assert report.counts == {"HTML": 1} and clean(rows, report)[0]["text"][6] == right


def test_an_address_behind_entities_is_masked_even_if_html_is_to_stay():
    rows = table([*LETTERS, "Please write to jo&#64;shop.example as soon as you can."])
    cleaned, _ = clean(rows, inspect(rows), repair="personal data")
    assert cleaned["text"][6] == "Please write to [email] as soon as you can."


FOREIGN = ["Nobody", "Zum dritten Mal schicken Sie mir die falsche Größe, und das Porto soll ich selbst bezahlen.",
           "Plecak przyszedł dzisiaj rano, dwa dni przed czasem, i leży idealnie na plecach."]


def test_texts_in_another_language_than_most_are_named_with_it():
    report = inspect(table([*LETTERS, *FOREIGN[1:]]))
    assert report.language == "en" and [n["language"] for n in report.finding("other language").notes] == ["de", "pl"]


def test_few_short_texts_are_not_said_to_be_in_the_language_of_the_one_that_can_be_told():
    short = ["where is my tent", "the tent pole broke", "Money back please", "thanks", "it came unglued", "a stove"]
    report = inspect(table([*short, FOREIGN[1]], ["joy", "anger", "joy", "anger", "joy", "anger", "joy"]))
    assert report.language == "" and "other language" not in report.counts
    assert "too short to tell" in str(report) and "too short to tell" in report.page()


def test_twenty_texts_that_can_be_told_are_enough_however_many_short_ones_there_are():
    texts = [*(f"Letter {i}: {text}" for i in range(4) for text in LETTERS), *(f"order {i}" for i in range(200)),
             FOREIGN[1]]
    most, other = in_texts.odd_languages(texts)
    assert most == "en" and list(other) == [len(texts) - 1]


def test_a_text_in_another_language_is_found_among_so_many_that_not_all_are_asked(monkeypatch):
    monkeypatch.setattr(in_texts, "SAMPLE", 50)
    texts = read("tickets")["text"][:400]
    for row, text in ((33, FOREIGN[1]), (207, FOREIGN[2])):
        texts[row] = text
    asked = []
    real = in_texts._language
    monkeypatch.setattr(in_texts, "_language", lambda text: asked.append(text) or real(text))
    most, other = in_texts.odd_languages(texts)
    assert most == "en" and {row: code for row, (code, _) in other.items()} == {33: "de", 207: "pl"}
    assert len(asked) < 150


# Columns, splits and options


def test_answers_that_are_no_labels_are_looked_at_as_texts():
    answers = [*LETTERS[:5][::-1], "Mail <b>us</b>: help@example.com, today."]
    rows = Dataset.from_dict({"input": LETTERS, "output": answers})
    report = inspect(rows)
    assert report.counts == {"personal data": 1, "HTML": 1} and report.labels == ()
    assert clean(rows, report)[0]["output"][5] == "Mail us: [email], today."


def test_conversations_are_looked_at_turn_by_turn():
    turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": "Mail me@example.com."}]
             for text in LETTERS]
    rows = Dataset.from_dict({"messages": turns})
    cleaned, log = clean(rows, inspect(rows))
    assert log.counts == {"personal data masked": 6}
    assert [turn["content"] for turn in cleaned["messages"][0]] == [LETTERS[0], "Mail [email]."]
    assert cleaned.features == rows.features


def test_shares_of_labels_that_differ_between_splits_are_said_with_the_widest_gap():
    texts = [f"{text} ({i})" for i, text in enumerate(LETTERS * 30)]
    report = inspect({"train": table(texts[:120], ["joy", "anger"] * 60),
                      "test": table(texts[120:], ["joy"] * 50 + ["anger"] * 10)})
    assert "differ by more than chance allows" in report.difference
    assert report.difference.endswith("the widest gap is anger: 16.7% in test, 50.0% in train.")
    assert report.shares[1] == {"label": "joy", "train": 0.5, "test": 50 / 60}
    assert "too few rows to say" in inspect({"train": table(LETTERS, ["a", "b"] * 3),
                                             "test": table(["A short but sound letter."], ["a"])}).difference


def test_lines_of_the_file_are_named_where_read_left_them(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"two\nlines of a letter, that is",joy\n,joy\n', encoding="utf-8")
    report = inspect(read(path, columns=()))
    assert report.finding("empty text").rows == (1,) and report.finding("empty text").lines == (4,)
    assert clean(read(path, columns=()), report)[1].changes[0].line == 4


def test_what_cannot_be_inspected_is_refused_with_what_to_do():
    rows = table(LETTERS, ["joy"] * 6)
    said(lambda: inspect([1, 2]), "train is a list", "labkit.data.read")
    said(lambda: inspect({}), "there are no splits")
    said(lambda: inspect(rows.select([])), "there are no rows")
    said(lambda: inspect(rows, text="txt"), "there is no column 'txt'", "Perhaps you mean 'text'")
    said(lambda: inspect(rows, text="label", label="label"), "two columns")
    said(lambda: inspect(Dataset.from_dict({"a": ["x"], "b": ["y"]})), "cannot tell which of the columns")
    said(lambda: inspect({"train": rows, "test": rows.remove_columns("label")}), "test: there is no column 'label'")
    said(lambda: inspect(rows, labels="joy"), "a list of names")
    said(lambda: inspect(rows, labels=[]), "a list of names")
    said(lambda: inspect(rows, names="Marta"), "a list of names")
    said(lambda: inspect(rows, near=0), "a share above 0")
    said(lambda: inspect(rows, max_tokens=5), "no tokenizer")
    report = inspect(rows)
    said(lambda: report.rows("leakd"), "Perhaps you mean 'leaked'")
    said(lambda: report.rows("leaked", "tset"), "there is no split 'tset'")
    said(lambda: inspect({"train": rows, "test": rows}).rows("leaked"), "several splits")
    said(lambda: clean(rows.select([0]), report), "the report is of 6 rows of train")
    said(lambda: clean(rows, report, drop=["dust"]), "drop names 'dust'")
    said(lambda: clean(rows, report, repair="leaked"), "repair names 'leaked'")
    said(lambda: clean(rows, report, holder="{x}"), "{kind}")


def test_the_page_is_whole_and_what_stands_in_the_data_cannot_act_in_it():
    evil = "<script>alert(1)</script>"
    page = inspect(table([*LETTERS, "ok <b>", "no"], [evil, "joy"] * 4)).page("A & B")
    assert page.startswith("<!doctype html>") and "<title>A &amp; B</title>" in page
    assert "<script" not in page and "&lt;script&gt;" in page and page.count("<svg role='img' aria-label=") == 1


# Bad input


def test_rows_of_a_wrong_type_are_named_and_columns_of_a_wrong_type_refused(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    rows = [{"text": text, "label": "joy"} for text in LETTERS] + [{"text": 5, "label": "joy"}, {"text": [1]}, 7]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "3 rows of train could not be read and are left out, by line: 7 (text holds a whole number" in out
    said(lambda: inspect(table([1, 2])), "text holds no text but int64")
    said(lambda: inspect(table([True, False])), "text holds no text but bool")


def test_nested_json_where_text_is_due_is_refused():
    said(lambda: inspect(table([{"a": "x"}, {"a": "y"}])), "text holds no text but lists or objects", "Name another")
    said(lambda: inspect(table([["x"], ["y"]])), "text holds no text but lists or objects")
    said(lambda: inspect(table(LETTERS, [["x"]] * 6)), "label holds a list", "row 0")
    said(lambda: inspect(table(LETTERS, [{"x": 1}] * 6)), "label holds an object")


def test_a_column_of_fractions_is_no_column_of_labels_but_whole_numbers_are():
    said(lambda: inspect(table(LETTERS, [0.5, 1, 2, 3, 4, 5])), "label holds fractions, such as 0.5", "Name another")
    assert inspect(table(LETTERS, [0.0, 1.0, 0.0, 1.0, 0.0, None])).rows("missing label") == [5]
    assert inspect(table(LETTERS, [0, 1] * 3)).labels == ("0", "1")


def test_ten_thousand_labels_are_no_labels_and_cost_no_time_if_they_are_said_to_be():
    texts = [f"Number {i} of many" for i in range(10_000)]
    labels = [f"{i:05} tent" for i in range(10_000)]
    started = time.process_time()
    report = inspect(table(texts, labels))
    assert report.labels == () and "10,000 different values" in report.remarks[0]
    report = inspect(table(texts, [label.upper() for label in labels]), labels=labels)
    assert [note["meant"] for note in report.finding("unknown label").notes] == labels
    assert len(str(report)) < 20_000 and "(9,950 more are not shown)" in report.page()
    strange = inspect(table(texts, ["joy"] * 8500 + [f"{i} x" for i in range(1500)]))
    assert len(strange.labels) == 1501
    assert time.process_time() - started < 20


def test_texts_of_one_character_and_of_a_megabyte_are_looked_at_in_seconds():
    texts = ["x", "é", "<", "&", "@", "0", "x" * 2**20, "word " * 2**18, "é" * 2**19, "a@" * 2**19, "<a " * 2**16,
             "&amp;" * 2**16, "0 " * 2**17, "Ã©" * 2**17, "+1 " * 2**16, "GB29 " * 2**11,
             "a@b.org +49 30 2312500 " * 2**13]
    started = time.process_time()
    rows = table(texts)
    cleaned, log = clean(rows, inspect(rows, names=["x x"]))
    assert len(cleaned) + len(log.dropped()) == len(rows)
    assert time.process_time() - started < 20


def test_right_to_left_and_emoji_texts_come_through_whole():
    hebrew = "שלום לכם, המגפיים שקניתי אצלכם נרטבו כבר ביום הראשון ואני מבקש את כספי בחזרה."
    texts = [*LETTERS, "🏔️👩‍🚒 The boots are here, and they are 💯!", hebrew,
             "مرحبا، وصلت الخيمة اليوم وهي ممزقة من الجانب الأيسر، وأريد أن أعيدها إليكم وأسترد ما دفعته."]
    rows = table(texts)
    report = inspect(rows)
    assert [n["language"] for n in report.finding("other language").notes] == ["he", "ar"]
    assert report.counts == {"other language": 2} and clean(rows, report)[0]["text"][:] == texts
    assert inspect(table([hebrew, hebrew + "!"])).language == "he"


# The command


@pytest.fixture
def refused(capsys):
    """Run `labkit inspect ...`; returns its one sentence, if it has the form that it should have."""

    def run(*words: object) -> str:
        code = main(["inspect", *map(str, words)])
        out, err = capsys.readouterr()
        assert code == 2 and out == "" and err.startswith("labkit: ") and err.count("\n") == 1 and len(err) < 500, err
        return err

    return run


def test_the_command_prints_the_report_and_writes_the_page(tmp_path, capsys):
    file, test, names = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "names.txt"
    rows = [*(f'"{text}",joy' for text in LETTERS), '"Yours, Marta Nyberg of the mountain hut",Joy', "too,many,cells"]
    file.write_text("words,mood\n" + "\n".join(rows) + "\n", encoding="utf-8")
    test.write_text(f'words,mood\n"{LETTERS[4]}",joy\n', encoding="utf-8")
    names.write_text("\ufeffMarta Nyberg\n\n", encoding="utf-8")
    page = tmp_path / "report.html"
    code = main(["inspect", str(file), "--test", str(test), "--columns", "words,mood", "--labels", "joy, fear",
                 "--names", str(names), "--html", str(page)])
    out, err = capsys.readouterr()
    assert code == 0 and err == ""
    for part in ("8 rows (7 of train, 1 of test), texts in 'words', 2 labels in 'mood'", "leaked · 1 of 7", ": line 6",
                 "unknown label · 1 of 7 rows of train: line 8", "Found: name 1.",
                 "1 row of train could not be read and is left out, by line: 9 (has 3 cells, the header has 2)."):
        assert part in out, out
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and "has 3 cells" in text


def test_several_tests_are_called_by_their_files(tmp_path, capsys):
    for name in ("a.csv", "may.csv", "train.csv"):
        (tmp_path / name).write_text(f'text,label\n"{LETTERS[0]}",joy\n"{LETTERS[1]}",joy\n', encoding="utf-8")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "may.csv").write_bytes((tmp_path / "may.csv").read_bytes())
    files = [str(tmp_path / name) for name in ("may.csv", "train.csv", "b/may.csv")]
    assert main(["inspect", str(tmp_path / "a.csv"), "--test", *files]) == 0
    assert "8 rows (2 of train, 2 of may, 2 of train 2, 2 of may 2)" in capsys.readouterr().out


def test_bad_input_of_the_command_is_answered_with_one_sentence_and_code_2(tmp_path, refused):
    good = tmp_path / "a.csv"
    good.write_text(f'text,label\n"{LETTERS[0]}",joy\n', encoding="utf-8")
    (tmp_path / "twice.csv").write_text("text,label,text\na,b,c\n", encoding="utf-8")
    (tmp_path / "nested.jsonl").write_text('{"text": {"a": 1}, "label": "x"}\n', encoding="utf-8")
    (tmp_path / "floats.jsonl").write_text('{"text": "a", "label": 0.5}\n', encoding="utf-8")
    (tmp_path / "bytes.csv").write_bytes(b"text,label\n\xff\xfe,joy\n")
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    (tmp_path / "none.txt").write_text(" \n")
    assert "there is no such file" in refused(tmp_path / "b.csv")
    assert "there is no such file" in refused(good, "--test", tmp_path / "b.csv")
    assert "the column 'text' is there 2 times" in refused(tmp_path / "twice.csv")
    assert "text holds no text" in refused(tmp_path / "nested.jsonl")
    assert "label holds fractions" in refused(tmp_path / "floats.jsonl")
    assert "is not UTF-8" in refused(tmp_path / "bytes.csv")
    assert "there is no column 'txt'" in refused(good, "--columns", "txt,label")
    assert "--columns names 3" in refused(good, "--columns", "a,b,c")
    assert "--columns is 'text,'" in refused(good, "--columns", "text,")
    assert "--labels is ''" in refused(good, "--labels", "")
    assert "No such file" in refused(good, "--names", tmp_path / "no.txt")
    assert "is not UTF-8" in refused(good, "--names", tmp_path / "bad.txt")
    assert "holds no names" in refused(good, "--names", tmp_path / "none.txt")
    assert "ends in .html" in refused(good, "--html", good)
    assert "there is no such folder" in refused(good, "--html", tmp_path / "none" / "a.html")
    (tmp_path / "a.html").mkdir()
    assert "cannot be written" in refused(good, "--html", tmp_path / "a.html")


# Anything


BITS = st.sampled_from(["", " ", "<b>", "</b>", "&amp;", "&#64;", "Ã©", "â€™", "jo@shop.example", "+44 7700 900123",
                        "DE89 3704 0044 0532 0130 00", "Marta", "Marta Nyberg", LETTERS[0], FOREIGN[1], "ok", "\u200b",
                        "שלום", "🏔️", "x" * 300, "\r\n", "’"])  # fmt: skip
TEXTS = st.none() | st.lists(BITS | st.text(max_size=8), max_size=4).map("".join)
LABELS = st.none() | st.sampled_from(["joy", "Joy", " joy", "jjoy", "anger", "n/a", ""]) | st.text(max_size=5)
TABLES = st.lists(st.tuples(TEXTS, LABELS), min_size=1, max_size=12)
MODEST = settings(max_examples=60, deadline=None, derandomize=True,
                  suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def through(splits: dict[str, Dataset], **options) -> None:
    """Inspected and cleaned, every row is kept as it is, changed and named, or dropped and named; or all is refused."""
    try:
        report = inspect(splits, **options)
    except LabError as error:
        assert str(error)
        return
    cleaned, log = clean(splits, report)
    str(report), report.page(), str(log)
    assert list(report.counts) == [kind for kind in KINDS if kind in report.counts]
    for name, rows in splits.items():
        gone = log.dropped(name) if len(splits) > 1 else log.dropped()
        assert len(rows) == len(cleaned[name]) + len(set(gone)) and len(set(gone)) == len(gone)
        before = rows.to_list()
        for change in log.changes:
            if change.split == name and change.done != "dropped":
                assert before[change.row][change.column] == change.before != change.after
                before[change.row][change.column] = change.after
        kept = [row for number, row in enumerate(before) if number not in gone]
        assert cleaned[name].to_list() == kept and cleaned[name].features == rows.features


@MODEST
@given(TABLES, TABLES | st.none(), st.booleans())
@example([("x", "joy"), ("x ", "joy")], None, True)
def test_any_table_is_cleaned_or_refused_and_every_row_is_accounted_for(train, test, known):
    splits = {}
    for name, rows in (("train", train), ("test", test)):
        if rows is not None:
            features = Features({"text": Value("string"), "label": Value("string")})
            splits[name] = Dataset.from_dict({"text": [r[0] for r in rows], "label": [r[1] for r in rows]}, features)
    through(splits, labels=["joy", "anger"] if known else None, names=["Marta Nyberg"])


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = PLAIN | st.lists(PLAIN | st.lists(PLAIN, max_size=2) | st.just({}), max_size=3) | st.dictionaries(
    st.sampled_from("ab"), PLAIN | st.lists(PLAIN, max_size=2), max_size=2)
ROWS = st.lists(st.fixed_dictionaries({"text": TEXTS | VALUES}, optional={"label": LABELS | VALUES}), min_size=1,
                max_size=8)


@MODEST
@given(ROWS)
@example([{"text": [False, 0]}])
def test_any_json_is_read_and_cleaned_or_refused_and_every_row_is_accounted_for(tmp_path, rows):
    path = tmp_path / "any.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    bad = []
    try:
        dataset = read(path, columns=(), left_out=bad)
    except LabError as error:
        assert str(error)
        return
    assert len(dataset) + len(bad) == len(rows)
    through({"train": dataset})


@MODEST
@given(st.binary(max_size=120) | st.text(max_size=120).map(str.encode),
       st.sampled_from(["json", "jsonl", "csv", "tsv", "parquet"]))
@example(b'text,label\n"a\nb",c\n', "csv")
def test_any_bytes_are_read_and_cleaned_or_refused(tmp_path, content, suffix):
    path = tmp_path / f"any.{suffix}"
    path.write_bytes(content)
    try:
        dataset = read(path, columns=(), left_out=[])
    except LabError as error:
        assert str(error)
        return
    through({"train": dataset})


def test_inspection_loads_no_torch():
    code = ("import sys; from datasets import Dataset; from labkit.data import clean, inspect; "
            "before = set(sys.modules); rows = Dataset.from_dict({'text': ['a long way', 'b'], 'label': ['x', 'y']}); "
            "clean(rows, inspect(rows)); "
            "print(*{'torch', 'transformers'} & (set(sys.modules) - before))")
    done = subprocess.run([sys.executable, "-c", code], cwd=COURSE, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
