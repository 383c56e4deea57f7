"""Real processes: two with two devices each train as one with four, and as one device; and take over its checkpoint."""

import numpy as np
import pytest

from tests.training.processes import run_processes

TRAIN = """
import numpy as np
from advjax.attacks import pgd
from advjax.training import Placement, Trainer, ensemble, placement, train_step, Stream
from tests.training.nets import OPTIMIZER, Small, toy_set
step = train_step(OPTIMIZER, attack=pgd(0.05, step_size=0.02, steps=2, random_start=True))
toy = toy_set()
if arguments["stream"]:
    data = Stream([{"image": x, "label": int(y)} for x, y in zip(toy.images, toy.labels)], 8, seed=3)
else:
    data = toy
where = placement(parameters=arguments["parameters"], smallest=16)
trainer = Trainer(step, 8, 5, where)
fitted = trainer.fit(
    ensemble(Small, OPTIMIZER, 2), data, arguments["steps"], jax.random.key(0),
    folder=arguments["folder"], every=10, validation=(toy.images, toy.labels),
)
report({
    "devices": jax.device_count(),
    "loss": fitted.loss.tolist(),
    "validation": fitted.history.rows[-1]["validation_accuracy"],
    "params": [float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(Placement.to_host(fitted.states.params))],
    "logits": [np.asarray(model(toy.images[:2] / np.float32(255))).tolist() for model in fitted.models],
})
"""


def close(one, other):
    """Sums over devices in another order: relative 1e-5 after 20 attacked steps."""
    for name in ("loss", "params", "validation", "logits"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6 * (name == "logits"), err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("parameters", "stream"), [("replicated", False), ("sharded", True)])
def test_processes_and_devices_give_one_loss_curve_and_share_checkpoints(tmp_path, parameters, stream):
    def train(folder, steps, processes, devices):
        arguments = {"folder": str(tmp_path / folder), "steps": steps, "parameters": parameters, "stream": stream}
        results = run_processes(TRAIN, processes=processes, devices=devices, arguments=arguments, timeout=280)
        assert all(result == results[0] for result in results)
        return results[0]

    two = train("two", 20, 2, 2)
    four = train("four", 20, 1, 4)
    one = train("one", 20, 1, 1)
    assert (two["devices"], four["devices"], one["devices"]) == (4, 4, 1)
    close(two, four)
    close(two, one)
    # Half of it on one device, the rest on two processes; and the other way round.
    train("there", 10, 1, 1)
    close(train("there", 20, 2, 2), one)
    train("back", 10, 2, 2)
    close(train("back", 20, 1, 1), one)
    # What another process finished is there for all.
    close(train("two", 20, 1, 1), one)


def test_two_processes_train_as_one_device(tmp_path):
    arguments = {"steps": 10, "parameters": "sharded", "stream": True}
    two = run_processes(TRAIN, arguments={**arguments, "folder": str(tmp_path / "two")}, timeout=200)
    (one,) = run_processes(TRAIN, processes=1, devices=1, arguments={**arguments, "folder": str(tmp_path / "one")})
    assert two[0] == two[1]
    close(two[0], one)
