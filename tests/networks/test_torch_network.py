"""A user's own torch module."""

import functools
import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

from skvae import VariationalAutoencoder
from skvae.networks import MLP, TorchNetwork
from tests.estimators.small import (
    STILL_RISING,
    assert_global_generators_untouched,
    assert_same_answers,
    factor_rows,
    small_vae,
)
from tests.registry import own_module

pytestmark = pytest.mark.filterwarnings(STILL_RISING)

X = factor_rows(120)
ONCE = nn.Linear(3, 5)


def build(factory, n_inputs=3, n_outputs=5, *, dtype=torch.float64, seed=0, **parameters):
    return TorchNetwork(factory=factory, **parameters).build(
        n_inputs,
        n_outputs,
        n_location_outputs=2,
        dtype=dtype,
        generator=torch.Generator().manual_seed(seed),
    )


def rows(*shape):
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_it_is_the_module_and_a_linear_path():
    head = build(nn.Linear)
    x = rows(6)
    expected = head.module(x)
    expected[:, :2] += x @ head.linear_path.weight
    torch.testing.assert_close(head(x), expected)
    with torch.no_grad():
        head.gain.fill_(0.5)
        head.bias.fill_(2.0)
    expected = 0.5 * head.module(x) + 2.0
    expected[:, :2] += x @ head.linear_path.weight
    torch.testing.assert_close(head(x), expected)


def test_module_sees_rows_one_by_one_whatever_the_axes():
    shapes = []

    class Looks(nn.Linear):
        def forward(self, inputs):
            shapes.append(tuple(inputs.shape))
            return super().forward(inputs)

    build(Looks)(rows(2, 4))
    assert shapes == [(2, 3), (2, 3), (8, 3)]


@pytest.mark.parametrize("factory", [own_module, "tests.registry:own_module"])
def test_factory_by_itself_or_by_name(factory):
    state = build(factory, parameters={"width": 7}).state_dict()
    other = build(own_module, parameters={"width": 7}).state_dict()
    assert state["module.0.weight"].shape == (7, 3)
    assert all(torch.equal(state[name], other[name]) for name in other)


def test_each_network_has_weights_of_its_own():
    """A factory may hand out one and the same module, which is then the user's and stays as is."""
    before = ONCE.weight.detach().clone()
    first, second = (build(lambda n_inputs, n_outputs: ONCE) for _ in range(2))
    with torch.no_grad():
        first.module.weight.zero_()
    assert second.module.weight.any()
    assert torch.equal(ONCE.weight, before)


