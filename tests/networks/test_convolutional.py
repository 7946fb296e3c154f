"""Convolutional networks: images given as rows, and back to the very shape."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from skvae import VariationalAutoencoder
from skvae.likelihoods import BernoulliLikelihood, GaussianLikelihood
from skvae.networks import Convolutional
from skvae.networks._layers import OUTPUT_GAIN
from tests.helpers import build_model

SHAPES = [(28, 28), (28, 20), (7, 5), (7, 5, 3), (8, 6, 2), (1, 1), (1, 9), (2, 3), (4, 4, 1)]


def build(n_inputs, n_outputs, n_location_outputs=0, *, seed=0, **parameters):
    return Convolutional(**parameters).build(
        n_inputs,
        n_outputs,
        n_location_outputs=n_location_outputs,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(seed),
    )


def randomised(head, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in head.parameters():
            p.normal_(generator=generator)
    return head


def rows(n_rows, n_columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_rows, n_columns, generator=generator, dtype=torch.float64)


def channels_of(shape):
    return shape[2] if len(shape) == 3 else 1


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_encoder_is_strided_convolutions_then_dense_layers(shape, kernel_size):
    height, width, n_channels = *shape[:2], channels_of(shape)
    head = randomised(
        build(
            math.prod(shape),
            4,
            2,
            image_shape=shape,
            n_channels=(3, 2),
            kernel_size=kernel_size,
            hidden_layer_sizes=(5,),
            activation="tanh",
        )
    )
    state, x = head.state_dict(), rows(6, math.prod(shape))
    # As image libraries and scikit-learn give them: rows, columns, channels.
    images = torch.from_numpy(x.numpy().reshape(6, height, width, n_channels))
    hidden = images.permute(0, 3, 1, 2)
    for i, (a, b) in enumerate([(n_channels, 3), (3, 2)]):
        reference = nn.Conv2d(a, b, kernel_size, stride=2, padding=kernel_size // 2).double()
        reference.load_state_dict(
            {name: state[f"convolutions.{i}.{name}"] for name in ("weight", "bias")}
        )
        hidden = torch.tanh(reference(hidden))
    hidden = hidden.permute(0, 2, 3, 1).reshape(6, -1)
    hidden = torch.tanh(hidden @ state["hidden.0.weight"] + state["hidden.0.bias"])
    expected = hidden @ state["output.weight"] + state["output.bias"]
    expected[:, :2] += x @ state["linear_path.weight"]
    torch.testing.assert_close(head(x), expected)


@pytest.mark.parametrize("n_parameters", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_decoder_is_dense_layers_then_transposed_convolutions(shape, n_parameters):
    height, width, n_channels = *shape[:2], channels_of(shape)
    n_pixels = math.prod(shape)
    head = randomised(
        build(
            2,
            n_parameters * n_pixels,
            n_pixels,
            image_shape=shape,
            n_channels=(3, 2),
            hidden_layer_sizes=(5, 4),
            activation="tanh",
        )
    )
    state, z = head.state_dict(), rows(6, 2)
    assert [tuple(layer.weight.shape) for layer in head.hidden[:2]] == [(2, 4), (4, 5)]
    hidden = z
    for i in range(3):
        hidden = torch.tanh(hidden @ state[f"hidden.{i}.weight"] + state[f"hidden.{i}.bias"])
    middle, small = [(-(-height // d), -(-width // d)) for d in (2, 4)]
    hidden = hidden.reshape(6, *small, 2).permute(0, 3, 1, 2)
    first = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1).double()
    first.load_state_dict({n: state[f"convolutions.0.{n}"] for n in ("weight", "bias")})
    hidden = torch.tanh(first(hidden, output_size=middle))
    last = nn.ConvTranspose2d(3, n_parameters * n_channels, 3, stride=2, padding=1, bias=False)
    last.double().load_state_dict({"weight": state["output.weight"]})
    maps = last(hidden, output_size=(height, width))
    # Parameter by parameter; within one, the columns of X: rows, columns, channels.
    expected = torch.cat(
        [part.permute(0, 2, 3, 1).reshape(6, -1) for part in maps.split(n_channels, dim=1)], dim=1
    )
    expected = expected + state["output.bias"]
    expected[:, :n_pixels] += z @ state["linear_path.weight"]
    outputs = head(z)
    assert outputs.shape == (6, n_parameters * n_pixels)
    torch.testing.assert_close(outputs, expected)


@pytest.mark.parametrize("shape", [(28, 28), (7, 5, 3)], ids=str)
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_activity_neither_dies_nor_explodes_with_depth(shape, side):
    n_pixels = math.prod(shape)
    sizes = (n_pixels, 50) if side == "encoder" else (50, n_pixels)
    head = build(*sizes, image_shape=shape, n_channels=(16, 16, 16), hidden_layer_sizes=(100, 100))
    with torch.no_grad():
        outputs = head(rows(200, sizes[0]))
    assert 0.2 < float(outputs.std(0).mean()) / OUTPUT_GAIN**0.5 < 2.0


@pytest.mark.parametrize(
    "likelihood", [BernoulliLikelihood(), GaussianLikelihood(noise="predicted")]
)
def test_a_model_starts_at_the_marginals_of_every_pixel(likelihood):
    X = (np.random.default_rng(0).uniform(size=(50, 35)) < np.linspace(0.1, 0.9, 35)).astype(float)
    network = Convolutional(image_shape=(7, 5), n_channels=(4, 4), hidden_layer_sizes=())
    model = build_model(X, likelihood=likelihood, encoder=network, decoder=network)
    with torch.no_grad():
        for name, p in model.decoder.named_parameters():
            if name.endswith("weight"):
                p.zero_()
        outputs = model.decoder(rows(3, 2))
    expected = model.observation_head.initial_outputs().expand(3, -1)
    torch.testing.assert_close(outputs, expected)


def test_inputs_are_the_image_where_inputs_and_outputs_fit():
    head = build(6, 6, image_shape=(3, 2), n_channels=(2,))
    assert type(head).__name__ == "ImageEncoder"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"image_shape": (28,)}, r"image_shape must be \(height, width\) or .*got \(28,\)"),
        ({"image_shape": (4, 3, 1, 1)}, "image_shape must be"),
        ({"image_shape": (4, 0)}, "image_shape must hold positive integers"),
        ({"image_shape": 12}, "image_shape"),
        ({"image_shape": (4, 4)}, r"image_shape=\(4, 4\) needs rows of 16 columns.*got 12 inputs"),
        ({"n_channels": ()}, "n_channels must hold one number at least"),
        ({"n_channels": (2.5,)}, "n_channels must hold positive integers"),
        ({"kernel_size": 4}, "kernel_size must be odd; got 4"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes must hold positive integers"),
        ({"activation": "rely"}, "activation"),
    ],
)
def test_impossible_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        build(12, 5, **{"image_shape": (4, 3), **parameters})


def test_rows_of_another_width_are_refused_in_fit():
    vae = VariationalAutoencoder(encoder=Convolutional(image_shape=(8, 8)), max_iter=1)
    with pytest.raises(ValueError, match=r"image_shape=\(8, 8\) needs rows of 64 columns"):
        vae.fit(np.random.default_rng(0).normal(size=(40, 60)))


@pytest.mark.filterwarnings("ignore:The lower bound was still rising")
def test_neighbourhood_is_used():
    """Blobs anywhere: permuting the pixels, the same for all rows, makes the task harder."""
    rng = np.random.default_rng(0)
    at = rng.uniform(1.0, 7.0, size=(2, 800, 1))
    row, column = np.divmod(np.arange(64), 8)
    X = np.exp(-0.5 * ((row - at[0]) ** 2 + (column - at[1]) ** 2))
    X = X + 0.05 * rng.normal(size=X.shape)
    network = Convolutional(image_shape=(8, 8), n_channels=(8, 8), hidden_layer_sizes=(32,))
    scores = []
    for order in (np.arange(64), rng.permutation(64)):
        vae = VariationalAutoencoder(
            2, encoder=network, decoder=network, max_iter=40, init="random", random_state=0
        )
        scores.append(vae.fit(X[:600, order]).score(X[600:, order]))
    assert scores[0] > scores[1] + 1.0
