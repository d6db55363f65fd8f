"""t-SNE of the features before the classifier (CS-KD, Figure 3)."""

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from ...evaluation.metrics import Array, to_numpy


def tsne(features: Array, *, perplexity: float = 30.0, seed: int = 0) -> NDArray[np.float64]:
    """Points ``[N, 2]`` in the plane, close together where the features ``[N, D]`` are; repeatable on one machine.

    Source: Yun et al. 2020, section 3.3 and Figure 3 ("penultimate features"). The paper does not state the classes,
        number of points, perplexity or set: perplexity is scikit-learn's and van der Maaten's usual 30, the start is
        the first two principal components, and the caller chooses the samples (colours tell a few classes apart, not a
        hundred).

    Args:
        perplexity: roughly how many neighbours count, below N.
    """
    # scikit-learn's own errors cover features that are not finite, or fewer than the perplexity.
    method = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    points: NDArray[np.float64] = method.fit_transform(to_numpy(features).astype(np.float64))
    return points
