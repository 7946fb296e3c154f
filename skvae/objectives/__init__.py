"""Objectives: lower bounds on the log-likelihood of each row."""

from skvae.objectives._base import Objective
from skvae.objectives._iwae import IWAE
from skvae.objectives._sgvb import SGVB
