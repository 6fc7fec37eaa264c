from __future__ import annotations

import json

import h5py
import numpy as np

from d2s.scene.label_store import LabelReader, Labels
from processing.pseudo.store import LabelledPhoto, PartStore


def photo(name, seed, labelled=True):
    rng = np.random.default_rng(seed)
    voters = rng.random((5, 3)) < 0.5
    votes = voters.sum(axis=1).astype(np.int32)
    xyz = rng.random((5, 3)).astype(np.float32)
    labels = Labels(xyz, votes > 0, votes, xyz[:, 0], rng.random(5).astype(np.float32), votes)
    record = {"labels": int((votes > 0).sum()) if labelled else 0, "neighbours": [{"name": f"n{i}", "votes": 1} for i in range(3)]}
    return LabelledPhoto(name, record, labels if labelled else None, voters)


PHOTOS = [photo("a/1.jpg", 1), photo("a/2.jpg", 2, labelled=False), photo("b.jpg", 3), photo("c.jpg", 4)]
NAMES = [one.name for one in PHOTOS]


def test_what_was_stored_is_published_in_the_order_of_the_names(tmp_path):
    store = PartStore(tmp_path)
    store.write(PHOTOS[2:])
    store.write(PHOTOS[:2])
    store.finish(NAMES, "labels.h5")
    with LabelReader(tmp_path / "labels.h5") as reader:
        assert sorted(reader.names()) == ["a/1.jpg", "b.jpg", "c.jpg"]
        for one in (PHOTOS[0], PHOTOS[2], PHOTOS[3]):
            found = reader.read(one.name)
            assert (found.xyz == one.labels.xyz).all()
            assert (found.votes == one.labels.votes).all()
            assert (found.weight == one.labels.weight).all()
    with h5py.File(tmp_path / "provenance.h5") as file:
        assert (file["a/1.jpg"]["voters"][()] == PHOTOS[0].voters).all()
        assert json.loads(file["c.jpg"].attrs["neighbours"]) == ["n0", "n1", "n2"]
        assert "a/2.jpg" not in file
    assert list(json.loads((tmp_path / "records.json").read_text())) == NAMES
    store.remove()
    assert not (tmp_path / "labels.parts").exists()


def test_another_run_goes_on_and_ends_with_equal_files(tmp_path):
    whole = PartStore(tmp_path / "whole")
    for one in PHOTOS:
        whole.write([one])
    whole.finish(NAMES, "labels.h5")
    PartStore(tmp_path / "two").write(PHOTOS[:3])
    again = PartStore(tmp_path / "two")
    assert set(again.records) == set(NAMES[:3])
    again.write(PHOTOS[3:])
    again.finish(NAMES, "labels.h5")
    for name in ("labels.h5", "provenance.h5", "records.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
