"""LeNets attacked in fourteen ways, every image scored by PASS, and fine-tuned on the images: are they better?

    python -m experiments hard_positives --preset quick   # scikit-learn's digits: minutes on two cores
    python -m experiments hard_positives --preset cpu     # MNIST, one base network: about an hour on two cores
    python -m experiments hard_positives --preset cpu3    # MNIST, three base networks: two to four hours of two cores
    python -m experiments hard_positives --preset figures # Figs. 2, 4, 5 alone: minutes, with --set base=WEIGHTS
    python -m experiments hard_positives --preset paper   # MNIST, the whole experiment: one GPU

Expected of `paper`: clean error from 0.937 % (base) to 0.673 % (HC-D-9-1.05), adversarial error from 64.21 to 14.85 %.
Measured by `cpu`: 0.920 to 0.730 %, and 100 (by construction, of one base) to 0.55 % (README.md).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from advjax.attacks.searches import Boundary
from advjax.plots import error_figure, histogram_figure, metric_figure, perturbation_figure
from experiments.hard_positives import run
from experiments.hard_positives.claims import FARTHER_TYPES, Errors, by_base, claims, verdicts
from experiments.hard_positives.config import BASIC, FIGURE4, HELD_OUT_TYPES, INFIMNIST, PRESETS, ROWS, Config
from experiments.page import Page, data_name, markdown, mean_std, stand_in
from experiments.study import Read, Row, Study

__all__ = ["STUDY"]

NAME = "hard_positives"
SCHEDULE = {
    "data": "MNIST",
    "base networks": "3, 10,000 steps of 64",
    "fine-tuned networks a row": "9 (3 bases x 3 orders), 20,000 steps",
    "images whose perturbations are trained on": "not stated; 37,663 FGV images, about 340,000 HC-D-9 images",
    "clean images in the fine-tuning set": "not stated",
    "held-out adversarial set": "14 types x 5,000, from all three bases",
    "search for the boundary": "not stated",
    "InfiMNIST": "1,000,000 images, 3 networks, 30,000 steps",
    "Fig. 6": "schedule not stated",
}
_BEST = "HC-D-9-1.05"
_EXAMPLE_TYPES, _EXAMPLE_DIGIT = ("FGS", "FGV", "HC-1", "HC-2"), 9


def results_of(config: Config, read: Read) -> dict[str, Errors]:
    """The errors of Table 1's rows in its order, of those of the other choice of mixing, and of Fig. 6's bands."""
    names = [
        *ROWS,
        *(run.unmixed_name(config, row) for row in config.unmixed_rows),
        *map(run.band_name, config.pass_bands),
    ]
    there = run.row_names(config, read)
    return {name: Errors.of(read(f"row/{name}")) for name in names if name in there}


def left_out(config: Config, read: Read) -> dict[str, int]:
    """The bands of Fig. 6 that are, and how many images the base with the fewest has there."""
    scores = run.band_scores(config.bases, read) if config.bands else []
    fewest = {band: min(map(len, rows)) for band, rows in run.inside(scores, config.pass_bands).items()}
    return {run.band_name(band): number for band, number in fewest.items() if number < config.band_minimum}


def rows(config: Config, data: run.Data, read: Read) -> list[Row]:
    """Every number of the run."""
    return [*_of_attacks(config, read), *_of_networks(config, read)]


def _of_attacks(config: Config, read: Read) -> Iterator[Row]:
    for split, base, kind in config.attacked:
        stored = read(f"attack/{split}/{base}/{kind}", "attempted", "succeeded", "l2", "linf", "scale")
        scores, tried, fooled = read(f"score/{split}/{base}/{kind}"), int(stored["attempted"]), stored["succeeded"]
        numbers: dict[str, tuple[int, Any]] = {"attempted": (0, tried), "succeeded": (0, fooled)}
        numbers |= {"success": (tried, fooled / max(tried, 1)), "stored": (0, len(stored["l2"]))}
        means = {"l2_per_pixel": stored["l2"], "linf": stored["linf"]}
        for name, values in {**means, "pass_valid": scores["valid"], "pass_same": scores["same"]}.items():
            if len(values):
                numbers[name] = len(values), values.mean()
            if len(values) > 1:
                numbers[f"{name}_std"] = len(values), values.std(ddof=1)
        if len(stored["scale"]):
            numbers["scale_median"] = 0, np.median(stored["scale"])
        for metric, (images, value) in numbers.items():
            yield Row(NAME, f"{config.data}/{split}", BASIC, base, kind, None, metric, images, float(value))


def _of_networks(config: Config, read: Read) -> Iterator[Row]:
    def errors(network: str, where: str, attack: str, wrong: np.ndarray) -> Iterator[Row]:
        for member, own in enumerate(wrong):
            value = float(own.mean()) if len(own) else 0.0
            yield Row(NAME, f"{config.data}/{where}", network, member, attack, None, "error", len(own), value)

    for name in results_of(config, read):
        stored = read(f"row/{name}")
        yield from errors(name, "test", "", stored["clean_wrong"])
        yield from errors(name, "heldout", "all", stored["adversarial_wrong"])
        for number, kind in enumerate(HELD_OUT_TYPES):
            yield from errors(name, "heldout", kind, stored["adversarial_wrong"][:, stored["kind"] == number])
        where = f"{config.data}/{INFIMNIST}"
        for metric in ("amplitude", "misclassified_share"):
            for member, value in enumerate(np.atleast_1d(stored.get(metric, []))):
                yield Row(NAME, where, BASIC, member, "", None, metric, 0, float(value))


def page(config: Config, data: run.Data, read: Read) -> Page:
    """Table 1 beside the paper's, the two schedules, verdicts, the paper's claims, further sets, the types."""
    results, found, missing = results_of(config, read), rows(config, data, read), left_out(config, read)
    in_table = {name: errors for name, errors in results.items() if name in ROWS}
    bands = {name: results[name] for name in map(run.band_name, config.pass_bands) if name in results}
    findings = verdicts(config, in_table) + [
        f"{name}: left out of Fig. 6; some base network has {number:,} images there, fewer than "
        f"{config.band_minimum:,}."
        for name, number in missing.items()
    ]
    more = [
        (name, *errors.cells, f"{errors.trained_on:,}", str(errors.each.shape[1]))
        for name, errors in results.items()
        if name not in ROWS
    ]
    more += [(name, "left out", "left out", f"only {number:,}", "") for name, number in missing.items()]
    header = ("trained on", "clean error %", "adversarial error %", "adversarial images", "networks")
    clean, adversarial = (mean_std(100 * each, 2) for each in results[BASIC].each)
    summary = f"{BASIC} on {data_name(config.data)}: clean error {clean} %, held-out adversarial error {adversarial} %"
    further = (markdown(header, more) if more else "None were run.") + _infimnist(found)
    return Page(
        note=stand_in(config.data),
        table=table1(config, in_table)
        + "\n\nErrors are mean ± standard deviation over networks. The default of mixing clean images into the "
        "fine-tuning set was chosen knowing the paper's numbers.",
        paper=SCHEDULE,
        run=schedule(config),
        findings=findings,
        claims=claims(in_table, bands, found),
        summary=[summary, *findings],
        sections={
            "Further training sets: bands of PASS (Fig. 6), and the other choice of mixing": further,
            "Adversarial images (Figs. 4 and 5)": _types(config, found),
        },
    )


def table1(config: Config, results: dict[str, Errors]) -> str:
    """Table 1: the paper's rows in its order. A row that was not run says so; no number of the paper fills it."""
    header = (
        "method",
        "paper: MNIST error %",
        "paper: adversarial error %",
        f"this run: {data_name(config.data)} error %",
        "this run: adversarial error %",
        "networks",
        "adversarial + other training images",
    )
    not_run, lines = ("not run", "not run", "", ""), []
    for name, paper in ROWS.items():
        own, errors = not_run, results.get(name)
        if errors is not None:
            images = "" if name == BASIC else f"{errors.trained_on:,} + {errors.others:,}"
            own = (*errors.cells, str(errors.each.shape[1]), images)
        lines.append((name, f"{paper.clean:.3f} ± {paper.clean_std:.3f}", f"{paper.adversarial:.2f}", *own))
        if name == "HC-S-5":
            lines.append(("Goodfellow et al. (quoted by the paper)", "0.782", "17.9", *not_run))
    return markdown(header, lines)


