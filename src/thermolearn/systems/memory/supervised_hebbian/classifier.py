"""A classifier that compares a pattern with the mean examples of classes, or of their branches."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from thermolearn.core.checks import is_signs, real, whole
from thermolearn.systems.memory.supervised_hebbian.examples import median_thresholds

Clustering = Literal["ward", "average", "complete", "kmeans"]
Rule = Literal["sign", "dot", "bias"]
CLUSTERINGS: tuple[Clustering, ...] = ("ward", "average", "complete", "kmeans")
RULES: tuple[Rule, ...] = ("sign", "dot", "bias")


class HebbClassifier(ClassifierMixin, BaseEstimator):
    """Supervised Hebbian learning with a layer of sub-archetypes.

    The hidden unit of a group of examples has their mean w as its weights; the class of the unit
    with the largest activity for the +-1 pattern sigma wins. With ``replicas=1`` a class is one
    group, and one unit is a hidden unit of the Boltzmann machine equivalent to the network. With
    more, the examples of each class are first split along the tree of their distances.

        sign: sigma . sgn(w),   dot: sigma . w,   bias: sigma . w - |w|^2 / 2

    Parameters
    ----------
    replicas : int, default 1
        Groups per class, L; at most the number of examples of the smallest class.
    clustering : "ward", "average", "complete" or "kmeans", default "ward"
        How a class is split: cut its tree of that linkage, or k-means. Average linkage isolates
        outliers, which `min_examples` then undoes.
    rule : "bias", "dot" or "sign", default "bias"
        The activity. "bias" is the nearest mean in Euclidean distance. "sign" compares with the
        estimate of the +-1 archetype, "dot" favors tight groups.
    binarise : "median", float or None, default "median"
        X > threshold is +1, else -1: each feature's median over the training set (see
        `median_thresholds`), one number for all, or None for data that are +-1 already.
    min_examples : int, default 3
        A group with fewer examples is merged with the nearest group of its class: the mean of one
        or two examples is mostly noise.
    random_state : int, RandomState or None, default None
        For k-means; trees draw nothing.

    Attributes
    ----------
    classes_ : array (n_classes,)
        Labels, in sorted order.
    units_ : float64 array (n_units, n_features)
        w, the means of the groups.
    unit_classes_ : int array (n_units,)
        Index into `classes_`.
    unit_sizes_ : int array (n_units,)
        Examples per group.
    thresholds_ : float64 array (n_features,) or None
        Where the features were cut.
    n_features_in_ : int
    feature_names_in_ : array of str, where X had names.

    Notes
    -----
    There is no `predict_proba`: activities are not log-odds. On scikit-learn's 8 x 8 digits cut at
    7.5 (five splits, 30% held out) the bias rule is right for 0.875 of them with one unit per
    class and for 0.948 with twenty.

    References
    ----------
    Alemanno, Aquaro, Kanter, Barra, Agliari, arXiv:2203.01304, for the mean example and for
    splitting a class into sub-archetypes in one more hidden layer. How its groups are found there
    was not followed to the letter; Ward's tree, the rules and the winner-take-all are our reading.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> float(HebbClassifier(replicas=20).fit(X[:1200], y[:1200]).score(X[1200:], y[1200:])) > 0.88
    True
    """

    def __init__(
        self,
        replicas: int = 1,
        clustering: Clustering = "ward",
        rule: Rule = "bias",
        binarise: Literal["median"] | float | None = "median",
        min_examples: int = 3,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.replicas = replicas
        self.clustering = clustering
        self.rule = rule
        self.binarise = binarise
        self.min_examples = min_examples
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> HebbClassifier:
        """Group the examples of each class and take their means.

        Parameters
        ----------
        X : array (n, n_features)
            Finite numbers; +-1 with ``binarise=None``.
        y : array (n,)
            Labels of any kind.

        Raises
        ------
        ValueError
            A hyper-parameter out of range, more replicas than a class has examples (the message
            names the class), X and y that do not match, or data that are not +-1.
        """
        self._check_parameters()
        arrays: Any = (X, y)
        checked: Any = validate_data(self, *arrays, dtype=np.float64)
        values, labels = checked
        check_classification_targets(labels)
        self.classes_, index = np.unique(labels, return_inverse=True)
        self.thresholds_: np.ndarray | None = None
        if self.binarise == "median":
            self.thresholds_ = median_thresholds(values)
        elif self.binarise is not None:
            self.thresholds_ = np.full(values.shape[1], float(self.binarise))
        spins = self._spins(values)
        counts = np.bincount(index)
        if counts.min() < self.replicas:
            small = int(counts.argmin())
            raise ValueError(
                f"replicas={self.replicas} groups cannot be made of class "
                f"{self.classes_[small].item()!r} with n_samples = {counts[small]}"
            )
        units, sizes, owners = [], [], []
        for k in range(len(self.classes_)):
            means, group_sizes = self._groups(spins[index == k])
            units.append(means)
            sizes.append(group_sizes)
            owners.append(np.full(len(means), k))
        self.units_ = np.concatenate(units)
        self.unit_sizes_ = np.concatenate(sizes)
        self.unit_classes_ = np.concatenate(owners)
        return self

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Activity of the strongest unit of each class, (n, n_classes).

        For two classes (n,): that of the second less that of the first, > 0 for the second.
        """
        check_is_fitted(self, "units_")
        given: Any = X
        values: Any = validate_data(self, given, dtype=np.float64, reset=False)
        activity = self._activity(self._spins(values))
        best = np.stack(
            [activity[:, self.unit_classes_ == k].max(axis=1) for k in range(len(self.classes_))],
            axis=1,
        )
        return best[:, 1] - best[:, 0] if len(self.classes_) == 2 else best

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The class of the unit with the largest activity, (n,); ties go to the first class."""
        decision = self.decision_function(X)
        winner = (decision > 0).astype(int) if decision.ndim == 1 else decision.argmax(axis=1)
        return self.classes_[winner]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # The check asks for 0.83 on three blobs in two features. Cut at their medians these are
        # four cells, and no classifier of four cells can be right for more than 0.8133 of them.
        tags.classifier_tags.poor_score = True
        return tags

    # -- parts ---------------------------------------------------------------------------------
    def _check_parameters(self) -> None:
        for name in ("replicas", "min_examples"):
            whole(name, getattr(self, name), 1)
        for name, known in (("clustering", CLUSTERINGS), ("rule", RULES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.binarise is not None and self.binarise != "median":
            real('binarise, unless "median" or None,', self.binarise)

    def _spins(self, X: np.ndarray) -> np.ndarray:
        if self.thresholds_ is not None:
            return np.where(self.thresholds_ < X, 1.0, -1.0)
        if not is_signs(X):
            raise ValueError(
                'X must consist of -1 and +1 with binarise=None; binarise="median" or a threshold '
                "makes them"
            )
        return X

    def _activity(self, spins: np.ndarray) -> np.ndarray:
        if self.rule == "sign":
            return spins @ np.sign(self.units_).T
        activity = spins @ self.units_.T
        return activity - (self.units_**2).sum(axis=1) / 2 if self.rule == "bias" else activity

    def _groups(self, spins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and sizes of the groups of one class."""
        labels = self._split(spins)
        sizes = np.bincount(labels)
        means = np.stack([spins[labels == group].mean(axis=0) for group in range(len(sizes))])
        while len(sizes) > 1 and sizes.min() < self.min_examples:
            small = int(sizes.argmin())
            distance = ((means - means[small]) ** 2).sum(axis=1)
            distance[small] = np.inf
            near = int(distance.argmin())
            both = sizes[near] + sizes[small]
            means[near] = (sizes[near] * means[near] + sizes[small] * means[small]) / both
            sizes[near] = both
            means, sizes = np.delete(means, small, axis=0), np.delete(sizes, small)
        return means, sizes

    def _split(self, spins: np.ndarray) -> np.ndarray:
        """Group of each example of one class: 0, 1, ... without gaps."""
        if self.replicas == 1:
            return np.zeros(len(spins), dtype=int)
        if self.clustering == "kmeans":
            from sklearn.cluster import KMeans

            distinct = len(np.unique(spins, axis=0))
            tries: Any = 10
            machine = KMeans(
                min(self.replicas, distinct), n_init=tries, random_state=self.random_state
            )
            return np.unique(machine.fit_predict(spins), return_inverse=True)[1]
        from scipy.cluster.hierarchy import cut_tree, linkage

        return cut_tree(linkage(spins, self.clustering), n_clusters=self.replicas).ravel()
