"""One thread of torch, for whoever needs it and no longer."""

import threading

import torch

from models.common.threads import one_thread


def test_threads_that_overlap_leave_the_number_that_was_there() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    seen: list[int] = []
    entered, left = threading.Event(), threading.Event()

    def second() -> None:
        with one_thread():
            entered.set()
            left.wait()
            seen.append(torch.get_num_threads())

    try:
        other = threading.Thread(target=second)
        with one_thread():
            other.start()
            entered.wait()
        assert torch.get_num_threads() == 3
        left.set()
        other.join()
        assert seen == [1], "who is still within computes on one"
        assert torch.get_num_threads() == 3
        fresh: list[int] = []
        later = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert fresh == [3], "a thread that begins afterwards has the number of the process"
    finally:
        torch.set_num_threads(before)


def test_within_itself_it_changes_nothing() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            with one_thread():
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
