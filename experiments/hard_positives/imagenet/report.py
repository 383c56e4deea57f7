"""Stage "report" of a run on ImageNet: `imagenet.md`, `metrics.csv`, the figures, `config.json`."""

from typing import Any

import numpy as np

from advjax.data import ImageSet
from experiments.hard_positives.imagenet.attack import COMPARED, read_records, stages, types
from experiments.hard_positives.imagenet.config import Config
from experiments.hard_positives.imagenet.figures import captions, draw, name_of
from experiments.hard_positives.metrics import Metric, to_csv
from experiments.hard_positives.scoring import PASS
from experiments.hard_positives.table import markdown
from experiments.store import Arrays, Store

__all__ = ["report"]

# Fig. 3's captions: the class that BVLC-GoogLeNet and ResNet-152 see in the perturbed goldfish.
_PAPER_FIGURE = {
    "FGS": ("starfish, fails (PASS too low)", "cock"),
    "FGV": ("loggerhead turtle, fails (PASS too low)", "blowfish"),
    "HC-1": ("mud turtle", "bee"),
    "HC-13": ("box turtle", "cock"),
}
_SETS = {
    "validation": "validation images, center crops",
    "crops": "other random crops of the attacked photographs (no validation set)",
    "attacked": "the attacked photographs themselves",
    "positives": "the hard positives trained on",
}


def report(config: Config, store: Store, images: ImageSet, chosen: Arrays) -> str:
    """Writes all files of the report into the store's folder and returns a summary for the terminal."""
    records = read_records(store, stages(config, chosen))
    table = {name: _of_type(config, records, number) for number, name in enumerate(types(config))}
    table = {name: each for name, each in table.items() if each["count"]}
    judged = {name: store.read(f"judged/{name}") for name in ("base", "tuned")}
    kept = sum(int(each["kept"]) for name, each in table.items() if name not in COMPARED)
    store.write_text("imagenet.md", _page(config, store, images, chosen, table, judged, kept))
    store.write_text("metrics.csv", to_csv(_metrics(table, judged)))
    figures = draw(config, store, images, chosen, table)
    seconds = store.seconds()
    store.write_config(config, seconds=seconds, seconds_in_all=round(sum(seconds.values()), 1))
    lines = [f"{config.model}, {config.provenance}"]
    for name, errors in judged["base"].items():
        if errors[2]:
            before, after = _percent(errors), _percent(judged["tuned"][name])
            lines.append(
                f"{_SETS[name]}: top-1 error {before[0]} % -> {after[0]} %, top-5 {before[1]} % -> {after[1]} %"
            )
    lines.append(
        f"{kept:,} hard positives of {len(chosen['row']):,} photographs; {sum(seconds.values()) / 60:.1f} minutes of "
        f"work; {store.root / 'imagenet.md'}, with metrics.csv, config.json and {', '.join(figures)}"
    )
    return "\n".join(lines)


def _of_type(config: Config, records: Arrays, number: int) -> Arrays:
    own = {name: values[records["kind"] == number] for name, values in records.items()}
    if not len(own["kind"]):
        return {"count": np.array(0)}
    won = own["success"]
    similar = won & (own["score"] > config.threshold)
    means = {name: own[name][won].mean() if won.any() else np.array(np.nan) for name in ("score", "l2", "linf")}
    return {
        "count": np.array(len(won)),
        "success": won.mean(),
        "similar": similar.mean(),
        "kept": similar.sum(),
        **means,
    }


def _metrics(table: dict[str, Arrays], judged: dict[str, Arrays]) -> list[Metric]:
    attacks = [
        Metric("attack", name, 0, metric, float(value))
        for name, each in table.items()
        for metric, value in each.items()
    ]
    errors = [
        Metric(stage, name, 0, metric, float(value))
        for stage, sets in judged.items()
        for name, counts in sets.items()
        for metric, value in zip(("top1_wrong", "top5_wrong", "count"), counts, strict=True)
    ]
    return attacks + errors


