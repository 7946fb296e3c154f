"""Linear starts that are right to first order only, and so are offered at several lengths."""

from __future__ import annotations

# Least share of a column's variance that its own noise keeps in the linear start: the loadings of a
# column explained to more than this would have to be larger than first order can say.
MIN_UNIQUENESS = 0.1
# Lengths at which loadings are tried. With the last the start is the marginals but for a hair: with
# none at all neither encoder nor decoder would have a gradient.
START_LENGTHS = (1.0, 0.8, 0.6, 0.4, 0.2, 0.05)