def schedule(config: Config) -> dict[str, str]:
    """What this run did, by the names of the paper's schedule."""
    own = f"weights of a file (SHA-256 {config.base[:12]}...)"
    if not config.base:
        own = f"{config.base_iterations:,} steps of {config.batch_size}"
    tuned = f"{config.networks} ({config.bases} bases x {config.orders} orders), {config.finetune_iterations:,} steps"
    search = ", ".join(f"{each.name} {getattr(Boundary(), each.name):g}" for each in dataclasses.fields(Boundary))
    return {
        "data": data_name(config.data),
        "base networks": f"{config.bases}, {own}",
        "fine-tuned networks a row": f"{tuned}, fresh solver" if set(config.rows) - {BASIC, INFIMNIST} else "none",
        "images whose perturbations are trained on": f"{config.train_sources:,}, at most {config.cap_per_type:,} "
        "images of a type",
        "clean images in the fine-tuning set": "all" if config.mix_clean else "none",
        "held-out adversarial set": f"14 types x {config.heldout_per_type:,}, from {config.bases} base(s), made of "
        f"{config.heldout_sources:,} other images of the {config.heldout_source} split",
        "search for the boundary": search,
        "InfiMNIST": f"InfiMNIST-like: {config.infimnist_images:,} images, {config.bases} network(s), "
        f"{config.infimnist_iterations:,} steps"
        if INFIMNIST in config.rows
        else "not run",
        "Fig. 6": f"{config.band_iterations:,} steps, equal numbers from each band" if config.bands else "not run",
    }


