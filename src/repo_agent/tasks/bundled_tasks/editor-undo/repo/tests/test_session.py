from editor import Session


def test_undo_and_redo():
    session = Session("one")
    session.replace(0, 3, "two")
    assert session.undo() and session.text == "one"
    assert session.redo() and session.text == "two"


def test_several_steps_back():
    session = Session()
    for word in ("a", "b", "c"):
        session.type(word)
    session.undo()
    session.undo()
    assert session.text == "a"


def test_nothing_to_undo():
    session = Session("one")
    assert session.undo() is False
    assert session.text == "one"


def test_no_redo_after_a_new_edit():
    session = Session("red ")
    session.type("fox")
    session.undo()
    session.type("elephant")
    assert session.redo() is False
    assert session.text == "red elephant"
