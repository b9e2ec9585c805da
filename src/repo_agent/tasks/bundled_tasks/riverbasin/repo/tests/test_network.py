import pytest

from riverbasin.network import Network, River


def test_tributaries_by_name():
    network = Network([River("Main", 9), River("Zell", 1, "Main"), River("Alb", 2, "Main")])
    assert network.tributaries("Main") == ["Alb", "Zell"]


def test_downstream():
    network = Network([River("Main", 9), River("Alb", 2, "Main"), River("Kell", 3, "Alb")])
    assert network.downstream("Kell") == ["Kell", "Alb", "Main"]


def test_unknown_river():
    with pytest.raises(ValueError):
        Network([River("Alb", 2, "Main")])
