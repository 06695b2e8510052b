"""The bound on requests at work."""

import pytest

from services.kit.admission import Admission
from services.kit.errors import Overloaded


def test_i10_beyond_the_limit_a_request_is_refused_at_once_and_places_come_free_again() -> None:
    admission = Admission(2)
    with admission.admitted():
        with admission.admitted(), pytest.raises(Overloaded) as refused, admission.admitted():
            pass
        assert refused.value.retry_after > 0
        with admission.admitted():
            pass


def test_a_request_that_fails_gives_its_place_back() -> None:
    admission = Admission(1)
    for _ in range(3):
        with pytest.raises(RuntimeError), admission.admitted():
            raise RuntimeError


def test_what_needs_more_places_than_there_are_takes_them_all() -> None:
    admission = Admission(3)
    with admission.admitted(8), pytest.raises(Overloaded), admission.admitted():
        pass
    with admission.admitted(), pytest.raises(Overloaded), admission.admitted(3):
        pass
    with admission.admitted(3):
        pass
