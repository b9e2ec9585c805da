from logsift.records import Record, read_records


def test_record():
    assert list(read_records(["ERROR db: connection lost\n"])) == [Record("ERROR", "db", "connection lost")]


def test_other_lines_are_skipped():
    assert list(read_records(["", "   ", "hello: there", "INFO: no source", "INFO web started"])) == []


def test_message_may_hold_colons():
    [record] = read_records(["WARN web: slow: 3 s"])
    assert record.message == "slow: 3 s"
