"""Labelled frames batched by composition."""

import numpy as np

import mlff
from mlff.data.batches import LabelledFrames


def test_frames_of_equal_atoms_share_a_batch_and_keep_their_index(water, ethanol):
    data = mlff.Dataset([water[0], ethanol[0], water[1], ethanol[1], water[2]])
    frames = LabelledFrames.of(data)
    assert [list(batch.index) for batch in frames.batches] == [[0, 2, 4], [1, 3]]
    assert len(frames) == 5
    assert frames.names == ("energy", "forces")
    np.testing.assert_array_equal(frames.batches[0].positions[1], water[1].positions)
    np.testing.assert_array_equal(frames.batches[1].labels["forces"][1], ethanol[1].labels["forces"])
    assert frames.values("forces").shape == (3 * 9 + 2 * 27,)


def test_taking_counts_in_the_whole_set(water, ethanol):
    data = mlff.Dataset([water[0], ethanol[0], water[1], ethanol[1], water[2]])
    taken = LabelledFrames.of(data).take([4, 1])
    assert [list(batch.index) for batch in taken.batches] == [[4], [1]]
    again = taken.take(taken.index[:1])
    assert again.index.tolist() == [4]
    np.testing.assert_array_equal(again.batches[0].positions[0], water[2].positions)


def test_frames_with_other_labels_are_batches_of_their_own(water, ethanol):
    bare = mlff.Frame(water[1].system, {"forces": water[1].labels["forces"]})
    frames = LabelledFrames.of(mlff.Dataset([water[0], bare, ethanol[0], water[2]]))
    assert frames.names == ("energy", "forces")
    # frames with the same labels stay together, whatever their atoms
    assert [list(batch.index) for batch in frames.batches] == [[0, 3], [2], [1]]
    assert frames.having("energy").index.tolist() == [0, 3, 2]
    assert frames.values("energy").tolist() == [f.labels["energy"] for f in (water[0], water[2], ethanol[0])]
    assert frames.numbers is None
    np.testing.assert_array_equal(frames.take([0, 1]).numbers, [8, 1, 1])
