"""A fitted estimator answers block by block as it answers for all rows."""

import warnings

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest

from skvae import VariationalAutoencoder
from tests.estimators.small import STILL_RISING, factor_rows, small_vae

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what Dask-ML imports
    import dask.dataframe as dd
    from dask_ml.wrappers import Incremental, ParallelPostFit

pytestmark = pytest.mark.filterwarnings(STILL_RISING)

BLOCKS = (20, 20, 20, 30)


@pytest.fixture(autouse=True)
def _one_process():
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


@pytest.fixture(scope="module")
def fitted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return small_vae().fit(factor_rows())


@pytest.fixture
def blocks():
    return da.from_array(factor_rows(), chunks=(BLOCKS, 4))


def test_blocks_of_an_array_are_answered_as_the_whole(fitted, blocks):
    X = factor_rows()
    Z = blocks.map_blocks(fitted.transform, dtype=X.dtype, chunks=(BLOCKS, (2,)))
    assert Z.shape == (90, 2)
    np.testing.assert_allclose(Z.compute(), fitted.transform(X), rtol=1e-12)
    back = Z.map_blocks(fitted.inverse_transform, dtype=X.dtype, chunks=(BLOCKS, (4,)))
    np.testing.assert_allclose(
        back.compute(), fitted.inverse_transform(fitted.transform(X)), rtol=1e-12
    )
    scores = blocks.map_blocks(fitted.score_samples, dtype=X.dtype, drop_axis=1)
    np.testing.assert_allclose(scores.compute(), fitted.score_samples(X), rtol=1e-12)


def test_partitions_of_a_table_are_answered_as_the_whole():
    frame = pd.DataFrame(factor_rows(), columns=list("abcd"))
    vae = small_vae().fit(frame).set_output(transform="pandas")
    table = dd.from_pandas(frame, npartitions=3)
    Z = table.map_partitions(vae.transform, meta=vae.transform(frame.head(1)).iloc[:0])
    pd.testing.assert_frame_equal(Z.compute(), vae.transform(frame))


def test_wrapper_of_dask_ml_answers_as_the_estimator(fitted, blocks):
    X = factor_rows()
    wrapped = ParallelPostFit(fitted)
    np.testing.assert_allclose(wrapped.transform(blocks).compute(), fitted.transform(X), rtol=1e-12)
    assert wrapped.score(X, None) == pytest.approx(fitted.score(X))


def test_incremental_wrapper_is_partial_fit_block_by_block(blocks):
    X = factor_rows()
    wrapped = Incremental(small_vae(), shuffle_blocks=False).fit(blocks)
    vae, start = small_vae(), 0
    for n_rows in BLOCKS:
        vae.partial_fit(X[start : start + n_rows])
        start += n_rows
    np.testing.assert_array_equal(wrapped.estimator_.transform(X), vae.transform(X))
    assert isinstance(wrapped.estimator_, VariationalAutoencoder)
    assert wrapped.estimator_.n_iter_ == len(BLOCKS)
