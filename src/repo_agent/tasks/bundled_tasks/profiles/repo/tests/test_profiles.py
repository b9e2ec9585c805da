import pytest

from profiles import load


def test_unknown_profile():
    with pytest.raises(KeyError):
        load("nope")


def test_overrides_win():
    assert load("plain", {"autosave": False})["autosave"] is False


def test_profile_keeps_the_other_defaults():
    assert load("narrow")["editor"] == {"tab": 2, "rulers": [80]}


def test_profiles_do_not_leak():
    assert load("night")["theme"] == {"name": "dark", "contrast": 1}
    assert load("plain")["theme"] == {"name": "light", "contrast": 1}


def test_overrides_do_not_leak():
    load("plain", {"editor": {"tab": 8}})
    assert load("plain")["editor"]["tab"] == 4
