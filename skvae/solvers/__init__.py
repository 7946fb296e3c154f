"""Solvers: how parameters follow the gradient."""

from skvae.solvers._adagrad import Adagrad
from skvae.solvers._adam import Adam, AdamW
from skvae.solvers._base import Solver
from skvae.solvers._sgd import SGD
