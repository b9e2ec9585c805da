from slots import clock, first_fit, free_slots

NINE, TEN, NOON, FIVE = 540, 600, 720, 1020


def test_empty_day():
    assert free_slots([], NINE, FIVE) == [(NINE, FIVE)]


def test_order_does_not_matter():
    assert free_slots([(NOON, 780), (NINE, TEN)], NINE, FIVE) == [(TEN, NOON), (780, FIVE)]


def test_touching_bookings_leave_no_gap():
    assert free_slots([(NINE, TEN), (TEN, FIVE)], NINE, FIVE) == []


def test_meeting_inside_another():
    assert free_slots([(NINE, NOON), (570, TEN)], NINE, FIVE) == [(NOON, FIVE)]


def test_booking_before_opening():
    assert free_slots([(420, 480)], NINE, FIVE) == [(NINE, FIVE)]


def test_first_fit():
    bookings = [(NINE, NOON), (570, TEN), (740, 800)]
    assert first_fit(bookings, NINE, FIVE, 30) == "13:20"
    assert first_fit(bookings, NINE, FIVE, 600) is None


def test_clock():
    assert clock(545) == "9:05"
