import pytest

from labels import bays_by_aisle, split_label, walking_order


def test_split_is_tolerant_of_case_and_blanks():
    assert split_label(" c-04 ") == ("C", "04")


@pytest.mark.parametrize("text", ["", "A7", "7-A", "A-", "-3"])
def test_split_refuses_other_text(text):
    with pytest.raises(ValueError):
        split_label(text)


def test_aisles_in_order():
    assert walking_order(["C-1", "A-1", "B-1"]) == ["A-1", "B-1", "C-1"]


def test_bays_with_two_digits_come_late():
    assert walking_order(["B-10", "B-9", "A-2", "B-1"]) == ["A-2", "B-1", "B-9", "B-10"]


def test_bays_by_aisle():
    assert bays_by_aisle(["a-11", "A-3", "b-2"]) == {"A": ["3", "11"], "B": ["2"]}