class Lazy(nn.Module):
    """Draws its weights at the first call."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.layer = nn.LazyLinear(n_outputs)

    def forward(self, inputs):
        return self.layer(inputs)


def test_lazy_layers_are_drawn_from_the_generator_too():
    before = torch.get_rng_state()
    first, again, other = (build(Lazy, seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first["module.layer.weight"], again["module.layer.weight"])
    assert not torch.equal(first["module.layer.weight"], other["module.layer.weight"])


class Wrong(nn.Module):
    """Answers with something else."""

    def __init__(self, n_inputs, n_outputs, *, answer):
        super().__init__()
        self.answer = answer

    def forward(self, inputs):
        return self.answer(inputs)


@pytest.mark.parametrize(
    ("factory", "parameters", "message"),
    [
        (None, None, "needs a factory.*got factory=None"),
        (lambda n_inputs, n_outputs: 3, None, r"must return a torch\.nn\.Module; got int"),
        (
            lambda n_inputs, n_outputs: nn.Linear(n_inputs, 1),
            None,
            r"must take \(n_rows, 3\) to \(n_rows, 5\).* it gave shape \(2, 1\)",
        ),
        (Wrong, {"answer": lambda x: (x, x)}, "it gave tuple"),
        (Wrong, {"answer": lambda x: x.sum()}, r"it gave shape \(\)"),
        ("no path", None, r"'no path' is not of the form 'package\.module:name'"),
        ("os.system", None, "is not of the form"),
        ("tests.registry:", None, "is not of the form"),
        (3, None, "factory"),
        (own_module, [1], "parameters"),
    ],
)
def test_what_is_no_factory_of_such_modules_is_refused(factory, parameters, message):
    with pytest.raises(ValueError, match=message):
        build(factory, parameters=parameters)


@pytest.mark.parametrize("path", ["no_such_package.module:name", "tests.registry:no_such_name"])
def test_name_that_leads_nowhere_is_an_import_error(path):
    with pytest.raises(ImportError, match="no_such"):
        build(path)


# -- in an estimator ------------------------------------------------------------------------------


def vae_with(factory=own_module, parameters=None, **others):
    parameters = {"width": 6} if parameters is None else parameters
    network = TorchNetwork(factory=factory, parameters=parameters)
    return small_vae(2, encoder=network, decoder=clone(network), **others)


@pytest.mark.parametrize("init", ["linear", "random"])
def test_fit_is_reproducible_and_touches_no_global_generator(init):
    assert_global_generators_untouched(vae_with(init=init), X)
    assert_same_answers(vae_with(init=init).fit(X), vae_with(init=init).fit(X), X)
    with pytest.raises(AssertionError):
        assert_same_answers(
            vae_with(init="random").fit(X), vae_with(init="random", random_state=1).fit(X), X
        )


def test_linear_start_is_that_of_the_built_in_network():
    start = {"max_iter": 1, "learning_rate_init": 1e-12}
    network = MLP(hidden_layer_sizes=(6,))
    expected = small_vae(2, encoder=network, decoder=network, **start).fit(X)
    ours = vae_with(**start).fit(X)
    np.testing.assert_allclose(ours.score_samples(X), expected.score_samples(X), rtol=1e-6)


def test_it_learns_what_is_not_linear():
    rng = np.random.default_rng(0)
    t = rng.uniform(-2.0, 2.0, size=(1500, 1))
    rows = np.hstack([t, t**2, np.sin(2 * t)]) + 0.1 * rng.normal(size=(1500, 3))
    network = TorchNetwork(factory=own_module, parameters={"width": 32})
    vae = VariationalAutoencoder(1, encoder=network, decoder=network, random_state=0, max_iter=200)
    linear = VariationalAutoencoder(1, hidden_layer_sizes=(), random_state=0).fit(rows[:1000])
    assert vae.fit(rows[:1000]).score(rows[1000:]) > linear.score(rows[1000:]) + 0.5


@pytest.mark.parametrize("factory", [own_module, "tests.registry:own_module"])
@pytest.mark.parametrize("copied", [pickle, joblib], ids=lambda module: module.__name__)
def test_clone_pickle_and_joblib(factory, copied, tmp_path):
    vae = vae_with(factory).fit(X)
    assert_same_answers(clone(vae).fit(X), vae, X)
    if copied is pickle:
        again = pickle.loads(pickle.dumps(vae))
    else:
        joblib.dump(vae, tmp_path / "vae")
        again = joblib.load(tmp_path / "vae")
    assert_same_answers(again, vae, X)


def test_parameters_are_searched_over():
    grid = {"encoder__parameters": [{"width": 3}, {"width": 9}], "decoder__linear_path": [True]}
    search = GridSearchCV(vae_with(), grid, cv=2, n_jobs=2).fit(X)
    chosen = search.best_params_["encoder__parameters"]["width"]
    assert search.best_estimator_.model_.encoder.module[0].out_features == chosen
    vae = vae_with().set_params(encoder__parameters={"width": 4}).fit(X)
    assert vae.model_.encoder.module[0].out_features == 4
    assert vae.model_.decoder.module[0].out_features == 6


@pytest.mark.parametrize(
    "factory",
    [
        lambda n_inputs, n_outputs, width: own_module(n_inputs, n_outputs, width=width),
        functools.partial(own_module),
    ],
    ids=["lambda", "partial"],
)
def test_training_goes_on_with_factories_that_cannot_be_pickled(factory):
    assert vae_with(factory, warm_start=True).fit(X).partial_fit(X).fit(X).n_iter_ > 1


def test_changed_factory_is_noticed_when_training_goes_on():
    vae = vae_with(warm_start=True).fit(X)
    with pytest.raises(ValueError, match="parameters of encoder changed"):
        vae.set_params(encoder__parameters={"width": 4}).fit(X)


def test_deep_copies_of_rows_and_float32():
    vae = vae_with().fit(X.astype(np.float32))
    assert vae.transform(X.astype(np.float32)).dtype == np.float32
    assert {p.dtype for p in vae.model_.parameters()} == {torch.float32}


class Counts(nn.Module):
    """Counts, in a buffer, how often it was called in training."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.layer = nn.Linear(n_inputs, n_outputs)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs):
        if self.training:
            self.calls.add_(1)
        return self.layer(inputs)


