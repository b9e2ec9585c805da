import pytest

from bank.money import cents


def test_plain_amount():
    assert cents("960.00") == 96000


def test_thousands():
    assert cents("1,204.50") == 120450


def test_money_that_went_out():
    assert cents("(12.50)") == -1250


@pytest.mark.parametrize("text", ["", "12", "12.5", "x.00"])
def test_no_amount(text):
    with pytest.raises(ValueError):
        cents(text)
