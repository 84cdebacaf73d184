"""Power loss at any moment: images of a disk, made from a journal of storage/recording.py.

events = read_journal(directory / JOURNAL_NAME)
disk = Disk(events, root)                 # everything below root began empty
for cut in disk.cuts(500, seed=1):
    disk.write_image(cut, seed, target)   # now open what is in target
    disk.acknowledged(cut)                # it must hold what was promised by then
"""

from tests.storage.power.disk import Disk

__all__ = ["Disk"]
