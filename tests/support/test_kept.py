"""Tables of values that are made once."""

import copy
import pickle

import pytest

from noise_scheduler_sampling_system.support.kept import Kept, Same


def test_a_value_is_made_once_for_equal_keys():
    table, made = Kept(), []
    for key in (1, 1, "a", 1, "a"):
        assert table.get(key, lambda key=key: made.append(key) or [key]) == [key]
    assert made == [1, "a"]


def test_one_more_than_the_most_empties_the_table():
    table, made = Kept(2), []
    for key in (1, 2, 3, 3, 1):
        table.get(key, lambda key=key: made.append(key) or key)
    assert made == [1, 2, 3, 1]


def test_an_error_is_not_kept_and_has_no_context():
    table = Kept()

    def fails():
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no") as raised:
            table.get(1, fails)
        assert raised.value.__context__ is None
    assert table.get(1, lambda: 5) == 5


def test_copies_are_empty():
    table = Kept(7)
    table.get(1, lambda: 5)
    for other in (copy.copy(table), copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert other.get(1, lambda: 6) == 6
    assert table.get(1, lambda: 7) == 5


def test_the_same_object_is_an_equal_key_and_an_equal_object_is_not():
    one, other = [1], [1]
    assert Same(one) == Same(one)
    assert hash(Same(one)) == hash(Same(one))
    assert Same(one) != Same(other)
    assert Same(one) != one
