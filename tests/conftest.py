"""Data sets and fitted models that several tests look at; nothing here is changed by a test."""

import os
import pathlib

os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"  # read when JAX is imported, here and in the tests' processes

import numpy as np
import pytest

import mlff
from descriptors import inverse_distances

DATASETS = pathlib.Path(__file__).parent.parent / "datasets"


@pytest.fixture(scope="session")
def datasets() -> pathlib.Path:
    return DATASETS


@pytest.fixture(scope="session")
def ethanol() -> mlff.Dataset:
    return mlff.Dataset.read(DATASETS / "ethanol.extxyz", index="::10")


@pytest.fixture(scope="session")
def water() -> mlff.Dataset:
    return mlff.Dataset.read(DATASETS / "water.extxyz", index="::5")


@pytest.fixture(scope="session")
def ethanol_model(ethanol) -> mlff.ForceField:
    train, _ = ethanol.split(60, 100, seed=1)
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=10.0), mlff.find_permutations(ethanol))
    return mlff.fit(kernel, train)


@pytest.fixture(scope="session")
def water_model(water) -> mlff.ForceField:
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0), mlff.find_permutations(water))
    return mlff.fit(kernel, water[:40])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