@pytest.mark.parametrize("init", ["linear", "random"])
def test_running_statistics_are_those_of_the_state_that_is_kept(init):
    vae = small_vae(
        1,
        encoder=TorchNetwork(factory=Counts),
        init=init,
        early_stopping=True,
        batch_size=20,
        max_iter=30,
        learning_rate_init=0.1,
    ).fit(X)
    calls = int(vae.model_.encoder.module.calls)
    steps = 6  # 108 rows, 12 held out
    assert calls in {steps * n for n in range(len(vae.validation_scores_) + 1)}
    if init == "random":
        assert calls == steps * (1 + int(np.argmax(vae.validation_scores_)))


def normalised(n_inputs, n_outputs):
    return nn.Sequential(nn.Linear(n_inputs, 8), nn.BatchNorm1d(8), nn.Linear(8, n_outputs))


def test_normalisation_over_the_batch_works():
    network = TorchNetwork(factory=normalised)
    vae = small_vae(2, encoder=network, decoder=network, init="random", max_iter=20).fit(X)
    assert vae.model_.encoder.module[1].running_mean.any()
    # After training a row's answers are its own.
    np.testing.assert_allclose(vae.score_samples(X[:7]), vae.score_samples(X)[:7])


class Frozen(nn.Module):
    """Half of it is not to be trained."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.fixed, self.free = nn.Linear(n_inputs, 8), nn.Linear(8, n_outputs)
        self.fixed.requires_grad_(False)

    def forward(self, inputs):
        return self.free(torch.tanh(self.fixed(inputs)))


def test_what_the_author_froze_stays():
    vae = small_vae(1, encoder=TorchNetwork(factory=Frozen), init="random")
    weights = [
        vae.set_params(max_iter=n, early_stopping=False).fit(X).model_.encoder.module
        for n in (1, 5)
    ]
    assert torch.equal(weights[0].fixed.weight, weights[1].fixed.weight)
    assert not torch.equal(weights[0].free.weight, weights[1].free.weight)


class ScaledLinear(nn.Linear):
    """A user's own layer."""

    def forward(self, inputs):
        return 2.0 * super().forward(inputs)


def linear_layers(n_inputs, n_outputs):
    return nn.Sequential(nn.Linear(n_inputs, 150), nn.Tanh(), ScaledLinear(150, n_outputs))


def test_products_of_plain_linear_layers_are_quicker_and_the_same():
    network = TorchNetwork(factory=linear_layers, linear_path=False)
    generator = torch.Generator().manual_seed(0)
    head = network.build(120, 130, n_location_outputs=0, dtype=torch.float32, generator=generator)
    first, _, second = head.module
    assert type(first) is not nn.Linear and type(second) is ScaledLinear
    rows = torch.randn(400, 120, generator=generator, requires_grad=True)
    slope = torch.randn(400, 150, generator=generator)
    plain = nn.functional.linear(rows, first.weight, first.bias)
    torch.testing.assert_close(first(rows), plain, rtol=1e-4, atol=1e-5)
    parameters = (rows, first.weight, first.bias)
    own = torch.autograd.grad((first(rows) * slope).sum(), parameters)
    for one, other in zip(own, torch.autograd.grad((plain * slope).sum(), parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(first(rows[None]), plain[None], rtol=1e-4, atol=1e-5)
    assert isinstance(pickle.loads(pickle.dumps(head)).module[0], nn.Linear)


class Stubborn(nn.Module):
    """Computes in float32 whatever it is given."""

    def __init__(self, n_inputs, n_outputs, how):
        super().__init__()
        self.how, self.layer = how, nn.Linear(n_inputs, n_outputs)
        self.matrix = torch.eye(n_inputs)

    def forward(self, inputs):
        if self.how == "constant":
            return self.layer(inputs @ self.matrix)
        return self.layer(inputs).float()


@pytest.mark.parametrize(
    ("how", "said"), [("constant", "register tensors as buffers"), ("cast", "Do not cast")]
)
def test_module_that_cannot_answer_in_float64_is_refused_before_training(how, said):
    network = TorchNetwork(factory=Stubborn, parameters={"how": how})
    with pytest.raises(ValueError, match=said):
        VariationalAutoencoder(2, encoder=network, decoder=network).fit(np.eye(30))
