import numpy as np
import pyarrow as pa
import torch

from models.feed.events.scoring import in_order, moved_tables


def test_rows_rise_and_keep_their_logits() -> None:
    rows = [np.array([4, 2]), np.array([0]), np.array([9, 3])]
    logits = [np.stack([part, -part], 1).astype(np.float32) for part in rows]
    row, logit = in_order(rows, logits, 2)
    assert row.tolist() == [0, 2, 3, 4, 9]
    assert logit[:, 0].tolist() == row.tolist() and logit[:, 1].tolist() == (-row).tolist()
    none, nothing = in_order([], [], 3)
    assert len(none) == 0 and nothing.shape == (0, 3)


class Two(torch.nn.Module):
    def __init__(self, rows: int, *, users: bool) -> None:
        super().__init__()
        self.items = torch.nn.Embedding(rows, 2)
        self.users = torch.nn.Embedding(3, 2) if users else None
        self.head = torch.nn.Linear(2, 1)


def test_tables_move_by_identifiers_and_the_unknown_is_zero() -> None:
    old, fresh = Two(3, users=False), Two(4, users=True)
    tables = {
        "items.weight": (pa.array([7, 8, 9]), pa.array([9, 5, 7, 6])),
        "users.weight": (pa.array(["a"]), pa.array(["a", "b", "c"])),
    }
    moved = moved_tables(old, fresh, tables)
    assert moved is fresh and not moved.training
    assert torch.equal(moved.items.weight[0], old.items.weight[2])
    assert torch.equal(moved.items.weight[2], old.items.weight[0])
    assert not moved.items.weight[[1, 3]].any(), "nobody is known of whom nothing is known"
    assert moved.users is not None and not moved.users.weight.any(), "the old network had no such table"
    assert torch.equal(moved.head.weight, old.head.weight)
