"""evaluate: every model against every attack, white-box or transferred."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from advjax.attacks.attack import Attack, Stack, check_count
from advjax.attacks.faults import Fault
from advjax.classifier import Classifier
from advjax.evaluate.batches import Batches, Data, make_batches
from advjax.evaluate.cell import Cell, clean_cell, merge_runs
from advjax.evaluate.checks import check_attacks, check_key, check_models, check_pass
from advjax.evaluate.findings import model_bits, naming, warn_of_models
from advjax.evaluate.measure import Judge, judge_of
from advjax.evaluate.report import Report
from advjax.evaluate.store import open_chunks
from advjax.evaluate.stream import Stream, is_random, progress_bar
from advjax.files import write_text
from advjax.fingerprint import fingerprint

__all__ = ["evaluate"]


def evaluate(
    models: Mapping[str, Classifier],
    attacks: Mapping[str, Attack | Stack],
    data: Data,
    *,
    key: jax.Array,
    batch_size: int = 256,
    restarts: int = 1,
    draws: int = 10,
    transfer: bool = False,
    pass_scores: bool = False,
    folder: str | os.PathLike[str] | None = None,
    progress: str | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Report:
    """Attacks every model with every attack and measures what is left.

    For each pair: accuracy with its 95 % Wilson interval, mean cross-entropy, success rate, mean l0, l1, l2 and linf
    (and PASS) over the successes, and why the others failed; see `Cell`. Every number is kept image by image, so that
    cells can be compared in pairs (`a.correct & ~b.correct`) and the worst of several attacks be taken.

    The data stream through in batches of one shape, the last one padded: each attack compiles one program for each
    kind of model, whatever the weights and the number of images. With several devices each batch is spread over
    them. An image's draws depend on `key`, its index and the restart alone, so that results do not depend on
    `batch_size` or the number of devices (but for float rounding, since other shapes are other programs).

    A model that draws random numbers (from keys among its variables, as an `nnx.Rngs` is) is one fixed draw to an
    attack. It is judged at `draws` fresh ones for each image, the clean one too; see `Cell`. `evaluate` warns of such
    a model, and of one that seems to be in training mode or to return probabilities, once each.

    One attack at many epsilons costs here what as many attacks do; `sweep` with `monotone` attacks at each epsilon only
    the images that no smaller one fooled.

    Args:
      models: classifiers by name, for the same images and classes.
      attacks: attacks by name; numbers and masks in them may be given for each of the N images. The runs of a `stack`
        count as restarts do: the worst of them for each image.
      data: (images, labels) or an `advjax.data.Dataset`; images uint8, or float32 in [0, 1], [N, H, W, C], labels
        int [N]. Arrays may be memory maps.
      key: `jax.random.key(seed)`; restart r of image i draws from `fold_in(fold_in(key, r), i)`.
      batch_size: images at a time.
      restarts: runs of each attack that draws random numbers.
      draws: fresh draws at which each answer of a random model is judged; others answer once.
      transfer: every attack is made on each model and answered by all of them.
      pass_scores: measure PASS too.
      folder: keeps each finished batch, so that a run that was killed goes on where it was; `report.json` is written
        there at the end. A model's function is known there by its name and weights, not by its code; an optax
        transformation in an attack by its name, not by its settings.
      progress: the title of a progress bar; None: none.
      devices: where to run; default: all devices of this process.

    Raises:
      TypeError, ValueError: an argument is not as above, or the folder holds another evaluation; the message names it.
        Errors that come up while an attack runs name the attack.

    Example:
      >>> import jax, numpy as np
      >>> from advjax import fgs, from_function
      >>> from advjax.evaluate import evaluate
      >>> def model(weights, images):
      ...     return images.reshape(images.shape[0], -1) @ weights
      >>> classifier = from_function(model, np.float32([[1, -1]] * 4) / 4)
      >>> data = np.full((5, 2, 2, 1), 51, np.uint8), np.zeros(5, np.int32)
      >>> attacks = {"weak": fgs(0.1), "strong": fgs(0.3, levels=None)}
      >>> report = evaluate({"linear": classifier}, attacks, data, key=jax.random.key(0))
      >>> [round(cell.accuracy.value, 2) for cell in report.cells]
      [1.0, 1.0, 1.0]
    """
    batches = make_batches(data, batch_size, devices)
    check_key(key)
    check_count("restarts", restarts)
    check_count("draws", draws)
    if pass_scores:
        check_pass(batches.images)
    check_models(models, batches)
    settings = {"restarts": restarts, "draws": draws, "transfer": transfer, "pass_scores": pass_scores}
    check_attacks(attacks, models, batches, key)
    chunks = open_chunks(folder, {} if folder is None else _configuration(models, attacks, batches, key, settings))
    models = {name: jax.device_put(classifier, batches.everywhere) for name, classifier in models.items()}
    judges = {name: judge_of(classifier, batches.images.shape[1:], draws) for name, classifier in models.items()}
    runs = sum(restarts if is_random(attack) else 1 for attack in attacks.values())
    with progress_bar(progress, len(batches.labels) * len(models) * (1 + runs)) as advance:
        stream = Stream(batches, key, chunks, pass_scores, advance)
        report = Report(tuple(_cells(stream, judges, attacks, restarts, transfer)))
    if folder is not None:
        write_text(pathlib.Path(folder) / "report.json", report.to_json())
    return report


def _cells(
    stream: Stream, judges: Mapping[str, Judge], attacks: Mapping[str, Attack | Stack], restarts: int, transfer: bool
) -> list[Cell]:
    """The cells: models in order, for each the clean one first, then attack by attack and source by source."""
    clean = {name: stream.clean(f"m{i}-clean", judge) for i, (name, judge) in enumerate(judges.items())}
    found: dict[tuple[str, str, str], Cell] = {}
    for i, (source, judge) in enumerate(judges.items()):
        targets = judges if transfer else {source: judge}
        known = Fault.NONE
        for j, (name, attack) in enumerate(attacks.items()):
            with naming(f"attacks[{name!r}] on models[{source!r}]"):
                runs = stream.attack(f"m{i}-a{j}", attack, judge.classifier, list(targets.values()), restarts)
            # At once: the rest may take hours.
            faults = model_bits(runs[0]["faults"])
            answers = f"answers are those of most of {judge.draws} fresh draws"
            warn_of_models({f"models[{source!r}]": faults & ~known}, answers, stacklevel=3)
            known |= faults
            for target, arrays in zip(targets, runs, strict=True):
                is_random = judges[target].draws > 0
                cell = merge_runs(target, name, source, arrays, clean[target]["correct"], is_random, attack.asks)
                found[target, name, source] = cell
    cells = []
    for target, judge in judges.items():
        cells.append(clean_cell(target, clean[target], judge.draws > 0))
        cells += [found[target, name, source] for name in attacks for source in (judges if transfer else [target])]
    return cells


def _configuration(
    models: Mapping[str, Classifier],
    attacks: Mapping[str, Attack | Stack],
    batches: Batches,
    key: jax.Array,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Whatever a stored batch depends on."""
    return {
        # Which arrays a batch has.
        "format": 3,
        # Lists, since chunks are named by place: mappings of another order would be equal.
        "models": [[name, fingerprint(classifier)] for name, classifier in models.items()],
        "attacks": [[name, fingerprint(attack)] for name, attack in attacks.items()],
        "data": fingerprint(batches.images, batches.labels),
        "key": [str(jax.random.key_impl(key)), *map(int, np.ravel(jax.random.key_data(key)))],
        "batch_size": batches.size,
        **settings,
    }
