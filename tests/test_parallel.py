"""Training in two real processes that torchrun starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from regroup_lib import large
from regroup_lib.nn.training import ResidentFeatures, TrainingOptions, train

ROOT = Path(__file__).resolve().parents[1]

# Trains as its arguments say, in as many processes as there are, and writes what each found.
SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
import torch
from sklearn.metrics import average_precision_score
from regroup_lib.files import digest_arrays
from regroup_lib.models import build_network
from regroup_lib.parallel import process_group, rank, world_size
from regroup_lib.tasks import make_task
from regroup_lib.training import ResidentFeatures, ResidentImages, TrainingOptions, predict, train


class Plain(torch.nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.hidden, self.head = torch.nn.Linear(64, 32), torch.nn.Linear(32, 2)

    def embed(self, features):
        return self.hidden(features).relu()

    def forward(self, features):
        return self.head(self.embed(features))


torch.set_num_threads(1)
folder, kind, epochs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
task = make_task("digits-8", validation_fraction=0)
n = 1001 if kind == "images" else 1007  # the last batch of 50 has one row, or 4 rows and 3
images, labels = task.train.inputs[:n], task.train.labels[:n]
with process_group() as me:
    assert me == rank()
    found = {"seen": [], "world": world_size(), "ap": [], "calls": 0}
    for seed in range(3 if kind == "images" else 1):
        options = TrainingOptions(epochs=epochs, batch_size=50, peak_lr=0.1, flip=False, shift=1, precision="fp32")
        if kind == "images":
            network = build_network("tiny-resnet", in_channels=1, n_classes=2, seed=seed)
            source = ResidentImages(images)
            test = ResidentImages(task.test.inputs, statistics=source)
        else:
            network = Plain(me)  # another start on each process: the first one's is to be everybody's
            source, test = (ResidentFeatures(x.reshape(len(x), -1) / 16) for x in (images, task.test.inputs))

        def loss(logits, targets, index):
            found["seen"] += index.tolist()
            return torch.nn.functional.cross_entropy(logits, targets)

        def on_epoch(network, epoch):
            found["calls"] += 1
            if kind == "stopped" and epoch == 2:
                sys.exit("stopped")
            return {"looked": epoch}

        loss.takes_index = True
        checkpoint = folder / "epoch.pt" if kind in ("stopped", "resumed") else None
        history = train(network, source, labels, options=options, seed=seed, loss=loss, on_epoch=on_epoch,
                        checkpoint=checkpoint)
        logits, _ = predict(network, test)
        found["ap"].append(average_precision_score(task.test.labels, logits[:, 1] - logits[:, 0]))
    found["losses"] = [trace["train_loss"] for trace in history.traces]
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    found["digest"] = digest_arrays(*state.values())
    np.savez(folder / f"weights-{world_size()}-{me}.npz", **state)
    (folder / f"found-{world_size()}-{me}.json").write_text(json.dumps(found))
"""


def launched(folder, kind, processes, epochs=2):
    """Run the script in so many processes; return how that ended."""
    script = folder / "train.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(script), str(folder), kind, str(epochs)]
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=600)


def trained(folder, kind, processes, epochs=2):
    """Train in so many processes and return what each of them found."""
    done = launched(folder, kind, processes, epochs)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"found-{processes}-{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Return a folder and what two processes found there, which were let alone."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, trained(folder, "features", 2)


def test_two_processes_take_the_steps_of_one(tmp_path, straight):
    """Without batch norm and augmentation the weights are those of one process, to rounding."""
    (alone,) = trained(tmp_path, "features", 1)
    folder, (first, second) = straight
    assert first["world"] == second["world"] == 2
    assert first["digest"] == second["digest"]
    weights, expected = np.load(folder / "weights-2-0.npz"), np.load(tmp_path / "weights-1-0.npz")
    for name in expected:
        np.testing.assert_allclose(weights[name], expected[name], rtol=1e-3, atol=1e-5)
    assert first["losses"] == second["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    # Every row once an epoch, on one of the two.
    assert sorted(first["seen"] + second["seen"]) == sorted(alone["seen"]) == sorted([*range(1007)] * 2)
    assert abs(len(first["seen"]) - len(second["seen"])) <= 2
    assert (first["calls"], second["calls"]) == (2, 0)


def test_two_processes_reach_the_average_precision_of_one(tmp_path):
    """With batch norm and augmentation, three seeds: the same weights on both, AP within the spread over seeds."""
    (alone,) = trained(tmp_path, "images", 1, epochs=4)
    first, second = trained(tmp_path, "images", 2, epochs=4)
    assert first["digest"] == second["digest"]  # running statistics of batch norm included
    assert first["ap"] == second["ap"]
    spread = max(np.std(alone["ap"], ddof=1), np.std(first["ap"], ddof=1))
    assert np.mean(alone["ap"]) > 0.7
    assert abs(np.mean(first["ap"]) - np.mean(alone["ap"])) < 2 * spread


def test_an_interrupted_run_of_two_goes_on(tmp_path, straight):
    """Rank 0 ends in the second epoch; the next start has that epoch alone to do, and ends in the same weights."""
    assert launched(tmp_path, "stopped", 2).returncode != 0
    assert (tmp_path / "epoch.pt").exists()
    found = trained(tmp_path, "resumed", 2)
    assert [f["digest"] for f in found] == [f["digest"] for f in straight[1]]
    assert sorted(found[0]["seen"] + found[1]["seen"]) == [*range(1007)]


def test_one_process_is_left_alone():
    with large.process_group() as rank:
        assert (rank, large.world_size(), large.is_parallel()) == (0, 1, False)
        index = torch.arange(7)
        mine, weight = large.share(index)
        assert torch.equal(mine, index)
        assert weight == 1
        network = torch.nn.Linear(2, 2)
        assert large.averaging(network) is network


def test_a_deadline_is_refused_in_a_group(tmp_path):
    """One process could stop while the others wait for it."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="a deadline is for a run in one process"):
            train(
                torch.nn.Linear(2, 2),
                ResidentFeatures(np.eye(2)),
                [0, 1],
                options=TrainingOptions(),
                seed=0,
                deadline=1.0,
            )
    finally:
        torch.distributed.destroy_process_group()
