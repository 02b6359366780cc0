"""The report of broken input: right totals however it is put together, and a file that is whole or absent."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalle_hf.data import BrokenInputError, BrokenInputReport, BrokenReason, TooMuchBrokenInputError

errors = st.builds(
    BrokenInputError,
    st.sampled_from(BrokenReason),
    st.sampled_from(["a.flac", "b.flac", "c.flac"]),
    st.just("detail"),
    st.one_of(st.none(), st.integers(0, 99).map(str)),
)


def report_of(num_rows, broken):
    report = BrokenInputReport(num_rows)
    for error in broken:
        report.add(error)
    return report


def totals(report):
    return report.num_rows, report.num_broken, dict(sorted(report.counts.items()))


@given(st.lists(errors), st.integers(0, 30), st.integers(0, 1000))
def test_parts_add_up_to_the_whole(broken, boundary, num_rows):
    whole = report_of(num_rows, broken)
    in_sections = BrokenInputReport()
    in_sections.section("first").update(report_of(num_rows, broken[:boundary]))
    in_sections.section("second").update(report_of(0, broken[boundary:]))
    merged = report_of(num_rows, broken[:boundary])
    merged.update(report_of(0, broken[boundary:]))

    assert totals(in_sections) == totals(merged) == totals(whole)
    assert whole.num_broken == len(broken)


@given(st.lists(errors), st.integers(0, 1000))
def test_json_round_trip(broken, num_rows):
    report = report_of(num_rows, broken)

    again = BrokenInputReport.from_json(report.to_json())

    assert again.to_json() == report.to_json()


def test_a_section_of_the_same_name_starts_again():
    report = BrokenInputReport()
    for _ in range(2):
        section = report.section("listing")
        section.count_row()
        section.add(BrokenInputError("silence", "a.flac"))

    assert totals(report) == (1, 1, {"silence": 1})


def test_rows_of_one_file_are_one_entry():
    report = report_of(1000, [BrokenInputError("text_without_audio", "a.flac", id=str(row)) for row in range(1000)])

    (entry,) = report.files()

    assert (entry.num_rows, entry.ids) == (1000, ["0", "1", "2", "3", "4"])


def test_written_file_names_reason_and_file(tmp_path):
    path = tmp_path / "reports" / "broken.json"
    report_of(4, [BrokenInputError("not_finite", "a.wav", "NaN", "row 1")]).write(path)

    content = json.loads(path.read_text())

    assert content["broken_fraction"] == 0.25
    assert content["files"] == [
        {"reason": "not_finite", "file": "a.wav", "detail": "NaN", "num_rows": 1, "ids": ["row 1"]}
    ]
    assert totals(BrokenInputReport.read(path)) == (4, 1, {"not_finite": 1})
    assert [file.name for file in path.parent.iterdir()] == ["broken.json"]


def test_interrupted_writing_leaves_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "broken.json"
    report_of(1, []).write(path)

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report_of(2, []).write(path)

    assert BrokenInputReport.read(path).num_rows == 1


def test_threshold():
    report = report_of(100, [BrokenInputError("silence", "a.flac", id=str(row)) for row in range(3)])

    report.check(max_broken_fraction=0.03)
    with pytest.raises(TooMuchBrokenInputError, match=r"3 of 100 inputs are broken \(3\.0%\).*'silence': 3"):
        report.check(max_broken_fraction=0.02)


def test_empty_report_passes_every_threshold():
    BrokenInputReport().check(max_broken_fraction=0.0)


def test_summary_fits_on_one_screen():
    broken = [BrokenInputError(reason, f"{number}.flac", "x") for reason in BrokenReason for number in range(100)]

    lines = report_of(2000, broken).summary().splitlines()

    assert lines[0] == "2000 rows, 1400 broken inputs skipped (70.00%)"
    assert "  silence: 100" in lines
    assert len(lines) == 1 + len(BrokenReason) * 4


def test_error_survives_pickling():
    error = BrokenInputError(BrokenReason.SILENCE, "a.flac", "peak 0", "7")

    again = pickle.loads(pickle.dumps(error))

    assert (again.broken, str(again)) == (error.broken, "a.flac: silence (peak 0)")


@pytest.mark.parametrize("name", [b"caf\xe9.wav".decode("utf-8", "surrogateescape"), "lone \ud800 surrogate"])
def test_names_that_are_not_utf8_can_be_written(tmp_path, name):
    report_of(1, [BrokenInputError("not_utf8", name, name, name)]).write(tmp_path / "broken.json")

    (entry,) = BrokenInputReport.read(tmp_path / "broken.json").files()

    assert "\\ud" in entry.file
