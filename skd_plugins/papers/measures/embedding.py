"""t-SNE of the features before the classifier (CS-KD, Figure 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...common.errors import SkdError
from ...evaluation.metrics import Array, to_numpy


def tsne(features: Array, *, perplexity: float = 30.0, seed: int = 0) -> NDArray[np.float64]:
    """Points in the plane, close together where the features are.

    Source: Yun et al. 2020, section 3.3 and Figure 3 ("penultimate features"). Classes, number of points, perplexity
        and set are unsaid: perplexity is scikit-learn's and van der Maaten's usual 30, the start is the first two
        principal components, and the caller chooses the samples (a few classes of the test set can be told apart by
        colour, a hundred can't).

    Args:
        features: ``[N, D]`` of the chosen samples.
        perplexity: roughly how many neighbours count, below N.
        seed: the same seed gives the same points, on the same machine and library versions.

    Returns:
        ``[N, 2]``, without a unit.

    Raises:
        SkdError: too few samples, or features that are not finite.
    """
    from sklearn.manifold import TSNE

    rows = to_numpy(features)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise SkdError(f"t-SNE needs finite features [N, D], got {list(rows.shape)}; the model may have diverged")
    if not 0 < perplexity < len(rows):
        raise SkdError(f"t-SNE: perplexity {perplexity:g} must be below the {len(rows)} samples; give more samples")
    points: NDArray[np.float64] = TSNE(
        perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed
    ).fit_transform(rows.astype(np.float64))
    return points