def _page(
    config: Config,
    store: Store,
    images: ImageSet,
    chosen: Arrays,
    table: dict[str, Arrays],
    judged: dict[str, Arrays],
    kept: int,
) -> str:
    warning = (
        ""
        if config.weights
        else f"**{config.headline}.** The run shows that every step works; none of "
        "its figures says anything about the paper's.\n\n"
    )
    example = name_of(config, images, int(chosen["label"][0]))
    return "\n".join(
        [
            f"# Hard positives for {config.model} at ImageNet's size: preset `{config.preset}`, seed {config.seed}\n",
            warning + f"## Fig. 3: four attacks on one photograph ({example})\n",
            _figure_table(config, store, images),
            f"\n({PASS}, L2 per pixel, L∞ in grey levels; an attack *fails* if the network is not fooled or PASS is "
            f"not above {config.threshold:g}.)\n",
            f"## What each type yields: {config.provenance}\n",
            _type_table(table),
            f"\nMeans are over successes; {kept:,} HC images are kept.\n",
            "## Fine-tuning on photographs and hard positives, mixed\n",
            _error_table(judged),
            "\nThe paper, BVLC-GoogLeNet on ImageNet's validation set after fine-tuning: 30.552 % (top-1), 10.604 % "
            "(top-5).\n",
            "## The two schedules\n",
            _schedule(config, images, chosen, int(store.read("tuned", "photographs")["photographs"]), kept),
            "",
        ]
    )


def _figure_table(config: Config, store: Store, images: ImageSet) -> str:
    lines = []
    for name, (answer, score, l2, linf, works) in captions(config, store, images).items():
        paper = _PAPER_FIGURE.get(name, ("", ""))
        ours = f"{answer} ({score:.4f}, {l2:.2f}, {linf:.0f})" + ("" if works else ", fails")
        lines.append((name, ours, *paper))
    header = ("type", f"this run: {config.model}", "paper, a goldfish: BVLC-GoogLeNet", "paper, a goldfish: ResNet-152")
    return markdown(header, lines)


def _type_table(table: dict[str, Arrays]) -> str:
    lines = [
        (
            name,
            f"{int(each['count']):,}",
            f"{each['success']:.3f}",
            f"{each['score']:.4f}",
            f"{each['l2']:.2f}",
            f"{each['linf']:.1f}",
            f"{each['similar']:.3f}",
        )
        for name, each in table.items()
    ]
    return markdown(("type", "photographs", "success", PASS, "L2 per pixel", "L∞", "success and PASS enough"), lines)


def _error_table(judged: dict[str, Arrays]) -> str:
    lines = []
    for name, title in _SETS.items():
        before = judged["base"].get(name)
        if before is None or not before[2]:
            continue
        lines.append((title, f"{before[2]:,}", *_percent(before), *_percent(judged["tuned"][name])))
    header = ("images", "count", "base: top-1 error %", "top-5 %", "fine-tuned: top-1 error %", "top-5 %")
    return markdown(header, lines)


def _percent(counts: np.ndarray) -> tuple[str, str]:
    return f"{100 * counts[0] / counts[2]:.3f}", f"{100 * counts[1] / counts[2]:.3f}"


def _schedule(config: Config, images: ImageSet, chosen: Arrays, photographs: int, kept: int) -> str:
    right = f"{int(chosen['right'])} of the {int(chosen['read'])} looked at"
    attacked = f"{len(chosen['row']):,}: at most {config.images_per_class} a class"
    rows: list[tuple[str, Any, Any]] = [
        ("network", "BVLC-GoogLeNet (Fig. 3 also ResNet-152)", config.model),
        ("weights", "BVLC's release", config.provenance),
        ("photographs", "ImageNet's training set, 1.28 million, 1000 classes", _of_set(images)),
        ("labels", "ImageNet's", "the network's own answers" if config.own_labels else "the data set's"),
        ("rightly classified", "not stated", right),
        ("attacked", "15 right ones of each class", attacked),
        ("hot/cold types", "HC-1 to HC-20", f"HC-1 to HC-{config.ranks}"),
        (
            "cold value",
            "-h_y (eq. 7)",
            "-h_y (eq. 7)" if config.cold == "paper" else "-|h_y|, since h_y may be negative",
        ),
        ("kept", "PASS > 0.99: about 250,000", f"PASS > {config.threshold:g}: {kept:,}"),
        ("SSIM inside PASS", "windows not stated", "windows inside the image (valid)"),
        ("trained on", "those and 1.28 million center crops", f"those and {photographs:,} center crops"),
        ("fine-tuning", "500,000 steps of 80", f"{config.finetune_steps:,} steps of {config.batch_size}"),
        ("solver", "BVLC's", f"its quick_solver, rate {config.learning_rate:g}"),
    ]
    return markdown(("", "paper", "this run"), [tuple(map(str, row)) for row in rows])


def _of_set(images: ImageSet) -> str:
    with_images = sum(name != "" for name in images.classes)
    return f"{images.name}: {len(images):,} of {with_images} classes"