def _infimnist(found: list[Row]) -> str:
    """The claim of section 2: how many of the InfiMNIST images the base networks get wrong."""
    amplitude, shares = by_base(found, "amplitude"), by_base(found, "misclassified_share")
    if not len(amplitude):
        return ""
    return (
        f"\n\nThe InfiMNIST-like images have displacements of {amplitude[0]:.2f} pixels, at which base network 0 gets "
        f"the share wrong that the paper reports for InfiMNIST, 2.199 ± 0.132 %; all base networks: "
        f"{mean_std(100 * shares, 3)} %."
    )


def _types(config: Config, found: list[Row]) -> str:
    digits = {"success": 4, "l2_per_pixel": 1, "linf": 1, "pass_valid": 3, "pass_same": 3}
    lines = []
    for kind in config.training_types:
        values = {name: by_base(found, name, kind) for name in digits}
        lines.append((kind, *(mean_std(own, digits[name]) if len(own) else "" for name, own in values.items())))
    header = ("type", "success", "L2 per pixel", "L∞", "PASS (valid)", "PASS (same)")
    return markdown(header, lines) + (
        "\n\nSuccess is of correctly classified training images; L2 per pixel and L∞ are in grey levels; PASS with "
        "windows inside the image (valid) and, of a few images, with reflected borders (same)."
    )


def figures(config: Config, data: run.Data, read: Read) -> dict[str, Any]:
    """Figs. 2, 4 and 5, and Fig. 6 if there are bands."""
    results, found = results_of(config, read), rows(config, data, read)
    bands = {name: results[name] for name in map(run.band_name, config.pass_bands) if name in results}
    drawn = {"fig2.png": fig2(data, read), "fig4.png": fig4(config, read), "fig5.png": fig5(config, found)}
    if bands:
        drawn["fig6.png"] = fig6(config, results[BASIC], bands, list(left_out(config, read)))
    return drawn


