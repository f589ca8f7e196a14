"""Sampled networks in a file: npz with numbers and one line of JSON, nothing that is executed."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from thermolearn.core.errors import DataError, NotApplicableError
from thermolearn.systems.training.feature_learning.collapsed import posterior
from thermolearn.systems.training.feature_learning.networks import BayesianCNN, BayesianFCN
from thermolearn.systems.training.feature_learning.posterior_samples import PosteriorSamples

NETWORKS = {"BayesianFCN": BayesianFCN, "BayesianCNN": BayesianCNN}
FACTS = ("acceptance", "step", "method", "interrupted")


def save_samples(samples: PosteriorSamples, path: str | Path) -> None:
    """Write network, training data and draws to an npz file.

    Raises
    ------
    NotApplicableError
        The activation is a callable: only names can be written (pickle such samples).
    """
    net, density = samples.net, samples.density
    if not isinstance(net.activation, str):
        raise NotApplicableError(
            f"activation {net.activation!r} is a callable: only names can be written; use pickle"
        )
    header = {
        "kind": type(net).__name__,
        "net": asdict(net),
        "noise": density.noise,
        "collapsed": density.collapsed,
    } | {name: getattr(samples, name) for name in FACTS}
    with open(path, "wb") as file:
        np.savez_compressed(
            file, allow_pickle=False, header=np.array(json.dumps(header)), X=samples.inputs,
            y=density.y.numpy(), x=samples.x.numpy(), energies=samples.energies,
        )  # fmt: skip


def load_samples(path: str | Path) -> PosteriorSamples:
    """Samples written by `save_samples`, to the same bits; nothing in the file is executed.

    Raises
    ------
    DataError
        The file holds no such samples.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays["header"]))
        net = NETWORKS[header["kind"]](**header["net"])
        density = posterior(net, arrays["X"], arrays["y"], header["noise"], header["collapsed"])
        x, energies = torch.from_numpy(arrays["x"]), arrays["energies"]
        if x.ndim != 3 or x.shape[2] != density.n_weights or energies.shape != x.shape[:2]:
            raise ValueError(f"draws have shape {tuple(x.shape)}, energies {energies.shape}")
        facts = {name: header[name] for name in FACTS}
        return PosteriorSamples(net=net, density=density, x=x, energies=energies, **facts)
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} holds no saved posterior samples ({error})") from error
