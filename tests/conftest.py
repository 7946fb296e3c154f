"""What holds in every test: one thread, so that workers do not fight for cores."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Pages of the documentation first: begun last, one of them would keep a worker waiting."""
    items.sort(key=lambda item: item.path.name != "test_docs.py")
