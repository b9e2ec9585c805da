from folio.register import page, register
from folio.text import initial, plain


def test_plain_names():
    assert register(["Borges", "austen", "Brecht"]) == {"A": ["austen"], "B": ["Borges", "Brecht"]}


def test_accents_share_the_heading():
    assert register(["Eliot", "Éluard", "Ebner"]) == {"E": ["Ebner", "Eliot", "Éluard"]}


def test_accent_as_a_character_of_its_own():
    assert initial("E\u0301luard") == "E"


def test_ring_and_dots():
    assert [initial(name) for name in ("Ångström", "Özdamar", "łuk")] == ["A", "O", "Ł"]


def test_names_that_start_with_no_letter():
    assert initial("50 Cent") == "#"
    assert initial("") == "#"


def test_plain_ignores_case_and_accents():
    assert plain("ÉLAN") == plain("elan") == "elan"


def test_page():
    assert page(["Woolf", "Wüst"]) == "W\n  Woolf\n  Wüst"
