"""Who may do what in a data folder: commands wait for each other and say for whom."""

import contextlib
import threading

from studio.services.ownership import device_lock, hold_training


def test_a_training_waits_for_the_device_but_does_not_keep_it(tmp_path):
    said = []
    lock = device_lock(tmp_path)
    assert lock.acquire("generate")
    later = threading.Timer(0.3, lock.release)
    later.start()
    with hold_training(tmp_path, "train unet", said.append):
        assert not lock.held  # it began only when the drawing was over
        assert device_lock(tmp_path).holder() is None
    later.join()
    assert len(said) == 1
    assert "'generate'" in said[0]


def test_a_second_training_in_a_folder_waits_for_the_first(tmp_path):
    said = []
    first = contextlib.ExitStack()
    first.enter_context(hold_training(tmp_path, "train unet", said.append))
    later = threading.Timer(0.3, first.close)
    later.start()
    with hold_training(tmp_path, "train clip", said.append):
        pass
    later.join()
    assert len(said) == 1
    assert "'train unet'" in said[0]
