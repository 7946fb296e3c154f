"""The registry is complete."""

import pytest

from skvae._core._component import Component
from tests import registry

ENTRIES = {
    "likelihood": registry.LIKELIHOODS,
    "prior": registry.PRIORS,
    "posterior": registry.POSTERIORS,
    "network": registry.NETWORKS,
    "layers": registry.LAYERS,
    "recurrence": registry.RECURRENCES,
    "objective": registry.OBJECTIVES,
    "solver": registry.SOLVERS,
}


@pytest.mark.parametrize("kind", sorted(Component._registry))
def test_every_shorthand_is_registered(kind):
    own = {k: c for k, c in Component._registry[kind].items() if c.__module__.startswith("skvae.")}
    entered = {registry.component_of(e).shorthand for e in ENTRIES[kind]}
    assert set(own) == entered


@pytest.mark.parametrize("kind", sorted(ENTRIES))
def test_every_entry_is_there_once(kind):
    names = [repr(registry.component_of(e)) for e in ENTRIES[kind]]
    assert len(set(names)) == len(names)
