"""No number changes by accident: inputs byte for byte, probabilities and maps bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from support import numbers

Films = Callable[[], Iterator[tuple[str, bytes]]]


@pytest.mark.parametrize("films", [numbers.samples, numbers.real, numbers.synthetic])
def test_films_give_the_recorded_numbers(films: Films) -> None:
    if films is numbers.real and numbers.real_folder() is None:
        pytest.skip("There is no folder shared/films/dicom beside the checkout.")
    found = numbers.measure(films())
    machine, kept = numbers.recorded()
    assert found.digests, "there are films"
    assert found.digests == {name: kept.digests[name] for name in found.digests}
    same = machine == numbers.machine_class()
    for name, value in found.values.items():
        if same:
            assert value.tobytes() == kept.values[name].tobytes(), name
        else:
            np.testing.assert_allclose(value, kept.values[name], rtol=0, atol=1e-6, err_msg=name)


def test_every_recorded_film_is_still_made() -> None:
    _, kept = numbers.recorded()
    made = [name for name, _ in numbers.synthetic()] + [name for name, _ in numbers.samples()]
    assert {name for name in kept.digests if not name.startswith("real-")} == set(made)