def fig2(data: run.Data, read: Read) -> Any:
    """One image of base network 0 that all four types fooled, a 9 if there is one, and what became of it."""
    stored = {kind: read(f"attack/train/0/{kind}") for kind in _EXAMPLE_TYPES}
    scores = {kind: read(f"score/train/0/{kind}", "valid")["valid"] for kind in _EXAMPLE_TYPES}
    sources = {kind: stored[kind]["source"][: len(scores[kind])] for kind in _EXAMPLE_TYPES}
    common = [source for source in sources["FGS"] if all(source in each for each in sources.values())]
    if not common:
        raise ValueError(f"no training image was fooled by all of {_EXAMPLE_TYPES}")
    chosen = max(common, key=lambda source: data.train.labels[source] == _EXAMPLE_DIGIT)
    pictures, captions = [], []
    for kind, found in stored.items():
        place = int(np.flatnonzero(sources[kind] == chosen)[0])
        pictures.append(found["image"][place])
        numbers = f"({scores[kind][place]:.3f}, {found['l2'][place]:.1f}, {found['linf'][place]:.0f})"
        captions.append(f"{kind} → {found['prediction'][place]}\n{numbers}")
    title = f"A {data.train.labels[chosen]} and what fools the network: ({run.PASS}, L2 per pixel, L∞)"
    return perturbation_figure(data.train.images[chosen], pictures, captions, title=title)


def fig4(config: Config, read: Read) -> Any:
    """PASS by training set. Counts, not densities: they show how many more images the hot/cold types give."""
    scores, counts = {}, {}
    for name in config.figure4:
        parts, factors = [], []
        for base in range(config.bases):
            for kind in FIGURE4[name]:
                part = read(f"score/train/{base}/{kind}", "valid")["valid"]
                images = len(read(f"attack/train/{base}/{kind}", "source")["source"])
                parts.append(part)
                factors.append(np.full(len(part), images / max(len(part), 1)))
        scores[name], counts[name] = np.concatenate(parts), np.concatenate(factors)
    title = f"PASS of adversarial and hard positive images, {data_name(config.data)}"
    xlabel = f"{run.PASS.removesuffix(')')}: SSIM's windows inside the image)"
    return histogram_figure(scores, counts, xlabel=xlabel, ylabel="images", title=title)


def fig5(config: Config, found: list[Row]) -> Any:
    """PASS, L2 and L∞ by type; the norms scaled to a maximum of 1."""
    types, curves = ("FGS", *FARTHER_TYPES), {}
    for label, metric in ((run.PASS, "pass_valid"), ("L2 per pixel", "l2_per_pixel"), ("L∞", "linf")):
        values = np.stack([by_base(found, metric, kind) for kind in types])
        curves[label] = values if label == run.PASS else values / values.max()
    title = f"{data_name(config.data)}, {config.bases} network(s); L2 and L∞ scaled to a maximum of 1"
    return metric_figure(types, curves, title=title)


def fig6(config: Config, basic: Errors, bands: dict[str, Errors], missing: list[str]) -> Any:
    """Both errors by the band of PASS trained on; bands without images enough are named."""
    names = f"{data_name(config.data)} test error, %", "held-out adversarial error, %"
    panels = {name: [100 * own.each[row] for own in bands.values()] for row, name in enumerate(names)}
    references = [100 * share.value for share in (basic.clean, basic.adversarial)]
    labels = [name.removeprefix(f"{run.PASS} ") for name in bands]
    title = f"too few images, left out: {', '.join(missing)}" if missing else ""
    xlabel = f"{run.PASS} x 1000 of the images trained on"
    return error_figure(labels, panels, references, reference=BASIC, xlabel=xlabel, title=title)


TITLE = "Table 1 of Rozsa, Rudd, Boult 2016"
STUDY = Study(NAME, TITLE, __doc__ or "", PRESETS, run.load, run.stages, run.classifiers, rows, page, figures)
