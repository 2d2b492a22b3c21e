"""Checksums of files: equal for equal bytes, another for every change, over the edges of blocks and buffers."""

import zlib

import pytest

from spo_rlhf.host import checksums
from spo_rlhf.host.checksums import contents


def test_it_is_the_checksum_of_the_checksums_of_the_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "BLOCK", 10)
    monkeypatch.setattr(checksums, "BUFFER", 3)
    paths = []
    for size in (0, 1, 9, 10, 11, 25, 30):
        paths.append(tmp_path / str(size))
        paths[-1].write_bytes(bytes(range(size)))
    expected = []
    for path in paths:
        data = path.read_bytes()
        blocks = [zlib.crc32(data[start : start + 10]) for start in range(0, len(data), 10)]
        expected.append((len(data), f"{zlib.crc32(b''.join(one.to_bytes(4, 'big') for one in blocks)):08x}"))
    assert contents(paths) == expected and contents([]) == []


@pytest.mark.parametrize("place", [0, 9, 10, 24])
def test_one_changed_bit_and_two_exchanged_blocks_are_seen(tmp_path, monkeypatch, place):
    monkeypatch.setattr(checksums, "BLOCK", 10)
    path, data = tmp_path / "weights", bytearray(range(25))
    path.write_bytes(data)
    [was] = contents([path])
    data[place] ^= 1
    path.write_bytes(data)
    [now] = contents([path])
    assert now.size == was.size and now.checksum != was.checksum
    data[place] ^= 1
    path.write_bytes(data[10:20] + data[:10] + data[20:])
    assert contents([path])[0].checksum != was.checksum


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(OSError, match="missing"):
        contents([tmp_path / "missing"])
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        contents([tmp_path])


def test_the_form_of_what_is_stored_does_not_change(tmp_path):
    """A checkpoint of this version is read by later ones."""
    assert checksums.BLOCK == 64 << 20
    (tmp_path / "one").write_bytes(b"spo")
    assert contents([tmp_path / "one"]) == [(3, f"{zlib.crc32(zlib.crc32(b'spo').to_bytes(4, 'big')):08x}")]
