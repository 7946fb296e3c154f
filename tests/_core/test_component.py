"""Components: scikit-learn objects with a shorthand."""

import pytest
from sklearn.base import clone

from skvae._core._component import Component, resolve
from skvae.likelihoods import GaussianLikelihood, Likelihood
from skvae.priors import StandardNormalPrior
from tests import registry
from tests.registry import component_of, each

COMPONENTS = [
    component_of(entry)
    for entries in (
        registry.LIKELIHOODS,
        registry.PRIORS,
        registry.POSTERIORS,
        registry.NETWORKS,
        registry.RECURRENCES,
        registry.OBJECTIVES,
        registry.SOLVERS,
    )
    for entry in entries
]
every_component = pytest.mark.parametrize("component", each(COMPONENTS))


@every_component
def test_clone_keeps_the_parameters(component):
    copy = clone(component)
    assert copy is not component
    assert repr(copy) == repr(component)
    # Components among the parameters are copies too.
    assert repr(copy.get_params()) == repr(component.get_params())


@every_component
def test_init_stores_what_it_is_given(component):
    # Objects that are equal to nothing: __init__ may neither convert nor check.
    parameters = {name: object() for name in component.get_params(deep=False)}
    stored = vars(type(component)(**parameters))
    assert {name: stored[name] for name in parameters} == parameters


@every_component
def test_every_parameter_is_checked(component):
    for name in component.get_params(deep=False):
        wrong = clone(component).set_params(**{name: object()})
        with pytest.raises(ValueError, match=name):
            wrong.check_parameters()


@every_component
def test_parameters_in_use_are_accepted(component):
    component.check_parameters()
    type(component)().check_parameters()


@every_component
def test_shorthand_stands_for_the_defaults(component):
    family = type(component).shorthands()
    assert family[component.shorthand] is type(component)
    kind = next(c for c in type(component).__mro__ if "kind" in vars(c))
    resolved = resolve(component.shorthand, kind, kind.kind)
    assert type(resolved) is type(component)
    assert resolved.get_params() == type(component)().get_params()
    assert resolve(component, kind, kind.kind) is component


def test_a_component_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"likelihood=StandardNormalPrior\(\) is not a likelihood"):
        resolve(StandardNormalPrior(), Likelihood, "likelihood")
    with pytest.raises(ValueError, match="Pass an instance of one"):
        # The class, where an instance is wanted.
        resolve(GaussianLikelihood, Likelihood, "likelihood")


def test_a_shorthand_belongs_to_one_class():
    with pytest.raises(TypeError, match="'gaussian' already belongs to GaussianLikelihood"):

        class Impostor(Likelihood, shorthand="gaussian"):
            pass

    assert Likelihood.shorthands()["gaussian"] is GaussianLikelihood


def test_a_component_without_a_shorthand_is_not_listed():
    before = Likelihood.shorthands()

    class Private(GaussianLikelihood):
        pass

    assert Private.shorthand is None
    assert Likelihood.shorthands() == before


def test_the_list_of_shorthands_is_a_copy():
    Likelihood.shorthands().clear()
    assert Component._registry["likelihood"]
