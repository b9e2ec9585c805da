import pytest

from seating import Table, TableFull, place


def test_guest_is_seated_once():
    table = Table(1, guests=["Ada"])
    table.seat("Ada")
    assert table.guests == ["Ada"]


def test_full_table_refuses():
    table = Table(2, seats=1, guests=["Ada"])
    with pytest.raises(TableFull):
        table.seat("Ben")


def test_tables_do_not_share_guests():
    left, right = Table(3), Table(4)
    left.seat("Cleo")
    assert right.guests == []
    assert right.free == 8


def test_given_list_stays_as_it_was():
    invited = ["Dora"]
    Table(5, guests=invited).seat("Emil")
    assert invited == ["Dora"]


def test_party_goes_to_the_first_table_with_room():
    tables = [Table(6, seats=2, guests=["Finn"]), Table(7, seats=4, guests=["Gus"])]
    assert place(["Hal", "Ida"], tables).number == 7
    assert tables[1].guests == ["Gus", "Hal", "Ida"]


def test_party_too_big():
    assert place(["a", "b", "c"], [Table(8, seats=2, guests=["Jo"])]) is None
