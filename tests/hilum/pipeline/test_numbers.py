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
    if films is not numbers.real:  # whose folder may hold fewer
        kinds = [name.partition("-")[0] == "synthetic" for name in found.digests]
        assert len(set(kinds)) == 1
        recorded = [n for n in kept.digests if not n.startswith("real-")]
        expected = {n for n in recorded if n.startswith("synthetic-") == kinds[0]}
        assert set(found.digests) == expected, "every recorded film is still made"
    same = machine == numbers.machine_class()
    for name, value in found.values.items():
        if same:
            assert value.tobytes() == kept.values[name].tobytes(), name
        else:
            np.testing.assert_allclose(value, kept.values[name], rtol=0, atol=1e-6, err_msg=name)
