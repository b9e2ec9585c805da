from merge import merge_into


def test_target_is_changed_and_returned():
    target = {"a": 1}
    assert merge_into(target, {"b": 2}) is target
    assert target == {"a": 1, "b": 2}


def test_goes_down_into_dicts():
    assert merge_into({"a": {"x": 1, "y": 1}}, {"a": {"y": 2}}) == {"a": {"x": 1, "y": 2}}


def test_other_values_are_replaced():
    assert merge_into({"a": {"x": 1}, "b": [1]}, {"a": 5, "b": [2]}) == {"a": 5, "b": [2]}
